//! Numbers that two databases give to rows of the same tables never meet.
//!
//! `setval(greatest(…))` beside writers hands out numbers twice. The target's sequence goes on in a window that the old
//! side keeps for that cell alone and has never given out; the old side passes over it before it comes near. So what the way
//! back brings there meets no number of those who stayed. A window that is half used is followed by another one.

use crate::numbered::{Standing, standing};
use crate::sql::{Doing, literal};
use crate::{MoveError, MovePlan, MoveSpec, Obstacle, PlannedSequence, Side, Way};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Numbers of a window at most, and as many before it for the source until the cut-over. At 1,000 a second: a quarter of an hour.
const MOST: i128 = 1_000_000;
/// And at least.
const LEAST: i128 = 1_000;
/// A window takes this part of what is left: ten thousand moves in and out of a database do not use up an `integer`.
const PART: i128 = 8_192;
/// Where fewer numbers are left no move is begun: they are for those who write there.
pub(crate) const ROOM: i64 = 100_000;
/// Of jumps in one database, and of windows that it keeps.
const JUMP_LOCK: i64 = 0x4245_5254_4803;

const READING: &str = "reading a sequence";
const MOVING: &str = "moving a sequence ahead";

/// One of the two databases.
#[derive(Clone, Copy)]
struct End<'c> {
    client: &'c Client,
    side: Side,
}

/// A window that a database keeps.
struct Window {
    cell: String,
    sequence: String,
    first: i64,
    /// How many numbers it has: windows that were kept earlier are larger.
    size: i64,
}

/// Numbers of a window that is made where `room` are left.
fn size(room: i128) -> i128 {
    (room / PART).clamp(LEAST, MOST)
}

/// A sequence in both databases, and its numbers as positions: they grow as it counts, whichever way that is.
struct Pair<'p> {
    it: &'p PlannedSequence,
    sign: i128,
    step: i128,
    /// Of a window that is made now.
    span: i128,
    old: i128,
    new: i128,
    /// The last position that both can give out, and which of them ends there.
    end: i128,
    shorter: Side,
}

impl<'p> Pair<'p> {
    fn of(it: &'p PlannedSequence, old: (&Standing, Side), new: (&Standing, Side)) -> Self {
        let sign = if old.0.step < 0 { -1 } else { 1 };
        let end = |of: &Standing| if sign < 0 { -i128::from(of.least) } else { i128::from(of.most) };
        let (first, second) = (end(old.0), end(new.0));
        let shorter = if first <= second { old.1 } else { new.1 };
        let (step, end) = (i128::from(old.0.step).abs(), first.min(second));
        let (old, new) = (sign * i128::from(old.0.last), sign * i128::from(new.0.last));
        let span = size((end - old.max(new)) / step) * step;
        Self { it, sign, step, span, old, new, end, shorter }
    }

    fn at(&self, number: i64) -> i128 {
        self.sign * i128::from(number)
    }

    /// Of positions up to `end` alone.
    fn number(&self, position: i128) -> i64 {
        i64::try_from(self.sign * position).unwrap_or(i64::MAX)
    }

    /// Beyond the last number of each window of this sequence.
    fn windows_end<'w>(&self, all: impl Iterator<Item = &'w Window>) -> Option<i128> {
        let name = self.it.sequence.sql();
        all.filter(|window| window.sequence == name).map(|window| self.reach(window).1).max()
    }

    /// Where a window begins, and what is beyond its last number.
    fn reach(&self, window: &Window) -> (i128, i128) {
        let first = self.at(window.first);
        (first, first + i128::from(window.size) * self.step)
    }

    fn ends(&self) -> MoveError {
        MoveError::Obstacles(vec![Obstacle::SequenceEnds {
            side: self.shorter,
            sequence: self.it.sequence.clone(),
            table: self.it.table.clone(),
            column: self.it.column.clone(),
            last: self.number(self.old.max(self.new)),
            end: self.number(self.end),
        }])
    }

    /// Never backwards: others may have taken numbers meanwhile, or jumped farther.
    async fn set(&self, to: i128, end: End<'_>) -> Result<(), MoveError> {
        let (name, to, before) = (self.it.sequence.sql(), self.number(to), if self.sign < 0 { ">" } else { "<" });
        let sql = format!(
            "select pg_advisory_xact_lock({JUMP_LOCK});
             select setval({}::regclass, {to}) from {name} where last_value {before} {to}",
            literal(&name)
        );
        end.client.batch_execute(&sql).await.doing(end.side, MOVING)
    }
}

