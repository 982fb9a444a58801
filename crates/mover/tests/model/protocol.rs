//! The model: its state, its events, and what each of them does.

use berth_domain::{CellId, Generation, MovePhase, Token};
use berth_mover::{Change, Control, Refusal};
use stateright::{Model, Property};
use std::collections::BTreeSet;
use uuid::Uuid;

/// What keeps the protocol safe, and what would if a mover did not keep to it. Each is taken away in a test of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
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
    /// The control row refuses what its phase does not allow. A move that is given up relies on it alone here: the mover
    /// also looks at who the owner is.
    Phase,

    // Second barriers. What each of them refuses no mover asks for that keeps to the others: the checker finds nothing
    // without one of them.
    /// The control row commits only what is held. Every mover holds before it arms, and arms before it commits.
    Holding,
    /// A cell that is open takes nothing from the stream. All before the marker is applied by then, and a closed cell makes no more.
    Closed,
    /// A cell without a fence takes nothing but a new one. Its fence goes when nobody moves the tenant any more.
    Fenced,
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
pub enum Entry {
    Write(u8),
    Marker(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
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
pub enum Ask {
    Register,
    Arm,
    Open,
    Apply(usize),
}

/// Sent, and neither arrived nor lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mail {
    mover: usize,
    token: u64,
    to: To,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum To {
    Control(Wish),
    Cell(usize, Ask),
}

/// [`Change`] in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wish {
    Take,
    Begin,
    Hold,
    Commit,
    Abort,
    Release,
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
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
    /// The first step of a worker that gives the move up.
    GiveUp,
    Abort,
    OpenAborted,
    FinishAborted,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mover {
    step: Step,
    /// Waits for the answer of its step.
    asked: bool,
    token: u64,
    attempts: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
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
pub enum Action {
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
pub enum Answer {
    Heard,
    Lost,
}

/// What may follow a move that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    Undo,
    Unfence,
    /// At any moment of it: the second worker gives the move up.
    GivenUp,
}

#[derive(Clone, Copy)]
pub struct Protocol {
    pub without: Option<Guard>,
    pub then: Then,
    /// Every message arrives and is answered, at any time: fewer behaviours, for what breaks without any of that.
    pub quiet: bool,
    pub tokens: u64,
    pub mail: usize,
}

impl Protocol {
    fn has(&self, guard: Guard) -> bool {
        self.without != Some(guard)
    }

    /// The mover's own transition function, with a guard taken out where that is asked for.
    fn control_after(&self, row: Control, held: Token, change: Change) -> Result<Control, Refusal> {
        let held = if self.has(Guard::ControlToken) || change == Change::Take { held } else { row.token };
        match row.after(held, change) {
            Err(Refusal::WrongPhase { .. }) if !self.has(Guard::Phase) => {
                Control { phase: MovePhase::Running, ..row }.after(held, change)
            }
            Err(Refusal::NotHolding) if !self.has(Guard::Holding) => {
                Control { holding: true, ..row }.after(held, change)
            }
            after => after,
        }
    }

    fn change(state: &State, wish: Wish) -> Change {
        match wish {
            Wish::Take => Change::Take,
            Wish::Begin => Change::Begin { target: cell_id(1 - state.source) },
            Wish::Hold => Change::Hold,
            Wish::Commit => Change::Commit,
            Wish::Abort => Change::Abort,
            Wish::Release => Change::Release,
            Wish::Finish => Change::Finish,
        }
    }

    /// What a step sends; none for a step that only looks.
    fn request(state: &State, step: Step) -> Option<To> {
        let (source, target) = (state.source, 1 - state.source);
        Some(match step {
            Step::Take | Step::Doubt | Step::GiveUp => To::Control(Wish::Take),
            Step::Begin => To::Control(Wish::Begin),
            Step::RegisterSource => To::Cell(source, Ask::Register),
            Step::RegisterTarget => To::Cell(target, Ask::Register),
            Step::Hold => To::Control(Wish::Hold),
            Step::Arm => To::Cell(source, Ask::Arm),
            Step::Commit => To::Control(Wish::Commit),
            Step::OpenTarget => To::Cell(target, Ask::Open),
            Step::Finish | Step::FinishAborted => To::Control(Wish::Finish),
            Step::OpenSource | Step::OpenAborted => To::Cell(source, Ask::Open),
            Step::Abort => To::Control(Wish::Abort),
            Step::Release => To::Control(Wish::Release),
            Step::AwaitHeld | Step::AwaitMarker | Step::Over => return None,
        })
    }

    /// A cell's own transition: whether it took the request. A fence that there is none of is made `open` or closed.
    fn cell_after(&self, cell: &mut Cell, other: &[Entry], open: bool, mail: &Mail, ask: Ask) -> bool {
        let (mover, token) = (mail.mover, mail.token);
        if !cell.fenced && ask == Ask::Register {
            (cell.fenced, cell.open) = (true, open);
        } else if !cell.fenced && self.has(Guard::Fenced) {
            return false;
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
                let refused = cell.open && self.has(Guard::Closed);
                if refused || (self.has(Guard::Position) && cell.applied != at) {
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
                    // Refused then, whether edges hold or not.
                    (MovePhase::Aborting, _) if !doubt => Step::Begin,
                    _ if doubt || row.holding => Step::OpenSource,
                    _ => Step::Begin,
                }
            }
            (Step::GiveUp, Some(Ok(row))) => {
                mover.token = row.token.get();
                Step::Abort
            }
            (_, Some(Err(_))) | (Step::Finish | Step::FinishAborted, _) => Step::Over,
            (Step::Abort, _) => Step::OpenAborted,
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
            (Step::OpenAborted, _) => Step::FinishAborted,
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
        let second = if self.then == Then::GivenUp { Step::GiveUp } else { Step::Take };
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
            movers: [mover, Mover { step: second, ..mover }],
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
                    Step::GiveUp | Step::Abort | Step::OpenAborted | Step::FinishAborted => Step::GiveUp,
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
        let mut all: Vec<Property<Self>> = vec![
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
        ];
        if self.then == Then::GivenUp {
            all.push(Property::sometimes("a move is given up", |_, state: &State| {
                state.cells[0].open
                    && state.movers[1].step == Step::FinishAborted
                    && state.control.phase == MovePhase::Aborting
            }));
        }
        all
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
