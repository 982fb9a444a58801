//! Renews `crates/store/.sqlx`, the data against which SQL is checked at build time, and says whether it is current.
//!
//! Starts a Postgres of its own in a temporary folder and ends it. Never connects to one that somebody else started.

use crate::metadata;
use anyhow::{Context as _, bail, ensure};
use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::SystemTime,
};

const MIGRATIONS: &str = "crates/store/migrations";
const DATA: &str = "crates/store/.sqlx";

/// Writes the data anew.
pub fn renew(root: &Path) -> anyhow::Result<()> {
    let made = make(root)?;
    let folder = root.join(DATA);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    for (name, text) in &made {
        fs::write(folder.join(name), text)?;
    }
    eprintln!("{} statements checked against the migrations; {DATA} is new", made.len());
    Ok(())
}

/// Fails when the data in the repository is not what `renew` would write. What was found current stays so until a
/// migration, a statement or the data changes, and is not built again.
pub fn check(root: &Path) -> anyhow::Result<()> {
    let kept = read(&root.join(DATA))?;
    let inputs = inputs(root)?;
    let stamp = metadata::read(root)?.target_directory.join("xtask-sqlx-found-current");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == inputs) {
        return Ok(());
    }
    let made = make(root)?;
    let missing = made.keys().filter(|name| !kept.contains_key(*name)).count();
    let stale = kept.keys().filter(|name| !made.contains_key(*name)).count();
    let changed = made.iter().filter(|(name, text)| kept.get(*name).is_some_and(|old| old != *text)).count();
    ensure!(
        missing + stale + changed == 0,
        "{DATA} is not current: {missing} missing, {stale} stale, {changed} changed; `cargo xtask sqlx` renews it"
    );
    fs::write(&stamp, inputs)?;
    Ok(())
}

/// Everything that the answer depends on, as one text.
fn inputs(root: &Path) -> anyhow::Result<String> {
    let mut all = Vec::new();
    for folder in [MIGRATIONS, "crates/store/src", DATA] {
        for (name, text) in read(&root.join(folder))? {
            all.push(format!("{folder}/{name} {}\n{text}", text.len()));
        }
    }
    Ok(all.join("\n"))
}

type Files = BTreeMap<String, String>;

fn read(folder: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    if folder.exists() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                continue;
            }
            files.insert(entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path())?);
        }
    }
    Ok(files)
}

/// Builds `store` against a migrated database; its macros leave one file for each statement.
fn make(root: &Path) -> anyhow::Result<Files> {
    let server = Server::start()?;
    let mut migrations: Vec<PathBuf> =
        fs::read_dir(root.join(MIGRATIONS))?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    migrations.retain(|path| path.extension().is_some_and(|ending| ending == "sql"));
    migrations.sort();
    for migration in &migrations {
        server.apply(migration)?;
    }
    let folder = tempfile::tempdir()?;
    // Cargo does not see that the database changed; a newer source file it does. Its time is put back afterwards, so
    // that nothing else is built again because of it.
    let source = fs::File::options().append(true).open(root.join("crates/store/src/lib.rs"))?;
    let time = source.metadata()?.modified()?;
    source.set_modified(SystemTime::now())?;
    let built = Command::new("cargo")
        .args(["check", "--quiet", "--locked", "-p", "berth-store", "--lib"])
        .current_dir(root)
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", folder.path())
        .env("DATABASE_URL", server.url())
        .status();
    source.set_modified(time)?;
    let built = built?;
    ensure!(built.success(), "`store` does not build against its own migrations");
    read(folder.path())
}

/// A Postgres of our own. Its parent is a shell that ends it when our end of a pipe closes, so that it goes with us
/// even when we are killed.
struct Server {
    shell: Child,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("berth-xtask-").tempdir_in("/tmp")?;
        let user = user()?;
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid))?;
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700))?;
        let data = folder.path().join("data");
        let mut make = Command::new(binary("initdb")?);
        make.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--username=postgres", "-D"])
            .arg(&data);
        as_user(&mut make, user);
        let made = make.current_dir("/").output().context("initdb")?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));

        let mut shell = Command::new("sh");
        shell
            .args(["-c", r#"trap '' INT; "$0" -D "$1" -k "$2" -c listen_addresses= -c fsync=off & postgres=$!; read -r _; kill -INT $postgres; wait $postgres; rm -rf "$2""#])
            .arg(binary("postgres")?)
            .arg(&data)
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log"))?)
            .current_dir("/");
        as_user(&mut shell, user);
        let server = Self { shell: shell.spawn().context("starting Postgres")?, folder };
        server.wait()?;
        Ok(server)
    }

    /// Until it answers; `psql` fails at once while it does not, so the number of tries bounds the time.
    fn wait(&self) -> anyhow::Result<()> {
        let mut said = String::new();
        for _ in 0..200 {
            let output = self.psql()?.args(["-c", "select 1"]).output()?;
            if output.status.success() {
                return Ok(());
            }
            said = String::from_utf8_lossy(&output.stderr).into_owned();
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        bail!("Postgres does not answer: {said}{log}")
    }

    fn psql(&self) -> anyhow::Result<Command> {
        let mut psql = Command::new(binary("psql")?);
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-h"])
            .arg(self.folder.path());
        Ok(psql)
    }

    fn apply(&self, migration: &Path) -> anyhow::Result<()> {
        let output = self.psql()?.arg("-f").arg(migration).output()?;
        ensure!(output.status.success(), "{}: {}", migration.display(), String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.folder.path().display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.shell.stdin.take() {
            let _ = pipe.write_all(b"\n");
        }
        let _ = self.shell.wait();
    }
}

/// Postgres refuses to run as root; then it runs as the user that its package made.
fn user() -> anyhow::Result<Option<(u32, u32)>> {
    let own = fs::metadata("/proc/self").map_or(1, |meta| std::os::unix::fs::MetadataExt::uid(&meta));
    if own != 0 {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).context("there is no user `postgres`")?;
    let mut fields = line.split(':').skip(2).map(str::parse);
    match (fields.next(), fields.next()) {
        (Some(Ok(uid)), Some(Ok(gid))) => Ok(Some((uid, gid))),
        _ => bail!("/etc/passwd has no ids for `postgres`"),
    }
}

fn as_user(command: &mut Command, user: Option<(u32, u32)>) {
    if let Some((uid, gid)) = user {
        command.gid(gid).uid(uid);
    }
}

/// The newest Postgres of Debian's folders, else the one on the path.
fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        for version in versions.flatten() {
            let path = version.path().join("bin").join(name);
            if let (Ok(number), true) = (version.file_name().to_string_lossy().parse(), path.exists()) {
                found.push((number, path));
            }
        }
    }
    found.sort();
    if let Some((_, path)) = found.pop() {
        return Ok(path);
    }
    let pg_config = Command::new("pg_config").arg("--bindir").output().context("no Postgres is installed")?;
    Ok(Path::new(String::from_utf8_lossy(&pg_config.stdout).trim()).join(name))
}
