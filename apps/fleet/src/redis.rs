//! Where each vehicle was last, in the cell's Redis where there is one (`REDIS_URL`).
//!
//! A convenience and never the truth: what is here was committed before, what is not here is read from the database, and a
//! Redis that does not answer delays nobody. Keys begin with `t:TENANT:`, as the stack file's `data.redis` says. As many
//! connections as `REDIS_POOL_SIZE` says, and no more.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use uuid::Uuid;

/// For waiting, connecting and asking together.
const PATIENCE: Duration = Duration::from_millis(500);
const LAST_DAY: &str = "86400";
/// Batches come late and out of order: an older place replaces no newer one. The value begins with its time.
const NEWER_ONLY: &str = "local old = redis.call('GET', KEYS[1])
    if old and tonumber(string.match(old, '^%-?%d+')) > tonumber(ARGV[1]) then return 0 end
    redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'EX', ARGV[3])
    return 1";
const ANSWER_MAX: usize = 64 << 10;

/// The address and login of `redis://[USER]:PASSWORD@HOST:PORT[/N]`.
#[derive(Clone)]
pub struct Place {
    authority: String,
    login: Option<(String, String)>,
}

impl Place {
    /// `None` for an address of another form. It holds a password, so nobody repeats it.
    pub fn of(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("redis://")?;
        let rest = rest.split('/').next()?;
        let (login, authority) = match rest.rsplit_once('@') {
            Some((login, authority)) => (Some(login.split_once(':')?), authority),
            None => (None, rest),
        };
        authority.rsplit_once(':')?.1.parse::<u16>().ok()?;
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        Some(Self { authority: authority.to_owned(), login })
    }
}

#[derive(Clone)]
pub struct Redis(Option<Arc<Pool>>);

struct Pool {
    place: Place,
    free: Semaphore,
    idle: Mutex<Vec<BufReader<TcpStream>>>,
}

impl Redis {
    pub fn new(place: Option<Place>, size: usize) -> Self {
        let pool = |place| Arc::new(Pool { place, free: Semaphore::new(size), idle: Mutex::new(Vec::new()) });
        Self(place.map(pool))
    }

    /// Keeps where a vehicle was at that millisecond, if nothing newer is known, without making anybody wait for it.
    pub fn remember(&self, tenant: Uuid, vehicle: Uuid, at_ms: i64, position: String) {
        let Some(pool) = self.0.clone() else { return };
        drop(tokio::spawn(async move {
            let key = key(tenant, vehicle);
            let words = ["EVAL", NEWER_ONLY, "1", &key, &at_ms.to_string(), &position, LAST_DAY];
            if !matches!(timeout(PATIENCE, pool.ask(&words)).await, Ok(Ok(_))) {
                tracing::debug!("where a vehicle was last is not in Redis");
            }
        }));
    }

    pub async fn last(&self, tenant: Uuid, vehicle: Uuid) -> Option<String> {
        let pool = self.0.as_ref()?;
        let key = key(tenant, vehicle);
        let value = timeout(PATIENCE, pool.ask(&["GET", &key])).await.ok()?.ok()??;
        value.split_once(' ').map(|(_, position)| position.to_owned())
    }
}

fn key(tenant: Uuid, vehicle: Uuid) -> String {
    format!("t:{tenant}:last:{vehicle}")
}

impl Pool {
    async fn ask(&self, words: &[&str]) -> io::Result<Option<String>> {
        let _permit = self.free.acquire().await.map_err(io::Error::other)?;
        let known = self.idle().pop();
        let mut connection = match known {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        // One that failed, or whose answer nobody waited for, is not used again: it would answer something else.
        let answer = command(&mut connection, words).await?;
        self.idle().push(connection);
        Ok(answer)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<BufReader<TcpStream>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let mut connection = BufReader::new(TcpStream::connect(&self.place.authority).await?);
        if let Some((user, password)) = &self.place.login {
            let words: &[&str] = if user.is_empty() { &["AUTH", password] } else { &["AUTH", user, password] };
            command(&mut connection, words).await?;
        }
        Ok(connection)
    }
}

async fn command(connection: &mut BufReader<TcpStream>, words: &[&str]) -> io::Result<Option<String>> {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text.extend(["$", &word.len().to_string(), "\r\n", word, "\r\n"]);
    }
    connection.write_all(text.as_bytes()).await?;
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or(io::ErrorKind::UnexpectedEof)?;
    match kind {
        "+" | ":" => Ok(Some(rest.to_owned())),
        "$" if rest == "-1" => Ok(None),
        "$" => {
            let length = rest.parse::<usize>().ok().filter(|length| *length <= ANSWER_MAX);
            let mut body = vec![0; length.ok_or_else(|| io::Error::other("an answer of impossible length"))? + 2];
            connection.read_exact(&mut body).await?;
            body.truncate(body.len() - 2);
            String::from_utf8(body).map(Some).map_err(io::Error::other)
        }
        _ => Err(io::Error::other("Redis refuses")),
    }
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn an_address_is_taken_apart_and_anything_else_is_none() {
        let place = Place::of("redis://:secret@10.0.0.5:6379/0").unwrap();
        assert_eq!(
            (place.authority.as_str(), place.login),
            ("10.0.0.5:6379", Some((String::new(), "secret".to_owned())))
        );
        let place = Place::of("redis://web:s%40@[::1]:7000").unwrap();
        assert_eq!(place.authority, "[::1]:7000");
        assert!(Place::of("redis://localhost:6379").unwrap().login.is_none());
        for other in ["rediss://h:1", "redis://h", "redis://h:x", "unix:/run/redis"] {
            assert!(Place::of(other).is_none(), "{other}");
        }
    }
}
