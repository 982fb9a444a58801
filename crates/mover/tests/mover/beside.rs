//! Keys in Redis and objects travel with the rows, under writes, there and back; and nobody else's do.

use crate::common::{MemoryOwnership, Two, Watch, cut_over, until_built};
use berth_mover::{Archives, Beside, KeysBeside, MoveError, MoveSpec, ObjectsBeside, Obstacle, Ownership};
use berth_testkit::TestRedis;
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

async fn connect(redis: &TestRedis) -> MultiplexedConnection {
    redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

async fn keys_under(redis: &TestRedis, prefix: &str) -> BTreeMap<String, String> {
    let mut connection = connect(redis).await;
    let keys: Vec<String> = connection.keys(format!("{prefix}*")).await.unwrap();
    let mut found = BTreeMap::new();
    for key in keys {
        let value: redis::Value = redis::cmd("DUMP").arg(&key).query_async(&mut connection).await.unwrap();
        found.insert(key, format!("{value:?}"));
    }
    found
}

fn with_keys(spec: MoveSpec, source: &TestRedis, target: &TestRedis) -> MoveSpec {
    let keys = KeysBeside {
        source: source.url().into(),
        target: target.url().into(),
        prefixes: vec!["t:{tenant}:".to_owned()],
        store: false,
        alone: true,
    };
    MoveSpec { beside: Beside { keys: Some(keys), objects: None }, ..spec }
}

/// Every type, a key that ends soon and one that does not; and a neighbour's.
async fn fill(redis: &TestRedis, tenant: &str, neighbour: &str) {
    let mut connection = connect(redis).await;
    for owner in [tenant, neighbour] {
        let key = |name: &str| format!("t:{owner}:{name}");
        let () = connection.set(key("text"), "\u{1F6A2} and \0 bytes").await.unwrap();
        let () = connection.set_ex(key("session"), "s", 3_600).await.unwrap();
        let () = connection.hset_multiple(key("hash"), &[("a", 1), ("b", 2)]).await.unwrap();
        let () = connection.rpush(key("list"), &[1, 2, 3]).await.unwrap();
        let () = connection.sadd(key("set"), &[1, 2, 3]).await.unwrap();
        let () = connection.zadd_multiple(key("sorted"), &[(1.5, "p"), (2.5, "q")]).await.unwrap();
        let stream = key("stream");
        let added = redis::cmd("XADD").arg(&[stream.as_str(), "*", "field", "value"]).exec_async(&mut connection).await;
        added.unwrap();
        let () = connection.setbit(key("bits"), 1_000, true).await.unwrap();
        for n in 0..3_000 {
            let () = connection.set(key(&format!("many:{n}")), n).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_move_under_writes_there_and_back_and_the_neighbours_stay() {
    let Some(source) = TestRedis::start(&[]).await else { return };
    let target = TestRedis::start(&[]).await.unwrap();
    let two = Two::filled(500).await;
    let (tenant, neighbour) = (two.tenant.to_string(), two.neighbour.to_string());
    fill(&source, &tenant, &neighbour).await;
    // Left by an earlier move: in the source it is gone.
    let () = connect(&target).await.set(format!("t:{tenant}:stale"), "old").await.unwrap();
    let spec = with_keys(MoveSpec { way_back: true, ..two.spec() }, &source, &target);
    let ownership = Arc::new(MemoryOwnership::new());
    let (plan, token) = until_built(&spec, &*ownership).await;
    assert_eq!((plan.beside.len(), plan.beside[0].found), (1, 3_008));

    // A writer through the edge: it stops where the edge holds it, which here is while the row says so.
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (stop, written, ownership) = (Arc::clone(&stop), Arc::clone(&written), Arc::clone(&ownership));
        let (mut connection, key) = (connect(&source).await, format!("t:{tenant}:counter"));
        let gone = format!("t:{tenant}:many:");
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                if ownership.row().holding {
                    break;
                }
                let n = written.fetch_add(1, Ordering::SeqCst) + 1;
                let () = connection.set(&key, n).await.unwrap();
                if n < 500 {
                    let () = connection.del(format!("{gone}{n}")).await.unwrap();
                }
            }
        })
    };
    cut_over(&spec, &plan, &*ownership).await.unwrap();
    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    let prefix = format!("t:{tenant}:");
    let (ours, theirs) = (keys_under(&source, &prefix).await, keys_under(&target, &prefix).await);
    assert!(written.load(Ordering::SeqCst) > 0, "the writer wrote while the keys were followed");
    let differs: Vec<&String> = ours.keys().filter(|key| ours.get(*key) != theirs.get(*key)).take(3).collect();
    assert!(differs.is_empty() && ours.len() == theirs.len(), "{differs:?} of {} and {}", ours.len(), theirs.len());
    assert!(keys_under(&target, &format!("t:{neighbour}:")).await.is_empty(), "a neighbour's key went along");
    let left: i64 = connect(&target).await.ttl(format!("t:{tenant}:session")).await.unwrap();
    assert!((3_000..=3_600).contains(&left), "{left} s left");

    // Back, with what was written since; then nothing of the tenant is left in the new place.
    let () = connect(&target).await.set(format!("t:{tenant}:later"), "new").await.unwrap();
    let () = connect(&target).await.del(format!("t:{tenant}:hash")).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    let back = spec.back();
    cut_over(&back, &plan, &*ownership).await.unwrap();
    let home = keys_under(&source, &prefix).await;
    assert!(home.contains_key(&format!("t:{tenant}:later")) && !home.contains_key(&format!("t:{tenant}:hash")));
    let row = ownership.read().await.unwrap();
    berth_mover::retire(&back, &plan, true, row.token).await.unwrap();
    berth_mover::release(&back, &plan, &*ownership, &Watch::default()).await.unwrap();
    assert!(keys_under(&target, &prefix).await.is_empty(), "keys were left behind");
    assert_eq!(keys_under(&source, &format!("t:{neighbour}:")).await.len(), 3_008);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_given_up_leaves_no_key_in_the_target() {
    let Some(source) = TestRedis::start(&[]).await else { return };
    let target = TestRedis::start(&[]).await.unwrap();
    let two = Two::filled(100).await;
    fill(&source, &two.tenant.to_string(), &two.neighbour.to_string()).await;
    let spec = with_keys(two.spec(), &source, &target);
    let ownership = Arc::new(MemoryOwnership::new());
    let (plan, _) = until_built(&spec, &*ownership).await;
    // Nobody is ever quiet: edges that never hold.
    let tuning = berth_mover::Tuning { pause_most_ms: 0, attempts: 2, ..spec.tuning.clone() };
    let hurried = MoveSpec { tuning, ..spec.clone() };
    assert!(matches!(cut_over(&hurried, &plan, &*ownership).await, Err(MoveError::NoMoment { .. })));
    let prefix = format!("t:{}:", two.tenant);
    assert_eq!(keys_under(&target, &prefix).await.len(), 3_008, "they had been copied");
    let token = berth_mover::give_up(&spec, &*ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, false, token).await.unwrap();
    assert!(keys_under(&target, &prefix).await.is_empty());
    assert_eq!(keys_under(&source, &prefix).await.len(), 3_008);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_cannot_take_is_said_before_anything_is_touched() {
    let Some(source) = TestRedis::start(&[]).await else { return };
    let evicts = TestRedis::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]).await.unwrap();
    let nodes = tempfile::tempdir().unwrap();
    let nodes = nodes.path().to_string_lossy();
    let cluster = TestRedis::start(&["--cluster-enabled", "yes", "--dir", nodes.as_ref()]).await.unwrap();
    let two = Two::filled(10).await;
    let spec = with_keys(two.spec(), &source, &evicts);
    let refused = async |keys: KeysBeside| {
        let spec = MoveSpec { beside: Beside { keys: Some(keys), objects: None }, ..spec.clone() };
        match berth_mover::plan(&spec).await {
            Err(MoveError::Obstacles(found)) => found,
            other => panic!("{other:?}"),
        }
    };
    let keys = spec.beside.keys.clone().unwrap();
    let store = KeysBeside { store: true, ..keys.clone() };
    assert_eq!(
        refused(store.clone()).await,
        [Obstacle::KeysEvicted { policy: "allkeys-lru".into() }, Obstacle::KeysNotKept]
    );
    let shared = KeysBeside { alone: false, target: source.url().into(), ..store };
    assert_eq!(refused(shared).await, [Obstacle::KeysOfAStore, Obstacle::KeysNotKept]);
    let prefix = "t:{tenant}-".to_owned();
    let ambiguous = refused(KeysBeside { prefixes: vec![prefix.clone()], ..keys.clone() }).await;
    assert!(matches!(ambiguous.as_slice(), [Obstacle::PrefixOfOthers { .. }, ..]), "a uuid holds `-`: {ambiguous:?}");
    let found = refused(KeysBeside { target: cluster.url().into(), ..keys.clone() }).await;
    assert_eq!(found, [Obstacle::KeysInCluster { side: berth_mover::Side::Target }]);
    let nowhere = KeysBeside { target: "redis://127.0.0.1:1/0".to_owned().into(), ..keys };
    let spec = MoveSpec { beside: Beside { keys: Some(nowhere), objects: None }, ..spec.clone() };
    let error = berth_mover::plan(&spec).await.unwrap_err();
    assert_eq!((error.code(), error.fault()), ("beside_unreachable", berth_mover::Fault::Passing));
}

