//! `berth import DUMP`: a tenant out of what `pg_dump` wrote. The dump is restored into a scratch Postgres on this machine, which is
//! looked at as any database is; the tenant's rows become an archive, and the archive is imported as `berth tenant import` does.
//!
//! A cell's own server never sees the dump: it may hold any SQL. Whatever happens, the scratch Postgres goes with this command.

mod dump;
mod restore;
mod scratch;

use super::{
    CliError, Context, in_force,
    tenant::{ArchiveImport, Wait},
    units,
};
use berth_domain::{CellName, Hostname, MoveId, PlanName, TenantKey, TenantName};
use berth_mover::{
    Archive, ArchivePath, Beside, DataRules, Endpoint, MoveSpec, Progress, ReadAhead, Tuning, Watcher, Way,
};
use clap::Args;
use dump::Dump;
use scratch::{Scratch, Server};
use std::path::PathBuf;
use uuid::Uuid;

/// Tenants of a dump that are named, where none was asked for.
const NAMED: usize = 10;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  berth import shop.dump --name acme --plan hobby --host acme.example.com --dry-run
      restores it beside, looks at it, and shows what would come where
  berth import everything.sql --tenant 42 --name acme --plan hobby
      one tenant of a dump of many")]
pub struct Import {
    /// A file or folder of `pg_dump`, in any of its formats
    dump: PathBuf,
    #[arg(long)]
    name: TenantName,
    #[arg(long)]
    plan: PlanName,
    /// Which tenant: its key in the root table. Not needed where the dump has one
    #[arg(long, value_name = "KEY")]
    tenant: Option<String>,
    /// A host name that routes to it; may be given more than once
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<Hostname>,
    /// The cell to live in; otherwise the best of the plan's class
    #[arg(long)]
    cell: Option<CellName>,
    /// Where the dump is restored meanwhile; it takes about as much room as the database had
    #[arg(long, value_name = "FOLDER")]
    work: Option<PathBuf>,
    /// What the tenant needs, as YAML or JSON; no cell that breaks it is taken
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Show what would come where and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

impl Import {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let dump = Dump::look(&self.dump)?;
        let rules = berth_control::moves::rules(&in_force::stack(cx).await?.data);
        let scratch = Scratch::start(self.work.as_deref()).await?;
        let done = self.through(cx, &dump, rules, &scratch).await;
        scratch.end().await;
        done
    }

    async fn through(&self, cx: &Context, dump: &Dump, rules: DataRules, scratch: &Scratch) -> Result<(), CliError> {
        cx.say(&format!("restoring {} into a Postgres of its own …", self.dump.display()));
        let server = scratch.server();
        let restored = server.restore(dump).await?;
        for passed in &restored.passed_over {
            cx.say(&format!("note: passed over: {passed}"));
        }
        let source = server.endpoint();
        self.must_fit(&source, &rules).await?;
        let key = self.key(&server, &rules).await?;
        let folder = scratch.folder().join("archive");
        let made = export(source, rules, &key, &folder).await?;
        cx.say(&format!("tenant {key}: {} rows in {} tables", units::count(made.rows()), made.tables.len()));
        let (name, plan, hosts) = (self.name.clone(), self.plan.clone(), self.hosts.clone());
        let archive = ArchiveImport::of(folder, name, plan, hosts, self.cell.clone(), self.dry_run, self.wait);
        archive.with(self.profile.clone()).run(cx).await
    }

    /// What could not move cannot be brought in either; all of it at once, and what the dump looks like instead.
    async fn must_fit(&self, source: &Endpoint, rules: &DataRules) -> Result<(), CliError> {
        let found = berth_mover::discover(source, rules).await.map_err(unfit)?;
        if found.obstacles.is_empty() {
            return Ok(());
        }
        let all = found.obstacles.iter().map(|it| format!("- {it} ({})", it.hint())).collect::<Vec<_>>().join("\n");
        let seen = berth_mover::look(source).await.map_err(unfit)?;
        let hint = match seen.roots.first() {
            Some(root) if root.table != rules.root => format!(
                "`data` of the stack file says that tenants are rows of `{}`; in this dump they look like rows of `{}`",
                rules.root, root.table
            ),
            _ => "nothing was changed; `data` of the stack file says whose rows are whose".to_owned(),
        };
        Err(CliError::request(format!("the dump does not fit the stack:\n{all}"), hint))
    }

    async fn key(&self, server: &Server<'_>, rules: &DataRules) -> Result<TenantKey, CliError> {
        let keys = server.keys(rules, self.tenant.as_deref(), NAMED).await?;
        let key = match (&self.tenant, keys.as_slice()) {
            (Some(wanted), []) => {
                let others = server.keys(rules, None, NAMED).await?;
                let hint = format!("it has {}", named(&others));
                return Err(CliError::request(format!("no row of `{}` has the key `{wanted}`", rules.root), hint));
            }
            (_, []) => {
                let hint = "`pg_dump` writes rows unless it is told `--schema-only`";
                return Err(CliError::request(format!("`{}` is empty in this dump", rules.root), hint));
            }
            (_, [only]) => only.clone(),
            (_, many) => {
                let hint = format!("name one with `--tenant`: it has {}", named(many));
                return Err(CliError::request("the dump has more than one tenant", hint));
            }
        };
        TenantKey::new(key).map_err(|bad| CliError::request(bad.to_string(), "it is the root table's key, as text"))
    }
}

fn named(keys: &[String]) -> String {
    let more = if keys.len() > NAMED { " and more" } else { "" };
    format!("{}{more}", keys.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "))
}

fn unfit(error: berth_mover::MoveError) -> CliError {
    CliError::request(error.to_string(), error.hint())
}

/// Nobody looks on: what takes long is the restore.
struct Unseen;

impl Watcher for Unseen {
    fn progress(&self, _: Progress) {}
    fn cancelled(&self) -> bool {
        false
    }
}

async fn export(
    source: Endpoint,
    rules: DataRules,
    tenant: &TenantKey,
    folder: &std::path::Path,
) -> Result<Archive, CliError> {
    let place = berth_mover::place(&source);
    let spec = MoveSpec {
        id: MoveId::new(Uuid::now_v7()),
        tenant: tenant.clone(),
        rules,
        target: source.clone(),
        source,
        source_cell: place,
        target_cell: place,
        target_free_bytes: None,
        keep_from: None,
        alone: true,
        way_back: false,
        way: Way::There,
        tuning: Tuning::default(),
        // A dump has neither keys of Redis nor objects.
        beside: Beside::default(),
        ahead: ReadAhead::default(),
    };
    let store = berth_providers::archives::folder(folder)
        .map_err(|error| CliError::request(error.to_string(), error.hint().unwrap_or_default()))?;
    berth_mover::export(&spec, &store, &ArchivePath::default(), &Unseen).await.map_err(unfit)
}
