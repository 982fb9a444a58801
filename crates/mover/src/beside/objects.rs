//! A tenant's objects: copied as streams, followed by listing what lies under the tenant's prefixes.
//!
//! Every object that is written is read back and compared by SHA-256. Never looks outside the prefixes, and never deletes
//! in the source.

use super::pack::{Entry, Packing, Unpacking};
use super::{BesideKind, BesidePlan, ObjectsBeside, prefix_of, trouble};
use crate::{Archives, MoveError, Side};
use berth_domain::TenantKey;
use futures_util::{StreamExt, TryStreamExt};
use object_store::buffered::BufWriter;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, path::Path};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

/// A listing that took no longer is done once more inside the pause.
pub(super) const IN_THE_PAUSE: Duration = Duration::from_millis(20);
/// How far the clocks of two places may be apart.
const CLOCKS: jiff::SignedDuration = jiff::SignedDuration::from_secs(30);
/// Objects that are copied at once.
const AT_ONCE: usize = 4;

/// Tries at an object that is written again while it is copied.
const TRIES: u32 = 5;

/// What a listing tells two states of an object apart by.
type State = (u64, jiff::Timestamp);

/// Objects as they were when they were brought.
pub(crate) type Known = BTreeMap<Path, State>;

fn failed<E: std::error::Error + Send + Sync + 'static>(side: Side, doing: &'static str) -> impl Fn(E) -> MoveError {
    move |error| trouble(side, doing)(Box::new(error))
}

fn parsed(prefix: &str, side: Side) -> Result<Path, MoveError> {
    // Without its last `/`: paths are compared by whole parts.
    Path::parse(prefix.trim_end_matches('/')).map_err(failed(side, "reading a prefix"))
}

async fn list(place: &Archives, side: Side, prefixes: &[String]) -> Result<Known, MoveError> {
    let mut found = Known::new();
    for prefix in prefixes {
        let at = parsed(prefix, side)?;
        let listed: Vec<ObjectMeta> =
            place.list(Some(&at)).try_collect().await.map_err(failed(side, "listing objects"))?;
        found.extend(listed.into_iter().map(|object| (object.location.clone(), state(&object))));
    }
    Ok(found)
}

