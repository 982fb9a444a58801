//! `GET /health` and `GET /api/v1/status`.
//!
//! Never answers from memory: both ask the database.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use crate::{problem::Problem, server::App, tenant::Tenant};

/// Healthy means that a query went to the database and came back.
pub async fn health(State(app): State<App>) -> Result<Json<Value>, Problem> {
    app.database.ping().await?;
    Ok(Json(json!({ "status": "ok" })))
}

pub async fn status(State(app): State<App>, tenant: Tenant) -> Result<Json<Value>, Problem> {
    let rows = app.database.as_tenant(tenant, "select name, slug, status, plan from customers", &[]).await?;
    let customer = rows.first().ok_or(Problem::UnknownTenant)?;
    Ok(Json(json!({
        "customer": {
            "id": tenant.0,
            "name": customer.get::<_, String>("name"),
            "slug": customer.get::<_, String>("slug"),
            "status": customer.get::<_, String>("status"),
            "plan": customer.get::<_, String>("plan"),
        },
        "mode": app.place.mode.as_str(),
        "provider": app.place.provider,
        "cell": app.place.cell,
        "generation": app.generation(),
    })))
}
