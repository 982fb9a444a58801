//! A move survives a crash at every point, and a failure of any step leaves the tenant where it was.

use crate::try_move::{Try, TryUndo};

/// [`berth_workflow::crash_tests!`] in four parts: the way back is long, and its halves go side by side.
mod move_tenant {
    use super::Try;
    use berth_workflow::{Failing, testing};

    #[tokio::test]
    async fn survives_a_crash_at_every_point() {
        testing::survives_a_crash_at_every_point(async || Try::new().await).await;
    }
    #[tokio::test]
    async fn undoes_a_failure_of_every_step() {
        testing::undoes_a_failure_of_every_step(async || Try::new().await).await;
    }
    #[tokio::test]
    async fn undo_of_a_step_that_never_ran_survives_a_crash_at_every_point() {
        testing::undo_survives_a_crash_at_every_point_after(Failing::BeforeRun, async || Try::new().await).await;
    }
    #[tokio::test]
    async fn undo_of_a_step_that_ran_survives_a_crash_at_every_point() {
        testing::undo_survives_a_crash_at_every_point_after(Failing::AfterRun, async || Try::new().await).await;
    }
}

mod undo_move {
    use super::TryUndo;
    use berth_workflow::{Failing, testing};

    #[tokio::test]
    async fn survives_a_crash_at_every_point() {
        testing::survives_a_crash_at_every_point(async || TryUndo::new().await).await;
    }
    #[tokio::test]
    async fn undoes_a_failure_of_every_step() {
        testing::undoes_a_failure_of_every_step(async || TryUndo::new().await).await;
    }
    #[tokio::test]
    async fn undo_of_a_step_that_ran_survives_a_crash_at_every_point() {
        testing::undo_survives_a_crash_at_every_point_after(Failing::AfterRun, async || TryUndo::new().await).await;
    }
}
