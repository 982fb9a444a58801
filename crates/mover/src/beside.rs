//! What a tenant has beside its rows: keys in the cell's Redis, objects in the cell's object storage, both by prefix.
//!
//! They travel with the rows, and nothing fences them: neither Redis nor an object store can refuse a tenant's writes.
//! What holds them still in the pause is the edge, so a writer past the edge (a worker) may write to the old place after
//! the last look, and that is lost. The plan says so. Never knows where a cell's Redis or objects come from.

mod archived;
mod keys;
mod objects;
mod pack;

pub(crate) use archived::{fits, pack, unpack, verify};
pub(crate) use objects::Known;

use crate::prepare::hold_closed;
use crate::sql::{Doing, connect, ident};
use crate::{Archives, DataRules, Endpoint, MoveError, MovePlan, MoveSpec, Obstacle, Side};
use berth_domain::{TenantKey, Token};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio_postgres::Client;

/// Stands for the tenant's key in a prefix.
pub const PLACE_OF_KEY: &str = "{tenant}";

/// Keys of one tenant in two Redis servers.
#[derive(Clone, Debug)]
pub struct KeysBeside {
    /// `redis://` addresses.
    pub source: SecretString,
    pub target: SecretString,
    /// With [`PLACE_OF_KEY`] in each.
    pub prefixes: Vec<String>,
    /// The only place of what is in it, and no cache: it goes only where nobody else's keys are, and nothing may be evicted
    /// there.
    pub store: bool,
    /// The target is nobody else's.
    pub alone: bool,
}

/// Objects of one tenant in two places.
#[derive(Clone, Debug)]
pub struct ObjectsBeside {
    pub source: Archives,
    pub target: Archives,
    /// With [`PLACE_OF_KEY`] in each, ending in `/`.
    pub prefixes: Vec<String>,
}

/// What travels besides rows; nothing, where the stack file says nothing.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    pub keys: Option<KeysBeside>,
    pub objects: Option<ObjectsBeside>,
}

impl Beside {
    pub fn is_empty(&self) -> bool {
        self.keys.is_none() && self.objects.is_none()
    }

    #[must_use]
    pub(crate) fn back(&self) -> Self {
        Self {
            keys: self.keys.clone().map(|k| KeysBeside {
                source: k.target,
                target: k.source,
                // What has lived in a Redis goes back there, whoever else is in it.
                alone: true,
                ..k
            }),
            objects: self.objects.clone().map(|o| ObjectsBeside { source: o.target, target: o.source, ..o }),
        }
    }
}

/// What a plan says of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BesidePlan {
    pub what: BesideKind,
    pub prefix: String,
    /// Keys or objects found there.
    pub found: u64,
    /// Of the objects; Redis does not say.
    pub bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BesideKind {
    RedisKeys,
    Objects,
}

impl BesideKind {
    /// What a person has to know before the move.
    pub const fn says(self) -> &'static str {
        match self {
            Self::RedisKeys => {
                "held at the edge, not fenced: what a process past the edge writes to the old Redis from the pause on is lost"
            }
            Self::Objects => {
                "held at the edge, not fenced; where listing them takes over 20 ms, those written in the last moment follow after the cut-over"
            }
        }
    }
}

/// The prefix of one tenant.
fn prefix_of(prefix: &str, tenant: &TenantKey) -> String {
    prefix.replace(PLACE_OF_KEY, tenant.as_str())
}

/// The character that ends the tenant's key in a prefix: what keeps `t:1` from being the beginning of `t:12`.
fn end_of_key(prefix: &str) -> Option<char> {
    prefix.split_once(PLACE_OF_KEY).and_then(|(_, rest)| rest.chars().next())
}

