//! What `--plant` breaks on purpose, behind everybody's back: a judge that does not see it is no judge.

use super::super::world::World;
use crate::fail::{Failure, FailureExt as _};
use berth_domain::CellName;
use berth_workload::Ledger;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

async fn connect(world: &World, cell: &CellName) -> Result<Client, Failure> {
    let (client, connection) = world.database(cell).await?.connect(NoTls).await.ours("connecting to plant")?;
    tokio::spawn(connection);
    Ok(client)
}

/// The fence of the cell that the tenant has left is opened again.
pub async fn second_owner(world: &World, left: &CellName, tenant: Uuid) -> Result<(), Failure> {
    let client = connect(world, left).await?;
    let sql =
        "select setval(format('berth.fence_%s', number)::regclass, generation * 2) from berth.fence where tenant = $1";
    client.execute(sql, &[&tenant.to_string()]).await.ours("opening a fence")?;
    Ok(())
}

/// One acknowledged write of the tenant goes, another is stored once more.
pub async fn lost_and_doubled(world: &World, cell: &CellName, tenant: Uuid, ledger: &Ledger) -> Result<(), Failure> {
    let client = connect(world, cell).await?;
    let mut events = ledger.writes().iter().filter(|write| write.tenant == tenant).map(|write| write.event);
    let none = || Failure::request("the tenant has too few writes to plant anything", "a higher --rate");
    let (lost, doubled) = (events.next().ok_or_else(none)?, events.next().ok_or_else(none)?);
    client.execute("delete from gps_positions where event_id = $1", &[&lost]).await.ours("losing a write")?;
    let sql = "insert into gps_positions (customer_id, vehicle_id, event_id, time, latitude, longitude, speed)
               select customer_id, vehicle_id, event_id, time, latitude, longitude, speed from gps_positions where event_id = $1";
    client.execute(sql, &[&doubled]).await.ours("doubling a write")?;
    Ok(())
}
