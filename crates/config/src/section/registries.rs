//! `registries`: with which account images are pulled. A password is a variable and never stands here.

use super::services::template;
use crate::{
    Environment, Problem, RegistryAccount,
    read::{At, Reader},
};
use berth_domain::Artifact;
use secrecy::ExposeSecret as _;
use std::collections::BTreeMap;

pub fn read(reader: &mut Reader, at: &At<'_>, environment: Option<&Environment>) -> BTreeMap<String, RegistryAccount> {
    let mut accounts = BTreeMap::new();
    for (host, at) in reader.pairs(at) {
        if !is_registry(&host) {
            let message = "this is no registry: a host name, with its port where it has one of its own";
            reader.wrong(&at, Problem::Malformed { message, hint: "for example `registry.example.com` or `ghcr.io`" });
        }
        let Some(section) = reader.section(&at, &["user", "password"]) else { continue };
        let user = section.need("user", "user: shop-bot", reader).and_then(|at| {
            let user = reader.text(&at)?;
            if user.is_empty() || user.contains(|c: char| c == ':' || c.is_control()) {
                let hint = "as `berth registry add HOST --user NAME` takes it, without `:`";
                reader.wrong(&at, Problem::Malformed { message: "this is no name of an account", hint });
            }
            Some(user.to_owned())
        });
        let password = section.need("password", "password: ${REGISTRY_PASSWORD}", reader).and_then(|at| {
            let template = template(reader, &at, environment)?;
            if template.variables().is_empty() {
                let problem = Problem::Malformed {
                    message: "a secret does not stand in the stack file",
                    hint: "write `${NAME}` and set the variable where `berth serve` is started",
                };
                reader.wrong(&at, problem);
            } else if environment
                .is_some_and(|known| template.resolve(known).is_ok_and(|password| password.expose_secret().is_empty()))
            {
                let hint = "give its variable a value where `berth serve` is started";
                reader.wrong(&at, Problem::Malformed { message: "this password is empty", hint });
            }
            Some(template)
        });
        if let (Some(user), Some(password)) = (user, password) {
            accounts.insert(host, RegistryAccount { user, password });
        }
    }
    accounts
}

/// What an image of it would be called says whether it is one.
fn is_registry(host: &str) -> bool {
    let image = format!("{host}/a@sha256:{}", "0".repeat(64)).parse::<Artifact>();
    image.is_ok_and(|image| image.registry() == Some(host))
}
