//! What the mover's login may do in a database, and the statement that gives it what it lacks. A superuser lacks nothing; of
//! anybody else each right is asked for by itself, because managed databases give none a superuser's. Changes nothing:
//! what is tried is taken back.

use crate::sql::{Doing, ident};
use crate::{
    MoveError, MovePlan, MoveSpec, Obstacle, PlannedSequence, PlannedTable, SharedTable, Side, TableName, numbered,
};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::{Client, Row, error::SqlState};

const WHAT: &str = "looking at the mover's rights";

/// What a move does in a database, besides fencing the tenant there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Rows are loaded or brought up to date there, past triggers and foreign keys.
    pub takes_rows: bool,
    /// Changes are read there.
    pub tells_changes: bool,
}

/// What is done with tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Reads,
    /// Rows are put in.
    Adds,
    /// The same, and taken out again where it ends half way.
    Brings,
    /// Publication, triggers, every row.
    Owns,
    /// The same, and keys and indexes are taken off and made again.
    Rebuilds,
}

impl Use {
    fn owns(self) -> bool {
        matches!(self, Self::Owns | Self::Rebuilds)
    }

    /// The rights on a table that are not its owner's alone, each with the place in [`on_tables`]' answer that says whether it is there.
    fn asks(self) -> &'static [(&'static str, usize)] {
        match self {
            Self::Reads | Self::Owns | Self::Rebuilds => &[("SELECT", 6)],
            Self::Adds => &[("SELECT", 6), ("INSERT", 13)],
            Self::Brings => &[("SELECT", 6), ("INSERT", 13), ("DELETE", 14)],
        }
    }
}

fn grant(side: Side, role: &str, right: String, statement: String) -> Obstacle {
    Obstacle::Grant { side, role: role.to_owned(), right, statement }
}

/// Which statement makes the login one that has this role's rights, as SQL beside its row of `pg_roles`.
fn joining(of: &str) -> String {
    format!(
        "case when rolinherit and not pg_has_role(session_user, {of}, 'member') then 0
              when current_setting('server_version_num')::int4 >= 160000 then 1
              when pg_has_role(session_user, {of}, 'member') then 2 else 3 end"
    )
}

/// The statement that [`joining`] says.
fn membership(of: &str, role: &str, joining: i32) -> String {
    let (given, inherits) =
        (format!("GRANT {} TO {}", ident(of), ident(role)), format!("ALTER ROLE {} INHERIT", ident(role)));
    match joining {
        0 => given,
        1 => format!("{given} WITH INHERIT TRUE"),
        2 => inherits,
        _ => format!("{given}; {inherits}"),
    }
}

/// What the login of a session lacks for moves there and back, whatever the tables are.
pub async fn login_lacks(client: &Client) -> Result<Vec<Obstacle>, MoveError> {
    lacks(client, Side::Source, Part { takes_rows: true, tells_changes: true }).await
}

/// What the login lacks, whatever the tables are.
pub(crate) async fn lacks(client: &Client, side: Side, part: Part) -> Result<Vec<Obstacle>, MoveError> {
    let row = client
        .query_one("select rolsuper, rolname::text from pg_roles where rolname = session_user", &[])
        .await
        .doing(side, WHAT)?;
    if row.get(0) {
        return Ok(Vec::new());
    }
    let role: String = row.get(1);
    let mut lacking = Vec::new();
    if part.takes_rows {
        lacking.extend(passes_triggers(client, side).await?);
    }
    if part.tells_changes {
        lacking.extend(reads_changes(client, side, &role).await?);
    }
    lacking.extend(sees_everybody(client, side).await?);
    let rights: &[&str] = if part.takes_rows { &["CREATE", "TEMPORARY"] } else { &["CREATE"] };
    lacking.append(&mut on_database(client, side, rights).await?);
    lacking.append(&mut on_earlier(client, side, "berth").await?);
    Ok(lacking)
}

