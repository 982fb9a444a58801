//! Who owns a tenant, and the one transition function through which that changes.
//!
//! The control row is the only truth about ownership. It is changed by compare-and-set and never by a decision
//! taken on an earlier read: [`Control::after`] is pure, and an implementation of [`Ownership`] evaluates it
//! inside the transaction that stores the outcome. This file never talks to a database.

use async_trait::async_trait;
use berth_domain::{CellId, Generation, MovePhase, Token};
use serde::{Deserialize, Serialize};

/// A tenant's control row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Control {
    pub owner: CellId,
    pub generation: Generation,
    /// The highest token handed out; whoever holds a lower one is refused.
    pub token: Token,
    pub phase: MovePhase,
    /// Where the move under way goes to; none while idle.
    pub target: Option<CellId>,
    /// Edges have been told to park what may write.
    pub holding: bool,
}

/// What a worker asks of the control row. Each but `Take` names the worker's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Change {
    /// Become the one worker that may act: raises the token. Allowed in every phase.
    Take,
    /// `idle → running`: a move to `target` begins.
    Begin { target: CellId },
    /// Edges are to park what may write. Only while running.
    Hold,
    /// `running → committed`: owner and generation change. **The commit point.** Only while holding.
    Commit,
    /// `running → aborting`: the move will not happen.
    Abort,
    /// Edges may let go without the move being over: an attempt at the cut-over was given up.
    Release,
    /// `committed → idle` or `aborting → idle`: the side that owns the tenant is open.
    Finish,
}

/// Why a change was not made. The row is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("another worker has taken this move (token {held} is older than {current})")]
    OldToken { held: Token, current: Token },
    #[error("the tenant's move is {phase}, which does not allow this")]
    WrongPhase { phase: MovePhase },
    #[error("edges have not been told to hold")]
    NotHolding,
}

impl Control {
    /// The row after `change` by the worker that holds `held`, or why it is refused.
    pub fn after(self, held: Token, change: Change) -> Result<Self, Refusal> {
        use MovePhase as P;
        if change == Change::Take {
            return Ok(Self { token: self.token.next(), ..self });
        }
        if held != self.token {
            return Err(Refusal::OldToken { held, current: self.token });
        }
        let wrong = Err(Refusal::WrongPhase { phase: self.phase });
        match (change, self.phase) {
            (Change::Begin { target }, P::Idle) => Ok(Self { phase: P::Running, target: Some(target), ..self }),
            // A worker that lost the answer begins again: the same move is no second one.
            (Change::Begin { target }, P::Running) if self.target == Some(target) => Ok(self),
            (Change::Hold, P::Running) => Ok(Self { holding: true, ..self }),
            (Change::Release, P::Running) => Ok(Self { holding: false, ..self }),
            (Change::Commit, P::Running) if !self.holding => Err(Refusal::NotHolding),
            (Change::Commit, P::Running) => match self.target {
                Some(target) => Ok(Self {
                    owner: target,
                    generation: self.generation.next(),
                    phase: P::Committed,
                    target: None,
                    ..self
                }),
                None => wrong,
            },
            (Change::Abort, P::Running) => Ok(Self { phase: P::Aborting, ..self }),
            (Change::Finish, P::Committed | P::Aborting) => {
                Ok(Self { phase: P::Idle, target: None, holding: false, ..self })
            }
            // Asked again after a lost answer: it is so already.
            (Change::Abort, P::Aborting) | (Change::Finish, P::Idle) => Ok(self),
            _ => wrong,
        }
    }
}

/// What is known after asking for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is stored, durably; this is the row now.
    Changed(Control),
    /// It is not stored and never will be by this request.
    Refused(Refusal),
    /// The answer was lost: it may be stored, now or later. The worker takes a new token and looks again.
    Unknown,
}

/// The control row of one tenant, wherever it is kept.
///
/// Edges see the row: an implementation publishes the tenant's route *in the transaction* that stores `Hold`
/// (held, old cell), `Release` (serving, old cell), `Commit` (still held, but the new cell and generation, so that
/// every edge has them before any write is let go) and `Finish` (serving). `Take`, `Begin` and `Abort` change
/// nothing that edges see.
#[async_trait]
pub trait Ownership: Send + Sync {
    /// The row as last committed. `None`: the store did not answer. Nothing may be *decided* on a read alone.
    async fn read(&self) -> Option<Control>;
    /// Evaluates [`Control::after`] on the present row and stores its outcome, in one transaction.
    async fn change(&self, held: Token, change: Change) -> Verdict;
}
