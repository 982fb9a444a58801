//! `berth server list` as people read it. Never asks anybody.

use crate::cli::Table;
use berth_wire::Server;

/// The port of SSH that need not be said.
const USUAL_PORT: u16 = 22;

/// A line each, and below them why some did not answer.
pub fn screen(servers: &[Server]) -> String {
    let mut table = Table::new(&["CELL", "AT", "SYSTEM", ">CPUS", ">LOAD", ">MEMORY FREE", ">DISK FREE"]);
    let mut silent = String::new();
    for server in servers {
        let (cell, at) = (server.cell.to_string(), at(server));
        match &server.machine {
            Some(it) => table.row([
                cell,
                at,
                // What all of them are is no news in a narrow column.
                it.system.replace(" GNU/Linux", ""),
                it.cpus.to_string(),
                format!("{:.2}", it.load_1m),
                part(it.memory_free_bytes, it.memory_bytes),
                part(it.disk_free_bytes, it.disk_bytes),
            ]),
            None => {
                silent.push_str(&format!("\n{cell}: {}\n", server.because.as_deref().unwrap_or("it did not answer")));
                let unknown = || "?".to_owned();
                table.row([cell, at, "unknown".to_owned(), unknown(), unknown(), unknown(), unknown()]);
            }
        }
    }
    let text = table.or("No cell stands on a server over SSH; `berth cell add NAME --host HOST` makes one there.");
    text + &silent
}

fn at(server: &Server) -> String {
    let port = if server.port == USUAL_PORT { String::new() } else { format!(":{}", server.port) };
    format!("{}@{}{port}", server.user, server.host)
}

fn part(free: u64, all: u64) -> String {
    let gib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0 / 1024.0;
    let digits = usize::from(gib(all) < 10.0);
    format!("{:.1} of {:.digits$} GiB", gib(free), gib(all))
}

#[cfg(test)]
mod tests {
    use super::screen;
    use berth_domain::CellState;
    use berth_wire::{Machine, Server};

    const GIB: u64 = 1 << 30;

    fn server(cell: &str, host: &str, port: u16, machine: Option<Machine>) -> Server {
        Server {
            cell: cell.parse().unwrap(),
            state: CellState::Ready,
            host: host.to_owned(),
            port,
            user: "berth-ssh".to_owned(),
            host_key: None,
            because: machine.is_none().then(|| "`203.0.113.9` does not answer: no connection within 10 s".to_owned()),
            machine,
        }
    }

    fn machine(system: &str) -> Machine {
        Machine {
            system: system.to_owned(),
            arch: "x86_64".to_owned(),
            cpus: 16,
            memory_bytes: 64 * GIB,
            memory_free_bytes: 51 * GIB + GIB / 2,
            disk_bytes: 954 * GIB,
            disk_free_bytes: 1 << 20,
            load_1m: 0.5,
        }
    }

    #[test]
    fn servers_stand_under_heads_and_fit_a_hundred_columns() {
        let all = [
            server("fra-2", "203.0.113.8", 22, Some(machine("Debian GNU/Linux 12 (bookworm)"))),
            server("hel-1", "203.0.113.9", 2222, None),
        ];
        assert_eq!(
            screen(&all),
            "CELL   AT                          SYSTEM                CPUS  LOAD     MEMORY FREE       DISK FREE\n\
             fra-2  berth-ssh@203.0.113.8       Debian 12 (bookworm)    16  0.50  51.5 of 64 GiB  0.0 of 954 GiB\n\
             hel-1  berth-ssh@203.0.113.9:2222  unknown                  ?     ?               ?               ?\n\
             \nhel-1: `203.0.113.9` does not answer: no connection within 10 s\n"
        );
        let long = server(
            &"c".repeat(40),
            "a-server-with-a-long-name.of-a-customer.example.com",
            22_222,
            Some(machine("Debian GNU/Linux 13 (trixie) of somebody who has a long word to say")),
        );
        for line in screen(&[long]).lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        assert!(screen(&[]).starts_with("No cell stands on a server"));
    }
}
