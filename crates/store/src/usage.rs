//! What tenants use: events counted once, what they come to, and the counters of edges.
//!
//! Locks are taken in one order everywhere, events before rollups and both by their keys, so that two who report at
//! once wait for each other and never in a circle.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::{CellId, EdgeId, EdgeName, TenantId, UsagePeriod};
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUsageEvent {
    pub tenant: TenantId,
    pub key: String,
    pub metric: String,
    pub amount: i64,
    pub at: Timestamp,
    /// Whoever reported it said when it was; otherwise it is when it came.
    pub dated: bool,
}

/// What the events of one metric come to in one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    pub tenant: TenantId,
    pub metric: String,
    pub period: UsagePeriod,
    pub starts_at: Timestamp,
    pub total: i64,
    pub greatest: i64,
    pub latest: i64,
    pub latest_at: Timestamp,
    pub events: i64,
}

/// What all tenants come to in one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageTotal {
    pub metric: String,
    pub starts_at: Timestamp,
    pub total: i64,
    /// The sum of the most that each reported at once.
    pub greatest: i64,
}

/// An edge's counters for one tenant, since that edge process began, or what they rose by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeMeter {
    pub requests: i64,
    /// Answered with a 5xx.
    pub failed_requests: i64,
    pub limited_requests: i64,
    pub received_bytes: i64,
    pub sent_bytes: i64,
    pub request_time_us: i64,
}

impl EdgeMeter {
    fn zip(self, other: Self, with: fn(i64, i64) -> i64) -> Self {
        Self {
            requests: with(self.requests, other.requests),
            failed_requests: with(self.failed_requests, other.failed_requests),
            limited_requests: with(self.limited_requests, other.limited_requests),
            received_bytes: with(self.received_bytes, other.received_bytes),
            sent_bytes: with(self.sent_bytes, other.sent_bytes),
            request_time_us: with(self.request_time_us, other.request_time_us),
        }
    }
}

struct Row {
    tenant_id: Uuid,
    metric: String,
    starts_at: Moment,
    total: i64,
    greatest: i64,
    latest: i64,
    latest_at: Moment,
    events: i64,
}

impl Row {
    fn of(self, period: UsagePeriod) -> UsageRow {
        UsageRow {
            tenant: self.tenant_id.into(),
            metric: self.metric,
            period,
            starts_at: self.starts_at.0,
            total: self.total,
            greatest: self.greatest,
            latest: self.latest,
            latest_at: self.latest_at.0,
            events: self.events,
        }
    }
}

/// How many rows one statement of the clearing deletes.
const CLEARED_AT_ONCE: i64 = 10_000;

