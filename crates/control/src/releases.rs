//! Releases: made, rolled over the cells in waves, taken back. What is done in one cell is `workflows/roll_cell.rs`; which
//! cell is next, `reconcile/releasing.rs`.
//!
//! A cell that a release is changing and a tenant that is moving exclude each other. Both ask with the cell's row locked,
//! so that of two that begin at once the second sees the first.

use crate::{
    App, Change, ControlError, Permit, Read, ReleaseError, app::StackInForce, audited, cells, release_back::way_back,
    release_error::said,
};
use berth_config::{Releases, Workers};
use berth_domain::{Artifact, CellId, CellName, CellState, RollCellState, RollState, ServiceName, ServiceRole};
use berth_store::{Artifacts, Cell, NewRoll, NewRollCell, Release, Roll, Tx};
use berth_wire as wire;
use berth_workflow::Journal;
use serde_json::json;
use std::collections::BTreeMap;

/// The release of this set; whether it is new. Services that are not named run what they run in the present one.
pub async fn create(
    app: &App,
    permit: &Permit<Change>,
    wanted: &wire::ReleaseCreate,
) -> Result<(wire::Release, bool), ControlError> {
    app.writable().await?;
    let in_force = app.stack().await?;
    let known = &in_force.stack.services;
    if wanted.services.is_empty() {
        return Err(ReleaseError::Empty.into());
    }
    let mut services = match app.store().release_current().await? {
        0 => Artifacts::new(),
        current => app.store().release_get(current).await?.map(|release| release.services).unwrap_or_default(),
    };
    services.retain(|name, _| known.contains_key(name));
    for (given, artifact) in &wanted.services {
        let name = ServiceName::new(given.clone()).ok().filter(|name| known.contains_key(name));
        let name = name.ok_or_else(|| ReleaseError::NoService(given.clone()))?;
        let bad = |source| ReleaseError::BadArtifact { service: name.to_string(), source };
        services.insert(name.clone(), artifact.parse::<Artifact>().map_err(bad)?);
    }
    let mut tx = app.store().begin().await?;
    let (number, new) = tx.release_ensure(&services, &permit.caller().name).await?;
    if new {
        let after = json!({ "services": services });
        audited(&mut tx, permit, "release.create", &format!("release/r{number}"), None, Some(after)).await?;
    }
    tx.commit().await?;
    let made = app.store().release_get(number).await?.ok_or(ReleaseError::NoRelease(number))?;
    Ok((Shown::read(app).await?.release(made), new))
}

/// The newest first.
pub async fn list(app: &App, _permit: &Permit<Read>) -> Result<Vec<wire::Release>, ControlError> {
    let shown = Shown::read(app).await?;
    Ok(app.store().release_list().await?.into_iter().map(|release| shown.release(release)).collect())
}

pub async fn show(app: &App, _permit: &Permit<Read>, number: u32) -> Result<wire::ReleaseShown, ControlError> {
    let shown = Shown::read(app).await?;
    let release = app.store().release_get(number).await?.ok_or(ReleaseError::NoRelease(number))?;
    let mut rolls = Vec::new();
    for roll in app.store().roll_list(None).await?.into_iter().filter(|roll| roll.release == number) {
        rolls.push(shown.roll(app, roll).await?);
    }
    Ok(wire::ReleaseShown { release: shown.release(release), rolls })
}

/// What runs where, and what is on its way.
pub async fn status(app: &App, _permit: &Permit<Read>) -> Result<wire::ReleaseStatus, ControlError> {
    let shown = Shown::read(app).await?;
    let last = app.store().roll_list(None).await?.into_iter().next();
    let roll = match last {
        Some(roll) => Some(shown.roll(app, roll).await?),
        None => None,
    };
    let mut ours = Vec::new();
    for cell in &shown.cells {
        if cell.state != CellState::Removing && !app.is_foreign(cell).await? {
            let (name, schema) = (cell.name.clone(), cell.schema_fingerprint.clone());
            ours.push(wire::CellRelease { cell: name, release: cell.release, schema });
        }
    }
    Ok(wire::ReleaseStatus { current: shown.current, roll, cells: ours })
}

/// What `roll` would do.
pub async fn plan_roll(app: &App, _permit: &Permit<Read>, ask: &wire::RollAsk) -> Result<wire::RollPlan, ControlError> {
    let scope = Scope::of(app, &ask.to).await?;
    let before = app.store().release_current().await?;
    must_exist(app, ask.release).await?;
    Ok(scope.plan(ask.release, before, false))
}

