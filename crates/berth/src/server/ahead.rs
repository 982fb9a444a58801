//! What `berth up` can know before it changes anything: whether the stack file will be taken, whether its first cell and
//! tenant can be made, and whether the host has the programs. Only looks.

use super::steps::Walk;
use crate::fail::Failure;
use berth_config::{Environment, HostProofs, Run, Stack, Template};
use berth_domain::{Hostname, PlanName, ProviderName, TenantHost, TenantName};
use berth_providers::{adapter, ssh::quoted};
use jiff::Timestamp;
use serde_json::Value;

/// Where the adapter `local` looks for programs.
const PROGRAMS: &str = "/usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin";
/// The plan of the first tenant, where nobody names one and the stack file has several.
const USUAL_PLAN: &str = "hobby";

/// What the server would refuse in a stack file that has no other mistakes.
pub fn settings(stack: &Stack) -> Result<(), Failure> {
    let mut wrong: Vec<String> = berth_control::check::placement(stack, Timestamp::now())
        .iter()
        .map(|(key, says)| format!("`{key}` {says}"))
        .collect();
    for (name, provider) in &stack.providers {
        if adapter(&provider.adapter).is_none() {
            wrong.push(format!("`providers.{name}.adapter` `{}` is none that this program has", provider.adapter));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let what = format!("the stack file cannot be put in force:\n{}", wrong.join("\n"));
    Err(Failure::request(what, "`berth check` looks at all of it; nothing was changed"))
}

/// The provider that makes the first cell on the host itself.
pub fn provider(stack: &Stack, named: Option<&ProviderName>) -> Result<ProviderName, Failure> {
    let local: Vec<&ProviderName> =
        stack.providers.iter().filter(|(_, provider)| provider.adapter == "local").map(|(name, _)| name).collect();
    if local.is_empty() {
        let hint = "add `providers: { local: { adapter: local } }`; nothing was changed";
        return Err(Failure::request("the stack file names no provider that runs cells on the host itself", hint));
    }
    let all = local.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match named {
        Some(named) if local.contains(&named) => Ok(named.clone()),
        Some(named) => {
            let what = format!("`{named}` is no provider of the stack file that runs cells on the host itself");
            Err(Failure::request(what, format!("`--provider` names one of {all}; nothing was changed")))
        }
        // Declared cells say themselves whose they are.
        None if local.len() > 1 && stack.cells.is_empty() => {
            let what = format!("{} providers run cells on the host itself: {all}", local.len());
            Err(Failure::request(what, "name the first cell's with `--provider`; nothing was changed"))
        }
        None => Ok(local[0].clone()),
    }
}

/// The first tenant's plan: the one that was named, else the only one there is.
pub fn plan(stack: &Stack, named: Option<&PlanName>) -> PlanName {
    match (named, stack.plans.len()) {
        (Some(named), _) => named.clone(),
        (None, 1) => stack.plans.keys().next().expect("there is one").clone(),
        (None, _) => PlanName::new(USUAL_PLAN).expect("it is a name"),
    }
}

/// A first tenant that control would not take. One that is there already is not made.
pub async fn tenant(
    walk: &Walk<'_>,
    stack: &Stack,
    (tenant, host, plan): (&TenantName, &Hostname, &PlanName),
) -> Result<(), Failure> {
    let refused = if !stack.plans.contains_key(plan) {
        let all = stack.plans.keys().map(|plan| format!("`{plan}`")).collect::<Vec<_>>().join(", ");
        let all = if all.is_empty() { "it has none".to_owned() } else { format!("it has {all}") };
        Failure::request(
            format!("the stack file has no plan `{plan}` for tenant `{tenant}`"),
            format!("name one with `--plan`: {all}; nothing was changed"),
        )
    } else if stack.hosts.proof == HostProofs::Required
        && !stack.hosts.own.iter().any(|own| TenantHost::from(host.clone()).is_under(own))
    {
        Failure::request(
            format!("{host} has to be proved before tenant `{tenant}` can have it: `hosts.proof` is `required`"),
            "take a host at or below one of `hosts.own`; or leave `--tenant` out, and prove it afterwards \
             (docs/hosts.md); nothing was changed",
        )
    } else {
        return Ok(());
    };
    // The key stays where it is: what is asked for shows in no list of processes.
    let known = format!(
        "key=/var/lib/berth/serve/admin.key; test -s $key && BERTH_API_KEY=$(cat $key) BERTH_URL=http://127.0.0.1:7600 \
         timeout 10 /usr/local/bin/berth tenant show {tenant} >/dev/null 2>&1"
    );
    if walk.is(&known).await? { Ok(()) } else { Err(refused) }
}

/// What the server will know as `${NAME}`: of the file that comes along, else of the one that is there.
pub async fn environment(walk: &Walk<'_>, given: Option<&[u8]>) -> Result<Environment, Failure> {
    let own = "systemctl show-environment 2>/dev/null; \
               systemctl show -p Environment --value berth-serve 2>/dev/null | tr ' ' '\\n'; true";
    let mut text =
        format!("HOME=/var/lib/berth\nUSER=berth\nLOGNAME=berth\nSHELL=/usr/sbin/nologin\n{}\n", walk.asks(own).await?);
    match given {
        Some(given) => text.push_str(&String::from_utf8_lossy(given)),
        None => text.push_str(&walk.asks("cat /etc/berth/serve.env 2>/dev/null; true").await?),
    }
    // What the server keeps to itself.
    let own = |name: &str| matches!(name, "DATABASE_URL" | "BERTH_API_KEY");
    Ok(variables(&text).filter(|(name, _)| !own(name)).collect())
}

/// Settings of providers name variables too, and are read by whoever builds those.
pub fn of_providers(stack: &Stack, known: &Environment) -> Result<(), Failure> {
    for (name, provider) in &stack.providers {
        if let Some(variable) = provider.settings.values().find_map(|setting| unset(setting, known)) {
            let what = format!("`providers.{name}` names the variable `{variable}`, which is not set");
            let hint = "variables come with `--env-file FILE`, as NAME=VALUE lines; nothing was changed";
            return Err(Failure::request(what, hint));
        }
    }
    Ok(())
}

/// The first variable in it that is not known.
fn unset(setting: &Value, known: &Environment) -> Option<String> {
    match setting {
        Value::String(text) => Template::new(text.as_str()).ok()?.resolve(known).err().map(|missing| missing.name),
        Value::Array(items) => items.iter().find_map(|item| unset(item, known)),
        Value::Object(settings) => settings.values().find_map(|item| unset(item, known)),
        _ => None,
    }
}

/// Lines as systemd reads them, without what it does with backslashes.
fn variables(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let (name, value) = line.split_once('=').filter(|_| !line.starts_with(['#', ';']))?;
        let value = value.trim();
        let bare = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        Some((name.trim(), bare.unwrap_or(value)))
    })
}

