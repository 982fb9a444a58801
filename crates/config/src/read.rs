//! Takes values out of the tree and notes what does not fit, instead of stopping there.
//!
//! Every method answers `None` after noting a mistake, so that the caller goes on with the next key. Knows types and
//! keys in general, no section of the stack file.

use crate::{
    Mistake, Problem,
    tree::{Entry, Node, Value},
};
use berth_domain::BadName;
use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

/// A value and the key that leads to it.
#[derive(Clone, Debug)]
pub struct At<'a> {
    pub key: String,
    pub node: &'a Node,
}

/// A map whose keys are known beforehand.
pub struct Section<'a> {
    pub key: String,
    line: u64,
    entries: &'a [Entry],
}

/// Collects mistakes.
#[derive(Debug, Default)]
pub struct Reader {
    pub mistakes: Vec<Mistake>,
}

impl<'a> At<'a> {
    fn below(&self, key: &str, node: &'a Node) -> Self {
        Self { key: join(&self.key, key), node }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl<'a> Section<'a> {
    /// The value of a key, if it is there and has one. Of a doubled key the first: the second is noted already.
    pub fn get(&self, key: &str) -> Option<At<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == key && entry.value.value != Value::Null)?;
        Some(At { key: join(&self.key, key), node: &entry.value })
    }

    /// Every key with its value.
    pub fn values(&self) -> Vec<(String, At<'a>)> {
        let value = |entry: &'a Entry| (entry.key.clone(), At { key: join(&self.key, &entry.key), node: &entry.value });
        self.entries.iter().map(value).collect()
    }

    /// The value of a key that has to be there.
    pub fn need(&self, key: &str, example: &'static str, reader: &mut Reader) -> Option<At<'a>> {
        let found = self.get(key);
        if found.is_none() {
            reader.note(join(&self.key, key), Some(self.line), Problem::Missing { example });
        }
        found
    }
}

impl Reader {
    pub fn note(&mut self, key: String, line: Option<u64>, problem: Problem) {
        self.mistakes.push(Mistake { key, line, file: None, problem });
    }

    /// Notes a problem with a value.
    pub fn wrong(&mut self, at: &At<'_>, problem: Problem) {
        self.note(at.key.clone(), Some(at.node.line), problem);
    }

    fn wrong_type<T>(&mut self, at: &At<'_>, wanted: &'static str) -> Option<T> {
        self.wrong(at, Problem::WrongType { wanted, found: at.node.value.kind() });
        None
    }

    /// A map with these keys and no others.
    pub fn section<'a>(&mut self, at: &At<'a>, known: &[&'static str]) -> Option<Section<'a>> {
        self.section_but(at, known, &[])
    }

    /// The same, where others are known too and judged by the caller.
    pub fn section_but<'a>(
        &mut self,
        at: &At<'a>,
        known: &[&'static str],
        others: &[&'static str],
    ) -> Option<Section<'a>> {
        let section = self.open_section(at)?;
        for entry in section.entries {
            if !known.contains(&entry.key.as_str()) && !others.contains(&entry.key.as_str()) {
                let problem = Problem::UnknownKey { known: known.to_vec() };
                self.note(join(&at.key, &entry.key), Some(entry.line), problem);
            }
        }
        Some(section)
    }

    /// A map with whatever keys, none of them doubled.
    pub fn open_section<'a>(&mut self, at: &At<'a>) -> Option<Section<'a>> {
        let Value::Map(entries) = &at.node.value else {
            return self.wrong_type(at, "a map of keys and values");
        };
        for (n, entry) in entries.iter().enumerate() {
            if let Some(first) = entries[..n].iter().find(|earlier| earlier.key == entry.key) {
                let problem = Problem::DuplicateKey { first_line: first.line };
                self.note(join(&at.key, &entry.key), Some(entry.line), problem);
            }
        }
        Some(Section { key: at.key.clone(), line: at.node.line, entries })
    }

    /// A map from names to values: pairs whose name is right and is not there before.
    pub fn named<'a, N>(&mut self, at: &At<'a>) -> Vec<(N, At<'a>)>
    where
        N: FromStr<Err = BadName>,
    {
        let Some(section) = self.open_section(at) else { return Vec::new() };
        let mut pairs = Vec::new();
        for (n, entry) in section.entries.iter().enumerate() {
            let value = at.below(&entry.key, &entry.value);
            match entry.key.parse() {
                _ if section.entries[..n].iter().any(|earlier| earlier.key == entry.key) => {}
                Ok(name) => pairs.push((name, value)),
                Err(bad) => self.note(value.key, Some(entry.line), Problem::BadName(bad)),
            }
        }
        pairs
    }

    /// A map from free text to values.
    pub fn pairs<'a>(&mut self, at: &At<'a>) -> Vec<(String, At<'a>)> {
        let Some(section) = self.open_section(at) else { return Vec::new() };
        section.values()
    }

    pub fn list<'a>(&mut self, at: &At<'a>) -> Option<Vec<At<'a>>> {
        let Value::List(items) = &at.node.value else {
            return self.wrong_type(at, "a list");
        };
        let item = |(n, node)| At { key: format!("{}[{n}]", at.key), node };
        Some(items.iter().enumerate().map(item).collect())
    }

    pub fn text<'a>(&mut self, at: &At<'a>) -> Option<&'a str> {
        match &at.node.value {
            Value::Text(text) => Some(text),
            _ => self.wrong_type(at, "text"),
        }
    }

    /// Text, or a number or truth value that can only be written one way.
    pub fn loose_text(&mut self, at: &At<'_>) -> Option<String> {
        match &at.node.value {
            Value::Text(text) => Some(text.clone()),
            Value::Int(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => self.wrong_type(at, "text"),
        }
    }

    pub fn truth(&mut self, at: &At<'_>) -> Option<bool> {
        match at.node.value {
            Value::Bool(truth) => Some(truth),
            _ => self.wrong_type(at, "true or false"),
        }
    }

    pub fn number<T>(&mut self, at: &At<'_>, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + Display + Copy,
    {
        let Value::Int(number) = at.node.value else {
            return self.wrong_type(at, "a whole number");
        };
        if let Some(fits) = T::try_from(number).ok().filter(|n| range.contains(n)) {
            return Some(fits);
        }
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        self.wrong(at, Problem::OutOfRange { wanted, found: number.to_string() });
        None
    }

    pub fn name<N>(&mut self, at: &At<'_>) -> Option<N>
    where
        N: FromStr<Err = BadName>,
    {
        let text = self.loose_text(at)?;
        text.parse().map_err(|bad| self.wrong(at, Problem::BadName(bad))).ok()
    }

    /// One of a few words.
    pub fn one_of<T: Copy>(&mut self, at: &At<'_>, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(at)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let known = words.iter().map(|(word, _)| *word).collect();
        self.wrong(at, Problem::NoneOf { found: text.to_owned(), known });
        None
    }
}
