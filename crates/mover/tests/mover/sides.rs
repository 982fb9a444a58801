//! What two servers do differently, or are: a pooler, a standby, a login without rights, other encodings and collations.
//! Each is found before anything is touched.

use crate::common::{self, Two};
use berth_infra::Role;
use berth_mover::{Endpoint, MoveError, MoveSpec, Obstacle, Side};
use berth_testkit::{OtherServer, free_port, wait_until};
use secrecy::{ExposeSecret as _, SecretString};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use tokio::process::{Child, Command};

async fn obstacles(spec: &MoveSpec) -> Vec<Obstacle> {
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(spec).await else { panic!("a plan was made") };
    assert!(all.iter().all(|obstacle| !obstacle.hint().is_empty()), "{all:?}");
    all
}

async fn database(two: &Two, name: &str, how: &str, schema: &str) {
    let admin = two.client("postgres", Role::Mover).await;
    admin.batch_execute(&format!("create database {name} template template0 {how}")).await.unwrap();
    two.client(name, Role::Mover).await.batch_execute(schema).await.unwrap();
}

#[tokio::test]
async fn another_encoding_is_refused_and_another_collation_is_said() {
    let two = Two::filled(10).await;
    database(&two, "latin", "encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'", common::SCHEMA).await;
    let all = obstacles(&MoveSpec { target: two.endpoint("latin"), ..two.spec() }).await;
    let (source_encoding, target_encoding) = ("UTF8".into(), "LATIN1".into());
    assert_eq!(all, [Obstacle::Encoding { source_encoding, target_encoding }]);

    assert!(berth_mover::plan(&two.spec()).await.unwrap().notes.is_empty());
    database(&two, "plain", "encoding 'UTF8' lc_collate 'C' lc_ctype 'C'", common::SCHEMA).await;
    let plan = berth_mover::plan(&MoveSpec { target: two.endpoint("plain"), ..two.spec() }).await.unwrap();
    let [note] = &plan.notes[..] else { panic!("{:?}", plan.notes) };
    assert!(note.contains("`C.UTF-8` in the source") && note.contains("`C` in the target"), "{note}");
}

#[tokio::test]
async fn a_column_that_is_sorted_otherwise_there_is_another_schema() {
    let two = Two::filled(10).await;
    let target = two.client(&two.target, Role::Mover).await;
    target.batch_execute("alter table customers alter name type text collate \"POSIX\"").await.unwrap();
    let all = obstacles(&two.spec()).await;
    let [Obstacle::SchemaDiffers { table, difference }] = &all[..] else { panic!("{all:?}") };
    assert_eq!(table.name, "customers");
    assert_eq!(difference, "column `name` is sorted by the database's collation here and POSIX there");
}

#[tokio::test]
async fn a_login_without_the_rights_is_refused_with_the_statement_that_gives_them() {
    let two = Two::filled(10).await;
    let admin = two.client(&two.source, Role::Mover).await;
    admin.batch_execute("create role plain login password 'x'").await.unwrap();
    let mut spec = two.spec();
    for end in [&mut spec.source, &mut spec.target] {
        end.user = "plain".into();
        end.password = SecretString::from("x");
    }
    let all = berth_mover::lacks(&spec).await.unwrap();
    let on = |side: Side| {
        let of = |it: &&Obstacle| matches!(it, Obstacle::Rights { side: at, .. } | Obstacle::Grant { side: at, .. } if *at == side);
        all.iter().filter(of).map(Obstacle::hint).collect::<Vec<_>>()
    };
    let owner = &two.pg.cell().login(Role::Owner).user;
    for hint in [
        "GRANT pg_read_all_stats TO \"plain\"".to_owned(),
        format!("GRANT CREATE ON DATABASE \"{}\" TO \"plain\"", two.source),
        format!("GRANT \"{owner}\" TO \"plain\""),
    ] {
        let there = hint.replace(&two.source, &two.target);
        assert!(on(Side::Source).contains(&hint) && on(Side::Target).contains(&there), "{hint}: {all:?}");
    }
    // Nothing leads back: the source is only read from, and the target only written to.
    let (reads, writes) =
        ("ALTER ROLE \"plain\" REPLICATION", "GRANT SET ON PARAMETER session_replication_role TO \"plain\"");
    let has = |side, hint: &str| on(side).iter().any(|it| it == hint);
    assert!(has(Side::Source, reads) && !has(Side::Target, reads), "{all:?}");
    assert!(has(Side::Target, writes) && !has(Side::Source, writes), "{all:?}");
    let planned = obstacles(&spec).await;
    assert!(all.iter().all(|it| planned.contains(it)), "{planned:?}");
    // Whoever reads rows says so too, and what reads the catalogue alone needs nothing.
    let Err(MoveError::Obstacles(compared)) = berth_mover::compare(&spec).await else { panic!("it was compared") };
    assert!(compared.iter().any(|it| it.hint().starts_with("GRANT SELECT ON")), "{compared:?}");
    assert_eq!(berth_mover::discover(&spec.source, &spec.rules).await.unwrap().tables.len(), 4);
}

