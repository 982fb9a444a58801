//! A tenant's rows as files: one CSV a table, compressed with zstd, and a manifest that says what is in them.
//!
//! What a move down leaves behind goes here before it leaves the source, and comes back from here. Any store that
//! `object_store` speaks to will do: a directory, or S3 and its likes. Never knows where archives are kept or for how
//! long. The manifest is written last, so an archive without one is none.

use crate::fence::{self, LOCK_CLASS};
use crate::prepare::existing;
use crate::sql::{Doing, connect, idents};
use crate::{
    DataRules, Endpoint, MoveError, MovePlan, MoveSpec, Phase, PlannedTable, Progress, Side, TableName, Watcher,
};
use async_compression::tokio::{bufread::ZstdDecoder, write::ZstdEncoder};
use berth_domain::TenantKey;
use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use object_store::buffered::{BufReader, BufWriter};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::Client;

/// The layout of the files; a reader refuses another one.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const CHUNK_BYTES: usize = 256 << 10;

/// Where archives are.
pub type Archives = Arc<dyn ObjectStore>;

/// Which of the tenant's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contents {
    /// What the plan does not let travel.
    LeftBehind,
    Everything,
}

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    pub format: u32,
    /// The tenant's key, as the root table has it.
    pub tenant: String,
    pub contents: Contents,
    pub made_at: jiff::Timestamp,
    /// Of the tables that the rows come from.
    pub fingerprint: String,
    pub tables: Vec<ArchivedTable>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedTable {
    pub table: TableName,
    pub columns: Vec<ArchivedColumn>,
    pub key: Vec<String>,
    /// Only rows in which this column lies before this day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<(String, jiff::civil::Date)>,
    pub rows: u64,
    /// Of the CSV, before it is compressed.
    pub bytes: u64,
    /// Beside the manifest.
    pub file: String,
    /// Of the CSV, before it is compressed.
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub type_name: String,
}

/// What a restore did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    pub rows: u64,
    /// Rows whose keys were there already: left as they are.
    pub there_already: u64,
}

impl Archive {
    /// Without a table yet.
    pub(crate) fn begun(spec: &MoveSpec, contents: Contents, fingerprint: String) -> Self {
        Self {
            format: FORMAT,
            tenant: spec.tenant.to_string(),
            contents,
            made_at: jiff::Timestamp::now(),
            fingerprint,
            tables: Vec::new(),
        }
    }

    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|t| t.rows).sum()
    }
}

/// Writes the archive under `at`, or reads what an earlier try finished there.
///
/// [`Contents::LeftBehind`] is read from the source of a move that is over, whose fence is closed: nobody changes the
/// rows any more.
pub async fn archive(
    spec: &MoveSpec,
    plan: &MovePlan,
    contents: Contents,
    store: &Archives,
    at: &Path,
    watcher: &dyn Watcher,
) -> Result<Archive, MoveError> {
    if let Some(done) = read(store, at).await? {
        return Ok(done);
    }
    let source = connect(&spec.source, Side::Source, "berth-archive").await?;
    let begin = "begin isolation level repeatable read read only";
    source.batch_execute(begin).await.doing(Side::Source, "taking a snapshot")?;
    // The snapshot's first look: what is read after it is of the same moment.
    match (contents, is_closed(spec, &source).await?) {
        (Contents::LeftBehind, false) => return Err(MoveError::LivesThere),
        (Contents::Everything, true) => return Err(MoveError::LivesElsewhere),
        (Contents::LeftBehind, true) | (Contents::Everything, false) => {}
    }
    let made = Archive::begun(spec, contents, plan.fingerprint.clone());
    let made = write(&source, spec, plan, made, store, at, watcher).await?;
    source.batch_execute("commit").await.doing(Side::Source, "ending a snapshot")?;
    Ok(made)
}

