//! A dump goes into the scratch Postgres, wholly or not at all.
//!
//! What only a superuser may do is done before the dump runs: its extensions are made. The dump itself runs as the database's owner, so
//! nothing in it starts programs or reads files there; `psql`, which could do so here, is told to run no commands of its own.

use super::{
    dump::{Dump, Extension, Kind, Script, extensions, listed, without_large_objects},
    scratch::Server,
};
use crate::cli::CliError;
use berth_infra::Role;
use secrecy::ExposeSecret as _;
use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};
use tokio::{
    process::{ChildStdin, Command},
    task::spawn_blocking,
};
use uuid::Uuid;

/// Errors of a restore that are named.
const NAMED: usize = 3;
/// What `psql` says of a command that it was told not to run, and of somebody who would let commands in again.
const SHUT_OUT: [&str; 2] = ["backslash commands are restricted", "\\unrestrict: "];

/// How a restore went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// What the dump wanted and no row needs: owners, rights.
    pub passed_over: Vec<String>,
}

impl Server<'_> {
    pub async fn restore(&self, dump: &Dump) -> Result<Restored, CliError> {
        let needed = match &dump.kind {
            Kind::Plain(script) => {
                self.must_shut_out().await?;
                script.extensions.clone()
            }
            Kind::Archive => self.archived_extensions(dump).await?,
        };
        self.prepare(&needed).await?;
        let ended = match &dump.kind {
            Kind::Archive => {
                let some = self.all_but_large_objects(dump).await?;
                let mut command = self.program("pg_restore");
                command.args(["--no-owner", "--no-privileges", "--no-comments", "--no-publications"]);
                command.args(["--no-subscriptions", "--dbname", &self.database.database]);
                if let Some(list) = some {
                    command.arg("--use-list").arg(list);
                }
                command.arg(&dump.path);
                output(command).await?
            }
            Kind::Plain(script) => self.play(dump, script).await?,
        };
        let schemas: Vec<&str> = needed.iter().filter_map(|it| it.schema.as_deref()).collect();
        let (bad, restored) = errors(&String::from_utf8_lossy(&ended.stderr), &schemas);
        if let Some(number) = bad.first().and_then(|line| shut_out(line)) {
            return Err(has_command(dump, number));
        }
        if !bad.is_empty() {
            return Err(not_whole(&bad));
        }
        // Ended by something else than a statement's error, which is judged above.
        let passed_over = matches!(dump.kind, Kind::Archive) && ended.status.code() == Some(1);
        if !ended.status.success() && !passed_over {
            return Err(unread(&ended));
        }
        self.connect(Role::Owner).await?.batch_execute("analyze").await.map_err(lost)?;
        Ok(restored)
    }

    /// As the dump would make them: `pg_restore` writes the statements, without the dump's other ones.
    async fn archived_extensions(&self, dump: &Dump) -> Result<Vec<Extension>, CliError> {
        let lines = listed(&self.list(dump).await?);
        if lines.is_empty() {
            return Ok(Vec::new());
        }
        let file = self.written("extensions.list", &lines)?;
        let mut script = self.program("pg_restore");
        script.arg("--use-list").arg(&file).args(["--file", "-"]).arg(&dump.path);
        Ok(extensions(&read(script).await?))
    }

    /// Where a folder has any: a list of the rest.
    async fn all_but_large_objects(&self, dump: &Dump) -> Result<Option<PathBuf>, CliError> {
        if !dump.path.is_dir() {
            return Ok(None);
        }
        let some = without_large_objects(&self.list(dump).await?);
        some.map(|some| self.written("restore.list", &some)).transpose()
    }

    async fn list(&self, dump: &Dump) -> Result<String, CliError> {
        let mut list = self.program("pg_restore");
        list.arg("--list").arg(&dump.path);
        read(list).await
    }

    fn written(&self, name: &str, text: &str) -> Result<PathBuf, CliError> {
        let file = self.folder.join(name);
        fs::write(&file, text).map_err(|source| CliError::Write { path: file.clone(), source })?;
        Ok(file)
    }

    /// The last that a superuser does here: no statement of the dump has run yet.
    async fn prepare(&self, needed: &[Extension]) -> Result<(), CliError> {
        let mover = self.connect(Role::Mover).await?;
        let owner = Role::Owner.user();
        // Rows are read past the application's policies, as a superuser would.
        mover.batch_execute(&format!("alter role {owner} bypassrls")).await.map_err(lost)?;
        for Extension { name, schema } in needed {
            let mut made = format!("create extension if not exists {}", ident(name));
            if let Some(schema) = schema {
                made = format!("{made} schema {}", ident(schema));
                // The server's own are there, and asking for one of them is refused.
                if !schema.starts_with("pg_") {
                    made = format!("create schema if not exists {} authorization {owner}; {made}", ident(schema));
                }
            }
            mover.batch_execute(&format!("{made} cascade")).await.map_err(|error| {
                let why = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
                let hint =
                    "install it for the Postgres of this machine: on Debian the package `postgresql-VERSION-NAME`";
                CliError::request(format!("the dump needs the extension `{name}`: {why}"), hint)
            })?;
        }
        self.give_tables_of_extensions(&mover).await
    }

    /// Rows of these are dumped with the database's own, as those of `spatial_ref_sys` are.
    async fn give_tables_of_extensions(&self, mover: &tokio_postgres::Client) -> Result<(), CliError> {
        let owner = Role::Owner.user();
        let sql = "select format('grant usage on schema %1$I to %3$I; grant %4$s %1$I.%2$I to %3$I', n.nspname, c.relname, $1::text,
                                 case c.relkind when 'S' then 'all on sequence' else 'select, insert, update, delete on' end)
                   from pg_extension e cross join unnest(e.extconfig) config(oid)
                   join pg_class c on c.oid = config.oid join pg_namespace n on n.oid = c.relnamespace";
        for row in mover.query(sql, &[&owner]).await.map_err(lost)? {
            mover.batch_execute(row.get(0)).await.map_err(lost)?;
        }
        Ok(())
    }

    /// Tried and not looked up: what counts is that a command is refused.
    async fn must_shut_out(&self) -> Result<(), CliError> {
        let mut tried = self.psql();
        tried.args(["--command", "\\restrict tried", "--command", "\\echo heard"]);
        let tried = output(tried).await?;
        let said = String::from_utf8_lossy(&tried.stderr);
        if is_shut_out(&String::from_utf8_lossy(&tried.stdout), &said) {
            return Ok(());
        }
        let said = said.lines().next().unwrap_or_default();
        Err(CliError::request(
            format!("the `psql` of this machine cannot be kept from running commands that a dump may hold: {said}"),
            "since August 2025 it can (13.22, 14.19, 15.14, 16.10, 17.6): on Debian `apt-get install --only-upgrade \
             postgresql-client-VERSION`; or make the dump with `--format=custom`",
        ))
    }

    fn psql(&self) -> Command {
        let mut command = self.program("psql");
        command.args(["--no-psqlrc", "--quiet", "--dbname", &self.database.database]);
        command
    }

    /// Nobody who wrote the script knows the key, so nothing in it lets commands in again.
    async fn play(&self, dump: &Dump, script: &Script) -> Result<Output, CliError> {
        let mut command = self.psql();
        let shut = format!("\\restrict {}", Uuid::new_v4().simple());
        command.args(["--output", "/dev/null", "--command", &shut, "--file", "-"]).stdin(Stdio::piped());
        let mut child = started(&mut command)?;
        let into = child.stdin.take();
        let (path, without) = (dump.path.clone(), script.without.clone());
        let fed = spawn_blocking(move || match into {
            Some(into) => feed(&path, &without, into),
            None => Err(io::ErrorKind::NotConnected.into()),
        });
        let ended = child.wait_with_output().await.map_err(|error| not_run(&command, &error))?;
        match fed.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            // It ended by itself and says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ended),
            Err(source) => Err(CliError::Read { path: dump.path.clone(), source }),
            Ok(()) => Ok(ended),
        }
    }

    fn program(&self, name: &str) -> Command {
        let own = self.programs.join(name);
        let mut command = Command::new(if own.is_file() { own } else { PathBuf::from(name) });
        let login = self.database.login(Role::Owner);
        // Settings of whoever started us are for other servers.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(key);
        }
        command
            .env("PGHOST", &self.database.host)
            .env("PGPORT", self.database.port.to_string())
            .env("PGUSER", &login.user)
            .env("PGPASSWORD", login.password.expose_secret())
            .env("PGSSLMODE", "disable")
            // Its words are read here.
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn not_run(command: &Command, error: &io::Error) -> CliError {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let hint = "on Debian or Ubuntu: `apt-get install postgresql-client`";
    CliError::request(format!("`{program}` could not be started: {error}"), hint)
}