async fn pairs<'p>(plan: &'p MovePlan, old: End<'_>, new: End<'_>) -> Result<Vec<Pair<'p>>, MoveError> {
    if plan.sequences.is_empty() {
        return Ok(Vec::new());
    }
    let ours = standing(old.client, old.side, &plan.sequences).await?;
    let theirs = standing(new.client, new.side, &plan.sequences).await?;
    let both = plan.sequences.iter().zip(ours.iter().zip(&theirs));
    Ok(both.map(|(it, (ours, theirs))| Pair::of(it, (ours, old.side), (theirs, new.side))).collect())
}

/// None where there is no place for them: a fence of an earlier release.
async fn windows(end: End<'_>) -> Result<Option<Vec<Window>>, MoveError> {
    let there = end.client.query_one("select to_regclass('berth.windows') is not null", &[]).await;
    if !there.doing(end.side, READING)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let sql = "select cell, sequence, first, size from berth.windows";
    let rows = end.client.query(sql, &[]).await.doing(end.side, READING)?;
    let window = |row: &tokio_postgres::Row| Window {
        cell: row.get(0),
        sequence: row.get(1),
        first: row.get(2),
        size: row.get(3),
    };
    Ok(Some(rows.iter().map(window).collect()))
}

/// Moves the target's sequences beyond what the source can reach soon, unless they are that far already.
pub(crate) async fn jump(spec: &MoveSpec, source: &Client, target: &Client, plan: &MovePlan) -> Result<(), MoveError> {
    let (source, target) = (End { client: source, side: Side::Source }, End { client: target, side: Side::Target });
    match spec.way {
        Way::There => {
            while !reserve(spec, plan, source, target, Stage::Moves).await? {}
            Ok(())
        }
        Way::Back => overtake(plan, source, target).await,
    }
}

/// While the way back is open: the new side's sequences stay in windows of the old side. `back`: as [`MoveSpec::back`] says.
pub(crate) async fn keep_apart(back: &MoveSpec, old: &Client, new: &Client, plan: &MovePlan) -> Result<(), MoveError> {
    let (old, new) = (End { client: old, side: Side::Target }, End { client: new, side: Side::Source });
    while !reserve(back, plan, old, new, Stage::Kept).await? {}
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The tenant still takes numbers from the old side.
    Moves,
    /// It lives in the new one.
    Kept,
}

/// False when another move came first with the same numbers: then it is looked at again.
async fn reserve(
    spec: &MoveSpec,
    plan: &MovePlan,
    old: End<'_>,
    new: End<'_>,
    stage: Stage,
) -> Result<bool, MoveError> {
    let Some(kept) = windows(old).await? else {
        return if stage == Stage::Moves { overtake(plan, old, new).await.map(|()| true) } else { Ok(true) };
    };
    let elsewhere = windows(new).await?.unwrap_or_default();
    let cell = match spec.way {
        Way::There => spec.target_cell.to_string(),
        Way::Back => spec.source_cell.to_string(),
    };
    for mut pair in pairs(plan, old, new).await? {
        let name = pair.it.sequence.sql();
        let own = kept.iter().find(|w| w.cell == cell && w.sequence == name).map(|w| pair.reach(w));
        let is_in = own.is_some_and(|(first, end)| first <= pair.new && pair.new < first + (end - first) / 2);
        let is_before = own.is_some_and(|(first, end)| pair.old + (end - first) / 2 <= first);
        let is_beyond = own.is_some_and(|(_, end)| end <= pair.old);
        if is_in && (is_before || (is_beyond && stage == Stage::Kept)) {
            continue;
        }
        let ends = pair.windows_end(kept.iter());
        if let Some(beyond) = ends.filter(|end| own.is_some() && !is_beyond && pair.old < *end && *end <= pair.end) {
            // Rows on the new side have numbers of that window, and may come back at any time.
            pair.set(beyond, old).await?;
            pair.old = beyond;
            if is_in && stage == Stage::Kept {
                continue;
            }
        }
        // Another database may have moved the new side on: where that is free here, it stays there.
        let mut others = kept.iter().filter(|w| w.sequence == name && w.cell != cell).map(|w| pair.reach(w));
        let is_free = others.all(|(first, end)| end <= pair.new || pair.new + pair.span <= first);
        if own.is_some() && is_free && pair.old + pair.span / 2 <= pair.new && pair.new + pair.span <= pair.end {
            if !note(&cell, &pair, pair.new, old).await? {
                return Ok(false);
            }
            continue;
        }
        let others = pair.windows_end(elsewhere.iter()).max(ends).unwrap_or(pair.old);
        let mut base = others.max(pair.old).max(pair.new);
        if let Some((first, end)) = own {
            // As far as a window elsewhere may reach that it leaves.
            base = base.max(pair.new + pair.span.max(end - first));
        }
        let first = base + pair.span;
        if first + pair.span > pair.end {
            match stage {
                Stage::Moves => return Err(pair.ends()),
                // What is there goes on being used: the tenant's writes must not end with the sequence's room.
                Stage::Kept => continue,
            }
        }
        if !note(&cell, &pair, first, old).await? {
            return Ok(false);
        }
        // Those who live in the target may have what the source would give out next.
        if stage == Stage::Moves && own.is_none() && !spec.alone && pair.new > pair.old {
            pair.set(base, old).await?;
        }
        pair.set(first, new).await?;
    }
    Ok(true)
}

