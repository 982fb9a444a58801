//! Crashes and failures at every point, for a workflow with a recorded point of no return and one that commits it.

mod support;

use berth_workflow::{Faults, MemoryJournal, Options, Outcome, Point, crash_tests, journal_conformance, testing};
use support::World;
use testing::TestWorld;

crash_tests!(create, async || World::create());
crash_tests!(hand_over, async || World::hand_over());
crash_tests!(switch, async || World::switch());
crash_tests!(waiting, async || World::waiting());

journal_conformance!(the_journal_in_memory_conforms, async || MemoryJournal::new());

#[tokio::test]
async fn a_kill_between_the_worlds_change_and_its_record_makes_nothing_twice() {
    let points = testing::points(&async || World::create()).await;
    let between: Vec<_> = points.iter().enumerate().filter(|(_, passed)| passed.point == Point::AfterRun).collect();
    assert_eq!(between.len(), 3, "each of the three steps that touch the world: {points:?}");
    for (nth, passed) in between {
        let (world, faults) = (World::create(), Faults::crash(nth));
        let id = world.start().await;
        let name = format!("acme-{}", if passed.seq == 0 { 1 } else { passed.seq });
        let turn = world.worker(Options { faults: faults.clone(), ..Options::named("a") }).turn().await.unwrap();
        assert!(matches!(turn, Some((_, Outcome::Crashed))), "{turn:?}");
        assert!(world.provider.holds.lock().unwrap().contains(&name), "the world has changed");
        let (_, steps) = world.journal().show(id).await.unwrap().unwrap();
        let last = steps.last().unwrap();
        assert_eq!((last.seq, last.state.as_str()), (passed.seq, "started"), "and the journal does not know");

        testing::carry_out(&world, id, &faults).await;
        let asked = world.provider.calls().iter().filter(|call| **call == format!("ensure {name}")).count();
        assert_eq!(asked, 2, "asked for twice");
        world.assert_done().await; // and created once
    }
}

/// Two workers, crashes by seed: whatever the order, one result.
#[tokio::test(start_paused = true)]
async fn two_workers_and_random_crashes_end_in_one_result() {
    let mut crashes = 0;
    for seed in 0..200 {
        let (world, faults) = (World::create(), Faults::random(seed, 0.15));
        let id = world.start().await;
        for turn in 0.. {
            assert!(turn < 500, "seed {seed}: no end: {:?}", world.journal().show(id).await);
            let options = |name| Options { faults: faults.clone(), ..Options::named(name) };
            let (a, b) = (world.worker(options("a")), world.worker(options("b")));
            let (a, b) = tokio::join!(a.turn(), b.turn());
            assert!(a.unwrap().is_none() || b.unwrap().is_none(), "seed {seed}: both had it");
            if testing::make_due(&*world.journal(), id).await.is_final() {
                break;
            }
        }
        crashes += faults.crashes();
        world.assert_done().await;
    }
    assert!(crashes > 200, "only {crashes} crashes: the seeds show nothing");
}