/// Writes the archive's tables as the session's snapshot has them, and its manifest last.
pub(crate) async fn write(
    source: &Client,
    spec: &MoveSpec,
    plan: &MovePlan,
    mut made: Archive,
    store: &Archives,
    at: &Path,
    watcher: &dyn Watcher,
) -> Result<Archive, MoveError> {
    let contents = made.contents;
    for table in &plan.tables {
        let rows = match contents {
            Contents::Everything => Some(plan.filter(table, &spec.tenant)),
            Contents::LeftBehind => plan.left_behind(table, &spec.tenant),
        };
        let Some(rows) = rows else { continue };
        if watcher.cancelled() {
            return Err(MoveError::Cancelled);
        }
        let done = write_table(source, table, &rows, contents, store, at).await?;
        made.tables.push(done);
        watcher.progress(Progress { rows_done: Some(made.rows()), ..Progress::of(Phase::Keep) });
    }
    let text = serde_json::to_vec_pretty(&made).map_err(|error| failed("writing the manifest")(error.into()))?;
    store.put(&at.clone().join(MANIFEST), text.into()).await.map_err(stored("writing the manifest"))?;
    Ok(made)
}

/// Writes all of a tenant's rows under `at`, out of the database in which it lives, as they are at one moment.
pub async fn export(spec: &MoveSpec, store: &Archives, at: &Path, watcher: &dyn Watcher) -> Result<Archive, MoveError> {
    let found = crate::discover(&spec.source, &spec.rules).await?;
    if !found.obstacles.is_empty() {
        return Err(MoveError::Obstacles(found.obstacles));
    }
    let fingerprint = crate::schema_fingerprint(&spec.source).await?;
    let plan = MovePlan { tables: found.tables, shared: found.shared, fingerprint, ..MovePlan::default() };
    archive(spec, &plan, Contents::Everything, store, at, watcher).await
}

/// The archives of a folder, by their names: only those that were finished.
pub async fn list(store: &Archives, under: &Path) -> Result<Vec<(String, Archive)>, MoveError> {
    let found = store.list_with_delimiter(Some(under)).await.map_err(stored("listing archives"))?;
    let mut archives = Vec::new();
    for folder in found.common_prefixes {
        let Some(name) = folder.parts().next_back().map(|part| part.as_ref().to_owned()) else { continue };
        archives.extend(read(store, &folder).await?.map(|archive| (name, archive)));
    }
    archives.sort_by_key(|(_, archive)| archive.made_at);
    Ok(archives)
}

/// The manifest under `at`; none where no archive was finished.
pub async fn read(store: &Archives, at: &Path) -> Result<Option<Archive>, MoveError> {
    let what = "reading the manifest";
    let text = match store.get(&at.clone().join(MANIFEST)).await {
        Ok(found) => found.bytes().await.map_err(stored(what))?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(stored(what)(error)),
    };
    let archive: Archive =
        serde_json::from_slice(&text).map_err(|_| unfit(format!("{at}/{MANIFEST} is no manifest")))?;
    if archive.format != FORMAT {
        return Err(unfit(format!("it has format {}, this program reads {FORMAT}", archive.format)));
    }
    Ok(Some(archive))
}

/// Proves that archives can be written there, before anything depends on it.
pub async fn probe(store: &Archives) -> Result<(), MoveError> {
    let at = Path::from(format!(".probe-{}", uuid::Uuid::new_v4()));
    store.put(&at, Bytes::from_static(b"berth").into()).await.map_err(stored("trying the place of archives"))?;
    store.delete(&at).await.map_err(stored("trying the place of archives"))
}

