//! How the tables of a move stand in its databases: which partitions they have, in which files their rows lie, and the fence's
//! triggers on them. What empties, exchanges or rewrites a part of a table (`TRUNCATE` of a partition, `ATTACH`, `DETACH`,
//! `DROP`, `VACUUM FULL`), and what takes a trigger away, leaves no word in the stream.
//!
//! Noted when the copy's slot is there and before a row is read, as the comment of the move's publication: it outlives the
//! worker, and goes with the move. Where nothing is noted (a way back, a move begun by an older release) the comparison
//! reads every row of the source anew, and how the tables stand is looked at before it does.

use crate::fence::Fence;
use crate::sql::{Doing, idents, literal};
use crate::{MoveError, MovePlan, MoveSpec, Side, schema_watch};
use berth_domain::Token;
use tokio_postgres::Client;

const WHAT: &str = "looking at how the tables stand";

/// One hash for each table of the plan, then one for each of nobody.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stood(Vec<String>);

/// What hashes begin with that are of columns and types too.
const CLOSER: &str = "w";

/// Columns and all types that they lead to: an enum's label that gets another name changes rows that nobody writes. Each
/// catalogue row tells that it was changed, and changed back too.
const COLUMNS: &str = ",
                        (select string_agg(concat_ws(',', a.attnum, a.xmin), ';' order by a.attnum) from pg_attribute a
                         where a.attrelid = parts.oid and a.attnum > 0),
                        types.said";
const TYPES: &str = ",
             used as (
                 select parts.oid as of, a.atttypid as type from parts
                 join pg_attribute a on a.attrelid = parts.oid and a.attnum > 0 and not a.attisdropped and a.atttypid >= 16384
                 union
                 select used.of, n.type from used join pg_type t on t.oid = used.type and t.oid >= 16384
                 cross join lateral (
                     select t.typelem where t.typelem <> 0 union all select t.typbasetype where t.typbasetype <> 0
                     union all select r.rngsubtype from pg_range r where r.rngtypid = t.oid
                     union all select a.atttypid from pg_attribute a
                         where t.typrelid <> 0 and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) n(type)),
             types as (
                 select used.of, string_agg(concat_ws(',', t.oid, t.xmin,
                            (select string_agg(concat_ws(':', e.oid, e.xmin), '.' order by e.oid) from pg_enum e where e.enumtypid = t.oid),
                            (select string_agg(concat_ws(':', a.attnum, a.xmin), '.' order by a.attnum) from pg_attribute a
                             where a.attrelid = t.typrelid and a.attnum > 0),
                            (select string_agg(concat_ws(':', c.oid, c.xmin), '.' order by c.oid) from pg_constraint c
                             where c.contypid = t.oid)), ';' order by t.oid) as said
                 from used join pg_type t on t.oid = used.type and t.oid >= 16384 group by used.of)";
const JOINED: &str = " left join types on types.of = parts.oid";

/// Takes no lock on any table. A trigger's own row tells that it was taken away and put up again meanwhile.
///
/// Where the mover is no superuser, or the watch is not up, nobody says in the stream that the schema changed: it is looked at
/// more closely.
pub(crate) async fn look(client: &Client, plan: &MovePlan, fence: &Fence) -> Result<Stood, MoveError> {
    let sql = "select rolsuper from pg_roles where rolname = session_user";
    let is_superuser: bool = client.query_one(sql, &[]).await.doing(fence.side, WHAT)?.get(0);
    let is_told = is_superuser && schema_watch::is_up(client, fence.side).await?;
    look_at(client, plan, fence, !is_told).await
}

async fn look_at(client: &Client, plan: &MovePlan, fence: &Fence, closely: bool) -> Result<Stood, MoveError> {
    let (first, types, columns, joined) = if closely { (CLOSER, TYPES, COLUMNS, JOINED) } else { ("", "", "", "") };
    let tables = plan.tables.iter().map(|t| t.table.sql());
    let names: Vec<String> = tables.chain(plan.shared.iter().map(|t| t.table.sql())).collect();
    let rows = client
        .query(
            &format!("with recursive parts as (
                 select n.nth, to_regclass(n.name)::oid as oid, 0::oid as parent, false as leaves
                 from unnest($1::text[]) with ordinality n(name, nth)
                 union all
                 select parts.nth, i.inhrelid, i.inhparent, i.inhdetachpending
                 from parts join pg_inherits i on i.inhparent = parts.oid){types}
             select '{first}' || left(md5(string_agg(concat_ws('|', parts.oid, parts.parent, parts.leaves, pg_relation_filenode(parts.oid::regclass),
                        (select string_agg(concat_ws(',', t.oid, t.xmin, t.tgenabled), ';' order by t.oid) from pg_trigger t
                         where t.tgrelid = parts.oid and t.tgname like $2){columns}), E'\\n' order by parts.oid)), 16)
             from parts{joined} group by parts.nth order by parts.nth"),
            &[&names, &fence.triggers()],
        )
        .await
        .doing(fence.side, WHAT)?;
    Ok(Stood(rows.iter().map(|row| row.get(0)).collect()))
}