/// Starts in recovery and stays there: what a standby is to those who connect.
#[tokio::test]
async fn a_standby_is_refused_as_source_and_as_target() {
    let two = Two::filled(10).await;
    let admin = two.client(&two.source, Role::Mover).await;
    let data: String = admin.query_one("select current_setting('data_directory')", &[]).await.unwrap().get(0);
    drop(admin);
    std::fs::write(Path::new(&data).join("standby.signal"), "").unwrap();
    two.pg.restart().await;
    let all = obstacles(&two.spec()).await;
    assert_eq!(all, [Obstacle::Standby { side: Side::Source }, Obstacle::Standby { side: Side::Target }]);
}

/// Debian's PgBouncer before the source. `None`, with a word, where it is not installed.
async fn pooler(two: &Two, port: u16, more: &str) -> Option<Child> {
    let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter().find(|path| Path::new(path).exists());
    let Some(program) = program else {
        eprintln!("skipped: pgbouncer is not installed");
        return None;
    };
    let login = two.pg.cell().login(Role::Mover);
    let file = two.pg.dir().unwrap().join(format!("bouncer-{port}.ini"));
    let settings = format!(
        "[databases]\n* = host={} port={} user={} password={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = any\npool_mode = transaction\n{more}\n",
        two.pg.cell().host,
        two.pg.cell().port,
        login.user,
        login.password.expose_secret()
    );
    std::fs::write(&file, settings).unwrap();
    // Neither of them runs as root.
    let root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    let mut command = if root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", program]);
        command
    } else {
        Command::new(program)
    };
    let child = command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = child.spawn().unwrap();
    wait_until("the pooler", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await, Result::is_ok)
        .await
        .unwrap();
    Some(child)
}

#[tokio::test]
async fn a_pooler_in_between_is_found_out_and_refused() {
    let two = Two::filled(10).await;
    // As it comes, it refuses what a session asks for at its start.
    let port = free_port();
    let Some(_strict) = pooler(&two, port, "").await else { return };
    let mut spec = two.spec();
    spec.source.port = port;
    let error = berth_mover::plan(&spec).await.unwrap_err();
    assert!(error.hint().contains("that is a connection pooler"), "{error:?}: {}", error.hint());

    // As it is usually set, it throws it away.
    let port = free_port();
    let _lax = pooler(&two, port, "ignore_startup_parameters = extra_float_digits,options").await.unwrap();
    spec.source.port = port;
    let all = obstacles(&spec).await;
    assert!(all.contains(&Obstacle::Pooler { side: Side::Source }), "{all:?}");
}

/// What a database does not let Berth do: the ability, why, and what gives it.
async fn lacking(endpoint: &Endpoint) -> BTreeMap<&'static str, (String, String)> {
    let tried = berth_mover::abilities(endpoint).await.unwrap();
    assert_eq!(tried.len(), 6, "{tried:?}");
    let lacks = tried.into_iter().filter(|it| !it.can);
    lacks.map(|it| (it.ability, (it.because.unwrap(), it.remedy.unwrap()))).collect()
}