async fn on_database(client: &Client, side: Side, rights: &[&str]) -> Result<Vec<Obstacle>, MoveError> {
    let rows = client
        .query(
            "select r, session_user::text, current_database()::text from unnest($1::text[]) with ordinality t(r, nth)
             where not has_database_privilege(session_user, current_database(), r) order by nth",
            &[&rights],
        )
        .await
        .doing(side, WHAT)?;
    let lacks = |row: &Row| {
        let (right, role, database): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let statement = format!("GRANT {right} ON DATABASE {} TO {}", ident(&database), ident(&role));
        grant(side, &role, format!("{right} on the database"), statement)
    };
    Ok(rows.iter().map(lacks).collect())
}

/// What the login lacks to read a tenant's rows into an archive, and to look whether the tenant lives there.
pub(crate) async fn to_archive(client: &Client, side: Side, plan: &MovePlan) -> Result<Vec<Obstacle>, MoveError> {
    let names: Vec<&TableName> = tables_of(plan).chain(shared_of(plan)).collect();
    let mut lacking = on_tables(client, side, &names, Use::Reads).await?;
    lacking.append(&mut to_see_fences(client, side).await?);
    Ok(lacking)
}

/// What the login lacks to bring rows of an archive back among those that are there.
pub(crate) async fn to_restore(client: &Client, side: Side, plan: &MovePlan) -> Result<Vec<Obstacle>, MoveError> {
    let names: Vec<&TableName> = tables_of(plan).collect();
    let mut lacking = on_database(client, side, &["TEMPORARY"]).await?;
    lacking.append(&mut on_tables(client, side, &names, Use::Adds).await?);
    lacking.append(&mut to_see_fences(client, side).await?);
    Ok(lacking)
}

/// What the login lacks to make a tenant of an archive, past triggers and foreign keys, and to take that back.
pub(crate) async fn to_import(
    client: &Client,
    side: Side,
    spec: &MoveSpec,
    plan: &MovePlan,
) -> Result<Vec<Obstacle>, MoveError> {
    let mut lacking = on_database(client, side, &["CREATE", "TEMPORARY"]).await?;
    lacking.extend(passes_triggers(client, side).await?);
    let left_out: Vec<&TableName> = spec.rules.leave_out.iter().collect();
    let (ours, nobodys): (Vec<&TableName>, Vec<&TableName>) = (tables_of(plan).collect(), shared_of(plan).collect());
    for (names, used) in [(ours, Use::Brings), (nobodys, Use::Adds), (left_out, Use::Reads)] {
        lacking.append(&mut on_tables(client, side, &names, used).await?);
    }
    let sequences = numbered::sequences(client, side, &plan.tables).await?;
    lacking.append(&mut on_sequences(client, side, &sequences, &[]).await?);
    lacking.append(&mut to_see_fences(client, side).await?);
    lacking.append(&mut on_earlier(client, side, "berth_control").await?);
    Ok(lacking)
}

/// What the login lacks to look whether a tenant lives there, where fences are another one's.
async fn to_see_fences(client: &Client, side: Side) -> Result<Vec<Obstacle>, MoveError> {
    let fences = TableName::new("berth", "fence");
    on_tables(client, side, &[&fences], Use::Reads).await
}

fn tables_of(plan: &MovePlan) -> impl Iterator<Item = &TableName> {
    plan.tables.iter().map(|t| &t.table)
}

fn shared_of(plan: &MovePlan) -> impl Iterator<Item = &TableName> {
    plan.shared.iter().map(|t| &t.table)
}

