//! `/check`: what is wrong with the stack file in force, or with files that somebody pastes and that are looked at
//! together. Changes nothing and keeps nothing.

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
    /// What others carry out.
    stated: Vec<String>,
    files: Vec<Pasted>,
}

/// A place for a file: filled as it was sent, or empty.
struct Pasted {
    number: usize,
    path: String,
    text: String,
}

/// Files that one look takes; a stack has a handful.
const FILES_MOST: usize = 12;
/// Empty places below those that were filled.
const SPARE: usize = 2;
/// What is usual, for the first places.
const USUAL: [&str; 5] = ["berth.yaml", ".env", "docker-compose.yml", "nginx.conf", "fly.toml"];

/// `GET /check`: of the stack file in force.
pub async fn page(session: Session) -> Result<Response, Failure> {
    shown(&session, Vec::new()).await
}

/// `POST /check`: of the files that were pasted, together.
pub async fn look(change: Change) -> Result<Response, Failure> {
    let mut files: Vec<CheckFile> = Vec::new();
    for number in 0..FILES_MOST {
        // Browsers send lines with the ends of another century.
        let text = change.whole(&format!("text{number}")).replace("\r\n", "\n");
        if text.trim().is_empty() {
            continue;
        }
        let Some(path) = change.field(&format!("path{number}")).map(str::to_owned) else {
            let detail = format!("the text of file {} has no name", number + 1);
            return Err(Failure::Field { detail, hint: "its name says what it is, as in nginx.conf".to_owned() });
        };
        if files.iter().any(|known| known.path == path) {
            let detail = format!("there are two files of the name {path}");
            return Err(Failure::Field { detail, hint: "write the folder too, as in eu/nginx.conf".to_owned() });
        }
        files.push(CheckFile { path, text });
    }
    shown(&change.session, files).await
}

async fn shown(session: &Session, files: Vec<CheckFile>) -> Result<Response, Failure> {
    let asked = CheckAsk { files, only: Vec::new() };
    let report: CheckReport = session.send(Method::POST, "/v1/check", &asked, &super::session::once()).await?;
    let count = |severity: &str| report.findings.iter().filter(|found| found.severity == severity).count();
    let (errors, warnings) = (count("error"), count("warning"));
    let pasted = asked.files;
    let usual = USUAL.iter().filter(|name| !pasted.iter().any(|file| file.path == **name));
    let usual: Vec<String> = usual.map(|name| (*name).to_owned()).collect();
    html(&CheckPage {
        frame: Frame::of(session, "check"),
        of: if pasted.is_empty() {
            "the stack file in force".to_owned()
        } else {
            let looked = |it: &berth_wire::CheckLooked| format!("{} ({})", it.path, it.kind);
            report.files.iter().map(looked).collect::<Vec<_>>().join(", ")
        },
        found: format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
        silenced: report
            .silenced
            .into_iter()
            .map(|it| (format!("{}: {}", it.finding.rule, it.finding.message), it.reason))
            .collect(),
        stated: report.stated,
        rows: report.findings.into_iter().map(Row::of).collect(),
        files: places(pasted, usual),
    })
}

fn places(pasted: Vec<CheckFile>, usual: Vec<String>) -> Vec<Pasted> {
    let filled = pasted.into_iter().map(|file| (file.path, file.text));
    let spare = usual.into_iter().chain(std::iter::repeat(String::new())).take(SPARE).map(|name| (name, String::new()));
    let all = filled.chain(spare).take(FILES_MOST).enumerate();
    all.map(|(number, (path, text))| Pasted { number, path, text }).collect()
}

fn plural(n: usize, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}
