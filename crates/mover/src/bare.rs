//! Bare loading: a large table that is empty in the target loses its keys and indexes before the copy and gets
//! them back afterwards, which takes a quarter of the time of maintaining them row by row.
//!
//! What was taken off stands in `berth.deferred` before it goes, in the same transaction: a crash loses nothing.

use crate::sql::{Doing, connect_both};
use crate::{MoveError, MovePlan, MoveSpec, Phase, Progress, Side, Watcher};
use berth_domain::Token;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_postgres::Client;

/// Keys and indexes of one relation, as statements. `$1`: the relation's oid as text. A key is an index first, whose
/// definition says all of its storage parameters, and then the constraint over it, with which the index goes too.
const DEFINITIONS: &str = "
    select 'foreign key' as kind, conrelid::regclass::text, 3 as nth,
           format('alter table %s add constraint %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) as create_sql,
           format('alter table %s drop constraint %I', conrelid::regclass, conname) as drop_sql
    from pg_constraint where contype = 'f' and conparentid = 0 and (conrelid = $1::regclass or confrelid = $1::regclass)
    union all
    select 'key', c.conrelid::regclass::text, 1,
           format('alter table %s add constraint %I %s', c.conrelid::regclass, c.conname,
                  case when am.amname = 'btree' and c.contype <> 'x' then
                      format('%s using index %I', case c.contype when 'p' then 'primary key' else 'unique' end, i.relname)
                      || case when c.condeferrable then ' deferrable' else '' end
                      || case when c.condeferred then ' initially deferred' else '' end
                  else pg_get_constraintdef(c.oid) end),
           format('alter table %s drop constraint %I', c.conrelid::regclass, c.conname)
    from pg_constraint c join pg_class i on i.oid = c.conindid join pg_am am on am.oid = i.relam
    where c.contype in ('p', 'u', 'x') and c.conrelid = $1::regclass
    union all
    select 'index', c.conrelid::regclass::text, 2, pg_get_indexdef(c.conindid), ''
    from pg_constraint c join pg_class i on i.oid = c.conindid join pg_am am on am.oid = i.relam
    where c.contype in ('p', 'u') and c.conrelid = $1::regclass and am.amname = 'btree'
    union all
    select 'index', i.indrelid::regclass::text, 2, pg_get_indexdef(i.indexrelid), format('drop index %s', i.indexrelid::regclass)
    from pg_index i
    where i.indrelid = $1::regclass and not exists (select from pg_constraint c where c.conindid = i.indexrelid and c.contype in ('p', 'u', 'x'))
    order by nth desc, create_sql";

/// Whether a table may lose its keys: it is no partitioned one, and all that hangs on them is in [`DEFINITIONS`]. What depends on a
/// key by its name (a view that groups by the primary key, a function that says `ON CONFLICT ON CONSTRAINT`) would have to go
/// first, and a comment, a tablespace, the mark of `CLUSTER` and an index's own statistics would not come back. `$1`: its name.
const FIT: &str = "
    select from pg_class c
    where c.oid = $1::text::regclass and c.relkind = 'r' and c.relreplident = 'd'
       and not exists (select from pg_depend d join pg_constraint k on k.oid = d.refobjid
                       where d.refclassid = 'pg_constraint'::regclass and d.deptype = 'n'
                         and k.contype in ('p', 'u', 'x') and k.conrelid = c.oid)
       and not exists (select from pg_description d join pg_constraint k on k.oid = d.objoid
                       where d.classoid = 'pg_constraint'::regclass and k.contype in ('p', 'u', 'x', 'f') and c.oid in (k.conrelid, k.confrelid))
       and not exists (select from pg_index i join pg_class x on x.oid = i.indexrelid
                       where i.indrelid = c.oid
                         and (i.indisclustered or x.reltablespace <> 0
                              or exists (select from pg_description d where d.classoid = 'pg_class'::regclass and d.objoid = x.oid)
                              or exists (select from pg_attribute a where a.attrelid = x.oid and coalesce(a.attstattarget, -1) >= 0)))";

/// Takes keys and indexes off the large tables of the plan that are empty in the target and fit for it ([`FIT`]).
pub(crate) async fn strip(
    spec: &MoveSpec,
    plan: &MovePlan,
    target: &mut Client,
    token: Token,
) -> Result<(), MoveError> {
    let what = "taking keys off for the load";
    // Others would write without the keys meanwhile, or come in and be taken for ours.
    if !spec.alone {
        return Ok(());
    }
    for table in plan.tables.iter().filter(|t| t.rows >= spec.tuning.bare_load_rows) {
        let name = table.table.sql();
        let tx = target.transaction().await.doing(Side::Target, what)?;
        tx.batch_execute("set local lock_timeout = '2s'").await.doing(Side::Target, what)?;
        crate::prepare::hold_closed(spec, &tx, token).await?;
        let empty_and_fit = format!("{FIT} and not exists (select from {name})");
        let fit = tx.query_opt(&empty_and_fit, &[&name]).await.doing(Side::Target, what)?;
        if fit.is_none() {
            continue;
        }
        let definitions = tx.query(&DEFINITIONS.replace("$1", "$1::text"), &[&name]).await.doing(Side::Target, what)?;
        for row in definitions {
            let (kind, relation): (String, String) = (row.get(0), row.get(1));
            let (create_sql, drop_sql): (String, String) = (row.get(3), row.get(4));
            tx.execute(
                "insert into berth.deferred (move, nth, kind, relation, create_sql)
                 select $1, coalesce(max(nth), 0) + 1, $2, $3, $4 from berth.deferred where move = $1",
                &[&spec.short_id(), &kind, &relation, &create_sql],
            )
            .await
            .doing(Side::Target, what)?;
            if !drop_sql.is_empty() {
                tx.batch_execute(&drop_sql).await.doing(Side::Target, what)?;
            }
        }
        tx.commit().await.doing(Side::Target, what)?;
    }
    Ok(())
}

/// The tables whose keys are off, quoted as [`crate::TableName::sql`] does.
pub(crate) async fn tables_taken_bare(spec: &MoveSpec, target: &Client) -> Result<BTreeSet<String>, MoveError> {
    let what = "reading what was taken off";
    let there: bool = target
        .query_one("select to_regclass('berth.deferred') is not null", &[])
        .await
        .doing(Side::Target, what)?
        .get(0);
    if !there {
        return Ok(BTreeSet::new());
    }
    let rows = target
        .query(
            "select distinct '\"' || replace(n.nspname, '\"', '\"\"') || '\".\"' || replace(c.relname, '\"', '\"\"') || '\"'
             from berth.deferred d join pg_class c on c.oid = d.relation::regclass join pg_namespace n on n.oid = c.relnamespace
             where d.move = $1 and not d.done and d.kind <> 'foreign key'",
            &[&spec.short_id()],
        )
        .await
        .doing(Side::Target, what)?;
    Ok(rows.into_iter().map(|row| row.get(0)).collect())
}

/// Puts keys, indexes and foreign keys back, then the fence's triggers. Safe to run again.
pub async fn build(spec: &MoveSpec, plan: &MovePlan, token: Token, watcher: &dyn Watcher) -> Result<(), MoveError> {
    let (source, target) = connect_both(spec, &spec.session_name(token)).await?;
    watcher.progress(Progress::of(Phase::Build));
    // Half of a large move's time, in which nothing is read from its slot.
    crate::bound::within(spec, &source, build_on(spec, &target)).await?;
    let fence = crate::fence::Fence::find(&target, Side::Target, &spec.tenant)
        .await?
        .ok_or(MoveError::Fenced { side: Side::Target, held: token })?;
    fence.register(&target, token).await?;
    let lock_wait = Duration::from_millis(spec.tuning.lock_wait_ms);
    fence.ensure_triggers(&target, plan, lock_wait, crate::fence::Firing::Always).await?;
    if spec.way_back { crate::back::open(spec, plan, &target, token).await } else { Ok(()) }
}

pub(crate) async fn build_on(spec: &MoveSpec, target: &Client) -> Result<(), MoveError> {
    let what = "building keys and indexes";
    let there: bool = target
        .query_one("select to_regclass('berth.deferred') is not null", &[])
        .await
        .doing(Side::Target, what)?
        .get(0);
    if !there {
        return Ok(());
    }
    let open = target
        .query(
            "select nth, create_sql, kind = 'foreign key' from berth.deferred where move = $1 and not done
             order by case kind when 'index' then 1 when 'key' then 2 else 3 end, nth",
            &[&spec.short_id()],
        )
        .await
        .doing(Side::Target, what)?;
    for row in open {
        let (nth, create_sql): (i32, String) = (row.get(0), row.get(1));
        let sql = format!(
            "begin; {create_sql}; update berth.deferred set done = true where move = '{}' and nth = {nth}; commit",
            spec.short_id()
        );
        if let Err(source) = target.batch_execute(&sql).await {
            let _rolled_back = target.batch_execute("rollback").await;
            return Err(MoveError::Statement { side: Side::Target, doing: what, source });
        }
        if row.get(2) {
            spec.ahead.keep_made(create_sql);
        }
    }
    target
        .execute("delete from berth.deferred where move = $1 and done", &[&spec.short_id()])
        .await
        .doing(Side::Target, what)?;
    Ok(())
}

/// Makes the statistics of large tables that nobody else writes to. Beside the comparison, not after the keys, this costs no time of
/// its own. A table that keeps its old ones (somebody has its lock, an expression fails) gets them from the server in time.
pub(crate) async fn analyse(spec: &MoveSpec, plan: &MovePlan, target: &Client) {
    let large = plan.tables.iter().filter(|t| spec.alone && t.rows >= spec.tuning.bare_load_rows);
    for name in large.map(|t| t.table.sql()) {
        let sql = format!("begin; set local lock_timeout = '2s'; analyze {name}; commit");
        if target.batch_execute(&sql).await.is_err() && target.batch_execute("rollback").await.is_err() {
            // The session is gone, which the next that needs it says better.
            return;
        }
    }
}
