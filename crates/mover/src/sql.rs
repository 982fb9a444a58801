//! Quoting, and sessions whose settings nobody else decides. No SQL of the product stands here.

use crate::error::is_pooler;
use crate::{MoveError, MoveSpec, Obstacle, Side};
use berth_pg::Tls;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::{Client, Config, SimpleQueryMessage, error::SqlState};

/// A quoted identifier.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A quoted literal. `standard_conforming_strings` is pinned on, so a backslash is a backslash.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Quoted identifiers, comma separated.
pub fn idents<S: AsRef<str>>(names: &[S]) -> String {
    names.iter().map(|n| ident(n.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Where a database listens and who the mover is there.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// A host name, an address, or a directory with a Unix socket (begins with `/`).
    pub host: String,
    pub port: u16,
    pub database: String,
    pub user: String,
    pub password: SecretString,
    /// None on this machine and in networks of one's own.
    pub tls: Option<Tls>,
}

/// Database and role defaults lie: the text form of a value, and whether a commit is durable, depend on them.
/// Startup options outrank both.
pub(crate) const PINNED: &[(&str, &str)] = &[
    ("timezone", "UTC"),
    ("datestyle", "ISO,MDY"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("standard_conforming_strings", "on"),
    ("row_security", "off"),
    ("synchronous_commit", "on"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("default_transaction_isolation", "read\\ committed"),
    ("default_transaction_read_only", "off"),
    ("search_path", "pg_catalog"),
    ("client_connection_check_interval", "1000"),
    ("maintenance_work_mem", "256MB"),
    // Which rows are whose is looked up in hash tables, which have to fit.
    ("work_mem", "64MB"),
    ("jit", "off"),
];

/// PostgreSQL 17 has one more, at which an older server would refuse the start: it is taken away where it is there and set. In a
/// session of replication too, whose exported snapshot is one long transaction.
pub(crate) const NO_TRANSACTION_TIMEOUT: &str =
    "select set_config('transaction_timeout', '0', false) where current_setting('transaction_timeout', true) <> '0'";

pub(crate) fn options(extra: &[(&str, &str)]) -> String {
    PINNED.iter().chain(extra).map(|(key, value)| format!("-c {key}={value}")).collect::<Vec<_>>().join(" ")
}

/// A session of the mover. Dropping it closes the connection.
pub(crate) async fn connect(endpoint: &Endpoint, side: Side, name: &str) -> Result<Client, MoveError> {
    connect_with(endpoint, side, name, &[]).await
}

/// One in each of a move's databases, made at the same time: most of a login is waiting. Where neither is to be had, what the
/// source says is told.
pub(crate) async fn connect_both(spec: &MoveSpec, name: &str) -> Result<(Client, Client), MoveError> {
    let (source, target) = tokio::join!(
        Box::pin(connect(&spec.source, Side::Source, name)),
        Box::pin(connect(&spec.target, Side::Target, name))
    );
    Ok((source?, target?))
}

/// One that is refused every write: for whoever only looks at somebody's database.
pub(crate) async fn connect_to_look(endpoint: &Endpoint, side: Side, name: &str) -> Result<Client, MoveError> {
    connect_with(endpoint, side, name, &[("default_transaction_read_only", "on")]).await
}

/// A session that loads rows: no foreign key is checked, and no trigger fires that is not made for it. Set by a statement,
/// which managed databases let some through with that they refuse as an option of the start.
pub(crate) async fn connect_to_load(endpoint: &Endpoint, side: Side, name: &str) -> Result<Client, MoveError> {
    let client = connect(endpoint, side, name).await?;
    let set = client.batch_execute("set session_replication_role = replica").await;
    set.doing(side, "passing triggers").map(|()| client)
}

pub(crate) async fn connect_with(
    endpoint: &Endpoint,
    side: Side,
    name: &str,
    extra: &[(&str, &str)],
) -> Result<Client, MoveError> {
    let mut config = plain(endpoint, name);
    config.options(options(extra));
    let source = match berth_pg::connect(&config, endpoint.tls.as_ref()).await {
        Ok(client) => {
            let set = client.batch_execute(NO_TRANSACTION_TIMEOUT).await;
            return set.doing(side, "setting up a session").map(|()| client);
        }
        Err(source) => source,
    };
    if is_about_options(&source)
        && let Some(version) = another_server(endpoint, name).await
    {
        return Err(MoveError::Obstacles(vec![Obstacle::NotPostgres { side, version }]));
    }
    Err(MoveError::Connect { side, source })
}

/// Where and as whom, with nothing said of the session.
fn plain(endpoint: &Endpoint, name: &str) -> Config {
    let mut config = Config::new();
    config
        .host(&endpoint.host)
        .port(endpoint.port)
        .dbname(&endpoint.database)
        .user(&endpoint.user)
        .password(endpoint.password.expose_secret())
        .application_name(name);
    config
}

/// As it begins in every server that is made of PostgreSQL.
pub(crate) fn is_postgres(version: &str) -> bool {
    version.starts_with("PostgreSQL ") || version.starts_with("EnterpriseDB ")
}

/// What a server may say of the options that a session begins with: it does not know one, or takes none.
fn is_about_options(error: &berth_pg::ConnectError) -> bool {
    let berth_pg::ConnectError::Postgres(postgres) = error else { return false };
    let codes = [
        SqlState::UNDEFINED_OBJECT,
        SqlState::INVALID_PARAMETER_VALUE,
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::CANT_CHANGE_RUNTIME_PARAM,
    ];
    is_pooler(error) || postgres.code().is_some_and(|code| codes.contains(code))
}

/// What the server says that it is, where that is not PostgreSQL: it is asked in a session without options.
async fn another_server(endpoint: &Endpoint, name: &str) -> Option<String> {
    let version = says(endpoint, name, "select version()").await?;
    (!is_postgres(&version)).then_some(version)
}

/// The one text that this asks for, in a session without options, in which servers of other kinds answer too.
pub(crate) async fn says(endpoint: &Endpoint, name: &str, sql: &str) -> Option<String> {
    let client = berth_pg::connect(&plain(endpoint, name), endpoint.tls.as_ref()).await.ok()?;
    let said = client.simple_query(sql).await.ok()?;
    said.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// Maps a failed statement to the error that names its side.
pub(crate) trait Doing<T> {
    fn doing(self, side: Side, what: &'static str) -> Result<T, MoveError>;
}

impl<T> Doing<T> for Result<T, tokio_postgres::Error> {
    fn doing(self, side: Side, what: &'static str) -> Result<T, MoveError> {
        self.map_err(|source| MoveError::Statement { side, doing: what, source })
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, connect, connect_to_look, ident, literal};
    use crate::Side;
    use crate::wal::Replication;
    use berth_infra::Role;
    use berth_testkit::{TestDatabase, TestPg};
    use secrecy::{ExposeSecret as _, SecretString};
    use tokio_postgres::{Config, config::Host, error::SqlState};

    fn endpoint(config: &Config) -> Endpoint {
        let host = match &config.get_hosts()[0] {
            Host::Tcp(host) => host.clone(),
            Host::Unix(folder) => folder.to_string_lossy().into_owned(),
        };
        Endpoint {
            host,
            port: config.get_ports()[0],
            database: config.get_dbname().unwrap().to_owned(),
            user: config.get_user().unwrap().to_owned(),
            password: SecretString::from(String::from_utf8(config.get_password().unwrap().to_vec()).unwrap()),
            tls: None,
        }
    }

    #[tokio::test]
    async fn a_session_that_looks_is_refused_every_write() {
        let database = TestDatabase::new().await;
        let config: Config = database.url(Role::Owner).expose_secret().parse().unwrap();
        let client = connect_to_look(&endpoint(&config), Side::Source, "berth-test").await.unwrap();
        let refused = client.batch_execute("create table public.made (id int)").await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
    }

    #[tokio::test]
    async fn a_logins_limit_of_its_transactions_holds_for_no_session_of_the_mover() {
        let Some(server) = TestPg::version_18().await else {
            println!("skipped: there is no PostgreSQL 18 on this machine");
            return;
        };
        let database = server.database("limited").await;
        let endpoint = endpoint(&server.config(Role::Mover, &database));
        let limit = format!("alter role {} set transaction_timeout = '5s'", ident(&endpoint.user));
        server.connect_to(Role::Mover, &database).await.batch_execute(&limit).await.unwrap();
        let show = "show transaction_timeout";
        let others = server.connect_to(Role::Mover, &database).await.query_one(show, &[]).await.unwrap();
        assert_eq!(others.get::<_, String>(0), "5s");
        let session = connect(&endpoint, Side::Source, "berth-test").await.unwrap();
        assert_eq!(session.query_one(show, &[]).await.unwrap().get::<_, String>(0), "0");
        let mut replication = Replication::connect(&endpoint, "berth-test").await.unwrap();
        assert_eq!(replication.command("SHOW transaction_timeout").await.unwrap(), [[Some("0".to_owned())]]);
    }

    #[tokio::test]
    async fn a_server_passes_large_transactions_on_early_whatever_it_is_set_to() {
        let database = TestDatabase::new().await;
        let usual = format!("alter database {} set logical_decoding_work_mem = '64MB'", ident(database.name()));
        database.connect(Role::Owner).await.batch_execute(&usual).await.unwrap();
        let mut replication =
            Replication::connect(&endpoint(&database.config(Role::Mover)), "berth-test").await.unwrap();
        assert_eq!(replication.command("SHOW logical_decoding_work_mem").await.unwrap(), [[Some("1MB".to_owned())]]);
    }

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("o'b\\"), "'o''b\\'");
    }
}
