//! Quoting, and sessions whose settings nobody else decides. No SQL of the product stands here.

use crate::{MoveError, Side};
use berth_pg::Tls;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::{Client, Config};

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

pub(crate) fn options(extra: &[(&str, &str)]) -> String {
    PINNED.iter().chain(extra).map(|(key, value)| format!("-c {key}={value}")).collect::<Vec<_>>().join(" ")
}

/// A session of the mover. Dropping it closes the connection.
pub(crate) async fn connect(endpoint: &Endpoint, side: Side, name: &str) -> Result<Client, MoveError> {
    connect_with(endpoint, side, name, &[]).await
}

pub(crate) async fn connect_with(
    endpoint: &Endpoint,
    side: Side,
    name: &str,
    extra: &[(&str, &str)],
) -> Result<Client, MoveError> {
    let mut config = Config::new();
    config
        .host(&endpoint.host)
        .port(endpoint.port)
        .dbname(&endpoint.database)
        .user(&endpoint.user)
        .password(endpoint.password.expose_secret())
        .application_name(name)
        .options(options(extra));
    berth_pg::connect(&config, endpoint.tls.as_ref()).await.map_err(|source| MoveError::Connect { side, source })
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
    use super::{ident, literal};

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("o'b\\"), "'o''b\\'");
    }
}
