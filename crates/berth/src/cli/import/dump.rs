//! What kind of dump a file or folder is, and what it needs made before it is restored: looked at before anything is started.
//!
//! A plain dump is a script for `psql`, which knows commands that start programs and that go to other servers. What is such a command and
//! what is data only `psql` itself can tell, so it is told to run none of them: here is only found what of the script that would refuse.

use crate::cli::CliError;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    ops::Range,
    path::{Path, PathBuf},
};

const PLAIN_HEAD: &str = "-- PostgreSQL database dump";
const PLAIN_END: &str = "-- PostgreSQL database dump complete";
/// Of a line that is named.
const SHOWN: usize = 40;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    pub path: PathBuf,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For `pg_restore`, which finds out which format by itself.
    Archive,
    /// For `psql`.
    Plain(Script),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    pub extensions: Vec<Extension>,
    /// Bytes of lines by which `pg_dump` shuts `psql`'s commands out and lets them in again. They are not run: somebody else has
    /// shut them out by then.
    pub without: Vec<Range<u64>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    pub name: String,
    /// Where what it makes is looked for.
    pub schema: Option<String>,
}

fn refused(path: &Path, what: &str, hint: &str) -> CliError {
    CliError::request(format!("{} {what}", path.display()), hint)
}

impl Dump {
    pub fn look(path: &Path) -> Result<Self, CliError> {
        let read = |source| CliError::Read { path: path.to_owned(), source };
        let whole = path.canonicalize().map_err(read)?;
        if whole.is_dir() {
            if !whole.join("toc.dat").is_file() {
                let hint =
                    "name what `pg_dump --format=directory --file=FOLDER` wrote; one without `toc.dat` was cut off";
                return Err(refused(path, "is no dump: it has no `toc.dat`", hint));
            }
            must_stay_within(&whole)?;
            return Ok(Self { path: whole, kind: Kind::Archive });
        }
        let mut head = [0; 8];
        let mut file = File::open(&whole).map_err(read)?;
        let length = fill(&mut file, &mut head).map_err(read)?;
        match &head[..length] {
            [] => Err(refused(path, "is empty", "the program that wrote it may have failed; make it again")),
            [b'P', b'G', b'D', b'M', b'P', ..] | [b't', b'o', b'c', b'.', b'd', b'a', b't', ..] => {
                Ok(Self { path: whole, kind: Kind::Archive })
            }
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                Err(refused(path, "is compressed as a whole", "unpack it first: `gunzip`, `zstd -d`"))
            }
            _ => {
                let file = BufReader::new(File::open(&whole).map_err(read)?);
                let script = plain(path, file)?;
                Ok(Self { path: whole, kind: Kind::Plain(script) })
            }
        }
    }

    /// A line of a script, for whoever is told its number.
    pub fn line(&self, number: usize) -> Option<String> {
        let mut lines = BufReader::new(File::open(&self.path).ok()?).split(b'\n');
        let line = lines.nth(number.checked_sub(1)?)?.ok()?;
        Some(shown(&line))
    }
}

fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(line.trim_ascii()).chars().take(SHOWN).collect()
}

