//! `berth demo bench-edge`: the edge beside nginx and HAProxy, each on one core, before the same origin.
//!
//! Short rounds in turn, so that a slow minute of the machine meets all of them, and medians of the ratios of one
//! round. Prints figures and asserts none, but that every answer was a good one.

mod feed;
mod noise;
mod peers;
mod secure;
mod wrk;

use super::say;
use crate::fail::{Failure, FailureExt as _};
use clap::Args;
use feed::Feed;
use peers::Contender;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use uuid::Uuid;
use wrk::{Round, Wrk};

#[derive(Args, Debug)]
pub struct BenchEdge {
    /// Rounds of each contender
    #[arg(long, default_value_t = 7, value_name = "N")]
    rounds: usize,
    /// Length of a round
    #[arg(long, default_value_t = 4, value_name = "SECONDS")]
    seconds: u32,
    /// Client connections
    #[arg(long, default_value_t = 64, value_name = "N")]
    connections: u32,
    /// Hosts in the large table
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    large: usize,
    /// The edge's program, when it is another version than this one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Leave out the large table, bodies, TLS and the visibility of changes
    #[arg(long)]
    core_only: bool,
}

/// Hosts in everybody's table, and hosts that requests go to.
const HOSTS: usize = 10_000;
/// Changes whose visibility is measured.
const CHANGES: usize = 200;
const PATIENCE: Duration = Duration::from_mins(3);

/// The nth tenant's host name.
fn host(nth: usize) -> String {
    format!("tenant-{nth:07}.bench.test")
}

pub async fn run(options: &BenchEdge, under: &Path, json: bool) -> Result<bool, Failure> {
    let dir = under.join(format!("berth-bench-edge-{}", Uuid::new_v4().simple()));
    std::fs::create_dir_all(&dir).ours("the bench's folder")?;
    let measured = measure(options, &dir).await;
    // What is left behind in a temporary folder hurts nobody.
    let _ = std::fs::remove_dir_all(&dir);
    let (out, good) = measured?;
    let text = if json { format!("{out}\n") } else { format!("{out:#}\n") };
    std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes()).ours("stdout")?;
    Ok(good)
}

