//! The ownership protocol as a model: two movers, an edge, delayed and lost messages, an undo, writers everywhere.
//!
//! The control row changes through [`Control::after`], the function that the stores evaluate too. A crash is a mover
//! that is never heard of again, so every crash at every point is among the behaviours; what it had sent may still
//! arrive at any later time. Taking any one guard away has to make the checker find a counterexample.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use berth_domain::{CellId, Generation, MovePhase, Token};
use berth_mover::{Change, Control, Refusal};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;
use uuid::Uuid;

/// What keeps the protocol safe. Each is taken away in a test of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    /// The control row refuses an older token.
    ControlToken,
    /// A cell refuses an older token.
    CellToken,
    /// A batch is applied at exactly the position that it was read for.
    Position,
    /// The source is closed before the owner changes.
    Arm,
    /// Everything before the marker of the arming is applied before the owner changes.
    Marker,
    /// A mover that does not know whether it has committed takes a new token before it opens the source.
    TokenAfterDoubt,
    /// The target opens after the owner has changed.
    Commit,
    /// The edge holds before the source is closed.
    Hold,
    /// A fence is made by a worker whose token is the control row's last.
    Confirm,
    /// Whoever takes a fence away ends the sessions that could make it anew.
    Sessions,
}

const CELLS: [u128; 2] = [1, 2];
/// Writes that clients offer, over all.
const WRITES: usize = 2;
/// Attempts at the cut-over of one mover.
const ATTEMPTS: u8 = 2;

