//! A WebSocket (RFC 6455) as far as measuring one needs it: the handshake, and pings that every server has to answer. Sends
//! no message of its own, so no application has to know of it.

use std::{io, time::Instant};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

/// The key of the RFC's own example, and what a server has to answer to it. A fresh one would prove nothing more: nothing
/// stands between here and the member that could have kept an answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const CLOSE: u8 = 0x88;
/// Clients have to mask what they send; four zeros are a mask.
const MASK: [u8; 4] = [0; 4];
const HEAD_MAX: u64 = 16 << 10;
/// What a member says in between, such as a greeting, is passed over up to this.
const FRAME_MAX: u64 = 1 << 20;

/// Milliseconds from a ping to its answer, each.
pub(super) async fn pings(address: &str, path: &str, count: usize) -> io::Result<Vec<f64>> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream.get_ref().set_nodelay(true)?;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    opened(&mut stream).await?;
    let mut times = Vec::with_capacity(count);
    for n in 0..count {
        let body = u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        let mut frame = vec![PING, 0x80 | 4];
        frame.extend(MASK);
        frame.extend(body);
        let started = Instant::now();
        stream.write_all(&frame).await?;
        // An answer to an earlier ping would not be this one's.
        while next(&mut stream).await? != (PONG, body.to_vec()) {}
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    let mut goodbye = vec![CLOSE, 0x80 | 2];
    goodbye.extend(MASK);
    goodbye.extend(1000_u16.to_be_bytes());
    stream.write_all(&goodbye).await?;
    Ok(times)
}

async fn opened(stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    let mut head = (&mut *stream).take(HEAD_MAX);
    let mut line = String::new();
    head.read_line(&mut line).await?;
    if !line.starts_with("HTTP/1.1 101 ") {
        return Err(io::Error::other("it does not speak WebSocket there"));
    }
    let mut accepted = false;
    loop {
        line.clear();
        if head.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.split_once(':') else { break };
        accepted |= name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT;
    }
    if accepted { Ok(()) } else { Err(io::Error::other("its answer to the handshake is not the key's")) }
}

/// First byte and body of the next frame. Servers do not mask.
async fn next(stream: &mut BufReader<TcpStream>) -> io::Result<(u8, Vec<u8>)> {
    let (first, second) = (stream.read_u8().await?, stream.read_u8().await?);
    if first == CLOSE {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let length = match second {
        126 => stream.read_u16().await?.into(),
        127 => stream.read_u64().await?,
        short @ 0..=125 => short.into(),
        _ => return Err(io::Error::other("a server's frames have no mask")),
    };
    if length > FRAME_MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut body = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    stream.read_exact(&mut body).await?;
    Ok((first, body))
}

#[cfg(test)]
mod tests {
    use super::{ACCEPT, pings};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    /// Whoever connects is answered with these bytes, and then each ping by what is made of its body.
    async fn served(head: String, between: &'static [u8], pong: fn([u8; 4]) -> Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(between).await.unwrap();
            let mut ping = [0; 10];
            while stream.read_exact(&mut ping).await.is_ok() {
                assert_eq!(ping[..6], [0x89, 0x84, 0, 0, 0, 0]);
                let body = [ping[6], ping[7], ping[8], ping[9]];
                if stream.write_all(&pong(body)).await.is_err() {
                    break;
                }
            }
        }));
        address
    }

    fn hello(accept: &str) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        )
    }

    fn pong(body: [u8; 4]) -> Vec<u8> {
        [&[0x8a, 4][..], &body].concat()
    }

    #[tokio::test]
    async fn pings_are_answered_and_what_is_said_in_between_is_passed_over() {
        // A greeting of two letters first, and an answer that nobody asked for.
        let address = served(hello(ACCEPT), &[0x81, 2, b'h', b'i', 0x8a, 0], pong).await;
        let times = pings(&address, "/socket", 20).await.unwrap();
        assert!(times.len() == 20 && times.iter().all(|ms| *ms > 0.0 && *ms < 5000.0), "{times:?}");
    }

    #[tokio::test]
    async fn who_does_not_speak_it_has_no_figure() {
        for (head, between) in [
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(), &[][..]),
            (hello("somebody else's"), &[]),
            ("HTTP/1.1 200 OK\r\n\r\n".to_owned(), &[]),
            // It closes at once, masks, or says more than anybody should read.
            (hello(ACCEPT), &[0x88, 0]),
            (hello(ACCEPT), &[0x81, 0x81, 0, 0, 0, 0, b'x']),
            (hello(ACCEPT), &[0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            let address = served(head.clone(), between, pong).await;
            assert!(pings(&address, "/socket", 3).await.is_err(), "{head} {between:?}");
        }
    }
}
