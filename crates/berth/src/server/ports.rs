//! The ports that `serve` and the edge listen on, looked at before anything is changed. Postgres and members choose free
//! ones by themselves. Only looks.

use super::steps::Walk;
use crate::fail::Failure;

/// A port, and who will listen on it.
struct Wanted {
    port: u16,
    role: &'static str,
    /// The edge listens everywhere: whoever has one address of such a port is in its way.
    everywhere: bool,
}

const fn wanted(port: u16, role: &'static str, everywhere: bool) -> Wanted {
    Wanted { port, role, everywhere }
}

const TLS: u16 = 443;
const WANTED: [Wanted; 5] = [
    wanted(80, "edge", true),
    wanted(TLS, "edge", true),
    wanted(7600, "serve", false),
    wanted(7601, "serve", false),
    wanted(7603, "edge", false),
];

/// A socket that listens, and the programs that hold it. None: nobody can tell.
#[derive(Debug, PartialEq, Eq)]
struct Listening {
    address: String,
    programs: Vec<Program>,
}

#[derive(Debug, PartialEq, Eq)]
struct Program {
    name: String,
    pid: u32,
}

/// A port that `up` cannot have.
struct Taken {
    port: u16,
    role: &'static str,
    /// None: nobody can tell.
    by: Option<Program>,
}

/// Unless they are taken by what `up` has started here before.
pub async fn are_free(walk: &Walk<'_>, tls: bool) -> Result<(), Failure> {
    let mut all = Vec::new();
    for wanted in WANTED.iter().filter(|wanted| tls || wanted.port != TLS) {
        let said = walk.asks(&looking_at(wanted.port)).await?;
        let (mut strangers, mut unknown) = (Vec::new(), false);
        for found in read(&said).into_iter().filter(|found| wanted.everywhere || is_local(&found.address)) {
            if found.programs.is_empty() && !walk.is(&is_up(wanted.role)).await? {
                unknown = true;
            }
            for program in found.programs {
                if !walk.is(&is_ours(wanted, program.pid)).await? {
                    strangers.push(program);
                }
            }
        }
        // Of those that share it the first one has started the others.
        let by = strangers.into_iter().min_by_key(|program| program.pid);
        if unknown || by.is_some() {
            all.push(Taken { port: wanted.port, role: wanted.role, by });
        }
    }
    if all.is_empty() { Ok(()) } else { Err(refused(&walk.connection.target().name(), &all)) }
}

fn refused(host: &str, all: &[Taken]) -> Failure {
    let taken = all.iter().map(|Taken { port, role, by }| match by {
        Some(Program { name, pid }) => format!("port {port} is taken by `{name}` (pid {pid}), and {role} needs it"),
        None => format!("port {port} is taken by another program, and {role} needs it"),
    });
    let what = format!("on `{host}` {}", taken.collect::<Vec<_>>().join("; "));
    let unit = all.iter().find_map(|taken| taken.by.as_ref()).map_or_else(String::new, |program| {
        let pid = program.pid;
        format!(" (`systemctl status {pid}` there names its unit, `systemctl disable --now UNIT` ends it for good)")
    });
    Failure::request(what, format!("stop it there{unit}, or take another host; nothing was changed"))
}

/// What listens there, one a line. A host that has not been prepared may lack `ss`.
fn looking_at(port: u16) -> String {
    format!(
        "if command -v ss >/dev/null; then ss -Hltnp 'sport = :{port}'; \
         elif bash -c '(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null'; then echo 'LISTEN 0 0 127.0.0.1:{port} 0.0.0.0:*'; fi"
    )
}

/// Whether a process belongs to the unit of this role. One that has ended meanwhile is in nobody's way. The edge's ports are
/// held by its socket, which is systemd's own, also while the edge is started again.
fn is_ours(wanted: &Wanted, pid: u32) -> String {
    let Wanted { port, role, .. } = wanted;
    if pid == 1 {
        return format!("systemctl cat berth-{role}.socket 2>/dev/null | grep -qE '^ListenStream=(.*:)?{port}$'");
    }
    format!("test ! -e /proc/{pid} || grep -qE '/berth-{role}[.]service(/|$)' /proc/{pid}/cgroup")
}

/// Whether the unit is there: also one that a broken-off run is starting or ending at this moment.
fn is_up(role: &str) -> String {
    format!(
        "systemctl show -p ActiveState --value berth-{role}.service berth-{role}.socket 2>/dev/null | \
         grep -qE '^(active|activating|reloading|deactivating)$'"
    )
}

