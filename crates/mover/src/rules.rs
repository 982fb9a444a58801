//! What the two databases demand of a row besides its columns' types: labels of enums, checks, foreign keys, unique keys,
//! exclusions, expressions of generated columns. Where they differ, a row that one of them holds is refused by the other, now
//! or at the undo. Where triggers or policies differ, it is treated otherwise, or seen by others.
//!
//! Also what stays as it was although rows come and go: materialised views, and partitions that only one side has.

use crate::catalog::{Catalogue, Table};
use crate::sql::Doing;
use crate::{MoveError, MovePlan, Obstacle, Side, TableName};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Client;

/// A rule of one table, as people write it.
type Rules = BTreeMap<TableName, BTreeSet<String>>;

/// Every difference is an obstacle. Tables that the target lacks have been reported by then.
pub(crate) async fn compare(
    plan: &MovePlan,
    source: &Client,
    target: &Client,
    theirs: &Catalogue,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    types(plan, source, target, obstacles).await?;
    let (ours, others) = (of(source, Side::Source, plan).await?, of(target, Side::Target, plan).await?);
    let none = BTreeSet::new();
    for name in tables(plan).filter(|name| theirs.find(name).is_some()) {
        let (ours, others) = (ours.get(name).unwrap_or(&none), others.get(name).unwrap_or(&none));
        // A dump that was read in prints casts and parentheses elsewhere.
        let has =
            |all: &BTreeSet<String>, rule: &str| all.contains(rule) || all.iter().any(|it| bare(it) == bare(rule));
        let mut differs = |difference: String| {
            obstacles.push(Obstacle::SchemaDiffers { table: name.clone(), difference });
        };
        ours.iter().filter(|rule| !has(others, rule)).for_each(|rule| differs(format!("the target lacks {rule}")));
        others.iter().filter(|rule| !has(ours, rule)).for_each(|rule| differs(format!("the source lacks {rule}")));
    }
    Ok(())
}

/// Names of types that are more than one word.
const LONG_TYPES: [&str; 7] = [
    "character varying",
    "bit varying",
    "double precision",
    "timestamp without time zone",
    "timestamp with time zone",
    "time without time zone",
    "time with time zone",
];

/// A rule without casts, parentheses and spaces, but for what is quoted in it.
fn bare(rule: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(rule.len()), rule);
    while let Some(next) = rest.chars().next() {
        if let Some(cast) = rest.strip_prefix("::") {
            let long = LONG_TYPES.iter().find_map(|name| cast.strip_prefix(name));
            let after = long.unwrap_or_else(|| {
                cast.trim_start_matches(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '"'))
            });
            let size = after
                .strip_prefix('(')
                .and_then(|it| it.split_once(')'))
                .filter(|(size, _)| size.chars().all(|c| c.is_ascii_digit() || c == ','));
            rest = size.map_or(after, |(_, after)| after).trim_start_matches("[]");
        } else if next == '\'' {
            let quoted = rest[1..].find('\'').map_or(rest.len(), |end| end + 2);
            out.push_str(&rest[..quoted]);
            rest = &rest[quoted..];
        } else {
            if !matches!(next, '(' | ')' | ' ') {
                out.push(next);
            }
            rest = &rest[next.len_utf8()..];
        }
    }
    out
}

fn tables(plan: &MovePlan) -> impl Iterator<Item = &TableName> {
    plan.tables.iter().map(|t| &t.table).chain(plan.shared.iter().map(|t| &t.table))
}

/// The tables, and the types that their columns have: an array or a domain counts for what is in it too.
const USED: &str = "with w as (select n.nth, to_regclass(n.name)::oid as oid from unnest($1::text[]) with ordinality n(name, nth)),
             used as (
                 select distinct w.nth, coalesce(nullif(t.typelem, 0), t.oid) as oid from w
                 join pg_attribute a on a.attrelid = w.oid and a.attnum > 0 and not a.attisdropped join pg_type t on t.oid = a.atttypid
                 union
                 select w.nth, coalesce(nullif(b.typelem, 0), b.oid) from w
                 join pg_attribute a on a.attrelid = w.oid and a.attnum > 0 and not a.attisdropped
                 join pg_type t on t.oid = a.atttypid join pg_type b on b.oid = t.typbasetype) ";