fn started(command: &mut Command) -> Result<tokio::process::Child, CliError> {
    command.spawn().map_err(|error| not_run(command, &error))
}

async fn output(mut command: Command) -> Result<Output, CliError> {
    let child = started(&mut command)?;
    child.wait_with_output().await.map_err(|error| not_run(&command, &error))
}

async fn read(command: Command) -> Result<String, CliError> {
    let ended = output(command).await?;
    if !ended.status.success() {
        return Err(unread(&ended));
    }
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

/// Line numbers stay as they are in the file.
fn feed(path: &Path, without: &[Range<u64>], into: ChildStdin) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut into = File::from(into.into_owned_fd()?);
    let mut at = 0;
    for gap in without {
        io::copy(&mut (&mut file).take(gap.start.saturating_sub(at)), &mut into)?;
        at = file.seek(SeekFrom::Start(gap.end))?;
    }
    io::copy(&mut file, &mut into)?;
    Ok(())
}

pub(super) fn lost(error: tokio_postgres::Error) -> CliError {
    let why = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    CliError::request(format!("the scratch Postgres: {why}"), "run the command again: nothing was changed")
}

fn unread(ended: &Output) -> CliError {
    let said = String::from_utf8_lossy(&ended.stderr);
    let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it ended without a word");
    let hint = if first.contains("unsupported version") {
        "it was made by a newer PostgreSQL: install that version's `postgresql` package here"
    } else {
        "the dump is damaged or was cut off: make it again, or copy it again; nothing was changed"
    };
    CliError::request(format!("the dump cannot be read: {first}"), hint)
}

