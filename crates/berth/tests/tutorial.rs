//! `docs/tutorial.md`, command by command, on the help desk that knows nothing of Berth: what each prints is what the text
//! says, while four clients open tickets through the edge. No request fails, no ticket is lost, no job is done twice.
//!
//! In the text `…` stands for what differs from run to run; a line of it alone for any lines. Ports and passwords of the
//! text are put in place of the test's own.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test ends where it is surprised, and says what it leaves out"
)]

mod running;

use berth_infra::Role;
use berth_testkit::{TestPg, free_port, wait_until};
use running::{BERTH, Place, ask};
use secrecy::ExposeSecret as _;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

const TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tutorial.md");
const NORTH: &str = "north.desk.test";
const SOUTH: &str = "south.desk.test";
const ROWS: &str = "
    insert into organizations (subdomain, name) values ('north', 'N'), ('south', 'S');
    insert into users (email) select 'u' || n || '@example.com' from generate_series(1, 500) n;
    insert into memberships select 1 + n % 2, 1 + n / 2 from generate_series(0, 999) n;
    insert into tickets (organization_id, author_id, title) select 1 + n % 2, 1 + n % 400, 'old ' || n from generate_series(1, 30000) n;
    insert into comments (ticket_id, body) select id, repeat('c', 20) from tickets, generate_series(1, 2);
    insert into jobs (organization_id, ticket_id, done_at) select organization_id, id, now() from tickets where id % 4 = 0;
    insert into deliveries (organization_id, ticket_id) select organization_id, ticket_id from jobs;
    analyze;";

/// What stands in the text, and what it is here.
struct Names(Vec<(String, String)>);

impl Names {
    /// Longer ones first: none is a part of one that was put in.
    fn here(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (theirs, here)| text.replace(theirs, here))
    }
    fn theirs(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (theirs, here)| text.replace(here, theirs))
    }
}

struct World {
    place: Place,
    names: Names,
    /// Process groups of what the text leaves in the background.
    groups: Vec<i32>,
    pg: TestPg,
}

