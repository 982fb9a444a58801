//! Finds what belongs to a tenant: tables with the tenant column, tables that reach one of those through references
//! only, and the rows of nobody that they refer to. Pure: works on what [`crate::catalog`] read.

use crate::catalog::{Catalogue, Table};
use crate::{
    DataRules, InnerReference, Link, Obstacle, PlannedColumn, PlannedTable, Reference, SharedTable, Side, TableName,
    Unsure,
};
use std::collections::{BTreeMap, BTreeSet};

/// What a tenant consists of, tables without their figures.
pub(crate) struct Closure {
    /// Parents before those that belong to the tenant through them.
    pub tables: Vec<PlannedTable>,
    pub shared: Vec<SharedTable>,
    pub unsure: Vec<Unsure>,
    pub inner: Vec<InnerReference>,
}

/// A reference, declared by a foreign key or by the stack file. Columns in the order of the key of `to`.
struct Edge {
    from: u32,
    to: u32,
    columns: Vec<String>,
    when: Option<(String, String)>,
    declared: bool,
    checked: bool,
    to_columns: Vec<String>,
    /// Whether what it refers to is the key that the change stream carries.
    by_key: bool,
}

/// Finds the closure; what stands in the way is added to `obstacles`.
pub(crate) fn closure(rules: &DataRules, catalogue: &Catalogue, obstacles: &mut Vec<Obstacle>) -> Closure {
    let named = |name: &TableName, obstacles: &mut Vec<Obstacle>| {
        let found = catalogue.find(name).map(|(id, _)| id);
        if found.is_none() {
            obstacles.push(Obstacle::NoTable { side: Side::Source, table: name.clone() });
        }
        found
    };
    let _ = named(&rules.root, obstacles);
    let shared: BTreeSet<u32> = rules.shared.iter().filter_map(|name| named(name, obstacles)).collect();
    let edges = edges(rules, catalogue, obstacles);
    let outside = |id: &u32| shared.contains(id) || rules.leave_out.contains(&catalogue.tables[id].name);

    let mut level: BTreeMap<u32, usize> = BTreeMap::new();
    for (id, table) in &catalogue.tables {
        if !outside(id) && tenant_column(rules, table).is_some() {
            level.insert(*id, 0);
        }
    }
    for depth in 1.. {
        let reached: BTreeSet<u32> = edges
            .iter()
            .filter(|e| level.contains_key(&e.to) && !level.contains_key(&e.from) && !outside(&e.from))
            .map(|e| e.from)
            .collect();
        if reached.is_empty() {
            break;
        }
        level.extend(reached.into_iter().map(|id| (id, depth)));
    }

    let shared_order = upwards(catalogue, &edges, &level, &shared, rules, obstacles);
    let refers = |from: u32| -> Vec<Reference> {
        let mut all = Vec::new();
        for edge in edges.iter().filter(|e| e.from == from) {
            if let Some(to) = shared_order.iter().position(|id| *id == edge.to) {
                all.push(Reference { columns: edge.columns.clone(), to });
            }
        }
        all
    };
    let mut tables: Vec<PlannedTable> = Vec::new();
    let mut inner = Vec::new();
    for id in level.keys() {
        let table = &catalogue.tables[id];
        unfit(table, obstacles);
        let column = tenant_column(rules, table);
        let through = links(rules, catalogue, &edges, &level, *id, obstacles);
        for edge in edges.iter().filter(|e| e.from == *id && e.when.is_none() && level.contains_key(&e.to)) {
            let is_link = column.is_none() && through.len() == 1 && through[0].columns == edge.columns;
            let is_tenant_column = column.is_some_and(|c| edge.columns.iter().any(|e| e == c));
            let to = &catalogue.tables[&edge.to].name;
            // One that names the tenant too leads to no other's row, but it may lead to one that stays behind.
            let stays = rules.retention.contains_key(&format!("{}.{}", to.schema, to.name));
            if !is_link && (!is_tenant_column || stays) {
                inner.push(InnerReference {
                    table: table.name.clone(),
                    columns: edge.columns.clone(),
                    to: to.clone(),
                    to_columns: edge.to_columns.clone(),
                });
            }
        }
        tables.push(PlannedTable {
            table: table.name.clone(),
            tenant_column: column.map(str::to_owned),
            through,
            refers: refers(*id),
            columns: columns(table),
            key: table.key.clone(),
            rows: 0,
            bytes: if table.total_rows > 0.0 { (table.bytes as f64 / table.total_rows).ceil() as i64 } else { 0 },
            binary: table.travelling().all(|c| !c.own_type),
            kept: None,
        });
    }
    // The root first, for people who read the plan.
    tables.sort_by_key(|t| (t.table != rules.root, t.table.clone()));
    let shared = shared_order
        .iter()
        .map(|id| {
            let table = &catalogue.tables[id];
            SharedTable {
                table: table.name.clone(),
                columns: columns(table),
                key: table.key.clone(),
                refers: refers(*id),
                rows: 0,
            }
        })
        .collect();
    let mut unsure = unsure(rules, catalogue, &edges, &level, &shared_order);
    unsure.extend(tables.iter().filter(|t| t.table != rules.root).filter_map(of_nobody));
    Closure { tables: parents_first(tables), shared, unsure, inner }
}