/// Keeps a window for a cell, unless another cell's reaches into it.
async fn note(cell: &str, pair: &Pair<'_>, first: i128, old: End<'_>) -> Result<bool, MoveError> {
    let (cell, name, first) = (literal(cell), literal(&pair.it.sequence.sql()), pair.number(first));
    let Pair { sign, step, span, .. } = *pair;
    let sql = format!(
        "select pg_advisory_xact_lock({JUMP_LOCK});
         insert into berth.windows (cell, sequence, first, size) select {cell}, {name}, {first}, {size}
         where not exists (select from berth.windows where sequence = {name} and cell <> {cell}
                           and {sign} * (first::numeric - {first}) < {span} and {sign} * ({first} - first::numeric) < size::numeric * {step})
         on conflict (cell, sequence) do update set first = excluded.first, size = excluded.size",
        size = span / step
    );
    let said = old.client.simple_query(&sql).await.doing(old.side, MOVING)?;
    Ok(matches!(said.last(), Some(SimpleQueryMessage::CommandComplete(1))))
}

/// Moves the sequences of `new` beyond those of `old` and every window that is kept there, where nothing comes back afterwards.
async fn overtake(plan: &MovePlan, old: End<'_>, new: End<'_>) -> Result<(), MoveError> {
    let kept = windows(new).await?.unwrap_or_default();
    for pair in pairs(plan, old, new).await? {
        if pair.new >= pair.old + pair.span / 2 {
            continue;
        }
        let base = pair.windows_end(kept.iter()).unwrap_or(pair.old).max(pair.old).max(pair.new);
        if base + pair.span > pair.end {
            return Err(pair.ends());
        }
        pair.set(base + pair.span, new).await?;
    }
    Ok(())
}

/// Whether every sequence of the target is beyond the source's.
pub(crate) async fn ahead(source: &Client, target: &Client, plan: &MovePlan) -> Result<bool, MoveError> {
    let (source, target) = (End { client: source, side: Side::Source }, End { client: target, side: Side::Target });
    Ok(pairs(plan, source, target).await?.iter().all(|pair| pair.new > pair.old))
}

#[cfg(test)]
mod tests {
    use super::{MOST, Pair, Window, size};
    use crate::numbered::Standing;
    use crate::{PlannedSequence, Side, TableName};

    /// Three windows each: one before its own, its own, and one that it leaves half used.
    fn left_after(moves: u32, room: i128) -> i128 {
        (0..moves).fold(room, |room, _| room - 3 * size(room))
    }

    #[test]
    fn ten_thousand_moves_leave_an_integers_users_their_numbers() {
        let left = left_after(10_000, i128::from(i32::MAX));
        assert!(left > 50_000_000, "{left}");
    }

    #[test]
    fn windows_of_a_bigint_stay_as_large_as_they_are() {
        assert_eq!(size(left_after(10_000, i128::from(i64::MAX))), MOST);
    }

    #[test]
    fn a_window_reaches_as_far_as_it_was_made_whichever_way_it_counts() {
        let table = TableName::new("public", "codes");
        let sequence = TableName::new("public", "codes_id_seq");
        let it = PlannedSequence { sequence: sequence.clone(), table, column: "id".into() };
        let window = |first| Window { cell: "one".into(), sequence: sequence.sql(), first, size: 5_000 };
        let most = i64::from(i32::MAX);
        let standing = |last, step| Standing { last, step, least: -most, most };
        let up = Pair::of(&it, (&standing(10, 2), Side::Source), (&standing(4_000, 2), Side::Target));
        assert_eq!(up.windows_end([window(20_000)].iter()), Some(30_000));
        assert_eq!(up.span, (i128::from(most) - 4_000) / 2 / 8_192 * 2);
        let down = Pair::of(&it, (&standing(-10, -1), Side::Source), (&standing(-4_000, -1), Side::Target));
        assert_eq!(down.windows_end([window(-20_000)].iter()), Some(25_000));
        assert_eq!((down.old, down.new), (10, 4_000));
    }
}