/// Brings a release to the cells, wave by wave. Asked for again while it rolls, it is the same roll.
pub async fn roll(app: &App, permit: &Permit<Change>, ask: &wire::RollAsk) -> Result<wire::Roll, ControlError> {
    app.writable().await?;
    must_exist(app, ask.release).await?;
    let scope = Scope::of(app, &ask.to).await?;
    let before = app.store().release_current().await?;
    let mut tx = app.store().begin().await?;
    if let Some(open) = tx.rolls_lock().await? {
        drop(tx);
        let open = one(app, open).await?;
        if open.release == ask.release && !open.back && open.whole == ask.to.is_empty() {
            return Shown::read(app).await?.roll(app, open).await;
        }
        return Err(ReleaseError::Rolling(open.release).into());
    }
    let plan = scope.plan(ask.release, before, false);
    for cell in plan.waves.iter().flatten() {
        let known = scope.id(&cell.cell);
        tx.cell_lock(known).await?;
        if let Some(tenant) = tx.cell_moving(known).await? {
            return Err(ReleaseError::Moving { tenant, cell: cell.cell.clone() }.into());
        }
    }
    begin(app, tx, permit, &scope, plan, ask.to.is_empty()).await
}

/// Where `back` would go.
pub async fn plan_back(app: &App, _permit: &Permit<Read>, ask: &wire::BackAsk) -> Result<wire::RollPlan, ControlError> {
    if let Some(to) = ask.to {
        must_exist(app, to).await?;
    }
    // Rows before cells: one that ends in between is in both.
    let (rolls, rows) = (app.store().roll_list(None).await?, app.store().roll_cells(None).await?);
    let scope = Scope::of(app, &[]).await?;
    Ok(way_back(ask.to, &rolls, &rows, &scope)?.plan)
}

/// Every cell that the last roll reached gets what ran there before it, all at once; a roll that is under way ends with
/// it. `migrate` is not run: what an older release does with a newer schema is its own.
pub async fn back(app: &App, permit: &Permit<Change>, ask: &wire::BackAsk) -> Result<wire::Roll, ControlError> {
    app.writable().await?;
    if let Some(to) = ask.to {
        must_exist(app, to).await?;
    }
    let scope = Scope::of(app, &[]).await?;
    let mut tx = app.store().begin().await?;
    let open = tx.rolls_lock().await?;
    // Read under the lock: which cells the roll has reached is decided by nobody else from here.
    let (rolls, rows) = (tx.roll_list().await?, tx.roll_cells().await?);
    let open = rolls.iter().find(|roll| Some(roll.number) == open);
    if let Some(open) = open.filter(|open| open.back) {
        let mut own = rows.iter().filter(|row| row.roll == open.number);
        let same = |to| open.release == to && open.whole && own.all(|row| row.release.is_none_or(|gets| gets == to));
        if ask.to.is_none_or(same) {
            drop(tx);
            return Shown::read(app).await?.roll(app, open.clone()).await;
        }
    }
    let way = way_back(ask.to, &rolls, &rows, &scope)?;
    if let Some(open) = open {
        let why = format!("taken back by {}", permit.caller().name);
        tx.roll_end(open.number, RollState::Stopped, Some(&why)).await?;
        // What is under way in a cell is undone where it still can be; otherwise the way back begins when it is over.
        let under_way = rows.iter().filter(|row| row.state == RollCellState::Rolling);
        for operation in under_way.filter_map(|row| row.operation) {
            let _ = Journal::abandon(app.store(), &mut tx, operation, false).await;
        }
    }
    begin(app, tx, permit, &scope, way.plan, way.whole).await
}

/// Starts what is due of the release that rolls, and closes what is over. A server's own loop does so twice a second.
pub async fn go_on(app: &App) -> Result<(), ControlError> {
    crate::reconcile::release_round(app).await
}

