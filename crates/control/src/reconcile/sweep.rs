//! Removes what no row claims: a database or member that carries our label and belongs to no cell of this control
//! plane costs money and serves nobody. Also forgets edges that have been silent for so long that nobody waits for them.

use super::Loop;
use crate::{App, ControlError, imports, member_spec};
use async_trait::async_trait;
use berth_domain::CellName;
use berth_infra::{DatabaseName, MemberName, ProviderError};
use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};
use tracing::warn;

/// How long something must have been unclaimed. Rows are written before anything is asked for, so an orphan is one at
/// the first look already; the grace is for a control database that was restored and is about to be noticed.
const GRACE: Duration = Duration::from_mins(10);
const UPLOADS_EVERY: Duration = Duration::from_hours(1);
/// After the last file of an archive that nobody imports.
const UPLOADS_KEPT: Duration = Duration::from_hours(24);
const EDGE_FORGOTTEN_MS: i64 = 10 * 60 * 1000;

/// When each orphan was first seen by this server: another server that takes over begins its own grace.
#[derive(Default)]
pub(super) struct Sweep {
    first_seen: HashMap<String, Instant>,
    /// When what was brought and never imported was looked for last.
    uploads_at: Option<Instant>,
}

#[async_trait]
impl Loop for Sweep {
    const NAME: &'static str = "sweep";
    const PAUSE: Duration = Duration::from_mins(1);

    async fn round(&mut self, app: &App) -> Result<(), ControlError> {
        if self.uploads_at.is_none_or(|at| at.elapsed() >= UPLOADS_EVERY) {
            self.uploads_at = Some(Instant::now());
            let gone = imports::sweep(app, UPLOADS_KEPT).await?;
            if gone > 0 {
                warn!(gone, "{gone} archives that were brought and never imported are removed");
            }
        }
        round(app, self, GRACE).await
    }
}

async fn round(app: &App, sweep: &mut Sweep, grace: Duration) -> Result<(), ControlError> {
    for edge in app.store().edge_list().await? {
        if edge.silent_ms > EDGE_FORGOTTEN_MS && !edge.leaving {
            app.store().edge_forget(&edge.name).await?;
        }
    }
    let in_force = app.stack().await?;
    let cells = app.store().cell_list().await?;
    let members = app.store().member_list(None).await?;
    let databases: BTreeSet<DatabaseName> = cells.iter().map(|cell| DatabaseName::of(&cell.name)).collect();
    let claimed: BTreeSet<MemberName> = members
        .iter()
        .filter_map(|member| {
            let cell: &CellName = &cells.iter().find(|cell| cell.id == member.cell)?.name;
            Some(member_spec::member_name(cell, member))
        })
        .collect();
    let mut orphans = BTreeSet::new();
    for name in in_force.stack.providers.keys() {
        let provider = app.provider(name.as_str()).await?;
        let failed = |source: ProviderError| ControlError::BadProvider { name: name.to_string(), source };
        if let Some(compute) = &provider.compute {
            for listed in compute.list_members().await.map_err(failed)? {
                if !claimed.contains(&listed.name)
                    && sweep.is_old(&mut orphans, grace, format!("{name} member {}", listed.name))
                {
                    warn!(provider = %name, member = %listed.name, "member {} belongs to no cell and is removed", listed.name);
                    compute.remove_member(&listed.name).await.map_err(failed)?;
                }
            }
        }
        if let Some(database) = &provider.database {
            for listed in database.list_databases().await.map_err(failed)? {
                if !databases.contains(&listed.name)
                    && sweep.is_old(&mut orphans, grace, format!("{name} database {}", listed.name))
                {
                    warn!(provider = %name, database = %listed.name, "database {} belongs to no cell and is removed", listed.name);
                    database.remove_database(&listed.name).await.map_err(failed)?;
                }
            }
        }
    }
    sweep.first_seen.retain(|orphan, _| orphans.contains(orphan));
    Ok(())
}

impl Sweep {
    fn is_old(&mut self, orphans: &mut BTreeSet<String>, grace: Duration, orphan: String) -> bool {
        let first = *self.first_seen.entry(orphan.clone()).or_insert_with(Instant::now);
        orphans.insert(orphan);
        first.elapsed() >= grace
    }
}

#[cfg(test)]
mod tests {
    use super::Sweep;
    use std::{collections::BTreeSet, time::Duration};

    #[test]
    fn an_orphan_is_removed_only_after_its_grace() {
        let (mut sweep, mut found) = (Sweep::default(), BTreeSet::new());
        let orphan = || "local member x".to_owned();
        assert!(!sweep.is_old(&mut found, Duration::from_mins(10), orphan()), "at the first look");
        assert!(!sweep.is_old(&mut found, Duration::from_mins(10), orphan()), "within the grace");
        assert!(sweep.is_old(&mut found, Duration::ZERO, orphan()), "after it");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [orphan()]);
    }
}
