//! Hosts of tenants: said to be theirs, proved, routed, taken away.
//!
//! A host that is none of the stack's own is routed when it is proved: by a TXT record that only who has the domain can
//! make, or by a page at the host. Edges show that page by themselves, so it says that the host leads here and not for
//! whom: it counts while nobody else has or claims the host. Never routes one host to two tenants.

use crate::{App, Change, ControlError, Permit, Read, audited, tenants};
use berth_config::{HostProofs, Hosts};
use berth_domain::{HostProof, Hostname, Overlap, TenantHost, TenantId, TenantState};
use berth_infra::{Asking, Outside};
use berth_store::{Host, HostFilter, StoreError, Taken, Tx};
use berth_wire as wire;
use serde_json::json;
use std::{fmt::Write as _, sync::Arc};

/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 24;
/// Of the token, what stands in the page's address; the page itself says all of it.
const IN_PATH: usize = 12;

/// Says that a host is a tenant's. One of the stack's own is routed from now on, any other once it is proved.
pub async fn add(app: &App, permit: &Permit<Change>, wanted: &wire::HostAdd) -> Result<wire::Host, ControlError> {
    app.writable().await?;
    let tenant = tenants::known(app, &wanted.tenant).await?;
    let rules = rules(app).await?;
    let own = is_own(&rules, &wanted.host);
    let mut tx = app.store().begin().await?;
    // Under the lock: it may have gone since it was found.
    let state = tx.tenant_lock(tenant.id).await?;
    let state = state.filter(|state| !is_gone(*state)).ok_or_else(|| ControlError::NoTenant(wanted.tenant.clone()))?;
    tx.hosts_lock().await?;
    check(&mut tx, &rules, tenant.id, std::slice::from_ref(&wanted.host), !own).await?;
    if own {
        tx.host_give(&wanted.host, tenant.id).await?;
        tx.tenant_changed(tenant.id).await?;
    } else {
        tx.host_claim(&wanted.host, tenant.id, &token()).await?;
    }
    let after = json!({ "host": wanted.host, "own": own });
    audited(&mut tx, permit, "host.add", &format!("tenant/{}", tenant.name), None, Some(after)).await?;
    if own && tenants::is_routed(state) {
        tx.routes_publish(&[tenant.id]).await?;
    }
    tx.challenges_publish().await?;
    tx.commit().await?;
    find(app, &wanted.host, Some(tenant.id)).await.map(|host| shown(&rules, host))
}

/// All hosts that tenants have and claim, or one tenant's.
pub async fn list(app: &App, _permit: &Permit<Read>, who: Option<&str>) -> Result<Vec<wire::Host>, ControlError> {
    let tenant = match who {
        Some(who) => Some(tenants::known(app, who).await?.id),
        None => None,
    };
    let rules = rules(app).await?;
    let hosts = app.store().hosts_all(&HostFilter { tenant, host: None }).await?;
    Ok(hosts.into_iter().map(|host| shown(&rules, host)).collect())
}

/// Looks for a proof now; with one the host is routed to the tenant, whoever had it before.
pub async fn verify(
    app: &App,
    permit: &Permit<Change>,
    host: &TenantHost,
    who: Option<&str>,
) -> Result<wire::Host, ControlError> {
    app.writable().await?;
    let rules = rules(app).await?;
    let claimed = find_for(app, host, who).await?;
    let Some(claim) = claimed.claim.as_ref().filter(|claim| claim.way.is_none()) else {
        return Ok(shown(&rules, claimed));
    };
    // Whoever gets it while it is looked at is not locked below, and is found out.
    let before = other_owner(app, &claimed).await?;
    let asking = Asking { resolver: rules.resolver, http_port: rules.http_port };
    let way = match look(app.outside()?, asking, &claimed, &claim.token).await {
        Ok(way) => way,
        Err(why) => {
            app.store().host_claim_looked(host, claimed.tenant, &why).await?;
            return Err(ControlError::HostNotProved { host: host.clone(), why });
        }
    };
    let mut tx = app.store().begin().await?;
    // Every tenant that may change, in one order.
    let mut both: Vec<TenantId> = before.iter().copied().chain([claimed.tenant]).collect();
    both.sort_unstable();
    let mut state = None;
    for tenant in both {
        let locked = tx.tenant_lock(tenant).await?;
        state = if tenant == claimed.tenant { locked } else { state };
    }
    // Whoever has it keeps it while the one who claims it goes.
    let state = state.filter(|state| !is_gone(*state));
    let state = state.ok_or_else(|| ControlError::NoTenant(claimed.tenant_name.to_string()))?;
    tx.hosts_lock().await?;
    check(&mut tx, &rules, claimed.tenant, std::slice::from_ref(host), true).await?;
    if way == HostProof::Http && tx.host_contested(host, claimed.tenant).await? {
        // A page says that the host is here, and not for whom.
        return Err(StoreError::Stale("host").into());
    }
    tx.host_claim_proved(host, claimed.tenant, &claim.token, way).await?;
    let had = tx.host_give(host, claimed.tenant).await?;
    if had != before {
        // Somebody else got it while it was looked at: nobody locked that tenant.
        return Err(StoreError::Stale("host").into());
    }
    for tenant in had.into_iter().chain([claimed.tenant]) {
        tx.tenant_changed(tenant).await?;
    }
    let after = json!({ "host": host, "way": way, "taken_from": had });
    audited(&mut tx, permit, "host.proved", &format!("tenant/{}", claimed.tenant_name), None, Some(after)).await?;
    let mut changed: Vec<TenantId> = had.into_iter().collect();
    if tenants::is_routed(state) {
        changed.push(claimed.tenant);
    }
    // Both in one revision: no edge ever has it for both or for neither.
    tx.routes_publish(&changed).await?;
    tx.challenges_publish().await?;
    tx.commit().await?;
    find(app, host, Some(claimed.tenant)).await.map(|host| shown(&rules, host))
}

