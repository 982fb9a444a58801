//! `GET` and `POST /api/v1/geofences`.

use axum::{Json as Answer, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    problem::Problem,
    server::{App, Json},
    tenant::Tenant,
};

/// Unknown fields are refused by `Area`, which gets all that is left.
#[derive(Deserialize)]
pub struct NewGeofence {
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

const INSERT: &str = "insert into geofences (customer_id, name, kind, center_lat, center_lng, radius_meters, geometry)
    values ($1, $2, $3, $4::float8, $5::float8, $6, $7)
    returning id, name, active, geometry, center_lat::float8 as latitude, center_lng::float8 as longitude,
              radius_meters";

pub async fn create(
    State(app): State<App>,
    tenant: Tenant,
    Json(new): Json<NewGeofence>,
) -> Result<(StatusCode, Answer<Geofence>), Problem> {
    let (kind, latitude, longitude, radius, geometry) = match &new.area {
        Area::Circle { latitude, longitude, radius_meters } => {
            ("circle", Some(latitude), Some(longitude), Some(radius_meters), None)
        }
        Area::Polygon { geometry } => ("polygon", None, None, None, Some(geometry)),
    };
    let inserted = app
        .database
        .as_tenant(tenant, INSERT, &[&tenant.0, &new.name, &kind, &latitude, &longitude, &radius, &geometry])
        .await;
    match inserted {
        Ok(rows) => Ok((StatusCode::CREATED, Answer(Geofence::from(&rows[0])))),
        Err(refused) => Err(app.database.explain(tenant, refused).await),
    }
}
