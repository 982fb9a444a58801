//! What a stack file says, as types.
//!
//! Their JSON form has the file's own keys, so that a stored revision reads like the file it came from. Never holds
//! a resolved secret: values of `env` keep their `${VARIABLE}` until a process is started.

use crate::{
    Alerts, AnswerHeaders, Backups, Budget, Cluster, Compress, Environment, Failover, Hosts, Https, MissingVariable,
    Modes, Poll, Quota, RegistryAccount, Releases, ServiceEdge, Silence, Span, Template, Tenants,
};
use berth_domain::{
    CellClass, CellName, Cents, EdgeName, PlanLimits, PlanName, ProviderName, ServiceName, ServiceRole, StackName,
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// One SaaS: what runs, what belongs to a tenant, what it costs, and where it may stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    pub stack: StackName,
    pub services: BTreeMap<ServiceName, Service>,
    #[serde(default)]
    pub data: Data,
    #[serde(default)]
    pub plans: BTreeMap<PlanName, Plan>,
    #[serde(default)]
    pub cells: BTreeMap<CellName, Cell>,
    #[serde(default)]
    pub providers: BTreeMap<ProviderName, Provider>,
    #[serde(default)]
    pub edges: Vec<EdgeName>,
    #[serde(default, skip_serializing_if = "Https::is_usual")]
    pub https: Https,
    /// What edges have in common. Absent: each is by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    #[serde(default, skip_serializing_if = "Tenants::is_empty")]
    pub tenants: Tenants,
    /// Whose hosts need proof.
    #[serde(default, skip_serializing_if = "Hosts::is_usual")]
    pub hosts: Hosts,
    #[serde(default, skip_serializing_if = "AnswerHeaders::is_usual")]
    pub headers: AnswerHeaders,
    /// Absent: answers go as the application gave them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compress>,
    /// What differs between cells for many tenants and those of a tenant's own.
    #[serde(default)]
    pub modes: Modes,
    /// Where rows go that leave a tenant's cell for good. Absent: a folder beside the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archives: Option<Archives>,
    #[serde(default, skip_serializing_if = "Releases::is_usual")]
    pub releases: Releases,
    /// Accounts by the registry's host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registries: BTreeMap<String, RegistryAccount>,
    /// What providers let through; services draw on it by `polls`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quotas: BTreeMap<String, Quota>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<Alerts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<Backups>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
    #[serde(default, skip_serializing_if = "Check::is_empty")]
    pub check: Check,
    /// What follows from what tenants use.
    #[serde(default)]
    pub usage: UsageRules,
    /// `policy` and `catalogue` of the placement engine, which alone understands and checks them.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub placement: serde_json::Map<String, serde_json::Value>,
}

/// Where archives are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Archives {
    /// An absolute path on the server's host; with several servers one that all of them see.
    Directory(String),
    S3(S3Place),
}

/// A bucket of S3 or of anything that speaks its protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Place {
    pub bucket: String,
    /// Absent: Amazon's own, of the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// What the names of all objects begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    pub access_key_id: Template,
    pub secret_access_key: Template,
}

/// When usage of a plan's limits means something, and what may follow from it without a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsageRules {
    /// Percent of a limit: above it a larger plan is proposed, below it a smaller one.
    pub upgrade_at_percent: u32,
    pub downgrade_below_percent: u32,
    /// How far usage has to come back before either ends.
    pub band_percent: u32,
    /// How often a tenant is judged of which nothing new is known.
    pub judge_every: Span,
    /// Proposals that meet the approval rule are carried out without a person.
    pub automatic: bool,
    /// A proposal that nobody decides about ends after this many days.
    pub approval_days: u32,
    /// The class of requests that edges refuse while a quantity of the plan is spent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stop: BTreeMap<String, String>,
    /// The metric by which tenants share what their cell costs; absent: by the time that each had a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub costs_by: Option<String>,
}

impl Default for UsageRules {
    fn default() -> Self {
        Self {
            upgrade_at_percent: 80,
            downgrade_below_percent: 20,
            band_percent: 10,
            judge_every: Span::from_ms(86_400_000),
            automatic: false,
            approval_days: 14,
            stop: BTreeMap::new(),
            costs_by: None,
        }
    }
}

/// How many copies of a service run, by what they use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    pub min: u16,
    pub max: u16,
    /// What members should use of the processor time and memory that they are promised, in percent.
    pub cpu: u32,
    pub memory: u32,
    pub cooldown_s: u32,
    /// Of one more copy, a month: with it copies stay within `budget`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "price::maybe")]
    pub price: Option<Cents>,
}

/// What becomes of rows that are older than a tenant's plan keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purge {
    /// They are archived, then deleted.
    Archive,
    Delete,
}

/// How `berth check` looks at this stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    #[serde(default)]
    pub silence: Vec<Silence>,
}

