//! `GET` and `POST /api/v1/geofences`, `PUT` and `DELETE /api/v1/geofences/{id}`.

use axum::{
    Json as Answer,
    extract::{Path, State, rejection::PathRejection},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use crate::{
    problem::Problem,
    server::{App, Json},
    tenant::Tenant,
    usage::GEOFENCES,
};

/// Unknown fields are refused by `Area`, which gets all that is left.
#[derive(Deserialize)]
pub struct NewGeofence {
    /// Chosen by clients that must be able to ask again after a lost answer. A replacement has it in its path.
    #[serde(default)]
    id: Option<Uuid>,
    name: String,
    #[serde(flatten)]
    area: Area,
}

/// Where the fence stands; on the wire its `kind` says which fields follow.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Area {
    Circle {
        latitude: f64,
        longitude: f64,
        radius_meters: f64,
    },
    /// GeoJSON, kept as it came.
    Polygon {
        geometry: Value,
    },
}

#[derive(Serialize)]
pub struct Geofence {
    id: Uuid,
    name: String,
    active: bool,
    #[serde(flatten)]
    area: Area,
}

impl From<&Row> for Geofence {
    fn from(row: &Row) -> Self {
        let area = match row.get("geometry") {
            Some(geometry) => Area::Polygon { geometry },
            // The table's own check: what has no geometry is a circle with all three.
            None => Area::Circle {
                latitude: row.get("latitude"),
                longitude: row.get("longitude"),
                radius_meters: row.get("radius_meters"),
            },
        };
        Self { id: row.get("id"), name: row.get("name"), active: row.get("active"), area }
    }
}

const LIST: &str = "select id, name, active, geometry, center_lat::float8 as latitude,
    center_lng::float8 as longitude, radius_meters from geofences order by created_at, id limit 1000";

pub async fn list(State(app): State<App>, tenant: Tenant) -> Result<Answer<Vec<Geofence>>, Problem> {
    let rows = app.database.as_tenant(tenant, LIST, &[]).await?;
    if rows.is_empty() {
        app.database.must_know(tenant).await?;
    }
    Ok(Answer(rows.iter().map(Geofence::from).collect()))
}

/// What both writing statements take after the tenant and the id: the columns of an area, whichever kind it is.
struct Columns<'a> {
    kind: &'static str,
    latitude: Option<f64>,
    longitude: Option<f64>,
    radius: Option<f64>,
    geometry: Option<&'a Value>,
}

impl<'a> From<&'a Area> for Columns<'a> {
    fn from(area: &'a Area) -> Self {
        match area {
            Area::Circle { latitude, longitude, radius_meters } => Self {
                kind: "circle",
                latitude: Some(*latitude),
                longitude: Some(*longitude),
                radius: Some(*radius_meters),
                geometry: None,
            },
            Area::Polygon { geometry } => {
                Self { kind: "polygon", latitude: None, longitude: None, radius: None, geometry: Some(geometry) }
            }
        }
    }
}

/// Nothing where the tenant has as many as it may, unless it asks again for one that it has: that is a duplicate, at the limit
/// too. Run alone where there is a limit.
const INSERT: &str = "with already as (select count(*) as there from geofences where customer_id = $1)
    insert into geofences
        (customer_id, id, name, kind, center_lat, center_lng, radius_meters, geometry)
    select $1, coalesce($2, gen_random_uuid()), $3::text, $4::text, $5::float8, $6::float8, $7::float8, $8::jsonb
      from already where $9::int8 is null or there < $9
        or exists (select 1 from geofences where customer_id = $1 and id = $2)
    returning id, name, active, geometry, center_lat::float8 as latitude, center_lng::float8 as longitude,
              radius_meters, (select there from already) as there";

const REPLACE: &str = "update geofences
      set name = $3, kind = $4, center_lat = $5::float8, center_lng = $6::float8, radius_meters = $7, geometry = $8
    where customer_id = $1 and id = $2
    returning id, name, active, geometry, center_lat::float8 as latitude, center_lng::float8 as longitude,
              radius_meters";

pub async fn create(
    State(app): State<App>,
    tenant: Tenant,
    Json(new): Json<NewGeofence>,
) -> Result<(StatusCode, Answer<Geofence>), Problem> {
    let Columns { kind, latitude, longitude, radius, geometry } = Columns::from(&new.area);
    let limit = app.usage.at_most(tenant.0, GEOFENCES).await;
    let most = limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let columns: [&(dyn ToSql + Sync); 9] =
        [&tenant.0, &new.id, &new.name, &kind, &latitude, &longitude, &radius, &geometry, &most];
    let inserted = match most {
        Some(_) => app.database.as_tenant_alone(tenant, INSERT, &columns).await,
        None => app.database.as_tenant(tenant, INSERT, &columns).await,
    };
    match inserted {
        Ok(rows) => {
            let spent = || Problem::Spent { what: GEOFENCES, limit: limit.unwrap_or_default(), resets_at: None };
            let row = rows.first().ok_or_else(spent)?;
            app.usage.has(tenant.0, GEOFENCES, there(row) + 1);
            Ok((StatusCode::CREATED, Answer(Geofence::from(row))))
        }
        Err(refused) => Err(app.database.explain(tenant, refused).await),
    }
}

/// How many there were before.
fn there(row: &Row) -> u64 {
    u64::try_from(row.get::<_, i64>("there")).unwrap_or(0)
}

pub async fn replace(
    State(app): State<App>,
    tenant: Tenant,
    id: Result<Path<Uuid>, PathRejection>,
    Json(new): Json<NewGeofence>,
) -> Result<Answer<Geofence>, Problem> {
    let Path(id) = id.map_err(|_| Problem::NotFound("geofence"))?;
    if new.id.is_some_and(|other| other != id) {
        return Err(Problem::Invalid("the body's `id` is not the path's".into()));
    }
    let Columns { kind, latitude, longitude, radius, geometry } = Columns::from(&new.area);
    let columns: [&(dyn ToSql + Sync); 8] =
        [&tenant.0, &id, &new.name, &kind, &latitude, &longitude, &radius, &geometry];
    match app.database.as_tenant(tenant, REPLACE, &columns).await {
        Ok(rows) => match rows.first() {
            Some(row) => Ok(Answer(Geofence::from(row))),
            None => Err(missing(&app, tenant).await),
        },
        Err(refused) => Err(app.database.explain(tenant, refused).await),
    }
}

pub async fn remove(
    State(app): State<App>,
    tenant: Tenant,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<StatusCode, Problem> {
    const DELETE: &str = "with already as (select count(*) as there from geofences where customer_id = $1)
        delete from geofences where customer_id = $1 and id = $2 returning id, (select there from already) as there";
    let Path(id) = id.map_err(|_| Problem::NotFound("geofence"))?;
    let removed = app.database.as_tenant(tenant, DELETE, &[&tenant.0, &id]).await?;
    let Some(row) = removed.first() else { return Err(missing(&app, tenant).await) };
    app.usage.has(tenant.0, GEOFENCES, there(row).saturating_sub(1));
    Ok(StatusCode::NO_CONTENT)
}

async fn missing(app: &App, tenant: Tenant) -> Problem {
    app.database.must_know(tenant).await.err().unwrap_or(Problem::NotFound("geofence"))
}