async fn begin(
    app: &App,
    mut tx: Tx,
    permit: &Permit<Change>,
    scope: &Scope,
    plan: wire::RollPlan,
    whole: bool,
) -> Result<wire::Roll, ControlError> {
    let waves = (0..).zip(&plan.waves);
    let cells = waves.flat_map(|(wave, cells)| {
        cells.iter().map(move |cell| NewRollCell {
            cell: scope.id(&cell.cell),
            wave,
            before: cell.before,
            release: cell.gets,
        })
    });
    let by = permit.caller().name.clone();
    let new = NewRoll {
        release: plan.release,
        before: plan.before,
        back: plan.back,
        whole,
        asked_by: by,
        cells: cells.collect(),
    };
    let number = tx.roll_insert(&new).await?;
    let action = if plan.back { "release.back" } else { "release.roll" };
    let after = json!({ "roll": number, "waves": plan.waves });
    audited(&mut tx, permit, action, &format!("release/r{}", plan.release), None, Some(after)).await?;
    tx.commit().await?;
    Shown::read(app).await?.roll(app, one(app, number).await?).await
}

async fn one(app: &App, roll: i32) -> Result<Roll, ControlError> {
    let found = app.store().roll_list(Some(roll)).await?.into_iter().next();
    found.ok_or(ControlError::Stale("release"))
}

async fn must_exist(app: &App, release: u32) -> Result<(), ControlError> {
    if release != 0 && app.store().release_get(release).await?.is_none() {
        return Err(ReleaseError::NoRelease(release).into());
    }
    Ok(())
}

/// Refuses when a release is changing one of these cells. They stay locked for the caller's transaction, always in the
/// same order, so that two moves between two cells never wait for each other.
pub(crate) async fn must_not_roll(tx: &mut Tx, cells: &[CellId]) -> Result<(), ControlError> {
    let mut cells = cells.to_vec();
    cells.sort_unstable();
    for id in cells {
        let Some(cell) = tx.cell_lock(id).await? else { continue };
        if let Some(release) = tx.cell_rolling(id).await? {
            return Err(ReleaseError::InCell { release, cell: cell.name }.into());
        }
    }
    Ok(())
}

/// The cells that a roll is about.
pub(crate) struct Scope {
    in_force: std::sync::Arc<StackInForce>,
    pub(crate) cells: Vec<Cell>,
    foreign: Vec<CellName>,
}

impl Scope {
    /// `only`: these; empty: all that Berth runs.
    async fn of(app: &App, only: &[CellName]) -> Result<Self, ControlError> {
        let in_force = app.stack().await?;
        // Two releases of one service stand beside each other, and they cannot both have the port.
        for (name, service) in &in_force.stack.services {
            let beside = service.role == ServiceRole::Web || in_force.stack.releases.workers == Workers::Beside;
            if beside && service.port.is_some() {
                return Err(ReleaseError::FixedPort(name.clone()).into());
            }
        }
        let all = app.store().cell_list().await?;
        let mut named = Vec::new();
        for name in only {
            named.push(cells::known(app, name.as_str()).await?.id);
        }
        let (mut ours, mut foreign) = (Vec::new(), Vec::new());
        for cell in all {
            let wanted = named.is_empty() || named.contains(&cell.id);
            if !wanted {
                continue;
            }
            if app.is_foreign(&cell).await? {
                if !named.is_empty() {
                    return Err(ReleaseError::Foreign(cell.name).into());
                }
                foreign.push(cell.name);
            } else {
                ours.push(cell);
            }
        }
        Ok(Self { in_force, cells: ours, foreign })
    }

    fn id(&self, name: &CellName) -> CellId {
        let found = self.cells.iter().find(|cell| cell.name == *name);
        found.expect("a plan names cells of its scope").id
    }

    /// Every cell that does not run it yet.
    pub(crate) fn plan(&self, release: u32, before: u32, back: bool) -> wire::RollPlan {
        let mut left_out: Vec<wire::LeftOut> = Vec::new();
        let mut todo = Vec::new();
        for cell in &self.cells {
            let why = match cell.state {
                CellState::Ready | CellState::Draining if cell.release == release => {
                    format!("it runs {} already", said(release))
                }
                CellState::Ready | CellState::Draining => {
                    todo.push(wire::PlannedCell { cell: cell.name.clone(), before: cell.release, gets: None });
                    continue;
                }
                other => format!("it is {other}"),
            };
            left_out.push(wire::LeftOut { cell: cell.name.clone(), why });
        }
        left_out.extend(self.foreign());
        self.waves(wire::RollPlan { release, before, back, left_out, ..wire::RollPlan::default() }, todo)
    }

    pub(crate) fn foreign(&self) -> impl Iterator<Item = wire::LeftOut> {
        let why = "somebody else runs it and releases there";
        self.foreign.iter().map(|cell| wire::LeftOut { cell: cell.clone(), why: why.to_owned() })
    }

