//! The edges of one tenant, as the mover sees them: who has the hold in force, who has the new route.
//!
//! Edges are told nothing from here: they follow the control row's route. What they answer comes over the hub
//! within a millisecond and stands in the store for who missed it.

use crate::edge_link::SILENT_MS;
use async_trait::async_trait;
use berth_domain::{EdgeId, EdgeName, Generation, Revision, TenantId, Token};
use berth_mover::{EdgeTrouble, Edges, HoldFigures};
use berth_store::{Edge, EdgeSaid, HoldWent, Nudge, Presence, Store};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, broadcast, broadcast::error::RecvError};

/// Watches the edges for one tenant's move.
pub struct TenantEdges {
    store: Store,
    tenant: TenantId,
    state: Mutex<State>,
}

/// One process of an edge: the one that has the name, or one that it has followed and that has not gone yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Who {
    name: EdgeName,
    leaving: Option<EdgeId>,
}

impl From<&Edge> for Who {
    fn from(edge: &Edge) -> Self {
        Self { name: edge.name.clone(), leaving: edge.leaving.then_some(edge.instance) }
    }
}

impl From<&EdgeSaid> for Who {
    fn from(said: &EdgeSaid) -> Self {
        let leaving = (said.presence != Presence::Serving).then_some(said.instance);
        Self { name: said.edge.clone(), leaving }
    }
}

struct State {
    /// Subscribed before the hold is asked for, so that no answer falls between.
    answers: broadcast::Receiver<Nudge>,
    /// Who has to answer, as of the last look.
    edges: Vec<Who>,
    acked: BTreeMap<Who, Revision>,
}

impl State {
    /// Nobody waits for who has gone.
    fn forget(&mut self, said: &EdgeSaid) {
        if said.presence == Presence::Gone {
            self.edges.retain(|who| *who != Who::from(said));
        }
    }
}

enum Heard {
    Said(std::sync::Arc<EdgeSaid>),
    /// Something may have been missed: look at the store.
    Look,
    Late,
}

impl TenantEdges {
    pub fn new(store: Store, tenant: TenantId) -> Self {
        let answers = store.hub().subscribe();
        Self { store, tenant, state: Mutex::new(State { answers, edges: Vec::new(), acked: BTreeMap::new() }) }
    }

    async fn hear(answers: &mut broadcast::Receiver<Nudge>, until: Instant) -> Heard {
        loop {
            match tokio::time::timeout_at(until.into(), answers.recv()).await {
                Err(_) => return Heard::Late,
                Ok(Ok(Nudge::Acked(said))) => return Heard::Said(said),
                Ok(Ok(Nudge::Missed) | Err(RecvError::Lagged(_))) => return Heard::Look,
                Ok(Ok(Nudge::Routes(_) | Nudge::Operation(_) | Nudge::Settings | Nudge::Challenges)) => {}
                // The hub is gone with its program: nothing more will be heard.
                Ok(Err(RecvError::Closed)) => {
                    tokio::time::sleep_until(until.into()).await;
                    return Heard::Late;
                }
            }
        }
    }

    async fn reports(&self, token: Token, edges: &[Who]) -> Vec<(Who, HoldWent)> {
        // A store that does not answer has told us nothing: whoever waits here has a limit.
        let reports = self.store.hold_reports(self.tenant, token).await.unwrap_or_default();
        let by = |name: EdgeName, instance: EdgeId| {
            let leaving = edges.iter().any(|who| who.leaving == Some(instance)).then_some(instance);
            Who { name, leaving }
        };
        reports.into_iter().map(|(edge, instance, said)| (by(edge, instance), said.went)).collect()
    }
}

fn ours(said: &EdgeSaid, tenant: TenantId, token: Token) -> Option<(Who, HoldWent)> {
    said.holds
        .iter()
        .find(|hold| hold.tenant == tenant && hold.token == token)
        .map(|hold| (Who::from(said), hold.went.clone()))
}