/// Where the target lacks a type it lacks a column or a table, and that says little.
async fn types(
    plan: &MovePlan,
    source: &Client,
    target: &Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    let what = "reading the types";
    let names: Vec<String> = tables(plan).map(TableName::sql).collect();
    // Types with a lower number come with every server.
    let own = "select min(used.nth), format_type(used.oid, null), (
                   select e.extname::text from pg_depend d join pg_extension e on e.oid = d.refobjid
                   where d.classid = 'pg_type'::regclass and d.objid = used.oid
                     and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e' limit 1)
               from used where used.oid >= 16384 group by used.oid order by 1, 2";
    let used = source.query(&[USED, own].concat(), &[&names]).await.doing(Side::Source, what)?;
    let wanted: Vec<String> = used.iter().map(|row| row.get(1)).collect();
    let absent = "select name from unnest($1::text[]) name where to_regtype(name) is null";
    let absent = target.query(absent, &[&wanted]).await.doing(Side::Target, what)?;
    let absent: BTreeSet<String> = absent.iter().map(|row| row.get(0)).collect();
    let all: Vec<&TableName> = tables(plan).collect();
    for row in used.iter().filter(|row| absent.contains(&row.get::<_, String>(1))) {
        let nth = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or_default();
        let Some(table) = all.get(nth) else { continue };
        let of = row.get::<_, Option<String>>(2).map_or_else(String::new, |name| format!(" of extension `{name}`"));
        let difference = format!("the target lacks type `{}`{of}", row.get::<_, String>(1));
        obstacles.push(Obstacle::SchemaDiffers { table: (*table).clone(), difference });
    }
    Ok(())
}

async fn of(client: &Client, side: Side, plan: &MovePlan) -> Result<Rules, MoveError> {
    let names: Vec<String> = tables(plan).map(TableName::sql).collect();
    // A rule that is not validated holds for every row that comes. A unique key is the same as a constraint and as an index.
    let rules = "select w.nth, case c.contype when 'f' then 'the foreign key ' else 'the rule ' end || replace(pg_get_constraintdef(c.oid), ' NOT VALID', '')
             from w join pg_constraint c on c.conrelid = w.oid where c.contype in ('c', 'f', 'x') and c.conparentid = 0
             union
             select used.nth, 'the rule ' || pg_get_constraintdef(c.oid) || ' of domain ' || format_type(used.oid, null)
             from used join pg_constraint c on c.contypid = used.oid where c.contype = 'c'
             union
             select used.nth, 'the label ' || quote_literal(e.enumlabel) || ' of enum ' || format_type(used.oid, null)
             from used join pg_enum e on e.enumtypid = used.oid
             union
             select w.nth, 'the expression ' || pg_get_expr(d.adbin, d.adrelid) || ' of column ' || a.attname
             from w join pg_attribute a on a.attrelid = w.oid and a.attgenerated <> ''
             join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
             union
             select w.nth, concat('the unique key (',
                 (select string_agg(pg_get_indexdef(i.indexrelid, k, false), ', ' order by k) from generate_series(1, i.indnkeyatts::int4) k), ')',
                 ' where ' || pg_get_expr(i.indpred, i.indrelid),
                 case when pg_get_indexdef(i.indexrelid) like '%NULLS NOT DISTINCT%' then ' nulls not distinct' end,
                 case when not i.indimmediate then ' deferrable' end)
             from w join pg_index i on i.indrelid = w.oid where i.indisunique and i.indisvalid and not i.indisprimary
             union
             select w.nth, concat_ws(' ', 'the policy', p.polname, 'for',
                 case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
                 case when not p.polpermissive then 'restrictive' end,
                 'using ' || pg_get_expr(p.polqual, p.polrelid), 'with check ' || pg_get_expr(p.polwithcheck, p.polrelid))
             from w join pg_policy p on p.polrelid = w.oid
             union
             select w.nth, 'row level security' from w join pg_class c on c.oid = w.oid where c.relrowsecurity
             union
             select w.nth, 'row level security for the owner' from w join pg_class c on c.oid = w.oid where c.relforcerowsecurity
             union
             select w.nth, concat('the ', substr(pg_get_triggerdef(t.oid), 8), case when t.tgenabled = 'D' then ' (disabled)' end)
             from w join pg_trigger t on t.tgrelid = w.oid
             where not t.tgisinternal and t.tgparentid = 0 and t.tgname not like 'berth\\_%'";
    let rows = client.query(&[USED, rules].concat(), &[&names]).await.doing(side, "reading the rules of tables")?;
    let all: Vec<&TableName> = tables(plan).collect();
    let mut rules = Rules::new();
    for row in rows {
        let nth = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or_default();
        if let Some(name) = all.get(nth) {
            rules.entry((*name).clone()).or_default().insert(row.get(1));
        }
    }
    Ok(rules)
}

/// What a person has to know and nothing stands in the way of.
pub(crate) async fn notes(
    plan: &MovePlan,
    source: &Client,
    target: &Client,
    ours: &Catalogue,
) -> Result<Vec<String>, MoveError> {
    let mut notes = Vec::new();
    let known = tables(plan).filter_map(|name| ours.find(name)).map(|(_, table)| table);
    for table in known.filter(|table| table.partitioned) {
        notes.extend(parts(table, source, target).await?);
    }
    notes.extend(views(plan, source).await?);
    notes.extend(fire_on_deletes(plan, source).await?);
    Ok(notes)
}

