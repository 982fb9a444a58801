//! The scratch Postgres that a dump is restored into: a server of its own on this machine, as the cells of the adapter `local` have. It
//! ends with the command, and by a janitor should the command be killed.
//!
//! The dump runs as a role that is no superuser, so nothing in it starts programs or reads files. Passwords go by the environment.

use super::dump::{Dump, Kind, listed};
use crate::{cli::CliError, janitor};
use berth_infra::{ProviderError, Role};
use berth_mover::{DataRules, Endpoint};
use berth_providers::local::{Afterwards, EmbeddedOptions, EmbeddedPostgres, end_all, postgres_programs};
use secrecy::ExposeSecret as _;
use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};
use tokio::process::Command;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

const DATABASE: &str = "scratch";
/// Errors of a restore that are named.
const NAMED: usize = 3;

pub struct Scratch {
    folder: PathBuf,
    programs: PathBuf,
    postgres: EmbeddedPostgres,
}

/// How a restore went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// What the dump wanted and no row needs: owners, rights.
    pub passed_over: Vec<String>,
}

fn failed(error: ProviderError) -> CliError {
    CliError::request(error.to_string(), error.hint().unwrap_or_default())
}

impl Scratch {
    pub async fn start(under: Option<&Path>) -> Result<Self, CliError> {
        let programs = postgres_programs().map_err(failed)?;
        let under = under.map_or_else(std::env::temp_dir, Path::to_owned);
        let folder = under.join(format!("berth-import-{}", Uuid::new_v4().simple()));
        // The server runs as another user where we are root: it has to get through, and nobody has to look.
        let made = fs::DirBuilder::new().mode(0o711).create(&folder);
        made.map_err(|source| CliError::Write { path: folder.clone(), source })?;
        let at = folder.join("postgres");
        janitor::hire(&[at.clone(), folder.clone()])
            .map_err(|failure| CliError::request(failure.screen(), "nothing was changed"))?;
        // What a power cut takes is made again by running the command again.
        let options = EmbeddedOptions { durable: false, ..EmbeddedOptions::default() };
        match EmbeddedPostgres::start_with(&at, DATABASE, options).await {
            Ok(postgres) => Ok(Self { folder, programs, postgres }),
            Err(error) => {
                let _left = end_all(&at, Afterwards::Delete);
                let _left = fs::remove_dir_all(&folder);
                Err(failed(error))
            }
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// For the mover, which looks at everything.
    pub fn endpoint(&self) -> Endpoint {
        let cell = self.postgres.database();
        let login = cell.login(Role::Mover);
        Endpoint {
            host: cell.host.clone(),
            port: cell.port,
            database: cell.database.clone(),
            user: login.user.clone(),
            password: login.password.clone(),
        }
    }

    /// Nothing of it stays. What cannot be removed now the janitor removes when this process is gone.
    pub async fn end(self) {
        let _stopped = self.postgres.stop().await;
        let _left = end_all(&self.folder.join("postgres"), Afterwards::Delete);
        let _left = fs::remove_dir_all(&self.folder);
    }

    pub async fn restore(&self, dump: &Dump) -> Result<Restored, CliError> {
        let extensions = match &dump.kind {
            Kind::Plain { extensions } => extensions.clone(),
            Kind::Archive => {
                let listing = self.run("pg_restore", &["--list"], &dump.path).await?;
                if !listing.status.success() {
                    return Err(unread(&listing));
                }
                listed(&String::from_utf8_lossy(&listing.stdout))
            }
        };
        let mover = self.connect(Role::Mover).await?;
        for name in &extensions {
            let made = format!("create extension if not exists \"{}\" cascade", name.replace('"', "\"\""));
            mover.batch_execute(&made).await.map_err(|error| {
                let why = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
                let hint =
                    "install it for the Postgres of this machine: on Debian the package `postgresql-VERSION-NAME`";
                CliError::request(format!("the dump needs the extension `{name}`: {why}"), hint)
            })?;
        }
        let ended = match dump.kind {
            Kind::Archive => {
                let how = [
                    "--no-owner",
                    "--no-privileges",
                    "--no-comments",
                    "--no-publications",
                    "--no-subscriptions",
                    "--dbname",
                    DATABASE,
                ];
                self.run("pg_restore", &how, &dump.path).await?
            }
            Kind::Plain { .. } => {
                let how = ["--no-psqlrc", "--quiet", "--output", "/dev/null", "--dbname", DATABASE, "--file"];
                self.run("psql", &how, &dump.path).await?
            }
        };
        let restored = judged(&String::from_utf8_lossy(&ended.stderr))?;
        // Ended by something else than a statement's error, which is judged above.
        let passed_over = matches!(dump.kind, Kind::Archive) && ended.status.code() == Some(1);
        if !ended.status.success() && !passed_over {
            return Err(unread(&ended));
        }
        mover.batch_execute("analyze").await.map_err(lost)?;
        Ok(restored)
    }

    async fn run(&self, program: &str, words: &[&str], path: &Path) -> Result<Output, CliError> {
        let cell = self.postgres.database();
        let login = cell.login(Role::Owner);
        let own = self.programs.join(program);
        let program_path = if own.is_file() { own } else { PathBuf::from(program) };
        let mut command = Command::new(&program_path);
        command
            .args(words)
            .arg(path)
            .env("PGHOST", &cell.host)
            .env("PGPORT", cell.port.to_string())
            .env("PGUSER", &login.user)
            .env("PGPASSWORD", login.password.expose_secret())
            .env("PGSSLMODE", "disable")
            // Its words are read here.
            .env("LC_ALL", "C")
            .env_remove("PGOPTIONS")
            .env_remove("PGSERVICE")
            .env_remove("PGPASSFILE")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command.output().await.map_err(|error| {
            let hint = "on Debian or Ubuntu: `apt-get install postgresql-client`";
            CliError::request(format!("`{program}` could not be started: {error}"), hint)
        })
    }

    async fn connect(&self, role: Role) -> Result<Client, CliError> {
        let url = self.postgres.database().url(role);
        let (client, connection) = tokio_postgres::connect(url.expose_secret(), NoTls).await.map_err(lost)?;
        // Ends with the client.
        tokio::spawn(async move { connection.await.ok() });
        Ok(client)
    }

    /// Keys of the root table, one more than `most`; or the one that is asked for.
    pub async fn keys(&self, rules: &DataRules, only: Option<&str>, most: usize) -> Result<Vec<String>, CliError> {
        let key = format!("\"{}\"", rules.key_column.replace('"', "\"\""));
        let sql = format!(
            "select {key}::text from {} where $1::text is null or {key}::text = $1 order by {key} limit {}",
            rules.root.sql(),
            most + 1
        );
        let rows = self.connect(Role::Mover).await?.query(&sql, &[&only]).await.map_err(lost)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

fn lost(error: tokio_postgres::Error) -> CliError {
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

/// What no row needs: who owns what and who may do what, which a cell says itself, and settings of another version.
fn may_be_passed_over(line: &str) -> bool {
    (line.contains("role \"") && line.contains("does not exist"))
        || line.contains("must be owner of extension")
        || line.contains("schema \"public\" already exists")
        || line.contains("must be owner of schema public")
        || line.contains("unrecognized configuration parameter")
}

/// From what `pg_restore` and `psql` wrote: every error that counts fails the whole, for a dump is restored wholly or not at all.
fn judged(said: &str) -> Result<Restored, CliError> {
    let (mut bad, mut restored) = (Vec::new(), Restored::default());
    for line in said.lines() {
        let is_error = line.contains("ERROR:") || line.contains("FATAL:") || line.contains("error: ");
        if !is_error {
            continue;
        }
        let text = line.split_once("ERROR:").map_or(line, |(_, text)| text).trim().to_owned();
        let list = if may_be_passed_over(line) { &mut restored.passed_over } else { &mut bad };
        if !list.contains(&text) {
            list.push(text);
        }
    }
    if bad.is_empty() {
        return Ok(restored);
    }
    let more = bad.len().saturating_sub(NAMED);
    let mut text = bad.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if more > 0 {
        text = format!("{text}; and {more} more");
    }
    let hint = "nothing was changed; a dump of another server's version, or one that was cut off, fails like this";
    Err(CliError::request(format!("the dump could not be restored whole: {text}"), hint))
}

#[cfg(test)]
mod tests {
    use super::judged;

    #[test]
    fn owners_and_rights_are_passed_over_and_anything_else_counts() {
        let said = "pg_restore: error: could not execute query: ERROR:  role \"shop\" does not exist\n\
                    psql:/a.sql:9: ERROR:  unrecognized configuration parameter \"transaction_timeout\"\n\
                    pg_restore: warning: errors ignored on restore: 1\n";
        assert_eq!(judged(said).unwrap().passed_over.len(), 2);
        let broken = format!("{said}psql:/a.sql:12: ERROR:  relation \"t\" does not exist\n");
        assert!(judged(&broken).unwrap_err().to_string().contains("relation \"t\" does not exist"));
        assert!(judged("pg_restore: error: could not read from input file: end of file\n").is_err());
        assert!(judged("").unwrap().passed_over.is_empty());
    }
}
