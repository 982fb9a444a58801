//! Where secrets are looked for: what was said, what was written, what everybody on a machine may see.

use super::run;
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// Command lines of every process of this machine, seen again and again: one that lived for a tenth of a second is in a
/// list of processes too.
pub struct Watched {
    over: Arc<AtomicBool>,
    seen: Option<thread::JoinHandle<BTreeSet<Vec<u8>>>>,
}

impl Watched {
    pub fn begin() -> Self {
        let over = Arc::<AtomicBool>::default();
        let stop = Arc::clone(&over);
        let seen = thread::spawn(move || {
            let mut all = BTreeSet::new();
            while !stop.load(Ordering::Relaxed) {
                for entry in fs::read_dir("/proc").unwrap().flatten() {
                    // A process may have ended since it was listed.
                    all.extend(fs::read(entry.path().join("cmdline")));
                }
                thread::sleep(Duration::from_millis(20));
            }
            all
        });
        Self { over, seen: Some(seen) }
    }

    pub fn end(mut self) -> Vec<u8> {
        self.over.store(true, Ordering::Relaxed);
        self.seen.take().unwrap().join().unwrap().into_iter().collect::<Vec<_>>().join(&b'\n')
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Every file below a folder that `wanted` takes, as one text; packed ones unpacked.
pub fn files(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<u8> {
    let mut all = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return all };
    for entry in entries.flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            all.extend(files(&path, wanted));
        } else if kind.is_file() && wanted(&path) {
            match path.extension() {
                Some(end) if end == "zst" => all.extend(run("zstd", &["-dcq", path.to_str().unwrap()]).stdout),
                // A server may have taken it away meanwhile.
                _ => all.extend(fs::read(&path).unwrap_or_default()),
            }
        }
    }
    all
}

/// Fails with the place and the number of the secret, never with the secret.
pub fn none_of(secrets: &[(&str, String)], place: &str, seen: &[u8]) {
    assert!(!seen.is_empty(), "nothing was looked at in {place}");
    let text = String::from_utf8_lossy(seen);
    for (what, secret) in secrets {
        assert!(secret.len() > 8, "{what} is too short to be looked for");
        assert!(!text.contains(secret.as_str()), "{what} is in {place}");
    }
}
