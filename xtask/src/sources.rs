//! What a tracked file may look like. Pure: text in, faults out; never reads a file.

/// Past this a file is refused.
const LINES_MAX: usize = 600;
/// Past this a file is worth a second look.
const LINES_LONG: usize = 300;

/// What was found in one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub faults: Vec<String>,
    pub warnings: Vec<String>,
}

pub fn look(name: &str, bytes: &[u8]) -> Found {
    let mut found = Found::default();
    let Ok(text) = std::str::from_utf8(bytes) else { return found };
    if std::path::Path::new(name).extension().is_some_and(|ending| ending == "rs") {
        rust(name, text, &mut found);
    }
    // Files that others wrote or tools make are not ours to style.
    let foreign =
        ["Cargo.lock", "LICENSE"].contains(&name) || name.contains("/assets/vendor/") || name.contains("/.sqlx/");
    if !foreign {
        for (n, line) in text.lines().enumerate() {
            if let Some(fault) = forbidden(name, line) {
                found.faults.push(format!("{name}:{}: {fault}", n + 1));
            }
        }
    }
    found
}

fn rust(name: &str, text: &str, found: &mut Found) {
    let header: String = text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join(" ");
    if header.is_empty() {
        found.faults.push(format!("{name}: the file has no `//!` header"));
    } else if header.contains("placeholder") {
        found.faults.push(format!("{name}: the header says `placeholder`"));
    } else if name.ends_with("src/lib.rs") && !says_never(&header) {
        found.faults.push(format!("{name}: the header does not say what the crate never does or knows"));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.faults.push(format!("{name}: {lines} lines, at most {LINES_MAX}"));
    } else if lines > LINES_LONG {
        found.warnings.push(format!("{name}: {lines} lines; past {LINES_LONG} look twice"));
    }
}

fn says_never(text: &str) -> bool {
    let text = text.to_lowercase();
    ["never", "knows no", "no behaviour"].iter().any(|word| text.contains(word))
}

/// A row `| crate | … |` or a line `name  …` per crate that says what it never knows.
pub fn map_faults<'a>(map: &str, crates: impl Iterator<Item = &'a str>) -> Vec<String> {
    let row = |name: &str| map.lines().find(|line| line.starts_with(&format!("| `{name}`")));
    crates
        .filter(|name| !row(name).is_some_and(says_never))
        .map(|name| format!("ARCHITECTURE.md: no row `| `{name}` | … |` that says what it never knows"))
        .collect()
}

fn forbidden(name: &str, line: &str) -> Option<String> {
    // Written in pieces, so that this file does not forbid itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME")];
    for mark in marks {
        if let Some(at) = line.find(mark) {
            let numbered = line[at + mark.len()..].starts_with("(#");
            if mark == marks[1] || !numbered {
                return Some(format!("`{mark}` without the number of an issue, as in `{}(#12)`", marks[0]));
            }
        }
    }
    let outside = [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/")];
    if let Some(path) = outside.iter().find(|path| line.contains(*path)) {
        return Some(format!("`{path}` is a path outside the repository"));
    }
    let shared = concat!("../sha", "red");
    if line.contains(shared) && !name.contains("tests") {
        return Some(format!("`{shared}` may appear in tests only"));
    }
    let hosts = [
        concat!("crates", ".io/api"),
        concat!("static.crates", ".io"),
        concat!("index.crates", ".io"),
        concat!("registry.npm", "js.org"),
        concat!("deb.debian", ".org"),
    ];
    if let Some(host) = hosts.iter().find(|host| line.contains(*host)) {
        return Some(format!("`{host}` is the host of a registry"));
    }
    line.chars().find(|c| is_emoji(*c)).map(|c| format!("U+{:04X} is an emoji", u32::from(c)))
}

fn is_emoji(c: char) -> bool {
    matches!(u32::from(c), 0x1F000..=0x1FAFF | 0x2600..=0x26FF | 0x2700..=0x27BF | 0xFE0F)
}

#[cfg(test)]
mod tests {
    use super::{LINES_MAX, forbidden, look, map_faults};

    #[test]
    fn a_source_file_needs_a_header_and_a_length() {
        let faults = |name: &str, text: &str| look(name, text.as_bytes()).faults;
        assert_eq!(faults("crates/a/src/b.rs", "//! Says something.\n"), Vec::<String>::new());
        assert_eq!(faults("crates/a/src/b.rs", "fn main() {}\n").len(), 1);
        assert_eq!(faults("crates/a/src/lib.rs", "//! Says something.\n").len(), 1);
        assert_eq!(faults("crates/a/src/lib.rs", "//! Says something. Never knows `store`.\n"), Vec::<String>::new());
        let long = format!("//! Long.\n{}", "\n".repeat(LINES_MAX));
        assert_eq!(faults("crates/a/src/b.rs", &long).len(), 1);
        assert_eq!(look("crates/a/src/b.rs", format!("//! Long.\n{}", "\n".repeat(400)).as_bytes()).warnings.len(), 1);
        assert_eq!(look("picture.png", &[0xff, 0xfe]).faults, Vec::<String>::new());
    }

    #[test]
    fn what_must_not_be_in_a_file_is_found() {
        let mark = concat!("TO", "DO");
        assert!(forbidden("a.rs", &format!("// {mark}: later")).is_some());
        assert!(forbidden("a.rs", &format!("// {mark}(#12): later")).is_none());
        assert!(forbidden("a.md", concat!("see /ho", "me/me/notes")).is_some());
        assert!(forbidden("a.md", concat!("see ../sha", "red/x")).is_some());
        assert!(forbidden("crates/a/tests/b.rs", concat!("\"../sha", "red/x\"")).is_none());
        assert!(forbidden("a.md", "done \u{1F680}").is_some());
        assert!(forbidden("a.md", "a → b ≤ c … “d”").is_none());
    }

    #[test]
    fn the_map_has_a_row_with_a_never_for_each_crate() {
        let map = "| `domain` | words | never does I/O |\n| `wire` | types | nice |\n";
        assert_eq!(map_faults(map, ["domain"].into_iter()), Vec::<String>::new());
        assert_eq!(map_faults(map, ["wire", "edge"].into_iter()).len(), 2);
    }
}
