//! Numbers that two databases give to rows of the same tables never meet.
//!
//! `setval(greatest(…))` beside writers hands out numbers twice. The target's sequence goes on in a window that the old
//! side keeps for that cell alone and has never given out; the old side passes over it before it comes near. So what the way
//! back brings there meets no number of those who stayed. A window that is half used is followed by another one.

use crate::numbered::{Standing, found, standing};
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

async fn pairs<'p>(sequences: &'p [PlannedSequence], old: End<'_>, new: End<'_>) -> Result<Vec<Pair<'p>>, MoveError> {
    if sequences.is_empty() {
        return Ok(Vec::new());
    }
    let ours = standing(old.client, old.side, sequences).await?;
    let theirs = standing(new.client, new.side, sequences).await?;
    let both = sequences.iter().zip(ours.iter().zip(&theirs));
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

/// Moves the target's sequences where the source gives out no number soon, unless they are there already.
pub(crate) async fn jump(spec: &MoveSpec, source: &Client, target: &Client, plan: &MovePlan) -> Result<(), MoveError> {
    go_apart(spec, source, target, plan, Stage::Moves).await
}

/// Just before the tenant leaves: as [`jump`], and afterwards the target goes on beyond whatever the source has given out. What
/// travels has such numbers, and the target counts up to them when nobody looks any more.
pub(crate) async fn lead(spec: &MoveSpec, source: &Client, target: &Client, plan: &MovePlan) -> Result<(), MoveError> {
    go_apart(spec, source, target, plan, Stage::Leaves).await
}

async fn go_apart(
    spec: &MoveSpec,
    source: &Client,
    target: &Client,
    plan: &MovePlan,
    stage: Stage,
) -> Result<(), MoveError> {
    let (source, target) = (End { client: source, side: Side::Source }, End { client: target, side: Side::Target });
    match spec.way {
        Way::There => {
            while !Box::pin(reserve(spec, &plan.sequences, source, target, stage)).await? {}
            Ok(())
        }
        Way::Back => Box::pin(overtake(&plan.sequences, source, target)).await,
    }
}

/// While the way back is open: the new side's sequences stay in windows of the old side. `back`: as [`MoveSpec::back`] says.
/// A sequence that was renamed or dropped since fills nothing here that anybody knows of.
pub(crate) async fn keep_apart(back: &MoveSpec, old: &Client, new: &Client, plan: &MovePlan) -> Result<(), MoveError> {
    let (old, new) = (End { client: old, side: Side::Target }, End { client: new, side: Side::Source });
    let there = found(old.client, old.side, &plan.sequences).await?;
    let there = found(new.client, new.side, &there).await?;
    while !Box::pin(reserve(back, &there, old, new, Stage::Kept)).await? {}
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The tenant still takes numbers from the old side.
    Moves,
    /// It is about to take them from the new one.
    Leaves,
    /// It lives in the new one.
    Kept,
}

/// False when another move came first with the same numbers: then it is looked at again.
async fn reserve(
    spec: &MoveSpec,
    sequences: &[PlannedSequence],
    old: End<'_>,
    new: End<'_>,
    stage: Stage,
) -> Result<bool, MoveError> {
    let Some(kept) = windows(old).await? else {
        return if stage == Stage::Kept { Ok(true) } else { overtake(sequences, old, new).await.map(|()| true) };
    };
    let elsewhere = windows(new).await?.unwrap_or_default();
    let cell = match spec.way {
        Way::There => spec.target_cell.to_string(),
        Way::Back => spec.source_cell.to_string(),
    };
    for pair in pairs(sequences, old, new).await? {
        let look = Look { pair: &pair, cell: &cell, kept: &kept, elsewhere: &elsewhere, stage, alone: spec.alone };
        let Some(all) = look.acts() else { return Err(pair.ends()) };
        for act in all {
            match act {
                Act::Old(to) => pair.set(to, old).await?,
                Act::New(to) => pair.set(to, new).await?,
                Act::Keep(first) => {
                    if !note(&cell, &pair, first, old).await? {
                        return Ok(false);
                    }
                }
            }
        }
    }
    Ok(true)
}

/// What is done about a sequence, in this order: whoever stops in between has left no number to both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// The old side's goes as far as this.
    Old(i128),
    /// A window that begins here is kept for the cell.
    Keep(i128),
    /// The new side's goes as far as this.
    New(i128),
}

/// A sequence as both sides have it.
struct Look<'l> {
    pair: &'l Pair<'l>,
    cell: &'l str,
    /// Windows of the old side.
    kept: &'l [Window],
    /// And of the new one.
    elsewhere: &'l [Window],
    stage: Stage,
    /// Nobody else takes numbers from the new side.
    alone: bool,
}

