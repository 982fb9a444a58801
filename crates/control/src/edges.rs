//! What edges follow: the whole at first, then every change in its order; and what they answer.
//!
//! Never decides what an edge does with a request: the route says how the tenant is, the edge acts on it.

use crate::{App, ControlError, Follow, Permit, Read, certificates, challenges, edge_link::SILENT_MS, edge_settings};
use berth_domain::{EdgeId, EdgeName, Revision, TenantState, Version};
use berth_store::{EdgeSaid, HoldSaid, HoldWent, Nudge, Presence, ProcessRole, Route, WorldAhead};
use berth_wire::{
    self as wire,
    edge::{
        EdgeAck, EdgeAckAnswer, EdgeEvent, EdgeSettings, Hold, HoldOutcome, HoldPolicy, MemberAddress, RouteLimit,
        RouteState, TenantRoute,
    },
};
use futures_util::Stream;
use jiff::Timestamp;
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::Instant,
};

/// What an edge understands, and what may be said to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// As [`berth_wire::edge::SPEAKS`] says.
    pub speaks: u32,
    /// As [`berth_wire::edge::KEEPS_ALLOW`] says: it keeps to lists of allowed networks.
    pub allows: bool,
    /// See [`wire::edge::Presence`].
    pub leaving: bool,
    /// As [`berth_wire::edge::CHALLENGES`] says.
    pub challenges: bool,
    /// Others may read along: it is connected without TLS, from an address that is not private.
    pub in_the_open: bool,
    /// Of its program. `None`: it is older than the word.
    pub version: Option<Version>,
}

/// From what on an edge understands what is said beside routes.
const SPEAKS_SETTINGS: u32 = 2;
const SPEAKS_CERTIFICATES: u32 = 3;
/// A silent stream is pinged this often, so that a dead connection is noticed on both sides.
const PING_EVERY: Duration = Duration::from_secs(5);

/// The stream for one edge. `after`: what it has in force; 0 for one that starts with nothing.
pub async fn routes(
    app: &App,
    permit: &Permit<Follow>,
    edge: EdgeName,
    instance: EdgeId,
    after: Revision,
    takes: Takes,
) -> Result<impl Stream<Item = Result<EdgeEvent, ControlError>> + Send + use<>, ControlError> {
    let following = begin(app, permit, edge, instance, after, takes).await?;
    Ok(futures_util::stream::unfold(Some(following), |state| async move {
        let mut following = state?;
        match following.next().await {
            Ok(event) => Some((Ok(event), Some(following))),
            // The edge connects again and goes on from what it has.
            Err(error) => Some((Err(error), None)),
        }
    }))
}

/// What the stream is made of, for who asks for it in pieces.
pub(crate) async fn begin(
    app: &App,
    _permit: &Permit<Follow>,
    edge: EdgeName,
    instance: EdgeId,
    after: Revision,
    takes: Takes,
) -> Result<Following, ControlError> {
    // Subscribed before the first look, so that no change falls between.
    let nudges = app.store().hub().subscribe();
    // Its version first: an edge without one is taken for an old one.
    if let Some(version) = &takes.version {
        app.store().process_seen(instance.uuid(), ProcessRole::Edge, edge.as_str(), version).await?;
    }
    app.store().edge_seen(&edge, instance, after, takes.leaving).await?;
    note_ahead(app, &edge, after).await?;
    let loading = after == Revision::default();
    Ok(Following {
        app: app.clone(),
        edge,
        instance,
        leaving: takes.leaving,
        seen_at: Instant::now(),
        sent: after,
        first: true,
        look_at_routes: true,
        loading,
        allows: takes.allows,
        settings: (takes.speaks >= SPEAKS_SETTINGS).then(|| Told::new(takes)),
        nudges,
    })
}

