//! `data`: what belongs to a tenant. Never looks into a database: whether a table exists is for the mover to say.

use crate::{
    Data, DataLink, DataObjects, DataRedis, Hook, Hooks, Problem, Purge, TableRef,
    read::{At, Reader},
    section::Files,
    stack::is_column,
};
use std::collections::BTreeMap;

const KEYS: &[&str] = &[
    "root",
    "key",
    "tenant_column",
    "tenant_columns",
    "leave_out",
    "shared",
    "links",
    "retention",
    "redis",
    "objects",
    "purge",
    "way_back_days",
    "hooks",
];
/// A way back holds a replication slot and the old cell's disk.
const WAY_BACK_DAYS_MAX: u32 = 30;
const HOOK_BYTES_MAX: usize = 64 * 1024;

pub fn read(reader: &mut Reader, at: &At<'_>, files: Files<'_>) -> Option<Data> {
    let section = reader.section(at, KEYS)?;
    let shipped = Data::default();
    let root = section.get("root").map_or(Some(shipped.root), |at| table(reader, &at));
    let key = section.get("key").map_or(Some(shipped.key), |at| column(reader, &at));
    let tenant_column = section.get("tenant_column").map_or(Some(shipped.tenant_column), |at| column(reader, &at));
    let tenant_columns = section.get("tenant_columns").map(|at| columns_of_tables(reader, &at)).unwrap_or_default();
    let leave_out = section.get("leave_out").map(|at| tables(reader, &at)).unwrap_or_default();
    let shared = section.get("shared").map(|at| tables(reader, &at)).unwrap_or_default();
    let links = section.get("links").map(|at| links(reader, &at)).unwrap_or_default();
    let retention = section.get("retention").map(|at| columns_of_tables(reader, &at)).unwrap_or_default();
    let redis = section.get("redis").and_then(|at| redis(reader, &at));
    let objects = section.get("objects").and_then(|at| objects(reader, &at));
    let purge = section
        .get("purge")
        .and_then(|at| reader.one_of(&at, &[("archive", Purge::Archive), ("delete", Purge::Delete)]));
    let way_back_days = section
        .get("way_back_days")
        .map_or(Some(shipped.way_back_days), |at| reader.number(&at, 0..=WAY_BACK_DAYS_MAX));
    let hooks = section.get("hooks").map(|at| hooks(reader, &at, files)).unwrap_or_default();
    let root = root?;
    for (n, table) in leave_out.iter().enumerate() {
        let key = format!("{}.leave_out[{n}]", at.key);
        let line = section.get("leave_out").map(|at| at.node.line);
        if *table == root {
            let problem = Problem::Malformed {
                message: "the root table cannot be left out",
                hint: "a tenant is a row of it; leave out tables that hold nothing of a tenant",
            };
            reader.note(key, line, problem);
        } else if tenant_columns.contains_key(table) {
            let why = "a table that is left out needs no tenant column";
            reader.note(key, line, Problem::Excludes { other: "tenant_columns", why });
        }
    }
    for (n, table) in shared.iter().enumerate() {
        let line = section.get("shared").map(|at| at.node.line);
        let other = if leave_out.contains(table) {
            "leave_out"
        } else if tenant_columns.contains_key(table) || *table == root {
            "tenant_columns"
        } else {
            continue;
        };
        let why = "rows of a shared table belong to no tenant, and travel along";
        reader.note(format!("{}.shared[{n}]", at.key), line, Problem::Excludes { other, why });
    }
    if retention.contains_key(&root) {
        let problem = Problem::Malformed {
            message: "the root table keeps its rows whatever their age",
            hint: "name tables with a history, such as `positions: recorded_at`",
        };
        reader.note(format!("{}.retention", at.key), section.get("retention").map(|at| at.node.line), problem);
    }
    Some(Data {
        root,
        key: key?,
        tenant_column: tenant_column?,
        tenant_columns,
        leave_out,
        shared,
        links,
        retention,
        redis,
        objects,
        purge,
        way_back_days: way_back_days?,
        hooks,
    })
}

fn table(reader: &mut Reader, at: &At<'_>) -> Option<TableRef> {
    let text = reader.text(at)?;
    let table = text.parse().ok();
    if table.is_none() {
        let problem = Problem::Malformed { message: "this is not a table", hint: "write `table` or `schema.table`" };
        reader.wrong(at, problem);
    }
    table
}

fn column(reader: &mut Reader, at: &At<'_>) -> Option<String> {
    let text = reader.text(at)?;
    if !is_column(text) {
        let problem = Problem::Malformed { message: "this is not a column", hint: "write the column's name alone" };
        reader.wrong(at, problem);
        return None;
    }
    Some(text.to_owned())
}

