//! What `berth check --live` asks: a database, a Redis, names and the certificates behind them. Each is asked once and
//! for a few seconds at most. Only asks; what an answer means is for `berth_check::live`.

use super::tokens::{self, Held};
use berth_check::{
    Finding,
    live::{Database, Host, Judge, Login, Redis, unseen_sessions},
};
use berth_pg::Tls;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use secrecy::{ExposeSecret as _, SecretString};
use std::{
    io::{self, ErrorKind},
    net::{IpAddr, TcpStream, ToSocketAddrs as _},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, time::timeout};
use tokio_postgres::{Client, Config};

const LIMIT: Duration = Duration::from_secs(5);
const HTTPS: u16 = 443;
const HOSTS_MAX: usize = 30;
const HOSTS_AT_ONCE: usize = 8;
/// For all of them; each may take 10 s.
const HOSTS_LIMIT: Duration = Duration::from_secs(30);

/// What is asked.
pub struct Targets {
    pub database: Option<SecretString>,
    pub login: Login,
    /// What all processes of the stack may open together, from its files.
    pub wanted: Option<i64>,
    pub redis: Option<SecretString>,
    /// `name` or `name:port`.
    pub hosts: Vec<String>,
    pub tokens: Vec<Held>,
}

/// Findings, and what could not be asked and why.
pub struct Answers {
    pub findings: Vec<Finding>,
    pub asked: Vec<String>,
    pub left_out: Vec<String>,
}

pub async fn ask(targets: Targets, now: Timestamp) -> Answers {
    let mut answers = Answers { findings: Vec::new(), asked: Vec::new(), left_out: Vec::new() };
    if let Some(url) = &targets.database {
        let mut judge = Judge::of("DATABASE_URL");
        let asked = match berth_pg::parse(url.expose_secret()) {
            Ok((config, tls)) => database(config, tls, targets.login).await,
            Err(why) => Err(why),
        };
        match asked {
            Ok(facts) => {
                judge.database(&facts, targets.login, targets.wanted);
                if facts.unseen > 0 {
                    answers.left_out.push(format!("under DATABASE_URL {}", unseen_sessions(facts.unseen)));
                }
            }
            Err(why) => judge.note("live-database-unreachable", why),
        }
        answers.asked.push(judge.what.to_owned());
        answers.findings.append(&mut judge.found);
    }
    if let Some(url) = &targets.redis {
        let mut judge = Judge::of("REDIS_URL");
        match redis_facts(url).await {
            Ok(facts) => judge.redis(&facts),
            Err(why) => judge.note("live-redis-unreachable", why),
        }
        answers.asked.push(judge.what.to_owned());
        answers.findings.append(&mut judge.found);
    }
    if let Some(rest) = targets.hosts.get(HOSTS_MAX..).filter(|rest| !rest.is_empty()) {
        answers.left_out.push(format!("{} of the names, from `{}` on", rest.len(), rest[0]));
    }
    let names = targets.hosts.iter().take(HOSTS_MAX).cloned().collect();
    hosts(names, LIMIT + LIMIT, HOSTS_LIMIT, now, &mut answers).await;
    for held in &targets.tokens {
        let variable = held.of.variable;
        let asked = held.clone();
        let said = match apart(LIMIT + LIMIT, move || tokens::ask(&asked)).await {
            Some(Ok(facts)) => facts,
            Some(Err(error)) => {
                answers.left_out.push(format!("{variable} could not be tried: {error}"));
                continue;
            }
            None => {
                answers
                    .left_out
                    .push(format!("{variable} could not be tried: its provider did not answer within 10 s"));
                continue;
            }
        };
        let mut judge = Judge::of(variable);
        judge.token(&said, now);
        answers.asked.push(variable.to_owned());
        answers.findings.append(&mut judge.found);
    }
    answers
}

/// Several at a time, `each` for so long. Those that were not reached when the time for `all` is over are left out.
async fn hosts(names: Vec<String>, each: Duration, all: Duration, now: Timestamp, answers: &mut Answers) {
    let end = Instant::now() + all;
    let asked = names.into_iter().map(|name| async move {
        let left = end.saturating_duration_since(Instant::now());
        let target = name.clone();
        let said = apart(each.min(left), move || host(&target)).await;
        (name, said, left < each)
    });
    let mut asked = stream::iter(asked).buffered(HOSTS_AT_ONCE);
    let mut missed: Vec<String> = Vec::new();
    while let Some((name, said, cut_short)) = asked.next().await {
        if said.is_none() && cut_short {
            missed.push(name);
            continue;
        }
        let mut judge = Judge::of(&name);
        match said {
            Some(facts) => judge.host(&facts, now),
            None => judge.note("live-certificate", format!("it did not answer within {} s", each.as_secs())),
        }
        answers.asked.push(judge.what.to_owned());
        answers.findings.append(&mut judge.found);
    }
    if !missed.is_empty() {
        let (number, names) = (missed.len(), missed.join(", "));
        answers
            .left_out
            .push(format!("{number} of the names, which were not reached within {} s: {names}", all.as_secs()));
    }
}

