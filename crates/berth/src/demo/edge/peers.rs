//! Who is measured, and the origin behind them: processes pinned to cores, ended with their handle.
//!
//! nginx and HAProxy are configured for what the edge does of its own accord: a table of hosts, a limit per host,
//! kept connections on both sides, a request id, `X-Forwarded-For`.

use super::{HOSTS, host};
use crate::fail::{Failure, FailureExt as _};
use std::{
    fmt::Write as _,
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

/// The contender's core, and everybody else's.
pub const MEASURED: &str = "0";
pub const OTHERS: &str = "1";

/// A program on its port.
pub struct Contender {
    pub name: &'static str,
    pub port: u16,
    child: Child,
}

impl Drop for Contender {
    fn drop(&mut self) {
        // nginx's worker goes with its master only when that is asked politely.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Contender {
    /// Waits until it takes connections.
    pub async fn ready(&self) -> Result<(), Failure> {
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if Instant::now() > until {
                return Err(Failure::request(format!("{} does not listen", self.name), "its message is above"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Its processes: itself and its children.
    fn pids(&self) -> Vec<u32> {
        let own = self.child.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        std::iter::once(own).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }

    /// Processor time so far.
    pub fn cpu_us(&self) -> Result<f64, Failure> {
        self.pids().into_iter().map(|pid| crate::demo::cpu_us(&pid.to_string())).sum()
    }

    pub fn rss_mb(&self) -> Result<f64, Failure> {
        let mut sum_kib = 0.0;
        for pid in self.pids() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ours("the state of a process")?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
            sum_kib += line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0);
        }
        Ok(sum_kib / 1024.0)
    }
}

/// Programs that the bench starts; without `taskset` none of them would be heard of.
const PROGRAMS: [&str; 6] = ["nginx", "haproxy", "wrk", "h2load", "openssl", "taskset"];
const INSTALL: &str = "apt-get install nginx haproxy wrk nghttp2-client openssl util-linux";

/// Said before anything is measured: a missing one would show as no figures minutes later.
pub fn all_at_hand() -> Result<(), Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|name| !there(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::request(format!("the bench needs {}", missing.join(", ")), INSTALL))
}

/// A program kept on one core.
pub fn pinned(program: &str, core: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core, program]).stdin(Stdio::null());
    command
}

fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").ours("a port")?;
    Ok(listener.local_addr().ours("a port")?.port())
}

fn started(name: &'static str, port: u16, command: &mut Command) -> Result<Contender, Failure> {
    let child = command.stdout(Stdio::null()).spawn().map_err(|error| Failure::ours(error, name, INSTALL))?;
    Ok(Contender { name, port, child })
}

/// nginx's own files stay in the bench's folder.
fn nginx_conf(dir: &Path, http: &str) -> String {
    let dir = dir.display();
    let temp =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|n| format!("{n}_temp_path {dir}/{n};")).join(" ");
    format!(
        "daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; server_tokens off; keepalive_requests 100000000; sendfile on; tcp_nopush on; {temp}\n{http}}}\n"
    )
}

fn run_nginx(name: &'static str, dir: &Path, port: u16, core: &str, http: &str) -> Result<Contender, Failure> {
    fs::create_dir_all(dir).ours("the bench's folder")?;
    let conf = dir.join("nginx.conf");
    fs::write(&conf, nginx_conf(dir, http)).ours("nginx's configuration")?;
    let log = dir.join("error.log");
    started(name, port, pinned("nginx", core).arg("-e").arg(&log).arg("-p").arg(dir).arg("-c").arg(&conf))
}

/// An nginx that answers 100 bytes, or a file of some size.
pub fn origin(dir: &Path) -> Result<Contender, Failure> {
    let (dir, port) = (dir.join("origin"), free_port()?);
    // nginx's worker gives up root; the files are nobody's secret.
    fs::create_dir_all(dir.join("www")).ours("the bench's folder")?;
    for (name, bytes) in [("1k", 1 << 10), ("100k", 100 << 10), ("10m", 10 << 20)] {
        fs::write(dir.join("www").join(name), vec![b'x'; bytes]).ours("a body")?;
    }
    let text = "0123456789".repeat(10);
    let www = dir.join("www");
    let http = format!(
        "server {{ listen 127.0.0.1:{port} reuseport; keepalive_timeout 75s; root {};\n\
         location = / {{ default_type text/plain; return 200 \"{text}\"; }} }}\n",
        www.display()
    );
    run_nginx("origin", &dir, port, OTHERS, &http)
}

pub fn edge(program: &Path, dir: &Path, control: u16, workers: usize) -> Result<Contender, Failure> {
    let port = free_port()?;
    started("edge", port, &mut edge_command(program, dir, control, workers, port)?)
}

/// On the port of its TLS.
pub fn edge_tls(program: &Path, dir: &Path, control: u16) -> Result<Contender, Failure> {
    let port = free_port()?;
    let mut command = edge_command(program, dir, control, 1, free_port()?)?;
    started("edge", port, command.args(["--listen-tls", &format!("127.0.0.1:{port}")]))
}

