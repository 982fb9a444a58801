//! One SSH connection: opened under a pinned host key, commands run over it, streams forwarded through it. Never trusts
//! a host key that nobody named, and never logs what goes over it.

use super::error::SshError;
use russh::{
    ChannelMsg, ChannelStream,
    client::{self, AuthResult, Handle, Msg},
    keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate, agent::client::AgentClient},
};
use secrecy::{ExposeSecret as _, SecretString};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

/// For the connection, the keys and the login, each.
const LIMIT: Duration = Duration::from_secs(10);
/// Silence after which the other side is asked whether it is there, and how often before it counts as gone.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_TIMES: usize = 3;

/// How somebody proves to be a user of the host.
#[derive(Clone)]
pub enum Proof {
    /// A private key in OpenSSH's form, without a passphrase.
    Key(SecretString),
    /// Whatever keys the agent of this session holds.
    Agent,
}

/// Which host key is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// This one alone, by its fingerprint: `SHA256:…`.
    Pinned(String),
    /// Any; the connection tells which it was. For a first look only.
    FirstSight,
    /// None: the error tells which one is shown.
    Nobody,
}

/// A user of a host.
#[derive(Clone)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub proof: Proof,
    pub trust: Trust,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}", self.user, self.host, self.port)
    }
}

