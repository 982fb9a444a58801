//! The two columns of the WebHost guide's settings, as somebody who follows it would write them: each acts, or is refused
//! with the reason.

use berth_config::{Environment, Span, no_files, parse};

/// Key, then the value of cells for many tenants and of those of a tenant's own.
const ACT: &[(&str, &str, &str)] = &[
    ("pool_size", "20", "10"),
    ("redis_pool_size", "10", "5"),
    ("queue_target", "5s", "1s"),
    ("statement_timeout", "30s", "60s"),
    ("idle_in_transaction_timeout", "10s", "30s"),
    ("application_name", "webhost_multi_tenant", "webhost_single_tenant"),
];

const REFUSED: &[(&str, &str, &str)] = &[
    ("queue_interval", "1000", "500"),
    ("ownership_timeout", "60000", "60000"),
    ("prepare", "unnamed", "named"),
    ("idle_in_transaction_session_timeout", "10s", "30s"),
    ("shared_preload_libraries", "timescaledb", "timescaledb"),
    ("max_connections", "200", "100"),
    ("pubsub_pool_size", "10", "5"),
    ("max_customers_per_server", "150", "1"),
    ("resource_limits_enabled", "true", "true"),
    ("enforce_plan_limits", "true", "false"),
    ("auto_upgrade_threshold", "0.8", "0.8"),
    ("check_interval", "1h", "1h"),
    ("auto_scaling", "false", "true"),
    ("auto_scaling_enabled", "false", "true"),
    ("usage_based_billing", "false", "true"),
    ("cdn_enabled", "false", "true"),
    ("multi_region_enabled", "false", "false"),
    ("per_customer_metrics", "true", "false"),
    ("resource_usage_tracking", "true", "false"),
    ("alert_on_overage", "true", "false"),
    ("infrastructure_health", "false", "true"),
    ("performance_metrics", "false", "true"),
    ("global_alerting", "false", "true"),
    ("metrics_collection_interval", "5m", "1m"),
    ("retention_days", "30", "90"),
    ("customer_count", "true", "false"),
    ("resource_utilization", "true", "false"),
    ("query_performance", "true", "false"),
    ("error_rates", "true", "false"),
    ("response_time_histograms", "false", "true"),
    ("throughput_counters", "false", "true"),
    ("error_tracking", "false", "true"),
    ("resource_monitoring", "false", "true"),
    ("auto_scaling_metrics", "false", "true"),
    ("compression_enabled", "true", "true"),
    ("compression_interval", "7d", "30d"),
    ("retention_enabled", "true", "true"),
    ("default_retention_period", "30d", "365d"),
    ("chunk_time_interval", "1d", "1h"),
    ("tenant_isolation", "database_level", "infrastructure_level"),
    ("rate_limiting", "per_customer", "global"),
    ("api_key_validation", "true", "true"),
    ("request_logging", "true", "true"),
    ("audit_trail", "true", "true"),
    ("ssl_enforcement", "false", "true"),
    ("ddos_protection", "false", "true"),
    ("ip_whitelisting", "false", "false"),
    ("certificate_pinning", "false", "true"),
    ("end_to_end_encryption", "false", "true"),
    ("connection_pooling", "shared", "dedicated"),
    ("query_caching", "true", "true"),
    ("result_compression", "true", "false"),
    ("batch_operations", "true", "true"),
    ("async_processing", "true", "true"),
    ("parallel_queries", "false", "true"),
    ("connection_keepalive", "false", "true"),
    ("query_optimization", "false", "true"),
    ("index_tuning", "false", "true"),
    ("materialized_views", "false", "true"),
    ("log_metadata", "[request_id, customer_id, deployment_mode]", "[request_id, fly_region]"),
];

fn file(settings: &[(&'static str, &'static str, &'static str)]) -> String {
    let column = |of: fn(&(&'static str, &'static str, &'static str)) -> &'static str| {
        let lines: Vec<String> = settings.iter().map(|line| format!("    {}: {}\n", line.0, of(line))).collect();
        lines.concat()
    };
    format!(
        "stack: s\nservices:\n  web: {{ command: [./web], health: /health }}\nmodes:\n  multi_tenant:\n{}  single_tenant:\n{}",
        column(|line| line.1),
        column(|line| line.2)
    )
}

#[test]
fn what_acts_of_the_guides_columns_is_taken_as_it_stands_there() {
    let modes = parse(&file(ACT), Some(&Environment::default()), &no_files).expect("it is right").modes;
    let seconds = |n: u64| Span::from_ms(n * 1000);
    let columns = [(&modes.multi_tenant, 20, 10, 5, 30, 10), (&modes.single_tenant, 10, 5, 1, 60, 30)];
    for (profile, pool, redis, queue_s, statement_s, idle_s) in columns {
        assert_eq!((profile.pool_size, profile.redis_pool_size), (pool, redis));
        assert_eq!(profile.queue_target, seconds(queue_s));
        assert_eq!(profile.statement_timeout, Some(seconds(statement_s)));
        assert_eq!(profile.idle_in_transaction_timeout, Some(seconds(idle_s)));
    }
    assert_eq!(modes.single_tenant.application_name, "webhost_single_tenant");
}

#[test]
fn every_other_setting_of_the_guides_columns_is_refused_with_a_reason() {
    let Err(mistakes) = parse(&file(REFUSED), Some(&Environment::default()), &no_files) else {
        panic!("a key without effect was taken")
    };
    let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    for mode in ["multi_tenant", "single_tenant"] {
        for (key, ..) in REFUSED {
            let of = format!("`modes.{mode}.{key}`: would have no effect: ");
            let why = said.iter().find_map(|line| Some(line.split_once(&of)?.1));
            assert!(why.is_some_and(|why| why.len() > 10), "{mode}.{key}: {said:#?}");
        }
    }
    assert_eq!(said.len(), 2 * REFUSED.len(), "{said:#?}");
}
