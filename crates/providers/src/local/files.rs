//! The adapter's own folder: where everything lies, how it is written and who may touch it at one time.
//! Never knows what a database or a member is.

use berth_infra::ProviderError;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long one caller waits for another that is at the same resource.
pub(super) const LOCK_LIMIT: Duration = Duration::from_mins(3);
/// A database is not begun with less room than its first files and their log take.
const ROOM_BYTES: u64 = 1024 * 1024 * 1024;
const LOG_CAP: u64 = 16 * 1024 * 1024;

/// The folder of one installation: everything of it that is on this machine lies below.
#[derive(Clone, Debug)]
pub(super) struct Root {
    path: PathBuf,
    id: String,
}

impl Root {
    pub fn open(path: &Path) -> Result<Self, ProviderError> {
        let path = std::path::absolute(path).map_err(ProviderError::io(format!("finding `{}`", path.display())))?;
        // The postgres user walks through here to its data; what is secret is closed by itself.
        folder(&path, 0o755)?;
        for (name, mode) in [
            ("s", 0o755),
            ("databases", 0o755),
            ("members", 0o755),
            ("runs", 0o755),
            ("run", 0o755),
            ("locks", 0o700),
            ("ports", 0o700),
        ] {
            folder(&path.join(name), mode)?;
        }
        let file = path.join("id");
        // Linked into place: of two first callers, both read the one that won.
        if !file.exists() {
            let draft = path.join(format!("id.{}", random_hex(4)));
            write(&draft, random_hex(4).as_bytes())?;
            match fs::hard_link(&draft, &file) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(ProviderError::io("writing the folder's id")(error));
                }
                _ => {}
            }
            let _ = fs::remove_file(&draft);
        }
        let id = fs::read_to_string(&file).map_err(ProviderError::io("reading the folder's id"))?;
        Ok(Self { path, id })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Short and random: names what must lie outside the folder (control groups, sockets under `/tmp`).
    pub fn id(&self) -> &str {
        &self.id
    }
    pub fn database(&self, name: &str) -> PathBuf {
        self.path.join("databases").join(name)
    }
    pub fn member(&self, name: &str) -> PathBuf {
        self.path.join("members").join(name)
    }
    /// Where the process of a resource is written down.
    pub fn run(&self, kind: &str, name: &str) -> PathBuf {
        self.path.join("run").join(format!("{kind}.{name}"))
    }
    pub fn names_in(&self, what: &str) -> Result<Vec<String>, ProviderError> {
        names_in(&self.path.join(what))
    }

    /// How a cell's last commands ended.
    pub fn run_ends(&self, cell: &str) -> PathBuf {
        self.path.join("runs").join(format!("{cell}.ended"))
    }

    /// One caller at a time for one resource, over all processes of this machine. Let go when dropped or killed.
    pub async fn lock(&self, what: &str) -> Result<Lock, ProviderError> {
        self.lock_within(what, LOCK_LIMIT).await
    }

    /// The same where whoever is at it may take long.
    pub async fn lock_within(&self, what: &str, limit: Duration) -> Result<Lock, ProviderError> {
        let path = self.path.join("locks").join(what);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(ProviderError::io(format!("opening the lock of {what}")))?;
        let until = Instant::now() + limit;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(TryLockError::WouldBlock) => return Err(ProviderError::Busy { what: what.to_owned() }),
                Err(TryLockError::Error(error)) => {
                    return Err(ProviderError::io(format!("locking {what}"))(error));
                }
            }
        }
    }

    /// Takes a free port for `owner` and keeps it until [`Self::release_port`]. From below the kernel's range for
    /// outgoing connections, so that no passing connection holds it when the resource starts again.
    pub fn choose_port(&self, owner: &str) -> Result<u16, ProviderError> {
        for _ in 0..200 {
            let port = 20_000 + u16::from_le_bytes(random()) % 12_000;
            let claim = self.path.join("ports").join(port.to_string());
            let claimed = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&claim);
            let Ok(mut file) = claimed else { continue };
            if port_is_free(port) {
                file.write_all(owner.as_bytes()).map_err(ProviderError::io("claiming a port"))?;
                return Ok(port);
            }
            let _ = fs::remove_file(&claim);
        }
        Err(ProviderError::Quota { what: owner.to_owned(), limit: "no free port between 20000 and 32000".to_owned() })
    }

    pub fn release_port(&self, port: u16) {
        let _ = fs::remove_file(self.path.join("ports").join(port.to_string()));
    }
}

pub(super) struct Lock {
    _file: File,
}

/// Whether there is room to begin a database here.
pub(super) fn room(folder: &Path, what: &str) -> Result<(), ProviderError> {
    // A disk that does not say how full it is is tried.
    enough(rustix::fs::statvfs(folder).map_or(u64::MAX, |it| it.f_bavail * it.f_frsize), folder, what)
}

