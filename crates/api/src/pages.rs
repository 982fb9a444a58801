//! The dashboard: pages that a server hands out whole, parts of them refreshed by htmx and server-sent events.
//!
//! Every page is made from answers of `/v1`, asked in-process with the visitor's own key: a page can show and do
//! exactly what its key may, and a screen that needs more needs an endpoint. Never calls `control`, never keeps a
//! session (the cookie is the key), and never asks another host for anything.
//!
//! Against forged requests each changing form carries a token derived from the visitor's key, and the cookie is
//! `SameSite=Strict`. In the demo the pages are open to this machine; then the `Host` header has to name it, or any
//! page on the internet could talk to them through a name that resolves to loopback.

mod access;
mod approvals;
mod archives;
mod assets;
mod audit;
mod cell_new;
mod cells;
mod certificates;
mod check;
mod costs;
mod databases;
mod decisions;
mod edges;
mod erasures;
mod failure;
mod fleet;
mod inner;
mod live;
mod login;
mod maintain;
mod operations;
mod overview;
mod plan_change;
mod releases;
mod servers;
mod session;
mod shown;
mod sync;
mod tenant_list;
mod tenants;

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
    middleware,
    response::Response,
    routing::{get, post},
};
use secrecy::SecretString;

/// How pages let people in.
#[derive(Clone, Debug, Default)]
pub struct PagesSettings {
    /// The key that visitors without one act under. Only for a server that listens on loopback alone.
    pub open: Option<SecretString>,
}

/// What every page needs.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    v1: Router,
    open: Option<SecretString>,
}

/// The dashboard in front of `v1`, which answers `/v1/…` and is complete: state, limits and authorisation included.
pub fn router(v1: Router, settings: PagesSettings) -> Router {
    Router::new()
        .route("/", get(overview::page))
        .route("/login", get(login::page).post(login::enter))
        .route("/logout", post(login::leave))
        .route("/tenants", get(tenant_list::page).post(tenants::create))
        .route("/tenants/new", get(tenants::new))
        .route("/tenants/{tenant}", get(tenants::one))
        .route("/tenants/{tenant}/move", get(tenants::plan_move).post(tenants::start_move))
        .route("/tenants/{tenant}/decision", get(decisions::page))
        .route("/tenants/{tenant}/profile", get(decisions::profile).post(decisions::keep))
        .route("/tenants/{tenant}/access", get(access::page))
        .route("/tenants/{tenant}/networks", post(access::set_networks))
        .route("/tenants/{tenant}/limits", post(access::set_limits))
        .route("/tenants/{tenant}/hosts", post(access::add_host))
        .route("/tenants/{tenant}/hosts/{host}/remove", get(access::ask_host).post(access::remove_host))
        .route("/tenants/{tenant}/hosts/{host}/verify", post(access::verify_host))
        .route("/tenants/{tenant}/plan", get(plan_change::page).post(plan_change::make))
        .route("/tenants/{tenant}/erase", get(erasures::ask).post(erasures::erase))
        .route("/tenants/{tenant}/archives/{archive}/{file}", get(archives::file))
        .route("/tenants/{tenant}/{change}", get(tenants::ask).post(tenants::change))
        .route("/cells", get(cells::list).post(cell_new::create))
        .route("/cells/new", get(cell_new::page))
        .route("/cells/{cell}", get(cells::one))
        .route("/cells/{cell}/maintain", get(maintain::page).post(maintain::start))
        .route("/cells/{cell}/database", get(databases::busy))
        .route("/cells/{cell}/abilities", get(databases::abilities))
        .route("/cells/{cell}/sync", get(sync::page).post(sync::take_in))
        .route("/cells/{cell}/{change}", get(cells::ask).post(cells::change))
        .route("/certificates", post(certificates::add))
        .route("/certificates/new", get(certificates::new))
        .route("/certificates/orders/{host}/renew", post(certificates::renew))
        .route("/certificates/{certificate}/remove", get(certificates::ask).post(certificates::remove))
        .route("/drains/{kind}/{name}/{change}", get(edges::ask).post(edges::change))
        .route("/edges", get(edges::page))
        .route("/erasures", get(erasures::page))
        .route("/imports", get(archives::page).post(archives::start))
        .route("/servers", get(servers::page))
        .route("/check", get(check::page).post(check::look))
        .route("/costs", get(costs::page))
        .route("/fleet", get(fleet::page).post(fleet::apply))
        .route("/operations", get(operations::list))
        .route("/operations/{operation}", get(operations::one))
        .route("/operations/{operation}/live", get(live::operation))
        .route("/operations/{operation}/{change}", post(operations::change))
        .route("/approvals", get(approvals::list))
        .route("/approvals/{approval}", get(approvals::one))
        .route("/approvals/{approval}/{answer}", post(approvals::answer))
        .route("/releases", get(releases::list).post(releases::create))
        .route("/releases/new", get(releases::new))
        .route("/releases/back", get(releases::ask_back).post(releases::back))
        .route("/releases/{number}", get(releases::one))
        .route("/releases/{number}/roll", post(releases::roll))
        .route("/audit", get(audit::list))
        .layer(middleware::map_response(guard))
        .with_state(Pages { v1, open: settings.open })
        .route("/assets/{*file}", get(assets::file))
}

/// Headers that keep a page to itself.
async fn guard(mut answer: Response) -> Response {
    const HEADERS: &[(HeaderName, &str)] = &[
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name.clone(), HeaderValue::from_static(value));
    }
    answer
}
