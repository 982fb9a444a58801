//! `berth cost catalogue`: what providers sell, by the catalogue that decisions rest on. Asks no server.

use crate::cli::{CliError, Context, table::Table, text};
use berth_placement::{Arch, Catalogue, Micros, Place, Promises, Provider, ShapeKind};
use clap::Args;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::{fs, path::PathBuf};

#[derive(Args, Debug)]
pub struct Show {
    /// One provider with everything it sells; without it all of them, and what cells are made of
    provider: Option<String>,
    /// With what this stack file says over the built-in catalogue
    #[arg(long, short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Show {
    pub fn run(self, cx: &Context) -> Result<(), CliError> {
        let today = cx.now.to_zoned(TimeZone::UTC).date();
        let own = self.file.as_ref().map(|path| own(path)).transpose()?;
        let catalogue = Catalogue::over(own.as_deref().unwrap_or("{}"), today).map_err(|mistakes| {
            CliError::request(format!("the catalogue cannot be used:\n{mistakes}"), "docs/decide.md describes it")
        })?;
        let Some(name) = self.provider else {
            let providers: Vec<Value> =
                catalogue.providers.iter().map(|(name, it)| provider(&catalogue, name, it)).collect();
            let offers: Vec<Value> =
                catalogue.places().iter().map(|(name, place)| offer(&catalogue, name, place)).collect();
            let all = json!({
                "version": catalogue.version, "rates": catalogue.rates, "says": catalogue.assumptions(today),
                "providers": providers, "offers": offers,
            });
            return cx.show(&all, |_| whole(&catalogue, &catalogue.assumptions(today)));
        };
        let Some(it) = catalogue.providers.get(&name) else {
            let known: Vec<&str> = catalogue.providers.keys().map(String::as_str).collect();
            let detail = format!("the catalogue has no provider `{name}`");
            return Err(CliError::request(detail, format!("there are {}", known.join(", "))));
        };
        cx.show(&provider(&catalogue, &name, it), |_| one(&catalogue, it))
    }
}

fn own(path: &std::path::Path) -> Result<String, CliError> {
    let folder = path.parent().map(std::path::Path::to_owned).unwrap_or_default();
    let stack = berth_config::parse(&text::read(path)?, None, &|name| fs::read_to_string(folder.join(name)))
        .map_err(|mistakes| CliError::Stack { path: path.to_owned(), mistakes })?;
    Ok(stack.placement.get("catalogue").map_or_else(|| "{}".to_owned(), ToString::to_string))
}

/// As it is written: a price has up to three decimals.
fn amount(price: Micros) -> String {
    let text = format!("{}.{:06}", price.0 / 1_000_000, price.0 % 1_000_000);
    let short = text.trim_end_matches('0');
    let decimals = short.len() - short.find('.').unwrap_or(0) - 1;
    text[..text.len() - 6 + decimals.max(2)].to_owned()
}

fn provider(catalogue: &Catalogue, name: &str, it: &Provider) -> Value {
    let regions: Vec<Value> = it
        .sites
        .iter()
        .map(|(own, site)| {
            let region = &catalogue.regions[site.region];
            json!({ "name": own, "region": region.name, "residency": region.residency, "near_ms": site.near_ms, "trust": site.trust })
        })
        .collect();
    let shapes: Vec<Value> = it
        .shapes
        .iter()
        .map(|(name, shape)| {
            json!({
                "name": name, "price": shape.price.map(amount), "currency": shape.currency,
                "percent_of_servers": shape.percent_of_servers, "cpu_millis": shape.cpu_millis,
                "memory_mib": shape.memory_mib, "disk_gib": shape.disk_gib,
                "egress_gib": Some(shape.egress_gib).filter(|gib| *gib > 0),
                "arch": (shape.kind == ShapeKind::Server).then(|| shape.arch.as_str()), "regions": shape.regions,
                "source": shape.source,
            })
        })
        .collect();
    json!({
        "name": name, "title": it.title, "checked": it.checked, "source": it.source, "currency": it.currency,
        "compliance": catalogue.compliance_words(it.compliance),
        "rate_limit": it.rate_limit.map(|limit| json!({ "requests": limit.requests, "per_s": limit.per_s })),
        "quotas": it.quotas.iter().map(|q| json!({ "what": q.what, "amount": q.amount, "source": q.source })).collect::<Vec<_>>(),
        "credits": it.credits.iter().map(|c| json!({ "what": c.what, "amount": amount(c.amount), "expires": c.expires })).collect::<Vec<_>>(),
        "regions": regions, "shapes": shapes,
    })
}

