//! Every effective value of a stack with where it came from, for `berth config show`. Never shows a secret: what a
//! variable holds is not asked for, and what is written out under a secret's name is masked: in a value, in a URL and in
//! the words of a command.

use crate::{Stack, Template, may_be_secret, over::find, tree::Node};
use serde_json::Value;

/// One effective value.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// `plans.hobby.limits.body_bytes`.
    pub key: String,
    pub value: String,
    /// `berth.staging.yaml:4`, or `default`.
    pub from: String,
}

/// A file that the stack was read from.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    pub name: &'a str,
    pub tree: &'a Node,
}

pub const MASK: &str = "********";

/// All values, by key. `layers`: the stack file first, then those over it.
pub fn show(stack: &Stack, layers: &[Layer<'_>]) -> Vec<Shown> {
    let value = serde_json::to_value(stack).expect("a stack has text keys and finite numbers only");
    let mut shown = Vec::new();
    walk(String::new(), &value, layers, &mut shown);
    shown
}

fn walk(key: String, value: &Value, layers: &[Layer<'_>], shown: &mut Vec<Shown>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                walk(key, value, layers, shown);
            }
        }
        Value::Array(items) => {
            let command = key.ends_with(".command") || key.ends_with(".migrate");
            let mut before = None;
            for (n, value) in items.iter().enumerate() {
                let key = format!("{key}[{n}]");
                match value.as_str().filter(|_| command) {
                    Some(text) => {
                        let value = word(text, before);
                        shown.push(Shown { from: origin(&key, layers), key, value });
                    }
                    None => walk(key, value, layers, shown),
                }
                before = value.as_str();
            }
        }
        Value::Null => {}
        value => {
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            // How many tokens a plan sells is a number; a provider's setting may be a secret of digits.
            let named = (value.is_string() || key.starts_with("providers.")) && is_secret(&key);
            let value = if named { masked(&text) } else { without_password(&text) };
            shown.push(Shown { from: origin(&key, layers), key, value });
        }
    }
}

/// The last layer that says it. A plan's limit may come from the stack's own `limits`.
fn origin(key: &str, layers: &[Layer<'_>]) -> String {
    let said = |key: &str| {
        let mut layers = layers.iter().rev();
        layers.find_map(|layer| Some(format!("{}:{}", layer.name, find(layer.tree, key)?.0)))
    };
    let usual = || {
        let rest = key.strip_prefix("plans.")?.split_once(".limits.")?.1;
        said(&format!("limits.{rest}"))
    };
    // A hook's file became its text: `data.hooks.create.sql` was said as `data.hooks.create`.
    let above = || key.starts_with("data.hooks.").then(|| said(key.rsplit_once('.')?.0)).flatten();
    said(key).or_else(usual).or_else(above).unwrap_or_else(|| "default".to_owned())
}

fn is_secret(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    let last = last.split('[').next().unwrap_or_default();
    // What lets Berth into a server, for adapters that come in by SSH.
    may_be_secret(last) || (last == "key" && key.starts_with("providers."))
}

/// A secret's text: references to variables stay, and nothing else does.
fn masked(text: &str) -> String {
    Template::new(text).map_or_else(|_| MASK.to_owned(), |template| template.masked(MASK))
}

/// A word of a command, after the one before it: `--token`, `hunter2`. A shell's line is several.
fn word(text: &str, before: Option<&str>) -> String {
    if text.contains(char::is_whitespace) {
        let mut before = None;
        let words = text.split_inclusive(char::is_whitespace).map(|each| {
            let plain = each.trim_end();
            let shown = word(plain, before) + &each[plain.len()..];
            before = Some(plain).filter(|plain| !plain.is_empty()).or(before);
            shown
        });
        return words.collect();
    }
    let option = |word: &str| word.starts_with('-') && !word.contains('=') && may_be_secret(word);
    match text.split_once('=') {
        Some((name, value)) if may_be_secret(name) => format!("{name}={}", masked(value)),
        _ if before.is_some_and(option) && !text.starts_with('-') => masked(text),
        Some((name, value)) => format!("{name}={}", without_password(value)),
        None => without_password(text),
    }
}

/// `postgres://user:password@host?token=…` with what is secret in it masked.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = match authority.rsplit_once('@').and_then(|(login, host)| Some((login.split_once(':')?, host))) {
        Some(((user, password), host)) => format!("{user}:{}@{host}", masked(password)),
        None => authority.to_owned(),
    };
    let parameter = |one: &str| match one.split_once('=') {
        Some((name, value)) if may_be_secret(name) || (value.contains("://") && value.contains('@')) => {
            format!("{name}={}", masked(value))
        }
        _ => one.to_owned(),
    };
    let query = query.map(|query| query.split('&').map(parameter).collect::<Vec<_>>().join("&"));
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    format!("{scheme}://{authority}{path}{query}")
}

