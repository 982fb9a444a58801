//! Rows that are too old for the tenant's new plan: they stay behind in the source, on a move down.
//!
//! What a table keeps is decided by one of its columns and a day, fixed in the plan, so that copy, stream and
//! comparison all mean the same rows. Nothing is deleted here: what stays behind is archived after the cut-over
//! ([`crate::archive`]) and goes with the source's other rows.

use crate::pgoutput::{Change, Datum, Op, Row, Transaction};
use crate::sql::{Doing, ident, literal};
use crate::{MoveError, MovePlan, MoveSpec, Obstacle, Side};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

/// What of a table's rows travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// When a row is from, says this column. Rows in which it is null travel.
    pub column: String,
    /// The first day that travels, in UTC.
    pub from: jiff::civil::Date,
    /// The tenant's rows that stay behind, as counted by the plan.
    pub left_rows: i64,
}

/// Types whose text sorts as their values do, once the year is read as a number.
const TIMES: &[&str] = &["date", "timestamp without time zone", "timestamp with time zone"];

impl Kept {
    /// As a condition on the row: whether it travels.
    pub(crate) fn travels(&self) -> String {
        let column = ident(&self.column);
        format!("({column} is null or {column} OPERATOR(pg_catalog.>=) {})", literal(&self.from.to_string()))
    }

    fn is_old(&self, text: &[u8]) -> bool {
        let text = String::from_utf8_lossy(text);
        instant(&text) < instant(&self.from.to_string())
    }
}

/// Year and the rest of a time as Postgres prints it in ISO form and UTC: ordered as the times are.
fn instant(text: &str) -> (i64, &str) {
    match text {
        "infinity" => return (i64::MAX, ""),
        "-infinity" => return (i64::MIN, ""),
        _ => {}
    }
    let (text, before_christ) = text.strip_suffix(" BC").map_or((text, false), |text| (text, true));
    let (year, rest) = text.split_once('-').unwrap_or((text, ""));
    let year = year.parse().unwrap_or(i64::MAX);
    let rest = rest.strip_suffix("+00").unwrap_or(rest);
    (if before_christ { 1 - year } else { year }, rest.strip_suffix(" 00:00:00").unwrap_or(rest))
}

/// Which columns say what travels; everything that makes such a rule impossible is noted.
pub(crate) fn plan(spec: &MoveSpec, plan: &mut MovePlan, obstacles: &mut Vec<Obstacle>) {
    let Some(from) = spec.keep_from else { return };
    for nth in 0..plan.tables.len() {
        let table = &plan.tables[nth];
        let Some(column) = spec.rules.retention.get(&format!("{}.{}", table.table.schema, table.table.name)) else {
            continue;
        };
        let name = table.table.clone();
        match table.columns.iter().find(|c| c.name == *column) {
            None => {
                obstacles.push(Obstacle::NoColumn { table: name, column: column.clone() });
                continue;
            }
            Some(known) if !TIMES.iter().any(|time| is_time(&known.type_name, time)) => {
                let type_name = known.type_name.clone();
                obstacles.push(Obstacle::RetentionType { table: name, column: column.clone(), type_name });
                continue;
            }
            Some(_) => {}
        }
        // A row that travels would refer to one that does not.
        let refers = plan
            .inner
            .iter()
            .filter(|reference| reference.to == name)
            .map(|reference| &reference.table)
            .chain(plan.tables.iter().filter(|t| t.through.iter().any(|link| link.to == name)).map(|t| &t.table))
            .chain(spec.rules.links.iter().filter(|l| l.to == name && plan.table(&l.table).is_some()).map(|l| &l.table))
            .next();
        if let Some(by) = refers {
            obstacles.push(Obstacle::RetentionReferred { table: name, by: by.clone() });
            continue;
        }
        plan.tables[nth].kept = Some(Kept { column: column.clone(), from, left_rows: 0 });
    }
}

