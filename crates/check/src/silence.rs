//! Findings that the stack file lets stand, each with a reason. A silence that silences nothing is a finding itself:
//! it would hide the next one.

use crate::{Finding, Report, Severity, Silenced, node::Ask, world::World};

struct Silence {
    rule: String,
    file: Option<String>,
    reason: String,
    line: u64,
    used: bool,
}

pub fn apply(world: &World<'_>, found: Vec<Finding>, only: &[String], report: &mut Report) {
    let Some(stack) = world.stack() else {
        report.findings.extend(found);
        return;
    };
    let written = stack.tree.at(&["check", "silence"]).map(Ask::items).unwrap_or_default();
    let mut silences: Vec<Silence> = written
        .iter()
        .filter_map(|item| {
            let text = |key: &str| item.at(&[key])?.text();
            let reason = text("reason").filter(|reason| reason.trim().chars().count() >= 10)?;
            Some(Silence { rule: text("rule")?, file: text("file"), reason, line: item.line, used: false })
        })
        .collect();
    for finding in found {
        let fits = |silence: &&mut Silence| {
            let file = silence.file.as_ref();
            silence.rule == finding.rule && file.is_none_or(|file| finding.file.ends_with(file.as_str()))
        };
        match silences.iter_mut().find(fits) {
            Some(silence) => {
                silence.used = true;
                report.silenced.push(Silenced { finding, reason: silence.reason.clone() });
            }
            None => report.findings.push(finding),
        }
    }
    for silence in silences.iter().filter(|s| !s.used && (only.is_empty() || only.contains(&s.rule))) {
        let known = crate::rule(&silence.rule).is_some();
        report.findings.push(Finding {
            rule: "silence-unused",
            severity: Severity::Warning,
            file: stack.path.clone(),
            line: Some(silence.line),
            key: "check.silence".to_owned(),
            message: if known {
                format!("nothing is found by `{}` that this would silence", silence.rule)
            } else {
                format!("no rule is called `{}`", silence.rule)
            },
            remedy: if known { "take it out" } else { "`berth check --explain` lists the rules" }.to_owned(),
        });
    }
}
