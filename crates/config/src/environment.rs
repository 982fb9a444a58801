//! Variables that a stack file may refer to.
//!
//! Holds what the binary handed over; never reads the process environment, and never prints a value.

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Names and values that `${NAME}` may stand for.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, SecretString>);

impl Environment {
    pub fn get(&self, name: &str) -> Option<&SecretString> {
        self.0.get(name)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), SecretString::from(value.into()))).collect())
    }
}

/// A value refers to a variable that nobody set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("variable `{name}` is not set")]
pub struct MissingVariable {
    pub name: String,
}

/// Text in which `${NAME}` stands for a variable and `$$` for a dollar sign.
///
/// Kept unresolved until a process is started: what is stored and shown as a difference is the reference, never the
/// secret behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template(String);

/// A `$` that begins neither `${NAME}` nor `$$`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a `$` begins neither `${{NAME}}` nor `$$`")]
pub struct BadTemplate;

enum Part<'a> {
    Text(&'a str),
    Variable(&'a str),
}

impl Template {
    pub fn new(text: impl Into<String>) -> Result<Self, BadTemplate> {
        let text = text.into();
        parts(&text, |_| ())?;
        Ok(Self(text))
    }

    /// As the file has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Every variable it refers to.
    pub fn variables(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.each(|part| {
            if let Part::Variable(name) = part {
                names.push(name);
            }
        });
        names
    }

    /// What is written out in it replaced; references stay.
    pub(crate) fn masked(&self, mask: &str) -> String {
        let mut shown = String::new();
        self.each(|part| match part {
            // A dash or a colon between two references is no secret.
            Part::Text(text) if text.contains(char::is_alphanumeric) => {
                if !shown.ends_with(mask) {
                    shown.push_str(mask);
                }
            }
            Part::Text(text) => shown.push_str(text),
            Part::Variable(name) => shown.extend(["${", name, "}"]),
        });
        shown
    }

    pub fn resolve(&self, environment: &Environment) -> Result<SecretString, MissingVariable> {
        let mut value = String::new();
        let mut missing = None;
        self.each(|part| match part {
            Part::Text(text) => value.push_str(text),
            Part::Variable(name) => match environment.get(name) {
                Some(found) => value.push_str(found.expose_secret()),
                None => missing = missing.take().or(Some(MissingVariable { name: name.to_owned() })),
            },
        });
        missing.map_or_else(|| Ok(SecretString::from(value)), Err)
    }

    fn each<'a>(&'a self, take: impl FnMut(Part<'a>)) {
        parts(&self.0, take).expect("`new` has read this text to its end");
    }
}

fn parts<'a>(text: &'a str, mut take: impl FnMut(Part<'a>)) -> Result<(), BadTemplate> {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        take(Part::Text(before));
        if let Some(after) = after.strip_prefix('$') {
            take(Part::Text("$"));
            rest = after;
        } else {
            let (name, after) = after.strip_prefix('{').and_then(|a| a.split_once('}')).ok_or(BadTemplate)?;
            if !is_variable(name) {
                return Err(BadTemplate);
            }
            take(Part::Variable(name));
            rest = after;
        }
    }
    take(Part::Text(rest));
    Ok(())
}

/// `A-Z`, `a-z`, `0-9` and `_`, not beginning with a digit: what every shell and platform can pass on.
pub(crate) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl TryFrom<String> for Template {
    type Error = BadTemplate;
    fn try_from(text: String) -> Result<Self, BadTemplate> {
        Self::new(text)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.0
    }
}

#[cfg(test)]
mod tests {
    use super::{BadTemplate, Environment, MissingVariable, Template};
    use secrecy::ExposeSecret as _;

    #[test]
    fn a_template_resolves_variables_and_keeps_doubled_dollars() {
        let environment: Environment = [("HOST", "db"), ("EMPTY", "")].into_iter().collect();
        let resolve =
            |text: &str| Template::new(text).unwrap().resolve(&environment).map(|v| v.expose_secret().to_owned());
        for (text, value) in [
            ("", ""),
            ("plain", "plain"),
            ("a${HOST}b", "adbb"),
            ("${EMPTY}", ""),
            ("5$$", "5$"),
            ("$${HOST}", "${HOST}"),
        ] {
            assert_eq!(resolve(text), Ok(value.to_owned()), "{text}");
        }
        assert_eq!(resolve("${HOST}${NONE}"), Err(MissingVariable { name: "NONE".to_owned() }));
    }

    #[test]
    fn a_lone_dollar_is_refused_rather_than_guessed_at() {
        for text in ["$", "a$b", "${", "${}", "${A", "${1A}", "${A B}", "$HOME"] {
            assert_eq!(Template::new(text), Err(BadTemplate), "{text}");
        }
    }

    #[test]
    fn a_value_is_never_printed() {
        let environment: Environment = [("KEY", "hunter2")].into_iter().collect();
        assert!(!format!("{environment:?}").contains("hunter2"));
    }
}
