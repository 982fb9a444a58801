//! Who else passes the fence as the mover does: whoever uses its login, and whoever may become its role. Changes nothing.

use crate::sql::Doing;
use crate::{MoveError, Obstacle, Side, TableName};
use tokio_postgres::Client;

const WHAT: &str = "looking at who passes the fence";

/// Who works under the mover's own login and is not Berth: what they write would be lost after the last comparison. Sessions,
/// background workers and subscriptions.
pub(crate) async fn shared(client: &Client, side: Side) -> Result<Option<Obstacle>, MoveError> {
    shared_if(client, side, true).await
}

/// The same once more at the cut-over, where the login is no superuser's, and so may be the application's, which connects
/// when it likes. Under a superuser's somebody may look why a move has to be undone.
pub(crate) async fn shared_by_now(client: &Client, side: Side) -> Result<Option<Obstacle>, MoveError> {
    shared_if(client, side, false).await
}

async fn shared_if(client: &Client, side: Side, superuser_too: bool) -> Result<Option<Obstacle>, MoveError> {
    // What a session reads beside itself goes with it, and what is told changes writes nothing. A subscription counts between its
    // workers' tries too: what it brings is written in its owner's name.
    let sql = "with me as (
                   select oid from pg_roles where rolname = session_user and ($1 or not rolsuper)),
               users as (
                   select backend_type = 'client backend' as is_session, format('%s %s', backend_type, pid) as what
                   from pg_stat_activity join me on me.oid = usesysid
                   where datname = current_database() and backend_type <> 'walsender' and leader_pid is null
                     and application_name not like 'berth%'
                   union all
                   select false, format('subscription `%s`', s.subname) from pg_subscription s join me on me.oid = s.subowner
                   where s.subenabled and s.subdbid = (select oid from pg_database where datname = current_database()))
               select count(*) filter (where is_session), session_user::text,
                      coalesce(array_agg(what order by what) filter (where not is_session), '{}') from users";
    let row = client.query_one(sql, &[&superuser_too]).await.doing(side, WHAT)?;
    let (sessions, workers): (i64, Vec<String>) = (row.get(0), row.get(2));
    let found = sessions > 0 || !workers.is_empty();
    Ok(found.then(|| Obstacle::SharedLogin { side, role: row.get(1), sessions, workers }))
}

/// Who uses a login, for people.
pub(crate) fn whoever(sessions: i64, workers: &[String]) -> String {
    let sessions = (sessions > 0).then(|| format!("{sessions} sessions"));
    sessions.into_iter().chain(workers.iter().cloned()).collect::<Vec<_>>().join(", ")
}

/// Logins that may become the mover's role, where that is no superuser's: the fence is that role's then, who may take it
/// away. One that may write these tables without it is an obstacle; of the others (whoever made the role) a note is made.
pub(crate) async fn members(
    client: &Client,
    side: Side,
    tables: &[&TableName],
    notes: &mut Vec<String>,
) -> Result<Vec<Obstacle>, MoveError> {
    let schemas: Vec<&str> = tables.iter().map(|t| t.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
    // Since version 16 a membership may leave out to become the role and to inherit from it. With the admin option one gives oneself the
    // rest; without any of the three it is of no use. Older servers have neither column, and every membership is one to become it.
    // Whoever makes roles (CREATEROLE) has that option on each, which nobody but the first superuser takes away: of such an administrator
    // a note is made, as older servers let him give himself any role.
    let rows = client
        .query(
            "with recursive me as (
                 select oid, rolname from pg_roles where rolname = session_user and not rolsuper),
             memberships as (
                 select m.member, m.roleid, m.admin_option,
                        coalesce((o->>'set_option')::bool, true) or (o->>'inherit_option')::bool as is_used
                 from pg_auth_members m cross join lateral to_jsonb(m) o),
             useful as (
                 select * from memberships where is_used or admin_option),
             becomes(login, role, as_is) as (
                 select oid, oid, true from pg_roles where rolcanlogin and not rolsuper
                 union
                 select b.login, u.roleid, b.as_is and u.is_used from becomes b join useful u on u.member = b.role),
             logins as (
                 select r.oid, r.rolname, me.rolname as mover_name, bool_or(b.as_is) or not r.rolcreaterole as counts
                 from me join becomes b on b.role = me.oid join pg_roles r on r.oid = b.login
                 where r.oid <> me.oid group by r.oid, r.rolname, r.rolcreaterole, me.rolname),
             without(login, role) as (
                 select oid, oid from logins
                 union
                 select w.login, u.roleid from without w join useful u on u.member = w.role
                 where u.roleid <> (select oid from me)),
             tables as (
                 select c.oid, c.relowner, c.relacl from unnest($1::text[], $2::text[]) t(s, r)
                 join pg_namespace n on n.nspname = t.s join pg_class c on c.relnamespace = n.oid and c.relname = t.r),
             writers as (
                 select relowner as role from tables
                 union
                 select a.grantee from tables, aclexplode(relacl) a
                 where a.privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
                 union
                 select a.grantee from tables join pg_attribute t on t.attrelid = tables.oid and not t.attisdropped,
                        aclexplode(t.attacl) a
                 where a.privilege_type in ('INSERT', 'UPDATE')
                 union
                 select oid from pg_roles where rolname = 'pg_write_all_data')
             select l.rolname::text, l.mover_name::text, l.counts and (
                 exists (select from writers where role = 0)
                 or exists (select from without w join writers on writers.role = w.role where w.login = l.oid))
             from logins l order by 1",
            &[&schemas, &names],
        )
        .await
        .doing(side, WHAT)?;
    let mut obstacles = Vec::new();
    for row in rows {
        let (member, role): (String, String) = (row.get(0), row.get(1));
        if row.get(2) {
            obstacles.push(Obstacle::MemberOfMover { side, role, member });
        } else {
            notes.push(format!(
                "login `{member}` may become the mover's role `{role}` in the {side}, and so take the fence away: nothing that serves tenants may use it"
            ));
        }
    }
    Ok(obstacles)
}