fn offer(catalogue: &Catalogue, name: &str, place: &Place) -> Value {
    json!({
        "name": name, "class": place.class, "provider": place.provider, "at": place.sites, "places": place.places,
        "price_cents": place.price_cents, "compliance": catalogue.compliance_words(place.compliance),
        "residency": place.residency, "throughput_per_s": place.promises.throughput_per_s, "users": place.promises.users,
        "upload_bytes": place.promises.upload_bytes, "trust": place.trust,
    })
}

fn whole(catalogue: &Catalogue, says: &[String]) -> String {
    let mut providers = Table::new(&["PROVIDER", "CHECKED", ">SHAPES", ">REGIONS", "STANDARDS", "REQUESTS"]);
    for (name, it) in &catalogue.providers {
        providers.row([
            name.clone(),
            it.checked.to_string(),
            it.shapes.len().to_string(),
            it.sites.len().to_string(),
            catalogue.compliance_words(it.compliance).join(" "),
            it.rate_limit.map(|limit| format!("{} in {} s", limit.requests, limit.per_s)).unwrap_or_default(),
        ]);
    }
    // Too wide for a column.
    let free: String = catalogue
        .providers
        .iter()
        .filter(|(_, it)| !it.quotas.is_empty() || !it.credits.is_empty())
        .map(|(name, it)| format!("free at {name}: {}\n", free(it).join(", ")))
        .collect();
    let mut offers = Table::new(&["OFFER", "CLASS", "PROVIDER", "REGIONS", ">PLACES", ">A MONTH"]);
    for (name, place) in catalogue.places() {
        let price = place.price_cents.map_or_else(|| "?".to_owned(), |cents| cents.to_string());
        offers.row([
            name,
            place.class.to_string(),
            place.provider,
            place.sites.join(" "),
            place.places.to_string(),
            price,
        ]);
    }
    format!("{}\n\n{}\n{free}\n{}\n{}", says.join("\n"), providers.text(), offers.text(), promises(catalogue))
}

/// What offers promise, and whose word that is.
fn promises(catalogue: &Catalogue) -> String {
    let mut table = Table::new(&["PROMISED BY", ">A SECOND", ">USERS", ">UPLOAD MIB", "IS"]);
    for (name, offer) in &catalogue.offers {
        let Promises { throughput_per_s, users, upload_bytes } = offer.promises;
        let upload_mib = upload_bytes.map(|bytes| bytes >> 20);
        if [throughput_per_s, users, upload_mib].iter().all(Option::is_none) {
            continue;
        }
        let [throughput, users, upload] =
            [throughput_per_s, users, upload_mib].map(|n| n.map_or_else(|| "?".to_owned(), |n| n.to_string()));
        table.row([name.clone(), throughput, users, upload, offer.trust.as_str().to_owned()]);
    }
    table.text()
}

fn free(it: &Provider) -> Vec<String> {
    let quotas = it.quotas.iter().map(|quota| format!("{} {}", quota.amount, quota.what.replace('_', " ")));
    let credits = it.credits.iter().map(|credit| {
        let lasts =
            if credit.expires == "monthly" { "a month".to_owned() } else { format!("until {}", credit.expires) };
        format!("{} {} {lasts}", amount(credit.amount), it.currency)
    });
    quotas.chain(credits).collect()
}

fn one(catalogue: &Catalogue, it: &Provider) -> String {
    let mut shapes = Table::new(&["SHAPE", ">A MONTH", "CURRENCY", ">CPU", ">MEMORY MIB", ">DISK GIB"]);
    for (name, shape) in &it.shapes {
        let price = match (shape.price, shape.percent_of_servers) {
            (Some(price), _) => amount(price),
            (None, Some(percent)) => format!("{percent} %"),
            (None, None) => "?".to_owned(),
        };
        let [cpu, memory, disk] = [shape.cpu_millis, shape.memory_mib, shape.disk_gib].map(|n| n.to_string());
        let name = match shape.arch {
            Arch::X86_64 => name.clone(),
            Arch::Aarch64 => format!("{name} (ARM)"),
        };
        shapes.row([name, price, shape.currency.clone(), cpu, memory, disk]);
    }
    let mut regions = Table::new(&["REGION", "IS", ">NEAR MS", "DATA STAYS IN"]);
    for (name, site) in &it.sites {
        let region = &catalogue.regions[site.region];
        let near = site.near_ms.map_or_else(|| "?".to_owned(), |ms| format!("{ms} {}", site.trust.as_str()));
        regions.row([name.clone(), region.title.clone(), near, region.residency.join(" ")]);
    }
    let shapes = shapes.or("nobody knows a price here");
    let regions = regions.or("no regions");
    format!("{}, looked at on {}: {}\n\n{shapes}{}\n{regions}", it.title, it.checked, it.source, exceptions(it))
}

