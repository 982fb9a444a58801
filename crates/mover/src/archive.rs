//! A tenant's rows as files: one CSV a table, compressed with zstd, and a manifest that says what is in them.
//!
//! What a move down leaves behind goes here before it leaves the source, and comes back from here. Any store that
//! `object_store` speaks to will do: a directory, or S3 and its likes. Never knows where archives are kept or for how
//! long. The manifest is written last, so an archive without one is none.
//!
//! An archive of everything also has what the tenant's rows refer to and nobody owns, its keys and objects, and the
//! schema that they fit: [`crate::import`] makes a tenant of it again, elsewhere.

use crate::fence::{self, LOCK_CLASS};
use crate::prepare::existing;
use crate::sql::{Doing, connect, idents};
use crate::{
    DataRules, Endpoint, MoveError, MovePlan, MoveSpec, Phase, PlannedColumn, PlannedTable, Progress, Side, TableName,
    Watcher, beside, catalog, rights, shared, taken,
};
use async_compression::tokio::{bufread::ZstdDecoder, write::ZstdEncoder};
use berth_domain::TenantKey;
use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use object_store::buffered::{BufReader, BufWriter};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::Client;

/// The layout of the files; a reader refuses a later one. The second has the schema and what is beside the rows.
const FORMAT: u32 = 2;
pub(crate) const MANIFEST: &str = "manifest.json";
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
    /// What the fingerprint is made of: `table.column` to type and rules.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schema: BTreeMap<String, String>,
    pub tables: Vec<ArchivedTable>,
    /// Rows of nobody that the tenant's rows refer to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<ArchivedTable>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<ArchivedBeside>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<ArchivedBeside>,
    /// SHA-256 of this manifest without it, as compact JSON. Archives of the first format have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub checksum: String,
}

/// Keys or objects, packed into one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedBeside {
    /// What their names begin with.
    pub prefixes: Vec<String>,
    pub many: u64,
    /// Of the pack, before it is compressed.
    pub bytes: u64,
    pub file: String,
    /// Of the pack, before it is compressed.
    pub sha256: String,
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
            format: match contents {
                Contents::LeftBehind => 1,
                Contents::Everything => FORMAT,
            },
            tenant: spec.tenant.to_string(),
            contents,
            made_at: jiff::Timestamp::now(),
            fingerprint,
            schema: BTreeMap::new(),
            tables: Vec::new(),
            shared: Vec::new(),
            keys: None,
            objects: None,
            checksum: String::new(),
        }
    }

    /// The tenant's own.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|t| t.rows).sum()
    }

    /// Of all files, before they are compressed.
    pub fn bytes(&self) -> u64 {
        let rows = self.tables.iter().chain(&self.shared).map(|t| t.bytes);
        rows.chain(self.keys.iter().chain(&self.objects).map(|b| b.bytes)).sum()
    }

    /// The names of its files, the manifest last: whoever copies them in this order has an archive only when all are
    /// there.
    pub fn files(&self) -> Vec<String> {
        let rows = self.tables.iter().chain(&self.shared).map(|t| t.file.clone());
        let beside = self.keys.iter().chain(&self.objects).map(|b| b.file.clone());
        rows.chain(beside).chain([MANIFEST.to_owned()]).collect()
    }

    fn summed(&self) -> Result<String, MoveError> {
        let plain = Self { checksum: String::new(), ..self.clone() };
        let text = serde_json::to_vec(&plain).map_err(|error| failed("reading the manifest")(error.into()))?;
        Ok(hex(&Sha256::digest(text)))
    }

    /// From the text of a manifest.
    pub fn parse(text: &[u8]) -> Result<Self, MoveError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let no = |_| unfit(format!("its {MANIFEST} cannot be read: it was cut off or changed"));
        let format = serde_json::from_slice::<Format>(text).map_err(no)?.format;
        if !(1..=FORMAT).contains(&format) {
            return Err(unfit(format!("it has format {format}, this program reads those up to {FORMAT}")));
        }
        let archive: Self = serde_json::from_slice(text).map_err(no)?;
        if (format > 1 || !archive.checksum.is_empty()) && archive.summed()? != archive.checksum {
            return Err(unfit(format!("its {MANIFEST} is not what was written: it was damaged or changed")));
        }
        Ok(archive)
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
    let lacking = rights::to_archive(&source, Side::Source, plan).await?;
    if !lacking.is_empty() {
        return Err(MoveError::Obstacles(lacking));
    }
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
    if contents == Contents::Everything {
        made.schema = catalog::shape(source, Side::Source).await?;
    }
    for table in &plan.tables {
        let rows = match contents {
            Contents::Everything => Some(plan.filter(table, &spec.tenant)),
            Contents::LeftBehind => plan.left_behind(table, &spec.tenant),
        };
        let Some(rows) = rows else { continue };
        if watcher.cancelled() {
            return Err(MoveError::Cancelled);
        }
        let what = Wanted { table: &table.table, columns: &table.columns, key: &table.key };
        let before = table.kept.as_ref().filter(|_| contents == Contents::LeftBehind);
        let mut done = write_table(source, &what, &rows, store, at).await?;
        done.before = before.map(|kept| (kept.column.clone(), kept.from));
        made.tables.push(done);
        watcher.progress(Progress { rows_done: Some(made.rows()), ..Progress::of(Phase::Keep) });
    }
    if contents == Contents::Everything {
        let keys = shared::referred(spec, plan, source, Side::Source).await?;
        let nobodys = shared::gather(plan, source, Side::Source, keys).await?;
        for (table, rows) in plan.shared.iter().zip(nobodys.conditions(plan)) {
            let what = Wanted { table: &table.table, columns: &table.columns, key: &table.key };
            made.shared.push(write_table(source, &what, &rows, store, at).await?);
        }
        (made.keys, made.objects) = Box::pin(beside::pack(&spec.beside, &spec.tenant, store, at)).await?;
    }
    made.checksum = made.summed()?;
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
    Archive::parse(&text).map(Some)
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
    let lacking = rights::to_restore(&client, Side::Target, &plan).await?;
    if !lacking.is_empty() {
        return Err(MoveError::Obstacles(lacking));
    }
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

