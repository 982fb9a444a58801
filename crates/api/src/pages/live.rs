//! `/operations/{id}/live`: one operation as it happens, as server-sent events whose data is a piece of the page.
//!
//! A thin skin over `/v1/operations/{id}/events`, asked with the visitor's key: who may not see the operation is
//! refused there. Never remembers what was sent; a reconnect begins with the whole as it is then.

use super::{
    failure::Failure,
    operations::{LivePart, its_move},
    session::Session,
};
use askama::Template as _;
use axum::{
    body::{Body, Bytes},
    extract::Path,
    http::header,
    response::{IntoResponse as _, Response},
};
use berth_domain::OperationId;
use berth_wire::{OperationEvent, OperationEventKind};
use futures_util::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use std::fmt::Write as _;

/// An event of ours is a few kilobytes.
const EVENT_BYTES: usize = 1 << 20;

pub async fn operation(session: Session, Path(operation): Path<OperationId>) -> Result<Response, Failure> {
    let events = session.stream(&format!("/v1/operations/{operation}/events")).await?;
    let parts = pieces(session, events.into_data_stream());
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(parts)).into_response())
}

/// What a connection is in the middle of.
struct Following<S> {
    session: Session,
    upstream: S,
    buffer: Vec<u8>,
    over: bool,
}

fn pieces<S>(session: Session, upstream: S) -> impl Stream<Item = Result<Bytes, axum::Error>>
where
    S: Stream<Item = Result<Bytes, axum::Error>> + Unpin,
{
    let following = Following { session, upstream, buffer: Vec::new(), over: false };
    stream::try_unfold(following, |mut it| async move {
        while !it.over {
            if let Some(block) = next_block(&mut it.buffer) {
                let Some(event) = event(&block) else { return Ok(Some((Bytes::from_static(b":\n\n"), it))) };
                it.over = event.event == OperationEventKind::Ended;
                return Ok(Some((piece(&it.session, &event).await, it)));
            }
            match it.upstream.next().await {
                Some(Ok(bytes)) if it.buffer.len() + bytes.len() <= EVENT_BYTES => it.buffer.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(error),
                Some(Ok(_)) | None => break,
            }
        }
        Ok(None)
    })
}

/// The next complete event, up to its empty line.
fn next_block(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = buffer.windows(2).position(|pair| pair == b"\n\n")? + 2;
    Some(buffer.drain(..end).collect())
}

/// The event in a block; `None` for one that only keeps the connection alive.
fn event(block: &[u8]) -> Option<OperationEvent> {
    let text = String::from_utf8_lossy(block);
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
    serde_json::from_str(&data.join("\n")).ok()
}

async fn piece(session: &Session, event: &OperationEvent) -> Bytes {
    let ended = event.event == OperationEventKind::Ended;
    // Figures of a move are known at its end; asking for them with every row would be work for nothing.
    let its_move = if ended { its_move(session, &event.operation).await.ok().flatten() } else { None };
    let part = LivePart::new(&event.operation, its_move.as_ref(), Timestamp::now());
    let html = part.render().unwrap_or_default();
    let mut text = String::from("event: operation\n");
    for line in html.lines().filter(|line| !line.trim().is_empty()) {
        writeln!(text, "data: {line}").expect("writing to a string does not fail");
    }
    text.push('\n');
    if ended {
        text.push_str("event: end\ndata: over\n\n");
    }
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::{event, next_block};

    #[test]
    fn events_are_cut_at_empty_lines_wherever_the_bytes_break() {
        let mut buffer = b"event: changed\nda".to_vec();
        assert_eq!(next_block(&mut buffer), None);
        buffer.extend_from_slice(b"ta: {}\n\n: still here\n\n");
        assert_eq!(next_block(&mut buffer).as_deref(), Some(&b"event: changed\ndata: {}\n\n"[..]));
        let alive = next_block(&mut buffer).unwrap();
        assert!(event(&alive).is_none() && buffer.is_empty());
    }
}
