//! Routes: what edges see, in the order in which it came into force.
//!
//! Every change of what an edge sees calls [`Tx::routes_publish`] last, in its own transaction. That takes the row
//! lock of `route_head` and the next revision, and the lock is held until the commit. So revisions become visible
//! in their order: a reader who sees revision 7 sees everything up to 7. A sequence would not do: 7 could be
//! committed before 6, an edge would acknowledge 7, and never ask for 6 again.
//!
//! Whoever publishes holds its other row locks already and takes none afterwards; `routes` is touched under the
//! head's lock alone. So two publishers can wait for each other only at that one row, and never in a circle.

use crate::{Store, StoreError, Tx, hub};
use berth_domain::{
    CellId, CellName, Generation, HostPattern, Hostname, MemberId, Network, PlanName, Revision, ServiceName, TenantId,
    TenantKey, TenantName, TenantState, Token,
};
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;
use std::collections::BTreeMap;

/// One tenant as edges are to see it.
#[derive(Clone, Debug)]
pub struct Route {
    pub tenant: TenantId,
    pub name: TenantName,
    pub key: TenantKey,
    pub plan: PlanName,
    pub state: TenantState,
    pub cell: CellName,
    pub generation: Generation,
    pub revision: Revision,
    pub hosts: Vec<Hostname>,
    /// Wildcards and paths.
    pub patterns: Vec<HostPattern>,
    /// Edges are to park what may write.
    pub hold: Option<RouteHold>,
    /// No new requests; what is open is closed over this time.
    pub draining_ms: Option<u32>,
    pub members: Vec<RouteMember>,
    pub body_bytes: Option<u64>,
    /// Its own before its plan's, by class.
    pub requests_per_minute: BTreeMap<String, u64>,
    /// Classes of which nothing is let through until then, for a quota is spent.
    pub spent: BTreeMap<String, Timestamp>,
    /// The networks whose clients are served; none: everybody's.
    pub allow: Vec<Network>,
}

#[derive(Clone, Copy, Debug)]
pub struct RouteHold {
    pub token: Token,
    pub everything: bool,
    pub drain_ms: u32,
    pub park_ms: u32,
}

/// A healthy web member.
#[derive(Clone, Debug, Deserialize)]
pub struct RouteMember {
    pub member: MemberId,
    pub service: ServiceName,
    pub address: String,
    /// No new requests; what is open is closed over this time.
    pub draining_ms: Option<u32>,
}

/// Routes that changed after some revision, and how far that brings their reader.
#[derive(Clone, Debug)]
pub struct RouteChanges {
    pub revision: Revision,
    pub routes: Vec<Route>,
    /// There are later ones.
    pub more: bool,
}

/// Routes that are read at once, and those of the same revision as the last of them.
const PAGE: i64 = 5_000;

impl Store {
    /// What changed after `after`, oldest first, a page of it. From 0: everything there ever was, the gone ones too.
    pub async fn routes_after(&self, after: Revision) -> Result<RouteChanges, StoreError> {
        self.routes_page(after, PAGE).await
    }

