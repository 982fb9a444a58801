//! What every adapter promises, as functions that fail with words when a promise is not kept. Never knows an adapter;
//! [`conformance!`] makes one test of each promise.

#![expect(clippy::unwrap_used, reason = "these are tests that other crates run")]

use crate::{
    Call, CellSpec, Compute, Database, DatabaseName, EnvVar, Fault, Faults, Health, MemberName, MemberSpec, Observed,
    Provider, ProviderError, ReachTarget, Role, RunSpec, Shape, Source, unreliable,
};
use berth_domain::{CellName, ServiceName};
use secrecy::ExposeSecret;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An adapter on trial, with a world of its own that is empty.
pub trait Subject: Send + Sync {
    fn provider(&self) -> Provider;
    /// Answers 200 to any HTTP request on `PORT`, and prints `serving` and the value of `GREETING` first.
    fn serving_command(&self) -> Vec<String>;
    /// Whether commands are really run, so that their output can be looked at.
    fn runs_commands(&self) -> bool {
        false
    }
}

pub fn cell(name: &str) -> CellSpec {
    CellSpec {
        name: DatabaseName::new(name).expect("a test's name is one"),
        cell: CellName::new(name).expect("a test's name is one"),
        shape: Shape::default(),
        redis: None,
        objects: false,
    }
}

pub fn member(subject: &dyn Subject, cell: &str, index: u16) -> MemberSpec {
    let cell = CellName::new(cell).expect("a test's name is one");
    let service = ServiceName::new("web").expect("a test's name is one");
    MemberSpec {
        name: MemberName::of(&cell, &service, index),
        cell,
        service,
        index,
        source: Source::Host,
        command: subject.serving_command(),
        env: vec![EnvVar::new("GREETING", "hello")],
        port: 0,
        health_path: Some("/health".to_owned()),
        shape: Shape::default(),
    }
}

fn database(subject: &dyn Subject) -> Arc<dyn Database> {
    subject.provider().database.expect("the subject offers databases")
}

fn compute(subject: &dyn Subject) -> Arc<dyn Compute> {
    subject.provider().compute.expect("the subject offers compute")
}

