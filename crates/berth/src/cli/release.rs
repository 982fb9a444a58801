//! `berth release …`: what the services run, by digest, and how it comes to the cells.

use super::{CliError, Context, table::Table, units};
use berth_domain::{CellName, RollCellState, RollState};
use berth_wire::{
    BackAsk, Release as Shown, ReleaseCreate, ReleaseShown, ReleaseStatus, Roll, RollAsk, RollCell, RollPlan,
};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use std::{collections::BTreeMap, fmt::Write as _, str::FromStr, time::Duration};

#[derive(Subcommand, Debug)]
pub enum Release {
    /// Name what services run, by digest; the same set again is the same release
    Create(Create),
    /// All releases, and the cells that run them
    List,
    /// One release: what it runs, every time it was rolled, and what its migrations wrote
    Show { release: Number },
    /// Bring a release to the cells, wave by wave
    Roll(RollOut),
    /// What each cell runs, and how far the last release is
    Status,
    /// Give the cells what ran before, all at once
    Back(Back),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  berth release create web=registry.example.com/shop/web@sha256:9f86d0…
  berth release create web=/opt/shop/2.4/web@sha256:$(sha256sum /opt/shop/2.4/web | cut -d' ' -f1)")]
pub struct Create {
    /// An image with its registry, or the absolute path of a program on the cells' hosts
    #[arg(required = true, value_name = "SERVICE=NAME@sha256:…", value_parser = pair)]
    services: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (service, artifact) = text.split_once('=').ok_or("it should be SERVICE=NAME@sha256:…")?;
    Ok((service.to_owned(), artifact.to_owned()))
}

/// `r7`, or `7`. `stack`: what the stack file alone says.
#[derive(Clone, Copy, Debug)]
pub struct Number(u32);

impl FromStr for Number {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "stack" {
            return Ok(Self(0));
        }
        let digits = text.strip_prefix('r').unwrap_or(text);
        digits.parse().map(Self).map_err(|_| "a release is r1, r2 and so on".to_owned())
    }
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  berth release roll r7 --dry-run          the waves, and what is left out
  berth release roll r7 --wait --yes       from a pipeline: ends when every cell has it, or with 1 when one failed
  berth release roll r7 --to fra-1         this cell alone")]
pub struct RollOut {
    release: Number,
    /// Only these cells
    #[arg(long, value_name = "CELL", num_args = 1..)]
    to: Vec<CellName>,
    /// Stay until it is over
    #[arg(long)]
    wait: bool,
    /// Show the waves and stop
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
pub struct Back {
    /// Another one than what ran before; `stack` is what the stack file alone says
    #[arg(long, value_name = "RELEASE")]
    to: Option<Number>,
    /// Stay until it is over
    #[arg(long)]
    wait: bool,
    /// Show what would happen and stop
    #[arg(long)]
    dry_run: bool,
}

impl Release {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::Create(create) => {
                let services: BTreeMap<String, String> = create.services.into_iter().collect();
                let made = cx.client.release_create(&ReleaseCreate { services }).await?;
                cx.show(&made, |made| {
                    let number = made.number;
                    format!("r{number}\n{}`berth release roll r{number}` brings it to the cells\n", artifacts(made))
                })
            }
            Self::List => {
                let all = cx.client.releases().await?;
                cx.show(&all, |all| list(all, cx.now))
            }
            Self::Show { release } => {
                let found = cx.client.release(release.0).await?;
                cx.show(&found, |found| one(found, cx.now))
            }
            Self::Roll(roll) => {
                let ask = RollAsk { release: roll.release.0, to: roll.to };
                let plan = cx.client.roll_plan(&ask).await?;
                if roll.dry_run {
                    return cx.show(&plan, waves);
                }
                cx.agree(&waves(&plan), "Roll it?")?;
                let begun = cx.client.roll(&ask).await?;
                follow(cx, begun, roll.wait).await
            }
            Self::Status => {
                let status = cx.client.rollout().await?;
                cx.show(&status, |status| state(status, cx.now))
            }
            Self::Back(back) => {
                let ask = BackAsk { to: back.to.map(|number| number.0) };
                let plan = cx.client.back_plan(&ask).await?;
                if back.dry_run {
                    return cx.show(&plan, waves);
                }
                cx.agree(&waves(&plan), "Go back?")?;
                let begun = cx.client.roll_back(&ask).await?;
                follow(cx, begun, back.wait).await
            }
        }
    }
}

