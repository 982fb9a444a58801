//! Fills one tenant's tables with rows enough to matter, the same rows for the same seed.
//!
//! Never goes through the application: a million positions over HTTP would take longer than the move they are for.
//! The root row must be there already; whoever creates tenants makes it.

use rand::{RngCore, SeedableRng, rngs::StdRng};
use tokio_postgres::{Client, types::Type};
use uuid::Uuid;

/// How much of what one tenant gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts {
    pub vehicles: u32,
    pub positions: u64,
    /// Rows in each of the smaller tables (users, drivers, geofences, routes, metrics, documents).
    pub others: u32,
}

impl Default for Amounts {
    fn default() -> Self {
        Self { vehicles: 20, positions: 10_000, others: 50 }
    }
}

/// What is there now.
#[derive(Clone, Debug)]
pub struct Seeded {
    pub vehicles: Vec<Uuid>,
    pub rows: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("tenant {tenant} has no row in `customers`")]
    NoSuchTenant { tenant: Uuid },
    #[error("filling `{table}` for tenant {tenant}")]
    Fill { table: &'static str, tenant: Uuid, source: tokio_postgres::Error },
    #[error("preparing to fill tenant {tenant}")]
    Prepare { tenant: Uuid, source: tokio_postgres::Error },
}

impl SeedError {
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoSuchTenant { .. } => Some("create the tenant first; only then is it filled"),
            Self::Fill { .. } => Some("a tenant is filled once with each seed, in the schema of the fleet application"),
            Self::Prepare { .. } => None,
        }
    }
}

/// The vehicles that [`seed`] makes, known without asking the database: load generators need them.
pub fn vehicle_ids(tenant: Uuid, seed: u64, vehicles: u32) -> Vec<Uuid> {
    let (high, low) = tenant.as_u64_pair();
    let mut random = StdRng::seed_from_u64(seed ^ high ^ low);
    let one = |_| {
        let mut bytes = [0; 16];
        random.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    };
    (0..vehicles).map(one).collect()
}

// `$1` the tenant, `$2` the seed, `$3` how many, `$4` the vehicles. A row's key is a hash of all that names it, so
// that the same seed gives the same rows; some columns are left null now and then, as in life.
const TABLES: [(&str, &str); 9] = [
    (
        "drivers",
        "insert into drivers (id, customer_id, name, licence_number, status, created_at)
         select md5($1 || $2 || 'driver' || i)::uuid, $1::uuid, 'Driver ' || i,
                case when i % 3 > 0 then 'L-' || i end, (array['active', 'inactive', 'suspended'])[1 + i % 3],
                '2025-06-01Z'::timestamptz + i * interval '1 hour'
           from generate_series(1, $3) as i",
    ),
    (
        "vehicles",
        "insert into vehicles (id, customer_id, name, vehicle_identifier, vehicle_type, metadata, created_at)
         select id, $1::uuid, 'Vehicle ' || i, 'V-' || $2 || '-' || i,
                (array['car', 'truck', 'van', 'motorcycle', 'other'])[1 + i % 5],
                jsonb_build_object('colour', (array['red', 'grün', 'bleu'])[1 + i % 3], 'axles', 2 + i % 3),
                '2025-06-01Z'::timestamptz + i * interval '1 minute'
           from unnest($4) with ordinality as v (id, i)",
    ),
    (
        "customer_users",
        "insert into customer_users (id, customer_id, email, role, created_at)
         select md5($1 || $2 || 'user' || i)::uuid, $1::uuid, 'user-' || $2 || '-' || i || '@tenants.invalid',
                (array['user', 'admin', 'owner'])[1 + i % 3], '2025-06-01Z'::timestamptz + i * interval '1 second'
           from generate_series(1, $3) as i",
    ),
    (
        "api_keys",
        "insert into api_keys (id, customer_id, name, key_hash, key_prefix, permissions, expires_at, created_at)
         select md5($1 || $2 || 'key' || i)::uuid, $1::uuid, 'key ' || i, sha256(convert_to($1 || $2 || i, 'UTF8')),
                'fk_' || i, array['gps:read', 'gps:write'], case when i % 2 = 0 then '2030-01-01Z'::timestamptz end,
                '2025-06-01Z'
           from generate_series(1, least($3, 5)) as i",
    ),
    (
        "geofences",
        "insert into geofences (id, customer_id, name, kind, center_lat, center_lng, radius_meters, geometry, created_at)
         select md5($1 || $2 || 'fence' || i)::uuid, $1::uuid, 'Zone ' || i,
                case when i % 2 = 0 then 'circle' else 'polygon' end,
                case when i % 2 = 0 then 48.1 + i * 0.001 end, case when i % 2 = 0 then 11.5 - i * 0.001 end,
                case when i % 2 = 0 then 100.5 + i end,
                case when i % 2 = 1 then '{\"type\":\"Polygon\",\"coordinates\":[[[0,0],[0,1.50],[1,1],[0,0]]]}'::jsonb end,
                '2025-06-01Z'
           from generate_series(1, $3) as i",
    ),
    (
        "routes",
        "insert into routes (id, customer_id, vehicle_id, path, distance_meters, duration_seconds, started_at, ended_at)
         select md5($1 || $2 || 'route' || i)::uuid, $1::uuid, ($4)[1 + i % cardinality($4)],
                jsonb_build_array(jsonb_build_array(i, 0.1), jsonb_build_array(i, 0.2)), i * 1000.25, i * 60,
                '2025-12-01Z'::timestamptz + i * interval '1 hour',
                case when i % 4 > 0 then '2025-12-01Z'::timestamptz + i * interval '61 minutes' end
           from generate_series(1, $3) as i where cardinality($4) > 0",
    ),
    (
        "usage_metrics",
        "insert into usage_metrics (id, customer_id, metric_type, metric_value, unit, timestamp)
         select md5($1 || $2 || 'metric' || i)::uuid, $1::uuid, (array['api_calls', 'storage'])[1 + i % 2],
                i * 1.10, 'n', '2025-12-01Z'::timestamptz + i * interval '1 hour'
           from generate_series(1, $3) as i",
    ),
    (
        "sync_updates",
        "insert into sync_updates (id, customer_id, document_id, update_data, update_version, created_at)
         select md5($1 || $2 || 'update' || i)::uuid, $1::uuid, 'document-' || i % 7,
                decode(md5($2 || i) || '00ff', 'hex'), i, '2025-12-01Z'
           from generate_series(1, $3) as i",
    ),
    (
        "gps_positions",
        "insert into gps_positions
             (id, customer_id, vehicle_id, event_id, time, latitude, longitude, speed, heading, accuracy, altitude)
         select md5($1 || $2 || 'position' || i)::uuid, $1::uuid, ($4)[1 + i % cardinality($4)],
                case when i % 10 > 0 then md5($1 || $2 || 'event' || i)::uuid end,
                '2025-12-01Z'::timestamptz + i * interval '1.000123 seconds',
                (i * 7919 % 180000000)::numeric / 1000000 - 90, (i * 104729 % 360000000)::numeric / 1000000 - 180,
                case when i % 5 > 0 then (i % 1300) / 10.0 end, case when i % 7 > 0 then i % 360 end,
                case when i % 3 > 0 then (i % 50) / 3.0 end, null
           from generate_series(1, $3) as i where cardinality($4) > 0",
    ),
];

