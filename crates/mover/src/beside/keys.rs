//! A tenant's keys in Redis: copied by `DUMP` and `RESTORE`, followed by the server's own invalidation messages
//! (`CLIENT TRACKING … BCAST`, Redis 6 and later, <https://redis.io/docs/latest/develop/reference/client-side-caching/>).
//!
//! Never looks at values, and never at keys outside the tenant's prefixes.

use super::{BesideKind, BesidePlan, KeysBeside, prefix_of, trouble};
use crate::{MoveError, Obstacle, Side};
use berth_domain::{TenantKey, Token};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisError, Value,
};
use secrecy::{ExposeSecret, SecretString};
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A key of hundreds of megabytes takes its time.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);
/// Keys of one round trip, at most.
const BATCH: usize = 200;
/// Bytes that the keys of one round trip have together, if there is more than one of them.
const BATCH_BYTES: u64 = 8 << 20;
/// Keys that are read into an archive together.
const DUMPS: usize = 20;
/// The pause may begin with so many keys still to be copied: two round trips.
const LAST_MOST: usize = 2 * BATCH;
const ROUNDS: u32 = 8;

type Key = Vec<u8>;

fn redis(side: Side, doing: &'static str) -> impl Fn(RedisError) -> MoveError {
    move |error| trouble(side, doing)(Box::new(error))
}

/// A connection, and what the server says by itself.
async fn connect(
    url: &SecretString,
    side: Side,
) -> Result<(MultiplexedConnection, UnboundedReceiver<PushInfo>), MoveError> {
    let failed = redis(side, "connecting to its Redis");
    let info = url.expose_secret().into_connection_info().map_err(&failed)?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let client = Client::open(info.set_redis_settings(settings)).map_err(&failed)?;
    let (pushed, messages) = unbounded_channel();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_LIMIT))
        .set_response_timeout(Some(ANSWER_LIMIT))
        .set_push_sender(pushed);
    let connection = client.get_multiplexed_async_connection_with_config(&config).await.map_err(&failed)?;
    Ok((connection, messages))
}

/// What is between the two sides and a copy.
pub(super) async fn plan(
    keys: &KeysBeside,
    tenant: &TenantKey,
    found: &mut Vec<BesidePlan>,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    if keys.prefixes.is_empty() {
        return Ok(());
    }
    if keys.store && !keys.alone {
        obstacles.push(Obstacle::KeysOfAStore);
    }
    let (mut source, _) = connect(&keys.source, Side::Source).await?;
    let (mut target, _) = connect(&keys.target, Side::Target).await?;
    let (ours, theirs) = (facts(&mut source, Side::Source).await?, facts(&mut target, Side::Target).await?);
    for (facts, side) in [(&ours, Side::Source), (&theirs, Side::Target)] {
        if facts.cluster {
            obstacles.push(Obstacle::KeysInCluster { side });
        }
    }
    // A dump is read by the version that wrote it and by later ones.
    if theirs.release() < ours.release() || ours.release() < (6, 0) {
        obstacles.push(Obstacle::KeysVersion { source_version: ours.version, target: theirs.version });
    }
    if keys.store && theirs.policy != "noeviction" {
        obstacles.push(Obstacle::KeysEvicted { policy: theirs.policy });
    }
    if keys.store && !theirs.on_disk {
        obstacles.push(Obstacle::KeysNotKept);
    }
    for prefix in &keys.prefixes {
        let there = scan(&mut source, Side::Source, &prefix_of(prefix, tenant)).await?;
        found.push(BesidePlan {
            what: BesideKind::RedisKeys,
            prefix: prefix_of(prefix, tenant),
            found: there.len() as u64,
            bytes: None,
        });
    }
    Ok(())
}

/// Both sides are one database of one server: nothing has to travel, and nothing may be taken away.
pub(super) async fn same_place(keys: &KeysBeside) -> Result<bool, MoveError> {
    let database =
        |url: &SecretString| url.expose_secret().into_connection_info().ok().map(|i| i.redis_settings().db());
    if database(&keys.source) != database(&keys.target) {
        return Ok(false);
    }
    let (mut source, _) = connect(&keys.source, Side::Source).await?;
    let (mut target, _) = connect(&keys.target, Side::Target).await?;
    let ours = facts(&mut source, Side::Source).await?.run;
    let theirs = facts(&mut target, Side::Target).await?.run;
    if ours.is_empty() || theirs.is_empty() {
        let hidden = std::io::Error::other("it does not say its `run_id`, so two places cannot be told from one");
        return Err(trouble(Side::Source, "asking Redis about itself")(Box::new(hidden)));
    }
    Ok(ours == theirs)
}

