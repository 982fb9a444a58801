//! Cells and the servers that they stand on.

use crate::{
    Client, ClientError,
    calls::{NOTHING, Query, escaped},
};
use berth_wire::{
    Cell, CellAbilities, CellCreate, DatabaseTop, EndpointAdd, LogLine, Operation, Page, Server, ServerAdd, ServerLook,
    ServerSeen,
};
use http::Method;

impl Client {
    pub async fn cell_database_top(&self, cell: &str) -> Result<DatabaseTop, ClientError> {
        self.get(&format!("/v1/cells/{}/database/top", escaped(cell))).await
    }

    pub async fn cells(&self) -> Result<Vec<Cell>, ClientError> {
        self.all("/v1/cells", Query::default(), None).await
    }

    pub async fn cell(&self, cell: &str) -> Result<Cell, ClientError> {
        self.get(&format!("/v1/cells/{}", escaped(cell))).await
    }

    pub async fn cell_create(&self, wanted: &CellCreate) -> Result<Operation, ClientError> {
        self.write(Method::POST, "/v1/cells", wanted).await
    }

    pub async fn endpoint_add(&self, wanted: &EndpointAdd) -> Result<Operation, ClientError> {
        self.write(Method::POST, "/v1/endpoints", wanted).await
    }

    pub async fn server_look(&self, wanted: &ServerLook) -> Result<ServerSeen, ClientError> {
        self.write(Method::POST, "/v1/servers/look", wanted).await
    }

    pub async fn server_add(&self, wanted: &ServerAdd) -> Result<Operation, ClientError> {
        self.write(Method::POST, "/v1/servers", wanted).await
    }

    pub async fn servers(&self) -> Result<Vec<Server>, ClientError> {
        self.all("/v1/servers", Query::default(), None).await
    }

    pub async fn cell_abilities(&self, cell: &str) -> Result<CellAbilities, ClientError> {
        self.get(&format!("/v1/cells/{}/abilities", escaped(cell))).await
    }

    /// `drained`: whether it takes no new tenants.
    pub async fn cell_drain(&self, cell: &str, drained: bool) -> Result<Cell, ClientError> {
        let method = if drained { Method::POST } else { Method::DELETE };
        self.write(method, &format!("/v1/cells/{}/drain", escaped(cell)), &NOTHING).await
    }

    pub async fn cell_measure(&self, cell: &str) -> Result<Operation, ClientError> {
        self.write(Method::POST, &format!("/v1/cells/{}/measure", escaped(cell)), &NOTHING).await
    }

    pub async fn cell_remove(&self, cell: &str) -> Result<Operation, ClientError> {
        self.write(Method::DELETE, &format!("/v1/cells/{}", escaped(cell)), &NOTHING).await
    }

    /// The last `last` lines of each of a cell's members.
    pub async fn cell_logs(&self, cell: &str, service: Option<&str>, last: u32) -> Result<Vec<LogLine>, ClientError> {
        let mut query = Query::default();
        query.add("service", service);
        query.add("last", Some(last));
        self.get::<Page<LogLine>>(&format!("/v1/cells/{}/logs{}", escaped(cell), query.0)).await.map(|page| page.items)
    }
}
