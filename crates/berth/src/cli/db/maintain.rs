//! `berth db maintain`: shows what needs it, asks, and watches cell after cell.

use crate::cli::{CliError, Context, table::Table, tenant::Wait, units, watch};
use berth_domain::{CellName, CellState};
use berth_wire::{MaintainAsk, MaintainPlan, Operation};
use clap::Args;
use std::fmt::Write as _;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  berth db maintain --dry-run\n  berth db maintain --cell fra-1 --reindex --yes")]
pub struct Maintain {
    /// Of this cell; may be given more than once. Otherwise of every cell, one after the other
    #[arg(long, value_name = "CELL")]
    cell: Vec<CellName>,
    /// Build indexes anew that are mostly air, beside themselves
    #[arg(long)]
    reindex: bool,
    /// Show what needs it and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

impl Maintain {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let ask = MaintainAsk { reindex: self.reindex };
        let cells: Vec<CellName> = if self.cell.is_empty() {
            let ready = |state| matches!(state, CellState::Ready | CellState::Draining);
            cx.client.cells().await?.into_iter().filter(|cell| ready(cell.state)).map(|cell| cell.name).collect()
        } else {
            self.cell
        };
        let mut plans = Vec::new();
        for cell in &cells {
            plans.push(cx.client.cell_plan_maintain(cell.as_str(), ask).await?);
        }
        if self.dry_run {
            return cx.show(&plans, |plans| screen(plans, ask.reindex));
        }
        if self.wait.detach && plans.len() > 1 {
            let hint = "name one cell with `--cell`, or stay and watch them go one after the other";
            return Err(CliError::request("several cells are maintained one after the other", hint));
        }
        cx.agree(&screen(&plans, ask.reindex), "Maintain them?")?;
        let mut ended = Vec::new();
        for plan in &plans {
            let begun = cx.client.cell_maintain(plan.cell.as_str(), ask).await?;
            if self.wait.detach {
                return self.wait.finish(cx, begun).await;
            }
            ended.push(watch::to_success(cx, begun).await?);
        }
        cx.show(&ended, |ended| done(ended))
    }
}

fn screen(plans: &[MaintainPlan], reindex: bool) -> String {
    let mut text = String::new();
    for plan in plans {
        let _ = writeln!(text, "cell {}\n", plan.cell);
        let mut tables = Table::new(&["TABLE", ">SIZE", ">ROWS", ">DEAD ROWS", "WHY"]);
        for it in &plan.tables {
            let (rows, dead) = (units::count(it.rows), units::count(it.dead_rows));
            tables.row([it.table.clone(), units::bytes(it.bytes), rows, dead, it.why.clone()]);
        }
        text.push_str(&tables.or("No table needs it."));
        for left in &plan.left_out {
            let _ = writeln!(text, "left out: {left}");
        }
        if !plan.indexes.is_empty() {
            let mut indexes = Table::new(&["INDEX", ">SIZE", "WHY"]);
            for it in &plan.indexes {
                indexes.row([it.index.clone(), units::bytes(it.bytes), it.why.clone()]);
            }
            let _ = write!(text, "\n{}", indexes.text());
            if !reindex {
                text.push_str("`--reindex` builds them anew beside themselves.\n");
            }
        }
        for it in &plan.slots {
            let _ = writeln!(text, "\nslot {} keeps {}: {}", it.slot, units::bytes_or_unknown(it.bytes), it.why);
            if let Some(remedy) = &it.remedy {
                let _ = writeln!(text, "hint: {remedy}");
            }
        }
        for it in &plan.fences {
            let _ = writeln!(text, "\nfence of key {}: {}", it.key, it.why);
        }
        text.push('\n');
    }
    text
}

fn done(ended: &[Operation]) -> String {
    let mut text = String::new();
    for operation in ended {
        let cell = operation.cell.as_ref().map(ToString::to_string).unwrap_or_default();
        let summary = operation.result.as_ref().and_then(|result| result.summary.clone());
        let _ = writeln!(text, "{cell}: {}", summary.unwrap_or_else(|| "done".to_owned()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::screen;
    use berth_wire::{MaintainIndex, MaintainPlan, MaintainSlot, MaintainTable};

    #[test]
    fn what_needs_it_comes_first_and_what_lies_about_with_its_remedy() {
        let plan = MaintainPlan {
            cell: "fra-1".parse().unwrap(),
            tables: vec![MaintainTable {
                table: "orders".into(),
                bytes: 8 << 20,
                rows: 90_000,
                dead_rows: 30_000,
                why: "25 % of its rows are dead".into(),
            }],
            indexes: vec![MaintainIndex {
                index: "public.orders_pkey".into(),
                table: "public.orders".into(),
                bytes: 4 << 20,
                why: "60 % of it is air".into(),
            }],
            slots: vec![MaintainSlot {
                slot: "old".into(),
                bytes: Some(1 << 30),
                why: "not Berth's; nobody reads it".into(),
                remedy: Some("select pg_drop_replication_slot('old')".into()),
            }],
            fences: Vec::new(),
            left_out: Vec::new(),
        };
        assert_eq!(
            screen(&[plan], false),
            "\
cell fra-1

TABLE      SIZE    ROWS  DEAD ROWS  WHY
orders  8.0 MiB  90,000     30,000  25 % of its rows are dead

INDEX                  SIZE  WHY
public.orders_pkey  4.0 MiB  60 % of it is air
`--reindex` builds them anew beside themselves.

slot old keeps 1.0 GiB: not Berth's; nobody reads it
hint: select pg_drop_replication_slot('old')

"
        );
    }
}
