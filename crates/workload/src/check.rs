//! Reads the databases afterwards and looks for every acknowledged write, and for every row that was left behind.
//!
//! Shares no code with mover, edge or application: it finds the tenant's tables in the catalogue by itself and compares
//! text. It reads as a role that passes row security, and says so to the server: rows hidden from it would be an error
//! instead of a finding. Never writes.

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
};

use futures_util::TryStreamExt;
use tokio_postgres::{Client, Config, NoTls, Row, RowStream};
use uuid::Uuid;

use crate::ledger::{FenceWrite, Ledger, Write};

/// Findings kept word for word; of the others only the number is known.
const KEPT: usize = 20;

/// Where a tenant's rows are now, and where they were.
#[derive(Clone, Debug)]
pub struct TenantPlace {
    pub name: String,
    pub key: Uuid,
    /// The database of the cell that owns the tenant.
    pub owner: Config,
    /// The one that it left, if it moved and its rows were kept there.
    pub former: Option<Config>,
}

/// What the check found. All zero but `acknowledged` and `rows_checked` is what one hopes for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Acknowledged writes in the ledger.
    pub acknowledged: u64,
    /// Acknowledged writes, and rows of the former database or of a stock, that the owner does not have.
    pub missing: u64,
    /// Rows too many: an acknowledged write, or any client's event, stored more than once.
    pub duplicated: u64,
    /// There, but with other values than were written, than the former database has or than the stock says.
    pub changed: u64,
    /// Acknowledged writes found, and rows of the former databases and of stocks compared.
    pub rows_checked: u64,
    /// The first findings, for people.
    pub examples: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("connecting to the {side} database of tenant `{tenant}`")]
    Connect { tenant: String, side: &'static str, source: tokio_postgres::Error },
    #[error("reading `{what}` of tenant `{tenant}`")]
    Read { tenant: String, what: String, source: tokio_postgres::Error },
    #[error("the ledger holds writes of tenant {tenant}, whose database was not named")]
    UnknownTenant { tenant: Uuid },
    #[error("table `{table}` has no primary key to go by")]
    NoKey { table: String },
    #[error("the former database of tenant `{tenant}` has no table with a tenant column")]
    NoTables { tenant: String },
}

impl CheckError {
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Connect { .. } => Some("the cell's database must be up while it is checked"),
            Self::Read { .. } => {
                Some("the checker reads as a role that passes row security, in the tenant's own schema")
            }
            Self::UnknownTenant { .. } => Some("name every tenant that got traffic"),
            Self::NoKey { .. } => Some("give the table a primary key"),
            Self::NoTables { .. } => Some("has the schema been migrated there?"),
        }
    }
}

impl Findings {
    pub fn is_clean(&self) -> bool {
        self.missing == 0 && self.duplicated == 0 && self.changed == 0
    }

    fn note(&mut self, example: impl FnOnce() -> String) {
        if self.examples.len() < KEPT {
            self.examples.push(example());
        }
    }
}

/// Looks for each entry of the ledger in its tenant's database, and for each row that a moved tenant had before.
///
/// Nothing must write meanwhile, or a row may be missed that came after the look.
pub async fn check(ledger: &Ledger, places: &[TenantPlace]) -> Result<Findings, CheckError> {
    let mut written: HashMap<Uuid, Vec<&Write>> = places.iter().map(|place| (place.key, Vec::new())).collect();
    for write in ledger.writes() {
        let tenant = write.tenant;
        written.get_mut(&tenant).ok_or(CheckError::UnknownTenant { tenant })?.push(write);
    }
    let mut fences: HashMap<Uuid, HashMap<Uuid, u32>> = HashMap::new();
    for &FenceWrite { tenant, fence, revision, .. } in ledger.fences() {
        if !written.contains_key(&tenant) {
            return Err(CheckError::UnknownTenant { tenant });
        }
        fences.entry(tenant).or_default().insert(fence, revision);
    }
    let mut findings = Findings { acknowledged: ledger.acknowledged(), ..Findings::default() };
    for place in places {
        let owner = connect(place, "owner", &place.owner).await?;
        check_ledger(place, &owner, &written[&place.key], &mut findings).await?;
        check_events(place, &owner, &mut findings).await?;
        let fences = fences.remove(&place.key).unwrap_or_default();
        check_fences(place, &owner, &fences, &mut findings).await?;
        if let Some(former) = &place.former {
            let former = connect(place, "former", former).await?;
            check_former(place, &former, &owner, &fences, &mut findings).await?;
        }
    }
    Ok(findings)
}

