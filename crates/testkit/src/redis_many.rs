//! Redis on several servers: a master with two replicas under three Sentinels, and a cluster of three masters with a replica
//! each. Gone with their test; where the machine has no `redis-server`, that is said and there is none.

use crate::{TestRedis, free_port, redis::ask, wait_until};
use std::{
    fs,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// What `redis-cli` says before its command.
fn login(password: &str) -> Vec<&str> {
    if password.is_empty() { Vec::new() } else { vec!["-a", password, "--no-auth-warning"] }
}

/// What a server is started with that asks for a password, and that follows others of the same.
fn guarded(password: &str) -> Vec<&str> {
    if password.is_empty() { Vec::new() } else { vec!["--requirepass", password, "--masterauth", password] }
}

/// Three servers and the three who watch them.
#[derive(Debug)]
pub struct TestSentinels {
    servers: Vec<TestRedis>,
    watchers: Vec<(u16, Child)>,
    password: String,
    _folder: TempDir,
}

impl TestSentinels {
    pub async fn start() -> Option<Self> {
        Self::start_guarded("", "").await
    }

    /// With a password of the servers, and one of the Sentinels; empty: none.
    pub async fn start_guarded(of_servers: &str, of_watchers: &str) -> Option<Self> {
        let folder = TempDir::new().expect("a folder for tests can be made");
        let dir = folder.path().to_str().expect("a path of tests is text").to_owned();
        let guarded = guarded(of_servers);
        let master = TestRedis::start(&[&guarded[..], &["--dir", &dir]].concat()).await?;
        let of = master.address().replace(':', " ");
        let mut servers = vec![master];
        for _ in 0..2 {
            let arguments = ["--dir", &dir, "--replicaof", &of, "--repl-diskless-sync-delay", "0"];
            servers.push(TestRedis::start(&[&guarded[..], &arguments].concat()).await?);
        }
        let mut watchers = Vec::new();
        for number in 0..3 {
            let (port, file) = (free_port(), folder.path().join(format!("sentinel-{number}.conf")));
            let mut config = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor main {of} 2\nsentinel down-after-milliseconds main 500\n\
                 sentinel failover-timeout main 3000\nsentinel parallel-syncs main 2\n"
            );
            if !of_servers.is_empty() {
                config.extend(["sentinel auth-pass main ", of_servers, "\n"]);
            }
            if !of_watchers.is_empty() {
                config.extend(["requirepass ", of_watchers, "\n"]);
            }
            fs::write(&file, config).expect("the folder was just made");
            let mut command = Command::new("redis-server");
            command.arg(&file).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            watchers.push((port, command.spawn().expect("it is there: the servers are of the same program")));
        }
        let many = Self { servers, watchers, password: of_watchers.to_owned(), _folder: folder };
        wait_until(
            "Sentinels know each other and both replicas",
            async || many.known(),
            |known| known.iter().all(|k| *k == (2, 2)),
        )
        .await;
        Some(many)
    }

    /// Replicas and other Sentinels, as each Sentinel has them.
    fn known(&self) -> Vec<(u64, u64)> {
        let known = |port: u16| {
            let told = ask(port, &[&login(&self.password)[..], &["SENTINEL", "MASTER", "main"]].concat());
            let field = |name: &str| -> u64 {
                let after = told.lines().skip_while(|line| *line != name).nth(1);
                after.and_then(|value| value.parse().ok()).unwrap_or_default()
            };
            (field("num-slaves"), field("num-other-sentinels"))
        };
        self.watchers.iter().map(|(port, _)| known(*port)).collect()
    }

    /// Of the Sentinels, with commas.
    pub fn addresses(&self) -> String {
        let all: Vec<_> = self.watchers.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        all.join(",")
    }

    /// From now on every Sentinel watches this server too, under this name.
    pub fn watch_too(&self, name: &str, master: &TestRedis) {
        let address = master.address();
        let (host, port) = address.split_once(':').expect("a host and a port");
        for (watcher, _) in &self.watchers {
            let told = ask(*watcher, &["SENTINEL", "MONITOR", name, host, port, "2"]);
            assert_eq!(told.trim(), "OK", "a Sentinel watches another master");
        }
    }

    /// Ends the master for good.
    pub fn kill_master(&mut self) {
        self.servers.remove(0).kill();
    }
}

impl Drop for TestSentinels {
    fn drop(&mut self) {
        for (_, watcher) in &mut self.watchers {
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
    }
}

/// Six nodes.
#[derive(Debug)]
pub struct TestRedisCluster {
    nodes: Vec<TestRedis>,
    password: String,
    _folders: Vec<TempDir>,
}

impl TestRedisCluster {
    pub async fn start() -> Option<Self> {
        Self::start_guarded("").await
    }

    /// With a password; empty: none.
    pub async fn start_guarded(password: &str) -> Option<Self> {
        let (mut nodes, mut folders) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            let folder = TempDir::new().expect("a folder for tests can be made");
            let dir = folder.path().to_str().expect("a path of tests is text").to_owned();
            let arguments = [
                "--dir",
                &dir,
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "1000",
                "--repl-diskless-sync-delay",
                "0",
            ];
            let arguments = [&guarded(password)[..], &arguments].concat();
            nodes.push(TestRedis::start_at(port_of_two(), &arguments).await?);
            folders.push(folder);
        }
        let cluster = Self { nodes, password: password.to_owned(), _folders: folders };
        let addresses: Vec<_> = cluster.nodes.iter().map(TestRedis::address).collect();
        let made = Command::new("redis-cli")
            .args(login(password))
            .args(["--cluster", "create"])
            .args(&addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .ok()?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        wait_until("every node has the whole cluster", async || cluster.whole(), |whole| *whole == 6).await;
        Some(cluster)
    }

    fn whole(&self) -> usize {
        let is_whole = |node: &&TestRedis| {
            self.ask(node, &["CLUSTER", "INFO"]).contains("cluster_state:ok")
                && self.ask(node, &["CLUSTER", "NODES"]).lines().filter(|line| line.contains("slave ")).count() == 3
        };
        self.nodes.iter().filter(is_whole).count()
    }

    fn ask(&self, node: &TestRedis, command: &[&str]) -> String {
        node.ask(&[&login(&self.password)[..], command].concat())
    }

    /// Of the first two nodes: the others are found by them.
    pub fn addresses(&self) -> String {
        format!("{},{}", self.nodes[0].address(), self.nodes[1].address())
    }

    /// Ends, for good, the master that has this key.
    pub fn kill_master_of(&mut self, key: &str) {
        let slot = self.ask(&self.nodes[0], &["CLUSTER", "KEYSLOT", key]).trim().to_owned();
        let slot: u32 = slot.parse().expect("a slot is a number");
        let has = |range: &str| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            from.parse().is_ok_and(|from: u32| from <= slot) && to.parse().is_ok_and(|to: u32| slot <= to)
        };
        let nodes = self.ask(&self.nodes[0], &["CLUSTER", "NODES"]);
        let owner = nodes
            .lines()
            .filter(|line| line.contains("master"))
            .find(|line| line.split(' ').skip(8).any(has))
            .and_then(|line| line.split(' ').nth(1)?.split('@').next())
            .expect("every slot has a master");
        let at = self.nodes.iter().position(|node| node.address() == owner).expect("it is one of ours");
        self.nodes.remove(at).kill();
    }
}

/// A free port whose neighbour for the cluster's own talk, 10,000 above, is free too.
fn port_of_two() -> u16 {
    loop {
        let port = 20_000 + free_port() % 15_000;
        let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 10_000) {
            return port;
        }
    }
}
