//! Tenants. Every change of state goes through `TenantState::after`, on the row that is locked for it.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::{
    CellClass, CellId, CellName, EdgeLimits, Generation, HostPattern, Hostname, IllegalTransition, MovePhase, Network,
    PlanName, TenantEvent, TenantId, TenantKey, TenantName, TenantState,
};
use jiff::Timestamp;
use serde::Deserialize as _;
use serde_json::Value;
use std::collections::BTreeMap;

/// A tenant with what is asked for most: its hosts and where it is.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub id: TenantId,
    pub name: TenantName,
    pub key: TenantKey,
    pub plan: PlanName,
    pub state: TenantState,
    pub settings: Value,
    /// Raised by every change.
    pub version: i64,
    pub created_at: Timestamp,
    pub changed_at: Timestamp,
    pub hosts: Vec<Hostname>,
    /// Wildcards and paths.
    pub patterns: Vec<HostPattern>,
    /// What it has instead of its plan's.
    pub limits: EdgeLimits,
    pub cell: CellId,
    pub cell_name: CellName,
    pub cell_class: CellClass,
    pub generation: Generation,
    pub phase: MovePhase,
}

impl Tenant {
    /// The networks whose clients edges serve; none: everybody's.
    pub fn allow(&self) -> Result<Vec<Network>, StoreError> {
        Ok(self.settings.get("allow").map(Vec::deserialize).transpose()?.unwrap_or_default())
    }
}

#[derive(Clone, Debug)]
pub struct NewTenant {
    pub id: TenantId,
    pub name: TenantName,
    pub key: TenantKey,
    pub plan: PlanName,
    pub settings: Value,
}

struct Row {
    id: uuid::Uuid,
    name: String,
    key: String,
    plan: String,
    state: String,
    settings: Value,
    version: i64,
    created_at: Moment,
    changed_at: Moment,
    hosts: Vec<String>,
    patterns: Vec<String>,
    limits: Value,
    cell: uuid::Uuid,
    cell_name: String,
    cell_class: String,
    generation: i64,
    phase: String,
}

impl TryFrom<Row> for Tenant {
    type Error = StoreError;
    fn try_from(r: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: r.id.into(),
            name: TenantName::new(r.name)?,
            key: TenantKey::new(r.key)?,
            plan: PlanName::new(r.plan)?,
            state: r.state.parse()?,
            settings: r.settings,
            version: r.version,
            created_at: r.created_at.0,
            changed_at: r.changed_at.0,
            hosts: r.hosts.into_iter().map(Hostname::new).collect::<Result<_, _>>()?,
            patterns: r.patterns.into_iter().map(HostPattern::new).collect::<Result<_, _>>()?,
            limits: serde_json::from_value(r.limits)?,
            cell: r.cell.into(),
            cell_name: CellName::new(r.cell_name)?,
            cell_class: r.cell_class.parse()?,
            generation: Generation::from_i64(r.generation),
            phase: r.phase.parse()?,
        })
    }
}

