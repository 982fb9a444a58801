//! The catalogue file as types, or every mistake in it. Never reads a file: text and the day are handed in.

use crate::{
    catalogue::{
        Arch, BENCHMARKS, Catalogue, Credit, Location, Offer, Promises, Provider, Quota, RateLimit, Region, Shape,
        ShapeKind, Site, Trust,
    },
    money::{Micros, Rates},
    reader::{At, Fault, Mistakes, Reader},
};
use berth_domain::CellClass;
use jiff::civil::Date;
use serde_json::Value;
use std::collections::BTreeMap;

const SHIPPED: &str = include_str!("catalogue.yaml");
/// Standards are bits of a word.
const COMPLIANCE_MAX: usize = 64;
/// A file a hundred times as long as the shipped one.
const BYTES_MAX: usize = 1 << 20;

impl Catalogue {
    /// The catalogue that came with this program.
    pub fn shipped(today: Date) -> Result<Self, Mistakes> {
        Self::over("{}", today)
    }

    /// The shipped catalogue with what a file of your own replaces or adds. Maps are merged key by key, everything else
    /// is replaced; `null` takes a key away.
    pub fn over(own: &str, today: Date) -> Result<Self, Mistakes> {
        let mut document = value(SHIPPED)?;
        merge(&mut document, value(own)?);
        read(&document, today)
    }

    /// A catalogue from one file alone.
    pub fn parse(text: &str, today: Date) -> Result<Self, Mistakes> {
        read(&value(text)?, today)
    }
}

fn value(text: &str) -> Result<Value, Mistakes> {
    let unreadable = |why: String| Mistakes(vec![crate::Mistake { key: String::new(), fault: Fault::Unreadable(why) }]);
    if text.len() > BYTES_MAX {
        return Err(unreadable(format!("{} bytes are more than {BYTES_MAX}", text.len())));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 24,
            max_nodes: 50_000,
            max_events: 200_000,
            max_documents: 1,
            max_anchors: 64,
            max_aliases: 256,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| unreadable(error.to_string()))
}

fn merge(base: &mut Value, own: Value) {
    match (base, own) {
        (Value::Object(base), Value::Object(own)) => {
            for (key, value) in own {
                match base.get_mut(&key) {
                    Some(there) => merge(there, value),
                    None => _ = base.insert(key, value),
                }
            }
        }
        (_, Value::Object(own)) if own.is_empty() => {}
        (base, own) => *base = own,
    }
}

const KEYS: &[&str] = &["version", "rates", "compliance", "locations", "regions", "providers", "offers"];

fn read(document: &Value, today: Date) -> Result<Catalogue, Mistakes> {
    let mut reader = Reader::default();
    let catalogue = catalogue(&mut reader, &At { key: String::new(), value: document }, today);
    match catalogue {
        Some(catalogue) if reader.mistakes.is_empty() => Ok(catalogue),
        _ => Err(Mistakes(reader.mistakes)),
    }
}

fn catalogue(reader: &mut Reader, at: &At<'_>, today: Date) -> Option<Catalogue> {
    let section = reader.section(at, KEYS)?;
    let version = reader.need(&section, "version").and_then(|at| reader.date(&at));
    let rates = reader.need(&section, "rates").and_then(|at| rates(reader, &at));
    let compliance = section.get("compliance").map(|at| reader.texts(&at)).unwrap_or_default();
    if compliance.len() > COMPLIANCE_MAX {
        reader.note("compliance", Fault::TooMany { found: compliance.len(), most: COMPLIANCE_MAX });
    }
    let mut draft = Catalogue {
        version: version.unwrap_or(today),
        // Mistakes in the rates are noted; prices are checked against what is there all the same.
        rates: rates.clone().unwrap_or(Rates {
            as_of: today,
            source: String::new(),
            stale_after_days: 0,
            unusable_after_days: i32::MAX,
            usd: BTreeMap::new(),
        }),
        compliance: compliance.into_iter().take(COMPLIANCE_MAX).collect(),
        locations: Vec::new(),
        regions: Vec::new(),
        providers: BTreeMap::new(),
        offers: BTreeMap::new(),
    };
    for (name, at) in reader.need(&section, "locations").map(|at| reader.entries(&at)).unwrap_or_default() {
        let location = location(reader, name, &at);
        draft.locations.extend(location);
    }
    for (name, at) in reader.need(&section, "regions").map(|at| reader.entries(&at)).unwrap_or_default() {
        let region = region(reader, &draft, name, &at);
        draft.regions.extend(region);
    }
    for (name, at) in reader.need(&section, "providers").map(|at| reader.entries(&at)).unwrap_or_default() {
        if let Some(provider) = provider(reader, &draft, &at) {
            draft.providers.insert(name, provider);
        }
    }
    for (name, at) in section.get("offers").map(|at| reader.entries(&at)).unwrap_or_default() {
        if let Some(offer) = offer(reader, &draft, &at) {
            draft.offers.insert(name, offer);
        }
    }
    // Only now: a price in a currency that has no rate at all is a mistake, one whose rate is too old is not known.
    if draft.rates.are_too_old(today) {
        draft.rates.usd.clear();
    }
    rates.map(|_| draft)
}