impl Check {
    pub const fn is_empty(&self) -> bool {
        self.silence.is_empty()
    }
}

/// A program of the stack; every cell runs `copies` of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    #[serde(flatten)]
    pub run: Run,
    pub role: ServiceRole,
    /// Brings a cell's schema up to date, once per cell and release, as the schema's owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrate: Option<Vec<String>>,
    /// The port it insists on. Without one a free port is chosen and told as `PORT`, which is what lets several
    /// copies and cells share a host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A path that proves its database with a 2xx answer. Every web service has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// A path at which it speaks WebSocket, for `berth cell measure`. Edges carry WebSockets on every path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// How many run at first; without `scale`, always.
    pub copies: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Template>,
    #[serde(default, skip_serializing_if = "Shape::is_empty")]
    pub shape: Shape,
    #[serde(default)]
    pub hold: HoldPolicy,
    /// What it draws on a provider's quota by the clock alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub polls: Vec<Poll>,
    /// How edges send to its members.
    #[serde(default, skip_serializing_if = "ServiceEdge::is_usual")]
    pub edge: ServiceEdge,
}

impl Service {
    /// The service's own variables, ready for a process.
    pub fn resolved_env(&self, environment: &Environment) -> Result<BTreeMap<String, SecretString>, MissingVariable> {
        self.env.iter().map(|(name, value)| Ok((name.clone(), value.resolve(environment)?))).collect()
    }
}

/// What is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// Program and arguments, never a shell line.
    Command(Vec<String>),
    /// A container image, for providers that run containers.
    Image(String),
}

/// Which requests the edge parks while a tenant cuts over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldPolicy {
    /// Everything but GET, HEAD, OPTIONS and TRACE.
    #[default]
    Unsafe,
    /// Everything: for applications that write on GET.
    All,
}

/// What a member or a cell's database is promised. What is absent is left to the provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Thousandths of a processor core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_gib: Option<u32>,
}

impl Shape {
    pub const fn is_empty(&self) -> bool {
        self.cpu_millis.is_none() && self.memory_mib.is_none() && self.disk_gib.is_none()
    }
}

/// What belongs to a tenant, where the catalogue alone cannot say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// The table with one row per tenant.
    pub root: TableRef,
    /// The root table's key; its text form is a tenant's key everywhere else.
    pub key: String,
    /// The column that carries that key in other tables.
    pub tenant_column: String,
    /// Tables whose tenant column has another name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tenant_columns: BTreeMap<TableRef, String>,
    /// Tables that a move neither copies nor fences, such as a migration tool's bookkeeping.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leave_out: Vec<TableRef>,
    /// Tables whose rows belong to no tenant and travel along where a tenant's rows refer to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<TableRef>,
    /// References that no foreign key declares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<DataLink>,
    /// Tables with a history, and the column that says when a row is from. What is older than the plan's
    /// `retention_days` does not travel on a move down, and is archived.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub retention: BTreeMap<TableRef, String>,
    /// The tenant's keys in the cell's Redis, which is made with the cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<DataRedis>,
    /// The tenant's objects in the cell's object storage, which is made with the cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<DataObjects>,
    /// Rows that are too old for the plan go while the tenant stays where it is. Absent: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge: Option<Purge>,
    /// For how long a move can be undone, in days; 0 to 30. The old cell keeps the tenant's rows for that long.
    #[serde(default = "Data::shipped_way_back_days")]
    pub way_back_days: u32,
    #[serde(default)]
    pub hooks: Hooks,
}

/// Keys that are one tenant's, by prefix: `{tenant}` stands for the tenant's key in the root table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRedis {
    pub prefixes: Vec<String>,
    /// What is in it is kept nowhere else.
    #[serde(default)]
    pub store: bool,
}

/// Objects that are one tenant's, by prefix: `{tenant}` stands for the tenant's key in the root table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataObjects {
    pub prefixes: Vec<String>,
}

impl Data {
    /// The design's week.
    const fn shipped_way_back_days() -> u32 {
        7
    }
}

impl Default for Data {
    fn default() -> Self {
        Self {
            root: TableRef { schema: "public".to_owned(), table: "customers".to_owned() },
            key: "id".to_owned(),
            tenant_column: "customer_id".to_owned(),
            tenant_columns: BTreeMap::new(),
            leave_out: Vec::new(),
            shared: Vec::new(),
            links: Vec::new(),
            retention: BTreeMap::new(),
            redis: None,
            objects: None,
            purge: None,
            way_back_days: Self::shipped_way_back_days(),
            hooks: Hooks::default(),
        }
    }
}

/// Rows of one table that belong to the tenant of the row that they name, without a foreign key that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataLink {
    pub table: TableRef,
    /// In the order of the primary key of `to`.
    pub columns: Vec<String>,
    pub to: TableRef,
    /// Only rows in which this column has this value: a reference by type and id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<(String, String)>,
}

