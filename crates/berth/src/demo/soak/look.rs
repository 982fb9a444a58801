//! Reads the databases and looks for every row: what was acknowledged, and what was there before the traffic.

use super::super::say;
use super::super::story::Tenant;
use super::super::world::World;
use super::{Mover, Outcome};
use crate::fail::{Failure, FailureExt as _};
use berth_domain::CellName;
use berth_workload::{Findings, Ledger, Stock, TenantPlace, check, check_stock, take_stock};

/// Where a tenant is. Without a former cell: what still lies there is looked at by [`at_all`].
async fn place(world: &World, tenant: &Tenant, cell: &CellName) -> Result<TenantPlace, Failure> {
    let (name, key) = (tenant.name.clone(), tenant.key);
    Ok(TenantPlace { name, key, owner: world.database(cell).await?, former: None })
}

/// What a tenant has before there is any traffic. Of a former cell nothing is left once a move is settled: this stays.
pub async fn stock(world: &World, tenant: &Tenant, cell: &CellName) -> Result<Stock, Failure> {
    take_stock(&place(world, tenant, cell).await?).await.ours("counting what was filled in")
}

/// After a move, beside the traffic: it replaces and removes only what it has made itself.
pub async fn at_one(world: &World, mover: &Mover, outcome: &mut Outcome) -> Result<(), Failure> {
    let mut findings = Findings::default();
    let place = place(world, &mover.tenant, &mover.cell).await?;
    check_stock(&place, &mover.stock, &mut findings).await.ours("the check")?;
    outcome.rows_checked += findings.rows_checked;
    outcome.stock_damaged += findings.missing + findings.changed;
    findings.examples.iter().for_each(|example| say(format!("  {example}")));
    Ok(())
}

/// Reads every database and looks for every acknowledged write, and for what each tenant began with.
pub async fn at_all(world: &World, movers: &[Mover], ledger: &Ledger, outcome: &mut Outcome) -> Result<(), Failure> {
    let mut places = Vec::new();
    for mover in movers {
        let former = match &mover.former {
            Some(cell) => Some(world.database(cell).await?),
            None => None,
        };
        places.push(TenantPlace { former, ..place(world, &mover.tenant, &mover.cell).await? });
    }
    let mut findings = check(ledger, &places).await.ours("the check")?;
    for (mover, place) in movers.iter().zip(&places) {
        check_stock(place, &mover.stock, &mut findings).await.ours("the check")?;
    }
    outcome.acknowledged = findings.acknowledged;
    outcome.missing = findings.missing + findings.changed;
    outcome.duplicated = findings.duplicated;
    outcome.rows_checked += findings.rows_checked;
    say(format!(
        "{} moves: {} rows looked at, {} writes acknowledged, {} missing, {} duplicated; {} of {} requests failed while something was down",
        outcome.moves,
        findings.rows_checked,
        findings.acknowledged,
        outcome.missing,
        findings.duplicated,
        outcome.failed_requests,
        outcome.requests
    ));
    findings.examples.iter().for_each(|example| say(format!("  {example}")));
    Ok(())
}
