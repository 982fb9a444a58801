//! One GET over HTTP or HTTPS, for looks at an application that runs elsewhere. Never follows a redirect, never reads
//! a body, never sends a secret.

use berth_infra::Origin;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

/// The status of `GET path`, or why there was none.
pub async fn get(origin: &Origin, path: &str, limit: Duration) -> Result<u16, String> {
    match timeout(limit, status(origin, path)).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(error)) => Err(format!("{origin}{path}: {error}")),
        Err(_) => Err(format!("{origin}{path} did not answer within {} s", limit.as_secs())),
    }
}

async fn status(origin: &Origin, path: &str) -> io::Result<u16> {
    let mut stream = origin.connect().await?;
    let authority = origin.authority();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: berth\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    // `HTTP/1.1 200` is all that counts.
    while head.len() < 12 {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let digits = head.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok());
    let status = digits.and_then(|digits| digits.parse().ok());
    status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer"))
}

#[cfg(test)]
mod tests {
    use super::get;
    use berth_infra::Origin;
    use std::time::Duration;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    #[tokio::test]
    async fn a_look_says_the_status_or_why_there_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in [&b"HTTP/1.1 503 Service Unavailable\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.2"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
        });
        let origin = Origin::parse(&format!("http://127.0.0.1:{port}")).unwrap();
        let limit = Duration::from_secs(5);
        assert_eq!(get(&origin, "/h", limit).await, Ok(503));
        assert!(get(&origin, "/h", limit).await.unwrap_err().ends_with("no HTTP answer"));
        assert!(get(&origin, "/h", limit).await.is_err(), "nobody listens any more");
    }
}
