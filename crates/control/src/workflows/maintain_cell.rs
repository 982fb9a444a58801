//! Maintenance of a cell's database: one table after the other, then one index after the other where that was asked for. Each is
//! a step of its own, so that a server that dies goes on with the next. What somebody waited for is left for another time.

use super::done;
use crate::{
    App,
    maintenance::{self, Ended, What, Work},
};
use async_trait::async_trait;
use berth_domain::CellId;
use berth_wire::OperationResult;
use berth_workflow::{Cancelled, Progress, Reporter, Retry, Run, Step, StepError, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What the workflow is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintainCell {
    pub cell: CellId,
    pub reindex: bool,
    pub asked_by: String,
}

pub const MAINTAIN_CELL: Workflow<MaintainCell> = Workflow::named("maintain_cell_v1");

pub(super) async fn run(run: &mut Run<App>, input: MaintainCell) -> Result<OperationResult, StepError> {
    let (mut worked, mut left, mut freed) = ([0_usize; 2], Vec::new(), 0_i64);
    for (kind, reindex) in [false, true].into_iter().enumerate() {
        if reindex && !input.reindex {
            continue;
        }
        // Indexes after tables: how many rows an index has is known better then.
        let works = run.step(LookWhatNeedsIt { cell: input.cell, reindex }).await?;
        let of = works.len();
        for (at, work) in works.into_iter().enumerate() {
            let step = DoOne {
                cell: input.cell,
                at,
                of,
                reporter: run.reporter(),
                cancelled: run.cancelled(),
                work: work.clone(),
            };
            let ended = run.step(step).await?;
            freed += ended.freed_bytes;
            match ended.left {
                Some(why) => left.push(format!("{}: {why}", work.table)),
                None => worked[kind] += usize::from(work.what != What::DropIndex),
            }
        }
    }
    let plural = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let mut summary = format!("{} vacuumed and analysed", plural(worked[0], "table", "tables"));
    if input.reindex {
        let _ = write!(summary, ", {} built anew", plural(worked[1], "index", "indexes"));
    }
    if !left.is_empty() {
        let _ = write!(summary, "; left for another time: {}", left.join("; "));
    }
    let mut result = done(summary);
    let figures = [
        ("tables", json!(worked[0])),
        ("indexes", json!(worked[1])),
        ("left", json!(left.len())),
        ("freed_bytes", json!(freed)),
    ];
    result.figures.extend(figures.map(|(name, value)| (name.to_owned(), value)));
    Ok(result)
}

struct LookWhatNeedsIt {
    cell: CellId,
    reindex: bool,
}

#[async_trait]
impl Step<App> for LookWhatNeedsIt {
    const NAME: &'static str = "look_what_needs_it";
    type Output = Vec<Work>;

    async fn run(&self, app: &App) -> Result<Vec<Work>, StepError> {
        Ok(maintenance::works(app, &app.cell(self.cell).await?, self.reindex).await?)
    }
    async fn undo(&self, _app: &App, _made: Option<Vec<Work>>) -> Result<(), StepError> {
        Ok(())
    }
    fn input(&self) -> Value {
        json!({ "reindex": self.reindex })
    }
}

struct DoOne {
    cell: CellId,
    at: usize,
    of: usize,
    work: Work,
    reporter: Reporter,
    cancelled: Cancelled,
}

impl DoOne {
    fn tell(&self, part: f64) {
        let fraction = (self.at as f64 + part) / self.of.max(1) as f64;
        let message = format!("{}, {} of {}", self.work.said(), self.at + 1, self.of);
        let mut figures = json!({ "phase": message });
        if self.work.what == What::Vacuum {
            figures["rows_total"] = json!(self.work.rows);
            figures["rows_done"] = json!((self.work.rows as f64 * part) as i64);
        }
        self.reporter.report(Progress { fraction: Some(fraction), message, figures });
    }
}

#[async_trait]
impl Step<App> for DoOne {
    const NAME: &'static str = "maintain";
    type Output = Ended;

    async fn run(&self, app: &App) -> Result<Ended, StepError> {
        self.tell(0.0);
        let cell = app.cell(self.cell).await?;
        let ended =
            maintenance::gently(app, &cell, &self.work, || self.cancelled.is_cancelled(), |part| self.tell(part));
        Ok(ended.await?)
    }
    /// Nothing of the application's was changed.
    async fn undo(&self, _app: &App, _made: Option<Ended>) -> Result<(), StepError> {
        Ok(())
    }
    fn input(&self) -> Value {
        json!({ "what": self.work.what, "name": self.work.name })
    }
    fn retry(&self) -> Retry {
        Retry { attempts: 4, ..Retry::default() }
    }
}