/// A dump is read by the version that wrote it and by later ones.
#[tokio::test(flavor = "multi_thread")]
async fn keys_travel_to_a_newer_redis_and_to_no_older_one() {
    let Some(older) = TestRedis::start_older(&[]).await else { return };
    let Some(newer) = TestRedis::start(&[]).await else { return };
    let two = Two::filled(10).await;
    let Err(MoveError::Obstacles(found)) = berth_mover::plan(&with_keys(two.spec(), &newer, &older)).await else {
        panic!("an older Redis cannot read them");
    };
    let [obstacle @ Obstacle::KeysVersion { source_version, target }] = found.as_slice() else { panic!("{found:?}") };
    assert!(source_version.starts_with("7.") && target == "6.2.5", "{obstacle}");
    assert!(obstacle.hint().contains("no older than in the source"), "{}", obstacle.hint());
    let up = berth_mover::plan(&with_keys(two.spec(), &older, &newer)).await.unwrap();
    assert_eq!(up.beside.len(), 1, "{:?}", up.beside);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_key_begins_like_anothers_prefix_keeps_its_keys() {
    let Some(source) = TestRedis::start(&[]).await else { return };
    let target = TestRedis::start(&[]).await.unwrap();
    let two = Two::with("create table customers (id text primary key)").await;
    let (tenant, lookalike) = (two.tenant.to_string(), format!("{}:eu", two.tenant));
    fill(&source, &tenant, &lookalike).await;
    fill(&target, &lookalike, &lookalike).await;
    for (database, key) in [(&two.source, &tenant), (&two.target, &lookalike)] {
        let client = two.client(database, berth_infra::Role::Mover).await;
        client.execute("insert into customers values ($1)", &[key]).await.unwrap();
    }
    let spec = with_keys(two.spec(), &source, &target);
    let in_the_way = Obstacle::PrefixOfOthers { prefix: "t:{tenant}:".into(), key: lookalike.clone() };
    let Err(MoveError::Obstacles(found)) = berth_mover::plan(&spec).await else { panic!("a plan was made") };
    assert_eq!(found, [in_the_way]);
    // Nor are they deleted with it: here the tenant lives where the other one does.
    let back = spec.back();
    let removed = berth_mover::remove_all(&back.source, &back.rules, &back.beside, &back.tenant).await;
    assert!(matches!(removed, Err(MoveError::Obstacles(_))), "{removed:?}");
    assert_eq!(keys_under(&target, &format!("t:{lookalike}:")).await.len(), 3_008);
    // Nor when it is the other way round, and the row that says so is gone.
    let root = two.client(&two.target, berth_infra::Role::Mover).await;
    root.execute("delete from customers where id = $1", &[&lookalike]).await.unwrap();
    let other = berth_domain::TenantKey::new(lookalike.clone()).unwrap();
    let removed = berth_mover::remove_all(&back.source, &back.rules, &back.beside, &other).await;
    assert!(matches!(removed, Err(MoveError::Obstacles(_))), "{removed:?}");
    assert_eq!(keys_under(&target, &format!("t:{lookalike}:")).await.len(), 3_008);
    berth_mover::remove_all(&spec.source, &spec.rules, &spec.beside, &spec.tenant).await.unwrap();
    assert!(keys_under(&source, &format!("t:{tenant}:text")).await.is_empty());
}

fn folder() -> (tempfile::TempDir, Archives) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    (dir, Arc::new(store))
}

