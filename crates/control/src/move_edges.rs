//! The edges of one tenant, as the mover sees them: who has the hold in force, who has the new route.
//!
//! Edges are told nothing from here: they follow the control row's route. What they answer comes over the hub
//! within a millisecond and stands in the store for who missed it.

use crate::edge_link::SILENT_MS;
use async_trait::async_trait;
use berth_domain::{EdgeName, Generation, Revision, TenantId, Token};
use berth_mover::{EdgeTrouble, Edges, HoldFigures};
use berth_store::{EdgeSaid, HoldWent, Nudge, Store};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, broadcast, broadcast::error::RecvError};

/// Watches the edges for one tenant's move.
pub struct TenantEdges {
    store: Store,
    tenant: TenantId,
    state: Mutex<State>,
}

struct State {
    /// Subscribed before the hold is asked for, so that no answer falls between.
    answers: broadcast::Receiver<Nudge>,
    /// Who has to answer, as of the last look.
    edges: Vec<EdgeName>,
    acked: BTreeMap<EdgeName, Revision>,
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
                Ok(Ok(Nudge::Routes(_) | Nudge::Operation(_) | Nudge::Settings)) => {}
                // The hub is gone with its program: nothing more will be heard.
                Ok(Err(RecvError::Closed)) => {
                    tokio::time::sleep_until(until.into()).await;
                    return Heard::Late;
                }
            }
        }
    }

    async fn reports(&self, token: Token) -> Vec<(EdgeName, HoldWent)> {
        // A store that does not answer has told us nothing: whoever waits here has a limit.
        let reports = self.store.hold_reports(self.tenant, token).await.unwrap_or_default();
        reports.into_iter().map(|(edge, _, said)| (edge, said.went)).collect()
    }
}

fn ours(said: &EdgeSaid, tenant: TenantId, token: Token) -> Option<(EdgeName, HoldWent)> {
    said.holds
        .iter()
        .find(|hold| hold.tenant == tenant && hold.token == token)
        .map(|hold| (said.edge.clone(), hold.went.clone()))
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
        state.acked = edges.iter().map(|edge| (edge.name.clone(), edge.acked)).collect();
        state.edges = edges.into_iter().map(|edge| edge.name).collect();
        Ok(())
    }

    async fn wait_held(&self, token: Token, limit: Duration) -> Result<(), EdgeTrouble> {
        let until = Instant::now() + limit;
        let mut state = self.state.lock().await;
        let mut missing = state.edges.clone();
        while let Some(next) = missing.first().cloned() {
            let reports = match Self::hear(&mut state.answers, until).await {
                Heard::Said(said) => ours(&said, self.tenant, token).into_iter().collect(),
                Heard::Look => self.reports(token).await,
                Heard::Late => return Err(EdgeTrouble::Late(next)),
            };
            for (edge, went) in reports {
                match went {
                    HoldWent::InForce => missing.retain(|name| *name != edge),
                    HoldWent::Refused { in_flight } => return Err(EdgeTrouble::Busy { edge, in_flight }),
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
            return state.edges.clone();
        };
        let State { answers, edges, acked } = &mut *state;
        let late = |acked: &BTreeMap<EdgeName, Revision>| -> Vec<EdgeName> {
            edges.iter().filter(|edge| acked.get(*edge).is_none_or(|at| *at < wanted)).cloned().collect()
        };
        loop {
            let missing = late(acked);
            if missing.is_empty() {
                return missing;
            }
            match Self::hear(answers, until).await {
                Heard::Said(said) => {
                    acked.insert(said.edge.clone(), said.revision);
                }
                Heard::Look => {
                    for edge in self.store.edge_list().await.unwrap_or_default() {
                        acked.insert(edge.name, edge.acked);
                    }
                }
                Heard::Late => return missing,
            }
        }
    }

    async fn hold_figures(&self, token: Token, limit: Duration) -> Option<HoldFigures> {
        let until = Instant::now() + limit;
        let mut state = self.state.lock().await;
        let mut ended: BTreeMap<EdgeName, HoldWent> = BTreeMap::new();
        let mut look = true;
        while ended.len() < state.edges.len() {
            if look {
                ended.extend(
                    self.reports(token).await.into_iter().filter(|(_, went)| matches!(went, HoldWent::Ended { .. })),
                );
                look = false;
                continue;
            }
            match Self::hear(&mut state.answers, until).await {
                Heard::Said(said) => {
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
