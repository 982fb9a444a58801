//! Members in several regions: the nearest well one answers, and residence beats nearness.

use crate::{
    mmdb::{Known, database},
    world::{Client, Member, World, eventually, route},
};
use berth_edge::{Edge, EdgeErrorKind};
use berth_wire::edge::{EdgeSettings, GeoSettings, HealthCheck, ServiceSettings, TenantRoute};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use std::{fs, net::Ipv4Addr};

/// A city's spot, a country's middle, and one that is known by its country alone.
fn known(first: &'static str) -> Vec<u8> {
    database(&[
        (Ipv4Addr::new(81, 0, 0, 0), 8, Known { country: first, spot: Some((52.5, 13.4)) }),
        (Ipv4Addr::new(99, 0, 0, 0), 8, Known { country: "US", spot: None }),
        (Ipv4Addr::new(203, 0, 112, 0), 20, Known { country: "AU", spot: None }),
    ])
}

const BERLIN: &str = "81.7.7.7";
const KANSAS: &str = "99.1.1.1";
const SYDNEY: &str = "203.0.113.9";
const NOWHERE: &str = "10.0.0.1";

struct Spread {
    world: World,
    members: [Member; 3],
}

impl Spread {
    /// Web services in three regions, whose members are of one cell.
    async fn start() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), known("DE")).unwrap();
        let path = file.into_temp_path().keep().unwrap();
        let world = World::with(|c| {
            c.limits.trusted_peers = vec!["127.0.0.1".parse().unwrap()];
            c.geo_database = Some(path);
        })
        .await;
        let members = [Member::start("eu").await, Member::start("us").await, Member::start("ap").await];
        let all = Self { world, members };
        all.world.control.put(vec![all.home(1), all.home(2)]).await;
        all.set([]).await;
        all
    }

    fn home(&self, number: u128) -> TenantRoute {
        let mut home = route(number, 1, "shared", &self.members.each_ref());
        for (member, service) in home.members.iter_mut().zip(["web-eu", "web-us", "web-ap"]) {
            member.service = service.parse().unwrap();
        }
        home
    }

    async fn set<const N: usize>(&self, residences: [(&str, &str); N]) {
        let check =
            HealthCheck { path: "/health".into(), every_ms: 20, timeout_ms: 1000, rise: 1, fall: 1, status: None };
        let service = |region: &str| ServiceSettings {
            region: Some(region.to_owned()),
            check: Some(check.clone()),
            ..ServiceSettings::default()
        };
        let services = [("web-eu", "eu-central"), ("web-us", "us-east"), ("web-ap", "ap-southeast")];
        let places = [("eu-central", (50.0, 9.0)), ("us-east", (39.0, -77.0)), ("ap-southeast", (1.0, 104.0))];
        self.world.control.set(EdgeSettings {
            services: services.map(|(name, region)| (name.parse().unwrap(), service(region))).into(),
            geo: Some(GeoSettings { regions: places.map(|(name, at)| (name.to_owned(), at)).into() }),
            residences: residences.map(|(tenant, region)| (tenant.parse().unwrap(), region.to_owned())).into(),
            ..EdgeSettings::default()
        });
        let wanted = if N == 0 { "eu" } else { "ap" };
        // In turn each region would be met once in three.
        let look = async || {
            let mut by = Vec::new();
            for _ in 0..4 {
                by.push(self.by(1, BERLIN).await);
            }
            by
        };
        eventually("the settings are in force", look, |by| by.iter().all(|by| by == wanted)).await;
    }

    async fn ask(&self, tenant: u32, from: &str) -> crate::world::Answer {
        let mut client: Client = self.world.edge.client().await;
        let request = Request::builder().method(Method::GET).uri("/").header("host", format!("t{tenant}.test"));
        client.send(request.header("x-forwarded-for", from).body(Full::default()).unwrap()).await
    }

    async fn by(&self, tenant: u32, from: &str) -> String {
        self.ask(tenant, from).await.by().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_well_member_answers_and_the_application_hears_the_country() {
    let spread = Spread::start().await;
    for (from, by, country) in [(BERLIN, "eu", Some("DE")), (KANSAS, "us", Some("US")), (SYDNEY, "ap", Some("AU"))] {
        for _ in 0..5 {
            let answer = spread.ask(1, from).await;
            assert_eq!((answer.by(), answer.sent("berth-country")), (by, country), "{from}");
        }
    }
    // Of whom nobody knows where they are, all regions are as good.
    let mut by = Vec::new();
    for _ in 0..6 {
        let answer = spread.ask(1, NOWHERE).await;
        assert_eq!(answer.sent("berth-country"), None);
        by.push(answer.by().to_owned());
    }
    by.sort();
    by.dedup();
    assert_eq!(by, ["ap", "eu", "us"]);
    // The next nearest takes over, and gives back.
    let health = &spread.members[0].state.health;
    health.store(500, std::sync::atomic::Ordering::SeqCst);
    eventually("the next nearest", async || spread.by(1, BERLIN).await, |by| by == "us").await;
    health.store(200, std::sync::atomic::Ordering::SeqCst);
    eventually("the nearest again", async || spread.by(1, BERLIN).await, |by| by == "eu").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn residence_beats_nearness_also_when_nobody_there_is_well() {
    let spread = Spread::start().await;
    spread.set([("t1", "ap-southeast")]).await;
    for from in [BERLIN, KANSAS, SYDNEY, NOWHERE] {
        assert_eq!(spread.by(1, from).await, "ap", "{from}");
    }
    assert_eq!(spread.by(2, BERLIN).await, "eu", "a neighbour of the same cell is free");
    spread.members[2].state.health.store(500, std::sync::atomic::Ordering::SeqCst);
    let status = async || spread.ask(1, BERLIN).await.status;
    eventually("nobody else answers", status, |s| *s == StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(spread.by(2, SYDNEY).await, "eu", "from Australia the next nearest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_database_is_refused_and_the_one_in_force_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("addresses.mmdb");
    fs::write(&path, known("DE")).unwrap();
    let world = World::with(|c| {
        c.limits.trusted_peers = vec!["127.0.0.1".parse().unwrap()];
        c.geo_database = Some(path.clone());
    })
    .await;
    let country = async || {
        let mut client = world.edge.client().await;
        let request = Request::get("/").header("host", "t1.test").header("x-forwarded-for", BERLIN);
        client.send(request.body(Full::default()).unwrap()).await.sent("berth-country").map(str::to_owned)
    };
    assert_eq!(country().await.as_deref(), Some("DE"));
    fs::write(&path, "not one").unwrap();
    let metrics = async || world.edge.admin("/metrics").await;
    eventually("it is refused", metrics, |m| m.contains("berth_edge_geo_refused 1\n")).await;
    assert_eq!(country().await.as_deref(), Some("DE"), "the one before is in force");
    fs::write(&path, known("AT")).unwrap();
    eventually("a good one is taken", country, |c| c.as_deref() == Some("AT")).await;
    assert!(metrics().await.contains("berth_edge_geo_refused 0\n"));
    // And at the start it is no edge.
    fs::write(&path, "not one").unwrap();
    let mut config = crate::world::config(&world.control, dir.path());
    config.geo_database = Some(path);
    let error = Edge::bind(config).err().unwrap();
    assert_eq!(error.kind(), EdgeErrorKind::Caller);
    assert!(error.hint().contains("MaxMind"));
}
