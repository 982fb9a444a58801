//! Images that change under one's feet, one Redis with two jobs, and what variables in a compose file come to.

use super::exposure::image_name;
use crate::{
    Kind,
    node::Ask,
    world::{Out, Variable, World},
};

/// Stands for a variable without which compose does not start: `${NAME:?…}`.
pub const REQUIRED: &str = "$?";
/// Defaults within defaults; deeper ones are nobody's, nor are longer texts.
const DEPTH_MAX: usize = 4;
const TEXT_MAX: usize = 1000;

/// What compose makes of a text: a variable is what a `.env` file says, else its own default. One with neither stays
/// as `$NAME`.
pub fn filled(text: &str, variables: &[Variable<'_>]) -> String {
    if text.len() > TEXT_MAX { text.to_owned() } else { filled_at(text, variables, 0) }
}

fn filled_at(text: &str, variables: &[Variable<'_>], depth: usize) -> String {
    let mut whole = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        whole.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            whole.push('$');
            rest = after;
            continue;
        }
        let (inner, after) = match after.strip_prefix('{').and_then(braced) {
            Some(both) => both,
            None => after.split_at(name_end(after)),
        };
        whole.push_str(&value(inner, variables, depth));
        rest = after;
    }
    whole.push_str(rest);
    whole
}

fn name_end(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// What stands before the brace that ends this, and what after it.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&text[..at], &text[at + 1..]));
        }
    }
    None
}

/// Of `NAME`, `NAME:-default`, `NAME-default` and `NAME:?message`.
fn value(inner: &str, variables: &[Variable<'_>], depth: usize) -> String {
    let (name, how) = inner.split_at(name_end(inner));
    let said = variables.iter().find(|v| v.file.kind == Kind::Environment && v.name == name).map(|v| &v.value);
    // With a colon an empty value counts as none.
    let (said, how) = match how.strip_prefix(':') {
        Some(how) => (said.filter(|value| !value.is_empty()), how),
        None => (said, how),
    };
    match said {
        Some(value) if !value.contains('$') => value.clone(),
        None if how.starts_with('?') => REQUIRED.to_owned(),
        None if depth < DEPTH_MAX => {
            how.strip_prefix('-').map_or_else(|| format!("${name}"), |usual| filled_at(usual, variables, depth + 1))
        }
        _ => format!("${name}"),
    }
}

pub fn moving_tag(world: &World<'_>, out: &mut Out) {
    for file in world.files.iter().filter(|file| matches!(file.kind, Kind::Compose | Kind::Stack)) {
        for (name, service, _) in World::services(file) {
            let Some(image) = service.entry("image") else { continue };
            let Some(text) = image.value.text().filter(|text| !text.contains('@') && !text.contains('$')) else {
                continue;
            };
            let tag = text.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
            let moving = tag.is_none_or(|tag| tag.starts_with("latest") || !tag.contains(|c: char| c.is_ascii_digit()));
            if moving {
                out.note(
                    file,
                    image.line,
                    &format!("services.{name}.image"),
                    format!("`{text}` is another image tomorrow: two machines run two versions, and going back is impossible"),
                    "name a version, or better the digest: `image@sha256:…`",
                );
            }
        }
    }
}

/// A cache may forget, a queue may not.
pub fn evicts_jobs(world: &World<'_>, out: &mut Out) {
    let variables = world.variables();
    for file in world.of(Kind::Compose) {
        for (name, service, line) in World::services(file) {
            if !image_name(service).is_some_and(|image| ["redis", "valkey", "keydb"].contains(&image.as_str())) {
                continue;
            }
            let Some(command) = service.entry("command") else { continue };
            let words: Vec<String> = match command.value.text() {
                Some(text) => text.split_whitespace().map(str::to_owned).collect(),
                None => command.value.items().iter().filter_map(Ask::text).collect(),
            };
            let policy = words.iter().position(|word| word == "--maxmemory-policy").and_then(|at| words.get(at + 1));
            let Some(policy) = policy.filter(|policy| policy.starts_with("allkeys")) else { continue };
            let broker = variables.iter().find(|v| {
                let queue =
                    ["BROKER", "QUEUE", "CELERY", "SIDEKIQ", "BULL", "JOBS"].iter().any(|word| v.name.contains(word));
                queue && ["//", "@"].iter().any(|before| v.value.contains(&format!("{before}{name}:")))
            });
            if let Some(broker) = broker {
                let line = if command.line > 0 { command.line } else { line };
                out.note(
                    file,
                    line,
                    &format!("services.{name}.command"),
                    format!("`{policy}` lets a full Redis forget any key, and `{}` keeps jobs in it: they vanish without an error", broker.name),
                    "give the queue a Redis of its own with `noeviction`, and let the cache forget",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{REQUIRED, filled};
    use crate::{
        read::{Kind, read},
        world::World,
    };
    use jiff::Timestamp;

    #[test]
    fn variables_come_to_what_compose_makes_of_them() {
        let file = read(".env", "HOST=127.0.0.1\nEMPTY=\nOTHER=${HOST}\n", Kind::Environment).ok().unwrap();
        let files = [file];
        let world = World { files: &files, now: Timestamp::UNIX_EPOCH, judge: &|_, _| Vec::new() };
        let variables = world.variables();
        let required = format!("{REQUIRED}:1");
        let deep = format!("{}x{}", "${A:-".repeat(50), "}".repeat(50));
        for (text, expected) in [
            ("5432:5432", "5432:5432"),
            ("${PORT:-5432}:5432", "5432:5432"),
            ("${HOST}:${PORT-1}:$HOST", "127.0.0.1:1:127.0.0.1"),
            ("${EMPTY:-a}${EMPTY-a}b", "ab"),
            ("${NONE:-${ALSO:-0.0.0.0}}:1", "0.0.0.0:1"),
            ("${NONE}:1", "$NONE:1"),
            ("${OTHER}", "$OTHER"),
            ("${NONE:?say it}:1", required.as_str()),
            ("a$$b${", "a$b${"),
            (deep.as_str(), "$A"),
        ] {
            assert_eq!(filled(text, &variables), expected, "{}", &text[..text.len().min(60)]);
        }
    }
}
