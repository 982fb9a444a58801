//! Figures of tenants under the names that dashboards of the VeloFlux guide ask for, for who asks for them.
//!
//! Pure. Names of the guide for what nobody measures here (a web application firewall) are not made up.

use berth_control::tenant_figures::TenantFigures;
use std::fmt::Write as _;

/// Tenants by name; the rest is one, so that the number of series is bounded.
const NAMED_TENANTS: usize = 1000;

/// What Prometheus reads, one family after the other.
pub fn text(tenants: &[TenantFigures]) -> String {
    let (named, rest) = tenants.split_at(tenants.len().min(NAMED_TENANTS));
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut family = |name: &str, help: &str, samples: &[(String, String)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{{{labels}}} {value}");
        }
    };
    let of = |name: &dyn std::fmt::Display| format!("tenant_id=\"{name}\"");
    let price = |cents: i64| format!("{}.{:02}", cents / 100, cents % 100);
    let mut amounts: Vec<_> = named
        .iter()
        .map(|tenant| (format!("{},period=\"month\"", of(&tenant.name)), price(tenant.price_cents.get())))
        .collect();
    if !rest.is_empty() {
        let sum = rest.iter().map(|tenant| tenant.price_cents.get()).sum();
        amounts.push((format!("{},period=\"month\"", of(&"other")), price(sum)));
    }
    family("veloflux_tenant_billing_amount_total", "What the tenant's plan costs a month.", &amounts);
    let quotas = || named.iter().flat_map(|tenant| tenant.quotas.iter().map(move |quota| (tenant, quota)));
    let label = |tenant: &TenantFigures, quantity: &str| format!("{},resource=\"{quantity}\"", of(&tenant.name));
    let used: Vec<_> = quotas()
        .filter_map(|(tenant, quota)| Some((label(tenant, &quota.quantity), quota.used?.to_string())))
        .collect();
    family("veloflux_tenant_resource_usage", "What is used of a quantity of the plan; absent: never reported.", &used);
    let limits: Vec<_> =
        quotas().map(|(tenant, quota)| (label(tenant, &quota.quantity), quota.limit.to_string())).collect();
    family("veloflux_tenant_resource_limit", "What the plan has of a quantity.", &limits);
    type Value = fn(&TenantFigures) -> u32;
    let members: [(&str, &str, Value); 2] = [
        ("veloflux_orchestration_pods_ready", "Healthy members of the tenant's cell.", |tenant| tenant.members_healthy),
        ("veloflux_orchestration_pods_total", "Members of the tenant's cell.", |tenant| tenant.members),
    ];
    for (name, help, value) in members {
        let samples: Vec<_> = named.iter().map(|tenant| (of(&tenant.name), value(tenant).to_string())).collect();
        family(name, help, &samples);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{NAMED_TENANTS, text};
    use berth_control::tenant_figures::{QuotaFigure, TenantFigures};
    use berth_domain::Cents;

    fn tenant(name: &str) -> TenantFigures {
        let quota = |quantity: &str, used| QuotaFigure { quantity: quantity.to_owned(), used, limit: 100 };
        TenantFigures {
            name: name.parse().unwrap(),
            price_cents: Cents::new(14_905),
            quotas: vec![quota("users", None), quota("vehicles", Some(81))],
            members: 3,
            members_healthy: 2,
        }
    }

    #[test]
    fn each_name_of_the_guide_has_its_tenants_and_nothing_is_made_up() {
        let text = text(&[tenant("acme")]);
        for line in [
            "veloflux_tenant_billing_amount_total{tenant_id=\"acme\",period=\"month\"} 149.05",
            "veloflux_tenant_resource_usage{tenant_id=\"acme\",resource=\"vehicles\"} 81",
            "veloflux_tenant_resource_limit{tenant_id=\"acme\",resource=\"users\"} 100",
            "veloflux_orchestration_pods_ready{tenant_id=\"acme\"} 2",
            "veloflux_orchestration_pods_total{tenant_id=\"acme\"} 3",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        assert!(!text.contains("usage{tenant_id=\"acme\",resource=\"users\"}"), "nobody reported users: {text}");
    }

    #[test]
    fn the_number_of_series_is_bounded_and_no_amount_is_lost() {
        let tenants: Vec<_> = (0..NAMED_TENANTS + 2).map(|n| tenant(&format!("t{n}"))).collect();
        let text = text(&tenants);
        assert!(text.contains("{tenant_id=\"other\",period=\"month\"} 298.10"), "{}", &text[..200]);
        assert_eq!(text.matches("pods_ready{").count(), NAMED_TENANTS);
    }
}