fn fill(file: &mut File, into: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < into.len() {
        match file.read(&mut into[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

/// `pg_restore` opens whatever file the list of contents names, and whatever a link leads to: what it reads there would become rows.
fn must_stay_within(folder: &Path) -> Result<(), CliError> {
    let read = |source| CliError::Read { path: folder.to_owned(), source };
    let hint = "`pg_dump` writes no such thing: somebody changed the dump";
    for entry in fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        // Of the entry itself, not of where it leads.
        if !entry.file_type().map_err(read)?.is_file() {
            let what = format!("has something else than files in it: `{}`", entry.file_name().to_string_lossy());
            return Err(refused(folder, &what, hint));
        }
    }
    let toc = fs::read(folder.join("toc.dat")).map_err(read)?;
    // Every `pg_dump` that writes folders writes numbers like this.
    if !matches!(toc.as_slice(), [b'P', b'G', b'D', b'M', b'P', 1, 12..=u8::MAX, _, 4, ..]) {
        return Err(refused(folder, "is no dump: its `toc.dat` begins otherwise", hint));
    }
    match leading_out(&toc) {
        Some(name) => Err(refused(folder, &format!("names a file outside of itself: `{name}`"), hint)),
        None => Ok(()),
    }
}

/// Of the texts in a list of contents, one that is a path to somewhere above. The folder has no folders of its own, so such a path begins
/// with its dots. Before each text stands its length, least byte first, and before that its sign.
fn leading_out(toc: &[u8]) -> Option<String> {
    toc.windows(8).enumerate().find_map(|(at, window)| {
        let [0, a, b, c, d, rest @ ..] = window else { return None };
        let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        let text = toc.get(at + 5..at.checked_add(5)?.checked_add(length)?)?;
        let dots = text.iter().take_while(|byte| matches!(byte, b'.' | b'/')).count();
        let leads = rest.starts_with(b".") || rest.starts_with(b"/");
        (leads && text[..dots].windows(2).any(|two| two == b"..")).then(|| shown(text))
    })
}

/// Where in a script a line stands. Rows and the texts of functions may hold any line: what is told from single lines is told before
/// they begin, or behind them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Comments and settings.
    Head,
    /// What rows need.
    Schema,
    Rows,
}

/// Reads all of it once.
fn plain(path: &Path, mut file: impl io::BufRead) -> Result<Script, CliError> {
    let (mut is_dump, mut ended, mut part, mut at, mut line) = (false, false, Part::Head, 0_u64, Vec::new());
    let (mut script, mut key, mut last) = (Script::default(), None, None);
    loop {
        let begin = at;
        line.clear();
        let read = file.read_until(b'\n', &mut line);
        let read = read.map_err(|source| CliError::Read { path: path.to_owned(), source })?;
        if read == 0 {
            break;
        }
        at += read as u64;
        let text = line.trim_ascii_end();
        let here = begin..begin + text.len() as u64;
        is_dump |= text.starts_with(PLAIN_HEAD.as_bytes());
        ended |= text.starts_with(PLAIN_END.as_bytes());
        if text.is_empty() || text.starts_with(b"--") {
            if part == Part::Head && text.starts_with(b"-- PostgreSQL database cluster dump") {
                let hint = "dump the one database: `pg_dump --format=custom --file=shop.dump shop`";
                return Err(refused(path, "is of a whole server (`pg_dumpall`)", hint));
            }
            continue;
        }
        // Only what stands behind everything else is the end of what `pg_dump` wrote.
        last = restriction(text, b"\\unrestrict ").filter(|found| key.as_ref() == Some(found)).map(|_| here.clone());
        match part {
            Part::Head if key.is_none() && restriction(text, b"\\restrict ").is_some() => {
                key = restriction(text, b"\\restrict ");
                script.without.push(here);
            }
            Part::Head if text.starts_with(b"SET ") || text.starts_with(b"SELECT pg_catalog.set_config(") => {}
            Part::Head if makes_a_database(text) => {
                let hint = "make it without `--create`: the rows are wanted, not the database's name";
                return Err(refused(path, &format!("makes a database of its own: `{}`", shown(text)), hint));
            }
            Part::Head | Part::Schema => {
                let rows = text.starts_with(b"COPY ") || text.starts_with(b"INSERT INTO ");
                part = if rows { Part::Rows } else { Part::Schema };
                script.extensions.extend(std::str::from_utf8(text).ok().and_then(extension));
            }
            Part::Rows => {}
        }
    }
    script.without.extend(last);
    if !is_dump {
        let hint = "name what `pg_dump` wrote; `--format=custom` is the best of its formats";
        return Err(refused(path, "is no dump that `pg_dump` wrote", hint));
    }
    if !ended {
        return Err(refused(
            path,
            "was cut off: it does not say that it is complete",
            "make it again, or copy it again",
        ));
    }
    Ok(script)
}

/// The key of a line that is exactly `\restrict KEY`.
fn restriction(line: &[u8], word: &[u8]) -> Option<Vec<u8>> {
    let key = line.strip_prefix(word)?;
    Some(key.to_vec()).filter(|key| !key.is_empty() && key.iter().all(u8::is_ascii_alphanumeric))
}

fn makes_a_database(line: &[u8]) -> bool {
    let words: [&[u8]; 4] = [b"CREATE DATABASE ", b"DROP DATABASE ", b"ALTER DATABASE ", b"\\connect "];
    words.iter().any(|word| line.starts_with(word))
}

/// `CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA public;`
fn extension(line: &str) -> Option<Extension> {
    let (name, rest) = name(line.strip_prefix("CREATE EXTENSION IF NOT EXISTS ")?)?;
    let schema = rest.strip_prefix(" WITH SCHEMA ").and_then(|rest| Some(self::name(rest)?.0));
    Some(Extension { name, schema }).filter(|it| it.name != "plpgsql")
}

/// A name as `pg_dump` quotes it, and what follows it.
fn name(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', ';']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..])).filter(|(name, _)| !name.is_empty());
    };
    let (mut name, mut rest) = (String::new(), quoted);
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        let Some(more) = after.strip_prefix('"') else { return Some((name, after)) };
        name.push('"');
        rest = more;
    }
}

