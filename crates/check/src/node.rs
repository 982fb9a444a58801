//! Questions to a tree of keys and values, whichever format it came from. Knows no key.

use berth_config::tree::{Entry, Node, Value};

/// A value at the end of a path, with the line it stands in.
pub struct Leaf<'a> {
    /// `webhost.monitoring.retention_days`.
    pub path: String,
    pub line: u64,
    pub node: &'a Node,
}

impl Leaf<'_> {
    /// The last word of the path.
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }
}

pub trait Ask {
    fn entries(&self) -> &[Entry];
    fn items(&self) -> &[Node];
    fn entry(&self, key: &str) -> Option<&Entry>;
    fn at(&self, path: &[&str]) -> Option<&Node>;
    fn text(&self) -> Option<String>;
    fn number(&self) -> Option<f64>;
    fn is_true(&self) -> bool;
    fn leaves(&self) -> Vec<Leaf<'_>>;
    /// Every map of the tree with its path, the root first.
    fn maps(&self) -> Vec<(String, &Node)>;
}

impl Ask for Node {
    fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| Some(&node.entry(key)?.value))
    }

    /// Of what can only be written one way.
    fn text(&self) -> Option<String> {
        match &self.value {
            Value::Text(text) => Some(text.clone()),
            Value::Int(number) => Some(number.to_string()),
            Value::Float(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// A number, also one in quotes.
    fn number(&self) -> Option<f64> {
        match &self.value {
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            Value::Text(text) => text.trim().replace('_', "").parse().ok(),
            _ => None,
        }
    }

    fn is_true(&self) -> bool {
        match &self.value {
            Value::Bool(truth) => *truth,
            Value::Text(text) => matches!(text.to_ascii_lowercase().as_str(), "true" | "yes" | "on" | "1"),
            _ => false,
        }
    }

    fn leaves(&self) -> Vec<Leaf<'_>> {
        let mut found = Vec::new();
        walk(self, String::new(), self.line, &mut found);
        found
    }

    fn maps(&self) -> Vec<(String, &Node)> {
        let mut found = Vec::new();
        walk_maps(self, String::new(), &mut found);
        found
    }
}

pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn walk<'a>(node: &'a Node, path: String, line: u64, found: &mut Vec<Leaf<'a>>) {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                walk(&entry.value, join(&path, &entry.key), entry.line, found);
            }
        }
        Value::List(items) => {
            for (n, item) in items.iter().enumerate() {
                walk(item, format!("{path}[{n}]"), item.line, found);
            }
        }
        _ => found.push(Leaf { path, line, node }),
    }
}

fn walk_maps<'a>(node: &'a Node, path: String, found: &mut Vec<(String, &'a Node)>) {
    match &node.value {
        Value::Map(entries) => {
            found.push((path.clone(), node));
            for entry in entries {
                walk_maps(&entry.value, join(&path, &entry.key), found);
            }
        }
        Value::List(items) => {
            for (n, item) in items.iter().enumerate() {
                walk_maps(item, format!("{path}[{n}]"), found);
            }
        }
        _ => {}
    }
}

/// `30s`, `5 minutes`, `1 hour`, `24h`, `5000` (milliseconds): in milliseconds.
pub fn span_ms(text: &str) -> Option<f64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (amount, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "ms" | "milliseconds" => 1.0,
        "s" | "sec" | "second" | "seconds" => 1000.0,
        "m" | "min" | "minute" | "minutes" => 60_000.0,
        "h" | "hour" | "hours" => 3_600_000.0,
        "d" | "day" | "days" => 86_400_000.0,
        "w" | "week" | "weeks" => 604_800_000.0,
        _ => return None,
    };
    amount.parse::<f64>().ok().map(|n| n * factor)
}

/// `512mb`, `1.5GB`, `128Mi`, `1g`: in MiB.
pub fn mebibytes(text: &str) -> Option<f64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (amount, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "b" => 1.0 / 1_048_576.0,
        "k" | "kb" | "ki" | "kib" => 1.0 / 1024.0,
        "m" | "mb" | "mi" | "mib" => 1.0,
        "g" | "gb" | "gi" | "gib" => 1024.0,
        "t" | "tb" | "ti" | "tib" => 1_048_576.0,
        _ => return None,
    };
    amount.parse::<f64>().ok().map(|n| n * factor)
}

/// Milliseconds as people say them.
pub fn said(ms: f64) -> String {
    // A backup is made every 24 h, not every 1 d.
    for (unit, factor, from) in
        [("d", 86_400_000.0, 2.0), ("h", 3_600_000.0, 1.0), ("min", 60_000.0, 1.0), ("s", 1000.0, 1.0)]
    {
        if ms >= factor * from {
            let amount = (ms / factor * 10.0).round() / 10.0;
            return format!("{amount} {unit}");
        }
    }
    format!("{ms} ms")
}

/// `1440000` as `1,440,000`.
pub fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The shortest time between two runs of a cron line, in milliseconds; of the common forms only.
pub fn cron_ms(line: &str) -> Option<f64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields[..] else { return None };
    let every = |field: &str| field.strip_prefix("*/").and_then(|n| n.parse::<f64>().ok());
    let several = |field: &str, cycle: f64| cycle / field.split(',').count() as f64;
    const HOUR: f64 = 3_600_000.0;
    if let Some(n) = every(minute) {
        return Some(n * 60_000.0);
    }
    if minute == "*" {
        return Some(60_000.0);
    }
    match (hour, day, month, weekday) {
        ("*", ..) => Some(several(minute, HOUR)),
        (hour, ..) if every(hour).is_some() => every(hour).map(|n| n * HOUR),
        (hour, "*", "*", "*") => Some(several(hour, 24.0 * HOUR)),
        (_, "*", "*", weekday) => Some(several(weekday, 168.0 * HOUR)),
        (_, _, "*", "*") => Some(720.0 * HOUR),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{cron_ms, grouped, mebibytes, said, span_ms};

    #[test]
    fn amounts_are_read_with_their_units() {
        assert_eq!(span_ms("30s"), Some(30_000.0));
        assert_eq!(span_ms("1 hour"), Some(3_600_000.0));
        assert_eq!(span_ms("5000"), Some(5000.0));
        assert_eq!(span_ms("soon"), None);
        assert_eq!(mebibytes("1.5GB"), Some(1536.0));
        assert_eq!(mebibytes("512mb"), Some(512.0));
        assert_eq!(grouped(552_960.0), "552,960");
        assert_eq!((said(86_400_000.0), said(604_800_000.0)), ("24 h".to_owned(), "7 d".to_owned()));
    }

    #[test]
    fn a_cron_line_says_how_often() {
        for (line, hours) in [
            ("0 2 * * *", 24.0),
            ("0 * * * *", 1.0),
            ("*/30 * * * *", 0.5),
            ("0 */6 * * *", 6.0),
            ("0 3 * * 0", 168.0),
            ("0 2,14 * * *", 12.0),
            ("0 0 1 * *", 720.0),
        ] {
            assert_eq!(cron_ms(line), Some(hours * 3_600_000.0), "{line}");
        }
        assert_eq!(cron_ms("daily"), None);
    }
}
