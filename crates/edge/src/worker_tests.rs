//! What a connection begins with, and sockets that ask whether the other side is there.

use super::{UNACKNOWLEDGED_MAX, listen, speaks_http2, watch_over};
use crate::Limits;
use socket2::SockRef;
use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

fn listener() -> TcpListener {
    let listener = TcpListener::from_std(listen("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
    watch_over(&listener);
    listener
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = listener();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    (client, listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn a_client_that_vanishes_is_asked_for_whoever_opened_the_listener() {
    let (_client, stream) = pair().await;
    let socket = SockRef::from(&stream);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_mins(1));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_MAX));
}

#[tokio::test]
async fn a_beginning_of_the_preface_is_waited_for_asleep_and_not_for_longer_than_a_head() {
    let limits = Limits { header_time: Duration::from_millis(400), ..Limits::default() };
    let (mut client, stream) = pair().await;
    client.write_all(b"P").await.unwrap();
    let mut looks = 0;
    let mut looked = pin!(speaks_http2(&stream, &limits));
    let spoken = poll_fn(|cx| {
        looks += 1;
        looked.as_mut().poll(cx)
    });
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), spoken).await.unwrap(), None, "far before `client_idle`");
    assert!(looks < 10, "{looks} looks at one byte");
}

#[tokio::test]
async fn what_comes_in_pieces_is_told_apart_as_what_comes_at_once() {
    let limits = Limits::default();
    for (pieces, http2) in [
        (&["PRI * HTTP/2.0\r\n"][..], true),
        (&["P", "RI * HT", "TP/2.0\r\n"][..], true),
        (&["P", "OST / HTTP/1.1\r\n"][..], false),
        (&["PRI * HTTP/", "1.1\r\n"][..], false),
        (&["GET / HTTP/1.1\r\n"][..], false),
    ] {
        let (mut client, stream) = pair().await;
        let send = async {
            for piece in pieces {
                client.write_all(piece.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let (told, ()) = tokio::join!(speaks_http2(&stream, &limits), send);
        assert_eq!(told, Some(http2), "{pieces:?}");
    }
    // Who says a beginning and closes is not waited for.
    let (mut client, stream) = pair().await;
    client.write_all(b"PRI").await.unwrap();
    let close = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.shutdown().await.unwrap();
    };
    let told = async { tokio::join!(speaks_http2(&stream, &limits), close).0 };
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), told).await.unwrap(), Some(false));
}
