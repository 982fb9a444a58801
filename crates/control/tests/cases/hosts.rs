//! Hosts of the stack's own: given and taken away, seen by whoever read the tenant before.

use crate::world::{STACK, World, change};
use berth_control::{hosts, tenants};
use berth_wire::HostAdd;

#[tokio::test]
async fn a_host_that_was_added_or_removed_meanwhile_is_not_lost_in_a_list_that_was_read_before() {
    let world = World::new().await;
    world.apply(&format!("{STACK}hosts: {{ own: [fleet.test] }}\n")).await.unwrap();
    let read = world.create("acme", "hobby").await;
    let host: berth_domain::TenantHost = "acme.fleet.test".parse().unwrap();
    let wanted = HostAdd { tenant: "acme".to_owned(), host: host.clone() };
    assert!(hosts::add(&world.app, &change(), &wanted).await.unwrap().served);
    let put = async |read: &berth_wire::Tenant| {
        tenants::set_all_hosts(&world.app, &change(), "acme", &read.hosts, Some(read.version)).await
    };
    assert_eq!(put(&read).await.unwrap_err().code(), "stale");
    let read = world.tenant("acme").await;
    assert_eq!(read.hosts.len(), 2, "{read:?}");
    hosts::remove(&world.app, &change(), &host, None).await.unwrap();
    assert_eq!(put(&read).await.unwrap_err().code(), "stale");
    let read = world.tenant("acme").await;
    assert_eq!((read.hosts.len(), put(&read).await.unwrap().hosts.len()), (1, 1));
}
