//! `berth recover`.

use super::{CliError, Context, table::Table, units};
use berth_wire::Recovery;
use clap::Args;

#[derive(Args, Debug)]
pub struct Recover {
    /// Compare only
    #[arg(long)]
    dry_run: bool,
}

impl Recover {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let found = cx.client.recovery().await?;
        if self.dry_run || !found.world_is_ahead {
            return cx.show(&found, screen);
        }
        cx.agree(&screen(&found), "Raise every counter above what was seen?")?;
        let done = cx.client.recover().await?;
        cx.show(&done, screen)
    }
}

fn screen(recovery: &Recovery) -> String {
    let mut table = Table::new(&["SEEN AT", "TENANT", ">GENERATION", ">REVISION"]);
    for seen in &recovery.seen {
        table.row([
            seen.subject.clone(),
            seen.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
            seen.generation.map(|generation| units::count(generation.get())).unwrap_or_default(),
            seen.revision.map(|revision| units::count(revision.get())).unwrap_or_default(),
        ]);
    }
    let verdict = match (recovery.world_is_ahead, recovery.recovered) {
        (_, true) => "Counters were raised above everything seen: writes are answered again.",
        (true, false) => "The world is ahead of the control database: only reads are answered.",
        (false, false) => "The control database is not behind the world. There is nothing to recover.",
    };
    if table.is_empty() { format!("{verdict}\n") } else { format!("{}\n{verdict}\n", table.text()) }
}