/// Whether `psql` refused a command after it had been told to.
fn is_shut_out(out: &str, said: &str) -> bool {
    out.trim().is_empty() && said.contains(SHUT_OUT[0])
}

/// The line of a script in which `psql` found a command that it was told not to run: `psql:<stdin>:14: error: …`.
fn shut_out(line: &str) -> Option<usize> {
    let rest = line.strip_prefix("psql:<stdin>:")?;
    let (number, said) = rest.split_once(": error: ")?;
    SHUT_OUT.iter().any(|words| said.starts_with(words)).then(|| number.parse().ok())?
}

fn has_command(dump: &Dump, number: usize) -> CliError {
    let line = dump.line(number).unwrap_or_default();
    let hint = if line.contains("\\connect") {
        "make it without `--create`: the rows are wanted, not the database's name; nothing was changed"
    } else {
        "a dump has none: take it out, or make the dump with `pg_dump`; nothing was changed"
    };
    CliError::request(format!("{} has a command for `psql` in line {number}: `{line}`", dump.path.display()), hint)
}

/// What no row needs: who owns what and who may do what, which a cell says itself, and settings of another version. Schemas are there
/// already where extensions were made in them.
fn may_be_passed_over(line: &str, schemas: &[&str]) -> bool {
    (line.contains("role \"") && line.contains("does not exist"))
        || line.contains("must be member of role")
        || line.contains("must be able to SET ROLE")
        || line.contains("must be owner of extension")
        || line.contains("schema \"public\" already exists")
        || line.contains("must be owner of schema public")
        || line.contains("unrecognized configuration parameter")
        || schemas.iter().any(|schema| {
            line.ends_with(&format!("schema \"{schema}\" already exists"))
                || line.ends_with(&format!("cannot drop schema {schema} because other objects depend on it"))
        })
}

/// From what `pg_restore` and `psql` wrote, the lines that count and those that do not. Every error that counts fails the whole, for a dump
/// is restored wholly or not at all.
fn errors(said: &str, schemas: &[&str]) -> (Vec<String>, Restored) {
    let (mut bad, mut restored) = (Vec::new(), Restored::default());
    for line in said.lines() {
        let is_error = line.contains("ERROR:") || line.contains("FATAL:") || line.contains("error: ");
        if !is_error {
            continue;
        }
        if !may_be_passed_over(line, schemas) {
            bad.push(line.to_owned());
        } else if !restored.passed_over.contains(&said_of(line)) {
            restored.passed_over.push(said_of(line));
        }
    }
    (bad, restored)
}

fn said_of(line: &str) -> String {
    line.split_once("ERROR:").map_or(line, |(_, text)| text).trim().to_owned()
}

fn not_whole(bad: &[String]) -> CliError {
    let mut all: Vec<String> = Vec::new();
    for text in bad.iter().map(|line| said_of(line)) {
        if !all.contains(&text) {
            all.push(text);
        }
    }
    let more = all.len().saturating_sub(NAMED);
    let mut text = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if more > 0 {
        text = format!("{text}; and {more} more");
    }
    let hint = "nothing was changed; a dump of another server's version, or one that was cut off, fails like this";
    CliError::request(format!("the dump could not be restored whole: {text}"), hint)
}

#[cfg(test)]
mod tests;