fn trouble(side: Side, doing: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> MoveError {
    move |source| MoveError::Beside { side, doing, source }
}

/// Looks at both sides: what is there, and what stands in the way. Changes nothing.
pub(crate) async fn plan(spec: &MoveSpec, obstacles: &mut Vec<Obstacle>) -> Result<Vec<BesidePlan>, MoveError> {
    let (found, mut in_the_way) = count_beside(&spec.beside, &spec.tenant).await?;
    obstacles.append(&mut in_the_way);
    Ok(found)
}

/// What lies in one cell, and what would be in the way of any move.
pub async fn count_beside(beside: &Beside, tenant: &TenantKey) -> Result<(Vec<BesidePlan>, Vec<Obstacle>), MoveError> {
    let (mut found, mut obstacles) = (Vec::new(), Vec::new());
    if let Some(keys) = &beside.keys {
        ambiguous(&keys.prefixes, tenant, &mut obstacles);
        keys::plan(keys, tenant, &mut found, &mut obstacles).await?;
    }
    if let Some(objects) = &beside.objects {
        ambiguous(&objects.prefixes, tenant, &mut obstacles);
        objects::plan(objects, tenant, &mut found).await?;
    }
    Ok((found, obstacles))
}

fn ambiguous(prefixes: &[String], tenant: &TenantKey, obstacles: &mut Vec<Obstacle>) {
    for prefix in prefixes {
        let end = end_of_key(prefix);
        if end.is_none_or(|end| tenant.as_str().contains(end)) {
            obstacles.push(Obstacle::PrefixOfOthers { prefix: prefix.clone(), key: tenant.to_string() });
        }
    }
}

/// Looks through the tenants' keys of a database for one that holds what ends the key in a prefix: the keys of a tenant
/// `1:2` lie under those of tenant `1` where the prefix is `t:{tenant}:`. Asked before anything is brought or removed.
pub(crate) async fn must_be_told_apart(
    client: &Client,
    side: Side,
    rules: &DataRules,
    beside: &Beside,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    let what = "reading the tenants' keys";
    let keys = beside.keys.iter().flat_map(|k| &k.prefixes);
    let objects = beside.objects.iter().flat_map(|o| &o.prefixes);
    for prefix in keys.chain(objects) {
        let Some(end) = end_of_key(prefix) else { continue };
        let (root, key) = (rules.root.sql(), ident(&rules.key_column));
        let there = client.query_one("select to_regclass($1) is not null", &[&root]).await.doing(side, what)?;
        if !there.get::<_, bool>(0) {
            continue;
        }
        let sql = format!("select {key}::text from {root} where position($1 in {key}::text) > 0 limit 1");
        let row = client.query_opt(&sql, &[&end.to_string()]).await.doing(side, what)?;
        obstacles.extend(row.map(|row| Obstacle::PrefixOfOthers { prefix: prefix.clone(), key: row.get(0) }));
    }
    Ok(())
}

async fn told_apart(spec: &MoveSpec, client: &Client, side: Side) -> Result<(), MoveError> {
    let mut obstacles = Vec::new();
    must_be_told_apart(client, side, &spec.rules, &spec.beside, &mut obstacles).await?;
    if obstacles.is_empty() { Ok(()) } else { Err(MoveError::Obstacles(obstacles)) }
}

/// The prefixes of the plan: what was planned travels and goes, whatever the stack file says meanwhile.
fn planned(plan: &MovePlan, what: BesideKind) -> Vec<String> {
    plan.beside.iter().filter(|found| found.what == what).map(|found| found.prefix.clone()).collect()
}

fn gone(side: Side) -> MoveError {
    let lost = std::io::Error::other("the plan says that something travels, and the cell has no place for it any more");
    trouble(side, "looking for its place")(Box::new(lost))
}

fn keys_of<'s>(spec: &'s MoveSpec, plan: &MovePlan) -> Result<Option<(&'s KeysBeside, Vec<String>)>, MoveError> {
    let prefixes = planned(plan, BesideKind::RedisKeys);
    match &spec.beside.keys {
        _ if prefixes.is_empty() => Ok(None),
        Some(keys) => Ok(Some((keys, prefixes))),
        None => Err(gone(Side::Target)),
    }
}

fn objects_of<'s>(spec: &'s MoveSpec, plan: &MovePlan) -> Result<Option<(&'s ObjectsBeside, Vec<String>)>, MoveError> {
    let prefixes = planned(plan, BesideKind::Objects);
    match &spec.beside.objects {
        _ if prefixes.is_empty() => Ok(None),
        Some(objects) => Ok(Some((objects, prefixes))),
        None => Err(gone(Side::Target)),
    }
}

