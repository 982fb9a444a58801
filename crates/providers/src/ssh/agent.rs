//! The half of the adapter that runs on the host: takes calls on standard input and does them with the adapter `local`.
//! Listens on nothing, and ends with the connection; what it started lives on.

use super::{
    calls::{Answer, Ask, Call, DatabaseSaid, Home, MemberSaid, Reply, Seen, load, outcome},
    separation,
};
use crate::local::{Local, LocalOptions};
use berth_infra::{Compute, Database, Machine, Observed, ProviderError};
use std::{
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    sync::Mutex,
    task::JoinSet,
};

/// A database is not begun with less room than its first files and their log take.
const ROOM_BYTES: u64 = 1024 * 1024 * 1024;

/// Answers calls until standard input ends and what was begun is done.
pub async fn run() -> std::io::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let out = Arc::new(Mutex::new(tokio::io::stdout()));
    let mut work = JoinSet::new();
    while let Some(line) = lines.next_line().await? {
        // What cannot be read has no number to be answered under; its asker waits to its own limit.
        let Ok(ask) = serde_json::from_str::<Ask>(&line) else { continue };
        let out = out.clone();
        work.spawn(async move {
            let mut beside = None;
            let answer = answer(&ask.home, ask.call, &mut beside).await.map_err(Into::into);
            let mut line = serde_json::to_vec(&Reply { id: ask.id, answer, beside }).expect("replies have text keys");
            line.push(b'\n');
            let mut out = out.lock().await;
            // Nobody may be there any more; what was asked for is done all the same.
            let _ = out.write_all(&line).await;
            let _ = out.flush().await;
        });
        while work.try_join_next().is_some() {}
    }
    while work.join_next().await.is_some() {}
    Ok(())
}

async fn answer(home: &Home, call: Call, beside: &mut Option<String>) -> Result<Answer, ProviderError> {
    Ok(match call {
        Call::Machine => Answer::Machine(machine(home)?),
        Call::ReachKey => Answer::ReachKey(reach_key(home).await?),
        Call::EnsureDatabase(spec) => {
            let local = ready(home).await?;
            if local.observe_database(&spec.name).await?.is_absent() {
                room(home)?;
            }
            let database = local.ensure_database(&spec).await?;
            Answer::Database(Box::new(DatabaseSaid::of(database)))
        }
        Call::ObserveDatabase(name) => {
            let seen = match there(home)? {
                Some(local) => {
                    // A database that runs is seen, whatever the host's firewall does.
                    *beside = separation::keep(home).await.err().map(|error| error.to_string());
                    local.observe_database(&name).await?
                }
                None => Observed::Absent,
            };
            Answer::SeenDatabase(Seen::of(seen, |it| Box::new(DatabaseSaid::of(it))))
        }
        Call::RemoveDatabase(name) => {
            if let Some(local) = there(home)? {
                local.remove_database(&name).await?;
                forget(home, &local).await?;
            }
            Answer::Done
        }
        Call::StopDatabase(name) => {
            if let Some(local) = there(home)? {
                local.stop_database(&name).await?;
            }
            Answer::Done
        }
        Call::ListDatabases => Answer::Databases(match there(home)? {
            Some(local) => local.list_databases().await?,
            None => Vec::new(),
        }),
        Call::EnsureSource(said) => {
            ready(home).await?.ensure_source(&home.cell, &said.heard()).await?;
            Answer::Done
        }
        Call::RemoveImage(image) => Answer::Gone(match there(home)? {
            Some(local) => local.remove_image(&home.cell, &image).await?,
            None => true,
        }),
        Call::EnsureMember(ask) => {
            Answer::Member(Box::new(MemberSaid::of(ready(home).await?.ensure_member(&ask.heard()).await?)))
        }
        Call::ObserveMember(name) => {
            let seen = match there(home)? {
                Some(local) => local.observe_member(&name).await?,
                None => Observed::Absent,
            };
            Answer::SeenMember(Seen::of(seen, |it| Box::new(MemberSaid::of(it))))
        }
        Call::RemoveMember(name) => {
            if let Some(local) = there(home)? {
                local.remove_member(&name).await?;
            }
            Answer::Done
        }
        Call::ListMembers => Answer::Members(match there(home)? {
            Some(local) => local.list_members().await?,
            None => Vec::new(),
        }),
        Call::RunOnce(ask) => outcome(ready(home).await?.run_once(&ask.heard()).await?),
        Call::MemberLogs(name, lines) => {
            let local = there(home)?.ok_or_else(|| ProviderError::Absent { what: format!("member {name}") })?;
            Answer::Lines(local.member_logs(&name, lines).await?)
        }
        Call::MemberLoad(name) => load(match there(home)? {
            Some(local) => local.member_load(&name).await?,
            None => None,
        }),
    })
}

fn options(home: &Home) -> LocalOptions {
    LocalOptions {
        stop_grace_ms: home.stop_grace_ms,
        member_user: separation::user(home),
        podman: home.podman.clone(),
        durable: home.durable,
        address: home.address,
        ..LocalOptions::under(&home.root)
    }
}

/// The cell's own adapter, where anything of the cell is here. A look makes nothing.
fn there(home: &Home) -> Result<Option<Local>, ProviderError> {
    if home.root.is_dir() { Local::new(options(home)).map(Some) } else { Ok(None) }
}

/// The same, with all that must be there before something is started.
async fn ready(home: &Home) -> Result<Local, ProviderError> {
    separation::ensure(home).await?;
    Local::new(options(home))
}

