//! Archives as files that somebody takes along or brings: read, written and removed one by one. Never looks into them.

use crate::archive::{MANIFEST, failed, stored};
use crate::{Archives, MoveError};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use object_store::buffered::BufWriter;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt;

/// A file's length and content; none where there is no such file.
pub async fn read_file(
    store: &Archives,
    at: &Path,
    file: &str,
) -> Result<Option<(u64, impl Stream<Item = io::Result<Bytes>> + Send + use<>)>, MoveError> {
    match store.get(&at.clone().join(file)).await {
        Ok(found) => Ok(Some((found.meta.size, found.into_stream().map_err(io::Error::other)))),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(stored("reading an archive")(error)),
    }
}

/// Writes a file as it arrives; one that breaks off is not there. Returns its length.
pub async fn write_file<E>(
    store: &Archives,
    at: &Path,
    file: &str,
    content: impl Stream<Item = Result<Bytes, E>> + Send,
) -> Result<u64, MoveError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let what = "taking a file of an archive";
    let mut writer = BufWriter::new(Arc::clone(store), at.clone().join(file));
    let (mut content, mut bytes) = (std::pin::pin!(content), 0);
    while let Some(part) = content.next().await {
        let part = match part {
            Ok(part) => part,
            Err(error) => {
                // What was sent in parts is thrown away; where nothing was, there is nothing to throw away.
                let _gone = writer.abort().await;
                return Err(failed(what)(Box::new(error)));
            }
        };
        bytes += part.len() as u64;
        writer.write_all(&part).await.map_err(|error| failed(what)(error.into()))?;
    }
    writer.shutdown().await.map_err(|error| failed(what)(error.into()))?;
    Ok(bytes)
}

/// How many files lie under this place.
pub async fn count_files(store: &Archives, under: &Path) -> Result<u64, MoveError> {
    let listed = store.list(Some(under)).try_fold(0, async |many, _| Ok(many + 1)).await;
    listed.map_err(stored("listing archives"))
}

/// Removes all files under this place. Returns how many there were.
pub async fn remove_files(store: &Archives, under: &Path) -> Result<u64, MoveError> {
    let paths: Vec<Path> =
        store.list(Some(under)).map_ok(|meta| meta.location).try_collect().await.map_err(stored("listing archives"))?;
    for path in &paths {
        match store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(stored("removing an archive")(error)),
        }
    }
    Ok(paths.len() as u64)
}

/// Where the archive called `name` lies among the folders under `under`.
pub async fn find_archive(store: &Archives, under: &Path, name: &str) -> Result<Option<Path>, MoveError> {
    let found = store.list_with_delimiter(Some(under)).await.map_err(stored("listing archives"))?;
    for folder in found.common_prefixes {
        let at = folder.join(name);
        if crate::archive::read(store, &at).await?.is_some() {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Where archives of the tenant with this key lie under `under`, however deep.
pub async fn find_archives_of(store: &Archives, under: &Path, tenant: &str) -> Result<Vec<Path>, MoveError> {
    let listed: Vec<Path> =
        store.list(Some(under)).map_ok(|meta| meta.location).try_collect().await.map_err(stored("listing archives"))?;
    let mut found = Vec::new();
    for path in listed.iter().filter(|path| path.filename() == Some(MANIFEST)) {
        let parts: Vec<_> = path.parts().collect();
        let at: Path = parts[..parts.len() - 1].iter().cloned().collect();
        match crate::archive::read(store, &at).await {
            Ok(Some(archive)) if archive.tenant == tenant => found.push(at),
            // What is no manifest is nobody's as far as anybody can tell; what could not be read just now may be.
            Ok(_) | Err(MoveError::ArchiveUnfit { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A folder and the paths in it of everything that lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleFolder {
    pub at: Path,
    pub files: Vec<String>,
}

/// Folders directly under `under` in which nothing was written for `idle`, whoever wrote there.
pub async fn idle_folders(store: &Archives, under: &Path, idle: Duration) -> Result<Vec<IdleFolder>, MoveError> {
    let found = store.list_with_delimiter(Some(under)).await.map_err(stored("listing archives"))?;
    let mut folders = Vec::new();
    for at in found.common_prefixes {
        let listed: Vec<_> = store.list(Some(&at)).try_collect().await.map_err(stored("listing archives"))?;
        let newest = listed.iter().map(|meta| meta.last_modified).max();
        let age = newest.and_then(|newest| SystemTime::now().duration_since(newest.into()).ok());
        if age.is_some_and(|age| age >= idle) {
            let inside = |path: &Path| {
                let parts: Vec<_> = path.prefix_match(&at).into_iter().flatten().collect();
                parts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/")
            };
            let files = listed.iter().map(|meta| inside(&meta.location)).collect();
            folders.push(IdleFolder { at, files });
        }
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::{IdleFolder, idle_folders};
    use crate::Archives;
    use object_store::{ObjectStoreExt as _, memory::InMemory, path::Path};
    use std::{sync::Arc, time::Duration};

    #[tokio::test]
    async fn a_folder_in_which_nothing_is_written_is_told_with_all_that_lies_in_it() {
        let place: Archives = Arc::new(InMemory::new());
        for file in ["uploads/a/manifest.json", "uploads/a/sub/b.zst", "uploads/loose", "other/a/x"] {
            place.put(&Path::from(file), "x".into()).await.unwrap();
        }
        let under = Path::from("uploads");
        let told = idle_folders(&place, &under, Duration::ZERO).await.unwrap();
        let files = vec!["manifest.json".to_owned(), "sub/b.zst".to_owned()];
        assert_eq!(told, [IdleFolder { at: Path::from("uploads/a"), files }]);
        assert_eq!(idle_folders(&place, &under, Duration::from_hours(1)).await.unwrap(), []);
    }
}
