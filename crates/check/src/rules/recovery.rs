//! Promises about loss and downtime that the arrangement beside them cannot keep.

use crate::{
    Kind,
    node::{Ask, cron_ms, said, span_ms},
    read::File,
    world::{Out, World},
};

const HOUR: f64 = 3_600_000.0;
const RPO_REMEDY: &str =
    "back up at least as often as the RPO says, archive the log continuously, or promise what is true";

pub fn rpo(world: &World<'_>, out: &mut Out) {
    if let Some(stack) = world.stack()
        && let Some(backups) = stack.tree.entry("backups")
    {
        let span = |key: &str| backups.value.at(&[key]).and_then(Ask::text).and_then(|text| span_ms(&text));
        if let (Some(rpo), Some(every)) = (span("rpo"), span("every")) {
            let line = backups.value.entry("rpo").map_or(backups.line, |entry| entry.line);
            judge(stack, line, "backups.rpo", rpo, every, out);
        }
        let copied = stack.tree.entry("failover").and_then(|failover| failover.value.entry("copied_every"));
        if let (Some(rpo), Some(copied)) = (span("rpo"), copied)
            && let Some(every) = copied.value.text().and_then(|text| span_ms(&text))
            && rpo < every
        {
            let message = format!(
                "{} of work at most are promised to be lost, and what takes over has a copy that may be {} old",
                said(rpo),
                said(every)
            );
            out.note(stack, copied.line, "failover.copied_every", message, RPO_REMEDY);
        }
    }
    let variables = world.variables();
    for rpo in variables.iter().filter(|v| matches!(v.name.as_str(), "RPO" | "RPO_TARGET" | "RPO_MINUTES")) {
        let unit = if rpo.name.ends_with("MINUTES") { "m" } else { "" };
        let schedule = variables.iter().find(|v| v.name == "BACKUP_SCHEDULE" && std::ptr::eq(v.file, rpo.file));
        let every = schedule.and_then(|v| cron_ms(&v.value));
        if let (Some(rpo_ms), Some(every)) = (span_ms(&format!("{}{unit}", rpo.value)), every) {
            judge(rpo.file, rpo.line, &rpo.key, rpo_ms, every, out);
        }
    }
    for file in world.of(Kind::Runbook) {
        let lines = lines(file);
        let Some(every) = lines.iter().filter_map(|(_, line)| interval(line)).min_by(f64::total_cmp) else { continue };
        for (number, line) in &lines {
            let Some(promised) = rpo_in(line) else { continue };
            judge(file, *number, "", promised, every, out);
        }
    }
}

fn judge(file: &File, line: u64, key: &str, rpo: f64, every: f64, out: &mut Out) {
    if rpo < every {
        let message = format!(
            "{} of work at most are promised to be lost, and a backup is made every {}",
            said(rpo),
            said(every)
        );
        out.note(file, line, key, message, RPO_REMEDY);
    }
}

/// Lines in small letters with their numbers; what stands in code blocks is an instruction too.
fn lines(file: &File) -> Vec<(u64, String)> {
    file.text.lines().enumerate().map(|(n, line)| (n as u64 + 1, line.to_ascii_lowercase())).collect()
}

/// How often backups are made, where a line about backups says so.
fn interval(line: &str) -> Option<f64> {
    if !["backup", "dump", "snapshot"].iter().any(|word| line.contains(word)) || rpo_in(line).is_some() {
        return None;
    }
    let continuous = ["continuous", "wal archiv", "point-in-time"].iter().any(|word| line.contains(word));
    if continuous {
        return Some(60_000.0);
    }
    let words = [
        ("hourly", HOUR),
        ("every hour", HOUR),
        ("daily", 24.0 * HOUR),
        ("nightly", 24.0 * HOUR),
        ("weekly", 168.0 * HOUR),
    ];
    words.iter().filter(|(word, _)| line.contains(word)).map(|(_, ms)| *ms).min_by(f64::total_cmp)
}

/// `RPO: 1 hour` or `RPO 15 min`.
fn rpo_in(line: &str) -> Option<f64> {
    let (_, after) = line.split_once("rpo").or_else(|| line.split_once("recovery point objective"))?;
    let at = after.find(|c: char| c.is_ascii_digit())?;
    let digits: String = after[at..].chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let rest = after[at + digits.len()..].trim_start();
    let unit: String = rest.chars().take_while(char::is_ascii_alphabetic).collect();
    if unit.is_empty() { None } else { span_ms(&format!("{digits}{unit}")) }
}

