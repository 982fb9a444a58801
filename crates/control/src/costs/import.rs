//! What a provider billed, as somebody brought it here.

use super::wanted;
use crate::{App, Change, ControlError, Permit, audited, decide};
use berth_store::{Invoice, InvoiceLine, InvoiceSource};
use berth_wire as wire;
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;

const LINES_MOST: usize = 10_000;
const PART_MOST: usize = 200;

/// Takes the place of what was imported for that provider and month before, and of what is computed.
pub async fn import(
    app: &App,
    permit: &Permit<Change>,
    wanted_invoice: &wire::InvoiceImport,
) -> Result<wire::CostInvoice, ControlError> {
    app.writable().await?;
    let now = Timestamp::now();
    let month = wanted(Some(&wanted_invoice.month), now)?;
    let bad = ControlError::BadInvoice;
    if month.span().from > now {
        return Err(bad(format!("{month} has not begun")));
    }
    let in_force = app.stack().await?;
    let provider = &wanted_invoice.provider;
    let (catalogue, _) = decide::settings(&in_force.stack)?;
    let span = month.span();
    let cells = app.store().cells_between(span.from, span.until.min(now)).await?;
    let known = in_force.stack.providers.contains_key(provider)
        || cells.iter().any(|cell| cell.cell.provider == provider.as_str());
    if !known {
        return Err(ControlError::NoProvider(provider.to_string()));
    }
    if wanted_invoice.lines.is_empty() || wanted_invoice.lines.len() > LINES_MOST {
        return Err(bad(format!("an invoice has 1 to {LINES_MOST} lines, not {}", wanted_invoice.lines.len())));
    }
    let mut lines = Vec::with_capacity(wanted_invoice.lines.len());
    for (n, line) in wanted_invoice.lines.iter().enumerate() {
        let wrong = |what: String| bad(format!("line {}: {what}", n + 1));
        let micros = micros(&line.amount).ok_or_else(|| wrong(format!("`{}` is no amount", line.amount)))?;
        if !catalogue.rates.knows(&line.currency) {
            return Err(wrong(format!("there is no exchange rate for {}", line.currency)));
        }
        if line.part.is_empty() || line.part.chars().count() > PART_MOST {
            return Err(wrong(format!("`part` has 1 to {PART_MOST} characters")));
        }
        let its = |cell: &&berth_store::CellSpan| Some(&cell.cell.name) == line.cell.as_ref();
        match cells.iter().find(its) {
            Some(cell) if cell.cell.provider != provider.as_str() => {
                return Err(wrong(format!("cell `{}` stands at `{}`", cell.cell.name, cell.cell.provider)));
            }
            None if line.cell.is_some() => {
                let name = line.cell.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(wrong(format!("there was no cell `{name}` in {month}")));
            }
            _ => {}
        }
        lines.push(InvoiceLine {
            cell: line.cell.as_ref().map(ToString::to_string),
            part: line.part.clone(),
            currency: line.currency.clone(),
            micros,
        });
    }
    let rates: BTreeMap<String, i64> =
        catalogue.rates.usd.iter().map(|(currency, rate)| (currency.clone(), rate.0)).collect();
    let invoice = Invoice {
        month: month.to_string(),
        provider: provider.to_string(),
        source: InvoiceSource::Imported,
        lines,
        rates,
        rates_of: catalogue.rates.as_of.to_string(),
        stored_by: permit.caller().name.clone(),
    };
    let shown = super::screen::invoice(&invoice)?;
    let mut tx = app.store().begin().await?;
    tx.invoice_put(&invoice).await?;
    let after = json!({ "month": invoice.month, "lines": invoice.lines.len(), "cost_cents": shown.cost_cents });
    audited(&mut tx, permit, "invoice.import", &format!("provider/{provider}"), None, Some(after)).await?;
    tx.commit().await?;
    Ok(shown)
}

/// The month is computed again.
pub async fn forget(app: &App, permit: &Permit<Change>, month: &str, provider: &str) -> Result<(), ControlError> {
    app.writable().await?;
    let month = wanted(Some(month), Timestamp::now())?.to_string();
    let mut tx = app.store().begin().await?;
    if !tx.invoice_remove(&month, provider).await? {
        return Err(ControlError::NoInvoice { month, provider: provider.to_owned() });
    }
    let before = json!({ "month": month });
    audited(&mut tx, permit, "invoice.forget", &format!("provider/{provider}"), Some(before), None).await?;
    tx.commit().await?;
    Ok(())
}

/// `-83.81` in millionths. Never by way of a float.
fn micros(text: &str) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole, 9) || !plain(part, 6) {
        return None;
    }
    let fraction: i64 = format!("{part:0<6}").parse().ok()?;
    Some(sign * (whole.parse::<i64>().ok()? * 1_000_000 + fraction))
}

#[cfg(test)]
mod tests {
    use super::micros;

    #[test]
    fn amounts_are_read_digit_by_digit() {
        assert_eq!(micros("83.81"), Some(83_810_000));
        assert_eq!(micros("-0.000001"), Some(-1));
        assert_eq!(micros("999999999"), Some(999_999_999_000_000));
        for wrong in ["", "-", ".5", "5.", "1e3", "1,5", "+1", "1000000000", "0.0000001", "NaN", "--1", "1.-5", " 1"] {
            assert_eq!(micros(wrong), None, "{wrong}");
        }
    }
}
