//! Who else passes the fence as the mover does: whoever uses its login, and whoever may become its role. Changes nothing.

use crate::sql::{Doing, ident};
use crate::{MoveError, Obstacle, Side, TableName};
use tokio_postgres::Client;

const WHAT: &str = "looking at who passes the fence";

/// Who works under the mover's own login and is not Berth: what they write would be lost after the last comparison. Sessions,
/// background workers and subscriptions. Of workers of extensions under a superuser's a note is made.
pub(crate) async fn shared(
    client: &Client,
    side: Side,
    notes: &mut Vec<String>,
) -> Result<Option<Obstacle>, MoveError> {
    let users = users(client, side, true).await?;
    if !users.noted.is_empty() {
        notes.push(format!(
            "{} in the {side} run as the mover's role `{}`, a superuser, which no fence holds back: nothing that they do may write the tenant's rows during a move",
            whoever(0, &users.noted),
            users.role
        ));
    }
    Ok(users.in_the_way(side))
}

/// The same once more at the cut-over, where the login is no superuser's, and so may be the application's, which connects
/// when it likes. Under a superuser's somebody may look why a move has to be undone.
pub(crate) async fn shared_by_now(client: &Client, side: Side) -> Result<Option<Obstacle>, MoveError> {
    Ok(users(client, side, false).await?.in_the_way(side))
}

/// Who uses the mover's login besides Berth.
#[derive(Default)]
struct Users {
    role: String,
    sessions: i64,
    workers: Vec<String>,
    noted: Vec<String>,
}

impl Users {
    fn add(&mut self, kind: &str, what: String, is_superuser: bool) {
        match kind {
            "client backend" => self.sessions += 1,
            // Schedulers of extensions (pg_cron, TimescaleDB, Citus) run as the first superuser: nobody can give them another login.
            // What a subscription brings is the tenant's data, whoever owns it.
            kind if is_superuser && kind != SUBSCRIPTION && !kind.starts_with("logical replication") => {
                self.noted.push(what);
            }
            _ => self.workers.push(what),
        }
    }

    fn in_the_way(self, side: Side) -> Option<Obstacle> {
        let found = self.sessions > 0 || !self.workers.is_empty();
        found.then_some(Obstacle::SharedLogin { side, role: self.role, sessions: self.sessions, workers: self.workers })
    }
}

const SUBSCRIPTION: &str = "subscription";

async fn users(client: &Client, side: Side, superuser_too: bool) -> Result<Users, MoveError> {
    // What a session reads beside itself goes with it, and what is told changes writes nothing. A subscription counts between its
    // workers' tries too: what it brings is written in its owner's name.
    let sql = "with me as (
                   select oid, rolname, rolsuper from pg_roles where rolname = session_user and ($1 or not rolsuper))
               select me.rolname::text, me.rolsuper, backend_type, format('%s %s', backend_type, pid) as what
               from pg_stat_activity join me on me.oid = usesysid
               where datname = current_database() and backend_type <> 'walsender' and leader_pid is null
                 and application_name not like 'berth%'
               union all
               select me.rolname::text, me.rolsuper, $2::text, format('subscription `%s`', s.subname)
               from pg_subscription s join me on me.oid = s.subowner
               where s.subenabled and s.subdbid = (select oid from pg_database where datname = current_database())
               order by 4";
    let rows = client.query(sql, &[&superuser_too, &SUBSCRIPTION]).await.doing(side, WHAT)?;
    let mut users = Users::default();
    for row in rows {
        users.role = row.get(0);
        users.add(row.get(2), row.get(3), row.get(1));
    }
    Ok(users)
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
    // What is printed takes away the last membership on the way, the mover's role's own: a REVOKE of one that is only led to does
    // nothing. Since version 16 nor does one of what another role granted, where that is not named; a superuser's are all the first one's.
    let rows = client
        .query(
            "with recursive me as (
                 select oid, rolname from pg_roles where rolname = session_user and not rolsuper),
             memberships as (
                 select m.member, m.roleid, m.grantor, m.admin_option,
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
                 or exists (select from without w join writers on writers.role = w.role where w.login = l.oid)),
                 last.members, last.grantors
             from logins l cross join lateral (
                 select coalesce(array_agg(r.rolname::text order by r.rolname, u.grantor), '{}') as members,
                        coalesce(array_agg(case when current_setting('server_version_num')::int4 >= 160000 and u.grantor <> 10
                                           then pg_get_userbyid(u.grantor)::text end order by r.rolname, u.grantor), '{}') as grantors
                 from useful u join pg_roles r on r.oid = u.member
                 where u.roleid = (select oid from me)
                   and exists (select from becomes b where b.login = l.oid and b.role = u.member)) last
             order by 1",
            &[&schemas, &names],
        )
        .await
        .doing(side, WHAT)?;
    let mut obstacles = Vec::new();
    for row in rows {
        let (member, role): (String, String) = (row.get(0), row.get(1));
        if row.get(2) {
            let (last, grantors): (Vec<String>, Vec<Option<String>>) = (row.get(3), row.get(4));
            let revokes = last.iter().zip(&grantors).map(|(from, by)| revoke(&role, from, by.as_deref()));
            let statement = revokes.collect::<Vec<_>>().join("; ");
            obstacles.push(Obstacle::MemberOfMover { side, role, member, statement });
        } else {
            notes.push(format!(
                "login `{member}` may become the mover's role `{role}` in the {side}, and so take the fence away: nothing that serves tenants may use it"
            ));
        }
    }
    Ok(obstacles)
}

/// Takes a membership away.
pub(crate) fn revoke(role: &str, from: &str, granted_by: Option<&str>) -> String {
    let by = granted_by.map(|by| format!(" GRANTED BY {}", ident(by))).unwrap_or_default();
    format!("REVOKE {} FROM {}{by}", ident(role), ident(from))
}

#[cfg(test)]
mod tests {
    use super::Users;
    use crate::{Obstacle, Side};

    #[test]
    fn schedulers_under_a_superuser_are_noted_and_what_brings_rows_is_in_the_way() {
        let mut users = Users::default();
        users.add("TimescaleDB Background Worker Scheduler", "scheduler".into(), true);
        users.add("pg_cron launcher", "cron".into(), true);
        assert_eq!(users.noted, ["scheduler", "cron"]);
        assert_eq!(users.in_the_way(Side::Source), None);

        let mut users = Users::default();
        users.add("subscription", "incoming".into(), true);
        users.add("logical replication apply worker", "apply".into(), true);
        users.add("pg_cron", "job".into(), false);
        users.add("client backend", "psql".into(), true);
        assert!(users.noted.is_empty());
        let found = users.in_the_way(Side::Source);
        let Some(Obstacle::SharedLogin { sessions: 1, workers, .. }) = found else { panic!("{found:?}") };
        assert_eq!(workers, ["incoming", "apply", "job"]);
    }
}