/// Counts the rows, in any tenant table of the database, that belong to none of these tenants.
pub async fn foreign_rows(database: &Config, tenants: &[Uuid]) -> Result<u64, CheckError> {
    let place = TenantPlace { name: "(all)".into(), key: Uuid::nil(), owner: database.clone(), former: None };
    let client = connect(&place, "owner", database).await?;
    let keys: Vec<_> = tenants.iter().map(ToString::to_string).collect();
    let mut foreign = 0;
    for table in tables(&place, &client).await? {
        // Null is nobody's, and so a stranger too.
        let sql = format!(
            "select count(*) from {} where not coalesce({}::text = any ($1), false)",
            table.quoted, table.tenant_column
        );
        let counted = client.query_one(&sql, &[&keys]).await.map_err(place.reading(&table.name))?;
        foreign += counted.get::<_, i64>(0) as u64;
    }
    Ok(foreign)
}

impl TenantPlace {
    fn reading(&self, what: &str) -> impl FnOnce(tokio_postgres::Error) -> CheckError {
        let (tenant, what) = (self.name.clone(), what.to_owned());
        |source| CheckError::Read { tenant, what, source }
    }
}

/// One snapshot for the whole look, and the settings on which the text form of values depends.
const SESSION: &str = "
    set row_security = off; set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = 'iso_8601';
    set extra_float_digits = 1; set bytea_output = 'hex'; set work_mem = '64MB'; set search_path = pg_catalog, public;
    begin isolation level repeatable read read only";

async fn connect(place: &TenantPlace, side: &'static str, config: &Config) -> Result<Client, CheckError> {
    let failed = |source| CheckError::Connect { tenant: place.name.clone(), side, source };
    let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
    tokio::spawn(connection);
    client.batch_execute(SESSION).await.map_err(failed)?;
    Ok(client)
}

// Everything that was written, and that nothing was written where the client wrote nothing.
const LEDGER_ROWS: &str = "
    select p.event_id, p.vehicle_id, (extract(epoch from p.time) * 1000000)::int8 as time_us,
           (p.latitude * 1000000)::int8 as latitude_e6, (p.longitude * 1000000)::int8 as longitude_e6,
           p.speed::text as speed, num_nonnulls(p.heading, p.accuracy, p.altitude) as others
      from gps_positions p join unnest($2::uuid[]) as wanted (id) on p.event_id = wanted.id
     where p.customer_id = $1";

async fn check_ledger(
    place: &TenantPlace,
    owner: &Client,
    written: &[&Write],
    findings: &mut Findings,
) -> Result<(), CheckError> {
    let events: Vec<Uuid> = written.iter().map(|write| write.event).collect();
    let rows = owner.query(LEDGER_ROWS, &[&place.key, &events]).await.map_err(place.reading("gps_positions"))?;
    let mut found: HashMap<Uuid, Vec<&Row>> = HashMap::with_capacity(rows.len());
    for row in &rows {
        found.entry(row.get("event_id")).or_default().push(row);
    }
    for write in written {
        let rows = found.get(&write.event).map_or(&[][..], Vec::as_slice);
        if rows.is_empty() {
            findings.missing += 1;
            findings.note(|| format!("{}: event {} was acknowledged and is not there", place.name, write.event));
        }
        // That it is there twice is counted by `check_events`, which sees what is in no ledger too.
        for row in rows {
            findings.rows_checked += 1;
            if !is_as_written(row, write) {
                findings.changed += 1;
                findings.note(|| format!("{}: event {} has other values than written", place.name, write.event));
            }
        }
    }
    Ok(())
}

fn is_as_written(row: &Row, write: &Write) -> bool {
    let speed: Option<String> = row.get("speed");
    row.get::<_, Uuid>("vehicle_id") == write.vehicle
        && row.get::<_, i64>("time_us") == write.time_us
        && row.get::<_, i64>("latitude_e6") == i64::from(write.latitude_e6)
        && row.get::<_, i64>("longitude_e6") == i64::from(write.longitude_e6)
        && speed == Some((f64::from(write.speed_e1) / 10.0).to_string())
        && row.get::<_, i32>("others") == 0
}

