//! Variables that a mode needs, and templates that nobody filled in.

use crate::{
    Kind,
    node::Ask,
    world::{Out, Variable, World},
};
use std::collections::BTreeSet;

const ALWAYS: &[&str] = &["DATABASE_URL", "REDIS_URL", "SECRET_KEY_BASE", "TOKEN_SIGNING_SECRET"];
const MULTI: &[&str] = &["HETZNER_API_TOKEN", "HETZNER_SERVER_ID", "STORAGE_BOX_URL"];
const SINGLE: &[&str] = &["FLY_API_TOKEN", "FLY_ORG_ID"];
const MODES: &[&str] = &["multi_tenant", "single_tenant"];
/// Those whose value is a whole number.
const NUMBERS: &[&str] = &[
    "MAX_CUSTOMERS_PER_SERVER",
    "SHARED_DATABASE_POOL_SIZE",
    "DEDICATED_DATABASE_POOL_SIZE",
    "BACKUP_RETENTION_DAYS",
    "HETZNER_SERVER_ID",
    "FLY_REPLICAS",
    "FLY_MEMORY_MB",
    "POOL_SIZE",
    "PORT",
];

/// The variables of one deployment: a `.env` file, with those that the compose file beside it sets.
pub fn missing(world: &World<'_>, out: &mut Out) {
    let variables = world.variables();
    for variable in variables.iter().filter(|v| v.name == "DEPLOYMENT_MODE") {
        if !variable.value.contains('$') && !MODES.contains(&variable.value.as_str()) {
            let message = format!("`{}` is no mode", variable.value);
            out.note(variable.file, variable.line, &variable.key, message, "write `multi_tenant` or `single_tenant`");
        }
    }
    for variable in variables.iter().filter(|v| NUMBERS.contains(&v.name.as_str())) {
        let value = variable.value.trim();
        if !value.contains('$') && value.parse::<u64>().is_err() {
            let message = "this should be a whole number; the program that reads it stops when it starts";
            out.note(variable.file, variable.line, &variable.key, message, "write digits alone");
        }
    }
    for file in world.of(Kind::Environment) {
        let own = |v: &&Variable<'_>| std::ptr::eq(v.file, file) || v.file.kind == Kind::Compose;
        let here: BTreeSet<&str> =
            variables.iter().filter(own).filter(|v| !v.value.trim().is_empty()).map(|v| v.name.as_str()).collect();
        let Some(mode) = variables.iter().find(|v| v.name == "DEPLOYMENT_MODE" && std::ptr::eq(v.file, file)) else {
            continue;
        };
        let more = match mode.value.as_str() {
            "multi_tenant" => MULTI,
            "single_tenant" => SINGLE,
            _ => continue,
        };
        for name in ALWAYS.iter().chain(more).filter(|name| !here.contains(**name)) {
            out.note(
                file,
                mode.line,
                name,
                format!("`{name}` is not set, and `{}` needs it", mode.value),
                format!("add `{name}=…`, or set it where the process is started"),
            );
        }
    }
}

/// `{{CUSTOMER_ID}}` where only `${CUSTOMER_ID}` would have been filled in.
pub fn unrendered(world: &World<'_>, out: &mut Out) {
    for file in world.files.iter().filter(|file| matches!(file.kind, Kind::Fly | Kind::Environment | Kind::Compose)) {
        for leaf in file.tree.leaves() {
            let Some(value) = leaf.node.text() else { continue };
            let Some(name) = value.split_once("{{").and_then(|(_, rest)| Some(rest.split_once("}}")?.0.trim())) else {
                continue;
            };
            let placeholder =
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
            if placeholder {
                out.note(
                    file,
                    leaf.line,
                    &leaf.path,
                    format!("`{{{{{name}}}}}` is still the template's; `envsubst` fills in `${{{name}}}` only"),
                    format!("write `${{{name}}}` in the template, and check what comes out of it"),
                );
            }
        }
    }
}
