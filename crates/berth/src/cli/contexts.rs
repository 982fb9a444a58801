//! `berth login` and `berth context …`: servers and the keys to them, kept for this user in one file that nobody else may
//! read. What variables and flags say comes before it.

use super::{CliError, Connection, Context, table::Table};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal as _, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

const FILE: &str = "contexts.json";
/// Nothing longer is a key.
const KEY_BYTES: u64 = 4096;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  berth login http://127.0.0.1:7600
      asks for the key, checks it, and keeps both as the context 127.0.0.1
  berth login http://10.0.0.5:7600 --name production < key
      takes the key from a file; it never stands on a command line")]
pub struct Login {
    /// The server, as `http://HOST[:PORT]`
    url: String,
    /// What to call it; otherwise its host
    #[arg(long)]
    name: Option<String>,
}

#[derive(Subcommand, Debug)]
pub enum Contexts {
    /// Servers that were logged in to
    List,
    /// Which one commands speak to from now on
    Use { name: String },
    /// Forget one, and the key to it
    Remove { name: String },
}

/// The file as it is kept.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    current: Option<String>,
    contexts: BTreeMap<String, Server>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    url: String,
    key: String,
}

/// One line of `berth context list`.
#[derive(Serialize)]
struct Listed {
    name: String,
    url: String,
    current: bool,
}

/// What flags and variables say of the server.
pub struct Asked {
    /// `--url` or `BERTH_URL`.
    pub url: Option<String>,
    /// `BERTH_API_KEY`.
    pub key: Option<SecretString>,
    /// `--context`.
    pub context: Option<String>,
}

/// Where nobody says anything.
pub const USUAL_URL: &str = "http://127.0.0.1:7600";

/// The server to speak to. A context that is named comes first, then flag and variables, then the current context. The
/// key of a context is sent to its own server only.
pub fn resolve(asked: Asked, folder: Option<&Path>) -> Result<Connection, CliError> {
    let Asked { url, key, context } = asked;
    if context.is_none()
        && let Some(url) = url
    {
        return Ok(Connection { url, key });
    }
    let mut kept = match folder {
        Some(folder) => read(folder)?,
        None => Kept::default(),
    };
    let name = match context {
        Some(name) if !kept.contexts.contains_key(&name) => return Err(unknown(&name)),
        Some(name) => Some(name),
        None => kept.current.take(),
    };
    match name.and_then(|name| kept.contexts.remove(&name)) {
        Some(server) => Ok(Connection { url: server.url, key: key.or_else(|| Some(server.key.into())) }),
        None => Ok(Connection { url: USUAL_URL.to_owned(), key }),
    }
}

fn unknown(name: &str) -> CliError {
    CliError::request(format!("there is no context `{name}`"), "`berth context list` shows those there are")
}

fn read(folder: &Path) -> Result<Kept, CliError> {
    let path = folder.join(FILE);
    let failed = |source| CliError::Read { path: path.clone(), source };
    let mut file = match fs::File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        other => other.map_err(failed)?,
    };
    // Keys that others may have read are not to be used as if nobody had.
    if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
        return Err(CliError::request(
            format!("others may read {}, and keys are in it", path.display()),
            format!("chmod 600 {}", path.display()),
        ));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    serde_json::from_str(&text).map_err(|_| {
        CliError::request(format!("{} is not what `berth login` writes", path.display()), "remove it and log in again")
    })
}

