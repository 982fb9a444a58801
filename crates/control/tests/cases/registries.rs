//! Accounts at registries: who pulls with which, and that a password is kept and shown nowhere.

use crate::{
    releases::{over, roll},
    upkeep::serving,
    world::{STACK, World, artifact, change, read},
};
use berth_control::{registries, releases};
use berth_domain::RollState;
use berth_infra::{MemberName, Source};
use berth_testkit::wait_until;
use berth_wire as wire;
use std::collections::BTreeMap;

/// The account that a member's image was pulled with, which is readable in no table: journal, audit trail, operations.
async fn pulled_with(world: &World) -> (String, String) {
    let number = world.release(&["web"], 1).await;
    serving(world, async {
        roll(world, number).await.unwrap();
        assert_eq!(over(world).await.state, RollState::Done);
    })
    .await;
    let given = world.fake.member_source(&MemberName::new("shared-1.web.0.r1").unwrap());
    let Some(Source::Artifact { login: Some(login), .. }) = given else { panic!("no account was given: {given:?}") };
    let client = world.control.connect(berth_infra::Role::Owner).await;
    for table in ["audit", "operations", "operation_steps", "registries", "roll_cells", "stack_revisions"] {
        let found = client
            .query_one(&format!("SELECT count(*) FROM {table} t WHERE t::text LIKE '%planted%'"), &[])
            .await
            .unwrap();
        assert_eq!(found.get::<_, i64>(0), 0, "{table}");
    }
    (login.user, secrecy::ExposeSecret::expose_secret(&login.password).to_owned())
}

#[tokio::test]
async fn the_password_of_a_registry_goes_in_and_comes_out_nowhere() {
    let world = World::new().await;
    let put = async |host: &str, password: &str| {
        let wanted = wire::RegistryPut { host: host.into(), user: "puller".into(), password: password.into() };
        registries::put(&world.app, &change(), wanted).await
    };
    put("registry.test", "planted-one").await.unwrap();
    put("registry.test", "planted-two").await.unwrap();
    assert_eq!(put("https://x/", "planted").await.unwrap_err().code(), "bad_registry");
    let shown = registries::list(&world.app, &read()).await.unwrap();
    assert_eq!(
        shown.iter().map(|one| (one.host.as_str(), one.user.as_str())).collect::<Vec<_>>(),
        [("registry.test", "puller")]
    );
    let (user, password) = pulled_with(&world).await;
    assert_eq!((user.as_str(), password.as_str()), ("puller", "planted-two"));
    registries::remove(&world.app, &change(), "registry.test").await.unwrap();
    assert!(registries::list(&world.app, &read()).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_account_that_the_stack_file_names_pulls_and_its_password_is_kept_nowhere() {
    let world = World::new().await;
    // Somebody added another one before: the file has the word.
    let wanted = wire::RegistryPut { host: "registry.test".into(), user: "old".into(), password: "older".into() };
    registries::put(&world.app, &change(), wanted).await.unwrap();
    let own = "registries: { registry.test: { user: shop-bot, password: '${PULL_PASSWORD}' } }\n";
    world.apply(&(STACK.to_owned() + own)).await.unwrap();
    world.finish().await;
    let shown = registries::list(&world.app, &read()).await.unwrap();
    let shown: Vec<_> =
        shown.iter().map(|one| (one.host.as_str(), one.user.as_str(), one.changed_by.as_str())).collect();
    assert_eq!(shown, [("registry.test", "shop-bot", "stack file")]);
    let (user, password) = pulled_with(&world).await;
    assert_eq!((user.as_str(), password.as_str()), ("shop-bot", "planted-three"));
}

#[tokio::test]
async fn what_comes_from_no_registry_needs_no_password_of_one_and_an_empty_one_is_refused() {
    let mut world = World::new().await;
    let restarted = |world: &mut World, variables: &[(&str, &str)]| {
        world.environment = variables.iter().copied().collect();
        world.app = world.another();
    };
    let file = STACK.replace("data:\n", "  job: { command: [job], role: worker }\ndata:\n")
        + "registries: { registry.test: { user: shop-bot, password: '${PULL}' } }\n";
    restarted(&mut world, &[("PULL", "")]);
    let refused = world.apply(&file).await.unwrap_err();
    assert!(refused.full().contains("this password is empty"), "{}", refused.full());
    restarted(&mut world, &[("PULL", "x")]);
    world.apply(&file).await.unwrap();
    world.finish().await;
    let release = async |world: &World, n: u8| {
        let services = BTreeMap::from([("job".to_owned(), artifact("job", n).to_string())]);
        releases::create(&world.app, &change(), &wire::ReleaseCreate { services }).await.unwrap().0.number
    };
    let first = release(&world, 1).await;
    serving(&world, async {
        roll(&world, first).await.unwrap();
        assert_eq!(over(&world).await.state, RollState::Done);
    })
    .await;

    // A server that was started without it.
    restarted(&mut world, &[]);
    serving(&world, async {
        // What runs is on its host: neither the member that is no image nor the one that is has to be fetched.
        let members = world.members(None).await;
        let (web, job) =
            (members.iter().find(|it| it.contains(".web.")), members.iter().find(|it| it.contains(".job.")));
        for name in [web.unwrap(), job.unwrap()] {
            world.fake.member_dies(&MemberName::new(name).unwrap());
        }
        let restarts = async || world.store.member_list(None).await.unwrap().iter().map(|m| m.restarts).sum::<i64>();
        wait_until("both are started again", restarts, |restarts| *restarts == 2).await;
    })
    .await;

    restarted(&mut world, &[("PULL", "")]);
    let second = release(&world, 2).await;
    serving(&world, async {
        roll(&world, second).await.unwrap();
        let ended = over(&world).await;
        let reason = ended.reason.unwrap();
        assert!(reason.contains("the password of the registry `registry.test` is empty"), "{reason}");
        assert_eq!(ended.state, RollState::Stopped);
    })
    .await;
}
