//! One look at a member's health path. Plain HTTP to loopback, a connection per look: a probe that kept one open would
//! not see that the next one is refused.

use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(2);

/// `Ok` when it answers with 2xx or 3xx, else why not.
pub(super) async fn probe(port: u16, path: &str) -> Result<(), String> {
    match timeout(LIMIT, status(port, path)).await {
        Ok(Ok(status)) if (200..400).contains(&status) => Ok(()),
        Ok(Ok(status)) => Err(format!("`{path}` answered {status}")),
        Ok(Err(error)) => Err(format!("`{path}` on port {port}: {error}")),
        Err(_) => Err(format!("`{path}` did not answer within {} s", LIMIT.as_secs())),
    }
}

async fn status(port: u16, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: berth\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // `HTTP/1.1 200` is all that counts.
    while head.len() < 12 {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let status = head.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok());
    status.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "no HTTP answer"))
}

#[cfg(test)]
mod tests {
    use super::probe;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    async fn answering(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // In two pieces, as the network may hand them over.
            let (head, rest) = answer.split_at(answer.len() / 2);
            stream.write_all(head).await.unwrap();
            stream.flush().await.unwrap();
            stream.write_all(rest).await.unwrap();
        });
        port
    }

    #[tokio::test]
    async fn only_an_answer_of_2xx_or_3xx_is_health() {
        assert_eq!(probe(answering(b"HTTP/1.1 200 OK\r\n\r\n").await, "/h").await, Ok(()));
        let sick = probe(answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await, "/h").await;
        assert_eq!(sick, Err("`/h` answered 503".to_owned()));
        assert!(probe(answering(b"SSH-2.0-OpenSSH").await, "/h").await.unwrap_err().contains("no HTTP answer"));
    }
}