/// Whether members will be processes of the host's `serve`: those of the first cell, where the stack file declares none.
fn run_under_serve(stack: &Stack) -> bool {
    let is_local = |name: &ProviderName| stack.providers.get(name).is_some_and(|provider| provider.adapter == "local");
    stack.cells.is_empty() || stack.cells.values().any(|cell| is_local(&cell.provider))
}

/// Services from images, where `serve` would have to start them: it has no right to make a container.
pub fn images(stack: &Stack) -> Result<(), Failure> {
    let images = stack.services.iter().filter(|(_, service)| matches!(service.run, Run::Image(_)));
    let images: Vec<String> = images.map(|(name, _)| format!("`{name}`")).collect();
    if images.is_empty() || !run_under_serve(stack) {
        return Ok(());
    }
    let all = images.join(", ");
    let what =
        format!("services from images ({all}) can be started by no cell of the adapter `local` on such a server");
    let hint = "declare its first cell under a provider with the adapter `ssh`, which runs images on this server too \
                (docs/servers.md), or name programs under `command`; nothing was changed";
    Err(Failure::request(what, hint))
}

/// The programs of services that will run on the host itself. Where some run already a release may have brought theirs.
pub async fn programs(walk: &Walk<'_>, stack: &Stack) -> Result<(), Failure> {
    if !run_under_serve(stack) {
        return Ok(());
    }
    let wanted = wanted(stack);
    if wanted.is_empty() || walk.is("ls /var/lib/berth/local/members 2>/dev/null | grep -q .").await? {
        return Ok(());
    }
    let missing = walk.asks(&looking_for(&wanted)).await?;
    let missing: Vec<String> = missing.lines().map(|program| format!("`{program}`")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (name, all) = (walk.connection.target().name(), missing.join(", "));
    let what = format!("the services' programs are not on `{name}`, or may not be run there: {all}");
    let hint = format!(
        "put them into one of {}, or write their full paths in the stack file; nothing was changed",
        PROGRAMS.replace(' ', ", ")
    );
    Err(Failure::request(what, hint))
}

/// Each once. What an image has inside is nobody's to know before it is pulled.
fn wanted(stack: &Stack) -> Vec<&str> {
    let mut wanted: Vec<&str> = Vec::new();
    for service in stack.services.values() {
        let Run::Command(command) = &service.run else { continue };
        for words in [Some(command), service.migrate.as_ref()].into_iter().flatten() {
            wanted.extend(words.first().map(String::as_str));
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// Writes those that are not there. A path that is not absolute begins where the server runs.
fn looking_for(programs: &[&str]) -> String {
    let all = programs.iter().map(|program| quoted(program)).collect::<Vec<_>>().join(" ");
    format!(
        "cd /; runs() {{ test -f \"$1\" && test -x \"$1\"; }}; \
         there() {{ case \"$1\" in */*) runs \"$1\";; *) for d in {PROGRAMS}; do runs \"$d/$1\" && return 0; done; false;; esac; }}; \
         for p in {all}; do there \"$p\" || printf '%s\\n' \"$p\"; done"
    )
}

#[cfg(test)]
mod tests {
    use super::{images, looking_for, of_providers, plan, provider, settings, variables, wanted};
    use berth_config::{Environment, Stack, no_files, parse};
    use std::process::Command;

    fn stack(rest: &str) -> Stack {
        let file = format!(
            "stack: desk\nservices: {{ web: {{ command: [no-such-web], migrate: [sh, up], health: /up }} }}\n\
             data: {{ root: public.customers }}\n{rest}\n"
        );
        parse(&file, None, &no_files).unwrap()
    }

    #[test]
    fn the_first_cell_is_made_by_the_provider_that_runs_on_the_host() {
        let both = stack("providers: { existing: { adapter: endpoint }, local: { adapter: local } }");
        assert_eq!(provider(&both, None).unwrap().as_str(), "local");
        let other = provider(&both, Some(&"existing".parse().unwrap())).unwrap_err();
        assert!(other.what().contains("`existing` is no provider") && other.screen().contains("`local`"));
        let none = provider(&stack("providers: { existing: { adapter: endpoint } }"), None).unwrap_err();
        assert!(none.screen().contains("adapter: local"));
        let two = stack("providers: { a: { adapter: local }, b: { adapter: local } }");
        assert!(provider(&two, None).unwrap_err().screen().contains("`--provider`"));
        assert_eq!(provider(&two, Some(&"b".parse().unwrap())).unwrap().as_str(), "b");
    }

    #[test]
    fn the_only_plan_is_the_first_tenants() {
        let one = stack("plans: { standard: { price: 0, class: shared } }");
        assert_eq!(plan(&one, None).as_str(), "standard");
        assert_eq!(plan(&one, Some(&"other".parse().unwrap())).as_str(), "other");
        let two = stack("plans: { a: { price: 0, class: shared }, b: { price: 1, class: shared } }");
        assert_eq!(plan(&two, None).as_str(), "hobby");
    }

    #[test]
    fn what_the_server_would_refuse_is_known_before() {
        settings(&stack("providers: { local: { adapter: local } }")).unwrap();
        let wrong = stack("providers: { far: { adapter: nowhere-cloud } }\nplacement: { policy: { colour: red } }");
        let said = settings(&wrong).unwrap_err().screen();
        assert!(said.contains("`nowhere-cloud`") && said.contains("placement.policy"), "{said}");
    }

    #[test]
    fn images_are_left_to_cells_that_can_run_them() {
        images(&stack("providers: { local: { adapter: local } }")).unwrap();
        let of_images = |rest: &str| {
            let file = format!(
                "stack: desk\nservices: {{ web: {{ image: \"ghcr.io/desk/web@sha256:{}\", health: /up }} }}\n\
                 data: {{ root: public.customers }}\nproviders: {{ local: {{ adapter: local }}, servers: {{ adapter: ssh }} }}\n{rest}\n",
                "0".repeat(64)
            );
            images(&parse(&file, None, &no_files).unwrap())
        };
        let local = "cells: { a: { class: shared, provider: servers }, b: { class: shared, provider: local } }";
        for rest in ["", local] {
            let said = of_images(rest).unwrap_err().screen();
            assert!(said.contains("services from images (`web`)") && said.contains("docs/servers.md"), "{said}");
        }
        of_images("cells: { a: { class: shared, provider: servers } }").unwrap();
    }

    #[test]
    fn a_variable_of_a_provider_that_is_not_set_is_named() {
        let stack = stack("providers: { existing: { adapter: endpoint, cells: { a: { database: \"${SHOP}\" } } } }");
        let said = of_providers(&stack, &Environment::default()).unwrap_err().screen();
        assert!(said.contains("`providers.existing`") && said.contains("`SHOP`"), "{said}");
        of_providers(&stack, &[("SHOP", "postgres://")].into_iter().collect()).unwrap();
    }

    #[test]
    fn lines_of_variables_are_read_as_systemd_reads_them() {
        let text = "# A=1\n; B=2\n\nC = 3 \nD=\"a = b\"\nE='x'\nF=\nno line\n";
        let read: Vec<_> = variables(text).collect();
        assert_eq!(read, [("C", "3"), ("D", "a = b"), ("E", "x"), ("F", "")]);
    }

    #[test]
    fn programs_that_are_not_there_are_named() {
        let stack = stack("");
        assert_eq!(wanted(&stack), ["no-such-web", "sh"]);
        let programs = ["no-such-web", "sh", "/etc/passwd", "bin/sh", "it's"];
        let found = Command::new("sh").args(["-c", &looking_for(&programs)]).output().unwrap();
        assert_eq!(String::from_utf8(found.stdout).unwrap(), "no-such-web\n/etc/passwd\nit's\n");
    }
}