/// The application's triggers that fire when the tenant's rows leave the source, long after it has moved.
async fn fire_on_deletes(plan: &MovePlan, source: &Client) -> Result<Option<String>, MoveError> {
    let names: Vec<String> = plan.tables.iter().map(|t| t.table.sql()).collect();
    // Bit 3 of the type is DELETE. What came to a partition from its table is that table's.
    let rows = source
        .query(
            "with recursive parts as (
                 select to_regclass(name)::oid as oid from unnest($1::text[]) name
                 union all select i.inhrelid from parts join pg_inherits i on i.inhparent = parts.oid)
             select format('`%s` on `%s`', t.tgname, t.tgrelid::regclass), session_user::text
             from parts join pg_trigger t on t.tgrelid = parts.oid
             where not t.tgisinternal and t.tgparentid = 0 and t.tgenabled in ('O', 'A') and t.tgtype & 8 <> 0
               and t.tgname not like 'berth\\_%' order by 1",
            &[&names],
        )
        .await
        .doing(Side::Source, "looking for triggers on deletes")?;
    let Some(first) = rows.first() else { return Ok(None) };
    let triggers: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(Some(format!(
        "when the tenant's rows leave the source, triggers on deletes fire there: {}. One that takes something away elsewhere (a file, an object, a message) does so for a tenant that lives on: let it do nothing where session_user is `{}`",
        triggers.join(", "),
        first.get::<_, String>(1)
    )))
}

/// A row for which there is no partition ends the copy.
async fn parts(table: &Table, source: &Client, target: &Client) -> Result<Option<String>, MoveError> {
    // Each with whose part it is: a default takes what its own siblings do not.
    let sql = "select parentrelid::regclass::text, pg_get_expr(c.relpartbound, c.oid) from pg_partition_tree(to_regclass($1)) p
               join pg_class c on c.oid = p.relid where c.relpartbound is not null";
    let bounds = async |client: &Client, side| {
        let rows = client.query(sql, &[&table.name.sql()]).await.doing(side, "reading the partitions")?;
        Ok::<BTreeSet<(String, String)>, MoveError>(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    };
    let (ours, theirs) = (bounds(source, Side::Source).await?, bounds(target, Side::Target).await?);
    let covered = |of: &String| theirs.contains(&(of.clone(), "DEFAULT".to_owned()));
    let missing: Vec<&String> =
        ours.difference(&theirs).filter(|(of, _)| !covered(of)).map(|(_, bound)| bound).collect();
    Ok(missing.first().map(|first| {
        format!(
            "`{}` has partitions in the source that the target has not ({}, the first {first}): a row of the tenant in one of them ends the move",
            table.name,
            missing.len()
        )
    }))
}

/// Materialised views over the tenant's rows, through other views too.
async fn views(plan: &MovePlan, source: &Client) -> Result<Option<String>, MoveError> {
    let names: Vec<String> = plan.tables.iter().map(|t| t.table.sql()).collect();
    let rows = source
        .query(
            "with recursive reads as (
                 select r.ev_class as view, d.refobjid as of from pg_depend d join pg_rewrite r on r.oid = d.objid
                 where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid <> r.ev_class),
             over as (
                 select reads.view from reads where reads.of in (select to_regclass(name)::oid from unnest($1::text[]) name)
                 union select reads.view from reads join over on reads.of = over.view)
             select c.oid::regclass::text from over join pg_class c on c.oid = over.view where c.relkind = 'm' order by 1",
            &[&names],
        )
        .await
        .doing(Side::Source, "looking for materialised views")?;
    let refresh: Vec<String> =
        rows.iter().map(|row| format!("REFRESH MATERIALIZED VIEW {}", row.get::<_, String>(0))).collect();
    Ok((!refresh.is_empty()).then(|| {
        format!(
            "materialised views keep what they last read: after the move, and again when its way back is over, in both cells: {}",
            refresh.join("; ")
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::bare;

    #[test]
    fn a_rule_is_the_same_however_its_casts_are_printed() {
        let made = "CHECK (((s)::text = ANY ((ARRAY['a (b'::character varying, 'c''d'::character varying])::text[])))";
        let restored =
            "CHECK (((s)::text = ANY (ARRAY[('a (b'::character varying)::text, ('c''d'::character varying)::text])))";
        assert_eq!(bare(made), bare(restored));
        assert_eq!(bare(made), "CHECKs=ANYARRAY['a (b','c''d']");
        assert_eq!(bare("CHECK ((n)::numeric(12,2) > 0::double precision AND b)"), "CHECKn>0ANDb");
        assert_ne!(bare("CHECK ((n > 1))"), bare("CHECK ((n > 10))"));
        assert_ne!(bare("the label 'a b' of enum"), bare("the label 'ab' of enum"));
    }
}
