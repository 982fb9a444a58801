//! `wrk` as the client: every request to the next of many hosts, on kept connections.

use super::{peers::Contender, say};
use crate::fail::{Failure, FailureExt as _};
use std::{fmt::Write as _, fs, path::Path, path::PathBuf, process::Command};

/// Longer than the rounds are: 64 bodies of 10 MB at once take more than wrk's own 2 s each.
const PATIENCE: &str = "30s";

pub struct Wrk {
    script: PathBuf,
    connections: u32,
}

/// What one round of one contender came to.
#[derive(Debug)]
pub struct Round {
    pub rps: f64,
    /// Processor time per request.
    pub cpu_us: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Answers that were not 2xx or 3xx, and connections that broke.
    pub failed: u64,
}

impl Wrk {
    pub fn new(dir: &Path, connections: u32, hosts: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut script = String::from("local hosts = {\n");
        for host in hosts {
            // Writing to a string cannot fail.
            let _ = writeln!(script, "\"{host}\",");
        }
        script.push_str(
            r#"}
local wanted, n, k = {}, #hosts, 0
init = function(args)
  for i, host in ipairs(hosts) do wanted[i] = wrk.format("GET", nil, { ["Host"] = host }) end
end
request = function()
  k = k % n + 1
  return wanted[k]
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("ROUND %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
  io.write(string.format("FAILED connect %d, read %d, write %d, status %d, timeout %d\n",
    e.connect, e.read, e.write, e.status, e.timeout))
end
"#,
        );
        fs::create_dir_all(dir).ours("the bench's folder")?;
        let path = dir.join("wrk.lua");
        fs::write(&path, script).ours("wrk's script")?;
        Ok(Self { script: path, connections })
    }

    pub fn round(&self, contender: &Contender, path: &str, seconds: u32) -> Result<Round, Failure> {
        let before = contender.cpu_us()?;
        let mut command = super::peers::pinned("wrk", super::peers::OTHERS);
        let out = wrk(&mut command, self, contender.port, path, seconds)?;
        let cpu_us = contender.cpu_us()? - before;
        let line = out.lines().find_map(|line| line.strip_prefix("ROUND "));
        let figures: Vec<f64> =
            line.map(|line| line.split(' ').filter_map(|n| n.parse().ok()).collect()).unwrap_or_default();
        let [requests, duration_us, p50_us, p99_us, failed] = figures[..] else {
            return Err(Failure::request("wrk said nothing that is understood", out));
        };
        if failed > 0.0 {
            let kinds = out.lines().find_map(|line| line.strip_prefix("FAILED ")).unwrap_or_default();
            say(format!("{path} {}: {failed} requests failed: {kinds}", contender.name));
        }
        Ok(Round {
            rps: requests / duration_us * 1e6,
            cpu_us: cpu_us / requests,
            p50_us,
            p99_us,
            failed: failed as u64,
        })
    }
}

fn wrk(command: &mut Command, wrk: &Wrk, port: u16, path: &str, seconds: u32) -> Result<String, Failure> {
    let done = command
        .args(["-t1", &format!("-c{}", wrk.connections), &format!("-d{seconds}s"), "--timeout", PATIENCE, "-s"])
        .arg(&wrk.script)
        .arg(format!("http://127.0.0.1:{port}{path}"))
        .output()
        .map_err(|error| Failure::ours(error, "wrk", "apt-get install wrk"))?;
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