impl Look<'_> {
    /// None where no numbers are left for it.
    fn acts(&self) -> Option<Vec<Act>> {
        let Self { pair, cell, kept, stage, alone, .. } = *self;
        let name = pair.it.sequence.sql();
        let own = kept.iter().find(|w| w.cell == cell && w.sequence == name).map(|w| pair.reach(w));
        let is_in = own.is_some_and(|(first, end)| first <= pair.new && pair.new < first + (end - first) / 2);
        let is_before = own.is_some_and(|(first, end)| pair.old + (end - first) / 2 <= first);
        let is_beyond = own.is_some_and(|(_, end)| end <= pair.old);
        // Beyond it the old side is no less apart. Were it asked to be before, two moves that exchange tenants would drive
        // each other's sequences on at every look.
        if is_in && (is_before || (is_beyond && stage != Stage::Leaves)) {
            return Some(Vec::new());
        }
        let (mut all, mut old) = (Vec::new(), pair.old);
        let ends = pair.windows_end(kept.iter());
        if let Some(beyond) = ends.filter(|end| own.is_some() && !is_beyond && pair.old < *end && *end <= pair.end) {
            // Rows on the new side have numbers of that window, and may come back at any time.
            all.push(Act::Old(beyond));
            old = beyond;
            // What the old side has taken of it already stays taken: then the new side needs another one.
            let is_whole = own.is_some_and(|(first, _)| pair.old < first);
            if is_in && is_whole && stage != Stage::Leaves {
                return Some(all);
            }
        }
        let is_past = own.is_some_and(|(_, end)| end <= pair.new);
        // Another database may have moved the new side on, or those who live there: where that is free here, it stays there.
        let mut others = kept.iter().filter(|w| w.sequence == name && w.cell != cell).map(|w| pair.reach(w));
        let end = pair.new + pair.span;
        let is_free = is_past && end <= pair.end && others.all(|(first, its)| its <= pair.new || end <= first);
        if is_free && alone && old + pair.span / 2 <= pair.new {
            all.push(Act::Keep(pair.new));
            return Some(all);
        }
        // They may have every number up to there, so the old side passes over that too.
        let beyond = ends.unwrap_or(end).max(end);
        if is_free && !alone && stage != Stage::Leaves && pair.old <= pair.new && beyond <= pair.end {
            all.extend([Act::Old(beyond), Act::Keep(pair.new)]);
            return Some(all);
        }
        let others = pair.windows_end(self.elsewhere.iter()).max(ends).unwrap_or(old);
        let mut base = others.max(old).max(pair.new);
        if let Some((first, end)) = own {
            // As far as a window elsewhere may reach that it leaves.
            base = base.max(pair.new + pair.span.max(end - first));
        }
        let first = base + pair.span;
        if first + pair.span > pair.end {
            // What is there goes on being used: the tenant's writes must not end with the sequence's room.
            return (stage == Stage::Kept).then_some(all);
        }
        // Those who live in the target may have what the source would give out next.
        if !alone && pair.new > old && (is_past || (own.is_none() && stage != Stage::Kept)) {
            all.push(Act::Old(base));
        }
        all.extend([Act::Keep(first), Act::New(first)]);
        Some(all)
    }
}

/// Keeps a window for a cell, unless another cell's reaches into it or a later look has kept one farther on.
async fn note(cell: &str, pair: &Pair<'_>, first: i128, old: End<'_>) -> Result<bool, MoveError> {
    let (cell, name, first) = (literal(cell), literal(&pair.it.sequence.sql()), pair.number(first));
    let Pair { sign, step, span, .. } = *pair;
    let sql = format!(
        "select pg_advisory_xact_lock({JUMP_LOCK});
         insert into berth.windows as its (cell, sequence, first, size) select {cell}, {name}, {first}, {size}
         where not exists (select from berth.windows where sequence = {name} and cell <> {cell}
                           and {sign} * (first::numeric - {first}) < {span} and {sign} * ({first} - first::numeric) < size::numeric * {step})
         on conflict (cell, sequence) do update set first = excluded.first, size = excluded.size
         where {sign} * (excluded.first::numeric - its.first) > 0",
        size = span / step
    );
    let said = old.client.simple_query(&sql).await.doing(old.side, MOVING)?;
    Ok(matches!(said.last(), Some(SimpleQueryMessage::CommandComplete(1))))
}