struct Facts {
    /// Another one at each start of a server, whatever its address.
    run: String,
    version: String,
    cluster: bool,
    policy: String,
    /// Every write goes to a file.
    on_disk: bool,
}

impl Facts {
    fn release(&self) -> (u32, u32) {
        let mut parts = self.version.split('.').map(|n| n.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }
}

async fn facts(connection: &mut MultiplexedConnection, side: Side) -> Result<Facts, MoveError> {
    let info: String =
        redis::cmd("INFO").query_async(connection).await.map_err(redis(side, "asking Redis about itself"))?;
    let line = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim().to_owned()
    };
    Ok(Facts {
        run: line("run_id"),
        version: line("redis_version"),
        cluster: line("cluster_enabled") == "1",
        policy: line("maxmemory_policy"),
        on_disk: line("aof_enabled") == "1",
    })
}

/// Every key that begins with `prefix`.
async fn scan(connection: &mut MultiplexedConnection, side: Side, prefix: &str) -> Result<HashSet<Key>, MoveError> {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for c in prefix.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('*');
    let mut found = HashSet::new();
    let mut cursor = 0_u64;
    loop {
        let (next, keys): (u64, Vec<Key>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(&pattern)
            .arg("COUNT")
            .arg(1_000)
            .query_async(connection)
            .await
            .map_err(redis(side, "listing keys"))?;
        found.extend(keys);
        if next == 0 {
            return Ok(found);
        }
        cursor = next;
    }
}

/// A tenant's keys in one server, to be taken away.
pub(super) struct There {
    connection: MultiplexedConnection,
    side: Side,
    keys: Vec<Key>,
}

impl There {
    pub async fn of(url: &SecretString, side: Side, prefixes: &[String]) -> Result<Self, MoveError> {
        let (mut connection, _) = connect(url, side).await?;
        let mut keys = Vec::new();
        for prefix in prefixes {
            keys.extend(scan(&mut connection, side, prefix).await?);
        }
        Ok(Self { connection, side, keys })
    }
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
    pub fn many(&self) -> u64 {
        self.keys.len() as u64
    }
    /// Absent ones are gone already.
    pub async fn remove_some(&mut self) -> Result<(), MoveError> {
        let rest = self.keys.len().saturating_sub(BATCH);
        unlink(&mut self.connection, self.side, &self.keys[rest..]).await?;
        self.keys.truncate(rest);
        Ok(())
    }
}

/// A key, when it ends in Unix milliseconds, and its value as the server dumps it.
pub(super) type Dump = (Key, Option<i64>, Vec<u8>);

/// All keys of a tenant, read batch by batch.
pub(super) struct Dumps {
    connection: MultiplexedConnection,
    keys: Vec<Key>,
}

impl Dumps {
    pub async fn of(url: &SecretString, prefixes: &[String]) -> Result<Self, MoveError> {
        let There { connection, mut keys, .. } = There::of(url, Side::Source, prefixes).await?;
        keys.sort_unstable();
        keys.dedup();
        Ok(Self { connection, keys })
    }

    /// One key at a time where they are large is left to the server's own limits: a batch is of few keys.
    pub async fn next(&mut self) -> Result<Option<Vec<Dump>>, MoveError> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        let batch = self.keys.split_off(self.keys.len().saturating_sub(DUMPS));
        let mut read = redis::pipe();
        for key in &batch {
            read.cmd("DUMP").arg(key).cmd("PTTL").arg(key);
        }
        let answers: Vec<Value> =
            read.query_async(&mut self.connection).await.map_err(redis(Side::Source, "reading keys"))?;
        let now = jiff::Timestamp::now().as_millisecond();
        let mut dumps = Vec::new();
        for (key, answer) in batch.into_iter().zip(answers.chunks_exact(2)) {
            // Others went between the listing and now.
            if let [Value::BulkString(value), Value::Int(ttl)] = answer
                && *ttl != -2
            {
                dumps.push((key, (*ttl >= 0).then_some(now + *ttl), value.clone()));
            }
        }
        Ok(Some(dumps))
    }
}

/// Keys of an archive on their way into a server.
pub(super) struct Restoring {
    connection: MultiplexedConnection,
    batch: redis::Pipeline,
    bytes: usize,
}

impl Restoring {
    pub async fn into(url: &SecretString) -> Result<Self, MoveError> {
        let (connection, _) = connect(url, Side::Target).await?;
        Ok(Self { connection, batch: redis::pipe(), bytes: 0 })
    }