/// Brings an archive's rows into the database in which the tenant lives. Rows that are there already stay as they are;
/// foreign keys are enforced and the application's own triggers fire. Each table is one transaction, so a restore that
/// ends half way is run again.
pub async fn restore(
    endpoint: &Endpoint,
    rules: &DataRules,
    tenant: &TenantKey,
    store: &Archives,
    at: &Path,
    watcher: &dyn Watcher,
) -> Result<Restored, MoveError> {
    let archive = read(store, at).await?.ok_or_else(|| unfit(format!("there is no archive at {at}")))?;
    if archive.tenant != tenant.as_str() {
        return Err(unfit(format!("it is of the tenant with key {}", archive.tenant)));
    }
    let found = crate::discover(endpoint, rules).await?;
    let plan = MovePlan { tables: found.tables, ..MovePlan::default() };
    for archived in &archive.tables {
        fits(archived, plan.table(&archived.table))?;
    }
    let mut client = connect(endpoint, Side::Target, "berth-restore").await?;
    let mut done = Restored::default();
    let mut order = crate::back::children_first(&client, &plan).await?;
    order.reverse();
    for table in order {
        let Some(archived) = archive.tables.iter().find(|t| t.table == table.table) else { continue };
        if watcher.cancelled() {
            return Err(MoveError::Cancelled);
        }
        let rows = restore_table(&mut client, &plan, table, archived, tenant, store, at).await?;
        done.rows += rows;
        done.there_already += archived.rows - rows;
        watcher.progress(Progress {
            rows_done: Some(done.rows + done.there_already),
            rows_total: Some(archive.rows()),
            ..Progress::of(Phase::Copy)
        });
    }
    Ok(done)
}

/// Whether the tenant has left the source for good.
pub(crate) async fn is_closed(spec: &MoveSpec, source: &Client) -> Result<bool, MoveError> {
    if existing(source, Side::Source, spec).await?.is_none() {
        return Ok(false);
    }
    let row = source
        .query_one("select state = 'closed' from berth.fence where tenant = $1", &[&spec.tenant.as_str()])
        .await
        .doing(Side::Source, "looking at the fence")?;
    Ok(row.get(0))
}

async fn write_table(
    source: &Client,
    table: &PlannedTable,
    rows: &str,
    contents: Contents,
    store: &Archives,
    at: &Path,
) -> Result<ArchivedTable, MoveError> {
    let stopped = |source| MoveError::Copy { table: table.table.clone(), source };
    let failed = |error: std::io::Error| failed("writing an archive")(error.into());
    let file = format!("{}.{}.csv.zst", table.table.schema, table.table.name);
    let mut out = ZstdEncoder::new(BufWriter::new(Arc::clone(store), at.clone().join(file.clone())));
    let sql = format!(
        "copy (select {} from {} where {rows}) to stdout (format csv, header)",
        table.column_list(),
        table.table.sql()
    );
    let (mut digest, mut bytes, mut lines) = (Sha256::new(), 0_u64, 0_u64);
    let csv = source.copy_out(&sql).await.map_err(stopped)?;
    tokio::pin!(csv);
    while let Some(line) = csv.try_next().await.map_err(stopped)? {
        digest.update(&line);
        bytes += line.len() as u64;
        lines += 1;
        out.write_all(&line).await.map_err(failed)?;
    }
    out.shutdown().await.map_err(failed)?;
    let before = table.kept.as_ref().filter(|_| contents == Contents::LeftBehind);
    Ok(ArchivedTable {
        table: table.table.clone(),
        columns: table
            .columns
            .iter()
            .map(|c| ArchivedColumn { name: c.name.clone(), type_name: c.type_name.clone() })
            .collect(),
        key: table.key.clone(),
        before: before.map(|kept| (kept.column.clone(), kept.from)),
        // One message a row, and one for the header.
        rows: lines.saturating_sub(1),
        bytes,
        file,
        sha256: hex(&digest.finalize()),
    })
}