/// What the login lacks to change what earlier moves keep in this schema, their publications included. Nobody is made one with a
/// superuser: what belongs to one is given to the fence's keeper, or to the login where that is a superuser too. An event trigger can
/// only be a superuser's, and could not be taken away with the last fence.
pub(crate) async fn on_earlier(client: &Client, side: Side, schema: &str) -> Result<Vec<Obstacle>, MoveError> {
    let rows = client
        .query(
            &format!(
                "with me as (select rolname, rolinherit from pg_roles where rolname = session_user),
                 k(id, change) as (
                     select nspowner, format('ALTER SCHEMA %I', nspname) from pg_namespace where nspname = $1
                     union all
                     select p.proowner, format('ALTER FUNCTION %s', p.oid::regprocedure)
                     from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = $1
                     union all
                     select c.relowner, format('ALTER %s %I.%I', case c.relkind when 'S' then 'SEQUENCE' else 'TABLE' end, n.nspname, c.relname)
                     from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     where n.nspname = $1 and c.relkind in ('r', 'S') and not exists (
                         select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i'))
                     union all
                     select pubowner, format('ALTER PUBLICATION %I', pubname) from pg_publication
                     where $1 = 'berth' and pubname ~ '^berth_[0-9a-f]{{20}}(_back)?$'
                     union all
                     select evtowner, 'DROP EVENT TRIGGER berth_ddl' from pg_event_trigger where $1 = 'berth' and evtname = 'berth_ddl')
                 select o.rolname::text, o.rolsuper, {}, me.rolname::text, array_agg(k.change order by k.change),
                        (select pg_get_userbyid(p.proowner)::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                         join pg_roles r on r.oid = p.proowner
                         where n.nspname = $1 and p.proname = 'fence' and not r.rolsuper)
                 from k join (select oid, rolname, rolsuper from pg_roles) o on o.oid = k.id cross join me
                 where not pg_has_role(session_user, k.id, 'usage')
                 group by o.rolname, o.rolsuper, k.id, me.rolname, me.rolinherit order by 2 desc, 1",
                joining("k.id")
            ),
            &[&schema],
        )
        .await
        .doing(side, WHAT)?;
    let (mut lacking, mut statements, mut superuser) = (Vec::new(), Vec::new(), None);
    for row in rows {
        let (owner, role): (String, String) = (row.get(0), row.get(3));
        if row.get(1) {
            let to = ident(row.get::<_, Option<&str>>(5).unwrap_or(&role));
            for change in row.get::<_, Vec<String>>(4) {
                statements.push(if change.starts_with("DROP ") { change } else { format!("{change} OWNER TO {to}") });
            }
            superuser.get_or_insert((role, owner));
            continue;
        }
        let right = format!("membership of `{owner}`, who keeps the fences of earlier moves in schema `{schema}`");
        let statement = membership(&owner, &role, row.get(2));
        lacking.push(grant(side, &role, right, statement));
    }
    // Before its function is anybody's who may put another one in its place.
    statements.sort_by_key(|statement| !statement.starts_with("DROP "));
    // First, for whoever prints them: ownership before membership of who gets it.
    if let Some((role, owner)) = superuser {
        lacking.insert(0, Obstacle::EarlierMoves { side, role, owner, statements });
    }
    Ok(lacking)
}

/// What loads rows sets `session_replication_role`. Tried and not read from the catalogue: some servers let logins of
/// their own choice do it.
pub(crate) async fn passes_triggers(client: &Client, side: Side) -> Result<Option<Obstacle>, MoveError> {
    let tried = client.batch_execute("begin; set local session_replication_role = replica").await;
    // A transaction that failed is over all the same.
    let _ = client.batch_execute("rollback").await;
    if !is_denied(tried, side)? {
        return Ok(None);
    }
    let sql = "select session_user::text, current_setting('server_version_num')::int4";
    let row = client.query_one(sql, &[]).await.doing(side, WHAT)?;
    let role: String = row.get(0);
    // Before version 15 this is nobody's to grant.
    if row.get::<_, i32>(1) < 150_000 {
        return Ok(Some(Obstacle::Rights { side, role, right: "SUPERUSER".into() }));
    }
    let statement = format!("GRANT SET ON PARAMETER session_replication_role TO {}", ident(&role));
    Ok(Some(grant(side, &role, "SET on `session_replication_role`".into(), statement)))
}

/// Whether a slot may be made is looked at by dropping one that is not there: making one waits for whoever writes.
async fn reads_changes(client: &Client, side: Side, role: &str) -> Result<Option<Obstacle>, MoveError> {
    let tried = client.batch_execute("select pg_drop_replication_slot('berth_none')").await;
    let lacks = is_denied(tried, side)?;
    Ok(lacks.then(|| Obstacle::Rights { side, role: role.to_owned(), right: "REPLICATION".into() }))
}

/// Without it a standby is not seen, nor how old a writer's transaction is: both are waited for before the owner changes.
pub(crate) async fn sees_everybody(client: &Client, side: Side) -> Result<Option<Obstacle>, MoveError> {
    let sql = format!(
        "select pg_has_role(session_user, 'pg_read_all_stats', 'usage'), rolname::text, {} from pg_roles where rolname = session_user",
        joining("'pg_read_all_stats'")
    );
    let row = client.query_one(&sql, &[]).await.doing(side, WHAT)?;
    let role: String = row.get(1);
    let statement =
        membership("pg_read_all_stats", &role, row.get(2)).replace("\"pg_read_all_stats\"", "pg_read_all_stats");
    Ok((!row.get::<_, bool>(0)).then(|| grant(side, &role, "pg_read_all_stats".into(), statement)))
}

/// Any other answer of the server is not about rights; none at all is an error.
fn is_denied(tried: Result<(), tokio_postgres::Error>, side: Side) -> Result<bool, MoveError> {
    match tried {
        Err(error) if error.as_db_error().is_none() => Err(error).doing(side, WHAT),
        Err(error) => Ok(error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)),
        Ok(()) => Ok(false),
    }
}

