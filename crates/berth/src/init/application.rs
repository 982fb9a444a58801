//! A look at a running application from outside: which path proves that it is well. Sends GETs and nothing else.

use crate::fail::Failure;
use berth_infra::Origin;
use berth_providers::http;
use serde_json::{Value, json};
use std::time::Duration;

/// Where applications say how they are; the ones that usually ask the database first.
const PATHS: &[&str] = &[
    "/readyz",
    "/health/ready",
    "/health",
    "/healthz",
    "/api/health",
    "/up",
    "/livez",
    "/_health",
    "/status",
    "/ping",
];
/// Nobody has a page here: an application that answers it well answers everything well.
const NOBODYS: &str = "/berth-init-asks-for-a-page-that-nobody-has";
const LIMIT: Duration = Duration::from_secs(5);

pub struct Application {
    pub origin: Origin,
    /// The first of the usual paths that answered with 2xx.
    pub health: Option<String>,
    /// It answers 2xx to whatever is asked, so that a path proves nothing.
    pub answers_all: bool,
}

impl Application {
    pub fn value(&self) -> Value {
        json!({ "url": self.origin.to_string(), "health": self.health, "answers_all": self.answers_all })
    }
}

pub async fn look(origin: &Origin) -> Result<Application, Failure> {
    let well = |status: u16| (200..300).contains(&status);
    let first = http::get(origin, NOBODYS, LIMIT).await.map_err(|why| {
        Failure::request(format!("the application does not answer: {why}"), "start it, or leave `--app` out")
    })?;
    let mut health = None;
    for path in PATHS {
        if http::get(origin, path, LIMIT).await.is_ok_and(well) {
            health = Some((*path).to_owned());
            break;
        }
    }
    Ok(Application { origin: origin.clone(), health, answers_all: well(first) })
}
