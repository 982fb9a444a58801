//! `berth cost`: what a month cost, who bore it, what is left; invoices; growth phases; the guides' tables.

mod catalogue;
mod screens;

use super::{CliError, Context, text};
use berth_domain::{CellName, ProviderName};
use berth_placement::{Catalogue, guides};
use berth_wire::{InvoiceImport, InvoiceLine, PhaseAsk};
use clap::{Args, Subcommand, ValueEnum};
use jiff::tz::TimeZone;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  berth cost --by cell --month 2026-10
      each cell of October: cost, idle places, revenue, margin, and how many tenants pay for it
  berth cost import hetzner-2026-10.csv --provider hetzner --month 2026-10
      the provider's own figures in place of the computed ones; columns: cell,part,amount,currency"
)]
pub struct Cost {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    show: Show,
}

#[derive(Args, Debug)]
struct Show {
    /// By what the month is broken down
    #[arg(long, default_value = "tenant")]
    by: By,
    /// As in 2026-11; this one otherwise
    #[arg(long)]
    month: Option<String>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum By {
    Tenant,
    Cell,
    Provider,
    Plan,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// The last months: cost, revenue, margin, idle
    Months {
        #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=60))]
        last: u32,
    },
    /// Take in what a provider billed, from a .csv or .json file
    Import(Import),
    /// Forget an imported invoice: the month is computed again
    Forget {
        #[arg(long)]
        provider: ProviderName,
        #[arg(long)]
        month: String,
    },
    /// Whether it is time for the next growth phase: three of nine triggers
    Phase {
        /// The phase you are in, 1 to 5, else by the month's cost; what you measured, as in `cpu_percent=72`, else what
        /// was measured here
        #[arg(value_name = "PHASE | TRIGGER=FIGURE", value_parser = figure)]
        said: Vec<PhaseSaid>,
    },
    /// What providers sell, at which prices, from where these are known
    Catalogue(catalogue::Show),
    /// What the guides claim of costs, beside what the catalogue gives
    Guides,
}

#[derive(Args, Debug)]
struct Import {
    file: PathBuf,
    /// Whose invoice it is; a .json file may say it itself
    #[arg(long)]
    provider: Option<ProviderName>,
    /// As in 2026-10; a .json file may say it itself
    #[arg(long)]
    month: Option<String>,
    /// Show what would be taken in and stop
    #[arg(long)]
    dry_run: bool,
}

/// A phase, or a figure of a trigger.
#[derive(Clone, Debug)]
enum PhaseSaid {
    Phase(u8),
    Figure(String, f64),
}

fn figure(text: &str) -> Result<PhaseSaid, String> {
    match text.split_once('=') {
        Some((name, figure)) => {
            let figure = figure.parse().map_err(|_| format!("`{figure}` is no number"))?;
            Ok(PhaseSaid::Figure(name.to_owned(), figure))
        }
        None => match text.parse() {
            Ok(phase @ 1..=5) => Ok(PhaseSaid::Phase(phase)),
            _ => Err("write a phase from 1 to 5, or TRIGGER=FIGURE as in cpu_percent=72".to_owned()),
        },
    }
}

impl Cost {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self.command {
            None => {
                let costs = cx.client.costs(self.show.month.as_deref()).await?;
                cx.show(&costs, |costs| screens::month(costs, self.show.by))
            }
            Some(Command::Months { last }) => {
                let months = cx.client.cost_months(last).await?;
                cx.show(&months, |months| screens::months(months))
            }
            Some(Command::Import(import)) => import.run(cx).await,
            Some(Command::Forget { provider, month }) => {
                let costs = cx.client.invoice_forget(&month, provider.as_str()).await?;
                cx.show(&costs, |costs| screens::month(costs, By::Provider))
            }
            Some(Command::Phase { said }) => {
                let mut asked = PhaseAsk::default();
                for one in said {
                    match one {
                        PhaseSaid::Phase(phase) => asked.phase = Some(phase),
                        PhaseSaid::Figure(name, figure) => _ = asked.figures.insert(name, figure),
                    }
                }
                let answer = cx.client.growth_phase(&asked).await?;
                cx.show(&answer, screens::phase)
            }
            Some(Command::Catalogue(show)) => show.run(cx),
            Some(Command::Guides) => {
                let today = cx.now.to_zoned(TimeZone::UTC).date();
                let catalogue = Catalogue::shipped(today).map_err(|mistakes| {
                    CliError::request(mistakes.to_string(), "the catalogue of this program is too old: get a newer one")
                })?;
                cx.show(&guides::claims(&catalogue), |_| guides::table(&catalogue))
            }
        }
    }
}