/// On a thread of its own, for the system's resolver blocks, and may do so for longer than anybody waits: the end of
/// the program does not wait for such a thread, as it would for the runtime's.
async fn apart<T: Send + 'static>(limit: Duration, ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    // When it has an answer, nobody may be waiting any more.
    thread::Builder::new().spawn(move || drop(answer.send(ask()))).ok()?;
    timeout(limit, answered).await.ok()?.ok()
}

/// Every cause in one line: the driver's own text says only that something failed.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

async fn database(mut config: Config, tls: Option<Tls>, login: Login) -> Result<Database, String> {
    config.application_name("berth-check").options("-c statement_timeout=5s");
    let connected = timeout(LIMIT, berth_pg::connect(&config, tls.as_ref())).await;
    let client = connected.map_err(|_| "no answer within 5 s".to_owned())?.map_err(|error| whole(&error))?;
    let facts = timeout(LIMIT, database_facts(&client)).await;
    let mut facts = facts.map_err(|_| "no answer within 5 s".to_owned())?.map_err(|error| whole(&error))?;
    if login == Login::Mover {
        let lacks = timeout(LIMIT, berth_mover::login_lacks(&client)).await;
        let lacks = lacks.map_err(|_| "no answer within 5 s".to_owned())?.map_err(|error| whole(&error))?;
        facts.mover_lacks = lacks.iter().map(|lack| format!("{lack}: {}", lack.hint())).collect();
    }
    Ok(facts)
}

async fn database_facts(client: &Client) -> Result<Database, tokio_postgres::Error> {
    let row = client
        .query_one(
            "select current_setting('server_version_num')::bigint, current_setting('wal_level'),
                    (select count(*) from pg_replication_slots), current_setting('max_replication_slots')::bigint,
                    (select count(*) from pg_stat_replication), current_setting('max_wal_senders')::bigint,
                    -- Of other roles' sessions an ordinary role sees neither kind nor state.
                    (select count(*) from pg_stat_activity
                      where backend_type = 'client backend' or backend_type is null and usesysid is not null),
                    current_setting('max_connections')::bigint,
                    current_setting('superuser_reserved_connections')::bigint,
                    (select rolsuper from pg_roles where rolname = session_user),
                    (select coalesce(max(extract(epoch from now() - state_change)), 0)::bigint
                       from pg_stat_activity where state like 'idle in transaction%'),
                    (extract(epoch from clock_timestamp()) * 1000)::bigint,
                    (select coalesce(max(extract(epoch from now() - query_start)), 0)::bigint
                       from pg_stat_activity where state = 'active' and backend_type = 'client backend'
                        and pid <> pg_backend_pid()),
                    (select count(*) from pg_stat_activity where backend_type is null and usesysid is not null)",
            &[],
        )
        .await?;
    let here_ms = Timestamp::now().as_millisecond();
    let slots = client
        .query(
            "select slot_name::text, coalesce(pg_wal_lsn_diff(
                        case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end,
                        restart_lsn), 0)::bigint
               from pg_replication_slots where not active order by 1",
            &[],
        )
        .await?;
    let dead = client
        .query(
            "select schemaname || '.' || relname, n_dead_tup * 100 / (n_live_tup + n_dead_tup)
               from pg_stat_user_tables
              where n_live_tup + n_dead_tup >= 10000 and n_dead_tup * 100 >= 30 * (n_live_tup + n_dead_tup)
              order by 1",
            &[],
        )
        .await?;
    Ok(Database {
        version_num: row.get(0),
        wal_level: row.get(1),
        slots_used: row.get(2),
        slots_max: row.get(3),
        senders_used: row.get(4),
        senders_max: row.get(5),
        idle_slots: slots.iter().map(|row| (row.get(0), row.get(1))).collect(),
        connections: row.get(6),
        connections_max: row.get(7),
        connections_reserved: row.get(8),
        superuser: row.get(9),
        mover_lacks: Vec::new(),
        idle_in_transaction_s: row.get(10),
        slowest_s: row.get(12),
        unseen: row.get(13),
        dead_rows: dead.iter().map(|row| (row.get(0), row.get(1))).collect(),
        ahead_ms: row.get::<_, i64>(11) - here_ms,
    })
}

