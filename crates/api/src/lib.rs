//! HTTP in, `control` calls, HTTP out: the API under `/v1`, and the dashboard that is made of its answers.
//!
//! A handler turns a request into one call of a use case and its answer into a response, and never holds a rule. What
//! every request gets (an id, a limit of time and size, its caller, once-only writes, errors as RFC 9457 problems) is
//! in `layers`, in the order in which it is applied. `openapi.json` beside this folder is what we promise.

mod answer;
mod archives;
mod audit;
mod auth;
mod catalogue;
mod cells;
mod certificates;
mod check;
mod costs;
mod decisions;
mod drains;
mod edges;
mod extract;
mod guide;
mod hosts;
mod keys;
mod layers;
mod limits;
mod maintenance;
mod metrics;
mod moves;
mod once;
mod operations;
pub mod pages;
mod plans;
mod problem;
mod recovery;
mod releases;
mod second_names;
mod server;
mod servers;
mod services;
mod stack;
mod status;
mod tenants;
mod upgrade;
mod usage;

pub use metrics::{router as metrics_router, router_with as metrics_router_with};
pub use server::serve;

use auth::Callers;
use axum::{Router, extract::FromRef};
use berth_control::App;
use metrics::Counters;
use std::sync::Arc;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// What handlers are given. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    app: App,
    callers: Arc<Callers>,
    counters: Arc<Counters>,
}

impl Api {
    pub fn new(app: App) -> Self {
        Self { app, callers: Arc::default(), counters: Arc::default() }
    }
}

impl FromRef<Api> for App {
    fn from_ref(api: &Api) -> Self {
        api.app.clone()
    }
}

/// The API alone, complete: limits, authorisation and problems included.
pub fn v1(api: &Api) -> Router {
    let (router, description) = described().split_for_parts();
    layers::around(router.merge(description_route(&description)), api)
}

/// The API and the dashboard: everything that a server answers.
pub fn router(api: &Api, pages: pages::PagesSettings) -> Router {
    let v1 = v1(api);
    pages::router(v1.clone(), pages).merge(v1)
}

/// What the API promises, as `GET /v1/openapi.json` answers it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    described().into_openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Berth", description = "Runs one SaaS for many tenants, and moves a tenant while its users keep working."),
    components(schemas(berth_wire::Problem)),
    modifiers(&BearerKey),
    security(("key" = []))
)]
struct Description;

struct BearerKey;

impl Modify for BearerKey {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let mut bearer = Http::new(HttpAuthScheme::Bearer);
        bearer.description = Some("An API key, `bk_…`. `berth key create` makes one.".to_owned());
        openapi.components.get_or_insert_default().add_security_scheme("key", SecurityScheme::Http(bearer));
    }
}