async fn until_healthy(compute: &dyn Compute, name: &MemberName) -> crate::Member {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let seen = compute.observe_member(name).await.expect("observing works");
        match &seen {
            Observed::Present(member) if member.health == Health::Healthy => return member.clone(),
            _ => assert!(Instant::now() < until, "not healthy within 30 s; last seen: {seen:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn what_was_never_made_is_absent_and_may_be_removed(subject: impl Subject) {
    let (database, compute) = (database(&subject), compute(&subject));
    let (name, member) = (cell("ghost").name, member(&subject, "ghost", 0).name);
    assert!(database.observe_database(&name).await.unwrap().is_absent());
    database.remove_database(&name).await.unwrap();
    database.stop_database(&name).await.unwrap();
    assert!(compute.observe_member(&member).await.unwrap().is_absent());
    compute.remove_member(&member).await.unwrap();
    assert!(matches!(compute.member_logs(&member, 5).await, Err(ProviderError::Absent { .. })));
}

pub async fn a_database_ensured_again_and_at_once_is_one(subject: impl Subject) {
    let (database, spec) = (database(&subject), cell("one"));
    let (a, b) = tokio::join!(database.ensure_database(&spec), database.ensure_database(&spec));
    let (a, b) = (a.unwrap(), b.unwrap());
    let again = database.ensure_database(&spec).await.unwrap();
    for other in [&b, &again] {
        assert_eq!((a.port, &a.host), (other.port, &other.host));
        for role in Role::ALL {
            assert_eq!(a.url(role).expose_secret(), other.url(role).expose_secret(), "{role:?}");
        }
    }
    let listed = database.list_databases().await.unwrap();
    assert_eq!(listed.iter().map(|it| (it.name.as_str(), it.cell.as_str())).collect::<Vec<_>>(), [("one", "one")]);
    database.remove_database(&spec.name).await.unwrap();
    assert!(database.observe_database(&spec.name).await.unwrap().is_absent());
    assert_eq!(database.list_databases().await.unwrap(), []);
}

pub async fn a_database_whose_answer_was_lost_or_doubled_is_made_once(subject: impl Subject) {
    let faults = Faults::default();
    let line = unreliable(subject.provider(), &faults).database.expect("the subject offers databases");
    let spec = cell("lossy");
    for fault in [Fault::LoseRequest, Fault::LoseAnswer] {
        faults.next(Call::EnsureDatabase, fault);
        let error = line.ensure_database(&spec).await.unwrap_err();
        assert!(matches!(error, ProviderError::NoAnswer { .. }) && error.retryable(), "{error:?}");
    }
    let Observed::Present(seen) = line.observe_database(&spec.name).await.unwrap() else {
        panic!("the call whose answer was lost made it")
    };
    faults.next(Call::EnsureDatabase, Fault::Twice);
    assert_eq!(line.ensure_database(&spec).await.unwrap().port, seen.port);
    assert_eq!(line.list_databases().await.unwrap().len(), 1);
    faults.next(Call::RemoveDatabase, Fault::LoseAnswer);
    assert!(line.remove_database(&spec.name).await.is_err());
    faults.next(Call::RemoveDatabase, Fault::Twice);
    line.remove_database(&spec.name).await.unwrap();
    assert!(line.observe_database(&spec.name).await.unwrap().is_absent());
    assert_eq!(faults.left(), []);
}

pub async fn a_stopped_database_is_unknown_and_comes_back_where_it_was(subject: impl Subject) {
    let (database, spec) = (database(&subject), cell("still"));
    let before = database.ensure_database(&spec).await.unwrap();
    database.stop_database(&spec.name).await.unwrap();
    let seen = database.observe_database(&spec.name).await.unwrap();
    assert!(matches!(seen, Observed::Unknown { .. }), "{seen:?}");
    assert_eq!(database.list_databases().await.unwrap().len(), 1, "a stopped one is still listed");
    let after = database.ensure_database(&spec).await.unwrap();
    assert_eq!(before.url(Role::App).expose_secret(), after.url(Role::App).expose_secret());
    assert!(matches!(database.observe_database(&spec.name).await.unwrap(), Observed::Present(_)));
    database.remove_database(&spec.name).await.unwrap();
}

pub async fn a_member_ensured_again_and_at_once_is_one(subject: impl Subject) {
    let (compute, spec) = (compute(&subject), member(&subject, "one", 0));
    let (a, b) = tokio::join!(compute.ensure_member(&spec), compute.ensure_member(&spec));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.port, a.pid, a.starts), (b.port, b.pid, b.starts));
    let healthy = until_healthy(&*compute, &spec.name).await;
    assert_eq!((healthy.port, healthy.pid, healthy.starts), (a.port, a.pid, 1));
    let again = compute.ensure_member(&spec).await.unwrap();
    assert_eq!((again.pid, again.starts), (a.pid, 1));
    let listed = compute.list_members().await.unwrap();
    assert_eq!(listed.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["one.web.0"]);
    compute.remove_member(&spec.name).await.unwrap();
    assert!(compute.observe_member(&spec.name).await.unwrap().is_absent());
    assert_eq!(compute.list_members().await.unwrap(), []);
}

pub async fn a_member_whose_answer_was_lost_or_doubled_is_made_once(subject: impl Subject) {
    let faults = Faults::default();
    let line = unreliable(subject.provider(), &faults).compute.expect("the subject offers compute");
    let spec = member(&subject, "lossy", 0);
    faults.next(Call::EnsureMember, Fault::LoseAnswer);
    assert!(matches!(line.ensure_member(&spec).await, Err(ProviderError::NoAnswer { .. })));
    faults.next(Call::EnsureMember, Fault::Twice);
    assert_eq!(line.ensure_member(&spec).await.unwrap().starts, 1);
    assert_eq!(line.list_members().await.unwrap().len(), 1);
    faults.next(Call::RemoveMember, Fault::LoseAnswer);
    assert!(line.remove_member(&spec.name).await.is_err());
    line.remove_member(&spec.name).await.unwrap();
    assert!(line.observe_member(&spec.name).await.unwrap().is_absent());
    assert_eq!(faults.left(), []);
}

pub async fn a_changed_member_is_replaced_on_its_port(subject: impl Subject) {
    let (compute, mut spec) = (compute(&subject), member(&subject, "changed", 0));
    let before = compute.ensure_member(&spec).await.unwrap();
    spec.env = vec![EnvVar::new("GREETING", "changed")];
    let after = compute.ensure_member(&spec).await.unwrap();
    assert_eq!((before.port, after.starts), (after.port, 2));
    until_healthy(&*compute, &spec.name).await;
    if subject.runs_commands() {
        assert_ne!(before.pid, after.pid);
        let lines = compute.member_logs(&spec.name, 50).await.unwrap();
        assert!(lines.iter().any(|line| line == "serving changed"), "{lines:?}");
        assert_eq!(compute.member_logs(&spec.name, 1).await.unwrap().len(), 1);
    }
    compute.remove_member(&spec.name).await.unwrap();
}

