//! A WebSocket as far as measuring one needs it: the handshake, and pings that every server has to answer. Sends no message
//! of its own, so no application has to know of it.

use super::member_way::MemberWay;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use std::time::Instant;
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{Error, Message, protocol::WebSocketConfig},
};

/// What a member says in between, such as a greeting, is passed over up to this, in bytes.
const MESSAGE_MAX: usize = 1 << 20;

/// Milliseconds from a ping to its answer, each.
pub(super) async fn pings(way: &MemberWay, path: &str, count: usize) -> Result<Vec<f64>, Error> {
    let stream = way.connect().await?;
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
    // Over TLS too: its handshake is done, and what follows is the same.
    let url = format!("ws://{}{path}", way.authority);
    let (mut socket, _) = client_async_with_config(url, stream, Some(config)).await?;
    let mut times = Vec::with_capacity(count);
    for n in 0..count {
        let body = Bytes::copy_from_slice(&n.to_be_bytes());
        let started = Instant::now();
        socket.send(Message::Ping(body.clone())).await?;
        // An answer to an earlier ping would not be this one's.
        while socket.next().await.ok_or(Error::ConnectionClosed)?? != Message::Pong(body.clone()) {}
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    socket.close(None).await?;
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::{MemberWay, pings};
    use berth_config::ServiceEdge;
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_tungstenite::{accept_async, tungstenite::Message};

    #[tokio::test]
    async fn pings_are_answered_and_what_is_said_in_between_is_passed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(tokio::spawn(async move {
            let mut socket = accept_async(listener.accept().await.unwrap().0).await.unwrap();
            socket.send(Message::text("hi")).await.unwrap();
            socket.send(Message::Pong("nobody asked".into())).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
        }));
        let way = MemberWay::new(&address, &ServiceEdge::default()).unwrap();
        let times = pings(&way, "/socket", 20).await.unwrap();
        assert!(times.len() == 20 && times.iter().all(|ms| *ms > 0.0 && *ms < 5000.0), "{times:?}");
    }

    #[tokio::test]
    async fn who_does_not_speak_it_has_no_figure() {
        for answer in ["HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "\x15\x03"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            drop(tokio::spawn(async move {
                let mut stream = listener.accept().await.unwrap().0;
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            }));
            let way = MemberWay::new(&address, &ServiceEdge::default()).unwrap();
            assert!(pings(&way, "/socket", 3).await.is_err(), "{answer}");
        }
    }
}
