//! Opens a side for its tenant, again and again until it is open: users wait for it. Never decides which side that is.

use crate::cutover::{CONTROL_LIMIT, change, take};
use crate::fence::Fence;
use crate::sql::connect;
use crate::{Change, Control, MoveError, MoveSpec, Ownership, Refusal, Side};
use berth_domain::{Generation, MovePhase, Token};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_postgres::Client;

/// How long one try at opening a fence may take: users wait for it, and a session that says nothing is left for another.
const TRY_LIMIT: Duration = Duration::from_secs(3);

pub(crate) async fn open_target(
    spec: &MoveSpec,
    row: Control,
    ready: Option<(Fence, Client)>,
) -> Result<(), MoveError> {
    let fence = match ready {
        Some((fence, client)) => {
            let mark = spec.opened_mark();
            let opening = fence.open(&client, row.token, Some(row.generation), Some(&mark), Duration::from_millis(200));
            match timeout(TRY_LIMIT, opening).await.unwrap_or(Err(stuck(Side::Target))) {
                Err(error) if error.fault() == crate::Fault::Passing && !matches!(error, MoveError::Fenced { .. }) => {
                    fence
                }
                other => return other,
            }
        }
        None => {
            let client = connect(&spec.target, Side::Target, &format!("berth-open-{}", row.token)).await?;
            let fence = Fence::find(&client, Side::Target, &spec.tenant).await?;
            fence.ok_or(MoveError::Fenced { side: Side::Target, held: row.token })?
        }
    };
    open_until_done(&fence, &spec.target, row.token, Some((row.generation, spec.opened_mark()))).await
}

/// Opens a fence over connections of its own until it is open: users wait for it. `new`: the generation that is new
/// here, and the marker to go with it.
pub(crate) async fn open_until_done(
    fence: &Fence,
    endpoint: &crate::Endpoint,
    token: Token,
    new: Option<(Generation, String)>,
) -> Result<(), MoveError> {
    let until = Instant::now() + CONTROL_LIMIT;
    let (generation, mark) = new.unzip();
    loop {
        let opening = async {
            let client = connect(endpoint, fence.side, &format!("berth-open-{token}")).await?;
            fence.open(&client, token, generation, mark.as_deref(), Duration::from_millis(500)).await
        };
        match timeout(TRY_LIMIT, opening).await.unwrap_or(Err(stuck(fence.side))) {
            Ok(()) => return Ok(()),
            Err(error @ MoveError::Fenced { .. }) => return Err(error),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn stuck(side: Side) -> MoveError {
    MoveError::Silent { side, seconds: TRY_LIMIT.as_secs() }
}

/// Ends a move that will not happen: the tenant stays where it is, open. Refused after the commit point, also when
/// the move is long over: what a move that was given up leaves behind is taken away, and here that would be the tenant.
///
/// Returns the token under which [`crate::retire`] may clear the target.
pub async fn give_up(spec: &MoveSpec, ownership: &dyn Ownership) -> Result<Token, MoveError> {
    let row = take(ownership).await?;
    if row.owner == spec.target_cell {
        return Err(MoveError::AlreadyMoved);
    }
    match row.phase {
        MovePhase::Committed => return Err(Refusal::WrongPhase { phase: row.phase }.into()),
        MovePhase::Idle => return Ok(row.token),
        MovePhase::Running | MovePhase::Aborting => {}
    }
    change(ownership, row.token, Change::Abort).await?;
    let client = connect(&spec.source, Side::Source, &format!("berth-abort-{}", row.token)).await?;
    let there: bool = {
        use crate::sql::Doing;
        client
            .query_one("select to_regclass('berth.fence') is not null", &[])
            .await
            .doing(Side::Source, "reading the fence")?
            .get(0)
    };
    if there && let Some(fence) = Fence::find(&client, Side::Source, &spec.tenant).await? {
        open_until_done(&fence, &spec.source, row.token, None).await?;
    }
    change(ownership, row.token, Change::Finish).await?;
    Ok(row.token)
}