pub(super) fn enough(free_bytes: u64, folder: &Path, what: &str) -> Result<(), ProviderError> {
    if free_bytes >= ROOM_BYTES {
        return Ok(());
    }
    let (free, room) = (free_bytes >> 20, ROOM_BYTES >> 20);
    let limit = format!("{free} MiB are free on the disk of `{}`, and a database begins with {room}", folder.display());
    Err(ProviderError::Quota { what: what.to_owned(), limit })
}

pub(super) fn names_in(folder: &Path) -> Result<Vec<String>, ProviderError> {
    let read = ProviderError::io(format!("reading `{}`", folder.display()));
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read(error)),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|n| !n.starts_with('.'))
        .collect();
    names.sort_unstable();
    Ok(names)
}

pub(super) fn port_is_free(port: u16) -> bool {
    // On every address: what stands beside us may listen on another one of loopback.
    std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

pub(super) fn folder(path: &Path, mode: u32) -> Result<(), ProviderError> {
    let fail = || ProviderError::io(format!("making the folder `{}`", path.display()));
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(fail())?;
    // The umask may have taken away what the postgres user needs.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(fail())
}

/// Whole or not at all, also when the machine stops in between; readable by us alone.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), ProviderError> {
    write_mode(path, content, 0o600)
}

pub(super) fn write_mode(path: &Path, content: &[u8], mode: u32) -> Result<(), ProviderError> {
    let fail = || ProviderError::io(format!("writing `{}`", path.display()));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{}", random_hex(4))); // hidden, so that no list names it
    let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&draft).map_err(fail())?;
    file.write_all(content).and_then(|()| file.sync_data()).map_err(fail())?;
    fs::rename(&draft, path).map_err(fail())
}

pub(super) fn write_record<T: Serialize>(path: &Path, record: &T) -> Result<(), ProviderError> {
    let text = serde_json::to_vec_pretty(record).expect("records hold text, numbers and lists only");
    write(path, &text)
}

pub(super) fn read_record<T: DeserializeOwned>(path: &Path, what: &str) -> Result<Option<T>, ProviderError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| ProviderError::Damaged { what: what.to_owned(), reason: error.to_string() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ProviderError::io(format!("reading the record of {what}"))(error)),
    }
}

/// Deletes a file. Absent is success.
pub(super) fn forget(path: &Path) -> Result<(), ProviderError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(ProviderError::io(format!("deleting `{}`", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Deletes a folder with all in it. Absent is success.
pub(super) async fn remove_folder(path: &Path) -> Result<(), ProviderError> {
    let mut tries = 0;
    loop {
        match tokio::fs::remove_dir_all(path).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // A session of a Postgres that was just killed may put down one more file before it notices.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && tries < 100 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other.map_err(ProviderError::io(format!("deleting `{}`", path.display()))),
        }
    }
}

/// Opened for appending, so that a cut of the file ([`cap_log`]) does not leave a hole under a writer.
pub(super) fn open_log(path: &Path) -> Result<File, ProviderError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
        .map_err(ProviderError::io(format!("opening the log `{}`", path.display())))
}

/// Keeps one older half beside a log that has grown past its cap. Copied and cut rather than renamed: its writer
/// holds the file open and knows nothing of us. Lines written during the copy are lost, and only they.
pub(super) fn cap_log(path: &Path) {
    let too_long = fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_CAP);
    if too_long && fs::copy(path, path.with_extension("log.1")).is_ok() {
        let _ = OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(0));
    }
}

/// The end of a file from `from` on, at most `limit` bytes, cut at the start to whole characters.
pub(super) fn read_tail(path: &Path, from: u64, limit: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(len.saturating_sub(limit)).min(len)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

pub(super) fn last_lines(path: &Path, from: u64, lines: usize) -> Vec<String> {
    let text = read_tail(path, from, (lines as u64).saturating_mul(400).max(4096));
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|&line| line.to_owned()).collect()
}

pub(super) fn len(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random source does not fail once the machine is up");
    bytes
}

pub(super) fn random_hex(bytes: usize) -> String {
    let all: [u8; 32] = random();
    let digits = all[..bytes].iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from_digit(u32::from(digit), 16).expect("four bits are one digit")).collect()
}

#[cfg(test)]
mod tests {
    use super::{LOG_CAP, cap_log, last_lines, len, open_log};
    use std::io::Write;

    #[test]
    fn a_log_past_its_cap_is_cut_under_its_writer_and_written_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = open_log(&path).unwrap();
        writer.write_all(&vec![b'x'; LOG_CAP as usize + 1]).unwrap();
        cap_log(&path);
        writer.write_all(b"\nafter\n").unwrap();
        assert_eq!(len(&path), 7, "the writer went on at the new end");
        assert_eq!(len(&path.with_extension("log.1")), LOG_CAP + 1);
        assert_eq!(last_lines(&path, 0, 1), ["after"]);
    }
}