fn rates(reader: &mut Reader, at: &At<'_>) -> Option<Rates> {
    let section = reader.section(at, &["as_of", "stale_after_days", "unusable_after_days", "source", "usd"])?;
    let as_of = reader.need(&section, "as_of").and_then(|at| reader.date(&at));
    let days = |reader: &mut Reader, key: &str, shipped: i32| {
        let given = section.get(key).map(|at| reader.whole(&at, 1, 36_500));
        given.map_or(Some(shipped), |days| days.and_then(|days| i32::try_from(days).ok()))
    };
    let stale_after_days = days(reader, "stale_after_days", 45);
    let unusable_after_days = days(reader, "unusable_after_days", 400);
    let source = reader.need(&section, "source").and_then(|at| reader.text(&at));
    let mut usd = BTreeMap::new();
    for (currency, at) in section.get("usd").map(|at| reader.entries(&at)).unwrap_or_default() {
        let word = currency.len() == 3 && currency.bytes().all(|b| b.is_ascii_uppercase());
        if !word {
            reader.note(at.key.clone(), Fault::WrongType { wanted: "a currency of three capital letters" });
        }
        match reader.micros(&at) {
            Some(0) => reader
                .note(at.key.clone(), Fault::OutOfRange { wanted: "more than zero".to_owned(), found: "0".to_owned() }),
            Some(rate) => _ = usd.insert(currency, Micros(rate)),
            None => {}
        }
    }
    let rates = Rates {
        as_of: as_of?,
        source: source?,
        stale_after_days: stale_after_days?,
        unusable_after_days: unusable_after_days?,
        usd,
    };
    Some(rates)
}

fn location(reader: &mut Reader, name: String, at: &At<'_>) -> Option<Location> {
    let section = reader.section(at, &["lat", "lon", "names"])?;
    let lat = reader.need(&section, "lat").and_then(|at| reader.degrees(&at, 90.0));
    let lon = reader.need(&section, "lon").and_then(|at| reader.degrees(&at, 180.0));
    let names = section.get("names").map(|at| reader.texts(&at)).unwrap_or_default();
    Some(Location { name, lat: lat?, lon: lon?, names })
}

fn region(reader: &mut Reader, draft: &Catalogue, name: String, at: &At<'_>) -> Option<Region> {
    let section = reader.section(at, &["title", "lat", "lon", "location", "residency"])?;
    let title = reader.need(&section, "title").and_then(|at| reader.text(&at));
    let lat = reader.need(&section, "lat").and_then(|at| reader.degrees(&at, 90.0));
    let lon = reader.need(&section, "lon").and_then(|at| reader.degrees(&at, 180.0));
    let named = reader.need(&section, "location");
    let location = named.and_then(|at| {
        let word = reader.text(&at)?;
        let found = draft.location(&word);
        if found.is_none() {
            let known = draft.locations.iter().map(|location| location.name.clone()).collect();
            reader.note(at.key, Fault::Dangling { what: "location", name: word, known });
        }
        found
    });
    let residency = section.get("residency").map(|at| reader.texts(&at)).unwrap_or_default();
    Some(Region { name, title: title?, lat: lat?, lon: lon?, location: location?, residency })
}

