//! What the disk gives back: whole records, logs written anew, batches cut anywhere, a second process. No socket.

use super::{Log, SnapshotError};
use crate::routing::{Change, Table};
use berth_domain::{CellName, Generation, Hostname, PlanName, Revision, TenantId, TenantKey, TenantName, Token};
use berth_wire::edge::{Hold, HoldPolicy, RouteState, TenantRoute};
use std::{fs, sync::Arc};

fn put(tenant: u128, generation: u64) -> Change {
    let hold = Hold { token: Token::new(7), policy: HoldPolicy::All, drain_ms: 50, park_ms: 2000 };
    Change::Put(Arc::new(TenantRoute {
        tenant: id(tenant),
        name: TenantName::new("acme").unwrap(),
        key: TenantKey::new("7").unwrap(),
        plan: PlanName::new("starter").unwrap(),
        cell: CellName::new("shared").unwrap(),
        generation: Generation::new(generation),
        revision: Revision::new(generation),
        hosts: vec![Hostname::new("acme.test").unwrap()],
        patterns: Vec::new(),
        state: RouteState::Held { hold },
        members: Vec::new(),
        body_bytes: Some(5),
        limits: Vec::new(),
        allow: Vec::new(),
    }))
}

fn id(tenant: u128) -> TenantId {
    TenantId::new(uuid::Uuid::from_u128(tenant))
}

/// What a table says, in a form that can be compared.
fn told(table: &Table) -> (u64, Vec<(TenantId, u64, Option<u32>)>) {
    let entries = table.oldest_first();
    let told = entries.iter().map(|e| (e.tenant, e.generation.get(), e.lifted()));
    (table.revision.get(), told.collect())
}

#[test]
fn what_was_written_is_read_again_after_each_kind_of_record() {
    let dir = tempfile::tempdir().unwrap();
    let write = |change: &dyn Fn(&mut Log)| {
        let (mut log, _) = Log::open(dir.path()).unwrap();
        change(&mut log);
        drop(log);
        told(&Log::open(dir.path()).unwrap().1)
    };
    let seen = write(&|log| log.append(&[put(1, 1), put(2, 2)], Revision::new(2)).unwrap());
    assert_eq!(seen, (2, vec![(id(1), 1, None), (id(2), 2, None)]));
    let seen = write(&|log| log.lift(id(2), Token::new(7), 3, Revision::new(2)).unwrap());
    assert_eq!(seen, (2, vec![(id(1), 1, None), (id(2), 2, Some(3))]));
    let seen = write(&|log| log.append(&[Change::Remove(id(1))], Revision::new(4)).unwrap());
    assert_eq!(seen, (4, vec![(id(2), 2, Some(3))]));
}

#[test]
fn a_log_written_anew_says_the_same_in_fewer_words_and_can_be_written_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, mut table) = Log::open(dir.path()).unwrap();
    for generation in 1..=1100 {
        let change = put(1, generation);
        log.append(std::slice::from_ref(&change), Revision::new(generation)).unwrap();
        table.apply(&change);
        table.revision = Revision::new(generation);
    }
    table.lift(id(1), Token::new(7), 2);
    assert!(log.is_long(&table));
    log.compact(&table).unwrap();
    assert!(!log.is_long(&table));
    let size = fs::metadata(dir.path().join("routes.log")).unwrap().len();
    assert!(size < 2000, "{size}");
    log.append(&[put(2, 1101)], Revision::new(1101)).unwrap();
    drop(log);
    let (_, read) = Log::open(dir.path()).unwrap();
    assert_eq!(told(&read), (1101, vec![(id(1), 1100, Some(2)), (id(2), 1101, None)]));
}

#[test]
fn wherever_the_last_batch_is_cut_the_one_before_stands_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("routes.log");
    let (mut log, _) = Log::open(dir.path()).unwrap();
    log.append(&[put(1, 1)], Revision::new(1)).unwrap();
    let first = fs::metadata(&path).unwrap().len();
    log.append(&[put(1, 2), put(2, 2)], Revision::new(2)).unwrap();
    drop(log);
    let whole = fs::read(&path).unwrap();
    for cut in usize::try_from(first).unwrap()..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let (mut log, table) = Log::open(dir.path()).unwrap();
        assert_eq!(told(&table), (1, vec![(id(1), 1, None)]), "cut at {cut}");
        log.append(&[put(3, 3)], Revision::new(3)).unwrap();
        drop(log);
        assert_eq!(told(&Log::open(dir.path()).unwrap().1).0, 3, "cut at {cut}");
    }
}

#[test]
fn a_log_that_could_not_be_written_anew_goes_on_as_it_was() {
    let (dir, change) = (tempfile::tempdir().unwrap(), put(1, 1));
    let (mut log, mut table) = Log::open(dir.path()).unwrap();
    log.append(std::slice::from_ref(&change), Revision::new(1)).unwrap();
    table.apply(&change);
    table.revision = Revision::new(1);
    // No file can be there, whoever runs this.
    fs::create_dir(dir.path().join("routes.log.new")).unwrap();
    assert!(matches!(log.compact(&table), Err(SnapshotError::Io { doing: "written anew", .. })));
    log.append(&[put(2, 2)], Revision::new(2)).unwrap();
    drop(log);
    let (_log, read) = Log::open(dir.path()).unwrap();
    assert_eq!(told(&read), (2, vec![(id(1), 1, None), (id(2), 2, None)]));
}

#[test]
fn what_follows_a_log_written_anew_is_in_it_and_waits_until_its_folder_is_synced() {
    let (dir, change) = (tempfile::tempdir().unwrap(), put(1, 1));
    let (mut log, mut table) = Log::open(dir.path()).unwrap();
    log.append(std::slice::from_ref(&change), Revision::new(1)).unwrap();
    table.apply(&change);
    table.revision = Revision::new(1);
    // What is no folder cannot be synced.
    let folder = std::mem::replace(&mut log.folder, fs::File::open("/dev/null").unwrap());
    assert!(log.compact(&table).is_err());
    assert!(log.append(&[put(2, 2)], Revision::new(2)).is_err(), "a power cut would bring back the log before it");
    log.folder = folder;
    log.append(&[put(2, 2)], Revision::new(2)).unwrap();
    drop(log);
    let (_log, read) = Log::open(dir.path()).unwrap();
    assert_eq!(told(&read), (2, vec![(id(1), 1, None), (id(2), 2, None)]));
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _log = Log::open(dir.path()).unwrap();
    assert!(matches!(Log::open(dir.path()), Err(SnapshotError::InUse { .. })));
}
