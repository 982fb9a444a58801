//! `berth tenant …`.

mod allow;
mod archive;
mod limits;
mod screens;

pub use archive::Import as ArchiveImport;

use super::{CliError, Context, decide, drain::Drain, watch};
use berth_client::{Drainable, OperationFilter};
use berth_domain::{CellName, Hostname, OperationId, PlanName, TenantKey, TenantName, TenantState, WayBackState};
use berth_wire::{TenantChange, TenantCreate, TenantHosts, TenantMove, TenantSync};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Subcommand, Debug)]
pub enum Tenant {
    /// Make a tenant and serve it
    Create(Create),
    /// All tenants
    List {
        /// Only those in this state
        #[arg(long)]
        state: Option<TenantState>,
    },
    /// One tenant: where it is, and what happened to it lately
    Show { tenant: String },
    /// Show or change the host names that route to a tenant
    Hosts(Hosts),
    /// Show or change the networks whose clients are served; without any everybody is
    Allow(allow::Allow),
    /// Show or change what it has at the edges instead of its plan's limits
    Limits(limits::Limits),
    /// Compare a cell's root table with what Berth knows
    Sync(Sync),
    /// Put a tenant on another plan; shows first what that costs and brings
    Plan(ChangePlan),
    /// What a move would do; changes nothing
    PlanMove(Target),
    /// Move a tenant to another cell while its users keep working
    Move(Move),
    /// Undo the last move: back to the old cell, with everything written since
    UndoMove(Undo),
    /// Let the last move stay: what it left in the old cell is removed now
    SettleMove(Settle),
    /// Archives of its rows: what moves left behind, and what was exported
    Archives { tenant: String },
    /// Remove rows that are older than its plan keeps, archived first
    Purge(Purge),
    /// Archive everything of it: rows as they are at one moment, keys, objects
    Export(archive::Export),
    /// A tenant from an archive, here or in another installation
    Import(archive::Import),
    /// Erase everything that is known of a tenant, everywhere
    Erase(archive::Erase),
    /// What was erased of tenants, where and when
    Erasures,
    /// Bring an archive's rows back; rows that are there stay as they are
    Restore(Restore),
    /// Answer the tenant's new requests with 503 and let what is open end
    Drain {
        tenant: String,
        #[command(flatten)]
        how: Drain,
    },
    /// Answer the tenant's requests with 403 until it is resumed
    Suspend(Waited),
    /// Serve a suspended tenant again
    Resume(Waited),
    /// Remove a tenant with all its rows
    Delete(Delete),
}

#[derive(Args, Debug)]
pub struct Create {
    name: TenantName,
    #[arg(long)]
    plan: PlanName,
    /// A host name that routes to it; may be given more than once
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<Hostname>,
    /// Its key in the application's root table, when the application has made it already
    #[arg(long)]
    key: Option<TenantKey>,
    /// The cell to live in; otherwise the best of the plan's class
    #[arg(long)]
    cell: Option<CellName>,
    /// What it needs, as YAML or JSON: its place keeps it
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args, Clone, Copy, Debug)]
pub struct Wait {
    /// Return once the work has begun, without watching it
    #[arg(long)]
    pub detach: bool,
}

#[derive(Args, Debug)]
pub struct Waited {
    tenant: String,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args, Debug)]
pub struct Hosts {
    tenant: String,
    /// Route this host name to it; may be given more than once
    #[arg(long, value_name = "HOST")]
    add: Vec<Hostname>,
    /// No longer route this host name to it; may be given more than once
    #[arg(long, value_name = "HOST")]
    remove: Vec<Hostname>,
}