/// A source and regions, and the names of what has both.
type Exception<'a> = ((Option<&'a str>, &'a [String]), Vec<&'a str>);

/// Shapes with a source of their own, or that are sold in some regions alone: one line for all that share both.
fn exceptions(it: &Provider) -> String {
    let mut said: Vec<Exception> = Vec::new();
    for (name, shape) in it.shapes.iter().filter(|(_, s)| s.source.is_some() || !s.regions.is_empty()) {
        let what = (shape.source.as_deref(), shape.regions.as_slice());
        match said.iter_mut().find(|(known, _)| *known == what) {
            Some((_, names)) => names.push(name),
            None => said.push((what, vec![name])),
        }
    }
    let line = |((source, regions), names): &Exception| {
        let place = if regions.is_empty() { String::new() } else { format!(" in {}", regions.join(", ")) };
        let source = source.map(|source| format!(": {source}")).unwrap_or_default();
        format!("{}{place}{source}\n", names.join(", "))
    };
    if said.is_empty() { String::new() } else { format!("\n{}", said.iter().map(line).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::{amount, one, whole};
    use berth_placement::{Catalogue, Micros};

    #[test]
    fn a_catalogue_reads_like_a_price_list() {
        let catalogue = Catalogue::shipped(jiff::civil::date(2026, 11, 21)).unwrap();
        let text = whole(&catalogue, &["prices of a day".to_owned()]);
        // All that the guides speak of.
        for provider in [
            "azure-container-apps",
            "endpoint",
            "fly",
            "hetzner",
            "hetzner-robot",
            "host",
            "koyeb",
            "kubernetes",
            "local",
            "railway",
            "render",
            "zeabur",
        ] {
            assert!(
                text.lines().any(|line| line.starts_with(&format!("{provider} "))),
                "{provider} is missing in\n{text}"
            );
        }
        assert!(text.contains("5.00 USD a month") && text.contains("10000 commands per day"), "{text}");
        assert!(text.contains("hetzner-shared") && text.contains("$92.19"), "{text}");
        let promised = text.lines().skip_while(|line| !line.starts_with("PROMISED BY")).collect::<Vec<_>>();
        let shared = promised.iter().find(|line| line.starts_with("hetzner-shared ")).unwrap();
        assert_eq!(shared.split_whitespace().skip(1).collect::<Vec<_>>(), ["500", "50", "50", "claimed"], "{text}");
        let text = one(&catalogue, &catalogue.providers["hetzner"]);
        assert!(text.contains("cax21 (ARM)") && !text.contains("cx22 (ARM)"), "{text}");
        assert!(text.starts_with("Hetzner Cloud, looked at on 2026-11-21: Chrono"), "{text}");
        assert!(text.contains("volume-gib") && text.contains("0.096") && text.contains("20 %"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 200), "{text}");
        let text = one(&catalogue, &catalogue.providers["azure-container-apps"]);
        assert!(text.contains("vcpu") && text.contains("63.072") && text.contains("89.352"), "{text}");
        assert!(text.contains("memory-gib, vcpu in eastus: azure.microsoft.com/pricing"), "{text}");
    }

    #[test]
    fn every_provider_that_sells_by_the_month_has_prices_with_a_source() {
        let catalogue = Catalogue::shipped(jiff::civil::date(2026, 11, 22)).unwrap();
        for name in ["azure-container-apps", "koyeb", "zeabur", "render", "railway", "fly", "hetzner", "hetzner-robot"]
        {
            let it = &catalogue.providers[name];
            assert!(!it.shapes.is_empty(), "{name} has no prices");
            for (shape, sold) in &it.shapes {
                assert!(sold.price.is_some() || sold.percent_of_servers.is_some(), "{name}.{shape}");
                let source = sold.source.as_deref().unwrap_or(&it.source);
                let address = source.contains('/') || source.contains("guide");
                assert!(address, "{name}.{shape} is from nowhere: {source}");
            }
        }
    }

    #[test]
    fn a_price_keeps_the_decimals_that_it_has() {
        for (micros, text) in [(65_000_000, "65.00"), (96_000, "0.096"), (3_810_000, "3.81"), (0, "0.00")] {
            assert_eq!(amount(Micros(micros)), text);
        }
    }
}
