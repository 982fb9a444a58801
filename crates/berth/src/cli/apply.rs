//! `berth apply`.

use super::{CliError, Context, text, watch};
use berth_config::{Environment, Stack, json, over, parse_layers, tree};
use berth_wire::{DifferenceKind, StackApplied, StackApply};
use clap::Args;
use jiff::Timestamp;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

#[derive(Args, Debug)]
pub struct Apply {
    /// The stack file
    #[arg(long, short = 'f', default_value = "berth.yaml", value_name = "FILE")]
    file: PathBuf,
    /// With the file of this environment over it: `staging` is `berth.staging.yaml`
    #[arg(long, short = 'e', value_name = "NAME")]
    environment: Option<String>,
    /// Show the difference and stop
    #[arg(long)]
    dry_run: bool,
    /// Return once the work has begun, without watching it
    #[arg(long)]
    detach: bool,
}

impl Apply {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let mut wanted = read(&self.file, self.environment.as_deref(), cx.now)?;
        let shown = cx.client.stack_apply(&wanted).await?;
        if self.dry_run || shown.differences.is_empty() {
            return cx.show(&shown, screen);
        }
        cx.agree(&screen(&shown), "Apply it?")?;
        wanted.dry_run = false;
        let applied = cx.client.stack_apply(&wanted).await?;
        if !self.detach {
            for operation in &applied.operations {
                watch::success(watch::to_its_end(cx, *operation).await?)?;
            }
        }
        cx.show(&applied, screen)
    }
}

/// The stack file, the file of an environment over it, and those they name.
pub struct StackFiles {
    path: PathBuf,
    /// Names and texts: the stack file first.
    pub layers: Vec<(String, String)>,
    files: RefCell<BTreeMap<String, String>>,
}

impl StackFiles {
    pub fn read(path: &Path, environment: Option<&str>) -> Result<Self, CliError> {
        let mut paths = vec![path.to_owned()];
        paths.extend(environment.map(|name| of_environment(path, name)));
        let mut layers = Vec::new();
        for path in paths {
            let text = text::read(&path)?;
            let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            layers.push((name, text));
        }
        Ok(Self { path: path.to_owned(), layers, files: RefCell::default() })
    }

    /// Mistakes are found here already, all at once, without asking a server; the server checks again, with its own
    /// environment.
    pub fn parse(&self) -> Result<Stack, CliError> {
        self.parse_with(None)
    }

    /// The same; `environment`: what the server will know as variables.
    pub fn parse_with(&self, environment: Option<&Environment>) -> Result<Stack, CliError> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let take = |name: &str| {
            let text = fs::read_to_string(folder.join(name))?;
            self.files.borrow_mut().insert(name.to_owned(), text.clone());
            Ok(text)
        };
        let layers: Vec<_> = self.layers.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        parse_layers(&layers, environment, &take)
            .map_err(|mistakes| CliError::Stack { path: self.path.clone(), mistakes })
    }

    /// What a server is sent: the stack file as it is, or joined with its environment's.
    fn joined(&self) -> String {
        let [(_, only)] = self.layers.as_slice() else {
            let trees = self.layers.iter().map(|(_, text)| tree::parse(text).expect("it was read a moment ago"));
            let upper =
                |lower, upper: tree::Node| if upper.value == tree::Value::Null { lower } else { over(lower, &upper) };
            return trees.reduce(upper).map_or_else(String::new, |tree| json(&tree).to_string());
        };
        only.clone()
    }
}

/// `berth.yaml` and `staging` are `berth.staging.yaml`.
fn of_environment(path: &Path, name: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}.{name}.{ending}"))
}

fn read(path: &Path, environment: Option<&str>, now: Timestamp) -> Result<StackApply, CliError> {
    let files = StackFiles::read(path, environment)?;
    let stack = files.parse()?;
    let wrong = berth_control::check::placement(&stack, now);
    if !wrong.is_empty() {
        let all: Vec<String> = wrong.iter().map(|(key, says)| format!("`{key}` {says}")).collect();
        let detail = format!("{} cannot be applied:\n{}", path.display(), all.join("\n"));
        return Err(CliError::request(detail, "docs/decide.md describes `placement`"));
    }
    Ok(StackApply { dry_run: true, ..stack_apply(&files) })
}

/// What a server is sent, once the files were parsed.
pub fn stack_apply(files: &StackFiles) -> StackApply {
    StackApply { file: files.joined(), files: files.files.borrow().clone(), dry_run: false }
}

fn screen(applied: &StackApplied) -> String {
    let warnings: String = applied.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    if applied.differences.is_empty() {
        return format!("Nothing differs from revision {}.\n{warnings}", applied.revision);
    }
    let mut text = String::new();
    for difference in &applied.differences {
        let before = difference.before.as_deref().unwrap_or("?");
        let after = difference.after.as_deref().unwrap_or("?");
        text.push_str(&match difference.kind {
            DifferenceKind::Added => format!("+ {}: {after}\n", difference.path),
            DifferenceKind::Removed => format!("- {}: {before}\n", difference.path),
            DifferenceKind::Changed => format!("~ {}: {before} -> {after}\n", difference.path),
        });
    }
    let n = applied.differences.len();
    let s = if n == 1 { "" } else { "s" };
    text.push_str(&if applied.dry_run {
        format!("\n{n} difference{s} to revision {}. Nothing was changed.\n", applied.revision)
    } else {
        format!("\nRevision {} is in force, {n} difference{s}.\n", applied.revision)
    });
    text + &warnings
}

#[cfg(test)]
mod tests {
    use super::{of_environment, read, screen};
    use crate::cli::CliError;
    use berth_wire::{Difference, DifferenceKind, StackApplied};

    #[test]
    fn a_difference_reads_like_one() {
        let applied = StackApplied {
            revision: 3,
            dry_run: true,
            differences: vec![
                Difference {
                    kind: DifferenceKind::Changed,
                    path: "plans.starter.price".into(),
                    before: Some("$49.00".into()),
                    after: Some("$59.00".into()),
                },
                Difference {
                    kind: DifferenceKind::Added,
                    path: "cells.fra-2.class".into(),
                    before: None,
                    after: Some("dedicated".into()),
                },
            ],
            operations: vec![],
            warnings: vec!["requests to `web` pass a public network".to_owned()],
        };
        assert_eq!(
            screen(&applied),
            "\
~ plans.starter.price: $49.00 -> $59.00
+ cells.fra-2.class: dedicated

2 differences to revision 3. Nothing was changed.
warning: requests to `web` pass a public network
"
        );
    }

    #[test]
    fn an_environments_file_lies_beside_the_stack_file() {
        let path = |text: &str| std::path::PathBuf::from(text);
        assert_eq!(of_environment(&path("a/berth.yaml"), "staging"), path("a/berth.staging.yaml"));
        assert_eq!(of_environment(&path("shop.yml"), "test"), path("shop.test.yml"));
    }

    #[test]
    fn a_missing_file_is_the_callers_mistake() {
        let error = read(std::path::Path::new("/nowhere/berth.yaml"), None, jiff::Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(matches!(error, CliError::File { .. }));
        assert_eq!(error.exit_status(), 1);
    }
}