    /// The same, `most` routes and those of the last one's revision: a page ends with a whole revision, so that its
    /// reader can go on from there.
    pub async fn routes_page(&self, after: Revision, most: i64) -> Result<RouteChanges, StoreError> {
        // One statement, so one snapshot: the rows and the highest revision among them belong together.
        let rows = sqlx::query!(
            r#"SELECT r.revision, t.id, t.name, t.key, t.plan, t.state, c.name AS cell, p.generation,
                      p.holding, p.hold_token, p.hold_policy, p.drain_ms, p.park_ms,
                      ARRAY(SELECT host FROM hosts h WHERE h.tenant_id = t.id AND host !~ '[*/]' ORDER BY host) AS "hosts!",
                      ARRAY(SELECT host FROM hosts h WHERE h.tenant_id = t.id AND host ~ '[*/]' ORDER BY host) AS "patterns!",
                      (SELECT coalesce(jsonb_agg(jsonb_build_object('member', m.id, 'service', m.service, 'address', m.address,
                                                 'draining_ms', (SELECT grace_ms FROM drains WHERE kind = 'member' AND subject = m.id::text))
                                                 ORDER BY m.service, m.copy), '[]')
                       FROM members m WHERE m.cell_id = c.id AND m.service_role = 'web' AND m.state = 'healthy'
                                        AND m.wanted AND m.address IS NOT NULL) AS "members!",
                      (SELECT grace_ms FROM drains WHERE kind = 'tenant' AND subject = t.id::text) AS draining_ms,
                      coalesce(t.limits->>'body_bytes', pl.limits->>'body_bytes')::bigint AS body_bytes,
                      coalesce(pl.limits->'requests_per_minute', '{}') || coalesce(t.limits->'requests_per_minute', '{}')
                          AS "requests_per_minute!",
                      coalesce((SELECT jsonb_object_agg(s.class, s.until)
                                FROM (SELECT class, max(until) AS until FROM usage_spent
                                      WHERE tenant_id = t.id GROUP BY class) s), '{}') AS "spent!",
                      coalesce(t.settings->'allow', '[]') AS "allow!"
               FROM routes r
               JOIN tenants t ON t.id = r.tenant_id
               JOIN placements p ON p.tenant_id = t.id
               JOIN cells c ON c.id = p.owner
               JOIN plans pl ON pl.name = t.plan
               WHERE r.revision > $1 ORDER BY r.revision FETCH FIRST $2 ROWS WITH TIES"#,
            after.as_i64(),
            most
        )
        .fetch_all(&self.pool)
        .await?;
        let more = rows.len() as i64 >= most;
        let mut revision = after;
        let mut routes = Vec::with_capacity(rows.len());
        for r in rows {
            revision = revision.max(Revision::from_i64(r.revision));
            let hold = r.holding.then_some(RouteHold {
                token: Token::from_i64(r.hold_token),
                everything: r.hold_policy == "all",
                drain_ms: r.drain_ms.cast_unsigned(),
                park_ms: r.park_ms.cast_unsigned(),
            });
            routes.push(Route {
                tenant: r.id.into(),
                name: TenantName::new(r.name)?,
                key: TenantKey::new(r.key)?,
                plan: PlanName::new(r.plan)?,
                state: r.state.parse()?,
                cell: CellName::new(r.cell)?,
                generation: Generation::from_i64(r.generation),
                revision: Revision::from_i64(r.revision),
                hosts: r.hosts.into_iter().map(Hostname::new).collect::<Result<_, _>>()?,
                patterns: r.patterns.into_iter().map(HostPattern::new).collect::<Result<_, _>>()?,
                hold,
                draining_ms: r.draining_ms.map(i32::cast_unsigned),
                members: serde_json::from_value(r.members)?,
                body_bytes: r.body_bytes.and_then(|b| u64::try_from(b).ok()),
                requests_per_minute: serde_json::from_value(r.requests_per_minute)?,
                spent: serde_json::from_value(r.spent)?,
                allow: serde_json::from_value(r.allow)?,
            });
        }
        routes.sort_by_key(|route| (route.revision, route.tenant));
        Ok(RouteChanges { revision, routes, more })
    }

    /// What the cookies of sticky sessions are signed with, the same on every server.
    pub fn cookie_key(&self) -> SecretString {
        self.sealer.derived("edge.cookie")
    }

    /// The newest revision.
    pub async fn route_head(&self) -> Result<Revision, StoreError> {
        let head = sqlx::query_scalar!("SELECT revision FROM route_head").fetch_one(&self.pool).await?;
        Ok(Revision::from_i64(head))
    }

    /// The revision at which this tenant's route changed last: what edges must have acknowledged to have it.
    pub async fn route_revision(&self, tenant: TenantId) -> Result<Option<Revision>, StoreError> {
        let revision = sqlx::query_scalar!("SELECT revision FROM routes WHERE tenant_id = $1", tenant.uuid())
            .fetch_optional(&self.pool)
            .await?;
        Ok(revision.map(Revision::from_i64))
    }
}

