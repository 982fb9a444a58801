//! `GET` and `POST /api/v1/vehicles`.

use axum::{Json as Answer, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    problem::Problem,
    server::{App, Json},
    tenant::Tenant,
    usage::VEHICLES,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewVehicle {
    /// Chosen by clients that want to write positions before they have read our answer.
    #[serde(default)]
    id: Option<Uuid>,
    name: String,
    vehicle_identifier: String,
    #[serde(default)]
    vehicle_type: VehicleType,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum VehicleType {
    #[default]
    Car,
    Truck,
    Van,
    Motorcycle,
    Other,
}

impl VehicleType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Car => "car",
            Self::Truck => "truck",
            Self::Van => "van",
            Self::Motorcycle => "motorcycle",
            Self::Other => "other",
        }
    }
}

#[expect(clippy::struct_field_names, reason = "the names are the API's and the table's")]
#[derive(Serialize)]
pub struct Vehicle {
    id: Uuid,
    name: String,
    vehicle_identifier: String,
    vehicle_type: String,
    status: String,
    driver_id: Option<Uuid>,
}

impl From<&Row> for Vehicle {
    fn from(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            name: row.get("name"),
            vehicle_identifier: row.get("vehicle_identifier"),
            vehicle_type: row.get("vehicle_type"),
            status: row.get("status"),
            driver_id: row.get("driver_id"),
        }
    }
}

/// A fleet of this application's customers is shown on one page; who has more asks for a page of it.
const LIST: &str = "select id, name, vehicle_identifier, vehicle_type, status, driver_id
    from vehicles order by vehicle_identifier limit 1000";

pub async fn list(State(app): State<App>, tenant: Tenant) -> Result<Answer<Vec<Vehicle>>, Problem> {
    let rows = app.database.as_tenant(tenant, LIST, &[]).await?;
    if rows.is_empty() {
        app.database.must_know(tenant).await?;
    }
    Ok(Answer(rows.iter().map(Vehicle::from).collect()))
}

/// Nothing where the tenant has as many as it may. Run alone: two that counted at once would both find room for one.
const INSERT: &str = "with already as (select count(*) as there from vehicles where customer_id = $2)
    insert into vehicles (id, customer_id, name, vehicle_identifier, vehicle_type)
    select coalesce($1, gen_random_uuid()), $2, $3, $4, $5 from already where $6::int8 is null or there < $6
        or exists (select 1 from vehicles where customer_id = $2 and id = $1)
    returning id, name, vehicle_identifier, vehicle_type, status, driver_id, (select there from already) as there";

pub async fn create(
    State(app): State<App>,
    tenant: Tenant,
    Json(new): Json<NewVehicle>,
) -> Result<(StatusCode, Answer<Vehicle>), Problem> {
    if new.name.trim().is_empty() || new.vehicle_identifier.trim().is_empty() {
        return Err(Problem::Invalid("`name` and `vehicle_identifier` must not be empty".into()));
    }
    let limit = app.usage.at_most(tenant.0, VEHICLES).await;
    let most = limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let vehicle_type = new.vehicle_type.as_str();
    let inserted = app
        .database
        .as_tenant_alone(
            tenant,
            INSERT,
            &[&new.id, &tenant.0, &new.name, &new.vehicle_identifier, &vehicle_type, &most],
        )
        .await;
    match inserted {
        Ok(rows) => {
            let spent = || Problem::Spent { what: VEHICLES, limit: limit.unwrap_or_default(), resets_at: None };
            let row = rows.first().ok_or_else(spent)?;
            app.usage.has(tenant.0, VEHICLES, u64::try_from(row.get::<_, i64>("there")).unwrap_or(0) + 1);
            Ok((StatusCode::CREATED, Answer(Vehicle::from(row))))
        }
        Err(refused) => Err(app.database.explain(tenant, refused).await),
    }
}
