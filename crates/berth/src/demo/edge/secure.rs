//! TLS in front: the edge beside nginx and HAProxy, each on one core with the same certificate, over HTTP/1.1 and HTTP/2.
//!
//! `h2load` is the client, for `wrk` speaks neither HTTP/2 nor many hosts over TLS: all requests are for one host.

use super::{
    Feed, PATIENCE, compared, host, median,
    peers::{self, Contender, OTHERS, pinned},
    quantile,
    wrk::Round,
};
use crate::fail::{Failure, FailureExt as _};
use berth_domain::CertificateId;
use berth_wire::edge::{EdgeCertificate, Hidden};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};
use uuid::Uuid;

/// Requests at once on one connection of HTTP/2.
const STREAMS: u32 = 10;

/// A key and a certificate for the host that is asked, by `openssl`.
fn certificate(dir: &Path) -> Result<(String, String), Failure> {
    let (key, chain) = (dir.join("key.pem"), dir.join("chain.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=bench", "-addext", &format!("subjectAltName=DNS:{}", host(0)), "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&chain)
        .output()
        .map_err(|error| Failure::ours(error, "openssl", "apt-get install openssl"))?;
    let read = |path: &Path| fs::read_to_string(path).ours("a certificate");
    if !made.status.success() {
        return Err(Failure::request(
            "openssl made no certificate",
            String::from_utf8_lossy(&made.stderr).into_owned(),
        ));
    }
    let (key, chain) = (read(&key)?, read(&chain)?);
    // HAProxy wants both in one file.
    fs::write(dir.join("both.pem"), format!("{chain}{key}")).ours("a certificate")?;
    Ok((key, chain))
}

/// One round: requests a second, processor time a request, how long answers took, and how many failed. `log` is where
/// `h2load` writes each request down, for of times it says no quantile itself.
fn round(contender: &Contender, http2: bool, connections: u32, seconds: u32, log: &Path) -> Result<Round, Failure> {
    // It adds to a file that is there.
    let _ = fs::remove_file(log);
    let before = contender.cpu_us()?;
    let mut command = pinned("h2load", OTHERS);
    command.args(["-t1", &format!("-c{connections}"), &format!("-D{seconds}")]);
    command.arg(format!("--log-file={}", log.display()));
    if http2 {
        command.arg(format!("-m{STREAMS}"));
    } else {
        command.arg("--h1");
    }
    let done = command
        .arg(format!("--connect-to=127.0.0.1:{}", contender.port))
        .arg(format!("https://{}/", host(0)))
        .output()
        .map_err(|error| Failure::ours(error, "h2load", "apt-get install nghttp2-client"))?;
    let cpu_us = contender.cpu_us()? - before;
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    let figures = figures(&out).ok_or_else(|| Failure::request("h2load said nothing that is understood", out))?;
    let (requests, failed) = figures;
    let written = fs::read_to_string(log).ours("h2load's log")?;
    let times_us: Vec<f64> = times_us(&written).into_iter().map(f64::from).collect();
    if times_us.is_empty() {
        return Err(Failure::request("h2load wrote down no answer", "this takes nghttp2 1.52 or later"));
    }
    Ok(Round {
        rps: requests / f64::from(seconds),
        cpu_us: cpu_us / requests,
        p50_us: quantile(times_us.clone(), 0.5),
        p99_us: quantile(times_us, 0.99),
        failed,
    })
}

/// Of lines `start\tstatus\tmicroseconds\t…`, those that were answered: a status of -1 is a stream that broke.
fn times_us(log: &str) -> Vec<u32> {
    let time_us = |line: &str| {
        let mut columns = line.split('\t').skip(1);
        let status: i32 = columns.next()?.parse().ok()?;
        let time_us: u32 = columns.next()?.parse().ok()?;
        (status > 0).then_some(time_us)
    };
    log.lines().filter_map(time_us).collect()
}

/// `requests: 10 total, 10 started, 10 done, 9 succeeded, 1 failed, …` and `status codes: 9 2xx, …`: good ones and others.
fn figures(out: &str) -> Option<(f64, u64)> {
    let number = |line: &str, word: &str| -> Option<u64> {
        let all = out.lines().find_map(|l| l.strip_prefix(line))?;
        all.split(',').find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
    };
    let good = number("status codes: ", "2xx")?;
    let done = number("requests: ", "done")?;
    Some((good as f64, done.saturating_sub(good) + number("requests: ", "failed")?))
}

/// What each came to, and whether every answer was a good one.
pub async fn measure(
    program: &Path,
    dir: &Path,
    origin: u16,
    connections: u32,
    rounds: usize,
    seconds: u32,
) -> Result<(Value, bool), Failure> {
    let dir = dir.join("secure");
    fs::create_dir_all(&dir).ours("the bench's folder")?;
    let (key_pem, chain_pem) = certificate(&dir)?;
    let told = EdgeCertificate {
        id: CertificateId::new(Uuid::from_u128(1)),
        version: 1,
        names: vec![host(0)],
        chain_pem,
        key_pem: Hidden::new(key_pem),
        good: None,
    };
    let feed = Feed::start_with(super::HOSTS, origin, Some(told)).await?;
    let contenders = [
        peers::edge_tls(program, &dir.join("ours"), feed.port())?,
        peers::nginx_tls(&dir.join("nginx"), origin, &dir)?,
        peers::haproxy_tls(&dir.join("haproxy"), origin, &dir)?,
    ];
    feed.in_force(PATIENCE).await?;
    let log = dir.join("requests.log");
    let (mut all, mut good) = (json!({}), true);
    for (name, http2) in [("http1", false), ("http2", true)] {
        let mut rows: Vec<Vec<Round>> = Vec::new();
        for contender in &contenders {
            contender.ready().await?;
            round(contender, http2, connections, 1, &log)?;
        }
        for _ in 0..rounds {
            let row: Vec<Round> = contenders
                .iter()
                .map(|contender| round(contender, http2, connections, seconds, &log))
                .collect::<Result<_, _>>()?;
            let told: Vec<String> = contenders
                .iter()
                .zip(&row)
                .map(|(c, r)| format!("{} {:.0}/s {:.1} us p99 {:.0}", c.name, r.rps, r.cpu_us, r.p99_us))
                .collect();
            super::say(format!("TLS, {name}: {}", told.join(", ")));
            for (contender, round) in contenders.iter().zip(&row).filter(|(_, round)| round.failed > 0) {
                good = false;
                super::say(format!("TLS, {name} {}: {} requests failed", contender.name, round.failed));
            }
            rows.push(row);
        }
        let mut figures = compared(&contenders.each_ref(), &rows)?;
        figures["rps"] = json!(median(rows.iter().map(|row| row[0].rps).collect()));
        all[name] = figures;
    }
    Ok((all, good))
}

#[cfg(test)]
mod tests {
    #[test]
    fn good_answers_are_told_from_all_others() {
        let out = "requests: 12 total, 12 started, 10 done, 10 succeeded, 2 failed, 2 errored, 0 timeout\n\
                   status codes: 7 2xx, 0 3xx, 3 4xx, 0 5xx\n";
        assert_eq!(super::figures(out), Some((7.0, 5)));
        assert_eq!(super::figures("h2load: no such host"), None);
    }

    #[test]
    fn times_are_of_what_was_answered() {
        // As h2load 1.52 writes them, and with a column more, as its page says that there may be.
        let log = "1700000000000000\t200\t1250\n1700000000000010\t-1\t9\n1700000000000020\t404\t800\t1\n17000000";
        assert_eq!(super::times_us(log), [1250, 800]);
    }
}
