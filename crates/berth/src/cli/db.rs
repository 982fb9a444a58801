//! `berth db …`.

mod maintain;

use super::{CliError, Context, table::Table, units};
use berth_wire::DatabaseTop;
use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub enum Db {
    /// What a cell's database is busy with: oldest transactions, who waits for whom, largest tables, slots
    Top { cell: String },
    /// Vacuum and analyse what needs it, one table at a time, and never in anybody's way; list what is left lying about
    Maintain(maintain::Maintain),
}

impl Db {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::Top { cell } => {
                let top = cx.client.cell_database_top(&cell).await?;
                cx.show(&top, screen)
            }
            Self::Maintain(maintain) => maintain.run(cx).await,
        }
    }
}

fn screen(top: &DatabaseTop) -> String {
    let mut sessions = Table::new(&["PID", "ROLE", "STATE", ">AGE", "WAITS FOR", "STATEMENT"]);
    for one in &top.statements {
        let blocked: Vec<String> = one.blocked_by.iter().map(ToString::to_string).collect();
        let waits = if blocked.is_empty() {
            one.waits_for.clone().unwrap_or_default()
        } else {
            format!("locks of {}", blocked.join(", "))
        };
        sessions.row([
            one.pid.to_string(),
            one.role.clone(),
            one.state.clone(),
            units::seconds(one.age_s),
            waits,
            one.statement.clone(),
        ]);
    }
    let mut tables = Table::new(&["TABLE", ">SIZE", ">ROWS", ">DEAD ROWS"]);
    for one in &top.tables {
        let (rows, dead) = (units::count(one.rows), units::count(one.dead_rows));
        tables.row([one.table.clone(), units::bytes(one.bytes), rows, dead]);
    }
    let mut slots = Table::new(&["SLOT", "READ NOW", ">LOG KEPT"]);
    for one in &top.slots {
        let kept = units::bytes_or_unknown(one.bytes);
        slots.row([one.slot.clone(), if one.read { "yes" } else { "no" }.to_owned(), kept]);
    }
    let size = top.bytes.map_or_else(String::new, |bytes| format!(", {}", units::bytes(bytes)));
    let (sessions, tables) = (sessions.or("No session is in a transaction."), tables.or("No table yet."));
    let slots = if top.slots.is_empty() { String::new() } else { format!("\n{}", slots.text()) };
    format!("cell {}{size}\n\n{sessions}\n{tables}{slots}", top.cell)
}

#[cfg(test)]
mod tests {
    use super::screen;
    use crate::cli::units;
    use berth_wire::{DatabaseSlot, DatabaseStatement, DatabaseTable, DatabaseTop};

    #[test]
    fn who_waits_for_whom_is_said_before_what_postgres_calls_it() {
        let top = DatabaseTop {
            cell: "shared-1".parse().unwrap(),
            statements: vec![DatabaseStatement {
                pid: 812,
                role: "berth_app".into(),
                application: "web".into(),
                state: "active".into(),
                age_s: 4.0,
                waits_for: Some("Lock transactionid".into()),
                blocked_by: vec![640],
                statement: "update tickets set title = ? where id = ?".into(),
            }],
            tables: vec![DatabaseTable { table: "tickets".into(), bytes: 4096, rows: 30_000, dead_rows: 12 }],
            bytes: Some(5 << 30),
            slots: vec![DatabaseSlot { slot: "forgotten".into(), read: false, bytes: Some(3 << 30) }],
        };
        let screen = screen(&top);
        assert!(screen.contains("locks of 640") && screen.contains("30,000"), "{screen}");
        assert!(screen.contains(&format!("cell shared-1, {}", units::bytes(5 << 30))), "{screen}");
        let slot = screen.lines().find(|line| line.starts_with("forgotten")).unwrap();
        assert!(slot.contains(" no ") && slot.contains(&units::bytes(3 << 30)), "{screen}");
    }
}
