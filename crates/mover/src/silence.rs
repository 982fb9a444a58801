//! Servers that take a connection's bytes and say nothing. A statement of a move may rightly take hours, so that it takes
//! long says nothing; that the server answers nobody else either does.

use crate::sql::connect;
use crate::{Endpoint, MoveError, MoveSpec, Side};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How often a server is asked, and how long it may go without an answer.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub every: Duration,
    pub limit: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { every: Duration::from_secs(15), limit: Duration::from_mins(3) }
    }
}

/// Asks both servers again and again over connections of its own. Ends when one of them has not answered for the limit,
/// with [`MoveError::Silent`]; never otherwise. Whoever works for the move is dropped then, as if it had been killed.
pub async fn silence(spec: &MoveSpec, patience: Patience) -> MoveError {
    tokio::select! {
        error = one(&spec.source, Side::Source, patience) => error,
        error = one(&spec.target, Side::Target, patience) => error,
    }
}

async fn one(endpoint: &Endpoint, side: Side, patience: Patience) -> MoveError {
    let mut answered = Instant::now();
    loop {
        sleep(patience.every).await;
        let asked = Instant::now();
        if timeout(patience.limit, answers(endpoint, side)).await.unwrap_or(false) {
            answered = asked;
        } else if answered.elapsed() >= patience.limit {
            return MoveError::Silent { side, seconds: answered.elapsed().as_secs() };
        }
    }
}

/// Also who refuses, for want of a free connection or with another password, has answered.
async fn answers(endpoint: &Endpoint, side: Side) -> bool {
    match connect(endpoint, side, "berth-ping").await {
        Ok(client) => match client.batch_execute("select").await {
            Ok(()) => true,
            Err(error) => error.as_db_error().is_some(),
        },
        Err(MoveError::Connect { source, .. }) => source.is_answer(),
        Err(_) => false,
    }
}
