//! Listening sockets, given by the edge that runs to the one that follows it on the same machine.
//!
//! The sockets themselves travel, so whoever waits in their queues is served by either process and nobody is turned away. Both
//! sides talk over a Unix socket in the data folder, to processes of the same user alone. Never decides when to go: the
//! follower says when it serves, and a follower that ends before that has changed nothing.

use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    net::TcpListener as StdListener,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{net::UnixListener, task::spawn_blocking};

const FILE: &str = "handover.sock";
/// As many as one message carries.
const SOCKETS_MAX: usize = 250;
/// For each word of the conversation; the follower reads its routes before it says that it serves.
const WORD_TIME: Duration = Duration::from_secs(30);
const READY_TIME: Duration = Duration::from_mins(2);
const TAKE: &[u8; 5] = b"take\n";
const READY: &[u8; 6] = b"ready\n";

/// Sockets that were opened before this process began.
#[derive(Debug, Default)]
pub struct Sockets {
    pub plain: Vec<StdListener>,
    pub tls: Vec<StdListener>,
    pub admin: Option<StdListener>,
}

impl Sockets {
    pub fn duplicate(&self) -> io::Result<Self> {
        let all = |of: &[StdListener]| of.iter().map(StdListener::try_clone).collect::<io::Result<_>>();
        let admin = self.admin.as_ref().map(StdListener::try_clone).transpose()?;
        Ok(Self { plain: all(&self.plain)?, tls: all(&self.tls)?, admin })
    }
}

/// What travels beside the sockets.
#[derive(Debug, Serialize, Deserialize)]
struct Letter {
    plain: usize,
    tls: usize,
    /// Buckets that are not full, and for how long not.
    owed_ns: HashMap<Box<str>, u64>,
}

/// The follower's side, until it serves.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

/// What a follower is given: sockets, and what buckets owe.
type Given = (Predecessor, Sockets, HashMap<Box<str>, u64>);

/// The predecessor's side: its follower may be getting ready.
#[derive(Debug)]
pub struct Follower(UnixStream);

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Where a follower asks. Only for who has the data folder to itself.
#[derive(Debug)]
pub struct Door(UnixListener);

impl Door {
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = path(dir);
        // What an edge left that is gone, or was left by the one that we follow: nobody can reach that one any more.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self(UnixListener::bind(&path)?))
    }

    /// The next follower that asks.
    pub async fn wait(&self) -> io::Result<Follower> {
        loop {
            let (stream, _) = self.0.accept().await?;
            // The folder is ours alone in most places; this holds in all.
            if stream.peer_cred()?.uid() != rustix::process::getuid().as_raw() {
                continue;
            }
            let stream = stream.into_std()?;
            let asked = spawn_blocking(move || -> io::Result<Option<Follower>> {
                let mut stream = stream;
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(WORD_TIME))?;
                stream.set_write_timeout(Some(WORD_TIME))?;
                let mut word = [0; TAKE.len()];
                stream.read_exact(&mut word)?;
                Ok((&word == TAKE).then_some(Follower(stream)))
            });
            if let Ok(Ok(Some(follower))) = asked.await {
                return Ok(follower);
            }
        }
    }
}

impl Follower {
    pub fn give(&mut self, sockets: &Sockets, owed_ns: HashMap<Box<str>, u64>) -> io::Result<()> {
        let all: Vec<BorrowedFd<'_>> =
            sockets.plain.iter().chain(&sockets.tls).chain(&sockets.admin).map(StdListener::as_fd).collect();
        if all.len() > SOCKETS_MAX {
            return Err(io::Error::other("there are more sockets than one message carries"));
        }
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !rights.push(SendAncillaryMessage::ScmRights(&all)) {
            return Err(io::Error::other("the sockets do not fit"));
        }
        sendmsg(&self.0, &[IoSlice::new(b"s")], &mut rights, SendFlags::empty())?;
        let letter = Letter { plain: sockets.plain.len(), tls: sockets.tls.len(), owed_ns };
        let mut line = serde_json::to_vec(&letter)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }

