//! Everything that can stop a move, whose fault it is, and what to do next.

use crate::Refusal;
use crate::name::TableName;
use crate::sql::ident;
use berth_domain::{Generation, Token};

/// Which of the two databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Source,
    Target,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// Why a tenant cannot be moved as things are. Found before anything is touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Obstacle {
    #[error("table `{table}` does not exist in the {side}")]
    NoTable { side: Side, table: TableName },
    #[error("the root table `{table}` has no row with key `{key}` in the source")]
    NoTenant { table: TableName, key: String },
    #[error("table `{table}` refers to `{outside}`, whose rows belong to no tenant")]
    SharedRows { table: TableName, outside: TableName },
    #[error("`{table}` is named as a table of nobody, and its rows refer to `{to}`, whose rows belong to tenants")]
    SharedBelongs { table: TableName, to: TableName },
    #[error("{rows} rows of nobody in `{table}` are others in the target, the first has key {first_key}")]
    SharedDiffers { table: TableName, rows: u64, first_key: String },
    #[error(
        "{rows} of the tenant's rows in `{table}` refer by `{columns}` to rows of `{to}` that are not the tenant's"
    )]
    TwoTenants { table: TableName, columns: String, to: TableName, rows: i64 },
    #[error("{rows} rows of others or of nobody in `{table}` refer by `{columns}` to the tenant's rows of `{to}`")]
    OthersRefer { table: TableName, columns: String, to: TableName, rows: i64 },
    #[error(
        "{rows} rows of `{table}`, which stays, refer by `{columns}` to the tenant's rows of `{to}`, which leave the source after the move"
    )]
    LeftOutRefers { table: TableName, columns: String, to: TableName, rows: i64 },
    #[error("table `{table}` has no column `{column}`")]
    NoColumn { table: TableName, column: String },
    #[error("table `{table}` refers to `{to}` by other columns than its key, which the change stream does not carry")]
    LinkKey { table: TableName, to: TableName },
    #[error(
        "`{table}.{column}` says whose a row is, and two of its values ({type_name}) can be equal and look different"
    )]
    LinkType { table: TableName, column: String, type_name: String },
    #[error(
        "`{table}.{column}` is of the key, and its type {type_name} has its equality outside `pg_catalog`, where the mover does not look"
    )]
    KeyType { table: TableName, column: String, type_name: String },
    #[error("`{table}.{column}` is of the key and generated: the change stream does not carry it")]
    KeyGenerated { table: TableName, column: String },
    #[error("table `{table}` is partitioned, and some of its rows belong to the tenant without `{column}`")]
    PartsWithoutColumn { table: TableName, column: String },
    #[error("the tenant's key is `{stored}` in the database, not `{given}`")]
    KeyForm { given: String, stored: String },
    #[error("table `{table}` has no usable replica identity")]
    NoIdentity { table: TableName },
    #[error("table `{table}` is unlogged: its changes are not in the write-ahead log")]
    Unlogged { table: TableName },
    #[error(
        "sequence `{sequence}` of `{table}.{column}` stands at {last} and ends at {end} in the {side}, and a move needs room for {} numbers",
        crate::sequence::ROOM
    )]
    SequenceEnds { side: Side, sequence: TableName, table: TableName, column: String, last: i64, end: i64 },
    #[error("table `{table}` is a hypertable of TimescaleDB, whose rows lie in tables of the extension's own")]
    Hypertable { table: TableName },
    #[error("table `{child}` inherits from `{parent}`, whose rows are then also its own")]
    Inherits { child: TableName, parent: TableName },
    #[error("table `{table}` has a column of large objects")]
    LargeObjects { table: TableName },
    #[error("table `{table}` differs between the sides: {difference}")]
    SchemaDiffers { table: TableName, difference: String },
    #[error("trigger `{trigger}` on `{table}` fires on copied rows too (ENABLE ALWAYS or REPLICA)")]
    AlwaysTrigger { table: TableName, trigger: String },
    #[error("the target already holds {rows} rows of this tenant in `{table}`")]
    RowsInTarget { table: TableName, rows: i64 },
    #[error(
        "{rows} keys ({columns}) of the tenant's rows in `{table}` are taken by other rows in the target, the first is {first_key}"
    )]
    KeyTaken { table: TableName, columns: String, rows: i64, first_key: String },
    #[error(
        "{rows} rows of `{to}`, which is left out, are not in the target, and the tenant's rows in `{table}` refer to them by `{columns}`; the first is {first_key}"
    )]
    LeftOutMissing { table: TableName, columns: String, to: TableName, rows: i64, first_key: String },
    #[error("`{table}.{column}` ({type_name}) says whose a row is by `{to}`, whose key is {key_type}")]
    LinkTypes { table: TableName, column: String, type_name: String, to: TableName, key_type: String },
    #[error("`wal_level` of the {side} is `{found}`, `logical` is needed")]
    WalLevel { side: Side, found: String },
    #[error("the {side} has no free {what}: {used} of {most} in use")]
    NoFree { side: Side, what: String, used: i64, most: i64 },
    #[error("the target has {free_mb} MB free, {needed_mb} MB are needed")]
    Disk { free_mb: u64, needed_mb: u64 },
    #[error("source and target are the same database")]
    SameDatabase,
    #[error("text is {source_encoding} in the source and {target_encoding} in the target")]
    Encoding { source_encoding: String, target_encoding: String },
    #[error("the target's clock is {} ms {} the source's", .ahead_ms.unsigned_abs(), if *.ahead_ms < 0 { "behind" } else { "ahead of" })]
    Clocks { ahead_ms: i64 },
    #[error("the {side} is a standby that takes no writes")]
    Standby { side: Side },
    #[error("`{table}.{column}` says when a row is from, and is no date or timestamp but {type_name}")]
    RetentionType { table: TableName, column: String, type_name: String },
    #[error("old rows of `{table}` would stay behind, and `{by}` refers to them")]
    RetentionReferred { table: TableName, by: TableName },
    #[error("between the mover and the {side} stands a connection pooler, which loses the settings of a session")]
    Pooler { side: Side },
    #[error("the mover's role `{role}` in the {side} lacks {right}")]
    Rights { side: Side, role: String, right: String },
    /// As [`Obstacle::Rights`], of what is no attribute of a role.
    #[error("the mover's role `{role}` in the {side} lacks {right}")]
    Grant { side: Side, role: String, right: String, statement: String },
    #[error("the {side} is not PostgreSQL: it says that it is `{version}`")]
    NotPostgres { side: Side, version: String },
    #[error(
        "{} in the {side} that are not Berth's use the mover's own role `{role}`, which no fence holds back",
        crate::logins::whoever(*.sessions, .workers)
    )]
    SharedLogin {
        side: Side,
        role: String,
        sessions: i64,
        #[serde(default)]
        workers: Vec<String>,
    },
    #[error(
        "the mover's role `{role}` owns `{table}` in the {side}: what an application writes as that login no fence holds back"
    )]
    OwnerLogin { side: Side, role: String, table: TableName },
    #[error(
        "login `{member}` may become the mover's role `{role}` in the {side}, and writes the tenant's tables: it could take its fence away"
    )]
    MemberOfMover {
        side: Side,
        role: String,
        member: String,
        #[serde(default)]
        statement: String,
    },
    #[error("what earlier moves keep in the {side} belongs to `{owner}`, a superuser, and `{role}` may not change it")]
    EarlierMoves {
        side: Side,
        role: String,
        owner: String,
        #[serde(default)]
        statements: Vec<String>,
    },
    #[error("the tenant's keys in Redis are kept nowhere else, and the target is shared with other tenants")]
    KeysOfAStore,
    #[error("the target's Redis may evict what the tenant keeps nowhere else (`maxmemory-policy` is `{policy}`)")]
    KeysEvicted { policy: String },
    #[error("the target's Redis does not write what it is given to disk, and the tenant keeps it nowhere else")]
    KeysNotKept,
    #[error("the {side}'s Redis is a cluster, whose keys cannot be followed over one connection")]
    KeysInCluster { side: Side },
    #[error("the target's Redis is version {target} and cannot take keys from version {source_version}")]
    KeysVersion { source_version: String, target: String },
    #[error("the target already holds {found} keys or objects of this tenant under the prefix `{prefix}`")]
    BesideInTarget { prefix: String, found: u64 },
    #[error(
        "{rows} of the tenant's rows in `{table}` refer by `{columns}` to rows of `{to}` that are neither in the archive nor in the cell"
    )]
    ReferenceMissing { table: TableName, columns: String, to: TableName, rows: i64 },
    #[error(
        "under the prefix `{prefix}` the tenant `{key}` cannot be told from others: its key holds what ends it there"
    )]
    PrefixOfOthers { prefix: String, key: String },
}