pub(crate) struct Following {
    app: App,
    edge: EdgeName,
    instance: EdgeId,
    /// Another process of its name is there too.
    leaving: bool,
    /// It was said to be there.
    seen_at: Instant,
    sent: Revision,
    first: bool,
    /// They may have changed, or the last page was not the last one.
    look_at_routes: bool,
    /// The edge starts with nothing and has not had everything yet.
    loading: bool,
    /// It serves a tenant to the networks that are allowed, and to no other.
    allows: bool,
    /// `None`: the edge would not understand them.
    settings: Option<Told>,
    nudges: Receiver<Nudge>,
}

/// The settings that an edge has.
struct Told {
    settings: Option<EdgeSettings>,
    certificates: certificates::Told,
    takes: Takes,
    /// They are told after the settings.
    look_at_certificates: bool,
    /// They are told last.
    look_at_challenges: bool,
    challenges: Option<u64>,
    /// They may have changed.
    look: bool,
    /// No key is told: others could read along.
    withheld: bool,
    /// Said in the log.
    warned: bool,
}

impl Told {
    fn new(takes: Takes) -> Self {
        Self {
            settings: None,
            certificates: certificates::Told::default(),
            takes,
            look_at_certificates: false,
            look_at_challenges: false,
            challenges: None,
            look: true,
            withheld: false,
            warned: false,
        }
    }

    fn serves_tls(&self) -> bool {
        self.takes.speaks >= SPEAKS_CERTIFICATES
    }
}

impl Following {
    /// The next event, whenever there is one; a ping after a silence.
    async fn next(&mut self) -> Result<EdgeEvent, ControlError> {
        loop {
            if let Some(event) = self.news().await? {
                return Ok(event);
            }
            if !self.woken(PING_EVERY).await? {
                return Ok(EdgeEvent::Ping { revision: self.sent });
            }
        }
    }

    /// What there is to say now. `None`: everything has been said.
    pub(crate) async fn news(&mut self) -> Result<Option<EdgeEvent>, ControlError> {
        if let Some(event) = self.changed_settings().await? {
            return Ok(Some(event));
        }
        while std::mem::take(&mut self.look_at_routes) {
            let first = std::mem::replace(&mut self.first, false);
            let full = first && self.sent == Revision::default();
            let changes = self.app.store().routes_after(self.sent).await?;
            self.sent = self.sent.max(changes.revision);
            self.look_at_routes = changes.more;
            let mut routes: Vec<TenantRoute> = changes.routes.into_iter().map(route).collect();
            if self.settings.is_none() {
                routes.iter_mut().for_each(in_old_words);
            }
            if !self.allows {
                // To nobody rather than to everybody.
                let closed = routes.iter_mut().filter(|route| !route.allow.is_empty());
                closed.for_each(|route| route.state = RouteState::Suspended);
            }
            if self.loading {
                routes.retain(|route| route.state != RouteState::Gone);
                self.loading = changes.more;
            }
            if full || !routes.is_empty() {
                return Ok(Some(EdgeEvent::Routes { full, revision: self.sent, routes }));
            }
            if first {
                return Ok(Some(EdgeEvent::Ping { revision: self.sent }));
            }
        }
        Ok(None)
    }

    /// Whoever begins anew after what was said goes on from there: all that is not a page of routes has been said once.
    pub(crate) fn has_begun(&self) -> bool {
        let told = |told: &Told| !told.look && !told.look_at_certificates && !told.look_at_challenges;
        !self.first && self.settings.as_ref().is_none_or(told)
    }