fn state(object: &ObjectMeta) -> State {
    let at = jiff::Timestamp::from_microsecond(object.last_modified.timestamp_micros());
    (object.size, at.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

pub(super) async fn plan(
    objects: &ObjectsBeside,
    tenant: &TenantKey,
    found: &mut Vec<BesidePlan>,
) -> Result<(), MoveError> {
    for prefix in &objects.prefixes {
        let prefix = prefix_of(prefix, tenant);
        list(&objects.target, Side::Target, std::slice::from_ref(&prefix)).await?;
        let there = list(&objects.source, Side::Source, std::slice::from_ref(&prefix)).await?;
        found.push(BesidePlan {
            what: BesideKind::Objects,
            prefix,
            found: there.len() as u64,
            bytes: Some(there.values().map(|(size, _)| size).sum()),
        });
    }
    Ok(())
}

/// Reads an object to its end into `into`; its hash, and its state as it was read. `None`: it is not there any more.
async fn read(
    place: &Archives,
    side: Side,
    at: &Path,
    mut into: Option<&mut BufWriter>,
) -> Result<Option<(Vec<u8>, State)>, MoveError> {
    let got = match place.get(at).await {
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        other => other.map_err(failed(side, "reading an object"))?,
    };
    let (read, mut hash) = (state(&got.meta), Sha256::new());
    let mut stream = got.into_stream();
    while let Some(part) = stream.try_next().await.map_err(failed(side, "reading an object"))? {
        hash.update(&part);
        if let Some(writer) = &mut into {
            writer.write_all(&part).await.map_err(failed(Side::Target, "writing an object"))?;
        }
    }
    Ok(Some((hash.finalize().to_vec(), read)))
}

/// One object, written as a stream and read back, as it is when that is done. False: it is not there any more, which
/// the next listing says too.
async fn copy_one_to(objects: &ObjectsBeside, at: &Path, to: &Path) -> Result<bool, MoveError> {
    for _ in 0..TRIES {
        let mut writer = BufWriter::new(objects.target.clone(), to.clone());
        let Some((written, was)) = read(&objects.source, Side::Source, at, Some(&mut writer)).await? else {
            return Ok(false);
        };
        writer.shutdown().await.map_err(failed(Side::Target, "writing an object"))?;
        let back = read(&objects.target, Side::Target, to, None).await?;
        if back.is_none_or(|(back, _)| back != written) {
            let differs = std::io::Error::other(format!("`{at}` is another one than was written"));
            return Err(trouble(Side::Target, "reading an object back")(Box::new(differs)));
        }
        // A copy is as old as its end, not as what was read: one that was written again meanwhile would look older.
        match objects.source.head(at).await {
            Ok(now) if state(&now) != was => {}
            Ok(_) | Err(object_store::Error::NotFound { .. }) => return Ok(true),
            Err(error) => return Err(failed(Side::Source, "reading an object")(error)),
        }
    }
    let restless = std::io::Error::other(format!("`{at}` was written again each time that it had been copied"));
    Err(trouble(Side::Source, "reading an object")(Box::new(restless)))
}

async fn copy_all(objects: &ObjectsBeside, paths: Vec<Path>) -> Result<(), MoveError> {
    let copies = futures_util::stream::iter(paths).map(|at| async move { copy_one_to(objects, &at, &at).await });
    copies.buffer_unordered(AT_ONCE).try_collect::<Vec<bool>>().await.map(drop)
}

fn random() -> u64 {
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the system has random numbers");
    u64::from_le_bytes(random)
}

/// All objects under the prefixes into a pack. One that is deleted meanwhile is not in it.
pub(super) async fn read_out(
    objects: &ObjectsBeside,
    prefixes: &[String],
    packing: &mut Packing,
) -> Result<(), MoveError> {
    for at in list(&objects.source, Side::Source, prefixes).await?.into_keys() {
        let got = match objects.source.get(&at).await {
            Err(object_store::Error::NotFound { .. }) => continue,
            other => other.map_err(failed(Side::Source, "reading an object"))?,
        };
        let bytes = got.meta.size;
        packing.entry(&Entry { name: at.as_ref().as_bytes().to_vec(), ends_ms: None, bytes }).await?;
        let (mut stream, mut read) = (got.into_stream(), 0);
        while let Some(part) = stream.try_next().await.map_err(failed(Side::Source, "reading an object"))? {
            read += part.len() as u64;
            packing.content(&part).await?;
        }
        if read != bytes {
            let cut = std::io::Error::other(format!("`{at}` was written again while it was read"));
            return Err(trouble(Side::Source, "reading an object")(Box::new(cut)));
        }
    }
    Ok(())
}

/// One object of a pack.
pub(super) async fn write_in(
    objects: &ObjectsBeside,
    entry: &Entry,
    from: &mut Unpacking<'_>,
) -> Result<(), MoveError> {
    let name = String::from_utf8_lossy(&entry.name);
    let at = Path::parse(name.as_ref()).map_err(failed(Side::Target, "reading an object's name"))?;
    let mut writer = BufWriter::new(objects.target.clone(), at);
    while let Some(part) = from.part().await? {
        writer.write_all(&part).await.map_err(failed(Side::Target, "writing an object"))?;
    }
    writer.shutdown().await.map_err(failed(Side::Target, "writing an object"))
}

/// Both sides are the same place: a bucket that all cells share. Tried, because two addresses may lead to one bucket.
pub(super) async fn same_place(objects: &ObjectsBeside, prefixes: &[String]) -> Result<bool, MoveError> {
    let Some(prefix) = prefixes.first() else { return Ok(true) };
    let at = parsed(&format!("{prefix}berth-probe-{:016x}", random()), Side::Target)?;
    let put = objects.target.put(&at, object_store::PutPayload::new()).await;
    put.map_err(failed(Side::Target, "writing an object"))?;
    let seen = match objects.source.head(&at).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        // Taken for another place, the tenant's own would be cleared away.
        Err(error) => Err(failed(Side::Source, "looking for an object")(error)),
    };
    gone_from(&objects.target, Side::Target, &at).await?;
    seen
}

/// A tenant's objects in one place, to be taken away.
pub(super) struct There {
    place: Archives,
    side: Side,
    paths: Vec<Path>,
}

impl There {
    pub async fn of(place: &Archives, side: Side, prefixes: &[String]) -> Result<Self, MoveError> {
        let paths = list(place, side, prefixes).await?.into_keys().collect();
        Ok(Self { place: place.clone(), side, paths })
    }
    pub fn batches(&self) -> impl Iterator<Item = &[Path]> {
        self.paths.chunks(100)
    }
    /// Absent ones are gone already.
    pub async fn remove(&self, batch: &[Path]) -> Result<(), MoveError> {
        for at in batch {
            gone_from(&self.place, self.side, at).await?;
        }
        Ok(())
    }
}

async fn gone_from(place: &Archives, side: Side, at: &Path) -> Result<(), MoveError> {
    match place.delete(at).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(failed(side, "deleting an object")(error)),
    }
}

