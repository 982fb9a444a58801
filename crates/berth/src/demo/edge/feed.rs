//! A control plane that says one thing: these hosts lead to the origin. As edges ask it, over one kept stream.
//!
//! Never keeps the routes: each is put together when it is sent, so that a million of them cost this process nothing.

use super::{host, noise};
use crate::fail::{Failure, FailureExt as _};
use berth_domain::{Generation, Hostname, MemberId, Revision, TenantId};
use berth_wire::edge::{EdgeAck, EdgeCertificate, EdgeEvent, MemberAddress, RouteLimit, RouteState, TenantRoute};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::{broadcast, watch},
};
use uuid::Uuid;

const PING_EVERY: Duration = Duration::from_secs(5);
/// Routes in one line of the stream.
const PAGE: usize = 2_000;

pub struct Feed {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    hosts: usize,
    origin: u16,
    certificate: Option<EdgeCertificate>,
    lines: broadcast::Sender<Arc<Vec<u8>>>,
    acknowledged: watch::Sender<u64>,
}

impl Feed {
    pub async fn start(hosts: usize, origin: u16) -> Result<Self, Failure> {
        Self::start_with(hosts, origin, None).await
    }

    /// With a certificate, for an edge that ends TLS.
    pub async fn start_with(hosts: usize, origin: u16, certificate: Option<EdgeCertificate>) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await.ours("a port")?;
        let port = listener.local_addr().ours("a port")?.port();
        let (lines, acknowledged) = (broadcast::channel(1024).0, watch::channel(0).0);
        let shared = Arc::new(Shared { hosts, origin, certificate, lines, acknowledged });
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // The edge connects again when a conversation breaks.
                tokio::spawn(conversation(stream, Arc::clone(&serving)));
            }
        });
        Ok(Self { port, shared })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until the edge has acknowledged the whole first table.
    pub async fn in_force(&self, patience: Duration) -> Result<(), Failure> {
        let hosts = self.shared.hosts as u64;
        let mut acknowledged = self.shared.acknowledged.subscribe();
        let all = acknowledged.wait_for(|revision| *revision >= hosts);
        match tokio::time::timeout(patience, all).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Failure::request("the edge did not take the routes", "")),
        }
    }

    pub fn publish(&self, nth: usize) -> Result<(), Failure> {
        let line = event(nth, nth + 1, self.shared.origin).ours("a route")?;
        self.shared.lines.send(Arc::new(line)).map(drop).map_err(|_| Failure::request("no edge is listening", ""))
    }
}

/// Routes `from` to `to`, each under a revision of its own.
fn event(from: usize, to: usize, origin: u16) -> Result<Vec<u8>, serde_json::Error> {
    let routes = (from..to).map(|nth| route(nth, origin)).collect();
    let mut line =
        serde_json::to_vec(&EdgeEvent::Routes { full: from == 0, revision: Revision::new(to as u64), routes })?;
    line.push(b'\n');
    Ok(line)
}

fn route(nth: usize, origin: u16) -> TenantRoute {
    let name = |text: &str| text.to_owned();
    TenantRoute {
        tenant: TenantId::new(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0000 + nth as u128)),
        name: format!("tenant-{nth:07}").parse().expect("a name"),
        key: Uuid::from_u128(nth as u128).to_string().parse().expect("a key"),
        plan: name("starter").parse().expect("a name"),
        // As many as a shared cell holds.
        cell: format!("shared-{}", nth / 150).parse().expect("a name"),
        generation: Generation::new(1),
        revision: Revision::new(nth as u64 + 1),
        hosts: vec![Hostname::new(host(nth)).expect("a host name")],
        patterns: Vec::new(),
        state: RouteState::Serving,
        members: vec![MemberAddress {
            member: MemberId::new(Uuid::from_u128(1)),
            service: name("web").parse().expect("a name"),
            address: format!("127.0.0.1:{origin}"),
            draining_ms: None,
        }],
        body_bytes: Some(1 << 30),
        limits: vec![match nth {
            noise::NOISY => RouteLimit { class: name("api"), requests: noise::LIMIT_A_MINUTE, per_s: 60, until: None },
            _ => RouteLimit { class: name("api"), requests: 100_000, per_s: 1, until: None },
        }],
        allow: Vec::new(),
    }
}

async fn conversation(stream: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if lines.read_line(&mut first).await? == 0 {
            return Ok(());
        }
        loop {
            let mut header = String::new();
            lines.read_line(&mut header).await?;
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        lines.read_exact(&mut body).await?;
        if first.starts_with("GET") {
            let mut published = shared.lines.subscribe();
            write.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await?;
            if let Some(certificate) = &shared.certificate {
                let certificates = vec![certificate.clone()];
                let told = EdgeEvent::Certificates { full: true, certificates, gone: Vec::new() };
                write.write_all(&[serde_json::to_vec(&told)?, b"\n".to_vec()].concat()).await?;
            }
            let after = first.split("after=").nth(1).and_then(|n| n.split([' ', '&']).next()?.parse().ok());
            let mut from = after.unwrap_or(0);
            while from < shared.hosts {
                let to = (from + PAGE).min(shared.hosts);
                write.write_all(&event(from, to, shared.origin)?).await?;
                from = to;
            }
            loop {
                let said = match tokio::time::timeout(PING_EVERY, published.recv()).await {
                    Ok(Ok(line)) => line,
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => Arc::new(b"{\"event\":\"ping\",\"revision\":0}\n".to_vec()),
                };
                write.write_all(&said).await?;
            }
        }
        if let Ok(ack) = serde_json::from_slice::<EdgeAck>(&body) {
            shared.acknowledged.send_replace(ack.revision.get());
            let answer = format!("{{\"revision\":{}}}", ack.revision);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
            write.write_all((head + &answer).as_bytes()).await?;
        }
    }
}