/// Whole or not at all.
fn write(folder: &Path, kept: &Kept) -> Result<(), CliError> {
    let path = folder.join(FILE);
    let failed = |source| CliError::Write { path: path.clone(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let new = folder.join(format!("{FILE}.{}", std::process::id()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(serde_json::to_string_pretty(kept).map_err(io::Error::other)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    })();
    if written.is_err() {
        // The file that stands is the one that counts.
        let _left = fs::remove_file(&new);
    }
    written.map_err(failed)
}

fn folder_or(folder: Option<PathBuf>) -> Result<PathBuf, CliError> {
    folder.ok_or_else(|| CliError::request("there is no folder for settings", "set HOME or XDG_CONFIG_HOME"))
}

impl Login {
    pub async fn run(self, folder: Option<PathBuf>, json: bool) -> Result<(), CliError> {
        let folder = folder_or(folder)?;
        let mut kept = read(&folder)?;
        let name = self.name.unwrap_or_else(|| host_of(&self.url));
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !plain {
            return Err(CliError::request(
                "a context's name is letters, digits, dots and dashes",
                "`--name` gives it one",
            ));
        }
        // What is wrong with the address is said before a key is asked for.
        berth_client::Client::new(&self.url, None)?;
        let key = key()?;
        let connection = Connection { url: self.url.clone(), key: Some(key.clone()) };
        let cx = Context::new(connection, json, false, Timestamp::now())?;
        cx.client.status().await?;
        kept.contexts.insert(name.clone(), Server { url: self.url, key: key.expose_secret().to_owned() });
        kept.current = Some(name.clone());
        write(&folder, &kept)?;
        let server = &kept.contexts[&name];
        let shown = Listed { name, url: server.url.clone(), current: true };
        cx.show(&shown, |shown| format!("logged in to {} as context {}\n", shown.url, shown.name))
    }
}

fn host_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', ':']).next().unwrap_or_default().to_owned()
}

/// From a pipe, or typed without being shown.
fn key() -> Result<SecretString, CliError> {
    let read = |source| CliError::Read { path: "-".into(), source };
    let mut text = String::new();
    if io::stdin().is_terminal() {
        let _ = write!(io::stderr().lock(), "Key: ");
        let quiet = Quiet::begin();
        let typed = io::stdin().read_line(&mut text);
        drop(quiet);
        let _ = writeln!(io::stderr().lock());
        typed.map_err(read)?;
    } else {
        io::stdin().lock().take(KEY_BYTES).read_to_string(&mut text).map_err(read)?;
    }
    let key = text.trim();
    if key.is_empty() {
        return Err(CliError::request("no key was given", "pass it on the standard input, or type it"));
    }
    Ok(SecretString::from(key))
}

/// The terminal shows nothing of what is typed until this is dropped.
struct Quiet(Option<rustix::termios::Termios>);

impl Quiet {
    fn begin() -> Self {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let stdin = io::stdin();
        let Ok(before) = tcgetattr(&stdin) else { return Self(None) };
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        Self(tcsetattr(&stdin, OptionalActions::Flush, &quiet).is_ok().then_some(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that is gone needs nothing.
            let _gone = rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Flush, before);
        }
    }
}

impl Contexts {
    pub fn run(self, folder: Option<PathBuf>, json: bool) -> Result<(), CliError> {
        let folder = folder_or(folder)?;
        let mut kept = read(&folder)?;
        let cx = Context::new(Connection { url: USUAL_URL.to_owned(), key: None }, json, false, Timestamp::now())?;
        match self {
            Self::List => {}
            Self::Use { name } => {
                if !kept.contexts.contains_key(&name) {
                    return Err(unknown(&name));
                }
                kept.current = Some(name);
                write(&folder, &kept)?;
            }
            Self::Remove { name } => {
                kept.contexts.remove(&name).ok_or_else(|| unknown(&name))?;
                if kept.current.as_ref() == Some(&name) {
                    kept.current = None;
                }
                write(&folder, &kept)?;
            }
        }
        let current = kept.current;
        let listed: Vec<Listed> = kept
            .contexts
            .into_iter()
            .map(|(name, server)| Listed { current: current.as_ref() == Some(&name), name, url: server.url })
            .collect();
        cx.show(&listed, |listed| screen(listed))
    }
}

fn screen(listed: &[Listed]) -> String {
    let mut table = Table::new(&["CONTEXT", "SERVER", "CURRENT"]);
    for one in listed {
        let current = if one.current { "yes" } else { "" };
        table.row([one.name.clone(), one.url.clone(), current.to_owned()]);
    }
    table.or("No context yet: `berth login URL` makes one.")
}

#[cfg(test)]
mod tests {
    use super::{Asked, Kept, Server, USUAL_URL, host_of, read, resolve, write};
    use secrecy::ExposeSecret as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("berth-contexts-{}", uuid::Uuid::new_v4())))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _gone = std::fs::remove_dir_all(&self.0);
        }
    }

    fn two(folder: &Path) {
        let server = |n: u8| Server { url: format!("http://h{n}:7600"), key: format!("bk_{n}") };
        let contexts = [("one".to_owned(), server(1)), ("two".to_owned(), server(2))].into();
        write(folder, &Kept { current: Some("one".into()), contexts }).unwrap();
    }

    #[test]
    fn a_named_context_comes_before_variables_and_they_before_the_current_one() {
        let scratch = Scratch::new();
        two(&scratch.0);
        let of = |url: Option<&str>, key: Option<&str>, context: Option<&str>| {
            let asked = Asked { url: url.map(Into::into), key: key.map(Into::into), context: context.map(Into::into) };
            let found = resolve(asked, Some(&scratch.0)).map_err(|error| error.to_string())?;
            Ok::<_, String>((found.url, found.key.map(|key| key.expose_secret().to_owned())))
        };
        let pair = |url: &str, key: Option<&str>| Ok((url.to_owned(), key.map(str::to_owned)));
        assert_eq!(of(None, None, None), pair("http://h1:7600", Some("bk_1")));
        assert_eq!(of(None, Some("bk_v"), None), pair("http://h1:7600", Some("bk_v")));
        assert_eq!(
            of(Some("http://v:1"), None, None),
            pair("http://v:1", None),
            "a context's key goes to its own server only"
        );
        assert_eq!(of(Some("http://v:1"), None, Some("two")), pair("http://h2:7600", Some("bk_2")));
        assert_eq!(of(None, None, Some("three")), Err("there is no context `three`".to_owned()));
        let nothing = resolve(Asked { url: None, key: None, context: None }, None).unwrap();
        assert!(nothing.url == USUAL_URL && nothing.key.is_none());
    }

    #[test]
    fn keys_are_kept_where_nobody_else_reads_them() {
        let scratch = Scratch::new();
        two(&scratch.0);
        let file = scratch.0.join(super::FILE);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&scratch.0)), (0o600, 0o700));
        assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 1, "nothing else is left there");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = read(&scratch.0).err().unwrap();
        assert!(refused.to_string().contains("others may read") && refused.hint().unwrap().starts_with("chmod 600"));
    }

    #[test]
    fn a_context_is_called_as_its_host() {
        assert_eq!(host_of("http://10.0.0.5:7600"), "10.0.0.5");
        assert_eq!(host_of("http://berth.example.com/"), "berth.example.com");
    }
}
