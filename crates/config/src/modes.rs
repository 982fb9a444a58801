//! What differs between a cell for many tenants and one of a tenant's own: the WebHost guide's two columns, as far as they
//! have an effect here. Never says what a plan promises: that is the plan's.

use crate::{Span, Template};
use berth_domain::Mode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Modes {
    pub multi_tenant: ModeProfile,
    pub single_tenant: ModeProfile,
}

/// Of all cells of one mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeProfile {
    /// Connections that each process keeps: told as `SHARED_DATABASE_POOL_SIZE` or `DEDICATED_DATABASE_POOL_SIZE`.
    pub pool_size: u32,
    /// Connections to the cell's Redis that each process keeps, where there is one: told as `REDIS_POOL_SIZE`.
    #[serde(default = "redis_pool_usual")]
    pub redis_pool_size: u32,
    /// How long a request waits for one of them: told as `DATABASE_QUEUE_TARGET_MS`.
    pub queue_target: Span,
    /// Set for the application's role in the cell's database; absent: the role keeps what it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement_timeout: Option<Span>,
    /// The same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_in_transaction_timeout: Option<Span>,
    /// What the database calls the application's connections: told as `PGAPPNAME`.
    pub application_name: String,
    /// Told to every process of such a cell; a service's own variables go before them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Template>,
}

/// Of revisions that were stored before it could be said.
const fn redis_pool_usual() -> u32 {
    10
}

impl ModeProfile {
    /// The guide's column, but for what would end statements and transactions that nobody spoke of: those timeouts are
    /// only where the stack file says so.
    pub fn usual(mode: Mode) -> Self {
        let seconds = |n: u64| Span::from_ms(n * 1000);
        match mode {
            Mode::MultiTenant => Self {
                pool_size: 20,
                redis_pool_size: 10,
                queue_target: seconds(5),
                statement_timeout: None,
                idle_in_transaction_timeout: None,
                application_name: "webhost_multi_tenant".to_owned(),
                env: BTreeMap::new(),
            },
            Mode::SingleTenant => Self {
                pool_size: 10,
                redis_pool_size: 5,
                queue_target: seconds(1),
                statement_timeout: None,
                idle_in_transaction_timeout: None,
                application_name: "webhost_single_tenant".to_owned(),
                env: BTreeMap::new(),
            },
        }
    }
}

impl Default for Modes {
    fn default() -> Self {
        Self {
            multi_tenant: ModeProfile::usual(Mode::MultiTenant),
            single_tenant: ModeProfile::usual(Mode::SingleTenant),
        }
    }
}

impl Modes {
    pub const fn of(&self, mode: Mode) -> &ModeProfile {
        match mode {
            Mode::MultiTenant => &self.multi_tenant,
            Mode::SingleTenant => &self.single_tenant,
        }
    }
}