/// How the application learns of its tenants' lives. What is absent, the application does itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<Hook>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<Hook>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Hook>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Hook>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<Hook>,
}

/// One call to the application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// Run in the tenant's cell as the schema's owner, with `:id`, `:slug` and `:plan`; `create` returns the key.
    Sql(String),
    /// Posted to a path of the stack's web service, or to an absolute URL.
    Url(String),
}

/// A price and the limits that come with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Per month, in US dollars with two decimals.
    #[serde(with = "price")]
    pub price: Cents,
    pub class: CellClass,
    #[serde(default)]
    pub limits: PlanLimits,
    /// The least that a cell of its tenant's own has.
    #[serde(default, skip_serializing_if = "Shape::is_empty")]
    pub shape: Shape,
}

impl Plan {
    /// The same plan as the rest of Berth knows it.
    pub fn named(&self, name: &PlanName) -> berth_domain::Plan {
        berth_domain::Plan {
            name: name.clone(),
            price_cents: self.price,
            class: self.class,
            limits: self.limits.clone(),
        }
    }
}

/// A place for tenants that the stack wants to exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    pub class: CellClass,
    pub provider: ProviderName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    pub max_tenants: u32,
    /// What it costs a month, whole, in US dollars. Otherwise what the catalogue says.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "price::maybe")]
    pub price: Option<Cents>,
    /// Of its database.
    #[serde(default, skip_serializing_if = "Shape::is_empty")]
    pub shape: Shape,
    /// Of the machine that carries its database and members, where one machine carries them all.
    #[serde(default, skip_serializing_if = "Server::is_empty")]
    pub server: Server,
}

/// What a machine has, and which programs it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    #[serde(flatten)]
    pub shape: Shape,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
}

impl Server {
    pub const fn is_empty(&self) -> bool {
        self.shape.is_empty() && self.arch.is_none()
    }
}

/// As `uname -m` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    #[serde(rename = "x86_64")]
    X86_64,
    Aarch64,
}

/// An adapter and its own settings, which only the adapter understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    pub adapter: String,
    #[serde(flatten)]
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// A table with its schema. Written `schema.table`; without a schema it is in `public`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableRef {
    pub schema: String,
    pub table: String,
}

impl fmt::Display for TableRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// Text that is no `table` or `schema.table`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a table: write `table` or `schema.table`")]
pub struct BadTable(String);

impl FromStr for TableRef {
    type Err = BadTable;
    fn from_str(text: &str) -> Result<Self, BadTable> {
        let (schema, table) = text.split_once('.').unwrap_or(("public", text));
        if is_column(schema) && is_column(table) {
            Ok(Self { schema: schema.to_owned(), table: table.to_owned() })
        } else {
            Err(BadTable(text.to_owned()))
        }
    }
}

impl TryFrom<String> for TableRef {
    type Error = BadTable;
    fn try_from(text: String) -> Result<Self, BadTable> {
        text.parse()
    }
}

impl From<TableRef> for String {
    fn from(table: TableRef) -> Self {
        table.to_string()
    }
}

/// Whether Postgres could have a column or table of this name that needs no escape in a `schema.table` notation.
pub(crate) fn is_column(text: &str) -> bool {
    (1..=63).contains(&text.len()) && !text.contains(['.', '"', '\0']) && !text.chars().any(char::is_whitespace)
}

/// Prices as text with two decimals, because a float cannot say `0.10`.
pub(crate) mod price {
    use berth_domain::Cents;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub fn serialize<S: Serializer>(price: &Cents, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{}.{:02}", price.get() / 100, price.get() % 100))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Cents, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not a price")))
    }

    /// The same where a price may be absent.
    pub mod maybe {
        use super::{Cents, Deserialize, Deserializer, Error, Serializer, parse};

        #[expect(clippy::ref_option, reason = "serde calls it with a reference")]
        pub fn serialize<S: Serializer>(price: &Option<Cents>, to: S) -> Result<S::Ok, S::Error> {
            match price {
                Some(price) => super::serialize(price, to),
                None => to.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cents>, D::Error> {
            let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
            parse(&text).map(Some).ok_or_else(|| D::Error::custom(format!("`{text}` is not a price")))
        }
    }

    /// `149` or `149.00`: dollars, not negative, at most two decimals, below ten million.
    pub fn parse(text: &str) -> Option<Cents> {
        let (dollars, cents) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |t: &str, max: usize| !t.is_empty() && t.len() <= max && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(dollars, 7) || !digits(cents, 2) {
            return None;
        }
        let scale = if cents.len() == 1 { 10 } else { 1 };
        Some(Cents::new(dollars.parse::<i64>().ok()? * 100 + cents.parse::<i64>().ok()? * scale))
    }
}
