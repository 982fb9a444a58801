//! A line of JSON for requests: who was served what, how it ended, how long it took. Off the requests' way: a line that
//! finds the queue full is dropped and counted.
//!
//! Never a query, a header, a body or a host: secrets travel there. A path is written as it was asked for.

use crate::config::{EdgeError, RequestLog};
use berth_domain::TenantId;
use http::{HeaderValue, Method, Uri, Version};
use serde::Serialize;
use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write},
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

/// Lines that may wait for the disk.
const WAITING_MAX: usize = 8192;
/// Of a path, and of a method, which a client may make up.
const PATH_BYTES: usize = 1024;
const METHOD_BYTES: usize = 32;

/// The beginning of a text, as a text of its own: what it was cut from may be a whole head.
fn beginning(text: &str, bytes: usize) -> Box<str> {
    let cut = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..cut].into()
}

/// One request, from its head on.
#[derive(Debug)]
pub struct Entry {
    at: SystemTime,
    id: HeaderValue,
    client: IpAddr,
    method: Box<str>,
    path: Box<str>,
    version: Version,
    tenant: Option<TenantId>,
    status: u16,
    time: Duration,
}

impl Entry {
    pub fn new(id: &HeaderValue, client: IpAddr, method: &Method, uri: &Uri, version: Version) -> Self {
        let (id, method, path) =
            (id.clone(), beginning(method.as_str(), METHOD_BYTES), beginning(uri.path(), PATH_BYTES));
        Self { at: SystemTime::now(), id, client, method, path, version, tenant: None, status: 0, time: Duration::ZERO }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    level: &'static str,
    timestamp: String,
    tenant_id: Option<TenantId>,
    component: &'static str,
    event: &'static str,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    request_id: &'a str,
    client: IpAddr,
    protocol: &'static str,
    method: &'a str,
    path: &'a str,
    status: u16,
    duration_us: u64,
}

fn line(entry: &Entry) -> io::Result<Vec<u8>> {
    let protocol = if entry.version == Version::HTTP_2 { "h2" } else { "http/1.1" };
    let line = Line {
        level: if entry.status < 500 { "info" } else { "warn" },
        timestamp: jiff::Timestamp::try_from(entry.at).map_or_else(|_| String::new(), |at| format!("{at:.3}")),
        tenant_id: entry.tenant,
        component: "edge",
        event: "request",
        metadata: Metadata {
            request_id: entry.id.to_str().unwrap_or_default(),
            client: entry.client,
            protocol,
            method: &entry.method,
            path: &entry.path,
            status: entry.status,
            duration_us: u64::try_from(entry.time.as_micros()).unwrap_or(u64::MAX),
        },
    };
    let mut bytes = serde_json::to_vec(&line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Where cores put their lines.
#[derive(Debug)]
pub struct Logger {
    queue: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
    /// Of 2^64.
    share: u64,
}

impl Logger {
    /// The writer ends when nobody can send any more.
    pub fn start(settings: &RequestLog) -> Result<Self, EdgeError> {
        let torn = settings.file.as_deref().is_some_and(is_torn);
        let out: Box<dyn Write + Send> = match &settings.file {
            None => Box::new(io::stdout()),
            Some(path) => {
                let opened = OpenOptions::new().create(true).append(true).open(path);
                Box::new(opened.map_err(|source| EdgeError::RequestLog { path: path.clone(), source })?)
            }
        };
        let (queue, lines) = sync_channel(WAITING_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        let body = move || {
            let mut out = BufWriter::new(out);
            if torn {
                // Half a line, of which the disk did not take the rest, is not to be one with the next. It fits into what waits here.
                let _ = out.write_all(b"\n");
            }
            write(&lines, out, &lost);
        };
        thread::Builder::new().name("edge-log".to_owned()).spawn(body).map_err(EdgeError::Thread)?;
        Ok(Self { queue, dropped, share: (settings.share * u64::MAX as f64) as u64 })
    }

    /// Whether a request is one of the share.
    pub fn takes(&self, random: u64) -> bool {
        random <= self.share && self.share > 0
    }

    pub fn put(&self, mut entry: Entry, tenant: Option<TenantId>, status: u16, time: Duration) {
        (entry.tenant, entry.status, entry.time) = (tenant, status, time);
        if self.queue.try_send(entry).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Whether a file ends in half a line. One that cannot be read is taken for whole.
fn is_torn(path: &Path) -> bool {
    let last = || -> io::Result<u8> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(last[0])
    };
    // Reading anything else, such as a pipe, may wait for ever.
    path.is_file() && last().is_ok_and(|last| last != b'\n')
}

/// Said once, until the file takes lines again.
fn complain(said: &mut bool, error: &io::Error) {
    if !std::mem::replace(said, true) {
        tracing::warn!(%error, "the request log cannot be written; its lines are lost and counted");
    }
}

fn write(lines: &Receiver<Entry>, mut out: impl Write, lost: &AtomicU64) {
    let mut said = false;
    loop {
        let entry = match lines.try_recv() {
            Ok(entry) => entry,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                // Whoever looks at the file sees what was served.
                match out.flush() {
                    Ok(()) => said = false,
                    // What waits here is not lost yet.
                    Err(error) => complain(&mut said, &error),
                }
                let Ok(entry) = lines.recv() else { break };
                entry
            }
        };
        if let Err(error) = line(&entry).and_then(|line| out.write_all(&line)) {
            lost.fetch_add(1, Ordering::Relaxed);
            complain(&mut said, &error);
        }
    }
    if let Err(error) = out.flush() {
        complain(&mut said, &error);
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Logger, line, sync_channel};
    use crate::config::RequestLog;
    use berth_domain::TenantId;
    use http::{HeaderValue, Method, Version};
    use std::time::{Duration, Instant, SystemTime};

    fn entry(uri: &str) -> Entry {
        let id = HeaderValue::from_static("id-1");
        Entry::new(&id, "1.2.3.4".parse().unwrap(), &Method::GET, &uri.parse().unwrap(), Version::HTTP_2)
    }

    #[test]
    fn a_line_says_who_what_and_how_it_ended_and_no_query() {
        let mut one = entry("https://acme.test/a/b?token=secret#x");
        one.at = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        one.tenant = Some(TenantId::new(uuid::Uuid::from_u128(7)));
        (one.status, one.time) = (503, Duration::from_micros(42));
        let text = String::from_utf8(line(&one).unwrap()).unwrap();
        assert_eq!(
            text,
            "{\"level\":\"warn\",\"timestamp\":\"1970-01-01T00:00:01.500Z\",\"tenant_id\":\"00000000-0000-0000-0000-000000000007\",\
             \"component\":\"edge\",\"event\":\"request\",\"metadata\":{\"request_id\":\"id-1\",\"client\":\"1.2.3.4\",\
             \"protocol\":\"h2\",\"method\":\"GET\",\"path\":\"/a/b\",\"status\":503,\"duration_us\":42}}\n"
        );
        let long = String::from_utf8(line(&entry(&format!("/{}", "x".repeat(5000)))).unwrap()).unwrap();
        assert!(long.len() < 1400, "{}", long.len());
    }

    #[test]
    fn half_a_line_that_a_full_disk_left_stays_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("requests.log");
        for (left, whole) in [("", 1), ("{\"level\":\"info\"}\n", 2), ("{\"level\":\"in", 1)] {
            std::fs::write(&path, left).unwrap();
            let logger = Logger::start(&RequestLog { file: Some(path.clone()), share: 1.0 }).unwrap();
            logger.put(entry("/a"), None, 200, Duration::ZERO);
            let until = Instant::now() + Duration::from_secs(20);
            let mut text = String::new();
            while !text.ends_with("}}\n") {
                assert!(Instant::now() < until, "it is not written: {text}");
                std::thread::sleep(Duration::from_millis(2));
                text = std::fs::read_to_string(&path).unwrap();
            }
            let read = text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count();
            assert_eq!((read, text.starts_with(left)), (whole, true), "{text}");
            assert!(!text.contains("\n\n") && !text.starts_with('\n'), "{text}");
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_a_share_is_kept() {
        let (queue, lines) = sync_channel(2);
        let logger = |share: u64| Logger { queue: queue.clone(), dropped: std::sync::Arc::default(), share };
        let all = logger(u64::MAX);
        for _ in 0..5 {
            all.put(entry("/"), None, 200, Duration::ZERO);
        }
        assert_eq!((all.dropped(), lines.try_iter().count()), (3, 2));
        assert!(all.takes(0) && all.takes(u64::MAX));
        assert!(!logger(0).takes(0) && logger(u64::MAX / 2).takes(5) && !logger(u64::MAX / 2).takes(u64::MAX - 5));
    }
}
