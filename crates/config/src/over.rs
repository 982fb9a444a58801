//! One file over another: `berth.staging.yaml` says only what differs from `berth.yaml`.
//!
//! Maps are joined key by key; a list or a value replaces what is below it, and an empty value takes it away. Knows no
//! key.

use crate::tree::{Entry, Node, Value};

/// The lower file with the upper one's words. What was not said above keeps its line below.
pub fn over(lower: Node, upper: &Node) -> Node {
    let (Value::Map(mut entries), Value::Map(above)) = (lower.value, &upper.value) else { return upper.clone() };
    let mut said: Vec<&str> = Vec::new();
    for entry in above {
        // A key doubled in the upper file stays doubled, to be reported.
        let doubled = said.contains(&entry.key.as_str());
        said.push(&entry.key);
        let place = entries.iter().position(|below| below.key == entry.key).filter(|_| !doubled);
        match place {
            Some(at) if entry.value.value == Value::Null => {
                entries.remove(at);
            }
            Some(at) => {
                let below = std::mem::replace(&mut entries[at].value, Node { line: 0, value: Value::Null });
                let value = over(below, &entry.value);
                let line = if matches!(value.value, Value::Map(_)) { entries[at].line } else { entry.line };
                entries[at] = Entry { line, key: entry.key.clone(), value };
            }
            None => entries.push(entry.clone()),
        }
    }
    Node { line: lower.line, value: Value::Map(entries) }
}

/// The value at `plans.hobby.limits` or `edges[1]`, with the line of its key.
pub fn find<'a>(root: &'a Node, key: &str) -> Option<(u64, &'a Node)> {
    if key.is_empty() {
        return Some((root.line, root));
    }
    match &root.value {
        Value::Map(entries) => entries.iter().find_map(|entry| {
            let rest = key.strip_prefix(entry.key.as_str())?;
            match rest.strip_prefix('.') {
                Some(rest) => find(&entry.value, rest),
                None if rest.is_empty() => Some((entry.line, &entry.value)),
                None if rest.starts_with('[') => find(&entry.value, rest),
                None => None,
            }
        }),
        Value::List(items) => {
            let (index, rest) = key.strip_prefix('[')?.split_once(']')?;
            let item = items.get(index.parse::<usize>().ok()?)?;
            let rest = rest.strip_prefix('.').unwrap_or(rest);
            if rest.is_empty() { Some((item.line, item)) } else { find(item, rest) }
        }
        _ => None,
    }
}

/// As JSON, which is YAML too: how a joined file is sent to a server.
pub fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(truth) => (*truth).into(),
        Value::Int(number) => i64::try_from(*number).map_or_else(|_| number.to_string().into(), Into::into),
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), json(&entry.value))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::{find, json, over};
    use crate::tree::parse;

    #[test]
    fn the_upper_file_says_only_what_differs() {
        let lower = parse("a: { b: 1, c: [1, 2], d: 4 }\ne: x\n").unwrap();
        let upper = parse("\n\na:\n  c: [3]\n  d:\nf: { g: 1 }\n").unwrap();
        let joined = over(lower, &upper);
        assert_eq!(json(&joined), serde_json::json!({ "a": { "b": 1, "c": [3] }, "e": "x", "f": { "g": 1 } }));
        let line = |key: &str| find(&joined, key).map(|(line, _)| line);
        assert_eq!(
            [line("a.b"), line("a.c"), line("a.c[0]"), line("e"), line("f.g"), line("a.d")],
            [Some(1), Some(4), Some(4), Some(2), Some(6), None]
        );
    }
}
