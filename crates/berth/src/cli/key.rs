//! `berth key …`.

use super::{CliError, Context, table::Table, units};
use berth_domain::KeyId;
use berth_wire::{Key as Shown, KeyCreate, KeyCreated};
use clap::Subcommand;
use jiff::Timestamp;

#[derive(Subcommand, Debug)]
pub enum Key {
    /// Make a key; it is shown once
    Create {
        /// What it is for
        name: String,
        /// admin, read, edge, usage or tenant:ID
        #[arg(long)]
        scope: String,
    },
    /// All keys, by their beginnings
    List,
    /// End a key; whoever uses it is refused within seconds
    Revoke { key: KeyId },
}

impl Key {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::Create { name, scope } => {
                let made = cx.client.key_create(&KeyCreate { name, scope }).await?;
                cx.show(&made, |made: &KeyCreated| format!("{}\n", made.secret))?;
                cx.say("This is the only time it is shown: Berth keeps no more than its hash.");
                Ok(())
            }
            Self::List => {
                let keys = cx.client.keys().await?;
                cx.show(&keys, |keys| list(keys, cx.now))
            }
            Self::Revoke { key } => {
                let key = cx.client.key_revoke(key).await?;
                cx.show(&key, |key| format!("key {} ({}…) is revoked\n", key.name, key.prefix))
            }
        }
    }
}

fn list(keys: &[Shown], now: Timestamp) -> String {
    let mut table = Table::new(&["NAME", "SCOPE", "BEGINS", "STATE", "MADE", "USED", "ID"]);
    for key in keys {
        table.row([
            key.name.clone(),
            key.scope.clone(),
            key.prefix.clone(),
            if key.revoked_at.is_some() { "revoked" } else { "valid" }.to_owned(),
            units::ago(key.created_at, now),
            units::ago_or(key.last_used_at, now, "never"),
            key.id.to_string(),
        ]);
    }
    table.or("No keys yet.")
}
