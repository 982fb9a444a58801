//! What the commands of `berth mover` are told: where the two sides are, whose rows are whose, which journal.

use crate::fail::{Failure, FailureExt as _};
use berth_mover::{DataRules, Endpoint};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub struct From {
    /// The database that it lives in, as postgres://user@host:port/database; the password
    /// in BERTH_FROM_PASSWORD, or all of it in BERTH_FROM
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
}

#[derive(Args, Debug)]
pub struct Sides {
    #[command(flatten)]
    pub from: From,
    /// The database that it goes to; the password in BERTH_TO_PASSWORD, or all of it in BERTH_TO
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
}

#[derive(Args, Debug)]
pub struct Whose {
    /// The tenant: its key in the root table
    #[arg(long, value_name = "KEY")]
    pub tenant: String,
    #[command(flatten)]
    pub rules: Rules,
}

#[derive(Args, Debug)]
pub struct Rules {
    /// A stack file whose `data` says whose rows are whose; instead of the three options below
    #[arg(long, value_name = "FILE", conflicts_with_all = ["root", "key", "tenant_column"])]
    pub stack: Option<PathBuf>,
    /// The table with one row per tenant
    #[arg(long, default_value = "customers", value_name = "TABLE")]
    pub root: String,
    /// Its key column
    #[arg(long, default_value = "id", value_name = "COLUMN")]
    pub key: String,
    /// The column that names the tenant in other tables
    #[arg(long, default_value = "customer_id", value_name = "COLUMN")]
    pub tenant_column: String,
}

#[derive(Args, Debug)]
pub struct JournalAt {
    /// The folder that says how far this move is; one move each
    #[arg(long, value_name = "FOLDER")]
    pub journal: PathBuf,
}

/// The source and the target.
pub type BothSides = (Endpoint, Endpoint);

/// What the environment says of the two sides.
pub struct Variables {
    pub from: Option<SecretString>,
    pub from_password: Option<SecretString>,
    pub to: Option<SecretString>,
    pub to_password: Option<SecretString>,
}

/// A URL on the command line has no password: there every user of the machine could read it.
fn endpoint(
    argument: Option<&str>,
    variable: Option<&SecretString>,
    password: Option<&SecretString>,
    side: &str,
) -> Result<Endpoint, Failure> {
    let example = "for example postgres://berth_mover@db.example.com:5432/app";
    let url = argument.or(variable.map(ExposeSecret::expose_secret)).ok_or_else(|| {
        Failure::request(format!("where is the database? `--{side} URL`, or BERTH_{}", side.to_uppercase()), example)
    })?;
    let (config, tls) =
        berth_pg::parse(url).map_err(|error| Failure::request(format!("that is no database URL: {error}"), example))?;
    let password = match config.get_password() {
        Some(_) if argument.is_some() => {
            let variable = format!("BERTH_{}", side.to_uppercase());
            return Err(Failure::request(
                "a password on the command line can be read by everybody on this machine",
                format!("leave it out and set {variable}_PASSWORD, or set {variable} to the whole URL"),
            ));
        }
        Some(password) => SecretString::from(String::from_utf8_lossy(password).into_owned()),
        None => password.cloned().unwrap_or_default(),
    };
    let host = match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
        Some(tokio_postgres::config::Host::Unix(path)) => path.to_string_lossy().into_owned(),
        None => return Err(Failure::request("the URL names no host", example)),
    };
    let missing = |what: &str| Failure::request(format!("the URL names no {what}"), example);
    Ok(Endpoint {
        host,
        port: config.get_ports().first().copied().unwrap_or(5432),
        database: config.get_dbname().ok_or_else(|| missing("database"))?.to_owned(),
        user: config.get_user().ok_or_else(|| missing("user"))?.to_owned(),
        password,
        tls,
    })
}

impl From {
    pub fn endpoint(&self, variables: &Variables) -> Result<Endpoint, Failure> {
        endpoint(self.from.as_deref(), variables.from.as_ref(), variables.from_password.as_ref(), "from")
    }
}

impl Sides {
    pub fn endpoints(&self, variables: &Variables) -> Result<(Endpoint, Endpoint), Failure> {
        let to = endpoint(self.to.as_deref(), variables.to.as_ref(), variables.to_password.as_ref(), "to");
        Ok((self.from.endpoint(variables)?, to?))
    }
}

/// Where a side is, without its password: kept in the journal, and compared when a move is taken up again.
pub fn address(endpoint: &Endpoint) -> String {
    let over = if endpoint.tls.is_some() { " over TLS" } else { "" };
    format!("{}@{}:{}/{}{over}", endpoint.user, endpoint.host, endpoint.port, endpoint.database)
}

impl Rules {
    pub fn read(&self) -> Result<DataRules, Failure> {
        let stated = self.stack()?.map(|stack| berth_control::moves::rules(&stack.data));
        Ok(stated.unwrap_or_else(|| DataRules::of(&self.root, &self.key, &self.tenant_column)))
    }

    /// The same for a move, which takes rows along and nothing else.
    pub fn read_for_a_move(&self) -> Result<DataRules, Failure> {
        let data = self.stack()?.map(|stack| stack.data);
        let beside = data.iter().flat_map(|data| {
            let keys = data.redis.as_ref().map(|_| "`data.redis`");
            keys.into_iter().chain(data.objects.as_ref().map(|_| "`data.objects`"))
        });
        let beside: Vec<&str> = beside.collect();
        if !beside.is_empty() {
            return Err(Failure::request(
                format!(
                    "the stack file has {}, and this moves rows only: they would stay behind",
                    beside.join(" and ")
                ),
                "`berth tenant move` takes them along; or bring them yourself, and leave that out of the file given here",
            ));
        }
        self.read()
    }

    fn stack(&self) -> Result<Option<berth_config::Stack>, Failure> {
        let Some(path) = &self.stack else { return Ok(None) };
        let text = std::fs::read_to_string(path).ours("the stack file")?;
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        let stack = berth_config::parse(&text, None, &|name| std::fs::read_to_string(folder.join(name)))
            .map_err(|mistakes| Failure::request(mistakes, "correct the stack file"))?;
        Ok(Some(stack))
    }
}
