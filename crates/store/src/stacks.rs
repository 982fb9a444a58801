//! Revisions of the stack file: numbered, whole, never changed afterwards.

use crate::{Store, StoreError, Tx, moment::Moment};
use jiff::Timestamp;
use serde_json::Value;

#[derive(Clone, Debug)]
pub struct StackRevision {
    pub revision: i64,
    pub stack: String,
    /// As the person wrote it.
    pub source: String,
    pub document: Value,
    pub applied_by: String,
    pub applied_at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct NewStackRevision {
    /// One more than the revision that the caller compared with (0 when there was none).
    pub revision: i64,
    pub stack: String,
    pub source: String,
    pub document: Value,
    pub applied_by: String,
}

impl Store {
    /// The number of the revision in force.
    pub async fn stack_revision(&self) -> Result<Option<i64>, StoreError> {
        Ok(sqlx::query_scalar!("SELECT max(revision) FROM stack_revisions").fetch_one(&self.pool).await?)
    }

    /// The revision in force.
    pub async fn stack_newest(&self) -> Result<Option<StackRevision>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT revision, stack, source, document, applied_by, applied_at AS "applied_at: Moment"
               FROM stack_revisions ORDER BY revision DESC LIMIT 1"#
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|r| StackRevision {
            revision: r.revision,
            stack: r.stack,
            source: r.source,
            document: r.document,
            applied_by: r.applied_by,
            applied_at: r.applied_at.0,
        }))
    }
}

impl Tx {
    /// `Taken(StackRevision)`: somebody else applied meanwhile, and the difference that was shown is not the one
    /// that would be made.
    pub async fn stack_insert(&mut self, new: &NewStackRevision) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO stack_revisions (revision, stack, source, document, applied_by) VALUES ($1, $2, $3, $4, $5)",
            new.revision,
            new.stack,
            new.source,
            new.document,
            new.applied_by,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