/// What the login lacks on these tables. One that is not there lacks nothing. Partitions have an owner too; their rows are come to by
/// their table.
pub(crate) async fn on_tables(
    client: &Client,
    side: Side,
    tables: &[&TableName],
    used: Use,
) -> Result<Vec<Obstacle>, MoveError> {
    let schemas: Vec<&str> = tables.iter().map(|t| t.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
    // By name and not as `regclass`, which fails where the schema may not be entered.
    let rows = client
        .query(
            &format!("with recursive parts as (
                 select t.nth, c.oid from unnest($1::text[], $2::text[]) with ordinality t(s, r, nth)
                 join pg_namespace n on n.nspname = t.s join pg_class c on c.relnamespace = n.oid and c.relname = t.r
                 union
                 select parts.nth, i.inhrelid from parts join pg_inherits i on i.inhparent = parts.oid where $3)
             select n.nspname::text, c.relname::text, pg_get_userbyid(c.relowner)::text,
                    pg_has_role(session_user, c.relowner, 'usage'), has_schema_privilege(session_user, n.oid, 'usage'),
                    has_schema_privilege(session_user, n.oid, 'create'), has_table_privilege(session_user, c.oid, 'select'),
                    c.relrowsecurity and not me.rolbypassrls
                    and (c.relforcerowsecurity or not pg_has_role(session_user, c.relowner, 'usage')),
                    c.relforcerowsecurity, me.rolname::text, c.relowner = me.oid,
                    (select o.rolsuper from pg_roles o where o.oid = c.relowner), {},
                    has_table_privilege(session_user, c.oid, 'insert'), has_table_privilege(session_user, c.oid, 'delete')
             from parts join pg_class c on c.oid = parts.oid join pg_namespace n on n.oid = c.relnamespace
             cross join (select oid, rolname, rolbypassrls, rolinherit from pg_roles where rolname = session_user and not rolsuper) me
             order by parts.nth, c.oid", joining("c.relowner")),
            &[&schemas, &names, &used.owns()],
        )
        .await
        .doing(side, WHAT)?;
    let mut role = String::new();
    let mut not_owned: BTreeMap<(String, i32), BTreeSet<TableName>> = BTreeMap::new();
    let (mut own, mut of_superusers) = (None, BTreeSet::new());
    let (mut on_schemas, mut on_tables, mut forced) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for row in rows {
        role = row.get(9);
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let (owns, hidden, is_forced): (bool, bool, bool) = (row.get(3), row.get(7), row.get(8));
        if !row.get::<_, bool>(4) {
            on_schemas.insert(("USAGE", table.schema.clone()));
        }
        if used == Use::Rebuilds && !row.get::<_, bool>(5) {
            on_schemas.insert(("CREATE", table.schema.clone()));
        }
        let must_own = used.owns() && !owns;
        // Its owner passes policies that are not forced on him.
        if hidden && (is_forced || !must_own) {
            forced.insert(table.to_string());
        }
        if used.owns() && row.get(10) {
            own.get_or_insert_with(|| table.clone());
        }
        if must_own && row.get(11) {
            of_superusers.insert(table);
        } else if must_own {
            not_owned.entry((row.get(2), row.get(12))).or_default().insert(table);
        } else {
            let lacks: Vec<&str> =
                used.asks().iter().filter(|(_, at)| !row.get::<_, bool>(*at)).map(|(right, _)| *right).collect();
            if !lacks.is_empty() {
                on_tables.insert((table, lacks.join(", ")));
            }
        }
    }
    let to = ident(&role);
    let mut lacking = Vec::new();
    lacking.extend(own.map(|table| Obstacle::OwnerLogin { side, role: role.clone(), table }));
    lacking.extend(given_away(side, &role, &of_superusers));
    for ((owner, joining), tables) in not_owned {
        let first = tables.first().map(ToString::to_string).unwrap_or_default();
        let right = format!("membership of `{owner}`, who owns `{first}`{}", and_more(tables.len()));
        lacking.push(grant(side, &role, right, membership(&owner, &role, joining)));
    }
    for (right, schema) in on_schemas {
        let statement = format!("GRANT {right} ON SCHEMA {} TO {to}", ident(&schema));
        lacking.push(grant(side, &role, format!("{right} on schema `{schema}`"), statement));
    }
    for (table, rights) in on_tables {
        let statement = format!("GRANT {rights} ON {} TO {to}", table.sql());
        lacking.push(grant(side, &role, format!("{rights} on `{table}`"), statement));
    }
    if !forced.is_empty() {
        let tables = forced.into_iter().collect::<Vec<_>>().join("`, `");
        let right = format!("BYPASSRLS, and policies hide rows of `{tables}` from it");
        lacking.push(grant(side, &role, right, format!("ALTER ROLE {to} BYPASSRLS")));
    }
    Ok(lacking)
}

/// Membership of a superuser is nobody's to have: its tables are given to a role that nobody logs in as. No other one's:
/// whoever owns a table passes its policies. Foreign keys are checked as the owner of the table that they name.
fn given_away(side: Side, role: &str, tables: &BTreeSet<TableName>) -> Option<Obstacle> {
    let first = tables.first()?;
    let to = "tables_owner";
    let mut statements = vec![format!("CREATE ROLE {to}; GRANT {to} TO {}", ident(role))];
    let schemas: BTreeSet<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    statements.extend(schemas.into_iter().map(|schema| format!("GRANT USAGE ON SCHEMA {} TO {to}", ident(schema))));
    statements.extend(tables.iter().map(|table| format!("ALTER TABLE {} OWNER TO {to}", table.sql())));
    let right = format!("membership of who owns `{first}`{}, which is a superuser's", and_more(tables.len()));
    Some(grant(side, role, right, statements.join("; ")))
}

fn and_more(all: usize) -> String {
    if all < 2 { String::new() } else { format!(" and {} more", all - 1) }
}

/// What the login lacks on all tables of a move. `alone`: keys and indexes are made anew in the target.
pub(crate) async fn on_closure(
    spec: &MoveSpec,
    clients: [&Client; 2],
    alone: bool,
    tables: &[PlannedTable],
    shared: &[SharedTable],
) -> Result<Vec<Obstacle>, MoveError> {
    let names: Vec<&TableName> = tables.iter().map(|t| &t.table).chain(shared.iter().map(|t| &t.table)).collect();
    let left_out: Vec<&TableName> = spec.rules.leave_out.iter().collect();
    let parents: Vec<&TableName> = tables.iter().flat_map(|t| &t.through).map(|link| &link.to).collect();
    let mut all = Vec::new();
    for (client, side) in clients.into_iter().zip([Side::Source, Side::Target]) {
        let used = if alone && side == Side::Target { Use::Rebuilds } else { Use::Owns };
        let mut lacking = on_tables(client, side, &names, used).await?;
        lacking.append(&mut on_tables(client, side, &left_out, Use::Reads).await?);
        let past = past_policies(client, side, &parents).await?;
        lacking.extend(past.filter(|it| lacking.iter().all(|other| other.hint() != it.hint())));
        all.append(&mut lacking);
    }
    Ok(all)
}

/// Whose a row is that carries no tenant, the fence reads with its owner's rights beside every writer: policies that
/// come to hold for that owner would fail all of them.
async fn past_policies(client: &Client, side: Side, parents: &[&TableName]) -> Result<Option<Obstacle>, MoveError> {
    let schemas: Vec<&str> = parents.iter().map(|t| t.schema.as_str()).collect();
    let names: Vec<&str> = parents.iter().map(|t| t.name.as_str()).collect();
    let row = client
        .query_opt(
            "select n.nspname::text, c.relname::text, me.rolname::text from unnest($1::text[], $2::text[]) t(s, r)
             join pg_namespace n on n.nspname = t.s join pg_class c on c.relnamespace = n.oid and c.relname = t.r
             join pg_roles me on me.rolname = session_user and not me.rolsuper and not me.rolbypassrls
             where c.relrowsecurity order by 1, 2 limit 1",
            &[&schemas, &names],
        )
        .await
        .doing(side, WHAT)?;
    Ok(row.map(|row| {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let role: String = row.get(2);
        let right = format!("BYPASSRLS, and the fence reads `{table}`, which has policies");
        grant(side, &role, right, format!("ALTER ROLE {} BYPASSRLS", ident(&role)))
    }))
}

/// What the login lacks to read sequences and move them ahead. Those that are a column's own are its table's owner's.
/// `known`: what it is known to lack; whose membership it is to get, whose sequences it may use then.
pub(crate) async fn on_sequences(
    client: &Client,
    side: Side,
    sequences: &[PlannedSequence],
    known: &[Obstacle],
) -> Result<Vec<Obstacle>, MoveError> {
    let schemas: Vec<&str> = sequences.iter().map(|s| s.sequence.schema.as_str()).collect();
    let names: Vec<&str> = sequences.iter().map(|s| s.sequence.name.as_str()).collect();
    let rows = client
        .query(
            "select distinct n.nspname::text, c.relname::text, session_user::text, pg_get_userbyid(c.relowner)::text
             from unnest($1::text[], $2::text[]) t(s, r)
             join pg_namespace n on n.nspname = t.s join pg_class c on c.relnamespace = n.oid and c.relname = t.r
             where case when c.relkind = 'S' then not (has_sequence_privilege(session_user, c.oid, 'select')
                                                       and has_sequence_privilege(session_user, c.oid, 'update')) end
             order by 1, 2",
            &[&schemas, &names],
        )
        .await
        .doing(side, WHAT)?;
    let lacks = |row: &Row| {
        let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let role: String = row.get(2);
        let statement = format!("GRANT SELECT, UPDATE ON SEQUENCE {} TO {}", name.sql(), ident(&role));
        grant(side, &role, format!("SELECT and UPDATE on sequence `{name}`"), statement)
    };
    let is_to_come = |row: &&Row| {
        let joins = format!("GRANT {} TO ", ident(row.get(3)));
        known.iter().any(|it| matches!(it, Obstacle::Grant { side: of, statement, .. } if *of == side && statement.starts_with(&joins)))
    };
    Ok(rows.iter().filter(|row| !is_to_come(row)).map(lacks).collect())
}

/// Whether one of them is about rights: then nothing else is asked, which might need them.
pub(crate) fn are_lacking(obstacles: &[Obstacle]) -> bool {
    obstacles
        .iter()
        .any(|it| matches!(it, Obstacle::Rights { .. } | Obstacle::Grant { .. } | Obstacle::EarlierMoves { .. }))
}
