//! Takes values out of a parsed YAML or JSON document and notes what does not fit, instead of stopping there.
//!
//! Knows types and keys in general, nothing of catalogues. Lines are not kept: a key such as
//! `providers.hetzner.shapes.cx22.price` finds its place in a file that people search.

use jiff::civil::Date;
use serde_json::{Map, Value};
use std::fmt;

/// What is wrong with one value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("is missing")]
    Missing,
    #[error("is not a key here; known: {}", known.join(", "))]
    UnknownKey { known: Vec<&'static str> },
    #[error("is not {wanted}")]
    WrongType { wanted: &'static str },
    #[error("is {found}, and has to be {wanted}")]
    OutOfRange { wanted: String, found: String },
    #[error("is negative: {0}")]
    NegativePrice(String),
    #[error("names the currency `{currency}`, for which there is no rate")]
    UnknownCurrency { currency: String },
    #[error("names the {what} `{name}`, which is not there; known: {}", known.join(", "))]
    Dangling { what: &'static str, name: String, known: Vec<String> },
    #[error("has no price, so what is made of it has none")]
    NoPrice,
    #[error("has {found} entries, more than the {most} that are told apart")]
    TooMany { found: usize, most: usize },
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

impl Fault {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing => "add the key",
            Self::UnknownKey { .. } => "remove the key, or write it as it is known",
            Self::WrongType { .. } | Self::OutOfRange { .. } => "write a value of that kind",
            Self::NegativePrice(_) => "a price is zero or more; leave it out where it is not known",
            Self::UnknownCurrency { .. } => "add the currency to `rates.usd`: what one unit of it costs in US dollars",
            Self::Dangling { .. } => "write a name that is there, or add it",
            Self::NoPrice => "give the shape a price, or take it out of `parts`",
            Self::TooMany { .. } => "take out what nobody uses",
            Self::Unreadable(_) => "it has to be one YAML document without doubled keys",
        }
    }
}

/// One mistake and the key that leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub key: String,
    pub fault: Fault,
}

/// Everything that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Mistake { key, fault }) in self.0.iter().enumerate() {
            let gap = if n == 0 { "" } else { "\n" };
            write!(f, "{gap}`{key}` {fault} ({})", fault.hint())?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// A value and the key that leads to it.
#[derive(Clone, Debug)]
pub struct At<'a> {
    pub key: String,
    pub value: &'a Value,
}

impl<'a> At<'a> {
    pub fn below(&self, key: &str, value: &'a Value) -> Self {
        At { key: if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) }, value }
    }
}

/// A map whose keys are known.
pub struct Section<'a> {
    at: At<'a>,
    map: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    pub fn get(&self, key: &str) -> Option<At<'a>> {
        self.map.get(key).filter(|value| !value.is_null()).map(|value| self.at.below(key, value))
    }
}

#[derive(Debug, Default)]
pub struct Reader {
    pub mistakes: Vec<Mistake>,
}

impl Reader {
    pub fn note(&mut self, key: impl Into<String>, fault: Fault) {
        self.mistakes.push(Mistake { key: key.into(), fault });
    }

    pub fn need<'a>(&mut self, section: &Section<'a>, key: &str) -> Option<At<'a>> {
        let found = section.get(key);
        if found.is_none() {
            self.note(section.at.below(key, section.at.value).key, Fault::Missing);
        }
        found
    }

    fn map<'a>(&mut self, at: &At<'a>) -> Option<&'a Map<String, Value>> {
        let map = at.value.as_object();
        if map.is_none() {
            self.note(at.key.clone(), Fault::WrongType { wanted: "a map of keys and values" });
        }
        map
    }

    pub fn section<'a>(&mut self, at: &At<'a>, known: &[&'static str]) -> Option<Section<'a>> {
        let map = self.map(at)?;
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            self.note(at.below(key, at.value).key, Fault::UnknownKey { known: known.to_vec() });
        }
        Some(Section { at: at.clone(), map })
    }

    pub fn entries<'a>(&mut self, at: &At<'a>) -> Vec<(String, At<'a>)> {
        let Some(map) = self.map(at) else { return Vec::new() };
        map.iter().map(|(key, value)| (key.clone(), at.below(key, value))).collect()
    }

    pub fn list<'a>(&mut self, at: &At<'a>) -> Vec<At<'a>> {
        let Some(list) = at.value.as_array() else {
            self.note(at.key.clone(), Fault::WrongType { wanted: "a list" });
            return Vec::new();
        };
        list.iter().enumerate().map(|(n, value)| At { key: format!("{}[{n}]", at.key), value }).collect()
    }

    pub fn text(&mut self, at: &At<'_>) -> Option<String> {
        let text = at.value.as_str().map(str::to_owned);
        if text.is_none() {
            self.note(at.key.clone(), Fault::WrongType { wanted: "text" });
        }
        text
    }

    pub fn texts(&mut self, at: &At<'_>) -> Vec<String> {
        self.list(at).iter().filter_map(|item| self.text(item)).collect()
    }

    pub fn date(&mut self, at: &At<'_>) -> Option<Date> {
        let date = at.value.as_str().and_then(|text| text.parse().ok());
        if date.is_none() {
            self.note(at.key.clone(), Fault::WrongType { wanted: "a date such as 2026-11-21" });
        }
        date
    }

    pub fn whole(&mut self, at: &At<'_>, least: u64, most: u64) -> Option<u64> {
        if let Some(number) = at.value.as_u64().filter(|number| (least..=most).contains(number)) {
            return Some(number);
        }
        let wanted = format!("a whole number from {least} to {most}");
        self.note(at.key.clone(), Fault::OutOfRange { wanted, found: at.value.to_string() });
        None
    }

    pub fn degrees(&mut self, at: &At<'_>, most: f64) -> Option<f64> {
        let degrees = at.value.as_f64().filter(|number| number.abs() <= most);
        if degrees.is_none() {
            let wanted = format!("degrees from -{most} to {most}");
            self.note(at.key.clone(), Fault::OutOfRange { wanted, found: at.value.to_string() });
        }
        degrees
    }

    /// A price or a rate in millionths, read from its digits so that `0.10` is exact.
    pub fn micros(&mut self, at: &At<'_>) -> Option<i64> {
        let text = match at.value {
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            _ => String::new(),
        };
        let negative = text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if negative {
            self.note(at.key.clone(), Fault::NegativePrice(text));
            return None;
        }
        let micros = micros(&text);
        if micros.is_none() {
            let wanted = "an amount from 0 to 999999999 with at most six decimals".to_owned();
            self.note(at.key.clone(), Fault::OutOfRange { wanted, found: at.value.to_string() });
        }
        micros
    }
}

fn micros(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &str, most: usize| !t.is_empty() && t.len() <= most && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole, 9) || !digits(part, 6) {
        return None;
    }
    let scale = 10_i64.pow(6 - u32::try_from(part.len()).ok()?);
    Some(whole.parse::<i64>().ok()? * 1_000_000 + part.parse::<i64>().ok()? * scale)
}