pub async fn members_of_one_cell_have_ports_of_their_own(subject: impl Subject) {
    let compute = compute(&subject);
    let (a, b) = (member(&subject, "two", 0), member(&subject, "two", 1));
    let (first, second) = tokio::join!(compute.ensure_member(&a), compute.ensure_member(&b));
    assert_ne!(first.unwrap().port, second.unwrap().port);
    compute.remove_member(&a.name).await.unwrap();
    assert_eq!(until_healthy(&*compute, &b.name).await.name, b.name, "removing one leaves the other");
    compute.remove_member(&b.name).await.unwrap();
}

pub async fn reach_ends_inside_the_cell(subject: impl Subject) {
    let Some(reach) = subject.provider().reach else { return };
    let (compute, spec) = (compute(&subject), member(&subject, "reached", 0));
    compute.ensure_member(&spec).await.unwrap();
    until_healthy(&*compute, &spec.name).await;
    let mut stream = reach.reach(ReachTarget::Member(&spec.name), 0).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    compute.remove_member(&spec.name).await.unwrap();
    assert!(reach.reach(ReachTarget::Member(&spec.name), 0).await.is_err());
}

pub async fn a_run_keeps_its_output_and_its_time_limit(subject: impl Subject) {
    let compute = compute(&subject);
    let run = |script: &str, limit_ms: u64| RunSpec {
        what: "migrate of cell run".to_owned(),
        cell: CellName::new("run").expect("a test's name is one"),
        source: Source::Host,
        command: vec!["sh".into(), "-c".into(), script.into()],
        env: vec![EnvVar::new("GREETING", "hello")],
        time_limit: Duration::from_millis(limit_ms),
        shape: Shape::default(),
        key: None,
    };
    let fine = compute.run_once(&run("echo $GREETING; echo word >&2", 60_000)).await.unwrap();
    assert!(fine.succeeded(), "{fine:?}");
    if !subject.runs_commands() {
        return;
    }
    assert_eq!(fine.output, "hello\nword\n");
    let failed = compute.run_once(&run("echo no such column; exit 3", 60_000)).await.unwrap();
    assert_eq!((failed.exit_code, failed.output.as_str()), (Some(3), "no such column\n"));
    let slow = compute.run_once(&run("echo begun; sleep 600", 300)).await.unwrap();
    assert!(slow.timed_out && !slow.succeeded(), "{slow:?}");
    assert_eq!(slow.output, "begun\n");
    // A caller who lost the answer asks again, perhaps while it still runs: it is the same run.
    let migrate = RunSpec { key: Some("one".to_owned()), ..run("sleep 1; cat /proc/sys/kernel/random/uuid", 60_000) };
    let (first, second) = tokio::join!(compute.run_once(&migrate), compute.run_once(&migrate));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first.succeeded() && first == second, "{first:?}, {second:?}");
    let other = compute.run_once(&RunSpec { key: Some("two".to_owned()), ..migrate.clone() }).await.unwrap();
    assert!(other.succeeded() && other != first, "{other:?}");
    assert_eq!(compute.run_once(&migrate).await.unwrap(), first, "also when another run came between");
}

/// A foreign adapter on trial: one cell exists at its place, and Berth did not make it.
pub trait Existing: Send + Sync {
    fn provider(&self) -> Provider;
    fn cell(&self) -> CellSpec;
    /// Its web member; the command is never run.
    fn member(&self) -> MemberSpec {
        let CellSpec { cell, shape, .. } = self.cell();
        let service = ServiceName::new("web").expect("a test's name is one");
        MemberSpec {
            name: MemberName::of(&cell, &service, 0),
            cell,
            service,
            index: 0,
            source: Source::Host,
            command: vec!["nobody-runs-this".to_owned()],
            env: Vec::new(),
            port: 0,
            health_path: Some("/health".to_owned()),
            shape,
        }
    }
}

pub async fn what_nobody_declared_is_absent_and_not_made(there: impl Existing) {
    let provider = there.provider();
    let (database, compute) = (provider.database.unwrap(), provider.compute.unwrap());
    let ghost = cell("ghost");
    assert!(database.observe_database(&ghost.name).await.unwrap().is_absent());
    let refused = database.ensure_database(&ghost).await.unwrap_err();
    assert!(matches!(refused, ProviderError::Refused { .. }), "{refused}");
    database.remove_database(&ghost.name).await.unwrap();
    database.stop_database(&ghost.name).await.unwrap();
    let name = MemberName::of(&ghost.cell, &there.member().service, 0);
    assert!(compute.observe_member(&name).await.unwrap().is_absent());
    let refused = compute.ensure_member(&MemberSpec { name, cell: ghost.cell, ..there.member() }).await.unwrap_err();
    assert!(matches!(refused, ProviderError::Refused { .. }), "{refused}");
}

