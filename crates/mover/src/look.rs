//! Looks at a database that nobody has described yet: its server, its tables, and which table has one row per tenant.
//! Reads the catalogue and one count per column of host names, in sessions that cannot write. Changes nothing.

use crate::catalog::{Catalogue, Table, catalogue};
use crate::closure::{closure, names_of_one};
use crate::rights;
use crate::sql::{Doing, connect_to_look, ident};
use crate::{DataRules, Endpoint, MoveError, Obstacle, Side, TableName};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Client;

/// What the table with one row per tenant is called in most applications.
const ROOTS: &[&str] = &[
    "tenants",
    "organizations",
    "organisations",
    "orgs",
    "accounts",
    "customers",
    "companies",
    "workspaces",
    "teams",
    "clients",
    "shops",
    "stores",
    "merchants",
    "businesses",
];
/// People belong to tenants, often to several: rarely is one of them a tenant.
const PEOPLE: &[&str] = &["users", "people", "persons", "members", "employees", "contacts", "profiles"];
/// Columns of a root table that say under which name a tenant is served.
const HOSTS: &[&str] = &["host", "hostname", "domain", "custom_domain", "subdomain", "slug"];
/// More than this many other guesses help nobody.
const GUESSES: usize = 4;

/// What was seen. Figures are the server's own estimates where a name says so.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Look {
    pub server: ServerSeen,
    pub tables: Vec<TableSeen>,
    /// Most likely first. Empty: no table is referred to by others.
    pub roots: Vec<RootGuess>,
}

/// The server as the given login sees it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ServerSeen {
    /// As the server calls itself, such as `PostgreSQL 15.14`.
    pub version: String,
    pub database: String,
    pub role: String,
    pub database_bytes: i64,
    pub wal_level: String,
    pub standby: bool,
    pub slots_used: i64,
    pub slots_most: i64,
    pub senders_used: i64,
    pub senders_most: i64,
    pub connections_used: i64,
    pub connections_most: i64,
    pub superuser: bool,
    pub replication: bool,
    pub bypasses_policies: bool,
    /// What the login lacks for a move out of it and back, whatever the tables are.
    pub lacks: Vec<Obstacle>,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct TableSeen {
    pub table: TableName,
    /// Of the server's statistics; 0 where it has none.
    pub rows_estimated: i64,
    pub bytes: i64,
    pub has_key: bool,
}

/// A table that may have one row per tenant.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RootGuess {
    pub table: TableName,
    pub key: String,
    pub key_type: String,
    pub tenant_column: String,
    /// Tables that have the tenant column under this name.
    pub with_column: usize,
    /// Those that name the tenant by another column, which a foreign key says.
    pub other_columns: BTreeMap<String, String>,
    /// Tables that belong to a tenant in any way.
    pub covers: usize,
    /// Columns of the root that look like names of hosts, each with how many of its rows share their value with another.
    pub hosts: Vec<HostColumn>,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct HostColumn {
    pub column: String,
    /// None where the login may not read rows.
    pub shared_by_rows: Option<i64>,
    /// The first names that they share.
    pub shared_names: Vec<String>,
}

/// How many names are told.
const NAMES: usize = 3;

/// Looks, in one session that is refused every write.
pub async fn look(endpoint: &Endpoint) -> Result<Look, MoveError> {
    let client = connect_to_look(endpoint, Side::Source, "berth-look").await?;
    let catalogue = catalogue(&client, Side::Source).await?;
    let mut roots = guesses(&catalogue);
    for guess in &mut roots {
        for host in &mut guess.hosts {
            if let Some((rows, names)) = shared_values(&client, &guess.table, &host.column).await? {
                (host.shared_by_rows, host.shared_names) = (Some(rows), names);
            }
        }
    }
    let mut tables: Vec<TableSeen> = catalogue.tables.values().map(seen).collect();
    tables.sort_by_key(|t| (-t.bytes, t.table.clone()));
    Ok(Look { server: server(&client).await?, tables, roots })
}

fn seen(table: &Table) -> TableSeen {
    TableSeen {
        table: table.name.clone(),
        rows_estimated: table.total_rows as i64,
        bytes: table.bytes,
        has_key: !table.key.is_empty(),
    }
}

async fn server(client: &Client) -> Result<ServerSeen, MoveError> {
    let row = client
        .query_one(
            "select split_part(version(), ' ', 1) || ' ' || split_part(version(), ' ', 2), current_database()::text,
                    session_user::text, pg_database_size(current_database()), current_setting('wal_level'),
                    pg_is_in_recovery(), (select count(*) from pg_replication_slots),
                    current_setting('max_replication_slots')::bigint, (select count(*) from pg_stat_replication),
                    current_setting('max_wal_senders')::bigint,
                    (select count(*) from pg_stat_activity where datid is not null),
                    current_setting('max_connections')::bigint, rolsuper, rolsuper or rolreplication,
                    rolsuper or rolbypassrls
             from pg_roles where rolname = session_user",
            &[],
        )
        .await
        .doing(Side::Source, "looking at the server")?;
    Ok(ServerSeen {
        version: row.get(0),
        database: row.get(1),
        role: row.get(2),
        database_bytes: row.get(3),
        wal_level: row.get(4),
        standby: row.get(5),
        slots_used: row.get(6),
        slots_most: row.get(7),
        senders_used: row.get(8),
        senders_most: row.get(9),
        connections_used: row.get(10),
        connections_most: row.get(11),
        superuser: row.get(12),
        replication: row.get(13),
        bypasses_policies: row.get(14),
        lacks: rights::login_lacks(client).await?,
    })
}

