//! A cell's Redis and its folder for objects, beside its Postgres: made, started and removed with it. Never touches a
//! server that it did not start.

use super::{
    cluster::{Clusters, Record, postgres_user},
    files::{self, Root},
    process::{self, Kind, Launch, Process},
};
use berth_infra::{DatabaseName, ProviderError, RedisUse};
use rustix::process::Signal;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::{
    net::Ipv4Addr,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const START_LIMIT: Duration = Duration::from_secs(30);
/// One that is a store writes what it has.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// What we know of a Redis. Written before anything of it exists.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct RedisRecord {
    port: u16,
    /// In clear, as the passwords beside it.
    password: String,
    uses: RedisUse,
}

impl RedisRecord {
    pub fn url(&self, address: Ipv4Addr) -> SecretString {
        format!("redis://:{}@{address}:{}/0", self.password, self.port).into()
    }
}

fn run_file(root: &Root, name: &DatabaseName) -> PathBuf {
    root.run("redis", name.as_str())
}

fn program() -> Result<PathBuf, ProviderError> {
    let found = process::PATH.split(':').map(|dir| Path::new(dir).join("redis-server")).find(|path| path.is_file());
    found.ok_or_else(|| ProviderError::NotInstalled {
        program: "redis-server".to_owned(),
        remedy: "the Debian package `redis-server` has it; `data.redis` of the stack file asks for it".to_owned(),
    })
}

impl Clusters {
    /// Where a cell's objects lie.
    pub(super) fn objects(&self, name: &DatabaseName) -> PathBuf {
        self.root.database(name.as_str()).join("objects")
    }

    pub(super) fn redis_runs(&self, name: &DatabaseName) -> bool {
        Process::read(&run_file(&self.root, name)).is_some_and(|process| process.alive())
    }

    /// Makes what the record lacks and starts what stands still.
    pub(super) async fn ensure_beside(
        &self,
        name: &DatabaseName,
        record: &mut Record,
        redis: Option<RedisUse>,
        objects: bool,
        memory_mb: u32,
    ) -> Result<(), ProviderError> {
        if objects && self.member_user.is_some() {
            // We are root, and would follow links that a member made.
            return Err(ProviderError::Refused {
                what: format!("a folder for the objects of {name}"),
                reason:
                    "members run as `member_user`: a folder that another user writes to is not read and written as root"
                        .to_owned(),
            });
        }
        if objects {
            let folder = self.objects(name);
            files::folder(&folder, 0o700)?;
            record.objects = true;
        }
        // One that is there is kept up, also when nobody asks for it any more: members have its address.
        if let Some(uses) = redis.or_else(|| record.redis.as_ref().map(|known| known.uses)) {
            program()?;
            let known = match record.redis.take() {
                Some(known) => RedisRecord { uses, ..known },
                None => RedisRecord {
                    port: self.root.choose_port(&format!("redis of {name}"))?,
                    password: files::random_hex(24),
                    uses,
                },
            };
            record.redis = Some(known.clone());
            self.write_record(name, record)?;
            if !self.redis_runs(name) {
                self.start_redis(name, &known, memory_mb).await?;
            }
        }
        Ok(())
    }

    async fn start_redis(
        &self,
        name: &DatabaseName,
        record: &RedisRecord,
        memory_mb: u32,
    ) -> Result<(), ProviderError> {
        let what = format!("redis of {name}");
        let dir = self.root.database(name.as_str()).join("redis");
        let user = postgres_user()?;
        files::folder(&dir, 0o700)?;
        let (port, password, address) = (record.port, &record.password, self.address);
        let keeps = match record.uses {
            // A quarter of the database's memory: what is evicted can be had again.
            RedisUse::Cache => format!(
                "save \"\"\nappendonly no\nmaxmemory {}mb\nmaxmemory-policy allkeys-lru\n",
                (memory_mb / 4).max(16)
            ),
            RedisUse::Store => {
                let sync = if self.durable { "always" } else { "no" };
                format!("save \"\"\nappendonly yes\nappendfsync {sync}\nmaxmemory-policy noeviction\n")
            }
        };
        let settings = format!(
            "# Written at every start.\nbind {address}\nport {port}\nrequirepass {password}\ndir {}\n{keeps}",
            dir.display()
        );
        let file = dir.join("redis.conf");
        files::write(&file, settings.as_bytes())?;
        if let Some(user) = user {
            for path in [&dir, &file] {
                chown(path, Some(user.uid), Some(user.gid))
                    .map_err(ProviderError::io(format!("giving away {what}")))?;
            }
        }
        let log = self.root.database(name.as_str()).join("redis.log");
        files::cap_log(&log);
        let from = files::len(&log);
        process::launch(Launch {
            what: what.clone(),
            kind: Kind::Database,
            record: run_file(&self.root, name),
            command: &[program()?.display().to_string(), file.display().to_string()],
            env: &[],
            dir: Path::new("/"),
            log: &log,
            user,
            confine: None,
        })
        .await?;
        let until = Instant::now() + START_LIMIT;
        loop {
            let lines = || files::last_lines(&log, from, 15).join("\n");
            if !self.redis_runs(name) {
                return Err(ProviderError::DidNotStart { what, reason: "it ended".into(), log: lines() });
            }
            // It says so once it has read what it keeps; asking it would need its protocol.
            if lines().contains("Ready to accept connections") {
                return Ok(());
            }
            if Instant::now() > until {
                let reason = format!("it was not ready within {} s", START_LIMIT.as_secs());
                return Err(ProviderError::DidNotStart { what, reason, log: lines() });
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }

    pub(super) async fn end_redis(&self, name: &DatabaseName) -> Result<(), ProviderError> {
        let file = run_file(&self.root, name);
        if let Some(process) = Process::read(&file) {
            process.end(Signal::TERM, STOP_GRACE).await;
        }
        files::forget(&file)
    }

    pub(super) fn forget_redis(&self, record: &Record) {
        if let Some(redis) = &record.redis {
            self.root.release_port(redis.port);
        }
    }
}
