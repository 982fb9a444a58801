//! Which crate may know which. The one table; ARCHITECTURE.md draws it for people.
//!
//! Never looks at code: what `Cargo.toml` does not name cannot be used.

use crate::metadata::Metadata;
use std::collections::BTreeSet;

/// Crate → crates it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("wire", &["domain"]),
    ("config", &["domain"]),
    ("check", &["domain", "config", "placement"]),
    ("workflow", &["domain"]),
    ("pg", &[]),
    ("infra", &["domain", "pg"]),
    ("mover", &["domain", "pg"]),
    ("placement", &["domain"]),
    ("usage", &["domain"]),
    ("render", &["domain"]),
    ("store", &["domain", "workflow", "mover"]),
    ("acme", &["infra"]),
    ("providers", &["domain", "infra", "pg"]),
    ("client", &["domain", "wire"]),
    ("edge", &["domain", "wire", "client"]),
    ("workload", &["domain", "wire"]),
    (
        "control",
        &["domain", "wire", "config", "check", "workflow", "mover", "infra", "pg", "store", "placement", "usage"],
    ),
    ("api", &["domain", "wire", "config", "control"]),
    (
        "berth",
        &[
            "domain",
            "wire",
            "config",
            "check",
            "workflow",
            "mover",
            "placement",
            "usage",
            "render",
            "infra",
            "pg",
            "store",
            "providers",
            "acme",
            "client",
            "edge",
            "workload",
            "control",
            "api",
        ],
    ),
    ("testkit", &["domain", "infra", "providers", "store", "wire", "config"]),
    ("fleet", &[]),
    ("xtask", &["domain"]),
];

/// What only tests may use, whatever the table says.
const FOR_TESTS: &[&str] = &["acme", "edge", "testkit", "providers", "infra", "workload", "client", "store"];

pub fn faults(metadata: &Metadata) -> Vec<String> {
    let ours: BTreeSet<&str> = metadata.workspace().map(|package| package.name.as_str()).collect();
    let mut faults = Vec::new();
    for package in metadata.workspace() {
        let name = short(&package.name);
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            faults.push(format!("crate `{name}` has no line in the table of xtask/src/arrows.rs"));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|d| ours.contains(d.name.as_str())) {
            let to = short(&dependency.name);
            let test = dependency.kind.as_deref() == Some("dev") && FOR_TESTS.contains(&to);
            if !allowed.contains(&to) && !test {
                faults.push(format!("crate `{name}` may not depend on `{to}` (xtask/src/arrows.rs)"));
            }
        }
    }
    faults
}

fn short(name: &str) -> &str {
    name.strip_prefix("berth-").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::{ARROWS, faults};
    use crate::metadata::{Dependency, Metadata, Package};

    fn world(from: &str, to: &str, kind: Option<&str>) -> Metadata {
        let package = |name: &str, dependencies| Package {
            id: name.to_owned(),
            name: name.to_owned(),
            version: "0".to_owned(),
            license: None,
            source: None,
            dependencies,
        };
        let dependency = Dependency { name: to.to_owned(), kind: kind.map(str::to_owned) };
        Metadata {
            target_directory: "target".into(),
            workspace_members: vec![from.to_owned(), to.to_owned()],
            packages: vec![package(from, vec![dependency]), package(to, vec![])],
        }
    }

    #[test]
    fn arrows_never_turn_back() {
        for (from, allowed) in ARROWS {
            for to in *allowed {
                let (_, back) = ARROWS.iter().find(|(name, _)| name == to).expect("every name has a line");
                assert!(!back.contains(from), "{from} and {to} know each other");
            }
        }
    }

    #[test]
    fn an_arrow_outside_the_table_is_a_fault() {
        assert_eq!(faults(&world("berth-edge", "berth-store", None)).len(), 1);
        assert_eq!(faults(&world("berth-edge", "berth-wire", None)), Vec::<String>::new());
        assert_eq!(faults(&world("berth-edge", "berth-testkit", Some("dev"))), Vec::<String>::new());
        assert_eq!(faults(&world("berth-edge", "berth-testkit", None)).len(), 1);
        assert!(faults(&world("berth-nova", "berth-domain", None))[0].contains("no line"));
    }
}
