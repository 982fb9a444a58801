//! What a database lets the mover do, found out by trying each and taking it back. Nothing stays: what is made is made
//! in a transaction that is rolled back, or is a slot that ends with its session.

use crate::error::is_pooler;
use crate::sql::{Doing, connect, ident, is_postgres, says};
use crate::{Endpoint, MoveError, Obstacle, Side, rights};
use tokio_postgres::{Client, error::SqlState};

/// One thing that moves need of a database.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Ability {
    /// A stable word.
    pub ability: &'static str,
    /// What it is for.
    pub means: &'static str,
    /// What follows where it is missing.
    pub without: &'static str,
    pub can: bool,
    /// Why not, and what gives it.
    pub because: Option<String>,
    pub remedy: Option<String>,
}

/// What is lacking, and what gives it.
type Lacks = (String, String);

/// Tries everything, also when something fails.
pub async fn abilities(endpoint: &Endpoint) -> Result<Vec<Ability>, MoveError> {
    let side = Side::Source;
    let client = match connect(endpoint, side, NAME).await {
        Ok(client) => client,
        Err(MoveError::Connect { source, .. }) if is_pooler(&source) => return Ok(behind_a_pooler()),
        Err(MoveError::Obstacles(found)) if found.len() == 1 => return Ok(of_another(endpoint, &found[0]).await),
        Err(error) => return Err(error),
    };
    let version = client.query_one("select version()", &[]).await.doing(side, "asking what it is")?;
    let version: String = version.get(0);
    if !is_postgres(&version) {
        return Ok(of_another(endpoint, &Obstacle::NotPostgres { side, version }).await);
    }
    let role = &endpoint.user;
    let standby = yes(&client, "select pg_is_in_recovery()").await;
    let kept = "select current_setting('row_security') = 'off' and current_setting('extra_float_digits') = '3'";
    let pooled = !yes(&client, kept).await;
    let passes = rights::passes_triggers(&client, side).await?;
    let sees = rights::sees_everybody(&client, side).await?;
    let moves: Vec<Lacks> = passes.iter().chain(&sees).map(of).collect();
    let right = |right: &str| Obstacle::Rights { side, role: role.clone(), right: right.to_owned() };
    let create = format!("GRANT CREATE ON DATABASE {} TO {}", ident(&endpoint.database), ident(role));
    let schema = attempt(&client, "create schema berth_ability").await.map(|error| said(&error, &create));
    let publication = attempt(&client, "create publication berth_ability").await.map(|error| said(&error, &create));
    let lacks = [
        standby.then(|| of(&Obstacle::Standby { side })),
        pooled.then(|| of(&Obstacle::Pooler { side })),
        joined(&moves),
        schema,
        publication,
        slot(&client, &right("REPLICATION")).await,
    ];
    Ok(ABILITIES.into_iter().zip(lacks).map(|(ability, lacks)| tried(ability, lacks)).collect())
}

/// A stable word, what it is for, and what follows where it is missing. In the order in which they are tried.
const ABILITIES: [(&str, &str, &str); 6] = [
    (TAKES_WRITES, "tenants can live in it", "no tenant can be made here, moved in or moved out"),
    (KEEPS_SESSIONS, "no pooler loses what a session is told", "no tenant can be moved in or out"),
    (
        "moves_as_superuser",
        "a move passes policies and triggers, and fences writers",
        "its tenants are routed and limited; none can be moved in or out",
    ),
    (
        "makes_fences",
        "a tenant's writes can be refused here",
        "no tenant can be moved out: what still writes could not be refused",
    ),
    ("publishes_changes", "what changes can be told to whoever follows it", "no tenant can be moved out"),
    ("reads_changes", "a tenant can be moved out while it writes", "no tenant can be moved out"),
];
const TAKES_WRITES: &str = "takes_writes";
const KEEPS_SESSIONS: &str = "keeps_sessions";
/// Of its sessions, as the server lists them.
const NAME: &str = "berth-abilities";

