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
/// Objects that are copied at once.
const AT_ONCE: usize = 4;

/// What a listing tells two states of an object apart by.
type State = (u64, jiff::Timestamp);

fn failed<E: std::error::Error + Send + Sync + 'static>(side: Side, doing: &'static str) -> impl Fn(E) -> MoveError {
    move |error| trouble(side, doing)(Box::new(error))
}

async fn list(
    place: &Archives,
    side: Side,
    prefixes: &[String],
    tenant: &TenantKey,
) -> Result<BTreeMap<Path, State>, MoveError> {
    let mut found = BTreeMap::new();
    for prefix in prefixes {
        let prefix = prefix_of(prefix, tenant);
        // A prefix without its last `/`: paths are compared by whole parts.
        let at = Path::parse(prefix.trim_end_matches('/')).map_err(failed(side, "reading a prefix"))?;
        let listed: Vec<ObjectMeta> =
            place.list(Some(&at)).try_collect().await.map_err(failed(side, "listing objects"))?;
        found.extend(listed.into_iter().map(|object| (object.location.clone(), state(&object))));
    }
    Ok(found)
}

fn state(object: &ObjectMeta) -> State {
    let at = jiff::Timestamp::from_millisecond(object.last_modified.timestamp_millis());
    (object.size, at.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

pub(super) async fn plan(
    objects: &ObjectsBeside,
    tenant: &TenantKey,
    found: &mut Vec<BesidePlan>,
) -> Result<(), MoveError> {
    list(&objects.target, Side::Target, &objects.prefixes, tenant).await?;
    for prefix in &objects.prefixes {
        let there = list(&objects.source, Side::Source, std::slice::from_ref(prefix), tenant).await?;
        found.push(BesidePlan {
            what: BesideKind::Objects,
            prefix: prefix_of(prefix, tenant),
            found: there.len() as u64,
            bytes: Some(there.values().map(|(size, _)| size).sum()),
        });
    }
    Ok(())
}

/// One object, written as a stream and read back.
async fn copy_one(objects: &ObjectsBeside, at: &Path) -> Result<(), MoveError> {
    let got = match objects.source.get(at).await {
        // Deleted since it was listed; the next listing says so.
        Err(object_store::Error::NotFound { .. }) => return Ok(()),
        other => other.map_err(failed(Side::Source, "reading an object"))?,
    };
    let mut written = Sha256::new();
    let mut writer = BufWriter::new(objects.target.clone(), at.clone());
    let mut stream = got.into_stream();
    while let Some(part) = stream.try_next().await.map_err(failed(Side::Source, "reading an object"))? {
        written.update(&part);
        writer.write_all(&part).await.map_err(failed(Side::Target, "writing an object"))?;
    }
    writer.shutdown().await.map_err(failed(Side::Target, "writing an object"))?;
    let mut back = Sha256::new();
    let got = objects.target.get(at).await.map_err(failed(Side::Target, "reading an object back"))?;
    let mut stream = got.into_stream();
    while let Some(part) = stream.try_next().await.map_err(failed(Side::Target, "reading an object back"))? {
        back.update(&part);
    }
    if written.finalize() != back.finalize() {
        let differs = std::io::Error::other(format!("`{at}` is another one than was written"));
        return Err(trouble(Side::Target, "reading an object back")(Box::new(differs)));
    }
    Ok(())
}

async fn copy_all(objects: &ObjectsBeside, paths: Vec<Path>) -> Result<(), MoveError> {
    let copies = futures_util::stream::iter(paths).map(|at| async move { copy_one(objects, &at).await });
    copies.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
}

/// Both sides are the same place: a bucket that all cells share. Tried, because two addresses may lead to one bucket.
pub(super) async fn same_place(objects: &ObjectsBeside, tenant: &TenantKey) -> Result<bool, MoveError> {
    let Some(prefix) = objects.prefixes.first() else { return Ok(true) };
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the system has random numbers");
    let name = format!("{}berth-probe-{:016x}", prefix_of(prefix, tenant), u64::from_le_bytes(random));
    let at = Path::parse(name.trim_start_matches('/')).map_err(failed(Side::Target, "reading a prefix"))?;
    let put = objects.target.put(&at, object_store::PutPayload::new()).await;
    put.map_err(failed(Side::Target, "writing an object"))?;
    let seen = objects.source.head(&at).await.is_ok();
    objects.target.delete(&at).await.map_err(failed(Side::Target, "deleting an object"))?;
    Ok(seen)
}

/// A tenant's objects in one place, to be taken away.
pub(super) struct There {
    place: Archives,
    side: Side,
    paths: Vec<Path>,
}

impl There {
    pub async fn of(place: &Archives, side: Side, prefixes: &[String], tenant: &TenantKey) -> Result<Self, MoveError> {
        let paths = list(place, side, prefixes, tenant).await?.into_keys().collect();
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
    tenant: TenantKey,
    /// As copied, by the source's listing.
    known: BTreeMap<Path, State>,
    first: bool,
    same: Option<bool>,
    listing: Duration,
}

impl Follower {
    pub fn new(objects: &ObjectsBeside, tenant: &TenantKey) -> Self {
        let (objects, tenant) = (objects.clone(), tenant.clone());
        Self { objects, tenant, known: BTreeMap::new(), first: true, same: None, listing: Duration::ZERO }
    }

    /// How long the last listing took.
    pub fn listing(&self) -> Duration {
        self.listing
    }

    /// Returns how many objects were brought or removed.
    pub async fn round(&mut self) -> Result<u64, MoveError> {
        if self.same.is_none() {
            self.same = Some(same_place(&self.objects, &self.tenant).await?);
        }
        if self.same == Some(true) {
            return Ok(0);
        }
        let began = Instant::now();
        let (prefixes, tenant) = (&self.objects.prefixes, &self.tenant);
        let ours = list(&self.objects.source, Side::Source, prefixes, tenant).await?;
        self.listing = began.elapsed();
        if self.first {
            // An earlier worker, or the copy, may have brought some: those are no older than the source's.
            let theirs = list(&self.objects.target, Side::Target, prefixes, tenant).await?;
            let same = |(at, (size, since)): (&Path, &State)| {
                theirs.get(at).is_some_and(|(theirs, brought)| theirs == size && brought > since)
            };
            self.known = ours.iter().filter(|it| same(*it)).map(|(at, state)| (at.clone(), *state)).collect();
            let strange =
                theirs.keys().filter(|at| !ours.contains_key(*at)).map(|at| (at.clone(), (0, jiff::Timestamp::MIN)));
            self.known.extend(strange);
            self.first = false;
        }
        let gone: Vec<Path> = self.known.keys().filter(|at| !ours.contains_key(*at)).cloned().collect();
        let fresh: Vec<Path> =
            ours.iter().filter(|(at, state)| self.known.get(*at) != Some(state)).map(|(at, _)| at.clone()).collect();
        let many = (gone.len() + fresh.len()) as u64;
        copy_all(&self.objects, fresh).await?;
        for at in gone {
            gone_from(&self.objects.target, Side::Target, &at).await?;
        }
        self.known = ours;
        Ok(many)
    }
}

/// The newer of the two stays: the source takes no more requests, the target does.
pub(super) async fn sweep(objects: &ObjectsBeside, tenant: &TenantKey) -> Result<u64, MoveError> {
    let (ours, theirs) = tokio::try_join!(
        list(&objects.source, Side::Source, &objects.prefixes, tenant),
        list(&objects.target, Side::Target, &objects.prefixes, tenant),
    )?;
    let late = |(at, (size, since)): (&Path, &State)| match theirs.get(at) {
        None => true,
        Some((theirs, brought)) => since > brought && (theirs, brought) != (size, since),
    };
    let late: Vec<Path> = ours.iter().filter(|it| late(*it)).map(|(at, _)| at.clone()).collect();
    let many = late.len() as u64;
    copy_all(objects, late).await?;
    Ok(many)
}