    /// `false`: it ended before it served.
    pub fn serves(mut self) -> bool {
        let mut word = [0; READY.len()];
        self.0.set_read_timeout(Some(READY_TIME)).is_ok() && self.0.read_exact(&mut word).is_ok() && &word == READY
    }
}

impl Predecessor {
    /// `None`: no edge runs here.
    pub fn ask(dir: &Path) -> io::Result<Option<Given>> {
        let mut stream = match UnixStream::connect(path(dir)) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        stream.set_read_timeout(Some(WORD_TIME))?;
        stream.set_write_timeout(Some(WORD_TIME))?;
        stream.write_all(TAKE)?;
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut one = [0];
        let got = recvmsg(&stream, &mut [IoSliceMut::new(&mut one)], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
        if got.bytes == 0 {
            return Err(io::Error::other("the edge that runs gave nothing: it may be going"));
        }
        let mut all: Vec<StdListener> = Vec::new();
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                all.extend(sockets.map(|socket: OwnedFd| StdListener::from(socket)));
            }
        }
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        let letter: Letter = serde_json::from_str(&line)?;
        if all.len() < letter.plain + letter.tls {
            return Err(io::Error::other("sockets were lost on the way"));
        }
        let mut rest = all.split_off(letter.plain);
        let admin = rest.split_off(letter.tls).into_iter().next();
        Ok(Some((Self(stream), Sockets { plain: all, tls: rest, admin }, letter.owed_ns)))
    }

    /// This process serves: the other one may go.
    pub fn thank(mut self) -> io::Result<()> {
        self.0.write_all(READY)
    }
}

#[cfg(test)]
mod tests {
    use super::{Door, Predecessor, Sockets};
    use std::{collections::HashMap, io::Read as _, net, thread};

    fn sockets() -> Sockets {
        let one = || net::TcpListener::bind("127.0.0.1:0").unwrap();
        Sockets { plain: vec![one(), one()], tls: vec![one()], admin: Some(one()) }
    }

    #[tokio::test]
    async fn the_sockets_themselves_travel_with_whoever_waits_in_them() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Predecessor::ask(dir.path()).unwrap().is_none(), "nobody is there");
        let (door, old) = (Door::open(dir.path()).unwrap(), sockets());
        let address = old.plain[1].local_addr().unwrap();
        // In the queue before the new process is there.
        let mut waiting = net::TcpStream::connect(address).unwrap();
        let path = dir.path().to_owned();
        let asking = thread::spawn(move || Predecessor::ask(&path).unwrap().unwrap());
        let mut follower = door.wait().await.unwrap();
        follower.give(&old, HashMap::from([("{t}:api".into(), 7)])).unwrap();
        let (predecessor, new, owed) = asking.join().unwrap();
        assert_eq!((new.plain.len(), new.tls.len(), new.admin.is_some()), (2, 1, true));
        assert_eq!((new.plain[1].local_addr().unwrap(), owed["{t}:api"]), (address, 7));
        predecessor.thank().unwrap();
        assert!(follower.serves());
        drop(old);
        let (stream, _) = new.plain[1].accept().unwrap();
        drop(stream);
        assert_eq!(waiting.read(&mut [0]).unwrap(), 0, "it was taken and closed, not refused");
    }

    #[tokio::test]
    async fn a_follower_that_ends_before_it_serves_is_told_from_one_that_does() {
        let dir = tempfile::tempdir().unwrap();
        let (door, old) = (Door::open(dir.path()).unwrap(), sockets());
        let path = dir.path().to_owned();
        let asking = thread::spawn(move || drop(Predecessor::ask(&path).unwrap().unwrap()));
        let mut follower = door.wait().await.unwrap();
        follower.give(&old, HashMap::new()).unwrap();
        asking.join().unwrap();
        assert!(!follower.serves());
        drop(door);
        assert!(Predecessor::ask(dir.path()).unwrap().is_none(), "the door is closed");
    }
}
