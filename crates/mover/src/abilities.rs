//! What a database lets the mover do, found out by trying each and taking it back. Nothing stays: what is made is made
//! in a transaction that is rolled back, or is a slot that ends with its session.

use crate::sql::connect;
use crate::{Endpoint, MoveError, Obstacle, Side};
use tokio_postgres::Client;

/// One thing that moves need of a database.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Ability {
    /// A stable word.
    pub ability: &'static str,
    /// What it is for.
    pub means: &'static str,
    pub can: bool,
    /// Why not, and what gives it.
    pub because: Option<String>,
    pub remedy: Option<String>,
}

/// Tries everything, also when something fails.
pub async fn abilities(endpoint: &Endpoint) -> Result<Vec<Ability>, MoveError> {
    let client = connect(endpoint, Side::Source, "berth-abilities").await?;
    let obstacle = |lacks: Option<Obstacle>| lacks.map(|it| (it.to_string(), it.hint()));
    let role = endpoint.user.clone();
    let side = Side::Source;
    let mut all = Vec::new();
    let mut tried = |ability, means, lacks: Option<(String, String)>| {
        let (because, remedy) = lacks.unzip();
        all.push(Ability { ability, means, can: because.is_none(), because, remedy });
    };
    let standby = yes(&client, "select pg_is_in_recovery()").await;
    tried("takes_writes", "tenants can live in it", obstacle(standby.then_some(Obstacle::Standby { side })));
    let kept = "select current_setting('row_security') = 'off' and current_setting('extra_float_digits') = '3'";
    let pooled = !yes(&client, kept).await;
    tried(
        "keeps_sessions",
        "no pooler loses what a session is told",
        obstacle(pooled.then_some(Obstacle::Pooler { side })),
    );
    let bypass = "select rolsuper from pg_roles where rolname = session_user";
    let lacks = !yes(&client, bypass).await;
    let lacks = lacks.then(|| Obstacle::Rights { side, role: role.clone(), right: "SUPERUSER".to_owned() });
    tried("moves_as_superuser", "a move passes policies and triggers, and fences writers", obstacle(lacks));
    let refused = attempt(&client, "create schema berth_ability").await;
    tried("makes_fences", "a tenant's writes can be refused here", refused);
    let slot = format!("berth_ability_{}", uuid::Uuid::new_v4().simple());
    let sql = format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput', true)");
    let refused = match client.batch_execute(&sql).await {
        // Ended here and not with the session, so that its place is free for a move that begins at once.
        Ok(()) => client.batch_execute(&format!("select pg_drop_replication_slot('{slot}')")).await.err(),
        Err(error) => Some(error),
    };
    tried("reads_changes", "a tenant can be moved out while it writes", refused.map(|error| said(&error)));
    Ok(all)
}

async fn yes(client: &Client, sql: &str) -> bool {
    client.query_one(sql, &[]).await.is_ok_and(|row| row.get(0))
}

/// In a transaction that is taken back.
async fn attempt(client: &Client, sql: &str) -> Option<(String, String)> {
    let tried = client.batch_execute(&format!("begin; {sql}")).await;
    // A transaction that failed is over all the same.
    let _ = client.batch_execute("rollback").await;
    tried.err().map(|error| said(&error))
}

/// The server's words, and its hint where it has one.
fn said(error: &tokio_postgres::Error) -> (String, String) {
    match error.as_db_error() {
        Some(answer) => {
            let hint = answer.hint().map_or_else(
                || "`berth mover rights` prints the statements that give it".to_owned(),
                ToOwned::to_owned,
            );
            (answer.message().to_owned(), hint)
        }
        None => (error.to_string(), "is the server there?".to_owned()),
    }
}
