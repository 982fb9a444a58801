//! What rules look at: all files of a check together, and where they put what they find.

use crate::{Finding, Judge, Kind, Rule, Severity, node::Ask, read::File};
use jiff::Timestamp;

pub struct World<'a> {
    pub files: &'a [File],
    pub now: Timestamp,
    /// Only asked about stack files without a mistake.
    pub judge: Judge<'a>,
}

/// A variable that some file sets for a process.
pub struct Variable<'a> {
    pub file: &'a File,
    pub line: u64,
    /// `services.web.environment.POOL_SIZE`.
    pub key: String,
    /// The service, where the file has several.
    pub service: Option<String>,
    pub name: String,
    pub value: String,
}

impl<'a> World<'a> {
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &'a File> + use<'a> {
        self.files.iter().filter(move |file| file.kind == kind)
    }

    /// The stack file itself; the files of environments lie over it.
    pub fn stack(&self) -> Option<&'a File> {
        self.of(Kind::Stack).find(|file| file.tree.entry("stack").is_some())
    }

    /// Services of a compose or stack file, by name.
    pub fn services(file: &File) -> Vec<(&str, &berth_config::tree::Node, u64)> {
        let Some(services) = file.tree.entry("services") else { return Vec::new() };
        services.value.entries().iter().map(|entry| (entry.key.as_str(), &entry.value, entry.line)).collect()
    }

    pub fn variables(&self) -> Vec<Variable<'a>> {
        let mut found = Vec::new();
        for file in self.files {
            match file.kind {
                Kind::Environment => each(file, &file.tree, String::new(), None, &mut found),
                Kind::Fly => {
                    if let Some(env) = file.tree.entry("env") {
                        each(file, &env.value, "env.".to_owned(), None, &mut found);
                    }
                }
                Kind::Compose | Kind::Stack => {
                    let key = if file.kind == Kind::Compose { "environment" } else { "env" };
                    for (name, service, _) in Self::services(file) {
                        if let Some(env) = service.entry(key) {
                            let prefix = format!("services.{name}.{key}.");
                            each(file, &env.value, prefix, Some(name), &mut found);
                        }
                    }
                    for mode in [MULTI, SINGLE].into_iter().filter(|_| file.kind == Kind::Stack) {
                        if let Some(env) = file.tree.at(&["modes", mode, "env"]) {
                            each(file, env, of_mode(mode), None, &mut found);
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }
}

/// Cells for many tenants, and those of one tenant's own.
pub const MULTI: &str = "multi_tenant";
pub const SINGLE: &str = "single_tenant";

/// What the keys of variables begin with that every process of such a cell is told.
pub fn of_mode(mode: &str) -> String {
    format!("modes.{mode}.env.")
}

/// How many of a stack file's service run in a cell at most.
pub fn copies(service: &berth_config::tree::Node) -> f64 {
    let most = service.at(&["scale", "max"]).or_else(|| service.at(&["copies"]));
    most.and_then(Ask::number).unwrap_or(1.0)
}

/// A map of variables, or compose's list of `NAME=value`.
fn each<'a>(
    file: &'a File,
    node: &'a berth_config::tree::Node,
    prefix: String,
    service: Option<&str>,
    found: &mut Vec<Variable<'a>>,
) {
    let service = || service.map(str::to_owned);
    for entry in node.entries() {
        let value = entry.value.text().unwrap_or_default();
        let key = format!("{prefix}{}", entry.key);
        found.push(Variable { file, line: entry.line, key, service: service(), name: entry.key.clone(), value });
    }
    for item in node.items() {
        let text = item.text().unwrap_or_default();
        let (name, value) = text.split_once('=').unwrap_or((&text, ""));
        let key = format!("{prefix}{name}");
        found.push(Variable {
            file,
            line: item.line,
            key,
            service: service(),
            name: name.to_owned(),
            value: value.to_owned(),
        });
    }
}

/// Takes findings, under the rule that runs.
#[derive(Default)]
pub struct Out {
    pub findings: Vec<Finding>,
    rule: Option<(&'static str, Severity)>,
}

impl Out {
    pub fn begin(&mut self, rule: &Rule) {
        self.rule = Some((rule.id, rule.severity));
    }

    pub fn note(&mut self, file: &File, line: u64, key: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let (rule, severity) = self.rule.unwrap_or(("unreadable", Severity::Error));
        self.findings.push(Finding {
            rule,
            severity,
            file: file.path.clone(),
            line: Some(line),
            key: key.to_owned(),
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    /// The last finding rests on what is usual, not on what a file says.
    pub fn soften(&mut self) {
        if let Some(last) = self.findings.last_mut() {
            last.severity = Severity::Warning;
        }
    }

    pub fn unreadable(&mut self, path: &str, line: Option<u64>, why: &str, remedy: &str) {
        self.findings.push(Finding {
            rule: "unreadable",
            severity: Severity::Error,
            file: path.to_owned(),
            line,
            key: String::new(),
            message: format!("this file cannot be read: {why}"),
            remedy: remedy.to_owned(),
        });
    }
}
