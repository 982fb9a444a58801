//! `berth audit`.

use super::{CliError, Context, table::Table, units};
use berth_client::AuditFilter;
use berth_wire::AuditEntry;
use clap::Args;
use jiff::Timestamp;

#[derive(Args, Debug)]
pub struct Audit {
    /// Only what concerns this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// How many, newest first
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

impl Audit {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let entries = cx.client.audit(&AuditFilter { tenant: self.tenant, limit: Some(self.limit) }).await?;
        cx.show(&entries, |entries| screen(entries, cx.now))
    }
}

fn screen(entries: &[AuditEntry], now: Timestamp) -> String {
    let mut table = Table::new(&["WHEN", "WHO", "DID", "TO", "DETAIL"]);
    for entry in entries {
        let detail = match &entry.detail {
            serde_json::Value::Null => String::new(),
            serde_json::Value::Object(map) if map.is_empty() => String::new(),
            detail => detail.to_string(),
        };
        table.row([
            units::ago(entry.at, now),
            entry.actor.clone(),
            entry.action.clone(),
            entry.subject.clone(),
            detail,
        ]);
    }
    table.or("Nothing was changed yet.")
}
