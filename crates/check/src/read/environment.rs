//! `.env` files as a tree with lines. Never substitutes: what `$NAME` would become depends on who starts the process.

use super::Unreadable;
use berth_config::tree::{Entry, Node, Value};

/// Stands for `$` while the library reads a line, so that it looks up nothing in this process's own environment.
const DOLLAR: &str = "\u{e000}";
/// A value in quotes may span lines; one that is never closed should not swallow the file.
const LINES_MAX: usize = 200;

pub fn read(text: &str) -> Result<Node, Unreadable> {
    let lines: Vec<&str> = text.trim_start_matches('\u{feff}').lines().collect();
    let mut entries = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let taken = (1..=LINES_MAX.min(lines.len() - at)).find(|n| variables(&lines[at..at + n]).is_ok());
        let Some(taken) = taken else {
            // Docker and systemd take words without quotes, where a shell and the library do not.
            if let Some((key, value)) = lines[at].split_once('=').filter(|(key, _)| is_name(key.trim())) {
                let line = at as u64 + 1;
                let value = Node { line, value: Value::Text(value.trim().to_owned()) };
                entries.push(Entry { line, key: key.trim().to_owned(), value });
                at += 1;
                continue;
            }
            let message = "this line is no `NAME=value`".to_owned();
            return Err(Unreadable { line: Some(at as u64 + 1), message });
        };
        for (key, value) in variables(&lines[at..at + taken]).unwrap_or_default() {
            let line = at as u64 + 1;
            entries.push(Entry { line, key, value: Node { line, value: Value::Text(value) } });
        }
        at += taken;
    }
    Ok(Node { line: 1, value: Value::Map(entries) })
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn variables(lines: &[&str]) -> Result<Vec<(String, String)>, dotenvy::Error> {
    let text = lines.join("\n").replace("\\$", DOLLAR).replace('$', DOLLAR);
    let pairs: Result<Vec<_>, _> = dotenvy::from_read_iter(text.as_bytes()).collect();
    Ok(pairs?.into_iter().map(|(key, value)| (key, value.replace(DOLLAR, "$"))).collect())
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::node::Ask;

    #[test]
    fn variables_keep_their_lines_and_their_dollars() {
        let text = "# a comment\nA=1\n\nexport B=\"two words\"\nC=${HOME}/x\nD=\"-----BEGIN\nmiddle\nend\"\nE='x' # why\nF=0 2 * * *\n";
        let tree = read(text).ok().unwrap();
        let found: Vec<_> = tree
            .entries()
            .iter()
            .map(|entry| (entry.line, entry.key.as_str(), entry.value.text().unwrap_or_default()))
            .collect();
        let expected = [
            (2, "A", "1".to_owned()),
            (4, "B", "two words".to_owned()),
            (5, "C", "${HOME}/x".to_owned()),
            (6, "D", "-----BEGIN\nmiddle\nend".to_owned()),
            (9, "E", "x".to_owned()),
            (10, "F", "0 2 * * *".to_owned()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_line_that_is_no_variable_is_named() {
        assert_eq!(read("A=1\nnot a variable\n").err().unwrap().line, Some(2));
    }
}