/// Whose rows are written.
struct Wanted<'t> {
    table: &'t TableName,
    columns: &'t [PlannedColumn],
    key: &'t [String],
}

async fn write_table(
    source: &Client,
    what: &Wanted<'_>,
    rows: &str,
    store: &Archives,
    at: &Path,
) -> Result<ArchivedTable, MoveError> {
    let stopped = |source| MoveError::Copy { table: what.table.clone(), source };
    let failed = |error: std::io::Error| failed("writing an archive")(error.into());
    let file = format!("{}.{}.csv.zst", what.table.schema, what.table.name);
    let mut out = ZstdEncoder::new(BufWriter::new(Arc::clone(store), at.clone().join(file.clone())));
    let sql = format!(
        "copy (select {} from {} where {rows}) to stdout (format csv, header)",
        crate::plan::column_list(what.columns),
        what.table.sql()
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
    let column = |c: &PlannedColumn| ArchivedColumn { name: c.name.clone(), type_name: c.type_name.clone() };
    Ok(ArchivedTable {
        table: what.table.clone(),
        columns: what.columns.iter().map(column).collect(),
        key: what.key.to_vec(),
        before: None,
        // One message a row, and one for the header.
        rows: lines.saturating_sub(1),
        bytes,
        file,
        sha256: hex(&digest.finalize()),
    })
}

/// Whether a table can take the archived rows.
pub(crate) fn fits(archived: &ArchivedTable, table: Option<&PlannedTable>) -> Result<(), MoveError> {
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
    let columns = archived.column_list();
    let tx = client.transaction().await.doing(Side::Target, what)?;
    pass_the_fence(&tx, Side::Target, tenant).await?;
    load(&tx, archived, store, at).await?;
    only_the_tenants(&tx, plan, table, tenant).await?;
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
    taken::all_are_there(&tx, plan, table, &archived.key, tenant).await?;
    tx.commit().await.doing(Side::Target, what)?;
    Ok(rows)
}

/// Brings a table's rows into `pg_temp.berth_restore`, and refuses them unless they are what the manifest says.
pub(crate) async fn load(
    tx: &tokio_postgres::Transaction<'_>,
    archived: &ArchivedTable,
    store: &Archives,
    at: &Path,
) -> Result<(), MoveError> {
    let (name, columns) = (archived.table.sql(), archived.column_list());
    let stopped = |source| MoveError::Copy { table: archived.table.clone(), source };
    // Of the columns alone: what the table makes by itself is made when the rows go in.
    tx.batch_execute(&format!(
        "create temporary table berth_restore on commit drop as select {columns} from {name} with no data"
    ))
    .await
    .doing(Side::Target, "restoring rows")?;
    let sink = tx
        .copy_in::<_, Bytes>(&format!("copy pg_temp.berth_restore ({columns}) from stdin (format csv, header)"))
        .await
        .map_err(stopped)?;
    tokio::pin!(sink);
    let path = at.clone().join(archived.file.clone());
    let changed = || unfit(format!("`{}` is not what its manifest says: it was damaged or changed", archived.file));
    let mut csv = open(store, &path).await?;
    let mut digest = Sha256::new();
    loop {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK_BYTES);
        // What is cut off or changed is rarely compressed text any more.
        if csv.read_buf(&mut chunk).await.map_err(|_| changed())? == 0 {
            break;
        }
        digest.update(&chunk);
        sink.feed(chunk.freeze()).await.map_err(stopped)?;
    }
    if hex(&digest.finalize()) != archived.sha256 {
        return Err(changed());
    }
    let read = sink.as_mut().finish().await.map_err(stopped)?;
    if read == archived.rows { Ok(()) } else { Err(changed()) }
}

