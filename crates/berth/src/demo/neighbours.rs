//! `berth demo bench-neighbours`: how long a neighbour's statement waits for a lock of a move, at most.
//!
//! Neighbours read, write and keep transactions open in the database that tenants leave and come into in turn, each with
//! everything that is taken away afterwards. The server
//! says who waits for whom and since when; it is asked as often as it answers, so a wait is known to within one look
//! (`look_ms`). Beside it the neighbours' own clocks, and the same minute without moves.

use super::mover::{Servers, TENANTS, came, client, client_as, fill, left, run_sql, servers};
use super::say;
use crate::fail::{Failure, FailureExt as _};
use berth_infra::{CellDatabase, Role};
use clap::Args;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use uuid::Uuid;

#[derive(Args, Debug)]
pub struct BenchNeighbours {
    /// Tenants that leave or come, one after the other
    #[arg(long, default_value_t = 100, value_name = "N")]
    moves: usize,
    /// Rows of each
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    rows: u64,
}

/// Neighbours at work, one session each.
const WRITERS: usize = 4;
const READERS: usize = 2;
const LONG: usize = 1;
const CLIENTS: usize = WRITERS + READERS + LONG;
/// Between two statements of a neighbour: about 500 a second all together, which leaves the cores to those who wait.
const THINKS: Duration = Duration::from_millis(8);
/// Who waits, how long already, and whether anybody it waits for is the mover: also one that only stands before it in the
/// queue, and the sequences of the move itself.
const WAITS: &str = "
    select w.pid, extract(epoch from clock_timestamp() - l.waitstart)::float8 * 1000 as waited_ms, l.mode,
           coalesce(l.relation::regclass::text, l.locktype) as what
      from pg_locks l join pg_stat_activity w on w.pid = l.pid
     where not l.granted and l.waitstart is not null and w.application_name = 'neighbour'
       and exists (select from pg_stat_activity b where b.pid = any (pg_blocking_pids(l.pid)) and b.application_name like 'berth-%')";

/// In milliseconds.
#[derive(Default)]
struct Waits {
    looks: u64,
    seen: u64,
    most: f64,
    what: String,
}

pub async fn run(options: &BenchNeighbours, under: &Path, json: bool) -> Result<bool, Failure> {
    let (servers, _dir) = servers(under).await?;
    let figures = measure(options, &servers).await?;
    let text = if json { format!("{figures}\n") } else { format!("{figures:#}\n") };
    std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes()).ours("stdout")?;
    Ok(true)
}

async fn measure(options: &BenchNeighbours, servers: &Servers) -> Result<serde_json::Value, Failure> {
    let (source, target) = (servers.source.database(), servers.target.database());
    let filler = client(source, "app").await?;
    run_sql(&filler, &format!("{}{}", super::mover::TABLES, super::mover::KEYS)).await?;
    run_sql(&filler, "grant select, insert, update, delete on all tables in schema public to public").await?;
    let neighbours = fill(&filler, TENANTS, 20_000).await?;
    let mut tenants = Vec::new();
    while tenants.len() < options.moves.div_ceil(2) {
        tenants.extend(fill(&filler, TENANTS, options.rows).await?);
    }
    let began = Instant::now();
    let over = Arc::new(AtomicBool::new(false));
    let mut work = at_work(source, &neighbours, &over).await?;
    let waits = watched(source, &over).await?;
    for nth in 0..options.moves {
        let leaves = if nth % 2 == 0 { tenants.pop() } else { None };
        match leaves {
            Some(tenant) => left(source, target, tenant).await?,
            None => came(source, target, options.rows).await?,
        }
        if (nth + 1) % 10 == 0 {
            say(format!("{} of {} have left or come", nth + 1, options.moves));
        }
    }
    let took = began.elapsed();
    over.store(true, Ordering::SeqCst);
    let waits = waits.await.ours("the look at the server")??;
    let beside = latencies(&mut work).await?;

    say(format!("the same {:.0} s without moves", took.as_secs_f64()));
    let over = Arc::new(AtomicBool::new(false));
    let mut work = at_work(source, &neighbours, &over).await?;
    tokio::time::sleep(took).await;
    over.store(true, Ordering::SeqCst);
    let control = latencies(&mut work).await?;
    Ok(json!({
        "moves": options.moves,
        "seconds": took.as_secs_f64(),
        "lock_wait_most_ms": waits.most,
        "lock_waited_for": waits.what,
        "lock_waits_seen": waits.seen,
        "look_ms": took.as_secs_f64() * 1_000.0 / waits.looks.max(1) as f64,
        "statements": summary(beside),
        "statements_without_moves": summary(control),
    }))
}

