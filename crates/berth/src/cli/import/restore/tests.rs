//! Restores into a server of their own, by the real psql and pg_restore.

use super::{errors, is_shut_out, not_whole, shut_out};
use crate::cli::import::{dump::Dump, scratch::Server};
use berth_infra::{CellDatabase, Role};
use berth_mover::DataRules;
use berth_providers::local::postgres_programs;
use berth_testkit::TestPg;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// A server whose databases are scratch ones, and a folder for dumps.
struct Place {
    pg: TestPg,
    dir: TempDir,
    programs: PathBuf,
}

impl Place {
    async fn new() -> Self {
        Self { pg: TestPg::new().await, dir: tempfile::tempdir().unwrap(), programs: postgres_programs().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn scratch(&self, name: &str) -> CellDatabase {
        CellDatabase { database: self.pg.database(name).await, ..self.pg.cell().clone() }
    }

    fn server<'s>(&'s self, database: &'s CellDatabase) -> Server<'s> {
        Server { database, programs: &self.programs, folder: self.dir.path() }
    }

    fn script(&self, body: &str) -> Dump {
        let path = self.at("a.sql");
        let text = format!(
            "--\n-- PostgreSQL database dump\n--\n\n\\restrict aB1\n\n{body}\n\
             --\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict aB1\n\n"
        );
        fs::write(&path, text).unwrap();
        Dump::look(&path).unwrap()
    }

    /// What `pg_dump` makes of a database.
    fn dump(&self, database: &CellDatabase, format: &str) -> Dump {
        let to = self.at(format);
        let mut command = Command::new(self.programs.join("pg_dump"));
        let login = database.login(Role::Mover);
        let done = command
            .args(["--format", format, "--file"])
            .arg(&to)
            .env("PGHOST", &database.host)
            .env("PGPORT", database.port.to_string())
            .env("PGUSER", &login.user)
            .env("PGPASSWORD", secrecy::ExposeSecret::expose_secret(&login.password))
            .env("PGDATABASE", &database.database)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Dump::look(&to).unwrap()
    }

    async fn texts(&self, database: &CellDatabase, sql: &str) -> Vec<String> {
        let client = self.pg.connect_to(Role::Owner, &database.database).await;
        client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }
}

fn rules() -> DataRules {
    DataRules::of("customers", "id", "customer_id")
}

#[test]
fn owners_and_rights_are_passed_over_and_anything_else_counts() {
    let said = "pg_restore: error: could not execute query: ERROR:  role \"shop\" does not exist\n\
                psql:<stdin>:9: ERROR:  unrecognized configuration parameter \"transaction_timeout\"\n\
                psql:<stdin>:10: ERROR:  must be member of role \"berth_mover\"\n\
                psql:<stdin>:11: ERROR:  schema \"heroku_ext\" already exists\n\
                pg_restore: warning: errors ignored on restore: 1\n";
    let (bad, restored) = errors(said, &["heroku_ext"]);
    assert_eq!((bad.len(), restored.passed_over.len()), (0, 4), "{bad:?}");
    assert_eq!(errors(said, &["public"]).0, ["psql:<stdin>:11: ERROR:  schema \"heroku_ext\" already exists"]);
    let broken = format!("{said}psql:<stdin>:12: ERROR:  relation \"t\" does not exist\n");
    let (bad, _) = errors(&broken, &["heroku_ext"]);
    assert!(not_whole(&bad).to_string().contains("relation \"t\" does not exist"));
    assert_eq!(errors("pg_restore: error: could not read from input file: end of file\n", &[]).0.len(), 1);
    assert!(errors("", &[]).0.is_empty());
}

#[test]
fn a_psql_that_runs_commands_is_told_from_one_that_does_not() {
    let said = "backslash commands are restricted; only \\unrestrict is allowed\n";
    assert!(is_shut_out("", said));
    assert!(!is_shut_out("heard\n", said));
    assert!(!is_shut_out("heard\n", "invalid command \\restrict\n"));
    assert!(!is_shut_out("", "invalid command \\restrict\n"));
    assert_eq!(shut_out(&format!("psql:<stdin>:14: error: {}", said.trim())), Some(14));
    assert_eq!(shut_out("psql:<stdin>:2: error: \\unrestrict: wrong key"), Some(2));
    assert_eq!(shut_out("psql:<stdin>:2: ERROR:  backslash commands are restricted"), None);
}

#[tokio::test]
async fn commands_of_psql_are_named_and_none_is_run() {
    let place = Place::new().await;
    let marker = place.at("marker");
    let touch = format!("touch {}", marker.display());
    for (nth, (body, line)) in [
        (format!("select 1; \\! {touch}"), format!("select 1; \\! {touch}")),
        (format!("  \\! {touch}"), format!("\\! {touch}")),
        (
            format!("create table t (a text);\ncopy t from stdin;\n\\.\n\\o |{touch}\nselect 1;"),
            format!("\\o |{touch}"),
        ),
        (format!("select 'x' \\g |{touch}"), format!("select 'x' \\g |{touch}")),
        (format!("\\unrestrict aB1\n\\! {touch}"), "\\unrestrict aB1".to_owned()),
        (format!("create table t (a text);\n\\copy t from program '{touch}'"), "\\copy t".to_owned()),
        (format!("\\set x `{touch}`"), "\\set x".to_owned()),
        ("select 1;\n\\connect postgres".to_owned(), "\\connect postgres".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let dump = place.script(&body);
        let database = place.scratch(&format!("s{nth}")).await;
        let why = place.server(&database).restore(&dump).await.unwrap_err().to_string();
        let line: String = line.chars().take(40).collect();
        assert!(why.contains("has a command for `psql` in line") && why.contains(&line), "{body}: {why}");
        assert!(!marker.exists(), "{body}");
    }
}

#[tokio::test]
async fn rows_and_texts_that_look_like_commands_come_in() {
    let place = Place::new().await;
    let dump = place.script(
        "create table notes (id int, body text);\n\
         create function f() returns text language sql as $$ select '\n\\! date\n\\connect shop\n' $$;\n\
         comment on table notes is 'see\n\\section one\n';\n\
         insert into notes values (1, 'a\n\\section two\n\\d\n\\unrestrict aB1\n');\n\
         copy notes from stdin;\n2\t\\\\! date\n3\t\\N\n4\t-- PostgreSQL database cluster dump\n\\.\n",
    );
    let database = place.scratch("notes").await;
    assert!(place.server(&database).restore(&dump).await.unwrap().passed_over.is_empty());
    let rows = place.texts(&database, "select coalesce(body, '-') from notes order by id").await;
    let wanted = ["a\n\\section two\n\\d\n\\unrestrict aB1\n", "\\! date", "-", "-- PostgreSQL database cluster dump"];
    assert_eq!(rows, wanted);
    assert_eq!(place.texts(&database, "select f()").await, ["\n\\! date\n\\connect shop\n"]);
}

/// Its key's cast to text, its default, its trigger and its policy say who runs them.
const WHO: &str = "
create function who() returns text language sql stable as
  $$ select current_user || ' ' || session_user || ' ' || rolsuper from pg_catalog.pg_roles where rolname = session_user $$;
create table ran (what text, by text default who());
create function note() returns trigger language plpgsql as
  $$ begin insert into public.ran values ('trigger'); return new; end $$;
create type id as enum ('a', 'b');
create function said(id) returns text language sql stable as $$ select public.who() $$;
create cast (id as text) with function said(id);
create table customers (id id, by text default who());
create trigger t after insert on customers for each row execute function note();
insert into customers values ('a');
alter table customers enable row level security;
alter table customers force row level security;
create policy p on customers using (false);
";

#[tokio::test]
async fn nothing_of_a_dump_runs_as_a_superuser() {
    let place = Place::new().await;
    let dump = place.script(WHO);
    let database = place.scratch("who").await;
    let server = place.server(&database);
    server.restore(&dump).await.unwrap();
    let owner = "berth_owner berth_owner false";
    assert_eq!(server.keys(&rules(), None, 5).await.unwrap(), [owner], "rows are read past policies");
    assert_eq!(place.texts(&database, "select by from customers union all select by from ran").await, [owner; 2]);
    let seen = berth_mover::look(&server.endpoint()).await.unwrap().server;
    assert!(!seen.superuser && seen.bypasses_policies, "{seen:?}");
    let refused = place.script("copy (select 1) to program 'true';");
    let other = place.scratch("refused").await;
    let why = place.server(&other).restore(&refused).await.unwrap_err().to_string();
    assert!(why.contains("could not be restored whole"), "{why}");
}

#[tokio::test]
async fn extensions_are_made_where_the_dump_has_them() {
    let place = Place::new().await;
    let source = place.scratch("shop").await;
    let mover = place.pg.connect_to(Role::Mover, "shop").await;
    mover
        .batch_execute(
            "create schema heroku_ext; create extension citext schema heroku_ext;
             create schema \"my own\"; create extension pgcrypto schema \"my own\";
             create extension \"uuid-ossp\"; create extension adminpack;
             create table customers (id heroku_ext.citext primary key, by uuid default public.uuid_generate_v4());
             insert into customers values ('a'), ('b'); select lo_from_bytea(0, 'x')",
        )
        .await
        .unwrap();
    for format in ["plain", "custom", "directory", "tar"] {
        let dump = place.dump(&source, format);
        let database = place.scratch(&format!("of_{format}")).await;
        let restored = place.server(&database).restore(&dump).await.unwrap();
        assert!(restored.passed_over.iter().any(|it| it == "schema \"heroku_ext\" already exists"), "{restored:?}");
        let there = "select extname || ' ' || nspname from pg_extension e join pg_namespace n on n.oid = extnamespace
                     where extname <> 'plpgsql' order by 1";
        let there = place.texts(&database, there).await;
        assert_eq!(
            there,
            ["adminpack pg_catalog", "citext heroku_ext", "pgcrypto my own", "uuid-ossp public"],
            "{format}"
        );
        assert_eq!(place.server(&database).keys(&rules(), None, 5).await.unwrap(), ["a", "b"], "{format}");
    }
    let missing = place.script("CREATE EXTENSION IF NOT EXISTS nonsense WITH SCHEMA extensions;");
    let other = place.scratch("missing").await;
    let why = place.server(&other).restore(&missing).await.unwrap_err().to_string();
    assert!(why.contains("the dump needs the extension `nonsense`"), "{why}");
}

/// No extension of Debian's `postgresql` has rows of its own: one is given some, as PostGIS gives itself `spatial_ref_sys`.
#[tokio::test]
async fn rows_of_extensions_come_in_with_the_others() {
    let place = Place::new().await;
    let database = place.scratch("shop").await;
    let mover = place.pg.connect_to(Role::Mover, "shop").await;
    mover
        .batch_execute(
            "create schema gis; create extension citext; create table gis.refs (id serial primary key, body text);
             alter extension citext add table gis.refs; alter extension citext add sequence gis.refs_id_seq;
             update pg_extension set extconfig = array['gis.refs'::regclass::oid, 'gis.refs_id_seq'::regclass::oid],
                                     extcondition = array['', ''] where extname = 'citext'",
        )
        .await
        .unwrap();
    let dump = place.script(
        "CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA public;\ncopy gis.refs (id, body) from stdin;\n7\tx\n\\.\n\
         select pg_catalog.setval('gis.refs_id_seq', 7, true);",
    );
    place.server(&database).restore(&dump).await.unwrap();
    assert_eq!(place.texts(&database, "select id || body from gis.refs").await, ["7x"]);
    let own = "select count(*)::text from pg_class where relname = 'refs' and relowner = 'berth_owner'::regrole";
    assert_eq!(place.texts(&database, own).await, ["0"]);
}

#[tokio::test]
async fn settings_for_other_servers_are_not_taken() {
    let place = Place::new().await;
    let database = place.scratch("shop").await;
    let command = place.server(&database).psql();
    let set: Vec<String> = command
        .as_std()
        .get_envs()
        .filter(|(key, value)| key.as_encoded_bytes().starts_with(b"PG") && value.is_some())
        .map(|(key, _)| key.to_string_lossy().into_owned())
        .collect();
    assert_eq!(set, ["PGHOST", "PGPASSWORD", "PGPORT", "PGSSLMODE", "PGUSER"]);
    assert!(Path::new(command.as_std().get_program()).is_file());
}
