//! A server that speaks Postgres' language and is none, as CockroachDB, which no package brings here: it refuses options of the
//! start that it does not know, says what it is, and takes writes. Never answers anything else.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Gone with this.
pub struct OtherServer {
    pub port: u16,
    task: JoinHandle<()>,
}

impl OtherServer {
    pub const VERSION: &'static str = "CockroachDB CCL v24.1.0";

    /// Listens when this returns.
    ///
    /// # Panics
    /// Without a port of loopback.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let task = tokio::spawn(async move {
            while let Ok((wire, _)) = listener.accept().await {
                // Whoever asks for something else is left without an answer.
                tokio::spawn(async move { talk(wire).await.ok() });
            }
        });
        Self { port, task }
    }
}

impl Drop for OtherServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("messages are short").to_be_bytes();
    [[tag].as_slice(), &length, body].concat()
}

/// One row of one column of type text.
fn row(name: &str, value: &str) -> Vec<u8> {
    let name = [name.as_bytes(), b"\0"].concat();
    let column = [[0_u8, 1].as_slice(), &name, &[0; 6], &25_u32.to_be_bytes(), &[0xff; 6], &[0; 2]].concat();
    let length = u32::try_from(value.len()).expect("values are short").to_be_bytes();
    let row = [[0_u8, 1].as_slice(), &length, value.as_bytes()].concat();
    [message(b'T', &column), message(b'D', &row), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat()
}

async fn talk(mut wire: TcpStream) -> std::io::Result<()> {
    let length = wire.read_u32().await?;
    let mut start = vec![0; length as usize - 4];
    wire.read_exact(&mut start).await?;
    if start.windows(8).any(|part| part == b"options\0") {
        let why = b"SERROR\0VERROR\0C42704\0Munrecognized configuration parameter \"jit\"\0\0";
        return wire.write_all(&message(b'E', why)).await;
    }
    wire.write_all(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat()).await?;
    while wire.read_u8().await? == b'Q' {
        let length = wire.read_u32().await?;
        let mut asked = vec![0; length as usize - 4];
        wire.read_exact(&mut asked).await?;
        let answer = match asked.as_slice() {
            b"select version()\0" => row("version", OtherServer::VERSION),
            b"select pg_is_in_recovery()\0" => row("pg_is_in_recovery", "f"),
            _ => return Ok(()),
        };
        wire.write_all(&answer).await?;
    }
    Ok(())
}