impl Tx {
    /// Makes edges see what this transaction has stored, once it commits. The last statement of a transaction.
    pub async fn routes_publish(&mut self, tenants: &[TenantId]) -> Result<Revision, StoreError> {
        let tenants: Vec<_> = tenants.iter().map(|t| t.uuid()).collect();
        let head = sqlx::query!(
            r#"WITH head AS (UPDATE route_head SET revision = revision + 1 RETURNING revision),
                    marked AS (INSERT INTO routes (tenant_id, revision)
                               SELECT t, head.revision FROM head, unnest($1::uuid[]) t
                               ON CONFLICT (tenant_id) DO UPDATE SET revision = excluded.revision)
               SELECT revision AS "revision!", pg_notify($2, revision::text)::text AS told FROM head"#,
            &tenants,
            hub::ROUTES
        )
        .fetch_one(&mut *self.inner)
        .await?;
        Ok(Revision::from_i64(head.revision))
    }

    /// What edges are told beside routes changes with this transaction.
    pub async fn settings_publish(&mut self) -> Result<(), StoreError> {
        sqlx::query!(r#"SELECT pg_notify($1, '')::text AS told"#, hub::SETTINGS).fetch_one(&mut *self.inner).await?;
        Ok(())
    }

    /// The same for all tenants that a cell owns, where they have been published before.
    pub async fn routes_publish_cell(&mut self, cell: CellId) -> Result<(), StoreError> {
        // The lock first: a tenant that arrives in this cell publishes either before, and is among those selected
        // below, or after our commit, and then sees what we stored.
        sqlx::query_scalar!("SELECT revision FROM route_head FOR UPDATE").fetch_one(&mut *self.inner).await?;
        let tenants = sqlx::query_scalar!(
            "SELECT p.tenant_id FROM placements p JOIN routes r USING (tenant_id) WHERE p.owner = $1",
            cell.uuid()
        )
        .fetch_all(&mut *self.inner)
        .await?;
        self.routes_publish_found(tenants).await
    }

    /// The same for all tenants on these plans, whose limits changed.
    pub async fn routes_publish_plans(&mut self, plans: &[String]) -> Result<(), StoreError> {
        sqlx::query_scalar!("SELECT revision FROM route_head FOR UPDATE").fetch_one(&mut *self.inner).await?;
        let tenants = sqlx::query_scalar!(
            "SELECT t.id FROM tenants t JOIN routes r ON r.tenant_id = t.id WHERE t.plan = ANY($1)",
            plans
        )
        .fetch_all(&mut *self.inner)
        .await?;
        self.routes_publish_found(tenants).await
    }

    /// The same for all tenants with limits of their own.
    pub async fn routes_publish_own_limits(&mut self) -> Result<(), StoreError> {
        sqlx::query_scalar!("SELECT revision FROM route_head FOR UPDATE").fetch_one(&mut *self.inner).await?;
        let tenants = sqlx::query_scalar!(
            "SELECT t.id FROM tenants t JOIN routes r ON r.tenant_id = t.id WHERE t.limits <> '{}'"
        )
        .fetch_all(&mut *self.inner)
        .await?;
        self.routes_publish_found(tenants).await
    }

    async fn routes_publish_found(&mut self, tenants: Vec<uuid::Uuid>) -> Result<(), StoreError> {
        let tenants: Vec<TenantId> = tenants.into_iter().map(Into::into).collect();
        if !tenants.is_empty() {
            self.routes_publish(&tenants).await?;
        }
        Ok(())
    }

    /// The same for every tenant there is: what edges have is not trusted any more.
    pub async fn routes_publish_all(&mut self) -> Result<(), StoreError> {
        sqlx::query_scalar!("SELECT revision FROM route_head FOR UPDATE").fetch_one(&mut *self.inner).await?;
        let tenants = sqlx::query_scalar!("SELECT tenant_id FROM routes").fetch_all(&mut *self.inner).await?;
        let tenants: Vec<TenantId> = tenants.into_iter().map(Into::into).collect();
        self.routes_publish(&tenants).await.map(drop)
    }
}