/// `timestamp(3) with time zone` is one too.
fn is_time(type_name: &str, time: &str) -> bool {
    let mut parts = type_name.splitn(2, '(');
    let before = parts.next().unwrap_or_default();
    let whole = match parts.next().and_then(|rest| rest.split_once(')')) {
        Some((_, after)) => format!("{before}{after}"),
        None => before.to_owned(),
    };
    whole == time
}

/// Counts what stays behind.
pub(crate) async fn measure(spec: &MoveSpec, plan: &mut MovePlan, source: &Client) -> Result<(), MoveError> {
    for nth in 0..plan.tables.len() {
        let table = &plan.tables[nth];
        let Some(left) = plan.left_behind(table, &spec.tenant) else { continue };
        let sql = format!("select count(*) from {} where {left}", table.table.sql());
        let rows = source.query_one(&sql, &[]).await.doing(Side::Source, "counting what stays behind")?.get(0);
        if let Some(kept) = &mut plan.tables[nth].kept {
            kept.left_rows = rows;
        }
    }
    Ok(())
}

/// Takes out of a transaction what stays behind. A row that an update makes old leaves the target. One that an update leaves
/// young may have been old: it comes as a whole, where the stream says all of it, over the one that is there.
pub(crate) fn leave_behind(plan: &MovePlan, transaction: &mut Transaction) {
    let is_old =
        |kept: &Kept, table: usize, row: &Row| match plan.tables[table].position(&kept.column).map(|at| &row[at]) {
            Some(Datum::Text(text)) => kept.is_old(text),
            Some(Datum::Null | Datum::Unchanged) | None => false,
        };
    let key = |table: usize, row: &Row| -> Vec<Datum> {
        let table = &plan.tables[table];
        table.key.iter().filter_map(|k| table.position(k)).map(|at| row[at].clone()).collect()
    };
    let mut travel: Vec<Change> = Vec::with_capacity(transaction.changes.len());
    for mut change in transaction.changes.drain(..) {
        let table = change.table;
        let Some(kept) = &plan.tables[table].kept else {
            travel.push(change);
            continue;
        };
        match &mut change.op {
            Op::Insert(row) if is_old(kept, table, row) => continue,
            Op::Update { old, new } if is_old(kept, table, new) => {
                change.op = Op::Delete(old.take().unwrap_or_else(|| new.clone()));
            }
            Op::Update { old, new } if !new.contains(&Datum::Unchanged) => {
                let left = old.take().filter(|old| key(table, old) != key(table, new));
                let new = std::mem::take(new);
                if let Some(left) = left {
                    let mut before = change.clone();
                    before.op = Op::Delete(left);
                    travel.push(before);
                }
                change.op = Op::Insert(new);
            }
            Op::Insert(_) | Op::Update { .. } | Op::Delete(_) => {}
        }
        travel.push(change);
    }
    transaction.changes = travel;
}

#[cfg(test)]
mod tests {
    use super::{instant, is_time};

    #[test]
    fn times_as_postgres_prints_them_are_in_order() {
        let times = [
            "-infinity",
            "4713-11-24 00:00:00+00 BC",
            "0044-03-15 12:00:00+00 BC",
            "0001-01-01 00:00:00+00",
            "2026-10-21 23:59:59.999999+00",
            "2026-10-22",
            "2026-10-22 00:00:00.000001+00",
            "2026-10-22 08:15:00+00",
            "2026-10-22 08:15:00.5+00",
            "2026-10-22 08:15:00.75+00",
            "9999-12-31 00:00:00+00",
            "12000-01-01 00:00:00+00",
            "infinity",
        ];
        for two in times.windows(2) {
            assert!(instant(two[0]) < instant(two[1]), "{} before {}", two[0], two[1]);
        }
        assert_eq!(instant("2026-10-22"), instant("2026-10-22 00:00:00+00"), "midnight is the day's first moment");
    }

    #[test]
    fn only_times_say_when_a_row_is_from() {
        assert!(is_time("timestamp(3) with time zone", "timestamp with time zone"));
        assert!(is_time("date", "date"));
        assert!(!is_time("time without time zone", "date"));
        assert!(!is_time("timestamp with time zone[]", "timestamp with time zone"));
    }
}