async fn redis_facts(url: &SecretString) -> Result<Redis, String> {
    let info = redis::IntoConnectionInfo::into_connection_info(url.expose_secret()).map_err(|error| whole(&error))?;
    let address = info.addr().clone();
    let loopback = match &address {
        redis::ConnectionAddr::Tcp(host, _) | redis::ConnectionAddr::TcpTls { host, .. } => {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        _ => true,
    };
    // First without a password: whoever else can reach it has none either.
    let bare = address.into_connection_info_without_login();
    let open = match bare {
        Some(bare) => ping(bare).await.is_ok(),
        None => false,
    };
    let asked = timeout(LIMIT, redis_answers(info)).await.map_err(|_| "no answer within 5 s".to_owned())?;
    let (policy, max_bytes, used_bytes, ahead_ms) = asked.map_err(|error| whole(&error))?;
    Ok(Redis { open, loopback, policy, used_bytes, max_bytes, ahead_ms })
}

/// The same server, nobody in particular.
trait WithoutLogin {
    fn into_connection_info_without_login(self) -> Option<redis::ConnectionInfo>;
}

impl WithoutLogin for redis::ConnectionAddr {
    fn into_connection_info_without_login(self) -> Option<redis::ConnectionInfo> {
        let text = match self {
            Self::Tcp(host, port) if host.contains(':') => format!("redis://[{host}]:{port}/"),
            Self::Tcp(host, port) => format!("redis://{host}:{port}/"),
            Self::TcpTls { host, port, .. } if host.contains(':') => format!("rediss://[{host}]:{port}/"),
            Self::TcpTls { host, port, .. } => format!("rediss://{host}:{port}/"),
            _ => return None,
        };
        redis::IntoConnectionInfo::into_connection_info(text).ok()
    }
}

async fn ping(info: redis::ConnectionInfo) -> Result<(), String> {
    let asked = async {
        let client = redis::Client::open(info)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async::<String>(&mut connection).await
    };
    timeout(LIMIT, asked).await.map_err(|_| String::new())?.map(|_| ()).map_err(|error| whole(&error))
}

type RedisAnswers = (Option<String>, u64, u64, i64);

async fn redis_answers(info: redis::ConnectionInfo) -> Result<RedisAnswers, redis::RedisError> {
    let client = redis::Client::open(info)?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let memory: String = redis::cmd("INFO").arg("memory").query_async(&mut connection).await?;
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut connection).await?;
    let ahead_ms = seconds * 1000 + micros / 1000 - Timestamp::now().as_millisecond();
    let fact = |name: &str| memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let number = |name: &str| fact(name).and_then(|n| n.parse().ok()).unwrap_or_default();
    Ok((fact("maxmemory_policy").map(str::to_owned), number("maxmemory"), number("used_memory"), ahead_ms))
}

/// Blocking: the resolver of the system is, too.
pub fn host(target: &str) -> Host {
    let (name, port) = target.rsplit_once(':').and_then(|(n, p)| Some((n, p.parse().ok()?))).unwrap_or((target, HTTPS));
    let addresses: Vec<_> = (name, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    // A name may have addresses of both families, of which one answers.
    let connect = |address| TcpStream::connect_timeout(address, LIMIT / 2);
    let mut tried = addresses.iter().map(connect);
    let first = tried.next().unwrap_or_else(|| Err(ErrorKind::AddrNotAvailable.into()));
    let connected = first.or_else(|error| tried.find_map(Result::ok).ok_or(error));
    let seen = connected.and_then(|stream| certificate(stream, name)).map_err(|error| format!("port {port}: {error}"));
    let (certificate, doubt) = match seen {
        Ok((end, doubt)) => (Ok(end), doubt),
        Err(why) => (Err(why), None),
    };
    Host { name: name.to_owned(), addresses: addresses.len(), certificate, doubt }
}

/// When it ends, and why browsers would not believe it.
fn certificate(mut stream: TcpStream, name: &str) -> io::Result<(Timestamp, Option<String>)> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let other = |message: &str| io::Error::new(ErrorKind::InvalidData, message.to_owned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Looking(Arc::clone(&provider))))
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).map_err(|_| other("this is no host name"))?;
    let mut tls = ClientConnection::new(Arc::new(config), name.clone()).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    let chain = tls.peer_certificates().unwrap_or_default();
    let (certificate, between) = chain.split_first().ok_or_else(|| other("no certificate"))?;
    let parsed = rustls::server::ParsedCertificate::try_from(certificate).map_err(io::Error::other)?;
    rustls::client::verify_server_name(&parsed, &name).map_err(|_| other("the certificate is for another name"))?;
    let end = berth_check::live::certificate_end(certificate);
    let end = end.ok_or_else(|| other("its certificate cannot be read"))?;
    Ok((end, doubt(certificate, between, &name, provider)))
}