#[tokio::test]
async fn each_ability_that_a_login_or_a_server_lacks_is_named_with_what_gives_it() {
    let two = Two::filled(10).await;
    let admin = two.client(&two.source, Role::Mover).await;
    admin.batch_execute("create role plain login password 'x'").await.unwrap();
    let mut plain = two.endpoint(&two.source);
    assert_eq!(lacking(&plain).await, BTreeMap::new(), "the login of a cell lacks nothing");
    plain.user = "plain".into();
    plain.password = SecretString::from("x");

    let lacks = lacking(&plain).await;
    let create = format!("GRANT CREATE ON DATABASE \"{}\" TO \"plain\"", two.source);
    for (ability, why, remedy) in [
        (
            "moves_as_superuser",
            "lacks SET on `session_replication_role`",
            "GRANT SET ON PARAMETER session_replication_role TO \"plain\"; GRANT pg_read_all_stats TO \"plain\"",
        ),
        ("makes_fences", "permission denied for database", create.as_str()),
        ("publishes_changes", "permission denied for database", create.as_str()),
        ("reads_changes", "lacks REPLICATION", "ALTER ROLE \"plain\" REPLICATION"),
    ] {
        let (because, hint) = &lacks[ability];
        assert!(because.contains(why) && hint == remedy, "{ability}: {because}; {hint}");
    }
    assert_eq!(lacks.len(), 4, "{lacks:?}");
    // The statements give what they say.
    for ability in ["moves_as_superuser", "publishes_changes", "reads_changes"] {
        admin.batch_execute(&lacks[ability].1).await.unwrap();
    }
    assert_eq!(lacking(&plain).await, BTreeMap::new());

    // The server's own settings, and both reasons at once where there are two.
    for statement in ["alter role plain noreplication", "alter system set wal_level = 'replica'"] {
        admin.batch_execute(statement).await.unwrap();
    }
    drop(admin);
    two.pg.restart().await;
    let level = "ALTER SYSTEM SET wal_level = logical";
    let (because, hint) = &lacking(&plain).await["reads_changes"];
    assert!(because.contains("lacks REPLICATION; `wal_level` of the source is `replica`"), "{because}");
    assert!(hint.starts_with("ALTER ROLE \"plain\" REPLICATION; ") && hint.contains(level), "{hint}");
    let mover = two.endpoint(&two.source);
    let lacks = lacking(&mover).await;
    assert!(lacks.len() == 1 && lacks["reads_changes"].1.starts_with(level), "{lacks:?}");

    let admin = two.client(&two.source, Role::Mover).await;
    for statement in ["alter system set wal_level = 'logical'", "alter system set max_replication_slots = 1"] {
        admin.batch_execute(statement).await.unwrap();
    }
    drop(admin);
    two.pg.restart().await;
    assert_eq!(lacking(&mover).await, BTreeMap::new());
    let admin = two.client(&two.source, Role::Mover).await;
    admin.execute("select from pg_create_physical_replication_slot('taken')", &[]).await.unwrap();
    let lacks = lacking(&mover).await;
    let (because, hint) = &lacks["reads_changes"];
    assert!(because.contains("replication slots") && hint.contains("max_replication_slots"), "{because}; {hint}");
    assert_eq!(lacks.len(), 1, "{lacks:?}");

    // Every try was taken back.
    let left = "select (select count(*) from pg_replication_slots where slot_name <> 'taken') + (select count(*) from pg_publication)
                       + (select count(*) from pg_namespace where nspname = 'berth_ability')";
    assert_eq!(admin.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_server_that_is_not_postgresql_is_called_what_it_says_that_it_is() {
    let two = Two::filled(10).await;
    let (mut spec, other) = (two.spec(), OtherServer::start().await);
    spec.source.port = other.port;
    let all = obstacles(&spec).await;
    let what = Obstacle::NotPostgres { side: Side::Source, version: OtherServer::VERSION.into() };
    assert_eq!(all, [what]);
    assert_eq!(all[0].to_string(), "the source is not PostgreSQL: it says that it is `CockroachDB CCL v24.1.0`");
    for error in [berth_mover::discover(&spec.source, &spec.rules).await.err(), berth_mover::lacks(&spec).await.err()] {
        assert!(matches!(&error, Some(MoveError::Obstacles(found)) if *found == all), "{error:?}");
    }
    // Tenants can live in it, and that is all.
    let lacks = lacking(&spec.source).await;
    assert!(lacks.len() == 5 && !lacks.contains_key("takes_writes"), "{lacks:?}");
    assert!(lacks.values().all(|(because, _)| because.contains("CockroachDB")), "{lacks:?}");
}

#[tokio::test]
async fn a_pooler_before_a_database_is_named_among_its_abilities() {
    let two = Two::filled(10).await;
    let mut behind = two.endpoint(&two.source);
    behind.port = free_port();
    // It lets nobody in who says how the session is to be: nothing behind it can be tried.
    let Some(_strict) = pooler(&two, behind.port, "").await else { return };
    let lacks = lacking(&behind).await;
    assert_eq!(lacks.len(), 6, "{lacks:?}");
    for (ability, (because, remedy)) in &lacks {
        let why = if *ability == "keeps_sessions" { "stands a connection pooler" } else { "not tried" };
        assert!(because.contains(why) && remedy == "give the address of the server itself", "{ability}: {because}");
    }
    // One that throws it away lets everything else be tried, and nothing stays behind in a session that it keeps.
    behind.port = free_port();
    let _lax = pooler(&two, behind.port, "ignore_startup_parameters = extra_float_digits,options").await.unwrap();
    let lacks = lacking(&behind).await;
    assert_eq!(lacks.keys().copied().collect::<Vec<_>>(), ["keeps_sessions"], "{lacks:?}");
    let admin = two.client(&two.source, Role::Mover).await;
    let slots = admin.query_one("select count(*) from pg_replication_slots", &[]).await.unwrap();
    assert_eq!(slots.get::<_, i64>(0), 0);
}
