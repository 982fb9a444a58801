//! `config :app, Module, key: value` of Elixir's configuration files, as a tree with lines.
//!
//! Reads literals, and of `System.get_env("NAME", "default")` the default; everything else is an empty value. Never
//! evaluates anything. There is no parser of Elixir for Rust that needs no C grammar; what configuration files use is
//! small enough to be read here.

use berth_config::tree::{Entry, Node, Value};

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// `key:` before a value.
    Key(String),
    Atom(String),
    Text(String),
    Number(String),
    /// A name, a module or a dotted path of them.
    Word(String),
    Open(char),
    Close(char),
    Comma,
    /// Anything else, `->` and `|>` among it.
    Sign(String),
    Line,
}

/// Every token with its line. Comments are left out.
pub fn tokens(text: &str) -> Vec<(u64, Token)> {
    let mut found = Vec::new();
    let chars: Vec<char> = text.chars().collect();
    let (mut at, mut line) = (0, 1);
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '?' || c == '!';
    while let Some(&c) = chars.get(at) {
        let began = line;
        let token = match c {
            '\n' => {
                at += 1;
                line += 1;
                Token::Line
            }
            c if c.is_whitespace() => {
                at += 1;
                continue;
            }
            '#' => {
                while chars.get(at).is_some_and(|c| *c != '\n') {
                    at += 1;
                }
                continue;
            }
            '"' | '\'' => {
                let heredoc = chars[at..].starts_with(&[c, c, c]);
                let value = quoted(&chars, &mut at, &mut line, c, if heredoc { 3 } else { 1 });
                if chars.get(at) == Some(&':') && chars.get(at + 1) != Some(&':') {
                    at += 1;
                    Token::Key(value)
                } else {
                    Token::Text(value)
                }
            }
            '~' if chars.get(at + 1).is_some_and(char::is_ascii_alphabetic) => {
                at += 2;
                let close = match chars.get(at) {
                    Some('(') => ')',
                    Some('[') => ']',
                    Some('{') => '}',
                    Some(&other) => other,
                    None => break,
                };
                Token::Text(quoted(&chars, &mut at, &mut line, close, 1))
            }
            ':' if chars.get(at + 1).is_some_and(|c| c.is_alphabetic() || *c == '_') => {
                at += 1;
                Token::Atom(taken(&chars, &mut at, word))
            }
            c if c.is_ascii_digit() => {
                Token::Number(taken(&chars, &mut at, |c| c.is_alphanumeric() || "._".contains(c)))
            }
            c if c.is_alphabetic() || c == '_' => {
                let text = taken(&chars, &mut at, |c| word(c) || c == '.');
                if chars.get(at) == Some(&':') && chars.get(at + 1) != Some(&':') {
                    at += 1;
                    Token::Key(text)
                } else {
                    Token::Word(text)
                }
            }
            '(' | '[' | '{' => {
                at += 1;
                Token::Open(c)
            }
            ')' | ']' | '}' => {
                at += 1;
                Token::Close(c)
            }
            ',' => {
                at += 1;
                Token::Comma
            }
            _ => Token::Sign(taken(&chars, &mut at, |c| "+-*/<>=|&!.%@^:;\\".contains(c)).chars().collect()),
        };
        if token == Token::Sign(String::new()) {
            at += 1;
            continue;
        }
        found.push((began, token));
    }
    found
}

fn taken(chars: &[char], at: &mut usize, good: impl Fn(char) -> bool) -> String {
    let from = *at;
    while chars.get(*at).is_some_and(|c| good(*c)) {
        *at += 1;
    }
    chars[from..*at].iter().collect()
}

/// From an opening quote of `width` signs to the same in closing.
fn quoted(chars: &[char], at: &mut usize, line: &mut u64, close: char, width: usize) -> String {
    *at += width;
    let mut value = String::new();
    while let Some(&c) = chars.get(*at) {
        if chars[*at..].iter().take(width).filter(|c| **c == close).count() == width {
            *at += width;
            break;
        }
        if c == '\n' {
            *line += 1;
        }
        if c == '\\' {
            *at += 1;
            value.extend(chars.get(*at));
        } else {
            value.push(c);
        }
        *at += 1;
    }
    value
}

