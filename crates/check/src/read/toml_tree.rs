//! TOML as a tree with lines. Knows no key of fly.toml.

use super::{Unreadable, line_at};
use berth_config::tree::{Entry, Node, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

pub fn read(text: &str) -> Result<Node, Unreadable> {
    let table = DeTable::parse(text).map_err(|error| Unreadable {
        line: error.span().map(|span| line_at(text, span.start)),
        message: error.message().lines().next().unwrap_or_default().to_owned(),
    })?;
    Ok(Node { line: 1, value: map(text, table.get_ref()) })
}

fn map(text: &str, table: &DeTable<'_>) -> Value {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            line: line_at(text, key.span().start),
            key: key.get_ref().to_string(),
            value: node(text, value),
        })
        .collect();
    // The parser sorts by name; people read by line.
    entries.sort_by_key(|entry| entry.line);
    Value::Map(entries)
}

fn node(text: &str, value: &Spanned<DeValue<'_>>) -> Node {
    let number = |digits: &str, radix: u32| i128::from_str_radix(&digits.replace('_', ""), radix).ok();
    let inner = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(n) => number(n.as_str(), n.radix()).map_or(Value::Null, Value::Int),
        DeValue::Float(n) => n.as_str().replace('_', "").parse().map_or(Value::Null, Value::Float),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Datetime(moment) => Value::Text(moment.to_string()),
        DeValue::Array(items) => Value::List(items.iter().map(|item| node(text, item)).collect()),
        DeValue::Table(table) => map(text, table),
    };
    Node { line: line_at(text, value.span().start), value: inner }
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::node::Ask;

    #[test]
    fn keys_keep_their_lines() {
        let tree = read("app = \"a\"\n\n[[vm]]\n  cpus = 1\n  memory = \"512mb\"\n").ok().unwrap();
        let leaves: Vec<_> = tree.leaves().iter().map(|leaf| (leaf.path.clone(), leaf.line)).collect();
        assert_eq!(leaves, [("app".to_owned(), 1), ("vm[0].cpus".to_owned(), 4), ("vm[0].memory".to_owned(), 5)]);
        assert_eq!(read("a = 1\nb = = 2\n").err().unwrap().line, Some(2));
    }
}