async fn measure(options: &BenchEdge, dir: &Path) -> Result<(Value, bool), Failure> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().ours("this program")?,
    };
    peers::all_at_hand()?;
    let origin = peers::origin(dir)?;
    let feed = Feed::start(HOSTS, origin.port).await?;
    let ours = peers::edge(&program, &dir.join("ours"), feed.port(), 1)?;
    feed.in_force(PATIENCE).await?;
    let nginx = peers::nginx(&dir.join("nginx"), origin.port)?;
    let haproxy = peers::haproxy(&dir.join("haproxy"), origin.port)?;
    let contenders = [&ours, &nginx, &haproxy];
    for contender in contenders {
        contender.ready().await?;
    }
    let wrk = Wrk::new(dir, options.connections, (0..noise::NOISY).map(host))?;
    let table = rounds(&wrk, &contenders, "/", options.rounds, options.seconds)?;
    let mut good = table.iter().flatten().all(|round| round.failed == 0);
    let mut ratios = json!({});
    for (nth, name) in [(1, "nginx"), (2, "haproxy")] {
        let of =
            |figure: fn(&Round) -> f64| median(table.iter().map(|row| figure(&row[0]) / figure(&row[nth])).collect());
        ratios[format!("rps_vs_{name}")] = json!(of(|r| r.rps));
        ratios[format!("cpu_vs_{name}")] = json!(of(|r| r.cpu_us));
        ratios[format!("p99_vs_{name}")] = json!(of(|r| r.p99_us));
    }
    let mut figures = json!({});
    for (nth, contender) in contenders.iter().enumerate() {
        let of = |figure: fn(&Round) -> f64| median(table.iter().map(|row| figure(&row[nth])).collect());
        figures[contender.name] = json!({
            "rps": of(|r| r.rps), "cpu_us_per_request": of(|r| r.cpu_us), "p50_us": of(|r| r.p50_us),
            "p99_us": of(|r| r.p99_us), "rss_mb": contender.rss_mb()?,
        });
    }
    if !options.core_only {
        let mut bodies = json!({});
        for (name, path) in [("1kb", "/1k"), ("100kb", "/100k"), ("10mb", "/10m")] {
            let table = rounds(&wrk, &contenders, path, options.rounds.min(3), options.seconds)?;
            good &= table.iter().flatten().all(|round| round.failed == 0);
            bodies[name] = compared(&contenders, &table)?;
        }
        figures["bodies"] = bodies;
        let (beside, quiet) = noise::beside_noise(&ours, dir, origin.port, options.rounds, options.seconds).await?;
        figures["neighbours_p99_ratio"] = beside["fixed_rate"]["p99_ratio"].clone();
        figures["neighbours"] = beside;
        good &= quiet;
        let (over_tls, fine) =
            secure::measure(&program, dir, origin.port, options.connections, options.rounds.min(3), options.seconds)
                .await?;
        figures["tls"] = over_tls;
        good &= fine;
        let visible = visible_us(&program, &dir.join("visible"), origin.port, HOSTS).await?;
        figures["route_visible_us"] = json!(median(visible.clone()));
        figures["route_visible_p99_us"] = json!(quantile(visible, 0.99));
        for (size, label) in [(options.large / 10, "100k"), (options.large, "1m")] {
            let feed = Feed::start(size, origin.port).await?;
            let started = Instant::now();
            let large = peers::edge(&program, &dir.join(label), feed.port(), 1)?;
            feed.in_force(PATIENCE).await?;
            figures[format!("load_{label}_routes_s")] = json!(started.elapsed().as_secs_f64());
            large.ready().await?;
            let spread =
                Wrk::new(&dir.join(label), options.connections, (0..noise::NOISY).map(|n| host(n * (size / HOSTS))))?;
            let mut of_both = Vec::new();
            for _ in 0..options.rounds {
                let small = wrk.round(&ours, "/", options.seconds)?;
                let many = spread.round(&large, "/", options.seconds)?;
                good &= small.failed + many.failed == 0;
                of_both.push(many.rps / small.rps);
            }
            ratios[format!("rps_{label}_routes_vs_10k")] = json!(median(of_both));
            figures[format!("rss_{label}_routes_mb")] = json!(large.rss_mb()?);
            let (looked_up, fine) = looked_up(&wrk, &ours, &large, &dir.join(label), size, options)?;
            figures[format!("lookup_{label}_routes")] = looked_up;
            good &= fine;
        }
        // Beside the one above: what a change costs is not to grow with the table.
        let visible = visible_us(&program, &dir.join("visible_1m"), origin.port, options.large).await?;
        figures["route_visible_1m_us"] = json!(median(visible.clone()));
        figures["route_visible_1m_p99_us"] = json!(quantile(visible, 0.99));
    }
    Ok((json!({ "ratios": ratios, "figures": figures }), good))
}

/// Every figure of every contender for one kind of request, and ours against theirs.
fn compared(contenders: &[&Contender], table: &[Vec<Round>]) -> Result<Value, Failure> {
    let mut all = json!({});
    for (nth, contender) in contenders.iter().enumerate() {
        let of = |figure: fn(&Round) -> f64| median(table.iter().map(|row| figure(&row[nth])).collect());
        all[contender.name] = json!({
            "rps": of(|r| r.rps), "cpu_us_per_request": of(|r| r.cpu_us), "p50_us": of(|r| r.p50_us),
            "p99_us": of(|r| r.p99_us), "rss_mb": contender.rss_mb()?,
        });
        let against =
            |figure: fn(&Round) -> f64| median(table.iter().map(|row| figure(&row[0]) / figure(&row[nth])).collect());
        if nth > 0 {
            let name = contender.name;
            all[format!("rps_vs_{name}")] = json!(against(|r| r.rps));
            all[format!("cpu_vs_{name}")] = json!(against(|r| r.cpu_us));
            all[format!("p50_vs_{name}")] = json!(against(|r| r.p50_us));
            all[format!("p99_vs_{name}")] = json!(against(|r| r.p99_us));
        }
    }
    Ok(all)
}

/// Hosts that are asked where look-ups are measured: five times as many as a core remembers.
const ASKED: usize = 100_000;

