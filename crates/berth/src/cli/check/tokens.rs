//! Whether providers take the tokens that the files name: one question each that changes nothing.
//!
//! A token goes over TLS to its provider alone, or in the clear to this machine, where the provider's own tools are
//! told an address here. Never follows a redirect, and never prints what was sent.

use berth_check::live::{Token, TokenOf};
use jiff::Timestamp;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(5);
/// Longer than any of these answers; the rest is not read.
const ANSWER_BYTES: u64 = 1 << 20;

/// A token with the provider's address, where its tools are told another.
#[derive(Clone, Debug)]
pub struct Held {
    pub of: &'static TokenOf,
    pub token: SecretString,
    pub base: Option<String>,
    pub organisation: Option<String>,
}

/// Blocking: the resolver of the system is, too.
pub fn ask(held: &Held) -> io::Result<Token> {
    let base = held.base.as_deref().unwrap_or(held.of.base).trim_end_matches('/');
    let other = |message: &str| io::Error::new(ErrorKind::InvalidInput, message.to_owned());
    let (https, rest) = match (base.strip_prefix("https://"), base.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err(other("its address begins with neither `https://` nor `http://`")),
    };
    let (authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| other("its address has no port"))?),
        None => (authority, if https { 443 } else { 80 }),
    };
    if !https && host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        return Err(other("a token is not sent in the clear"));
    }
    let token = held.token.expose_secret();
    if token.bytes().any(|b| b.is_ascii_control()) {
        return Err(other("the token holds characters that no header can carry"));
    }
    // Fly's newer tokens name their scheme themselves.
    let scheme = if token.starts_with("FlyV1 ") { "" } else { "Bearer " };
    let named = held.organisation.as_deref().zip(held.of.organisation);
    let asked = match named {
        Some((name, _)) if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') => {
            return Err(other("the organisation's name holds characters that no slug has"));
        }
        Some((name, (_, path))) => format!("{path}{name}"),
        None => held.of.path.to_owned(),
    };
    let path = format!("{prefix}{asked}");
    // Version 1.0: the answer comes in one piece and ends with the connection.
    let head = format!(
        "Host: {authority}\r\nUser-Agent: berth-check\r\nAccept: application/json\r\nAuthorization: {scheme}{token}\r\n"
    );
    let request = match held.of.question {
        None => format!("GET {path} HTTP/1.0\r\n{head}\r\n"),
        Some(question) => format!(
            "POST {path} HTTP/1.0\r\n{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{question}",
            question.len()
        ),
    };
    let mut tried = (host, port).to_socket_addrs()?.map(|address| TcpStream::connect_timeout(&address, LIMIT / 2));
    let first = tried.next().unwrap_or_else(|| Err(ErrorKind::AddrNotAvailable.into()));
    let stream = first.or_else(|error| tried.find_map(Result::ok).ok_or(error))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let said = if https { answer(encrypted(stream, host)?, &request) } else { answer(stream, &request) };
    said.map(|token| Token { organisation: named.map(|(name, _)| name.to_owned()), ..token })
}

fn encrypted(stream: TcpStream, host: &str) -> io::Result<impl Read + Write> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(tls, stream))
}

fn answer(mut stream: impl Read + Write, request: &str) -> io::Result<Token> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut bytes = Vec::new();
    match stream.take(ANSWER_BYTES).read_to_end(&mut bytes) {
        // Some end a connection without saying so in TLS; what came before that is the answer.
        Err(error) if error.kind() != ErrorKind::UnexpectedEof || bytes.is_empty() => return Err(error),
        _ => {}
    }
    let text = String::from_utf8_lossy(&bytes);
    let digits = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    let status = digits.and_then(|digits| digits.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "no HTTP answer"))?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let said = |key: &str| body["result"][key].as_str().map(str::to_owned);
    let ends = said("expires_on").and_then(|end| end.parse::<Timestamp>().ok());
    // GraphQL refuses with 200 and says it in the answer.
    let mut errors = body["errors"].as_array().into_iter().flatten().filter_map(|error| error["message"].as_str());
    let denied = errors.find(|message| message.to_ascii_lowercase().contains("not authorized"));
    let state = said("status").or_else(|| denied.map(str::to_owned));
    Ok(Token { status, state, ends, organisation: None })
}
