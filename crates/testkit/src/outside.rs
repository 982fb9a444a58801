//! A private DNS server whose answers a test sets, and a private authority of certificates that asks it: Let's Encrypt's
//! own `pebble` and `pebble-challtestsrv`. Where the machine has none, the test says so and ends.

use crate::{free_port, wait_until};
use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Every name leads to 127.0.0.1 until a test says otherwise.
#[derive(Debug)]
pub struct TestNames {
    server: Child,
    pub resolver: SocketAddr,
    management: SocketAddr,
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn spawn(command: &mut Command) -> Option<Child> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if spawned.is_err() {
        eprintln!("skipped: `pebble` is not installed here");
    }
    spawned.ok()
}

impl TestNames {
    /// `None` where `pebble-challtestsrv` is not installed; that is said on stderr.
    pub async fn start() -> Option<Self> {
        let (resolver, management) = (local(free_port()), local(free_port()));
        let mut command = Command::new("pebble-challtestsrv");
        command.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]);
        command.arg("-dns01").arg(resolver.to_string()).arg("-management").arg(management.to_string());
        let server = spawn(&mut command)?;
        let answers =
            async || TcpStream::connect(management).await.is_ok() && TcpStream::connect(resolver).await.is_ok();
        let names = Self { server, resolver, management };
        wait_until("the DNS server answers", answers, |answers| *answers).await;
        Some(names)
    }

    pub async fn set_txt(&self, name: &str, value: &str) {
        self.say("set-txt", &format!(r#"{{"host":"{name}.","value":"{value}"}}"#)).await;
    }

    /// Where a name leads.
    pub async fn set_address(&self, name: &str, address: &str) {
        self.say("clear-a", &format!(r#"{{"host":"{name}."}}"#)).await;
        self.say("add-a", &format!(r#"{{"host":"{name}.","addresses":["{address}"]}}"#)).await;
    }

    /// Where all other names lead; empty: nowhere.
    pub async fn set_usual_address(&self, address: &str) {
        self.say("set-default-ipv4", &format!(r#"{{"ip":"{address}"}}"#)).await;
    }

    async fn say(&self, what: &str, body: &str) {
        let mut stream = TcpStream::connect(self.management).await.expect("the DNS server runs");
        let length = body.len();
        let request = format!(
            "POST /{what} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.expect("the DNS server listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the DNS server answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{what} {body}: {answer}");
    }
}

impl Drop for TestNames {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// An authority that asks those names, and hosts at these ports.
#[derive(Debug)]
pub struct TestAuthority {
    server: Child,
    folder: tempfile::TempDir,
    pub address: SocketAddr,
    management: SocketAddr,
    /// Of the same private authority, for others that a test puts at `localhost`: chain and key.
    pub localhost_pem: (String, String),
}

impl TestAuthority {
    /// `blocked`: names for which it gives no certificate. `None` where `pebble` is not installed.
    pub async fn start(names: &TestNames, http: u16, tls: u16, blocked: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let (ca, chain, key) = certificate(&["localhost", "127.0.0.1"]);
        let file = |name: &str| folder.path().join(name);
        for (name, text) in [("ca.pem", &ca), ("chain.pem", &chain), ("key.pem", &key)] {
            fs::write(file(name), text).expect("the folder is ours");
        }
        let (address, management) = (local(free_port()), local(free_port()));
        let config = serde_json::json!({ "pebble": {
            "listenAddress": address, "managementListenAddress": management,
            "certificate": file("chain.pem"), "privateKey": file("key.pem"),
            "httpPort": http, "tlsPort": tls, "ocspResponderURL": "", "externalAccountBindingRequired": false,
            "domainBlocklist": blocked,
        } });
        fs::write(file("config.json"), config.to_string()).expect("the folder is ours");
        let mut command = Command::new("pebble");
        command.arg("-config").arg(file("config.json")).arg("-dnsserver").arg(names.resolver.to_string());
        // Its usual waits, and its memory of what was proved before, test nothing here.
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        let server = spawn(&mut command)?;
        let authority = Self { server, folder, address, management, localhost_pem: (chain, key) };
        let answers = async || TcpStream::connect(address).await.is_ok();
        wait_until("the authority answers", answers, |answers| *answers).await;
        Some(authority)
    }

    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.address.port())
    }

    /// Who vouches for the authority's own certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Where it tells the root of what it signs: `/roots/0`.
    pub fn management(&self) -> SocketAddr {
        self.management
    }
}

impl Drop for TestAuthority {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A private authority and a certificate of it for these names: its own, the names' and their key, in PEM.
pub fn certificate(names: &[&str]) -> (String, String, String) {
    let made = || -> Result<_, rcgen::Error> {
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate()?;
        let ca = params.self_signed(&ca_key)?;
        let issuer = rcgen::Issuer::new(params, ca_key);
        let key = rcgen::KeyPair::generate()?;
        let params = rcgen::CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        Ok((ca.pem(), params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    made().expect("a certificate can be made")
}
