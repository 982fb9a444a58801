//! Asks members whether they are well, as the settings say: one task a member, in the coordinator's thread.
//!
//! Never decides what follows from an answer (`health` does), and never stands in the way of a request.

use crate::{
    core::Common,
    dial::{self, Manner, Target, Unreached, Way},
    health::{Course, Vital},
};
use berth_domain::ServiceName;
use berth_wire::edge::HealthCheck;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{collections::HashMap, convert::Infallible, fmt, future::Future, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// How often is looked for members that came, went, or are to be asked otherwise.
const LOOK_EVERY: Duration = Duration::from_millis(500);

type Asked = (String, ServiceName, HealthCheck, Manner);

/// Why a member is not well.
#[derive(Debug)]
enum Unwell {
    Unreached(Unreached),
    Late,
    Request(http::Error),
    Broken(hyper::Error),
    Status(StatusCode),
}

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreached(why) => why.fmt(f),
            Self::Request(error) => write!(f, "it cannot be asked: {error}"),
            Self::Late => f.write_str("no answer in time"),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::Status(status) => write!(f, "it answered {status}"),
        }
    }
}

/// Asks for as long as the edge lives.
pub async fn run(common: Arc<Common>) {
    let mut running: HashMap<Asked, AbortOnDropHandle<()>> = HashMap::new();
    loop {
        let wanted = wanted(&common);
        running.retain(|asked, _| wanted.contains(asked));
        for asked in wanted {
            let vital = common.vitals.of(&asked.0);
            running.entry(asked.clone()).or_insert_with(|| {
                let way = common.trust.way(&asked.3);
                AbortOnDropHandle::new(tokio::spawn(ask(asked, way, vital)))
            });
        }
        sleep(LOOK_EVERY).await;
    }
}

fn wanted(common: &Common) -> Vec<Asked> {
    let settings = common.settings.load();
    if settings.services.values().all(|service| service.check.is_none()) {
        return Vec::new();
    }
    let members = common.routes.members().into_iter();
    let asked = members.filter_map(|member| {
        let service = settings.services.get(&member.service)?;
        let (check, manner) = (service.check.clone()?, Target::new(&member.address).manner(service));
        Some((member.address, member.service, check, manner))
    });
    asked.collect()
}

/// Whoever is asked no more counts as well, as far as checks go.
struct Forgotten(Arc<Vital>);

impl Drop for Forgotten {
    fn drop(&mut self) {
        self.0.set_well(true);
    }
}

async fn ask((address, service, check, _): Asked, way: Way, vital: Arc<Vital>) {
    let target = Target::new(&address);
    let vital = Forgotten(vital);
    let mut course = Course::default();
    loop {
        let answer = timeout(Duration::from_millis(check.timeout_ms), probe(&target, &way, &check));
        let answer = answer.await.unwrap_or(Err(Unwell::Late));
        if let Some(well) = course.heard(answer.is_ok(), &check) {
            vital.0.set_well(well);
            match answer {
                Ok(()) => tracing::info!(%service, %address, "a member of `{service}` is well"),
                Err(why) => {
                    tracing::warn!(%service, %address, "a member of `{service}` gets no requests any more: {why}");
                }
            }
        }
        // Not all edges and members in step: a tenth more or less.
        let spread = 900 + uuid::Uuid::new_v4().as_u64_pair().0 % 200;
        sleep(Duration::from_millis(check.every_ms.saturating_mul(spread) / 1000)).await;
    }
}

async fn probe(target: &Target, way: &Way, check: &HealthCheck) -> Result<(), Unwell> {
    let patience = Duration::from_millis(check.timeout_ms);
    let (stream, http2) = dial::dial(target, way, false, patience).await.map_err(Unwell::Unreached)?;
    let request = Request::get(&check.path).header(header::USER_AGENT, "berth-edge");
    let stream = TokioIo::new(stream);
    let status = if http2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.map_err(Unwell::Broken)?;
        let scheme = if matches!(way, Way::Tls(_)) { "https" } else { "http" };
        let request = request.uri(format!("{scheme}://{}{}", target.authority(), check.path));
        let request = request.body(Empty::<Bytes>::new()).map_err(Unwell::Request)?;
        beside(connection, sender.send_request(request)).await?
    } else {
        let (mut sender, connection) = http1::handshake(stream).await.map_err(Unwell::Broken)?;
        let request = request.header(header::HOST, target.authority()).header(header::CONNECTION, "close");
        let request = request.body(Empty::<Bytes>::new()).map_err(Unwell::Request)?;
        beside(connection, sender.send_request(request)).await?
    };
    let good = check.status.map_or(status.is_success(), |wanted| status.as_u16() == wanted);
    if good { Ok(()) } else { Err(Unwell::Status(status)) }
}

/// The answer's status, while the connection is driven beside it.
async fn beside<T>(
    connection: impl Future<Output = T>,
    answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
) -> Result<StatusCode, Unwell> {
    let driven = async {
        // Its end is told to whoever waits for the answer.
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        answer = answer => Ok(answer.map_err(Unwell::Broken)?.status()),
        never = driven => match never {},
    }
}