fn cell_id(nth: usize) -> CellId {
    CellId::new(Uuid::from_u128(CELLS[nth]))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Entry {
    Write(u8),
    Marker(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Cell {
    open: bool,
    /// Without one everybody gets through, and nothing is known of tokens.
    fenced: bool,
    token: Token,
    /// What clients and markers wrote here, in commit order: the change stream.
    log: Vec<Entry>,
    /// Entries of the other cell's log that are applied here.
    applied: usize,
    /// How often each write is here.
    rows: [u8; WRITES],
}

/// What a mover asks of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Ask {
    Register,
    Arm,
    Open,
    Apply(usize),
}

/// Sent, and neither arrived nor lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Mail {
    mover: usize,
    token: u64,
    to: To,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum To {
    Control(Wish),
    Cell(usize, Ask),
}

/// [`Change`] in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Wish {
    Take,
    Begin,
    Hold,
    Commit,
    Release,
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    Take,
    Begin,
    RegisterSource,
    RegisterTarget,
    Hold,
    AwaitHeld,
    Arm,
    AwaitMarker,
    Commit,
    OpenTarget,
    Finish,
    /// After an answer that did not come: whether it has committed is not known.
    Doubt,
    OpenSource,
    Release,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Mover {
    step: Step,
    /// Waits for the answer of its step.
    asked: bool,
    token: u64,
    attempts: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    control: Control,
    cells: [Cell; 2],
    movers: [Mover; 2],
    mail: BTreeSet<Mail>,
    /// What the edge last read: owner, and whether it holds.
    edge: (usize, bool),
    acknowledged: [bool; WRITES],
    offered: usize,
    /// The direction: from this cell to the other.
    source: usize,
    undone: bool,
    failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    /// A mover does its next step, or sends it.
    Go(usize),
    Deliver(Mail, Answer),
    Lose(Mail),
    GiveUpWaiting(usize),
    /// The applier of a mover sends what comes next in the stream.
    Apply(usize),
    /// The stream sends from its beginning once more: what the slot has confirmed is older than what is applied.
    ApplyAgain(usize),
    EdgeReads,
    WriteThroughEdge,
    WritePastEdge(usize),
    Undo,
    /// The move is settled: nothing of it stays where the tenant lives.
    Unfence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Heard,
    Lost,
}

/// What may follow a move that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Nothing,
    Undo,
    Unfence,
}

struct Protocol {
    without: Option<Guard>,
    then: Then,
    /// Every message arrives and is answered, at any time: fewer behaviours, for what breaks without any of that.
    quiet: bool,
    tokens: u64,
    mail: usize,
}

impl Protocol {
    fn has(&self, guard: Guard) -> bool {
        self.without != Some(guard)
    }

    /// The mover's own transition function, with a guard taken out where that is asked for.
    fn control_after(&self, row: Control, held: Token, change: Change) -> Result<Control, Refusal> {
        let held = if self.has(Guard::ControlToken) || change == Change::Take { held } else { row.token };
        row.after(held, change)
    }

    fn change(state: &State, wish: Wish) -> Change {
        match wish {
            Wish::Take => Change::Take,
            Wish::Begin => Change::Begin { target: cell_id(1 - state.source) },
            Wish::Hold => Change::Hold,
            Wish::Commit => Change::Commit,
            Wish::Release => Change::Release,
            Wish::Finish => Change::Finish,
        }
    }

    /// What a step sends; none for a step that only looks.
    fn request(state: &State, step: Step) -> Option<To> {
        let (source, target) = (state.source, 1 - state.source);
        Some(match step {
            Step::Take | Step::Doubt => To::Control(Wish::Take),
            Step::Begin => To::Control(Wish::Begin),
            Step::RegisterSource => To::Cell(source, Ask::Register),
            Step::RegisterTarget => To::Cell(target, Ask::Register),
            Step::Hold => To::Control(Wish::Hold),
            Step::Arm => To::Cell(source, Ask::Arm),
            Step::Commit => To::Control(Wish::Commit),
            Step::OpenTarget => To::Cell(target, Ask::Open),
            Step::Finish => To::Control(Wish::Finish),
            Step::OpenSource => To::Cell(source, Ask::Open),
            Step::Release => To::Control(Wish::Release),
            Step::AwaitHeld | Step::AwaitMarker | Step::Over => return None,
        })
    }

    /// A cell's own transition: whether it took the request. A fence that there is none of is made `open` or closed.
    fn cell_after(&self, cell: &mut Cell, other: &[Entry], open: bool, mail: &Mail, ask: Ask) -> bool {
        let (mover, token) = (mail.mover, mail.token);
        if !cell.fenced {
            if ask != Ask::Register {
                return false;
            }
            (cell.fenced, cell.open) = (true, open);
        }
        if self.has(Guard::CellToken) && Token::new(token) < cell.token {
            return false;
        }
        cell.token = cell.token.max(Token::new(token));
        match ask {
            Ask::Register => {}
            Ask::Arm => {
                cell.open = false;
                cell.log.push(Entry::Marker(mover as u8));
            }
            Ask::Open => cell.open = true,
            Ask::Apply(at) => {
                if cell.open || (self.has(Guard::Position) && cell.applied != at) {
                    return false;
                }
                if let Some(Entry::Write(id)) = other.get(at) {
                    let rows = &mut cell.rows[usize::from(*id)];
                    // Twice is as bad as any more.
                    *rows = (*rows + 1).min(2);
                }
                cell.applied = at + 1;
            }
        }
        true
    }

    /// What a mover does with the answer to its step.
    fn heard(&self, state: &mut State, nth: usize, control: Option<Result<Control, Refusal>>, taken: bool) {
        let target = 1 - state.source;
        let mover = &mut state.movers[nth];
        mover.asked = false;
        mover.step = match (mover.step, control) {
            (Step::Take | Step::Doubt, Some(Ok(row))) => {
                let doubt = mover.step == Step::Doubt;
                mover.token = row.token.get();
                match (row.phase, row.owner == cell_id(target)) {
                    (MovePhase::Committed, true) => Step::OpenTarget,
                    (MovePhase::Idle, true) => Step::Over,
                    _ if doubt || row.holding => Step::OpenSource,
                    _ => Step::Begin,
                }
            }
            (_, Some(Err(_))) | (Step::Finish, _) => Step::Over,
            (Step::Begin | Step::Release, _) => Step::RegisterSource,
            (Step::Hold, _) => Step::AwaitHeld,
            (Step::Commit, _) => Step::OpenTarget,
            (_, None) if !taken => Step::Over,
            (Step::RegisterSource, _) => Step::RegisterTarget,
            (Step::RegisterTarget, _) => {
                mover.attempts += 1;
                match (mover.attempts > ATTEMPTS, self.has(Guard::Commit)) {
                    (true, _) => Step::Over,
                    (_, false) => Step::OpenTarget,
                    (_, true) => Step::Hold,
                }
            }
            (Step::Arm, _) => {
                if self.has(Guard::Marker) {
                    Step::AwaitMarker
                } else {
                    Step::Commit
                }
            }
            (Step::OpenTarget, _) => Step::Finish,
            (Step::OpenSource, _) => Step::Release,
            (step, _) => step,
        };
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let cell = |open| Cell { open, fenced: true, token: Token::new(0), log: vec![], applied: 0, rows: [0; WRITES] };
        let mover = Mover { step: Step::Take, asked: false, token: 0, attempts: 0 };
        vec![State {
            control: Control {
                owner: cell_id(0),
                generation: Generation::new(1),
                token: Token::new(0),
                phase: MovePhase::Idle,
                target: None,
                holding: false,
            },
            cells: [cell(true), cell(false)],
            movers: [mover; 2],
            mail: BTreeSet::new(),
            edge: (0, false),
            acknowledged: [false; WRITES],
            offered: 0,
            source: 0,
            undone: self.then != Then::Undo,
            failed: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (nth, mover) in state.movers.iter().enumerate() {
            match mover.step {
                Step::Over => {}
                _ if mover.asked && self.quiet => {}
                _ if mover.asked => actions.push(Action::GiveUpWaiting(nth)),
                Step::AwaitHeld => {
                    if state.edge.1 || !self.has(Guard::Hold) {
                        actions.push(Action::Go(nth));
                    }
                    actions.push(Action::GiveUpWaiting(nth));
                }
                Step::AwaitMarker => {
                    let target = 1 - state.source;
                    let marker = state.cells[state.source].log.iter().rposition(|e| *e == Entry::Marker(nth as u8));
                    if marker.is_some_and(|at| state.cells[target].applied > at) {
                        actions.push(Action::Go(nth));
                    }
                    actions.push(Action::GiveUpWaiting(nth));
                }
                _ => actions.push(Action::Go(nth)),
            }
            let target = &state.cells[1 - state.source];
            let follows = mover.token > 0 && mover.step >= Step::Hold && mover.step <= Step::AwaitMarker;
            let next =
                Mail { mover: nth, token: mover.token, to: To::Cell(1 - state.source, Ask::Apply(target.applied)) };
            if follows && target.applied < state.cells[state.source].log.len() && !state.mail.contains(&next) {
                actions.push(Action::Apply(nth));
            }
            if follows && target.applied == 1 && !self.quiet {
                actions.push(Action::ApplyAgain(nth));
            }
        }
        for mail in &state.mail {
            actions.push(Action::Deliver(*mail, Answer::Heard));
            if !self.quiet {
                actions.extend([Action::Deliver(*mail, Answer::Lost), Action::Lose(*mail)]);
            }
        }
        actions.push(Action::EdgeReads);
        if state.offered < WRITES {
            if !state.edge.1 {
                actions.push(Action::WriteThroughEdge);
            }
            actions.extend([Action::WritePastEdge(0), Action::WritePastEdge(1)]);
        }
        let ended = state.movers.iter().all(|mover| mover.step == Step::Over);
        if !state.undone && ended && state.control.phase == MovePhase::Idle && state.control.owner == cell_id(1) {
            actions.push(Action::Undo);
        }
        let lives_there = state.control.phase == MovePhase::Idle && state.control.owner == cell_id(1);
        if lives_there && self.then == Then::Unfence && state.cells[1].fenced && state.cells[1].open {
            actions.push(Action::Unfence);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Go(nth) => {
                let step = state.movers[nth].step;
                let makes = matches!(step, Step::RegisterSource | Step::RegisterTarget);
                let last = state.control.token == Token::new(state.movers[nth].token);
                match Self::request(&state, step) {
                    Some(_) if makes && !last && self.has(Guard::Confirm) => state.movers[nth].step = Step::Over,
                    Some(to) => {
                        let mail = Mail { mover: nth, token: state.movers[nth].token, to };
                        if !state.mail.insert(mail) {
                            return None;
                        }
                        state.movers[nth].asked = true;
                    }
                    None if step == Step::AwaitHeld => {
                        state.movers[nth].step = if self.has(Guard::Arm) { Step::Arm } else { Step::Commit };
                    }
                    None => state.movers[nth].step = Step::Commit,
                }
            }
            Action::Lose(mail) => {
                state.mail.remove(&mail);
            }
            Action::GiveUpWaiting(nth) => {
                let mover = &mut state.movers[nth];
                mover.asked = false;
                mover.step = match mover.step {
                    Step::Hold | Step::AwaitHeld | Step::Arm | Step::AwaitMarker | Step::Commit
                        if !self.has(Guard::TokenAfterDoubt) =>
                    {
                        Step::OpenSource
                    }
                    Step::Take | Step::Begin | Step::RegisterSource | Step::RegisterTarget => Step::Take,
                    Step::OpenTarget => Step::OpenTarget,
                    Step::Over => Step::Over,
                    _ => Step::Doubt,
                };
            }
            Action::Apply(nth) | Action::ApplyAgain(nth) => {
                let again = matches!(action, Action::ApplyAgain(_));
                let at = if again { 0 } else { state.cells[1 - state.source].applied };
                let to = To::Cell(1 - state.source, Ask::Apply(at));
                state.mail.insert(Mail { mover: nth, token: state.movers[nth].token, to });
            }
            Action::Deliver(mail, answer) => {
                state.mail.remove(&mail);
                let waits = {
                    let mover = &state.movers[mail.mover];
                    mover.asked
                        && mover.token == mail.token
                        && Self::request(&state, mover.step).is_some_and(|to| to == mail.to)
                };
                let (mut control, mut taken) = (None, true);
                match mail.to {
                    To::Control(wish) => {
                        let change = Self::change(&state, wish);
                        let after = self.control_after(state.control, Token::new(mail.token), change);
                        if let Ok(row) = after {
                            state.control = row;
                        }
                        control = Some(after);
                    }
                    To::Cell(nth, ask) => {
                        let other = state.cells[1 - nth].log.clone();
                        let open = nth == state.source;
                        taken = self.cell_after(&mut state.cells[nth], &other, open, &mail, ask);
                    }
                }
                if waits && answer == Answer::Heard {
                    self.heard(&mut state, mail.mover, control, taken);
                }
            }
            Action::EdgeReads => {
                let owner = usize::from(state.control.owner == cell_id(1));
                state.edge = (owner, state.control.holding);
            }
            Action::WriteThroughEdge => {
                let cell = state.edge.0;
                write(&mut state, cell, true);
            }
            Action::WritePastEdge(cell) => write(&mut state, cell, false),
            Action::Unfence => {
                state.control.token = state.control.token.next();
                state.cells[1].fenced = false;
                state.cells[1].token = Token::new(0);
                if self.has(Guard::Sessions) {
                    state.mail.retain(|mail| mail.to != To::Cell(1, Ask::Register));
                }
            }
            Action::Undo => {
                state.undone = true;
                state.source = 1;
                state.movers = [Mover { step: Step::Take, asked: false, token: 0, attempts: 0 }; 2];
            }
        }
        (state != *last).then_some(state)
    }

    /// As far as is looked: so many workers in all, so many messages under way at once.
    fn within_boundary(&self, state: &State) -> bool {
        state.control.token.get() <= self.tokens && state.mail.len() <= self.mail
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one owner", |_, state: &State| !(state.cells[0].open && state.cells[1].open)),
            Property::always("nothing lost", |_, state: &State| {
                state.cells.iter().filter(|cell| cell.open).all(|cell| {
                    state.acknowledged.iter().zip(cell.rows).all(|(acknowledged, rows)| !acknowledged || rows > 0)
                })
            }),
            Property::always("nothing twice", |_, state: &State| {
                state.cells.iter().all(|cell| cell.rows.iter().all(|rows| *rows <= 1))
            }),
            Property::always("no request fails", |_, state: &State| !state.failed),
            Property::sometimes("it moves", |_, state: &State| {
                state.cells[1].open && state.control.phase == MovePhase::Idle && state.acknowledged[0]
            }),
            Property::sometimes("an attempt is given up", |_, state: &State| {
                state.cells[0].open && state.control.phase == MovePhase::Running && state.movers[0].attempts > 1
            }),
        ]
    }
}

/// A client offers a write to a cell. Through the edge it must not be refused while the edge knows the owner.
fn write(state: &mut State, cell: usize, through_edge: bool) {
    let id = state.offered;
    if state.cells[cell].open {
        state.offered += 1;
        state.cells[cell].rows[id] += 1;
        state.cells[cell].log.push(Entry::Write(id as u8));
        state.acknowledged[id] = true;
    } else if through_edge {
        let knows = cell_id(cell) == state.control.owner;
        // Refused by the cell that owns the tenant, to an edge that was not asked to hold in time.
        state.failed |= knows;
    }
}

/// In `scripts/test` two workers a direction and one message under way at once; `scripts/soak model` asks for more.
#[expect(clippy::disallowed_methods, reason = "how far a soak looks comes from its script")]
fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn holds(then: Then, tokens: u64) {
    let (tokens, mail) = (asked("BERTH_MODEL_TOKENS", tokens), asked("BERTH_MODEL_MAIL", 1) as usize);
    let protocol = Protocol { without: None, then, quiet: false, tokens, mail };
    let checked = protocol.checker().threads(2).spawn_bfs().join();
    checked.assert_properties();
    println!(
        "then {then:?}: {} states, depth {}, {tokens} tokens, {mail} messages at once",
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

/// Without the guard one of these properties has a counterexample.
fn falls(without: Guard, properties: &[&'static str]) {
    let ends = matches!(without, Guard::Confirm | Guard::Sessions);
    let then = if ends { Then::Unfence } else { Then::Nothing };
    let protocol = Protocol { without: Some(without), then, quiet: ends, tokens: 3, mail: 2 };
    let enough = HasDiscoveries::AnyOf(properties.iter().copied().collect());
    // In depth: what a dead worker sent arrives late.
    let checked = protocol.checker().threads(2).finish_when(enough).spawn_dfs().join();
    let found: Vec<&str> = checked.discoveries().into_keys().collect();
    assert!(found.iter().any(|name| properties.contains(name)), "without {without:?} the checker found {found:?}");
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
}
