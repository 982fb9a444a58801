//! Brings a database to the schema that this release needs.
//!
//! Never drops anything, and takes no lock that a running application would feel when there is nothing to do.

use tokio_postgres::{Config, NoTls};

pub const SCHEMA: &str = include_str!("schema.sql");

/// Any number; two migrations of one database wait for each other on it.
const LOCK: i64 = 0x0066_6c65_6574;

pub async fn migrate(database: &Config) -> anyhow::Result<()> {
    let (mut client, connection) = database.connect(NoTls).await?;
    tokio::spawn(connection);
    let transaction = client.transaction().await?;
    transaction.execute("select pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    // The notices are "already exists, skipping", once for each table.
    transaction.batch_execute("set local client_min_messages = warning").await?;
    transaction.batch_execute(SCHEMA).await?;
    transaction.commit().await?;
    tracing::info!("the schema is in place");
    Ok(())
}
