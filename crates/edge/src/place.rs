//! Where the common buckets are: Redis, one server, several under Sentinels, or a cluster.
//!
//! Asks the server which of them it is, and refuses an address that is not what the settings say. Time is what the edges
//! say it is: the server's clock may jump. Keys end by themselves an hour after they have nothing to say. Never retries: what has no
//! answer in time counts as not granted.

use crate::{
    limits::Rate,
    shared::{Granted, Question},
};
use berth_domain::EdgeName;
use berth_wire::edge::ClusterSettings;

/// What one call came to.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub granted: Granted,
    /// The edges' common clock.
    pub clock_us: u64,
    /// Edges that said lately that they are there.
    pub edges: Option<u32>,
}

/// Why the common buckets cannot be asked.
#[derive(Debug)]
pub enum OpenError {
    /// Another try would be refused too.
    Refused(String),
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "nothing is asked without the feature"))]
    Unreachable(String),
}

#[cfg(any(feature = "cluster", fuzzing))]
const PORT: u16 = 6379;
/// What stands before addresses that are spoken to over TLS.
#[cfg(any(feature = "cluster", fuzzing))]
const OVER_TLS: &str = "rediss://";

/// Hosts and ports, as `redis_address` of the stack file has them.
#[cfg(any(feature = "cluster", fuzzing))]
pub fn addresses(text: &str) -> Vec<(String, u16)> {
    let text = text.strip_prefix(OVER_TLS).unwrap_or(text);
    let address = |text: &str| {
        // Only a number is a port: an address such as `[::1]` has colons of its own.
        let (host, port) =
            text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))).unwrap_or((text, PORT));
        (host.trim_matches(|c: char| c.is_whitespace() || "[]".contains(c)).to_owned(), port)
    };
    text.split(',').map(|text| address(text.trim())).collect()
}

#[cfg(feature = "cluster")]
pub use real::Place;

#[cfg(not(feature = "cluster"))]
pub use none::Place;

#[cfg(not(feature = "cluster"))]
mod none {
    use super::{ClusterSettings, EdgeName, OpenError, Question, Rate, Report};

    /// There is none in this program.
    #[derive(Clone, Debug)]
    pub enum Place {}

    #[expect(clippy::unused_async, reason = "as the other one")]
    impl Place {
        pub async fn open(_: &ClusterSettings, _: &EdgeName, _: u64) -> Result<(Self, Report), OpenError> {
            Err(OpenError::Refused("this `berth` was built without the feature `cluster`".to_owned()))
        }

        pub async fn beat(&self, _: &EdgeName, _: u64) -> Result<Report, String> {
            match *self {}
        }

        pub async fn take(&self, _: &str, _: &Rate, _: &Question, _: u32, _: u64) -> Result<Report, String> {
            match *self {}
        }

        pub fn ends_with_an_error(&self) -> bool {
            match *self {}
        }
    }
}

#[cfg(feature = "cluster")]
mod real {
    use super::{ClusterSettings, EdgeName, Granted, OVER_TLS, OpenError, Question, Rate, Report, addresses};
    use redis::{
        AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisConnectionInfo,
        RedisError, Script, TlsCertificates, TlsMode,
        aio::{ConnectionLike, MultiplexedConnection},
        cluster::ClusterClient,
        cluster_async::ClusterConnection,
    };
    use std::{sync::Arc, time::Duration};

    const CONNECT_TIME: Duration = Duration::from_secs(1);
    const ANSWER_TIME: Duration = Duration::from_millis(500);

    /// Moves the bucket on to the caller's time, adds what the edge says, and hands out tokens: of a bucket that is nearly
    /// empty a few at a time, so that no edge has many while another has none.
    const TAKE: &str = "
local kept = redis.call('HMGET', KEYS[1], 'full', 'clock')
local now, every, span, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local back, owed, debt, edges = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local clock = math.max(tonumber(kept[2] or '0'), now)
local full = math.max(tonumber(kept[1] or '0'), clock + owed) + debt
full = math.max(full - back * every, clock)
local room = math.max(math.floor((span - (full - clock)) / every + 0.000001), 0)
local tokens = math.min(want, room, math.max(math.floor(room / (2 * edges)), 1))
full = full + tokens * every
redis.call('HSET', KEYS[1], 'full', string.format('%.3f', full), 'clock', string.format('%.3f', clock))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', (full - clock) / 1000 + 3600000))
return {tokens, math.ceil(full - clock), math.floor(clock)}";