/// A file of an archive as it was before it was compressed.
pub(crate) async fn open(store: &Archives, path: &Path) -> Result<ZstdDecoder<BufReader>, MoveError> {
    let meta = match store.head(path).await {
        Err(object_store::Error::NotFound { .. }) => {
            let file = path.filename().unwrap_or_default();
            return Err(unfit(format!("its file `{file}` is missing")));
        }
        other => other.map_err(stored("reading an archive"))?,
    };
    Ok(ZstdDecoder::new(BufReader::new(Arc::clone(store), &meta)))
}

/// A file of an archive, to be written.
pub(crate) fn create(store: &Archives, path: Path) -> ZstdEncoder<BufWriter> {
    ZstdEncoder::new(BufWriter::new(Arc::clone(store), path))
}

/// Refuses loaded rows that are not the tenant's. Those of parents are in their tables by now.
pub(crate) async fn only_the_tenants(
    tx: &tokio_postgres::Transaction<'_>,
    plan: &MovePlan,
    table: &PlannedTable,
    tenant: &TenantKey,
) -> Result<(), MoveError> {
    let filter = plan.filter(table, tenant);
    let sql = format!("select count(*) from pg_temp.berth_restore where ({filter}) is not true");
    let others: i64 = tx.query_one(&sql, &[]).await.doing(Side::Target, "restoring rows")?.get(0);
    let name = &table.table;
    if others > 0 { Err(unfit(format!("{others} rows of `{name}` are not the tenant's"))) } else { Ok(()) }
}

impl ArchivedTable {
    pub(crate) fn column_list(&self) -> String {
        idents(&self.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>())
    }
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
    let row = tx.query_opt("select state = 'open' from berth.fence where tenant = $1", &[&tenant.as_str()]).await;
    // It may have been taken away meanwhile, which is done where the tenant lives.
    let open = row.doing(side, what)?.is_none_or(|row| row.get(0));
    if open { Ok(()) } else { Err(MoveError::LivesElsewhere) }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Into a String nothing fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn unfit(why: String) -> MoveError {
    MoveError::ArchiveUnfit { why }
}

pub(crate) fn failed(doing: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> MoveError {
    move |source| MoveError::Archive { doing, source }
}

pub(crate) fn stored(doing: &'static str) -> impl Fn(object_store::Error) -> MoveError {
    move |error| MoveError::Archive { doing, source: Box::new(error) }
}
