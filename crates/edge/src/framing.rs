//! Watches the raw bytes of a client's connection for requests that two servers could read as two different ones.
//!
//! Never parses for anybody: hyper does that, and quietly prefers `Transfer-Encoding` when a request carries
//! `Content-Length` too. Whoever stands in front of us may have preferred the other, so such a request is to be
//! refused, and by the time hyper shows it to us the evidence is gone. Pure; fed with whatever a read brought.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a head, at this place of a line.
    Head,
    /// In a body of known length.
    Fixed(u64),
    /// In the line that begins a chunk.
    ChunkSize,
    /// In a chunk, its line end included.
    Chunk(u64),
    /// After the last chunk.
    Trailers,
    /// Not followed any more: an upgraded connection, or nonsense that hyper refuses on its own.
    Lost,
}

/// Follows one connection from its first byte.
#[derive(Debug)]
pub struct Watch {
    state: State,
    /// Beginning of the line that is being read.
    line: Vec<u8>,
    length: Option<u64>,
    lengths: bool,
    chunked: bool,
    /// Coded in another way too, or said twice: hyper takes the last word, and the member would get the coding as the body.
    coded: bool,
    upgrade: bool,
    /// Requests whose head has been seen whole.
    heads: u64,
    /// The present head has a line.
    begun: bool,
    /// The first request that could be read in two ways, counted from 1.
    pub doubtful: Option<u64>,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            state: State::Head,
            line: Vec::new(),
            length: None,
            lengths: false,
            chunked: false,
            coded: false,
            upgrade: false,
            heads: 0,
            begun: false,
            doubtful: None,
        }
    }
}

/// Of a line; names, lengths and chunk sizes that matter are short. A length or a size that is longer is not followed, and
/// from there on no request of the connection is believed: what the watch misread, it could be made to overlook.
const LINE_KEPT: usize = 256;

impl Watch {
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.state {
                State::Lost => return,
                State::Fixed(left) | State::Chunk(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[taken..];
                    let left = left - taken as u64;
                    self.state = match (self.state, left) {
                        (State::Fixed(_), 0) => State::Head,
                        (State::Fixed(_), left) => State::Fixed(left),
                        (_, 0) => State::ChunkSize,
                        (_, left) => State::Chunk(left),
                    };
                }
                State::Head | State::ChunkSize | State::Trailers => {
                    let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
                        self.keep(bytes);
                        return;
                    };
                    let (line, rest) = bytes.split_at(end);
                    bytes = &rest[1..];
                    if self.line.is_empty() {
                        self.end_line(line);
                    } else {
                        self.keep(line);
                        let whole = std::mem::take(&mut self.line);
                        self.end_line(&whole);
                    }
                }
            }
        }
    }

    /// A head has begun and has not ended: the client owes us the rest.
    pub fn in_head(&self) -> bool {
        self.state == State::Head && (self.begun || !self.line.is_empty())
    }

    fn keep(&mut self, part: &[u8]) {
        // One more, so that a line too long is told from one that just fits, its end included.
        let room = (LINE_KEPT + 2).saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn end_line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let long = line.len() > LINE_KEPT;
        let line = &line[..line.len().min(LINE_KEPT)];
        match self.state {
            // Empty lines before a request are allowed and mean nothing.
            State::Head if line.is_empty() && !self.begun => {}
            State::Head if line.is_empty() => self.end_head(),
            State::Head => {
                self.begun = true;
                self.header(line, long);
            }
            State::ChunkSize => {
                self.state = if long { State::Lost } else { chunk(line) };
                if self.state == State::Lost {
                    self.doubtful.get_or_insert(self.heads + 1);
                }
            }
            State::Trailers if line.is_empty() => self.state = State::Head,
            _ => {}
        }
    }

    fn header(&mut self, line: &[u8], long: bool) {
        if !matches!(line.first().map_or(0, |first| first | 0x20), b'c' | b't' | b'u') {
            return;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else { return };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.lengths = true;
            self.length = std::str::from_utf8(value).ok().filter(|_| !long).and_then(|v| v.parse().ok());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.coded |= self.chunked || long || !value.eq_ignore_ascii_case(b"chunked");
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        }
    }

    fn end_head(&mut self) {
        self.heads += 1;
        self.begun = false;
        let (lengths, chunked, upgrade) = (self.lengths, self.chunked, self.upgrade);
        let length = self.length.take();
        (self.lengths, self.chunked, self.upgrade) = (false, false, false);
        if std::mem::take(&mut self.coded) || (lengths && (chunked || length.is_none())) {
            self.doubtful.get_or_insert(self.heads);
        }
        self.state = match (lengths, chunked, length) {
            // After an upgrade the bytes are another protocol's; the shell closes the connection if it is declined.
            _ if upgrade => State::Lost,
            (true, true, _) | (true, false, None) => State::Lost,
            (false, true, _) => State::ChunkSize,
            (true, false, Some(0)) | (false, false, _) => State::Head,
            (true, false, Some(length)) => State::Fixed(length),
        };
    }
}

fn chunk(line: &[u8]) -> State {
    let digits = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    let size = std::str::from_utf8(digits).ok().and_then(|d| u64::from_str_radix(d, 16).ok());
    match size {
        Some(0) => State::Trailers,
        // The two bytes of the line end after the data belong to the chunk.
        Some(size) => size.checked_add(2).map_or(State::Lost, State::Chunk),
        None => State::Lost,
    }
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
