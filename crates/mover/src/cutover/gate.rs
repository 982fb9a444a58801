//! What is asked before anybody waits: an attempt that cannot go well is given up here, and the pause finds little to do.

use super::CutOverRun;
use crate::fence::Fence;
use crate::{MoveError, Phase, Progress, Side, beside, catalog, logins, sequence, shared, standbys};
use std::collections::BTreeSet;
use tokio_postgres::Client;

/// A marker that comes back within this means that the streams are in step, in milliseconds.
const IN_STEP_MS: u128 = 25;
/// Comparisons of open keys in one attempt. What has piled up while the last attempt was waited for goes down by a quarter to
/// a half with each.
const ROUNDS: u32 = 32;
/// So many in a row that leave no fewer say that others will not either.
const VAIN_ROUNDS: u32 = 3;

impl CutOverRun<'_> {
    /// Everything that can be known before anybody waits. Says why not, where this is no moment for a pause.
    ///
    /// The sessions are those that ask the same in the pause: they know the catalogue by then.
    pub(super) async fn gate(&mut self) -> Result<Option<String>, MoveError> {
        if let Err(trouble) = self.edges.all_alive().await {
            return Ok(Some(trouble.to_string()));
        }
        for (client, side) in [(&self.source, Side::Source), (&self.target, Side::Target)] {
            if catalog::fingerprint(client, side, &self.plan.tables).await? != self.plan.fingerprint {
                return Err(MoveError::SchemaChanged {
                    what: format!("tables of the tenant in the {side} have other columns than planned"),
                });
            }
        }
        self.bring_referred().await?;
        // Read first: what is made between the two is found in the pause.
        self.outline = catalog::outline(&self.comparer.source, self.spec, self.plan).await?;
        if !catalog::is_as_planned(&self.source, self.spec, self.plan).await? {
            let what = "other tables belong to the tenant than were planned".to_owned();
            return Err(MoveError::SchemaChanged { what });
        }
        if let Some(table) = self.fences.source.missing_triggers(&self.source, self.plan).await?.first() {
            return Err(MoveError::SchemaChanged { what: format!("a trigger of the fence on {table} is off") });
        }
        self.stood[0].unchanged(&self.comparer.writer, self.plan, &self.fences.source).await?;
        self.stood[1].unchanged(&self.comparer.second_target, self.plan, &self.fences.target).await?;
        if let Some(why) = self.catch_up_beside().await? {
            return Ok(Some(why));
        }
        // Asked again after the rounds; where it is so already, they would be for nothing.
        let most_ms = self.spec.tuning.old_transaction_ms;
        if let Err(why) = in_the_way(&self.source, &self.target, &self.fences.source, most_ms).await? {
            return Ok(Some(why));
        }
        if let Some(why) = self.compare_open().await? {
            return Ok(Some(why));
        }
        let (lag, standbys) = tokio::try_join!(
            self.comparer.pass_marker(&self.follower),
            in_the_way(&self.source, &self.target, &self.fences.source, most_ms)
        )?;
        match standbys {
            Ok(standbys) => self.standbys = standbys,
            Err(why) => return Ok(Some(why)),
        }
        if lag.as_millis() > IN_STEP_MS {
            return Ok(Some(format!("the target is {} ms behind", lag.as_millis())));
        }
        // Last: where two moves exchange tenants, each of these goes farther than the other's.
        sequence::lead(self.spec, &self.source, &self.target, self.plan).await?;
        Ok(None)
    }

    /// Compares the rows that changed since they were compared, until few have changed meanwhile.
    ///
    /// As long as a round leaves clearly fewer than the one before, another makes the pause shorter.
    async fn compare_open(&mut self) -> Result<Option<String>, MoveError> {
        let most = self.spec.tuning.open_keys_most;
        let (mut open, mut vain, mut refreshed) = (usize::MAX, 0, false);
        for _ in 0..ROUNDS {
            if self.watcher.cancelled() {
                return Err(MoveError::Cancelled);
            }
            let before = open;
            open = self.comparer.open_keys(&self.follower).await?;
            vain = if open < before { 0 } else { vain + 1 };
            if open > most {
                self.watcher.progress(Progress { open_keys: Some(open as u64), ..Progress::of(Phase::Follow) });
                if vain == VAIN_ROUNDS {
                    break;
                }
            } else if !refreshed {
                // What else changed in the long rounds.
                self.bring_referred().await?;
                if let Some(why) = self.catch_up_beside().await? {
                    return Ok(Some(why));
                }
                refreshed = true;
            } else if open == 0 || open > before / 4 * 3 {
                break;
            }
        }
        Ok((open > most).then(|| format!("{open} rows changed since they were compared")))
    }

    /// Rows of nobody that were referred to or changed since they were last looked at.
    async fn bring_referred(&mut self) -> Result<(), MoveError> {
        let keys = self.follower.nobodys(|n| n.take(self.plan.shared.len()));
        if keys.iter().any(|k| !k.is_empty()) { self.bring(keys).await } else { Ok(()) }
    }

    pub(super) async fn bring(&mut self, keys: Vec<BTreeSet<Vec<String>>>) -> Result<(), MoveError> {
        let rows = shared::gather(self.plan, &self.source, Side::Source, keys).await?;
        shared::bring(self.spec, self.plan, &mut self.target, &rows, self.token).await?;
        self.follower.nobodys(|n| n.knows(&rows));
        Ok(())
    }

    async fn catch_up_beside(&mut self) -> Result<Option<String>, MoveError> {
        match Box::pin(self.followed_beside()).await {
            Err(error) if error.fault() == crate::Fault::Passing => {
                self.beside = None;
                Ok(Some(error.to_string()))
            }
            other => other,
        }
    }

    async fn followed_beside(&mut self) -> Result<Option<String>, MoveError> {
        if self.beside.is_none() && !self.plan.beside.is_empty() {
            let followers =
                beside::Followers::start(self.spec, self.plan, self.token, &self.source, &self.target).await?;
            self.beside = Some(followers);
        }
        match &mut self.beside {
            Some(beside) => beside.catch_up().await,
            None => Ok(None),
        }
    }
}

/// The standbys of source and target, or why a pause would be for nothing.
async fn in_the_way(
    source: &Client,
    target: &Client,
    fence: &Fence,
    most_ms: u64,
) -> Result<Result<[Vec<i32>; 2], String>, MoveError> {
    let (ours, theirs, of_source, of_target, oldest) = tokio::try_join!(
        logins::shared_by_now(source, Side::Source),
        logins::shared_by_now(target, Side::Target),
        standbys::in_step(source, Side::Source),
        standbys::in_step(target, Side::Target),
        fence.oldest_writer_ms(source),
    )?;
    if let Some(found) = ours.or(theirs) {
        return Ok(Err(found.to_string()));
    }
    if let Some(ms) = oldest.filter(|ms| *ms > most_ms) {
        return Ok(Err(format!("a transaction of this tenant has been open for {ms} ms")));
    }
    Ok(of_source.and_then(|source| Ok([source, of_target?])))
}