/// The objects' first copy, before that of the rows. What it saw, the cut-over goes on from in the same process.
pub(crate) async fn copy(spec: &MoveSpec, plan: &MovePlan) -> Result<(), MoveError> {
    if let Some((objects, prefixes)) = objects_of(spec, plan)? {
        let mut follower = objects::Follower::new(objects, prefixes, None);
        follower.round().await?;
        spec.ahead.keep_objects(follower.known());
    }
    Ok(())
}

/// Both, followed up to the cut-over.
pub(crate) struct Followers {
    keys: Option<keys::Follower>,
    objects: Option<objects::Follower>,
}

impl Followers {
    /// Copies all keys; returns when what changed since is known from now on.
    pub async fn start(
        spec: &MoveSpec,
        plan: &MovePlan,
        token: Token,
        source: &Client,
        target: &Client,
    ) -> Result<Self, MoveError> {
        if !plan.beside.is_empty() {
            told_apart(spec, source, Side::Source).await?;
            told_apart(spec, target, Side::Target).await?;
        }
        let keys = match keys_of(spec, plan)? {
            Some((keys, prefixes)) if !keys::same_place(keys).await? => {
                Some(keys::Follower::start(keys, prefixes, &spec.session_prefix(), token).await?)
            }
            _ => None,
        };
        let known = spec.ahead.take_objects();
        let objects = objects_of(spec, plan)?.map(|(o, prefixes)| objects::Follower::new(o, prefixes, known));
        Ok(Self { keys, objects })
    }

    /// Brings what changed. Before the pause; returns why it should not begin yet.
    pub async fn catch_up(&mut self) -> Result<Option<String>, MoveError> {
        if let Some(objects) = &mut self.objects {
            let brought = objects.round().await?;
            if brought > 0 && objects.listing() > objects::IN_THE_PAUSE {
                objects.round().await?;
            }
        }
        match &mut self.keys {
            Some(keys) => keys.catch_up().await,
            None => Ok(None),
        }
    }

    /// The last changes, in the pause: nobody writes through the edge any more. Returns whether they were all brought in
    /// `limit`.
    pub async fn last(&mut self, limit: Duration) -> Result<bool, MoveError> {
        let (keys, objects) = (&mut self.keys, &mut self.objects);
        let keys = async {
            match keys {
                Some(keys) => keys.last().await,
                None => Ok(()),
            }
        };
        let objects = async {
            match objects {
                // A listing that takes longer comes after the cut-over: see `bring_late_objects`.
                Some(objects) if objects.listing() <= objects::IN_THE_PAUSE => objects.last().await,
                _ => Ok(()),
            }
        };
        let both = async { tokio::try_join!(keys, objects) };
        match tokio::time::timeout(limit, both).await {
            Ok(done) => done.map(|_| true),
            Err(_) => Ok(false),
        }
    }

    /// When the last listing began, if that was before the pause: objects from then on may be missing. What it saw is
    /// kept for [`bring_late_objects`].
    pub fn late_since(self, spec: &MoveSpec) -> Option<jiff::Timestamp> {
        let objects = self.objects?;
        let since = objects.late_since();
        spec.ahead.keep_objects(since.and_then(|_| objects.known()));
        since
    }
}

/// After the cut-over and before anything else: objects that were written from `since` on, when the last listing before
/// it began. Of two, the newer stays; what is there already is not written again.
pub async fn bring_late_objects(spec: &MoveSpec, plan: &MovePlan, since: jiff::Timestamp) -> Result<u64, MoveError> {
    match objects_of(spec, plan)? {
        Some((objects, prefixes)) => objects::sweep(objects, &prefixes, since, spec.ahead.take_objects()).await,
        None => Ok(0),
    }
}

