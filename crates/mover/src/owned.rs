//! Whose rows are whose where no column says it: the keys of the tenant's rows, kept up with the stream.
//!
//! A row without a tenant column belongs to the tenant when the row that it refers to does. The stream gives a
//! deleted row's key alone, so the keys of such tables are remembered too: 8 bytes a row and the set's own room,
//! about 15 in all. Sets change when a transaction is known to have been committed, in commit order.

use crate::compare::{Hash, key_hash};
use crate::pgoutput::{Change, Datum, Op, Row};
use crate::{MoveError, MovePlan};
use std::collections::HashSet;

struct Rule {
    /// Where the tenant's key stands.
    column: Option<usize>,
    links: Vec<LinkAt>,
    key: Vec<usize>,
    /// Which columns of the key are uuids.
    uuids: Vec<bool>,
    /// Whether the keys of this table are remembered.
    kept: bool,
    /// Whether rows of the tenant that are too old stay behind: their keys are not known.
    leaves_behind: bool,
}

struct LinkAt {
    columns: Vec<usize>,
    to: usize,
    /// Which columns of the key over there are uuids.
    uuids: Vec<bool>,
    when: Option<(usize, String)>,
    checked: bool,
}

/// Keys that an open transaction may have added, by table.
pub(crate) type Added = HashSet<(usize, Hash)>;

pub(crate) struct Owned {
    tenant: Vec<u8>,
    rules: Vec<Rule>,
    keys: Vec<HashSet<Hash>>,
}

impl Owned {
    pub fn new(plan: &MovePlan, tenant: &str) -> Self {
        let at = |table: usize, column: &String| plan.tables[table].position(column);
        let rules = plan.tables.iter().enumerate().map(|(nth, table)| {
            let links = table.through.iter().filter_map(|link| {
                let to = plan.tables.iter().position(|t| t.table == link.to)?;
                Some(LinkAt {
                    columns: link.columns.iter().map(|c| at(nth, c)).collect::<Option<_>>()?,
                    to,
                    uuids: plan.tables[to].uuids_of_key().collect(),
                    when: match &link.when {
                        Some((column, value)) => Some((at(nth, column)?, value.clone())),
                        None => None,
                    },
                    checked: link.checked,
                })
            });
            Rule {
                column: table.tenant_column.as_ref().and_then(|c| at(nth, c)),
                links: links.collect(),
                key: table.key.iter().filter_map(|c| at(nth, c)).collect(),
                uuids: table.uuids_of_key().collect(),
                kept: !table.through.is_empty()
                    || plan.tables.iter().any(|t| t.through.iter().any(|link| link.to == table.table)),
                leaves_behind: table.kept.is_some(),
            }
        });
        let rules: Vec<Rule> = rules.collect();
        Self { tenant: tenant.as_bytes().to_vec(), keys: rules.iter().map(|_| HashSet::new()).collect(), rules }
    }

    /// The tables whose keys have to be told before the stream begins.
    pub fn kept(&self) -> Vec<usize> {
        (0..self.rules.len()).filter(|nth| self.rules[*nth].kept).collect()
    }

    pub fn load(&mut self, table: usize, keys: impl IntoIterator<Item = Hash>) {
        self.keys[table].extend(keys);
    }

    /// The tenant that a row's own column names: the one that moves, another one, or none.
    fn by_column(&self, rule: &Rule, row: &Row) -> Option<bool> {
        match rule.column.map(|at| &row[at]) {
            Some(Datum::Text(text)) => Some(text[..] == self.tenant[..]),
            // Never a value so large that an update leaves it out; should it be, the key decides.
            Some(Datum::Null | Datum::Unchanged) | None => None,
        }
    }

    fn key(&self, table: usize, row: &Row) -> Hash {
        let rule = &self.rules[table];
        let key: Vec<Datum> = rule.key.iter().map(|at| row[*at].clone()).collect();
        key_hash(&key, rule.uuids.iter().copied())
    }

    /// Whether what a row refers to satisfies `known`. `None`: the row refers to nothing.
    fn by_links(rule: &Rule, row: &Row, known: impl Fn(&LinkAt, Hash) -> bool) -> Option<bool> {
        let mut refers = None;
        for link in &rule.links {
            let applies = link
                .when
                .as_ref()
                .is_none_or(|(at, value)| matches!(&row[*at], Datum::Text(text) if text[..] == *value.as_bytes()));
            let values: Vec<Datum> = link.columns.iter().map(|at| row[*at].clone()).collect();
            if !applies || values.contains(&Datum::Null) {
                continue;
            }
            if known(link, key_hash(&values, link.uuids.iter().copied())) {
                return Some(true);
            }
            refers = Some(false);
        }
        refers
    }

