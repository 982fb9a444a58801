//! Files as they arrive when something went wrong on the way: cut off, in another encoding, made to blow up. Each is refused
//! with a place, or means what it meant.

use berth_config::{Environment, Stack, no_files, parse, tree};
use std::{collections::BTreeMap, fs, path::Path};

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

fn read(text: &str, example: &str) -> Result<Stack, berth_config::Mistakes> {
    let files = |name: &str| fs::read_to_string(folder().join(example).join(name));
    // Variables are not looked up: a text that refers to one would be refused from there on, wherever it ends.
    parse(text, None, &files)
}

/// Every value of a tree by its path, as text.
fn values(value: &serde_json::Value, path: &str, found: &mut BTreeMap<String, String>) {
    let text = match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                values(value, &format!("{path}.{key}"), found);
            }
            return;
        }
        serde_json::Value::Array(items) => {
            for (n, value) in items.iter().enumerate() {
                values(value, &format!("{path}[{n}]"), found);
            }
            return;
        }
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string().trim_end_matches(".0").to_owned(),
    };
    found.insert(path.to_owned(), text);
}

fn values_of(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    values(&berth_config::json(&tree::parse(text).expect("it was read a moment ago")), "", &mut found);
    found
}

/// At every byte at which a text can be cut off.
fn cut_off(example: &str) {
    let text = fs::read_to_string(folder().join(example).join("berth.yaml")).expect("it is part of the repository");
    let whole = values_of(&text);
    let (mut taken, mut refused) = (0, 0);
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        match read(&text[..end], example) {
            // Where a line ends the rest is a file too; whoever sends files says how long they are. What it says is
            // what the whole says there, but for the value that was cut.
            Ok(_) => {
                taken += 1;
                let differing: Vec<_> = values_of(&text[..end])
                    .into_iter()
                    .filter(|(path, value)| whole.get(path) != Some(value))
                    .collect();
                let cut = |(path, value): &(String, String)| {
                    value.is_empty() || whole.get(path).is_some_and(|all| all.starts_with(value.as_str()))
                };
                assert!(differing.len() <= 1 && differing.iter().all(cut), "cut at {end}: {differing:?}");
            }
            Err(mistakes) => {
                refused += 1;
                for mistake in mistakes.iter() {
                    assert!(mistake.line.is_some() || !mistake.key.is_empty(), "cut at {end}: no place: {mistakes}");
                }
            }
        }
    }
    // Within keys, quotes, brackets and what has to be there.
    assert!(refused > text.len() / 10 && taken > 0, "{refused} refused, {taken} taken of {}", text.len());
    let first = text.find("health:").expect("a web service says it");
    assert!(read(&text[..first], example).is_err(), "half a service is none");
}

#[test]
fn webhost_cut_off_anywhere_is_refused_with_a_place_or_is_a_file() {
    cut_off("webhost");
}

#[test]
fn chrono_scraper_cut_off_anywhere_is_refused_with_a_place_or_is_a_file() {
    cut_off("chrono-scraper");
}

#[test]
fn linkflow_cut_off_anywhere_is_refused_with_a_place_or_is_a_file() {
    cut_off("linkflow");
}

#[test]
fn veloflux_cut_off_anywhere_is_refused_with_a_place_or_is_a_file() {
    cut_off("veloflux");
}

#[test]
fn fleet_cut_off_anywhere_is_refused_with_a_place_or_is_a_file() {
    cut_off("fleet");
}

const GOOD: &str = "stack: s\nservices:\n  web: { command: [./web], health: /health }\n";

fn mistakes(text: &str) -> String {
    match parse(text, Some(&Environment::default()), &no_files) {
        Ok(stack) => panic!("taken without a word: {stack:?}"),
        Err(mistakes) => mistakes.to_string(),
    }
}

#[test]
fn a_mark_of_byte_order_changes_nothing_and_texts_read_in_another_encoding_are_refused() {
    let good = read(GOOD, "fleet").expect("it is good");
    assert_eq!(read(&format!("\u{feff}{GOOD}"), "fleet").expect("the mark is none of the text"), good);
    assert_eq!(read(&GOOD.replace('\n', "\r\n"), "fleet").expect("nor are the ends of lines"), good);
    // UTF-16 taken for Latin-1, as editors do: every other character is a NUL.
    let wide: String = GOOD.encode_utf16().flat_map(u16::to_le_bytes).map(char::from).collect();
    let found = mistakes(&wide);
    assert!(!found.is_empty(), "{found}");
    // Bytes that were no UTF-8 and have become replacement characters.
    let found = mistakes(&GOOD.replace("web:", "w\u{fffd}b:"));
    assert!(found.contains("line 3"), "{found}");
}

#[test]
fn what_blows_up_repeats_itself_or_is_no_number_is_refused_with_its_line() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let ten = vec![format!("*a{}", n - 1); 10].join(", ");
        laughs.extend([format!("a{n}: &a{n} [{ten}]\n")]);
    }
    let with = |section: &str| format!("{GOOD}{section}\n");
    for (text, says) in [
        (laughs, "nested or repeated too much"),
        (with("cells: { a: { class: shared }, a: { class: pool } }"), "line 4"),
        (with("stack: other"), "line 4"),
        // What one anchor says twice is read twice, and means the same.
        (with("plans: { a: &p { price: 1.00, class: shared, limits: { rates: 3 } }, b: *p }"), "rates"),
        (with("plans: { a: { price: -1.00, class: shared } }"), "plans.a.price"),
        (with("plans: { a: { price: .nan, class: shared } }"), "plans.a.price"),
        (with("plans: { a: { price: .inf, class: shared } }"), "plans.a.price"),
        (with("plans: { a: { price: 1e400, class: shared } }"), "plans.a.price"),
        (with("plans: { a: { price: 1.005, class: shared } }"), "plans.a.price"),
        (with("cells: { a: { class: shared, max_tenants: -0 } }"), "cells.a.max_tenants"),
        (with("cells: { a: { class: shared, max_tenants: 1e3 } }"), "cells.a.max_tenants"),
        (with("cells: { a: { class: shared, price: -5 } }"), "cells.a.price"),
        (with("budget: { amount: -50, currency: EUR }"), "budget.amount"),
        (with("budget: { amount: 50, currency: euro }"), "budget.currency"),
        (with("modes: { multi_tenant: { statement_timeout: 1e400 } }"), "statement_timeout"),
    ] {
        let found = mistakes(&text);
        assert!(found.contains(says), "{} gave: {found}", &text[..text.len().min(200)]);
    }
}

#[test]
fn ten_megabytes_of_nesting_end_at_once_in_every_reader() {
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", "")] {
        let text = format!("a: {}{}", open.repeat(5_000_000), close.repeat(5_000_000));
        assert!(mistakes(&text).contains("bytes long"), "by its length alone");
        // What other readers of the same trees see, who have bounds of their own on length.
        let part = format!("a: {}", open.repeat(300_000));
        assert!(tree::parse(&part).is_err(), "{open}");
    }
}
