//! What a command works with: the server, and where its words go.

use super::CliError;
use berth_client::Client;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// The server and the key, resolved once by the program from flags and variables.
#[derive(Clone)]
pub struct Connection {
    pub url: String,
    pub key: Option<SecretString>,
}

/// Everything a command is given.
pub struct Context {
    pub client: Client,
    json: bool,
    yes: bool,
    /// The moment that relative times are told from.
    pub now: Timestamp,
}

impl Context {
    pub fn new(connection: Connection, json: bool, yes: bool, now: Timestamp) -> Result<Self, CliError> {
        Ok(Self { client: Client::new(&connection.url, connection.key)?, json, yes, now })
    }

    /// Prints data: as JSON where it was asked for, otherwise as the screen.
    pub fn show<T: Serialize>(&self, data: &T, screen: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        let mut text = if self.json {
            serde_json::to_string(data).expect("wire types have text keys and finite numbers")
        } else {
            screen(data)
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        match io::stdout().lock().write_all(text.as_bytes()) {
            // `berth tenant list | head` is no error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|source| CliError::Output { source }),
        }
    }

    pub const fn json(&self) -> bool {
        self.json
    }

    /// Talk: for people, never for programs.
    #[expect(clippy::unused_self, reason = "talk belongs to a command that runs")]
    pub fn say(&self, text: &str) {
        // When nobody can be talked to, the work goes on all the same.
        let _ = writeln!(io::stderr().lock(), "{}", text.trim_end_matches('\n'));
    }

    /// Somebody sits at a terminal and sees what is said.
    #[expect(clippy::unused_self, reason = "the same")]
    pub fn is_live(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// Shows what cannot be taken back, and goes on only when its name is typed.
    pub fn agree_by_name(&self, plan: &str, name: &str) -> Result<(), CliError> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(CliError::NobodyToAsk);
        }
        self.say(plan);
        let _ = write!(io::stderr().lock(), "There is no way back. Type `{name}` to go on: ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(|source| CliError::Output { source })?;
        if answer.trim() == name { Ok(()) } else { Err(CliError::Declined) }
    }

    /// Shows what would happen and asks. Without a terminal there is nobody to ask, and nothing happens.
    pub fn agree(&self, plan: &str, question: &str) -> Result<(), CliError> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(CliError::NobodyToAsk);
        }
        self.say(plan);
        let _ = write!(io::stderr().lock(), "{question} [y/N] ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(|source| CliError::Output { source })?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(CliError::Declined),
        }
    }
}
