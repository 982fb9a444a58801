//! The fence: what makes a database refuse a tenant's writes, and who may change that.
//!
//! Whoever arms, opens or applies names a token; a lower one than the cell has seen is refused. What the fence
//! promises holds against every role but the tables' owner and superusers.

use crate::sql::{Doing, ident, literal};
use crate::{MoveError, MovePlan, PlannedTable, Side, TableName, fence_rows};
use berth_domain::{Generation, TenantKey, Token};
use std::time::Duration;
use tokio_postgres::{Client, SimpleQueryMessage, error::SqlState};

/// First key of the advisory locks, `BERT` in ASCII; the second is the fence's number.
pub(crate) const LOCK_CLASS: i32 = 1_111_839_316;
/// Serialises the installation, which several moves may begin at once.
const INSTALL_LOCK: i64 = 0x4245_5254_4801;

/// Whether writers get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    Closed,
}

impl Gate {
    fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }

    /// The sequence's value: 2 × generation, plus one while closed.
    fn word(self, generation: Generation) -> i64 {
        generation.as_i64() * 2 + i64::from(self == Self::Closed)
    }
}

/// A tenant's fence in one database.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    pub tenant: TenantKey,
    pub number: i32,
    sequence: String,
    pub sequence_oid: u32,
    pub side: Side,
}

/// Makes schema, tables and functions. Takes no lock on any table of the application.
pub(crate) async fn install(client: &mut Client, side: Side) -> Result<(), MoveError> {
    let tx = client.transaction().await.doing(side, "installing the fence")?;
    tx.execute("select pg_advisory_xact_lock($1)", &[&INSTALL_LOCK]).await.doing(side, "installing the fence")?;
    let keeper = fence_rows::ensure_keeper(&tx, side).await?;
    // The fence lets the mover's role through, whichever it is in this database.
    let row = tx
        .query_one(
            &format!(
                "select quote_literal(session_user), to_regclass('berth.windows') is not null and not {}
                        and obj_description(to_regnamespace('berth'), 'pg_namespace') is not null,
                        has_function_privilege('public', to_regprocedure('berth.fence()'), 'execute')",
                fence_rows::IS_ANOTHERS
            ),
            &[],
        )
        .await
        .doing(side, "installing the fence")?;
    if row.get::<_, Option<bool>>(1) != Some(true) {
        fence_rows::let_through(&tx, side).await?;
        let sql = include_str!("fence.sql").replace("@mover@", &row.get::<_, String>(0)).replace("@keeper@", &keeper);
        tx.batch_execute(&sql).await.doing(side, "installing the fence")?;
    } else if row.get::<_, Option<bool>>(2) == Some(false) {
        // Installed before partitions were thought of. The whole of it would lock the fence's table.
        let sql = "grant execute on function berth.fence(), berth.tenant_changed() to public";
        tx.batch_execute(sql).await.doing(side, "installing the fence")?;
    }
    tx.commit().await.doing(side, "installing the fence")
}

pub(crate) async fn is_installed(client: &Client, side: Side) -> Result<bool, MoveError> {
    let row = client.query_one("select to_regclass('berth.deferred') is not null", &[]).await;
    Ok(row.doing(side, "reading the fence")?.get(0))
}

/// Begins a transaction whose lock on a table neighbours queue behind: waited for `lock_wait` at most, and let go without
/// waiting for the disk. The next commit of the session that waits for it makes this one durable too.
pub(crate) fn briefly(lock_wait: Duration) -> String {
    format!("begin; set local lock_timeout = {}; set local synchronous_commit = off;", lock_wait.as_millis().max(1))
}

/// Tries with half the wait. A table whose writers are seldom all done within it is met by the whole one later.
const HASTY_TRIES: u32 = 300;
pub(crate) const MOST_TRIES: u32 = 2_000;

/// How often the fence's role is found to be gone while it is given something.
const ROLE_TRIES: u32 = 100;

/// How long the lock is waited for at this try.
pub(crate) fn wait_at(tries: u32, lock_wait: Duration) -> Duration {
    if tries < HASTY_TRIES { lock_wait / 2 } else { lock_wait }
}