    /// Says that an edge is there, and counts those who did so in the last ten seconds.
    const BEAT: &str = "
local clock = math.max(tonumber(redis.call('HGET', KEYS[1], 'clock') or '0'), tonumber(ARGV[2]))
local text = string.format('%.3f', clock)
redis.call('HSET', KEYS[1], 'clock', text, 'edge:' .. ARGV[1], text)
redis.call('PEXPIRE', KEYS[1], 3600000)
local edges, all = 0, redis.call('HGETALL', KEYS[1])
for n = 1, #all, 2 do
  if string.sub(all[n], 1, 5) == 'edge:' then
    local silent = clock - tonumber(all[n + 1])
    if silent > 60000000 then redis.call('HDEL', KEYS[1], all[n])
    elseif silent <= 10000000 then edges = edges + 1 end
  end
end
return {edges, math.floor(clock)}";

    #[derive(Clone)]
    enum Connection {
        One(MultiplexedConnection),
        Cluster(ClusterConnection),
    }

    /// The common buckets of one stack.
    #[derive(Clone)]
    pub struct Place {
        connection: Connection,
        prefix: Arc<str>,
        take: Arc<Script>,
        beat: Arc<Script>,
    }

    impl Place {
        pub async fn open(
            settings: &ClusterSettings,
            name: &EdgeName,
            clock_us: u64,
        ) -> Result<(Self, Report), OpenError> {
            let connection = connect(settings).await?;
            let prefix = format!("berth:{}:", settings.stack).into();
            let (take, beat) = (Arc::new(Script::new(TAKE)), Arc::new(Script::new(BEAT)));
            let place = Self { connection, prefix, take, beat };
            // Not only connected: allowed to.
            let report = place.say(name, clock_us).await.map_err(|error| judged(&error))?;
            Ok((place, report))
        }

        pub async fn beat(&self, name: &EdgeName, clock_us: u64) -> Result<Report, String> {
            self.say(name, clock_us).await.map_err(|error| error.to_string())
        }

        async fn say(&self, name: &EdgeName, clock_us: u64) -> Result<Report, RedisError> {
            let mut call = self.beat.key(format!("{}edges", self.prefix));
            call.arg(name.as_str()).arg(clock_us);
            let (edges, clock_us): (u32, u64) = match self.connection.clone() {
                Connection::One(mut one) => call.invoke_async(&mut one).await?,
                Connection::Cluster(mut cluster) => call.invoke_async(&mut cluster).await?,
            };
            Ok(Report { granted: Granted { tokens: 0, owed_ns: 0 }, clock_us, edges: Some(edges) })
        }

        pub async fn take(
            &self,
            bucket: &str,
            rate: &Rate,
            asked: &Question,
            edges: u32,
            clock_us: u64,
        ) -> Result<Report, String> {
            let us = |ns: u64| format!("{}.{:03}", ns / 1000, ns % 1000);
            let mut call = self.take.key(format!("{}limit:{bucket}", self.prefix));
            call.arg(clock_us).arg(us(rate.every_ns())).arg(us(rate.full_ns())).arg(asked.want).arg(asked.back);
            call.arg(us(asked.owed_ns)).arg(us(asked.debt_ns)).arg(edges.max(1));
            let answer = match self.connection.clone() {
                Connection::One(mut one) => call.invoke_async(&mut one).await,
                Connection::Cluster(mut cluster) => call.invoke_async(&mut cluster).await,
            };
            let (tokens, owed_us, clock_us): (u64, u64, u64) = answer.map_err(|error: RedisError| error.to_string())?;
            let granted = Granted { tokens, owed_ns: owed_us.saturating_mul(1000) };
            Ok(Report { granted, clock_us, edges: None })
        }

