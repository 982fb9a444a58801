//! Whether a row can be found again by its key: every session of the mover looks for operators in `pg_catalog` alone, and the types
//! of some extensions (ltree, cube, hstore, isn) have their equality elsewhere. Asked of the server before anything is touched;
//! without it the stream would end after the whole copy, and what had arrived could not be taken away. Reads no row.

use crate::sql::{Doing, ident};
use crate::{MoveError, MovePlan, Obstacle, PlannedColumn, Side, TableName};
use tokio_postgres::{Client, error::SqlState};

/// Adds an obstacle for each column of a key that cannot be compared.
pub(crate) async fn of_keys(plan: &MovePlan, source: &Client, obstacles: &mut Vec<Obstacle>) -> Result<(), MoveError> {
    let own = plan.tables.iter().map(|t| (&t.table, &t.columns, &t.key));
    for (table, columns, key) in own.chain(plan.shared.iter().map(|t| (&t.table, &t.columns, &t.key))) {
        for column in columns.iter().filter(|column| key.contains(&column.name)) {
            if !is_comparable(table, column, source).await? {
                let (table, column, type_name) = (table.clone(), column.name.clone(), column.type_name.clone());
                obstacles.push(Obstacle::KeyType { table, column, type_name });
            }
        }
    }
    Ok(())
}

/// In the two ways in which keys are asked for.
async fn is_comparable(table: &TableName, column: &PlannedColumn, client: &Client) -> Result<bool, MoveError> {
    let (name, c) = (table.sql(), ident(&column.name));
    let sql = format!("select from {name} where {c} = $1 and {c} in (select {c} from {name})");
    match client.prepare(&sql).await {
        Ok(_) => Ok(true),
        Err(error)
            if [Some(&SqlState::UNDEFINED_FUNCTION), Some(&SqlState::AMBIGUOUS_FUNCTION)].contains(&error.code()) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).doing(Side::Source, "looking at the types of keys"),
    }
}