/// Those that a script makes.
pub fn extensions(script: &str) -> Vec<Extension> {
    script.lines().filter_map(extension).collect()
}

/// The same list without large objects, where it has any. No row needs them here, and in a folder they are files that a file names.
pub fn without_large_objects(list: &str) -> Option<String> {
    let id = |line: &str| line.split(';').next().unwrap_or_default().to_owned();
    let large = |line: &&str| line.split_whitespace().nth(3).is_some_and(|kind| kind.starts_with("BLOB"));
    // One id may stand for two things in a list that somebody changed.
    let ids: BTreeSet<String> = list.lines().filter(large).map(id).collect();
    let others = || list.lines().filter(|line| !ids.contains(&id(line)));
    (!ids.is_empty()).then(|| others().flat_map(|line| [line, "\n"]).collect())
}

/// The lines of `pg_restore --list` that are about extensions: `2; 3079 16385 EXTENSION - uuid-ossp `.
pub fn listed(list: &str) -> String {
    let lines = list.lines().filter(|line| !line.starts_with(';') && line.contains(" EXTENSION - "));
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::{Dump, Extension, Kind, Script, extension, leading_out, listed, plain, without_large_objects};
    use std::{fs, path::Path};

    fn look(text: &str) -> Result<Script, String> {
        plain(Path::new("a.sql"), text.as_bytes()).map_err(|error| error.to_string())
    }

    fn made(name: &str, schema: &str) -> Extension {
        Extension { name: name.to_owned(), schema: Some(schema.to_owned()) }
    }

    #[test]
    fn a_whole_dump_is_taken_and_its_extensions_are_known() {
        let text = "--\n-- PostgreSQL database dump\n--\n\n\\restrict aB1\n\nSET row_security = off;\n\
                    CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA public;\n\
                    COPY public.t (a, b) FROM stdin;\n\\N\tx\n\\tindented\t1\n\\\\! backslash\t2\n\\.\n\
                    CREATE EXTENSION IF NOT EXISTS nothing;\n\
                    --\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict aB1\n\n";
        let script = look(text).unwrap();
        assert_eq!(script.extensions, [made("citext", "public")]);
        let without: Vec<&str> = script.without.iter().map(|at| &text[at.start as usize..at.end as usize]).collect();
        assert_eq!(without, ["\\restrict aB1", "\\unrestrict aB1"]);
    }

    #[test]
    fn lines_of_rows_and_texts_are_nobodys_commands() {
        let text = "-- PostgreSQL database dump\nCREATE FUNCTION f() RETURNS text AS $$\n\\section one\n\\! date\n$$;\n\
                    COMMENT ON TABLE t IS 'a\n-- PostgreSQL database cluster dump\n\\connect shop\nCREATE DATABASE b;\n';\n\
                    INSERT INTO t VALUES ('\n\\d\n\\restrict aB1\n\\unrestrict aB1\n');\n\
                    -- PostgreSQL database dump complete\n";
        assert_eq!(look(text).unwrap(), Script::default());
    }

    #[test]
    fn only_the_dumps_own_lines_are_left_out() {
        let head = "-- PostgreSQL database dump\n";
        let end = "-- PostgreSQL database dump complete\n";
        for (text, left_out) in [
            (format!("{head}\\restrict aB1\nSELECT 1;\n\\unrestrict aB1\n\\! date\n{end}"), 1),
            (format!("{head}\\restrict aB1\nSELECT 1;\n{end}\\unrestrict other\n"), 1),
            (format!("{head}\\restrict aB1 \\! date\nSELECT 1;\n{end}\\unrestrict aB1\n"), 0),
            (format!("{head}SELECT 1;\n\\restrict aB1\n{end}\\unrestrict aB1\n"), 0),
            (format!("{head}\\restrict aB1\n\\restrict aB2\nSELECT 1;\n{end}\\unrestrict aB2\n"), 1),
            (format!("{head}  \\restrict aB1\nSELECT 1;\n{end}"), 0),
        ] {
            assert_eq!(look(&text).unwrap().without.len(), left_out, "{text}");
        }
    }

    #[test]
    fn what_is_cut_off_or_of_something_else_is_refused_by_name() {
        let head = "-- PostgreSQL database dump\n";
        for (text, word) in [
            (format!("{head}COPY t FROM stdin;\n1\n"), "was cut off"),
            (format!("{head}\\restrict aB1\nSET a = 1;\nCREATE DATABASE shop;\n"), "`CREATE DATABASE shop;`"),
            (format!("{head}\\connect shop\n-- PostgreSQL database dump complete\n"), "`\\connect shop`"),
            ("-- PostgreSQL database cluster dump\n".to_owned(), "pg_dumpall"),
            ("insert into t values (1);\n".to_owned(), "is no dump"),
        ] {
            let why = look(&text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    #[test]
    fn a_line_is_found_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sql");
        fs::write(&path, b"one\n  \\! date \xff\r\nthree\n").unwrap();
        let dump = Dump { path, kind: Kind::Archive };
        assert_eq!(dump.line(2).as_deref(), Some("\\! date \u{fffd}"));
        assert_eq!((dump.line(0), dump.line(4)), (None, None));
    }

    #[test]
    fn a_folder_that_leads_out_of_itself_is_refused() {
        let text = |text: &str| [&[0][..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
        let toc = |name: &str| [b"PGDMP\x01\x0e\x00\x04\x08".to_vec(), text("t"), text(name), text("")].concat();
        for (name, leads) in [
            ("3495.dat", false),
            ("blobs.toc", false),
            (".hidden", false),
            ("../3495.dat", true),
            ("..", true),
            ("/../3495.dat", true),
            ("./../../etc/passwd", true),
            ("SELECT '../a';", false),
        ] {
            assert_eq!(leading_out(&toc(name)).is_some(), leads, "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("toc.dat"), toc("3495.dat")).unwrap();
        assert_eq!(Dump::look(folder.path()).unwrap().kind, Kind::Archive);
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("3495.dat")).unwrap();
        let why = Dump::look(folder.path()).unwrap_err().to_string();
        assert!(why.contains("something else than files in it: `3495.dat`"), "{why}");
    }

    #[test]
    fn large_objects_are_taken_off_a_list() {
        let list = "; list\n215; 1259 16385 TABLE public t shop\n3470; 0 0 BLOBS - BLOBS \n3471; 0 0 BLOB METADATA - 1 shop\n\
                    3470; 1259 16385 TABLE public u shop\n";
        assert_eq!(without_large_objects(list).unwrap(), "; list\n215; 1259 16385 TABLE public t shop\n");
        assert_eq!(without_large_objects("215; 1259 16385 TABLE public BLOB shop\n"), None);
    }

    #[test]
    fn extensions_are_read_from_scripts_and_lists() {
        let make = "CREATE EXTENSION IF NOT EXISTS";
        for (line, wanted) in [
            ("\"uuid-ossp\" WITH SCHEMA public;", Some(made("uuid-ossp", "public"))),
            ("citext WITH SCHEMA \"my \"\"own\"\" schema\";", Some(made("citext", "my \"own\" schema"))),
            ("citext;", Some(Extension { name: "citext".to_owned(), schema: None })),
            ("plpgsql WITH SCHEMA pg_catalog;", None),
            ("\"citext", None),
        ] {
            assert_eq!(extension(&format!("{make} {line}")), wanted, "{line}");
        }
        let list = "; EXTENSION - a\n2; 3079 16385 EXTENSION - citext \n3; 0 0 COMMENT - EXTENSION citext \n";
        assert_eq!(listed(list), "2; 3079 16385 EXTENSION - citext \n");
    }
}
