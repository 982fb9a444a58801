//! `berth logs`.

use super::{CliError, Context};
use berth_wire::LogLine;
use clap::Args;

#[derive(Args, Debug)]
pub struct Logs {
    /// Of this cell
    #[arg(long, value_name = "CELL", required_unless_present = "tenant")]
    cell: Option<String>,
    /// Of the cell where this tenant lives; other tenants' lines are among them
    #[arg(long, value_name = "TENANT", conflicts_with = "cell")]
    tenant: Option<String>,
    /// Only of this service
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// How many lines of each member
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    last: u32,
}

impl Logs {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let cell = match self.tenant {
            None => self.cell.expect("the parser asks for a cell or a tenant"),
            Some(tenant) => match cx.client.tenant(&tenant).await?.cell {
                Some(cell) => cell.to_string(),
                None => {
                    return Err(CliError::request(
                        format!("tenant `{tenant}` lives in no cell yet"),
                        format!("`berth tenant show {tenant}` says how far it is"),
                    ));
                }
            },
        };
        let lines = cx.client.cell_logs(&cell, self.service.as_deref(), self.last).await?;
        cx.show(&lines, |lines| screen(lines))
    }
}

fn screen(lines: &[LogLine]) -> String {
    if lines.is_empty() {
        return "Nothing was written yet.\n".to_owned();
    }
    lines.iter().map(|line| format!("{} | {}\n", line.service, line.line)).collect()
}
