//! One short page of a host, over plain HTTP. Never follows a redirect, and never says to people what came instead, or whether anything
//! did: it may be anybody's, and inside a network that is not theirs.

use crate::{
    dns,
    exchange::{Failed, exchange},
};
use berth_infra::{Asking, NothingSeen};
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, time::timeout};

const PATIENCE: Duration = Duration::from_secs(5);
/// What proves a host is shorter.
const BYTES_MAX: usize = 1024;

pub async fn text(asking: Asking, host: &str, path: &str) -> Result<String, NothingSeen> {
    let addresses = dns::addresses(asking, host).await?;
    let port = asking.http_port.unwrap_or(80);
    let url = if port == 80 { format!("http://{host}{path}") } else { format!("http://{host}:{port}{path}") };
    for address in addresses.into_iter().take(4) {
        if let Ok(Ok((StatusCode::OK, body))) =
            timeout(PATIENCE, fetch(SocketAddr::new(address, port), host, path)).await
        {
            return Ok(body);
        }
    }
    Err(NothingSeen(format!("{url} does not show it")))
}

async fn fetch(address: SocketAddr, host: &str, path: &str) -> Result<(StatusCode, String), Failed> {
    let stream = TcpStream::connect(address).await?;
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "berth")
        .header(header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())?;
    let answer = exchange(stream, request, BYTES_MAX).await?;
    Ok((answer.status(), String::from_utf8_lossy(answer.body()).into_owned()))
}