fn provider(reader: &mut Reader, draft: &Catalogue, at: &At<'_>) -> Option<Provider> {
    const KEYS: &[&str] = &[
        "title",
        "currency",
        "checked",
        "source",
        "compliance",
        "rate_limit",
        "quotas",
        "credits",
        "regions",
        "shapes",
    ];
    let section = reader.section(at, KEYS)?;
    let title = reader.need(&section, "title").and_then(|at| reader.text(&at));
    let currency = reader.need(&section, "currency").and_then(|at| currency(reader, draft, &at));
    let checked = reader.need(&section, "checked").and_then(|at| reader.date(&at));
    let source = reader.need(&section, "source").and_then(|at| reader.text(&at));
    let mut compliance = 0;
    for item in section.get("compliance").map(|at| reader.list(&at)).unwrap_or_default() {
        let Some(word) = reader.text(&item) else { continue };
        match draft.compliance_bit(&word) {
            Some(bit) => compliance |= bit,
            None => {
                let known = draft.compliance.clone();
                reader.note(item.key, Fault::Dangling { what: "standard", name: word, known });
            }
        }
    }
    let rate_limit = section.get("rate_limit").and_then(|at| {
        let section = reader.section(&at, &["requests", "per_s"])?;
        let requests = reader.need(&section, "requests").and_then(|at| reader.whole(&at, 1, 1 << 40));
        let per_s = reader.need(&section, "per_s").and_then(|at| reader.whole(&at, 1, 31_622_400));
        Some(RateLimit { requests: requests?, per_s: per_s? })
    });
    let quotas = section.get("quotas").map(|at| reader.list(&at)).unwrap_or_default();
    let quotas = quotas.iter().filter_map(|at| quota(reader, at)).collect();
    let credits = section.get("credits").map(|at| reader.list(&at)).unwrap_or_default();
    let credits = credits.iter().filter_map(|at| credit(reader, at)).collect();
    let mut sites = BTreeMap::new();
    for (name, at) in reader.need(&section, "regions").map(|at| reader.entries(&at)).unwrap_or_default() {
        if let Some(site) = site(reader, draft, &at) {
            sites.insert(name, site);
        }
    }
    let mut shapes = BTreeMap::new();
    for (name, at) in section.get("shapes").map(|at| reader.entries(&at)).unwrap_or_default() {
        if let Some(shape) = shape(reader, draft, &at, currency.as_deref(), &sites) {
            shapes.insert(name, shape);
        }
    }
    let (title, currency, checked, source) = (title?, currency?, checked?, source?);
    Some(Provider { title, currency, checked, source, compliance, rate_limit, quotas, credits, sites, shapes })
}

fn currency(reader: &mut Reader, draft: &Catalogue, at: &At<'_>) -> Option<String> {
    let currency = reader.text(at)?;
    if !draft.rates.knows(&currency) {
        reader.note(at.key.clone(), Fault::UnknownCurrency { currency });
        return None;
    }
    Some(currency)
}

fn quota(reader: &mut Reader, at: &At<'_>) -> Option<Quota> {
    let section = reader.section(at, &["what", "amount", "source"])?;
    let what = reader.need(&section, "what").and_then(|at| reader.text(&at));
    let amount = reader.need(&section, "amount").and_then(|at| reader.whole(&at, 0, 1 << 53));
    let source = reader.need(&section, "source").and_then(|at| reader.text(&at));
    Some(Quota { what: what?, amount: amount?, source: source? })
}

fn credit(reader: &mut Reader, at: &At<'_>) -> Option<Credit> {
    let section = reader.section(at, &["what", "amount", "expires"])?;
    let what = reader.need(&section, "what").and_then(|at| reader.text(&at));
    let amount = reader.need(&section, "amount").and_then(|at| reader.micros(&at));
    let expires = reader.need(&section, "expires").and_then(|at| reader.text(&at).map(|text| (at.key, text)));
    if let Some((key, text)) = &expires
        && text != "monthly"
        && text.parse::<Date>().is_err()
    {
        reader.note(key.clone(), Fault::WrongType { wanted: "a date, or `monthly`" });
    }
    Some(Credit { what: what?, amount: Micros(amount?), expires: expires?.1 })
}