/// Until it is over, where that was asked for. A release that stopped is a failure of the command.
async fn follow(cx: &Context, begun: Roll, wait: bool) -> Result<(), CliError> {
    let mut roll = begun;
    while wait && roll.state == RollState::Rolling {
        tokio::time::sleep(Duration::from_millis(500)).await;
        match cx.client.rollout().await?.roll {
            Some(now) if now.number == roll.number => roll = now,
            // Somebody went back meanwhile; how this one ended stands with its release.
            _ => {
                let shown = cx.client.release(roll.release).await?;
                match shown.rolls.into_iter().find(|known| known.number == roll.number) {
                    Some(ended) => roll = ended,
                    None => break,
                }
            }
        }
    }
    cx.show(&roll, |roll| rolled(roll, cx.now))?;
    if roll.state == RollState::Stopped {
        let reason = roll.reason.clone().unwrap_or_else(|| "it was stopped".to_owned());
        let hint = "`berth release back` gives the cells that have it what ran before".to_owned();
        return Err(CliError::request(format!("{} stopped: {reason}", said(roll.release)), hint));
    }
    Ok(())
}

fn said(release: u32) -> String {
    if release == 0 { "the stack file's".to_owned() } else { format!("r{release}") }
}

fn artifacts(release: &Shown) -> String {
    release.services.iter().map(|(service, artifact)| format!("  {service}={artifact}\n")).collect()
}

fn cells(names: &[CellName]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ") }
}

fn list(all: &[Shown], now: Timestamp) -> String {
    let mut table = Table::new(&["RELEASE", "CELLS", "SERVICES", "BY", "MADE"]);
    for release in all {
        let current = if release.current { " (current)" } else { "" };
        table.row([
            format!("r{}{current}", release.number),
            cells(&release.cells),
            release.services.keys().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            release.created_by.clone(),
            units::ago(release.created_at, now),
        ]);
    }
    table.or("No releases yet: `berth release create web=IMAGE@sha256:…`")
}

fn one(found: &ReleaseShown, now: Timestamp) -> String {
    let release = &found.release;
    let current = if release.current { ", which new cells run" } else { "" };
    let mut text = format!("r{}{current}\n{}cells: {}\n", release.number, artifacts(release), cells(&release.cells));
    for roll in &found.rolls {
        let _ = write!(text, "\n{}", rolled(roll, now));
        for cell in &roll.cells {
            if let Some(output) = cell.output.as_deref().filter(|output| !output.trim().is_empty()) {
                let lines: String = output.trim_end().lines().map(|line| format!("    {line}\n")).collect();
                let _ = write!(text, "  migrate in {}:\n{lines}", cell.cell);
            }
        }
    }
    text
}

fn waves(plan: &RollPlan) -> String {
    let mut text = String::new();
    if plan.waves.is_empty() {
        text.push_str("Nothing to do.\n");
    }
    for (n, wave) in plan.waves.iter().enumerate() {
        let names = wave.iter().map(|cell| {
            let gets = cell.gets.map(|gets| format!(", gets {}", said(gets))).unwrap_or_default();
            format!("{} ({}{gets})", cell.cell, said(cell.before))
        });
        let _ = writeln!(text, "wave {}: {}", n + 1, names.collect::<Vec<_>>().join(", "));
    }
    if !plan.waves.is_empty() {
        let pause =
            plan.pause_ms.map_or(String::new(), |ms| format!(", {} between waves", units::seconds(ms as f64 / 1000.0)));
        let migrate = if plan.back { "no migration is run" } else { "`migrate` first in each cell" };
        let workers = if plan.workers == "beside" { "beside" } else { "after" };
        let _ = writeln!(text, "{migrate}; workers start {workers} the old ones{pause}");
    }
    for left in &plan.left_out {
        let _ = writeln!(text, "left out: {}: {}", left.cell, left.why);
    }
    text
}

