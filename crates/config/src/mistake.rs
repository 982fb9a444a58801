//! What is wrong with a stack file, in words for whoever wrote it.
//!
//! Never quotes a value of `env` or of a provider's settings: those may be secrets.

use berth_domain::BadName;
use std::fmt;

/// One thing wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// `services.web.port`; empty for the file as a whole.
    pub key: String,
    /// Counted from 1; absent where the file has no line to point at.
    pub line: Option<u64>,
    /// The file over the stack file that says it, if it is not the stack file itself.
    pub file: Option<String>,
    pub problem: Problem,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("the file is {bytes} bytes long")]
    TooLarge { bytes: usize },
    #[error("{message}")]
    NotYaml { message: String },
    #[error("nested or repeated too much: {message}")]
    TooMuch { message: String },
    #[error("unknown key")]
    UnknownKey { known: Vec<&'static str> },
    #[error("the key is there twice, first in line {first_line}")]
    DuplicateKey { first_line: u64 },
    #[error("`{name}` is named twice")]
    NamedTwice { name: String },
    #[error("missing")]
    Missing { example: &'static str },
    #[error("should be {wanted}, is {found}")]
    WrongType { wanted: &'static str, found: &'static str },
    #[error("should be {wanted}, is {found}")]
    OutOfRange { wanted: String, found: String },
    #[error("`{found}` is none of {}", list(.known))]
    NoneOf { found: String, known: Vec<&'static str> },
    #[error("no {what} is called `{name}`")]
    Dangling { what: &'static str, name: String, known: Vec<String> },
    #[error(transparent)]
    BadName(BadName),
    #[error("{message}")]
    Malformed { message: &'static str, hint: &'static str },
    #[error("variable `{name}` is not set")]
    MissingVariable { name: String },
    #[error("`{path}` cannot be read: {reason}")]
    UnreadableFile { path: String, reason: String },
    #[error("cannot stand beside `{other}`")]
    Excludes { other: &'static str, why: &'static str },
    #[error("requests to {what} would pass a public network without TLS")]
    InTheOpen { what: String, remedy: &'static str },
    #[error("would have no effect: {why}")]
    NotYet { why: &'static str },
}

impl Problem {
    /// What to write instead, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooLarge { .. } => Some(format!("a stack file has at most {} bytes", crate::FILE_BYTES_MAX)),
            Self::TooMuch { .. } => Some("write it out plainly, without deep nesting or repeated anchors".to_owned()),
            Self::UnknownKey { known } if known.is_empty() => None,
            Self::UnknownKey { known } => Some(format!("known here: {}", list(known))),
            Self::DuplicateKey { .. } => Some("keep one of the two".to_owned()),
            Self::NamedTwice { .. } => Some("name it once".to_owned()),
            Self::Missing { example } => Some(format!("for example `{example}`")),
            Self::WrongType { found: "a fraction", .. } => {
                Some("put it in quotes to keep its digits as they are".to_owned())
            }
            Self::WrongType { wanted: "a list", found: "text" } => {
                Some("put it in brackets, as in `[one, two]`".to_owned())
            }
            Self::Dangling { what, known, .. } if known.is_empty() => Some(format!("the file has no {what} yet")),
            Self::Dangling { known, .. } => Some(format!("there are {}", list(known))),
            Self::Malformed { hint, .. } | Self::Excludes { why: hint, .. } | Self::InTheOpen { remedy: hint, .. } => {
                Some((*hint).to_owned())
            }
            Self::MissingVariable { name } => Some(format!("set `{name}`, or write `$$` for a dollar sign")),
            Self::NotYet { .. } => Some("leave it out; a key without effect is refused rather than ignored".to_owned()),
            Self::NotYaml { .. } => Some(
                "look at that line and the one before it: a bracket, a quote or an indentation may be off".to_owned(),
            ),
            Self::WrongType { .. }
            | Self::OutOfRange { .. }
            | Self::NoneOf { .. }
            | Self::BadName(_)
            | Self::UnreadableFile { .. } => None,
        }
    }
}

fn list<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file} ")?;
        }
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        write!(f, "{}", self.problem)
    }
}

/// All that is wrong with a file, in the order of its lines. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// `Err` with the mistakes, unless there are none.
    pub(crate) fn none_in(mut mistakes: Vec<Mistake>) -> Result<(), Self> {
        mistakes.sort_by(|a, b| {
            (&a.file, a.line.unwrap_or(u64::MAX), &a.key).cmp(&(&b.file, b.line.unwrap_or(u64::MAX), &b.key))
        });
        if mistakes.is_empty() { Ok(()) } else { Err(Self(mistakes)) }
    }

    pub(crate) fn one(problem: Problem, line: Option<u64>) -> Self {
        Self(vec![Mistake { key: String::new(), line, file: None, problem }])
    }

    /// What is found only where the file is put in force. `None`: nothing.
    pub fn found(mistakes: Vec<Mistake>) -> Option<Self> {
        Self::none_in(mistakes).err()
    }

    /// The same, said by a file over the stack file.
    pub(crate) fn of(mut self, file: Option<&str>) -> Self {
        for mistake in &mut self.0 {
            mistake.file = file.map(str::to_owned);
        }
        self
    }

    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{mistake}")?;
            if let Some(hint) = mistake.problem.hint() {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