/// What a request costs more when its host is one of very many that are asked, and no core remembers it.
fn looked_up(
    wrk: &Wrk,
    small: &Contender,
    large: &Contender,
    dir: &Path,
    size: usize,
    options: &BenchEdge,
) -> Result<(Value, bool), Failure> {
    let asked = ASKED.min(size);
    // In an order in which no two that follow each other lie beside each other.
    let hosts = (0..asked).map(|n| host((n * 7919 % asked) * (size / asked)));
    let many = Wrk::new(&dir.join("asked"), options.connections, hosts)?;
    many.round(large, "/", 1)?;
    let (mut extra_us, mut rps, mut good) = (Vec::new(), Vec::new(), true);
    for _ in 0..options.rounds {
        let few = wrk.round(small, "/", options.seconds)?;
        let of_many = many.round(large, "/", options.seconds)?;
        good &= few.failed + of_many.failed == 0;
        extra_us.push(of_many.cpu_us - few.cpu_us);
        rps.push(of_many.rps / few.rps);
    }
    let figures = json!({
        "hosts_asked": asked, "extra_cpu_us_per_request": median(extra_us), "rps_vs_10k": median(rps),
        "rss_mb": large.rss_mb()?,
    });
    Ok((figures, good))
}

/// One row a round, in the contenders' order.
fn rounds(
    wrk: &Wrk,
    contenders: &[&Contender],
    path: &str,
    number: usize,
    seconds: u32,
) -> Result<Vec<Vec<Round>>, Failure> {
    let mut rows = Vec::new();
    for contender in contenders {
        wrk.round(contender, path, 1)?;
    }
    for nth in 0..number {
        let row = contenders.iter().map(|c| wrk.round(c, path, seconds)).collect::<Result<Vec<_>, _>>()?;
        let told: Vec<String> = contenders
            .iter()
            .zip(&row)
            .map(|(c, r)| format!("{} {:.0}/s {:.1} us p99 {:.0}", c.name, r.rps, r.cpu_us, r.p99_us))
            .collect();
        say(format!("{path} round {}/{number}: {}", nth + 1, told.join(", ")));
        rows.push(row);
    }
    Ok(rows)
}

/// Connections that look for a change at the same time: all on one of two cores in one run of 32.
const LOOKERS: usize = 6;

/// From a change on its way to an edge of two cores with so many hosts until each of several connections has been served by
/// it, all asking at once and again and again: a round of them is what it is known to.
async fn visible_us(program: &Path, dir: &Path, origin: u16, hosts: usize) -> Result<Vec<f64>, Failure> {
    let feed = Feed::start(hosts, origin).await?;
    let edge = peers::edge(program, dir, feed.port(), 2)?;
    feed.in_force(PATIENCE).await?;
    edge.ready().await?;
    let mut clients = Vec::new();
    for _ in 0..LOOKERS {
        let stream = TcpStream::connect(("127.0.0.1", edge.port)).await.ours("a connection to the edge")?;
        stream.set_nodelay(true).ours("a connection to the edge")?;
        clients.push(stream);
    }
    let mut times = Vec::new();
    for nth in 0..CHANGES {
        let name = host(hosts + nth);
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
        for client in &mut clients {
            if status(client, &request).await? != 404 {
                return Err(Failure::request("a host was there before it was published", ""));
            }
        }
        let sent = Instant::now();
        feed.publish(hosts + nth)?;
        let looks = clients.iter_mut().map(async |client| {
            while status(client, &request).await? != 200 {
                if sent.elapsed() > PATIENCE {
                    return Err(Failure::request("a route did not become visible", ""));
                }
            }
            Ok(sent.elapsed())
        });
        let seen = futures_util::future::try_join_all(looks).await?;
        times.extend(seen.into_iter().max().map(|last| last.as_secs_f64() * 1e6));
    }
    Ok(times)
}

/// The status of one answer, whose body is read away.
async fn status(stream: &mut TcpStream, request: &str) -> Result<u16, Failure> {
    stream.write_all(request.as_bytes()).await.ours("a request to the edge")?;
    let mut seen = Vec::new();
    loop {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.ours("an answer of the edge")?;
        if read == 0 {
            return Err(Failure::request("the edge closed a connection", ""));
        }
        seen.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&seen);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if length.is_some_and(|length| body.len() >= length) {
            return head.get(9..12).and_then(|s| s.parse().ok()).ok_or_else(|| Failure::request("no status line", ""));
        }
    }
}

fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (q * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
