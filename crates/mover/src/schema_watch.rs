//! The watch for schema changes: an event trigger that announces them in the stream while tenants move out of a database. A
//! superuser's alone. Where there is none, what it would say is seen at the tables: see [`crate::stands`].

use crate::sql::Doing;
use crate::{MoveError, Side};
use tokio_postgres::{Client, error::SqlState};

/// The owner of the function that the trigger there runs.
const OWNER: &str = "pg_event_trigger e join pg_proc p on p.oid = e.evtfoid join pg_roles r on r.oid = p.proowner where e.evtname = 'berth_ddl'";

/// Puts it up where it can be had.
///
/// Its function runs in the name of whoever changes a table, superusers too, and its owner may put another one in its place: where
/// that is no superuser there is none. Looked at by the trigger that is there, for whoever owns the schema may exchange a function.
pub(crate) async fn install(client: &Client) -> Result<(), MoveError> {
    let sql = format!(
        "do $$ begin
             if not exists (select from pg_event_trigger where evtname = 'berth_ddl') then
                 create event trigger berth_ddl on ddl_command_end execute function berth.ddl();
                 alter event trigger berth_ddl enable always;
             end if;
             if exists (select from {OWNER} and not r.rolsuper) then
                 drop event trigger berth_ddl;
             end if;
         end $$"
    );
    match client.batch_execute(&sql).await {
        Err(error)
            if error.code() == Some(&SqlState::DUPLICATE_OBJECT)
                || error.code() == Some(&SqlState::UNIQUE_VIOLATION)
                || error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) =>
        {
            Ok(())
        }
        other => other.doing(Side::Source, "watching for schema changes"),
    }
}

/// Whether the stream says that the schema changed.
pub(crate) async fn is_up(client: &Client, side: Side) -> Result<bool, MoveError> {
    let sql = format!("select exists (select from {OWNER} and e.evtenabled = 'A' and r.rolsuper)");
    Ok(client.query_one(&sql, &[]).await.doing(side, "looking at the watch for schema changes")?.get(0))
}