/// Sessions of the neighbours; each answers how long its statements took, in milliseconds.
async fn at_work(
    source: &CellDatabase,
    neighbours: &[Uuid],
    over: &Arc<AtomicBool>,
) -> Result<JoinSet<Result<Vec<f64>, Failure>>, Failure> {
    let mut work = JoinSet::new();
    for nth in 0..CLIENTS {
        let session = client_as(source, "app", Role::App).await?;
        let (t, over) = (neighbours[nth % neighbours.len()], Arc::clone(over));
        let vehicle = format!("(select id from vehicles where customer_id = '{t}' order by id limit 1)");
        let writes = [
            format!("insert into positions values (gen_random_uuid(), '{t}', {vehicle}, now(), 1, 2, 3)"),
            format!("update vehicles set label = label where id = {vehicle}"),
            format!(
                "delete from positions where id = (select id from positions where vehicle_id = {vehicle} order by at limit 1)"
            ),
            format!("update customers set name = name where id = '{t}'"),
        ];
        let reads = [
            format!("select count(*) from positions where vehicle_id = {vehicle}"),
            format!("select * from customers c join vehicles v on v.customer_id = c.id where c.id = '{t}'"),
        ];
        let long = ["begin".to_owned(), writes[3].clone(), writes[1].clone(), writes[0].clone(), "commit".to_owned()];
        let (statements, thinks) = match nth {
            0..WRITERS => (writes.to_vec(), THINKS),
            n if n < WRITERS + READERS => (reads.to_vec(), THINKS),
            // Open for two seconds, with each table written.
            _ => (long.to_vec(), Duration::from_millis(500)),
        };
        work.spawn(async move {
            let mut took = Vec::new();
            while !over.load(Ordering::SeqCst) {
                for sql in &statements {
                    let began = Instant::now();
                    run_sql(&session, sql).await?;
                    took.push(began.elapsed().as_secs_f64() * 1_000.0);
                    tokio::time::sleep(thinks).await;
                }
            }
            Ok(took)
        });
    }
    Ok(work)
}

async fn watched(
    source: &CellDatabase,
    over: &Arc<AtomicBool>,
) -> Result<tokio::task::JoinHandle<Result<Waits, Failure>>, Failure> {
    let (session, over) = (client(source, "app").await?, Arc::clone(over));
    let look = session.prepare(WAITS).await.ours("a statement")?;
    Ok(tokio::spawn(async move {
        let mut waits = Waits::default();
        while !over.load(Ordering::SeqCst) {
            let rows = session.query(&look, &[]).await.ours("looking who waits")?;
            waits.looks += 1;
            for row in rows {
                let ms: f64 = row.get("waited_ms");
                waits.seen += 1;
                if ms > waits.most {
                    let (mode, what): (String, String) = (row.get("mode"), row.get("what"));
                    (waits.most, waits.what) = (ms, format!("{mode} on {what}"));
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(waits)
    }))
}

async fn latencies(work: &mut JoinSet<Result<Vec<f64>, Failure>>) -> Result<Vec<f64>, Failure> {
    let mut all = Vec::new();
    while let Some(done) = work.join_next().await {
        all.extend(done.ours("a neighbour")??);
    }
    Ok(all)
}

fn summary(mut ms: Vec<f64>) -> serde_json::Value {
    ms.sort_by(f64::total_cmp);
    let at = |part: f64| ms.get(((ms.len() as f64 * part) as usize).min(ms.len().saturating_sub(1)));
    json!({ "count": ms.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "most_ms": at(1.0) })
}
