//! `GET /socket`: a WebSocket that says when its server is still there.
//!
//! It answers pings, repeats a text that it is sent, and ends when it is asked to. It knows no tenant and reads no row:
//! what is worth telling a browser is told by the other paths.

use axum::{
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    response::Response,
};

/// Longer ones end the connection: nothing that is said here is long. In bytes.
const LENGTH_MAX: usize = 4096;

/// To anybody, as the health path is: the platform asks members past the edge how quick they are.
pub async fn open(asked: WebSocketUpgrade) -> Response {
    asked.max_message_size(LENGTH_MAX).max_frame_size(LENGTH_MAX).on_upgrade(talk)
}

/// Whoever goes away without a word is gone. Pings are answered by the library.
async fn talk(mut socket: WebSocket) {
    while let Some(Ok(said)) = socket.recv().await {
        if matches!(said, Message::Text(_)) && socket.send(said).await.is_err() {
            return;
        }
    }
}
