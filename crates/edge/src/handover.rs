//! Listening sockets, given by the edge that runs to the one that follows it on the same machine.
//!
//! The sockets themselves travel, so whoever waits in their queues is served by either process and nobody is turned away. Both
//! sides talk over a Unix socket in the data folder, to processes of the same user alone. Never decides when to go: the
//! follower says when it is ready, and a follower that ends before that has changed nothing. Buckets are told of twice: with
//! the sockets, and when the predecessor takes no new connection any more.

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
/// What a message with sockets says; a letter begins otherwise.
const SOCKETS: &[u8; 1] = b"s";
/// As many as one message carries.
const SOCKETS_MAX: usize = 250;
/// For each word of the conversation; the follower reads its routes before it says that it serves.
const WORD_TIME: Duration = Duration::from_secs(30);
const READY_TIME: Duration = Duration::from_mins(2);
const TAKE: &[u8; 5] = b"take\n";
const READY: &[u8; 6] = b"ready\n";
/// The predecessor has heard it and goes. A line with what its buckets owe by now follows; an older version says none.
const GO: &[u8; 3] = b"go\n";
/// It has waited for too long and goes on.
const NO: &[u8; 3] = b"no\n";

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
    owed_ns: Owed,
    /// The predecessor says that it goes; one of an older version just does.
    #[serde(default)]
    answers: bool,
}

/// The follower's side, until it serves.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    answers: bool,
}

/// Buckets that are not full, and for how long not.
pub type Owed = HashMap<Box<str>, u64>;

/// What a follower is given: sockets, and what buckets owe.
type Given = (Predecessor, Sockets, Owed);

/// A letter, and the sockets before it as it deals them.
#[derive(Debug)]
pub struct Dealt<T> {
    pub plain: Vec<T>,
    pub tls: Vec<T>,
    pub admin: Option<T>,
    pub owed_ns: Owed,
    pub answers: bool,
}