async fn paths(place: &Archives) -> BTreeMap<String, Vec<u8>> {
    use futures_util::TryStreamExt;
    let listed: Vec<object_store::ObjectMeta> = place.list(None).try_collect().await.unwrap();
    let mut found = BTreeMap::new();
    for object in listed {
        let bytes = place.get(&object.location).await.unwrap().bytes().await.unwrap();
        found.insert(object.location.to_string(), bytes.to_vec());
    }
    found
}

async fn put(place: &Archives, at: &str, bytes: Vec<u8>) {
    place.put(&Path::parse(at).unwrap(), bytes.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_move_there_and_back_with_what_changed_meanwhile() {
    let two = Two::filled(100).await;
    let (tenant, neighbour) = (two.tenant.to_string(), two.neighbour.to_string());
    let ((_one, source), (_other, target)) = (folder(), folder());
    for owner in [&tenant, &neighbour] {
        for n in 0..50_usize {
            // One is larger than a part of a stream.
            let size = if n == 7 { 12 << 20 } else { n * 100 };
            put(&source, &format!("files/{owner}/{n}.bin"), vec![n as u8; size]).await;
        }
    }
    // Begins like the tenant's folder and is another's.
    put(&source, &format!("files/{tenant}x/1.bin"), vec![9]).await;
    let objects =
        ObjectsBeside { source: source.clone(), target: target.clone(), prefixes: vec!["files/{tenant}/".to_owned()] };
    let spec = MoveSpec { way_back: true, beside: Beside { keys: None, objects: Some(objects) }, ..two.spec() };
    let ownership = Arc::new(MemoryOwnership::new());
    let (plan, token) = until_built(&spec, &*ownership).await;
    assert_eq!(plan.beside[0].found, 50);
    assert_eq!(paths(&target).await.len(), 50, "copied beside the rows");
    put(&source, &format!("files/{tenant}/new.bin"), vec![1, 2, 3]).await;
    put(&source, &format!("files/{tenant}/3.bin"), b"changed".to_vec()).await;
    source.delete(&Path::parse(format!("files/{tenant}/4.bin")).unwrap()).await.unwrap();
    // Another process takes over: of what it finds there, neither size nor time says that it is old.
    let spec = MoveSpec { ahead: berth_mover::ReadAhead::default(), ..spec };
    let nine = format!("files/{tenant}/9.bin");
    put(&source, &nine, vec![0; 900]).await;
    put(&target, &nine, vec![9; 900]).await;
    cut_over(&spec, &plan, &*ownership).await.unwrap();
    let mut ours = paths(&source).await;
    ours.retain(|at, _| at.starts_with(&format!("files/{tenant}/")));
    assert!(ours == paths(&target).await, "{:?}", paths(&target).await.keys().collect::<Vec<_>>());

    // Written where a listing takes too long for the pause: it comes afterwards, and never over what is newer there.
    put(&source, &format!("files/{tenant}/late.bin"), b"late".to_vec()).await;
    put(&source, &format!("files/{tenant}/5.bin"), b"older".to_vec()).await;
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    put(&target, &format!("files/{tenant}/5.bin"), b"newer".to_vec()).await;
    let since = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(1);
    assert_eq!(berth_mover::bring_late_objects(&spec, &plan, since).await.unwrap(), 1);
    let later = since + jiff::SignedDuration::from_hours(1);
    target.delete(&Path::parse(format!("files/{tenant}/6.bin")).unwrap()).await.unwrap();
    assert_eq!(
        berth_mover::bring_late_objects(&spec, &plan, later).await.unwrap(),
        0,
        "what a user deleted stays deleted"
    );
    let theirs = paths(&target).await;
    assert_eq!(theirs[&format!("files/{tenant}/late.bin")], b"late");
    assert_eq!(theirs[&format!("files/{tenant}/5.bin")], b"newer");

    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    let back = spec.back();
    cut_over(&back, &plan, &*ownership).await.unwrap();
    let mut home = paths(&source).await;
    assert_eq!(home.len(), 50 + 1 + 50, "the neighbour's, the lookalike's and the tenant's");
    home.retain(|at, _| at.starts_with(&format!("files/{tenant}/")));
    assert!(home == theirs);
    let row = ownership.read().await.unwrap();
    berth_mover::retire(&back, &plan, true, row.token).await.unwrap();
    berth_mover::release(&back, &plan, &*ownership, &Watch::default()).await.unwrap();
    assert!(paths(&target).await.is_empty(), "objects were left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_and_a_bucket_that_both_cells_share_lose_nothing() {
    let Some(redis) = TestRedis::start(&[]).await else { return };
    let two = Two::filled(50).await;
    let (_one, place) = folder();
    let (at, prefix) = (format!("files/{}/1.bin", two.tenant), format!("t:{}:", two.tenant));
    put(&place, &at, vec![1]).await;
    fill(&redis, &two.tenant.to_string(), &two.neighbour.to_string()).await;
    let objects =
        ObjectsBeside { source: place.clone(), target: place.clone(), prefixes: vec!["files/{tenant}/".to_owned()] };
    let mut spec = with_keys(MoveSpec { way_back: true, ..two.spec() }, &redis, &redis);
    spec.beside.objects = Some(objects);
    let ownership = Arc::new(MemoryOwnership::new());
    let (plan, token) = until_built(&spec, &*ownership).await;
    cut_over(&spec, &plan, &*ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    berth_mover::close_way_back(&spec).await.unwrap();
    berth_mover::release(&spec, &plan, &*ownership, &Watch::default()).await.unwrap();
    assert_eq!(paths(&place).await.into_keys().collect::<Vec<_>>(), [at]);
    assert_eq!(keys_under(&redis, &prefix).await.len(), 3_008);
}
