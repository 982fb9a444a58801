//! What the API promises is checked in, so that no change of it goes unnoticed.

use std::{fs, path::Path};

#[test]
fn the_description_is_the_one_that_is_checked_in() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let now = berth_api::openapi().to_pretty_json().unwrap() + "\n";
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    if checked_in != now {
        let new = path.with_extension("json.new");
        fs::write(&new, &now).unwrap();
        let line = now.lines().zip(checked_in.lines()).position(|(a, b)| a != b).map_or(0, |at| at + 1);
        panic!(
            "the API changed (first at line {line}). Where that is meant, `mv {} {}` and say in the commit what clients \
             must know",
            new.display(),
            path.display()
        );
    }
}

#[test]
fn every_path_says_how_it_refuses() {
    let description = serde_json::to_value(berth_api::openapi()).unwrap();
    assert_eq!(description["openapi"], "3.1.0");
    assert!(description["components"]["schemas"]["Problem"].is_object(), "what refusals refer to is there");
    for (path, verbs) in description["paths"].as_object().unwrap() {
        for (verb, operation) in verbs.as_object().unwrap() {
            for class in ["4XX", "5XX"] {
                let refusal = &operation["responses"][class]["content"]["application/problem+json"];
                assert!(refusal.is_object(), "{verb} {path} does not say how it refuses with {class}");
            }
            assert!(operation["description"].is_string() || operation["summary"].is_string(), "{verb} {path}");
        }
    }
}