fn columns_of_tables(reader: &mut Reader, at: &At<'_>) -> BTreeMap<TableRef, String> {
    let mut columns = BTreeMap::new();
    for (name, at) in reader.pairs(at) {
        let Ok(table) = name.parse::<TableRef>() else {
            let problem =
                Problem::Malformed { message: "this is not a table", hint: "write `table` or `schema.table`" };
            reader.wrong(&at, problem);
            continue;
        };
        let Some(column) = column(reader, &at) else { continue };
        if columns.insert(table.clone(), column).is_some_and(|_| name != table.to_string() || name.contains('.')) {
            reader.wrong(&at, Problem::NamedTwice { name: table.to_string() });
        }
    }
    columns
}

fn tables(reader: &mut Reader, at: &At<'_>) -> Vec<TableRef> {
    let mut tables: Vec<TableRef> = Vec::new();
    for item in reader.list(at).unwrap_or_default() {
        let Some(table) = table(reader, &item) else { continue };
        if tables.contains(&table) {
            reader.wrong(&item, Problem::NamedTwice { name: table.to_string() });
        } else {
            tables.push(table);
        }
    }
    tables
}

/// `{ table: comments, column: subject_id, to: orders, when: { subject_type: Order } }`.
fn links(reader: &mut Reader, at: &At<'_>) -> Vec<DataLink> {
    let mut links: Vec<DataLink> = Vec::new();
    for item in reader.list(at).unwrap_or_default() {
        let Some(section) = reader.section(&item, &["table", "column", "columns", "to", "when"]) else { continue };
        let from = section.get("table").and_then(|at| table(reader, &at));
        let to = section.get("to").and_then(|at| table(reader, &at));
        let columns = match (section.get("column"), section.get("columns")) {
            (Some(at), None) => column(reader, &at).map(|one| vec![one]),
            (None, Some(at)) => {
                let all = reader.list(&at).unwrap_or_default();
                all.iter().map(|at| column(reader, at)).collect::<Option<Vec<_>>>().filter(|c| !c.is_empty())
            }
            _ => None,
        };
        let when = section.get("when").and_then(|at| {
            let (name, at) = reader.pairs(&at).into_iter().next()?;
            Some((name, reader.text(&at)?.to_owned()))
        });
        let (Some(from), Some(to), Some(columns)) = (from, to, columns) else {
            let problem = Problem::Malformed {
                message: "a link names `table`, `column` (or `columns`) and `to`",
                hint: "for example `{ table: comments, column: subject_id, to: orders, when: { subject_type: Order } }`",
            };
            reader.wrong(&item, problem);
            continue;
        };
        links.push(DataLink { table: from, columns, to, when });
    }
    links
}

/// `{ prefixes: ["t:{tenant}:"], store: false }`.
fn redis(reader: &mut Reader, at: &At<'_>) -> Option<DataRedis> {
    let section = reader.section(at, &["prefixes", "store"])?;
    let store = section.get("store").map_or(Some(false), |at| reader.truth(&at));
    let example = "prefixes: [\"t:{tenant}:\"]";
    let prefixes = section.need("prefixes", example, reader).map(|at| prefixes(reader, &at, &|_| None));
    Some(DataRedis { prefixes: prefixes.filter(|all| !all.is_empty())?, store: store? })
}

/// `{ prefixes: ["tenants/{tenant}/"] }`.
fn objects(reader: &mut Reader, at: &At<'_>) -> Option<DataObjects> {
    let section = reader.section(at, &["prefixes"])?;
    let wrong = |prefix: &str| {
        let parts = prefix.strip_suffix('/')?.split('/');
        let whole = parts.clone().all(|part| !part.is_empty() && part != "." && part != "..");
        (whole && parts.clone().any(|part| part == PLACE_OF_KEY)).then_some(())
    };
    let wrong = |prefix: &str| match wrong(prefix) {
        Some(()) => None,
        None => Some("folders, one of them `{tenant}`, with a `/` after each: `tenants/{tenant}/`"),
    };
    let example = "prefixes: [\"tenants/{tenant}/\"]";
    let prefixes = section.need("prefixes", example, reader).map(|at| prefixes(reader, &at, &wrong));
    Some(DataObjects { prefixes: prefixes.filter(|all| !all.is_empty())? })
}

/// Where the tenant's key stands in a prefix.
const PLACE_OF_KEY: &str = "{tenant}";

