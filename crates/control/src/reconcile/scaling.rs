//! How many copies of a service a cell runs, where the stack file scales it: members' use is measured, `berth_usage` says
//! how many there should be, and what differs is wanted or unwanted. The loop beside this one starts what is wanted.
//!
//! A cell that is getting a release keeps the copies it has until that is over: what was added meanwhile would run the
//! old one on.
//!
//! A copy that is not wanted any more gets no new request from the moment its row says so; it is ended when the edges
//! have had time to hear of that.

use super::Loop;
use crate::{App, ControlError, decide, member_spec};
use async_trait::async_trait;
use berth_config::{Budget, Stack};
use berth_domain::{CellId, CellState, Cents, MemberId, ServiceName};
use berth_infra::{MemberLoad, ProviderError};
use berth_placement::Micros;
use berth_store::{Cell, Member, NewMember};
use berth_usage::{Load, Purse, Scale, plan_copies};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};
use tracing::info;
use uuid::Uuid;

/// Use is the mean of this long: a request of a second is no load.
const WINDOW: Duration = Duration::from_secs(30);
/// A member of which less is known neither adds nor takes away.
const KNOWN_FROM: Duration = Duration::from_secs(10);
/// Edges hear of a route within milliseconds; a copy that is going may finish what it has.
const LEAVES_AFTER: Duration = Duration::from_secs(3);

#[derive(Default)]
pub(super) struct Scaling {
    samples: HashMap<MemberId, VecDeque<(Instant, MemberLoad)>>,
    /// Since when a copy is not wanted.
    leaving: HashMap<MemberId, Instant>,
}

#[async_trait]
impl Loop for Scaling {
    const NAME: &'static str = "scaling";
    const PAUSE: Duration = Duration::from_secs(5);

    async fn round(&mut self, app: &App) -> Result<(), ControlError> {
        let in_force = app.stack().await?;
        let stack = &in_force.stack;
        let members = app.store().member_list(None).await?;
        self.samples.retain(|id, _| members.iter().any(|member| member.id == *id));
        self.leaving.retain(|id, _| members.iter().any(|member| member.id == *id && !member.wanted));
        let changed: BTreeMap<(CellId, ServiceName), Timestamp> =
            app.store().copies_changed().await?.into_iter().map(|(cell, name, at)| ((cell, name), at)).collect();
        let mut left = Left::default();
        for cell in app.store().cell_list().await?.iter().filter(|cell| cell.state == CellState::Ready) {
            // How many copies run there is decided by whoever runs it.
            if app.is_foreign(cell).await? {
                continue;
            }
            let own: Vec<&Member> = members.iter().filter(|member| member.cell == cell.id).collect();
            // A cell that does not answer has nothing to tell; the loop that keeps it up says so.
            let Ok(loads) = self.look(app, cell, stack, &own).await else { continue };
            self.end(app, cell, &own).await?;
            for (name, service) in &stack.services {
                let Some(scale) = &service.scale else { continue };
                let there: Vec<&&Member> = own.iter().filter(|m| m.wanted && m.service == *name).collect();
                let known: Vec<Load> = there.iter().filter_map(|member| loads.get(&member.id).copied()).collect();
                let bounds = Scale {
                    min: scale.min,
                    max: scale.max,
                    cpu_percent: scale.cpu,
                    memory_percent: scale.memory,
                    cooldown: SignedDuration::from_secs(i64::from(scale.cooldown_s)),
                };
                let copies = u16::try_from(there.len()).unwrap_or(u16::MAX);
                let at = changed.get(&(cell.id, name.clone())).copied();
                // Asked for the budget only when there is one, and only once a round.
                let purse = left.purse(app, stack, &members, scale.price).await?;
                let plan = plan_copies(&bounds, copies, &known, at, purse.as_ref(), Timestamp::now());
                let Some(plan) = plan else { continue };
                if set(app, cell, name, service, &there, plan.copies, &plan.because).await? {
                    left.spent(scale.price, i64::from(plan.copies) - i64::from(copies));
                    info!(cell = %cell.name, service = %name, copies = plan.copies, was = copies, why = plan.because,
                          "service {name} of cell {} is to have {} copies, it has {copies}: {}", cell.name, plan.copies, plan.because);
                }
            }
        }
        Ok(())
    }
}

