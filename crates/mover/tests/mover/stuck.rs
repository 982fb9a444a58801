//! Servers that hold a connection and say nothing: nobody waits for them without end.

use crate::common::{MemoryOwnership, NoEdges, Two, Watch, rows_of, until_built};
use async_trait::async_trait;
use berth_domain::{EdgeName, Generation, Token};
use berth_infra::Role;
use berth_mover::{EdgeTrouble, Edges, HoldFigures, MoveError, Patience, Side, silence};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

fn signal(signal: &str, pids: &[i32]) {
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    assert!(Command::new("kill").arg(signal).args(&pids).status().unwrap().success());
}

/// Goes on whatever becomes of the test.
struct Stopped(Vec<i32>);

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("-CONT", &self.0);
    }
}

/// Holds, and as it does so the sessions that the mover has in the source stand still.
struct StopsTheSource<'t> {
    two: &'t Two,
    stopped: Mutex<Option<Stopped>>,
}

#[async_trait]
impl Edges for StopsTheSource<'_> {
    async fn all_alive(&self) -> Result<(), EdgeTrouble> {
        Ok(())
    }
    async fn wait_held(&self, _token: Token, _limit: Duration) -> Result<(), EdgeTrouble> {
        let look = self.two.client(&self.two.source, Role::Mover).await;
        let sessions = "select pid from pg_stat_activity where datname = current_database()
            and application_name like 'berth-move-%' and backend_type = 'client backend'";
        let pids: Vec<i32> = look.query(sessions, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert!(!pids.is_empty());
        signal("-STOP", &pids);
        *self.stopped.lock().unwrap() = Some(Stopped(pids));
        Ok(())
    }
    async fn wait_routed(&self, _generation: Generation, _limit: Duration) -> Vec<EdgeName> {
        Vec::new()
    }
    async fn hold_figures(&self, _token: Token, _limit: Duration) -> Option<HoldFigures> {
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_falls_silent_in_the_pause_keeps_nobody_waiting() {
    let two = Two::filled(300).await;
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, _) = until_built(&spec, &ownership).await;
    let edges = StopsTheSource { two: &two, stopped: Mutex::new(None) };
    let given_up = berth_mover::cut_over(&spec, &plan, &ownership, &edges, &Watch::default()).await.unwrap_err();
    assert!(matches!(given_up, MoveError::PauseOver { limit_ms: 100 }), "{given_up:?}");
    assert_eq!(given_up.fault(), berth_mover::Fault::Passing);
    // Its sessions stand still to this moment, and the tenant writes where it was, held by nobody.
    assert!(edges.stopped.lock().unwrap().is_some());
    let row = ownership.row();
    assert!(!row.holding && row.owner == spec.source_cell, "{row:?}");
    let app = two.client(&two.source, Role::App).await;
    let write = "update customers set name = 'later' where id = $1";
    assert_eq!(app.execute(write, &[&two.tenant]).await.unwrap(), 1);
    // What they were asked arrives now: too late, under a token that is no longer the last.
    drop(edges.stopped.lock().unwrap().take());
    assert_eq!(app.execute(write, &[&two.tenant]).await.unwrap(), 1);
    let cut = berth_mover::cut_over(&spec, &plan, &ownership, &NoEdges, &Watch::default()).await.unwrap();
    assert_eq!(cut.generation.get(), 2);
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    assert_eq!(rows_of(&source, two.tenant).await, rows_of(&target, two.tenant).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_nobody_is_named() {
    let two = Two::filled(10).await;
    let spec = two.spec();
    let patience = Patience { every: Duration::from_millis(50), limit: Duration::from_secs(2) };
    let never = tokio::time::timeout(Duration::from_secs(4), silence(&spec, patience)).await;
    assert!(never.is_err(), "{never:?}");
    let look = two.client(&two.source, Role::Mover).await;
    let row = look.query_one("select pid from pg_stat_activity where pid = pg_backend_pid()", &[]).await.unwrap();
    let postmaster = std::fs::read_to_string(format!("/proc/{}/stat", row.get::<_, i32>(0))).unwrap();
    // After the name, which may hold anything, come the state and the parent.
    let parent = postmaster.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
    signal("-STOP", &[parent]);
    let _goes_on = Stopped(vec![parent]);
    let error = tokio::time::timeout(Duration::from_secs(30), silence(&spec, patience)).await.unwrap();
    assert!(matches!(error, MoveError::Silent { side: Side::Source | Side::Target, seconds: 2.. }), "{error:?}");
    assert!(error.to_string().contains("has not answered anybody for"), "{error}");
}
