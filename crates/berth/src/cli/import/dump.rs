//! What kind of dump a file or folder is, and what in it cannot be restored here: looked at before anything is started.
//!
//! A plain dump is a script for `psql`, which knows commands that start programs and that go to other servers. A dump has no need of
//! them, and one that has them is refused.

use crate::cli::CliError;
use std::{
    fs::File,
    io::{self, BufReader, Read as _},
    path::{Path, PathBuf},
};

const PLAIN_HEAD: &str = "-- PostgreSQL database";
const PLAIN_END: &str = "-- PostgreSQL database dump complete";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    pub path: PathBuf,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For `pg_restore`, which finds out which format by itself.
    Archive,
    /// For `psql`, with the extensions that it makes.
    Plain { extensions: Vec<String> },
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
                let extensions = plain(path, file)?;
                Ok(Self { path: whole, kind: Kind::Plain { extensions } })
            }
        }
    }
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

/// Reads all of it once. A line of data never begins with a backslash and a letter that `COPY` does not write.
fn plain(path: &Path, mut file: impl io::BufRead) -> Result<Vec<String>, CliError> {
    let (mut is_dump, mut ended, mut extensions, mut line, mut n) = (false, false, Vec::new(), Vec::new(), 0_u64);
    loop {
        line.clear();
        let read = file.read_until(b'\n', &mut line);
        if read.map_err(|source| CliError::Read { path: path.to_owned(), source })? == 0 {
            break;
        }
        n += 1;
        let text = line.trim_ascii_end();
        is_dump |= text.starts_with(PLAIN_HEAD.as_bytes());
        ended |= text.starts_with(PLAIN_END.as_bytes());
        if text.starts_with(b"-- PostgreSQL database cluster dump") {
            let hint = "dump the one database: `pg_dump --format=custom --file=shop.dump shop`";
            return Err(refused(path, "is of a whole server (`pg_dumpall`)", hint));
        }
        if let [b'\\', letter, ..] = text
            && !matches!(letter, b'\\' | b'.' | b'N' | b'b' | b'f' | b'n' | b'r' | b't' | b'v')
            && !text.starts_with(b"\\unrestrict ")
        {
            let what = format!(
                "has a command for `psql` in line {n}: `{}`",
                String::from_utf8_lossy(&text[..text.len().min(40)])
            );
            let hint = if text.starts_with(b"\\connect") {
                "make it without `--create`: the rows are wanted, not the database's name"
            } else {
                "a dump has none: take it out, or make the dump with `pg_dump`"
            };
            return Err(refused(path, &what, hint));
        }
        extensions.extend(std::str::from_utf8(text).ok().and_then(extension));
    }
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
    Ok(extensions)
}

/// `CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA public;`
fn extension(line: &str) -> Option<String> {
    let rest = line.strip_prefix("CREATE EXTENSION IF NOT EXISTS ")?;
    let name = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => rest.split([' ', ';']).next()?,
    };
    Some(name.to_owned()).filter(|name| !name.is_empty() && name != "plpgsql")
}

/// Those of `pg_restore --list`: `2; 3079 16385 EXTENSION - uuid-ossp `.
pub fn listed(list: &str) -> Vec<String> {
    let names =
        list.lines().filter_map(|line| line.split_once(" EXTENSION - ").map(|(_, name)| name.trim().to_owned()));
    names.filter(|name| !name.is_empty() && name != "plpgsql").collect()
}

#[cfg(test)]
mod tests {
    use super::{extension, listed, plain};
    use std::path::Path;

    fn look(text: &str) -> Result<Vec<String>, String> {
        plain(Path::new("a.sql"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_dump_is_taken_and_its_extensions_are_known() {
        let text = "--\n-- PostgreSQL database dump\n--\n\\restrict abc\nCREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA public;\n\
                    COPY public.t (a, b) FROM stdin;\n\\N\tx\n\\tindented\t1\n\\\\! backslash\t2\n\\.\n\
                    -- PostgreSQL database dump complete\n\\unrestrict abc\n";
        assert_eq!(look(text).unwrap(), ["citext"]);
    }

    #[test]
    fn what_is_cut_off_or_would_do_something_else_is_refused_by_name() {
        let head = "-- PostgreSQL database dump\n";
        for (text, word) in [
            (format!("{head}COPY t FROM stdin;\n1\n"), "was cut off"),
            (format!("{head}\\! rm -rf /\n-- PostgreSQL database dump complete\n"), "line 2"),
            (format!("{head}\\connect shop\n-- PostgreSQL database dump complete\n"), "\\connect shop"),
            ("-- PostgreSQL database cluster dump\n".to_owned(), "pg_dumpall"),
            ("insert into t values (1);\n".to_owned(), "is no dump"),
        ] {
            let why = look(&text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    #[test]
    fn extensions_are_read_from_scripts_and_lists() {
        assert_eq!(
            extension("CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\" WITH SCHEMA public;").as_deref(),
            Some("uuid-ossp")
        );
        assert_eq!(extension("CREATE EXTENSION IF NOT EXISTS plpgsql WITH SCHEMA pg_catalog;"), None);
        assert_eq!(listed(";\n2; 3079 16385 EXTENSION - citext \n3; 0 0 COMMENT - EXTENSION citext \n"), ["citext"]);
    }
}
