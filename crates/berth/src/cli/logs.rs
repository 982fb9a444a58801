//! `berth logs`.

use super::{CliError, Context};
use berth_wire::LogLine;
use clap::Args;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  berth logs web --cell shared-1
  berth logs worker --follow")]
pub struct Logs {
    /// Only of this service
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Of this cell; without a cell or tenant, of all that are ready
    #[arg(long, value_name = "CELL")]
    cell: Option<String>,
    /// Of the cell where this tenant lives; other tenants' lines are among them
    #[arg(long, value_name = "TENANT", conflicts_with = "cell")]
    tenant: Option<String>,
    /// The same as SERVICE
    #[arg(long = "service", value_name = "SERVICE", conflicts_with = "service")]
    of: Option<String>,
    /// How many lines of each member
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    last: u32,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(long, short = 'f')]
    follow: bool,
}

/// Between two looks. A member that writes more than [`LOOKED_AT`] lines meanwhile is said to have.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOKED_AT: u32 = 1000;

impl Logs {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let cells = match (&self.cell, &self.tenant) {
            (Some(cell), _) => vec![cell.clone()],
            (None, Some(tenant)) => vec![cell_of(cx, tenant).await?],
            (None, None) => {
                let all = cx.client.cells().await?;
                let ready = all.into_iter().filter(|cell| cell.state == berth_domain::CellState::Ready);
                ready.map(|cell| cell.name.to_string()).collect()
            }
        };
        let service = self.service.as_deref().or(self.of.as_deref());
        let many = cells.len() > 1;
        let lines = look(cx, &cells, service, self.last).await?;
        cx.show(
            &lines,
            |lines| if lines.is_empty() { "Nothing was written yet.\n".to_owned() } else { screen(lines, many) },
        )?;
        if !self.follow {
            return Ok(());
        }
        let mut before = look(cx, &cells, service, LOOKED_AT).await?;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                // Left by whoever looks: nothing goes on in the background.
                Ok(()) = tokio::signal::ctrl_c() => return Ok(()),
            }
            let now = look(cx, &cells, service, LOOKED_AT).await?;
            let fresh = new_since(&before, &now);
            if !fresh.is_empty() {
                cx.show(&fresh, |fresh| screen(fresh, many))?;
            }
            before = now;
        }
    }
}

async fn cell_of(cx: &Context, tenant: &str) -> Result<String, CliError> {
    cx.client.tenant(tenant).await?.cell.map(|cell| cell.to_string()).ok_or_else(|| {
        CliError::request(
            format!("tenant `{tenant}` lives in no cell yet"),
            format!("`berth tenant show {tenant}` says how far it is"),
        )
    })
}

async fn look(cx: &Context, cells: &[String], service: Option<&str>, last: u32) -> Result<Vec<LogLine>, CliError> {
    let mut lines = Vec::new();
    for cell in cells {
        lines.extend(cx.client.cell_logs(cell, service, last).await?);
    }
    Ok(lines)
}

/// Lines have no numbers: what is new of a member is what comes after the longest end of its lines before that its lines
/// now begin with or hold.
fn new_since(before: &[LogLine], now: &[LogLine]) -> Vec<LogLine> {
    let mut known: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for line in before {
        known.entry(line.member.to_string()).or_default().push(&line.line);
    }
    let mut by_member: BTreeMap<String, Vec<&LogLine>> = BTreeMap::new();
    for line in now {
        by_member.entry(line.member.to_string()).or_default().push(line);
    }
    let mut fresh = Vec::new();
    for (member, lines) in by_member {
        let old = known.remove(&member).unwrap_or_default();
        let texts: Vec<&str> = lines.iter().map(|line| line.line.as_str()).collect();
        // As much as possible of what was shown, from some place of it to its end.
        let shown = (0..=old.len()).map(|from| &old[from..]).find(|end| texts.starts_with(end)).map_or(0, <[_]>::len);
        fresh.extend(lines[shown..].iter().map(|line| (*line).clone()));
    }
    fresh
}

fn screen(lines: &[LogLine], with_cells: bool) -> String {
    let place =
        |line: &LogLine| if with_cells { format!("{} {}", line.cell, line.service) } else { line.service.to_string() };
    lines.iter().map(|line| format!("{} | {}\n", place(line), line.line)).collect()
}

#[cfg(test)]
mod tests {
    use super::new_since;
    use berth_wire::LogLine;

    fn lines(texts: &[&str]) -> Vec<LogLine> {
        let line = |text: &&str| LogLine {
            cell: "shared-1".parse().unwrap(),
            service: "web".parse().unwrap(),
            member: berth_domain::MemberId::new(uuid::Uuid::nil()),
            line: (*text).to_owned(),
        };
        texts.iter().map(line).collect()
    }

    #[test]
    fn each_new_line_is_shown_once_also_where_lines_repeat() {
        let new = |before: &[&str], now: &[&str]| -> Vec<String> {
            new_since(&lines(before), &lines(now)).into_iter().map(|line| line.line).collect()
        };
        assert_eq!(new(&["a", "b"], &["a", "b", "c"]), ["c"]);
        assert_eq!(new(&["a", "b", "c"], &["b", "c", "d"]), ["d"], "the first one has left the window");
        assert_eq!(new(&["x", "x"], &["x", "x", "x"]), ["x"]);
        assert_eq!(new(&["a"], &["a"]), [""; 0]);
        assert_eq!(new(&["a", "b"], &["c", "d"]), ["c", "d"], "more was written than is looked at");
        assert_eq!(new(&[], &["a"]), ["a"]);
    }
}