        /// One connection that fails a call is of no use any more; of a cluster other nodes may answer.
        pub fn ends_with_an_error(&self) -> bool {
            matches!(self.connection, Connection::One(_))
        }
    }

    /// Whether it is worth another try.
    fn judged(error: &RedisError) -> OpenError {
        let later = error.is_io_error()
            || error.is_timeout()
            || error.is_connection_dropped()
            || error.is_connection_refusal()
            || matches!(error.kind(), ErrorKind::ClusterConnectionNotFound)
            || matches!(error.code(), Some("LOADING" | "CLUSTERDOWN" | "MASTERDOWN" | "TRYAGAIN" | "READONLY"));
        if later { OpenError::Unreachable(error.to_string()) } else { OpenError::Refused(error.to_string()) }
    }

    /// The same, and who it was.
    fn judged_of(who: &str, error: &RedisError) -> OpenError {
        match judged(error) {
            OpenError::Refused(reason) => OpenError::Refused(format!("{who}: {reason}")),
            OpenError::Unreachable(reason) => OpenError::Unreachable(format!("{who}: {reason}")),
        }
    }

    fn refused<T>(reason: String) -> Result<T, OpenError> {
        Err(OpenError::Refused(reason))
    }

    fn login(settings: &ClusterSettings) -> RedisConnectionInfo {
        let login = RedisConnectionInfo::default();
        let login = match settings.password.expose() {
            "" => login,
            password => login.set_password(password),
        };
        match &settings.user {
            Some(user) => login.set_username(user),
            None => login,
        }
    }

