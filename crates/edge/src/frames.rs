//! Where a WebSocket frame ends, so that a close frame can be put between two.
//!
//! Pure, and never looks into a payload. A close frame in the midst of another frame would be read as its data.

/// Close, "service restart": the client is welcome to come again at once. No mask, since a server sends it.
pub const CLOSE_RESTART: [u8; 4] = [0x88, 0x02, 0x03, 0xf4];

/// Follows one direction of a connection.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; 14],
    head_bytes: usize,
    payload_left: u64,
}

impl Frames {
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let taken = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload_left -= taken as u64;
                bytes = &bytes[taken..];
                continue;
            }
            self.head[self.head_bytes] = *first;
            self.head_bytes += 1;
            bytes = rest;
            if let Some(payload) = self.head_done() {
                self.payload_left = payload;
                self.head_bytes = 0;
            }
        }
    }

    pub fn between(&self) -> bool {
        self.head_bytes == 0 && self.payload_left == 0
    }

    /// Payload length, once the whole head is there.
    fn head_done(&self) -> Option<u64> {
        let length = *self.head[..self.head_bytes].get(1)?;
        let extra = match length & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if length & 0x80 == 0 { 0 } else { 4 };
        (self.head_bytes == 2 + extra + mask).then(|| match extra {
            0 => u64::from(length & 0x7f),
            _ => self.head[2..2 + extra].iter().fold(0, |sum, b| sum << 8 | u64::from(*b)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Frames;

    #[test]
    fn a_frame_ends_where_its_length_says_however_it_is_cut() {
        let mut long = vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0];
        long.extend(vec![7; 65536]);
        let mut middle = vec![0x82, 126, 0, 200];
        middle.extend(vec![7; 200]);
        let frames: [Vec<u8>; 5] =
            [vec![0x81, 2, b'o', b'k'], vec![0x89, 0], vec![0x81, 0x81, 1, 2, 3, 4, 9], middle, long];
        for cut in [1, 2, 3, 7, 1000] {
            let mut watch = Frames::default();
            for frame in &frames {
                let (body, last) = frame.split_at(frame.len() - 1);
                for part in body.chunks(cut) {
                    watch.feed(part);
                    assert!(!watch.between(), "inside a frame of {} bytes, cut {cut}", frame.len());
                }
                watch.feed(last);
                assert!(watch.between(), "after a frame of {} bytes, cut {cut}", frame.len());
            }
        }
    }
}