impl Obstacle {
    /// What removes it.
    pub fn hint(&self) -> String {
        match self {
            Self::NoTable { side: Side::Target, .. } | Self::SchemaDiffers { .. } => {
                "run the missing release's migration in the target cell first".into()
            }
            Self::NoTable { .. } => "name the root table in the stack file under `data.root`".into(),
            Self::NoTenant { .. } => {
                "the tenant's key is the text form of the root table's key; see `berth tenant sync`".into()
            }
            Self::SharedRows { outside, .. } => format!(
                "list `{outside}` under `data.shared`: the rows referred to travel along, and each cell has its own afterwards; or under `data.leave_out` when every cell has the same rows in it"
            ),
            Self::SharedBelongs { table, .. } => {
                format!("take `{table}` out of `data.shared`, or give it the tenant column")
            }
            Self::SharedDiffers { .. } => "make them the same in both cells first".into(),
            Self::TwoTenants { to, .. } => {
                format!("let them refer to rows of their own tenant, or list `{to}` under `data.shared`")
            }
            Self::OthersRefer { table, .. } => {
                format!("let them refer to rows of their own tenant, or give `{table}` the tenant column")
            }
            Self::LeftOutRefers { table, to, .. } => format!(
                "take `{table}` out of `data.leave_out`: then its rows travel; or drop its foreign key to `{to}` in a release: then they stay behind"
            ),
            Self::NoColumn { .. } => "look at `data.links` in the stack file".into(),
            Self::LinkKey { to, .. } => format!("refer to the primary key of `{to}`, or add the tenant column"),
            Self::LinkType { .. } => "use uuid, an integer type, text, a date or an enum there".into(),
            Self::KeyType { table, column, .. } | Self::KeyGenerated { table, column } => format!(
                "give `{table}` a primary key without `{column}` (a uuid), and keep what it says by a unique index of its own"
            ),
            Self::PartsWithoutColumn { table, column } => {
                format!("add `{column}` to `{table}`, not null, in a release")
            }
            Self::KeyForm { stored, .. } => format!("use `{stored}`"),
            Self::NoIdentity { table } => {
                format!(
                    "add a primary key to `{table}`, or where it has a deferrable one REPLICA IDENTITY FULL; where it has one: ALTER TABLE {table} REPLICA IDENTITY DEFAULT"
                )
            }
            Self::Unlogged { table } => format!("ALTER TABLE {table} SET LOGGED"),
            Self::SequenceEnds { sequence, table, column, .. } => format!(
                "in a release, in both cells: ALTER TABLE {table} ALTER COLUMN {column} TYPE bigint; ALTER SEQUENCE {sequence} AS bigint"
            ),
            Self::Hypertable { table } => format!(
                "keep those rows in a table of PostgreSQL's own, partitioned by time where it is large; or list `{table}` under `data.leave_out` where they may stay behind, and drop its foreign keys to the tenant's rows"
            ),
            Self::Inherits { child, parent } => {
                format!("ALTER TABLE {child} NO INHERIT {parent}, or make `{parent}` a partitioned table")
            }
            Self::LargeObjects { .. } => "store them as bytea or in object storage".into(),
            Self::AlwaysTrigger { trigger, table } => format!("ALTER TABLE {table} ENABLE TRIGGER {trigger}"),
            Self::RowsInTarget { .. } => "an earlier move left them: remove them, or choose another cell".into(),
            Self::KeyTaken { table, .. } => {
                format!("choose a cell of its own, or give `{table}` a uuid key or one with the tenant column")
            }
            Self::LeftOutMissing { to, .. } => format!(
                "put those rows of `{to}` into the target first, as every cell is to have them, or list `{to}` under `data.shared`: then they travel"
            ),
            Self::LinkTypes { table, column, key_type, .. } => {
                format!(
                    "ALTER TABLE {table} ALTER COLUMN {column} TYPE {key_type} in a release, or add the tenant column"
                )
            }
            Self::WalLevel { .. } => "ALTER SYSTEM SET wal_level = logical; -- then restart the server".into(),
            Self::NoFree { what, .. } => format!("end a move that is under way, or raise the server's limit of {what}"),
            Self::Disk { .. } => "choose a cell with more room: `--to auto` does".into(),
            Self::SameDatabase => "choose another cell".into(),
            Self::Encoding { source_encoding, .. } => {
                format!(
                    "make the target's database anew: CREATE DATABASE … ENCODING '{source_encoding}' TEMPLATE template0"
                )
            }
            Self::Clocks { .. } => "let both servers keep their time by NTP: timedatectl set-ntp true".into(),
            Self::Standby { .. } => "give the address of the primary".into(),
            Self::RetentionType { table, .. } => {
                format!("name a date or timestamp column of `{table}` under `data.retention`")
            }
            Self::RetentionReferred { table, .. } => {
                format!("take `{table}` out of `data.retention`: then all of its rows travel")
            }
            Self::Pooler { .. } => "give the address of the server itself".into(),
            Self::Rights { role, right, .. } => format!("ALTER ROLE {} {right}", ident(role)),
            Self::NotPostgres { .. } => {
                "tenants are routed to it and limited there; moves read the change stream of PostgreSQL, so that they need one".into()
            }
            Self::SharedLogin { workers, .. } if workers.is_empty() => {
                "end them, or give Berth a login that nobody else uses: the application needs no superuser".into()
            }
            Self::SharedLogin { .. } => {
                "give Berth a login that nobody else uses; or end them, and give a subscription to another role: ALTER SUBSCRIPTION … OWNER TO … (before PostgreSQL 16 to a superuser)".into()
            }
            Self::OwnerLogin { role, .. } => {
                format!("CREATE ROLE berth_mover LOGIN REPLICATION; GRANT {} TO berth_mover; -- then give Berth that login", ident(role))
            }
            // As an earlier release wrote it down.
            Self::MemberOfMover { role, member, statement, .. } if statement.is_empty() => {
                crate::logins::revoke(role, member, None)
            }
            Self::MemberOfMover { statement, .. } | Self::Grant { statement, .. } => statement.clone(),
            Self::EarlierMoves { statements, .. } => statements.join("; "),
            Self::KeysOfAStore => {
                "move it into a cell of its own, or into Postgres; `data.redis.store: false` where it is a cache".into()
            }
            Self::KeysEvicted { .. } => "CONFIG SET maxmemory-policy noeviction".into(),
            Self::KeysNotKept => "CONFIG SET appendonly yes, and the same in its configuration".into(),
            Self::KeysInCluster { .. } => {
                "give the cell a single Redis, or take `data.redis` out of the stack file: then its keys stay behind"
                    .into()
            }
            Self::KeysVersion { .. } => "Redis 6 or later, and in the target no older than in the source".into(),
            Self::BesideInTarget { .. } => "remove them, or choose another cell".into(),
            Self::ReferenceMissing { to, .. } => {
                format!("put those rows of `{to}` into the cell first, as every cell is to have them")
            }
            Self::PrefixOfOthers { .. } => {
                "end the tenant's key in the prefix with a character that no tenant's key holds".into()
            }
        }
    }
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request, the schema or the settings.
    Caller,
    /// A server did not answer or an attempt did not fit its bounds: trying again may help.
    Passing,
    /// Ours, or data that is not as it must be: a person has to look.
    Ours,
}

