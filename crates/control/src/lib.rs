//! Use cases, workflows and reconcilers: where the product's rules meet.
//!
//! One noun, one file, one name in `api`, here and in `store`. Every use case takes the [`App`], a [`Permit`] (what the
//! caller may do, checked by [`Caller::may`]) and what is wanted; it answers with what the API shows (`berth_wire`), or a
//! [`ControlError`], whose `kind()` picks the HTTP status and whose `code()`, `hint()`, `retryable()` and `operation()`
//! fill the problem. A server calls [`serve::work`] beside answering requests.
//!
//! Knows the contracts of infrastructure and no adapter; never serves HTTP.
//!
//! ```text
//! keys::caller(app, &secret, request_id) -> Caller               caller.may(Read | ReadTenant | ReadEntitlements | Report | Change | Follow)? -> Permit
//! stack::{apply(Change, &StackApply), show(Read)}                plans::{list(Read), show(Read, &name)}
//! tenants::{create(Change, TenantCreate), list(ReadTenant, &TenantFilter), show(ReadTenant, who),
//!           set_all_hosts(Change, who, &hosts, version), set_plan(Change, who, &plan, version), suspend, resume, delete(Change, who)}
//! limits::{show(ReadTenant, who), set(Change, who, TenantLimitsSet, version)}
//! moves::{plan(ReadTenant, who, to), start(Change, who, to), list(Read, tenant, limit), show(Read, operation)}
//! usage::{record(Report, events), of_tenant(ReadTenant, who, period, from), list(Read, period), entitlements(ReadEntitlements, who),
//!         edge_meters(Follow, edge, counters)}          approvals::{list(Read, tenant, state), show(Read, id), approve(Change, id), reject(Change, id, reason)}
//! purge::{plan(Read, who), start(Change, who)}
//! archives::{list(ReadTenant, who), file(ReadTenant, who, archive, file), export(Change, who), restore(Change, who, archive)}
//! imports::{take_file(Change, archive, file, content), forget_files(Change, archive), plan(Change, &TenantImport), start(Change, TenantImport)}
//! erasures::{plan(ReadTenant, who), start(Change, who), list(Read)}
//! sync::run(Change, &TenantSync)                                 cells::{create, list, show, measure, drain, remove, logs(Read, who, service, last)}
//! keys::{create(Change, &KeyCreate), list, revoke(Change, id), create_for_berth(app, name, scope), none_yet(app)}
//! operations::{list(ReadTenant, &OperationFilter), show(ReadTenant, id), watch(ReadTenant, id) -> Stream, retry(Change, id),
//!              abandon(Change, id, reason, force)}
//! endpoints::{add(Change, EndpointAdd), abilities(Read, who)}    servers::{look(Change, ServerLook), add(Change, ServerAdd), list(Read), ways(Follow, edge, open)}
//! maintenance::{plan(Read, who, ask), start(Change, who, ask)}
//! databases::top(Read, who)                                     services::{plan_restart(Read, cell, service), restart(Change, cell, service)}
//! decide::{decide(Read, &DecisionAsk), of_tenant(Read, who), profile(Read, who), set_profile(Change, who, Profile)}
//! costs::{show(Read, month), months(Read, last), tenants(Read), phase(Read, &PhaseAsk), import(Change, &InvoiceImport), forget(Change, month, provider),
//!         plan_price(ReadTenant, who, &plan)}
//! evaluate::evaluate(Read, who, asked, usual, Metrics)           catalogue::show(Read)
//! fleet::{plan(Read), plan_of(Read, cells), apply(Change, &FleetApply), simulate(Read, &FleetSimulate)}
//! check::run(Read, &CheckAsk)
//! audit::list(Read, tenant, after, limit)                        status::overview(Read)
//! edges::{routes(Follow, edge, instance, after, settings) -> Stream, acknowledge(Follow, edge, ack), list(Read)}; edge_polls::poll(Follow, edge, instance, poll)
//! drains::{tenant, undo_tenant(Change, who), show_tenant(ReadTenant, who)}, and the same of a member and an edge
//! certificates::{add(Change, CertificateAdd), list(Read), remove(Change, id)}
//! releases::{create(Change, ReleaseCreate), list(Read), show(Read, number), roll(Change, &RollAsk), back(Change, &BackAsk), status(Read)}
//! registries::{put(Change, RegistryPut), list(Read), remove(Change, host)}
//! hosts::{add(Change, &HostAdd), list(Read, tenant), verify(Change, &host, tenant), remove(Change, &host, tenant)}
//! orders::{list(Read), renew(Change, &host)}
//! tenant_figures::list(Read)
//! upgrade::{show(Read), plan(Read, &Program), finish(Change)}
//! recover::{show(Read), recover(Change)}                         idempotency::{begin(app, &caller, key, hash) -> Once, finish}
//! ```
//! `who` is a name or an id.

mod app;
mod ask;
mod caller;
mod cell_access;
mod challenges;
mod edge_link;
mod edge_settings;
mod error;
mod hook;
mod hook_call;
mod judge;
mod member_spec;
mod mode_settings;
mod move_edges;
mod placing;
mod programs;
mod reconcile;
mod release_back;
mod release_error;
mod served;
mod smoke;
mod views;
mod ways_open;

pub mod approvals;
pub mod archives;
pub mod audit;
pub mod catalogue;
pub mod cells;
pub mod certificates;
pub mod check;
pub mod costs;
pub mod databases;
pub mod decide;
pub mod drains;
pub mod edge_polls;
pub mod edges;
pub mod endpoints;
pub mod erasures;
pub mod evaluate;
pub mod fleet;
#[cfg(fuzzing)]
pub mod fuzz;
pub mod hosts;
pub mod idempotency;
pub mod imports;
pub mod in_the_open;
pub mod keys;
pub mod limits;
pub mod maintenance;
pub mod moves;
pub mod operations;
pub mod orders;
pub mod plans;
pub mod purge;
pub mod recover;
pub mod registries;
pub mod releases;
pub mod serve;
pub mod servers;
pub mod services;
pub mod stack;
pub mod status;
pub mod sync;
pub mod tenant_figures;
pub mod tenants;
pub mod upgrade;
pub mod usage;
pub mod ways_back;
pub mod workflows;

pub use app::{App, BuildAdapter, OpenArchives, StackInForce};
pub use berth_store::Scope;
pub use berth_workflow::Options as WorkerOptions;
pub use caller::{Action, Caller, Change, Follow, Permit, Read, ReadEntitlements, ReadTenant, Report};
pub use error::{ControlError, Kind};
pub use release_error::ReleaseError;
pub use upgrade::UpgradeError;

pub(crate) use audit::audited;

/// How long an edge waits for requests in flight before it refuses a hold, in milliseconds.
pub(crate) const HOLD_DRAIN_MS: u32 = 50;
/// How long an edge parks a request at most, in milliseconds.
pub(crate) const HOLD_PARK_MS: u32 = 2000;