/// A table that says nowhere whose a row is that has no tenant.
fn of_nobody(table: &PlannedTable) -> Option<Unsure> {
    let column = table.tenant_column.as_ref().filter(|_| table.through.is_empty())?;
    let nullable = table.columns.iter().any(|c| c.name == *column && !c.not_null);
    nullable.then(|| Unsure {
        table: table.table.clone(),
        says: format!("says nowhere whose a row is of which `{column}` is null"),
        line: format!("links: [{{ table: {}, column: COLUMN, to: TABLE }}]", table.table),
    })
}

/// No two tables lead to the tenant through each other: see [`links`].
fn parents_first(mut left: Vec<PlannedTable>) -> Vec<PlannedTable> {
    let mut ordered: Vec<PlannedTable> = Vec::new();
    while !left.is_empty() {
        let names: BTreeSet<TableName> = left.iter().map(|t| t.table.clone()).collect();
        let (wait, next) = left.into_iter().partition(|t| t.through.iter().any(|link| names.contains(&link.to)));
        ordered.extend::<Vec<_>>(next);
        left = wait;
    }
    ordered
}

fn columns(table: &Table) -> Vec<PlannedColumn> {
    let planned = |c: &crate::catalog::Column| PlannedColumn {
        name: c.name.clone(),
        type_name: c.type_name.clone(),
        always_identity: c.identity == "a",
        not_null: c.not_null,
    };
    table.travelling().map(planned).collect()
}

fn tenant_column<'r>(rules: &'r DataRules, table: &Table) -> Option<&'r str> {
    let column = if table.name == rules.root {
        &rules.key_column
    } else {
        rules.tenant_columns.get(&table.name.to_string()).unwrap_or(&rules.tenant_column)
    };
    table.column(column).map(|_| column.as_str())
}

fn edges(rules: &DataRules, catalogue: &Catalogue, obstacles: &mut Vec<Obstacle>) -> Vec<Edge> {
    let mut edges = Vec::new();
    for key in &catalogue.references {
        let Some(to) = catalogue.tables.get(&key.to).filter(|_| catalogue.tables.contains_key(&key.from)) else {
            continue;
        };
        let in_order: Option<Vec<String>> = to
            .key
            .iter()
            .map(|k| key.to_columns.iter().position(|c| c == k).map(|at| key.columns[at].clone()))
            .collect();
        let by_key = in_order.as_ref().is_some_and(|columns| columns.len() == key.columns.len());
        edges.push(Edge {
            from: key.from,
            to: key.to,
            to_columns: if by_key { to.key.clone() } else { key.to_columns.clone() },
            columns: in_order.filter(|_| by_key).unwrap_or_else(|| key.columns.clone()),
            when: None,
            declared: true,
            checked: !key.deferrable,
            by_key,
        });
    }
    for rule in &rules.links {
        let (Some((from, child)), Some((to, parent))) = (catalogue.find(&rule.table), catalogue.find(&rule.to)) else {
            for name in [&rule.table, &rule.to] {
                if catalogue.find(name).is_none() {
                    obstacles.push(Obstacle::NoTable { side: Side::Source, table: name.clone() });
                }
            }
            continue;
        };
        let wanted = rule.columns.iter().chain(rule.when.as_ref().map(|(column, _)| column));
        let missing: Vec<&String> = wanted.filter(|c| child.column(c).is_none()).collect();
        if let Some(column) = missing.first() {
            obstacles.push(Obstacle::NoColumn { table: child.name.clone(), column: (*column).clone() });
        } else if let Some(obstacle) = other_type(child, &rule.columns, parent) {
            obstacles.push(obstacle);
        } else if rule.columns.len() == parent.key.len() {
            let (columns, when) = (rule.columns.clone(), rule.when.clone());
            let to_columns = parent.key.clone();
            edges.push(Edge { from, to, columns, to_columns, when, declared: false, checked: false, by_key: true });
        } else {
            obstacles.push(Obstacle::LinkKey { table: child.name.clone(), to: parent.name.clone() });
        }
    }
    edges
}

