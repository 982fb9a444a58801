//! What a tenant has beside its rows, into an archive and out of one.

use super::pack::{Entry, Packing, Unpacking};
use super::{Beside, KeysBeside, ObjectsBeside, count_beside, keys, objects, prefix_of};
use crate::archive::{Archive, ArchivedBeside, unfit};
use crate::{Archives, MoveError, Obstacle};
use berth_domain::TenantKey;
use object_store::path::Path;

const KEYS: &str = "redis-keys.pack.zst";
const OBJECTS: &str = "objects.pack.zst";

fn of_tenant(prefixes: &[String], tenant: &TenantKey) -> Vec<String> {
    prefixes.iter().map(|prefix| prefix_of(prefix, tenant)).collect()
}

/// Writes both beside the rows. They are read after the rows' snapshot: a key that changes meanwhile is newer than they.
pub(crate) async fn pack(
    beside: &Beside,
    tenant: &TenantKey,
    store: &Archives,
    at: &Path,
) -> Result<(Option<ArchivedBeside>, Option<ArchivedBeside>), MoveError> {
    let (_, obstacles) = count_beside(beside, tenant).await?;
    let in_the_way: Vec<Obstacle> =
        obstacles.into_iter().filter(|o| matches!(o, Obstacle::PrefixOfOthers { .. })).collect();
    if !in_the_way.is_empty() {
        return Err(MoveError::Obstacles(in_the_way));
    }
    let keys = match &beside.keys {
        Some(keys) if !keys.prefixes.is_empty() => Some(pack_keys(keys, tenant, store, at).await?),
        _ => None,
    };
    let objects = match &beside.objects {
        Some(objects) if !objects.prefixes.is_empty() => Some(pack_objects(objects, tenant, store, at).await?),
        _ => None,
    };
    Ok((keys, objects))
}

async fn pack_keys(
    keys: &KeysBeside,
    tenant: &TenantKey,
    store: &Archives,
    at: &Path,
) -> Result<ArchivedBeside, MoveError> {
    let prefixes = of_tenant(&keys.prefixes, tenant);
    let mut packing = Packing::begin(store, at, KEYS);
    let mut there = keys::Dumps::of(&keys.source, &prefixes).await?;
    while let Some(batch) = there.next().await? {
        for (name, ends_ms, dump) in batch {
            packing.entry(&Entry { name, ends_ms, bytes: dump.len() as u64 }).await?;
            packing.content(&dump).await?;
        }
    }
    packing.end(prefixes).await
}

async fn pack_objects(
    objects: &ObjectsBeside,
    tenant: &TenantKey,
    store: &Archives,
    at: &Path,
) -> Result<ArchivedBeside, MoveError> {
    let prefixes = of_tenant(&objects.prefixes, tenant);
    let mut packing = Packing::begin(store, at, OBJECTS);
    objects::read_out(objects, &prefixes, &mut packing).await?;
    packing.end(prefixes).await
}

/// Whether an archive's keys and objects can go where the tenant is to live, and nothing of the tenant is there.
pub(crate) async fn fits(
    beside: &Beside,
    tenant: &TenantKey,
    archive: &Archive,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    let (found, mut in_the_way) = count_beside(beside, tenant).await?;
    obstacles.append(&mut in_the_way);
    for there in found.into_iter().filter(|there| there.found > 0) {
        obstacles.push(Obstacle::BesideInTarget { prefix: there.prefix, found: there.found });
    }
    let keys = beside.keys.as_ref().map(|keys| of_tenant(&keys.prefixes, tenant));
    let objects = beside.objects.as_ref().map(|objects| of_tenant(&objects.prefixes, tenant));
    for (pack, prefixes, what, key) in
        [(&archive.keys, keys, "keys in Redis", "data.redis"), (&archive.objects, objects, "objects", "data.objects")]
    {
        let prefixes = prefixes.unwrap_or_default();
        if let Some(pack) = pack
            && let Some(prefix) = pack.prefixes.iter().find(|prefix| !prefixes.contains(prefix))
            && pack.many > 0
        {
            let many = pack.many;
            return Err(unfit(format!("it has {many} {what}, and `{key}` does not name their prefix `{prefix}`")));
        }
    }
    Ok(())
}

/// Reads both packs to their ends: they have to be what the manifest says.
pub(crate) async fn verify(archive: &Archive, store: &Archives, at: &Path) -> Result<(), MoveError> {
    for pack in archive.keys.iter().chain(&archive.objects) {
        let mut entries = Unpacking::begin(pack, store, at).await?;
        while entries.next().await?.is_some() {}
    }
    Ok(())
}

/// Puts an archive's keys and objects where the tenant is to live. Safe to run again. Returns how many there were.
pub(crate) async fn unpack(
    beside: &Beside,
    archive: &Archive,
    store: &Archives,
    at: &Path,
) -> Result<(u64, u64), MoveError> {
    let mut many = (0, 0);
    if let (Some(pack), Some(keys)) = (&archive.keys, &beside.keys) {
        let mut entries = Unpacking::begin(pack, store, at).await?;
        let mut into = keys::Restoring::into(&keys.target).await?;
        while let Some(entry) = entries.next().await? {
            let dump = entries.whole().await?;
            into.put(entry.name, entry.ends_ms, dump).await?;
            many.0 += 1;
        }
        into.end().await?;
    }
    if let (Some(pack), Some(objects)) = (&archive.objects, &beside.objects) {
        let mut entries = Unpacking::begin(pack, store, at).await?;
        while let Some(entry) = entries.next().await? {
            objects::write_in(objects, &entry, &mut entries).await?;
            many.1 += 1;
        }
    }
    Ok(many)
}
