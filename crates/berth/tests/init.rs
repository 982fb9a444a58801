//! `berth init` against an application that nobody made for Berth: integer keys, memberships, a table of jobs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use berth_infra::Role;
use berth_testkit::TestDatabase;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

const SCHEMA: &str = "
    create table countries (code char(2) primary key, name text not null);
    create table organizations (id serial primary key, name text not null, subdomain text, country char(2) references countries);
    create table users (id serial primary key, email text not null unique, home_country char(2) references countries);
    create table memberships (organization_id int not null references organizations, user_id int not null references users,
        primary key (organization_id, user_id));
    create table projects (id serial primary key, organization_id int not null references organizations, title text);
    create table tasks (id serial primary key, project_id int not null references projects on delete cascade, body text);
    create table jobs (id bigserial primary key, organization_id int not null, kind text, done_at timestamptz);
    create table invoices (id serial primary key, payer_id int not null references organizations, cents int);
    create table notes (id serial primary key, subject_type text, subject_id int, body text);
    create table schema_migrations (version text primary key);
    insert into countries values ('de', 'Germany'), ('fr', 'France');
    insert into organizations (name, subdomain, country) values ('A', 'north', 'de'), ('B', 'North', 'fr'), ('C', 'south', 'de');
    insert into projects (organization_id, title) select 1 + n % 3, 'p' || n from generate_series(1, 30) n;
    analyze;";

/// Everything that `init` could have changed.
const STATE: &str = "
    select md5(coalesce(string_agg(t, '|' order by t), '')) from (
        select concat_ws(' ', c.oid, c.relname, c.relacl, c.relreplident) t from pg_class c
        union all select s.slot_name::text from pg_replication_slots s where s.database = current_database()
        union all select p.pubname::text from pg_publication p
        union all select n.nspname::text from pg_namespace n where n.nspname !~ '^pg_(toast_)?temp'
        union all select o::text from organizations o union all select p::text from projects p) s";

struct World {
    database: TestDatabase,
    folder: PathBuf,
}

impl World {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        database.connect(Role::Owner).await.batch_execute(SCHEMA).await.unwrap();
        let folder = std::env::temp_dir().join(format!("berth-init-{}", database.name()));
        fs::create_dir(&folder).unwrap();
        Self { database, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.join("berth.yaml")
    }

    fn password(&self) -> String {
        let url = self.database.url(Role::App);
        url.expose_secret().split([':', '@']).nth(2).unwrap().to_owned()
    }

    fn init(&self, more: &[&str]) -> Output {
        let whole = self.database.url(Role::App);
        let without = whole.expose_secret().replacen(&format!(":{}@", self.password()), "@", 1);
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.args(["init", "--from", &without]).args(more).env("BERTH_FROM_PASSWORD", self.password());
        command.current_dir(&self.folder).stdin(Stdio::null()).output().unwrap()
    }

