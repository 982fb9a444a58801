//! The watch for schema changes: an event trigger that announces them in the stream while tenants move out of a database. A
//! superuser's alone. Where there is none, what it would say is seen at the tables: see [`crate::stands`].

use crate::sql::Doing;
use crate::{MoveError, Side};
use tokio_postgres::{Client, error::SqlState};

/// Puts it up where it can be had.
///
/// Its function runs in the name of whoever changes a table, superusers too, and its owner may put another one in its place: where
/// that is no superuser there is none. Looked at by the trigger that is there, for whoever owns the schema may exchange a function.
pub(crate) async fn install(client: &Client) -> Result<(), MoveError> {
    let made = client
        .batch_execute(
            "do $$ begin
                 create event trigger berth_ddl on ddl_command_end execute function berth.ddl();
                 alter event trigger berth_ddl enable always;
                 if not exists (select from pg_event_trigger e join pg_proc p on p.oid = e.evtfoid join pg_roles r on r.oid = p.proowner
                                where e.evtname = 'berth_ddl' and r.rolsuper) then
                     drop event trigger berth_ddl;
                 end if;
             end $$",
        )
        .await;
    match made {
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
    let sql = "select exists (select from pg_event_trigger where evtname = 'berth_ddl' and evtenabled = 'A')";
    Ok(client.query_one(sql, &[]).await.doing(side, "looking at the watch for schema changes")?.get(0))
}