pub async fn what_exists_is_found_the_same_also_when_answers_are_lost(there: impl Existing) {
    let faults = Faults::default();
    let line = unreliable(there.provider(), &faults);
    let (database, compute) = (line.database.unwrap(), line.compute.unwrap());
    let spec = there.cell();
    faults.next(Call::EnsureDatabase, Fault::LoseAnswer);
    assert!(matches!(database.ensure_database(&spec).await, Err(ProviderError::NoAnswer { .. })));
    faults.next(Call::EnsureDatabase, Fault::Twice);
    let (a, b) = tokio::join!(database.ensure_database(&spec), database.ensure_database(&spec));
    let (a, b) = (a.unwrap(), b.unwrap());
    for role in Role::ALL {
        assert_eq!(a.url(role).expose_secret(), b.url(role).expose_secret(), "{role:?}");
    }
    let Observed::Present(seen) = database.observe_database(&spec.name).await.unwrap() else { panic!("it is there") };
    assert_eq!((seen.port, seen.version), (a.port, a.version));
    let member = there.member();
    let first = compute.ensure_member(&member).await.unwrap();
    let healthy = until_healthy(&*compute, &member.name).await;
    assert_eq!((&first.host, first.port, first.starts), (&healthy.host, healthy.port, 1));
    assert_eq!(faults.left(), []);
}

pub async fn what_exists_is_never_stopped_or_removed_and_nothing_is_run_there(there: impl Existing) {
    let provider = there.provider();
    assert!(provider.foreign);
    let (database, compute) = (provider.database.unwrap(), provider.compute.unwrap());
    let (spec, member) = (there.cell(), there.member());
    assert!(database.stop_database(&spec.name).await.is_err());
    database.remove_database(&spec.name).await.unwrap();
    compute.remove_member(&member.name).await.unwrap();
    assert!(matches!(database.observe_database(&spec.name).await.unwrap(), Observed::Present(_)));
    assert!(matches!(compute.observe_member(&member.name).await.unwrap(), Observed::Present(_)));
    let run = RunSpec {
        what: "migrate".to_owned(),
        cell: spec.cell,
        source: Source::Host,
        command: vec!["true".to_owned()],
        env: Vec::new(),
        time_limit: Duration::from_secs(5),
        shape: Shape::default(),
        key: None,
    };
    assert!(matches!(compute.run_once(&run).await, Err(ProviderError::Refused { .. })));
    // What a sweep would find, it would remove.
    assert_eq!(database.list_databases().await.unwrap(), []);
    assert_eq!(compute.list_members().await.unwrap(), []);
}

pub async fn reach_ends_inside_what_exists(there: impl Existing) {
    let reach = there.provider().reach.unwrap();
    let member = there.member();
    let mut stream = reach.reach(ReachTarget::Member(&member.name), 0).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let mut stream = reach.reach(ReachTarget::Database(&there.cell().name), 0).await.unwrap();
    // Whether it speaks TLS: Postgres answers with one letter.
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
    let mut letter = [0; 1];
    stream.read_exact(&mut letter).await.unwrap();
    assert!(letter == *b"N" || letter == *b"S", "{letter:?}");
}

/// The same for what is foreign.
#[macro_export]
macro_rules! conformance_foreign {
    ($existing:path) => {
        $crate::conformance_foreign!(@each $existing;
            what_nobody_declared_is_absent_and_not_made
            what_exists_is_found_the_same_also_when_answers_are_lost
            what_exists_is_never_stopped_or_removed_and_nothing_is_run_there
            reach_ends_inside_what_exists);
    };
    (@each $existing:path; $($promise:ident)+) => {
        mod conformance {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                $crate::conformance::$promise($existing().await).await;
            })+
        }
    };
}

/// One test of each promise, of the subject that the given async function makes.
#[macro_export]
macro_rules! conformance {
    ($subject:path) => {
        $crate::conformance!(@each $subject;
            what_was_never_made_is_absent_and_may_be_removed
            a_database_ensured_again_and_at_once_is_one
            a_database_whose_answer_was_lost_or_doubled_is_made_once
            a_stopped_database_is_unknown_and_comes_back_where_it_was
            a_member_ensured_again_and_at_once_is_one
            a_member_whose_answer_was_lost_or_doubled_is_made_once
            a_changed_member_is_replaced_on_its_port
            members_of_one_cell_have_ports_of_their_own
            reach_ends_inside_the_cell
            a_run_keeps_its_output_and_its_time_limit);
    };
    (@each $subject:path; $($promise:ident)+) => {
        mod conformance {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                $crate::conformance::$promise($subject().await).await;
            })+
        }
    };
}