/// Every endpoint and its description, from the same line: neither can be forgotten.
fn described() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(status::show))
        .routes(routes!(stack::show, stack::apply))
        .routes(routes!(plans::list))
        .routes(routes!(plans::show))
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::sync))
        .routes(routes!(tenants::show, tenants::change, tenants::delete))
        .routes(routes!(tenants::set_hosts))
        .routes(routes!(tenants::set_allow))
        .routes(routes!(limits::show, limits::set, limits::clear))
        .routes(routes!(usage::entitlements))
        .routes(routes!(usage::of_tenant))
        .routes(routes!(usage::list, usage::record))
        .routes(routes!(usage::plan_purge))
        .routes(routes!(usage::purge))
        .routes(routes!(usage::approval_list))
        .routes(routes!(usage::approval))
        .routes(routes!(usage::approve))
        .routes(routes!(usage::reject))
        .routes(routes!(tenants::suspend))
        .routes(routes!(tenants::resume))
        .routes(routes!(moves::plan))
        .routes(routes!(moves::start))
        .routes(routes!(moves::undo))
        .routes(routes!(moves::settle))
        .routes(routes!(moves::list))
        .routes(routes!(moves::show))
        .routes(routes!(archives::list, archives::export))
        .routes(routes!(archives::restore))
        .routes(routes!(archives::file))
        .routes(routes!(archives::take_file))
        .routes(routes!(archives::forget_files))
        .routes(routes!(archives::plan_import))
        .routes(routes!(archives::import))
        .routes(routes!(archives::plan_erase))
        .routes(routes!(archives::erase))
        .routes(routes!(archives::erasures))
        .routes(routes!(cells::list, cells::create))
        .routes(routes!(cells::show, cells::remove))
        .routes(routes!(cells::drain, cells::undrain))
        .routes(routes!(cells::measure))
        .routes(routes!(cells::logs))
        .routes(routes!(services::plan))
        .routes(routes!(services::restart))
        .routes(routes!(cells::database_top))
        .routes(routes!(maintenance::plan))
        .routes(routes!(maintenance::start))
        .routes(routes!(cells::abilities))
        .routes(routes!(cells::add))
        .routes(routes!(servers::list, servers::add))
        .routes(routes!(servers::look))
        .routes(routes!(servers::ways))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::revoke))
        .routes(routes!(operations::list))
        .routes(routes!(operations::show))
        .routes(routes!(operations::events))
        .routes(routes!(operations::retry))
        .routes(routes!(operations::abandon))
        .routes(routes!(audit::list))
        .routes(routes!(edges::list))
        .routes(routes!(edges::routes))
        .routes(routes!(edges::acknowledge))
        .routes(routes!(usage::edge_meters))
        .routes(routes!(decisions::decide))
        .routes(routes!(decisions::of_tenant))
        .routes(routes!(decisions::profile, decisions::set_profile))
        .routes(routes!(decisions::fleet_plan))
        .routes(routes!(decisions::fleet_apply))
        .routes(routes!(decisions::fleet_simulate))
        .routes(routes!(costs::show))
        .routes(routes!(costs::months))
        .routes(routes!(costs::tenants))
        .routes(routes!(costs::import))
        .routes(routes!(costs::forget))
        .routes(routes!(costs::phase))
        .routes(routes!(costs::plan_price))
        .routes(routes!(catalogue::show))
        .routes(routes!(check::run))
        .routes(routes!(certificates::list, certificates::add))
        .routes(routes!(certificates::remove))
        .routes(routes!(releases::list, releases::create))
        .routes(routes!(releases::show))
        .routes(routes!(releases::status, releases::roll))
        .routes(routes!(releases::plan))
        .routes(routes!(releases::back))
        .routes(routes!(releases::plan_back))
        .routes(routes!(releases::registry_list, releases::registry_put))
        .routes(routes!(releases::registry_remove))
        .routes(routes!(certificates::orders))
        .routes(routes!(certificates::renew))
        .routes(routes!(hosts::list, hosts::add))
        .routes(routes!(hosts::verify))
        .routes(routes!(hosts::remove))
        .routes(routes!(drains::list))
        .routes(routes!(drains::show_tenant, drains::tenant, drains::undo_tenant))
        .routes(routes!(drains::show_member, drains::member, drains::undo_member))
        .routes(routes!(drains::show_edge, drains::edge, drains::undo_edge))
        .routes(routes!(guide::evaluate::evaluate))
        .routes(routes!(guide::drained_edge, guide::drain_edge, guide::undrain_edge))
        .routes(routes!(guide::drained_tenant, guide::drain_tenant, guide::undrain_tenant))
        .routes(routes!(guide::set_domains))
        .routes(routes!(guide::tenant_status))
        .routes(routes!(recovery::show, recovery::recover))
        .routes(routes!(upgrade::show))
        .routes(routes!(upgrade::plan))
        .routes(routes!(upgrade::finish))
}

fn description_route(description: &utoipa::openapi::OpenApi) -> Router<Api> {
    let text = bytes::Bytes::from(description.to_json().expect("a description has text keys only"));
    Router::new().route(
        "/v1/openapi.json",
        axum::routing::get(move || async move { ([(http::header::CONTENT_TYPE, "application/json")], text) }),
    )
}
