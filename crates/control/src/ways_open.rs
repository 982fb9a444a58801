//! Which ways into servers the edges have open, as each says when it asks for them.
//!
//! A member on a server is reached through a port of the edge's own machine. One that is routed to before that port is
//! open would cost requests, so a release waits here first. Known in this program alone, and only for as long as an
//! edge goes on saying it: one that asks another server of this database, or that is older and says nothing, is given
//! a time instead.

use crate::{App, ControlError, edge_link::SILENT_MS};
use berth_domain::{CellName, EdgeName};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

const PATIENCE: Patience =
    Patience { unsaid: Duration::from_millis(1500), limit: Duration::from_secs(15), fresh: Duration::from_secs(3) };

type Ports = BTreeSet<(CellName, u16)>;

/// How long who is waited for. Edges ask twice a second by which ways members are reached.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For those that do not say it: two such rounds later they are open.
    unsaid: Duration,
    /// For those that do.
    limit: Duration,
    /// What was said longer ago is not counted as open: six rounds. Whoever said anything at all is waited for to say it
    /// again; twice the limit later it counts among those that do not say it.
    fresh: Duration,
}

/// What each edge said last.
#[derive(Debug, Default)]
pub(crate) struct WaysOpen {
    said: Mutex<HashMap<EdgeName, (Instant, Ports)>>,
    news: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Open,
    Shut,
    Unsaid,
}

impl WaysOpen {
    pub fn say(&self, edge: EdgeName, open: Ports) {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(edge, (Instant::now(), open));
        self.news.notify_waiters();
    }

    fn is(&self, edge: &EdgeName, wanted: &Ports, patience: Patience) -> Is {
        match self.said.lock().unwrap_or_else(PoisonError::into_inner).get(edge) {
            Some((at, open)) if at.elapsed() < patience.fresh && wanted.is_subset(open) => Is::Open,
            Some((at, _)) if at.elapsed() < patience.limit * 2 => Is::Shut,
            _ => Is::Unsaid,
        }
    }

    /// Returns when every edge of these has them open; with those that have not when the time is over.
    async fn wait(&self, edges: &[EdgeName], wanted: &Ports, patience: Patience) -> Vec<EdgeName> {
        let Patience { unsaid, limit, fresh } = patience;
        let began = Instant::now();
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            // Subscribed before the look, so that nothing falls between.
            news.as_mut().enable();
            let all: Vec<(&EdgeName, Is)> = edges.iter().map(|edge| (edge, self.is(edge, wanted, patience))).collect();
            let silent = all.iter().any(|(_, is)| *is == Is::Unsaid) && began.elapsed() < unsaid;
            let shut: Vec<EdgeName> =
                all.iter().filter(|(_, is)| *is == Is::Shut).map(|(edge, _)| (*edge).clone()).collect();
            if (shut.is_empty() && !silent) || began.elapsed() >= limit {
                return shut;
            }
            // What was said grows old without any news.
            let _ = tokio::time::timeout(unsaid.saturating_sub(began.elapsed()).max(fresh / 10), news).await;
        }
    }
}

/// The edges that live and have no way yet to these ports of a cell.
pub(crate) async fn await_open(app: &App, cell: &CellName, ports: &[u16]) -> Result<Vec<EdgeName>, ControlError> {
    let edges = app.store().edge_list().await?.into_iter().filter(|edge| edge.silent_ms <= SILENT_MS && !edge.leaving);
    let edges: Vec<EdgeName> = edges.map(|edge| edge.name).collect();
    let wanted = ports.iter().map(|port| (cell.clone(), *port)).collect();
    Ok(app.ways_open().wait(&edges, &wanted, PATIENCE).await)
}

#[cfg(test)]
mod tests {
    use super::{Patience, Ports, WaysOpen};
    use berth_domain::{CellName, EdgeName};
    use std::time::Duration;
    use tokio::time::Instant;

    const SHORT: Patience =
        Patience { unsaid: Duration::from_millis(300), limit: Duration::from_secs(2), fresh: Duration::from_secs(1) };

    fn ports(all: &[u16]) -> Ports {
        all.iter().map(|port| (CellName::new("fra-1").unwrap(), *port)).collect()
    }

    #[tokio::test]
    async fn who_says_what_it_has_open_is_waited_for_and_who_says_nothing_gets_its_time() {
        let (new, old) = (EdgeName::new("new").unwrap(), EdgeName::new("old").unwrap());
        let ways = WaysOpen::default();
        ways.say(new.clone(), ports(&[18_000, 18_001]));
        let all = [new.clone()];
        let began = Instant::now();
        assert_eq!(ways.wait(&all, &ports(&[18_001]), SHORT).await, []);
        assert!(began.elapsed() < SHORT.unsaid, "it was open already: {:?}", began.elapsed());

        assert_eq!(ways.wait(&[new.clone(), old], &ports(&[18_001]), SHORT).await, []);
        assert!(began.elapsed() >= SHORT.unsaid && began.elapsed() < SHORT.limit, "{:?}", began.elapsed());

        // It opens one more, and is heard when it says so.
        let (began, wanted) = (Instant::now(), ports(&[18_002]));
        let says = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            ways.say(new.clone(), ports(&[18_001, 18_002]));
        };
        ways.say(new.clone(), ports(&[18_001]));
        let (late, ()) = tokio::join!(ways.wait(&all, &wanted, SHORT), says);
        assert_eq!(late, []);
        assert!(began.elapsed() < SHORT.limit, "{:?}", began.elapsed());

        let wanted = ports(&[18_003]);
        let says = async {
            for _ in 0..10 {
                ways.say(new.clone(), ports(&[18_001]));
                tokio::time::sleep(SHORT.limit / 8).await;
            }
        };
        let (late, ()) = tokio::join!(ways.wait(&all, &wanted, SHORT), says);
        assert_eq!(late.as_slice(), &all, "it says that it has none");

        // It has them, and has not said so for a while: a control plane that hangs keeps it from that.
        ways.say(new.clone(), ports(&[18_001]));
        tokio::time::sleep(SHORT.fresh).await;
        let began = Instant::now();
        assert_eq!(ways.wait(&all, &ports(&[18_001]), SHORT).await, all);
        assert!(began.elapsed() >= SHORT.limit, "{:?}", began.elapsed());
    }
}
