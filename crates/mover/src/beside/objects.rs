//! A tenant's objects: copied as streams, followed by listing what lies under the tenant's prefixes.
//!
//! Every object that is written is read back and compared by SHA-256. Never looks outside the prefixes, and never deletes
//! in the source.

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

/// One object, written as a stream and read back, as it is when that is done.
async fn copy_one(objects: &ObjectsBeside, at: &Path) -> Result<(), MoveError> {
    for _ in 0..TRIES {
        let mut writer = BufWriter::new(objects.target.clone(), at.clone());
        // Deleted since it was listed: the next listing says so.
        let Some((written, was)) = read(&objects.source, Side::Source, at, Some(&mut writer)).await? else {
            return Ok(());
        };
        writer.shutdown().await.map_err(failed(Side::Target, "writing an object"))?;
        let back = read(&objects.target, Side::Target, at, None).await?;
        if back.is_none_or(|(back, _)| back != written) {
            let differs = std::io::Error::other(format!("`{at}` is another one than was written"));
            return Err(trouble(Side::Target, "reading an object back")(Box::new(differs)));
        }
        // A copy is as old as its end, not as what was read: one that was written again meanwhile would look older.
        match objects.source.head(at).await {
            Ok(now) if state(&now) != was => {}
            Ok(_) | Err(object_store::Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(failed(Side::Source, "reading an object")(error)),
        }
    }
    let restless = std::io::Error::other(format!("`{at}` was written again each time that it had been copied"));
    Err(trouble(Side::Source, "reading an object")(Box::new(restless)))
}

async fn copy_all(objects: &ObjectsBeside, paths: Vec<Path>) -> Result<(), MoveError> {
    let copies = futures_util::stream::iter(paths).map(|at| async move { copy_one(objects, &at).await });
    copies.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
}

/// Both sides are the same place: a bucket that all cells share. Tried, because two addresses may lead to one bucket.
pub(super) async fn same_place(objects: &ObjectsBeside, prefixes: &[String]) -> Result<bool, MoveError> {
    let Some(prefix) = prefixes.first() else { return Ok(true) };
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the system has random numbers");
    let at = parsed(&format!("{prefix}berth-probe-{:016x}", u64::from_le_bytes(random)), Side::Target)?;
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

/// Objects from `since` on: the source takes no more requests, the target does. The newer of two stays.
pub(super) async fn sweep(
    objects: &ObjectsBeside,
    prefixes: &[String],
    since: jiff::Timestamp,
) -> Result<u64, MoveError> {
    let (ours, theirs) =
        tokio::try_join!(list(&objects.source, Side::Source, prefixes), list(&objects.target, Side::Target, prefixes))?;
    // Clocks of stores are not ours; what was brought before is found to be there.
    let from = since.saturating_sub(CLOCKS).unwrap_or(since);
    let late = |(at, (size, written)): (&Path, &State)| {
        *written >= from
            && theirs
                .get(at)
                .is_none_or(|(theirs, brought)| written > brought || (theirs != size && written == brought))
    };
    let late: Vec<Path> = ours.iter().filter(|it| late(*it)).map(|(at, _)| at.clone()).collect();
    let many = late.len() as u64;
    copy_all(objects, late).await?;
    Ok(many)
}