#[derive(Args, Debug)]
pub struct Sync {
    #[arg(long)]
    cell: CellName,
    /// Take in what Berth does not know, under this plan; otherwise it is only listed
    #[arg(long, value_name = "PLAN")]
    take_in: Option<PlanName>,
    /// List only, whatever else is asked
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
pub struct ChangePlan {
    tenant: String,
    /// One of `berth plan list`
    plan: PlanName,
    /// Show what it would cost and bring, and stop
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
pub struct Target {
    tenant: String,
    /// A cell, or `auto` for the best one of the plan's class
    #[arg(long, default_value = "auto", value_name = "CELL", value_parser = cell_or_auto)]
    to: To,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  berth tenant move acme --to acme-own
      shows rows, size, duration and price, asks, and moves acme to the cell acme-own
  berth tenant move acme --to auto --yes --json
      picks a cell with room, asks nothing, and prints the ended operation as JSON")]
pub struct Move {
    #[command(flatten)]
    target: Target,
    /// Show what would happen and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args, Debug)]
pub struct Undo {
    tenant: String,
    /// Show what would happen and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args, Debug)]
pub struct Purge {
    tenant: String,
    /// Show what would go and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args, Debug)]
pub struct Settle {
    tenant: String,
    /// Show what would happen and stop
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
pub struct Restore {
    tenant: String,
    /// One of `berth tenant archives`
    #[arg(long, value_name = "ID")]
    archive: OperationId,
    /// Show what would be brought back and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args, Debug)]
pub struct Delete {
    tenant: String,
    /// Show what would be removed and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

/// Where to: absent is `auto`.
#[derive(Clone, Debug)]
pub struct To(Option<CellName>);

fn cell_or_auto(text: &str) -> Result<To, berth_domain::BadName> {
    if text == "auto" { Ok(To(None)) } else { CellName::new(text).map(|cell| To(Some(cell))) }
}

impl Target {
    fn wanted(&self) -> TenantMove {
        TenantMove { to: self.to.0.clone() }
    }
}

impl Tenant {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::Create(create) => create.run(cx).await,
            Self::List { state } => {
                let tenants = cx.client.tenants(state).await?;
                cx.show(&tenants, |tenants| screens::list(tenants, cx.now))
            }
            Self::Show { tenant } => show(cx, &tenant).await,
            Self::Hosts(hosts) => hosts.run(cx).await,
            Self::Allow(allow) => allow.run(cx).await,
            Self::Limits(limits) => limits.run(cx).await,
            Self::Sync(sync) => sync.run(cx).await,
            Self::Plan(plan) => plan.run(cx).await,
            Self::PlanMove(target) => {
                let plan = cx.client.tenant_plan_move(&target.tenant, &target.wanted()).await?;
                cx.show(&plan, screens::move_plan)
            }
            Self::Move(wanted) => wanted.run(cx).await,
            Self::UndoMove(what) => what.run(cx).await,
            Self::SettleMove(what) => what.run(cx).await,
            Self::Archives { tenant } => {
                let archives = cx.client.tenant_archives(&tenant).await?;
                cx.show(&archives, |archives| screens::archives(archives, cx.now))
            }
            Self::Purge(what) => what.run(cx).await,
            Self::Export(what) => what.run(cx).await,
            Self::Import(what) => what.run(cx).await,
            Self::Erase(what) => what.run(cx).await,
            Self::Erasures => archive::erasures(cx).await,
            Self::Restore(what) => what.run(cx).await,
            Self::Drain { tenant, how } => how.run(cx, Drainable::Tenant(tenant)).await,
            Self::Suspend(what) => {
                let begun = cx.client.tenant_suspend(&what.tenant).await?;
                what.wait.finish(cx, begun).await
            }
            Self::Resume(what) => {
                let begun = cx.client.tenant_resume(&what.tenant).await?;
                what.wait.finish(cx, begun).await
            }
            Self::Delete(what) => what.run(cx).await,
        }
    }
}

impl Wait {
    /// Watches what was begun, unless asked not to, and shows how it ended.
    pub async fn finish(&self, cx: &Context, begun: berth_wire::Operation) -> Result<(), CliError> {
        let shown = if self.detach { begun } else { watch::to_success(cx, begun).await? };
        cx.show(&shown, |operation| super::operation::one(operation, cx.now))
    }
}

impl Create {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let profile = self.profile.as_deref().map(decide::read_profile).transpose()?.map(decide::over_the_wire);
        let wanted = TenantCreate {
            name: self.name,
            plan: self.plan,
            hosts: self.hosts,
            key: self.key,
            cell: self.cell,
            profile,
        };
        let begun = cx.client.tenant_create(&wanted).await?;
        self.wait.finish(cx, begun).await
    }
}

async fn show(cx: &Context, tenant: &str) -> Result<(), CliError> {
    let found = cx.client.tenant(tenant).await?;
    if cx.json() {
        return cx.show(&found, |_| String::new());
    }
    let filter = OperationFilter { tenant: Some(tenant.to_owned()), limit: Some(5), ..OperationFilter::default() };
    let operations = cx.client.operations(&filter).await?;
    cx.show(&found, |found| screens::one(found, &operations, cx.now))
}

impl Hosts {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let tenant = cx.client.tenant(&self.tenant).await?;
        if self.add.is_empty() && self.remove.is_empty() {
            return cx.show(&tenant.routed(), |hosts| screens::hosts(hosts));
        }
        if let Some(missing) = self.remove.iter().find(|host| !tenant.hosts.contains(host)) {
            return Err(CliError::request(
                format!("`{missing}` does not route to tenant `{}`", tenant.name),
                format!("`berth tenant hosts {}` lists those that do", tenant.name),
            ));
        }
        let mut hosts = tenant.hosts.clone();
        hosts.retain(|host| !self.remove.contains(host));
        for host in self.add {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        let changed = cx.client.tenant_set_hosts(&self.tenant, &TenantHosts { hosts }, Some(tenant.version)).await?;
        cx.show(&changed.routed(), |hosts| screens::hosts(hosts))
    }
}

impl Sync {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let compare = TenantSync { cell: self.cell.clone(), take_in: None };
        let found = cx.client.tenant_sync(&compare).await?;
        if self.dry_run || self.take_in.is_none() || found.unknown_here.is_empty() {
            return cx.show(&found, screens::sync);
        }
        cx.agree(&screens::sync(&found), "Take in what Berth does not know?")?;
        let done = cx.client.tenant_sync(&TenantSync { cell: self.cell, take_in: self.take_in }).await?;
        cx.show(&done, screens::sync)
    }
}

impl ChangePlan {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let price = cx.client.tenant_plan_price(&self.tenant, self.plan.as_str()).await?;
        if self.dry_run {
            return cx.show(&price, screens::plan_price);
        }
        cx.agree(&screens::plan_price(&price), "Change the plan?")?;
        let changed = cx.client.tenant_change(&self.tenant, &TenantChange { plan: self.plan }, None).await?;
        cx.show(&changed, |changed| screens::one(changed, &[], cx.now))
    }
}

impl Move {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let wanted = self.target.wanted();
        let plan = cx.client.tenant_plan_move(&self.target.tenant, &wanted).await?;
        if self.dry_run {
            return cx.show(&plan, screens::move_plan);
        }
        if let Some(blocker) = plan.blockers.first() {
            return Err(CliError::Request { detail: blocker.detail.clone(), hint: blocker.hint.clone() });
        }
        cx.agree(&screens::move_plan(&plan), "Move it?")?;
        // What was agreed to is this cell, whatever `auto` would pick a moment later.
        let begun = cx.client.tenant_move(&self.target.tenant, &TenantMove { to: Some(plan.to) }).await?;
        self.wait.finish(cx, begun).await
    }
}

impl Purge {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let plan = cx.client.tenant_plan_purge(&self.tenant).await?;
        if self.dry_run || plan.tables.iter().all(|table| table.rows == 0) {
            return cx.show(&plan, screens::purge);
        }
        cx.agree(&screens::purge(&plan), "Remove them?")?;
        let begun = cx.client.tenant_purge(&self.tenant).await?;
        self.wait.finish(cx, begun).await
    }
}

/// The tenant's last move, if it can still be undone.
async fn undoable(cx: &Context, tenant: &str) -> Result<berth_wire::Move, CliError> {
    let moves = cx.client.moves(Some(tenant)).await?;
    let open = |m: &berth_wire::Move| m.way_back.as_ref().is_some_and(|way| way.state == WayBackState::Open);
    moves.into_iter().find(open).ok_or_else(|| {
        CliError::request(
            format!("tenant `{tenant}` has no move that could be undone"),
            format!("move it again: `berth tenant move {tenant}`"),
        )
    })
}

impl Undo {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let last = undoable(cx, &self.tenant).await?;
        if self.dry_run {
            return cx.show(&last, |last| screens::undo(last, cx.now));
        }
        cx.agree(&screens::undo(&last, cx.now), "Undo it?")?;
        let begun = cx.client.tenant_undo_move(&self.tenant).await?;
        self.wait.finish(cx, begun).await
    }
}

impl Settle {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let last = undoable(cx, &self.tenant).await?;
        if self.dry_run {
            return cx.show(&last, screens::settle);
        }
        cx.agree(&screens::settle(&last), "Remove what it left behind?")?;
        let settled = cx.client.tenant_settle_move(&self.tenant).await?;
        cx.show(&settled, |settled| {
            format!("the move stays; the rows that {} left in {} are being removed\n", settled.tenant, settled.from)
        })
    }
}

impl Restore {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let archives = cx.client.tenant_archives(&self.tenant).await?;
        let archive = archives.into_iter().find(|archive| archive.id == self.archive).ok_or_else(|| {
            CliError::request(
                format!("tenant `{}` has no archive {}", self.tenant, self.archive),
                format!("`berth tenant archives {}` lists those there are", self.tenant),
            )
        })?;
        if self.dry_run {
            return cx.show(&archive, |archive| screens::archive(archive, cx.now));
        }
        cx.agree(&screens::archive(&archive, cx.now), "Bring these rows back?")?;
        let begun = cx.client.tenant_restore(&self.tenant, self.archive).await?;
        self.wait.finish(cx, begun).await
    }
}

impl Delete {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let tenant = cx.client.tenant(&self.tenant).await?;
        if self.dry_run {
            return cx.show(&tenant, screens::removal);
        }
        cx.agree(&screens::removal(&tenant), "Remove it?")?;
        let begun = cx.client.tenant_delete(&self.tenant).await?;
        self.wait.finish(cx, begun).await
    }
}
