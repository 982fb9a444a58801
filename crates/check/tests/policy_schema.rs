//! What the schema for editors says of `placement` is what the placement engine reads.

use berth_placement::{Catalogue, Fault, Mistakes, Policy};
use jiff::civil::date;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().expect("it is a map").keys().cloned().collect()
}

#[test]
fn schema_and_engine_know_the_same_keys_of_a_policy() {
    let schema: Value = serde_json::from_str(berth_config::SCHEMA).expect("the schema is JSON");
    let said = |pointer: &str| {
        let node = schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is not in the schema"));
        assert_eq!(node["additionalProperties"], false, "{pointer} takes any key");
        keys(&node["properties"])
    };
    let rule =
        json!({ "name": "all", "when": { "users": { "at_least": 1 } }, "allow": ["shared", "pool", "dedicated"] });
    let policy: Policy = serde_json::from_value(json!({ "rules": [rule] })).expect("it is a policy");
    let read = serde_json::to_value(&policy).expect("it has text keys only");
    let place = "/properties/placement/properties/policy";
    assert_eq!(said(place), keys(&read));
    let rule = &read["rules"][0];
    assert_eq!(said(&format!("{place}/properties/rules/items")), keys(rule));
    assert_eq!(said(&format!("{place}/properties/rules/items/properties/when")), keys(&rule["when"]));
    assert_eq!(said("/$defs/bounds"), keys(&rule["when"]["users"]));
}

const CATALOGUE: &str = "/properties/placement/properties/catalogue";

/// The keys that the engine names when one in this place is not a key.
fn read_here(place: &[&str]) -> BTreeSet<String> {
    let mut text = "{ zzz: 1 }".to_owned();
    for name in place.iter().rev() {
        text = if *name == "[]" { format!("[{text}]") } else { format!("{{ {name}: {text} }}") };
    }
    let Err(Mistakes(mistakes)) = Catalogue::over(&text, date(2026, 11, 21)) else { panic!("{place:?} takes any key") };
    let known = mistakes.into_iter().find_map(|mistake| match mistake.fault {
        Fault::UnknownKey { known } if mistake.key.ends_with("zzz") => Some(known),
        _ => None,
    });
    known.unwrap_or_else(|| panic!("{place:?} takes any key")).into_iter().map(str::to_owned).collect()
}

#[test]
fn schema_and_engine_know_the_same_keys_of_a_catalogue() {
    let schema: Value = serde_json::from_str(berth_config::SCHEMA).expect("the schema is JSON");
    for place in [
        &[][..],
        &["rates"],
        &["locations", "new"],
        &["regions", "new"],
        &["providers", "new"],
        &["providers", "new", "rate_limit"],
        &["providers", "new", "quotas", "[]"],
        &["providers", "new", "credits", "[]"],
        &["providers", "new", "regions", "new"],
        &["providers", "new", "regions", "new", "benchmarks"],
        &["providers", "new", "shapes", "new"],
        &["offers", "new"],
        &["offers", "new", "promises"],
    ] {
        let mut node = schema.pointer(CATALOGUE).expect("the schema has a catalogue");
        for name in place {
            node = match *name {
                "[]" => &node["items"],
                "new" => &node["additionalProperties"],
                name => &node["properties"][name],
            };
        }
        assert_eq!(node["additionalProperties"], false, "{place:?} takes any key");
        assert_eq!(keys(&node["properties"]), read_here(place), "{place:?}");
    }
}

/// Keys and kinds of a value that the schema does not have.
fn misfits(node: &Value, value: &Value, key: &str) -> Vec<String> {
    let kind = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::Null => "null",
    };
    let mut wrong = Vec::new();
    let is = |word: &Value| word == kind;
    let typed = node["type"].as_array().map_or(node["type"].is_null() || is(&node["type"]), |all| all.iter().any(is));
    if !typed || node["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        wrong.push(format!("{key} is {value}"));
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        let below = format!("{key}.{name}");
        match node["properties"].get(name).or_else(|| Some(&node["additionalProperties"]).filter(|it| it.is_object())) {
            Some(node) => wrong.extend(misfits(node, inner, &below)),
            None => wrong.push(format!("{below} is not a key")),
        }
    }
    for inner in value.as_array().into_iter().flatten() {
        wrong.extend(misfits(&node["items"], inner, key));
    }
    wrong
}

#[test]
fn the_shipped_catalogue_fits_the_schema() {
    let schema: Value = serde_json::from_str(berth_config::SCHEMA).expect("the schema is JSON");
    let node = schema.pointer(CATALOGUE).expect("the schema has a catalogue");
    let shipped = include_str!("../../placement/src/catalogue.yaml");
    let shipped = berth_config::json(&berth_config::tree::parse(shipped).expect("it is YAML"));
    assert_eq!(misfits(node, &shipped, "catalogue"), Vec::<String>::new());
    let own = json!({ "providers": { "fly": { "prise": 1, "regions": { "iad": null } } }, "rates": { "as_of": 5 } });
    assert_eq!(misfits(node, &own, "catalogue").len(), 3, "{:?}", misfits(node, &own, "catalogue"));
}
