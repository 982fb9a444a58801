//! The schema for editors says the same keys as the reader: what one knows, the other does, and every example fits.

use berth_config::{SCHEMA, no_files, parse, tree};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path};

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

fn resolved<'a>(root: &'a Value, node: &'a Value) -> &'a Value {
    let Some(path) = node.get("$ref").and_then(Value::as_str) else { return node };
    root.pointer(path.trim_start_matches('#')).expect("a reference leads somewhere")
}

/// A file with an unknown key in this place, written as flow maps so that any place can be reached.
fn known_to_the_reader(place: &[&str]) -> BTreeSet<String> {
    let mut text = "{ zzz: 1 }".to_owned();
    for name in place.iter().rev() {
        text = if *name == "[]" { format!("[{text}]") } else { format!("{{ {name}: {text} }}") };
    }
    let mistakes = parse(&text, None, &no_files).expect_err("an unknown key is a mistake");
    let hint = mistakes
        .iter()
        .filter(|mistake| mistake.key.ends_with("zzz"))
        .find_map(|mistake| mistake.problem.hint())
        .unwrap_or_else(|| panic!("{place:?}: {mistakes}"));
    let names = hint.trim_start_matches("known here: ");
    names.split(", ").map(|name| name.trim_matches('`').to_owned()).collect()
}

fn known_to_the_schema(place: &[&str]) -> BTreeSet<String> {
    let root = schema();
    let mut node = &root;
    for name in place {
        node = resolved(&root, node);
        let open = node.get("additionalProperties").filter(|open| open.is_object());
        let named = |node: &Value| node.pointer(&format!("/properties/{name}")).is_some();
        node = ways(node).into_iter().find(|way| named(way)).unwrap_or(node);
        node = match node.pointer(&format!("/properties/{name}")) {
            Some(inner) => inner,
            None if *name == "[]" => node.get("items").expect("a list has items"),
            None => open.unwrap_or_else(|| panic!("{place:?}: `{name}` is not in the schema")),
        };
    }
    let node = resolved(&root, node);
    let keys = |way: &Value| {
        assert_eq!(way.get("additionalProperties"), Some(&Value::Bool(false)), "{place:?} takes any key");
        way["properties"].as_object().expect("a map has properties").keys().cloned().collect::<Vec<_>>()
    };
    ways(node).into_iter().flat_map(keys).collect()
}

/// What a value may be: itself, or one of several.
fn ways(node: &Value) -> Vec<&Value> {
    node.get("oneOf").and_then(Value::as_array).map_or_else(|| vec![node], |ways| ways.iter().collect())
}

#[test]
fn reader_and_schema_know_the_same_keys_everywhere() {
    for place in [
        &[][..],
        &["services", "web"],
        &["services", "web", "shape"],
        &["services", "web", "polls", "[]"],
        &["services", "web", "edge"],
        &["services", "web", "edge", "check"],
        &["services", "web", "edge", "eject"],
        &["services", "web", "scale"],
        &["usage"],
        &["https"],
        &["releases"],
        &["releases", "smoke", "[]"],
        &["cluster"],
        &["tenants"],
        &["tenants", "region_routing"],
        &["https", "acme"],
        &["hosts"],
        &["headers"],
        &["compression"],
        &["data"],
        &["data", "redis"],
        &["data", "objects"],
        &["data", "hooks"],
        &["data", "hooks", "create"],
        &["data", "hooks", "suspend"],
        &["data", "hooks", "resume"],
        &["data", "hooks", "plan"],
        &["data", "hooks", "delete"],
        &["archives"],
        &["archives", "s3"],
        &["placement"],
        &["data", "links", "[]"],
        &["plans", "p"],
        &["plans", "p", "limits"],
        &["limits"],
        &["cells", "c"],
        &["cells", "c", "server"],
        &["quotas", "q"],
        &["registries", "r.example.com"],
        &["modes"],
        &["modes", "multi_tenant"],
        &["modes", "single_tenant"],
        &["budget"],
        &["alerts"],
        &["alerts", "cpu_percent"],
        &["backups"],
        &["failover"],
        &["check"],
        &["check", "silence", "[]"],
    ] {
        assert_eq!(known_to_the_reader(place), known_to_the_schema(place), "{place:?}");
    }
}

/// Whether a value's keys and plain types are what the schema says: enough to see that an example was forgotten.
fn fits(root: &Value, node: &Value, value: &Value, key: &str, wrong: &mut Vec<String>) {
    let node = resolved(root, node);
    if let Some(ways) = node.get("oneOf").and_then(Value::as_array) {
        let fitting = ways.iter().filter(|way| {
            let mut wrong = Vec::new();
            fits(root, way, value, key, &mut wrong);
            wrong.is_empty()
        });
        if fitting.count() != 1 {
            wrong.push(format!("{key} fits not exactly one way"));
        }
        return;
    }
    let kind = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::Null => return,
    };
    let allowed = match node.get("type") {
        Some(Value::String(one)) => one == kind,
        Some(Value::Array(several)) => several.iter().any(|one| one == kind),
        _ => true,
    };
    let listed = node.get("enum").and_then(Value::as_array).is_none_or(|words| words.contains(value));
    if !allowed || !listed {
        wrong.push(format!("{key} is {value}"));
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        let below = format!("{key}.{name}");
        match node.pointer(&format!("/properties/{name}")).or_else(|| node.get("additionalProperties")) {
            Some(Value::Bool(false)) | None => wrong.push(format!("{below} is unknown")),
            Some(Value::Bool(true)) => {}
            Some(schema) => fits(root, schema, inner, &below, wrong),
        }
    }
    for (n, inner) in value.as_array().into_iter().flatten().enumerate() {
        if let Some(schema) = node.get("items") {
            fits(root, schema, inner, &format!("{key}[{n}]"), wrong);
        }
    }
}

#[test]
fn every_example_fits_the_schema_and_a_mistake_does_not() {
    let root = schema();
    let judge = |value: &Value| {
        let mut wrong = Vec::new();
        fits(&root, &root, value, "", &mut wrong);
        wrong
    };
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for folder in fs::read_dir(examples).expect("the examples are part of the repository").flatten() {
        let text = fs::read_to_string(folder.path().join("berth.yaml")).expect("each has a stack file");
        let value = berth_config::json(&tree::parse(&text).expect("it is YAML"));
        assert_eq!(judge(&value), Vec::<String>::new(), "{}", folder.path().display());
    }
    let wrong =
        serde_json::json!({ "stack": "s", "services": { "web": { "speed": 1, "role": "wbe", "copies": "two" } } });
    assert_eq!(judge(&wrong).len(), 3, "{:?}", judge(&wrong));
}