/// Takes a host, or the claim to it, away from a tenant.
pub async fn remove(
    app: &App,
    permit: &Permit<Change>,
    host: &TenantHost,
    who: Option<&str>,
) -> Result<wire::Host, ControlError> {
    app.writable().await?;
    let rules = rules(app).await?;
    let known = find_for(app, host, who).await?;
    let mut tx = app.store().begin().await?;
    let state = tx.tenant_lock(known.tenant).await?;
    tx.hosts_lock().await?;
    let was_routed = tx.host_remove(host, known.tenant).await?;
    if was_routed {
        tx.tenant_changed(known.tenant).await?;
    }
    let before = json!({ "host": host, "served": was_routed });
    audited(&mut tx, permit, "host.remove", &format!("tenant/{}", known.tenant_name), Some(before), None).await?;
    if was_routed && state.is_some_and(tenants::is_routed) {
        tx.routes_publish(&[known.tenant]).await?;
    }
    tx.challenges_publish().await?;
    tx.commit().await?;
    Ok(shown(&rules, known))
}

/// Makes these the tenant's plain hosts. Only over `tx`: whoever asks the pool for a second connection inside a
/// transaction waits for others who do the same.
pub(crate) async fn replace(
    tx: &mut Tx,
    rules: &Hosts,
    tenant: TenantId,
    hosts: &[Hostname],
) -> Result<(), ControlError> {
    tx.hosts_lock().await?;
    let wanted: Vec<TenantHost> = hosts.iter().cloned().map(TenantHost::from).collect();
    check(tx, rules, tenant, &wanted, false).await?;
    if rules.proof == HostProofs::Required {
        let mut unproved = tx.hosts_unproved(tenant, hosts).await?;
        unproved.retain(|host| !is_own(rules, &host.clone().into()));
        if !unproved.is_empty() {
            return Err(ControlError::HostsUnproved(unproved.iter().map(ToString::to_string).collect()));
        }
    }
    tx.hosts_replace(tenant, hosts).await.map_err(|error| match error {
        // Taken since we looked: which one is not known, so all are named.
        StoreError::Taken(Taken::Host) => ControlError::HostsTaken(hosts.iter().map(ToString::to_string).collect()),
        other => other.into(),
    })
}

/// What the stack in force says of hosts; before the first one, nothing.
pub(crate) async fn rules(app: &App) -> Result<Hosts, ControlError> {
    match app.stack().await {
        Ok(in_force) => Ok(in_force.stack.hosts.clone()),
        Err(ControlError::NoStack) => Ok(Hosts::default()),
        Err(error) => Err(error),
    }
}

const fn is_gone(state: TenantState) -> bool {
    matches!(state, TenantState::Deleting | TenantState::Deleted | TenantState::Failed)
}

fn is_own(rules: &Hosts, host: &TenantHost) -> bool {
    rules.own.iter().any(|own| host.is_under(own))
}

/// The name that only this tenant's certificates have; none where others may have hosts below the same name.
pub(crate) fn certified(rules: &Hosts, host: &TenantHost) -> Option<String> {
    if host.is_wildcard() {
        return Some(format!("*.{}", host.name()));
    }
    (host.plain().is_some() || !is_own(rules, host)).then(|| host.name().to_owned())
}