/// A link whose column cannot be compared with the key that it names: a uuid kept as text, mostly.
fn other_type(child: &Table, columns: &[String], parent: &Table) -> Option<Obstacle> {
    let kind = |name: &str| match name.split('(').next().unwrap_or(name) {
        "text" | "character varying" | "character" => "text".to_owned(),
        "smallint" | "integer" | "bigint" => "number".to_owned(),
        other => other.to_owned(),
    };
    columns.iter().zip(&parent.key).find_map(|(column, key)| {
        let (ours, theirs) = (child.column(column)?, parent.column(key)?);
        (kind(&ours.type_name) != kind(&theirs.type_name)).then(|| Obstacle::LinkTypes {
            table: child.name.clone(),
            column: column.clone(),
            type_name: ours.type_name.clone(),
            to: parent.name.clone(),
            key_type: theirs.type_name.clone(),
        })
    })
}

/// The rows through which rows of a table belong to the tenant: where the column is absent, or may be null.
fn links(
    rules: &DataRules,
    catalogue: &Catalogue,
    edges: &[Edge],
    level: &BTreeMap<u32, usize>,
    id: u32,
    obstacles: &mut Vec<Obstacle>,
) -> Vec<Link> {
    let table = &catalogue.tables[&id];
    let column = tenant_column(rules, table);
    let sure = |id: &u32| {
        let parent = &catalogue.tables[id];
        level.get(id).is_some_and(|depth| *depth == 0) && !nullable(parent, tenant_column(rules, parent))
    };
    if let Some(name) = column {
        exact(table, std::slice::from_ref(&name.to_owned()), obstacles);
        if !nullable(table, column) {
            return Vec::new();
        }
    }
    let mut links = Vec::new();
    for edge in edges.iter().filter(|e| e.from == id && e.to != id) {
        let Some(parent) = catalogue.tables.get(&edge.to) else { continue };
        // With a column of its own, only tables that always have one: no row's tenant may hang on itself.
        let leads = match column {
            Some(name) => sure(&edge.to) && !edge.columns.iter().any(|c| c == name),
            None => level.get(&edge.to).is_some_and(|depth| *depth < level[&id]),
        };
        if !leads {
            continue;
        }
        if !edge.by_key {
            obstacles.push(Obstacle::LinkKey { table: table.name.clone(), to: parent.name.clone() });
            continue;
        }
        exact(table, &edge.columns, obstacles);
        links.push(Link {
            columns: edge.columns.clone(),
            to: parent.name.clone(),
            when: edge.when.clone(),
            declared: edge.declared,
            checked: edge.checked,
        });
    }
    if table.partitioned && !links.is_empty() {
        let column = column.unwrap_or(&rules.tenant_column).to_owned();
        obstacles.push(Obstacle::PartsWithoutColumn { table: table.name.clone(), column });
    }
    links
}

fn nullable(table: &Table, column: Option<&str>) -> bool {
    column.and_then(|name| table.column(name)).is_none_or(|c| !c.not_null)
}

/// The stream's texts are compared where the server compares values.
fn exact(table: &Table, columns: &[String], obstacles: &mut Vec<Obstacle>) {
    for column in columns.iter().filter_map(|name| table.column(name)).filter(|c| !c.exact) {
        let (table, column, type_name) = (table.name.clone(), column.name.clone(), column.type_name.clone());
        obstacles.push(Obstacle::LinkType { table, column, type_name });
    }
}

/// The tables of nobody that the closure refers to, as far as the stack file lets them travel.
fn upwards(
    catalogue: &Catalogue,
    edges: &[Edge],
    level: &BTreeMap<u32, usize>,
    shared: &BTreeSet<u32>,
    rules: &DataRules,
    obstacles: &mut Vec<Obstacle>,
) -> Vec<u32> {
    let mut order: Vec<u32> = Vec::new();
    let mut said = BTreeSet::new();
    loop {
        let before = order.len();
        for edge in edges {
            let from_us = level.contains_key(&edge.from) || order.contains(&edge.from);
            let Some(to) = catalogue.tables.get(&edge.to).filter(|_| from_us) else { continue };
            let from = &catalogue.tables[&edge.from];
            if level.contains_key(&edge.to) {
                if order.contains(&edge.from) && said.insert((edge.from, edge.to)) {
                    obstacles.push(Obstacle::SharedBelongs { table: from.name.clone(), to: to.name.clone() });
                }
                continue;
            }
            if order.contains(&edge.to) || rules.leave_out.contains(&to.name) {
                continue;
            }
            if !shared.contains(&edge.to) {
                if said.insert((edge.from, edge.to)) {
                    obstacles.push(Obstacle::SharedRows { table: from.name.clone(), outside: to.name.clone() });
                }
            } else if edge.by_key {
                exact(from, &edge.columns, obstacles);
                unfit(to, obstacles);
                order.push(edge.to);
            } else if said.insert((edge.from, edge.to)) {
                obstacles.push(Obstacle::LinkKey { table: from.name.clone(), to: to.name.clone() });
            }
        }
        if order.len() == before {
            return order;
        }
    }
}