impl Drop for World {
    fn drop(&mut self) {
        for group in &self.groups {
            let group = rustix::process::Pid::from_raw(*group).unwrap();
            // One that has ended by itself is what this is for, too.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl World {
    async fn new() -> (Self, u16) {
        let (pg, place) = (TestPg::new().await, Place::new());
        let dir = &place.dir;
        for folder in ["bin", "files"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        let desk = Path::new(BERTH).with_file_name("examples").join("desk");
        for (name, program) in [("berth", Path::new(BERTH)), ("desk", &desk)] {
            std::os::unix::fs::symlink(program, dir.join("bin").join(name)).unwrap();
        }
        let (edge, app) = (free_port(), free_port());
        let login = |role: Role| pg.cell().login(role).password.expose_secret().to_owned();
        let port = |text: &str, port: u16| (format!("127.0.0.1:{text}"), format!("127.0.0.1:{port}"));
        let cell = pg.cell();
        let names = Names(vec![
            ("/srv/desk".to_owned(), dir.to_string_lossy().into_owned()),
            ("owner-secret".to_owned(), login(Role::Owner)),
            ("app-secret".to_owned(), login(Role::App)),
            ("berth-secret".to_owned(), login(Role::Mover)),
            ("//desk_owner".to_owned(), format!("//{}", cell.login(Role::Owner).user)),
            ("//desk_app".to_owned(), format!("//{}", cell.login(Role::App).user)),
            ("//desk_berth".to_owned(), format!("//{}", cell.login(Role::Mover).user)),
            ("127.0.0.1:5432/desk".to_owned(), format!("127.0.0.1:{}/{}", cell.port, cell.database)),
            port("8000", app),
            ("PORT=8000".to_owned(), format!("PORT={app}")),
            port("7600", free_port()),
            port("7601", free_port()),
            port("8080", edge),
            port("7603", free_port()),
        ]);
        (Self { place, names, groups: Vec::new(), pg }, edge)
    }

    /// A command as a person types it: what it prints on both streams, and whether it went well.
    fn run(&mut self, command: &str) -> (String, bool) {
        let background = command.trim_end().ends_with('&');
        let path = format!("{}:/usr/bin:/bin", self.place.dir.join("bin").display());
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("exec 2>&1\n{}", self.names.here(command))]).current_dir(&self.place.dir);
        shell.env_clear().envs([
            ("PATH", path.as_str()),
            ("HOME", &self.place.dir.to_string_lossy()),
            ("LC_ALL", "C.UTF-8"),
        ]);
        shell.stdin(Stdio::null()).process_group(0);
        if background {
            let child = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            self.groups.push(i32::try_from(child.id()).unwrap());
            return (String::new(), child.wait_with_output().unwrap().status.success());
        }
        let done = shell.output().unwrap();
        (self.names.theirs(&String::from_utf8_lossy(&done.stdout)), done.status.success())
    }
}

/// One piece of the text that something is done with.
enum Piece {
    /// A command, and the lines that it prints.
    Command { text: String, prints: Vec<String>, line: usize },
    /// A file, under its name.
    File { name: String, text: String },
}

/// Blocks of `console`, and those of `yaml` that name a file in their first line.
fn pieces(text: &str) -> Vec<Piece> {
    let (mut pieces, mut kind, mut block) = (Vec::new(), None::<String>, Vec::<(usize, String)>::new());
    for (nth, line) in text.lines().enumerate() {
        if let Some(word) = line.strip_prefix("```") {
            match kind.take() {
                None => kind = Some(word.to_owned()),
                Some(of) => {
                    let block = std::mem::take(&mut block);
                    match of.as_str() {
                        "console" => commands(block, &mut pieces),
                        "yaml" => {
                            let name = block[0].1.strip_prefix("# file: ").map(str::to_owned);
                            let lines: Vec<_> = block[1..].iter().map(|(_, line)| line.as_str()).collect();
                            let text = lines.join("\n") + "\n";
                            pieces.extend(name.map(|name| Piece::File { name, text }));
                        }
                        _ => {}
                    }
                }
            }
        } else if kind.is_some() {
            block.push((nth + 1, line.to_owned()));
        }
    }
    pieces
}

fn commands(block: Vec<(usize, String)>, pieces: &mut Vec<Piece>) {
    let mut open = false;
    for (nth, line) in block {
        match (line.strip_prefix("$ "), pieces.last_mut()) {
            (Some(command), _) => {
                pieces.push(Piece::Command { text: command.to_owned(), prints: Vec::new(), line: nth });
                open = command.ends_with('\\');
            }
            (None, Some(Piece::Command { text, .. })) if open => {
                text.push('\n');
                text.push_str(&line);
                open = line.ends_with('\\');
            }
            (None, Some(Piece::Command { prints, .. })) => prints.push(line),
            (None, _) => panic!("line {nth}: output before a command"),
        }
    }
}

/// Words apart, whatever the width of a column.
fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a line is as the text has it, `…` being anything.
fn fits(wanted: &str, line: &str) -> bool {
    let (wanted, line) = (squeezed(wanted), squeezed(line));
    let mut parts = wanted.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

fn all_fit(wanted: &[String], lines: &[&str]) -> bool {
    match wanted.split_first() {
        None => lines.is_empty(),
        Some((any, rest)) if any.trim() == "…" => (0..=lines.len()).any(|at| all_fit(rest, &lines[at..])),
        Some((one, rest)) => lines.split_first().is_some_and(|(line, lines)| fits(one, line) && all_fit(rest, lines)),
    }
}

#[test]
fn a_line_of_the_text_is_compared_word_by_word() {
    assert!(fits("cell …  ready", "cell   own-1 ready") && !fits("cell … ready", "cell own-1 failed"));
    assert!(fits("a …", "a b c") && fits("…", "") && !fits("a", "a b"));
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(all_fit(&lines("a\n…\nz"), &["a", "b", "c", "z"]) && !all_fit(&lines("a\n…\nz"), &["a", "b"]));
}

/// Tickets by title: what was acknowledged to whom, under which number; and what failed.
#[derive(Default)]
struct Ledger {
    opened: Mutex<BTreeMap<String, (String, i64)>>,
    failed: Mutex<Vec<String>>,
    stop: AtomicBool,
}

fn load(edge: u16, ledger: &Arc<Ledger>) -> Vec<thread::JoinHandle<()>> {
    let one = |(host, who): (&'static str, &'static str)| {
        let ledger = Arc::clone(ledger);
        thread::spawn(move || {
            for n in 0.. {
                if ledger.stop.load(Ordering::SeqCst) {
                    return;
                }
                let title = format!("{who} {n}");
                match ask(edge, host, "POST", "/tickets", &title) {
                    Some((200, id)) => {
                        let known = (host.to_owned(), id.parse().unwrap());
                        ledger.opened.lock().unwrap().insert(title, known);
                    }
                    other => ledger.failed.lock().unwrap().push(format!("{title}: {other:?}")),
                }
                thread::sleep(Duration::from_millis(15));
            }
        })
    };
    [(NORTH, "n1"), (NORTH, "n2"), (SOUTH, "s1"), (SOUTH, "s2")].map(one).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_tutorial_prints_what_the_text_says_and_no_request_fails() {
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("left out: `curl` is not installed");
        return;
    }
    let (mut world, edge) = World::new().await;
    let text = fs::read_to_string(TEXT).unwrap();
    let ledger = Arc::new(Ledger::default());
    let mut clients = Vec::new();
    let mut wrong = String::new();
    let mut filled = false;
    for piece in pieces(&text) {
        let (command, prints, line) = match piece {
            Piece::File { name, text } => {
                fs::write(world.place.dir.join(name), world.names.here(&text)).unwrap();
                continue;
            }
            Piece::Command { text, prints, line } => (text, prints, line),
        };
        let (said, good) = world.run(&command);
        let lines: Vec<&str> = said.lines().collect();
        if !good || !all_fit(&prints, &lines) {
            wrong.extend([format!("line {line}: $ {command}\n(well: {good})\n{said}\n")]);
            if !good {
                break;
            }
        }
        if command.contains("migrate") && !filled {
            world.pg.connect(Role::Mover).await.batch_execute(ROWS).await.unwrap();
            filled = true;
        }
        if command.contains("berth edge ") {
            let look = async || ask(edge, NORTH, "GET", "/up", "").unwrap_or_default().0;
            wait_until("the edge routes", look, |status| *status == 200).await;
            clients = load(edge, &ledger);
        }
    }
    let look = async || ledger.opened.lock().unwrap().len();
    if !clients.is_empty() {
        let before = look().await;
        wait_until("traffic goes on to the end", look, |many| *many > before + 100).await;
    }
    ledger.stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    assert!(wrong.is_empty(), "{wrong}");
    let failed = ledger.failed.lock().unwrap().clone();
    assert!(failed.is_empty(), "{} failed, the first: {}", failed.len(), failed[0]);
    let file = |name: &str| fs::read_to_string(world.place.dir.join("files/org-1").join(name)).unwrap_or_default();
    assert_eq!((file("logo"), file("letter")), ("a compass".to_owned(), "signed".to_owned()), "files by prefix");
    let client = world.pg.connect(Role::Mover).await;
    let open = "select count(*) from jobs where done_at is null";
    let look = async || client.query_one(open, &[]).await.unwrap().get::<_, i64>(0);
    wait_until("the worker is through", look, |open| *open == 0).await;
    let sql = "select t.title, t.id, o.subdomain || '.desk.test',
                      (select count(*) from deliveries d where d.ticket_id = t.id and d.organization_id = t.organization_id)
               from tickets t join organizations o on o.id = t.organization_id where t.title ~ '^[ns][12] '";
    let rows = client.query(sql, &[]).await.unwrap();
    assert!(rows.iter().all(|row| row.get::<_, i64>(3) == 1), "a job was done more or less than once");
    let found: BTreeMap<String, (String, i64)> =
        rows.iter().map(|row| (row.get(0), (row.get(2), row.get(1)))).collect();
    assert_eq!(found.len(), rows.len(), "a ticket is there twice");
    assert!(found == *ledger.opened.lock().unwrap(), "what was acknowledged is not what is there");
    println!("{} tickets opened meanwhile, 0 failed, 0 lost, 0 twice", found.len());
}
