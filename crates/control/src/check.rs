//! `berth check` as a server does it: over texts that it is handed, or over the stack file in force.
//!
//! Asks no other server: what is live is looked at from where it runs, by the command line.

use crate::{App, ControlError, Permit, Read, decide};
use berth_check::{Finding, Options, Source};
use berth_config::Stack;
use berth_wire as wire;
use jiff::{Timestamp, tz::TimeZone};

pub async fn run(app: &App, _permit: &Permit<Read>, asked: &wire::CheckAsk) -> Result<wire::CheckReport, ControlError> {
    let mut sources: Vec<Source> =
        asked.files.iter().map(|file| Source::new(file.path.clone(), file.text.clone())).collect();
    if sources.is_empty() {
        let newest = app.store().stack_newest().await?.ok_or(ControlError::NoStack)?;
        sources.push(Source::new("berth.yaml", newest.source));
    }
    let options = Options { now: Timestamp::now(), only: asked.only.clone() };
    // Reading some megabytes by all rules takes a while, and nobody else should wait for it.
    let look = move || berth_check::check_with(&sources, &options, &placement);
    let report = tokio::task::spawn_blocking(look).await.map_err(ControlError::Cut)?;
    Ok(wire::CheckReport {
        files: report
            .files
            .into_iter()
            .map(|file| wire::CheckLooked { path: file.path, kind: file.kind.to_owned() })
            .collect(),
        findings: report.findings.into_iter().map(finding).collect(),
        silenced: report
            .silenced
            .into_iter()
            .map(|it| wire::CheckSilenced { finding: finding(it.finding), reason: it.reason })
            .collect(),
        stated: report.stated,
    })
}

/// What is wrong with the section `placement`: the engine could not decide by it.
pub fn placement(stack: &Stack, now: Timestamp) -> Vec<(String, String)> {
    decide::wrong_settings(stack, now.to_zoned(TimeZone::UTC).date())
}

fn finding(found: Finding) -> wire::CheckFinding {
    wire::CheckFinding {
        rule: found.rule.to_owned(),
        severity: found.severity.to_string(),
        file: found.file,
        line: found.line,
        key: found.key,
        message: found.message,
        remedy: found.remedy,
    }
}
