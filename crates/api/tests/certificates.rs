//! Hosts and certificates with everything real but the members: control, its API, an edge, a DNS server, an authority.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[allow(dead_code, reason = "other programs use the rest of it")]
mod world;

use berth_control::Scope;
use berth_domain::{HostProof, OrderState, OrderTrouble};
use berth_edge::{Edge, EdgeConfig, Limits};
use berth_infra::Role;
use berth_testkit::{TestAuthority, TestNames, wait_until};
use berth_wire::{CertificateOrder, HostAdd, HostVerify, TenantCreate, TenantHosts};
use jiff::Timestamp;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use world::{World, apply, refused};

/// A world with an edge whose requests for hosts it does not know are 404, and for those it does 503: there is no member.
struct Edged {
    world: World,
    names: TestNames,
    http: SocketAddr,
    https: SocketAddr,
    _stop: oneshot::Sender<()>,
    _folder: tempfile::TempDir,
}

impl Edged {
    async fn new() -> Option<Self> {
        let names = TestNames::start().await?;
        let world = World::empty().await;
        let (http, https, stop, folder) = Self::edge(&world, "fra").await;
        Some(Self { world, names, http, https, _stop: stop, _folder: folder })
    }

    /// An edge of this name: where it takes requests, and what keeps it.
    async fn edge(world: &World, name: &str) -> (SocketAddr, SocketAddr, oneshot::Sender<()>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let edge = Edge::bind(EdgeConfig {
            name: name.parse().unwrap(),
            listen: "127.0.0.1:0".parse().unwrap(),
            listen_tls: Some("127.0.0.1:0".parse().unwrap()),
            admin: "127.0.0.1:0".parse().unwrap(),
            control_urls: vec![format!("http://{}", world.address)],
            control_authorities: None,
            api_key: world.key(Scope::Edge).await,
            data_dir: folder.path().to_owned(),
            workers: 2,
            request_log: None,
            geo_database: None,
            second_names: false,
            limits: Limits::default(),
        })
        .unwrap();
        let (http, https) = (edge.address(), edge.tls_address().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(edge.run(async { drop(stopped.await) }));
        (http, https, stop, folder)
    }

    /// Puts this in force beside the usual stack, and asks the names of this world.
    async fn apply(&self, hosts: &str, https: &str) {
        let (resolver, port) = (self.names.resolver, self.http.port());
        let file = format!(
            "{}hosts: {{ resolver: '{resolver}', http_port: {port}, {hosts} }}\nhttps: {{ {https} }}\n",
            world::STACK
        );
        let applied = self.world.client().stack_apply(&apply(&file)).await.unwrap();
        for operation in applied.operations {
            self.world.finishes(operation).await;
        }
    }

    async fn tenant(&self, name: &str, host: &str) {
        let wanted = TenantCreate {
            name: name.parse().unwrap(),
            plan: "starter".parse().unwrap(),
            hosts: vec![host.parse().unwrap()],
            key: None,
            cell: None,
            profile: None,
        };
        let begun = self.world.client().tenant_create(&wanted).await.unwrap();
        self.world.finishes(begun.id).await;
    }

    /// The status of a plain request.
    async fn status(&self, host: &str) -> u16 {
        let stream = TcpStream::connect(self.http).await.unwrap();
        get(stream, host, "/").await.0
    }

    async fn routed(&self, host: &str, wanted: bool) {
        let status = async || self.status(host).await;
        wait_until("the edge has the route", status, |status| (*status == 404) != wanted).await;
    }

    async fn order(&self, host: &str) -> Option<CertificateOrder> {
        let orders = self.world.client().certificate_orders().await.unwrap();
        orders.into_iter().find(|order| order.host.as_str() == host)
    }

    async fn order_is(&self, host: &str, good: impl Fn(&CertificateOrder) -> bool) -> CertificateOrder {
        let look = async || self.order(host).await;
        wait_until("the order is as it should be", look, |order| order.as_ref().is_some_and(&good)).await.unwrap()
    }

    async fn sql(&self, statement: &str) {
        self.world.control.connect(Role::Owner).await.batch_execute(statement).await.unwrap();
    }
}

/// One request on a stream of its own.
async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, host: &str, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // TLS ends without a farewell are as good.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// A connection whose certificate is verified for this name against this root, and the certificate.
async fn secure(address: SocketAddr, name: &str, root_pem: &str) -> std::io::Result<(TlsStream<TcpStream>, Vec<u8>)> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root_pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config =
        config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    Ok((stream, shown))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_routed_when_it_is_proved_and_taken_over_by_its_record_alone() {
    let Some(edged) = Edged::new().await else { return };
    edged.apply("own: [fleet.test], proof: required", "").await;
    edged.tenant("acme", "acme.fleet.test").await;
    edged.tenant("other", "other.fleet.test").await;
    edged.routed("acme.fleet.test", true).await;
    let client = edged.world.client();
    let add = |tenant: &str, host: &str| HostAdd { tenant: tenant.to_owned(), host: host.parse().unwrap() };
    let of = |tenant: &str| HostVerify { tenant: Some(tenant.to_owned()) };

    // Given without proof: refused, and what was in force stays.
    let hosts = TenantHosts { hosts: vec!["shop.acme.test".parse().unwrap()] };
    let problem = refused(client.tenant_set_hosts("acme", &hosts, None).await);
    assert_eq!(problem.code, "host_not_proved");
    assert_eq!(edged.status("shop.acme.test").await, 404);
    edged.routed("acme.fleet.test", true).await;

    // Claimed, and nowhere to be seen.
    let claimed = client.host_add(&add("acme", "shop.acme.test")).await.unwrap();
    let show = claimed.show.unwrap();
    assert_eq!((claimed.served, show.txt_name.as_str()), (false, "_berth.shop.acme.test"));
    edged.names.set_usual_address("").await;
    let problem = refused(client.host_verify("shop.acme.test", &HostVerify::default()).await);
    assert_eq!(problem.code, "host_not_proved");
    let looked = client.hosts(Some("acme")).await.unwrap();
    let looked = looked.iter().find(|host| !host.served).unwrap();
    assert!(looked.trouble.as_ref().is_some_and(|text| text.contains("has no TXT record")), "{looked:?}");

    // It leads here: the edge shows the page, and the host is routed.
    edged.names.set_usual_address("127.0.0.1").await;
    let path = show.url.unwrap().split_once(".test").unwrap().1.split_once('/').unwrap().1.to_owned();
    let page = async || get(TcpStream::connect(edged.http).await.unwrap(), "shop.acme.test", &format!("/{path}")).await;
    let shown = wait_until("the edge shows the page", page, |(status, _)| *status == 200).await;
    assert_eq!(shown.1, show.page.unwrap());
    let proved = client.host_verify("shop.acme.test", &HostVerify::default()).await.unwrap();
    assert_eq!((proved.served, proved.proof, proved.show), (true, Some(HostProof::Http), None));
    edged.routed("shop.acme.test", true).await;

    // Another tenant wants it: the page that the edge would show proves nothing, the record takes it over.
    let rival = client.host_add(&add("other", "shop.acme.test")).await.unwrap();
    let show = rival.show.unwrap();
    assert!(rival.contested && !rival.served && show.url.is_none());
    let problem = refused(client.host_verify("shop.acme.test", &HostVerify::default()).await);
    assert_eq!(problem.code, "which_tenant");
    let problem = refused(client.host_verify("shop.acme.test", &of("other")).await);
    assert!(problem.detail.contains("only the TXT record proves it"), "{problem:?}");
    assert!(client.tenant("acme").await.unwrap().hosts.iter().any(|host| host.as_str() == "shop.acme.test"));
    edged.names.set_txt(&show.txt_name, &show.txt_value).await;
    let read = [client.tenant("acme").await.unwrap(), client.tenant("other").await.unwrap()];
    let taken = client.host_verify("shop.acme.test", &of("other")).await.unwrap();
    assert_eq!((taken.served, taken.proof, taken.contested), (true, Some(HostProof::Txt), false));
    assert_eq!(client.tenant("acme").await.unwrap().hosts.len(), 1);
    edged.routed("shop.acme.test", true).await;
    for tenant in read {
        let hosts = TenantHosts { hosts: tenant.hosts };
        let late = client.tenant_set_hosts(tenant.name.as_str(), &hosts, Some(tenant.version)).await;
        assert_eq!(refused(late).code, "stale", "who read before it was taken over does not undo that");
    }

    // Proved by somebody who goes: the host stays with whom it serves.
    let again = client.host_add(&add("acme", "shop.acme.test")).await.unwrap().show.unwrap();
    edged.names.set_txt(&again.txt_name, &again.txt_value).await;
    edged.sql("UPDATE tenants SET state = 'deleting' WHERE name = 'acme'").await;
    assert_eq!(refused(client.host_verify("shop.acme.test", &of("acme")).await).code, "no_tenant");
    edged.sql("UPDATE tenants SET state = 'active' WHERE name = 'acme'").await;
    client.host_remove("shop.acme.test", Some("acme")).await.unwrap();
    assert!(client.hosts(Some("other")).await.unwrap().iter().any(|host| host.host == taken.host && host.served));

    // Wildcards over and under what is another's.
    let before = client.hosts(None).await.unwrap();
    let problem = refused(client.host_add(&add("acme", "*.fleet.test")).await);
    assert_eq!(problem.code, "host_meets_another");
    assert!(problem.detail.contains("`*.fleet.test` is over another tenant's `other.fleet.test`"), "{problem:?}");
    let problem = refused(client.host_add(&add("acme", "other.fleet.test")).await);
    assert_eq!(problem.code, "host_taken", "the stack's own names are nobody's to prove");
    assert_eq!(client.hosts(None).await.unwrap(), before, "what was refused changed nothing");
    let wild = client.host_add(&add("other", "*.corp.test")).await.unwrap();
    let show = wild.show.unwrap();
    assert_eq!((show.txt_name.as_str(), show.url), ("_berth.corp.test", None));
    edged.names.set_txt(&show.txt_name, &show.txt_value).await;
    assert!(client.host_verify("*.corp.test", &HostVerify::default()).await.unwrap().served);
    edged.routed("any.corp.test", true).await;
    let problem = refused(client.host_add(&add("acme", "a.corp.test")).await);
    assert!(problem.detail.contains("`a.corp.test` is under another tenant's `*.corp.test`"), "{problem:?}");

    client.host_remove("shop.acme.test", None).await.unwrap();
    edged.routed("shop.acme.test", false).await;
    assert_eq!(refused(client.host_remove("shop.acme.test", None).await).code, "no_host");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_edges_the_authority_is_answered_by_whichever_it_asks() {
    for challenge in ["http-01", "tls-alpn-01"] {
        let Some(edged) = Edged::new().await else { return };
        let (http, https, _stop, _folder) = Edged::edge(&edged.world, "hel").await;
        // It asks the second one alone; the first one has the answer too.
        let authority = TestAuthority::start(&edged.names, http.port(), https.port(), &[]).await;
        let Some(authority) = authority else { return };
        let (directory, ca) = (authority.directory(), authority.ca_file());
        let acme = format!("acme: {{ directory: '{directory}', ca_file: '{}', challenge: {challenge} }}", ca.display());
        edged.apply("own: [fleet.test]", &acme).await;
        edged.tenant("acme", "acme.fleet.test").await;
        edged.order_is("acme.fleet.test", |order| order.state == OrderState::Served).await;
        let edges = async || edged.world.client().edges().await.unwrap();
        wait_until("both have it", edges, |all| all.len() == 2 && all.iter().all(|edge| edge.behind == 0)).await;
        let shown = async |address: SocketAddr| {
            let stream = TcpStream::connect(address).await.ok()?;
            let roots = RootCertStore::empty();
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
            let config = config.with_safe_default_protocol_versions().unwrap();
            let config = config.with_root_certificates(roots).with_no_client_auth();
            let name = ServerName::try_from("acme.fleet.test").unwrap();
            // Nobody here vouches for it: that it is refused for that says that there is one.
            let error = TlsConnector::from(Arc::new(config)).connect(name, stream).await.err()?;
            Some(error.to_string())
        };
        for address in [edged.https, https] {
            let look = async || shown(address).await.unwrap_or_default();
            wait_until("it shows the certificate", look, |said| said.contains("UnknownIssuer")).await;
        }
    }
}

/// From order to served certificate to renewal, with this challenge.
async fn ordered_and_renewed(challenge: &str) {
    let Some(edged) = Edged::new().await else { return };
    let authority = TestAuthority::start(&edged.names, edged.http.port(), edged.https.port(), &[]).await;
    let Some(authority) = authority else { return };
    let acme = format!(
        "acme: {{ directory: '{}', ca_file: '{}', email: ops@fleet.test, challenge: {challenge} }}",
        authority.directory(),
        authority.ca_file().display()
    );
    edged.apply("own: [fleet.test]", &acme).await;
    edged.tenant("acme", "acme.fleet.test").await;
    edged.tenant("bystander", "bystander.test").await;
    let served = edged.order_is("acme.fleet.test", |order| order.state == OrderState::Served).await;
    let client = edged.world.client();
    let certificates = client.certificates().await.unwrap();
    assert_eq!(certificates.len(), 1, "a host that nobody proved gets none: {certificates:?}");
    let first = &certificates[0];
    assert_eq!((Some(first.id), first.names.as_slice()), (served.certificate, &["acme.fleet.test".to_owned()][..]));
    let life = first.not_after.duration_since(first.not_before);
    let third = served.next_at.duration_since(first.not_after - life / 3).as_secs();
    assert_eq!(third, 0, "when a third of its life is left");

    // The root of what the authority signs, over a connection that its own root vouches for.
    let own_root = std::fs::read_to_string(authority.ca_file()).unwrap();
    let (management, _) = secure(authority.management(), "localhost", &own_root).await.unwrap();
    let (_, root) = get(management, "localhost", "/roots/0").await;
    let shown = async || secure(edged.https, "acme.fleet.test", &root).await.ok().map(|(_, shown)| shown);
    let old = wait_until("the edge serves it", shown, Option::is_some).await;
    let (mut open, _) = secure(edged.https, "acme.fleet.test", &root).await.unwrap();

    // Due by its date, and nobody asks for it.
    edged.sql("UPDATE certificate_orders SET next_at = now()").await;
    let is_new =
        |order: &CertificateOrder| order.certificate != served.certificate && order.state == OrderState::Served;
    let renewed = edged.order_is("acme.fleet.test", is_new).await;
    wait_until("the edge serves the new one", shown, |now| now.is_some() && *now != old).await;
    let certificates = client.certificates().await.unwrap();
    assert_eq!(certificates.iter().map(|c| Some(c.id)).collect::<Vec<_>>(), [renewed.certificate]);
    // A connection that was open goes on.
    open.write_all(b"GET / HTTP/1.1\r\nHost: acme.fleet.test\r\n\r\n").await.unwrap();
    let mut start = [0; 10];
    open.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 5", "there is no member");
    assert!(secure(edged.https, "bystander.test", &root).await.is_err());

    // Keys lie sealed, and the account's too; nothing is answered to authorities any more.
    let owner = edged.world.control.connect(Role::Owner).await;
    for table in ["certificate_orders", "acme_accounts", "certificates"] {
        let rows = owner.query(&format!("SELECT row_to_json(t)::text FROM {table} t"), &[]).await.unwrap();
        assert!(!rows.is_empty());
        for row in rows {
            let text: String = row.get(0);
            assert!(!text.contains("PRIVATE") && !text.contains("key_pkcs8"), "{table}");
        }
    }
    let left = owner.query_one("SELECT count(*) FROM certificate_orders WHERE answer IS NOT NULL", &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);

    // With its host its certificate goes.
    client.tenant_set_hosts("acme", &TenantHosts { hosts: vec![] }, None).await.unwrap();
    let left = async || client.certificates().await.unwrap().len();
    wait_until("the certificate is gone", left, |left| *left == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_ordered_served_and_renewed_by_a_page() {
    ordered_and_renewed("http-01").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_ordered_served_and_renewed_by_a_handshake() {
    ordered_and_renewed("tls-alpn-01").await;
}

/// Stands before an authority and takes no orders.
async fn limiting_front(authority: &TestAuthority) -> SocketAddr {
    let (chain, key) = &authority.localhost_pem;
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (front, behind) = (listener.local_addr().unwrap(), authority.address.port());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.windows(4).any(|four| four == b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0
            {
            }
            let (status, body) = if head.starts_with(b"GET /dir ") {
                let at = |path: &str| format!("https://localhost:{behind}/{path}");
                let (nonce, account) = (at("nonce-plz"), at("sign-me-up"));
                let order = format!("https://localhost:{}/order", front.port());
                ("200 OK", format!(r#"{{"newNonce":"{nonce}","newAccount":"{account}","newOrder":"{order}"}}"#))
            } else {
                let problem = r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates already issued","status":429}"#;
                ("429 Too Many Requests\r\nRetry-After: 7200", problem.to_owned())
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    front
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_authority_refuses_ends_in_a_clear_state_and_waits() {
    let Some(edged) = Edged::new().await else { return };
    let ports = (edged.http.port(), edged.https.port());
    let Some(authority) = TestAuthority::start(&edged.names, ports.0, ports.1, &["blocked.fleet.test"]).await else {
        return;
    };
    let ca_file = authority.ca_file();
    let acme = |directory: &str| format!("acme: {{ directory: '{directory}', ca_file: '{}' }}", ca_file.display());
    // Nobody is at that address: the authority asks there and hears nothing.
    edged.names.set_address("away.fleet.test", "127.0.0.9").await;
    edged.apply("own: [fleet.test]", &acme(&authority.directory())).await;
    let (client, now) = (edged.world.client(), Timestamp::now());
    edged.tenant("blocked", "blocked.fleet.test").await;
    edged.tenant("away", "away.fleet.test").await;
    let failed = |trouble| move |order: &CertificateOrder| order.trouble == Some(trouble);
    let wrong = edged.order_is("blocked.fleet.test", failed(OrderTrouble::WrongName)).await;
    let away = edged.order_is("away.fleet.test", failed(OrderTrouble::ChallengeFailed)).await;
    for order in [&wrong, &away] {
        assert_eq!((order.state, order.certificate), (OrderState::Failed, None), "{order:?}");
        assert!(order.next_at > now && order.failures >= 1 && order.detail.is_some(), "{order:?}");
    }
    assert!(wrong.detail.as_ref().unwrap().contains("rejectedIdentifier"), "{wrong:?}");
    assert!(away.detail.as_ref().unwrap().contains("connection"), "{away:?}");

    // Asked again by hand it fails again, and waits longer.
    let before = edged.order("away.fleet.test").await.unwrap();
    client.certificate_renew("away.fleet.test").await.unwrap();
    let more = |order: &CertificateOrder| order.failures > before.failures && order.state == OrderState::Failed;
    let again = edged.order_is("away.fleet.test", more).await;
    assert!(again.next_at.duration_since(Timestamp::now()) > before.next_at.duration_since(now), "{again:?}");
    assert_eq!(refused(client.certificate_renew("nobody.test").await).code, "no_order");

    // It leads here after all.
    edged.names.set_address("away.fleet.test", "127.0.0.1").await;
    client.certificate_renew("away.fleet.test").await.unwrap();
    let served = edged.order_is("away.fleet.test", |order| order.state == OrderState::Served).await;
    assert_eq!((served.trouble, served.failures), (None, 0));

    // An authority that takes no orders says until when; the certificate there goes on being served.
    let front = limiting_front(&authority).await;
    edged.apply("own: [fleet.test]", &acme(&format!("https://localhost:{}/dir", front.port()))).await;
    client.certificate_renew("away.fleet.test").await.unwrap();
    let limited = edged.order_is("away.fleet.test", failed(OrderTrouble::RateLimited)).await;
    let wait_s = limited.next_at.duration_since(Timestamp::now()).as_secs();
    assert!((7000..=7200).contains(&wait_s), "as the authority said: {wait_s}");
    assert!(limited.detail.as_ref().unwrap().contains("too many certificates"), "{limited:?}");
    assert_eq!(limited.certificate, served.certificate);
    let ids: BTreeSet<_> = client.certificates().await.unwrap().into_iter().map(|c| Some(c.id)).collect();
    assert!(ids.contains(&served.certificate));
    // Both are told to whoever looks at the whole.
    let attention = client.status().await.unwrap().attention;
    let told: Vec<_> = attention.iter().filter(|one| one.code == "certificate_not_renewed").collect();
    assert!(told.iter().any(|one| one.subject.contains("blocked.fleet.test")), "{attention:?}");
}
