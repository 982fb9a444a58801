//! What two servers do differently with text and with time. What would make the copy another one is an obstacle; what
//! users could notice is said. Changes nothing.

use crate::sql::Doing;
use crate::{MoveError, Obstacle, Side};
use std::time::SystemTime;
use tokio_postgres::Client;

/// Clocks that are further apart are not kept by anybody. NTP keeps them within tens of milliseconds.
const APART_MOST_MS: i64 = 2_000;

/// Looks at both sides. Returns what a person has to know before the move.
pub(crate) async fn differences(
    source: &Client,
    target: &Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<Vec<String>, MoveError> {
    let (ours, theirs) = (texts(source, Side::Source).await?, texts(target, Side::Target).await?);
    if ours.encoding != theirs.encoding {
        obstacles.push(Obstacle::Encoding { source_encoding: ours.encoding, target_encoding: theirs.encoding });
    }
    let before = now(source, Side::Source).await?;
    let there = now(target, Side::Target).await?;
    let after = now(source, Side::Source).await?;
    if let Some(ahead_ms) = apart_ms(before, there, after) {
        obstacles.push(Obstacle::Clocks { ahead_ms });
    }
    let sorted_otherwise = (ours.sorting != theirs.sorting).then(|| {
        format!(
            "text is sorted by {} in the source and by {} in the target: what users see in the order of text comes in another order after the move",
            ours.sorting, theirs.sorting
        )
    });
    Ok(sorted_otherwise.into_iter().collect())
}

struct Texts {
    encoding: String,
    /// The database's collation and who provides it.
    sorting: String,
}

async fn texts(client: &Client, side: Side) -> Result<Texts, MoveError> {
    // Columns that came with a version are asked for by name, so that older ones have none.
    let row = client
        .query_one(
            "select pg_encoding_to_char(d.encoding)::text,
                    '`' || coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', d.datcollate) || '`'
                    || case to_jsonb(d) ->> 'datlocprovider' when 'i' then ' of ICU' when 'b' then ' of Postgres' else '' end
             from pg_database d where d.datname = current_database()",
            &[],
        )
        .await
        .doing(side, "looking at how text is kept")?;
    Ok(Texts { encoding: row.get(0), sorting: row.get(1) })
}

async fn now(client: &Client, side: Side) -> Result<i64, MoveError> {
    let row = client.query_one("select clock_timestamp()", &[]).await.doing(side, "looking at the clock")?;
    let at: SystemTime = row.get(0);
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// By how much the target's clock is ahead, if that is more than the time that asking took and than what is allowed.
fn apart_ms(before: i64, there: i64, after: i64) -> Option<i64> {
    let ahead = there - i64::midpoint(before, after);
    let unsure = (after - before).abs() / 2;
    (ahead.abs() - unsure > APART_MOST_MS).then_some(ahead)
}

#[cfg(test)]
mod tests {
    use super::apart_ms;

    #[test]
    fn clocks_are_apart_when_the_asking_does_not_explain_it() {
        assert_eq!(apart_ms(10_000, 10_010, 10_020), None);
        assert_eq!(apart_ms(10_000, 12_009, 10_020), None, "at the bound");
        assert_eq!(apart_ms(10_000, 12_030, 10_020), Some(2_020));
        assert_eq!(apart_ms(10_000, 7_000, 10_000), Some(-3_000));
        // Asked for six seconds: the answer may be from any moment of them.
        assert_eq!(apart_ms(10_000, 18_000, 16_000), None);
    }
}