/// Nothing where somebody whom browsers or this machine trust has signed it. Its dates are judged elsewhere.
fn doubt(
    certificate: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    provider: Arc<CryptoProvider>,
) -> Option<String> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    match verifier.verify_server_cert(certificate, between, name, &[], UnixTime::now()) {
        Ok(_)
        | Err(rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            None
        }
        Err(_) if berth_check::live::signs_itself(certificate) => {
            Some("its certificate is signed by itself".to_owned())
        }
        Err(error) => Some(format!("its certificate is not believed: {error}")),
    }
}

/// Takes every certificate, for nothing is sent: what is wanted is its end, also of one that has ended or that nobody
/// trusts, which is told apart afterwards. The handshake's signature is checked, so that it is the server's own.
#[derive(Debug)]
struct Looking(Arc<CryptoProvider>);

impl ServerCertVerifier for Looking {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::{Answers, apart, database_facts, hosts};
    use berth_infra::Role;
    use berth_testkit::{TestPg, wait_until};
    use jiff::Timestamp;
    use std::{
        net::TcpListener,
        sync::mpsc,
        time::{Duration, Instant},
    };

    #[tokio::test]
    async fn names_that_do_not_answer_take_the_time_for_all_and_not_that_of_each() {
        // Takes connections and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let names = vec![silent.local_addr().unwrap().to_string(); 20];
        let mut answers = Answers { findings: Vec::new(), asked: Vec::new(), left_out: Vec::new() };
        let (each, all) = (Duration::from_millis(300), Duration::from_millis(700));
        let began = Instant::now();
        hosts(names, each, all, Timestamp::now(), &mut answers).await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        let found = answers.findings.len();
        assert!((8..=16).contains(&found) && answers.asked.len() == found, "{found} {:?}", answers.asked);
        let said = format!("{} of the names, which were not reached", 20 - found);
        assert!(answers.left_out.len() == 1 && answers.left_out[0].starts_with(&said), "{:?}", answers.left_out);
    }

    #[test]
    fn what_hangs_does_not_hold_up_the_end_of_the_program() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_held, wait) = mpsc::channel::<()>();
        let began = Instant::now();
        let said = runtime.block_on(apart(Duration::from_millis(100), move || wait.recv().is_ok()));
        drop(runtime);
        assert!(said.is_none() && began.elapsed() < Duration::from_secs(5), "{said:?} {:?}", began.elapsed());
    }

    #[tokio::test]
    async fn an_idle_transaction_and_a_slow_statement_are_seen_by_who_may_see_them() {
        let pg = TestPg::new().await;
        let idle = pg.connect(Role::Mover).await;
        idle.batch_execute("BEGIN; SELECT 1").await.unwrap();
        let slow = pg.connect(Role::Mover).await;
        let slow = tokio::spawn(async move { slow.batch_execute("SELECT pg_sleep(60)").await });
        let (mover, app) = (pg.connect(Role::Mover).await, pg.connect(Role::App).await);

        let look = async || database_facts(&mover).await.unwrap();
        let both = |facts: &berth_check::live::Database| facts.idle_in_transaction_s >= 2 && facts.slowest_s >= 2;
        let facts = wait_until("both are seen", look, both).await;
        assert_eq!(facts.unseen, 0, "a superuser sees everybody");

        let facts = database_facts(&app).await.unwrap();
        assert_eq!((facts.idle_in_transaction_s, facts.slowest_s), (0, 0));
        assert!(facts.unseen >= 3 && facts.connections >= 4, "{facts:?}");
        mover.batch_execute("GRANT pg_read_all_stats TO berth_app").await.unwrap();
        let facts = database_facts(&app).await.unwrap();
        assert!(both(&facts) && facts.unseen == 0, "{facts:?}");
        slow.abort();
    }
}
