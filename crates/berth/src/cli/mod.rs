//! The command line: what people type, and what they see.
//!
//! Data goes to stdout, talk to stderr. A screen is a pure function from an answer and the present moment to text, so
//! tests compare whole screens. Nothing here holds a rule: the server decides, this shows.

#![expect(clippy::format_push_string, clippy::format_collect, reason = "screens are small and built once")]

mod apply;
mod approval;
mod audit;
mod cell;
mod cert;
mod check;
mod config;
mod context;
mod contexts;
mod cost;
mod db;
mod decide;
mod drain;
mod edge;
mod edge_check;
mod error;
mod fleet;
mod host;
mod import;
mod in_force;
mod key;
mod logs;
mod operation;
mod overview;
mod plan;
mod recover;
mod registry;
mod release;
mod render;
mod service;
mod status;
mod table;
mod tenant;
mod text;
mod units;
mod usage;
mod verbs;
mod watch;

#[cfg(feature = "ssh")]
pub use apply::{StackFiles, stack_apply};
pub use cell::Cell;
pub use check::Variables as CheckVariables;
pub use context::{Connection, Context};
pub use contexts::{Asked, Contexts, Login, resolve};
pub use edge::Edge as EdgeCommand;
pub use error::CliError;
pub use overview::OVERVIEW;
#[cfg(feature = "ssh")]
pub use table::Table;
#[cfg(test)]
pub use verbs::VERBS;
pub use verbs::instead_of;
#[cfg(feature = "ssh")]
pub use watch::{success, to_its_end, to_success};

use clap::{Args, Subcommand};

/// What every command over the API takes.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Print the answer as JSON, with times in RFC 3339
    #[arg(long, global = true)]
    pub json: bool,
    /// Go on without asking
    #[arg(long, short = 'y', global = true)]
    pub yes: bool,
    /// The server [default: that of the current context, else http://127.0.0.1:7600]
    #[arg(long, global = true, env = "BERTH_URL", value_name = "URL")]
    pub url: Option<String>,
    /// A server that was logged in to, and the key to it
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
}

/// The commands that are calls of the API.
#[derive(Subcommand, Debug)]
pub enum ApiCommand {
    /// Apply the stack file `berth.yaml`
    Apply(apply::Apply),
    /// What is wrong with the stack file, variables, compose file, proxy and their like
    Check(check::Check),
    /// Compose file, nginx, units, Dockerfile and their like, from the stack file
    Render(render::Render),
    /// What the stack file comes to, and its schema
    #[command(subcommand)]
    Config(config::Config),
    /// Is everybody served, what moves, what needs a person
    Status,
    /// What a cell's processes wrote last
    Logs(logs::Logs),
    /// Who changed what, and when
    Audit(audit::Audit),
    /// The customers of the stack
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// A tenant out of what `pg_dump` wrote
    Import(import::Import),
    /// The places where tenants live
    #[command(subcommand)]
    Cell(Cell),
    /// What runs in the cells, restarted
    #[command(subcommand)]
    Service(service::Service),
    /// Databases of cells, looked at
    #[command(subcommand)]
    Db(db::Db),
    /// Which hosts are whose, and their proof
    #[command(subcommand)]
    Host(host::Host),
    /// TLS certificates of the hosts that edges serve
    #[command(subcommand)]
    Cert(cert::Cert),
    /// What services run, by digest, and how it comes to the cells
    #[command(subcommand)]
    Release(release::Release),
    /// Accounts that pull images from registries
    #[command(subcommand)]
    Registry(registry::Registry),
    /// Where a tenant belongs, why, and what that costs
    Decide(decide::Decide),
    /// All tenants to cells: planned, carried out, grown on paper
    #[command(subcommand)]
    Fleet(fleet::Fleet),
    /// What a month cost, who bore it, and what is left
    Cost(cost::Cost),
    /// What tenants use, against the limits of their plans
    #[command(subcommand)]
    Usage(usage::Usage),
    /// Proposals to put tenants elsewhere, that wait for a person
    #[command(subcommand)]
    Approval(approval::Approval),
    /// Prices and the limits that come with them
    #[command(subcommand)]
    Plan(plan::Plan),
    /// Keys to the API
    #[command(subcommand)]
    Key(key::Key),
    /// Long work: created, moving, undoing, stuck
    #[command(subcommand)]
    Operation(operation::Operation),
    /// Edges as the control plane knows them; the role `berth edge` carries these verbs
    #[command(skip)]
    Edge(edge::Edge),
    /// After the control database was restored from a backup: raise its counters above what the world has seen
    Recover(recover::Recover),
}

pub async fn run(command: ApiCommand, cx: &Context) -> Result<(), CliError> {
    match command {
        ApiCommand::Apply(apply) => apply.run(cx).await,
        ApiCommand::Check(check) => check.run(cx).await,
        ApiCommand::Render(render) => render.run(cx),
        ApiCommand::Config(config) => config.run(cx),
        ApiCommand::Status => status::run(cx).await,
        ApiCommand::Logs(logs) => logs.run(cx).await,
        ApiCommand::Audit(audit) => audit.run(cx).await,
        ApiCommand::Tenant(tenant) => tenant.run(cx).await,
        ApiCommand::Import(import) => import.run(cx).await,
        ApiCommand::Cell(cell) => cell.run(cx).await,
        ApiCommand::Service(service) => service.run(cx).await,
        ApiCommand::Db(db) => db.run(cx).await,
        ApiCommand::Host(host) => host.run(cx).await,
        ApiCommand::Cert(cert) => cert.run(cx).await,
        ApiCommand::Release(release) => release.run(cx).await,
        ApiCommand::Registry(registry) => registry.run(cx).await,
        ApiCommand::Decide(decide) => decide.run(cx).await,
        ApiCommand::Fleet(fleet) => fleet.run(cx).await,
        ApiCommand::Cost(cost) => cost.run(cx).await,
        ApiCommand::Usage(usage) => usage.run(cx).await,
        ApiCommand::Approval(approval) => approval.run(cx).await,
        ApiCommand::Plan(plan) => plan.run(cx).await,
        ApiCommand::Key(key) => key.run(cx).await,
        ApiCommand::Operation(operation) => operation.run(cx).await,
        ApiCommand::Edge(edge) => edge.run(cx).await,
        ApiCommand::Recover(recover) => recover.run(cx).await,
    }
}