const fn word(cell: &RollCell) -> &'static str {
    match cell.state {
        RollCellState::Waiting => "waits",
        RollCellState::Rolling => "rolling",
        RollCellState::Done => "has it",
        RollCellState::Failed => "failed",
    }
}

fn rolled(roll: &Roll, now: Timestamp) -> String {
    let way = if roll.back { "back to " } else { "" };
    let mut text = format!("{way}{} is {}, begun {}", said(roll.release), roll.state, units::ago(roll.started_at, now));
    if let Some(reason) = &roll.reason {
        let _ = write!(text, ": {reason}");
    }
    text.push('\n');
    if let Some(at) = roll.next_wave_at {
        let _ = writeln!(text, "the next wave begins at {}", at.strftime("%H:%M:%S UTC"));
    }
    let mut table = Table::new(&[">WAVE", "CELL", "STATE", "RUNS", "WHY"]);
    for cell in &roll.cells {
        table.row([
            cell.wave.to_string(),
            cell.cell.to_string(),
            word(cell).to_owned(),
            said(cell.release),
            cell.reason.clone().unwrap_or_default(),
        ]);
    }
    text.push_str(&table.or("no cells"));
    text
}

fn state(status: &ReleaseStatus, now: Timestamp) -> String {
    let mut table = Table::new(&["CELL", "RUNS", "SCHEMA"]);
    for cell in &status.cells {
        let schema = cell.schema.as_deref().map_or("?", |schema| schema.get(..12).unwrap_or(schema));
        table.row([cell.cell.to_string(), said(cell.release), schema.to_owned()]);
    }
    let mut text = table.or("No cells yet.");
    let _ = writeln!(text, "\ncells that are made now run {}", said(status.current));
    if let Some(roll) = &status.roll {
        let _ = write!(text, "\n{}", rolled(roll, now));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Number, rolled, waves};
    use berth_wire::{Roll, RollPlan};
    use serde_json::json;

    #[test]
    fn a_release_is_named_with_or_without_its_letter() {
        let number = |text: &str| text.parse::<Number>().map(|number| number.0);
        assert_eq!((number("r7"), number("7"), number("stack")), (Ok(7), Ok(7), Ok(0)));
        assert!(number("latest").is_err());
    }

    #[test]
    fn waves_and_what_is_left_out_are_shown_before_anything_happens() {
        let plan: RollPlan = serde_json::from_value(json!({
            "release": 7, "before": 6, "back": false, "pause_ms": 600_000, "workers": "after",
            "waves": [[{ "cell": "fra-1", "before": 6 }], [{ "cell": "fra-2", "before": 6, "gets": 5 }, { "cell": "sao-1", "before": 0 }]],
            "left_out": [{ "cell": "acme-1", "why": "it runs r7 already" }]
        }))
        .unwrap();
        assert_eq!(
            waves(&plan),
            "wave 1: fra-1 (r6)\nwave 2: fra-2 (r6, gets r5), sao-1 (the stack file's)\n\
             `migrate` first in each cell; workers start after the old ones, 10 min 0 s between waves\n\
             left out: acme-1: it runs r7 already\n"
        );
    }

    #[test]
    fn a_release_that_stopped_says_what_is_where() {
        let at = "2026-01-01T00:00:00Z";
        let cell = |wave: u32, name: &str, state: &str, release: u32, reason: Option<&str>| json!({ "wave": wave, "cell": name, "state": state, "before": 6, "release": release, "reason": reason });
        let roll: Roll = serde_json::from_value(json!({
            "number": 3, "release": 7, "before": 6, "back": false, "whole": true, "state": "stopped", "asked_by": "ci",
            "reason": "cell `b`: migrate ended with 3; 1 cells run r7, 2 what they ran before", "started_at": at, "ended_at": at,
            "cells": [cell(1, "a", "done", 7, None), cell(2, "b", "failed", 6, Some("migrate ended with 3")), cell(3, "c", "waiting", 6, None)]
        }))
        .unwrap();
        let screen = rolled(&roll, at.parse().unwrap());
        assert!(screen.starts_with("r7 is stopped, begun "), "{screen}");
        for line in
            ["   1  a     has it  r7", "   2  b     failed  r6    migrate ended with 3", "   3  c     waits   r6"]
        {
            assert!(screen.contains(line), "{screen}");
        }
    }
}
