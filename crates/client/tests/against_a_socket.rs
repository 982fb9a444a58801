//! The client against servers that behave badly: each answer is bytes that this test wrote.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use berth_client::{Client, ClientError, Fault};
use berth_wire::{KeyCreate, OperationEvent};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Mutex,
};

/// What the server does with one connection after it has read a request.
enum Answer {
    Bytes(Vec<&'static str>),
    HangUp,
    Silence,
}

/// A server that answers one connection after the other as told, and keeps what it was asked.
async fn server(answers: Vec<Answer>) -> (Client, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), Some("bk_test".to_owned().into()));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !whole(&request) {
                let mut part = [0; 4096];
                let n = stream.read(&mut part).await.unwrap();
                request.extend_from_slice(&part[..n]);
            }
            kept.lock().await.push(String::from_utf8(request).unwrap());
            match answer {
                Answer::HangUp => drop(stream),
                Answer::Silence => open.push(stream),
                Answer::Bytes(parts) => {
                    for part in parts {
                        stream.write_all(part.as_bytes()).await.unwrap();
                        stream.flush().await.unwrap();
                        // So that the parts arrive apart from each other.
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
        std::future::pending::<()>().await;
    });
    (client.unwrap(), asked)
}

fn whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_none_or(|length| body.len() >= length.parse().unwrap())
}

fn header(request: &str, name: &str) -> Option<String> {
    let mut lines = request.lines();
    lines.find_map(|line| line.strip_prefix(name).map(|value| value.trim_start_matches(": ").to_owned()))
}

const PLANS: &str = "HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n{\"items\":[],\"next\":null}  ";
const KEY: &str = "HTTP/1.1 201 Created\r\nConnection: close\r\n\r\n{\"key\":{\"id\":\"01a1fc42-f28b-71b8-a1f2-3d4cf19e1b93\",\
    \"name\":\"ci\",\"scope\":\"read\",\"prefix\":\"bk_x\",\"created_at\":\"2026-11-21T00:00:00Z\",\"last_used_at\":null,\
    \"revoked_at\":null},\"secret\":\"bk_x\"}";

#[tokio::test]
async fn a_request_carries_its_key_and_the_answer_is_read() {
    let (client, asked) = server(vec![Answer::Bytes(vec![PLANS])]).await;
    assert!(client.plans().await.unwrap().is_empty());
    let asked = asked.lock().await;
    assert!(asked[0].starts_with("GET /v1/plans?limit=200 HTTP/1.1"), "{}", asked[0]);
    assert_eq!(header(&asked[0], "authorization").as_deref(), Some("Bearer bk_test"));
    assert!(header(&asked[0], "idempotency-key").is_none(), "a read has no need of one");
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_sent_once_more_under_the_same_key() {
    let (client, asked) = server(vec![Answer::HangUp, Answer::Bytes(vec![KEY])]).await;
    let made = client.key_create(&KeyCreate { name: "ci".into(), scope: "read".into() }).await.unwrap();
    assert_eq!(made.secret, "bk_x");
    let asked = asked.lock().await;
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0], asked[1], "the very same request");
    assert!(header(&asked[0], "idempotency-key").is_some());
}

#[tokio::test]
async fn a_write_that_is_lost_twice_is_an_error_of_the_server() {
    let (client, asked) = server(vec![Answer::HangUp, Answer::HangUp]).await;
    let error = client.key_create(&KeyCreate { name: "ci".into(), scope: "read".into() }).await.unwrap_err();
    assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
    assert_eq!(error.fault(), Fault::Server);
    assert_eq!(asked.lock().await.len(), 2, "and no third time");
}

#[tokio::test]
async fn a_refusal_is_a_value_with_its_hint() {
    const NO: &str = "HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n{\"type\":\"t\",\"title\":\"Not Found\",\"status\":404,\
        \"detail\":\"there is no tenant `x`\",\"code\":\"no_tenant\",\"hint\":\"look\",\"retryable\":false,\"request_id\":\"7\"}";
    let (client, _) = server(vec![Answer::Bytes(vec![NO])]).await;
    let error = client.tenant("x").await.unwrap_err();
    assert_eq!(error.to_string(), "there is no tenant `x`");
    assert_eq!((error.fault(), error.hint().as_deref()), (Fault::Caller, Some("look")));
    assert_eq!(error.problem().unwrap().code, "no_tenant");
}

