//! The WebSocket, and where vehicles were last, with a Redis that is really there.

use crate::common::Fleet;
use serde_json::{Value, json};
use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use uuid::Uuid;

const SHAKE: &str = "GET /socket HTTP/1.1\r\nHost: fleet\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

async fn opened(world: &Fleet, head: &str) -> (TcpStream, String) {
    let mut stream = world.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(answer).unwrap().to_ascii_lowercase())
}

#[tokio::test]
async fn a_websocket_answers_pings_and_texts_and_ends_with_the_reason() {
    let world = Fleet::start().await;
    let (mut stream, head) = opened(&world, SHAKE).await;
    assert!(
        head.starts_with("http/1.1 101") && head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{head}"
    );
    // A ping and a text, masked with 1 2 3 4.
    stream.write_all(&[0x89, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2, 0x81, 0x81, 1, 2, 3, 4, b'x' ^ 1]).await.unwrap();
    let mut answers = [0; 7];
    stream.read_exact(&mut answers).await.unwrap();
    assert_eq!(answers, [0x8a, 2, b'h', b'i', 0x81, 1, b'x']);
    // A goodbye is answered; what has no mask, or is too long, ends it.
    for (frame, answer) in [
        (&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8][..], &[0x88, 2, 0x03, 0xe8][..]),
        (&[0x81, 1, b'x'], &[]),
        (&[0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], &[]),
    ] {
        let (mut stream, _) = opened(&world, SHAKE).await;
        stream.write_all(frame).await.unwrap();
        let mut rest = Vec::new();
        // One that is broken off with something unread may end in a reset.
        let _ended = stream.read_to_end(&mut rest).await;
        assert_eq!(rest, answer, "{frame:?}");
    }
    for other in [
        SHAKE.replace("Version: 13", "Version: 8"),
        SHAKE.replace("websocket\r\n", "h2c\r\n"),
        SHAKE.replace("Sec-WebSocket-Key", "Key"),
    ] {
        assert!(opened(&world, &other).await.1.starts_with("http/1.1 4"), "{other}");
    }
}

struct Redis {
    process: Child,
    port: u16,
}

impl Redis {
    /// `None` where it is not installed; that is said on stderr.
    fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "redis-server",
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--requirepass",
            "our own",
        ]);
        let process = command.args(["--port", &port.to_string()]).stdout(Stdio::null()).spawn().unwrap();
        let mut redis = Self { process, port };
        let ends = Instant::now() + Duration::from_secs(10);
        while redis.cli(&["PING"]) != "PONG" {
            if redis.process.try_wait().unwrap().is_some() {
                eprintln!("skipped: `redis-server` is not installed here");
                return None;
            }
            assert!(Instant::now() < ends, "Redis does not answer");
        }
        Some(redis)
    }

    fn cli(&self, words: &[&str]) -> String {
        let asked = Command::new("redis-cli")
            .args(["--no-auth-warning", "-a", "our own", "-p", &self.port.to_string()])
            .args(words)
            .output()
            .unwrap();
        String::from_utf8(asked.stdout).unwrap().trim().to_owned()
    }

    /// Sessions that wait with a write.
    fn writers(&self) -> usize {
        self.cli(&["CLIENT", "LIST"]).lines().filter(|line| line.contains("cmd=evalsha ")).count()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn position(vehicle: Uuid, time: &str) -> Value {
    json!({ "vehicle_id": vehicle, "time": time, "latitude": 1.5, "longitude": 2.5 })
}

#[tokio::test]
async fn where_a_vehicle_was_last_is_remembered_over_as_many_connections_as_the_platform_says() {
    let Some(redis) = Redis::start() else { return };
    let url = format!("redis://:our own@127.0.0.1:{}/0", redis.port);
    let world =
        Fleet::told(&[("REDIS_URL", &url), ("REDIS_POOL_SIZE", "3"), ("DEDICATED_DATABASE_POOL_SIZE", "8")]).await;
    let acme = world.customer("acme").await;
    let van = world.vehicle(acme, "v-1").await;
    let last = format!("/api/v1/gps-positions/last?vehicle_id={van}");
    assert_eq!(world.get(acme, &last).await.body, Value::Null, "it never was anywhere");

    let batch = json!([position(van, "2026-01-01T00:00:02Z"), position(van, "2026-01-01T00:00:01Z")]).to_string();
    assert_eq!(world.post(acme, "/api/v1/gps-positions", &batch).await.status, 201);
    let key = format!("t:{acme}:last:{van}");
    let ends = Instant::now() + Duration::from_secs(10);
    while redis.cli(&["GET", &key]).is_empty() {
        assert!(Instant::now() < ends, "nothing is remembered");
    }
    // What Redis says is what is answered.
    redis.cli(&["SET", &key, r#"1767225602500 {"latitude":9.0}"#]);
    assert_eq!(world.get(acme, &last).await.body, json!({ "latitude": 9.0 }));
    // A batch that comes late replaces nothing newer.
    let late = position(van, "2026-01-01T00:00:02.400Z").to_string();
    assert_eq!(world.post(acme, "/api/v1/gps-positions", &late).await.status, 201);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(world.get(acme, &last).await.body, json!({ "latitude": 9.0 }));
    }
    redis.cli(&["DEL", &key]);
    assert_eq!(world.get(acme, &last).await.body["time"], "2026-01-01T00:00:02.4Z", "the database has it");

    // While Redis lets nobody write, eight want to: three wait there, and all eight are answered at once.
    redis.cli(&["CLIENT", "PAUSE", "5000", "WRITE"]);
    let sent = position(van, "2026-01-01T00:00:03Z").to_string();
    let started = Instant::now();
    let posts = (0..8).map(|_| world.post(acme, "/api/v1/gps-positions", &sent));
    for post in posts {
        assert_eq!(post.await.status, 201);
    }
    let mut most = 0;
    while started.elapsed() < Duration::from_secs(2) && most < 3 {
        most = most.max(redis.writers());
    }
    assert_eq!(most, 3);
    let ends = Instant::now() + Duration::from_millis(400);
    while Instant::now() < ends {
        assert!(redis.writers() <= 3);
    }
}