fn edge_command(program: &Path, dir: &Path, control: u16, workers: usize, port: u16) -> Result<Command, Failure> {
    let admin = free_port()?;
    let core = if workers == 1 { MEASURED } else { "0-1" };
    let mut command = pinned(&program.display().to_string(), core);
    command
        .args(["edge", "--name", "bench", "--workers", &workers.to_string()])
        .args(["--listen", &format!("127.0.0.1:{port}"), "--admin", &format!("127.0.0.1:{admin}")])
        .args(["--control", &format!("http://127.0.0.1:{control}"), "--data-dir"])
        .arg(dir)
        .env("BERTH_API_KEY", "bk_bench")
        .env("RUST_LOG", "warn");
    Ok(command)
}

pub fn nginx(dir: &Path, origin: u16) -> Result<Contender, Failure> {
    let port = free_port()?;
    nginx_at(dir, origin, port, &format!("listen 127.0.0.1:{port} reuseport;"), ("", ""))
}

/// With a limit of one host's own beside everybody's.
pub fn nginx_limiting(dir: &Path, origin: u16, host: &str, a_minute: u64) -> Result<Contender, Failure> {
    let port = free_port()?;
    let zone = format!(
        "map $host $limited {{ default ''; {host} 1; }} limit_req_zone $limited zone=one:1m rate={a_minute}r/m;"
    );
    let own = (&*zone, &*format!("limit_req zone=one burst={a_minute} nodelay;"));
    nginx_at(dir, origin, port, &format!("listen 127.0.0.1:{port} reuseport;"), own)
}

/// With the certificate in this folder.
pub fn nginx_tls(dir: &Path, origin: u16, of: &Path) -> Result<Contender, Failure> {
    let (port, of) = (free_port()?, of.display());
    let listen = format!(
        "listen 127.0.0.1:{port} ssl http2 reuseport; ssl_certificate {of}/chain.pem; ssl_certificate_key {of}/key.pem;\n\
         ssl_protocols TLSv1.2 TLSv1.3;"
    );
    nginx_at(dir, origin, port, &listen, ("", ""))
}

fn nginx_at(
    dir: &Path,
    origin: u16,
    port: u16,
    listen: &str,
    (zone, limit): (&str, &str),
) -> Result<Contender, Failure> {
    let mut hosts = String::new();
    for nth in 0..HOSTS {
        // Writing to a string cannot fail.
        let _ = writeln!(hosts, "{} origin;", host(nth));
    }
    fs::create_dir_all(dir).ours("the bench's folder")?;
    fs::write(dir.join("hosts.map"), hosts).ours("nginx's table of hosts")?;
    let http = format!(
        "map_hash_max_size 65536; map_hash_bucket_size 128;\n\
         map $host $cell {{ default ''; include {}/hosts.map; }}\n\
         limit_req_zone $host zone=perhost:64m rate=100000r/s; limit_req_status 429;\n\
         {zone}\n\
         upstream origin {{ server 127.0.0.1:{origin}; keepalive 256; keepalive_requests 100000000; }}\n\
         server {{ {listen} keepalive_timeout 75s;\n\
           if ($cell = '') {{ return 404; }}\n\
           location / {{ limit_req zone=perhost burst=1000 nodelay; {limit} proxy_pass http://$cell; proxy_http_version 1.1;\n\
             proxy_set_header Connection ''; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;\n\
             proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Request-Id $request_id; }} }}\n",
        dir.display()
    );
    run_nginx("nginx", dir, port, MEASURED, &http)
}

pub fn haproxy(dir: &Path, origin: u16) -> Result<Contender, Failure> {
    haproxy_at(dir, origin, "")
}

/// With the certificate in this folder.
pub fn haproxy_tls(dir: &Path, origin: u16, of: &Path) -> Result<Contender, Failure> {
    haproxy_at(dir, origin, &format!(" ssl crt {}/both.pem alpn h2,http/1.1", of.display()))
}

fn haproxy_at(dir: &Path, origin: u16, how: &str) -> Result<Contender, Failure> {
    let port = free_port()?;
    let mut hosts = String::new();
    for nth in 0..HOSTS {
        // Writing to a string cannot fail.
        let _ = writeln!(hosts, "{} origin", host(nth));
    }
    fs::create_dir_all(dir).ours("the bench's folder")?;
    fs::write(dir.join("hosts.map"), hosts).ours("HAProxy's table of hosts")?;
    let conf = format!(
        "global\n maxconn 4000\n nbthread 1\n\
         defaults\n mode http\n timeout connect 1s\n timeout client 75s\n timeout server 60s\n timeout http-request 10s\n\
         frontend in\n bind 127.0.0.1:{port}{how}\n option forwardfor\n\
         \x20stick-table type string len 64 size 100k expire 60s store http_req_rate(10s)\n\
         \x20http-request track-sc0 hdr(host),lower\n\
         \x20http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 1000000 }}\n\
         \x20http-request set-header X-Request-Id %[uuid()]\n\
         \x20http-request set-header X-Forwarded-Proto http\n\
         \x20use_backend %[req.hdr(host),lower,map({}/hosts.map,none)]\n\
         backend origin\n http-reuse always\n server o 127.0.0.1:{origin}\n\
         backend none\n http-request deny deny_status 404\n",
        dir.display()
    );
    let path = dir.join("haproxy.cfg");
    fs::write(&path, conf).ours("HAProxy's configuration")?;
    started("haproxy", port, pinned("haproxy", MEASURED).args(["-db", "-f"]).arg(&path))
}
