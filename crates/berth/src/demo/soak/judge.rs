//! Whether the promises held: one owner, everybody back, nothing lost and nothing twice.
//!
//! Asks the databases themselves, past the edge, as the application's role. What it writes it never commits.

use super::super::world::{World, refused};
use super::init::runs;
use crate::fail::{Failure, FailureExt as _};
use berth_domain::{CellName, CellState, MemberState};
use berth_infra::Role;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls, Transaction};
use uuid::Uuid;

/// What ended is started again within a few looks of the reconciler; crash recovery of a small database is short.
const BACK_LIMIT: Duration = Duration::from_mins(2);
const OWNER_LIMIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a database says to a write of the tenant past the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Accepted,
    /// `BF001`: another cell owns it.
    Fenced,
    /// The tenant is not in this database, so nothing can be written for it.
    Absent,
    Other(String),
}

/// How the tenant's ownership stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The right cell takes writes, and no other does.
    One,
    Two(Vec<CellName>),
    /// Nobody takes writes, or a cell that edges do not send to does.
    Wrong(String),
}

/// Tries a write in each of these cells. Databases that are just coming back are asked again for a while.
pub async fn owner(world: &World, tenant: Uuid, owner: &CellName, cells: &BTreeSet<CellName>) -> Owner {
    let until = Instant::now() + OWNER_LIMIT;
    loop {
        let mut answers = Vec::new();
        for cell in cells {
            let answer = asked(world, cell, tenant).await.unwrap_or_else(|why| Answer::Other(why.screen()));
            answers.push((cell.clone(), answer));
        }
        let accepting: Vec<CellName> =
            answers.iter().filter(|(_, answer)| *answer == Answer::Accepted).map(|(cell, _)| cell.clone()).collect();
        if accepting.len() > 1 {
            return Owner::Two(accepting);
        }
        let settled = answers.iter().all(|(_, answer)| !matches!(answer, Answer::Other(_)));
        if settled && accepting.first() == Some(owner) {
            return Owner::One;
        }
        if Instant::now() > until {
            return Owner::Wrong(format!("`{owner}` should take its writes, and they answer {answers:?}"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What was seen of a move while it ran.
#[derive(Debug, Default)]
pub struct Watched {
    /// Looks at which both databases answered.
    pub looks: u32,
    /// Both took a write while neither had ended its transaction.
    pub both_accepted: u32,
}

/// Writes in both cells at once, again and again, until it is dropped. The source's transaction stays open while the
/// target is asked, so two acceptances are two owners at one instant, not one after the other.
///
/// A target is asked only once it has its fence: before, half a copy lies there that nobody is sent to, and
/// `build` would meet a stranger's row.
pub async fn watch(
    world: &World,
    tenant: Uuid,
    (source, target): (&CellName, &CellName),
    watched: &mut Watched,
) -> Infallible {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // Killed databases are what this is about: a look that fails is no look.
        let Ok(Some(both)) = look_at_both(world, tenant, source, target).await else { continue };
        watched.looks += 1;
        watched.both_accepted += u32::from(both);
    }
}

async fn look_at_both(
    world: &World,
    tenant: Uuid,
    source: &CellName,
    target: &CellName,
) -> Result<Option<bool>, Failure> {
    let mut there = connect(world, target).await?;
    let sql = "select exists (select from pg_trigger where tgrelid = 'public.vehicles'::regclass
                and tgname like 'berth\\_%\\_insert' and position(convert_to($1, 'utf8') in tgargs) > 0)";
    let fenced: bool = there.query_one(sql, &[&tenant.to_string()]).await.ours("looking for the fence")?.get(0);
    if !fenced {
        return Ok(None);
    }
    let mut here = connect(world, source).await?;
    let here = here.transaction().await.ours("writing past the edge")?;
    let first = written(&here, tenant).await?;
    let there = there.transaction().await.ours("writing past the edge")?;
    let second = written(&there, tenant).await?;
    Ok(Some((first, second) == (Answer::Accepted, Answer::Accepted)))
}

async fn connect(world: &World, cell: &CellName) -> Result<Client, Failure> {
    let config = world.database_as(cell, Role::App).await?;
    let (client, connection) = config.connect(NoTls).await.ours("connecting past the edge")?;
    tokio::spawn(connection);
    Ok(client)
}

/// The caller never commits it; a lost connection rolls back as well.
async fn written(tx: &Transaction<'_>, tenant: Uuid) -> Result<Answer, Failure> {
    tx.execute("select set_config('app.current_customer_id', $1, true)", &[&tenant.to_string()])
        .await
        .ours("naming the tenant")?;
    let insert = "insert into vehicles (customer_id, name, vehicle_identifier) values ($1, 'past the edge', $2)";
    Ok(match tx.execute(insert, &[&tenant, &Uuid::new_v4().to_string()]).await {
        Ok(_) => Answer::Accepted,
        Err(error) => match error.as_db_error() {
            Some(refusal) if refusal.code().code() == "BF001" => Answer::Fenced,
            Some(refusal) if refusal.code().code() == "23503" => Answer::Absent,
            _ => Answer::Other(error.to_string()),
        },
    })
}

async fn asked(world: &World, cell: &CellName, tenant: Uuid) -> Result<Answer, Failure> {
    let mut client = connect(world, cell).await?;
    let tx = client.transaction().await.ours("writing past the edge")?;
    written(&tx, tenant).await
}

/// Waits until all that was killed is back. Answers what is not, which Berth should have brought back.
pub async fn all_back(world: &World) -> Result<Vec<String>, Failure> {
    let until = Instant::now() + BACK_LIMIT;
    loop {
        let missing = not_back(world).await?;
        if missing.is_empty() || Instant::now() > until {
            return Ok(missing);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn not_back(world: &World) -> Result<Vec<String>, Failure> {
    let mut missing = Vec::new();
    for record in ["run/program.serve", "run/program.edge", "serve/postgres/run/database.control"] {
        if !runs(&world.dir.join(record)) {
            missing.push(record.to_owned());
        }
    }
    if tokio::net::TcpStream::connect(world.edge).await.is_err() {
        missing.push("the edge's port".to_owned());
    }
    // Its port is open also where it follows nobody any more.
    if let Ok(overview) = world.client.status().await
        && !overview.edges.iter().any(|edge| edge.alive && !edge.leaving)
    {
        missing.push("an edge that follows the control plane".to_owned());
    }
    let cells = match world.client.cells().await {
        Ok(cells) => cells,
        Err(error) if error.fault() == berth_client::Fault::Server => {
            missing.push(format!("the API: {error}"));
            return Ok(missing);
        }
        Err(error) => return Err(refused(error, "looking at the cells")),
    };
    for cell in cells.iter().filter(|cell| matches!(cell.state, CellState::Ready | CellState::Draining)) {
        let run = world.dir.join("cells/run");
        for record in [format!("database.{}", cell.name), format!("member.{}.web.0", cell.name)] {
            if !runs(&run.join(&record)) {
                missing.push(record);
            }
        }
        if cell.members.iter().any(|member| member.state != MemberState::Healthy) {
            missing.push(format!("a member of cell `{}`", cell.name));
        }
        if let Err(failure) = world.database(&cell.name).await {
            missing.push(failure.screen());
        }
    }
    Ok(missing)
}
