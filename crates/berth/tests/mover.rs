//! `berth mover` as people use it: two databases, a folder, and a kill in between.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use berth_infra::Role;
use berth_testkit::{TestPg, wait_until};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use uuid::Uuid;

const SCHEMA: &str = "
    create table accounts (code text primary key, name text);
    create table users (id bigint generated always as identity primary key, account text not null references accounts, email text);
    create table notes (id bigint generated always as identity primary key, user_id bigint not null references users on delete cascade, body text);";

struct World {
    pg: TestPg,
    source: String,
    target: String,
    journal: PathBuf,
}

impl World {
    async fn new() -> Self {
        let pg = TestPg::shared().await;
        let name = Uuid::new_v4().simple().to_string();
        let source = pg.database(&format!("from_{name}")).await;
        let target = pg.database(&format!("to_{name}")).await;
        for database in [&source, &target] {
            pg.connect_to(Role::Owner, database).await.batch_execute(SCHEMA).await.unwrap();
        }
        let filler = pg.connect_to(Role::Mover, &source).await;
        for account in ["acme", "other"] {
            filler
                .batch_execute(&format!(
                    "insert into accounts values ('{account}', 'A');
                     insert into users (account, email) select '{account}', 'u' || n from generate_series(1, 200) n;
                     insert into notes (user_id, body) select id, 'n' || k from users, generate_series(1, 150) k where account = '{account}'"
                ))
                .await
                .unwrap();
        }
        Self { pg, source, target, journal: std::env::temp_dir().join(format!("berth-journal-{name}")) }
    }

    fn url(&self, database: &str) -> String {
        let cell = self.pg.cell();
        format!(
            "postgres://{}@{}:{}/{database}",
            cell.login(Role::Mover).user,
            cell.host.replace('/', "%2F"),
            cell.port
        )
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.for_people(arguments);
        command.arg("--json");
        command
    }

    fn for_people(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        let password = self.pg.cell().login(Role::Mover).password.expose_secret();
        command
            .arg("mover")
            .args(arguments)
            .args(["--from", &self.url(&self.source)])
            .env("BERTH_FROM_PASSWORD", password)
            .env("BERTH_TO_PASSWORD", password)
            .stdin(Stdio::null());
        if arguments[0] != "discover" {
            command.args(["--to", &self.url(&self.target)]);
        }
        command
    }

