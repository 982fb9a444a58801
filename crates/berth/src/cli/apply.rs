//! `berth apply`.

use super::{CliError, Context, watch};
use berth_wire::{DifferenceKind, StackApplied, StackApply};
use clap::Args;
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
    /// Show the difference and stop
    #[arg(long)]
    dry_run: bool,
    /// Return once the work has begun, without watching it
    #[arg(long)]
    detach: bool,
}

impl Apply {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let mut wanted = read(&self.file)?;
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

/// Reads the file and those it names. Mistakes are found here already, all at once, without asking a server; the
/// server checks again, with its own environment.
fn read(path: &Path) -> Result<StackApply, CliError> {
    let file = fs::read_to_string(path).map_err(|source| CliError::File { path: path.to_owned(), source })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let files = RefCell::new(BTreeMap::new());
    let take = |name: &str| {
        let text = fs::read_to_string(folder.join(name))?;
        files.borrow_mut().insert(name.to_owned(), text.clone());
        Ok(text)
    };
    berth_config::parse(&file, None, &take).map_err(|mistakes| CliError::Stack { path: path.to_owned(), mistakes })?;
    Ok(StackApply { file, files: files.into_inner(), dry_run: true })
}

fn screen(applied: &StackApplied) -> String {
    if applied.differences.is_empty() {
        return format!("Nothing differs from revision {}.\n", applied.revision);
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
    text
}

#[cfg(test)]
mod tests {
    use super::{read, screen};
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
        };
        assert_eq!(
            screen(&applied),
            "\
~ plans.starter.price: $49.00 -> $59.00
+ cells.fra-2.class: dedicated

2 differences to revision 3. Nothing was changed.
"
        );
    }

    #[test]
    fn a_missing_file_is_the_callers_mistake() {
        let error = read(std::path::Path::new("/nowhere/berth.yaml")).unwrap_err();
        assert!(matches!(error, CliError::File { .. }));
        assert_eq!(error.exit_status(), 1);
    }
}
