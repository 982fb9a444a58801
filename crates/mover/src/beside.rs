//! What a tenant has beside its rows: keys in the cell's Redis, objects in the cell's object storage, both by prefix.
//!
//! They travel with the rows, and nothing fences them: neither Redis nor an object store can refuse a tenant's writes.
//! What holds them still in the pause is the edge, so a writer past the edge (a worker) may write to the old place after
//! the last look, and that is lost. The plan says so. Never knows where a cell's Redis or objects come from.

mod keys;
mod objects;

use crate::prepare::hold_closed;
use crate::sql::Doing;
use crate::{Archives, MoveError, MoveSpec, Obstacle, Side};
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
                "held at the edge, not fenced: a process that writes past the edge may lose what it writes in the pause"
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
    let mut found = Vec::new();
    if let Some(keys) = &spec.beside.keys {
        ambiguous(&keys.prefixes, &spec.tenant, obstacles);
        keys::plan(keys, &spec.tenant, &mut found, obstacles).await?;
    }
    if let Some(objects) = &spec.beside.objects {
        ambiguous(&objects.prefixes, &spec.tenant, obstacles);
        objects::plan(objects, &spec.tenant, &mut found).await?;
    }
    Ok(found)
}

fn ambiguous(prefixes: &[String], tenant: &TenantKey, obstacles: &mut Vec<Obstacle>) {
    for prefix in prefixes {
        let end = end_of_key(prefix);
        if end.is_none_or(|end| tenant.as_str().contains(end)) {
            obstacles.push(Obstacle::PrefixOfOthers { prefix: prefix.clone(), key: tenant.to_string() });
        }
    }
}

/// The keys that end in another tenant's prefix, of all keys in the root table: `1:2` beside the prefix `t:{tenant}:`.
pub(crate) fn ends(spec: &MoveSpec) -> Vec<(String, char)> {
    let keys = spec.beside.keys.iter().flat_map(|k| &k.prefixes);
    let objects = spec.beside.objects.iter().flat_map(|o| &o.prefixes);
    keys.chain(objects).filter_map(|prefix| Some((prefix.clone(), end_of_key(prefix)?))).collect()
}

/// The objects' first copy, beside that of the rows: what is there already in the same size and no older stays.
pub(crate) async fn copy(spec: &MoveSpec) -> Result<(), MoveError> {
    match &spec.beside.objects {
        Some(objects) => objects::Follower::new(objects, &spec.tenant).round().await.map(drop),
        None => Ok(()),
    }
}

/// Both, followed up to the cut-over.
pub(crate) struct Followers {
    keys: Option<keys::Follower>,
    objects: Option<objects::Follower>,
}

impl Followers {
    /// Copies all keys; returns when what changed since is known from now on.
    pub async fn start(spec: &MoveSpec, token: Token) -> Result<Self, MoveError> {
        let keys = match &spec.beside.keys {
            Some(keys) if !keys::same_place(keys).await? => {
                Some(keys::Follower::start(keys, &spec.tenant, &spec.session_prefix(), token).await?)
            }
            _ => None,
        };
        let objects = spec.beside.objects.as_ref().map(|o| objects::Follower::new(o, &spec.tenant));
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
                // A listing that takes longer comes after the cut-over: see `sweep`.
                Some(objects) if objects.listing() <= objects::IN_THE_PAUSE => objects.round().await.map(drop),
                _ => Ok(()),
            }
        };
        let both = async { tokio::try_join!(keys, objects) };
        match tokio::time::timeout(limit, both).await {
            Ok(done) => done.map(|_| true),
            Err(_) => Ok(false),
        }
    }
}

/// After the cut-over: objects that were written in the last moment before it. Of two, the newer stays.
pub async fn bring_late_objects(spec: &MoveSpec) -> Result<u64, MoveError> {
    match &spec.beside.objects {
        Some(objects) => objects::sweep(objects, &spec.tenant).await,
        None => Ok(0),
    }
}

/// Takes the tenant's keys and objects away from the target, which does not own it. `client`: a session there; before
/// each batch it is looked at whether that is still so.
pub(crate) async fn clear_target(spec: &MoveSpec, client: &mut Client, token: Token) -> Result<(), MoveError> {
    let what = "holding the target's fence";
    if let Some(keys) = &spec.beside.keys
        && !keys::same_place(keys).await?
    {
        let mut there = keys::There::of(&keys.target, Side::Target, &keys.prefixes, &spec.tenant).await?;
        while !there.is_empty() {
            let tx = client.transaction().await.doing(Side::Target, what)?;
            hold_closed(spec, &tx, token).await?;
            there.remove_some().await?;
            tx.commit().await.doing(Side::Target, what)?;
        }
    }
    if let Some(objects) = &spec.beside.objects
        && !objects::same_place(objects, &spec.tenant).await?
    {
        let there = objects::There::of(&objects.target, Side::Target, &objects.prefixes, &spec.tenant).await?;
        for batch in there.batches() {
            let tx = client.transaction().await.doing(Side::Target, what)?;
            hold_closed(spec, &tx, token).await?;
            there.remove(batch).await?;
            tx.commit().await.doing(Side::Target, what)?;
        }
    }
    Ok(())
}

/// A tenant that is deleted: its keys and objects where it lived.
pub async fn remove_all(
    keys: Option<(&SecretString, &[String])>,
    objects: Option<(&Archives, &[String])>,
    tenant: &TenantKey,
) -> Result<(), MoveError> {
    if let Some((url, prefixes)) = keys {
        let mut there = keys::There::of(url, Side::Source, prefixes, tenant).await?;
        while !there.is_empty() {
            there.remove_some().await?;
        }
    }
    if let Some((place, prefixes)) = objects {
        let there = objects::There::of(place, Side::Source, prefixes, tenant).await?;
        for batch in there.batches() {
            there.remove(batch).await?;
        }
    }
    Ok(())
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