/// Takes the tenant's keys and objects away from the target, which does not own it. `client`: a session there; before
/// each batch it is looked at whether that is still so.
pub(crate) async fn clear_target(
    spec: &MoveSpec,
    plan: &MovePlan,
    client: &mut Client,
    token: Token,
) -> Result<(), MoveError> {
    let what = "holding the target's fence";
    if plan.beside.is_empty() {
        return Ok(());
    }
    told_apart(spec, client, Side::Target).await?;
    // Whoever waits for the fence's row must not wait for a store that hangs.
    client.batch_execute("set idle_in_transaction_session_timeout = '30s'").await.doing(Side::Target, what)?;
    if let Some((keys, prefixes)) = keys_of(spec, plan)?
        && !keys::same_place(keys).await?
    {
        let mut there = keys::There::of(&keys.target, Side::Target, &prefixes).await?;
        while !there.is_empty() {
            let tx = client.transaction().await.doing(Side::Target, what)?;
            hold_closed(spec, &tx, token).await?;
            there.remove_some().await?;
            tx.commit().await.doing(Side::Target, what)?;
        }
    }
    if let Some((objects, prefixes)) = objects_of(spec, plan)?
        && !objects::same_place(objects, &prefixes).await?
    {
        let there = objects::There::of(&objects.target, Side::Target, &prefixes).await?;
        for batch in there.batches() {
            let tx = client.transaction().await.doing(Side::Target, what)?;
            hold_closed(spec, &tx, token).await?;
            there.remove(batch).await?;
            tx.commit().await.doing(Side::Target, what)?;
        }
    }
    Ok(())
}

/// Whether a tenant's keys and objects are surely nobody else's. Asked before its rows go: afterwards its own key is not
/// among those that are looked through.
pub async fn may_be_removed(
    endpoint: &Endpoint,
    rules: &DataRules,
    beside: &Beside,
    tenant: &TenantKey,
) -> Result<(), MoveError> {
    if beside.is_empty() {
        return Ok(());
    }
    let client = connect(endpoint, Side::Source, "berth-remove").await?;
    let mut obstacles = Vec::new();
    for prefixes in [beside.keys.as_ref().map(|k| &k.prefixes), beside.objects.as_ref().map(|o| &o.prefixes)] {
        ambiguous(prefixes.map_or(&[], Vec::as_slice), tenant, &mut obstacles);
    }
    must_be_told_apart(&client, Side::Source, rules, beside, &mut obstacles).await?;
    if obstacles.is_empty() { Ok(()) } else { Err(MoveError::Obstacles(obstacles)) }
}

/// A tenant that is deleted: its keys and objects where it lived, which is `source` of both. Returns how many of each
/// there were.
pub async fn remove_all(
    endpoint: &Endpoint,
    rules: &DataRules,
    beside: &Beside,
    tenant: &TenantKey,
) -> Result<(u64, u64), MoveError> {
    may_be_removed(endpoint, rules, beside, tenant).await?;
    let mut gone = (0, 0);
    let of_tenant = |prefixes: &[String]| prefixes.iter().map(|p| prefix_of(p, tenant)).collect::<Vec<_>>();
    if let Some(keys) = &beside.keys {
        let mut there = keys::There::of(&keys.source, Side::Source, &of_tenant(&keys.prefixes)).await?;
        gone.0 = there.many();
        while !there.is_empty() {
            there.remove_some().await?;
        }
    }
    if let Some(objects) = &beside.objects {
        let there = objects::There::of(&objects.source, Side::Source, &of_tenant(&objects.prefixes)).await?;
        gone.1 = there.batches().map(|batch| batch.len() as u64).sum();
        for batch in there.batches() {
            there.remove(batch).await?;
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::{ambiguous, end_of_key, prefix_of};
    use berth_domain::TenantKey;

    #[test]
    fn a_key_that_holds_the_end_of_its_own_prefix_is_an_obstacle() {
        assert_eq!((end_of_key("t:{tenant}:"), end_of_key("t:{tenant}")), (Some(':'), None));
        let mut obstacles = Vec::new();
        let (plain, split) = (TenantKey::new("1").unwrap(), TenantKey::new("1:2").unwrap());
        ambiguous(&["t:{tenant}:".into(), "x/{tenant}/".into()], &plain, &mut obstacles);
        assert!(obstacles.is_empty());
        ambiguous(&["t:{tenant}:".into(), "x/{tenant}/".into()], &split, &mut obstacles);
        assert_eq!(obstacles.len(), 1, "only `:` ends that key early");
        assert_eq!(prefix_of("t:{tenant}:", &plain), "t:1:");
    }
}
