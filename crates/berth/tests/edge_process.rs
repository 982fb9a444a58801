//! `berth edge` as processes: restarted by a signal while it is asked, and what it tells systemd.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn berth() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.env_remove("BERTH_URL").stdin(Stdio::null());
    command
}

/// What the edge told systemd: its process, when it serves.
fn told(socket: &UnixDatagram) -> u32 {
    let mut word = [0; 256];
    let read = socket.recv(&mut word).expect("it says that it serves");
    let word = std::str::from_utf8(&word[..read]).unwrap();
    assert!(word.contains("READY=1"), "{word}");
    word.lines().find_map(|line| line.strip_prefix("MAINPID=")).unwrap().parse().unwrap()
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap().success());
}

fn answer(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: nobody.test\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The first byte that a greeting of TLS 1.1 is answered with: where TLS is spoken an alert, 0x15.
fn greeted(address: SocketAddr) -> u8 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // Version, 32 bytes of chance, no session, one suite, no compression.
    let mut greeting: Vec<u8> = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
    greeting.extend([7_u8; 32]);
    greeting.extend([0_u8, 0, 2, 0xc0, 0x13, 1, 0]);
    stream.write_all(&greeting).unwrap();
    let mut first = [0];
    stream.read_exact(&mut first).unwrap();
    first[0]
}

fn ends(mut child: Child) {
    let until = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "a process that another one follows goes by itself");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_hang_up_starts_the_program_anew_while_every_request_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify.sock");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let address = free();
    let first = berth()
        .args(["edge", "--name", "north", "--workers", "2", "--control", &format!("http://{}", free())])
        .args(["--listen", &address.to_string(), "--admin", &free().to_string(), "--data-dir"])
        .arg(dir.path().join("data"))
        .env("BERTH_API_KEY", "bk_test")
        .env("NOTIFY_SOCKET", &path)
        .spawn()
        .unwrap();
    let mut pid = told(&systemd);
    assert_eq!(pid, first.id());
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let ask = || {
            while !stop.load(SeqCst) {
                let answer = answer(address).expect("nobody is turned away");
                assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
                asked.fetch_add(1, SeqCst);
            }
        };
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
        for _ in 0..2 {
            signal("HUP", pid);
            let next = told(&systemd);
            assert_ne!(next, pid, "another process is the main one");
            pid = next;
        }
        stop.store(true, SeqCst);
        for client in clients {
            client.join().unwrap();
        }
    });
    assert!(asked.load(SeqCst) > 0);
    ends(first);
    assert!(answer(address).unwrap().starts_with("HTTP/1.1 404"));
    signal("TERM", pid);
}

/// As on a full disk: what cannot be written down is lost, and nothing else.
#[test]
fn a_log_that_takes_no_line_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let address = free();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let control = listener.local_addr().unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut edge = berth()
        .args(["edge", "--name", "north", "--workers", "1", "--control", &format!("http://{control}")])
        .args(["--listen", &address.to_string(), "--admin", &free().to_string(), "--data-dir"])
        .arg(dir.path())
        .env("BERTH_API_KEY", "bk_test")
        .stderr(Stdio::from(full))
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while answer(address).is_err() {
        assert!(Instant::now() < until, "the edge does not serve");
        thread::sleep(Duration::from_millis(10));
    }
    let asks_for_routes = || {
        let Ok((mut stream, _)) = listener.accept() else { return false };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut head = [0; 256];
        let read = stream.read(&mut head).unwrap_or(0);
        String::from_utf8_lossy(&head[..read]).contains("/routes")
    };
    // Nobody answers it, which it says each time before it asks again.
    let until = Instant::now() + Duration::from_secs(30);
    let mut asked = 0;
    while asked < 4 {
        asked += u32::from(asks_for_routes());
        assert!(Instant::now() < until, "nobody follows the routes any more, after {asked} tries");
        assert!(edge.try_wait().unwrap().is_none(), "it ended");
        thread::sleep(Duration::from_millis(10));
    }
    signal("TERM", edge.id());
    ends(edge);
}

#[test]
fn sockets_that_systemd_opened_are_told_apart_by_their_addresses_and_one_that_nobody_asked_for_is_refused() {
    // `systemd-socket-activate` does what systemd does.
    if Command::new("systemd-socket-activate").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("left out: `systemd-socket-activate` is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let start = |opened: &[SocketAddr], plain: SocketAddr, secure: Option<SocketAddr>, data: &str| {
        Command::new("systemd-socket-activate")
            .args(opened.iter().map(|address| format!("--listen={address}")))
            .args(["--setenv=BERTH_API_KEY=bk_test", env!("CARGO_BIN_EXE_berth"), "edge"])
            .args(["--listen", &plain.to_string(), "--admin", &free().to_string(), "--data-dir"])
            .arg(dir.path().join(data))
            .args(secure.map(|address| format!("--listen-tls={address}")))
            .args(["--control", "http://127.0.0.1:9"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let connected = |address: SocketAddr| {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            match answer(address) {
                Ok(answer) if !answer.is_empty() => return answer,
                other => assert!(Instant::now() < until, "{other:?}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    };
    for plain_first in [true, false] {
        let (plain, secure) = (free(), free());
        let (opened, data) = if plain_first { ([plain, secure], "one") } else { ([secure, plain], "two") };
        let edge = start(&opened, plain, Some(secure), data);
        assert!(connected(plain).starts_with("HTTP/1.1 404"));
        assert_eq!(greeted(secure), 0x15);
        signal("TERM", edge.id());
        edge.wait_with_output().unwrap();
    }
    let (opened, wanted) = (free(), free());
    let edge = start(&[opened], wanted, None, "three");
    // The first who comes starts it.
    let until = Instant::now() + Duration::from_secs(30);
    let mut waiting = None;
    while waiting.is_none() {
        assert!(Instant::now() < until);
        waiting = TcpStream::connect(opened).ok();
    }
    let ended = edge.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("neither `--listen` nor `--listen-tls`"), "{said}");
}