    /// One that has ended meanwhile is not there, as if nobody had taken it away.
    pub async fn put(&mut self, key: Key, ends_ms: Option<i64>, dump: Vec<u8>) -> Result<(), MoveError> {
        self.bytes += dump.len() + key.len();
        let ends = ends_ms.unwrap_or(0);
        let restore = self.batch.cmd("RESTORE").arg(key).arg(ends).arg(dump).arg("REPLACE");
        if ends_ms.is_some() {
            restore.arg("ABSTTL");
        }
        restore.ignore();
        if self.bytes as u64 > BATCH_BYTES { self.end().await } else { Ok(()) }
    }

    pub async fn end(&mut self) -> Result<(), MoveError> {
        let batch = std::mem::replace(&mut self.batch, redis::pipe());
        if std::mem::take(&mut self.bytes) == 0 {
            return Ok(());
        }
        batch.query_async::<()>(&mut self.connection).await.map_err(redis(Side::Target, "writing keys"))
    }
}

async fn unlink(connection: &mut MultiplexedConnection, side: Side, keys: &[Key]) -> Result<(), MoveError> {
    for batch in keys.chunks(BATCH) {
        let mut command = redis::cmd("UNLINK");
        for key in batch {
            command.arg(key);
        }
        command.query_async::<u64>(connection).await.map_err(redis(side, "removing keys"))?;
    }
    Ok(())
}

/// Names this session and ends those of earlier workers of the move: one that was taken for dead must not write an old
/// value over a new one. It is no fence: what such a worker had sent before is done.
async fn become_the_one(target: &mut MultiplexedConnection, sessions: &str, token: Token) -> Result<(), MoveError> {
    let failed = redis(Side::Target, "ending sessions of earlier workers");
    let name = format!("{sessions}{token}");
    redis::cmd("CLIENT").arg("SETNAME").arg(&name).query_async::<()>(target).await.map_err(&failed)?;
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(target).await.map_err(&failed)?;
    for line in list.lines() {
        let field = |key: &str| line.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
        let (Some(id), Some(theirs)) = (field("id"), field("name")) else { continue };
        let Some(other) = theirs.strip_prefix(sessions).and_then(|token| token.parse::<i64>().ok()) else { continue };
        if other > token.as_i64() {
            return Err(MoveError::Fenced { side: Side::Target, held: token });
        }
        if other < token.as_i64() {
            redis::cmd("CLIENT").arg("KILL").arg("ID").arg(id).query_async::<u64>(target).await.map_err(&failed)?;
        }
    }
    Ok(())
}

/// Copies, and knows what changed since.
pub(super) struct Follower {
    source: MultiplexedConnection,
    target: MultiplexedConnection,
    messages: UnboundedReceiver<PushInfo>,
    prefixes: Vec<String>,
    changed: HashSet<Key>,
    /// The server forgot what it tracked (`FLUSHALL`), so all keys have to be looked at.
    all: bool,
}

impl Follower {
    /// `sessions`: what this move's sessions are called; those of an earlier worker end here.
    pub async fn start(
        keys: &KeysBeside,
        prefixes: Vec<String>,
        sessions: &str,
        token: Token,
    ) -> Result<Self, MoveError> {
        let (mut source, messages) = connect(&keys.source, Side::Source).await?;
        let (mut target, _) = connect(&keys.target, Side::Target).await?;
        become_the_one(&mut target, sessions, token).await?;
        // The server refuses a prefix that begins with another one, which is followed by that one already.
        let outer = |one: &String| !prefixes.iter().any(|other| other != one && one.starts_with(other.as_str()));
        let prefixes: Vec<String> = prefixes.iter().filter(|one| outer(one)).cloned().collect();
        let mut track = redis::cmd("CLIENT");
        track.arg("TRACKING").arg("ON").arg("BCAST");
        for prefix in &prefixes {
            track.arg("PREFIX").arg(prefix);
        }
        // Before the first key is read: what changes while all are copied is told of.
        track.query_async::<()>(&mut source).await.map_err(redis(Side::Source, "following its keys"))?;
        let mut follower = Self { source, target, messages, prefixes, changed: HashSet::new(), all: true };
        follower.bring_all().await?;
        Ok(follower)
    }

