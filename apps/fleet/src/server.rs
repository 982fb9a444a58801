//! The router, reading of bodies, and an end that lets requests finish.
//!
//! Holds no rule of the application; each noun's file does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::FromRequest,
    routing::{get, post, put},
    serve::ListenerExt,
};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;

use crate::{
    config::{Place, Settings},
    database::Database,
    geofences, positions,
    problem::Problem,
    redis::Redis,
    signature::Keys,
    socket, status,
    usage::Usage,
    vehicles,
};

/// Enough for the largest batch of positions; more is refused before it is read whole.
const BODY_LIMIT: usize = 1024 * 1024;

/// The platform ends us after 30 s; what has not finished by then is cut off, but by us, and with a word.
const DRAIN: Duration = Duration::from_secs(25);

#[derive(Clone)]
pub struct App {
    pub database: Database,
    pub place: Arc<Place>,
    pub usage: Usage,
    pub redis: Redis,
    pub keys: Option<Arc<Keys>>,
    generation: Arc<AtomicU64>,
}

impl App {
    /// Generations only rise, so a late request must not set it back.
    pub fn saw_generation(&self, generation: u64) {
        self.generation.fetch_max(generation, Ordering::Relaxed);
    }

    pub fn generation(&self) -> Option<u64> {
        Some(self.generation.load(Ordering::Relaxed)).filter(|seen| *seen > 0)
    }
}

fn router(app: App) -> Router {
    Router::new()
        .route("/health", get(status::health))
        .route("/socket", get(socket::open))
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/vehicles", get(vehicles::list).post(vehicles::create))
        .route("/api/v1/gps-positions", post(positions::ingest))
        .route("/api/v1/gps-positions/recent", get(positions::recent))
        .route("/api/v1/gps-positions/last", get(positions::last))
        .route("/api/v1/geofences", get(geofences::list).post(geofences::create))
        .route("/api/v1/geofences/{id}", put(geofences::replace).delete(geofences::remove))
        .fallback(|| async { Problem::NoSuchPath })
        .method_not_allowed_fallback(|| async { Problem::NoSuchMethod })
        .with_state(app)
}

pub async fn serve(settings: Settings) -> anyhow::Result<()> {
    let database = Database::new(&settings)?;
    let usage = Usage::new(settings.platform);
    let app = App {
        database: database.clone(),
        place: Arc::new(settings.place),
        usage: usage.clone(),
        redis: Redis::new(settings.redis, settings.redis_pool_size),
        keys: settings.keys.map(Arc::new),
        generation: Arc::new(AtomicU64::new(0)),
    };
    tokio::spawn(usage.clone().report());
    let listener =
        TcpListener::bind(settings.listen).await.with_context(|| format!("listening on {}", settings.listen))?;
    let address = listener.local_addr()?;
    // Small answers must not wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    tracing::info!(%address, cell = app.place.cell, "listening on {address}");

    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let server = axum::serve(listener, router(app)).with_graceful_shutdown(async move {
        asked_to_end().await;
        stopping.send_replace(true);
    });
    let too_late = async {
        if stopped.wait_for(|stopping| *stopping).await.is_ok() {
            tokio::time::sleep(DRAIN).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = server => ended.context("serving")?,
        () = too_late => tracing::warn!("requests still open after {DRAIN:?} are cut off"),
    }
    usage.last().await;
    database.close();
    tracing::info!("ended as asked");
    Ok(())
}

async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be heard; only a kill ends this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// A JSON body, refused with a reason: oversize 413, no JSON 400, JSON of another shape 422.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: axum::extract::Request<Body>, _state: &S) -> Result<Self, Problem> {
        parse(&body(request).await?).map(Json)
    }
}

/// A body read whole, up to the limit.
pub async fn body(request: axum::extract::Request<Body>) -> Result<Bytes, Problem> {
    let too_large = Problem::TooLarge { limit: BODY_LIMIT };
    let announced = request.headers().get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes > BODY_LIMIT) {
        return Err(too_large);
    }
    axum::body::to_bytes(request.into_body(), BODY_LIMIT).await.map_err(|_| too_large)
}

pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Problem::Invalid(format!("the body has another shape: {error}")),
        _ => Problem::Malformed(error.to_string()),
    })
}
