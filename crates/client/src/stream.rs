//! Answers that go on: one JSON object a line, server-sent events, or a file.

use crate::ClientError;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// A line longer than this is not one of ours.
const LINE_BYTES: usize = 16 << 20;

/// Lines of a body, as they arrive.
pub struct Lines {
    url: String,
    body: Incoming,
    buffer: BytesMut,
    /// Up to where the buffer was searched for a line's end already.
    searched: usize,
}

impl Lines {
    pub(crate) fn new(url: String, body: Incoming) -> Self {
        Self { url, body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line, without its end; `None` when the server ended the stream. An unfinished last line is dropped:
    /// nobody knows what it would have said.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + at);
                self.buffer.advance(1);
                self.searched = 0;
                let line = line.strip_suffix(b"\r").unwrap_or(&line);
                return Ok(Some(String::from_utf8_lossy(line).into_owned()));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LINE_BYTES {
                return Err(ClientError::NotBerth { url: self.url.clone(), status: 200 });
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(source)) => return Err(ClientError::Broken { url: self.url.clone(), source }),
            }
        }
    }

    /// The next line that is a JSON value; empty lines keep the connection alive and say nothing.
    pub async fn next_json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        while let Some(line) = self.next().await? {
            if !line.is_empty() {
                return serde_json::from_str(&line).map(Some).map_err(|source| ClientError::Unreadable { source });
            }
        }
        Ok(None)
    }
}

/// Server-sent events whose data is one JSON value each.
pub struct Events<T> {
    lines: Lines,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Events<T> {
    pub(crate) const fn new(lines: Lines) -> Self {
        Self { lines, of: PhantomData }
    }

    /// The next event; `None` when the server ended the stream.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        let mut data = String::new();
        while let Some(line) = self.lines.next().await? {
            if let Some(part) = line.strip_prefix("data:") {
                data.push_str(part.strip_prefix(' ').unwrap_or(part));
            } else if line.is_empty() && !data.is_empty() {
                return serde_json::from_str(&data).map(Some).map_err(|source| ClientError::Unreadable { source });
            }
        }
        Ok(None)
    }
}

/// A file, as it arrives.
pub struct Download {
    url: String,
    body: Incoming,
    left: Option<u64>,
}

impl Download {
    pub(crate) fn new(url: String, body: Incoming) -> Self {
        let left = hyper::body::Body::size_hint(&body).exact();
        Self { url, body, left }
    }

    /// The next part; `None` when all of it has come.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None if self.left.is_some_and(|left| left > 0) => {
                    return Err(ClientError::CutOff { url: self.url.clone() });
                }
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                        return Ok(Some(data));
                    }
                }
                Some(Err(source)) => return Err(ClientError::Broken { url: self.url.clone(), source }),
            }
        }
    }
}