/// Listing after listing: what is new or changed is copied, what is gone goes.
pub(super) struct Follower {
    objects: ObjectsBeside,
    prefixes: Vec<String>,
    /// As brought, by the source's listing; none before the first.
    known: Option<Known>,
    same: Option<bool>,
    listing: Duration,
    listed_at: Option<jiff::Timestamp>,
    /// The last listing was in the pause.
    complete: bool,
}

impl Follower {
    /// `known`: what an earlier follower of this process brought.
    pub fn new(objects: &ObjectsBeside, prefixes: Vec<String>, known: Option<Known>) -> Self {
        let objects = objects.clone();
        Self { objects, prefixes, known, same: None, listing: Duration::ZERO, listed_at: None, complete: false }
    }

    /// How long the last listing took.
    pub fn listing(&self) -> Duration {
        self.listing
    }

    pub fn known(self) -> Option<Known> {
        self.known
    }

    /// The last round, in the pause.
    pub async fn last(&mut self) -> Result<(), MoveError> {
        self.round().await?;
        self.complete = true;
        Ok(())
    }

    pub fn late_since(&self) -> Option<jiff::Timestamp> {
        self.listed_at.filter(|_| !self.complete && self.same == Some(false))
    }

    /// Returns how many objects were brought or removed. One that is given up midway is done again.
    pub async fn round(&mut self) -> Result<u64, MoveError> {
        self.complete = false;
        if self.same.is_none() {
            self.same = Some(same_place(&self.objects, &self.prefixes).await?);
        }
        if self.same == Some(true) {
            return Ok(0);
        }
        let (began, listed_at) = (Instant::now(), jiff::Timestamp::now());
        let ours = list(&self.objects.source, Side::Source, &self.prefixes).await?;
        (self.listing, self.listed_at) = (began.elapsed(), Some(listed_at));
        let known = match &self.known {
            Some(known) => known.clone(),
            None => self.found_there(&ours).await?,
        };
        let gone: Vec<&Path> = known.keys().filter(|at| !ours.contains_key(*at)).collect();
        let fresh: Vec<Path> =
            ours.iter().filter(|(at, state)| known.get(*at) != Some(state)).map(|(at, _)| at.clone()).collect();
        let many = (gone.len() + fresh.len()) as u64;
        copy_all(&self.objects, fresh).await?;
        for at in gone {
            gone_from(&self.objects.target, Side::Target, at).await?;
        }
        self.known = Some(ours);
        Ok(many)
    }

    /// What an earlier worker brought, by what is in it: times of two places are not compared. What only the target has
    /// counts as known, and goes.
    async fn found_there(&self, ours: &Known) -> Result<Known, MoveError> {
        let theirs = list(&self.objects.target, Side::Target, &self.prefixes).await?;
        let mut known = Known::new();
        for (at, (size, brought)) in theirs {
            let Some(state) = ours.get(&at).filter(|state| state.0 == size) else {
                known.insert(at, (size, brought));
                continue;
            };
            let (one, other) = tokio::try_join!(
                read(&self.objects.source, Side::Source, &at, None),
                read(&self.objects.target, Side::Target, &at, None),
            )?;
            let same = matches!((one, other), (Some((one, read)), Some((other, _))) if one == other && read == *state);
            known.insert(at, if same { *state } else { (size, jiff::Timestamp::MIN) });
        }
        Ok(known)
    }
}

/// Objects from `since` on: the source takes no more requests, the target does. The newer of two stays. `known`: what
/// was brought before, where this process saw it; what is not there any more of that, its tenant deleted.
pub(super) async fn sweep(
    objects: &ObjectsBeside,
    prefixes: &[String],
    since: jiff::Timestamp,
    known: Option<Known>,
) -> Result<u64, MoveError> {
    let (ours, theirs) =
        tokio::try_join!(list(&objects.source, Side::Source, prefixes), list(&objects.target, Side::Target, prefixes))?;
    // Clocks of stores are not ours; what was brought before is found to be there.
    let from = since.saturating_sub(CLOCKS).unwrap_or(since);
    let changed = |at: &Path, state: &State| match &known {
        Some(known) => known.get(at) != Some(state),
        None => state.1 >= from,
    };
    let late = ours.iter().filter(|(at, state)| {
        let (size, written) = state;
        changed(at, state)
            && theirs
                .get(*at)
                .is_none_or(|(theirs, brought)| written > brought || (theirs != size && written == brought))
    });
    let late = late.map(|(at, _)| (at.clone(), theirs.get(at).copied()));
    let copies = futures_util::stream::iter(late.collect::<Vec<_>>());
    let copies = copies.map(|(at, was)| async move { bring_late(objects, &at, was).await });
    let brought: Vec<bool> = copies.buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(brought.into_iter().filter(|it| *it).count() as u64)
}

