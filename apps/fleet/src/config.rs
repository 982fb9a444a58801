//! What the platform told this process, read once.
//!
//! Nothing else in this program looks at the environment, and nothing here connects to anything.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::{signature::Keys, usage::Platform};

pub struct Settings {
    pub listen: SocketAddr,
    pub database: tokio_postgres::Config,
    pub pool_size: usize,
    /// How long a request waits for a connection before it is told that there is none.
    pub pool_wait: Duration,
    /// The cell's Redis, where it has one.
    pub redis: Option<redis::Client>,
    pub redis_pool_size: usize,
    pub place: Place,
    /// Where usage is reported; without it nothing is.
    pub platform: Option<Platform>,
    /// What requests have to be signed with; without it they are believed as they come.
    pub keys: Option<Keys>,
}

/// Where this copy runs, as the platform says it; shown by `GET /api/v1/status`, never decided upon.
#[derive(Clone)]
pub struct Place {
    pub mode: Mode,
    pub provider: String,
    pub cell: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    MultiTenant,
    SingleTenant,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MultiTenant => "multi_tenant",
            Self::SingleTenant => "single_tenant",
        }
    }

    /// The variable with the pool's size, and the size when it is not set.
    fn pool(self) -> (&'static str, usize) {
        match self {
            Self::MultiTenant => ("SHARED_DATABASE_POOL_SIZE", 20),
            Self::SingleTenant => ("DEDICATED_DATABASE_POOL_SIZE", 10),
        }
    }

    /// Connections to Redis when `REDIS_POOL_SIZE` is not set.
    fn redis_pool(self) -> usize {
        match self {
            Self::MultiTenant => 10,
            Self::SingleTenant => 5,
        }
    }

    /// How long a request waits for a connection when `DATABASE_QUEUE_TARGET_MS` is not set.
    fn pool_wait_ms(self) -> u64 {
        match self {
            Self::MultiTenant => 5000,
            Self::SingleTenant => 1000,
        }
    }
}

impl Settings {
    pub fn from_environment() -> anyhow::Result<Self> {
        let mode = match variable("DEPLOYMENT_MODE").as_deref() {
            None | Some("multi_tenant") => Mode::MultiTenant,
            Some("single_tenant") => Mode::SingleTenant,
            Some(other) => anyhow::bail!("DEPLOYMENT_MODE is `{other}`, not multi_tenant or single_tenant"),
        };
        let (pool_variable, pool_default) = mode.pool();
        let size = |name: &str, usual: usize| match variable(name) {
            None => Ok(usual),
            Some(text) => text
                .parse()
                .ok()
                .filter(|size| (1..=1000).contains(size))
                .with_context(|| format!("{name} is `{text}`, not a number from 1 to 1000")),
        };
        let pool_size = size(pool_variable, pool_default)?;
        let redis_pool_size = size("REDIS_POOL_SIZE", mode.redis_pool())?;
        let redis = variable("REDIS_URL");
        let redis =
            redis.map(|url| redis::Client::open(url).context("REDIS_URL is not redis://…@HOST:PORT")).transpose()?;
        let platform = match (variable("BERTH_URL"), variable("BERTH_USAGE_KEY")) {
            (Some(url), Some(key)) => {
                let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/').to_owned());
                let authority = authority.filter(|rest| rest.contains(':') && !rest.contains('/'));
                let authority = authority.with_context(|| format!("BERTH_URL is `{url}`, not http://HOST:PORT"))?;
                Some(Platform { authority, key })
            }
            (None, None) => None,
            _ => anyhow::bail!("BERTH_URL and BERTH_USAGE_KEY come together"),
        };
        let keys = variable("BERTH_SIGNATURE_KEY").map(|text| Keys::read(&text)).transpose()?;
        let pool_wait_ms = match variable("DATABASE_QUEUE_TARGET_MS") {
            None => mode.pool_wait_ms(),
            Some(text) => text
                .parse()
                .ok()
                .filter(|ms| (1..=3_600_000).contains(ms))
                .with_context(|| format!("DATABASE_QUEUE_TARGET_MS is `{text}`, not a number from 1 to 3600000"))?,
        };
        let port = variable("PORT").unwrap_or_else(|| "4000".into());
        let port = port.parse().with_context(|| format!("PORT is `{port}`, not a port"))?;
        let address = variable("BIND").unwrap_or_else(|| "127.0.0.1".into());
        let address: IpAddr = address.parse().with_context(|| format!("BIND is `{address}`, not an IP address"))?;
        Ok(Self {
            listen: SocketAddr::new(address, port),
            database: database_url()?,
            pool_size,
            pool_wait: Duration::from_millis(pool_wait_ms),
            redis,
            redis_pool_size,
            place: Place {
                mode,
                provider: variable("INFRASTRUCTURE_PROVIDER").unwrap_or_else(|| "unknown".into()),
                cell: variable("BERTH_CELL").unwrap_or_else(|| "unknown".into()),
            },
            platform,
            keys,
        })
    }
}

pub fn database_url() -> anyhow::Result<tokio_postgres::Config> {
    let url = variable("DATABASE_URL").context("DATABASE_URL is not set")?;
    // The parser's own message may quote the address, which holds the password.
    let mut config: tokio_postgres::Config =
        url.parse().map_err(|_| anyhow::anyhow!("DATABASE_URL is not a Postgres address"))?;
    if config.get_application_name().is_none() {
        config.application_name(variable("PGAPPNAME").unwrap_or_else(|| "fleet".into()));
    }
    Ok(config)
}

pub fn log_filter() -> EnvFilter {
    EnvFilter::new(variable("RUST_LOG").unwrap_or_else(|| "info".into()))
}

#[expect(clippy::disallowed_methods, reason = "the one place of this binary that reads the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