/// Fills the tenant in one transaction, over a connection of the schema's owner or of a superuser.
///
/// A superuser skips the checks of foreign keys (the rows refer to each other by construction); that is what makes
/// a million positions a matter of seconds.
pub async fn seed(client: &mut Client, tenant: Uuid, amounts: Amounts, seed: u64) -> Result<Seeded, SeedError> {
    let prepare = |source| SeedError::Prepare { tenant, source };
    let transaction = client.transaction().await.map_err(prepare)?;
    let key = tenant.to_string();
    transaction.execute("select set_config('app.current_customer_id', $1, true)", &[&key]).await.map_err(prepare)?;
    let setting = "select set_config('synchronous_commit', 'off', true),
                          case when rolsuper then set_config('session_replication_role', 'replica', true) end
                     from pg_roles where rolname = current_user";
    transaction.execute(setting, &[]).await.map_err(prepare)?;
    if transaction.query_opt("select from customers where id = $1", &[&tenant]).await.map_err(prepare)?.is_none() {
        return Err(SeedError::NoSuchTenant { tenant });
    }
    let vehicles = vehicle_ids(tenant, seed, amounts.vehicles);
    let seed = seed.to_string();
    let mut rows = 0;
    for (table, statement) in TABLES {
        let count = if table == "gps_positions" { amounts.positions as i64 } else { i64::from(amounts.others) };
        let fill = |source| SeedError::Fill { table, tenant, source };
        let statement = transaction
            .prepare_typed(statement, &[Type::TEXT, Type::TEXT, Type::INT8, Type::UUID_ARRAY])
            .await
            .map_err(fill)?;
        rows += transaction.execute(&statement, &[&key, &seed, &count, &vehicles]).await.map_err(fill)?;
    }
    // Nobody plans well for a table that was empty when it was last looked at.
    for (table, _) in TABLES {
        let fill = |source| SeedError::Fill { table, tenant, source };
        transaction.batch_execute(&format!("analyze {table}")).await.map_err(fill)?;
    }
    transaction.commit().await.map_err(prepare)?;
    Ok(Seeded { vehicles, rows })
}