pub fn read(text: &str) -> Node {
    let tokens = tokens(text);
    let mut entries = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = at == 0 || tokens[at - 1].1 == Token::Line;
        if begins && tokens[at].1 == Token::Word("config".to_owned()) {
            let line = tokens[at].0;
            at += 1;
            statement(&tokens, &mut at, line, &mut entries);
        } else {
            at += 1;
        }
    }
    Node { line: 1, value: Value::Map(entries) }
}

/// `:app, Module, key: value, …` to the end of its line, where no comma or bracket leads on.
fn statement(tokens: &[(u64, Token)], at: &mut usize, line: u64, entries: &mut Vec<Entry>) {
    let mut names: Vec<String> = Vec::new();
    let mut pairs: Vec<Entry> = Vec::new();
    loop {
        skip_lines(tokens, at);
        match tokens.get(*at) {
            Some((line, Token::Key(key))) => {
                *at += 1;
                skip_lines(tokens, at);
                let value = value(tokens, at);
                pairs.push(Entry { line: *line, key: key.clone(), value });
            }
            Some((_, Token::Atom(name) | Token::Word(name))) if pairs.is_empty() => {
                names.push(name.clone());
                *at += 1;
            }
            Some((_, Token::Open('['))) => {
                if let Value::Map(inside) = value(tokens, at).value {
                    pairs.extend(inside);
                }
            }
            _ => break,
        }
        if tokens.get(*at).map(|t| &t.1) == Some(&Token::Comma) {
            *at += 1;
        } else {
            break;
        }
    }
    let mut node = Node { line, value: Value::Map(pairs) };
    for name in names.iter().skip(1).rev() {
        node = Node { line, value: Value::Map(vec![Entry { line, key: name.clone(), value: node }]) };
    }
    if let Some(app) = names.first() {
        entries.push(Entry { line, key: app.clone(), value: node });
    }
}

fn skip_lines(tokens: &[(u64, Token)], at: &mut usize) {
    while tokens.get(*at).map(|t| &t.1) == Some(&Token::Line) {
        *at += 1;
    }
}

fn value(tokens: &[(u64, Token)], at: &mut usize) -> Node {
    let Some((line, token)) = tokens.get(*at) else { return Node { line: 1, value: Value::Null } };
    let line = *line;
    let value = match token {
        Token::Open(_) => {
            *at += 1;
            group(tokens, at)
        }
        Token::Word(word) => {
            let value = match word.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => Value::Null,
            };
            *at += 1;
            if tokens.get(*at).map(|t| &t.1) == Some(&Token::Open('(')) { called(tokens, at, word) } else { value }
        }
        Token::Atom(atom) => {
            *at += 1;
            // `:timer.hours(1)`: the atom, a sign, a name and its argument.
            if tokens.get(*at).map(|t| &t.1) == Some(&Token::Sign(".".to_owned())) {
                *at += 1;
                let name = match tokens.get(*at) {
                    Some((_, Token::Word(name))) => name.clone(),
                    _ => String::new(),
                };
                *at += 1;
                called(tokens, at, &format!("{atom}.{name}"))
            } else {
                Value::Text(atom.clone())
            }
        }
        Token::Text(text) => {
            *at += 1;
            Value::Text(text.clone())
        }
        Token::Number(digits) => {
            *at += 1;
            number(digits)
        }
        _ => Value::Null,
    };
    // What is computed from it is not known: `20 * 2` has no value here.
    let mut plain = true;
    let mut depth = 0_u32;
    while let Some((_, token)) = tokens.get(*at) {
        match token {
            Token::Open(_) => depth += 1,
            Token::Close(_) | Token::Comma | Token::Line if depth == 0 => break,
            Token::Close(_) => depth -= 1,
            _ => {}
        }
        plain = false;
        *at += 1;
    }
    Node { line, value: if plain { value } else { Value::Null } }
}

