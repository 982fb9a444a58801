//! Keep-alive connections to the edge, one small pool a tenant.
//!
//! Never sends a request twice: a connection is asked whether it still lives before it is used, and what fails after
//! that is a failure.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Servers close what is idle for long; we do it first, so that no request meets a closing connection.
const IDLE: Duration = Duration::from_secs(5);

pub struct Connections {
    edge: SocketAddr,
    idle: Mutex<Vec<(Instant, SendRequest<Full<Bytes>>)>>,
}

#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("connection lost: {0}")]
    Lost(#[from] hyper::Error),
}

impl Connections {
    pub fn to(edge: SocketAddr) -> Self {
        Self { edge, idle: Mutex::new(Vec::new()) }
    }

    /// Sends one request and reads its answer whole.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), SendError> {
        let mut connection = self.connection().await?;
        let answer = connection.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), connection));
        Ok((status, body))
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, SendError> {
        while let Some((since, mut connection)) = self.pop() {
            if since.elapsed() < IDLE && connection.ready().await.is_ok() {
                return Ok(connection);
            }
        }
        let stream = TcpStream::connect(self.edge).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(connection)
    }

    fn pop(&self) -> Option<(Instant, SendRequest<Full<Bytes>>)> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}