/// Refuses what would meet another tenant's host. `by_proof`: the very same host may be taken over.
async fn check(
    tx: &mut Tx,
    rules: &Hosts,
    tenant: TenantId,
    hosts: &[TenantHost],
    by_proof: bool,
) -> Result<(), ControlError> {
    let near = tx.hosts_near(hosts, tenant).await?;
    let (mut taken, mut meet) = (Vec::new(), Vec::new());
    for host in hosts {
        for (other, _) in &near {
            match host.overlap(other) {
                Some(Overlap::Same) if !by_proof => taken.push(host.to_string()),
                Some(Overlap::Name) if !is_own(rules, host) => {
                    meet.push(format!("`{host}` and another tenant's `{other}` share a name"));
                }
                Some(Overlap::Wildcard) if host.is_wildcard() => {
                    meet.push(format!("`{host}` is over another tenant's `{other}`"));
                }
                Some(Overlap::Wildcard) => meet.push(format!("`{host}` is under another tenant's `{other}`")),
                Some(Overlap::Same | Overlap::Name) | None => {}
            }
        }
    }
    match (taken.is_empty(), meet.is_empty()) {
        (true, true) => Ok(()),
        (false, _) => Err(ControlError::HostsTaken(taken)),
        (true, false) => Err(ControlError::HostsMeet(meet)),
    }
}

/// Which way a host is proved, or what was found instead.
async fn look(outside: Arc<dyn Outside>, asking: Asking, host: &Host, token: &str) -> Result<HostProof, String> {
    let name = record(&host.host);
    let wanted = value(token);
    let mut why = match outside.texts(asking, &name).await {
        Ok(texts) if texts.contains(&wanted) => return Ok(HostProof::Txt),
        Ok(texts) => format!("none of the {} TXT records of `{name}` is `{wanted}`", texts.len()),
        Err(nothing) => nothing.to_string(),
    };
    match page(host, token) {
        Some(path) => match outside.page(asking, host.host.name(), &path).await {
            Ok(text) if text.trim() == wanted => return Ok(HostProof::Http),
            Ok(_) => why = format!("{why}; the page `{path}` says something else"),
            Err(nothing) => why = format!("{why}; {nothing}"),
        },
        None if host.contested => {
            why.push_str("; another tenant has or claims the host, so only the TXT record proves it");
        }
        None => {}
    }
    Err(why)
}

fn record(host: &TenantHost) -> String {
    format!("_berth.{}", host.name())
}

fn value(token: &str) -> String {
    format!("berth-host={token}")
}

/// The path of the page that proves a host, where one does.
fn page(host: &Host, token: &str) -> Option<String> {
    (host.host.plain().is_some() && !host.contested).then(|| page_path(token))
}

fn page_path(token: &str) -> String {
    format!("/.well-known/berth-host/{}", token.get(..IN_PATH).unwrap_or(token))
}

/// What edges answer for a claim: path and text.
pub(crate) fn answer(token: &str) -> (String, String) {
    (page_path(token), value(token))
}

fn token() -> String {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// Who else has the host.
async fn other_owner(app: &App, claimed: &Host) -> Result<Option<TenantId>, ControlError> {
    let filter = HostFilter { tenant: None, host: Some(claimed.host.clone()) };
    let all = app.store().hosts_all(&filter).await?;
    Ok(all.into_iter().find(|host| host.served && host.tenant != claimed.tenant).map(|host| host.tenant))
}

async fn find(app: &App, host: &TenantHost, tenant: Option<TenantId>) -> Result<Host, ControlError> {
    let mut found = app.store().hosts_all(&HostFilter { tenant, host: Some(host.clone()) }).await?;
    match found.len() {
        0 => Err(ControlError::NoHost(host.to_string())),
        1 => Ok(found.remove(0)),
        _ => Err(ControlError::WhichTenant(found.iter().map(|host| host.tenant_name.to_string()).collect())),
    }
}

async fn find_for(app: &App, host: &TenantHost, who: Option<&str>) -> Result<Host, ControlError> {
    let tenant = match who {
        Some(who) => Some(tenants::known(app, who).await?.id),
        None => None,
    };
    find(app, host, tenant).await
}

fn shown(rules: &Hosts, host: Host) -> wire::Host {
    let own = is_own(rules, &host.host);
    let way = host.claim.as_ref().and_then(|claim| claim.way);
    let proof = match way {
        _ if own => Some(HostProof::Own),
        Some(way) => Some(way),
        None => host.served.then_some(HostProof::Given),
    };
    let show = host.claim.as_ref().filter(|claim| claim.way.is_none() && !own).map(|claim| {
        let path = page(&host, &claim.token);
        let port = rules.http_port.filter(|port| *port != 80).map(|port| format!(":{port}")).unwrap_or_default();
        wire::HostShow {
            txt_name: record(&host.host),
            txt_value: value(&claim.token),
            page: path.is_some().then(|| value(&claim.token)),
            url: path.map(|path| format!("http://{}{port}{path}", host.host.name())),
        }
    });
    let claim = host.claim.as_ref();
    wire::Host {
        looked_at: claim.and_then(|claim| claim.looked_at),
        trouble: claim.and_then(|claim| claim.trouble.clone()),
        host: host.host,
        tenant: host.tenant_name,
        served: host.served,
        proof,
        show,
        contested: host.contested,
    }
}
