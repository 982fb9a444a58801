//! What an edge is told beside routes: how the stack file wants it to send, and whether it is drained. Never anything of
//! one tenant.

use crate::{App, ControlError};
use berth_config::{CompressWay, EdgeCheck, MissingVariable, ServiceEdge, Stack, Template, place_of};
use berth_domain::{EdgeName, ServiceRole, Signer, TenantName};
use berth_store::Drained;
use berth_wire::edge::{
    ClusterSettings, Compression, CompressionWay, EdgeSettings, Ejection, GeoSettings, HealthCheck, Hidden,
    HttpsSettings, ServiceSettings,
};
use secrecy::ExposeSecret as _;
use std::collections::BTreeMap;

pub(crate) async fn of(app: &App, edge: &EdgeName) -> Result<EdgeSettings, ControlError> {
    let draining_ms = app.store().drain_get(&Drained::Edge(edge.clone())).await?.map(|drain| drain.grace_ms);
    let in_force = match app.stack().await {
        Ok(in_force) => in_force,
        Err(ControlError::NoStack) => return Ok(EdgeSettings { draining_ms, ..EdgeSettings::default() }),
        Err(error) => return Err(error),
    };
    let tls_outside = in_force.stack.https.members_over_plain_http == Some(false);
    let web = in_force.stack.services.iter().filter(|(_, service)| service.role == ServiceRole::Web);
    Ok(EdgeSettings {
        services: web
            .map(|(name, own)| (name.clone(), ServiceSettings { tls_outside, ..service(app, &own.edge) }))
            .collect(),
        cookie_key: Hidden::new(app.store().cookie_key().expose_secret().to_owned()),
        draining_ms,
        https: HttpsSettings {
            redirect: in_force.stack.https.redirect,
            hsts: in_force.stack.https.hsts.map(|age| format!("max-age={}", age.ms() / 1000)),
            port: in_force.stack.https.port,
        },
        headers: in_force.stack.headers.lines(),
        compression: in_force.stack.compression.as_ref().map(|from| Compression {
            ways: from.ways.iter().copied().map(way).collect(),
            from_bytes: from.from_bytes,
            types: from.types.clone(),
        }),
        cluster: cluster(app, &in_force.stack),
        geo: geo(&in_force.stack),
        residences: residences(&in_force.stack),
    })
}

/// Where the regions are that members are in.
fn geo(stack: &Stack) -> Option<GeoSettings> {
    let cluster = stack.cluster.as_ref().filter(|cluster| cluster.enabled && cluster.geo_routing)?;
    let used = stack.services.values().filter_map(|service| service.edge.region.as_ref());
    let degrees = |thousandths: i32| thousandths as f32 / 1000.0;
    let place = |region: &String| {
        let place = cluster.regions.get(region).copied().or_else(|| place_of(region))?;
        Some((region.clone(), (degrees(place.north), degrees(place.east))))
    };
    Some(GeoSettings { regions: used.filter_map(place).collect() })
}

/// For an edge whose stream others may read: no client is remembered there, nothing is signed, and Redis refuses it if it
/// wants a password.
pub fn without_secrets(settings: &mut EdgeSettings) {
    settings.cookie_key = Hidden::default();
    for service in settings.services.values_mut() {
        service.signature_key = None;
    }
    if let Some(cluster) = &mut settings.cluster {
        cluster.password = Hidden::default();
    }
}

/// Residence beats nearness.
fn residences(stack: &Stack) -> BTreeMap<TenantName, String> {
    let routing = stack.tenants.region_routing.as_ref().filter(|routing| routing.enabled);
    routing.map(|routing| routing.tenant_region_mapping.clone()).unwrap_or_default()
}

fn cluster(app: &App, stack: &Stack) -> Option<ClusterSettings> {
    let cluster = stack.cluster.as_ref().filter(|cluster| cluster.enabled)?;
    // Was set when the file was applied. Without it Redis refuses the edges, and they go on as they are; no route waits.
    let resolved = |template: &Template| {
        resolved(app, template).unwrap_or_else(|error| {
            tracing::error!(%error, "the password of the edges' Redis is not known");
            Hidden::default()
        })
    };
    Some(ClusterSettings {
        stack: stack.stack.clone(),
        redis_address: cluster.redis_address.clone(),
        several: cluster.redis_cluster_mode,
        master: cluster.redis_master.clone(),
        user: cluster.redis_user.clone(),
        password: cluster.redis_password.as_ref().map(resolved).unwrap_or_default(),
        ca_pem: cluster.redis_ca.clone(),
        edges: u32::try_from(stack.edges.len()).unwrap_or(u32::MAX),
    })
}

fn resolved(app: &App, template: &Template) -> Result<Hidden, MissingVariable> {
    Ok(Hidden::new(template.resolve(app.environment())?.expose_secret().to_owned()))
}

/// Was set and fit when the file was applied. Without it members get no signature, and those that want one refuse: it is
/// never one that anybody could make.
fn signature_key(app: &App, template: &Template) -> Option<Hidden> {
    match resolved(app, template) {
        Ok(key) => {
            let unfit = berth_config::unfit_signature_key(key.expose());
            if let Some(why) = unfit {
                tracing::error!("what edges sign with {why}, so they sign nothing");
            }
            Some(key).filter(|_| unfit.is_none())
        }
        Err(error) => {
            tracing::error!(%error, "what edges sign with is not known, so they sign nothing");
            None
        }
    }
}

/// What control signs with itself when it asks a member past the edges. `None`: the service has no key.
pub(crate) fn signer(app: &App, from: &ServiceEdge) -> Option<Signer> {
    Signer::new(signature_key(app, from.signature_key.as_ref()?)?.expose())
}

fn way(from: CompressWay) -> CompressionWay {
    match from {
        CompressWay::Zstd => CompressionWay::Zstd,
        CompressWay::Br => CompressionWay::Br,
        CompressWay::Gzip => CompressionWay::Gzip,
    }
}

fn service(app: &App, from: &ServiceEdge) -> ServiceSettings {
    ServiceSettings {
        balance: from.balance,
        weight: from.weight,
        region: from.region.clone(),
        check: from.check.as_ref().map(check),
        eject: from.eject.map(|eject| Ejection { failures: eject.failures, for_ms: eject.lasting.ms() }),
        speaks: from.speaks,
        ca_pem: from.ca.clone(),
        server_name: from.server_name.as_ref().map(ToString::to_string),
        signature_key: from.signature_key.as_ref().and_then(|template| signature_key(app, template)),
        tls_outside: false,
    }
}

fn check(from: &EdgeCheck) -> HealthCheck {
    HealthCheck {
        path: from.path.clone(),
        every_ms: from.every.ms(),
        timeout_ms: from.timeout.ms(),
        rise: from.rise,
        fall: from.fall,
        status: from.status,
    }
}