/// Whether a table can take the archived rows.
fn fits(archived: &ArchivedTable, table: Option<&PlannedTable>) -> Result<(), MoveError> {
    let name = &archived.table;
    let table = table.ok_or_else(|| unfit(format!("the database has no table `{name}` that belongs to tenants")))?;
    for column in &archived.columns {
        match table.columns.iter().find(|c| c.name == column.name) {
            None => return Err(unfit(format!("`{name}` has no column `{}` any more", column.name))),
            Some(now) if now.type_name != column.type_name => {
                let (was, is) = (&column.type_name, &now.type_name);
                return Err(unfit(format!("`{name}.{}` was {was} and is {is}", column.name)));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

async fn restore_table(
    client: &mut Client,
    plan: &MovePlan,
    table: &PlannedTable,
    archived: &ArchivedTable,
    tenant: &TenantKey,
    store: &Archives,
    at: &Path,
) -> Result<u64, MoveError> {
    let what = "restoring rows";
    let name = table.table.sql();
    let columns = idents(&archived.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>());
    let stopped = |source| MoveError::Copy { table: table.table.clone(), source };
    let tx = client.transaction().await.doing(Side::Target, what)?;
    pass_the_fence(&tx, Side::Target, tenant).await?;
    // Of the columns alone: what the table makes by itself is made when the rows go in.
    tx.batch_execute(&format!(
        "create temporary table berth_restore on commit drop as select {columns} from {name} with no data"
    ))
    .await
    .doing(Side::Target, what)?;
    let sink = tx
        .copy_in::<_, Bytes>(&format!("copy pg_temp.berth_restore ({columns}) from stdin (format csv, header)"))
        .await
        .map_err(stopped)?;
    tokio::pin!(sink);
    let path = at.clone().join(archived.file.clone());
    let meta = store.head(&path).await.map_err(stored("reading an archive"))?;
    let mut csv = ZstdDecoder::new(BufReader::new(Arc::clone(store), &meta));
    let mut digest = Sha256::new();
    loop {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK_BYTES);
        if csv.read_buf(&mut chunk).await.map_err(|error| failed("reading an archive")(error.into()))? == 0 {
            break;
        }
        digest.update(&chunk);
        sink.feed(chunk.freeze()).await.map_err(stopped)?;
    }
    let read = sink.as_mut().finish().await.map_err(stopped)?;
    if read != archived.rows || hex(&digest.finalize()) != archived.sha256 {
        return Err(unfit(format!("`{path}` is not what its manifest says: it was damaged or changed")));
    }
    let others: i64 = tx
        .query_one(
            &format!("select count(*) from pg_temp.berth_restore where ({}) is not true", plan.filter(table, tenant)),
            &[],
        )
        .await
        .doing(Side::Target, what)?
        .get(0);
    if others > 0 {
        return Err(unfit(format!("{others} rows of `{path}` are not the tenant's")));
    }
    tx.batch_execute(crate::back::APPLICATIONS_PATH).await.doing(Side::Target, what)?;
    let rows = tx
        .execute(
            &format!(
                "insert into {name} ({columns}) overriding system value select {columns} from pg_temp.berth_restore
                 on conflict do nothing"
            ),
            &[],
        )
        .await
        .doing(Side::Target, what)?;
    tx.commit().await.doing(Side::Target, what)?;
    Ok(rows)
}

/// As any writer of the tenant does, though the fence lets the mover's role through: waits for whoever arms it, and
/// writes only where the tenant lives.
pub(crate) async fn pass_the_fence(
    tx: &tokio_postgres::Transaction<'_>,
    side: Side,
    tenant: &TenantKey,
) -> Result<(), MoveError> {
    let what = "passing the fence";
    if !fence::is_installed(tx.client(), side).await? {
        return Ok(());
    }
    let row = tx
        .query_opt("select number from berth.fence where tenant = $1", &[&tenant.as_str()])
        .await
        .doing(side, what)?;
    let Some(row) = row else { return Ok(()) };
    let number: i32 = row.get(0);
    tx.execute("select pg_advisory_xact_lock_shared($1, $2)", &[&LOCK_CLASS, &number]).await.doing(side, what)?;
    let open: bool = tx
        .query_one("select state = 'open' from berth.fence where tenant = $1", &[&tenant.as_str()])
        .await
        .doing(side, what)?
        .get(0);
    if open { Ok(()) } else { Err(MoveError::LivesElsewhere) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Into a String nothing fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unfit(why: String) -> MoveError {
    MoveError::ArchiveUnfit { why }
}

fn failed(doing: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> MoveError {
    move |source| MoveError::Archive { doing, source }
}

fn stored(doing: &'static str) -> impl Fn(object_store::Error) -> MoveError {
    move |error| MoveError::Archive { doing, source: Box::new(error) }
}
