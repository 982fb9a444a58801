//! Answers made smaller for clients that ask for it: which, in what way, and the bytes themselves, part by part.
//!
//! Pure. Never touches an answer that has an encoding already, that says it must not be transformed, or that is a part
//! of something; and holds back nothing while its source is silent.

use berth_wire::edge::{Compression, CompressionWay};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use std::io;

/// Answers that a core makes smaller at one time. Each holds an encoder for as long as its client takes.
pub const AT_ONCE: usize = 512;

/// Whether this build makes anything smaller.
pub const CAN: bool = cfg!(feature = "compression");

/// What a request allows, before its answer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    way: Option<CompressionWay>,
    /// There is a body to an answer to it.
    body: bool,
}

fn word(way: CompressionWay) -> &'static str {
    match way {
        CompressionWay::Zstd => "zstd",
        CompressionWay::Br => "br",
        CompressionWay::Gzip => "gzip",
    }
}

/// Of the ways that a client takes the one it likes best, and of several the first of ours.
pub fn wanted(settings: &Compression, parts: &Parts) -> Wanted {
    let lists = parts.headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let said: Vec<(&str, f32)> = lists.flat_map(|list| list.split(',')).filter_map(liking).collect();
    let liked = |way: CompressionWay| {
        let named = said.iter().find(|(name, _)| name.eq_ignore_ascii_case(word(way)));
        named.or_else(|| said.iter().find(|(name, _)| *name == "*")).map_or(0.0, |(_, liking)| *liking)
    };
    let mut best = (None, 0.0);
    for way in &settings.ways {
        if liked(*way) > best.1 {
            best = (Some(*way), liked(*way));
        }
    }
    Wanted { way: best.0, body: parts.method != Method::HEAD }
}

/// `gzip;q=0.5`. One that is written wrongly is not liked.
fn liking(item: &str) -> Option<(&str, f32)> {
    let (name, rest) = item.split_once(';').map_or((item, None), |(name, rest)| (name, Some(rest)));
    let liking = match rest.map(str::trim) {
        None | Some("") => 1.0,
        Some(rest) => rest.strip_prefix("q=").or_else(|| rest.strip_prefix("Q="))?.trim().parse().ok()?,
    };
    (0.0..=1.0).contains(&liking).then_some((name.trim(), liking))
}

/// Marks the answer as one that is made smaller, and says how. `None`: it goes as it is.
pub fn mark(
    settings: &Compression,
    wanted: Wanted,
    status: StatusCode,
    headers: &mut HeaderMap,
) -> Option<CompressionWay> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let kind = kind.split(';').next()?.trim();
    if !settings.types.iter().any(|known| known.eq_ignore_ascii_case(kind))
        || headers.contains_key(header::CONTENT_ENCODING)
    {
        return None;
    }
    // Caches are told in any case: who comes next may want it otherwise.
    vary(headers);
    let never = matches!(status, StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED);
    let fixed = headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .any(|value| value.to_str().is_ok_and(|v| v.split(',').any(|w| w.trim().eq_ignore_ascii_case("no-transform"))));
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let short = length.is_some_and(|length| length < settings.from_bytes);
    if !wanted.body || never || fixed || short || headers.contains_key(header::CONTENT_RANGE) {
        return None;
    }
    let way = wanted.way?;
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::ACCEPT_RANGES);
    // They speak of the bytes as the application gave them.
    for digest in ["content-digest", "digest", "content-md5"] {
        headers.remove(digest);
    }
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(word(way)));
    // Byte for byte it is another one now.
    if let Some(tag) = headers.get(header::ETAG).filter(|tag| tag.as_bytes().first() == Some(&b'"'))
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        headers.insert(header::ETAG, weak);
    }
    Some(way)
}

fn vary(headers: &mut HeaderMap) {
    let said = headers.get_all(header::VARY).iter().filter_map(|value| value.to_str().ok());
    let told = |word: &str| word == "*" || word.eq_ignore_ascii_case("accept-encoding");
    if !said.flat_map(|value| value.split(',')).any(|word| told(word.trim())) {
        headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// How far back an encoder looks, as a power of two: its memory is a small multiple of that.
#[cfg(feature = "compression")]
const WINDOW_LOG: u32 = 17;

/// One answer's way to fewer bytes.
#[cfg(feature = "compression")]
pub struct Packer {
    encoder: Encoder,
    /// Something was put in that has not come out.
    held: bool,
}

#[cfg(feature = "compression")]
enum Encoder {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Br(Box<brotli::CompressorWriter<Vec<u8>>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
}

#[cfg(feature = "compression")]
impl Packer {
    /// Levels at which the time is small beside the network's.
    pub fn new(way: CompressionWay) -> io::Result<Self> {
        let out = Vec::new();
        let encoder = match way {
            CompressionWay::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, 3)?;
                encoder.window_log(WINDOW_LOG)?;
                Encoder::Zstd(encoder)
            }
            CompressionWay::Br => Encoder::Br(Box::new(brotli::CompressorWriter::new(out, 4096, 4, WINDOW_LOG))),
            CompressionWay::Gzip => Encoder::Gzip(flate2::write::GzEncoder::new(out, flate2::Compression::new(5))),
        };
        Ok(Self { encoder, held: false })
    }

    fn writer(&mut self) -> &mut dyn io::Write {
        match &mut self.encoder {
            Encoder::Zstd(encoder) => encoder,
            Encoder::Br(encoder) => encoder,
            Encoder::Gzip(encoder) => encoder,
        }
    }

    fn out(&mut self) -> Bytes {
        let out = match &mut self.encoder {
            Encoder::Zstd(encoder) => encoder.get_mut(),
            Encoder::Br(encoder) => encoder.get_mut(),
            Encoder::Gzip(encoder) => encoder.get_mut(),
        };
        Bytes::from(std::mem::take(out))
    }

    /// What comes out by now, which may be nothing yet.
    pub fn push(&mut self, data: &[u8]) -> io::Result<Bytes> {
        self.held = true;
        self.writer().write_all(data)?;
        Ok(self.out())
    }

    /// Everything that was put in.
    pub fn flush(&mut self) -> io::Result<Bytes> {
        if std::mem::take(&mut self.held) {
            self.writer().flush()?;
        }
        Ok(self.out())
    }

    pub fn finish(self) -> io::Result<Bytes> {
        let out = match self.encoder {
            Encoder::Zstd(encoder) => encoder.finish()?,
            Encoder::Br(encoder) => encoder.into_inner(),
            Encoder::Gzip(encoder) => encoder.finish()?,
        };
        Ok(out.into())
    }
}

/// A build without compression makes nothing smaller, and promises nothing.
#[cfg(not(feature = "compression"))]
pub enum Packer {}

#[cfg(not(feature = "compression"))]
impl Packer {
    pub fn new(_: CompressionWay) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub fn push(&mut self, _: &[u8]) -> io::Result<Bytes> {
        match *self {}
    }
    pub fn flush(&mut self) -> io::Result<Bytes> {
        match *self {}
    }
    pub fn finish(self) -> io::Result<Bytes> {
        match self {}
    }
}

#[cfg(test)]
#[cfg(feature = "compression")]
#[path = "pack_tests.rs"]
mod tests;
