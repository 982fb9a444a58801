//! `https` and `hosts`: what edges answer without TLS, where certificates come from, and whose hosts need proof. Never
//! opens a file or asks a name.

use super::facts::span;
use crate::{
    Acme, AcmeChallenge, HostProofs, Hosts, Https, Problem,
    read::{At, Reader},
};
use std::net::SocketAddr;

pub fn https(reader: &mut Reader, at: &At<'_>) -> Https {
    let keys = &["redirect", "hsts", "port", "keys_over_plain_http", "members_over_plain_http", "acme"];
    let Some(section) = reader.section(at, keys) else { return Https::default() };
    let redirect = section.get("redirect").map_or(Some(false), |at| reader.truth(&at));
    let hsts = section.get("hsts").and_then(|at| span(reader, &at));
    if let (Some(at), Some(false)) = (section.get("hsts"), redirect) {
        let problem = Problem::Malformed {
            message: "browsers would be told to keep to TLS, and those that come without it are not sent there",
            hint: "add `redirect: true`",
        };
        reader.wrong(&at, problem);
    }
    Https {
        redirect: redirect.unwrap_or_default(),
        hsts,
        port: section.get("port").and_then(|at| reader.number(&at, 1..=u16::MAX)),
        keys_over_plain_http: section.get("keys_over_plain_http").and_then(|at| reader.truth(&at)).unwrap_or_default(),
        members_over_plain_http: section.get("members_over_plain_http").and_then(|at| reader.truth(&at)),
        acme: section.get("acme").and_then(|at| acme(reader, &at)),
    }
}

fn acme(reader: &mut Reader, at: &At<'_>) -> Option<Acme> {
    let section = reader.section(at, &["directory", "email", "ca_file", "challenge"])?;
    let directory = section.get("directory").map_or_else(
        || Some(Acme::USUAL_DIRECTORY.to_owned()),
        |at| {
            let text = reader.text(&at)?;
            let host = text.strip_prefix("https://").and_then(|rest| rest.split('/').next());
            if host.is_none_or(str::is_empty) {
                let problem = Problem::Malformed {
                    message: "this is no https URL",
                    hint: "give the URL of the authority's directory, or leave it out for Let's Encrypt's",
                };
                reader.wrong(&at, problem);
                return None;
            }
            Some(text.to_owned())
        },
    );
    let email = section.get("email").and_then(|at| {
        let text = reader.text(&at)?;
        let good = text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'));
        if !good || text.contains(char::is_whitespace) {
            let problem = Problem::Malformed {
                message: "this is no e-mail address",
                hint: "for example `email: ops@example.com`",
            };
            reader.wrong(&at, problem);
            return None;
        }
        Some(text.to_owned())
    });
    let ca_file = section.get("ca_file").and_then(|at| {
        let path = reader.text(&at)?;
        if !path.starts_with('/') {
            let problem = Problem::Malformed {
                message: "this is no absolute path",
                hint: "for example `ca_file: /etc/berth/authority.pem`",
            };
            reader.wrong(&at, problem);
            return None;
        }
        Some(path.to_owned())
    });
    let ways = [("http-01", AcmeChallenge::Http), ("tls-alpn-01", AcmeChallenge::TlsAlpn)];
    let challenge = section.get("challenge").map_or(Some(AcmeChallenge::Http), |at| reader.one_of(&at, &ways));
    Some(Acme { directory: directory?, email, ca_file, challenge: challenge? })
}

pub fn hosts(reader: &mut Reader, at: &At<'_>) -> Hosts {
    let Some(section) = reader.section(at, &["own", "proof", "resolver", "http_port"]) else {
        return Hosts::default();
    };
    let own = section.get("own").and_then(|at| reader.list(&at)).unwrap_or_default();
    let resolver = section.get("resolver").and_then(|at| {
        let text = reader.text(&at)?;
        let address = text.parse().or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, 53)));
        if address.is_err() {
            let problem = Problem::Malformed {
                message: "this is no address of a DNS server",
                hint: "for example `resolver: 1.1.1.1` or `resolver: 127.0.0.1:5353`",
            };
            reader.wrong(&at, problem);
        }
        address.ok()
    });
    let ways = [("none", HostProofs::None), ("required", HostProofs::Required)];
    Hosts {
        own: own.iter().filter_map(|at| reader.name(at)).collect(),
        proof: section.get("proof").and_then(|at| reader.one_of(&at, &ways)).unwrap_or_default(),
        resolver,
        http_port: section.get("http_port").and_then(|at| reader.number(&at, 1..=u16::MAX)),
    }
}
