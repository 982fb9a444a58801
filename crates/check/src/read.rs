//! Texts become trees with lines, each by the library for its format. Never looks at what a key means.

mod elixir;
mod environment;
mod toml_tree;

use berth_config::{
    NotText,
    tree::{self, Node, Value},
};
use nginx_lint_parser::ast::Config;

pub use elixir::{Token, tokens};

/// A file to be checked.
#[derive(Clone, Debug)]
pub struct Source {
    /// As people know it; findings name it so.
    pub path: String,
    /// Otherwise why there is none.
    pub text: Result<String, Unread>,
}

/// Bytes that are no text to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    pub line: Option<u64>,
    pub why: String,
    pub remedy: String,
}

impl Source {
    pub fn new(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let text = berth_config::text_of(bytes).map_err(|why| Unread {
            line: Some(why.line()),
            why: match why {
                NotText::Wide => why.to_string(),
                // The finding names its line already.
                NotText::Other { .. } => "it is not in UTF-8".to_owned(),
            },
            remedy: why.hint().to_owned(),
        });
        Self { path: path.into(), text }
    }

    /// One that nobody wrote by hand, and whose text was not read.
    pub fn too_large(path: impl Into<String>, bytes: u64) -> Self {
        let why = format!("it is {bytes} bytes long");
        let remedy = "leave it out of the check, or say what it says in fewer words".to_owned();
        Self { path: path.into(), text: Err(Unread { line: None, why, remedy }) }
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Stack,
    Environment,
    Compose,
    Nginx,
    Fly,
    /// Configuration or source in Elixir.
    Elixir,
    Certificate,
    /// Instructions for people.
    Runbook,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stack => "stack file",
            Self::Environment => "variables",
            Self::Compose => "compose file",
            Self::Nginx => "nginx configuration",
            Self::Fly => "fly.toml",
            Self::Elixir => "Elixir configuration",
            Self::Certificate => "certificate",
            Self::Runbook => "runbook",
        }
    }

    /// By its name, and for YAML by its first keys.
    pub fn of(path: &str, text: &str) -> Option<Self> {
        let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        let yaml = matches!(ending, "yaml" | "yml");
        let has = |key: &str| text.lines().any(|line| line.trim_end().starts_with(key));
        Some(match ending {
            _ if yaml && (name.starts_with("berth.") || has("stack:")) => Self::Stack,
            _ if yaml && (name.contains("compose") || has("services:")) => Self::Compose,
            _ if name == ".env" || name.starts_with(".env.") || ending == "env" => Self::Environment,
            "conf" | "nginx" => Self::Nginx,
            "toml" if name.starts_with("fly") || has("app =") => Self::Fly,
            "exs" | "ex" => Self::Elixir,
            "pem" | "crt" | "cer" => Self::Certificate,
            "md" | "txt" => Self::Runbook,
            _ => return None,
        })
    }
}

/// A file that could be read.
#[derive(Clone)]
pub struct File {
    pub path: String,
    pub kind: Kind,
    pub text: String,
    /// Empty for formats without keys.
    pub tree: Node,
    pub nginx: Option<Config>,
}

/// Why a file could not be read.
pub struct Unreadable {
    pub line: Option<u64>,
    pub message: String,
}

pub fn read(path: &str, text: &str, kind: Kind) -> Result<File, Unreadable> {
    let empty = || Node { line: 1, value: Value::Null };
    let (tree, nginx) = match kind {
        Kind::Stack | Kind::Compose => (yaml(text)?, None),
        Kind::Environment => (environment::read(text)?, None),
        Kind::Fly => (toml_tree::read(text)?, None),
        Kind::Elixir => (elixir::read(text), None),
        Kind::Nginx => (empty(), Some(nginx(text)?)),
        Kind::Certificate | Kind::Runbook => (empty(), None),
    };
    Ok(File { path: path.to_owned(), kind, text: text.to_owned(), tree, nginx })
}

fn yaml(text: &str) -> Result<Node, Unreadable> {
    tree::parse(text).map_err(|mistakes| {
        let first = mistakes.iter().next();
        Unreadable {
            line: first.and_then(|m| m.line),
            message: first.map_or_else(String::new, |m| m.problem.to_string()),
        }
    })
}

fn nginx(text: &str) -> Result<Config, Unreadable> {
    nginx_lint_parser::parse_string(text).map_err(|error| {
        let line = error.position().map(|at| at.line as u64);
        let whole = error.to_string();
        let message = whole.split(" at line ").next().unwrap_or(&whole).to_lowercase();
        Unreadable { line, message }
    })
}

/// The line, counted from 1, in which a byte lies.
fn line_at(text: &str, byte: usize) -> u64 {
    text.as_bytes()[..byte.min(text.len())].split(|b| *b == b'\n').count() as u64
}