fn site(reader: &mut Reader, draft: &Catalogue, at: &At<'_>) -> Option<Site> {
    let section = reader.section(at, &["region", "near_ms", "trust", "benchmarks"])?;
    let named = reader.need(&section, "region");
    let region = named.and_then(|at| {
        let name = reader.text(&at)?;
        let found = draft.regions.iter().position(|region| region.name == name);
        if found.is_none() {
            let known = draft.regions.iter().map(|region| region.name.clone()).collect();
            reader.note(at.key, Fault::Dangling { what: "region", name, known });
        }
        found
    });
    let near_ms = section.get("near_ms").and_then(|at| reader.whole(&at, 0, 60_000)).map(|ms| ms as u32);
    let trust = section.get("trust").map_or(Some(Trust::Claimed), |at| trust(reader, &at));
    let mut benchmarks = BTreeMap::new();
    if let Some(at) = section.get("benchmarks") {
        let names: Vec<&str> = BENCHMARKS.iter().map(|(name, _)| *name).collect();
        let claimed = reader.section(&at, &names)?;
        for name in names {
            let Some(amount) = claimed.get(name).and_then(|at| reader.micros(&at)) else { continue };
            benchmarks.insert(name.to_owned(), Micros(amount));
        }
    }
    Some(Site { region: region?, near_ms, trust: trust?, benchmarks })
}

fn trust(reader: &mut Reader, at: &At<'_>) -> Option<Trust> {
    match reader.text(at)?.as_str() {
        "measured" => Some(Trust::Measured),
        "claimed" => Some(Trust::Claimed),
        _ => {
            reader.note(at.key.clone(), Fault::WrongType { wanted: "`measured` or `claimed`" });
            None
        }
    }
}

fn shape(
    reader: &mut Reader,
    draft: &Catalogue,
    at: &At<'_>,
    usual: Option<&str>,
    sites: &BTreeMap<String, Site>,
) -> Option<Shape> {
    const KEYS: &[&str] = &[
        "kind",
        "price",
        "currency",
        "percent_of_servers",
        "cpu_millis",
        "memory_mib",
        "disk_gib",
        "egress_gib",
        "arch",
        "regions",
        "source",
    ];
    let section = reader.section(at, KEYS)?;
    let kind = reader.need(&section, "kind").and_then(|at| match reader.text(&at)?.as_str() {
        "server" => Some(ShapeKind::Server),
        "disk" => Some(ShapeKind::Disk),
        "other" => Some(ShapeKind::Other),
        _ => {
            reader.note(at.key, Fault::WrongType { wanted: "`server`, `disk` or `other`" });
            None
        }
    });
    let price = section.get("price").and_then(|at| reader.micros(&at)).map(Micros);
    let own = section.get("currency").map(|at| currency(reader, draft, &at));
    let percent_of_servers = section.get("percent_of_servers").and_then(|at| reader.whole(&at, 0, 1000));
    let mut amount = |key: &str| section.get(key).and_then(|at| reader.whole(&at, 0, 1 << 40)).unwrap_or(0);
    let (cpu_millis, memory_mib, disk_gib) = (amount("cpu_millis"), amount("memory_mib"), amount("disk_gib"));
    let egress_gib = section.get("egress_gib").and_then(|at| reader.whole(&at, 1, 1 << 20)).unwrap_or(0);
    let arch = section.get("arch").map_or(Some(Arch::default()), |at| match reader.text(&at)?.as_str() {
        "x86_64" => Some(Arch::X86_64),
        "aarch64" => Some(Arch::Aarch64),
        _ => {
            reader.note(at.key, Fault::WrongType { wanted: "`x86_64` or `aarch64`" });
            None
        }
    });
    let mut regions = Vec::new();
    for item in section.get("regions").map(|at| reader.list(&at)).unwrap_or_default() {
        let Some(name) = reader.text(&item) else { continue };
        if !sites.contains_key(&name) {
            let known = sites.keys().cloned().collect();
            reader.note(item.key, Fault::Dangling { what: "region", name, known });
            continue;
        }
        regions.push(name);
    }
    let source = section.get("source").and_then(|at| reader.text(&at));
    let currency = own.unwrap_or_else(|| usual.map(str::to_owned));
    Some(Shape {
        kind: kind?,
        price,
        currency: currency?,
        percent_of_servers,
        cpu_millis,
        memory_mib,
        disk_gib,
        egress_gib,
        arch: arch?,
        regions,
        source,
    })
}