fn tried((ability, means, without): (&'static str, &'static str, &'static str), lacks: Option<Lacks>) -> Ability {
    let (because, remedy) = lacks.unzip();
    Ability { ability, means, without, can: because.is_none(), because, remedy }
}

fn of(obstacle: &Obstacle) -> Lacks {
    (obstacle.to_string(), obstacle.hint())
}

/// Another kind of server: tenants can live in it, and of what a move needs nothing is tried.
async fn of_another(endpoint: &Endpoint, what: &Obstacle) -> Vec<Ability> {
    let writes = says(endpoint, NAME, "select pg_is_in_recovery()").await.is_some_and(|standby| standby == "f");
    let can = |name| name == TAKES_WRITES && writes;
    ABILITIES.into_iter().map(|ability| tried(ability, (!can(ability.0)).then(|| of(what)))).collect()
}

/// It lets nobody in who says how a session is to be, so nothing behind it was tried.
fn behind_a_pooler() -> Vec<Ability> {
    let (because, remedy) = of(&Obstacle::Pooler { side: Side::Source });
    let lacks = |name| {
        let because =
            if name == KEEPS_SESSIONS { because.clone() } else { "not tried: a pooler stands before it".to_owned() };
        Some((because, remedy.clone()))
    };
    ABILITIES.into_iter().map(|ability| tried(ability, lacks(ability.0))).collect()
}

/// A slot that ends with the session is made and dropped in one message: a place is free again for a move that begins at once, and
/// a pooler has no chance to do the one here and the other there.
async fn slot(client: &Client, right: &Obstacle) -> Option<Lacks> {
    let name = format!("berth_ability_{}", uuid::Uuid::new_v4().simple());
    let both = format!(
        "select pg_create_logical_replication_slot('{name}', 'pgoutput', true); select pg_drop_replication_slot('{name}')"
    );
    let error = client.batch_execute(&both).await.err()?;
    // Who may not make one is not told what else is lacking: both are said at once.
    let level = client.query_one("select current_setting('wal_level')", &[]).await;
    let level = level.map_or_else(|_| String::new(), |row| row.get(0));
    let level =
        (!matches!(level.as_str(), "" | "logical")).then_some(Obstacle::WalLevel { side: Side::Source, found: level });
    let denied = (error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)).then_some(right);
    let both: Vec<Lacks> = denied.into_iter().chain(level.as_ref()).map(of).collect();
    joined(&both).or_else(|| Some(said(&error, "`berth mover rights` prints the statements that give it")))
}

/// Several at once; none where there is none.
fn joined(all: &[Lacks]) -> Option<Lacks> {
    let joined = |part: fn(&Lacks) -> &str| all.iter().map(part).collect::<Vec<_>>().join("; ");
    (!all.is_empty()).then(|| (joined(|lacks| lacks.0.as_str()), joined(|lacks| lacks.1.as_str())))
}

async fn yes(client: &Client, sql: &str) -> bool {
    client.query_one(sql, &[]).await.is_ok_and(|row| row.get(0))
}

/// In a transaction that is taken back.
async fn attempt(client: &Client, sql: &str) -> Option<tokio_postgres::Error> {
    let tried = client.batch_execute(&format!("begin; {sql}")).await;
    // A transaction that failed is over all the same.
    let _ = client.batch_execute("rollback").await;
    tried.err()
}

/// The server's words. What helps is its own hint, or the statement that gives the right, where it is one that lacks.
fn said(error: &tokio_postgres::Error, right: &str) -> Lacks {
    match error.as_db_error() {
        Some(answer) if *answer.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
            (answer.message().to_owned(), right.to_owned())
        }
        Some(answer) => {
            let hint = answer.hint().unwrap_or("the server's log says more");
            (answer.message().to_owned(), hint.to_owned())
        }
        None => (error.to_string(), "is the server there?".to_owned()),
    }
}