/// One object into a place that is written by its tenant meanwhile: beside it first, then into its place only if that
/// is still as it was listed. Between the look at an older one and its replacement lies one call to the store.
async fn bring_late(objects: &ObjectsBeside, at: &Path, was: Option<State>) -> Result<bool, MoveError> {
    let aside = parsed(&format!("berth-late/{:016x}", random()), Side::Target)?;
    let target = &objects.target;
    if !copy_one_to(objects, at, &aside).await? {
        return Ok(false);
    }
    let writing = failed(Side::Target, "writing an object");
    let done = match was {
        None => target.rename_if_not_exists(&aside, at).await,
        Some(was) => match target.head(at).await {
            Ok(now) if state(&now) == was => target.rename(&aside, at).await,
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {
                gone_from(target, Side::Target, &aside).await?;
                return Ok(false);
            }
            Err(error) => Err(error),
        },
    };
    match done {
        Ok(()) => Ok(true),
        // The tenant was quicker, and what it wrote is newer.
        Err(object_store::Error::AlreadyExists { .. }) => {
            gone_from(target, Side::Target, &aside).await?;
            Ok(false)
        }
        Err(error) => Err(writing(error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::{ObjectsBeside, Path, bring_late, list, state, sweep};
    use crate::{Archives, Side};
    use object_store::{ObjectStoreExt, memory::InMemory};
    use std::sync::Arc;

    fn places() -> (ObjectsBeside, Archives, Archives) {
        let (source, target): (Archives, Archives) = (Arc::new(InMemory::new()), Arc::new(InMemory::new()));
        let prefixes = vec!["t/1/".to_owned()];
        (ObjectsBeside { source: source.clone(), target: target.clone(), prefixes }, source, target)
    }

    async fn put(place: &Archives, at: &str, text: &'static str) -> Path {
        let at = Path::from(at);
        place.put(&at, text.into()).await.unwrap();
        at
    }

    async fn read(place: &Archives, at: &Path) -> Option<String> {
        let bytes = place.get(at).await.ok()?.bytes().await.unwrap();
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn what_was_brought_and_then_deleted_in_the_new_place_stays_deleted() {
        let (objects, source, target) = places();
        let brought = put(&source, "t/1/brought", "old").await;
        let known = list(&source, Side::Source, &objects.prefixes).await.unwrap();
        let late = put(&source, "t/1/late", "late").await;
        let since = jiff::Timestamp::now();
        assert_eq!(sweep(&objects, &objects.prefixes, since, Some(known)).await.unwrap(), 1);
        assert_eq!(read(&target, &late).await.as_deref(), Some("late"));
        assert_eq!(read(&target, &brought).await, None, "its tenant deleted it there");
    }

    #[tokio::test]
    async fn a_late_object_never_takes_the_place_of_what_the_tenant_wrote_meanwhile() {
        let (objects, source, target) = places();
        let at = put(&source, "t/1/a", "from the old cell").await;
        put(&target, "t/1/a", "written in the new one").await;
        assert!(!bring_late(&objects, &at, None).await.unwrap(), "it was absent when it was listed");
        let listed = state(&target.head(&at).await.unwrap());
        put(&target, "t/1/a", "and once more, longer").await;
        assert!(!bring_late(&objects, &at, Some(listed)).await.unwrap(), "it was another one when it was listed");
        assert_eq!(read(&target, &at).await.as_deref(), Some("and once more, longer"));
        let listed = state(&target.head(&at).await.unwrap());
        assert!(bring_late(&objects, &at, Some(listed)).await.unwrap());
        assert_eq!(read(&target, &at).await.as_deref(), Some("from the old cell"));
        assert_eq!(list(&target, Side::Target, &["berth-late/".to_owned()]).await.unwrap().len(), 0);
    }
}