/// Somebody else's lock, or the fence of another tenant that comes or goes at the same time.
pub(crate) fn is_in_the_way(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED))
}

/// How many triggers the fence of a tenant has on a table.
fn triggers_on(table: &PlannedTable) -> i64 {
    1 + if table.tenant_column.is_some() { 4 } else { 0 } + if table.through.is_empty() { 0 } else { 3 }
}

/// For whom the fence's triggers fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firing {
    /// For everybody, whatever a session is set to.
    Always,
    /// For everybody but sessions of replication, as the mover's are that load: a trigger a row would cost them dear.
    ButForTheMover,
}

impl Fence {
    /// The tenant's fence, made if there is none yet, with the installation: `gate` and `generation` only count then.
    pub async fn ensure(
        client: &mut Client,
        side: Side,
        tenant: &TenantKey,
        gate: Gate,
        generation: Generation,
        token: Token,
    ) -> Result<Self, MoveError> {
        let mut tries = 0;
        loop {
            match Self::try_ensure(client, side, tenant, gate, generation, token).await {
                // The role belongs to the whole server: the end of the last fence in another database drops it.
                Err(MoveError::Statement { source, .. })
                    if source.code() == Some(&SqlState::UNDEFINED_OBJECT) && tries < ROLE_TRIES =>
                {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => return other,
            }
        }
    }

    async fn try_ensure(
        client: &mut Client,
        side: Side,
        tenant: &TenantKey,
        gate: Gate,
        generation: Generation,
        token: Token,
    ) -> Result<Self, MoveError> {
        let what = "making the tenant's fence";
        // Between the installation and this, the end of the last other fence may have taken everything away again.
        let tx = loop {
            install(client, side).await?;
            let tx = client.transaction().await.doing(side, what)?;
            tx.batch_execute("set local lock_timeout = '5s'").await.doing(side, what)?;
            tx.execute("select pg_advisory_xact_lock_shared($1)", &[&INSTALL_LOCK]).await.doing(side, what)?;
            let there = tx.query_one("select to_regclass('berth.fence') is not null", &[]).await.doing(side, what)?;
            if there.get(0) {
                break tx;
            }
            tx.rollback().await.doing(side, what)?;
        };
        tx.execute(
            "insert into berth.fence (tenant, state, generation, token) values ($1, $2, $3, $4) on conflict (tenant) do nothing",
            &[&tenant.as_str(), &gate.as_str(), &generation.as_i64(), &token.as_i64()],
        )
        .await
        .doing(side, what)?;
        let row = tx
            .query_one(
                "select number, state, generation from berth.fence where tenant = $1 for update",
                &[&tenant.as_str()],
            )
            .await
            .doing(side, what)?;
        let number: i32 = row.get(0);
        let sequence = format!("berth.fence_{number}");
        let exists = tx.query_one("select to_regclass($1) is not null", &[&sequence]).await.doing(side, what)?;
        if !exists.get::<_, bool>(0) {
            let keeper = fence_rows::keeper(&tx, side).await?;
            let gate = if row.get::<_, String>(1) == "open" { Gate::Open } else { Gate::Closed };
            let word = gate.word(Generation::from_i64(row.get(2)));
            tx.batch_execute(&format!(
                "create sequence {sequence} minvalue 0; alter sequence {sequence} owner to {keeper}; select setval('{sequence}', {word})"
            ))
            .await
            .doing(side, what)?;
        }
        let oid: u32 = tx.query_one("select to_regclass($1)::oid", &[&sequence]).await.doing(side, what)?.get(0);
        tx.commit().await.doing(side, what)?;
        Ok(Self { tenant: tenant.clone(), number, sequence, sequence_oid: oid, side })
    }

    /// The tenant's fence, if this database has one.
    pub async fn find(client: &Client, side: Side, tenant: &TenantKey) -> Result<Option<Self>, MoveError> {
        let row = client
            .query_opt(
                "select number, to_regclass('berth.fence_' || number)::oid from berth.fence where tenant = $1",
                &[&tenant.as_str()],
            )
            .await
            .doing(side, "reading the fence")?;
        Ok(row.and_then(|row| {
            let number: i32 = row.get(0);
            let sequence_oid = row.get::<_, Option<u32>>(1)?;
            Some(Self { tenant: tenant.clone(), number, sequence: format!("berth.fence_{number}"), sequence_oid, side })
        }))
    }

    /// Writes the worker's token here, so that everything an earlier worker still sends is refused.
    pub async fn register(&self, client: &Client, token: Token) -> Result<(), MoveError> {
        let changed = client
            .execute(
                "update berth.fence set token = $2, changed_at = now() where tenant = $1 and token <= $2",
                &[&self.tenant.as_str(), &token.as_i64()],
            )
            .await
            .doing(self.side, "registering the token")?;
        if changed == 1 { Ok(()) } else { Err(MoveError::Fenced { side: self.side, held: token }) }
    }

    /// Triggers on each table, `ENABLE ALWAYS`. Row triggers are AFTER: a BEFORE ROW trigger would switch
    /// off multi-row COPY for everybody, and a later one could still change the tenant. Where no column says whose a
    /// row is, a trigger looks at all rows of a statement at once: see [`crate::fence_rows`].
    ///
    /// `CREATE TRIGGER` waits for all writers of the table and others queue behind it, so it waits `lock_wait`
    /// at most and tries again in a quieter moment.
    pub async fn ensure_triggers(
        &self,
        client: &Client,
        plan: &MovePlan,
        lock_wait: Duration,
        firing: Firing,
    ) -> Result<(), MoveError> {
        for table in &plan.tables {
            let mut tries = 0_u32;
            if !table.through.is_empty() {
                fence_rows::ensure_function(self, client, plan, table).await?;
            }
            loop {
                match self.try_triggers(client, table, wait_at(tries, lock_wait), firing).await {
                    Ok(()) => break,
                    Err(error) if is_in_the_way(&error) && tries < MOST_TRIES => {
                        client.batch_execute("rollback").await.doing(self.side, "making the fence's triggers")?;
                        tries += 1;
                        tokio::time::sleep(Duration::from_millis(u64::from(5 + tries % 20))).await;
                    }
                    Err(source) => {
                        return Err(MoveError::Statement {
                            side: self.side,
                            doing: "making the fence's triggers",
                            source,
                        });
                    }
                }
            }
        }
        self.flush(client).await
    }

    /// Makes durable what was committed before under [`briefly`].
    async fn flush(&self, client: &Client) -> Result<(), MoveError> {
        client
            .batch_execute("select pg_logical_emit_message(true, 'berth_flush', '')")
            .await
            .doing(self.side, "writing out the fence's triggers")
    }

    async fn try_triggers(
        &self,
        client: &Client,
        table: &PlannedTable,
        lock_wait: Duration,
        firing: Firing,
    ) -> Result<(), tokio_postgres::Error> {
        let prefix = format!("berth_{}", self.number);
        let there = client
            .query(
                "select tgname::text, tgenabled = 'A' from pg_trigger where tgrelid = to_regclass($1) and tgname like $2",
                &[&table.table.sql(), &format!("{}\\_%", prefix.replace('_', "\\_"))],
            )
            .await?;
        let on = table.table.sql();
        let begin = briefly(lock_wait);
        // One statement for all: each would have every session read the table's description anew.
        let enable = |names: &[String]| {
            let each: Vec<String> = names.iter().map(|name| format!("enable always trigger {}", ident(name))).collect();
            format!("alter table {on} {};", each.join(", "))
        };
        if there.len() as i64 >= triggers_on(table) {
            let weak: Vec<String> = there.iter().filter(|t| !t.get::<_, bool>(1)).map(|t| t.get(0)).collect();
            if weak.is_empty() || firing == Firing::ButForTheMover {
                return Ok(());
            }
            return client.batch_execute(&format!("{begin}{}commit", enable(&weak))).await;
        }
        let call = format!(
            "execute function berth.fence({}, {}, {})",
            self.number,
            self.sequence_oid,
            literal(self.tenant.as_str())
        );
        let (mut sql, mut made) = (begin, Vec::new());
        let mut trigger = |name: &str, event: &str, when: &str, call: &str| {
            let name = format!("{prefix}_{name}");
            sql.extend([format!("create trigger {name} {event} on {on} {when} {call};")]);
            made.push(name);
        };
        if let Some(column) = &table.tenant_column {
            let is = |row: &str| {
                format!("({row}.{} OPERATOR(pg_catalog.=) {})", ident(column), literal(self.tenant.as_str()))
            };
            let each = |condition: String| format!("for each row when ({condition})");
            trigger("insert", "after insert", &each(is("new")), &call);
            trigger("delete", "after delete", &each(is("old")), &call);
            trigger("update", "after update", &each(format!("{} or {}", is("old"), is("new"))), &call);
            trigger(
                "tenant",
                "after update",
                // A null is nobody's, and nobody's row may become a neighbour's.
                &each(format!("coalesce({}, false) <> coalesce({}, false)", is("old"), is("new"))),
                &format!(
                    "execute function berth.tenant_changed({})",
                    literal(&format!("{}.{}", table.table.schema, table.table.name))
                ),
            );
        }
        if !table.through.is_empty() {
            let look = format!("execute function {}()", fence_rows::function(self.number, &table.table));
            let (old, new) = ("old table as old_rows", "new table as new_rows");
            trigger("rows_insert", "after insert", &format!("referencing {new} for each statement"), &look);
            trigger("rows_delete", "after delete", &format!("referencing {old} for each statement"), &look);
            trigger("rows_update", "after update", &format!("referencing {old} {new} for each statement"), &look);
        }
        trigger("truncate", "before truncate", "for each statement", &call);
        if firing == Firing::Always {
            sql.push_str(&enable(&made));
        }
        sql.push_str("commit");
        client.batch_execute(&sql).await
    }

    /// The tables whose fence is not up as it was put up: a trigger dropped or disabled by the tables' owner, whom the
    /// fence does not hold back.
    pub async fn missing_triggers(&self, client: &Client, plan: &MovePlan) -> Result<Vec<String>, MoveError> {
        let names: Vec<String> = plan.tables.iter().map(|t| t.table.sql()).collect();
        let wanted: Vec<i64> = plan.tables.iter().map(triggers_on).collect();
        let rows = client
            .query(
                "select t.name from unnest($1::text[], $3::int8[]) t(name, wanted)
                 where t.wanted <> (select count(*) from pg_trigger g where g.tgrelid = to_regclass(t.name)
                     and g.tgname like $2 and g.tgenabled = 'A')",
                &[&names, &self.triggers(), &wanted],
            )
            .await
            .doing(self.side, "looking at the fence's triggers")?;
        Ok(rows.into_iter().map(|row| row.get(0)).collect())
    }

    /// Removes the triggers, on whatever tables they are by now; the row stays, so that a late worker is still refused.
    /// Returns whether there were any.
    pub async fn remove_triggers(&self, client: &Client, lock_wait: Duration) -> Result<bool, MoveError> {
        let what = "removing the fence's triggers";
        // Those of partitions go with their parents'.
        let found = client
            .query(
                "select n.nspname::text, c.relname::text, array_agg(t.tgname::text) from pg_trigger t
                 join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
                 where t.tgname like $1 and t.tgparentid = 0 group by 1, 2 order by 1, 2",
                &[&self.triggers()],
            )
            .await
            .doing(self.side, what)?;
        for row in &found {
            let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)).sql();
            // One lock for all of them: it keeps readers out too.
            let drop = |name: &String| format!("drop trigger if exists {} on {table};", ident(name));
            let drops: Vec<String> = row.get::<_, Vec<String>>(2).iter().map(drop).collect();
            let mut tries = 0_u32;
            let drop_all = |tries: u32| format!("{}{}commit", briefly(wait_at(tries, lock_wait)), drops.concat());
            while let Err(source) = client.batch_execute(&drop_all(tries)).await {
                client.batch_execute("rollback").await.doing(self.side, what)?;
                tries += 1;
                if !is_in_the_way(&source) || tries > MOST_TRIES {
                    return Err(MoveError::Statement { side: self.side, doing: what, source });
                }
                tokio::time::sleep(Duration::from_millis(u64::from(5 + tries % 20))).await;
            }
        }
        self.flush(client).await?;
        Ok(!found.is_empty())
    }

    /// What its triggers are called, as a pattern.
    pub fn triggers(&self) -> String {
        format!("berth\\_{}\\_%", self.number)
    }

    pub async fn has_triggers(&self, client: &Client) -> Result<bool, MoveError> {
        let sql = "select exists (select from pg_trigger where tgname like $1)";
        let row = client.query_one(sql, &[&self.triggers()]).await;
        Ok(row.doing(self.side, "looking at the fence's triggers")?.get(0))
    }

    /// Closes the fence and writes `marker` into the stream, in one transaction that is durable when this returns.
    ///
    /// Waits for this tenant's writers only, `lock_wait` at most. An error means *not known*: take a new token
    /// and look again.
    pub async fn arm(&self, client: &Client, token: Token, marker: &str, lock_wait: Duration) -> Result<(), MoveError> {
        self.turn(client, token, Gate::Closed, None, Some(marker), lock_wait).await
    }

    /// Opens the fence. With a generation, that is what the database says it has from now on; with a marker, that is
    /// in the stream before anything that gets through.
    pub async fn open(
        &self,
        client: &Client,
        token: Token,
        generation: Option<Generation>,
        marker: Option<&str>,
        lock_wait: Duration,
    ) -> Result<(), MoveError> {
        self.turn(client, token, Gate::Open, generation, marker, lock_wait).await
    }

    async fn turn(
        &self,
        client: &Client,
        token: Token,
        gate: Gate,
        generation: Option<Generation>,
        marker: Option<&str>,
        lock_wait: Duration,
    ) -> Result<(), MoveError> {
        let what = if gate == Gate::Closed { "arming the fence" } else { "opening the fence" };
        let done = self.try_turn(client, token, gate, generation, marker, lock_wait).await;
        match done {
            Ok(true) => Ok(()),
            Ok(false) => {
                client.batch_execute("rollback").await.doing(self.side, what)?;
                Err(MoveError::Fenced { side: self.side, held: token })
            }
            Err(source) => {
                // The connection may be gone; then there is nothing to roll back either.
                let _rolled_back = client.batch_execute("rollback").await;
                Err(MoveError::Statement { side: self.side, doing: what, source })
            }
        }
    }

    async fn try_turn(
        &self,
        client: &Client,
        token: Token,
        gate: Gate,
        generation: Option<Generation>,
        marker: Option<&str>,
        lock_wait: Duration,
    ) -> Result<bool, tokio_postgres::Error> {
        // One message, so that a busy machine is waited for once and not at every statement. Each statement has a
        // snapshot of its own in READ COMMITTED: the update's is younger than the lock. The sequence is only set where
        // the row is ours, because nothing takes that back.
        let (number, sequence, token, state) = (self.number, &self.sequence, token.as_i64(), gate.as_str());
        let tenant = literal(self.tenant.as_str());
        let generation = generation.map_or_else(|| "generation".to_owned(), |new| new.as_i64().to_string());
        let closed = i64::from(gate == Gate::Closed);
        let emit =
            marker.map(|m| format!(", pg_logical_emit_message(true, 'berth', {})", literal(m))).unwrap_or_default();
        let done = client
            .simple_query(&format!(
                "begin isolation level read committed; set local lock_timeout = {};
                 select pg_advisory_xact_lock({LOCK_CLASS}, {number});
                 update berth.fence set state = '{state}', token = {token}, generation = {generation}, changed_at = now()
                 where tenant = {tenant} and token <= {token};
                 select setval('{sequence}', generation * 2 + {closed}){emit} from berth.fence
                 where tenant = {tenant} and token = {token} and state = '{state}';
                 commit",
                lock_wait.as_millis()
            ))
            .await?;
        Ok(done.iter().filter(|said| matches!(said, SimpleQueryMessage::Row(_))).count() == 2)
    }

    /// The oldest transaction of the tenant that has passed the fence, in milliseconds of age; prepared ones
    /// count as older than any bound, because nobody knows when they end, and so do those that are hidden from the
    /// login.
    pub async fn oldest_writer_ms(&self, client: &Client) -> Result<Option<u64>, MoveError> {
        let row = client
            .query_one(
                "select max(case when a.pid is null or a.backend_type is null then 1e12 else extract(epoch from clock_timestamp() - a.xact_start) * 1000 end)::float8
                 from pg_locks l left join pg_stat_activity a on a.pid = l.pid
                 where l.locktype = 'advisory' and l.classid = $1::int4::int8::oid and l.objid = $2::int4::int8::oid and l.objsubid = 2
                   and l.database = (select oid from pg_database where datname = current_database())
                   and l.pid is distinct from pg_backend_pid()",
                &[&LOCK_CLASS, &self.number],
            )
            .await
            .doing(self.side, "looking for old transactions")?;
        Ok(row.get::<_, Option<f64>>(0).map(|ms| ms.max(0.0) as u64))
    }
}

