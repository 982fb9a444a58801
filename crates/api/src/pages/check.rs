//! `/check`: what is wrong with the stack file in force, or with a file that somebody pastes. Changes nothing and keeps
//! nothing.

use super::{
    failure::{Failure, html},
    session::{Change, Session},
    shown::{Frame, State, state},
};
use askama::Template;
use axum::{http::Method, response::Response};
use berth_wire::{CheckAsk, CheckFile, CheckFinding, CheckReport};

struct Row {
    look: State,
    rule: String,
    place: String,
    key: String,
    message: String,
    remedy: String,
}

impl Row {
    fn of(found: CheckFinding) -> Self {
        Self {
            look: if found.severity == "error" { state("error", "bad") } else { state("warning", "busy") },
            rule: found.rule,
            place: found.line.map_or_else(|| found.file.clone(), |line| format!("{}:{line}", found.file)),
            key: found.key,
            message: found.message,
            remedy: found.remedy,
        }
    }
}

#[derive(Template)]
#[template(path = "pages/check.html")]
struct CheckPage {
    frame: Frame,
    /// What was looked at.
    of: String,
    found: String,
    rows: Vec<Row>,
    silenced: Vec<(String, String)>,
    path: String,
    text: String,
}

/// `GET /check`: of the stack file in force.
pub async fn page(session: Session) -> Result<Response, Failure> {
    shown(&session, Vec::new()).await
}

/// `POST /check`: of one file that was pasted.
pub async fn look(change: Change) -> Result<Response, Failure> {
    let path = change.field("path").unwrap_or("berth.yaml").to_owned();
    // Browsers send lines with the ends of another century.
    let text = change.whole("text").replace("\r\n", "\n");
    let files = if text.trim().is_empty() { Vec::new() } else { vec![CheckFile { path, text }] };
    shown(&change.session, files).await
}

async fn shown(session: &Session, files: Vec<CheckFile>) -> Result<Response, Failure> {
    let asked = CheckAsk { files, only: Vec::new() };
    let report: CheckReport = session.send(Method::POST, "/v1/check", &asked, &super::session::once()).await?;
    let count = |severity: &str| report.findings.iter().filter(|found| found.severity == severity).count();
    let (errors, warnings) = (count("error"), count("warning"));
    let pasted = asked.files.into_iter().next();
    html(&CheckPage {
        frame: Frame::of(session, "check"),
        of: match (&pasted, report.files.first()) {
            (None, _) => "the stack file in force".to_owned(),
            (Some(file), Some(looked)) => format!("{} ({})", file.path, looked.kind),
            (Some(file), None) => file.path.clone(),
        },
        found: format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
        silenced: report
            .silenced
            .into_iter()
            .map(|it| (format!("{}: {}", it.finding.rule, it.finding.message), it.reason))
            .collect(),
        rows: report.findings.into_iter().map(Row::of).collect(),
        path: pasted.as_ref().map_or_else(|| "berth.yaml".to_owned(), |file| file.path.clone()),
        text: pasted.map(|file| file.text).unwrap_or_default(),
    })
}

fn plural(n: usize, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}
