//! What providers sell: the shipped catalogue with what the stack file in force says over it. Changes nothing.

use crate::{App, ControlError, Permit, Read, decide};
use berth_placement::{Catalogue, Micros, Place, Provider, RateLimit, ShapeKind};
use berth_wire as wire;
use jiff::{Timestamp, tz::TimeZone};

pub async fn show(app: &App, _permit: &Permit<Read>) -> Result<wire::Catalogue, ControlError> {
    let (catalogue, _) = decide::settings(&app.stack().await?.stack)?;
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    Ok(wire::Catalogue {
        version: catalogue.version.to_string(),
        rates_of: catalogue.rates.as_of.to_string(),
        rates: catalogue.rates.usd.iter().map(|(currency, rate)| (currency.clone(), amount(*rate))).collect(),
        providers: catalogue.providers.iter().map(|(name, it)| provider(&catalogue, name, it)).collect(),
        offers: catalogue.places().iter().map(|(name, place)| offer(&catalogue, name, place)).collect(),
        says: catalogue.assumptions(today),
    })
}

/// As it is written: a price has up to six decimals, and two at least.
fn amount(price: Micros) -> String {
    let text = format!("{}.{:06}", price.0 / 1_000_000, price.0 % 1_000_000);
    let short = text.trim_end_matches('0');
    let decimals = short.len() - short.find('.').unwrap_or(0) - 1;
    text[..text.len() - 6 + decimals.max(2)].to_owned()
}

fn provider(catalogue: &Catalogue, name: &str, it: &Provider) -> wire::CatalogueProvider {
    let regions = it.sites.iter().map(|(own, site)| {
        let region = &catalogue.regions[site.region];
        wire::CatalogueRegion {
            name: own.clone(),
            region: region.name.clone(),
            residency: region.residency.clone(),
            near_ms: site.near_ms,
            trust: site.trust.as_str().to_owned(),
        }
    });
    let shapes = it.shapes.iter().map(|(name, shape)| wire::CatalogueShape {
        name: name.clone(),
        price: shape.price.map(amount),
        currency: shape.currency.clone(),
        percent_of_servers: shape.percent_of_servers,
        cpu_millis: shape.cpu_millis,
        memory_mib: shape.memory_mib,
        disk_gib: shape.disk_gib,
        egress_gib: Some(shape.egress_gib).filter(|gib| *gib > 0),
        arch: (shape.kind == ShapeKind::Server).then(|| shape.arch.as_str().to_owned()),
        regions: shape.regions.clone(),
        source: shape.source.clone(),
    });
    let quotas = it.quotas.iter().map(|quota| wire::CatalogueQuota {
        what: quota.what.clone(),
        amount: quota.amount,
        source: quota.source.clone(),
    });
    let credits = it.credits.iter().map(|credit| wire::CatalogueCredit {
        what: credit.what.clone(),
        amount: amount(credit.amount),
        expires: credit.expires.clone(),
    });
    let limit = |limit: RateLimit| wire::CatalogueRateLimit { requests: limit.requests, per_s: limit.per_s };
    wire::CatalogueProvider {
        name: name.to_owned(),
        title: it.title.clone(),
        checked: it.checked.to_string(),
        source: it.source.clone(),
        currency: it.currency.clone(),
        compliance: catalogue.compliance_words(it.compliance),
        regions: regions.collect(),
        shapes: shapes.collect(),
        quotas: quotas.collect(),
        credits: credits.collect(),
        rate_limit: it.rate_limit.map(limit),
    }
}

fn offer(catalogue: &Catalogue, name: &str, place: &Place) -> wire::CatalogueOffer {
    wire::CatalogueOffer {
        name: name.to_owned(),
        class: place.class,
        provider: place.provider.clone(),
        at: place.sites.clone(),
        places: place.places,
        price_cents: place.price_cents,
        compliance: catalogue.compliance_words(place.compliance),
        residency: place.residency.clone(),
        throughput_per_s: place.promises.throughput_per_s,
        users: place.promises.users,
        upload_bytes: place.promises.upload_bytes,
        trust: place.trust.as_str().to_owned(),
    }
}