impl Store {
    /// What one tenant used, oldest first.
    pub async fn usage_list(
        &self,
        tenant: TenantId,
        period: UsagePeriod,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<UsageRow>, StoreError> {
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT tenant_id, metric, starts_at AS "starts_at: Moment", total, greatest, latest,
                      latest_at AS "latest_at: Moment", events
               FROM usage WHERE tenant_id = $1 AND period = $2 AND starts_at >= $3 AND starts_at < $4
               ORDER BY metric, starts_at"#,
            tenant.uuid(),
            period.as_str(),
            Moment(from) as Moment,
            Moment(to) as Moment
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| row.of(period)).collect())
    }

    /// The newest period of each metric of a tenant: what a level stands at, and whether anything was ever reported.
    pub async fn usage_newest(&self, tenant: TenantId, period: UsagePeriod) -> Result<Vec<UsageRow>, StoreError> {
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT DISTINCT ON (metric) tenant_id, metric, starts_at AS "starts_at: Moment", total, greatest, latest,
                      latest_at AS "latest_at: Moment", events
               FROM usage WHERE tenant_id = $1 AND period = $2 ORDER BY metric, starts_at DESC"#,
            tenant.uuid(),
            period.as_str()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| row.of(period)).collect())
    }

    /// The same of these metrics and all tenants that are there: one look at an index for each, however far back rows go.
    pub async fn usage_newest_of_all(
        &self,
        period: UsagePeriod,
        metrics: &[String],
    ) -> Result<Vec<UsageRow>, StoreError> {
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT u.tenant_id, u.metric, u.starts_at AS "starts_at: Moment", u.total, u.greatest, u.latest,
                      u.latest_at AS "latest_at: Moment", u.events
               FROM tenants t CROSS JOIN unnest($2::text[]) AS asked (metric)
               CROSS JOIN LATERAL (SELECT * FROM usage WHERE tenant_id = t.id AND metric = asked.metric AND period = $1
                                   ORDER BY starts_at DESC LIMIT 1) u
               WHERE t.state NOT IN ('deleted', 'failed')"#,
            period.as_str(),
            metrics
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| row.of(period)).collect())
    }

    /// What all tenants used in one period that began at `starts_at`.
    pub async fn usage_of_all(&self, period: UsagePeriod, starts_at: Timestamp) -> Result<Vec<UsageRow>, StoreError> {
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT tenant_id, metric, starts_at AS "starts_at: Moment", total, greatest, latest,
                      latest_at AS "latest_at: Moment", events
               FROM usage WHERE starts_at = $1 AND period = $2 ORDER BY tenant_id, metric"#,
            Moment(starts_at) as Moment,
            period.as_str()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| row.of(period)).collect())
    }

    /// What all tenants used together, by metric and period, since then.
    pub async fn usage_totals(&self, period: UsagePeriod, since: Timestamp) -> Result<Vec<UsageTotal>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT metric, starts_at AS "starts_at: Moment", sum(total)::bigint AS "total!", sum(greatest)::bigint AS "greatest!"
               FROM usage WHERE period = $1 AND starts_at >= $2 GROUP BY metric, starts_at ORDER BY metric, starts_at"#,
            period.as_str(),
            Moment(since) as Moment
        )
        .fetch_all(&self.pool)
        .await?;
        let total = rows.into_iter().map(|r| UsageTotal {
            metric: r.metric,
            starts_at: r.starts_at.0,
            total: r.total,
            greatest: r.greatest,
        });
        Ok(total.collect())
    }

    /// Who used most of a metric since then, of the tenants that live in a cell.
    pub async fn usage_busiest(
        &self,
        cell: CellId,
        metric: &str,
        since: Timestamp,
    ) -> Result<Option<TenantId>, StoreError> {
        let found = sqlx::query_scalar!(
            "SELECT u.tenant_id FROM placements p JOIN usage u ON u.tenant_id = p.tenant_id
             WHERE p.owner = $1 AND u.metric = $2 AND u.period = 'hour' AND u.starts_at >= $3
             GROUP BY u.tenant_id ORDER BY sum(u.total) DESC, u.tenant_id LIMIT 1",
            cell.uuid(),
            metric,
            Moment(since) as Moment
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(Into::into))
    }

    /// In which unit each metric is counted.
    pub async fn usage_units(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let rows = sqlx::query!("SELECT metric, unit FROM usage_metrics").fetch_all(&self.pool).await?;
        Ok(rows.into_iter().map(|r| (r.metric, r.unit)).collect())
    }

    /// Tenants whose usage of the last hours was changed in the last `seconds`, by the database's clock.
    pub async fn usage_touched(&self, seconds: f64) -> Result<Vec<TenantId>, StoreError> {
        let rows = sqlx::query_scalar!(
            "SELECT DISTINCT tenant_id FROM usage
             WHERE period = 'day' AND starts_at >= now() - interval '2 days' AND changed_at >= now() - make_interval(secs => $1)
             ORDER BY tenant_id",
            seconds
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Forgets what nobody asks for any more: counted events by their keys' age, hours after 90 days, days and months
    /// after 13 months, lives of edges that ended a month ago. Answers whether there may be more.
    pub async fn usage_clear(&self, keys_s: f64) -> Result<bool, StoreError> {
        let events = sqlx::query!(
            "DELETE FROM usage_events WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM usage_events WHERE counted_at < now() - make_interval(secs => $1) LIMIT $2))",
            keys_s,
            CLEARED_AT_ONCE
        )
        .execute(&self.pool)
        .await?
        .rows_affected();
        let rollups = sqlx::query!(
            "DELETE FROM usage WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM usage WHERE (period = 'hour' AND starts_at < now() - interval '90 days')
                                           OR starts_at < now() - interval '13 months' LIMIT $1))",
            CLEARED_AT_ONCE
        )
        .execute(&self.pool)
        .await?
        .rows_affected();
        sqlx::query!("UPDATE edge_epochs SET closed = true WHERE NOT closed AND seen_at < now() - interval '30 days'")
            .execute(&self.pool)
            .await?;
        let meters = sqlx::query!(
            "DELETE FROM edge_meters WHERE ctid = ANY (ARRAY(
                 SELECT m.ctid FROM edge_meters m JOIN edge_epochs e USING (instance) WHERE e.closed LIMIT $1))",
            CLEARED_AT_ONCE
        )
        .execute(&self.pool)
        .await?
        .rows_affected();
        Ok([events, rollups, meters].into_iter().any(|rows| rows >= CLEARED_AT_ONCE.unsigned_abs()))
    }
}