impl Store {
    /// Tenants that are not gone, by name: those after `after`, `limit` at most, whose name or host contains `like`.
    pub async fn tenant_list(
        &self,
        after: Option<&TenantName>,
        like: Option<&str>,
        limit: i64,
    ) -> Result<Vec<Tenant>, StoreError> {
        sqlx::query_as!(
            Row,
            r#"SELECT t.id, t.name, t.key, t.plan, t.state, t.settings, t.version,
                      t.created_at AS "created_at: Moment", t.changed_at AS "changed_at: Moment",
                      ARRAY(SELECT host FROM hosts h WHERE h.tenant_id = t.id AND host !~ '[*/]' ORDER BY host) AS "hosts!",
                      ARRAY(SELECT host FROM hosts h WHERE h.tenant_id = t.id AND host ~ '[*/]' ORDER BY host) AS "patterns!",
                      t.limits,
                      c.id AS cell, c.name AS cell_name, c.class AS cell_class, p.generation, p.phase
               FROM tenants t JOIN placements p ON p.tenant_id = t.id JOIN cells c ON c.id = p.owner
               WHERE t.state NOT IN ('deleted', 'failed') AND ($1::text IS NULL OR t.name > $1)
                 AND ($2::text IS NULL OR strpos(t.name, $2) > 0
                      OR EXISTS (SELECT FROM hosts h WHERE h.tenant_id = t.id AND strpos(h.host, $2) > 0))
               ORDER BY t.name LIMIT $3"#,
            after.map(TenantName::as_str),
            like,
            limit
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(Tenant::try_from)
        .collect()
    }

    /// Any tenant, gone ones too.
    pub async fn tenant_get(&self, id: TenantId) -> Result<Option<Tenant>, StoreError> {
        sqlx::query_as!(
            Row,
            r#"SELECT t.id, t.name, t.key, t.plan, t.state, t.settings, t.version,
                      t.created_at AS "created_at: Moment", t.changed_at AS "changed_at: Moment",
                      ARRAY(SELECT host FROM hosts h WHERE h.tenant_id = t.id AND host !~ '[*/]' ORDER BY host) AS "hosts!",
                      ARRAY(SELECT host FROM hosts h WHERE h.tenant_id = t.id AND host ~ '[*/]' ORDER BY host) AS "patterns!",
                      t.limits,
                      c.id AS cell, c.name AS cell_name, c.class AS cell_class, p.generation, p.phase
               FROM tenants t JOIN placements p ON p.tenant_id = t.id JOIN cells c ON c.id = p.owner WHERE t.id = $1"#,
            id.uuid()
        )
        .fetch_optional(&self.pool)
        .await?
        .map(Tenant::try_from)
        .transpose()
    }

    /// The tenant that has this name now.
    pub async fn tenant_by_name(&self, name: &TenantName) -> Result<Option<Tenant>, StoreError> {
        let id = sqlx::query_scalar!(
            "SELECT id FROM tenants WHERE name = $1 AND state NOT IN ('deleted', 'failed')",
            name.as_str()
        )
        .fetch_optional(&self.pool)
        .await?;
        match id {
            Some(id) => self.tenant_get(id.into()).await,
            None => Ok(None),
        }
    }

    /// How many tenants are in each state.
    pub async fn tenant_counts(&self) -> Result<Vec<(TenantState, i64)>, StoreError> {
        let rows = sqlx::query!(r#"SELECT state, count(*) AS "count!" FROM tenants GROUP BY state"#)
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(|r| Ok((r.state.parse()?, r.count))).collect()
    }

    /// Tenants by the key that their application and their fences know them by.
    pub async fn tenant_ids_by_key(&self) -> Result<BTreeMap<String, (TenantId, TenantName)>, StoreError> {
        let rows = sqlx::query!("SELECT id, name, key FROM tenants WHERE state NOT IN ('deleted', 'failed')")
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(|r| Ok((r.key, (r.id.into(), TenantName::new(r.name)?)))).collect()
    }

    /// Tenants by what people and applications call them: a name, an id, or `key:` and the application's key.
    pub async fn tenants_called(&self, called: &[String]) -> Result<BTreeMap<String, TenantId>, StoreError> {
        let keys: Vec<String> = called.iter().filter_map(|c| c.strip_prefix("key:")).map(str::to_owned).collect();
        let ids: Vec<uuid::Uuid> = called.iter().filter_map(|c| uuid::Uuid::parse_str(c).ok()).collect();
        let rows = sqlx::query!(
            "SELECT id, name, key FROM tenants
             WHERE state NOT IN ('deleted', 'failed') AND (name = ANY($1) OR key = ANY($2) OR id = ANY($3))",
            called,
            &keys,
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        let mut found = BTreeMap::new();
        // A name stands before an id, as everywhere.
        for r in &rows {
            found.insert(r.id.to_string(), r.id.into());
        }
        for r in rows {
            found.insert(format!("key:{}", r.key), r.id.into());
            found.insert(r.name, r.id.into());
        }
        Ok(found)
    }

    /// Keys of all tenants of a cell, for comparing with the application's root table.
    pub async fn tenant_keys_in(&self, cell: CellId) -> Result<Vec<(TenantName, TenantKey)>, StoreError> {
        let rows = sqlx::query!(
            "SELECT t.name, t.key FROM tenants t JOIN placements p ON p.tenant_id = t.id
             WHERE p.owner = $1 AND t.state NOT IN ('deleted', 'failed') ORDER BY t.name",
            cell.uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|r| Ok((TenantName::new(r.name)?, TenantKey::new(r.key)?))).collect()
    }
}

impl Tx {
    pub async fn tenant_insert(&mut self, new: &NewTenant) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO tenants (id, name, key, plan, state, settings) VALUES ($1, $2, $3, $4, $5, $6)",
            new.id.uuid(),
            new.name.as_str(),
            new.key.as_str(),
            new.plan.as_str(),
            TenantState::Provisioning.as_str(),
            new.settings
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// The tenant's state, its row locked until the transaction ends: a decision on it stands.
    pub async fn tenant_lock(&mut self, id: TenantId) -> Result<Option<TenantState>, StoreError> {
        let state = sqlx::query_scalar!("SELECT state FROM tenants WHERE id = $1 FOR UPDATE", id.uuid())
            .fetch_optional(&mut *self.inner)
            .await?;
        Ok(state.map(|s| s.parse()).transpose()?)
    }

    /// Applies an event to the tenant's state; the inner error says why it means nothing now. What edges see of
    /// the tenant is published with it.
    pub async fn tenant_apply(
        &mut self,
        id: TenantId,
        event: TenantEvent,
    ) -> Result<Result<TenantState, IllegalTransition>, StoreError> {
        let from = self.tenant_lock(id).await?.ok_or(StoreError::Stale("tenant"))?;
        let to = match from.after(event) {
            Ok(to) => to,
            Err(illegal) => return Ok(Err(illegal)),
        };
        sqlx::query!(
            "UPDATE tenants SET state = $2, version = version + 1, changed_at = now() WHERE id = $1",
            id.uuid(),
            to.as_str()
        )
        .execute(&mut *self.inner)
        .await?;
        if matches!(to, TenantState::Deleted | TenantState::Failed) {
            // Its hosts are free for others from here on.
            sqlx::query!("DELETE FROM hosts WHERE tenant_id = $1", id.uuid()).execute(&mut *self.inner).await?;
            sqlx::query!("DELETE FROM host_claims WHERE tenant_id = $1", id.uuid()).execute(&mut *self.inner).await?;
        }
        Ok(Ok(to))
    }

    pub async fn tenant_set_key(&mut self, id: TenantId, key: &TenantKey) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE tenants SET key = $2, version = version + 1, changed_at = now() WHERE id = $1",
            id.uuid(),
            key.as_str()
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// `Stale` when the tenant was changed since `version` was read.
    pub async fn tenant_set_plan(&mut self, id: TenantId, version: i64, plan: &PlanName) -> Result<(), StoreError> {
        let changed = sqlx::query!(
            "UPDATE tenants SET plan = $3, version = version + 1, changed_at = now() WHERE id = $1 AND version = $2",
            id.uuid(),
            version,
            plan.as_str()
        )
        .execute(&mut *self.inner)
        .await?;
        if changed.rows_affected() == 0 { Err(StoreError::Stale("tenant")) } else { Ok(()) }
    }

    /// The networks whose clients edges serve; none: everybody's.
    pub async fn tenant_set_allow(&mut self, id: TenantId, networks: &[Network]) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE tenants SET settings = jsonb_set(settings, '{allow}', $2) WHERE id = $1",
            id.uuid(),
            serde_json::to_value(networks)?
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// What it has at the edges instead of its plan's limits; nothing: the plan's.
    pub async fn tenant_set_limits(&mut self, id: TenantId, limits: &EdgeLimits) -> Result<(), StoreError> {
        sqlx::query!("UPDATE tenants SET limits = $2 WHERE id = $1", id.uuid(), serde_json::to_value(limits)?)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// What the tenant needs, as its decisions ask for it.
    pub async fn tenant_set_profile(&mut self, id: TenantId, profile: &Value) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE tenants SET settings = jsonb_set(settings, '{profile}', $2), version = version + 1,
                    changed_at = now() WHERE id = $1",
            id.uuid(),
            profile
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// What it needs, as it stands in this transaction.
    pub async fn tenant_profile(&mut self, id: TenantId) -> Result<Option<Value>, StoreError> {
        let settings = sqlx::query_scalar!("SELECT settings FROM tenants WHERE id = $1", id.uuid())
            .fetch_optional(&mut *self.inner)
            .await?;
        Ok(settings.and_then(|settings| settings.get("profile").cloned()))
    }

    /// Raises the version for a change of what belongs to the tenant (its hosts). `Stale` as above.
    pub async fn tenant_touch(&mut self, id: TenantId, version: i64) -> Result<(), StoreError> {
        let changed = sqlx::query!(
            "UPDATE tenants SET version = version + 1, changed_at = now() WHERE id = $1 AND version = $2",
            id.uuid(),
            version
        )
        .execute(&mut *self.inner)
        .await?;
        if changed.rows_affected() == 0 { Err(StoreError::Stale("tenant")) } else { Ok(()) }
    }

    /// The same for a change that rests on no reading of the tenant: whoever read it before is told so.
    pub async fn tenant_changed(&mut self, id: TenantId) -> Result<(), StoreError> {
        sqlx::query!("UPDATE tenants SET version = version + 1, changed_at = now() WHERE id = $1", id.uuid())
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }
}
