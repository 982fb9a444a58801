//! What edges answer so that others believe a host is here: told to them, and waited for.
//!
//! Never asks anybody whether it is believed.

use crate::{App, ControlError, edge_link::SILENT_MS, hosts};
use berth_domain::{EdgeName, Hostname};
use berth_store::{Answer, Nudge};
use berth_wire::edge::{EdgeChallenge, Hidden};
use std::time::Duration;
use tokio::{sync::broadcast::error::RecvError, time::Instant};

/// Version and answers, those of handshakes for edges that end TLS only.
pub(crate) async fn all(app: &App, with_tls: bool) -> Result<(u64, Vec<EdgeChallenge>), ControlError> {
    let answers = app.store().challenge_answers().await?;
    let mut all = Vec::new();
    for (host, answer) in answers.ordered {
        let host = Hostname::new(host)?;
        match answer {
            Answer::Http { path, body } => all.push(EdgeChallenge::Http { host, path, body }),
            Answer::Tls { chain_pem, key_pem } if with_tls => {
                all.push(EdgeChallenge::Tls { host, chain_pem, key_pem: Hidden::new(key_pem) });
            }
            Answer::Tls { .. } => {}
        }
    }
    for (host, token) in answers.claimed {
        let (path, body) = hosts::answer(&token);
        all.push(EdgeChallenge::Http { host: Hostname::new(host)?, path, body });
    }
    Ok((answers.version, all))
}

/// Returns when every live edge answers this version, or when `limit` is over: then with those who do not.
pub(crate) async fn await_answered(app: &App, version: u64, limit: Duration) -> Result<Vec<EdgeName>, ControlError> {
    let until = Instant::now() + limit;
    // Subscribed before the first look, so that no answer falls between.
    let mut nudges = app.store().hub().subscribe();
    loop {
        let late = app.store().challenge_late(version, SILENT_MS).await?;
        if late.is_empty() {
            return Ok(late);
        }
        loop {
            match tokio::time::timeout_at(until, nudges.recv()).await {
                Err(_) | Ok(Err(RecvError::Closed)) => return Ok(late),
                Ok(Ok(Nudge::Acked(_) | Nudge::Missed) | Err(RecvError::Lagged(_))) => break,
                Ok(Ok(Nudge::Routes(_) | Nudge::Operation(_) | Nudge::Settings | Nudge::Challenges)) => {}
            }
        }
    }
}
