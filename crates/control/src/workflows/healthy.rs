//! Waiting for members of a cell to answer their health path: the gate of a cell that is made and of a release.

use super::store;
use crate::{App, ControlError, reconcile};
use berth_domain::{MemberId, MemberState};
use berth_infra::{MemberName, Observed};
use berth_store::Cell;
use berth_workflow::StepError;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Lines of a member that did not come up, shown with the failure.
const LOG_LINES: usize = 20;

/// Returns when each of them is healthy; what was seen is stored, so that a route that names them is complete from its
/// first moment. One that has ended fails at once: started again it would be the same program. `hint` goes with both.
pub(super) async fn await_healthy(
    app: &App,
    cell: &Cell,
    members: &[(MemberId, MemberName)],
    limit: Duration,
    hint: &'static str,
) -> Result<(), StepError> {
    let compute = app.compute_of(cell).await?;
    let mut last = String::new();
    let wait = async {
        for (id, name) in members {
            loop {
                let observed = compute.observe_member(name).await;
                let observed = observed.map_err(|source| ControlError::Provider { cell: cell.name.clone(), source })?;
                let seen = reconcile::seen(&observed, false);
                if seen.state == MemberState::Healthy {
                    app.store().member_observed(*id, &seen).await.map_err(store)?;
                    break;
                }
                let why = seen.detail.unwrap_or_else(|| format!("it is {}", seen.state));
                if let (MemberState::Stopped, Observed::Present(_)) = (seen.state, &observed) {
                    let log = compute.member_logs(name, LOG_LINES).await.unwrap_or_default();
                    let message = format!("member `{name}` did not start: {why}; its last lines: {}", log.join(" | "));
                    return Err(StepError::permanent("member_did_not_start", message).hint(hint));
                }
                last = format!("`{name}`: {why}");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    };
    match tokio::time::timeout(limit, wait).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let limit_s = limit.as_secs();
            let message = format!("members of cell `{}` were not healthy within {limit_s} s; {last}", cell.name);
            Err(StepError::permanent("not_healthy", message).hint(hint))
        }
    }
}