fn offer(reader: &mut Reader, draft: &Catalogue, at: &At<'_>) -> Option<Offer> {
    let section = reader.section(at, &["class", "provider", "at", "parts", "places", "promises"])?;
    let class = reader.need(&section, "class").and_then(|at| {
        let class = reader.text(&at)?.parse::<CellClass>().ok();
        if class.is_none() {
            reader.note(at.key, Fault::WrongType { wanted: "`shared`, `pool` or `dedicated`" });
        }
        class
    });
    let named = reader.need(&section, "provider");
    let name = named.and_then(|at| {
        let name = reader.text(&at)?;
        if draft.providers.contains_key(&name) {
            return Some(name);
        }
        let known = draft.providers.keys().cloned().collect();
        reader.note(at.key, Fault::Dangling { what: "provider", name, known });
        None
    });
    let provider = name.as_ref().map(|name| &draft.providers[name]);
    let mut sites = Vec::new();
    for place in reader.need(&section, "at").map(|at| reader.list(&at)).unwrap_or_default() {
        let mut names = Vec::new();
        for item in reader.list(&place) {
            let Some(name) = reader.text(&item) else { continue };
            if let Some(provider) = provider
                && !provider.sites.contains_key(&name)
            {
                let known = provider.sites.keys().cloned().collect();
                reader.note(item.key, Fault::Dangling { what: "region", name, known });
                continue;
            }
            names.push(name);
        }
        if names.is_empty() {
            reader.note(place.key, Fault::WrongType { wanted: "a list with at least one region" });
        }
        sites.push(names);
    }
    let mut parts = BTreeMap::new();
    for (part, at) in reader.need(&section, "parts").map(|at| reader.entries(&at)).unwrap_or_default() {
        let Some(count) = reader.whole(&at, 1, 1_000_000) else { continue };
        match provider.map(|provider| provider.shapes.get(&part)) {
            Some(None) => {
                let known = provider.map(|p| p.shapes.keys().cloned().collect()).unwrap_or_default();
                reader.note(at.key, Fault::Dangling { what: "shape", name: part, known });
            }
            Some(Some(shape)) if shape.price.is_none() && shape.percent_of_servers.is_none() => {
                reader.note(at.key, Fault::NoPrice);
            }
            Some(Some(shape)) if elsewhere(shape, &sites).is_some() => {
                let name = elsewhere(shape, &sites).unwrap_or_default().to_owned();
                reader
                    .note(at.key, Fault::Dangling { what: "region of this shape", name, known: shape.regions.clone() });
            }
            _ => _ = parts.insert(part, count),
        }
    }
    let places = reader.need(&section, "places").and_then(|at| reader.whole(&at, 1, 1_000_000));
    if class == Some(CellClass::Dedicated) && places.is_some_and(|places| places != 1) {
        let found = places.map(|places| places.to_string()).unwrap_or_default();
        reader.note(
            at.below("places", at.value).key,
            Fault::OutOfRange { wanted: "1: it is dedicated".to_owned(), found },
        );
    }
    let (promises, trust) = match section.get("promises") {
        Some(at) => promises(reader, &at)?,
        None => (Promises::default(), Trust::Claimed),
    };
    Some(Offer { class: class?, provider: name?, at: sites, parts, places: places? as u32, promises, trust })
}

/// A region of an offer in which a part is not sold at its price.
fn elsewhere<'a>(shape: &Shape, at: &'a [Vec<String>]) -> Option<&'a str> {
    let sold = |site: &String| shape.regions.is_empty() || shape.regions.contains(site);
    at.iter().flatten().find(|site| !sold(site)).map(String::as_str)
}

fn promises(reader: &mut Reader, at: &At<'_>) -> Option<(Promises, Trust)> {
    let section = reader.section(at, &["throughput_per_s", "users", "upload_mib", "trust"])?;
    let mut amount = |key: &str| section.get(key).and_then(|at| reader.whole(&at, 0, 1 << 40));
    let (throughput_per_s, users, upload_mib) = (amount("throughput_per_s"), amount("users"), amount("upload_mib"));
    let trust = section.get("trust").map_or(Some(Trust::Claimed), |at| trust(reader, &at))?;
    Some((Promises { throughput_per_s, users, upload_bytes: upload_mib.map(|mib| mib << 20) }, trust))
}
