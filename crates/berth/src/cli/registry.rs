//! `berth registry …`: the accounts that may pull images.

use super::{CliError, Context, table::Table, units};
use berth_wire::{Registry as Shown, RegistryPut};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use std::{fs, io, path::PathBuf};

#[derive(Subcommand, Debug)]
pub enum Registry {
    /// Registries and the accounts that pull from them
    List,
    /// Pull from this registry with an account; given again it replaces the one before
    Add(Add),
    /// Forget the account of a registry
    Remove { host: String },
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  berth registry add registry.example.com --user shop-bot < token
  berth registry add registry.example.com:5000 --user pull --password-file /run/secrets/registry")]
pub struct Add {
    /// With its port, where it has one of its own
    host: String,
    #[arg(long)]
    user: String,
    /// Where its password or token stands; absent or `-`: standard input. Kept sealed and never shown again
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl Registry {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::List => {
                let all = cx.client.registries().await?;
                cx.show(&all, |all| list(all, cx.now))
            }
            Self::Add(Add { host, user, password_file }) => {
                let password = password(password_file)?;
                let known = cx.client.registry_put(&RegistryPut { host, user, password }).await?;
                cx.show(&known, |known| format!("images of {} are pulled as {}\n", known.host, known.user))
            }
            Self::Remove { host } => {
                let gone = cx.client.registry_remove(&host).await?;
                cx.show(&gone, |gone| format!("images of {} are pulled without an account\n", gone.host))
            }
        }
    }
}

fn password(file: Option<PathBuf>) -> Result<String, CliError> {
    let read = match file {
        Some(path) if path.as_os_str() != "-" => fs::read_to_string(path),
        _ => io::read_to_string(io::stdin()),
    };
    let text = read.map_err(|error| {
        let hint = "name a file with `--password-file`, or give it on standard input".to_owned();
        CliError::request(format!("the password cannot be read: {error}"), hint)
    })?;
    // Editors and `echo` end a file with a newline that is no part of it.
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn list(all: &[Shown], now: Timestamp) -> String {
    let mut table = Table::new(&["REGISTRY", "USER", "GIVEN BY", "GIVEN"]);
    for known in all {
        table.row([
            known.host.clone(),
            known.user.clone(),
            known.changed_by.clone(),
            units::ago(known.changed_at, now),
        ]);
    }
    table.or("No accounts: images are pulled without one. `berth registry add HOST --user NAME < password`")
}
