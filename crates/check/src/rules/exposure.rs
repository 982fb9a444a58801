//! What the world can reach and should not.

use super::compose::{REQUIRED, filled};
use crate::{
    Kind,
    node::Ask,
    world::{Out, Variable, World},
};
use berth_config::tree::Node;
use berth_domain::is_private;
use nginx_lint_parser::ast::{Argument, Directive};

/// By image.
const STORES: &[&str] = &[
    "postgres",
    "timescaledb",
    "timescaledb-ha",
    "postgis",
    "pgvector",
    "redis",
    "valkey",
    "keydb",
    "dragonfly",
    "mysql",
    "mariadb",
    "mongo",
    "mongodb",
    "memcached",
    "elasticsearch",
    "opensearch",
    "meilisearch",
    "rabbitmq",
    "clickhouse-server",
    "cockroach",
    "etcd",
];
/// By the port inside, for images of one's own.
const STORE_PORTS: &[u32] = &[5432, 6379, 3306, 27_017, 11_211, 9200, 7700, 5672, 26_257, 2379];
const PROXIES: &[&str] = &["nginx", "traefik", "caddy", "haproxy", "envoy"];

/// One entry of `ports`.
struct Port {
    line: u64,
    address: Option<String>,
    inside: Option<u32>,
}

impl Port {
    /// Without an address Docker listens on all, before any firewall of the host.
    fn to_the_world(&self) -> bool {
        let Some(address) = &self.address else { return true };
        let address = address.trim_matches(['[', ']']);
        let private = address.parse().is_ok_and(is_private);
        !(private || address == "localhost" || address.starts_with('$'))
    }

    /// The variable that its address is, where neither a file nor a default says what it holds.
    fn unset(&self) -> Option<&str> {
        let address = self.address.as_deref().filter(|address| *address != REQUIRED)?;
        address.strip_prefix('$').filter(|name| !name.is_empty())
    }
}

