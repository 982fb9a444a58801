//! Tables for terminals: names before numbers, numbers to the right, never wider than [`WIDTH`] for anything but what is to be
//! copied.

pub const WIDTH: usize = 100;
const GAP: usize = 2;
/// A column is never made narrower than this for the sake of others.
const NARROWEST: usize = 8;

pub struct Table {
    heads: Vec<Head>,
    rows: Vec<Vec<String>>,
}

struct Head {
    text: &'static str,
    right: bool,
    /// Never shortened.
    whole: bool,
}

impl Table {
    /// Heads; one that begins with `>` heads numbers, one with `!` what people copy, such as commands.
    pub fn new(heads: &[&'static str]) -> Self {
        let head = |head: &&'static str| {
            let text = head.trim_start_matches(['>', '!']);
            Head { text, right: head.starts_with('>'), whole: head.starts_with('!') }
        };
        Self { heads: heads.iter().map(head).collect(), rows: Vec::new() }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.heads.len(), "a row has a cell for each head");
        self.rows.push(cells.map(|cell| cell.replace(['\n', '\r', '\t'], " ")).into());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, or `nothing` when it has no rows: an empty page says what to do first.
    pub fn or(&self, nothing: &str) -> String {
        if self.is_empty() { format!("{nothing}\n") } else { self.text() }
    }

    pub fn text(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        line(&mut text, &widths, &self.heads, self.heads.iter().map(|head| head.text));
        for row in &self.rows {
            line(&mut text, &widths, &self.heads, row.iter().map(String::as_str));
        }
        text
    }

    /// As wide as needed; where that is too wide, the widest gives way first.
    fn widths(&self) -> Vec<usize> {
        let of = |at: usize| self.rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        let mut widths: Vec<usize> =
            self.heads.iter().enumerate().map(|(at, head)| of(at).max(head.text.chars().count())).collect();
        let gaps = GAP * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > WIDTH {
            let others = widths.iter_mut().zip(&self.heads).filter(|(width, head)| **width > NARROWEST && !head.whole);
            let Some(widest) = others.map(|(width, _)| width).max() else { break };
            *widest -= 1;
        }
        widths
    }
}

fn line<'a>(text: &mut String, widths: &[usize], heads: &[Head], cells: impl Iterator<Item = &'a str>) {
    let mut line = String::new();
    for ((width, head), cell) in widths.iter().zip(heads).zip(cells) {
        if !line.is_empty() {
            line.push_str(&" ".repeat(GAP));
        }
        let cell = shortened(cell, *width);
        let pad = " ".repeat(width - cell.chars().count());
        if head.right {
            line.push_str(&pad);
            line.push_str(&cell);
        } else {
            line.push_str(&cell);
            line.push_str(&pad);
        }
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

/// `name: value` lines about one thing, the values under each other.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    facts.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Table, WIDTH, facts};

    #[test]
    fn numbers_stand_to_the_right() {
        let mut table = Table::new(&["NAME", ">ROWS"]);
        table.row(["acme".to_owned(), "5".to_owned()]);
        table.row(["a".to_owned(), "1,000".to_owned()]);
        assert_eq!(table.text(), "NAME   ROWS\nacme      5\na     1,000\n");
    }

    #[test]
    fn no_table_is_wider_than_a_page() {
        let mut table = Table::new(&["NAME", "HOSTS", ">N"]);
        table.row(["n".repeat(40), "h".repeat(300), "7".to_owned()]);
        for line in table.text().lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        assert!(table.text().contains('…'));
    }

    #[test]
    fn what_is_to_be_copied_is_never_shortened() {
        let mut table = Table::new(&["NAME", "!COMMAND"]);
        table.row(["n".repeat(40), "c".repeat(300)]);
        assert_eq!(table.text().lines().nth(1).unwrap(), format!("nnnnnnn…  {}", "c".repeat(300)));
    }

    #[test]
    fn an_empty_table_says_what_to_do_first() {
        assert_eq!(Table::new(&["NAME"]).or("No tenants yet."), "No tenants yet.\n");
    }

    #[test]
    fn a_line_end_in_a_cell_breaks_no_table() {
        let mut table = Table::new(&["NAME", "B"]);
        table.row(["a\nb".to_owned(), "c".to_owned()]);
        assert_eq!(table.text().lines().count(), 2);
    }

    #[test]
    fn facts_line_up() {
        assert_eq!(facts(&[("state", "active".into()), ("id", "7".into())]), "state  active\nid     7\n");
    }
}
