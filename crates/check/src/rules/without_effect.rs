//! Variables of the WebHost guide that a process may be given and that change nothing here. The table of docs/stack-file.md
//! is this list.

use crate::{
    Kind,
    world::{Out, World},
};

/// Variables that one thing is said of.
struct Pointless {
    /// Each with the guide's default, where it has one. A `*` at its end stands for what begins so.
    names: &'static [(&'static str, &'static str)],
    because: &'static str,
    instead: &'static str,
}

const BACKUPS: &[(&str, &str)] = &[
    ("STORAGE_BOX_URL", ""),
    ("BACKUP_ENABLED", "false"),
    ("BACKUP_SCHEDULE", "0 2 * * *"),
    ("BACKUP_RETENTION_DAYS", "30"),
    ("RETENTION_DAYS", "30"),
    ("BACKUP_DIR", ""),
    ("S3_BUCKET", ""),
    ("AWS_*", ""),
    ("DB_NAME", ""),
];

/// Of them those that applications read themselves, and most often for that alone: in the table, and never found.
const ALSO_APPLICATIONS: &[&str] = &["S3_BUCKET", "AWS_*", "DB_NAME", "CLOUDFLARE_*"];

const WITHOUT_EFFECT: &[Pointless] = &[
    Pointless {
        names: &[
            ("HETZNER_API_TOKEN", ""),
            ("HETZNER_SERVER_ID", ""),
            ("HETZNER_FIREWALL_ID", ""),
            ("FLY_API_TOKEN", ""),
            ("FLY_ORG_ID", ""),
            ("FLY_APP_NAME", ""),
            ("CLOUDFLARE_*", ""),
        ],
        because: "no adapter of this version calls these providers; `berth check --live` tries the tokens of `.env` files, and `FLY_ORG_ID` with its own",
        instead: "`providers` with `ssh` for servers that you have there, or with `endpoint` for what runs there",
    },
    Pointless {
        names: &[("FLY_REGION", "iad"), ("FLY_REPLICAS", "1"), ("FLY_MEMORY_MB", "512"), ("FLY_CPU_KIND", "shared")],
        because: "where and how large members are is said in the stack file",
        instead: "`cells.NAME.region`, `services.NAME.copies`, `services.NAME.shape`",
    },
    Pointless {
        names: &[("HETZNER_MODE", ""), ("FLYIO_MODE", "")],
        because: "`DEPLOYMENT_MODE` and `INFRASTRUCTURE_PROVIDER` say it to every process",
        instead: "`cells.NAME.class` and `cells.NAME.provider`",
    },
    Pointless {
        names: &[("HETZNER_DATABASE_URL", ""), ("HETZNER_REDIS_HOST", ""), ("HETZNER_REDIS_PORT", "")],
        because: "they are one provider's names for what every process is told",
        instead: "`DATABASE_URL`, and with `data.redis` `REDIS_HOST` and `REDIS_PORT`",
    },
    Pointless {
        names: &[("CDN_ENABLED", "true")],
        because: "a flag makes no network of caches",
        instead: "one of your own before the edges, named to them with `--trust`",
    },
    Pointless {
        names: &[("MULTI_REGION_ENABLED", "false"), ("REPLICA_REGIONS", "fra,sin")],
        because: "a flag makes no second region; a cell stands in one",
        instead: "a cell in each, with its `region`, and `tenants.region_routing`",
    },
    Pointless {
        names: BACKUPS,
        because: "backups are made by who `backups.by` names",
        instead: "`backups` states how often, where and for how long; `archives` says where rows and exports are kept",
    },
    Pointless {
        names: &[("HETZNER_MONITORING_WEBHOOK", ""), ("FLYIO_METRICS_ENABLED", "")],
        because: "alerts are sent by who `alerts.by` names, and metrics are scraped",
        instead: "`alerts`, and `/metrics` of servers and edges",
    },
    Pointless {
        names: &[
            ("AUTOSCALING_ENABLED", ""),
            ("AUTO_SCALING_ENABLED", "true"),
            ("MIN_INSTANCES", "1"),
            ("MAX_INSTANCES", "10"),
            ("CPU_THRESHOLD", "70"),
            ("MEMORY_THRESHOLD", "80"),
        ],
        because: "given in `env` they are told to the process, and no copy more or less runs",
        instead: "`services.NAME.scale`, which every process is told under these names",
    },
    Pointless {
        names: &[("MAX_CUSTOMERS_PER_SERVER", "150"), ("MAX_CUSTOMERS", "150; 1"), ("PRIMARY_REGION", "us-east")],
        because: "given in `env` they are told to the process, and the cell stays as it is",
        instead: "`cells.NAME.max_tenants` and `cells.NAME.region`, which every process is told under these names",
    },
];