impl Scaling {
    /// What each wanted member used over the last half minute, in percent of what it is promised.
    async fn look(
        &mut self,
        app: &App,
        cell: &Cell,
        stack: &Stack,
        own: &[&Member],
    ) -> Result<HashMap<MemberId, Load>, ControlError> {
        let compute = app.compute_of(cell).await?;
        let mut loads = HashMap::new();
        for member in own.iter().filter(|member| member.wanted) {
            let name = member_spec::member_name(&cell.name, member);
            let now = Instant::now();
            let said = compute.member_load(&name).await;
            let said = said.map_err(|source| ControlError::Provider { cell: cell.name.clone(), source })?;
            let (Some(said), Some(service)) = (said, stack.services.get(&member.service)) else { continue };
            let samples = self.samples.entry(member.id).or_default();
            // It was started again: what it used before was another process's.
            if samples.back().is_some_and(|(_, last)| last.cpu_ms > said.cpu_ms) {
                samples.clear();
            }
            samples.push_back((now, said));
            while samples.len() > 2 && samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
                samples.pop_front();
            }
            let Some((since, first)) = samples.front() else { continue };
            let time = now.duration_since(*since);
            if time < KNOWN_FROM {
                continue;
            }
            let promised = member_spec::shape(service.shape);
            let cores = (said.cpu_ms - first.cpu_ms) as f64 / time.as_secs_f64() / 1000.0;
            let cpu = cores * 1000.0 / f64::from(promised.cpu_millis.max(1)) * 100.0;
            let memory = said.memory_bytes as f64 / (f64::from(promised.memory_mb.max(1)) * 1_048_576.0) * 100.0;
            app.store().member_used(member.id, cpu, i64::try_from(said.memory_bytes).unwrap_or(i64::MAX)).await?;
            loads.insert(member.id, Load { cpu_percent: Some(cpu), memory_percent: Some(memory) });
        }
        Ok(loads)
    }

    /// Ends copies that are not wanted any more.
    async fn end(&mut self, app: &App, cell: &Cell, own: &[&Member]) -> Result<(), ControlError> {
        let compute = app.compute_of(cell).await?;
        // What a release has in hand, it ends itself.
        for member in own.iter().filter(|member| !member.wanted && !member.arriving) {
            if self.leaving.entry(member.id).or_insert_with(Instant::now).elapsed() < LEAVES_AFTER {
                continue;
            }
            let removed: Result<(), ProviderError> =
                compute.remove_member(&member_spec::member_name(&cell.name, member)).await;
            removed.map_err(|source| ControlError::Provider { cell: cell.name.clone(), source })?;
            let mut tx = app.store().begin().await?;
            tx.member_forget(member.id).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

/// Whether it was done: not in a cell that a release has in hand, or has had since `there` was read.
async fn set(
    app: &App,
    cell: &Cell,
    name: &ServiceName,
    service: &berth_config::Service,
    there: &[&&Member],
    copies: u16,
    because: &str,
) -> Result<bool, ControlError> {
    let mut tx = app.store().begin().await?;
    // Asked with the cell locked, as a release begins there: either it sees the copies below, or they are left.
    let Some(now) = tx.cell_lock(cell.id).await? else { return Ok(false) };
    if tx.cell_rolling(cell.id).await?.is_some() || there.iter().any(|member| member.release != now.release) {
        return Ok(false);
    }
    // It counts on the copies that there were.
    if tx.cell_restarting(&cell.name).await?.is_some() {
        return Ok(false);
    }
    tx.copies_set(cell.id, name, i32::from(copies), because).await?;
    for copy in 0..i32::from(copies) {
        if !there.iter().any(|member| member.copy == copy) {
            let new = NewMember {
                id: MemberId::new(Uuid::now_v7()),
                cell: cell.id,
                service: name.clone(),
                copy,
                service_role: service.role,
                release: now.release,
                arriving: false,
            };
            tx.member_want(&new).await?;
        }
    }
    if there.iter().any(|member| member.copy >= i32::from(copies)) {
        tx.members_unwant_from(cell.id, name, i32::from(copies)).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// What is left of the budget, read once a round and counted down by what is bought in it.
#[derive(Default)]
enum Left {
    #[default]
    NotRead,
    /// There is no budget, or none that can be compared.
    Unbounded,
    Cents(i64),
}

impl Left {
    async fn purse(
        &mut self,
        app: &App,
        stack: &Stack,
        members: &[Member],
        price: Option<Cents>,
    ) -> Result<Option<Purse>, ControlError> {
        let (Some(price), Some(budget)) = (price, &stack.budget) else { return Ok(None) };
        if matches!(self, Self::NotRead) {
            let left = left_cents(app, stack, budget, members).await?;
            *self = left.map_or(Self::Unbounded, Self::Cents);
        }
        Ok(match self {
            Self::Cents(left_cents) => Some(Purse { price_cents: price.get(), left_cents: *left_cents }),
            Self::NotRead | Self::Unbounded => None,
        })
    }

    fn spent(&mut self, price: Option<Cents>, copies: i64) {
        if let (Self::Cents(left), Some(price)) = (self, price) {
            *left -= price.get() * copies;
        }
    }
}

/// The budget less what cells cost and what copies beyond the first of each service cost. None where the catalogue does
/// not know its currency: an unknown ceiling is none.
async fn left_cents(
    app: &App,
    stack: &Stack,
    budget: &Budget,
    members: &[Member],
) -> Result<Option<i64>, ControlError> {
    let engine = decide::engine(app).await?;
    let micros = Micros(budget.amount.get().saturating_mul(10_000));
    let Some(all) = engine.catalogue().rates.usd_cents(micros, &budget.currency) else { return Ok(None) };
    let cells: Cents = engine.cells().iter().filter_map(|cell| engine.cell_price(&cell.name)).sum();
    let more = members.iter().filter(|member| member.wanted && member.copy > 0).filter_map(|member| {
        let scale = stack.services.get(&member.service)?.scale.as_ref()?;
        scale.price
    });
    let more: Cents = more.sum();
    Ok(Some((all - cells - more).get()))
}
