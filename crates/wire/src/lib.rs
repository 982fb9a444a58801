//! What Berth says over the wire: public requests and answers, and the stream that edges follow.
//!
//! The only types we promise to others: they change compatibly. No behaviour here, and no secret except an API
//! key in the one answer that shows it and the connection string of an endpoint in the one request that takes it in. Requests refuse keys they do not know, so that a typing mistake is an
//! error and never a silent default; answers may grow, so clients must not.
//!
//! A figure that nobody measured or computed is absent (`null`), never 0.

pub mod edge;

mod archive;
mod audit;
mod catalogue;
mod cell;
mod certificate;
mod check;
mod cost;
mod database;
mod decide;
mod drain;
mod host;
mod key;
mod moves;
mod operation;
mod page;
mod problem;
mod release;
mod schema;
mod server;
mod stack;
mod status;
mod tenant;
mod upgrade;
mod usage;

pub use archive::{Archive, ArchivedTable, Erased, Erasure, ErasureKept, ImportPlan, TenantImport};
pub use audit::AuditEntry;
pub use catalogue::{
    Catalogue, CatalogueCredit, CatalogueOffer, CatalogueProvider, CatalogueQuota, CatalogueRateLimit, CatalogueRegion,
    CatalogueShape,
};
pub use cell::{
    Cell, CellAbilities, CellAbility, CellClaim, CellCreate, CellFigure, EndpointAdd, LogLine, Member, RestartPlan,
};
pub use certificate::{Certificate, CertificateAdd, CertificateOrder};
pub use check::{CheckAsk, CheckFile, CheckFinding, CheckLooked, CheckReport, CheckSilenced};
pub use cost::{
    CostAdvice, CostBudget, CostCell, CostForecast, CostInvoice, CostMonth, CostRow, Costs, InvoiceImport, InvoiceLine,
    PhaseAnswer, PhaseAsk, PhaseTrigger, PlanPrice, PlanSide, TenantFigures,
};
pub use database::{
    DatabaseSlot, DatabaseStatement, DatabaseTable, DatabaseTop, MaintainAsk, MaintainFence, MaintainIndex,
    MaintainPlan, MaintainSlot, MaintainTable,
};
pub use decide::{
    Alternative, Decision, DecisionAsk, FleetApplied, FleetApply, FleetCell, FleetMonth, FleetMove, FleetOpened,
    FleetPlan, FleetSimulate, FleetStarted, FleetStep, Flip, Profile, Refusal,
};
pub use drain::{Drain, DrainAsk, Drained, DrainedKind};
pub use host::{Host, HostAdd, HostShow, HostVerify};
pub use key::{Key, KeyCreate, KeyCreated};
pub use moves::{Move, MoveBeside, MoveBlocker, MoveLeft, MovePlan, MovePlanTable, MoveUnsure, WayBack};
pub use operation::{
    Abandon, Fault, Operation, OperationEvent, OperationEventKind, OperationResult, Progress, StepState, StepView,
};
pub use page::Page;
pub use problem::Problem;
pub use release::{
    BackAsk, CellRelease, LeftOut, PlannedCell, Registry, RegistryPut, Release, ReleaseCreate, ReleaseShown,
    ReleaseStatus, Roll, RollAsk, RollCell, RollPlan,
};
pub use server::{EdgeWay, Machine, Server, ServerAdd, ServerLook, ServerSeen};
pub use stack::{Difference, DifferenceKind, PlanView, Stack, StackApplied, StackApply};
pub use status::{Attention, CellCounts, EdgeSeen, EdgeView, Overview, Recovery, TenantCounts};
pub use tenant::{
    SyncReport, SyncTenant, Tenant, TenantAllow, TenantChange, TenantCreate, TenantHosts, TenantLimits,
    TenantLimitsSet, TenantMove, TenantSync,
};
pub use upgrade::{
    Process, ProcessRole, Program, ProgramMigration, Upgrade, UpgradeKind, UpgradePlan, UpgradeRefusal, UpgradeStep,
    VERSION,
};
pub use usage::{
    Approval, ApprovalPlace, ApprovalReject, Entitlements, PurgePlan, Quota, QuotaOutlook, TenantUsage, Usage,
    UsageCounted, UsageEvent, UsageForecast,
};
