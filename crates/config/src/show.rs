//! Every effective value of a stack with where it came from, for `berth config show`. Never shows a secret: what a
//! variable holds is not asked for, and what is written out under a secret's name is masked.

use crate::{Stack, over::find, tree::Node};
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
            for (n, value) in items.iter().enumerate() {
                walk(format!("{key}[{n}]"), value, layers, shown);
            }
        }
        Value::Null => {}
        value => {
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let masked = is_secret(&key) && !text.contains("${");
            let value = if masked { MASK.to_owned() } else { without_password(&text) };
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
    let last = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase();
    let last = last.split('[').next().unwrap_or_default();
    ["secret", "password", "passwd", "token", "apikey", "api_key", "private_key", "access_key"]
        .iter()
        .any(|word| last.contains(word))
}

/// `postgres://user:password@host` with the password masked.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let Some((login, host)) = rest[..end].rsplit_once('@') else { return text.to_owned() };
    match login.split_once(':') {
        Some((user, password)) if !password.starts_with("${") => {
            format!("{scheme}://{user}:{MASK}@{host}{}", &rest[end..])
        }
        _ => text.to_owned(),
    }
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
}