    fn berth(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn good(&self, arguments: &[&str]) -> Value {
        let output = self.berth(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    async fn rows(&self, database: &str) -> (i64, i64) {
        let client = self.pg.connect_to(Role::Mover, database).await;
        let row = client
            .query_one(
                "select count(*), coalesce(sum(hashtext(n::text)::int8), 0)::int8 from notes n join users u on u.id = n.user_id where account = 'acme'",
                &[],
            )
            .await
            .unwrap();
        (row.get(0), row.get(1))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The machine's own folder for such things; nothing else is in it.
        let _ = std::fs::remove_dir_all(&self.journal);
    }
}

const WHOSE: [&str; 8] = ["--tenant", "acme", "--root", "accounts", "--key", "code", "--tenant-column", "account"];

fn with<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[command], more].concat()
}

fn journal(path: &Path) -> [&str; 2] {
    ["--journal", path.to_str().unwrap()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_moves_and_comes_back_without_a_control_plane() {
    let world = World::new().await;
    let at = journal(&world.journal);
    let found = world.good(&with("discover", &WHOSE[2..]));
    let tables: Vec<&str> =
        found["tables"].as_array().unwrap().iter().map(|t| t["table"]["name"].as_str().unwrap()).collect();
    assert_eq!(tables, ["accounts", "users", "notes"]);
    assert_eq!(world.good(&["rights"])["lacking"], serde_json::json!([]));
    assert_eq!(world.good(&with("plan", &WHOSE))["plan"]["rows"], 1 + 200 + 30_000);
    assert_eq!(world.berth(&with("compare", &WHOSE)).status.code(), Some(1), "nothing is there yet");

    let before = world.rows(&world.source).await;
    let run = with("run", &[&WHOSE[..], &at[..]].concat());
    let moved = world.good(&run);
    assert_eq!(moved["cut_over"]["rows_verified"], 1 + 200 + 30_000);
    assert_eq!(world.rows(&world.target).await, before);
    assert_eq!(world.good(&with("compare", &WHOSE))["same"], true);
    assert_eq!(world.berth(&run).status.code(), Some(1), "it is over");

    // Written in the new home, followed by the old one, refused there.
    let app = world.pg.connect_to(Role::App, &world.target).await;
    app.batch_execute("insert into notes (user_id, body) select min(id), 'later' from users where account = 'acme'")
        .await
        .unwrap();
    let mut keeper = world.command(&with("keep", &at)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let now = world.rows(&world.target).await;
    wait_until("the old side follows", async || world.rows(&world.source).await, |rows| *rows == now).await;
    rustix::process::kill_process(rustix::process::Pid::from_child(&keeper), rustix::process::Signal::INT).unwrap();
    assert!(keeper.wait().unwrap().success());
    let old = world.pg.connect_to(Role::App, &world.source).await;
    let refused =
        old.batch_execute("delete from notes where user_id in (select id from users where account = 'acme')").await;
    assert_eq!(refused.unwrap_err().code().map(|c| c.code().to_owned()).as_deref(), Some("BF001"));

    app.batch_execute(
        "delete from notes where body = 'n7' and user_id in (select id from users where account = 'acme')",
    )
    .await
    .unwrap();
    let now = world.rows(&world.target).await;
    world.good(&with("undo", &at));
    assert_eq!(world.rows(&world.source).await, now);
    let gone = world.good(&with("settle", &at));
    assert_eq!(gone["removed"], 1 + 200 + now.0);
    for database in [&world.source, &world.target] {
        let look = world.pg.connect_to(Role::Mover, database).await;
        let left = "select (select count(*) from pg_namespace where nspname like 'berth%') + (select count(*) from pg_publication)
            + (select count(*) from pg_trigger where tgname like 'berth%') + (select count(*) from pg_event_trigger)
            + (select count(*) from pg_replication_slots where database = current_database())";
        assert_eq!(look.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0, "left in {database}");
    }
    old.batch_execute("delete from notes where body = 'n8'").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_move_goes_on_with_the_same_command() {
    let world = World::new().await;
    let at = journal(&world.journal);
    let before = world.rows(&world.source).await;
    let run = with("run", &[&WHOSE[..], &at[..]].concat());
    let mut killed = 0;
    for reached in ["prepared", "copied", "built"] {
        let mut child = world.command(&run).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let file = world.journal.join("move.json");
        let has_reached = async || {
            let record: Option<Value> = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
            record.map(|record| record["reached"].as_str().unwrap().to_owned()).unwrap_or_default()
        };
        let order = ["", "planned", "prepared", "copied", "built", "moved"];
        let far = |step: &str| order.iter().position(|known| *known == step);
        wait_until("the step", has_reached, |step| far(step) >= far(reached)).await;
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().signal() == Some(9));
    }
    assert!(killed > 0, "each of them was over before it was killed");
    // Already over when it was quicker than the last kill.
    let last = world.berth(&run);
    assert!(last.status.success() || String::from_utf8_lossy(&last.stderr).contains("this move is over"));
    assert_eq!(world.rows(&world.target).await, before);
    assert_eq!(world.good(&with("compare", &WHOSE))["same"], true);
    world.good(&with("settle", &at));
    assert_eq!(world.rows(&world.source).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_was_given_up_can_be_made_again() {
    let mut world = World::new().await;
    let at = journal(&world.journal);
    let before = world.rows(&world.source).await;
    let run = with("run", &[&WHOSE[..], &at[..]].concat());
    let mut child = world.command(&run).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let file = world.journal.join("move.json");
    wait_until("the plan", async || file.exists(), |there| *there).await;
    child.kill().unwrap();
    child.wait().unwrap();
    world.good(&with("give-up", &at));
    assert_eq!(world.rows(&world.source).await, before);
    for database in [&world.source, &world.target] {
        let look = world.pg.connect_to(Role::Mover, database).await;
        let left = "select count(*) from pg_namespace where nspname like 'berth%'";
        assert_eq!(look.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0, "left in {database}");
    }
    assert_eq!(world.berth(&run).status.code(), Some(1), "that journal is over");
    let second = world.journal.join("second");
    let moved = world.good(&with("run", &[&WHOSE[..], &journal(&second)[..]].concat()));
    assert_eq!(moved["cut_over"]["rows_verified"], 1 + 200 + 30_000);
    // The same tenant elsewhere: it does not live there any more.
    let third = world.journal.join("third");
    let other = world.pg.database(&format!("other_{}", Uuid::new_v4().simple())).await;
    world.pg.connect_to(Role::Owner, &other).await.batch_execute(SCHEMA).await.unwrap();
    world.target = other;
    let output = world.berth(&with("run", &[&WHOSE[..], &journal(&third)[..]].concat()));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("does not live"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_with_its_remedy() {
    let world = World::new().await;
    let says = |arguments: &[&str], wanted: &[&str]| {
        let output = world.berth(arguments);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{said}");
        for word in wanted {
            assert!(said.contains(word), "{word}: {said}");
        }
    };
    says(&with("plan", &["--tenant", "acme"]), &["no_table", "customers"]);
    says(
        &with("run", &[&["--tenant", "nobody"], &WHOSE[2..], &journal(&world.journal)[..]].concat()),
        &["nobody", "hint:"],
    );
    says(&with("undo", &journal(&world.journal)), &["no move in this journal"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    let output = command.args(["mover", "discover", "--from", "postgres://a:secret@localhost/app"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("BERTH_FROM_PASSWORD") && !said.contains("secret"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_a_tenant_is_printed_as_a_tree() {
    let world = World::new().await;
    let output = world.for_people(&with("discover", &WHOSE[2..])).output().unwrap();
    let tree = "accounts  by code\n  users  by account\n    notes  through users by user_id\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), tree);
    assert!(output.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_that_a_role_lacks_are_printed_as_statements_that_give_them() {
    let world = World::new().await;
    let admin = world.pg.connect_to(Role::Mover, &world.source).await;
    let role = format!("plain_{}", Uuid::new_v4().simple());
    admin.batch_execute(&format!("create role {role} login password 'p'")).await.unwrap();
    let url = |database: &str| world.url(database).replacen(&world.pg.cell().login(Role::Mover).user, &role, 1);
    let rights = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.args(["mover", "rights", "--from", &url(&world.source), "--to", &url(&world.target)]);
        command.env("BERTH_FROM_PASSWORD", "p").env("BERTH_TO_PASSWORD", "p").stdin(Stdio::null()).output().unwrap()
    };
    let lacking = rights();
    let said = String::from_utf8_lossy(&lacking.stdout).into_owned();
    assert_eq!(lacking.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&lacking.stderr));
    for side in ["source", "target"] {
        let lacks = format!(
            "-- the mover's role `{role}` in the {side} lacks SET on `session_replication_role`\nGRANT SET ON PARAMETER session_replication_role TO \"{role}\";\n"
        );
        assert!(said.contains(&lacks), "{said}");
    }
    assert!(said.starts_with("-- Asked of every table there is"), "{said}");
    // As it is printed it is done.
    admin.batch_execute(&said).await.unwrap();
    let granted = rights();
    assert_eq!(String::from_utf8_lossy(&granted.stdout), "Nothing is missing.\n");
    assert!(granted.status.success());
    admin.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_file_with_more_than_rows_is_refused() {
    let world = World::new().await;
    std::fs::create_dir_all(&world.journal).unwrap();
    let file = world.journal.join("berth.yaml");
    let stack = |more: &str| {
        let text = "stack: s\nservices:\n  web: { command: [./web], health: /health }\ndata:\n  root: accounts\n  key: code\n  tenant_column: account\n";
        std::fs::write(&file, format!("{text}{more}")).unwrap();
    };
    let whose = ["--tenant", "acme", "--stack", file.to_str().unwrap()];
    let at = world.journal.join("move");
    stack("  redis: { prefixes: ['t:{tenant}:'] }\n  objects: { prefixes: ['files/{tenant}/'] }\n");
    for command in [with("plan", &whose), with("run", &[&whose[..], &journal(&at)[..]].concat())] {
        let output = world.berth(&command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("`data.redis` and `data.objects`") && said.contains("berth tenant move"), "{said}");
    }
    let found = world.good(&with("discover", &whose[2..]));
    assert_eq!(found["tables"].as_array().unwrap().len(), 3);
    stack("");
    assert_eq!(world.good(&with("plan", &whose))["plan"]["rows"], 1 + 200 + 30_000);
}

/// A row of somebody else stands in the way back: the first command meets it, and an `undo` after that says so.
async fn is_over_with(first: &str) {
    let world = World::new().await;
    let at = journal(&world.journal);
    world.good(&with("run", &[&WHOSE[..], &at[..]].concat()));
    for (database, whose) in [(&world.source, "other"), (&world.target, "acme")] {
        let met = format!("insert into users (id, account) overriding system value values (900000001, '{whose}')");
        world.pg.connect_to(Role::App, database).await.batch_execute(&met).await.unwrap();
    }
    for (command, words) in [(first, "cannot take what was written since"), ("undo", "cannot be undone any more")] {
        let output = world.berth(&with(command, &at));
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words) && said.contains("users_pkey"), "{command}: {said}");
    }
    let look = world.pg.connect_to(Role::Mover, &world.target).await;
    let slots = "select count(*) from pg_replication_slots where database = current_database()";
    assert_eq!(look.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 0, "nothing is held back any more");
    world.good(&with("settle", &at));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_with_a_row_in_it_is_over_and_undo_says_why() {
    is_over_with("keep").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_meets_a_row_in_its_way_ends_the_way_back_by_itself() {
    is_over_with("undo").await;
}