const DNS_REMEDY: &str = "switch at a proxy that holds requests for the moment and knows the new owner; change DNS afterwards, or not at all";

pub fn dns(world: &World<'_>, out: &mut Out) {
    const MESSAGE: &str = "a change of DNS is called free of downtime: resolvers keep the old answer for its TTL and longer, and until then both places take writes";
    const DENIED: &[&str] = &["not ", "never", "instead of", "isn't", "cannot", "without dns"];
    for file in world.of(Kind::Runbook) {
        for (number, line) in lines(file) {
            let free = ["zero-downtime", "zero downtime", "no downtime", "without downtime"];
            let claims = free.iter().any(|word| line.contains(word)) && line.contains("dns");
            if claims && !DENIED.iter().any(|word| line.contains(word)) {
                out.note(file, number, "", MESSAGE, DNS_REMEDY);
            }
        }
    }
    for file in world.files {
        for (path, map) in file.tree.maps() {
            let claim = map.entries().iter().find(|entry| {
                let name = entry.key.to_ascii_lowercase();
                (name == "zero_downtime" || name == "zerodowntime") && entry.value.is_true()
                    || name == "downtime" && entry.value.text().is_some_and(|text| text == "none" || text == "0")
            });
            let by_dns = map.entries().iter().any(|entry| {
                entry.key.to_ascii_lowercase().starts_with("dns") || entry.value.text().as_deref() == Some("dns")
            });
            if let Some(claim) = claim.filter(|_| by_dns) {
                out.note(file, claim.line, &crate::node::join(&path, &claim.key), MESSAGE, DNS_REMEDY);
            }
        }
    }
}

const FENCE_REMEDY: &str = "keep the old place from writing first: revoke its login, stop it, or let a lease decide; then let the new one take over";

pub fn fencing(world: &World<'_>, out: &mut Out) {
    if let Some(stack) = world.stack()
        && let Some(failover) = stack.tree.entry("failover")
    {
        let fence = failover.value.at(&["fence"]).and_then(Ask::text).unwrap_or_default();
        if fence.trim().is_empty() || fence == "none" || fence == "false" {
            let message = "another place takes over, and nothing keeps the old one from writing: when it was only slow, both have writes that the other lacks";
            out.note(stack, failover.line, "failover.fence", message, FENCE_REMEDY);
        }
    }
    for variable in world.variables() {
        let Some((scheme, rest)) = variable.value.split_once("://") else { continue };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let hosts = authority.rsplit('@').next().unwrap_or_default();
        let writes = ["target_session_attrs=read-write", "target_session_attrs=primary"];
        if scheme.starts_with("postgres") && hosts.contains(',') && !writes.iter().any(|w| rest.contains(w)) {
            let message = "the first server that answers is written to, whether or not it is the one that may be";
            let remedy = "add `target_session_attrs=read-write`, and let something fence the one that lost";
            out.note(variable.file, variable.line, &variable.key, message, remedy);
        }
    }
    for file in world.of(Kind::Runbook) {
        for section in sections(file) {
            let fenced = [
                "fence",
                "read-only",
                "read only",
                "revoke",
                "stop the old",
                "stop writes",
                "demote",
                "shut down the old",
                "lease",
            ];
            if section.iter().any(|(_, line)| fenced.iter().any(|word| line.contains(word))) {
                continue;
            }
            let switch = section.iter().find(|(_, line)| {
                let changes = ["change", "switch", "point", "set", "update"].iter().any(|word| line.contains(word));
                let database = line.contains("database_url") || line.contains("connection string");
                let promotes = line.contains("promote") && (line.contains("replica") || line.contains("standby"));
                promotes || (changes && database && line.contains(" to "))
            });
            if let Some((number, _)) = switch {
                let message = "the application is sent to another database, and no step keeps the old one from taking writes: what still reaches it is lost";
                out.note(file, *number, "", message, FENCE_REMEDY);
            }
        }
    }
}

/// Lines between two headings.
fn sections(file: &File) -> Vec<Vec<(u64, String)>> {
    let mut sections = vec![Vec::new()];
    let mut code = false;
    for (number, line) in lines(file) {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if line.starts_with('#') && !code {
            sections.push(Vec::new());
        }
        if let Some(section) = sections.last_mut() {
            section.push((number, line));
        }
    }
    sections
}
