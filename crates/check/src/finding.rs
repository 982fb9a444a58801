//! What a rule found, and how a finding reads. Never quotes a value that could be a secret: rules name keys.

use serde::Serialize;
use std::fmt;

/// How bad it is if nobody acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Fails now, leaks now, or promises what cannot be kept. `berth check` ends with 1.
    Error,
    /// Works today and costs somebody a night later.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that a rule found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub rule: &'static str,
    pub severity: Severity,
    /// As it was named.
    pub file: String,
    /// Counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// `services.db.ports`; empty where the format has no keys.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    pub message: String,
    pub remedy: String,
}

/// A finding that the stack file lets stand, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Silenced {
    #[serde(flatten)]
    pub finding: Finding,
    pub reason: String,
}

/// A file and what it was taken for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Looked {
    pub path: String,
    pub kind: &'static str,
}

/// All that a check found, by file and line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub files: Vec<Looked>,
    pub findings: Vec<Finding>,
    pub silenced: Vec<Silenced>,
    /// What the stack file states and Berth does not carry out, a sentence for each section.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stated: Vec<String>,
}

impl Report {
    /// What running servers gave, after what stands in files.
    pub fn add_live(&mut self, asked: Vec<String>, found: Vec<Finding>, options: &crate::Options) {
        self.files.extend(asked.into_iter().map(|path| Looked { path, kind: "running server" }));
        let wanted = |rule: &str| options.only.is_empty() || options.only.iter().any(|only| only == rule);
        self.findings.extend(found.into_iter().filter(|finding| wanted(finding.rule)));
    }

    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {} [{}] ", self.severity, self.rule)?;
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        write!(f, "{}\n  remedy: {}", self.message, self.remedy)
    }
}