impl Tx {
    /// Fixes the unit of each metric that has none yet, and answers the units in force.
    pub async fn usage_units_fix(
        &mut self,
        units: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, StoreError> {
        let (metrics, said): (Vec<_>, Vec<_>) =
            units.iter().map(|(metric, unit)| (metric.clone(), unit.clone())).unzip();
        sqlx::query!(
            "INSERT INTO usage_metrics (metric, unit) SELECT * FROM unnest($1::text[], $2::text[]) u(m, u) ORDER BY m
             ON CONFLICT DO NOTHING",
            &metrics,
            &said
        )
        .execute(&mut *self.inner)
        .await?;
        let rows = sqlx::query!("SELECT metric, unit FROM usage_metrics WHERE metric = ANY($1)", &metrics)
            .fetch_all(&mut *self.inner)
            .await?;
        Ok(rows.into_iter().map(|r| (r.metric, r.unit)).collect())
    }

    /// Notes events, and answers which of them are new. No key twice among them.
    pub async fn usage_events_insert(
        &mut self,
        events: &[NewUsageEvent],
    ) -> Result<Vec<(TenantId, String)>, StoreError> {
        let columns = Columns::of(events);
        let rows = sqlx::query!(
            "INSERT INTO usage_events (tenant_id, key, metric, amount, at)
             SELECT t, k, m, a, timestamptz 'epoch' + us * interval '1 microsecond'
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS e(t, k, m, a, us)
             ORDER BY t, k
             ON CONFLICT (tenant_id, key) DO NOTHING RETURNING tenant_id, key",
            &columns.tenants,
            &columns.keys,
            &columns.metrics,
            &columns.amounts,
            &columns.at_us
        )
        .fetch_all(&mut *self.inner)
        .await?;
        Ok(rows.into_iter().map(|r| (r.tenant_id.into(), r.key)).collect())
    }

    /// Which of these keys stand for something else than what was counted under them.
    pub async fn usage_events_differing(&mut self, events: &[NewUsageEvent]) -> Result<Vec<String>, StoreError> {
        let columns = Columns::of(events);
        let rows = sqlx::query_scalar!(
            "SELECT u.key FROM usage_events u
             JOIN unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::boolean[])
                  AS e(t, k, m, a, us, dated)
               ON u.tenant_id = t AND u.key = k
             WHERE (u.metric, u.amount) <> (m, a) OR (dated AND u.at <> timestamptz 'epoch' + us * interval '1 microsecond')
             ORDER BY u.key",
            &columns.tenants,
            &columns.keys,
            &columns.metrics,
            &columns.amounts,
            &columns.at_us,
            &columns.dated
        )
        .fetch_all(&mut *self.inner)
        .await?;
        Ok(rows)
    }

