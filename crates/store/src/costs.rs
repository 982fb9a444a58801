//! What a month's costs are reckoned by: who lived where, which cells there were, and what was billed.
//!
//! Stays are written by triggers of the schema (`migrations/0004_costs.sql`) and only read here.

use crate::{Cell, Store, StoreError, Tx, moment::Moment};
use berth_domain::{CellId, Cents, TenantId, TenantName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A tenant in a cell on a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stay {
    pub id: TenantId,
    /// Its name: of a name that was given away and taken anew, one after the other.
    pub tenant: TenantName,
    pub cell: CellId,
    pub plan: String,
    pub price_cents: Cents,
    pub since: Timestamp,
    /// `None`: still.
    pub until: Option<Timestamp>,
}

/// A cell and how long it was there.
#[derive(Clone, Debug)]
pub struct CellSpan {
    pub cell: Cell,
    pub until: Option<Timestamp>,
}

/// Where an invoice comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InvoiceSource {
    Computed,
    Imported,
}

impl InvoiceSource {
    pub const WORDS: &'static [&'static str] = &["computed", "imported"];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Computed => "computed",
            Self::Imported => "imported",
        }
    }
}

/// One line of an invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceLine {
    /// A cell's id or name; absent: it belongs to none.
    pub cell: Option<String>,
    pub part: String,
    pub currency: String,
    pub micros: i64,
}

/// What one provider's month cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoice {
    /// `2026-11`
    pub month: String,
    pub provider: String,
    pub source: InvoiceSource,
    pub lines: Vec<InvoiceLine>,
    /// Millionths of a US dollar for one unit of each currency.
    pub rates: BTreeMap<String, i64>,
    /// The day of these rates.
    pub rates_of: String,
    pub stored_by: String,
}

impl Store {
    /// Stays that touch the time between two moments.
    pub async fn stays_between(&self, from: Timestamp, until: Timestamp) -> Result<Vec<Stay>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT t.id, t.name, s.cell_id, s.plan, s.price_cents, s.since AS "since: Moment", s.until AS "until: Moment"
               FROM stays s JOIN tenants t ON t.id = s.tenant_id
               WHERE s.since < $2 AND (s.until IS NULL OR s.until > $1) ORDER BY t.name, s.id"#,
            Moment(from) as Moment,
            Moment(until) as Moment
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(Stay {
                    id: r.id.into(),
                    tenant: TenantName::new(r.name)?,
                    cell: r.cell_id.into(),
                    plan: r.plan,
                    price_cents: Cents::new(r.price_cents),
                    since: r.since.0,
                    until: Moment::of(r.until),
                })
            })
            .collect()
    }

    /// Cells that were there at some time between two moments, those that are gone included; the older of two with one
    /// name first.
    pub async fn cells_between(&self, from: Timestamp, until: Timestamp) -> Result<Vec<CellSpan>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id, changed_at AS "changed_at: Moment" FROM cells
               WHERE created_at < $2 AND state IN ('removed', 'failed') AND changed_at > $1"#,
            Moment(from) as Moment,
            Moment(until) as Moment
        )
        .fetch_all(&self.pool)
        .await?;
        let standing = self.cell_list().await?.into_iter().filter(|cell| cell.created_at < until);
        let mut spans: Vec<CellSpan> = standing.map(|cell| CellSpan { cell, until: None }).collect();
        for gone in rows {
            if let Some(cell) = self.cell_get(gone.id.into()).await? {
                spans.push(CellSpan { cell, until: Some(gone.changed_at.0) });
            }
        }
        spans.sort_by(|a, b| (&a.cell.name, a.cell.created_at).cmp(&(&b.cell.name, b.cell.created_at)));
        Ok(spans)
    }

    /// Those of a month, by provider; of one provider the computed one first.
    pub async fn invoice_list(&self, month: &str) -> Result<Vec<Invoice>, StoreError> {
        let rows = sqlx::query!(
            "SELECT month, provider, source, lines, rates, rates_of, stored_by FROM invoices
             WHERE month = $1 ORDER BY provider, source",
            month
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                let imported = r.source == InvoiceSource::Imported.as_str();
                Ok(Invoice {
                    month: r.month,
                    provider: r.provider,
                    source: if imported { InvoiceSource::Imported } else { InvoiceSource::Computed },
                    lines: serde_json::from_value(r.lines)?,
                    rates: serde_json::from_value(r.rates)?,
                    rates_of: r.rates_of,
                    stored_by: r.stored_by,
                })
            })
            .collect()
    }

    /// Whether a month's computed invoices stand and are all there.
    pub async fn month_is_closed(&self, month: &str) -> Result<bool, StoreError> {
        let closed =
            sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM months_closed WHERE month = $1) AS "closed!""#, month);
        Ok(closed.fetch_one(&self.pool).await?)
    }

    /// When the first cell was made.
    pub async fn cells_since(&self) -> Result<Option<Timestamp>, StoreError> {
        let first = sqlx::query_scalar!(r#"SELECT min(created_at) AS "first: Moment" FROM cells"#);
        Ok(Moment::of(first.fetch_one(&self.pool).await?))
    }
}

impl Tx {
    /// In place of the one of the same month, provider and source.
    pub async fn invoice_put(&mut self, invoice: &Invoice) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO invoices (month, provider, source, lines, rates, rates_of, stored_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (month, provider, source) DO UPDATE SET lines = excluded.lines, rates = excluded.rates,
                 rates_of = excluded.rates_of, stored_by = excluded.stored_by, stored_at = now()",
            invoice.month,
            invoice.provider,
            invoice.source.as_str(),
            serde_json::to_value(&invoice.lines)?,
            serde_json::to_value(&invoice.rates)?,
            invoice.rates_of,
            invoice.stored_by
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Whether there was one.
    pub async fn invoice_remove(&mut self, month: &str, provider: &str) -> Result<bool, StoreError> {
        let gone = sqlx::query!(
            "DELETE FROM invoices WHERE month = $1 AND provider = $2 AND source = 'imported'",
            month,
            provider
        );
        Ok(gone.execute(&mut *self.inner).await?.rows_affected() > 0)
    }

    pub async fn month_close(&mut self, month: &str) -> Result<(), StoreError> {
        sqlx::query!("INSERT INTO months_closed (month) VALUES ($1) ON CONFLICT DO NOTHING", month)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }
}
