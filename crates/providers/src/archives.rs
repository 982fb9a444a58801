//! Places of archives: a folder, or a bucket of anything that speaks S3's protocol.

use berth_infra::ProviderError;
use object_store::{ObjectStore, local::LocalFileSystem};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A file is written beside its place and moved there when it is whole. One that nobody has written on for so long was cut
/// off with its server.
const CUT_OFF_AFTER: Duration = Duration::from_hours(24);
const LOOKED_FOR_EVERY: Duration = Duration::from_hours(1);

/// A bucket and the key to it.
#[derive(Debug)]
pub struct Bucket<'a> {
    pub name: &'a str,
    /// Absent: Amazon's own.
    pub endpoint: Option<&'a str>,
    pub region: Option<&'a str>,
    /// What the names of all objects begin with.
    pub prefix: Option<&'a str>,
    pub access_key_id: secrecy::SecretString,
    pub secret_access_key: secrecy::SecretString,
}

fn refused(reason: String) -> ProviderError {
    ProviderError::Refused { what: "the place of archives".to_owned(), reason }
}

/// A folder, made when it is not there; nobody but this user may read it then.
pub fn folder(path: &Path) -> Result<Arc<dyn ObjectStore>, ProviderError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let wrong = |error: &dyn std::error::Error| refused(format!("{}: {error}", path.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| wrong(&error))?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| wrong(&error))?;
    if is_time_to_look() {
        tidy(path.to_owned());
    }
    Ok(Arc::new(store.with_automatic_cleanup(false).with_fsync(true)))
}

/// Beside whoever opens the folder: it may be large, or far away.
fn tidy(path: PathBuf) {
    let look = move || {
        if let Err(error) = remove_cut_off(&path, CUT_OFF_AFTER) {
            tracing::warn!(%error, "files that were cut off cannot be looked for in {}", path.display());
        }
    };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(look)),
        Err(_) => look(),
    }
}

