//! A host of a server's asked over TLS, with a certificate that the test makes. Never asks an authority.

use super::{Desk, Machine, must, run, text};
use std::{process::Command, thread::sleep, time::Duration};

/// Gives the server a certificate for `host` by `berth cert add`, and asks `path` there on 443 as a client that believes that
/// certificate and no other. What was answered; `None`, with a word, where this machine has not what it takes.
pub fn answer(desk: &Desk, server: &Machine, admin: &str, host: &str, path: &str) -> Option<String> {
    for program in ["openssl", "curl"] {
        if Command::new(program).arg("--version").output().is_err() {
            eprintln!("left out: TLS, since `{program}` is not installed");
            return None;
        }
    }
    let (chain, key) = (desk.dir.join("chain.pem"), desk.dir.join("chain.key"));
    let (chain_at, key_at) = (chain.to_str().unwrap(), key.to_str().unwrap());
    let (subject, names) = (format!("/CN={host}"), format!("subjectAltName=DNS:{host}"));
    let of = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    // One that may sign others is believed as nobody's own.
    let says = ["-subj", &subject, "-addext", &names, "-addext", "basicConstraints=critical,CA:FALSE"];
    must("openssl", &[&["req", "-x509"][..], &of, &says, &["-keyout", key_at, "-out", chain_at]].concat());
    server.copy(&chain, "/srv/chain.pem");
    server.copy(&key, "/srv/chain.key");
    server.sh(&format!("BERTH_API_KEY='{admin}' berth cert add --chain /srv/chain.pem --key /srv/chain.key"));
    let (at, url) = (format!("{host}:443:{}", server.ip), format!("https://{host}{path}"));
    let ask = || run("curl", &["-sSf", "--max-time", "5", "--cacert", chain_at, "--resolve", &at, &url]);
    let mut asked = ask();
    for _ in 0..100 {
        // The edge hears of a certificate a moment later.
        if asked.status.success() {
            break;
        }
        sleep(Duration::from_millis(200));
        asked = ask();
    }
    assert!(asked.status.success(), "{url}: {}", text(&asked.stderr));
    Some(text(&asked.stdout))
}
