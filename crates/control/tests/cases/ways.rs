//! Ways of edges to members on servers: told with their keys, but not where others may read along.

use crate::world::{STACK, World, change, follow};
use async_trait::async_trait;
use berth_config::Environment;
use berth_control::{App, servers, stack};
use berth_domain::CellName;
use berth_infra::{Provider, ProviderError, Reach, ReachTarget, Stream, Way};
use berth_wire::StackApply;
use std::{collections::BTreeMap, sync::Arc};

/// A way to the members of the fake's world, which nobody goes.
struct Keyed;

#[async_trait]
impl Reach for Keyed {
    async fn reach(&self, _target: ReachTarget<'_>, _port: u16) -> Result<Stream, ProviderError> {
        Err(ProviderError::Absent { what: "way that a test goes".into() })
    }
    async fn way(&self, _cell: &CellName) -> Result<Option<Way>, ProviderError> {
        Ok(Some(Way { settings: "{\"key\": \"PRIVATE\"}".into() }))
    }
}

#[tokio::test]
async fn a_way_is_not_told_to_an_edge_that_others_may_read_along_with() {
    let mut world = World::bare().await;
    let fake = world.fake.clone();
    let build = move |adapter: &str, _: &serde_json::Value| {
        let reach = Some(Arc::new(Keyed) as Arc<dyn Reach>);
        (adapter == "ssh").then(|| Ok(Provider { reach, ..fake.provider() }))
    };
    let archives: berth_mover::Archives = Arc::new(object_store::memory::InMemory::new());
    let open = move |_: Option<&berth_config::Archives>, _: &Environment| Ok(Arc::clone(&archives));
    world.app = App::new(world.store.clone(), Environment::default(), Box::new(build), Box::new(open));
    let file = STACK.replace("adapter: fake", "adapter: ssh");
    let apply = async |file: &str| {
        let wanted = StackApply { file: file.to_owned(), files: BTreeMap::new(), dry_run: false };
        stack::apply(&world.app, &change(), &wanted).await.unwrap();
    };
    apply(&file).await;
    world.finish().await;
    let edge = berth_domain::EdgeName::new("edge-1").unwrap();
    let keys = async |in_the_open| {
        let told = servers::ways(&world.app, &follow(), edge.clone(), None, in_the_open).await.unwrap().items;
        told.iter().filter(|way| way.settings.expose().contains("PRIVATE") && !way.ports.is_empty()).count()
    };
    assert_eq!((keys(false).await, keys(true).await), (1, 0));
    apply(&format!("{file}https: {{ keys_over_plain_http: true }}\n")).await;
    assert_eq!(keys(true).await, 1, "the stack file takes it on itself");
}