    /// Whether a change may turn out to be the tenant's when its transaction is whole. What may not is dropped on
    /// arrival, so that a neighbour's large transaction costs no memory.
    pub fn may_be_ours(&self, table: usize, op: &Op, added: &mut Added) -> bool {
        let rule = &self.rules[table];
        let known = |t: usize, hash: Hash, added: &Added| self.keys[t].contains(&hash) || added.contains(&(t, hash));
        let by_row = |row: &Row, added: &Added| {
            self.by_column(rule, row).unwrap_or_else(|| {
                Self::by_links(rule, row, |link, hash| !link.checked || known(link.to, hash, added)).unwrap_or(false)
            })
        };
        if !rule.kept {
            return match op {
                Op::Insert(row) | Op::Update { new: row, .. } => by_row(row, added),
                // With the whole row as identity the tenant is known; with the key alone it is not.
                Op::Delete(row) => self.by_column(rule, row).unwrap_or(true),
            };
        }
        let (new, old) = match op {
            Op::Insert(row) => (Some(row), None),
            Op::Update { old, new } => (Some(new), Some(old.as_ref().unwrap_or(new))),
            Op::Delete(row) => (None, Some(row)),
        };
        let was = old.is_some_and(|row| known(table, self.key(table, row), added));
        let is = new.is_some_and(|row| by_row(row, added));
        if (was || is)
            && let Some(row) = new
        {
            added.insert((table, self.key(table, row)));
        }
        was || is
    }

    /// Whether the table has a tenant column and it is null in this row.
    pub fn names_nobody(&self, table: usize, row: &Row) -> bool {
        self.rules[table].column.is_some_and(|at| row[at] == Datum::Null)
    }

    /// Whether the stream itself says that a row of the tenant becomes another's: with the whole row as identity.
    pub fn leaves(&self, table: usize, op: &Op) -> bool {
        let rule = &self.rules[table];
        match op {
            Op::Update { old: Some(old), new } if rule.links.is_empty() => {
                self.by_column(rule, old) == Some(true) && self.by_column(rule, new) != Some(true)
            }
            _ => false,
        }
    }

    /// Keeps of a committed transaction what is the tenant's, and remembers its keys. `left`: what it is called that a row of
    /// a table went from or to the tenant, and whether its tenant column became null.
    pub fn settle(
        &mut self,
        changes: &mut Vec<Change>,
        left: impl Fn(usize, bool) -> MoveError,
    ) -> Result<(), MoveError> {
        if self.rules.iter().all(|rule| !rule.kept) {
            return Ok(());
        }
        let early = self.added_in_any_order(changes);
        let mut kept = Vec::with_capacity(changes.len());
        for change in changes.drain(..) {
            let table = change.table;
            let rule = &self.rules[table];
            if !rule.kept {
                kept.push(change);
                continue;
            }
            let known =
                |link: &LinkAt, hash: Hash| self.keys[link.to].contains(&hash) || early.contains(&(link.to, hash));
            let owns = |row: &Row| {
                self.by_column(rule, row).unwrap_or_else(|| Self::by_links(rule, row, known).unwrap_or(false))
            };
            match &change.op {
                Op::Insert(row) => {
                    if owns(row) {
                        let key = self.key(table, row);
                        self.keys[table].insert(key);
                        kept.push(change);
                    }
                }
                Op::Update { old, new } => {
                    let (before, after) = (self.key(table, old.as_ref().unwrap_or(new)), self.key(table, new));
                    let was = self.keys[table].contains(&before);
                    let hangs_on = rule.column.into_iter().chain(rule.links.iter().flat_map(|l| l.columns.clone()));
                    let untold = hangs_on.into_iter().any(|at| new[at] == Datum::Unchanged);
                    let is = if untold { was } else { owns(new) };
                    // One that stayed behind was the tenant's too. Whether it travels now is decided afterwards, by its age.
                    if was != is && !(is && rule.leaves_behind) {
                        return Err(left(table, was && self.names_nobody(table, new)));
                    }
                    if is {
                        self.keys[table].remove(&before);
                        self.keys[table].insert(after);
                        kept.push(change);
                    }
                }
                Op::Delete(row) => {
                    let key = self.key(table, row);
                    if self.keys[table].remove(&key) {
                        kept.push(change);
                    }
                }
            }
        }
        *changes = kept;
        Ok(())
    }

    /// Keys of rows that this transaction adds for the tenant, also where a row came before the one that it refers to:
    /// references that are checked at the end, or never, allow that.
    fn added_in_any_order(&self, changes: &[Change]) -> Added {
        let mut added = Added::new();
        if self.rules.iter().all(|rule| rule.links.iter().all(|link| link.checked)) {
            return added;
        }
        loop {
            let before = added.len();
            for change in changes.iter().filter(|c| self.rules[c.table].kept) {
                let rule = &self.rules[change.table];
                if let Op::Insert(row) | Op::Update { new: row, .. } = &change.op {
                    let known = |link: &LinkAt, hash: Hash| {
                        self.keys[link.to].contains(&hash) || added.contains(&(link.to, hash))
                    };
                    let ours =
                        self.by_column(rule, row).unwrap_or_else(|| Self::by_links(rule, row, known).unwrap_or(false));
                    if ours {
                        added.insert((change.table, self.key(change.table, row)));
                    }
                }
            }
            if added.len() == before {
                return added;
            }
        }
    }
}
