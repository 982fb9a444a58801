//! What tenants use, told to the platform; and what their plans let them have, asked of it.
//!
//! Knows two requests of the platform's API and nothing else of it: `POST /v1/usage` and `GET /v1/tenants/key:…/entitlements`.
//! Where the process was not told the platform's address, nothing is counted and nothing is refused. Never in the way of a
//! request that would be let through: what the platform cannot answer is let through too, because a customer's positions
//! are worth more than an exact limit.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::problem::Problem;

/// How often what was counted is reported.
const EVERY: Duration = Duration::from_secs(2);
/// What a plan allows is asked again after this.
const REMEMBERED: Duration = Duration::from_secs(5);
/// A platform that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Before each try of a report.
const PAUSES_MS: [u64; 4] = [0, 200, 1000, 5000];
const ANSWER_MAX: usize = 1 << 20;
const POINTS: &str = "gps_points";
pub const VEHICLES: &str = "vehicles";
pub const GEOFENCES: &str = "geofences";

/// Where the platform is, and the key to it.
#[derive(Clone)]
pub struct Platform {
    pub authority: String,
    pub key: String,
}

#[derive(Clone)]
pub struct Usage(Option<Arc<Counted>>);

struct Counted {
    platform: Platform,
    /// Of this process: with a number behind it, it is equal on every retry and on no other report.
    process: Uuid,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    points: HashMap<Uuid, u64>,
    /// Taken out of `points` to be reported, and not known to be taken by the platform.
    in_flight: HashMap<Uuid, u64>,
    /// Stored since the platform was asked, or not counted by it when it was.
    since: HashMap<Uuid, u64>,
    /// How many of something a tenant has, by what.
    levels: HashMap<(Uuid, &'static str), u64>,
    reports: u64,
    allowed: HashMap<Uuid, (Instant, Vec<Quota>)>,
}

#[derive(Clone, Debug, Deserialize)]
struct Quota {
    metric: String,
    limit: u64,
    used: Option<u64>,
    resets_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Entitlements {
    quotas: Vec<Quota>,
}

impl Usage {
    pub fn new(platform: Option<Platform>) -> Self {
        let counted = |platform| Counted { platform, process: Uuid::new_v4(), state: Mutex::default() };
        Self(platform.map(|platform| Arc::new(counted(platform))))
    }

    /// Whether the tenant may store so many positions more.
    pub async fn may_add_points(&self, tenant: Uuid, points: u64) -> Result<(), Problem> {
        let Some(counted) = &self.0 else { return Ok(()) };
        for quota in counted.quotas(tenant, POINTS).await {
            // What the platform could not know when it was asked is used as well.
            let here = counted.state().since.get(&tenant).copied().unwrap_or(0);
            if quota.used.unwrap_or(0).saturating_add(here).saturating_add(points) > quota.limit {
                return Err(Problem::Spent { what: "positions", limit: quota.limit, resets_at: quota.resets_at });
            }
        }
        Ok(())
    }

    /// How many of something the tenant may have; `None` where nobody limits it.
    pub async fn at_most(&self, tenant: Uuid, what: &'static str) -> Option<u64> {
        let counted = self.0.as_ref()?;
        counted.quotas(tenant, what).await.iter().map(|quota| quota.limit).min()
    }

    pub fn added_points(&self, tenant: Uuid, points: u64) {
        if let Some(counted) = &self.0 {
            let mut state = counted.state();
            *state.points.entry(tenant).or_default() += points;
            *state.since.entry(tenant).or_default() += points;
        }
    }

    pub fn has(&self, tenant: Uuid, what: &'static str, amount: u64) {
        if let Some(counted) = &self.0 {
            counted.state().levels.insert((tenant, what), amount);
        }
    }

    /// Reports until the process ends.
    pub async fn report(self) {
        let Some(counted) = self.0 else { return };
        loop {
            tokio::time::sleep(EVERY).await;
            counted.say().await;
        }
    }

    /// What is left to say when the process ends.
    pub async fn last(&self) {
        if let Some(counted) = &self.0 {
            // The platform that ends us may be the one that is asked.
            let _ = tokio::time::timeout(PATIENCE, counted.say()).await;
        }
    }
}

impl Counted {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked while holding it changed one number at most.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was counted and says it until it is taken: under the same keys, so that an answer that is lost
    /// counts nothing twice.
    async fn say(&self) {
        let (points, levels, number) = {
            let mut state = self.state();
            state.reports += 1;
            let points = std::mem::take(&mut state.points);
            state.in_flight.clone_from(&points);
            (points, std::mem::take(&mut state.levels), state.reports)
        };
        let at = Timestamp::now();
        let event = |metric: &str, (tenant, amount): (&Uuid, &u64)| {
            serde_json::json!({
                "key": format!("{}-{number}-{metric}", self.process), "tenant": format!("key:{tenant}"),
                "metric": metric, "amount": amount, "at": at,
            })
        };
        let events: Vec<_> = points
            .iter()
            .map(|one| event(POINTS, one))
            .chain(levels.iter().map(|((tenant, what), amount)| event(what, (tenant, amount))))
            .collect();
        if events.is_empty() {
            return;
        }
        let body = serde_json::Value::from(events).to_string();
        for pause_ms in PAUSES_MS {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            match self.ask(Method::POST, "/v1/usage", body.clone()).await {
                Ok((status, _)) if status < 400 => break,
                Ok((status, answer)) if status < 500 => {
                    tracing::warn!(status, answer, "usage was refused and is left out");
                    break;
                }
                Ok((status, _)) => tracing::debug!(status, "usage was not taken"),
                Err(error) => tracing::debug!(%error, "usage was not taken"),
            }
            if pause_ms == PAUSES_MS[PAUSES_MS.len() - 1] {
                tracing::warn!("usage of {} tenants could not be reported and is left out", points.len());
            }
        }
        self.state().in_flight.clear();
    }

    /// The tenant's quotas of one metric; none where the platform does not say.
    async fn quotas(&self, tenant: Uuid, metric: &str) -> Vec<Quota> {
        let known = self.state().allowed.get(&tenant).cloned();
        let quotas = match known {
            Some((asked, quotas)) if asked.elapsed() < REMEMBERED => quotas,
            known => {
                let answer =
                    self.ask(Method::GET, &format!("/v1/tenants/key:{tenant}/entitlements"), String::new()).await;
                let quotas = match answer {
                    Ok((200, body)) => serde_json::from_str(&body).ok().map(|said: Entitlements| said.quotas),
                    _ => None,
                };
                // Without an answer what was allowed before is allowed for a while longer.
                let quotas = quotas.or(known.map(|(_, quotas)| quotas)).unwrap_or_default();
                let mut state = self.state();
                let unknown = [&state.points, &state.in_flight].map(|map| map.get(&tenant).copied().unwrap_or(0));
                state.since.insert(tenant, unknown.iter().sum());
                state.allowed.insert(tenant, (Instant::now(), quotas.clone()));
                drop(state);
                quotas
            }
        };
        quotas.into_iter().filter(|quota| quota.metric == metric).collect()
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> anyhow::Result<(u16, String)> {
        let asked = async {
            let stream = TcpStream::connect(&self.platform.authority).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // Ends with the sender.
            tokio::spawn(async move { drop(connection.await) });
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, &self.platform.authority)
                .header(header::AUTHORIZATION, format!("Bearer {}", self.platform.key))
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(axum::body::Bytes::from(body)))?;
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::time::timeout(PATIENCE, asked).await?
    }
}
