//! What one core and one tenant keep of bodies. No socket.

use super::{Keeping, Kept, TenantKeeping};
use bytes::Bytes;
use std::sync::{Arc, atomic::Ordering};

#[test]
fn a_tenant_keeps_an_eighth_and_all_together_what_there_is() {
    let keeping = Arc::new(Keeping::new(800));
    let tenants: Vec<_> = (0..10).map(|_| TenantKeeping::default()).collect();
    let mut one = Kept::new(&keeping, &tenants[0]);
    assert!(!one.push(Bytes::from_static(&[b'x'; 101])), "the core has room, the tenant has not");
    drop(one);
    let mut bodies: Vec<_> = tenants.iter().map(|tenant| Kept::new(&keeping, tenant)).collect();
    let fit: usize = bodies.iter_mut().map(|body| usize::from(body.push(Bytes::from_static(&[b'x'; 100])))).sum();
    assert_eq!((fit, keeping.bytes()), (8, 1_000), "what there is of a body is counted in any case");
    let first = bodies.remove(0).all();
    let copy = first.clone();
    drop((bodies, first));
    assert_eq!((keeping.bytes(), tenants[0].load(Ordering::Relaxed)), (100, 100), "until its last copy is gone");
    drop(copy);
    assert_eq!((keeping.bytes(), tenants[0].load(Ordering::Relaxed)), (0, 0));
}
