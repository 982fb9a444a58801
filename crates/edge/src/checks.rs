//! Asks members whether they are well, as the settings say: one task a member, in the coordinator's thread.
//!
//! Never decides what follows from an answer (`health` does), and never stands in the way of a request.

use crate::{
    core::Common,
    health::{Course, Vital},
};
use berth_domain::ServiceName;
use berth_wire::edge::HealthCheck;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::{collections::HashMap, convert::Infallible, fmt, io, sync::Arc, time::Duration};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// How often is looked for members that came, went, or are to be asked otherwise.
const LOOK_EVERY: Duration = Duration::from_millis(500);

type Asked = (String, ServiceName, HealthCheck);

/// Why a member is not well.
#[derive(Debug)]
enum Unwell {
    Connect(io::Error),
    Late,
    Broken(hyper::Error),
    Status(StatusCode),
}

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "no connection: {error}"),
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
            running.entry(asked.clone()).or_insert_with(|| AbortOnDropHandle::new(tokio::spawn(ask(asked, vital))));
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
        let check = settings.services.get(&member.service)?.check.clone()?;
        Some((member.address, member.service, check))
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

async fn ask((address, service, check): Asked, vital: Arc<Vital>) {
    let vital = Forgotten(vital);
    let mut course = Course::default();
    loop {
        let answer = timeout(Duration::from_millis(check.timeout_ms), probe(&address, &check));
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

async fn probe(address: &str, check: &HealthCheck) -> Result<(), Unwell> {
    let stream = TcpStream::connect(address).await.map_err(Unwell::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Unwell::Broken)?;
    let request = Request::get(&check.path)
        .header(header::HOST, address)
        .header(header::USER_AGENT, "berth-edge")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Unwell::Connect(io::Error::other(error)))?;
    let driven = async {
        // Its end is told to whoever waits for the answer.
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    let answer = tokio::select! {
        biased;
        answer = sender.send_request(request) => answer.map_err(Unwell::Broken)?,
        never = driven => match never {},
    };
    let status = answer.status();
    let good = check.status.map_or(status.is_success(), |wanted| status.as_u16() == wanted);
    if good { Ok(()) } else { Err(Unwell::Status(status)) }
}