/// Once the cell's database is gone and nothing else of it is left.
async fn forget(home: &Home, local: &Local) -> Result<(), ProviderError> {
    if !local.list_members().await?.is_empty() || !local.list_databases().await?.is_empty() {
        return Ok(());
    }
    separation::remove(home).await?;
    let key = fs::read_to_string(reach_file(home).with_extension("pub")).unwrap_or_default();
    if let (Some(blob), Some(path)) = (key.split_whitespace().nth(1), keys_file(home))
        && let Ok(text) = fs::read_to_string(&path)
    {
        let kept: String = text.split_inclusive('\n').filter(|line| !line.contains(blob)).collect();
        replace(&path, &kept)?;
    }
    match fs::remove_dir_all(&home.root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ProviderError::io(format!("deleting `{}`", home.root.display()))(error))
        }
        _ => Ok(()),
    }
}

fn room(home: &Home) -> Result<(), ProviderError> {
    let (_, free) = disk(&home.root);
    if free >= ROOM_BYTES {
        return Ok(());
    }
    Err(ProviderError::Quota {
        what: format!("the database of cell {}", home.cell),
        limit: format!("{} MiB of the host's disk are free, and a database begins with 1024", free / 1024 / 1024),
    })
}

/// All of it and what is free, where this folder is or will be.
fn disk(folder: &Path) -> (u64, u64) {
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    rustix::fs::statvfs(there).map_or((0, 0), |it| (it.f_blocks * it.f_frsize, it.f_bavail * it.f_frsize))
}

fn machine(home: &Home) -> Result<Machine, ProviderError> {
    let read = |path: &str| fs::read_to_string(path).map_err(ProviderError::io(format!("reading `{path}`")));
    let memory = read("/proc/meminfo")?;
    let kib = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let load = read("/proc/loadavg")?;
    let system = read("/etc/os-release").unwrap_or_default();
    let named = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let (disk_bytes, disk_free_bytes) = disk(&home.root);
    Ok(Machine {
        system: named.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned()),
        arch: std::env::consts::ARCH.to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX)),
        memory_bytes: kib("MemTotal") * 1024,
        memory_free_bytes: kib("MemAvailable") * 1024,
        disk_bytes,
        disk_free_bytes,
        load_1m: load.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0),
    })
}

fn reach_file(home: &Home) -> PathBuf {
    home.root.join("reach")
}

/// A key that forwards to ports of 127.0.0.1 here, any of them, and does nothing else. Made once; its own line lets it in.
async fn reach_key(home: &Home) -> Result<String, ProviderError> {
    separation::ensure(home).await?;
    let file = reach_file(home);
    let path = file.display().to_string();
    if !file.exists() {
        let comment = format!("berth {}", home.cell);
        program("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", &comment, "-f", &path]).await?;
    }
    let read =
        |path: &Path| fs::read_to_string(path).map_err(ProviderError::io(format!("reading `{}`", path.display())));
    let (key, public) = (read(&file)?, read(&file.with_extension("pub"))?);
    let keys = keys_file(home).ok_or_else(|| ProviderError::Refused {
        what: "a key for edges".to_owned(),
        reason: "the home folder of the user that SSH came in as is not known".to_owned(),
    })?;
    let known = fs::read_to_string(&keys).unwrap_or_default();
    let line = format!("restrict,port-forwarding,permitopen=\"127.0.0.1:*\",command=\"/bin/false\" {}", public.trim());
    if !known.lines().any(|known| known == line) {
        let gap = if known.is_empty() || known.ends_with('\n') { "" } else { "\n" };
        replace(&keys, &format!("{known}{gap}{line}\n"))?;
    }
    Ok(key)
}

/// The file of keys that let the user in as whom SSH came.
#[expect(clippy::disallowed_methods, reason = "sudo says in its variables who called it, and nowhere else")]
fn keys_file(home: &Home) -> Option<PathBuf> {
    if let Some(path) = &home.authorized_keys {
        return Some(path.clone());
    }
    let user = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "root".to_owned());
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(&user))?;
    Some(Path::new(line.split(':').nth(5)?).join(".ssh/authorized_keys"))
}

/// Whole or not at all, under the owner it had: half a file of keys would lock everybody out.
fn replace(path: &Path, text: &str) -> Result<(), ProviderError> {
    let fail = || ProviderError::io(format!("writing `{}`", path.display()));
    let draft = path.with_extension("berth");
    let _ = fs::remove_file(&draft);
    let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft).map_err(fail())?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail())?;
    let like = path.parent().filter(|_| !path.exists()).unwrap_or(path);
    let meta = fs::metadata(like).map_err(fail())?;
    use std::os::unix::fs::MetadataExt as _;
    chown(&draft, Some(meta.uid()), Some(meta.gid())).map_err(fail())?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).map_err(fail())?;
    fs::rename(&draft, path).map_err(fail())
}

/// Runs a program of the host to its end.
pub(super) async fn program(name: &str, arguments: &[&str]) -> Result<String, ProviderError> {
    let told = program_with(name, arguments, "").await?;
    told.map_err(|said| ProviderError::Refused { what: format!("`{name}`"), reason: said })
}

/// The same, with input; what it said when it failed is an answer.
pub(super) async fn program_with(
    name: &str,
    arguments: &[&str],
    input: &str,
) -> Result<Result<String, String>, ProviderError> {
    let mut command = tokio::process::Command::new(name);
    command.args(arguments).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ProviderError::NotInstalled {
            program: name.to_owned(),
            remedy: "`berth server prepare HOST` installs what a host needs".to_owned(),
        },
        _ => ProviderError::io(format!("starting `{name}`"))(error),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let ended = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await;
    let ended = ended.map_err(|_| ProviderError::Busy { what: format!("`{name}`") })?;
    let ended = ended.map_err(ProviderError::io(format!("waiting for `{name}`")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(if ended.status.success() {
        Ok(text(&ended.stdout))
    } else {
        Err(format!("{}: {}", ended.status, text(&ended.stderr)))
    })
}
