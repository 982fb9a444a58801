//! A connection in replication mode: makes a slot, starts the stream, says how far it is.
//!
//! tokio-postgres has no replication mode, and the crates that do speak protocol version 1 only, without streaming
//! of transactions in progress: beside a neighbour's large transaction that costs seconds inside the pause.
//! Never interprets what it carries; see [`crate::pgoutput`].

use crate::sql::{Endpoint, NO_TRANSACTION_TIMEOUT, options};
use crate::{MoveError, Side};
use berth_pg::{CONNECT_LIMIT, notice_silence};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use secrecy::ExposeSecret;
use std::{io, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Microseconds between the Unix epoch and Postgres' (2000-01-01).
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;
/// What of open transactions a server keeps before it passes them on. With its own setting (64 MB where nobody says otherwise) it
/// decodes most of a neighbour's large transaction at its end, and every marker waits behind that for seconds: no moment is found.
const DECODED_AT_ONCE: &str = "1MB";
/// What is made ready for more of a message at a time.
const ROOM_BYTES: usize = 1 << 20;

/// A position in the write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl std::str::FromStr for Lsn {
    type Err = MoveError;
    fn from_str(text: &str) -> Result<Self, MoveError> {
        let parsed = text.split_once('/').and_then(|(high, low)| {
            Some(Self(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?))
        });
        parsed.ok_or_else(|| MoveError::Decode(format!("`{text}` is no position in the WAL")))
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A replication session. Dropping it closes the connection.
pub(crate) struct Replication {
    wire: Box<dyn Wire>,
    buffer: BytesMut,
}

/// One message of the stream.
pub(crate) enum Streamed {
    /// A message of the output plugin.
    Data(Bytes),
    /// The server has nothing older than this to send; `true`: it wants to hear from us.
    Alive(Lsn, bool),
}

fn broken(message: impl Into<String>) -> MoveError {
    MoveError::Stream(io::Error::other(message.into()))
}

fn too_slow(what: String) -> MoveError {
    MoveError::Stream(io::Error::new(io::ErrorKind::TimedOut, what))
}

impl Replication {
    pub async fn connect(endpoint: &Endpoint, name: &str) -> Result<Self, MoveError> {
        let told = || too_slow(format!("the server did not let us in within {} s", CONNECT_LIMIT.as_secs()));
        tokio::time::timeout(CONNECT_LIMIT, Self::connected(endpoint, name)).await.unwrap_or_else(|_| Err(told()))
    }

    async fn connected(endpoint: &Endpoint, name: &str) -> Result<Self, MoveError> {
        let wire: Box<dyn Wire> = if endpoint.host.starts_with('/') {
            let path = format!("{}/.s.PGSQL.{}", endpoint.host, endpoint.port);
            Box::new(tokio::net::UnixStream::connect(path).await.map_err(MoveError::Stream)?)
        } else {
            let tcp = tokio::net::TcpStream::connect((endpoint.host.as_str(), endpoint.port))
                .await
                .map_err(MoveError::Stream)?;
            tcp.set_nodelay(true).and_then(|()| notice_silence(&tcp)).map_err(MoveError::Stream)?;
            match &endpoint.tls {
                Some(tls) => Box::new(tls.start(tcp, &endpoint.host).await.map_err(MoveError::Stream)?),
                None => Box::new(tcp),
            }
        };
        let mut session = Self { wire, buffer: BytesMut::with_capacity(64 << 10) };
        let options = options(&[("wal_sender_timeout", "0"), ("logical_decoding_work_mem", DECODED_AT_ONCE)]);
        let parameters = [
            ("user", endpoint.user.as_str()),
            ("database", endpoint.database.as_str()),
            ("replication", "database"),
            ("application_name", name),
            ("client_encoding", "UTF8"),
            ("options", options.as_str()),
        ];
        let mut hello = BytesMut::new();
        frontend::startup_message(parameters, &mut hello).map_err(MoveError::Stream)?;
        session.send(&hello).await?;
        session.authenticate(endpoint).await?;
        session.command(NO_TRANSACTION_TIMEOUT).await?;
        Ok(session)
    }

    async fn authenticate(&mut self, endpoint: &Endpoint) -> Result<(), MoveError> {
        let password = endpoint.password.expose_secret().as_bytes();
        let mut scram: Option<sasl::ScramSha256> = None;
        loop {
            let (tag, mut body) = self.receive().await?;
            match tag {
                b'R' => {
                    let kind = body.try_get_u32().map_err(|_| short())?;
                    let mut answer = BytesMut::new();
                    match kind {
                        0 => {}
                        3 => frontend::password_message(password, &mut answer).map_err(MoveError::Stream)?,
                        5 => {
                            let mut salt = [0; 4];
                            body.try_copy_to_slice(&mut salt).map_err(|_| short())?;
                            let hash = md5_hash(endpoint.user.as_bytes(), password, salt);
                            frontend::password_message(hash.as_bytes(), &mut answer).map_err(MoveError::Stream)?;
                        }
                        10 => {
                            let start = sasl::ScramSha256::new(password, sasl::ChannelBinding::unsupported());
                            frontend::sasl_initial_response("SCRAM-SHA-256", start.message(), &mut answer)
                                .map_err(MoveError::Stream)?;
                            scram = Some(start);
                        }
                        11 => {
                            let state = scram.as_mut().ok_or_else(|| broken("SCRAM out of order"))?;
                            state.update(&body).map_err(MoveError::Stream)?;
                            frontend::sasl_response(state.message(), &mut answer).map_err(MoveError::Stream)?;
                        }
                        12 => {
                            scram
                                .as_mut()
                                .ok_or_else(|| broken("SCRAM out of order"))?
                                .finish(&body)
                                .map_err(MoveError::Stream)?;
                        }
                        other => {
                            return Err(broken(format!(
                                "the server asks for authentication {other}, which is not spoken here"
                            )));
                        }
                    }
                    if !answer.is_empty() {
                        self.send(&answer).await?;
                    }
                }
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    /// Runs one command and returns its rows as text.
    pub async fn command(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, MoveError> {
        self.query(sql).await?;
        let mut rows = Vec::new();
        loop {
            let (tag, body) = self.receive().await?;
            match tag {
                b'D' => rows.push(row(body)?),
                b'Z' => return Ok(rows),
                _ => {}
            }
        }
    }

    /// Starts the stream of a slot from where the server has it, whatever `from` is below that.
    pub async fn start(&mut self, slot: &str, publication: &str, from: Lsn) -> Result<(), MoveError> {
        self.query(&format!(
            "START_REPLICATION SLOT {slot} LOGICAL {from} (proto_version '2', streaming 'on', messages 'on', publication_names '{publication}')"
        ))
        .await?;
        loop {
            let (tag, _) = self.receive().await?;
            if tag == b'W' {
                return Ok(());
            }
        }
    }

    /// The next message of the stream.
    pub async fn next(&mut self) -> Result<Streamed, MoveError> {
        loop {
            let (tag, mut body) = self.receive().await?;
            if tag != b'd' || body.is_empty() {
                if tag == b'c' {
                    return Err(broken("the server ended the stream"));
                }
                continue;
            }
            match body.get_u8() {
                b'w' if body.len() >= 24 => {
                    body.advance(24);
                    return Ok(Streamed::Data(body));
                }
                b'k' if body.len() >= 17 => {
                    let end = Lsn(body.get_u64());
                    body.advance(8);
                    return Ok(Streamed::Alive(end, body.get_u8() == 1));
                }
                other => return Err(MoveError::Decode(format!("unknown stream message {other}"))),
            }
        }
    }

    /// Tells the server that everything up to `applied` is safe with us. A hint that lets it drop WAL, never
    /// something a decision rests on.
    pub async fn confirm(&mut self, applied: Lsn) -> Result<(), MoveError> {
        let now = jiff::Timestamp::now().as_microsecond() - POSTGRES_EPOCH_US;
        let mut message = BytesMut::with_capacity(39);
        message.put_u8(b'd');
        message.put_i32(4 + 34);
        message.put_u8(b'r');
        message.put_u64(applied.0);
        message.put_u64(applied.0);
        message.put_u64(applied.0);
        message.put_i64(now);
        message.put_u8(0);
        self.send(&message).await
    }

    async fn query(&mut self, sql: &str) -> Result<(), MoveError> {
        let mut message = BytesMut::new();
        frontend::query(sql, &mut message).map_err(MoveError::Stream)?;
        self.send(&message).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), MoveError> {
        self.wire.write_all(bytes).await.map_err(MoveError::Stream)?;
        self.wire.flush().await.map_err(MoveError::Stream)
    }

    /// One whole message. Safe to drop between calls: what has been read stays in the buffer.
    async fn receive(&mut self) -> Result<(u8, Bytes), MoveError> {
        loop {
            if self.buffer.len() >= 5 {
                let length =
                    u32::from_be_bytes([self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]]) as usize;
                if length < 4 {
                    return Err(broken("the server sent a message without a length"));
                }
                if self.buffer.len() > length {
                    let tag = self.buffer[0];
                    self.buffer.advance(5);
                    let body = self.buffer.split_to(length - 4).freeze();
                    if tag == b'E' {
                        return Err(refused(&body));
                    }
                    return Ok((tag, body));
                }
                // No more at once than a server has to send to have it: a length is only a claim.
                self.buffer.reserve((length + 1 - self.buffer.len()).min(ROOM_BYTES));
            }
            if self.wire.read_buf(&mut self.buffer).await.map_err(MoveError::Stream)? == 0 {
                return Err(broken("the server closed the connection"));
            }
        }
    }
}

fn short() -> MoveError {
    broken("the server sent a message that ends too early")
}

/// One row of a command's answer.
pub(crate) fn row(mut body: Bytes) -> Result<Vec<Option<String>>, MoveError> {
    let fields = body.try_get_u16().map_err(|_| short())?;
    let mut row = Vec::with_capacity(usize::from(fields));
    for _ in 0..fields {
        let length = body.try_get_i32().map_err(|_| short())?;
        row.push(match usize::try_from(length) {
            Ok(length) if length > body.len() => return Err(short()),
            Ok(length) => Some(String::from_utf8_lossy(&body.split_to(length)).into_owned()),
            Err(_) => None,
        });
    }
    Ok(row)
}

fn refused(body: &[u8]) -> MoveError {
    let mut code = String::new();
    let mut message = String::new();
    for field in body.split(|b| *b == 0).filter(|f| !f.is_empty()) {
        let text = String::from_utf8_lossy(&field[1..]).into_owned();
        match field[0] {
            b'C' => code = text,
            b'M' => message = text,
            _ => {}
        }
    }
    MoveError::StreamRefused { code, message }
}

/// Which snapshot a new slot comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Snapshot {
    Export,
    Nothing,
}

/// Makes a slot, for which the server waits until every transaction that has written is over. `beside`: a session of the
/// same server, which sees who is waited for. A session whose slot was not made in time is of no more use: the server does
/// not notice that it is gone, and the next [`drop_slot`] ends it.
pub(crate) async fn make_slot(
    session: &mut Replication,
    slot: &str,
    snapshot: Snapshot,
    limit: Duration,
    beside: &tokio_postgres::Client,
) -> Result<Vec<Vec<Option<String>>>, MoveError> {
    let snapshot = if snapshot == Snapshot::Export { "export" } else { "nothing" };
    let command = format!("CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput (SNAPSHOT '{snapshot}')");
    if let Ok(made) = tokio::time::timeout(limit, session.command(&command)).await {
        return made;
    }
    let oldest =
        "select concat_ws(' ', 'session', pid, 'of', usename, application_name, 'which has written since', xact_start)
                  from pg_stat_activity where backend_xid is not null order by xact_start limit 1";
    let whom = beside.query_opt(oldest, &[]).await.ok().flatten();
    let whom = whom.map_or_else(|| "nobody that is seen".to_owned(), |row| row.get(0));
    Err(too_slow(format!(
        "the server did not make a replication slot within {} s; it waits for {whom}",
        limit.as_secs_f64()
    )))
}

/// Makes the slot and hands out its snapshot, which lives as long as the session makes no other command.
pub(crate) async fn create_slot(
    session: &mut Replication,
    slot: &str,
    limit: Duration,
    beside: &tokio_postgres::Client,
) -> Result<(Lsn, String), MoveError> {
    let rows = make_slot(session, slot, Snapshot::Export, limit, beside).await?;
    let row = rows.into_iter().next().unwrap_or_default();
    match (row.get(1).cloned().flatten(), row.get(2).cloned().flatten()) {
        (Some(position), Some(snapshot)) => Ok((position.parse()?, snapshot)),
        _ => Err(MoveError::Decode("the server made a slot without a snapshot".into())),
    }
}

/// Drops a slot if it is there; a sender that still holds it is ended first.
pub(crate) async fn drop_slot(client: &tokio_postgres::Client, slot: &str) -> Result<(), MoveError> {
    use crate::sql::Doing;
    let what = "dropping the replication slot";
    client
        .execute(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = $1 and active",
            &[&slot],
        )
        .await
        .doing(Side::Source, what)?;
    client
        .execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1", &[&slot])
        .await
        .doing(Side::Source, what)?;
    Ok(())
}

/// Fails when a slot holds back more of its server's log than it may. One that is not there holds back nothing.
pub(crate) async fn held_back(client: &tokio_postgres::Client, slot: &str, most: u64) -> Result<(), MoveError> {
    use crate::sql::Doing;
    let row = client
        .query_opt(
            "select coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint
             from pg_replication_slots where slot_name = $1",
            &[&slot],
        )
        .await
        .doing(Side::Source, "looking at the slot")?;
    let held = row.map_or(0, |row| row.get::<_, i64>(0).unsigned_abs());
    if held > most {
        return Err(MoveError::TooMuchWal { held_mb: held >> 20, most_mb: most >> 20 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Replication;
    use bytes::BytesMut;
    use tokio::io::AsyncWriteExt;

    /// A server's packets end where they like: each message is cut at every byte once, also before its last.
    #[tokio::test]
    async fn a_message_in_two_pieces_is_read_whole() {
        let message = [b'd', 0, 0, 0, 9, 1, 2, 3, 4, 5];
        for cut in 1..=message.len() {
            let (mut server, wire) = tokio::io::duplex(64);
            let mut session = Replication { wire: Box::new(wire), buffer: BytesMut::new() };
            let (first, rest) = message.split_at(cut);
            let send = async {
                server.write_all(first).await.unwrap();
                tokio::task::yield_now().await;
                server.write_all(rest).await.unwrap();
                server.write_all(&message).await.unwrap();
            };
            let read = async { (session.receive().await.unwrap(), session.receive().await.unwrap()) };
            let ((), (one, two)) = tokio::join!(send, read);
            assert_eq!((one.0, one.1.as_ref()), (b'd', [1, 2, 3, 4, 5].as_slice()), "cut after {cut}");
            assert_eq!(one, two);
        }
    }
}
