//! `GET /socket`: a WebSocket (RFC 6455) that says when its server is still there.
//!
//! It answers pings, repeats a text that it is sent, and ends when it is asked to. It knows no tenant and reads no row:
//! what is worth telling a browser is told by the other paths.

use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
};
use hyper_util::rt::TokioIo;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use crate::problem::Problem;

/// Of the RFC: what a server hashes with the client's key.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const LAST: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Longer ones end the connection: nothing that is said here is long.
const LENGTH_MAX: u64 = 4096;
const LINGER: Duration = Duration::from_secs(1);
const PROTOCOL_ERROR: [u8; 2] = 1002_u16.to_be_bytes();
const TOO_LONG: [u8; 2] = 1009_u16.to_be_bytes();

pub async fn open(mut request: Request) -> Result<Response, Problem> {
    let headers = request.headers();
    let has = |name: &HeaderName, word: &str| {
        let words = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        words.split(',').any(|it| it.trim().eq_ignore_ascii_case(word))
    };
    let asked = has(&CONNECTION, "upgrade") && has(&UPGRADE, "websocket") && has(&SEC_WEBSOCKET_VERSION, "13");
    let Some(accept) = accept(headers).filter(|_| asked) else {
        let says = [(UPGRADE, "websocket"), (SEC_WEBSOCKET_VERSION, "13")];
        return Ok((StatusCode::UPGRADE_REQUIRED, says, Body::empty()).into_response());
    };
    let upgrade = hyper::upgrade::on(&mut request);
    drop(tokio::spawn(async move {
        // Whoever goes away without a word is gone.
        if let Ok(stream) = upgrade.await {
            let _ended = talk(TokioIo::new(stream)).await;
        }
    }));
    let says = [(CONNECTION, "upgrade".to_owned()), (UPGRADE, "websocket".to_owned()), (SEC_WEBSOCKET_ACCEPT, accept)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, says, Body::empty()).into_response())
}

fn accept(headers: &HeaderMap) -> Option<String> {
    let key = headers.get(SEC_WEBSOCKET_KEY)?.to_str().ok()?.trim();
    // Sixteen bytes, whichever.
    (STANDARD.decode(key).ok()?.len() == 16)
        .then(|| STANDARD.encode(sha1_smol::Sha1::from(format!("{key}{MAGIC}")).digest().bytes()))
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    loop {
        let (first, second) = (stream.read_u8().await?, stream.read_u8().await?);
        let length = match second & !MASKED {
            126 => stream.read_u16().await?.into(),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        if second & MASKED == 0 || first & LAST == 0 {
            return end(stream, &PROTOCOL_ERROR).await;
        }
        if length > LENGTH_MAX {
            return end(stream, &TOO_LONG).await;
        }
        let mut mask = [0; 4];
        stream.read_exact(&mut mask).await?;
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body).await?;
        body.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        match first & !LAST {
            PING => say(&mut stream, PONG, &body).await?,
            TEXT => say(&mut stream, TEXT, &body).await?,
            PONG => {}
            CLOSE => return end(stream, &body[..body.len().min(2)]).await,
            _ => return end(stream, &PROTOCOL_ERROR).await,
        }
    }
}

/// Says why, and reads what is still on its way: a connection that is dropped with something unread takes our last word
/// along.
async fn end(mut stream: impl AsyncRead + AsyncWrite + Unpin, why: &[u8]) -> io::Result<()> {
    say(&mut stream, CLOSE, why).await?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    let read = async { while stream.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {} };
    drop(timeout(LINGER, read).await);
    Ok(())
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), kind: u8, body: &[u8]) -> io::Result<()> {
    let mut frame = vec![LAST | kind];
    match body.len() {
        short @ 0..=125 => frame.push(short as u8),
        long => {
            frame.push(126);
            frame.extend((long as u16).to_be_bytes());
        }
    }
    frame.extend(body);
    stream.write_all(&frame).await?;
    stream.flush().await
}