fn ports(service: &Node, variables: &[Variable<'_>]) -> Vec<Port> {
    let Some(ports) = service.entry("ports") else { return Vec::new() };
    let read = |item: &Node| {
        if !item.entries().is_empty() {
            return Port {
                line: item.line,
                address: item.at(&["host_ip"]).and_then(Ask::text).map(|text| filled(&text, variables)),
                inside: item.at(&["target"]).and_then(Ask::text).and_then(|n| filled(&n, variables).parse().ok()),
            };
        }
        // What stands in `${NAME:-5432}` has colons of its own.
        let text = filled(&item.text().unwrap_or_default(), variables);
        let text = text.split('/').next().unwrap_or_default();
        let (before, inside) = text.rsplit_once(':').unwrap_or(("", text));
        let address = before.rsplit_once(':').map(|(address, _)| address.to_owned());
        Port { line: item.line, address, inside: inside.split('-').next().and_then(|n| n.parse().ok()) }
    };
    ports.value.items().iter().map(read).collect()
}

/// `timescale/timescaledb:latest-pg15` is `timescaledb`.
pub fn image_name(service: &Node) -> Option<String> {
    let image = service.at(&["image"])?.text()?;
    let path = image.split('@').next().unwrap_or(&image).rsplit('/').next().unwrap_or_default().to_owned();
    Some(path.split(':').next().unwrap_or_default().to_ascii_lowercase())
}

fn is(service: &Node, names: &[&str]) -> bool {
    image_name(service).is_some_and(|name| names.contains(&name.as_str()))
}

pub fn published_database(world: &World<'_>, out: &mut Out) {
    let variables = world.variables();
    for file in world.of(Kind::Compose) {
        for (name, service, _) in World::services(file) {
            for port in ports(service, &variables) {
                let store = is(service, STORES) || port.inside.is_some_and(|inside| STORE_PORTS.contains(&inside));
                if !store || !(port.to_the_world() || port.unset().is_some()) {
                    continue;
                }
                let what = image_name(service).unwrap_or_else(|| name.to_owned());
                let inside = port.inside.map_or_else(String::new, |port| format!(" on port {port}"));
                let open = format!("`{what}`{inside} is open to every address that reaches this host");
                let (message, remedy) = match port.unset() {
                    Some(unset) => (
                        format!("{open} wherever `{unset}` is not set: to Docker an empty address is all of them"),
                        format!("write `${{{unset}:-127.0.0.1}}`, or take `ports` out"),
                    ),
                    None => (
                        format!("{open}; Docker opens it before the host's own firewall"),
                        "take `ports` out: services of one file reach each other by name; for a look from outside publish `127.0.0.1:PORT:PORT` and come through SSH".to_owned(),
                    ),
                };
                out.note(file, port.line, &format!("services.{name}.ports"), message, remedy);
            }
        }
    }
}

pub fn proxy_bypass(world: &World<'_>, out: &mut Out) {
    let variables = world.variables();
    for file in world.of(Kind::Compose) {
        let services = World::services(file);
        let proxy =
            services.iter().find(|(_, service, _)| is(service, PROXIES) && !ports(service, &variables).is_empty());
        let Some((proxy, ..)) = proxy else { continue };
        for (name, service, _) in &services {
            if name == proxy || is(service, STORES) || is(service, PROXIES) {
                continue;
            }
            for port in ports(service, &variables).into_iter().filter(Port::to_the_world) {
                if port.inside.is_some_and(|inside| STORE_PORTS.contains(&inside)) {
                    continue;
                }
                out.note(
                    file,
                    port.line,
                    &format!("services.{name}.ports"),
                    format!("`{name}` can be reached around `{proxy}`: without TLS, without its limits, with whatever paths it hides"),
                    format!("take `ports` out; `{proxy}` reaches `{name}` by its name"),
                );
            }
        }
    }
}

pub fn open_metrics(world: &World<'_>, out: &mut Out) {
    const REMEDY: &str = "ask for a token there, or listen on an address that only the collector reaches";
    for file in world.of(Kind::Elixir) {
        for (path, map) in file.tree.maps() {
            let metrics = path.to_ascii_lowercase();
            let about = metrics.contains("prometheus") || metrics.contains("metrics");
            if let Some(auth) =
                map.entry("auth").filter(|entry| about && entry.value.text().as_deref() == Some("false"))
            {
                let where_ = map.at(&["path"]).and_then(Ask::text).unwrap_or_else(|| "/metrics".to_owned());
                let key = format!("{path}.auth");
                out.note(file, auth.line, &key, format!("`{where_}` answers everybody who asks"), REMEDY);
            }
        }
    }
    for variable in world.variables() {
        let name = variable.name.as_str();
        if matches!(name, "METRICS_AUTH" | "METRICS_AUTH_ENABLED" | "PROMETHEUS_AUTH") && variable.value == "false" {
            out.note(variable.file, variable.line, &variable.key, "metrics answer everybody who asks", REMEDY);
        }
    }
    for file in world.of(Kind::Nginx) {
        let Some(config) = &file.nginx else { continue };
        for directive in config.all_directives().filter(|d| d.is("location")) {
            let path = directive.args.iter().map(Argument::as_str).find(|arg| arg.contains("metrics"));
            let Some((path, block)) = path.zip(directive.block.as_ref()) else { continue };
            let guarded = |d: &Directive| match d.name.as_str() {
                "auth_basic" => d.first_arg() != Some("off"),
                "auth_request" | "auth_jwt" | "internal" => true,
                "deny" => d.first_arg() == Some("all"),
                "return" => d.first_arg().is_some_and(|code| code.starts_with('4')),
                _ => false,
            };
            if !block.directives().any(guarded) {
                let line = directive.name_span.start.line as u64;
                out.note(file, line, "", format!("`location {path}` lets everybody read the metrics"), REMEDY);
            }
        }
    }
    for file in world.of(Kind::Fly) {
        let port = file.tree.at(&["metrics", "port"]).and_then(Ask::number);
        let Some(port) = port else { continue };
        let public = file.tree.leaves().into_iter().find(|leaf| {
            leaf.name() == "internal_port" && leaf.path.contains("service") && leaf.node.number() == Some(port)
        });
        if let Some(public) = public {
            let message = format!("port {port} serves the metrics and is a public service as well");
            out.note(
                file,
                public.line,
                &public.path,
                message,
                "serve metrics on a port of their own: Fly reads it from inside",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Port;

    #[test]
    fn a_port_is_open_to_the_world_but_at_an_address_that_nobody_outside_reaches() {
        let port = |address: &str| Port { line: 1, address: Some(address.to_owned()), inside: None };
        for private in [
            "127.0.0.1",
            "localhost",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.7.7",
            "169.254.1.1",
            "100.64.0.1",
            "100.101.102.103",
            "100.127.255.255",
            "[::1]",
            "::1",
            "fd00::1",
            "fe80::1",
            "$BIND",
        ] {
            assert!(!port(private).to_the_world(), "{private}");
        }
        for open in [
            "",
            "0.0.0.0",
            "[::]",
            "203.0.113.9",
            "172.32.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "2001:db8::1",
            "10.example.com",
            "fd.example.com",
        ] {
            assert!(port(open).to_the_world(), "{open}");
        }
        assert!(Port { line: 1, address: None, inside: None }.to_the_world());
    }
}