/// A folder is opened again and again.
fn is_time_to_look() -> bool {
    static LAST_S: AtomicU64 = AtomicU64::new(0);
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let last_s = LAST_S.load(Ordering::Relaxed);
    now_s.saturating_sub(last_s) >= LOOKED_FOR_EVERY.as_secs()
        && LAST_S.compare_exchange(last_s, now_s, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// What a server that was killed had begun to write: no list of archives shows it, so that no erasure finds it. Returns
/// how many there were. Others may keep files of their own in the folder: none but those that can only be an archive's go.
fn remove_cut_off(folder: &Path, after: Duration) -> io::Result<u64> {
    let mut gone = 0;
    for (top, levels) in [("tenants", 2), ("uploads", 1)] {
        let mut folders = vec![folder.join(top)];
        for _ in 0..levels {
            let mut inner = Vec::new();
            for entry in folders.iter().flat_map(|at| entries(at)) {
                let is_ours = entry.file_name().to_str().is_some_and(|name| uuid::Uuid::try_parse(name).is_ok());
                if is_ours && there(entry.file_type())?.is_some_and(|kind| kind.is_dir()) {
                    inner.push(entry.path());
                }
            }
            folders = inner;
        }
        for entry in folders.iter().flat_map(|at| entries(at)) {
            if entry.file_name().to_str().is_some_and(is_unfinished) && is_removed(&entry, after)? {
                gone += 1;
            }
        }
    }
    Ok(gone)
}

/// Whether it was there, that old, and is gone.
fn is_removed(entry: &fs::DirEntry, after: Duration) -> io::Result<bool> {
    let Some(written) = there(entry.metadata())? else { return Ok(false) };
    let is_old = SystemTime::now().duration_since(written.modified()?).is_ok_and(|age| age >= after);
    Ok(is_old && there(fs::remove_file(entry.path()))?.is_some())
}

/// What has gone meanwhile is whole by now, or was removed with its archive.
fn there<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    match looked {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Of a folder that is not there, or not ours to read, nothing.
fn entries(at: &Path) -> Vec<fs::DirEntry> {
    fs::read_dir(at).map(|all| all.flatten().collect()).unwrap_or_default()
}

/// `public.rows.csv.zst#1`: the name that `object_store` gives a file until it is whole.
fn is_unfinished(name: &str) -> bool {
    let Some((file, number)) = name.rsplit_once('#') else { return false };
    let is_archives = file == "manifest.json" || Path::new(file).extension().is_some_and(|it| it == "zst");
    is_archives && !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
}

#[cfg(feature = "s3")]
pub fn bucket(bucket: &Bucket<'_>) -> Result<Arc<dyn ObjectStore>, ProviderError> {
    use object_store::{aws::AmazonS3Builder, prefix::PrefixStore};
    use secrecy::ExposeSecret as _;
    // Fails where one is installed already, which is as good.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket.name)
        .with_region(bucket.region.unwrap_or("us-east-1"))
        .with_access_key_id(bucket.access_key_id.expose_secret())
        .with_secret_access_key(bucket.secret_access_key.expose_secret());
    if let Some(endpoint) = bucket.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    let store = builder.build();
    let store = store.map_err(|error| refused(format!("bucket {}: {error}", bucket.name)))?;
    Ok(match bucket.prefix {
        Some(prefix) => Arc::new(PrefixStore::new(store, prefix)),
        None => Arc::new(store),
    })
}

#[cfg(not(feature = "s3"))]
pub fn bucket(bucket: &Bucket<'_>) -> Result<Arc<dyn ObjectStore>, ProviderError> {
    let name = bucket.name;
    Err(refused(format!("bucket {name}: this program was built without the feature `s3`")))
}

#[cfg(test)]
mod tests {
    use super::{entries, is_removed, remove_cut_off};
    use std::{fs, time::Duration};

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8058";

    #[test]
    fn what_a_killed_server_had_begun_goes_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let archive = format!("tenants/{ID}/{ID}");
        let kept = [
            format!("{archive}/manifest.json"),
            format!("{archive}/public.rows.csv.zst"),
            format!("{archive}/public.rows.csv.zst#one"),
            format!("{archive}/photo.jpg#1"),
            "tenants/acme/7/public.rows.csv.zst#1".to_owned(),
            format!("uploads/{ID}/deeper/public.rows.csv.zst#1"),
            format!("photos/{ID}/public.rows.csv.zst#1"),
        ];
        let cut_off = [
            format!("{archive}/public.rows.csv.zst#1"),
            format!("{archive}/objects.pack.zst#12"),
            format!("uploads/{ID}/manifest.json#1"),
        ];
        for file in kept.iter().chain(&cut_off) {
            let path = place.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "half").unwrap();
        }
        let there = |file: &String| place.path().join(file).exists();
        assert_eq!(remove_cut_off(place.path(), Duration::from_hours(1)).unwrap(), 0, "somebody may write there now");
        assert!(cut_off.iter().all(there));
        assert_eq!(remove_cut_off(place.path(), Duration::ZERO).unwrap(), 3);
        assert!(kept.iter().all(there) && !cut_off.iter().any(there));
        assert_eq!(remove_cut_off(&place.path().join("none"), Duration::ZERO).unwrap(), 0);
    }

    #[test]
    fn a_file_that_vanishes_meanwhile_stops_nothing() {
        let place = tempfile::tempdir().unwrap();
        for name in ["public.rows.csv.zst#1", "manifest.json#1"] {
            fs::write(place.path().join(name), "half").unwrap();
        }
        let seen = entries(place.path());
        fs::remove_file(place.path().join("manifest.json#1")).unwrap();
        let removed = seen.iter().map(|entry| is_removed(entry, Duration::ZERO).unwrap());
        assert_eq!(removed.filter(|gone| *gone).count(), 1);
        assert!(entries(place.path()).is_empty());
    }
}
