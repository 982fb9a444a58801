//! What else filters a host or publishes ports on it: other firewalls, a docker of somebody's. Found and named, with what
//! becomes of it; never changed.

use super::steps::{failed, say};
use crate::fail::Failure;
use berth_providers::ssh::{Connection, quoted};
use serde::Serialize;
use std::collections::BTreeSet;

/// As root. A word a line; what a docker publishes after `ports`.
const LOOK: &str = "LC_ALL=C; export LC_ALL; ufw status 2>/dev/null | grep -q '^Status: active' && echo ufw; \
                    systemctl is-active -q firewalld 2>/dev/null && echo firewalld; \
                    systemctl is-active -q docker 2>/dev/null && echo docker && \
                    timeout 10 docker ps --format '{{.Ports}}' 2>/dev/null | sed 's/^/ports /'; true";
/// What stays open, whoever publishes it.
const OPEN: [&str; 2] = ["80", "443"];

/// Somebody else's on the host.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Neighbour {
    pub name: &'static str,
    /// What becomes of it, and what to do where that is not wanted.
    pub becomes: String,
}

pub async fn look(connection: &Connection, sudo: &str) -> Result<Vec<Neighbour>, Failure> {
    let said = connection.run(&format!("{sudo}sh -c {}", quoted(LOOK)), b"").await.map_err(failed)?;
    Ok(read(&said.out))
}

pub fn tell(neighbours: &[Neighbour]) {
    for neighbour in neighbours {
        say(&format!("found  {:<12}  {}", neighbour.name, neighbour.becomes));
    }
}

fn read(said: &str) -> Vec<Neighbour> {
    let firewall = |name, open: &str, off: &str| Neighbour {
        name,
        becomes: format!(
            "it stays, and what it does not let in stays out, requests too: `{open}` there lets them in; or `{off}`, \
             since the table made here lets in no more than SSH, 80 and 443"
        ),
    };
    let mut found = Vec::new();
    for line in said.lines() {
        found.push(match line.trim() {
            "ufw" => firewall("ufw", "ufw allow 80,443/tcp", "ufw disable"),
            "firewalld" => firewall(
                "firewalld",
                "firewall-cmd --permanent --add-service={http,https} && firewall-cmd --reload",
                "systemctl disable --now firewalld",
            ),
            "docker" => Neighbour { name: "docker", becomes: docker(said) },
            _ => continue,
        });
    }
    found
}

fn docker(said: &str) -> String {
    let lines = said.lines().filter_map(|line| line.strip_prefix("ports "));
    let shut: BTreeSet<&str> = lines.flat_map(|line| line.split(',')).filter_map(published).collect();
    let what = if shut.is_empty() {
        "what its containers publish beside 80 and 443 is not let in".to_owned()
    } else {
        let all = shut.into_iter().collect::<Vec<_>>().join(", ");
        format!("what its containers publish now is not let in from outside any more: {all}")
    };
    format!("it stays with its containers, and podman comes beside it; {what}")
}

/// The port of `0.0.0.0:8080->80/tcp`, where others reach it now and will not.
fn published(one: &str) -> Option<&str> {
    let (address, port) = one.trim().split_once("->")?.0.rsplit_once(':')?;
    let outside = !address.starts_with("127.") && address != "[::1]" && address != "::1";
    (outside && !OPEN.contains(&port)).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn whoever_is_there_is_named_with_what_becomes_of_it() {
        assert_eq!(read(""), []);
        let found = read("ufw\nfirewalld\ndocker\nports \n");
        let names: Vec<_> = found.iter().map(|it| it.name).collect();
        assert_eq!(names, ["ufw", "firewalld", "docker"]);
        for (found, word) in
            found.iter().zip(["`ufw allow 80,443/tcp`", "--add-service={http,https}", "beside 80 and 443"])
        {
            assert!(found.becomes.contains("it stays") && found.becomes.contains(word), "{found:?}");
        }
    }

    #[test]
    fn a_docker_is_told_which_of_its_ports_are_shut_from_now_on() {
        let said = "docker\nports 0.0.0.0:5432->5432/tcp, [::]:5432->5432/tcp, 0.0.0.0:80->8000/tcp\n\
                    ports 127.0.0.1:6379->6379/tcp, 9000/tcp\nports :::9100-9102->9100-9102/tcp, [::1]:1->1/tcp\n";
        let found = read(said);
        assert_eq!(found.len(), 1);
        assert!(found[0].becomes.ends_with("any more: 5432, 9100-9102"), "{}", found[0].becomes);
    }
}
