//! The control plane over TLS: believed under its own name, and not spoken to otherwise.

use crate::world::{Control, Member, Running, config, eventually, route};
use http::StatusCode;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use std::{net::SocketAddr, sync::Arc};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Ends TLS in front of the control plane, as a proxy does: where, and the certificate that vouches for itself.
async fn in_front_of(control: &Control) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let (acceptor, to) = (TlsAcceptor::from(Arc::new(config)), control.address);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut secure) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut secure, &mut plain).await;
            });
        }
    });
    (address, made.cert.pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_are_followed_and_acknowledged_over_tls_and_from_nobody_else() {
    let (control, member) = (Control::start().await, Member::start("one").await);
    let (address, authority) = in_front_of(&control).await;
    let revision = control.publish(vec![route(1, 1, "shared", &[&member])]);
    let start = |host: &str, authority: Option<&str>| {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&control, dir.path());
        config.control_urls = vec![format!("https://{host}:{}", address.port())];
        config.control_authorities = authority.map(str::to_owned);
        (Running::start(config), dir)
    };
    // Another name, and a certificate that nobody here vouches for.
    let strangers = [start("127.0.0.1", Some(&authority)), start("localhost", None)];
    let (edge, _dir) = start("localhost", Some(&authority));
    control.acknowledged(revision).await;
    assert_eq!(edge.get("t1.test", "/").await.status, StatusCode::OK);
    let metrics = edge.admin("/metrics").await;
    assert!(metrics.contains("berth_edge_control_connected 1\n") && metrics.contains("berth_edge_control_open 0\n"));
    for (edge, _dir) in &strangers {
        let metrics = async || edge.admin("/metrics").await;
        eventually("it serves without", metrics, |m| m.contains("berth_edge_control_connected 0\n")).await;
        assert_eq!(edge.get("t1.test", "/").await.status, StatusCode::NOT_FOUND);
    }
}
