//! A control database that was restored from an older copy.

use crate::world::{World, change, follow, read, wanted};
use berth_control::{Kind, edges, recover, tenants};
use berth_domain::{EdgeId, Revision};
use berth_wire::edge::{EdgeAck, Presence};
use uuid::Uuid;

#[tokio::test]
async fn an_edge_that_is_ahead_stops_changes_until_somebody_recovers() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let head = world.store.route_head().await.unwrap();
    let ahead = Revision::new(head.get() + 40);
    let ack = EdgeAck {
        instance: EdgeId::new(Uuid::now_v7()),
        revision: ahead,
        holds: Vec::new(),
        presence: Presence::Serving,
        challenges: 0,
    };
    edges::acknowledge(&world.app, &follow(), "edge-1".parse().unwrap(), ack).await.unwrap();

    let refused = tenants::create(&world.app, &change(), wanted("beta", "hobby")).await.unwrap_err();
    assert_eq!((refused.code(), refused.kind()), ("world_ahead", Kind::Unavailable));
    assert!(refused.hint().unwrap().contains("berth recover"));
    assert_eq!(world.tenant("acme").await.name.as_str(), "acme", "reads are answered");
    let shown = recover::show(&world.app, &read()).await.unwrap();
    assert!(shown.world_is_ahead && shown.seen[0].revision == Some(ahead), "{shown:?}");

    let done = recover::recover(&world.app, &change()).await.unwrap();
    assert!(done.recovered && done.revision > ahead, "{done:?}");
    assert!(!recover::show(&world.app, &read()).await.unwrap().world_is_ahead);
    // The edge that was ahead is told everything anew, under revisions that it takes.
    let changes = world.store.routes_after(ahead).await.unwrap();
    assert_eq!(changes.routes.len(), 1);
    world.create("beta", "hobby").await;
}