    /// The same plan with its waves, by the rules of the stack file.
    pub(crate) fn waves(&self, plan: wire::RollPlan, todo: Vec<wire::PlannedCell>) -> wire::RollPlan {
        let rules = &self.in_force.stack.releases;
        let back = plan.back;
        wire::RollPlan {
            waves: plan_waves(rules, todo, back),
            pause_ms: rules.pause.filter(|_| !back).map(berth_config::Span::ms),
            workers: match rules.workers {
                Workers::After => "after".to_owned(),
                Workers::Beside => "beside".to_owned(),
            },
            ..plan
        }
    }
}

/// One cell alone, then so many at a time. A way back has no canary: what it brings has been everywhere before.
fn plan_waves(rules: &Releases, mut todo: Vec<wire::PlannedCell>, back: bool) -> Vec<Vec<wire::PlannedCell>> {
    if todo.is_empty() {
        return Vec::new();
    }
    if back {
        return vec![todo];
    }
    let canary = rules.canary.as_ref().and_then(|name| todo.iter().position(|cell| cell.cell == *name)).unwrap_or(0);
    let mut waves = vec![vec![todo.remove(canary)]];
    waves.extend(todo.chunks(usize::from(rules.wave.max(1))).map(<[_]>::to_vec));
    waves
}

/// What is read once for several answers.
struct Shown {
    current: u32,
    cells: Vec<Cell>,
}

impl Shown {
    async fn read(app: &App) -> Result<Self, ControlError> {
        Ok(Self { current: app.store().release_current().await?, cells: app.store().cell_list().await? })
    }

    fn release(&self, release: Release) -> wire::Release {
        let runs = self.cells.iter().filter(|cell| cell.release == release.number);
        let services: BTreeMap<_, _> = release.services.into_iter().map(|(name, it)| (name, it.to_string())).collect();
        wire::Release {
            number: release.number,
            services,
            current: release.number == self.current,
            cells: runs.map(|cell| cell.name.clone()).collect(),
            created_by: release.created_by,
            created_at: release.created_at,
        }
    }

    async fn roll(&self, app: &App, roll: Roll) -> Result<wire::Roll, ControlError> {
        let mut cells = Vec::new();
        for cell in app.store().roll_cells(Some(roll.number)).await? {
            let known = app.cell(cell.cell).await?;
            cells.push(wire::RollCell {
                cell: known.name,
                wave: u32::try_from(cell.wave).unwrap_or(0) + 1,
                state: cell.state,
                before: cell.before,
                gets: cell.release,
                release: known.release,
                operation: cell.operation,
                reason: cell.reason,
                output: cell.output,
            });
        }
        Ok(wire::Roll {
            number: roll.number,
            release: roll.release,
            before: roll.before,
            back: roll.back,
            whole: roll.whole,
            state: roll.state,
            reason: roll.reason,
            next_wave_at: roll.next_wave_at,
            asked_by: roll.asked_by,
            started_at: roll.started_at,
            ended_at: roll.ended_at,
            cells,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::plan_waves;
    use berth_config::Releases;
    use berth_domain::CellName;
    use berth_wire::PlannedCell;

    #[test]
    fn the_canary_goes_alone_and_the_others_in_groups() {
        let cells = |names: &str| -> Vec<PlannedCell> {
            let named = |name: char| CellName::new(name.to_string()).unwrap();
            let cell = |name: char| PlannedCell { cell: named(name), before: 1, gets: None };
            names.chars().map(cell).collect()
        };
        let waves = |rules: &Releases, names: &str, back| -> Vec<String> {
            let waves = plan_waves(rules, cells(names), back);
            waves.iter().map(|wave| wave.iter().map(|cell| cell.cell.to_string()).collect()).collect()
        };
        let named =
            |canary: &str, wave| Releases { canary: Some(CellName::new(canary).unwrap()), wave, ..Releases::default() };
        assert_eq!(waves(&named("c", 2), "abcde", false), ["c", "ab", "de"]);
        assert_eq!(waves(&named("x", 9), "abc", false), ["a", "bc"], "a canary that has it already");
        assert_eq!(waves(&Releases::default(), "abc", false), ["a", "b", "c"]);
        assert_eq!(waves(&named("c", 1), "abc", true), ["abc"], "back, all at once");
        assert!(waves(&Releases::default(), "", false).is_empty());
    }
}
