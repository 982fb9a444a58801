//! What the commands of `berth mover` print.

use berth_mover::{Discovery, MovePlan, Obstacle, PlannedTable, TableComparison, TableName};
use std::fmt::Write as _;

/// The closure as a tree: each table under the one through which it belongs to a tenant.
pub fn discovery(found: &Discovery, root: &TableName) -> String {
    let mut text = String::new();
    let depth_of = |table: &PlannedTable| depth(&found.tables, table);
    if !found.tables.iter().any(|t| t.table == *root) {
        let _ = writeln!(text, "{root}  is not there");
    }
    for table in in_order(&found.tables) {
        let belongs = match &table.tenant_column {
            Some(column) => std::iter::once(format!("by {column}")),
            None => std::iter::once(String::new()),
        };
        let through = table.through.iter().map(|link| {
            let when = link.when.as_ref().map(|(c, v)| format!(" where {c} is {v}")).unwrap_or_default();
            format!("through {} by {}{when}", link.to, link.columns.join(", "))
        });
        let belongs: Vec<String> = belongs.chain(through).filter(|part| !part.is_empty()).collect();
        let _ = writeln!(text, "{}{}  {}", "  ".repeat(depth_of(table)), table.table, belongs.join("; "));
    }
    for table in &found.shared {
        let _ = writeln!(text, "{}  of nobody: the rows referred to travel along", table.table);
    }
    for unsure in &found.unsure {
        let _ = writeln!(
            text,
            "\nnot sure: `{}` {}; it stays\nhint: under `data`: {}",
            unsure.table, unsure.says, unsure.line
        );
    }
    text + &obstacles(&found.obstacles)
}

/// Children right after their first parent.
fn in_order(tables: &[PlannedTable]) -> Vec<&PlannedTable> {
    fn add<'t>(tables: &'t [PlannedTable], table: &'t PlannedTable, order: &mut Vec<&'t PlannedTable>) {
        if order.iter().any(|known| known.table == table.table) {
            return;
        }
        order.push(table);
        for child in tables.iter().filter(|t| t.through.first().is_some_and(|link| link.to == table.table)) {
            add(tables, child, order);
        }
    }
    let mut order = Vec::new();
    for table in tables.iter().filter(|t| t.through.is_empty()) {
        add(tables, table, &mut order);
    }
    order
}

fn depth(tables: &[PlannedTable], table: &PlannedTable) -> usize {
    let parent = table.through.first().and_then(|link| tables.iter().find(|t| t.table == link.to));
    match parent {
        Some(parent) => 1 + depth(tables, parent),
        None => usize::from(tables.first().is_some_and(|root| root.table != table.table)),
    }
}

pub fn plan(plan: &MovePlan) -> String {
    let mut text = format!("{} rows, about {} MiB, about {:.0} s\n\n", plan.rows, plan.bytes >> 20, plan.estimated_s);
    for table in &plan.tables {
        let _ = writeln!(text, "{:>12}  {}", table.rows, table.table);
    }
    for table in &plan.shared {
        let _ = writeln!(text, "{:>12}  {} (of nobody)", table.rows, table.table);
    }
    for note in &plan.notes {
        let _ = writeln!(text, "\nnote: {note}");
    }
    for cost in &plan.neighbours {
        let _ = writeln!(text, "\ncosts the neighbours: {cost}");
    }
    for unsure in &plan.unsure {
        let _ = writeln!(
            text,
            "\nnot sure: `{}` {}; it stays\nhint: under `data`: {}",
            unsure.table, unsure.says, unsure.line
        );
    }
    text
}

pub fn obstacles(all: &[Obstacle]) -> String {
    all.iter().fold(String::new(), |mut text, obstacle| {
        let _ = write!(text, "\nblocked: {obstacle}\nhint: {}\n", obstacle.hint());
        text
    })
}

pub fn comparison(all: &[TableComparison]) -> String {
    let mut text = format!("{:>12} {:>12} {:>12}  TABLE\n", "SOURCE", "TARGET", "DIFFERENT");
    for row in all {
        let _ = writeln!(text, "{:>12} {:>12} {:>12}  {}", row.source_rows, row.target_rows, row.differing, row.table);
    }
    text
}