/// `wrong`: what else is asked of one.
fn prefixes(reader: &mut Reader, at: &At<'_>, wrong: &dyn Fn(&str) -> Option<&'static str>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for item in reader.list(at).unwrap_or_default() {
        let Some(text) = reader.text(&item).map(ToOwned::to_owned) else { continue };
        let around = text.split_once(PLACE_OF_KEY);
        let ended = around.is_some_and(|(_, rest)| {
            !rest.contains(PLACE_OF_KEY) && rest.chars().next().is_some_and(|c| c.is_ascii_punctuation() && c != '-')
        });
        let hint = match wrong(&text) {
            _ if text.len() > 200 => Some("200 bytes at most"),
            // Tenant `1` must not own what begins with `12`.
            None if !ended => Some("`{tenant}` once, and after it a character that ends the key: `t:{tenant}:`"),
            hint => hint,
        };
        // A tenant that is called like the rest of the longer one would own everybody's.
        let head = |text: &str| text.split_once(PLACE_OF_KEY).map(|(head, _)| head.to_owned()).unwrap_or_default();
        let inside = |one: &str, other: &str| one != other && other.starts_with(one);
        let overlaps = all.iter().any(|it| inside(&head(it), &head(&text)) || inside(&head(&text), &head(it)));
        let apart = "begin each as no other begins: `t:{tenant}:` and `cache:{tenant}:`, not `t:cache:{tenant}:`";
        if let Some(hint) = hint.or(overlaps.then_some(apart)) {
            let problem = Problem::Malformed { message: "this prefix does not tell tenants apart", hint };
            reader.wrong(&item, problem);
        } else if all.contains(&text) {
            reader.wrong(&item, Problem::NamedTwice { name: text });
        } else {
            all.push(text);
        }
    }
    all
}

fn hooks(reader: &mut Reader, at: &At<'_>, files: Files<'_>) -> Hooks {
    let Some(section) = reader.section(at, &["create", "suspend", "resume", "plan", "delete"]) else {
        return Hooks::default();
    };
    let mut one = |name: &str| section.get(name).and_then(|at| hook(reader, &at, files));
    Hooks {
        create: one("create"),
        suspend: one("suspend"),
        resume: one("resume"),
        plan: one("plan"),
        delete: one("delete"),
    }
}

/// `{ sql: "…" }`, `{ file: hooks/create.sql }` or `{ url: /internal/tenants }`. A file becomes its text here, so
/// that a stored revision says what ran.
fn hook(reader: &mut Reader, at: &At<'_>, files: Files<'_>) -> Option<Hook> {
    let section = reader.section(at, &["sql", "file", "url"])?;
    match (section.get("sql"), section.get("file"), section.get("url")) {
        (Some(at), None, None) => {
            let sql = reader.text(&at)?;
            statement(reader, &at, sql.to_owned())
        }
        (None, Some(at), None) => {
            let path = reader.text(&at)?;
            match files(path) {
                Ok(sql) => statement(reader, &at, sql),
                Err(reason) => {
                    let problem = Problem::UnreadableFile { path: path.to_owned(), reason: reason.to_string() };
                    reader.wrong(&at, problem);
                    None
                }
            }
        }
        (None, None, Some(at)) => url(reader, &at),
        _ => {
            let problem = Problem::Malformed {
                message: "a hook is exactly one of `sql`, `file` and `url`",
                hint: "for example `create: { file: hooks/create.sql }`",
            };
            reader.wrong(at, problem);
            None
        }
    }
}

fn statement(reader: &mut Reader, at: &At<'_>, sql: String) -> Option<Hook> {
    if sql.trim().is_empty() || sql.len() > HOOK_BYTES_MAX || sql.contains('\0') {
        let problem = Problem::Malformed {
            message: "this is no SQL of 1 to 65536 bytes",
            hint: "for example `insert into customers (id, slug) values (:id, :slug) returning id`",
        };
        reader.wrong(at, problem);
        return None;
    }
    Some(Hook::Sql(sql))
}

fn url(reader: &mut Reader, at: &At<'_>) -> Option<Hook> {
    let text = reader.text(at)?;
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let right = text.bytes().all(|b| b.is_ascii_graphic())
        && text.len() <= 2048
        && host.map_or(text.starts_with('/') && !text.starts_with("//"), |rest| {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            !authority.is_empty() && !authority.contains('@')
        });
    if !right {
        let problem = Problem::Malformed {
            message: "this is neither a path of the web service nor an http(s) URL without credentials",
            hint: "for example `/internal/tenants` or `https://app.example.com/tenants`",
        };
        reader.wrong(at, problem);
        return None;
    }
    Some(Hook::Url(text.to_owned()))
}