#[tokio::test]
async fn something_else_that_answers_is_not_taken_for_a_server_of_ours() {
    let (client, _) =
        server(vec![Answer::Bytes(vec!["HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n<html>"])]).await;
    assert!(matches!(client.status().await.unwrap_err(), ClientError::NotBerth { status: 502, .. }));
}

#[tokio::test]
async fn a_silent_server_is_not_waited_for_for_ever() {
    let (client, _) = server(vec![Answer::Silence]).await;
    let error = client.with_answer_limit(Duration::from_millis(50)).status().await.unwrap_err();
    assert!(matches!(error, ClientError::TooSlow { .. }), "{error:?}");
}

#[tokio::test]
async fn nobody_at_home_says_how_to_start_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Client::new(&format!("http://{address}"), None).unwrap().status().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("berth serve"));
}

#[tokio::test]
async fn events_are_read_however_their_bytes_are_cut() {
    let operation = "{\"id\":\"01a1fc42-f28b-71b8-a1f2-3d4cf19e1b93\",\"kind\":\"move_tenant\",\"state\":\"succeeded\",\
        \"tenant\":null,\"cell\":null,\"steps\":[],\"progress\":null,\"past_return\":true,\"fault\":null,\"result\":null,\
        \"asked_by\":null,\"created_at\":\"2026-11-21T00:00:00Z\",\"updated_at\":\"2026-11-21T00:00:00Z\",\
        \"ended_at\":null,\"new_field\":1}";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: hello\n\nevent: x\nda";
    let (client, _) = server(vec![Answer::Bytes(vec![
        head,
        "ta: {\"event\":\"ended\",",
        "\"operation\":",
        operation,
        "}\r\n\r\n",
        "data: {\"event\":\"ch",
    ])])
    .await;
    let id = "01a1fc42-f28b-71b8-a1f2-3d4cf19e1b93".parse().unwrap();
    let mut events = client.operation_events(id).await.unwrap();
    let OperationEvent { operation, .. } = events.next().await.unwrap().expect("one whole event");
    assert_eq!(operation.id, id);
    assert!(events.next().await.unwrap().is_none(), "half an event is none");
}

#[test]
fn an_address_that_is_none_is_refused_before_anything_is_sent() {
    for bad in ["", "127.0.0.1:7600", "ftp://x", "https://", "https://-", "http://", "http://x/v1", "http://x?y"] {
        let error = Client::new(bad, None).err().unwrap_or_else(|| panic!("{bad} was taken"));
        assert_eq!(error.fault(), Fault::Caller);
    }
}

#[tokio::test]
async fn over_tls_a_server_is_believed_only_under_its_own_name_and_by_who_vouches_for_it() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let own = key.cert.pem();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into()),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !whole(&request) {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    let ask = async |host: &str, authority: &str| {
        let client = Client::new(&format!("https://{host}:{port}"), None).unwrap();
        let client = if authority.is_empty() { client } else { client.trusting(authority).unwrap() };
        client.status().await.unwrap_err()
    };
    assert!(matches!(ask("localhost", &own).await, ClientError::NotBerth { status: 404, .. }));
    for (host, authority) in [("localhost", ""), ("localhost", stranger.as_str()), ("127.0.0.1", own.as_str())] {
        let error = ask(host, authority).await;
        assert!(matches!(error, ClientError::Unproved { .. }), "{host}: {error:?}");
        assert!(error.hint().unwrap().contains("SSL_CERT_FILE"));
    }
    let error = Client::new("https://localhost", None).unwrap().trusting("no PEM").err().unwrap();
    assert!(matches!(error, ClientError::BadAuthority), "{error:?}");
}