    /// Adds to what was used. The caller sees to it that nothing is added twice.
    pub async fn usage_add(&mut self, rows: &[UsageRow]) -> Result<(), StoreError> {
        let us = |at: Timestamp| at.as_microsecond();
        let tenants: Vec<Uuid> = rows.iter().map(|r| r.tenant.uuid()).collect();
        let metrics: Vec<String> = rows.iter().map(|r| r.metric.clone()).collect();
        let periods: Vec<String> = rows.iter().map(|r| r.period.as_str().to_owned()).collect();
        let starts: Vec<i64> = rows.iter().map(|r| us(r.starts_at)).collect();
        let totals: Vec<i64> = rows.iter().map(|r| r.total).collect();
        let greatests: Vec<i64> = rows.iter().map(|r| r.greatest).collect();
        let latests: Vec<i64> = rows.iter().map(|r| r.latest).collect();
        let latest_at: Vec<i64> = rows.iter().map(|r| us(r.latest_at)).collect();
        let events: Vec<i64> = rows.iter().map(|r| r.events).collect();
        sqlx::query!(
            "INSERT INTO usage (tenant_id, metric, period, starts_at, total, greatest, latest, latest_at, events)
             SELECT t, m, p, timestamptz 'epoch' + s * interval '1 microsecond', total, greatest, latest,
                    timestamptz 'epoch' + at * interval '1 microsecond', events
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                         $8::bigint[], $9::bigint[]) AS u(t, m, p, s, total, greatest, latest, at, events)
             ORDER BY t, m, p, s
             ON CONFLICT (tenant_id, metric, period, starts_at) DO UPDATE SET
                 total = least(usage.total::numeric + excluded.total, 9007199254740991)::bigint,
                 greatest = greatest(usage.greatest, excluded.greatest),
                 latest = CASE WHEN (excluded.latest_at, excluded.latest) > (usage.latest_at, usage.latest)
                               THEN excluded.latest ELSE usage.latest END,
                 latest_at = greatest(usage.latest_at, excluded.latest_at),
                 events = usage.events + excluded.events, changed_at = now()",
            &tenants,
            &metrics,
            &periods,
            &starts,
            &totals,
            &greatests,
            &latests,
            &latest_at,
            &events
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Takes an edge's counters and answers what they rose by since they were taken last. Said again, or late, they
    /// rise by nothing. `None`: that life of the edge is over and forgotten.
    pub async fn edge_meters_advance(
        &mut self,
        edge: &EdgeName,
        instance: EdgeId,
        meters: &[(TenantId, EdgeMeter)],
    ) -> Result<Option<Vec<(TenantId, EdgeMeter)>>, StoreError> {
        let closed = sqlx::query_scalar!(
            "INSERT INTO edge_epochs (instance, edge) VALUES ($1, $2)
             ON CONFLICT (instance) DO UPDATE SET seen_at = now() RETURNING closed",
            instance.uuid(),
            edge.as_str()
        )
        .fetch_one(&mut *self.inner)
        .await?;
        if closed {
            return Ok(None);
        }
        let ids: Vec<Uuid> = meters.iter().map(|(tenant, _)| tenant.uuid()).collect();
        // A tenant that this database does not know (it was restored from an older copy) has no usage here.
        let known = sqlx::query!(
            r#"SELECT t.id, coalesce(m.requests, 0) AS "requests!", coalesce(m.failed_requests, 0) AS "failed_requests!",
                      coalesce(m.limited_requests, 0) AS "limited_requests!", coalesce(m.received_bytes, 0) AS "received_bytes!",
                      coalesce(m.sent_bytes, 0) AS "sent_bytes!", coalesce(m.request_time_us, 0) AS "request_time_us!"
               FROM tenants t LEFT JOIN edge_meters m ON m.tenant_id = t.id AND m.instance = $1 WHERE t.id = ANY($2)"#,
            instance.uuid(),
            &ids
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let before: HashMap<TenantId, EdgeMeter> = known
            .into_iter()
            .map(|r| {
                let meter = EdgeMeter {
                    requests: r.requests,
                    failed_requests: r.failed_requests,
                    limited_requests: r.limited_requests,
                    received_bytes: r.received_bytes,
                    sent_bytes: r.sent_bytes,
                    request_time_us: r.request_time_us,
                };
                (TenantId::from(r.id), meter)
            })
            .collect();
        let mut now: BTreeMap<TenantId, EdgeMeter> = BTreeMap::new();
        for (tenant, meter) in meters.iter().filter(|(tenant, _)| before.contains_key(tenant)) {
            let highest = now.entry(*tenant).or_insert(before[tenant]);
            *highest = highest.zip(*meter, i64::max);
        }
        now.retain(|tenant, meter| before[tenant] != *meter);
        let column = |of: fn(&EdgeMeter) -> i64| now.values().map(of).collect::<Vec<i64>>();
        let ids: Vec<Uuid> = now.keys().map(|tenant| tenant.uuid()).collect();
        sqlx::query!(
            "INSERT INTO edge_meters (instance, tenant_id, requests, failed_requests, limited_requests, received_bytes,
                                      sent_bytes, request_time_us)
             SELECT $1, * FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                                      $8::bigint[])
             ON CONFLICT (instance, tenant_id) DO UPDATE SET
                 requests = excluded.requests, failed_requests = excluded.failed_requests,
                 limited_requests = excluded.limited_requests, received_bytes = excluded.received_bytes,
                 sent_bytes = excluded.sent_bytes, request_time_us = excluded.request_time_us",
            instance.uuid(),
            &ids,
            &column(|m| m.requests),
            &column(|m| m.failed_requests),
            &column(|m| m.limited_requests),
            &column(|m| m.received_bytes),
            &column(|m| m.sent_bytes),
            &column(|m| m.request_time_us)
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(Some(now.into_iter().map(|(t, meter)| (t, meter.zip(before[&t], i64::saturating_sub))).collect()))
    }
}

/// Events as `unnest` takes them.
#[derive(Default)]
struct Columns {
    tenants: Vec<Uuid>,
    keys: Vec<String>,
    metrics: Vec<String>,
    amounts: Vec<i64>,
    at_us: Vec<i64>,
    dated: Vec<bool>,
}

impl Columns {
    fn of(events: &[NewUsageEvent]) -> Self {
        let mut columns = Self::default();
        for event in events {
            columns.tenants.push(event.tenant.uuid());
            columns.keys.push(event.key.clone());
            columns.metrics.push(event.metric.clone());
            columns.amounts.push(event.amount);
            columns.at_us.push(event.at.as_microsecond());
            columns.dated.push(event.dated);
        }
        columns
    }
}