    /// Settings and certificates that the edge does not have yet, one event at a time.
    async fn changed_settings(&mut self) -> Result<Option<EdgeEvent>, ControlError> {
        // One that has routes has certificates too, and hears whether its routes are still good before all keys are opened.
        let routes_first = self.first && self.sent != Revision::default();
        let Some(told) = &mut self.settings else { return Ok(None) };
        if std::mem::take(&mut told.look) {
            told.look_at_certificates = told.serves_tls();
            told.look_at_challenges = told.takes.challenges;
            let mut now = edge_settings::of(&self.app, &self.edge).await?;
            told.withheld = told.takes.in_the_open && !certificates::keys_may_be_read(&self.app).await?;
            if told.withheld {
                edge_settings::without_secrets(&mut now);
                if !std::mem::replace(&mut told.warned, true) {
                    tracing::warn!(edge = %self.edge, "edge {} is told no keys (of certificates, cookies, ways to servers; Redis' password): they would pass a public network over plain HTTP", self.edge);
                }
            }
            if told.settings.as_ref() != Some(&now) {
                told.settings = Some(now.clone());
                return Ok(Some(EdgeEvent::Settings { settings: now }));
            }
        }
        if routes_first {
            return Ok(None);
        }
        if std::mem::take(&mut told.look_at_certificates)
            && !told.withheld
            && let Some((full, certificates, gone)) = told.certificates.news(&self.app).await?
        {
            return Ok(Some(EdgeEvent::Certificates { full, certificates, gone }));
        }
        if std::mem::take(&mut told.look_at_challenges) {
            let (version, challenges) = challenges::all(&self.app, told.serves_tls()).await?;
            if told.challenges != Some(version) {
                told.challenges = Some(version);
                return Ok(Some(EdgeEvent::Challenges { version, challenges }));
            }
        }
        Ok(None)
    }

    /// Whether there may be news before the limit, which is never longer than between two pings.
    pub(crate) async fn woken(&mut self, limit: Duration) -> Result<bool, ControlError> {
        if tokio::time::timeout(limit.min(PING_EVERY), self.nudged()).await.is_ok() {
            return Ok(true);
        }
        // It still asks: that is how it is known to live.
        if self.seen_at.elapsed() >= PING_EVERY / 2 {
            self.app.store().edge_seen(&self.edge, self.instance, Revision::default(), self.leaving).await?;
            self.seen_at = Instant::now();
        }
        Ok(false)
    }