impl Import {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let invoice = read(&self.file, self.provider, self.month)?;
        if self.dry_run {
            return cx.show(&invoice, screens::import);
        }
        let taken = cx.client.invoice_import(&invoice).await?;
        cx.show(&taken, screens::taken)
    }
}

/// A `.json` file holds a whole invoice, or its lines alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Lines(Vec<InvoiceLine>),
    Whole { month: String, provider: ProviderName, lines: Vec<InvoiceLine> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[serde(default)]
    cell: Option<CellName>,
    part: String,
    amount: String,
    currency: String,
}

fn read(path: &Path, provider: Option<ProviderName>, month: Option<String>) -> Result<InvoiceImport, CliError> {
    let text = text::read(path)?;
    let bad = |why: String| {
        let hint = "columns of a .csv file: cell,part,amount,currency; docs/costs.md shows both kinds";
        CliError::request(format!("{} is no invoice: {why}", path.display()), hint)
    };
    let is_json = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("json"));
    let (lines, said_month, said_provider) = if is_json {
        match serde_json::from_str(&text) {
            Ok(Document::Lines(lines)) => (lines, None, None),
            Ok(Document::Whole { month, provider, lines }) => (lines, Some(month), Some(provider)),
            Err(error) => return Err(bad(error.to_string())),
        }
    } else {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
        let rows: Result<Vec<Row>, _> = reader.deserialize().collect();
        let line =
            |row: Row| InvoiceLine { cell: row.cell, part: row.part, amount: row.amount, currency: row.currency };
        (rows.map_err(|error| bad(error.to_string()))?.into_iter().map(line).collect(), None, None)
    };
    let needed = |what: &str| bad(format!("it does not say its {what}, and `--{what}` is not given"));
    Ok(InvoiceImport {
        month: month.or(said_month).ok_or_else(|| needed("month"))?,
        provider: provider.or(said_provider).ok_or_else(|| needed("provider"))?,
        lines,
    })
}

#[cfg(test)]
mod tests {
    use super::read;
    use std::path::PathBuf;

    fn file(name: &str, text: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("berth-invoice-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn read_and_remove(name: &str, text: &[u8]) -> Result<berth_wire::InvoiceImport, super::CliError> {
        let path = file(name, text);
        let read = read(&path, "hetzner".parse().ok(), Some("2026-10".to_owned()));
        std::fs::remove_file(path).unwrap();
        read
    }

    #[test]
    fn csv_and_json_say_the_same() {
        let csv = "cell,part,amount,currency\nshared-1,\"server, ax52\",65.00,EUR\n,domain,10,EUR\n";
        let json = r#"[{"cell":"shared-1","part":"server, ax52","amount":"65.00","currency":"EUR"},
                       {"part":"domain","amount":"10","currency":"EUR"}]"#;
        let whole = format!(r#"{{"month":"2026-09","provider":"other","lines":{json}}}"#);
        let csv = read_and_remove("a.csv", csv.as_bytes()).unwrap();
        assert_eq!(csv, read_and_remove("b.json", json.as_bytes()).unwrap());
        assert_eq!(csv.lines[1].cell, None);
        assert_eq!(
            csv,
            read_and_remove("c.json", whole.as_bytes()).unwrap(),
            "what is typed goes before what is written"
        );
    }

    #[test]
    fn what_is_no_invoice_says_why() {
        for (name, text, why) in [
            ("cut.json", &b"[{\"part\":"[..], "is no invoice"),
            ("columns.csv", b"cell,part,amount\na,b,1\n", "missing field `currency`"),
            ("more.csv", b"cell,part,amount,currency,vat\na,b,1,EUR,2\n", "unknown field `vat`"),
            ("ragged.csv", b"part,amount,currency\nb,1\n", "record"),
            ("utf16.csv", b"\xff\xfec\0e\0", "cannot be read"),
        ] {
            let error = read_and_remove(name, text).unwrap_err().to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
    }
}