/// Why a move stopped.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error("{}", obstacles_text(.0))]
    Obstacles(Vec<Obstacle>),
    #[error("the {side} database does not answer")]
    Connect {
        side: Side,
        #[source]
        source: berth_pg::ConnectError,
    },
    #[error("a statement in the {side} failed while {doing}")]
    Statement {
        side: Side,
        doing: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("the change stream of the source broke")]
    Stream(#[source] std::io::Error),
    #[error("the change stream of the source was refused: {message}")]
    StreamRefused { code: String, message: String },
    #[error("the change stream could not be read: {0}")]
    Decode(String),
    #[error("the copy of table `{table}` stopped")]
    Copy {
        table: TableName,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("another worker has taken this move: token {held} is too old for the {side}")]
    Fenced { side: Side, held: Token },
    #[error("the control row refused: {0}")]
    Refused(#[from] Refusal),
    #[error("the control row could not be read or written")]
    ControlSilent,
    #[error("`{table}` differs between the sides in {rows} rows, first key {first_key}")]
    Differs { table: TableName, rows: u64, first_key: String },
    #[error(
        "`{table}` differs in {rows} rows between the database that the tenant lives in and the one that it has left, first key {first_key}"
    )]
    OldSideDiffers { table: TableName, rows: u64, first_key: String },
    #[error("a change of `{table}` met {found} rows in the target instead of one, key {key}")]
    NotOneRow { table: TableName, found: u64, key: String },
    #[error("a row of `{table}` that was to stay behind became young enough to travel during the move, key {key}")]
    GrewYoung { table: TableName, key: String },
    #[error("the schema changed during the move: {what}")]
    SchemaChanged { what: String },
    #[error("`{table}` was truncated during the move")]
    Truncated { table: TableName },
    #[error("a row of `{table}` changed its tenant during the move")]
    TenantChanged { table: String },
    #[error("a row of `{table}` lost its tenant during the move: an update set its `{column}` to null")]
    TenantCleared { table: TableName, column: String },
    #[error("the replication slot `{slot}` is lost: the server gave up its WAL")]
    SlotLost { slot: String },
    #[error("the move holds back {held_mb} MB of the source's write-ahead log, more than the {most_mb} MB that it may")]
    TooMuchWal { held_mb: u64, most_mb: u64 },
    #[error("no moment for the cut-over was found in {attempts} attempts; the last one failed because {last}")]
    NoMoment { attempts: u32, last: String },
    #[error("the {side} database has not answered anybody for {seconds} s")]
    Silent { side: Side, seconds: u64 },
    #[error(
        "a database did not answer within the {limit_ms} ms of a pause, and the attempt at the cut-over was given up"
    )]
    PauseOver { limit_ms: u64 },
    #[error("a row of nobody in `{table}` is another one in the target, key {key}")]
    SharedDiffers { table: TableName, key: String },
    #[error("the tenant has moved already")]
    AlreadyMoved,
    #[error("the tenant lives in the database that its rows were to be removed from")]
    LivesThere,
    #[error("{rows} rows of others in `{table}` refer to the tenant's rows in `{to}`, which were to be removed")]
    ReferredTo { table: TableName, to: TableName, rows: i64 },
    #[error("{rows} of the tenant's rows in `{table}` were to be removed and are still there")]
    RowsStay { table: TableName, rows: u64 },
    #[error("the archive could not be had while {doing}")]
    Archive {
        doing: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("what the tenant has beside its rows could not be had in the {side} while {doing}")]
    Beside {
        side: Side,
        doing: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the archive does not fit: {why}")]
    ArchiveUnfit { why: String },
    #[error("the tenant does not live in the database whose fence was to go")]
    LivesElsewhere,
    #[error("this machine's clock is {ahead_s} s ahead of the cell's: what is too old is not known")]
    ClocksApart { ahead_s: i64 },
    #[error("the move was cancelled")]
    Cancelled,
    #[error(
        "the way back holds back {held_mb} MB of the write-ahead log in the server that it leads from, more than the {most_mb} MB that it may"
    )]
    WayBackOver { held_mb: u64, most_mb: u64 },
    #[error("the database that the tenant has left cannot take what was written since: {why}")]
    WayBackBarred { why: String },
}

