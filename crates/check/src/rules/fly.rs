//! Keys of fly.toml that Fly's own tool does not know and passes over without a word.

use crate::{
    Kind,
    node::Ask,
    world::{Out, World},
};
use berth_config::tree::{Node, Value};

/// Every key that flyctl reads (internal/appconfig, looked up 2026-11), below its section. `*` stands for any name.
const KNOWN: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "app",
            "primary_region",
            "kill_signal",
            "kill_timeout",
            "swap_size_mb",
            "console_command",
            "experimental",
            "build",
            "deploy",
            "env",
            "processes",
            "mounts",
            "mount",
            "http_service",
            "services",
            "checks",
            "files",
            "host_dedication_id",
            "machine_config",
            "container",
            "machine_checks",
            "restart",
            "vm",
            "statics",
            "metrics",
        ],
    ),
    (
        "deploy",
        &[
            "strategy",
            "max_unavailable",
            "wait_timeout",
            "release_command",
            "release_command_timeout",
            "release_command_vm",
            "seed_command",
        ],
    ),
    (
        "build",
        &[
            "builder",
            "args",
            "buildpacks",
            "image",
            "settings",
            "builtin",
            "dockerfile",
            "ignorefile",
            "build-target",
            "compression",
            "compression_level",
        ],
    ),
    (
        "mounts",
        &[
            "source",
            "destination",
            "initial_size",
            "snapshot_retention",
            "auto_extend_size_threshold",
            "auto_extend_size_increment",
            "auto_extend_size_limit",
            "scheduled_snapshots",
            "processes",
        ],
    ),
    (
        "http_service",
        &[
            "internal_port",
            "force_https",
            "auto_stop_machines",
            "auto_start_machines",
            "min_machines_running",
            "processes",
            "concurrency",
            "tls_options",
            "http_options",
            "checks",
            "machine_checks",
            "proxy_proto_options",
        ],
    ),
    (
        "services",
        &[
            "protocol",
            "internal_port",
            "auto_stop_machines",
            "auto_start_machines",
            "min_machines_running",
            "ports",
            "concurrency",
            "tcp_checks",
            "http_checks",
            "machine_checks",
            "processes",
            "script_checks",
        ],
    ),
    (
        "services.ports",
        &[
            "port",
            "start_port",
            "end_port",
            "handlers",
            "force_https",
            "tls_options",
            "http_options",
            "proxy_proto_options",
        ],
    ),
    ("services.concurrency", &["type", "hard_limit", "soft_limit"]),
    ("http_service.concurrency", &["type", "hard_limit", "soft_limit"]),
    ("services.tcp_checks", &["interval", "timeout", "grace_period", "restart_limit"]),
    (
        "services.http_checks",
        &[
            "interval",
            "timeout",
            "grace_period",
            "restart_limit",
            "method",
            "path",
            "protocol",
            "tls_skip_verify",
            "tls_server_name",
            "headers",
        ],
    ),
    (
        "http_service.checks",
        &[
            "interval",
            "timeout",
            "grace_period",
            "restart_limit",
            "method",
            "path",
            "protocol",
            "tls_skip_verify",
            "tls_server_name",
            "headers",
        ],
    ),
    (
        "vm",
        &[
            "size",
            "memory",
            "memory_mb",
            "cpu_kind",
            "cpus",
            "gpus",
            "gpu_kind",
            "host_dedication_id",
            "kernel_args",
            "persist_rootfs",
            "processes",
        ],
    ),
    ("metrics", &["port", "path", "https", "processes"]),
    ("statics", &["guest_path", "url_prefix", "tigris_bucket", "index_document"]),
    ("restart", &["policy", "retries", "processes"]),
    ("files", &["guest_path", "local_path", "secret_name", "raw_value", "processes"]),
    (
        "experimental",
        &[
            "cmd",
            "entrypoint",
            "exec",
            "auto_rollback",
            "enable_consul",
            "enable_etcd",
            "lazy_load_images",
            "attached",
            "machine_config",
            "use_zstd",
            "allowed_public_ports",
        ],
    ),
];

pub fn ignored(world: &World<'_>, out: &mut Out) {
    for file in world.of(Kind::Fly) {
        let mut said = Vec::new();
        look(&file.tree, "", &mut |line, key: &str| {
            if said.contains(&key.to_owned()) {
                return;
            }
            said.push(key.to_owned());
            out.note(
                file,
                line,
                key,
                format!("Fly knows no key `{key}` and passes over it: nothing in it happens"),
                remedy(key),
            );
        });
    }
}

fn remedy(key: &str) -> &'static str {
    match key.split('.').next().unwrap_or_default() {
        "autoscale" => {
            "machines start and stop with traffic by `auto_start_machines` and `min_machines_running` of `[http_service]`; by a metric only with an autoscaler beside the application"
        }
        "deploy" => "a region gets machines by `fly scale count 2 --region fra`; the file names `primary_region` only",
        _ => "take it out, or look its name up in Fly's reference of fly.toml",
    }
}

fn look(node: &Node, section: &str, unknown: &mut impl FnMut(u64, &str)) {
    match &node.value {
        Value::List(items) => {
            for item in items {
                look(item, section, unknown);
            }
        }
        Value::Map(entries) => {
            let Some((_, known)) = KNOWN.iter().find(|(name, _)| *name == section) else { return };
            for entry in entries {
                let key = crate::node::join(section, &entry.key);
                if known.contains(&entry.key.as_str()) {
                    look(&entry.value, &key, unknown);
                } else {
                    unknown(
                        if entry.value.entries().is_empty() && entry.value.items().is_empty() {
                            entry.line
                        } else {
                            first_line(&entry.value, entry.line)
                        },
                        &key,
                    );
                }
            }
        }
        _ => {}
    }
}

/// `[[autoscale]]` is where its first table begins.
fn first_line(node: &Node, otherwise: u64) -> u64 {
    node.items().first().map_or(otherwise, |item| item.line)
}