    /// All keys, and none in the target that the source does not have: an earlier move may have left some.
    async fn bring_all(&mut self) -> Result<(), MoveError> {
        for prefix in self.prefixes.clone() {
            let ours = scan(&mut self.source, Side::Source, &prefix).await?;
            let theirs = scan(&mut self.target, Side::Target, &prefix).await?;
            let gone: Vec<Key> = theirs.difference(&ours).cloned().collect();
            unlink(&mut self.target, Side::Target, &gone).await?;
            let ours: Vec<Key> = ours.into_iter().collect();
            self.bring(&ours).await?;
        }
        self.all = false;
        Ok(())
    }

    async fn bring(&mut self, keys: &[Key]) -> Result<(), MoveError> {
        for some in keys.chunks(BATCH) {
            let mut ask = redis::pipe();
            for key in some {
                ask.cmd("MEMORY").arg("USAGE").arg(key);
            }
            let sizes: Vec<Option<u64>> =
                ask.query_async(&mut self.source).await.map_err(redis(Side::Source, "reading keys"))?;
            let mut rest = some;
            let mut sizes = sizes.into_iter().map(Option::unwrap_or_default).peekable();
            while !rest.is_empty() {
                let (mut bytes, mut many) = (0, 0);
                while let Some(size) = sizes.next_if(|size| many == 0 || bytes + size <= BATCH_BYTES) {
                    bytes += size;
                    many += 1;
                }
                let (batch, after) = rest.split_at(many.clamp(1, rest.len()));
                self.bring_batch(batch).await?;
                rest = after;
            }
        }
        Ok(())
    }

    async fn bring_batch(&mut self, batch: &[Key]) -> Result<(), MoveError> {
        let mut read = redis::pipe();
        for key in batch {
            read.cmd("DUMP").arg(key).cmd("PTTL").arg(key);
        }
        let answers: Vec<Value> =
            read.query_async(&mut self.source).await.map_err(redis(Side::Source, "reading keys"))?;
        let mut write = redis::pipe();
        for (key, answer) in batch.iter().zip(answers.chunks_exact(2)) {
            match answer {
                // -2: it went between the two commands; its message follows.
                [Value::BulkString(value), Value::Int(ttl)] if *ttl != -2 => {
                    // 0 means none to RESTORE, and is what PTTL says of the last millisecond.
                    let ttl = if *ttl == -1 { 0 } else { (*ttl).max(1) };
                    write.cmd("RESTORE").arg(key).arg(ttl).arg(value).arg("REPLACE").ignore();
                }
                _ => {
                    write.cmd("UNLINK").arg(key).ignore();
                }
            }
        }
        // A dump has a checksum, which RESTORE compares.
        write.query_async::<()>(&mut self.target).await.map_err(redis(Side::Target, "writing keys"))
    }

    /// Reads what the server has said, and that it has said all there was to say: messages about a command go out with
    /// the turn of the server's loop in which it ran, which may also be the turn of our first PING.
    async fn hear(&mut self) -> Result<(), MoveError> {
        for _ in 0..2 {
            let ping = redis::cmd("PING").query_async::<String>(&mut self.source).await;
            ping.map_err(redis(Side::Source, "following its keys"))?;
        }
        while let Ok(message) = self.messages.try_recv() {
            match (message.kind, message.data.as_slice()) {
                (PushKind::Invalidate, [Value::Array(keys)]) => {
                    let keys = keys.iter().filter_map(|key| match key {
                        Value::BulkString(key) => Some(key.clone()),
                        _ => None,
                    });
                    self.changed.extend(keys);
                }
                (PushKind::Invalidate, _) => self.all = true,
                (PushKind::Disconnection, _) => {
                    let lost = std::io::Error::other("the connection ended, and with it what it followed");
                    return Err(trouble(Side::Source, "following its keys")(Box::new(lost)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns how many keys were brought. One that is given up midway brings them again next time.
    async fn round(&mut self) -> Result<usize, MoveError> {
        self.hear().await?;
        let keys: Vec<Key> = self.changed.iter().cloned().collect();
        if self.all {
            self.bring_all().await?;
        } else {
            self.bring(&keys).await?;
        }
        // What changed meanwhile has not been heard yet.
        self.changed.clear();
        Ok(keys.len())
    }

    pub async fn catch_up(&mut self) -> Result<Option<String>, MoveError> {
        let mut many = usize::MAX;
        for _ in 0..ROUNDS {
            many = self.round().await?;
            if many <= LAST_MOST {
                return Ok(None);
            }
        }
        Ok(Some(format!("{many} keys in Redis changed while they were copied")))
    }

    pub async fn last(&mut self) -> Result<(), MoveError> {
        self.round().await.map(drop)
    }
}
