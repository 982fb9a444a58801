//! What was measured in a cell: the last figure of each kind.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::CellId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One figure, as it comes from a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// A stable word, such as `query_simple`.
    pub what: String,
    pub unit: String,
    pub value: f64,
    pub samples: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CellFigure {
    pub cell: CellId,
    pub figure: Figure,
    pub at: Timestamp,
}

impl Store {
    /// Of all cells that stand, or of one; by cell and kind.
    pub async fn cell_figures(&self, cell: Option<CellId>) -> Result<Vec<CellFigure>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT cell_id, what, unit, value, samples, measured_at AS "measured_at: Moment"
               FROM cell_figures f
               WHERE cell_id = $1 OR ($1::uuid IS NULL AND EXISTS (SELECT FROM cells c
                     WHERE c.id = f.cell_id AND c.state NOT IN ('removed', 'failed')))
               ORDER BY cell_id, what"#,
            cell.map(CellId::uuid)
        )
        .fetch_all(&self.pool)
        .await?;
        let figure = rows.into_iter().map(|r| CellFigure {
            cell: r.cell_id.into(),
            figure: Figure {
                what: r.what,
                unit: r.unit,
                value: r.value,
                samples: u32::try_from(r.samples).unwrap_or(0),
            },
            at: r.measured_at.0,
        });
        Ok(figure.collect())
    }
}

impl Tx {
    /// What was measured now. A kind of figure that could not be had this time is forgotten: it would be another day's.
    pub async fn cell_measured(&mut self, cell: CellId, figures: &[Figure]) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM cell_figures WHERE cell_id = $1", cell.uuid()).execute(&mut *self.inner).await?;
        for figure in figures {
            sqlx::query!(
                "INSERT INTO cell_figures (cell_id, what, unit, value, samples) VALUES ($1, $2, $3, $4, $5)",
                cell.uuid(),
                figure.what,
                figure.unit,
                figure.value,
                i32::try_from(figure.samples).unwrap_or(i32::MAX)
            )
            .execute(&mut *self.inner)
            .await?;
        }
        Ok(())
    }
}
