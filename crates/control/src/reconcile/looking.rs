//! What cells use is kept by the hour: advice and growth phases are made from it. Looks and changes nothing in a cell.

use super::Loop;
use crate::{
    App, ControlError,
    cell_access::{connect, failed},
    member_spec,
};
use async_trait::async_trait;
use berth_domain::{CellId, CellState, MemberState};
use berth_infra::Role;
use berth_store::{Cell, CellLook};
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

/// Members are measured all the time; a look a minute makes the mean of an hour.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// A database grows slowly, and asking its size takes a connection.
const SIZE_EVERY: Duration = Duration::from_hours(1);
/// Databases that one round asks; the others wait for the next.
const SIZES_AT_ONCE: usize = 10;
const SIZE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Looking {
    looked: Option<Instant>,
    sized: HashMap<CellId, Instant>,
}

#[async_trait]
impl Loop for Looking {
    const NAME: &'static str = "looking";
    const PAUSE: Duration = Duration::from_secs(10);

    async fn round(&mut self, app: &App) -> Result<(), ControlError> {
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            look(app).await?;
            self.looked = Some(Instant::now());
        }
        self.sizes(app).await
    }
}

async fn look(app: &App) -> Result<(), ControlError> {
    let in_force = app.stack().await?;
    let services = &in_force.stack.services;
    let mut looks: BTreeMap<CellId, CellLook> = BTreeMap::new();
    for member in app.store().member_list(None).await? {
        let (Some(percent), Some(memory)) = (member.cpu_percent, member.memory_bytes) else { continue };
        // What stopped is said to use what it used when it last ran.
        let runs = member.wanted && !matches!(member.state, MemberState::Stopped | MemberState::Unknown);
        let Some(service) = services.get(&member.service).filter(|_| runs) else { continue };
        let promised = member_spec::shape(service.shape);
        let look = looks.entry(member.cell).or_insert(CellLook {
            cell: member.cell,
            cpu_millis: 0,
            memory_bytes: 0,
            cpu_promised: 0,
            memory_promised: 0,
        });
        look.cpu_millis += (percent / 100.0 * f64::from(promised.cpu_millis)).round() as i64;
        look.memory_bytes += memory;
        look.cpu_promised += i64::from(promised.cpu_millis);
        look.memory_promised += i64::from(promised.memory_mb) << 20;
    }
    if !looks.is_empty() {
        app.store().cell_looked(&looks.into_values().collect::<Vec<_>>()).await?;
    }
    Ok(())
}

impl Looking {
    async fn sizes(&mut self, app: &App) -> Result<(), ControlError> {
        let cells = app.store().cell_list().await?;
        self.sized.retain(|id, _| cells.iter().any(|cell| cell.id == *id));
        let due = |cell: &&Cell| {
            cell.state == CellState::Ready && self.sized.get(&cell.id).is_none_or(|at| at.elapsed() > SIZE_EVERY)
        };
        let due: Vec<&Cell> = cells.iter().filter(due).take(SIZES_AT_ONCE).collect();
        for cell in due {
            // One that does not answer is asked again in an hour; the loop that keeps it up says what is wrong with it.
            self.sized.insert(cell.id, Instant::now());
            if let Ok(Ok(bytes)) = tokio::time::timeout(SIZE_LIMIT, size(app, cell)).await {
                app.store().cell_sized(cell.id, bytes).await?;
            }
        }
        Ok(())
    }
}

async fn size(app: &App, cell: &Cell) -> Result<i64, ControlError> {
    let client = connect(&cell.name, &app.cell_database(cell).await?, Role::Mover).await?;
    let row = client.query_one("SELECT pg_database_size(current_database())", &[]).await;
    Ok(row.map_err(failed(&cell.name))?.get(0))
}