/// Counts each client's event that is stored more than once, acknowledged or not.
async fn check_events(place: &TenantPlace, owner: &Client, findings: &mut Findings) -> Result<(), CheckError> {
    let sql = "select event_id, count(*) - 1 as extra from gps_positions
                where customer_id = $1 and event_id is not null group by event_id having count(*) > 1";
    for row in owner.query(sql, &[&place.key]).await.map_err(place.reading("gps_positions"))? {
        let (event, extra): (Uuid, i64) = (row.get(0), row.get(1));
        findings.duplicated += extra as u64;
        findings.note(|| format!("{}: event {event} is stored {} times", place.name, extra + 1));
    }
    Ok(())
}

/// Each geofence must be where its last acknowledged step left it. One step further is right too: its answer may have
/// been lost. Earlier is an acknowledged write that is gone.
async fn check_fences(
    place: &TenantPlace,
    owner: &Client,
    fences: &HashMap<Uuid, u32>,
    findings: &mut Findings,
) -> Result<(), CheckError> {
    let sql = "select id, name, radius_meters::text from geofences where customer_id = $1 and id = any ($2)";
    let ids: Vec<_> = fences.keys().copied().collect();
    let rows = owner.query(sql, &[&place.key, &ids]).await.map_err(place.reading("geofences"))?;
    let found: HashMap<Uuid, (String, String)> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    for (&fence, &revision) in fences {
        findings.rows_checked += 1;
        let stands_at = |revision| {
            let written = (FenceWrite::name(fence, revision), FenceWrite::radius_meters(revision).to_string());
            revision < FenceWrite::GONE && found.get(&fence) == Some(&written)
        };
        let is_there = found.contains_key(&fence);
        if stands_at(revision) || stands_at(revision + 1) || (!is_there && revision + 1 >= FenceWrite::GONE) {
            continue;
        }
        let what = if is_there { &mut findings.changed } else { &mut findings.missing };
        *what += 1;
        findings.note(|| {
            let now = found.get(&fence).map_or("not there", |(name, _)| name.as_str());
            format!("{}: geofence {fence} was acknowledged at revision {revision} and is `{now}`", place.name)
        });
    }
    Ok(())
}

/// A table with a tenant column, as the catalogue has it.
struct Table {
    name: String,
    quoted: String,
    tenant_column: String,
    /// The primary key as text, and all columns by name as text.
    key: Option<String>,
    row: String,
}

// Generated columns are compared like the others: they are what readers see.
const TABLES: &str = "
    select c.relname::text as name, c.oid::regclass::text as quoted, quote_ident(a.attname) as tenant_column,
           (select 'row(' || string_agg(quote_ident(k.attname), ', ' order by k.attnum) || ')::text'
              from pg_index i join pg_attribute k on k.attrelid = c.oid and k.attnum = any (i.indkey)
             where i.indrelid = c.oid and i.indisprimary) as key,
           (select 'row(' || string_agg(quote_ident(r.attname), ', ' order by r.attname collate \"C\") || ')::text'
              from pg_attribute r where r.attrelid = c.oid and r.attnum > 0 and not r.attisdropped) as row
      from pg_class c
      join pg_attribute a on a.attrelid = c.oid and not a.attisdropped
                         and a.attname = case c.relname when 'customers' then 'id' else 'customer_id' end
     where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
     order by c.relname";

async fn tables(place: &TenantPlace, client: &Client) -> Result<Vec<Table>, CheckError> {
    let rows = client.query(TABLES, &[]).await.map_err(place.reading("the catalogue"))?;
    if rows.is_empty() {
        return Err(CheckError::NoTables { tenant: place.name.clone() });
    }
    let table = |row: &Row| Table {
        name: row.get("name"),
        quoted: row.get("quoted"),
        tenant_column: row.get("tenant_column"),
        key: row.get("key"),
        row: row.get("row"),
    };
    Ok(rows.iter().map(table).collect())
}

/// Every row of the tenant in the former database must be in the owner's, alike. The owner may have more: life went on.
/// What the load itself replaced or removed is not compared here: `check_fences` knows what it must be.
async fn check_former(
    place: &TenantPlace,
    former: &Client,
    owner: &Client,
    fences: &HashMap<Uuid, u32>,
    findings: &mut Findings,
) -> Result<(), CheckError> {
    for table in tables(place, former).await? {
        // The same text on both sides, with the former's columns: one that the owner lacks is an error, not a match.
        let sql = rows_sql(&table)?;
        let (mut before, mut now) =
            (Rows::open(place, former, &sql, &table).await?, Rows::open(place, owner, &sql, &table).await?);
        let mut current = now.next().await?;
        let by_the_load = |key: &str| {
            let id = key.trim_matches(['(', ')']).parse();
            table.name == "geofences" && id.is_ok_and(|id: Uuid| fences.contains_key(&id))
        };
        while let Some((key, row)) = before.next().await? {
            if by_the_load(&key) {
                continue;
            }
            findings.rows_checked += 1;
            while current.as_ref().is_some_and(|(other, _)| *other < key) {
                current = now.next().await?;
            }
            match &current {
                Some((other, same)) if *other == key => {
                    if *same != row {
                        findings.changed += 1;
                        findings.note(|| format!("{}: {} {key} differs from before", place.name, table.name));
                    }
                }
                _ => {
                    findings.missing += 1;
                    findings.note(|| format!("{}: {} {key} was there before", place.name, table.name));
                }
            }
        }
    }
    Ok(())
}

/// Key and row hash of each of the tenant's rows, in the order of the keys.
fn rows_sql(table: &Table) -> Result<String, CheckError> {
    let key = table.key.as_ref().ok_or_else(|| CheckError::NoKey { table: table.name.clone() })?;
    Ok(format!(
        "select {key} collate \"C\" as key, md5({row}) from {table} where {column}::text = $1 order by 1",
        row = table.row,
        table = table.quoted,
        column = table.tenant_column,
    ))
}

/// The rows that a tenant had at one moment, by table and key: wherever it lives later, each has to be there alike.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    tables: BTreeMap<String, BTreeMap<String, String>>,
}