/// How long a session is waited for that was told to end.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(5);

/// Ends what an earlier worker of this move may still be doing here: a killed worker's statement goes on in the
/// server. The token would refuse it, but it could hold locks and copy rows until it notices. False where one of them
/// has not ended.
pub(crate) async fn end_older_sessions(client: &Client, side: Side, prefix: &str) -> Result<bool, MoveError> {
    let pattern = format!("{}%", prefix.replace('_', "\\_"));
    let limit = i64::try_from(END_LIMIT.as_millis()).unwrap_or(i64::MAX);
    let row = client
        .query_one(
            "select coalesce(bool_and(pg_terminate_backend(pid, $2)), true) from pg_stat_activity
             where application_name like $1 and pid <> pg_backend_pid() and datname = current_database()",
            &[&pattern, &limit],
        )
        .await;
    Ok(row.doing(side, "ending an earlier worker's sessions")?.get(0))
}

/// The tenant's fence goes, and everything of Berth with the last one. Its triggers are gone already.
pub(crate) async fn remove(client: &mut Client, fence: &Fence) -> Result<(), MoveError> {
    let what = "removing the fence";
    let tx = client.transaction().await.doing(fence.side, what)?;
    // Whoever begins a move in this database waits for this.
    tx.batch_execute("set local lock_timeout = '5s'").await.doing(fence.side, what)?;
    tx.execute("select pg_advisory_xact_lock($1)", &[&INSTALL_LOCK]).await.doing(fence.side, what)?;
    tx.execute("delete from berth.fence where tenant = $1", &[&fence.tenant.as_str()]).await.doing(fence.side, what)?;
    tx.batch_execute(&format!("drop sequence if exists {}", fence.sequence)).await.doing(fence.side, what)?;
    fence_rows::remove_functions(fence, &tx).await?;
    let others: bool = tx
        .query_one("select exists (select from berth.fence) or exists (select from berth.deferred)", &[])
        .await
        .doing(fence.side, what)?
        .get(0);
    if !others {
        let owned = match fence_rows::keeper(&tx, fence.side).await?.as_str() {
            "berth_fence" => "drop owned by berth_fence cascade;",
            _ => "",
        };
        let all = format!("drop event trigger if exists berth_ddl; {owned} drop schema if exists berth cascade");
        tx.batch_execute(&all).await.doing(fence.side, what)?;
    }
    tx.commit().await.doing(fence.side, what)?;
    if !others {
        // The role belongs to the whole server: another database of it may still need it.
        let _kept = client.batch_execute("drop role berth_fence").await;
    }
    Ok(())
}

/// Every fence of a database, for `berth recover` and for a restored backup that must not speak.
pub async fn fences(
    endpoint: &crate::Endpoint,
    side: Side,
) -> Result<Vec<(String, bool, Generation, Token)>, MoveError> {
    let client = crate::sql::connect(endpoint, side, "berth-fences").await?;
    let there: bool = client
        .query_one("select to_regclass('berth.fence') is not null", &[])
        .await
        .doing(side, "reading the fences")?
        .get(0);
    if !there {
        return Ok(Vec::new());
    }
    let rows = client
        .query("select tenant, state = 'open', generation, token from berth.fence", &[])
        .await
        .doing(side, "reading the fences")?;
    Ok(rows
        .into_iter()
        .map(|r| (r.get(0), r.get(1), Generation::from_i64(r.get(2)), Token::from_i64(r.get(3))))
        .collect())
}
