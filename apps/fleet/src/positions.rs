//! `POST /api/v1/gps-positions`, `GET /api/v1/gps-positions/recent` and `GET /api/v1/gps-positions/last`.
//!
//! A batch is one transaction: all of it is stored, or none. Nothing is acknowledged before its commit, and nothing
//! is made unique here: what a client sends twice is stored twice.

use axum::{
    Json as Answer,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;

use crate::{
    problem::Problem,
    server::{App, body, parse},
    tenant::Tenant,
};

/// Positions in one request; a device that was offline for longer sends several.
const BATCH_LIMIT: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPosition {
    /// Made by the client, so that it can find again what it sent.
    #[serde(default)]
    event_id: Option<Uuid>,
    vehicle_id: Uuid,
    time: Timestamp,
    latitude: f64,
    longitude: f64,
    #[serde(default)]
    speed: Option<f64>,
    #[serde(default)]
    heading: Option<f64>,
    #[serde(default)]
    accuracy: Option<f64>,
    #[serde(default)]
    altitude: Option<f64>,
}

/// The batch by columns, as `unnest` takes it: one statement whatever its size, so one plan for all of them.
#[derive(Default)]
struct Columns {
    event_id: Vec<Option<Uuid>>,
    vehicle_id: Vec<Uuid>,
    time: Vec<Timestamp>,
    latitude: Vec<f64>,
    longitude: Vec<f64>,
    speed: Vec<Option<f64>>,
    heading: Vec<Option<f64>>,
    accuracy: Vec<Option<f64>>,
    altitude: Vec<Option<f64>>,
}

impl Columns {
    fn push(&mut self, index: usize, new: NewPosition) -> Result<(), Problem> {
        let within = |name: &str, value: f64, limit: f64| {
            if (-limit..=limit).contains(&value) {
                Ok(value)
            } else {
                Err(Problem::Invalid(format!("position {index}: `{name}` is outside -{limit} to {limit}")))
            }
        };
        self.latitude.push(within("latitude", new.latitude, 90.0)?);
        self.longitude.push(within("longitude", new.longitude, 180.0)?);
        self.event_id.push(new.event_id);
        self.vehicle_id.push(new.vehicle_id);
        self.time.push(new.time);
        self.speed.push(new.speed);
        self.heading.push(new.heading);
        self.accuracy.push(new.accuracy);
        self.altitude.push(new.altitude);
        Ok(())
    }
}

impl Columns {
    /// Each vehicle's newest position of the batch.
    fn last(&self) -> BTreeMap<Uuid, (Timestamp, Value)> {
        let mut newest: BTreeMap<Uuid, usize> = BTreeMap::new();
        for (at, vehicle) in self.vehicle_id.iter().enumerate() {
            let known = newest.entry(*vehicle).or_insert(at);
            if self.time[at] >= self.time[*known] {
                *known = at;
            }
        }
        let said = |at: usize| {
            let place = json!({ "time": self.time[at], "latitude": self.latitude[at],
                                "longitude": self.longitude[at], "speed": self.speed[at] });
            (self.time[at], place)
        };
        newest.into_iter().map(|(vehicle, at)| (vehicle, said(at))).collect()
    }
}

const INSERT: &str = "insert into gps_positions
    (customer_id, event_id, vehicle_id, time, latitude, longitude, speed, heading, accuracy, altitude)
    select $1, * from unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::float8[], $6::float8[],
                             $7::float8[], $8::float8[], $9::float8[], $10::float8[])";

#[derive(Serialize)]
pub struct Accepted {
    accepted: usize,
}

