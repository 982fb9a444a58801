//! Sections and keys that people know from elsewhere and that would have no effect here: refused with the reason.
//!
//! A key that is read and does nothing is worse than none. Each line goes when its key begins to act.

use crate::{
    Problem,
    read::{At, Reader},
    tree::Value,
};

/// Path, and why it is refused. A path stands for all below it that have no line of their own.
const LATER: &[(&str, &str)] = &[
    ("tenants.plans", "plans are the section `plans`"),
    ("tenants.default_plan", "a plan is named when a tenant is created"),
    ("billing.apiKey", "a secret has no place in the file, and no provider of payments is called yet"),
    ("billing.webhookSecret", "a secret has no place in the file, and no webhook is received yet"),
    ("billing.exportSchedule", "nothing is exported yet"),
    ("billing.exportFormat", "nothing is exported yet"),
    ("billing", "Berth bills nobody yet"),
    ("oidc.clientSecret", "a secret has no place in the file, and nobody signs in by OIDC yet"),
    ("oidc.claimMappings", "nobody signs in by OIDC yet"),
    ("oidc", "nobody signs in by OIDC yet; access is by keys (`berth key create`)"),
    ("orchestration.chartPath", "Berth never installs charts"),
    ("orchestration.chartVersion", "Berth never installs charts"),
    ("orchestration.helmReleaseName", "Berth never installs charts"),
    ("orchestration.kubeConfigPath", "there is no Kubernetes adapter yet"),
    ("orchestration.defaults.resourceLimits", "what a member is promised is `services.NAME.shape`"),
    ("orchestration.defaults.autoscaling", "each service has its own bounds and targets: `services.NAME.scale`"),
    ("orchestration", "there is no Kubernetes adapter yet; dedicated places are `cells` of the class `dedicated`"),
];

/// The sections themselves: known, so that they are not reported as unknown on top.
pub const SECTIONS: &[&str] = &["billing", "oidc", "orchestration"];

/// Notes every key of a section, each with the closest reason.
pub fn refuse(reader: &mut Reader, at: &At<'_>) {
    let mut said: Vec<&str> = Vec::new();
    walk(reader, at, &mut said);
}

fn walk(reader: &mut Reader, at: &At<'_>, said: &mut Vec<&str>) {
    let below = |path: &str| path.strip_prefix(&at.key).is_some_and(|rest| rest.starts_with('.'));
    if let Value::Map(entries) = &at.node.value
        && LATER.iter().any(|(path, _)| below(path))
    {
        for entry in entries {
            walk(reader, &At { key: format!("{}.{}", at.key, entry.key), node: &entry.value }, said);
        }
        return;
    }
    let mut path = at.key.as_str();
    let (line, why) = loop {
        if let Some((line, why)) = LATER.iter().find(|(known, _)| *known == path) {
            break (*line, *why);
        }
        match path.rsplit_once('.') {
            Some((above, _)) => path = above,
            None => return,
        }
    };
    // `enabled`, `provider` and `namespace` of one section have one reason: said once, at the first of them.
    if line == at.key || !said.contains(&line) {
        said.push(line);
        reader.wrong(at, Problem::NotYet { why });
    }
}