#[cfg(test)]
mod tests {
    use super::{Layer, MASK, show};
    use crate::{no_files, parse_layers, tree};

    #[test]
    fn every_value_says_where_it_came_from_and_no_secret_is_shown() {
        let lower = "stack: s\nservices:\n  web:\n    command: [a]\n    health: /h\n    env:\n      TOKEN: hunter2\n      URL: redis://u:hunter2@c\n      KEY: ${KEY}\nlimits: { body_bytes: 5 }\nplans: { p: { price: 1, class: shared } }\n";
        let upper = "services:\n  web:\n    copies: 2\n";
        let files = [("berth.yaml", lower), ("berth.staging.yaml", upper)];
        let stack = parse_layers(&files, None, &no_files).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let trees: Vec<_> = files.iter().map(|(_, text)| tree::parse(text).unwrap()).collect();
        let layers: Vec<_> = files.iter().zip(&trees).map(|((name, _), tree)| Layer { name, tree }).collect();
        let shown = show(&stack, &layers);
        let line = |key: &str| {
            let one = shown.iter().find(|one| one.key == key).unwrap_or_else(|| panic!("{key} is not shown"));
            format!("{} from {}", one.value, one.from)
        };
        assert_eq!(line("services.web.copies"), "2 from berth.staging.yaml:3");
        assert_eq!(line("services.web.health"), "/h from berth.yaml:5");
        assert_eq!(line("services.web.role"), "web from default");
        assert_eq!(line("services.web.env.TOKEN"), format!("{MASK} from berth.yaml:7"));
        assert_eq!(line("services.web.env.KEY"), "${KEY} from berth.yaml:9");
        assert_eq!(line("plans.p.limits.body_bytes"), "5 from berth.yaml:10");
        assert_eq!(line("data.way_back_days"), "7 from default");
        assert!(shown.iter().all(|one| !one.value.contains("hunter2")), "{shown:#?}");
    }

    #[test]
    fn what_stands_beside_a_reference_in_a_url_or_in_a_command_is_masked_too() {
        let text = r#"stack: s
services:
  web:
    command: [./web, --token, hunter2, --api-key=hunter2, "--db=redis://u:hunter2@c/0", --port, "80"]
    migrate: [sh, -c, "DB_PASSWORD=hunter2 ./migrate --secret hunter2 --all"]
    health: /h
    env:
      TOKEN: "${A}hunter2"
      BOTH: "postgres://u:${A}hunter2@h/db?sslmode=require&password=hunter2"
      PAIR_SECRET: "${A}-${B}"
      CASH_SECRET: "$${hunter2}"
      ENCRYPTION_KEY: hunter2
      APP_KEY: hunter2
      LIVE_VIEW_SIGNING_SALT: hunter2
      SENTRY_DSN: https://hunter2@sentry.example.com/1
limits: { quantities: { tokens_per_day: 5000 } }
plans: { p: { price: 1, class: shared } }
"#;
        let stack =
            parse_layers(&[("berth.yaml", text)], None, &no_files).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let tree = tree::parse(text).unwrap();
        let shown = show(&stack, &[Layer { name: "berth.yaml", tree: &tree }]);
        assert!(shown.iter().all(|one| !one.value.contains("hunter2")), "{shown:#?}");
        let value = |key: &str| {
            let one = shown.iter().find(|one| one.key == key).unwrap_or_else(|| panic!("{key} is not shown"));
            one.value.replace(MASK, "*")
        };
        for (key, expected) in [
            ("services.web.command[0]", "./web"),
            ("services.web.command[1]", "--token"),
            ("services.web.command[2]", "*"),
            ("services.web.command[3]", "--api-key=*"),
            ("services.web.command[4]", "--db=redis://u:*@c/0"),
            ("services.web.command[6]", "80"),
            ("services.web.migrate[2]", "DB_PASSWORD=* ./migrate --secret * --all"),
            ("services.web.env.TOKEN", "${A}*"),
            ("services.web.env.BOTH", "postgres://u:${A}*@h/db?sslmode=require&password=*"),
            ("services.web.env.PAIR_SECRET", "${A}-${B}"),
            ("services.web.env.ENCRYPTION_KEY", "*"),
            ("services.web.env.SENTRY_DSN", "*"),
            ("plans.p.limits.quantities.tokens_per_day", "5000"),
        ] {
            assert_eq!(value(key), expected, "{key}");
        }
    }
}