/// Reads all of them, before anything writes that may change or remove one.
pub async fn take_stock(place: &TenantPlace) -> Result<Stock, CheckError> {
    let owner = connect(place, "owner", &place.owner).await?;
    let mut stock = Stock::default();
    for table in tables(place, &owner).await? {
        let mut rows = Rows::open(place, &owner, &rows_sql(&table)?, &table).await?;
        let mut kept = BTreeMap::new();
        while let Some((key, row)) = rows.next().await? {
            kept.insert(key, row);
        }
        stock.tables.insert(table.name.clone(), kept);
    }
    Ok(stock)
}

/// Looks for each row of the stock where the tenant lives now. Others may come and go meanwhile.
pub async fn check_stock(place: &TenantPlace, stock: &Stock, findings: &mut Findings) -> Result<(), CheckError> {
    let owner = connect(place, "owner", &place.owner).await?;
    let now = tables(place, &owner).await?;
    for (name, kept) in &stock.tables {
        let mut left: BTreeMap<&str, &str> = kept.iter().map(|(key, row)| (key.as_str(), row.as_str())).collect();
        if let Some(table) = now.iter().find(|table| table.name == *name) {
            let mut rows = Rows::open(place, &owner, &rows_sql(table)?, table).await?;
            while let Some((key, row)) = rows.next().await? {
                if left.remove(key.as_str()).is_some_and(|before| before != row) {
                    findings.changed += 1;
                    findings.note(|| format!("{}: {name} {key} is not as it was made", place.name));
                }
            }
        }
        findings.rows_checked += kept.len() as u64;
        findings.missing += left.len() as u64;
        for key in left.keys() {
            findings.note(|| format!("{}: {name} {key} was made and is not there", place.name));
        }
    }
    Ok(())
}

/// Keys and row hashes in the order of the keys, read as they come: a million rows fit in no one's idea of memory.
struct Rows<'a> {
    place: &'a TenantPlace,
    table: &'a str,
    stream: Pin<Box<RowStream>>,
}

impl<'a> Rows<'a> {
    async fn open(place: &'a TenantPlace, client: &Client, sql: &str, table: &'a Table) -> Result<Self, CheckError> {
        let stream = client.query_raw(sql, [place.key.to_string()]).await.map_err(place.reading(&table.name))?;
        Ok(Self { place, table: &table.name, stream: Box::pin(stream) })
    }

    async fn next(&mut self) -> Result<Option<(String, String)>, CheckError> {
        let row = self.stream.try_next().await.map_err(self.place.reading(self.table))?;
        Ok(row.map(|row| (row.get(0), row.get(1))))
    }
}
