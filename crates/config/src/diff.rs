//! What applying a stack file would change, key by key, for `berth apply`.
//!
//! Compares what files say; never what runs. Values of `env` are templates, so no secret can appear.

use crate::Stack;
use serde_json::Value;
use std::fmt;

/// One key that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `cells.shared-1.max_tenants`.
    pub key: String,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Added(String),
    Removed(String),
    Changed { from: String, to: String },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.change {
            Change::Added(value) => write!(f, "+ {}: {value}", self.key),
            Change::Removed(value) => write!(f, "- {}: {value}", self.key),
            Change::Changed { from, to } => write!(f, "~ {}: {from} -> {to}", self.key),
        }
    }
}

/// All keys in which two stacks differ, in the file's order of sections. Without an old one everything is added.
pub fn diff(old: Option<&Stack>, new: &Stack) -> Vec<Difference> {
    let old = old.map_or(Value::Object(serde_json::Map::new()), tree);
    let mut found = Vec::new();
    walk("", &old, &tree(new), &mut found);
    found.sort_by_key(|difference| section(&difference.key));
    found
}

fn tree(stack: &Stack) -> Value {
    serde_json::to_value(stack).expect("a stack has text keys and finite numbers only")
}

fn section(key: &str) -> usize {
    use crate::section::KEYS;
    KEYS.iter().position(|section| key.split('.').next() == Some(section)).unwrap_or(KEYS.len())
}

fn walk(key: &str, old: &Value, new: &Value, found: &mut Vec<Difference>) {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        if old != new {
            let change = Change::Changed { from: shown(old), to: shown(new) };
            found.push(Difference { key: key.to_owned(), change });
        }
        return;
    };
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    for (name, value) in after {
        match before.get(name) {
            Some(old) => walk(&below(name), old, value, found),
            None => leaves(&below(name), value, &|value| Change::Added(value), found),
        }
    }
    for (name, value) in before {
        if !after.contains_key(name) {
            leaves(&below(name), value, &|value| Change::Removed(value), found);
        }
    }
}

/// One line for each value of something that came or went whole.
fn leaves(key: &str, value: &Value, change: &dyn Fn(String) -> Change, found: &mut Vec<Difference>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                leaves(&format!("{key}.{name}"), value, change, found);
            }
        }
        Value::Object(_) => {}
        Value::Array(items) if items.is_empty() => {}
        _ => found.push(Difference { key: key.to_owned(), change: change(shown(value)) }),
    }
}

/// Short enough for a line; SQL of several lines shows its first.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    };
    let first = text.lines().next().unwrap_or_default();
    if first.chars().count() > LONGEST || first.len() < text.trim_end().len() {
        let short: String = first.chars().take(LONGEST).collect();
        return format!("{short}… ({} bytes)", text.len());
    }
    text.trim_end().to_owned()
}
