//! How an edge reaches members on servers of their own. The answer holds keys: control is told when it would pass a public
//! network without TLS.

use crate::{Client, ClientError};
use berth_domain::EdgeName;
use berth_wire::{EdgeWay, Page};

impl Client {
    /// The whole list; none where others could read along.
    pub async fn edge_ways(&self, edge: &EdgeName) -> Result<Vec<EdgeWay>, ClientError> {
        let page: Page<EdgeWay> = self.get_telling(&format!("/v1/edges/{edge}/ways")).await?;
        Ok(page.items)
    }
}