/// Moves the sequences of `new` beyond those of `old` and every window that is kept there, where nothing comes back afterwards.
async fn overtake(sequences: &[PlannedSequence], old: End<'_>, new: End<'_>) -> Result<(), MoveError> {
    let kept = windows(new).await?.unwrap_or_default();
    for pair in pairs(sequences, old, new).await? {
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
    Ok(pairs(&plan.sequences, source, target).await?.iter().all(|pair| pair.new > pair.old))
}

#[cfg(test)]
mod tests {
    use super::{Act, Look, MOST, Pair, Stage, Window, size};
    use crate::numbered::Standing;
    use crate::{PlannedSequence, Side, TableName};

    fn codes() -> PlannedSequence {
        let table = TableName::new("public", "codes");
        PlannedSequence { sequence: TableName::new("public", "codes_id_seq"), table, column: "id".into() }
    }

    /// Two databases, which others live in: where the sequence stands in each, and the windows that it keeps.
    struct Two {
        last: [i64; 2],
        kept: [Vec<Window>; 2],
        /// Nobody but the tenant lives where it moves.
        alone: bool,
    }

    impl Two {
        fn at(one: i64, other: i64) -> Self {
            Self { last: [one, other], kept: [Vec::new(), Vec::new()], alone: false }
        }

        /// What is done about a move out of the first or the second.
        fn look(&mut self, from: usize, stage: Stage) -> Vec<Act> {
            let (it, to) = (codes(), 1 - from);
            let [ours, theirs] =
                [from, to].map(|nth| Standing { last: self.last[nth], step: 1, least: 1, most: i64::from(i32::MAX) });
            let pair = Pair::of(&it, (&ours, Side::Source), (&theirs, Side::Target));
            let (cell, kept, elsewhere) = (to.to_string(), &self.kept[from], &self.kept[to]);
            let acts = Look { pair: &pair, cell: &cell, kept, elsewhere, stage, alone: self.alone }.acts().unwrap();
            for act in &acts {
                match *act {
                    Act::Old(at) => self.last[from] = pair.number(at),
                    Act::New(at) => self.last[to] = pair.number(at),
                    Act::Keep(at) => {
                        let (sequence, size) = (it.sequence.sql(), pair.number(pair.span));
                        self.kept[from] = vec![Window { cell: cell.clone(), sequence, first: pair.number(at), size }];
                    }
                }
            }
            acts
        }
    }

    #[test]
    fn two_moves_that_exchange_tenants_leave_the_sequences_where_they_are() {
        let mut two = Two::at(100, 50);
        two.look(0, Stage::Moves);
        two.look(1, Stage::Moves);
        for nth in 0..100 {
            assert!(two.look(nth % 2, Stage::Moves).is_empty());
        }
        // The one that leaves goes beyond, once, and is in nobody's way.
        two.look(0, Stage::Leaves);
        assert!(two.last[0] < two.last[1], "{:?}", two.last);
        for nth in 0..100 {
            assert!(two.look(nth % 2, Stage::Moves).is_empty());
            assert!(two.look(0, Stage::Leaves).is_empty());
        }
    }

    #[test]
    fn numbers_that_the_target_has_given_out_beyond_its_window_are_passed_over() {
        for stage in [Stage::Moves, Stage::Leaves, Stage::Kept] {
            let mut two = Two::at(10, 5);
            two.look(0, Stage::Moves);
            let given = two.last[1] + 6_000_000;
            two.last[1] = given;
            two.look(0, stage);
            assert!(two.last[0] >= given, "{stage:?}: {:?}", two.last);
            assert!(two.look(0, stage).is_empty(), "{stage:?}");
        }
    }

    #[test]
    fn a_target_of_the_tenants_own_that_counts_on_beyond_its_window_keeps_the_next_one() {
        let mut two = Two { alone: true, ..Two::at(1_000, 5) };
        two.look(0, Stage::Moves);
        two.last[1] += 6_000_000;
        let given = two.last[1];
        two.look(0, Stage::Kept);
        assert_eq!((two.last[1], two.kept[0][0].first), (given, given), "the target is not driven on");
        assert!(two.last[0] < given, "{:?}", two.last);
        assert!(two.look(0, Stage::Kept).is_empty());
    }

    #[test]
    fn a_window_that_the_old_side_has_begun_to_use_is_left() {
        let mut two = Two::at(10, 5);
        two.look(0, Stage::Moves);
        let first = two.last[1];
        two.last[0] = first + 10;
        two.look(0, Stage::Kept);
        assert!(first + 10 < two.last[0] && two.last[0] < two.last[1], "{:?}", two.last);
        assert!(two.look(0, Stage::Kept).is_empty());
    }

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
        let it = codes();
        let window = |first| Window { cell: "one".into(), sequence: it.sequence.sql(), first, size: 5_000 };
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
