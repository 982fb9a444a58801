//! Secrets where they do not belong, and switches that protect nothing. Never repeats a value.

use crate::{
    Kind,
    node::Ask,
    world::{Out, World},
};
use berth_config::is_secret;

/// `postgresql://user:password@host`, with the password written out.
fn has_password(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else { return false };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let Some((login, _)) = authority.rsplit_once('@') else { return false };
    password(login).is_some_and(|password| !refers(password))
}

/// After the first colon that is none of `${NAME:-default}`.
fn password(login: &str) -> Option<&str> {
    let mut depth = 0_usize;
    for (at, c) in login.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ':' if depth == 0 => return Some(&login[at + 1..]),
            _ => {}
        }
    }
    None
}

/// So many letters and digits beside a reference are no separator and no prefix.
const WRITTEN_OUT: usize = 6;

/// What stands before a secret in everybody's files, in small letters.
const PREFIXES: &[&str] =
    &["bearer ", "basic ", "token ", "sk_live_", "sk_test_", "rk_live_", "rk_test_", "whsec_", "github_pat_"];

fn without_prefix(value: &str) -> &str {
    PREFIXES.iter().fold(value.trim(), |rest, prefix| match rest.split_at_checked(prefix.len()) {
        Some((start, after)) if start.eq_ignore_ascii_case(prefix) => after.trim_start(),
        _ => rest,
    })
}

/// Empty, or taken from a variable. What is written beside the variable may be the secret all the same.
fn refers(value: &str) -> bool {
    let value = without_prefix(value);
    if value.is_empty() {
        return true;
    }
    if !value.contains("${") {
        return value.starts_with('$');
    }
    let after = |part: &str| part.split_once('}').map_or(0, |(_, rest)| letters(rest));
    let mut parts = value.split("${");
    let beside = letters(parts.next().unwrap_or_default()) + parts.map(after).sum::<usize>();
    value.contains("://") || beside < WRITTEN_OUT
}

fn letters(text: &str) -> usize {
    text.chars().filter(char::is_ascii_alphanumeric).count()
}

/// A switch, or the path of the file that holds it.
fn is_no_secret(value: &str) -> bool {
    (value.starts_with('/') && !value.contains(['+', '=']) && value[1..].contains('/'))
        || matches!(value.to_ascii_lowercase().as_str(), "true" | "false" | "yes" | "no" | "on" | "off")
}

pub fn in_file(world: &World<'_>, out: &mut Out) {
    const MESSAGE: &str = "a secret is written out in a file that belongs into the repository";
    for file in world.files.iter().filter(|file| matches!(file.kind, Kind::Stack | Kind::Compose | Kind::Fly)) {
        let mut said = Vec::new();
        for variable in world.variables().iter().filter(|v| std::ptr::eq(v.file, file)) {
            let value = &variable.value;
            let secret = is_secret(&variable.name) && !refers(value) && !is_no_secret(value);
            if secret || has_password(value) {
                out.note(file, variable.line, &variable.key, MESSAGE, remedy(file.kind, &variable.name));
                said.push(variable.line);
            }
        }
        for leaf in file.tree.leaves() {
            let Some(value) = leaf.node.text() else { continue };
            let name = leaf.name().split('[').next().unwrap_or_default();
            let plain = matches!(leaf.node.value, berth_config::tree::Value::Text(_));
            let secret = is_secret(name) && plain && !refers(&value) && !is_no_secret(&value);
            if (secret || (plain && !leaf.path.contains('[') && has_password(&value))) && !said.contains(&leaf.line) {
                out.note(file, leaf.line, &leaf.path, MESSAGE, remedy(file.kind, name));
            }
        }
    }
}

fn remedy(kind: Kind, name: &str) -> String {
    let variable = name.to_ascii_uppercase();
    match kind {
        Kind::Fly => {
            format!("`fly secrets set {variable}=…`, and take it out here; then make a new one, this one is known")
        }
        _ => format!("write `${{{variable}}}` and set the variable; then make a new one, this one is known"),
    }
}

pub fn placeholder(world: &World<'_>, out: &mut Out) {
    const WORDS: &[&str] = &[
        "changeme",
        "change-me",
        "change_me",
        "your-",
        "your_",
        "yourpassword",
        "placeholder",
        "xxxx",
        "todo",
        "replace-me",
        "secure-password",
        "hunter2",
    ];
    for variable in world.variables() {
        let value = variable.value.to_ascii_lowercase();
        // An address is no secret by its name; one with the guide's words in it leads nowhere.
        let dsn = variable.name.to_ascii_lowercase().ends_with("dsn") && value.contains("://");
        let secret = is_secret(&variable.name) || dsn;
        let weak = matches!(value.as_str(), "password" | "secret" | "postgres" | "admin" | "root" | "test");
        if secret && (weak || WORDS.iter().any(|word| value.contains(word))) {
            out.note(
                variable.file,
                variable.line,
                &variable.key,
                "this is the example of a secret, not a secret: whoever read the guide knows it",
                "make one with `openssl rand -base64 48`",
            );
        }
    }
}

/// Switches that name a protection which nothing in such a stack carries out when they are set.
const FLAGS: &[(&str, &str)] = &[
    ("certificatepinning", "pinning is done by clients, in their own code; a server cannot switch it on"),
    ("certpinning", "pinning is done by clients, in their own code; a server cannot switch it on"),
    (
        "endtoendencryption",
        "a server that reads positions and draws maps holds the plain text: only clients that keep the keys can encrypt end to end",
    ),
    (
        "e2eencryption",
        "a server that reads the data holds the plain text: only clients that keep the keys can encrypt end to end",
    ),
    (
        "e2ee",
        "a server that reads the data holds the plain text: only clients that keep the keys can encrypt end to end",
    ),
    ("ddosprotection", "this is bought from whoever carries the traffic, not switched on in the application"),
];

pub fn flag_without_effect(world: &World<'_>, out: &mut Out) {
    for file in world.files {
        if file.kind == Kind::Compose || file.kind == Kind::Stack {
            continue;
        }
        for leaf in file.tree.leaves().iter().filter(|leaf| leaf.node.is_true()) {
            flag(file, leaf.line, &leaf.path, leaf.name(), out);
        }
    }
    for variable in world.variables() {
        let on = matches!(variable.value.to_ascii_lowercase().as_str(), "true" | "1" | "on" | "yes");
        if on && matches!(variable.file.kind, Kind::Compose | Kind::Stack) {
            flag(variable.file, variable.line, &variable.key, &variable.name, out);
        }
    }
}

fn flag(file: &crate::read::File, line: u64, key: &str, name: &str, out: &mut Out) {
    let plain: String = name.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    let plain = plain.trim_end_matches("enabled");
    if let Some((_, why)) = FLAGS.iter().find(|(flag, _)| *flag == plain) {
        let message = format!("this switch promises a protection and changes nothing: {why}");
        out.note(file, line, key, message, "take it out, and do not tell customers about it");
    }
}
