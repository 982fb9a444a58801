//! Placements: which cell holds a tenant, under which generation. Also the mover's control row; how that changes
//! while a move runs is in `ownership.rs`, and nothing here touches owner, generation, token or phase afterwards.

use crate::{Store, StoreError, Tx};
use berth_domain::{CellId, Generation, MovePhase, TenantId, Token};
use berth_mover::Control;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub tenant: TenantId,
    pub control: Control,
}

/// The generation of a tenant that has never moved. Above 0, so that "no generation" is below all.
pub(crate) const FIRST_GENERATION: Generation = Generation::new(1);

/// A control row as selected.
pub(crate) struct Row {
    pub owner: uuid::Uuid,
    pub generation: i64,
    pub token: i64,
    pub phase: String,
    pub target: Option<uuid::Uuid>,
    pub holding: bool,
}

impl TryFrom<Row> for Control {
    type Error = StoreError;
    fn try_from(r: Row) -> Result<Self, StoreError> {
        Ok(Self {
            owner: r.owner.into(),
            generation: Generation::from_i64(r.generation),
            token: Token::from_i64(r.token),
            phase: r.phase.parse()?,
            target: r.target.map(Into::into),
            holding: r.holding,
        })
    }
}

impl Store {
    pub async fn placement_get(&self, tenant: TenantId) -> Result<Option<Control>, StoreError> {
        sqlx::query_as!(
            Row,
            "SELECT owner, generation, token, phase, target, holding FROM placements WHERE tenant_id = $1",
            tenant.uuid()
        )
        .fetch_optional(&self.pool)
        .await?
        .map(Control::try_from)
        .transpose()
    }

    /// Placements of all tenants that are not gone.
    pub async fn placement_list(&self) -> Result<Vec<Placement>, StoreError> {
        let rows = sqlx::query!(
            "SELECT tenant_id, owner, generation, token, phase, target, holding
             FROM placements p JOIN tenants t ON t.id = p.tenant_id WHERE t.state NOT IN ('deleted', 'failed')
             ORDER BY tenant_id"
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                let control = Row {
                    owner: r.owner,
                    generation: r.generation,
                    token: r.token,
                    phase: r.phase,
                    target: r.target,
                    holding: r.holding,
                };
                Ok(Placement { tenant: r.tenant_id.into(), control: control.try_into()? })
            })
            .collect()
    }
}

impl Tx {
    /// A new tenant's placement. The caller holds the cell's lock and has seen that there is room.
    pub async fn placement_insert(&mut self, tenant: TenantId, owner: CellId) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO placements (tenant_id, owner, generation, token, phase, holding) VALUES ($1, $2, $3, 0, $4, false)",
            tenant.uuid(),
            owner.uuid(),
            FIRST_GENERATION.as_i64(),
            MovePhase::Idle.as_str()
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// How edges are to hold this tenant's requests, from the stack file; read when the mover asks for a hold.
    pub async fn placement_set_hold(
        &mut self,
        tenant: TenantId,
        everything: bool,
        drain_ms: u32,
        park_ms: u32,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE placements SET hold_policy = $2, drain_ms = $3, park_ms = $4 WHERE tenant_id = $1",
            tenant.uuid(),
            if everything { "all" } else { "unsafe" },
            i32::try_from(drain_ms).unwrap_or(i32::MAX),
            i32::try_from(park_ms).unwrap_or(i32::MAX)
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
