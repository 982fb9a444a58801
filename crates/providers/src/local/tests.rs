//! The adapter against real processes and a real Postgres.

use super::{Afterwards, Local, LocalOptions, end_all, process, run_janitor};
use berth_infra::{
    CellDatabase, CellSpec, Compute, Confinement, Database, EnvVar, ErrorKind, Health, Member, MemberName, MemberSpec,
    Observed, Provider, ProviderError, RedisUse, Role,
    conformance::{Subject, cell, member},
};
use process::{Kind, Process};
use secrecy::ExposeSecret;
use std::{
    fmt::Debug,
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio_postgres::{Client, NoTls};

/// A web server in a language that every Debian has.
pub(super) const SERVER: &str = r#"
use IO::Socket::INET;
$| = 1;
print "serving $ENV{GREETING}\n";
my $server = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ENV{PORT}, Listen => 16, ReuseAddr => 1)
    or die "cannot listen: $!";
while (my $client = $server->accept) {
    while (my $line = <$client>) { last if $line =~ /^\r?\n/; }
    print $client "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    close $client;
}
"#;

/// The adapter in a folder of its own, which nothing outlives. Its processes end with the test, not with the machine.
pub(super) struct Here {
    pub local: Local,
    pub root: PathBuf,
}

impl Here {
    fn new() -> Self {
        Self::with_podman(Vec::new())
    }
    pub fn with_podman(podman: Vec<String>) -> Self {
        let root = PathBuf::from(format!("/tmp/berth-local-{}", super::files::random_hex(6)));
        let options = LocalOptions { stop_grace_ms: 2_000, durable: false, podman, ..LocalOptions::under(&root) };
        Self { local: Local::new(options).unwrap(), root }
    }
    fn serving(&self, name: &str) -> MemberSpec {
        member(self, name, 0)
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let ended = end_all(&self.root, Afterwards::Delete);
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

impl Subject for Here {
    fn provider(&self) -> Provider {
        self.local.provider()
    }
    fn serving_command(&self) -> Vec<String> {
        ["perl", "-e", SERVER].map(str::to_owned).into()
    }
    fn runs_commands(&self) -> bool {
        true
    }
}

async fn here() -> Here {
    Here::new()
}
berth_infra::conformance!(super::here);

async fn until<T: Debug>(what: &str, mut look: impl AsyncFnMut() -> T, good: impl Fn(&T) -> bool) -> T {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let seen = look().await;
        if good(&seen) {
            return seen;
        }
        assert!(Instant::now() < limit, "waited 30 s for: {what}; last seen: {seen:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn seen(local: &Local, name: &MemberName) -> Member {
    local.observe_member(name).await.unwrap().present().expect("it was made")
}

async fn healthy(local: &Local, name: &MemberName) -> Member {
    until("health", async || seen(local, name).await, |member| member.health == Health::Healthy).await
}

async fn connect(database: &CellDatabase, role: Role) -> Client {
    let url = database.url(role);
    let (client, connection) = tokio_postgres::connect(url.expose_secret(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn kill(pid: u32) {
    Process::of_pid(pid, Kind::Member).expect("it runs").signal(rustix::process::Signal::KILL);
}

#[tokio::test]
async fn a_killed_member_is_seen_and_starts_again_on_its_port() {
    let here = Here::new();
    let spec = here.serving("m");
    here.local.ensure_member(&spec).await.unwrap();
    let before = healthy(&here.local, &spec.name).await;
    kill(before.pid.unwrap());
    let look = async || seen(&here.local, &spec.name).await;
    let dead = until("the end", look, |member| matches!(member.health, Health::Stopped { .. })).await;
    assert_eq!(dead.pid, None);
    here.local.ensure_member(&spec).await.unwrap();
    let after = healthy(&here.local, &spec.name).await;
    assert_eq!((after.port, after.starts), (before.port, 2));
    assert_ne!(after.pid, before.pid);
}

#[tokio::test]
async fn a_second_adapter_on_the_folder_finds_what_the_first_one_started() {
    let here = Here::new();
    let (member, database) = (here.serving("m"), cell("c"));
    let second = Local::new(LocalOptions { durable: false, ..LocalOptions::under(&here.root) }).unwrap();
    let (one, two) = tokio::join!(here.local.ensure_member(&member), second.ensure_member(&member));
    assert_eq!(one.unwrap().pid, two.unwrap().pid);
    let (one, two) = tokio::join!(here.local.ensure_database(&database), second.ensure_database(&database));
    assert_eq!(one.unwrap().port, two.unwrap().port);
}

#[tokio::test]
async fn a_member_that_ends_at_once_says_so_with_its_last_words() {
    let here = Here::new();
    let mut spec = here.serving("m");
    spec.command = ["perl", "-e", r#"print "loading\n"; die "no such option: --prot\n""#].map(str::to_owned).into();
    let error = here.local.ensure_member(&spec).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("exit status: ") && text.contains("no such option: --prot"), "{text}");
    assert_eq!(error.kind(), ErrorKind::Caller);
    let Health::Stopped { reason } = seen(&here.local, &spec.name).await.health else { panic!("it does not run") };
    assert!(!reason.is_empty());
}

#[tokio::test]
async fn a_wrong_program_leaves_the_running_member_alone() {
    let here = Here::new();
    let mut spec = here.serving("m");
    let before = here.local.ensure_member(&spec).await.unwrap();
    spec.command = vec!["no-such-program".to_owned()];
    let error = here.local.ensure_member(&spec).await.unwrap_err();
    assert!(matches!(error, ProviderError::Refused { .. }), "{error}");
    assert_eq!(seen(&here.local, &spec.name).await.pid, before.pid);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let here = Here::new();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spec = here.serving("m");
    spec.port = other.local_addr().unwrap().port();
    let error = here.local.ensure_member(&spec).await.unwrap_err().to_string();
    assert!(error.contains(&format!("port {} is taken", spec.port)), "{error}");
    drop(other);
    assert_eq!(here.local.ensure_member(&spec).await.unwrap().port, spec.port);
}

#[tokio::test]
async fn a_member_whose_port_a_stranger_took_comes_back_on_another() {
    let here = Here::new();
    let spec = here.serving("m");
    here.local.ensure_member(&spec).await.unwrap();
    let before = healthy(&here.local, &spec.name).await;
    kill(before.pid.unwrap());
    let bind = async || std::net::TcpListener::bind(("127.0.0.1", before.port)).ok();
    let stranger = until("the port", bind, Option::is_some).await;
    here.local.ensure_member(&spec).await.unwrap();
    assert_ne!(healthy(&here.local, &spec.name).await.port, before.port);
    drop(stranger);
}

#[tokio::test]
async fn a_member_that_ignores_sigterm_is_made_to_end_with_all_it_started() {
    let here = Here::new();
    let mut spec = here.serving("m");
    spec.health_path = None;
    spec.command =
        ["sh", "-c", "trap '' TERM; sleep 600 & echo child $!; while :; do sleep 600; done"].map(str::to_owned).into();
    let made = here.local.ensure_member(&spec).await.unwrap();
    let logs = async || here.local.member_logs(&spec.name, 5).await.unwrap();
    let lines = until("the child", logs, |lines| lines.iter().any(|line| line.starts_with("child "))).await;
    let child: u32 = lines.iter().find_map(|line| line.strip_prefix("child ")).unwrap().parse().unwrap();
    let child = Process::of_pid(child, Kind::Member).unwrap();
    let parent = Process::of_pid(made.pid.unwrap(), Kind::Member).unwrap();
    here.local.remove_member(&spec.name).await.unwrap();
    assert!(!parent.alive() && !child.alive());
}

#[tokio::test]
async fn a_member_gets_its_own_environment_and_none_of_ours() {
    let here = Here::new();
    let mut spec = here.serving("m");
    spec.env = vec![EnvVar::new("DATABASE_URL", "postgres://secret-word")];
    let made = here.local.ensure_member(&spec).await.unwrap();
    let proc = PathBuf::from(format!("/proc/{}", made.pid.unwrap()));
    let read = |file: &str| String::from_utf8_lossy(&std::fs::read(proc.join(file)).unwrap()).replace('\0', "\n");
    let look = async || read("environ");
    let env = until("perl in place of the gate", look, |env| env.contains("PORT=")).await;
    let mut names: Vec<&str> = env.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    // The gate's shell adds PWD (and OLDPWD); nothing else is there.
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    assert_eq!(names, ["DATABASE_URL", "LANG", "PATH", "PORT"]);
    assert!(!read("cmdline").contains("secret-word"));
}

#[tokio::test]
async fn a_member_is_kept_to_its_memory() {
    let here = Here::new();
    let mut spec = here.serving("m");
    spec.shape.memory_mb = 64;
    spec.health_path = None;
    spec.command = ["perl", "-e", r#"sleep 1; my @all; for (1..600) { push @all, "x" x 1048576 } sleep 600"#]
        .map(str::to_owned)
        .into();
    let made = here.local.ensure_member(&spec).await.unwrap();
    assert!(matches!(made.confinement, Confinement::Cgroup | Confinement::Rlimits));
    let look = async || seen(&here.local, &spec.name).await;
    until("its end", look, |member| matches!(member.health, Health::Stopped { .. })).await;
}

#[test]
fn a_full_disk_is_named_before_a_database_is_begun() {
    let folder = std::path::Path::new("/var/lib/berth/local");
    super::files::enough(1 << 30, folder, "the database of cell c").unwrap();
    let full = super::files::enough((1 << 30) - 1, folder, "the database of cell c").unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Quota);
    let said = full.to_string();
    assert!(
        said.contains("cell c") && said.contains("1023 MiB are free on the disk of `/var/lib/berth/local`"),
        "{said}"
    );
    assert!(full.hint().unwrap().contains("remove what is not needed"), "{:?}", full.hint());
}

#[tokio::test]
async fn a_cell_has_its_roles_and_the_rights_that_go_with_them() {
    let here = Here::new();
    let database = here.local.ensure_database(&cell("c")).await.unwrap();
    assert!(database.version >= 150_000 && database.free_disk_bytes.unwrap() > 0);
    let owner = connect(&database, Role::Owner).await;
    owner
        .batch_execute(
            "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, n int); CREATE SCHEMA s; CREATE TABLE s.u ()",
        )
        .await
        .unwrap();
    let app = connect(&database, Role::App).await;
    app.batch_execute("INSERT INTO t (n) VALUES (1); UPDATE t SET n = 2; SELECT FROM s.u; DELETE FROM t")
        .await
        .unwrap();
    for forbidden in ["CREATE TABLE v ()", "TRUNCATE t", "DROP TABLE t", "CREATE SCHEMA w"] {
        let error = app.batch_execute(forbidden).await.unwrap_err();
        let refused = [Some("42501")].contains(&error.code().map(tokio_postgres::error::SqlState::code));
        assert!(refused, "{forbidden}: {error:?}");
    }
    let mover = connect(&database, Role::Mover).await;
    mover.query("SELECT pg_create_logical_replication_slot('s', 'pgoutput')", &[]).await.unwrap();
    for (setting, value) in [("wal_level", "logical"), ("fsync", "off"), ("synchronous_commit", "on")] {
        let shown: String = mover.query_one(&format!("SHOW {setting}"), &[]).await.unwrap().get(0);
        assert_eq!(shown, value, "{setting}");
    }
    let mut socket = tokio_postgres::Config::new();
    let login = database.login(Role::App);
    socket.host_path(database.socket_dir.as_ref().unwrap()).port(database.port).dbname("app");
    socket.user(&login.user).password("not it");
    assert!(socket.connect(NoTls).await.is_err(), "the socket asks for the password too");
    socket.password(login.password.expose_secret());
    socket.connect(NoTls).await.map(|_| ()).unwrap();
}

#[tokio::test]
async fn a_killed_postgres_comes_back_with_its_rows() {
    let here = Here::new();
    let (name, spec) = (cell("c").name, cell("c"));
    let database = here.local.ensure_database(&spec).await.unwrap();
    let owner = connect(&database, Role::Owner).await;
    owner.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (7)").await.unwrap();
    let run = here.root.join("run/database.c");
    kill(Process::read(&run).unwrap().pid);
    let look = async || here.local.observe_database(&name).await.unwrap();
    until("the end", look, |seen| matches!(seen, Observed::Unknown { .. })).await;
    // Somebody else has its pid by now, or nobody has collected it: whoever asks is told that it lives.
    let us = std::process::id().to_string();
    let lock = database.socket_dir.as_ref().unwrap().join(format!(".s.PGSQL.{}.lock", database.port));
    for left in [lock, here.root.join("databases/c/data/postmaster.pid")] {
        let text = std::fs::read_to_string(&left).unwrap();
        let others = text.lines().skip(1).fold(us.clone(), |all, line| format!("{all}\n{line}"));
        std::fs::write(left, others + "\n").unwrap();
    }
    let after = here.local.ensure_database(&spec).await.unwrap();
    assert_eq!(after.port, database.port);
    let row = connect(&after, Role::App).await.query_one("SELECT n FROM t", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);
}

/// What its Redis answers to `PING` with the password that it was given.
async fn ping(database: &CellDatabase) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let url = database.redis.as_ref().unwrap().expose_secret().to_owned();
    let (password, address) = url.strip_prefix("redis://:").unwrap().split_once('@').unwrap();
    let mut stream = tokio::net::TcpStream::connect(address.trim_end_matches("/0")).await.unwrap();
    let mut answer = String::new();
    for command in [format!("AUTH {password}\r\nPING\r\n"), "PING\r\nQUIT\r\n".to_owned()] {
        stream.write_all(command.as_bytes()).await.unwrap();
    }
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_cell_has_the_redis_and_the_folder_that_are_asked_for() {
    if !std::path::Path::new("/usr/bin/redis-server").is_file() {
        eprintln!("skipped: `redis-server` is not installed here");
        return;
    }
    let here = Here::new();
    let plain = cell("c");
    let database = here.local.ensure_database(&plain).await.unwrap();
    assert!(database.redis.is_none() && database.objects.is_none());
    let wanted = CellSpec { redis: Some(RedisUse::Store), objects: true, ..plain.clone() };
    let database = here.local.ensure_database(&wanted).await.unwrap();
    assert_eq!(ping(&database).await, "+OK\r\n+PONG\r\n+PONG\r\n+OK\r\n");
    let folder = database.objects.as_deref().unwrap().strip_prefix("file://").unwrap();
    assert!(std::path::Path::new(folder).is_dir());
    kill(Process::read(&here.root.join("run/redis.c")).unwrap().pid);
    let look = async || here.local.observe_database(&plain.name).await.unwrap();
    until("its end is seen", look, |seen| matches!(seen, Observed::Unknown { reason } if reason.contains("Redis")))
        .await;
    let after = here.local.ensure_database(&wanted).await.unwrap();
    assert_eq!(after.redis.unwrap().expose_secret(), database.redis.as_ref().unwrap().expose_secret());
    here.local.remove_database(&plain.name).await.unwrap();
    assert!(!std::path::Path::new(folder).exists() && !here.root.join("run/redis.c").exists());
}

#[tokio::test]
async fn a_killed_private_postgres_is_started_again_where_it_was() {
    let here = Here::new();
    let postgres = super::EmbeddedPostgres::start(&here.root, "berth").await.unwrap();
    assert!(!postgres.keep_up().await.unwrap(), "it runs");
    let killed = Process::read(&here.root.join("run/database.control")).unwrap();
    kill(killed.pid);
    until("the end", async || killed.alive(), |alive| !alive).await;
    assert!(postgres.keep_up().await.unwrap(), "it had ended");
    connect(postgres.database(), Role::Owner).await.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_database_whose_making_was_cut_short_is_made_to_its_end() {
    let here = Here::new();
    let spec = cell("c");
    for _ in 0..4 {
        let limit = Duration::from_millis(150);
        let _ = tokio::time::timeout(limit, here.local.ensure_database(&spec)).await;
    }
    let database = here.local.ensure_database(&spec).await.unwrap();
    connect(&database, Role::App).await.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(here.local.list_databases().await.unwrap().len(), 1);
}

#[tokio::test]
async fn without_postgres_the_error_names_the_package() {
    let here = Here::new();
    let options = LocalOptions { postgres_bin: Some("/nonexistent".into()), ..LocalOptions::under(&here.root) };
    let error = Local::new(options).unwrap().ensure_database(&cell("c")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ours);
    assert!(error.hint().unwrap().contains("apt-get install"), "{error}");
    assert_eq!(here.local.list_databases().await.unwrap(), [], "nothing was begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_janitor_ends_everything_when_its_owner_is_killed() {
    let here = Here::new();
    let spec = here.serving("m");
    let member = here.local.ensure_member(&spec).await.unwrap();
    here.local.ensure_database(&cell("c")).await.unwrap();
    let runs = [Process::of_pid(member.pid.unwrap(), Kind::Member), Process::read(&here.root.join("run/database.c"))];
    let mut owner = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let (root, owner_pid) = (here.root.clone(), owner.id());
    let janitor = std::thread::spawn(move || run_janitor(&root, owner_pid, Afterwards::Delete));
    assert!(runs.iter().flatten().all(Process::alive) && !janitor.is_finished());
    owner.kill().unwrap();
    janitor.join().unwrap().unwrap();
    for process in runs.into_iter().flatten() {
        assert!(!process.anything_left(), "{process}");
    }
    assert!(!here.root.exists());
    owner.wait().unwrap();
}

#[tokio::test]
async fn a_started_program_is_ended_with_the_rest() {
    let here = Here::new();
    let log = here.root.join("program.log");
    let command = ["sh", "-c", "echo $GREETING; exec sleep 600"].map(str::to_owned);
    let env = [EnvVar::new("GREETING", "hello")];
    let pid = super::start_program(&here.root, "serve", &command, &env, &log).await.unwrap();
    let process = Process::of_pid(pid, Kind::Program).unwrap();
    let read = async || std::fs::read_to_string(&log).unwrap();
    until("its first line", read, |text| text == "hello\n").await;
    end_all(&here.root, Afterwards::Keep).unwrap();
    assert!(!process.alive());
    assert_eq!(super::files::names_in(&here.root.join("run")).unwrap(), Vec::<String>::new());
}

/// Only root may become somebody else, so elsewhere there is nothing to show.
#[tokio::test]
async fn members_run_as_the_user_they_are_given() {
    let here = Here::new();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let options =
        LocalOptions { member_user: Some("nobody".into()), stop_grace_ms: 2_000, ..LocalOptions::under(&here.root) };
    let local = Local::new(options).unwrap();
    let spec = here.serving("m");
    local.ensure_member(&spec).await.unwrap();
    let pid = healthy(&local, &spec.name).await.pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    assert!(uid.split_whitespace().all(|uid| uid != "0"), "{uid}");
    let unknown = LocalOptions { member_user: Some("no-such-user".into()), ..LocalOptions::under(&here.root) };
    assert!(Local::new(unknown).err().unwrap().to_string().contains("`no-such-user`"));
}

#[tokio::test]
async fn a_folder_that_postgres_may_not_enter_is_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let closed = tempfile::tempdir().unwrap();
    std::fs::set_permissions(closed.path(), Permissions::from_mode(0o700)).unwrap(); // as `/root` is
    let local = Local::new(LocalOptions::under(closed.path().join("berth"))).unwrap();
    let error = local.ensure_database(&cell("c")).await.unwrap_err().to_string();
    assert!(error.contains(&format!("may not enter `{}`", closed.path().display())), "{error}");
}

#[test]
fn an_unknown_key_of_the_section_is_refused_by_name() {
    let section = serde_json::json!({"root": "/tmp/berth-never-made", "stop_grace": 5});
    let error = (super::ADAPTER.build)(&section).unwrap_err().to_string();
    assert!(error.contains("`stop_grace`"), "{error}");
    assert!(!PathBuf::from("/tmp/berth-never-made").exists());
}
