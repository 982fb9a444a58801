//! What one tenant has at the edges instead of its plan's limits. Edges are told with its route; a change of plan leaves it.

use crate::{App, Change, ControlError, Permit, ReadTenant, audited, tenants, usage};
use berth_domain::EdgeLimits;
use berth_store::Tenant;
use berth_wire as wire;
use serde_json::json;
use std::collections::BTreeSet;

/// Classes that edges know without anybody naming them.
const SHIPPED: [&str; 3] = ["api", "upload", "gps"];
/// What a JSON reader that knows only doubles still holds exactly; the stack file takes no more either.
const MOST: u64 = (1 << 53) - 1;

/// What is wrong with limits that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLimit {
    #[error("no plan limits a class of requests `{0}`")]
    NoClass(String, Vec<String>),
    #[error("`{0}` is over what a limit can be")]
    TooMany(String),
    #[error("a limit of 0 bytes lets no request with a body through")]
    NoBody,
}

impl BadLimit {
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::NoClass(_, known) => format!(
                "classes are {}; another one is named first under `limits.requests_per_minute` of the stack file",
                known.join(", ")
            ),
            Self::TooMany(_) => format!("give {MOST} at most"),
            Self::NoBody => "give 1 or more, or leave it out for what the plan says".to_owned(),
        }
    }
}

pub async fn show(app: &App, permit: &Permit<ReadTenant>, who: &str) -> Result<wire::TenantLimits, ControlError> {
    let tenant = tenants::find(app, permit, who).await?;
    shown(app, tenant).await
}

/// All of its own; none: the plan's. `version`: the one that was read.
pub async fn set(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    wanted: wire::TenantLimitsSet,
    version: Option<u64>,
) -> Result<wire::TenantLimits, ControlError> {
    app.writable().await?;
    let tenant = tenants::known(app, who).await?;
    let wanted = EdgeLimits { requests_per_minute: wanted.requests_per_minute, body_bytes: wanted.body_bytes };
    let version = tenants::expected(&tenant, version)?;
    let bad = faults(&wanted, &classes(app, &tenant).await?);
    if !bad.is_empty() {
        return Err(ControlError::BadLimits(bad));
    }
    let mut tx = app.store().begin().await?;
    tx.tenant_lock(tenant.id).await?;
    tx.tenant_touch(tenant.id, version).await?;
    tx.tenant_set_limits(tenant.id, &wanted).await?;
    let about = format!("tenant/{}", tenant.name);
    let (before, after) = (json!({ "limits": tenant.limits }), json!({ "limits": wanted }));
    audited(&mut tx, permit, "tenant.limits", &about, Some(before), Some(after)).await?;
    if tenants::is_routed(tenant.state) {
        tx.routes_publish(&[tenant.id]).await?;
    }
    tx.commit().await?;
    let now = app.store().tenant_get(tenant.id).await?;
    shown(app, now.ok_or_else(|| ControlError::NoTenant(who.to_owned()))?).await
}

async fn shown(app: &App, tenant: Tenant) -> Result<wire::TenantLimits, ControlError> {
    let plan = usage::limits_of_plan(app, &tenant).await?;
    Ok(wire::TenantLimits {
        of_plan: plan.at_edges(),
        in_force: plan.with(&tenant.limits).at_edges(),
        own: tenant.limits,
        tenant: tenant.name,
        plan: tenant.plan,
        version: u64::try_from(tenant.version).unwrap_or(0),
    })
}

/// The classes that plans limit, and those that the tenant has by now.
async fn classes(app: &App, tenant: &Tenant) -> Result<BTreeSet<String>, ControlError> {
    let plans = app.store().plan_list().await?;
    let mut known: BTreeSet<String> = SHIPPED.into_iter().map(str::to_owned).collect();
    known.extend(plans.into_iter().flat_map(|stored| stored.plan.limits.requests_per_minute.into_keys()));
    known.extend(tenant.limits.requests_per_minute.keys().cloned());
    Ok(known)
}

fn faults(wanted: &EdgeLimits, known: &BTreeSet<String>) -> Vec<BadLimit> {
    let mut bad = Vec::new();
    for (class, requests) in &wanted.requests_per_minute {
        if !known.contains(class) {
            bad.push(BadLimit::NoClass(class.clone(), known.iter().cloned().collect()));
        } else if *requests > MOST {
            bad.push(BadLimit::TooMany(class.clone()));
        }
    }
    match wanted.body_bytes {
        Some(0) => bad.push(BadLimit::NoBody),
        Some(bytes) if bytes > MOST => bad.push(BadLimit::TooMany("body_bytes".to_owned())),
        Some(_) | None => {}
    }
    bad
}

#[cfg(test)]
mod tests {
    use super::{BadLimit, MOST, faults};
    use berth_domain::EdgeLimits;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn all_that_is_wrong_is_said_at_once_and_what_helps() {
        let known: BTreeSet<String> = ["api", "gps"].into_iter().map(str::to_owned).collect();
        let wanted = |of: &[(&str, u64)], body_bytes| EdgeLimits {
            requests_per_minute: of.iter().map(|(class, n)| ((*class).to_owned(), *n)).collect::<BTreeMap<_, _>>(),
            body_bytes,
        };
        assert_eq!(faults(&wanted(&[("api", 0), ("gps", MOST)], Some(1)), &known), []);
        let bad = faults(&wanted(&[("apii", 5), ("gps", MOST + 1)], Some(0)), &known);
        assert_eq!(bad.len(), 3);
        assert!(matches!(&bad[0], BadLimit::NoClass(class, _) if class == "apii"), "{bad:?}");
        assert!(bad[0].hint().starts_with("classes are api, gps;"), "{}", bad[0].hint());
        assert_eq!(bad[1..], [BadLimit::TooMany("gps".to_owned()), BadLimit::NoBody]);
    }
}
