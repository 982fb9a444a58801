//! `headers` and `compression`: what edges do to answers. Never knows what an edge does with it.

use crate::{
    AnswerHeaders, Compress, CompressWay, Frame, Problem, Referrer,
    read::{At, Reader},
};

pub fn headers(reader: &mut Reader, at: &At<'_>) -> AnswerHeaders {
    let Some(section) = reader.section(at, &["csp", "frame", "nosniff", "referrer"]) else {
        return AnswerHeaders::default();
    };
    AnswerHeaders {
        csp: section.get("csp").and_then(|at| csp(reader, &at)),
        frame: section
            .get("frame")
            .and_then(|at| reader.one_of(&at, &[("deny", Frame::Deny), ("same_origin", Frame::SameOrigin)])),
        nosniff: section.get("nosniff").and_then(|at| reader.truth(&at)).unwrap_or_default(),
        referrer: section.get("referrer").and_then(|at| reader.one_of(&at, &Referrer::ALL)),
    }
}

fn csp(reader: &mut Reader, at: &At<'_>) -> Option<String> {
    let text = reader.text(at)?.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() || text.len() > 4096 || !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        let problem = Problem::Malformed {
            message: "this is no policy that fits into a header",
            hint: "for example `default-src 'self'`",
        };
        reader.wrong(at, problem);
        return None;
    }
    Some(text)
}

pub fn compression(reader: &mut Reader, at: &At<'_>) -> Option<Compress> {
    let section = reader.section(at, &["ways", "from_bytes", "types"])?;
    let mut compress = Compress::default();
    if let Some(at) = section.get("ways") {
        let words = [("zstd", CompressWay::Zstd), ("br", CompressWay::Br), ("gzip", CompressWay::Gzip)];
        compress.ways.clear();
        for item in reader.list(&at)? {
            let Some(way) = reader.one_of(&item, &words) else { continue };
            if compress.ways.contains(&way) {
                let name = words.iter().find(|(_, known)| *known == way).map_or("", |(name, _)| name);
                reader.wrong(&item, Problem::NamedTwice { name: name.to_owned() });
            } else {
                compress.ways.push(way);
            }
        }
    }
    if let Some(bytes) = section.get("from_bytes").and_then(|at| reader.number(&at, 1..=1 << 30)) {
        compress.from_bytes = bytes;
    }
    if let Some(at) = section.get("types") {
        let items = reader.list(&at)?;
        compress.types = items.iter().filter_map(|item| media_type(reader, item)).collect();
    }
    Some(compress)
}

fn media_type(reader: &mut Reader, at: &At<'_>) -> Option<String> {
    let text = reader.text(at)?;
    let word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".+-".contains(&b))
    };
    if !text.split_once('/').is_some_and(|(kind, rest)| word(kind) && word(rest)) {
        let problem = Problem::Malformed {
            message: "this is not a media type",
            hint: "for example `application/json`, without parameters",
        };
        reader.wrong(at, problem);
        return None;
    }
    Some(text.to_owned())
}