/// Takes one position or an array of them.
pub async fn ingest(
    State(app): State<App>,
    tenant: Tenant,
    request: axum::extract::Request<Body>,
) -> Result<(StatusCode, Answer<Accepted>), Problem> {
    let body = body(request).await?;
    let several = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let new: Vec<NewPosition> = if several { parse(&body)? } else { vec![parse(&body)?] };
    if new.is_empty() || new.len() > BATCH_LIMIT {
        return Err(Problem::Invalid(format!("a batch has 1 to {BATCH_LIMIT} positions, this one {}", new.len())));
    }
    let accepted = new.len();
    app.usage.may_add_points(tenant.0, accepted as u64).await?;
    let mut batch = Columns::default();
    for (index, position) in new.into_iter().enumerate() {
        batch.push(index, position)?;
    }
    let stored = app
        .database
        .as_tenant(
            tenant,
            INSERT,
            &[
                &tenant.0,
                &batch.event_id,
                &batch.vehicle_id,
                &batch.time,
                &batch.latitude,
                &batch.longitude,
                &batch.speed,
                &batch.heading,
                &batch.accuracy,
                &batch.altitude,
            ],
        )
        .await;
    match stored {
        Ok(_) => {
            app.usage.added_points(tenant.0, accepted as u64);
            for (vehicle, (at, place)) in batch.last() {
                app.redis.remember(tenant.0, vehicle, at.as_millisecond(), place.to_string());
            }
            Ok((StatusCode::CREATED, Answer(Accepted { accepted })))
        }
        Err(refused) => Err(app.database.explain(tenant, refused).await),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecentQuery {
    vehicle_id: Option<Uuid>,
    limit: Option<i64>,
}

#[derive(Serialize)]
pub struct Position {
    id: Uuid,
    event_id: Option<Uuid>,
    vehicle_id: Uuid,
    time: Timestamp,
    latitude: f64,
    longitude: f64,
    speed: Option<f64>,
    heading: Option<f64>,
    accuracy: Option<f64>,
    altitude: Option<f64>,
}

// Two statements rather than `$1 is null or …`: that one's cached plan uses neither index.
const RECENT_OF_ONE: &str = "select id, event_id, vehicle_id, time, latitude::float8, longitude::float8,
    speed, heading, accuracy, altitude
    from gps_positions where customer_id = $1 and vehicle_id = $2 order by time desc limit $3";
const RECENT_OF_ALL: &str = "select id, event_id, vehicle_id, time, latitude::float8, longitude::float8,
    speed, heading, accuracy, altitude
    from gps_positions where customer_id = $1 order by time desc limit $2";

const LAST: &str = "select time, latitude::float8, longitude::float8, speed
    from gps_positions where customer_id = $1 and vehicle_id = $2 order by time desc limit 1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastQuery {
    vehicle_id: Uuid,
}

/// Where a vehicle was last: as Redis remembers it, else as the database has it; null where it never was.
pub async fn last(
    State(app): State<App>,
    tenant: Tenant,
    query: Result<Query<LastQuery>, QueryRejection>,
) -> Result<Answer<Value>, Problem> {
    let Query(LastQuery { vehicle_id }) = query.map_err(|refused| Problem::Malformed(refused.body_text()))?;
    let remembered = app.redis.last(tenant.0, vehicle_id).await;
    if let Some(last) = remembered.and_then(|text| serde_json::from_str(&text).ok()) {
        return Ok(Answer(last));
    }
    let rows = app.database.as_tenant(tenant, LAST, &[&tenant.0, &vehicle_id]).await?;
    let said = |row: &tokio_postgres::Row| {
        json!({ "time": row.get::<_, Timestamp>(0), "latitude": row.get::<_, f64>(1), "longitude": row.get::<_, f64>(2),
                "speed": row.get::<_, Option<f64>>(3) })
    };
    Ok(Answer(rows.first().map_or(Value::Null, said)))
}

/// The newest positions first, of one vehicle or of all.
pub async fn recent(
    State(app): State<App>,
    tenant: Tenant,
    query: Result<Query<RecentQuery>, QueryRejection>,
) -> Result<Answer<Vec<Position>>, Problem> {
    let Query(query) = query.map_err(|refused| Problem::Malformed(refused.body_text()))?;
    let limit = query.limit.unwrap_or(20);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::Invalid("`limit` is from 1 to 1000".into()));
    }
    let rows = match query.vehicle_id {
        Some(vehicle) => app.database.as_tenant(tenant, RECENT_OF_ONE, &[&tenant.0, &vehicle, &limit]).await?,
        None => app.database.as_tenant(tenant, RECENT_OF_ALL, &[&tenant.0, &limit]).await?,
    };
    if rows.is_empty() {
        app.database.must_know(tenant).await?;
    }
    let positions = rows.iter().map(|row| Position {
        id: row.get("id"),
        event_id: row.get("event_id"),
        vehicle_id: row.get("vehicle_id"),
        time: row.get("time"),
        latitude: row.get("latitude"),
        longitude: row.get("longitude"),
        speed: row.get("speed"),
        heading: row.get("heading"),
        accuracy: row.get("accuracy"),
        altitude: row.get("altitude"),
    });
    Ok(Answer(positions.collect()))
}