fn about(name: &str) -> Option<&'static Pointless> {
    let is = |known: &str| known.strip_suffix('*').map_or(known == name, |start| name.starts_with(start));
    let found = |known: &str| is(known) && !ALSO_APPLICATIONS.contains(&known);
    WITHOUT_EFFECT.iter().find(|about| about.names.iter().any(|(known, _)| found(known)))
}

pub fn look(world: &World<'_>, out: &mut Out) {
    for variable in world.variables().iter().filter(|variable| variable.file.kind == Kind::Stack) {
        let Some(about) = about(&variable.name) else { continue };
        let message = format!("Berth does nothing by `{}`: {}", variable.name, about.because);
        let remedy = format!("instead: {}; where the application itself reads it, silence this", about.instead);
        out.note(variable.file, variable.line, &variable.key, message, remedy);
    }
}

#[cfg(test)]
mod tests {
    use super::{ALSO_APPLICATIONS, Pointless, WITHOUT_EFFECT};
    use crate::{Options, Source, check};

    #[test]
    fn each_is_named_at_a_service_and_at_a_mode_with_what_to_use_instead() {
        let options = Options { now: jiff::Timestamp::UNIX_EPOCH, only: vec!["variable-without-effect".to_owned()] };
        for about in WITHOUT_EFFECT {
            for (known, _) in about.names {
                let name = known.replace('*', "ANYTHING");
                let text = format!(
                    "stack: s\nservices:\n  web:\n    command: [a]\n    health: /h\n    env: {{ {name}: \"1\" }}\nmodes:\n  multi_tenant: {{ env: {{ {name}: \"1\" }} }}\n"
                );
                let report = check(&[Source::new("berth.yaml", text)], &options);
                let found: Vec<_> = report.findings.iter().map(|f| (f.line, f.key.clone())).collect();
                let mut expected = vec![
                    (Some(6), format!("services.web.env.{name}")),
                    (Some(8), format!("modes.multi_tenant.env.{name}")),
                ];
                if ALSO_APPLICATIONS.contains(known) {
                    expected.clear();
                }
                assert_eq!(found, expected, "{name}");
                assert!(report.findings.iter().all(|f| f.remedy.contains(about.instead)), "{name}");
            }
        }
    }

    #[test]
    fn the_table_of_the_stack_files_page_is_this_list() {
        let page = include_str!("../../../../docs/stack-file.md");
        let row = |about: &Pointless| {
            let name = |(name, usual): &(&str, &str)| {
                let also = if ALSO_APPLICATIONS.contains(name) { " †" } else { "" };
                if usual.is_empty() { format!("`{name}`{also}") } else { format!("`{name}`{also} (`{usual}`)") }
            };
            let names: Vec<String> = about.names.iter().map(name).collect();
            format!("| {} | {} | {} |\n", names.join(", "), about.because, about.instead)
        };
        let rows: String = WITHOUT_EFFECT.iter().map(row).collect();
        let table = format!("| variable | because | instead |\n|---|---|---|\n{rows}\n");
        assert!(page.contains(&table), "docs/stack-file.md should hold:\n{table}");
    }
}