/// Of what `ss -Hltnp` writes.
fn read(said: &str) -> Vec<Listening> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.nth(3)?.rsplit_once(':')?.0.to_owned();
        let programs = line
            .split_once("users:(")
            .map_or_else(Vec::new, |(_, users)| users.split("(\"").skip(1).filter_map(program).collect());
        Some(Listening { address, programs })
    };
    said.lines().filter_map(line).collect()
}

/// `nginx",pid=812,fd=6),`: the name is its own choice.
fn program(user: &str) -> Option<Program> {
    let (name, rest) = user.rsplit_once("\",pid=")?;
    let pid = rest.split(',').next()?.parse().ok()?;
    Some(Program { name: name.to_owned(), pid })
}

/// Whether whoever listens there is in the way of 127.0.0.1.
fn is_local(address: &str) -> bool {
    let address = address.split_once('%').map_or(address, |(address, _)| address);
    matches!(address, "127.0.0.1" | "0.0.0.0" | "*" | "[::]" | "[::ffff:127.0.0.1]")
}

#[cfg(test)]
mod tests {
    use super::{Listening, Program, Taken, WANTED, is_local, is_ours, looking_at, read, refused, wanted};
    use std::{net::TcpListener, process::Command};

    fn program(name: &str, pid: u32) -> Program {
        Program { name: name.to_owned(), pid }
    }

    #[test]
    fn whoever_listens_is_read_with_name_and_pid() {
        let said = "LISTEN 0      511    0.0.0.0:443  0.0.0.0:* users:((\"nginx\",pid=961,fd=5),(\"nginx\",pid=812,fd=5))  \n\
                    LISTEN 0      128    [::]:443     [::]:*\n\
                    LISTEN 0      4096   127.0.0.53%lo:443  0.0.0.0:* users:((\"my \\\"(web)\",pid=7,fd=3))\n";
        let found = read(said);
        let at = |address: &str, programs: Vec<Program>| Listening { address: address.to_owned(), programs };
        assert_eq!(
            found,
            [
                at("0.0.0.0", vec![program("nginx", 961), program("nginx", 812)]),
                at("[::]", vec![]),
                at("127.0.0.53%lo", vec![program("my \\\"(web)", 7)]),
            ]
        );
        assert_eq!(read(""), []);
    }

    #[test]
    fn loopback_is_taken_by_whoever_listens_there_or_everywhere() {
        for address in ["127.0.0.1", "0.0.0.0", "*", "[::]", "[::ffff:127.0.0.1]"] {
            assert!(is_local(address), "{address}");
        }
        for address in ["127.0.0.2", "203.0.113.7", "[::1]", "127.0.0.53%lo"] {
            assert!(!is_local(address), "{address}");
        }
    }

    #[test]
    fn a_refusal_names_every_port_with_its_program_and_says_what_to_do() {
        let all = [
            Taken { port: 80, role: "edge", by: Some(program("nginx", 812)) },
            Taken { port: 7600, role: "serve", by: None },
        ];
        let said = refused("203.0.113.7", &all).screen();
        for word in [
            "port 80 is taken by `nginx` (pid 812), and edge needs it; port 7600 is taken by another",
            "systemctl status 812",
            "nothing was changed",
        ] {
            assert!(said.contains(word), "{said}");
        }
    }

    /// The scripts themselves, on this machine: a socket of this very test is found, and is none of ours.
    #[test]
    fn a_program_that_listens_here_is_found_and_is_not_taken_for_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sh = |script: &str| Command::new("sh").args(["-c", script]).output().unwrap();
        let found = read(&String::from_utf8(sh(&looking_at(port)).stdout).unwrap());
        assert!(found.iter().any(|found| found.address == "127.0.0.1"), "{found:?}");
        let pid = std::process::id();
        for found in &found {
            // Where `ss` is not there nobody can tell.
            assert!(found.programs.is_empty() || found.programs.iter().any(|program| program.pid == pid), "{found:?}");
        }
        for wanted in &WANTED {
            assert!(!sh(&is_ours(wanted, pid)).status.success(), "a test is no unit");
        }
        // Not with the ports of [`WANTED`]: the machine may have a server of its own.
        assert!(!sh(&is_ours(&wanted(port, "edge", true), 1)).status.success(), "no socket of ours has port {port}");
    }
}