    async fn nudged(&mut self) {
        loop {
            match self.nudges.recv().await {
                Ok(Nudge::Routes(revision)) if revision > self.sent => {
                    self.look_at_routes = true;
                    return;
                }
                Ok(Nudge::Settings) => {
                    if let Some(told) = &mut self.settings {
                        told.look = true;
                        return;
                    }
                }
                Ok(Nudge::Challenges) => {
                    if let Some(told) = self.settings.as_mut().filter(|told| told.takes.challenges) {
                        told.look_at_challenges = true;
                        return;
                    }
                }
                Ok(Nudge::Missed) | Err(RecvError::Lagged(_)) => {
                    if let Some(told) = &mut self.settings {
                        told.look = true;
                    }
                    self.look_at_routes = true;
                    return;
                }
                Ok(_) => {}
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

/// An edge says how far it is and how holds went. Who waits for that in this program hears it before it is stored.
pub async fn acknowledge(
    app: &App,
    _permit: &Permit<Follow>,
    edge: EdgeName,
    ack: EdgeAck,
) -> Result<EdgeAckAnswer, ControlError> {
    let holds = ack.holds.into_iter().map(|report| HoldSaid {
        tenant: report.tenant,
        token: report.token,
        went: match report.outcome {
            HoldOutcome::InForce => HoldWent::InForce,
            HoldOutcome::Refused { in_flight } => HoldWent::Refused { in_flight },
            HoldOutcome::Ended { pause_ms, held_requests, expired_requests } => {
                HoldWent::Ended { pause_ms, held_requests, expired_requests }
            }
        },
    });
    let presence = match ack.presence {
        wire::edge::Presence::Serving => Presence::Serving,
        wire::edge::Presence::Leaving => Presence::Leaving,
        wire::edge::Presence::Gone => Presence::Gone,
    };
    let (instance, revision) = (ack.instance, ack.revision);
    let said = EdgeSaid {
        edge: edge.clone(),
        instance,
        revision,
        holds: holds.collect(),
        presence,
        challenges: ack.challenges,
    };
    let head = app.store().edge_said(said).await?;
    if ack.revision > head {
        note_ahead(app, &edge, ack.revision).await?;
    }
    Ok(EdgeAckAnswer { revision: head })
}

/// An edge that has a revision which was never given out here followed a newer control database than this one.
async fn note_ahead(app: &App, edge: &EdgeName, has: Revision) -> Result<(), ControlError> {
    if has > app.store().route_head().await? {
        let seen = WorldAhead { source: format!("edge {edge}"), revision: has, fence: None };
        tracing::error!(edge = %edge, revision = %has, "edge {edge} is ahead of this control database: only reads until `berth recover`");
        app.store().world_ahead_add(&seen).await?;
    }
    Ok(())
}

pub async fn list(app: &App, _permit: &Permit<Read>) -> Result<wire::Page<wire::EdgeView>, ControlError> {
    Ok(wire::Page::whole(views(app).await?))
}

pub(crate) async fn views(app: &App) -> Result<Vec<wire::EdgeView>, ControlError> {
    let head = app.store().route_head().await?;
    let edges = app.store().edge_list().await?.into_iter().map(|edge| wire::EdgeView {
        name: edge.name,
        instance: Some(edge.instance),
        revision: edge.acked,
        behind: head.get().saturating_sub(edge.acked.get()),
        alive: edge.silent_ms <= SILENT_MS,
        leaving: edge.leaving,
        version: edge.version,
        seen_at: Some(edge.last_seen),
    });
    Ok(edges.collect())
}

/// For an edge that does not know what draining is: no new requests all the same, though its words for it are others.
fn in_old_words(route: &mut TenantRoute) {
    if matches!(route.state, RouteState::Draining { .. }) {
        route.state = RouteState::Suspended;
    }
    route.members.retain(|member| member.draining_ms.is_none());
}

fn route(route: Route) -> TenantRoute {
    let state = match (route.state, route.hold) {
        (TenantState::Active | TenantState::Moving, Some(hold)) => RouteState::Held {
            hold: Hold {
                token: hold.token,
                policy: if hold.everything { HoldPolicy::All } else { HoldPolicy::Unsafe },
                drain_ms: hold.drain_ms,
                park_ms: hold.park_ms,
            },
        },
        (TenantState::Active | TenantState::Moving, None) => {
            route.draining_ms.map_or(RouteState::Serving, |grace_ms| RouteState::Draining { grace_ms })
        }
        (TenantState::Suspended, _) => RouteState::Suspended,
        (TenantState::Provisioning | TenantState::Deleting | TenantState::Deleted | TenantState::Failed, _) => {
            RouteState::Gone
        }
    };
    let members = route.members.into_iter().map(|member| MemberAddress {
        member: member.member,
        service: member.service,
        address: member.address,
        draining_ms: member.draining_ms,
    });
    TenantRoute {
        tenant: route.tenant,
        name: route.name,
        key: route.key,
        plan: route.plan,
        cell: route.cell,
        generation: route.generation,
        revision: route.revision,
        hosts: route.hosts,
        patterns: route.patterns,
        state,
        members: members.collect(),
        body_bytes: route.body_bytes,
        limits: limits(route.requests_per_minute, route.spent),
        allow: route.allow,
    }
}

/// By class, and of a class that is spent nothing first: an edge takes the first entry that has not ended.
fn limits(per_minute: BTreeMap<String, u64>, spent: BTreeMap<String, Timestamp>) -> Vec<RouteLimit> {
    let planned =
        per_minute.into_iter().map(|(class, requests)| RouteLimit { class, requests, per_s: 60, until: None });
    let nothing =
        spent.into_iter().map(|(class, until)| RouteLimit { class, requests: 0, per_s: 60, until: Some(until) });
    let mut limits: Vec<RouteLimit> = nothing.chain(planned).collect();
    limits.sort_by(|a, b| a.class.cmp(&b.class));
    limits
}
