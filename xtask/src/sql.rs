//! Enums of `domain` and the CHECK constraints of the control database say the same words.
//!
//! Reads migrations as text and never runs them: a word that only one side knows is a row that cannot be stored or read.

use berth_domain::{
    CellClass, CellState, MemberRole, MemberState, MovePhase, OperationState, OrderState, OrderTrouble, ServiceRole,
    TenantState,
};
use std::collections::BTreeSet;

/// Enum, and the table and column that store it.
fn stored() -> Vec<(&'static str, &'static str, &'static str, BTreeSet<&'static str>)> {
    macro_rules! words {
        ($($name:ident in $table:literal.$column:literal),+ $(,)?) => {
            vec![$((stringify!($name), $table, $column, $name::ALL.iter().map(|word| word.as_str()).collect())),+]
        };
    }
    words![
        CellClass in "cell"."class",
        CellState in "cell"."state",
        MemberState in "member"."state",
        MemberRole in "member"."role",
        ServiceRole in "member"."service_role",
        TenantState in "tenant"."state",
        MovePhase in "placement"."phase",
        OperationState in "operation"."state",
        OrderState in "certificate_order"."state",
        OrderTrouble in "certificate_order"."trouble",
    ]
}

/// `migrations`: all of them, in order, as one text.
pub fn faults(migrations: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, table, column, words) in stored() {
        match checked(migrations, table, column) {
            None => faults.push(format!("`{table}.{column}` has no CHECK that lists the words of `{name}`")),
            Some(listed) if listed != words => {
                let listed = listed.into_iter().collect::<Vec<_>>().join(", ");
                faults.push(format!("`{table}.{column}` allows {listed}, which are not the words of `{name}`"));
            }
            Some(_) => {}
        }
    }
    faults
}

/// The words of `CHECK (column IN ('a', 'b'))` inside `CREATE TABLE table`.
fn checked<'a>(migrations: &'a str, table: &str, column: &str) -> Option<BTreeSet<&'a str>> {
    let body = migrations.split("CREATE TABLE ").find(|body| {
        let name = body.split(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
        name.rsplit('.').next().unwrap_or_default().trim_end_matches('s') == table
    })?;
    let check = format!("CHECK ({column} IN (");
    let list = body.split("\n);").next()?.split(&check).nth(1)?.split(')').next()?;
    Some(list.split(',').map(|word| word.trim().trim_matches('\'')).collect())
}

#[cfg(test)]
mod tests {
    use super::checked;

    #[test]
    fn a_check_is_read_from_its_own_table() {
        let sql = "CREATE TABLE cells (\n  state text CHECK (state IN ('a', 'b'))\n);\n\
                   CREATE TABLE tenant (\n  state text NOT NULL CHECK (state IN ('c'))\n);\n";
        assert_eq!(checked(sql, "cell", "state"), Some(["a", "b"].into()));
        assert_eq!(checked(sql, "tenant", "state"), Some(["c"].into()));
        assert_eq!(checked(sql, "tenant", "class"), None);
        assert_eq!(checked(sql, "move", "state"), None);
    }
}
