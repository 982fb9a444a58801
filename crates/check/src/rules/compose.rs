//! Images that change under one's feet, and one Redis with two jobs.

use super::exposure::image_name;
use crate::{
    Kind,
    node::Ask,
    world::{Out, World},
};

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