pub fn dealt<T>(line: &str, mut all: Vec<T>) -> io::Result<Dealt<T>> {
    let Letter { plain, tls, owed_ns, answers } = serde_json::from_str(line)?;
    if plain.checked_add(tls).is_none_or(|wanted| all.len() < wanted) {
        return Err(io::Error::other("sockets were lost on the way"));
    }
    let mut rest = all.split_off(plain);
    let admin = rest.split_off(tls).into_iter().next();
    Ok(Dealt { plain: all, tls: rest, admin, owed_ns, answers })
}

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
    pub fn give(&mut self, sockets: &Sockets, owed_ns: Owed) -> io::Result<()> {
        let all: Vec<BorrowedFd<'_>> =
            sockets.plain.iter().chain(&sockets.tls).chain(&sockets.admin).map(StdListener::as_fd).collect();
        for part in all.chunks(SOCKETS_MAX) {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
            let mut rights = SendAncillaryBuffer::new(&mut space);
            if !rights.push(SendAncillaryMessage::ScmRights(part)) {
                return Err(io::Error::other("the sockets do not fit"));
            }
            sendmsg(&self.0, &[IoSlice::new(SOCKETS)], &mut rights, SendFlags::empty())?;
        }
        let letter = Letter { plain: sockets.plain.len(), tls: sockets.tls.len(), owed_ns, answers: true };
        let mut line = serde_json::to_vec(&letter)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }

    /// Waits for its word. `None`: it ended before it was ready, or took too long and is to end.
    pub fn ready(mut self) -> Option<Self> {
        let mut word = [0; READY.len()];
        let said = self.0.set_read_timeout(Some(READY_TIME)).is_ok() && self.0.read_exact(&mut word).is_ok();
        if said && &word == READY {
            return Some(self);
        }
        // Whoever says it later hears this then.
        let _ = self.0.write_all(NO);
        None
    }

    /// The predecessor goes, and its buckets owe this.
    pub fn go(mut self, owed_ns: &Owed) {
        let mut word = GO.to_vec();
        if serde_json::to_writer(&mut word, owed_ns).is_ok() {
            word.push(b'\n');
        }
        // One that is gone needs no word, and one of an older version waits for none.
        let _ = self.0.write_all(&word);
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
        let mut all: Vec<StdListener> = Vec::new();
        let mut one = [0];
        // Sockets, as many messages as it takes; then the letter.
        loop {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
            let mut rights = RecvAncillaryBuffer::new(&mut space);
            let got = recvmsg(&stream, &mut [IoSliceMut::new(&mut one)], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
            if got.bytes == 0 {
                return Err(io::Error::other("the edge that runs gave nothing: it may be going"));
            }
            for message in rights.drain() {
                if let RecvAncillaryMessage::ScmRights(sockets) = message {
                    all.extend(sockets.map(|socket: OwnedFd| StdListener::from(socket)));
                }
            }
            if &one != SOCKETS {
                break;
            }
        }
        let mut line = String::from(char::from(one[0]));
        BufReader::new(&stream).read_line(&mut line)?;
        let Dealt { plain, tls, admin, owed_ns, answers } = dealt(&line, all)?;
        Ok(Some((Self { stream, answers }, Sockets { plain, tls, admin }, owed_ns)))
    }

    /// This process is ready: the other one may go. `None`: it stays, because it has waited for too long, and this one is
    /// one too many; else what its buckets owe, as far as it has said so. Waits for the word; whoever is gone without one
    /// does not stay.
    pub fn thank(self) -> Option<Owed> {
        // One that is stuck says nothing for ever. It has our word, so it goes when it goes on.
        self.thank_within(READY_TIME + WORD_TIME)
    }

    fn thank_within(mut self, limit: Duration) -> Option<Owed> {
        let told = self.stream.write_all(READY);
        if !self.answers {
            return Some(Owed::new());
        }
        // What it has said before it stopped listening can still be read.
        let mut word = [0; GO.len()];
        let heard = self.stream.set_read_timeout(Some(limit)).and_then(|()| self.stream.read_exact(&mut word));
        if heard.is_err() {
            tracing::warn!(told = told.is_ok(), "the edge that this one follows is gone without a word");
            return Some(Owed::new());
        }
        if &word == NO {
            return None;
        }
        let mut line = String::new();
        let read = BufReader::new(&self.stream).read_line(&mut line);
        Some(read.ok().and_then(|_| serde_json::from_str(&line).ok()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::{Door, Follower, GO, NO, Predecessor, Sockets, dealt};
    use std::{
        collections::HashMap,
        io::{Read as _, Write as _},
        net, thread,
        time::Duration,
    };

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
        let thanking = thread::spawn(move || predecessor.thank());
        follower.ready().unwrap().go(&HashMap::from([("{t}:api".into(), 9)]));
        assert_eq!(thanking.join().unwrap().unwrap()["{t}:api"], 9, "what was given meanwhile is told");
        drop(old);
        let (stream, _) = new.plain[1].accept().unwrap();
        drop(stream);
        assert_eq!(waiting.read(&mut [0]).unwrap(), 0, "it was taken and closed, not refused");
    }

    #[test]
    fn a_letter_that_deals_more_sockets_than_came_is_refused() {
        let deal = |text: &str| dealt(text, vec![1, 2, 3]).map(|dealt| (dealt.plain, dealt.tls, dealt.admin));
        assert_eq!(deal(r#"{"plain":1,"tls":1,"owed_ns":{}}"#).unwrap(), (vec![1], vec![2], Some(3)));
        for refused in [
            r#"{"plain":3,"tls":1,"owed_ns":{}}"#,
            r#"{"plain":18446744073709551615,"tls":1,"owed_ns":{}}"#,
            r#"{"plain":-1,"tls":1,"owed_ns":{}}"#,
            "s",
            "",
        ] {
            assert!(deal(refused).is_err(), "{refused}");
        }
    }

    #[tokio::test]
    async fn more_sockets_travel_than_one_message_carries() {
        let (dir, listener) = (tempfile::tempdir().unwrap(), net::TcpListener::bind("127.0.0.1:0").unwrap());
        let many = |number: usize| (0..number).map(|_| listener.try_clone().unwrap()).collect();
        let (door, old) = (Door::open(dir.path()).unwrap(), Sockets { plain: many(260), tls: many(3), admin: None });
        let path = dir.path().to_owned();
        let asking = thread::spawn(move || Predecessor::ask(&path).unwrap().unwrap());
        let mut follower = door.wait().await.unwrap();
        follower.give(&old, HashMap::new()).unwrap();
        let (_, new, _) = asking.join().unwrap();
        assert_eq!((new.plain.len(), new.tls.len(), new.admin.is_some()), (260, 3, false));
    }

    /// Both ends once the sockets have been handed over, and the door with the folder that it is in.
    async fn handed() -> ((tempfile::TempDir, Door), Predecessor, Follower) {
        let dir = tempfile::tempdir().unwrap();
        let (door, path) = (Door::open(dir.path()).unwrap(), dir.path().to_owned());
        let asking = thread::spawn(move || Predecessor::ask(&path).unwrap().unwrap());
        let mut follower = door.wait().await.unwrap();
        follower.give(&sockets(), HashMap::new()).unwrap();
        let (predecessor, ..) = asking.join().unwrap();
        ((dir, door), predecessor, follower)
    }

    #[tokio::test]
    async fn a_follower_whose_predecessor_has_given_it_up_hears_that_it_is_one_too_many() {
        let (_door, predecessor, mut follower) = handed().await;
        // As after two minutes in which nothing was said.
        follower.0.write_all(NO).unwrap();
        drop(follower);
        assert!(predecessor.thank().is_none());
    }

    #[tokio::test]
    async fn a_predecessor_of_an_older_version_says_that_it_goes_and_nothing_of_its_buckets() {
        let (_door, predecessor, mut follower) = handed().await;
        follower.0.write_all(GO).unwrap();
        drop(follower);
        assert!(predecessor.thank().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_follower_whose_predecessor_dies_serves() {
        let (_door, predecessor, follower) = handed().await;
        drop(follower);
        assert!(predecessor.thank().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_follower_whose_predecessor_is_stuck_serves_after_a_while() {
        let (_door, predecessor, follower) = handed().await;
        assert!(predecessor.thank_within(Duration::from_millis(50)).is_some());
        assert!(follower.ready().is_some(), "it has been told, and goes when it can");
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
        assert!(follower.ready().is_none());
        drop(door);
        assert!(Predecessor::ask(dir.path()).unwrap().is_none(), "the door is closed");
    }
}