fn number(digits: &str) -> Value {
    let plain = digits.replace('_', "");
    match plain.parse::<i128>() {
        Ok(number) => Value::Int(number),
        Err(_) => plain.parse().map_or(Value::Null, Value::Float),
    }
}

/// Inside brackets, to the closing one: a map of `key: value`, or a list.
fn group(tokens: &[(u64, Token)], at: &mut usize) -> Value {
    let (mut pairs, mut items) = (Vec::new(), Vec::new());
    loop {
        skip_lines(tokens, at);
        match tokens.get(*at) {
            None => break,
            Some((_, Token::Close(_))) => {
                *at += 1;
                break;
            }
            Some((_, Token::Comma | Token::Sign(_))) => *at += 1,
            Some((line, Token::Key(key))) => {
                *at += 1;
                skip_lines(tokens, at);
                let value = value(tokens, at);
                pairs.push(Entry { line: *line, key: key.clone(), value });
            }
            Some(_) => {
                let before = *at;
                items.push(value(tokens, at));
                // Whatever could not be read is stepped over, or this would never end.
                *at = (*at).max(before + 1);
            }
        }
    }
    if pairs.is_empty() { Value::List(items) } else { Value::Map(pairs) }
}

/// A call: the default of `get_env`, the length of `:timer`, otherwise what its only argument is.
fn called(tokens: &[(u64, Token)], at: &mut usize, name: &str) -> Value {
    if tokens.get(*at).map(|t| &t.1) != Some(&Token::Open('(')) {
        return Value::Null;
    }
    *at += 1;
    let Value::List(arguments) = group(tokens, at) else { return Value::Null };
    let last = name.rsplit('.').next().unwrap_or(name);
    match (last, arguments.as_slice()) {
        ("get_env", [_, default]) => default.value.clone(),
        ("to_integer", [one]) => match &one.value {
            Value::Text(digits) => number(digits),
            other => other.clone(),
        },
        ("to_existing_atom" | "to_atom", [one]) => match &one.value {
            Value::Text(text) if text == "true" => Value::Bool(true),
            Value::Text(text) if text == "false" => Value::Bool(false),
            other => other.clone(),
        },
        ("seconds" | "minutes" | "hours", [Node { value: Value::Int(n), .. }]) => {
            Value::Text(format!("{n}{}", &last[..1]))
        }
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::node::Ask;

    #[test]
    fn a_configuration_file_is_a_tree_of_its_keys() {
        let text = r#"
import Config

config :shop, Shop.Repo,
  # a comment, with: a colon
  pool_size: String.to_integer(System.get_env("POOL", "20")),
  timeout: 60_000,
  parameters: [
    application_name: "shop",
    max_connections: 200
  ]

config :shop, :limits, check: :timer.hours(1), flags: [a: true, b: :per_customer], sum: 2 * 3
config :shop, Shop.RateLimit, limits: [{"api", {100, 60}}, {"gps", {1000, 60}}]
config :logger, level: :info
"#;
        let tree = read(text);
        let found: Vec<String> = tree
            .leaves()
            .iter()
            .map(|leaf| format!("{}:{}={}", leaf.line, leaf.path, leaf.node.text().unwrap_or_default()))
            .collect();
        assert_eq!(
            found,
            [
                "6:shop.Shop.Repo.pool_size=20",
                "7:shop.Shop.Repo.timeout=60000",
                "9:shop.Shop.Repo.parameters.application_name=shop",
                "10:shop.Shop.Repo.parameters.max_connections=200",
                "13:shop.limits.check=1h",
                "13:shop.limits.flags.a=true",
                "13:shop.limits.flags.b=per_customer",
                "13:shop.limits.sum=",
                "14:shop.Shop.RateLimit.limits[0][0]=api",
                "14:shop.Shop.RateLimit.limits[0][1][0]=100",
                "14:shop.Shop.RateLimit.limits[0][1][1]=60",
                "14:shop.Shop.RateLimit.limits[1][0]=gps",
                "14:shop.Shop.RateLimit.limits[1][1][0]=1000",
                "14:shop.Shop.RateLimit.limits[1][1][1]=60",
                "15:logger.level=info",
            ]
        );
    }
}