/// Rows whose name, whatever its case, another row has too, and the first such names: no two tenants can be served under
/// one. None where the login may not read them: the rest of the look is still worth something.
async fn shared_values(
    client: &Client,
    table: &TableName,
    column: &str,
) -> Result<Option<(i64, Vec<String>)>, MoveError> {
    let sql = format!(
        "select coalesce(sum(n), 0)::bigint, coalesce((array_agg(name order by name))[1:{NAMES}], '{{}}')
         from (select lower({column}::text) name, count(*) n from {} where {column} is not null
               group by 1 having count(*) > 1) s",
        table.sql(),
        column = ident(column)
    );
    match client.query_one(&sql, &[]).await {
        Ok(row) => Ok(Some((row.get(0), row.get(1)))),
        Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) => Ok(None),
        Err(error) => Err(error).doing(Side::Source, "counting names of hosts"),
    }
}

/// Every table whose one-column key others name, most likely first.
fn guesses(catalogue: &Catalogue) -> Vec<RootGuess> {
    let named = |guess: &RootGuess, words: &[&str]| {
        let name = guess.table.name.to_lowercase();
        words.iter().any(|word| name == *word || Some(name.as_str()) == word.strip_suffix('s'))
    };
    let all: Vec<RootGuess> = catalogue.tables.iter().filter_map(|(id, table)| guess(catalogue, *id, table)).collect();
    let any_named = all.iter().any(|guess| named(guess, ROOTS));
    let score = |guess: &RootGuess| {
        let direct = guess.with_column + guess.other_columns.len();
        let score = 4 * direct as i64 + guess.covers as i64;
        match (named(guess, ROOTS), named(guess, PEOPLE)) {
            (true, _) => 2 * score + 8,
            // An application of single users has nothing else.
            (_, true) if any_named => score / 4,
            _ => score,
        }
    };
    let mut all: Vec<(i64, RootGuess)> = all.into_iter().map(|guess| (score(&guess), guess)).collect();
    all.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.table.cmp(&y.table)));
    all.into_iter().map(|(_, guess)| guess).take(GUESSES).collect()
}

fn guess(catalogue: &Catalogue, id: u32, table: &Table) -> Option<RootGuess> {
    let [key] = &table.key[..] else { return None };
    // Which column names it in each table that refers to it by a foreign key.
    let mut columns: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for reference in catalogue.references.iter().filter(|r| r.to == id && r.from != id) {
        if let ([column], [to]) = (&reference.columns[..], &reference.to_columns[..])
            && to == key
        {
            columns.entry(column).or_default().insert(reference.from);
        }
    }
    let undeclared = |column: &str| -> BTreeSet<u32> {
        let with = catalogue.tables.iter().filter(|(n, t)| **n != id && t.column(column).is_some());
        with.map(|(n, _)| *n).collect()
    };
    let conventional: Vec<String> = names_of_one(&table.name.name).iter().map(|one| format!("{one}_{key}")).collect();
    let usual = |name: &str| conventional.iter().any(|c| c == name);
    let common = columns.iter().max_by_key(|(name, from)| (from.len(), usual(name), std::cmp::Reverse(**name)));
    let tenant_column = match common {
        Some((name, _)) => (*name).to_owned(),
        // Many applications declare no foreign keys at all.
        None => conventional.into_iter().find(|name| !undeclared(name).is_empty())?,
    };
    let with_column = undeclared(&tenant_column);
    let rules = DataRules::of(&format!("{}.{}", table.name.schema, table.name.name), key, &tenant_column);
    let covers = closure(&rules, catalogue, &mut Vec::new()).tables.len();
    let mut other_columns = BTreeMap::new();
    for (name, from) in columns.iter().filter(|(name, _)| **name != tenant_column) {
        for n in from.iter().filter(|n| !with_column.contains(n)) {
            let owner = &catalogue.tables[n].name;
            // A row that names its tenant twice, as sender and receiver, belongs to whom? That is a question.
            other_columns.entry(owner.to_string()).or_insert_with(|| (*name).to_owned());
        }
    }
    let hosts = HOSTS.iter().filter(|host| table.column(host).is_some());
    Some(RootGuess {
        table: table.name.clone(),
        key: key.clone(),
        key_type: table.column(key).map(|c| c.type_name.clone()).unwrap_or_default(),
        tenant_column,
        with_column: with_column.len(),
        other_columns,
        covers,
        hosts: hosts
            .map(|host| HostColumn { column: (*host).to_owned(), shared_by_rows: None, shared_names: Vec::new() })
            .collect(),
    })
}