/// Notes how they stand, in the source of `spec`, where the publication is there already. Refused when a later worker has
/// taken the move.
pub(crate) async fn note(spec: &MoveSpec, plan: &MovePlan, source: &Client, token: Token) -> Result<(), MoveError> {
    let fenced = MoveError::Fenced { side: Side::Source, held: token };
    let Some(fence) = Fence::find(source, Side::Source, &spec.tenant).await? else { return Err(fenced) };
    source.batch_execute("begin").await.doing(Side::Source, WHAT)?;
    let noted = try_note(spec, plan, source, &fence, token).await;
    if !matches!(noted, Ok(true)) {
        // The connection may be gone; then there is nothing to roll back either.
        let _rolled_back = source.batch_execute("rollback").await;
    }
    if noted? { Ok(()) } else { Err(fenced) }
}

async fn try_note(
    spec: &MoveSpec,
    plan: &MovePlan,
    source: &Client,
    fence: &Fence,
    token: Token,
) -> Result<bool, MoveError> {
    let ours = source
        .query_opt(
            "select from berth.fence where tenant = $1 and token <= $2 for share",
            &[&spec.tenant.as_str(), &token.as_i64()],
        )
        .await
        .doing(Side::Source, WHAT)?;
    if ours.is_none() {
        return Ok(false);
    }
    let stood = look(source, plan, fence).await?;
    let publication = idents(&[spec.publication()]);
    let note = literal(&stood.0.join(" "));
    let sql = format!("comment on publication {publication} is {note}; commit");
    source.batch_execute(&sql).await.doing(Side::Source, "noting how the tables stand").map(|()| true)
}

impl Stood {
    /// As the copy of `spec` noted it; where it did not, as it is now.
    pub async fn of(spec: &MoveSpec, plan: &MovePlan, source: &Client, fence: &Fence) -> Result<Self, MoveError> {
        let note = source
            .query_opt(
                "select obj_description(oid, 'pg_publication') from pg_publication where pubname = $1::text",
                &[&spec.publication()],
            )
            .await
            .doing(Side::Source, WHAT)?
            .and_then(|row| row.get::<_, Option<String>>(0));
        let hashes: Vec<String> = note.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        if hashes.len() == plan.tables.len() + plan.shared.len() {
            return Ok(Self(hashes));
        }
        look(source, plan, fence).await
    }

    /// Ends the move where one of them stands otherwise now, and says which.
    pub async fn unchanged(&self, client: &Client, plan: &MovePlan, fence: &Fence) -> Result<(), MoveError> {
        let closely = self.0.iter().any(|hash| hash.starts_with(CLOSER));
        let still_told = async { if closely { Ok(true) } else { schema_watch::is_up(client, fence.side).await } };
        let (still_told, now) = tokio::try_join!(still_told, look_at(client, plan, fence, closely))?;
        if !still_told {
            return Err(MoveError::SchemaChanged {
                what: format!(
                    "the event trigger `berth_ddl` of the {} was taken away or turned off, and what has changed since is not known",
                    fence.side
                ),
            });
        }
        let tables = plan.tables.iter().map(|t| &t.table).chain(plan.shared.iter().map(|t| &t.table));
        let mut pairs = tables.zip(self.0.iter().zip(&now.0));
        match pairs.find(|(_, (then, now))| then != now) {
            None => Ok(()),
            Some((table, _)) => Err(MoveError::SchemaChanged {
                what: format!(
                    "`{table}` does not stand in the {} as it did when its rows were read: a partition of it was truncated, attached, detached or dropped, its rows were written anew as a whole (VACUUM FULL, CLUSTER), or a trigger of the fence on it was taken away or turned off; or its columns or a type of theirs were changed",
                    fence.side
                ),
            }),
        }
    }
}
