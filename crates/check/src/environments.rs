//! The rules over each environment: `berth.staging.yaml` laid over `berth.yaml`, as `berth apply` would.
//!
//! What is found in the stack file alone is not said again, and what an environment adds or breaks is said with its name.

use crate::{
    Finding, Kind,
    node::Ask,
    read::File,
    world::{Out, World},
};
use berth_config::{
    over,
    tree::{Entry, Node, Value},
};

/// Lines of the upper file are told apart by it: no file is that long.
const UPPER: u64 = 1 << 40;

pub fn look(world: &World<'_>, out: &mut Out) {
    let Some(stack) = world.stack() else { return };
    for upper in world.of(Kind::Stack).filter(|file| file.tree.entry("stack").is_none()) {
        let joined = File { tree: over(stack.tree.clone(), &lifted(&upper.tree)), ..stack.clone() };
        let beside = world.files.iter().filter(|file| file.kind != Kind::Stack).cloned();
        let files: Vec<File> = std::iter::once(joined).chain(beside).collect();
        let mut found = Out::default();
        // A stack file's own mistakes are looked for in the texts, layer by layer.
        crate::run(&World { files: &files, now: world.now, judge: world.judge }, &mut found, |rule| {
            rule.id != "stack-file"
        });
        for mut finding in found.findings {
            if let Some(line) = finding.line.filter(|line| *line >= UPPER) {
                finding.line = Some(line - UPPER);
                finding.file.clone_from(&upper.path);
            }
            let same = |known: &Finding| {
                (known.rule, &known.file, known.line, &known.key)
                    == (finding.rule, &finding.file, finding.line, &finding.key)
                    && known.severity <= finding.severity
            };
            if !out.findings.iter().any(same) {
                finding.message = format!("with `{}` over it: {}", upper.path, finding.message);
                out.findings.push(finding);
            }
        }
    }
}

fn lifted(node: &Node) -> Node {
    let value = match &node.value {
        Value::List(items) => Value::List(items.iter().map(lifted).collect()),
        Value::Map(entries) => Value::Map(
            entries
                .iter()
                .map(|e| Entry { line: e.line + UPPER, key: e.key.clone(), value: lifted(&e.value) })
                .collect(),
        ),
        plain => plain.clone(),
    };
    Node { line: node.line + UPPER, value }
}

#[cfg(test)]
mod tests {
    use crate::{Options, Source, check};

    const BASE: &str = "stack: s
services:
  web: { command: [./web], health: /health, copies: 2, env: { POOL_SIZE: \"10\" } }
cells:
  shared-1: { class: shared, max_tenants: 150 }
  own: { class: dedicated }
providers:
  here: { adapter: local }
";

    fn found(upper: &str) -> Vec<String> {
        let sources = [Source::new("berth.yaml", BASE), Source::new("berth.staging.yaml", upper)];
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let report = check(&sources, &Options { now, only: Vec::new() });
        report
            .findings
            .iter()
            .map(|f| format!("{} {}:{} {}", f.rule, f.file, f.line.unwrap_or_default(), f.message))
            .collect()
    }

    #[test]
    fn an_environment_is_judged_as_it_would_run() {
        assert_eq!(found("services:\n  web: { copies: 1 }\n"), [""; 0]);
        // Alone the file says nothing wrong: only below it stands that the cell is one tenant's own.
        let broken = found("cells:\n  own:\n    max_tenants: 3\n");
        assert_eq!(
            broken,
            [
                "dedicated-for-many berth.staging.yaml:3 with `berth.staging.yaml` over it: a cell that is sold as dedicated has room for 3 tenants"
            ]
        );
    }

    #[test]
    fn what_the_stack_file_has_wrong_itself_is_said_once() {
        let base = BASE.replace("health: /health", "health: /health, image: shop");
        let sources =
            [Source::new("berth.yaml", base), Source::new("berth.staging.yaml", "services:\n  web: { copies: 1 }\n")];
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let report = check(&sources, &Options { now, only: vec!["moving-tag".to_owned()] });
        assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
        assert_eq!(report.findings[0].file, "berth.yaml");
    }
}
