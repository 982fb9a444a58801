//! What a stack file states and somebody else carries out, so that nobody takes a statement for work that is done.

use crate::{node::Ask, world::World};
use berth_config::tree::Node;

/// Of alerts: those that `berth render` writes rules of, since edges measure them.
const RENDERED: &[&str] = &["error_percent", "response_ms", "down_s"];

/// One sentence for each section.
pub fn of(world: &World<'_>) -> Vec<String> {
    let Some(stack) = world.stack() else { return Vec::new() };
    let section = |name: &str| {
        let section = &stack.tree.entry(name)?.value;
        // An address may hold a token: that of a webhook does.
        let by = section.at(&["by"])?.text()?;
        let by = if by.contains("://") { format!("what `{name}.by` names") } else { by };
        Some((section, by))
    };
    let alerts = section("alerts").map(|(section, by)| alerts(section, &by));
    let backups = section("backups").map(|(section, by)| {
        let unseen = present(section, |key| matches!(key, "to" | "keep_days" | "rto" | "drill_every"));
        let unseen =
            if unseen.is_empty() { String::new() } else { format!(", and sees nothing of {}", unseen.join(", ")) };
        format!("`backups`: made by {by}. Berth makes none; it holds `rpo` against `every`{unseen}")
    });
    let failover = section("failover").map(|(section, by)| {
        let alone = section.at(&["automatic"]).is_some_and(Ask::is_true);
        let also = if alone { ", also by itself" } else { "" };
        format!("`failover`: carried out by {by}{also}. Berth carries out none; it asks for a `fence`, and holds `copied_every` against `backups.rpo`")
    });
    [alerts, backups, failover].into_iter().flatten().collect()
}

fn alerts(section: &Node, by: &str) -> String {
    let rules = present(section, |key| RENDERED.contains(&key));
    let others = present(section, |key| key != "by" && !RENDERED.contains(&key));
    let rules =
        if rules.is_empty() { String::new() } else { format!("; `berth render` writes rules of {}", rules.join(", ")) };
    let others = if others.is_empty() { String::new() } else { format!("; it has no rule of {}", others.join(", ")) };
    format!("`alerts`: sent by {by}, not by Berth{rules}{others}")
}

/// Keys of a section, in the file's order.
fn present(section: &Node, wanted: impl Fn(&str) -> bool) -> Vec<&str> {
    section.entries().iter().map(|entry| entry.key.as_str()).filter(|key| wanted(key)).collect()
}
