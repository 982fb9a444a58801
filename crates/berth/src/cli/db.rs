//! `berth db …`.

mod maintain;

use super::{CliError, Context, table::Table, units};
use berth_wire::DatabaseTop;
use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub enum Db {
    /// What a cell's database is busy with: oldest transactions, who waits for whom, largest tables
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
    let (sessions, tables) = (sessions.or("No session is in a transaction."), tables.or("No table yet."));
    format!("cell {}\n\n{sessions}\n{tables}", top.cell)
}

#[cfg(test)]
mod tests {
    use super::screen;
    use berth_wire::{DatabaseStatement, DatabaseTable, DatabaseTop};

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
        };
        let screen = screen(&top);
        assert!(screen.contains("locks of 640") && screen.contains("30,000"), "{screen}");
    }
}
