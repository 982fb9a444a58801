//! The ownership protocol as a model: two movers, an edge, delayed and lost messages, an undo, a move that is given up,
//! writers everywhere.
//!
//! The control row changes through [`Control::after`], the function that the stores evaluate too. A crash is a mover
//! that is never heard of again, so every crash at every point is among the behaviours; what it had sent may still
//! arrive at any later time. Taking any one of eleven guards away has to make the checker find a counterexample.
//!
//! Three more are second barriers and no guards in that sense: what each refuses, no mover asks for that keeps to the protocol, and
//! without one of them the checker finds nothing. They stand for what the model leaves out, which is a mover with a mistake in it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod protocol;

use protocol::{Guard, Protocol, Then};
use stateright::{Checker, HasDiscoveries, Model};

/// In `scripts/test` two workers a direction and one message under way at once; `scripts/soak model` asks for more.
#[expect(clippy::disallowed_methods, reason = "how far a soak looks comes from its script")]
fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn holds(then: Then, tokens: u64) {
    let (tokens, mail) = (asked("BERTH_MODEL_TOKENS", tokens), asked("BERTH_MODEL_MAIL", 1) as usize);
    proven(Protocol { without: None, then, quiet: false, tokens, mail });
}

fn proven(protocol: Protocol) {
    let checked = protocol.checker().threads(2).spawn_bfs().join();
    checked.assert_properties();
    let Protocol { without, then, tokens, mail, .. } = protocol;
    println!(
        "then {then:?}, without {without:?}: {} states, depth {}, {tokens} tokens, {mail} messages at once",
        checked.unique_state_count(),
        checked.max_depth()
    );
}

#[test]
fn a_move_has_one_owner_and_loses_nothing() {
    holds(Then::Nothing, 3);
}

#[test]
fn so_has_a_move_that_is_undone() {
    holds(Then::Undo, 3);
}

#[test]
fn and_one_whose_fence_is_taken_away() {
    holds(Then::Unfence, 3);
}

#[test]
fn and_one_that_is_given_up_meanwhile() {
    holds(Then::GivenUp, 3);
}

/// Without the guard one of these properties has a counterexample, and it is the guard that it needs: with it, the same
/// events break nothing. (That none do at this bound is what `scripts/soak model` looks at, by its defaults.)
fn falls(without: Guard, properties: &[&'static str]) {
    let then = match without {
        Guard::Confirm | Guard::Sessions => Then::Unfence,
        Guard::Phase => Then::GivenUp,
        _ => Then::Nothing,
    };
    let protocol = Protocol { without: Some(without), then, quiet: then != Then::Nothing, tokens: 3, mail: 2 };
    let enough = HasDiscoveries::AnyOf(properties.iter().copied().collect());
    // In depth: what a dead worker sent arrives late.
    let checked = protocol.checker().threads(2).finish_when(enough).spawn_dfs().join();
    let found = checked.discoveries();
    let names: Vec<&str> = found.keys().copied().collect();
    let broken = found.into_iter().find(|(name, _)| properties.contains(name));
    let Some((name, path)) = broken else { panic!("without {without:?} the checker found {names:?}") };
    let intact = Protocol { without: None, ..protocol };
    let property = intact.property(name);
    let mut state = intact.init_states().remove(0);
    for action in path.into_actions() {
        let mut open = Vec::new();
        intact.actions(&state, &mut open);
        // Refused, or nothing that could come now: the counterexample ends here.
        let Some(next) = open.contains(&action).then(|| intact.next_state(&state, action)).flatten() else { return };
        state = next;
        assert!((property.condition)(&intact, &state), "{name} breaks with {without:?} too, at {action:?}");
    }
}

macro_rules! every_guard_is_needed {
    ($($name:ident: $guard:ident => $properties:expr;)*) => {
        $(#[test] fn $name() { falls(Guard::$guard, &$properties); })*
    };
}

every_guard_is_needed! {
    an_older_token_is_refused_by_the_control_row: ControlToken => ["one owner", "nothing lost", "no request fails"];
    an_older_token_is_refused_by_a_cell: CellToken => ["one owner", "nothing lost"];
    a_batch_is_applied_at_its_position_only: Position => ["nothing twice"];
    the_source_is_closed_first: Arm => ["one owner", "nothing lost"];
    all_before_the_marker_is_applied: Marker => ["nothing lost"];
    doubt_is_settled_by_a_new_token: TokenAfterDoubt => ["one owner", "nothing lost"];
    the_target_opens_after_the_commit: Commit => ["one owner"];
    the_edge_holds_before_the_source_is_closed: Hold => ["no request fails"];
    a_fence_is_made_under_the_last_token: Confirm => ["no request fails"];
    sessions_that_could_make_it_anew_end_first: Sessions => ["no request fails"];
    what_the_phase_does_not_allow_is_refused: Phase => ["one owner"];
}

/// Looked at in full: that nothing breaks without one is what makes it a second barrier. One that is needed after all, because the
/// protocol has changed, fails here and belongs above.
macro_rules! second_barriers {
    ($($name:ident: $guard:ident, $then:ident, $tokens:literal;)*) => {
        $(#[test] fn $name() {
            let (without, then) = (Some(Guard::$guard), Then::$then);
            proven(Protocol { without, then, quiet: false, tokens: $tokens, mail: 1 });
        })*
    };
}

second_barriers! {
    nobody_commits_what_is_not_held: Holding, Nothing, 2;
    nothing_is_left_to_apply_when_a_cell_opens: Closed, Undo, 2;
    nothing_for_a_fence_that_is_gone_does_harm: Fenced, Unfence, 2;
}
