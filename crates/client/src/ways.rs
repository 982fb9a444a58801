//! How an edge reaches members that stand on servers of their own, and what it says of that. The answer holds keys: control is told
//! when it would pass a public network without TLS.

use crate::{Client, ClientError};
use berth_domain::{CellName, EdgeName};
use berth_wire::{EdgeWay, Page};

/// Of a path, in bytes; HTTP's own types take 65,534. An edge with more ports open does not say which, and releases give it
/// a time instead.
const LONGEST: usize = 60_000;

impl Client {
    /// Always the whole list; none where others could read along. `open`: the ports that the edge has a way to by now; a
    /// release waits until they are.
    pub async fn edge_ways(&self, edge: &EdgeName, open: &[(CellName, u16)]) -> Result<Vec<EdgeWay>, ClientError> {
        let open: Vec<String> = open.iter().map(|(cell, port)| format!("{cell}:{port}")).collect();
        let mut path = format!("/v1/edges/{edge}/ways?open={}", open.join(","));
        if path.len() > LONGEST {
            path.truncate(path.find('?').unwrap_or(path.len()));
        }
        let page: Page<EdgeWay> = self.get_telling(&path).await?;
        Ok(page.items)
    }
}
