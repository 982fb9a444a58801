//! A help desk that was written for itself: integer keys, members of several organizations, a table of jobs with a
//! worker that polls, files by prefix. Tests and the tutorial adopt it.
//!
//! It knows nothing of Berth: its tenant is the first label of the host, a write that its database refuses is an error.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "somebody else's program: their rules, not ours")]

use std::{env, fs, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use tokio_postgres::{Client, NoTls};

const SCHEMA: &str = "
    create table if not exists organizations (id serial primary key, subdomain text not null unique, name text not null);
    create table if not exists users (id serial primary key, email text not null unique);
    create table if not exists memberships (organization_id int not null references organizations on delete cascade,
        user_id int not null references users, primary key (organization_id, user_id));
    create table if not exists tickets (id bigserial primary key, organization_id int not null references organizations on delete cascade,
        author_id int references users, title text not null, opened_at timestamptz not null default now());
    create index if not exists tickets_by_organization on tickets (organization_id, id);
    create table if not exists comments (id bigserial primary key, ticket_id bigint not null references tickets on delete cascade,
        body text not null);
    create index if not exists comments_by_ticket on comments (ticket_id);
    create table if not exists jobs (id bigserial primary key, organization_id int not null references organizations on delete cascade,
        ticket_id bigint not null, done_at timestamptz);
    create index if not exists jobs_open on jobs (id) where done_at is null;
    create table if not exists deliveries (id bigserial primary key, organization_id int not null references organizations on delete cascade,
        ticket_id bigint not null);
    create table if not exists schema_migrations (version int primary key);
    insert into schema_migrations values (1) on conflict do nothing;";

#[tokio::main]
async fn main() {
    match env::args().nth(1).as_deref() {
        Some("migrate") => {
            let client = connect().await;
            // Two at once wait for each other.
            let whole = format!("begin; select pg_advisory_xact_lock(7); {SCHEMA} commit");
            client.batch_execute(&whole).await.unwrap();
        }
        Some("serve") => serve().await,
        Some("worker") => worker().await,
        _ => panic!("usage: desk migrate | serve | worker"),
    }
}

async fn connect() -> Client {
    loop {
        match tokio_postgres::connect(&env::var("DATABASE_URL").unwrap(), NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => {
                eprintln!("the database does not answer: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Takes the oldest open job of anybody, delivers and marks it in one transaction; on any error it tries again.
async fn worker() {
    let mut client = connect().await;
    loop {
        let done = async {
            let transaction = client.transaction().await?;
            let sql = "select id, organization_id, ticket_id from jobs where done_at is null order by id
                       limit 1 for update skip locked";
            let Some(job) = transaction.query_opt(sql, &[]).await? else { return Ok(false) };
            let (id, organization, ticket): (i64, i32, i64) = (job.get(0), job.get(1), job.get(2));
            let sql = "insert into deliveries (organization_id, ticket_id) values ($1, $2)";
            transaction.execute(sql, &[&organization, &ticket]).await?;
            transaction.execute("update jobs set done_at = now() where id = $1", &[&id]).await?;
            transaction.commit().await?;
            Ok::<bool, tokio_postgres::Error>(true)
        };
        match done.await {
            Ok(true) => {}
            Ok(false) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => {
                eprintln!("a job failed: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
                if client.is_closed() {
                    client = connect().await;
                }
            }
        }
    }
}

/// A few sessions, each used by one request at a time.
struct App {
    clients: Vec<Mutex<Client>>,
    files: PathBuf,
}

async fn serve() {
    let port = env::var("PORT").unwrap();
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Mutex::new(connect().await));
    }
    let files = env::var("FILES_DIR").map_or_else(|_| env::temp_dir(), PathBuf::from);
    let app = Arc::new(App { clients, files });
    let mut next = 0;
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        next += 1;
        let (app, turn) = (app.clone(), next % 4);
        tokio::spawn(async move { app.connection(stream, turn).await });
    }
}

impl App {
    /// Requests one after the other, until the client goes.
    async fn connection(&self, mut stream: TcpStream, turn: usize) {
        let mut buffer = Vec::new();
        loop {
            let head = loop {
                if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at + 4;
                }
                if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
            };
            let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
            let header = |name: &str| {
                text.lines().find_map(|line| {
                    let (key, value) = line.split_once(':')?;
                    key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
                })
            };
            let length: usize = header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
            while buffer.len() < head + length {
                if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let body = String::from_utf8_lossy(&buffer[head..head + length]).into_owned();
            buffer.drain(..head + length);
            let mut words = text.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let host = header("host").unwrap_or_default();
            let subdomain = host.split(['.', ':']).next().unwrap_or_default();
            let (status, answer) = self.answer(turn, method, path, subdomain, &body).await;
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn answer(
        &self,
        turn: usize,
        method: &str,
        path: &str,
        subdomain: &str,
        body: &str,
    ) -> (&'static str, String) {
        let mut client = self.clients[turn].lock().await;
        if client.is_closed() {
            *client = connect().await;
        }
        match self.asked(&mut client, method, path, subdomain, body).await {
            Ok(Some(answer)) => ("200 OK", answer),
            Ok(None) => ("404 Not Found", String::new()),
            Err(error) => {
                eprintln!("{method} {path} of {subdomain}: {error:?}");
                ("500 Internal Server Error", error.to_string())
            }
        }
    }

    async fn asked(
        &self,
        client: &mut Client,
        method: &str,
        path: &str,
        subdomain: &str,
        body: &str,
    ) -> Result<Option<String>, tokio_postgres::Error> {
        if path == "/up" {
            client.query_one("select 1", &[]).await?;
            return Ok(Some("up".to_owned()));
        }
        let sql = "select id from organizations where subdomain = $1";
        let Some(organization) = client.query_opt(sql, &[&subdomain]).await? else { return Ok(None) };
        let organization: i32 = organization.get(0);
        if let ("POST", "/tickets") = (method, path) {
            let transaction = client.transaction().await?;
            let sql = "insert into tickets (organization_id, title) values ($1, $2) returning id";
            let ticket: i64 = transaction.query_one(sql, &[&organization, &body]).await?.get(0);
            let sql = "insert into comments (ticket_id, body) values ($1, 'opened')";
            transaction.execute(sql, &[&ticket]).await?;
            let sql = "insert into jobs (organization_id, ticket_id) values ($1, $2)";
            transaction.execute(sql, &[&organization, &ticket]).await?;
            transaction.commit().await?;
            return Ok(Some(ticket.to_string()));
        }
        if let ("GET", "/tickets") = (method, path) {
            let sql = "select id, title from tickets where organization_id = $1 order by id desc limit 20";
            let rows = client.query(sql, &[&organization]).await?;
            let lines = rows.iter().map(|row| format!("{} {}\n", row.get::<_, i64>(0), row.get::<_, String>(1)));
            return Ok(Some(lines.collect()));
        }
        if let Some(name) = path.strip_prefix("/files/").filter(|name| name.chars().all(char::is_alphanumeric)) {
            let folder = self.files.join(format!("org-{organization}"));
            if method == "PUT" {
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join(name), body).unwrap();
                return Ok(Some(String::new()));
            }
            return Ok(fs::read_to_string(folder.join(name)).ok());
        }
        Ok(None)
    }
}