/// What a server refuses for what was asked, not for the moment: a missing column, a missing right, a value that the
/// type does not take, a key that is taken. Asking again gets the same answer.
fn stays(error: &tokio_postgres::Error) -> bool {
    let class = |code: &tokio_postgres::error::SqlState| code.code().get(..2).map(ToOwned::to_owned);
    error.code().and_then(class).is_some_and(|class| ["0A", "22", "23", "42"].contains(&class.as_str()))
}

fn obstacles_text(all: &[Obstacle]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl MoveError {
    pub fn fault(&self) -> Fault {
        match self {
            Self::Connect { source, .. } if is_pooler(source) || source.is_unproved() => Fault::Caller,
            Self::Statement { source, .. } | Self::Copy { source, .. } if stays(source) => Fault::Ours,
            Self::Obstacles(_)
            | Self::SchemaChanged { .. }
            | Self::Truncated { .. }
            | Self::GrewYoung { .. }
            | Self::TenantChanged { .. }
            | Self::TenantCleared { .. }
            | Self::SharedDiffers { .. }
            | Self::AlreadyMoved
            | Self::LivesThere
            | Self::ReferredTo { .. }
            | Self::RowsStay { .. }
            | Self::ArchiveUnfit { .. }
            | Self::TooMuchWal { .. }
            | Self::LivesElsewhere
            | Self::ClocksApart { .. }
            | Self::WayBackOver { .. }
            | Self::WayBackBarred { .. }
            | Self::OldSideDiffers { .. }
            | Self::Cancelled => Fault::Caller,
            Self::Connect { .. }
            | Self::Stream(_)
            | Self::StreamRefused { .. }
            | Self::Copy { .. }
            | Self::Statement { .. }
            | Self::Fenced { .. }
            | Self::ControlSilent
            | Self::Archive { .. }
            | Self::Beside { .. }
            | Self::Silent { .. }
            | Self::PauseOver { .. }
            | Self::NoMoment { .. } => Fault::Passing,
            Self::Refused(_)
            | Self::Decode(_)
            | Self::Differs { .. }
            | Self::NotOneRow { .. }
            | Self::SlotLost { .. } => Fault::Ours,
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> String {
        match self {
            Self::Obstacles(all) => all.iter().map(Obstacle::hint).collect::<Vec<_>>().join("; "),
            Self::Connect { source, .. } if is_pooler(source) => {
                "that is a connection pooler: give the address of the server itself".into()
            }
            Self::Connect { source, .. } => {
                source.remedy().unwrap_or("is the cell's database running? `berth cell show` says").into()
            }
            Self::Stream(_)
            | Self::StreamRefused { .. }
            | Self::Statement { .. }
            | Self::Copy { .. }
            | Self::PauseOver { .. }
            | Self::ControlSilent => "it is tried again; the tenant goes on where it is".into(),
            Self::Silent { .. } => "look at that server: `berth cell show` says where it is; it is tried again".into(),
            Self::Fenced { .. } => "nothing to do: the other worker goes on".into(),
            Self::NoMoment { .. } => "look for long transactions of this tenant, then `berth operation retry`".into(),
            Self::SchemaChanged { .. } | Self::Truncated { .. } | Self::TenantChanged { .. } => {
                "move again when the release or the clean-up is over".into()
            }
            Self::TenantCleared { table, column } => format!(
                "a row without `{column}` is nobody's and stays behind: give it its tenant back where it is to travel, and where none may be without one: ALTER TABLE {} ALTER COLUMN {} SET NOT NULL; then move again",
                table.sql(),
                ident(column)
            ),
            Self::GrewYoung { .. } => {
                "the stream does not say its large values, which the update left alone: move again, and it travels".into()
            }
            Self::SharedDiffers { .. } => "make it the same in both cells, then move again".into(),
            Self::AlreadyMoved => "it is served at its new cell; nothing was taken away".into(),
            Self::ReferredTo { .. } => {
                "let them refer to rows of their own tenant, or drop that foreign key where they are to stay; then try again".into()
            }
            Self::RowsStay { table, .. } => format!(
                "a trigger or a rule of `{table}` keeps its rows or makes new ones (BEFORE DELETE … RETURN NULL, DO INSTEAD): disable it, then try again; until then they are fenced"
            ),
            Self::LivesThere | Self::LivesElsewhere => "nothing was removed".into(),
            Self::ClocksApart { .. } => {
                "let both follow a time server: `timedatectl set-ntp true`; nothing was removed".into()
            }
            Self::Archive { .. } => {
                "look at the place of archives; it is tried again, and nothing is removed before".into()
            }
            Self::Beside { .. } => {
                "look at the cell's Redis and object storage; it is tried again, and the tenant goes on where it is"
                    .into()
            }
            Self::ArchiveUnfit { .. } => {
                "nothing was changed; what was cut off or altered on its way: bring it again; what fits this database no more: bring it to one of the release and the stack file's `data` under which it was made"
                    .into()
            }
            Self::TooMuchWal { .. } => "move again when fewer writes go on in the source; nothing was moved".into(),
            Self::OldSideDiffers { table, .. } => format!(
                "the tenant goes on where it is. What drops, detaches or truncates a partition there leaves no word for the other side: where that happened to `{table}`, do the same in the database that it has left, and undo again; where it did not, settle the move, and report it"
            ),
            Self::Cancelled => "nothing was moved".into(),
            Self::WayBackOver { .. } => "the tenant goes on where it is, and can be moved there as any other".into(),
            Self::WayBackBarred { .. } => {
                "the tenant goes on where it is; take what stands there out of its way, then move it there as any other"
                    .into()
            }
            Self::Refused(_)
            | Self::Decode(_)
            | Self::Differs { .. }
            | Self::NotOneRow { .. }
            | Self::SlotLost { .. } => {
                "the tenant stays where it is; move again, and report it when it happens twice".into()
            }
        }
    }

    /// The stable word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Obstacles(_) => "move_refused",
            Self::Connect { .. } => "database_unreachable",
            Self::Statement { .. } => "statement_failed",
            Self::Stream(_) => "stream_broken",
            Self::StreamRefused { .. } => "stream_refused",
            Self::Decode(_) => "stream_unreadable",
            Self::Copy { .. } => "copy_stopped",
            Self::Fenced { .. } => "move_taken_over",
            Self::Refused(_) => "control_refused",
            Self::ControlSilent => "control_silent",
            Self::Differs { .. } | Self::OldSideDiffers { .. } => "rows_differ",
            Self::NotOneRow { .. } => "row_not_found",
            Self::GrewYoung { .. } => "row_grew_young",
            Self::SchemaChanged { .. } => "schema_changed",
            Self::Truncated { .. } => "truncated",
            Self::TenantChanged { .. } | Self::TenantCleared { .. } => "tenant_changed",
            Self::SlotLost { .. } => "slot_lost",
            Self::NoMoment { .. } => "no_quiet_moment",
            Self::Silent { .. } => "database_silent",
            Self::PauseOver { .. } => "pause_over",
            Self::SharedDiffers { .. } => "shared_row_differs",
            Self::AlreadyMoved => "moved_already",
            Self::LivesThere => "lives_there",
            Self::LivesElsewhere => "lives_elsewhere",
            Self::ClocksApart { .. } => "clocks_apart",
            Self::ReferredTo { .. } => "referred_to",
            Self::RowsStay { .. } => "rows_stay",
            Self::Archive { .. } => "archive_unreachable",
            Self::Beside { .. } => "beside_unreachable",
            Self::ArchiveUnfit { .. } => "archive_unfit",
            Self::TooMuchWal { .. } => "too_much_wal",
            Self::Cancelled => "cancelled",
            Self::WayBackOver { .. } => "way_back_over",
            Self::WayBackBarred { .. } => "way_back_barred",
        }
    }
}

/// PgBouncer refuses the settings that the mover's sessions begin with.
pub(crate) fn is_pooler(error: &berth_pg::ConnectError) -> bool {
    let berth_pg::ConnectError::Postgres(error) = error else { return false };
    error.as_db_error().is_some_and(|db| db.message().contains("startup parameter"))
}

/// The text of a refusal by the fence, kept in one place because applications parse it.
pub fn refusal_detail(generation: Generation) -> String {
    format!("generation={generation}")
}
