//! How an edge reaches members that stand on servers of their own, and what it says of that. The answer holds keys: control is told
//! when it would pass a public network without TLS.

use crate::{Client, ClientError};
use berth_domain::{CellName, EdgeName};
use berth_wire::{EdgeWay, Page};

impl Client {
    /// Always the whole list; none where others could read along. `open`: the ports that the edge has a way to by now; a
    /// release waits until they are.
    pub async fn edge_ways(&self, edge: &EdgeName, open: &[(CellName, u16)]) -> Result<Vec<EdgeWay>, ClientError> {
        let open: Vec<String> = open.iter().map(|(cell, port)| format!("{cell}:{port}")).collect();
        let page: Page<EdgeWay> = self.get_telling(&format!("/v1/edges/{edge}/ways?open={}", open.join(","))).await?;
        Ok(page.items)
    }
}