    async fn to(
        settings: &ClusterSettings,
        address: &(String, u16),
        login: RedisConnectionInfo,
    ) -> Result<MultiplexedConnection, RedisError> {
        let info = at(settings, address).into_connection_info()?.set_redis_settings(login);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIME))
            .set_response_timeout(Some(ANSWER_TIME));
        let client = match vouched_by(settings).filter(|_| is_secure(settings)) {
            Some(vouched) => Client::build_with_tls(info, vouched)?,
            None => Client::open(info)?,
        };
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    fn is_secure(settings: &ClusterSettings) -> bool {
        settings.redis_address.starts_with(OVER_TLS)
    }

    fn vouched_by(settings: &ClusterSettings) -> Option<TlsCertificates> {
        let pem = settings.ca_pem.as_ref()?;
        Some(TlsCertificates { client_tls: None, root_cert: Some(pem.clone().into_bytes()) })
    }

    fn at(settings: &ClusterSettings, (host, port): &(String, u16)) -> ConnectionAddr {
        let (host, port) = (host.clone(), *port);
        if is_secure(settings) {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }

    /// What a server says it is: `standalone`, `sentinel` or `cluster`.
    async fn mode(connection: &mut impl ConnectionLike) -> Result<String, RedisError> {
        let info: String = redis::cmd("INFO").arg("server").query_async(connection).await?;
        let mode = info.lines().find_map(|line| line.strip_prefix("redis_mode:"));
        Ok(mode.unwrap_or("standalone").trim().to_owned())
    }

    async fn connect(settings: &ClusterSettings) -> Result<Connection, OpenError> {
        let all = addresses(&settings.redis_address);
        let mut last = OpenError::Unreachable("no address".to_owned());
        for address in &all {
            match connect_to(settings, &all, address).await {
                // Another of them may be there.
                Err(error @ OpenError::Unreachable(_)) => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    async fn connect_to(
        settings: &ClusterSettings,
        all: &[(String, u16)],
        address: &(String, u16),
    ) -> Result<Connection, OpenError> {
        let shown = format!("{}:{}", address.0, address.1);
        let said = |error: &RedisError| judged_of(&shown, error);
        let mut one = match to(settings, address, login(settings)).await {
            Ok(one) => one,
            // Sentinels seldom have a password of their own, and refuse one then.
            Err(error) if error.kind() == ErrorKind::AuthenticationFailed && settings.several => {
                let bare = to(settings, address, RedisConnectionInfo::default()).await;
                let mut one = bare.map_err(|_| said(&error))?;
                if mode(&mut one).await.ok().as_deref() != Some("sentinel") {
                    return Err(said(&error));
                }
                one
            }
            Err(error) => return Err(said(&error)),
        };
        let mode = mode(&mut one).await.map_err(|error| said(&error))?;
        match (mode.as_str(), settings.several) {
            ("sentinel", true) => {
                let master = master(&mut one, settings.master.as_deref(), &shown).await?;
                let named = format!("{}:{}, the master", master.0, master.1);
                let said = |error: &RedisError| judged_of(&named, error);
                let mut one = to(settings, &master, login(settings)).await.map_err(|error| said(&error))?;
                let role: Vec<redis::Value> =
                    redis::cmd("ROLE").query_async(&mut one).await.map_err(|error| said(&error))?;
                match role.first() {
                    Some(redis::Value::BulkString(role)) if role == b"master" => Ok(Connection::One(one)),
                    _ => Err(OpenError::Unreachable(format!("{}:{} is no master yet", master.0, master.1))),
                }
            }
            ("cluster", true) => {
                let nodes = all.iter().map(|address| at(settings, address));
                let mut client = ClusterClient::builder(nodes)
                    .connection_timeout(CONNECT_TIME)
                    .response_timeout(ANSWER_TIME)
                    .retries(1);
                if !settings.password.expose().is_empty() {
                    client = client.password(settings.password.expose());
                }
                if let Some(user) = &settings.user {
                    client = client.username(user);
                }
                if is_secure(settings) {
                    client = client.tls(TlsMode::Secure);
                    if let Some(vouched) = vouched_by(settings) {
                        client = client.certs(vouched);
                    }
                }
                let client = client.build().map_err(|error| said(&error))?;
                Ok(Connection::Cluster(client.get_async_connection().await.map_err(|error| said(&error))?))
            }
            (_, false) if mode == "standalone" => Ok(Connection::One(one)),
            (_, true) => {
                refused(format!("{shown} is a single server, and `redis_cluster_mode` says that there are several"))
            }
            (mode, false) => refused(format!("{shown} is a {mode} node: that takes `redis_cluster_mode: true`")),
        }
    }

    /// Whom the Sentinels have for the master.
    async fn master(
        sentinel: &mut MultiplexedConnection,
        named: Option<&str>,
        shown: &str,
    ) -> Result<(String, u16), OpenError> {
        let all: Vec<std::collections::HashMap<String, String>> =
            redis::cmd("SENTINEL").arg("MASTERS").query_async(sentinel).await.map_err(|error| judged(&error))?;
        let mut fitting =
            all.iter().filter(|master| named.is_none_or(|name| master.get("name").is_some_and(|n| n == name)));
        match (fitting.next(), fitting.next()) {
            (Some(master), None) => {
                let (host, port) = (master.get("ip"), master.get("port").and_then(|port| port.parse().ok()));
                host.cloned().zip(port).ok_or_else(|| OpenError::Unreachable(format!("{shown} knows no address")))
            }
            (Some(_), Some(_)) => {
                refused(format!("the Sentinel {shown} has several masters: name one, `redis_master: NAME`"))
            }
            (None, _) => refused(format!("the Sentinel {shown} has no such master")),
        }
    }
}

#[cfg(all(test, feature = "cluster"))]
mod tests {
    use super::addresses;

    #[test]
    fn addresses_are_hosts_with_a_port_or_without_one() {
        for (text, expected) in [
            ("cache:6380", &[("cache", 6380)][..]),
            ("cache", &[("cache", 6379)]),
            ("rediss://cache:6380, other", &[("cache", 6380), ("other", 6379)]),
            ("[::1]:6380,[::1]", &[("::1", 6380), ("::1", 6379)]),
        ] {
            let seen = addresses(text);
            assert_eq!(seen.iter().map(|(host, port)| (host.as_str(), *port)).collect::<Vec<_>>(), expected, "{text}");
        }
    }
}
