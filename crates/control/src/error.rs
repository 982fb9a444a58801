//! Everything that a use case can answer besides yes. One exhaustive `match` says whose fault it is and alone picks
//! the HTTP status; another says what to do next.

mod from;
mod told;

use berth_config::{MissingVariable, Mistakes};
use berth_domain::{
    ApprovalId, ApprovalState, BadName, CellClass, CellName, CellState, CertificateId, Hostname, IllegalTransition,
    KeyId, MemberId, Mode, OperationId, PlanName, TenantHost, TenantName, TenantState,
};
use berth_infra::ProviderError;
use berth_mover::MoveError;
use berth_store::{Scope, StoreError};
use berth_workflow::{JournalError, Refusal};

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request makes no sense as it is. 422.
    Invalid,
    /// No key, or none that is known. 401.
    Unauthenticated,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// It makes sense, and not now: something else is as it should not be. 409.
    Conflict,
    /// It rests on a reading that is no longer true. 412.
    Stale,
    /// It fits nowhere. 409.
    Full,
    /// A provider or a cell does not do its part now. 502.
    Provider,
    /// We cannot now; the same request may work later. 503.
    Unavailable,
    /// Ours. 500.
    Ours,
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("this key is not known here")]
    UnknownKey,
    #[error("a key with the scope `{scope}` may not {what}")]
    Forbidden { what: &'static str, scope: Scope },
    #[error("{0}")]
    BadStackFile(Mistakes),
    #[error("`{key}` of the stack file is not right:\n{says}")]
    BadPlacement { key: String, says: String },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    BadProfile(Vec<berth_placement::BadProfile>),
    #[error("{}", told::bad_lines(.0))]
    BadUsage(Vec<crate::usage::BadLine>),
    #[error("{}", told::each(.0))]
    BadLimits(Vec<crate::limits::BadLimit>),
    #[error("there is no approval {0}")]
    NoApproval(ApprovalId),
    #[error("the approval for tenant `{tenant}` is {state}")]
    ApprovalState { tenant: TenantName, state: ApprovalState },
    #[error("no stack file has been applied yet")]
    NoStack,
    #[error("cell `{cell}` is {what} and cannot become {wanted}")]
    CellFixed { cell: CellName, what: String, wanted: String },
    #[error("the stack file is for `{given}`; this control plane runs `{runs}`")]
    OtherStack { runs: String, given: String },
    #[error("somebody else applied a stack file meanwhile")]
    AppliedMeanwhile,
    #[error("there is no tenant `{0}`")]
    NoTenant(String),
    #[error("there is no cell `{0}`")]
    NoCell(String),
    #[error("there is no edge `{0}`")]
    NoEdge(String),
    #[error("an edge has to be named: there are {}", list(.0))]
    WhichEdge(Vec<String>),
    #[error("cell `{cell}` has no member {member}")]
    NoMember { cell: CellName, member: MemberId },
    #[error("it is the last member of cell `{0}` that takes requests")]
    LastMember(CellName),
    #[error("tenant `{tenant}` is {is}, not {wanted}")]
    OtherMode { tenant: TenantName, is: Mode, wanted: Mode },
    #[error("the certificate cannot be taken: {0}")]
    BadCertificate(String),
    #[error("there is no certificate {0}")]
    NoCertificate(CertificateId),
    #[error("there is no plan `{0}`")]
    NoPlan(PlanName),
    #[error("plan `{0}` is no longer in the stack file and takes no new tenants")]
    PlanRetired(PlanName),
    #[error("there is no key {0} in force")]
    NoKey(KeyId),
    #[error("there is no operation {0}")]
    NoOperation(OperationId),
    #[error("there is no provider `{0}` in the stack file")]
    NoProvider(String),
    #[error("the stack file has no web service `{0}`")]
    NoService(String),
    #[error("a provider has to be named: the stack file has {0}")]
    WhichProvider(usize),
    #[error("there is no adapter `{0}` in this program")]
    NoAdapter(String),
    #[error("provider `{provider}` offers no {what}")]
    NotOffered { provider: String, what: &'static str },
    #[error("a tenant named `{0}` exists already")]
    TenantExists(TenantName),
    #[error("the key `{0}` belongs to another tenant already")]
    KeyTaken(String),
    #[error("a cell named `{0}` exists already")]
    CellExists(CellName),
    #[error("{} belong{} to another tenant already", list(.0), if .0.len() == 1 { "s" } else { "" })]
    HostsTaken(Vec<String>),
    #[error("{}", .0.join("; "))]
    HostsMeet(Vec<String>),
    #[error("{} {} not proved", list(.0), if .0.len() == 1 { "is" } else { "are" })]
    HostsUnproved(Vec<String>),
    #[error("`{host}` is not proved: {why}")]
    HostNotProved { host: TenantHost, why: String },
    #[error("no certificate is ordered for `{0}`")]
    NoOrder(Hostname),
    #[error("no tenant has or claims the host `{0}`")]
    NoHost(String),
    #[error("a tenant has to be named: the host is claimed by {}", list(.0))]
    WhichTenant(Vec<String>),
    #[error("this program was built without what asks the world outside")]
    NoOutside,
    #[error("{}", told::no_room(*.class, .already_in.as_ref()))]
    NoRoom { class: CellClass, already_in: Option<CellName> },
    #[error("no {class} cell in the region `{region}` has room for tenant `{tenant}`, which belongs there")]
    NoRoomInRegion { class: CellClass, tenant: TenantName, region: String },
    #[error("tenant `{tenant}` belongs to the region `{region}`, where cell `{cell}` is not")]
    OtherRegion { tenant: TenantName, region: String, cell: CellName },
    #[error("{}", told::unfit(.tenant, .place, .refused))]
    Unfit { tenant: TenantName, place: String, refused: Box<berth_placement::Refusal> },
    #[error("cell `{cell}` is full: {tenants} of {most} tenants")]
    CellFull { cell: CellName, tenants: i64, most: i32 },
    #[error("cell `{cell}` is {state} and takes no tenants")]
    CellNotReady { cell: CellName, state: CellState },
    #[error("cell `{cell}` is {state}")]
    CellState { cell: CellName, state: CellState },
    #[error("cell `{cell}` still has {tenants} tenants")]
    CellNotEmpty { cell: CellName, tenants: i64 },
    #[error("tenant `{tenant}` is already in cell `{cell}`")]
    SameCell { tenant: TenantName, cell: CellName },
    #[error("{}", told::no_way_back(.tenant, .ended.as_deref()))]
    NoWayBack { tenant: TenantName, ended: Option<String> },
    #[error("cell `{cell}` has no {what}, which the stack file's `data` asks for")]
    LacksBeside { cell: CellName, what: &'static str },
    #[error("cell `{cell}` has an object that cannot travel by its name: {path:?}")]
    OddObject { cell: CellName, path: String },
    #[error("`data.redis.store` cannot become true while cells have a Redis that is a cache")]
    CacheBecomesStore,
    #[error("tenant `{tenant}` has no archive {archive}")]
    NoArchive { tenant: TenantName, archive: OperationId },
    #[error("tenant `{tenant}` is {state}")]
    NotNow { tenant: TenantName, state: TenantState },
    #[error("cell `{cell}` still has the rows that tenant `{tenant}` left there")]
    LeftBehind { tenant: TenantName, cell: CellName, may_undo: bool },
    #[error("cell `{cell}` still has the rows of {tenants} tenants that moved away")]
    CellKeeps { cell: CellName, tenants: i64 },
    #[error(transparent)]
    Release(#[from] crate::ReleaseError),
    #[error(transparent)]
    Upgrade(#[from] crate::UpgradeError),
    #[error("cell `{to}` has another schema than `{from}`")]
    OtherSchema { from: CellName, to: CellName },
    #[error("cell `{cell}` has no table `{root}` with a column `{key}`")]
    NoRootTable { cell: CellName, root: String, key: String },
    #[error("tenant `{tenant}` is already moving")]
    AlreadyMoving { tenant: TenantName, operation: Option<OperationId> },
    #[error("tenant `{tenant}` is {state}")]
    TenantState {
        tenant: TenantName,
        state: TenantState,
        operation: Option<OperationId>,
        #[source]
        source: IllegalTransition,
    },
    #[error("there is no archive {0}")]
    NoUpload(OperationId),
    #[error("archive {0} is being imported")]
    UploadInUse(OperationId),
    #[error("`{0}` is no file of an archive")]
    BadArchiveFile(String),
    #[error("operation {operation} is working on tenant `{tenant}`")]
    TenantBusy { tenant: TenantName, operation: OperationId },
    #[error("the {0} was changed since it was read")]
    Stale(&'static str),
    #[error("`{0}` is no scope")]
    BadScope(String),
    #[error("{0}")]
    BadMonth(String),
    #[error("the invoice cannot be taken: {0}")]
    BadInvoice(String),
    #[error("no invoice of `{provider}` was imported for {month}")]
    NoInvoice { month: String, provider: String },
    #[error("{0}")]
    BadFigure(String),
    #[error("a key's name is 1 to 80 characters")]
    BadKeyName,
    #[error("this idempotency key was used for another request")]
    KeyReused,
    #[error("the first request with this idempotency key is still being carried out")]
    StillUnderWay,
    #[error(transparent)]
    Name(#[from] BadName),
    #[error(transparent)]
    Operation(#[from] Refusal),
    #[error("the world is ahead of this control database, which was restored from an older copy")]
    WorldAhead,
    #[error("{whose}: {most} polls are under way or kept already")]
    TooManyPolls { whose: String, most: usize },
    #[error("the tenant cannot be moved")]
    Move(#[from] MoveError),
    #[error("the archive cannot be imported")]
    Import(#[source] MoveError),
    #[error("the provider of cell `{cell}`")]
    Provider {
        cell: CellName,
        #[source]
        source: ProviderError,
    },
    #[error("provider `{name}` cannot be set up")]
    BadProvider {
        name: String,
        #[source]
        source: ProviderError,
    },
    #[error("variable `{}` of the stack file is not set for this server", .0.name)]
    Environment(#[from] MissingVariable),
    #[error("the database of cell `{cell}` did not answer")]
    CellDatabase {
        cell: CellName,
        #[source]
        source: berth_pg::ConnectError,
    },
    #[error("the {hook} hook failed in cell `{cell}`: {message}")]
    Hook { cell: CellName, hook: &'static str, message: String },
    #[error("the {hook} hook has no answer in cell `{cell}`: {message}")]
    HookSilent { cell: CellName, hook: &'static str, message: String },
    #[error("cell `{0}` has no database yet")]
    NoDatabase(CellName),
    #[error("cell `{cell}` is run by somebody else, and its database does not answer: {reason}")]
    ForeignSilent { cell: CellName, reason: String },
    #[error("the stack file has no provider for cells that exist already")]
    NoEndpoints,
    #[error("the stack file has no provider for servers that are reached over SSH")]
    NoServers,
    #[error("a look did not come to its end")]
    Cut(#[source] tokio::task::JoinError),
    #[error("the control database")]
    Store(#[source] StoreError),
    #[error("the journal")]
    Journal(#[source] JournalError),
    #[error("a stored document does not parse")]
    Document(#[from] serde_json::Error),
}

fn list(names: &[String]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

impl ControlError {
    pub fn kind(&self) -> Kind {
        match self {
            Self::UnknownKey => Kind::Unauthenticated,
            Self::Forbidden { .. } => Kind::Forbidden,
            Self::NoTenant(_)
            | Self::NoCell(_)
            | Self::NoEdge(_)
            | Self::NoCertificate(_)
            | Self::NoHost(_)
            | Self::NoOrder(_)
            | Self::NoMember { .. }
            | Self::NoKey(_)
            | Self::NoOperation(_)
            | Self::NoArchive { .. }
            | Self::NoUpload(_)
            | Self::NoInvoice { .. }
            | Self::NoApproval(_) => Kind::NotFound,
            Self::BadStackFile(_)
            | Self::BadCertificate(_)
            | Self::BadPlacement { .. }
            | Self::BadProfile(_)
            | Self::BadUsage(_)
            | Self::BadLimits(_)
            | Self::CellFixed { .. }
            | Self::OtherStack { .. }
            | Self::NoPlan(_)
            | Self::BadArchiveFile(_)
            | Self::PlanRetired(_)
            | Self::NoProvider(_)
            | Self::NoService(_)
            | Self::WhichProvider(_)
            | Self::WhichEdge(_)
            | Self::WhichTenant(_)
            | Self::NoOutside
            | Self::NoAdapter(_)
            | Self::NotOffered { .. }
            | Self::NoEndpoints
            | Self::NoServers
            | Self::BadScope(_)
            | Self::BadKeyName
            | Self::BadMonth(_)
            | Self::BadInvoice(_)
            | Self::BadFigure(_)
            | Self::KeyReused
            | Self::SameCell { .. }
            | Self::OtherRegion { .. }
            | Self::NoWayBack { .. }
            | Self::LeftBehind { .. }
            | Self::CellKeeps { .. }
            | Self::OtherSchema { .. }
            | Self::BadProvider { .. }
            | Self::Environment(_)
            | Self::Name(_) => Kind::Invalid,
            Self::NoStack
            | Self::AppliedMeanwhile
            | Self::TenantExists(_)
            | Self::KeyTaken(_)
            | Self::CellExists(_)
            | Self::HostsTaken(_)
            | Self::HostsMeet(_)
            | Self::HostsUnproved(_)
            | Self::HostNotProved { .. }
            | Self::CellNotReady { .. }
            | Self::CellState { .. }
            | Self::CellNotEmpty { .. }
            | Self::LastMember(_)
            | Self::OtherMode { .. }
            | Self::NoRootTable { .. }
            | Self::AlreadyMoving { .. }
            | Self::TenantState { .. }
            | Self::NotNow { .. }
            | Self::TenantBusy { .. }
            | Self::ApprovalState { .. }
            | Self::StillUnderWay
            | Self::UploadInUse(_)
            | Self::Operation(_)
            | Self::Hook { .. }
            | Self::LacksBeside { .. }
            | Self::OddObject { .. }
            | Self::CacheBecomesStore
            | Self::Unfit { .. }
            | Self::NoDatabase(_) => Kind::Conflict,
            Self::NoRoom { .. } | Self::NoRoomInRegion { .. } | Self::CellFull { .. } => Kind::Full,
            Self::Stale(_) => Kind::Stale,
            Self::Release(error) => error.kind(),
            Self::Upgrade(error) => error.kind(),
            Self::Move(error) | Self::Import(error) => match error.fault() {
                berth_mover::Fault::Caller => Kind::Conflict,
                berth_mover::Fault::Passing => Kind::Provider,
                berth_mover::Fault::Ours => Kind::Ours,
            },
            Self::Provider { .. }
            | Self::CellDatabase { .. }
            | Self::ForeignSilent { .. }
            | Self::HookSilent { .. } => Kind::Provider,
            Self::Store(error) if error.passes_by_itself() => Kind::Unavailable,
            Self::WorldAhead | Self::TooManyPolls { .. } | Self::Journal(JournalError::Unreachable(_)) => {
                Kind::Unavailable
            }
            Self::Store(_) | Self::Journal(_) | Self::Document(_) | Self::Cut(_) => Kind::Ours,
        }
    }

    /// The stable word of the API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown_key",
            Self::Forbidden { .. } => "forbidden",
            Self::BadStackFile(_) => "bad_stack_file",
            Self::BadPlacement { .. } => "bad_placement",
            Self::BadProfile(_) => "bad_profile",
            Self::BadUsage(_) => "bad_usage",
            Self::BadLimits(_) => "bad_limits",
            Self::NoApproval(_) => "no_approval",
            Self::ApprovalState { .. } => "approval_state",
            Self::NoStack => "no_stack",
            Self::CellFixed { .. } => "cell_fixed",
            Self::OtherStack { .. } => "other_stack",
            Self::AppliedMeanwhile => "applied_meanwhile",
            Self::NoTenant(_) => "no_tenant",
            Self::NoCell(_) => "no_cell",
            Self::BadCertificate(_) => "bad_certificate",
            Self::NoCertificate(_) => "no_certificate",
            Self::NoEdge(_) => "no_edge",
            Self::WhichEdge(_) => "which_edge",
            Self::NoMember { .. } => "no_member",
            Self::LastMember(_) => "last_member",
            Self::OtherMode { .. } => "other_mode",
            Self::NoPlan(_) => "no_plan",
            Self::PlanRetired(_) => "plan_retired",
            Self::NoKey(_) => "no_key",
            Self::NoOperation(_) => "no_operation",
            Self::NoProvider(_) => "no_provider",
            Self::NoService(_) => "no_service",
            Self::WhichProvider(_) => "which_provider",
            Self::NoAdapter(_) => "no_adapter",
            Self::NotOffered { .. } => "not_offered",
            Self::TenantExists(_) => "tenant_exists",
            Self::KeyTaken(_) => "key_taken",
            Self::CellExists(_) => "cell_exists",
            Self::HostsTaken(_) => "host_taken",
            Self::HostsMeet(_) => "host_meets_another",
            Self::HostsUnproved(_) | Self::HostNotProved { .. } => "host_not_proved",
            Self::NoHost(_) => "no_host",
            Self::NoOrder(_) => "no_order",
            Self::WhichTenant(_) => "which_tenant",
            Self::NoOutside => "not_built_in",
            Self::NoRoom { .. } => "no_room",
            Self::NoRoomInRegion { .. } => "no_room_in_region",
            Self::OtherRegion { .. } => "other_region",
            Self::Unfit { .. } => "constraint_broken",
            Self::CellFull { .. } => "cell_full",
            Self::CellNotReady { .. } => "cell_not_ready",
            Self::CellState { .. } => "cell_state",
            Self::CellNotEmpty { .. } => "cell_not_empty",
            Self::SameCell { .. } => "same_cell",
            Self::NoWayBack { .. } => "no_way_back",
            Self::LacksBeside { .. } => "cell_lacks",
            Self::OddObject { .. } => "object_name",
            Self::CacheBecomesStore => "cache_becomes_store",
            Self::NoArchive { .. } | Self::NoUpload(_) => "no_archive",
            Self::UploadInUse(_) => "upload_in_use",
            Self::TenantBusy { .. } => "tenant_busy",
            Self::BadArchiveFile(_) => "bad_archive_file",
            Self::LeftBehind { .. } => "rows_left_behind",
            Self::CellKeeps { .. } => "cell_keeps_rows",
            Self::OtherSchema { .. } => "schema_differs",
            Self::NoRootTable { .. } => "no_root_table",
            Self::AlreadyMoving { .. } => "already_moving",
            Self::TenantState { .. } | Self::NotNow { .. } => "tenant_state",
            Self::Stale(_) => "stale",
            Self::BadScope(_) => "bad_scope",
            Self::BadKeyName => "bad_key_name",
            Self::BadMonth(_) => "bad_month",
            Self::BadInvoice(_) => "bad_invoice",
            Self::NoInvoice { .. } => "no_invoice",
            Self::BadFigure(_) => "bad_figure",
            Self::KeyReused => "idempotency_key_reused",
            Self::StillUnderWay => "still_under_way",
            Self::Name(_) => "bad_name",
            Self::Operation(refusal) => refusal.kind(),
            Self::WorldAhead => "world_ahead",
            Self::TooManyPolls { .. } => "too_many_polls",
            Self::Move(error) | Self::Import(error) => error.code(),
            Self::Release(error) => error.code(),
            Self::Upgrade(error) => error.code(),
            Self::Provider { .. } => "provider",
            Self::BadProvider { .. } => "bad_provider",
            Self::Environment(_) => "variable_missing",
            Self::CellDatabase { .. } => "cell_database",
            Self::Hook { .. } => "hook_failed",
            Self::HookSilent { .. } => "hook_silent",
            Self::NoDatabase(_) => "no_database",
            Self::ForeignSilent { .. } => "foreign_silent",
            Self::NoEndpoints => "no_endpoints",
            Self::NoServers => "no_servers",
            Self::Store(_) => "control_database",
            Self::Journal(error) => error.kind(),
            Self::Document(_) => "damaged_document",
            Self::Cut(_) => "cut_off",
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::UnknownKey => "send `Authorization: Bearer bk_…`; `berth key create` makes one",
            Self::Forbidden { .. } => "use a key with the scope `admin`",
            Self::BadPlacement { .. } => "`docs/decide.md` describes policy and catalogue",
            Self::BadProfile(faults) => return faults.first().map(|fault| fault.hint().to_owned()),
            Self::BadLimits(bad) => return Some(told::each(bad.iter().map(crate::limits::BadLimit::hint))),
            Self::BadUsage(_) => {
                "nothing of the report was counted: leave these events out or correct them, and send it again"
            }
            Self::NoApproval(_) | Self::ApprovalState { .. } => "`berth approval list` shows those there are",
            Self::NoStack => "`berth apply` takes the stack file",
            Self::CellFixed { .. } => "declare a cell under another name and move its tenants there",
            Self::OtherStack { .. } => "each stack has a control plane of its own",
            Self::AppliedMeanwhile => "run `berth apply --dry-run` again and look at the difference",
            Self::NoTenant(_) => "`berth tenant list` shows those there are",
            Self::NoCell(_) => "`berth cell list` shows those there are",
            Self::NoEdge(_) | Self::WhichEdge(_) => "`berth edge list` shows those that ever called",
            Self::BadCertificate(_) => {
                "give the certificate first, then those that lead to a known authority, and its own key"
            }
            Self::NoCertificate(_) => "`berth cert list` shows those there are",
            Self::NoMember { .. } => "`berth cell show` lists its members",
            Self::LastMember(_) => "give its service more `copies`, or drain its tenants: `berth tenant drain`",
            Self::OtherMode { .. } => "move it first: `berth tenant move`",
            Self::NoPlan(_) | Self::PlanRetired(_) => "`berth plan list` shows those there are",
            Self::NoKey(_) => "`berth key list` shows those there are",
            Self::NoOperation(_) => "`berth operation list` shows those there are",
            Self::NoProvider(_) | Self::WhichProvider(_) => "name one of the stack file's `providers`",
            Self::NoService(_) => "an HTTP hook needs a service with `role: web`",
            Self::NoAdapter(_) => "this program was built without it, or the name is mistyped",
            Self::NotOffered { .. } => "name a provider that offers it",
            Self::TenantExists(_) | Self::CellExists(_) => "choose another name",
            Self::KeyTaken(_) => "`berth tenant list` shows whose it is",
            Self::HostsTaken(_) => {
                "take it from the other tenant first; who proves it takes it over: `berth host add`, `berth host verify`"
            }
            Self::HostsMeet(_) => "take what is in the way from the other tenant first, or choose another host",
            Self::HostsUnproved(_) => "`berth host add` says what proves it; hosts below `hosts.own` need no proof",
            Self::HostNotProved { .. } => {
                "`berth host list` says what proves it; a new TXT record may take minutes until all DNS servers have it"
            }
            Self::NoOrder(_) => "they are ordered with `https.acme`, for hosts proved or below `hosts.own`",
            Self::NoHost(_) => "`berth host list` shows those there are",
            Self::WhichTenant(_) => "name one of them: `--tenant`",
            Self::NoOutside => "use a program with the feature `acme`, as releases have it",
            Self::NoRoom { .. } => "add a cell to the stack file, or `berth cell create`",
            Self::NoRoomInRegion { .. } => "add a cell with that `region`, or change `tenants.region_routing`",
            Self::Unfit { .. } => {
                "`berth decide` names places that keep what the profile says; \
                 `berth decide TENANT --profile FILE --keep` changes that of a tenant that there is"
            }
            Self::OtherRegion { .. } => "name a cell there, or change `tenants.region_routing.tenant_region_mapping`",
            Self::CellFull { .. } | Self::CellNotReady { .. } => "without a named cell one with room is chosen",
            Self::CellState { .. } => "`berth cell show` tells what is being done with it",
            Self::CellNotEmpty { .. } => "move its tenants away first: `berth cell drain`, then `berth tenant move`",
            Self::SameCell { .. } => "name another cell",
            Self::NoWayBack { .. } => {
                "a move can be undone for `data.way_back_days` days, as long as the old cell follows; afterwards move the tenant again"
            }
            Self::LeftBehind { may_undo: true, .. } => {
                "`berth tenant undo-move` brings it back there, with everything written since"
            }
            Self::LeftBehind { .. } => "they are being removed: try again in a moment",
            Self::CellKeeps { .. } => {
                "they go when those moves cannot be undone any more; `berth tenant settle-move` removes them now"
            }
            Self::NoRootTable { .. } => "name them in the stack file, under `data.root` and `data.key`",
            Self::OtherSchema { .. } => "run the missing release's migration in the target cell first",
            Self::AlreadyMoving { .. } => "`berth operation watch` follows it; `berth operation abandon` gives it up",
            Self::LacksBeside { .. } => {
                "where the provider can make it, it comes by itself within seconds; `berth cell show` tells what keeps it"
            }
            Self::OddObject { .. } => "give it a name without a link, control characters or `#` and digits at its end",
            Self::CacheBecomesStore => {
                "what is in a cache is written nowhere and would be gone at its next start: keep it in Postgres, or begin with new cells"
            }
            Self::NoArchive { .. } => "`berth tenant archives` lists those there are",
            Self::TenantBusy { .. } => {
                "wait until it is over: `berth operation watch`; or give it up: `berth operation abandon`"
            }
            Self::UploadInUse(_) => "it goes when that import is over: `berth operation list --open`",
            Self::NoUpload(_) => "give the folder or file that `berth tenant export --to` wrote, or an archive's id",
            Self::BadArchiveFile(_) => "files are named in the archive's `manifest.json`",
            Self::TenantState { .. } | Self::NotNow { .. } => "`berth tenant show` tells what is being done with it",
            Self::Stale(_) => "read it again, then decide again",
            Self::BadScope(_) => "write `admin`, `read`, `edge`, `usage` or `tenant:ID`",
            Self::BadMonth(_) => "months are written like 2026-11, in UTC",
            Self::BadInvoice(_) => "docs/costs.md describes what an invoice has to say",
            Self::NoInvoice { .. } => "`berth cost` names the invoices of a month and where they come from",
            Self::BadFigure(_) => "docs/costs.md lists phases and triggers",
            Self::KeyReused => "use a new key for another request",
            Self::StillUnderWay => "ask again in a moment",
            Self::TooManyPolls { .. } => {
                "an edge's process has one under way; find who else asks as that edge. Those that nobody goes on with are forgotten in a minute"
            }
            Self::WorldAhead => {
                "`berth recover` compares it with the world and raises every counter above what it finds"
            }
            Self::Environment(_) => "set it where `berth serve` is started",
            Self::NoDatabase(_) => "wait until the cell is ready",
            Self::ForeignSilent { .. } => "it is looked at again every second; whoever runs it starts it",
            Self::NoServers => "add `servers: { adapter: ssh }` to `providers` and apply it",
            Self::NoEndpoints => "add `existing: { adapter: endpoint }` to `providers` and apply it",
            Self::HookSilent { .. } => {
                "it is asked again for a while, over HTTP under the same `Idempotency-Key`; `berth logs` shows what the application says"
            }
            Self::Hook { .. } => "hooks are in the stack file under `data.hooks`; they have to bear being run twice",
            Self::BadStackFile(mistakes) => {
                return Some(
                    mistakes
                        .iter()
                        .filter_map(|m| m.problem.hint().map(|hint| format!("{}: {hint}", m.key)))
                        .collect::<Vec<_>>()
                        .join("; "),
                )
                .filter(|hints| !hints.is_empty());
            }
            Self::Operation(refusal) => refusal.hint(),
            Self::Move(error) | Self::Import(error) => return Some(error.hint()),
            Self::Release(error) => return Some(error.hint()),
            Self::Upgrade(error) => return Some(error.hint()),
            Self::Provider { source, .. } | Self::BadProvider { source, .. } => return source.hint(),
            Self::Journal(error) => return error.hint().map(str::to_owned),
            Self::CellDatabase { source, .. } => {
                source.remedy().unwrap_or("it is started again by itself; `berth cell show` tells how it is")
            }
            Self::BadKeyName | Self::Name(_) | Self::Store(_) | Self::Document(_) | Self::Cut(_) => return None,
        };
        Some(text.to_owned())
    }
}