    async fn state(&self) -> String {
        self.database.connect(Role::Mover).await.query_one(STATE, &[]).await.unwrap().get(0)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Left to the system's own sweep of its temporary folder otherwise.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Answers `GET path` with 200 and everything else with 404; with `"*"` everything with 200.
fn application(path: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 1024];
            let length = stream.read(&mut head).unwrap();
            let good = path == "*" || head[..length].starts_with(format!("GET {path} HTTP/1.1\r\n").as_bytes());
            let status = if good { "200 OK" } else { "404 Not Found" };
            stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap();
        }
    });
    url
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn berth(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_berth")).args(arguments).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_application_becomes_a_stack_file_that_passes_check_and_nothing_there_changes() {
    let world = World::new().await;
    let before = world.state().await;
    let done = world.init(&["--json", "--app", &application("/up")]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(world.state().await, before, "init only looks");

    let file = fs::read_to_string(world.file()).unwrap();
    let stack = berth_config::parse(&file, None, &berth_config::no_files).unwrap();
    assert_eq!((stack.data.root.to_string(), stack.data.key.as_str()), ("public.organizations".to_owned(), "id"));
    assert_eq!(stack.data.tenant_column, "organization_id");
    let other: Vec<_> = stack.data.tenant_columns.iter().map(|(t, c)| (t.to_string(), c.as_str())).collect();
    assert_eq!(other, [("public.invoices".to_owned(), "payer_id")]);
    assert_eq!(stack.services.values().next().unwrap().health.as_deref(), Some("/up"));
    // Nobody's customers are refused by a file that nobody has answered; the limits that are shipped stand there to be put in force.
    let limits = |file: &str| {
        let stack = berth_config::parse(file, None, &berth_config::no_files).unwrap();
        let plan = stack.plans.values().next().unwrap();
        ["api", "upload", "gps"].map(|class| plan.limits.requests_per_minute.get(class).copied())
    };
    assert_eq!(limits(&file), [None; 3]);
    let answered = file.replace("\n# limits:\n#   requests_per_minute:", "\nlimits:\n  requests_per_minute:");
    assert_eq!(limits(&answered), [Some(100), Some(10), Some(1000)]);

    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    let questions: Vec<&str> = said["questions"].as_array().unwrap().iter().map(|q| q.as_str().unwrap()).collect();
    for word in [
        "start",
        "`countries`",
        "subject_type",
        "2 rows of `organizations` share their `subdomain` with another row (`north`)",
        "GRANT SET ON PARAMETER session_replication_role",
    ] {
        assert!(questions.iter().any(|q| q.contains(word)), "no question about {word}: {questions:#?}");
    }
    for question in questions {
        // Broken into lines of comments there.
        let first: String = question.chars().take(40).collect();
        assert!(file.contains(&first), "{first}");
    }
    for place in [&file, &text(&done.stdout), &text(&done.stderr)] {
        assert!(!place.contains(&world.password()), "the password shows");
    }
    let checked = berth(&world.folder, &["check"]);
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_login_may_not_read_is_asked_with_the_statement_that_lets_it() {
    let world = World::new().await;
    let owner = world.database.connect(Role::Owner).await;
    owner.batch_execute("revoke select on organizations from public, berth_app").await.unwrap();
    let done = world.init(&["--json"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    let questions: Vec<&str> = said["questions"].as_array().unwrap().iter().map(|q| q.as_str().unwrap()).collect();
    let questions = questions.join("\n");
    let grant = r#"GRANT SELECT ON "public"."organizations" TO "berth_app""#;
    assert!(questions.contains(grant), "{questions}");
    assert!(!questions.contains("share their"), "what nobody could count is no figure: {questions}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_there_is_not_written_over_and_wrong_names_are_said() {
    let world = World::new().await;
    fs::write(world.file(), "mine").unwrap();
    let refused = world.init(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("`berth.yaml` exists and is not written over"), "{}", text(&refused.stderr));
    assert_eq!(fs::read_to_string(world.file()).unwrap(), "mine");
    for (more, word) in [
        (&["-o", "b.yaml", "--root", "firms"][..], "there is no table `firms`"),
        (&["-o", "b.yaml", "--root", "schema_migrations"], "no table refers to `schema_migrations`"),
        (&["-o", "b.yaml", "--app", "http://127.0.0.1:1"], "the application does not answer"),
        (&["-o", "b.yaml", "--app", "ftp://a"], "not the URL of an application"),
        (&["-o", "nowhere/b.yaml"], "nowhere/b.yaml"),
    ] {
        let refused = world.init(more);
        assert_ne!(refused.status.code(), Some(0));
        assert!(text(&refused.stderr).contains(word), "{}", text(&refused.stderr));
        assert!(!world.folder.join("b.yaml").exists());
    }
    let all = world.init(&["-o", "b.yaml", "--app", &application("*"), "--root", "users"]);
    assert!(all.status.success(), "{}", text(&all.stderr));
    let file = fs::read_to_string(world.folder.join("b.yaml")).unwrap();
    assert!(file.contains("root: public.users") && file.contains("answers 2xx to every path"), "{file}");
}

#[test]
fn a_password_on_the_command_line_is_refused() {
    let refused =
        berth(Path::new("/tmp"), &["init", "--from", "postgres://a:geheim@127.0.0.1:1/x", "-o", "/tmp/no/file"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(!text(&refused.stderr).contains("geheim"), "{}", text(&refused.stderr));
}
