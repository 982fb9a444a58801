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

#[cfg(test)]
mod tests {
    use super::{Change, Control, Refusal};
    use berth_domain::{CellId, Generation, MovePhase as P, Token};
    use uuid::Uuid;

    /// Every change in every phase: what it leads to, or that it is refused. A change that is asked for again after a
    /// lost answer leaves the row as it is.
    #[test]
    fn the_whole_table_of_changes_is_as_it_is_written_here() {
        let (here, there, other) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        let changes = [
            ("begin", Change::Begin { target: CellId::new(there) }),
            ("begin another", Change::Begin { target: CellId::new(other) }),
            ("hold", Change::Hold),
            ("release", Change::Release),
            ("commit", Change::Commit),
            ("abort", Change::Abort),
            ("finish", Change::Finish),
        ];
        let mut table = String::new();
        for phase in [P::Idle, P::Running, P::Committed, P::Aborting] {
            for holding in [false, true] {
                let target = (phase == P::Running).then(|| CellId::new(there));
                let (owner, generation, token) = (CellId::new(here), Generation::new(4), Token::new(7));
                let row = Control { owner, generation, token, phase, target, holding };
                assert_eq!(row.after(token, Change::Take).map(|row| row.token), Ok(Token::new(8)));
                let old = Token::new(6);
                assert_eq!(row.after(old, Change::Abort), Err(Refusal::OldToken { held: old, current: token }));
                table += if holding { "held " } else { "" };
                table += &phase.to_string();
                for (name, change) in changes {
                    if let Ok(after) = row.after(token, change) {
                        let owner = if after.owner == row.owner { "" } else { " owner" };
                        let hold = if after.holding { " held" } else { "" };
                        let target = if after.target.is_some() { " to" } else { "" };
                        let parts = ["\n    ", name, ": ", after.phase.as_str(), owner, hold, target];
                        table += &parts.concat();
                        assert_eq!(after.generation.get(), 4 + u64::from(!owner.is_empty()));
                        assert_eq!(after.token, row.token);
                    }
                }
                table.push('\n');
            }
        }
        assert_eq!(table.trim(), TABLE.trim(), "{table}");
    }

    const TABLE: &str = "
idle
    begin: running to
    begin another: running to
    finish: idle
held idle
    begin: running held to
    begin another: running held to
    finish: idle held
running
    begin: running to
    hold: running held to
    release: running to
    abort: aborting to
held running
    begin: running held to
    hold: running held to
    release: running to
    commit: committed owner held
    abort: aborting held to
committed
    finish: idle
held committed
    finish: idle
aborting
    abort: aborting
    finish: idle
held aborting
    abort: aborting held
    finish: idle
";
}