fn unfit(table: &Table, obstacles: &mut Vec<Obstacle>) {
    if table.unlogged {
        obstacles.push(Obstacle::Unlogged { table: table.name.clone() });
    }
    if table.hypertable {
        obstacles.push(Obstacle::Hypertable { table: table.name.clone() });
        return;
    }
    if let Some((child, parent)) = &table.inherits {
        let obstacle = Obstacle::Inherits { child: child.clone(), parent: parent.clone() };
        // Of both it is the same.
        if !obstacles.contains(&obstacle) {
            obstacles.push(obstacle);
        }
    }
    if !table.has_identity || table.key.is_empty() {
        obstacles.push(Obstacle::NoIdentity { table: table.name.clone() });
    }
    if table.columns.iter().any(|c| c.large_object) {
        obstacles.push(Obstacle::LargeObjects { table: table.name.clone() });
    }
}

/// Tables that stay, and look as if they should not.
fn unsure(
    rules: &DataRules,
    catalogue: &Catalogue,
    edges: &[Edge],
    level: &BTreeMap<u32, usize>,
    shared: &[u32],
) -> Vec<Unsure> {
    let mut all = Vec::new();
    let ours: Vec<(&Table, Vec<String>)> =
        level.keys().map(|id| (&catalogue.tables[id], names_of_one(&catalogue.tables[id].name.name))).collect();
    for (id, table) in &catalogue.tables {
        let stays = !level.contains_key(id) && !shared.contains(id) && !rules.leave_out.contains(&table.name);
        if !stays {
            continue;
        }
        let text = |name: &TableName| name.to_string();
        if let Some(edge) = edges.iter().find(|e| e.from == *id && shared.contains(&e.to)) {
            all.push(Unsure {
                table: table.name.clone(),
                says: format!(
                    "refers to rows of nobody in `{}` and stays where it is",
                    catalogue.tables[&edge.to].name
                ),
                line: format!("leave_out: [{}]", text(&table.name)),
            });
        }
        for column in &table.columns {
            let Some(stem) = column.name.to_lowercase().strip_suffix("_id").map(str::to_owned) else { continue };
            let kind = format!("{stem}_type");
            if let Some(kind) = table.columns.iter().find(|c| c.name.to_lowercase() == kind) {
                all.push(Unsure {
                    table: table.name.clone(),
                    says: format!("may refer to several tables, by `{}` and `{}`", kind.name, column.name),
                    line: format!(
                        "links: [{{ table: {}, column: {}, to: TABLE, when: {{ {}: VALUE }} }}]",
                        text(&table.name),
                        column.name,
                        kind.name
                    ),
                });
            } else if let Some((parent, _)) = ours.iter().find(|(_, names)| names.contains(&stem)) {
                let (says, line) = if parent.name == rules.root {
                    (
                        format!("may belong to tenants by `{}`", column.name),
                        format!("tenant_columns: {{ {}: {} }}", text(&table.name), column.name),
                    )
                } else {
                    (
                        format!("may refer to `{}` by `{}`", parent.name, column.name),
                        format!(
                            "links: [{{ table: {}, column: {}, to: {} }}]",
                            text(&table.name),
                            column.name,
                            text(&parent.name)
                        ),
                    )
                };
                all.push(Unsure { table: table.name.clone(), says, line });
            }
        }
    }
    all
}

/// What one row of a table is called in a column's name: `companies` has `company_id`.
pub(crate) fn names_of_one(table: &str) -> Vec<String> {
    let table = table.to_lowercase();
    let mut names = vec![table.clone()];
    if let Some(stem) = table.strip_suffix("ies") {
        names.push(format!("{stem}y"));
    }
    for end in ["es", "s"] {
        names.extend(table.strip_suffix(end).map(str::to_owned));
    }
    names
}
