//! `berth edge` as a process, and those around it: a control plane, members, clients. All of them are blocking and small.
//! Never a Postgres: what control would say is given.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part, and one that cannot go on fails")]

use berth_domain::{
    CellName, Generation, Hostname, MemberId, PlanName, Revision, ServiceName, TenantId, TenantKey, TenantName,
};
use berth_wire::edge::{EdgeEvent, MemberAddress, RouteState, TenantRoute};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    rc::Rc,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

pub fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// One request's line and the length of its body, from a kept connection.
pub fn request(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(first)
}

/// Answers each request of each connection on a thread of its own.
pub fn serve(
    answer: impl Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + Sync + Clone + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            thread::spawn(move || {
                stream.set_nodelay(true).unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(first) = request(&mut reader) {
                    if answer(&first, &mut stream).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

pub fn whole(stream: &mut TcpStream, body: &str) -> std::io::Result<()> {
    stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
}

/// A route of tenant `number` with host `tN.test`, to this member.
pub fn route(number: u128, member: SocketAddr) -> TenantRoute {
    TenantRoute {
        tenant: TenantId::new(uuid::Uuid::from_u128(number)),
        name: TenantName::new(format!("t{number}")).unwrap(),
        key: TenantKey::new(format!("key-{number}")).unwrap(),
        plan: PlanName::new("starter").unwrap(),
        cell: CellName::new("shared").unwrap(),
        generation: Generation::new(1),
        revision: Revision::new(1),
        hosts: vec![Hostname::new(format!("t{number}.test")).unwrap()],
        patterns: Vec::new(),
        state: RouteState::Serving,
        members: vec![MemberAddress {
            member: MemberId::new(uuid::Uuid::from_u128(2)),
            service: ServiceName::new("web").unwrap(),
            address: member.to_string(),
            draining_ms: None,
        }],
        body_bytes: None,
        limits: Vec::new(),
        allow: Vec::new(),
    }
}

/// A control plane that says this to each edge that comes, then what is added to it, and between that it lives.
pub fn control(said: Arc<Mutex<Vec<EdgeEvent>>>) -> SocketAddr {
    let ping = serde_json::to_string(&EdgeEvent::Ping { revision: Revision::new(1) }).unwrap();
    serve(move |first, stream| {
        if first.contains("/acks") {
            return whole(stream, "{\"revision\":1}");
        }
        if first.contains("/meters") {
            return whole(stream, "{\"counted\":0}");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        let mut line = |text: &str| stream.write_all(format!("{:x}\r\n{text}\n\r\n", text.len() + 1).as_bytes());
        let mut told = 0;
        loop {
            let new: Vec<_> = said.lock().unwrap()[told..].iter().map(|e| serde_json::to_string(e).unwrap()).collect();
            told += new.len();
            new.iter().try_for_each(|text| line(text))?;
            line(&ping)?;
            thread::sleep(Duration::from_millis(200));
        }
    })
}

pub struct Edge {
    pub process: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    _folder: Rc<tempfile::TempDir>,
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Edge {
    /// `program` is `berth`, or becomes it.
    pub fn start(mut program: Command, name: &str, control: SocketAddr, folder: Rc<tempfile::TempDir>) -> Self {
        let (address, admin) = (free(), free());
        let process = program
            .args(["edge", "--name", name, "--workers", "2", "--control", &format!("http://{control}")])
            .args(["--listen", &address.to_string(), "--admin", &admin.to_string(), "--data-dir"])
            .arg(folder.path())
            .env_remove("BERTH_URL")
            .env("BERTH_API_KEY", "bk_test")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, address, admin, _folder: folder }
    }

    /// Waits until this is so of its metrics, and gives them.
    pub fn shows(&self, what: &str, good: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let page = get(self.admin, "t1.test", "/metrics").unwrap_or_default();
            if good(&page) {
                return page;
            }
            assert!(Instant::now() < until, "{what}: {page}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn has(&self, wanted: &[&str]) {
        self.shows(&format!("{wanted:?}"), |page| wanted.iter().all(|line| page.contains(line)));
    }
}

/// One request on a connection of its own.
pub fn get(address: SocketAddr, host: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