impl Target {
    fn unreachable(&self, reason: impl ToString) -> SshError {
        SshError::Unreachable { host: self.name(), reason: reason.to_string() }
    }
    pub(super) fn lost(&self) -> SshError {
        SshError::Lost { host: self.name() }
    }
    /// As people say it.
    pub fn name(&self) -> String {
        if self.port == 22 { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

/// What a command that ran on the host said.
#[derive(Clone, Debug)]
pub struct Said {
    pub status: u32,
    pub out: String,
    pub err: String,
}

pub struct Connection {
    handle: Handle<Guard>,
    target: Target,
    fingerprint: String,
    login: String,
}

/// Looks at the host's key while the connection is made.
struct Guard {
    trust: Trust,
    seen: Arc<Mutex<Option<String>>>,
}

impl client::Handler for Guard {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let key = key.public_key();
        let seen = key.fingerprint(HashAlg::Sha256).to_string();
        let taken = match &self.trust {
            Trust::Pinned(pinned) => *pinned == seen,
            Trust::FirstSight => true,
            Trust::Nobody => false,
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(taken)
    }
}

impl Connection {
    /// Connects and looks at the host's key.
    async fn meet(target: &Target) -> Result<(Handle<Guard>, String), SshError> {
        let config = client::Config {
            keepalive_interval: Some(ASK_EVERY),
            keepalive_max: ASK_TIMES,
            inactivity_timeout: None,
            // More messages than its window holds bytes of any use: a stream that nobody reads must be held up by its own
            // window, and never hold up the connection that the others share.
            channel_buffer_size: 65_536,
            ..client::Config::default()
        };
        let silent = |what: &str| target.unreachable(format!("{what} within {} s", LIMIT.as_secs()));
        let stream = timeout(LIMIT, TcpStream::connect((target.host.as_str(), target.port)));
        let stream = stream.await.map_err(|_| silent("no connection"))?.map_err(|error| target.unreachable(error))?;
        stream.set_nodelay(true).map_err(|error| target.unreachable(error))?;
        let seen = Arc::new(Mutex::new(None));
        let guard = Guard { trust: target.trust.clone(), seen: seen.clone() };
        let met = timeout(LIMIT, client::connect_stream(Arc::new(config), stream, guard)).await;
        let shown = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (met, shown) {
            (Err(_), _) => Err(silent("no SSH")),
            (Ok(Ok(handle)), Some(seen)) => Ok((handle, seen)),
            (Ok(_), Some(seen)) if matches!(&target.trust, Trust::Pinned(pinned) if *pinned != seen) => {
                let Trust::Pinned(pinned) = target.trust.clone() else { unreachable!("the arm says so") };
                Err(SshError::HostKeyChanged { host: target.name(), seen, pinned })
            }
            (Ok(_), Some(seen)) if target.trust == Trust::Nobody => {
                Err(SshError::HostKeyUnknown { host: target.name(), seen })
            }
            (Ok(Err(error)), _) => Err(target.unreachable(error)),
            (Ok(Ok(_)), None) => Err(target.unreachable("it shows no host key")),
        }
    }

    pub async fn open(target: &Target) -> Result<Self, SshError> {
        let (mut handle, fingerprint) = Self::meet(target).await?;
        let proved = timeout(LIMIT, prove(&mut handle, target)).await;
        let proved = proved.map_err(|_| target.unreachable(format!("no login within {} s", LIMIT.as_secs())))??;
        let Some(login) = proved else {
            return Err(SshError::KeyRefused { host: target.name(), user: target.user.clone() });
        };
        Ok(Self { handle, target: target.clone(), fingerprint, login })
    }

    /// The ways to log in that the host offers to somebody who has proved nothing: `publickey`, `password`.
    pub async fn offered(target: &Target) -> Result<Vec<String>, SshError> {
        let (mut handle, _) = Self::meet(target).await?;
        let asked = timeout(LIMIT, handle.authenticate_none(&target.user)).await;
        let asked = asked.map_err(|_| target.unreachable("no login"))?.map_err(|_| target.lost())?;
        Ok(match asked {
            AuthResult::Success => vec!["none".to_owned()],
            AuthResult::Failure { remaining_methods, .. } => {
                remaining_methods.iter().map(|method| <&str>::from(method).to_owned()).collect()
            }
        })
    }

    /// Of the host's key.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The key that let us in, as a line of `authorized_keys` without a comment.
    pub fn login(&self) -> &str {
        &self.login
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Runs a command of the host's shell to its end. What it must not show in a list of processes goes into `input`.
    pub async fn run(&self, command: &str, input: &[u8]) -> Result<Said, SshError> {
        let lost = |_| self.target.lost();
        let mut channel = self.handle.channel_open_session().await.map_err(lost)?;
        channel.exec(true, command).await.map_err(lost)?;
        let (mut out, mut err, mut status) = (Vec::new(), Vec::new(), None);
        let mut writer = channel.make_writer();
        let mut hear = async |channel: &mut russh::Channel<Msg>| {
            while let Some(message) = channel.wait().await {
                match message {
                    ChannelMsg::Data { data } => out.extend_from_slice(&data),
                    ChannelMsg::ExtendedData { data, .. } => err.extend_from_slice(&data),
                    ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
                    ChannelMsg::ExitSignal { .. } => status = Some(128),
                    _ => {}
                }
            }
        };
        let tell = async {
            // A command that does not read to the end closes its input; what it says of that comes by itself.
            let _ = writer.write_all(input).await;
            let _ = writer.shutdown().await;
        };
        tokio::join!(hear(&mut channel), tell);
        let status = status.ok_or_else(|| self.target.lost())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Said { status, out: text(&out), err: text(&err) })
    }

    /// The same, where anything but success is an error. Answers what it wrote.
    pub async fn must(&self, doing: &str, command: &str, input: &[u8]) -> Result<String, SshError> {
        let said = self.run(command, input).await?;
        if said.status == 0 {
            return Ok(said.out);
        }
        let mut lines: Vec<&str> = said.err.lines().chain(said.out.lines()).rev().take(12).collect();
        lines.reverse();
        let (host, doing) = (self.target.name(), doing.to_owned());
        Err(SshError::Failed { host, doing, status: said.status, said: lines.join("\n") })
    }

    /// Starts a command whose input and output are a stream.
    pub(super) async fn start(&self, command: &str) -> Result<ChannelStream<Msg>, SshError> {
        let lost = |_| self.target.lost();
        let channel = self.handle.channel_open_session().await.map_err(lost)?;
        channel.exec(true, command).await.map_err(lost)?;
        Ok(channel.into_stream())
    }

    /// A stream to a port as the host itself would connect to it.
    pub async fn forward(&self, address: &str, port: u16) -> Result<ChannelStream<Msg>, SshError> {
        match self.handle.channel_open_direct_tcpip(address, u32::from(port), "127.0.0.1", 0).await {
            Ok(channel) => Ok(channel.into_stream()),
            Err(russh::Error::ChannelOpenFailure(_)) => Err(SshError::Unreachable {
                host: self.target.name(),
                reason: format!("nothing listens on {address}:{port} there"),
            }),
            Err(_) => Err(self.target.lost()),
        }
    }
}

/// With which key, if any.
async fn prove(handle: &mut Handle<Guard>, target: &Target) -> Result<Option<String>, SshError> {
    let lost = |_| target.lost();
    match &target.proof {
        Proof::Key(text) => {
            let (line, key) = (public_line(text)?, read_key(text)?);
            let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
            let answer = handle.authenticate_publickey(&target.user, key).await.map_err(lost)?;
            Ok(answer.success().then_some(line))
        }
        Proof::Agent => {
            let no_agent = |_| SshError::BadKey { reason: "there is no SSH agent, and no key was named".to_owned() };
            let mut agent = AgentClient::connect_env().await.map_err(no_agent)?;
            for identity in agent.request_identities().await.map_err(no_agent)? {
                let key = identity.public_key().into_owned();
                let line = key.to_openssh().map_err(|error| SshError::BadKey { reason: error.to_string() })?;
                let tried = handle.authenticate_publickey_with(&target.user, key, None, &mut agent).await;
                if tried.is_ok_and(|answer| answer.success()) {
                    return Ok(Some(line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")));
                }
            }
            Ok(None)
        }
    }
}

/// A private key as it stands in its file.
pub fn read_key(text: &SecretString) -> Result<PrivateKey, SshError> {
    let bad = |reason: String| SshError::BadKey { reason };
    let key = PrivateKey::from_openssh(text.expose_secret().trim())
        .map_err(|error| bad(format!("it is not in OpenSSH's form ({error})")))?;
    if key.is_encrypted() {
        return Err(bad("it is protected by a passphrase".to_owned()));
    }
    if key.algorithm().is_rsa() {
        return Err(bad("RSA keys are not read; Ed25519 and ECDSA are".to_owned()));
    }
    Ok(key)
}

/// The line of `authorized_keys` that lets this key in.
fn public_line(text: &SecretString) -> Result<String, SshError> {
    let key = read_key(text)?;
    let line = key.public_key().to_openssh().map_err(|error| SshError::BadKey { reason: error.to_string() })?;
    Ok(line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

/// One word of a shell's line, whatever is in it.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
