//! Ways into hosts: listeners of this machine's loopback whose connections end on a host. Never listens on anything that
//! another machine can reach.
//!
//! Each cell has an address of loopback of its own (`ssh.rs`), the same on every machine: what a database or member is
//! called on its host, it is called here, so that one connection string is right everywhere.

use super::{connection::Connection, line::Line};
use berth_infra::ProviderError;
use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};
use tracing::debug;

/// As the standard library has it.
const BACKLOG: u32 = 128;

struct Way {
    to: String,
    task: JoinHandle<()>,
}

/// Whether a port may be listened on by two processes of this user at once, of which one follows the other.
static SHARED: AtomicBool = AtomicBool::new(false);
/// Whether another process has taken over.
static LEFT: AtomicBool = AtomicBool::new(false);

fn ways() -> MutexGuard<'static, HashMap<SocketAddr, Way>> {
    static WAYS: OnceLock<Mutex<HashMap<SocketAddr, Way>>> = OnceLock::new();
    WAYS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// For a program whose next process takes over while this one runs: both listen on the same ports until [`leave`].
/// Not for one that may be stopped while another one shares its ports: half of the connections would wait for it.
pub fn share() {
    SHARED.store(true, Ordering::Relaxed);
}

/// No connection comes in here any more; those that did go on.
pub fn leave() {
    LEFT.store(true, Ordering::Relaxed);
    ways().drain().for_each(|(_, way)| way.task.abort());
}

fn bound(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(SHARED.load(Ordering::Relaxed))?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

/// Listens on `address:port` for as long as this process lives, and ends each connection at `there:port` of the host.
pub async fn open(line: &Arc<Line>, address: Ipv4Addr, port: u16, there: Ipv4Addr) -> Result<(), ProviderError> {
    if LEFT.load(Ordering::Relaxed) {
        return Ok(());
    }
    let at = SocketAddr::from((address, port));
    let to = to(line, there);
    if let Some(way) = ways().get(&at).filter(|way| !way.task.is_finished()) {
        if way.to == to {
            return Ok(());
        }
        // The host has moved: whoever connects from now on is sent there.
        way.task.abort();
    }
    let listener = match bound(at) {
        Ok(listener) => listener,
        // Another server of this machine keeps it; the next look takes it up when that one is gone.
        Err(error) if error.kind() == ErrorKind::AddrInUse && TcpStream::connect(at).await.is_ok() => return Ok(()),
        Err(error) => return Err(ProviderError::io(format!("listening on {at}"))(error)),
    };
    let line = line.clone();
    let task = tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            tokio::spawn(carry(line.clone(), stream, there, port));
        }
    });
    ways().insert(at, Way { to, task });
    Ok(())
}

/// Where a way ends, as it is remembered.
fn to(line: &Line, there: Ipv4Addr) -> String {
    format!("{:?} {there}", line.target)
}

/// No way that ends at this address of the host is listened on here any more. Connections that came in by one go on.
pub fn close(line: &Line, there: Ipv4Addr) {
    let to = to(line, there);
    ways().retain(|_, way| {
        let stays = way.to != to;
        if !stays {
            way.task.abort();
        }
        stays
    });
}

/// A port of this machine that ends at the same loopback port of a host for as long as this process lives.
pub async fn listen(connection: Arc<Connection>, port: u16) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let connection = connection.clone();
            tokio::spawn(async move {
                if let Ok(mut far) = connection.forward("127.0.0.1", port).await {
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    Ok(at)
}

async fn carry(line: Arc<Line>, mut near: TcpStream, there: Ipv4Addr, port: u16) {
    // Whoever connected hears of a failure by the end of his connection, as he would of a server that is down.
    match line.forward(&there.to_string(), port).await {
        Ok(mut far) => {
            let _ = near.set_nodelay(true);
            let _ = copy_bidirectional(&mut near, &mut far).await;
        }
        Err(error) => debug!(%error, "no way to port {port} of `{}`", line.target.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::{bound, share};
    use std::net::{Ipv4Addr, SocketAddr};
    use tokio::{io::AsyncWriteExt as _, net::TcpStream};

    #[tokio::test]
    async fn a_process_that_follows_listens_before_the_other_one_leaves() {
        share();
        let first = bound(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let at = first.local_addr().unwrap();
        let second = bound(at).unwrap();
        drop(first);
        for _ in 0..20 {
            let (client, taken) = tokio::join!(TcpStream::connect(at), second.accept());
            client.unwrap().shutdown().await.unwrap();
            drop(taken.unwrap());
        }
    }
}