#[async_trait]
impl Edges for TenantEdges {
    async fn all_alive(&self) -> Result<(), EdgeTrouble> {
        let mut state = self.state.lock().await;
        state.answers = self.store.hub().subscribe();
        // Not knowing who is there must not be taken for nobody being there.
        let Ok(edges) = self.store.edge_list().await else {
            return Err(EdgeTrouble::Unknown);
        };
        if let Some(dead) = edges.iter().find(|edge| edge.silent_ms > SILENT_MS) {
            return Err(EdgeTrouble::NotAlive(dead.name.clone()));
        }
        state.acked = edges.iter().map(|edge| (edge.into(), edge.acked)).collect();
        state.edges = edges.iter().map(Who::from).collect();
        Ok(())
    }

    async fn wait_held(&self, token: Token, limit: Duration) -> Result<(), EdgeTrouble> {
        let until = Instant::now() + limit;
        let mut state = self.state.lock().await;
        let mut missing = state.edges.clone();
        while let Some(next) = missing.first().cloned() {
            let reports = match Self::hear(&mut state.answers, until).await {
                Heard::Said(said) => {
                    state.forget(&said);
                    missing.retain(|who| state.edges.contains(who));
                    ours(&said, self.tenant, token).into_iter().collect()
                }
                Heard::Look => self.reports(token, &state.edges).await,
                Heard::Late => return Err(EdgeTrouble::Late(next.name)),
            };
            for (edge, went) in reports {
                match went {
                    HoldWent::InForce => missing.retain(|who| *who != edge),
                    HoldWent::Refused { in_flight } => return Err(EdgeTrouble::Busy { edge: edge.name, in_flight }),
                    HoldWent::Ended { .. } => {}
                }
            }
        }
        Ok(())
    }

    async fn wait_routed(&self, _: Generation, limit: Duration) -> Vec<EdgeName> {
        let until = Instant::now() + limit;
        let mut state = self.state.lock().await;
        let Ok(Some(wanted)) = self.store.route_revision(self.tenant).await else {
            return state.edges.iter().map(|who| who.name.clone()).collect();
        };
        loop {
            let State { edges, acked, .. } = &*state;
            let late = edges.iter().filter(|who| acked.get(*who).is_none_or(|at| *at < wanted));
            let missing: Vec<EdgeName> = late.map(|who| who.name.clone()).collect();
            if missing.is_empty() {
                return missing;
            }
            match Self::hear(&mut state.answers, until).await {
                Heard::Said(said) => {
                    state.forget(&said);
                    state.acked.insert(Who::from(&*said), said.revision);
                }
                Heard::Look => {
                    for edge in self.store.edge_list().await.unwrap_or_default() {
                        state.acked.insert(Who::from(&edge), edge.acked);
                    }
                }
                Heard::Late => return missing,
            }
        }
    }

    async fn hold_figures(&self, token: Token, limit: Duration) -> Option<HoldFigures> {
        let until = Instant::now() + limit;
        let mut state = self.state.lock().await;
        let mut ended: BTreeMap<Who, HoldWent> = BTreeMap::new();
        let mut look = true;
        while ended.len() < state.edges.len() {
            if look {
                let reports = self.reports(token, &state.edges).await;
                ended.extend(reports.into_iter().filter(|(_, went)| matches!(went, HoldWent::Ended { .. })));
                look = false;
                continue;
            }
            match Self::hear(&mut state.answers, until).await {
                Heard::Said(said) => {
                    state.forget(&said);
                    if let Some((edge, went @ HoldWent::Ended { .. })) = ours(&said, self.tenant, token) {
                        ended.insert(edge, went);
                    }
                }
                Heard::Look => look = true,
                Heard::Late => break,
            }
        }
        let figures = ended.into_values().filter_map(|went| match went {
            HoldWent::Ended { pause_ms, held_requests, expired_requests } => {
                Some((pause_ms, held_requests, expired_requests))
            }
            _ => None,
        });
        figures.fold(None, |so_far: Option<HoldFigures>, (pause_ms, held, expired)| {
            let before = so_far.unwrap_or_default();
            Some(HoldFigures {
                pause_ms: before.pause_ms.max(pause_ms),
                held_requests: before.held_requests + u64::from(held),
                expired_requests: before.expired_requests + u64::from(expired),
            })
        })
    }
}
