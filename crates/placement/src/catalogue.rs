//! What providers sell, where, for how much and with which promises, as types.
//!
//! A catalogue that exists has no mistakes in it: [`Catalogue::parse`] found every one of them first. Figures are
//! somebody's claim until Berth measured them, and say which.

use crate::{
    distance::km,
    money::{Micros, Rates},
};
use berth_domain::{CellClass, Cents};
use jiff::civil::Date;
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// By Berth, in your own cells.
    Measured,
    /// Somebody's word.
    Claimed,
    /// From a distance.
    Computed,
}

impl Trust {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Claimed => "claimed",
            Self::Computed => "computed",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Catalogue {
    pub version: Date,
    pub rates: Rates,
    /// Every standard that can be asked for.
    pub compliance: Vec<String>,
    pub locations: Vec<Location>,
    pub regions: Vec<Region>,
    pub providers: BTreeMap<String, Provider>,
    pub offers: BTreeMap<String, Offer>,
}

/// Where users are.
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    pub name: String,
    pub lat: f64,
    pub lon: f64,
    /// Other words for it, country codes mostly.
    pub names: Vec<String>,
}

/// Where machines stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    pub name: String,
    pub title: String,
    pub lat: f64,
    pub lon: f64,
    /// Index into [`Catalogue::locations`]: users there are near.
    pub location: usize,
    /// Jurisdictions in which data kept here stays.
    pub residency: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    pub title: String,
    pub currency: String,
    /// When somebody last looked.
    pub checked: Date,
    pub source: String,
    /// Indexes into [`Catalogue::compliance`], as bits.
    pub compliance: u64,
    pub rate_limit: Option<RateLimit>,
    pub quotas: Vec<Quota>,
    pub credits: Vec<Credit>,
    /// The provider's own name of a region → what it is.
    pub sites: BTreeMap<String, Site>,
    pub shapes: BTreeMap<String, Shape>,
}

/// A region as one provider has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Index into [`Catalogue::regions`].
    pub region: usize,
    /// What a request of nearby users takes, 95th percentile. Unknown is not zero.
    pub near_ms: Option<u32>,
    pub trust: Trust,
    /// What somebody says that a place there does, by the names of what `berth cell measure` finds out, in its units.
    pub benchmarks: BTreeMap<String, Micros>,
}

/// What can be claimed of a place and measured in a cell, with its unit.
pub const BENCHMARKS: &[(&str, &str)] = &[
    ("api", "ms"),
    ("query_simple", "ms"),
    ("query_complex", "ms"),
    ("ingest", "rows_per_s"),
    ("upload_10_mib", "s"),
    ("socket", "ms"),
    ("websocket", "ms"),
    ("backup_1_gib", "s"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub requests: u64,
    pub per_s: u64,
}

/// How much of something a provider gives, per account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    pub what: String,
    pub amount: u64,
    pub source: String,
}

/// Money that is not paid for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credit {
    pub what: String,
    pub amount: Micros,
    /// A day, or `monthly` where it comes back.
    pub expires: String,
}

/// Within which the end of a credit is said before it comes: two weeks of notice, and the weekend after.
pub const CREDIT_SOON_DAYS: i32 = 21;

/// A credit that has ended or soon does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CreditEnd {
    pub provider: String,
    pub what: String,
    /// A month.
    pub amount: Micros,
    pub currency: String,
    pub on: Date,
    /// Until then; below zero once it is over.
    pub days: i32,
}

impl fmt::Display for CreditEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider, what, currency, on, days, .. } = self;
        let cents = self.amount.cents();
        let more = format!("{}.{:02} {currency}", cents / 100, cents % 100);
        match days {
            ..0 => write!(f, "the credit of {provider} ({what}) ended on {on}: a month there costs {more} more since"),
            0 => {
                write!(f, "the credit of {provider} ({what}) ends today: a month there costs {more} more from tomorrow")
            }
            1 => write!(
                f,
                "the credit of {provider} ({what}) ends on {on}, tomorrow: a month there costs {more} more then"
            ),
            _ => write!(
                f,
                "the credit of {provider} ({what}) ends on {on}, in {days} days: a month there costs {more} more then"
            ),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeKind {
    Server,
    Disk,
    Other,
}

/// What programs a machine runs, as `uname -m` says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arch {
    #[default]
    X86_64,
    Aarch64,
}

impl Arch {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

/// One thing that is sold by the month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub kind: ShapeKind,
    /// Its own price; `None` for what costs a share of the servers beside it, or where nobody knows.
    pub price: Option<Micros>,
    pub currency: String,
    /// A backup that costs a share of the servers' prices.
    pub percent_of_servers: Option<u64>,
    pub cpu_millis: u64,
    pub memory_mib: u64,
    pub disk_gib: u64,
    /// Of what leaves for users, paid by one of it; 0: it is something else.
    pub egress_gib: u64,
    pub arch: Arch,
    /// The provider's own names of the regions in which it has this price; all of them when empty.
    pub regions: Vec<String>,
    /// Where its figures are from, if not from the provider's `source`.
    pub source: Option<String>,
}

/// What a place gives, as far as it is known. Unknown is not enough for whoever asks for a figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promises {
    pub throughput_per_s: Option<u64>,
    pub users: Option<u64>,
    pub upload_bytes: Option<u64>,
}

/// What a provider asks for what leaves its machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    pub gib: u64,
    /// For so many.
    pub price: Micros,
    pub currency: String,
}

/// A way to make a cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub class: CellClass,
    pub provider: String,
    /// Each: the provider's regions of one place, the home of the Postgres first.
    pub at: Vec<Vec<String>>,
    pub parts: BTreeMap<String, u64>,
    /// How many tenants.
    pub places: u32,
    pub promises: Promises,
    /// Whose word the promises are.
    pub trust: Trust,
}

/// One line of what a cell costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PriceLine {
    pub part: String,
    pub count: u64,
    pub currency: String,
    /// In millionths, all of `count` together.
    pub amount: Micros,
}

/// What one place offers, with everything that a decision asks about resolved to numbers and bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub class: CellClass,
    pub provider: String,
    /// As the provider names them; the home of the Postgres first.
    pub sites: Vec<String>,
    /// Distinct regions among them.
    pub regions: u32,
    pub compliance: u64,
    /// Jurisdictions that hold all of its regions.
    pub residency: Vec<String>,
    /// For each location of the catalogue: the nearest region's latency.
    pub latency_ms: Vec<(u32, Trust)>,
    pub promises: Promises,
    /// Whose word `users` and `upload_bytes` are.
    pub trust: Trust,
    /// The same of the throughput, which is measured in a cell while the rest is not.
    pub throughput_trust: Trust,
    pub cpu_millis: u64,
    pub memory_mib: u64,
    pub disk_gib: u64,
    /// Of its machines.
    pub arch: Arch,
    /// `None`: nobody knows, or nothing is asked.
    pub egress: Option<Egress>,
    pub places: u32,
    /// The whole place per month; `None`: nobody knows.
    pub price_cents: Option<Cents>,
}

/// Light in fibre makes 200 km in a millisecond; cables are half as long again as the great circle; there and back.
const MS_PER_KM: f64 = 2.0 * 1.5 / 200.0;

impl Catalogue {
    /// A location by its name, or by a country or continent that people write.
    pub fn location(&self, word: &str) -> Option<usize> {
        let word = word.to_ascii_lowercase();
        let named = |location: &Location| location.name == word || location.names.contains(&word);
        self.locations.iter().position(named)
    }

    pub fn compliance_bit(&self, word: &str) -> Option<u64> {
        let word: String = word.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
        self.compliance.iter().position(|known| *known == word).map(|bit| 1 << bit)
    }

    pub fn compliance_words(&self, bits: u64) -> Vec<String> {
        let held = |(bit, word): (usize, &String)| (bits & (1 << bit) != 0).then(|| word.clone());
        self.compliance.iter().enumerate().filter_map(held).collect()
    }

    /// Every jurisdiction that some region is in.
    pub fn residencies(&self) -> Vec<&str> {
        let mut words: Vec<&str> =
            self.regions.iter().flat_map(|region| region.residency.iter().map(String::as_str)).collect();
        words.sort_unstable();
        words.dedup();
        words
    }

    /// What a set of parts costs a month, line by line, in the currencies of its prices. `None`: a part has no price.
    pub fn price_lines(&self, provider: &str, parts: &BTreeMap<String, u64>) -> Option<Vec<PriceLine>> {
        let shapes = &self.providers.get(provider)?.shapes;
        let mut servers = Micros(0);
        let mut lines = Vec::new();
        // Servers first: what costs a share of them needs their sum.
        for (part, count) in parts {
            let shape = shapes.get(part)?;
            if shape.percent_of_servers.is_some() {
                continue;
            }
            let amount = shape.price?.times(*count);
            if shape.kind == ShapeKind::Server {
                servers = servers.plus(amount);
            }
            lines.push(PriceLine { part: part.clone(), count: *count, currency: shape.currency.clone(), amount });
        }
        for (part, count) in parts {
            let Some(percent) = shapes.get(part)?.percent_of_servers else { continue };
            let amount = servers.percent(percent).times(*count);
            let currency = self.providers.get(provider)?.currency.clone();
            lines.push(PriceLine { part: part.clone(), count: *count, currency, amount });
        }
        Some(lines)
    }

    /// The sum of the lines in US dollars, each currency rounded once.
    pub fn price_cents(&self, provider: &str, parts: &BTreeMap<String, u64>) -> Option<Cents> {
        let mut sums: BTreeMap<String, Micros> = BTreeMap::new();
        for line in self.price_lines(provider, parts)? {
            let sum = sums.entry(line.currency).or_default();
            *sum = sum.plus(line.amount);
        }
        sums.iter().map(|(currency, sum)| self.rates.usd_cents(*sum, currency)).sum()
    }

    /// What a cell like this costs a month, line by line: what the offer of its provider, class and regions is made of.
    pub fn lines_of_cell(&self, class: CellClass, provider: &str, sites: &[String]) -> Option<Vec<PriceLine>> {
        let alike = |offer: &&Offer| {
            offer.class == class && offer.provider == provider && offer.at.iter().any(|at| at.as_slice() == sites)
        };
        let offer = self.offers.values().find(alike)?;
        self.price_lines(&offer.provider, &offer.parts)
    }

    /// The cheapest machine of a provider that runs the same programs, has at least this and is sold at all of `sites`,
    /// and its price a month.
    pub fn cheapest_server(
        &self,
        provider: &str,
        sites: &[String],
        arch: Arch,
        cpu_millis: u64,
        memory_mib: u64,
        disk_gib: u64,
    ) -> Option<(&str, Cents)> {
        let servers = self.providers.get(provider)?.shapes.iter().filter(|(_, shape)| {
            shape.kind == ShapeKind::Server
                && shape.arch == arch
                && (shape.regions.is_empty() || sites.iter().all(|site| shape.regions.contains(site)))
                && shape.cpu_millis >= cpu_millis
                && shape.memory_mib >= memory_mib
                && shape.disk_gib >= disk_gib
        });
        let priced = servers
            .filter_map(|(name, shape)| Some((name.as_str(), self.rates.usd_cents(shape.price?, &shape.currency)?)));
        priced.min_by_key(|(name, price)| (*price, *name))
    }

    /// Every place that the offers make possible, by the offer's name.
    pub fn places(&self) -> Vec<(String, Place)> {
        let of = |(name, offer): (&String, &Offer)| {
            let made: Vec<_> = offer.at.iter().map(|sites| (name.clone(), self.place_of(offer, sites))).collect();
            made
        };
        self.offers.iter().flat_map(of).collect()
    }

    fn place_of(&self, offer: &Offer, sites: &[String]) -> Place {
        let mut place = self.place_at(offer.class, &offer.provider, sites);
        place.promises = offer.promises;
        (place.trust, place.throughput_trust) = (offer.trust, offer.trust);
        place.places = offer.places;
        place.price_cents = self.price_cents(&offer.provider, &offer.parts);
        let shapes = &self.providers[&offer.provider].shapes;
        for (part, count) in &offer.parts {
            let shape = &shapes[part];
            place.cpu_millis += shape.cpu_millis * count;
            place.memory_mib += shape.memory_mib * count;
            place.disk_gib += shape.disk_gib * count;
            // What leaves is in the price of the whole.
            if shape.egress_gib > 0 {
                place.egress = None;
            }
            if shape.kind == ShapeKind::Server {
                place.arch = shape.arch;
            }
        }
        place
    }

    /// A place of which only the provider and regions are known. A region that the catalogue does not name, or a
    /// provider it does not, gives a place without compliance, residency or latency: unknown is not promised.
    pub fn place_at(&self, class: CellClass, provider: &str, sites: &[String]) -> Place {
        let known = self.providers.get(provider);
        let found = self.found(provider, sites);
        let complete = !found.is_empty() && found.len() == sites.len();
        let mut distinct: Vec<usize> = found.iter().map(|site| site.region).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let residency = self.residencies().into_iter().filter(|word| {
            complete && found.iter().all(|site| self.regions[site.region].residency.iter().any(|r| r == word))
        });
        Place {
            class,
            provider: provider.to_owned(),
            sites: sites.to_vec(),
            regions: u32::try_from(distinct.len()).unwrap_or(u32::MAX).max(1),
            compliance: if complete { known.map_or(0, |p| p.compliance) } else { 0 },
            residency: residency.map(str::to_owned).collect(),
            latency_ms: self.latencies(provider, sites, None),
            promises: Promises::default(),
            trust: Trust::Claimed,
            throughput_trust: Trust::Claimed,
            cpu_millis: 0,
            memory_mib: 0,
            disk_gib: 0,
            arch: Arch::default(),
            egress: self.egress(provider, sites),
            places: 1,
            price_cents: None,
        }
    }

    /// What leaves goes by the home.
    fn egress(&self, provider: &str, sites: &[String]) -> Option<Egress> {
        let home = sites.first()?;
        let sold = |shape: &&Shape| shape.egress_gib > 0 && (shape.regions.is_empty() || shape.regions.contains(home));
        let shape = self.providers.get(provider)?.shapes.values().find(sold)?;
        Some(Egress { gib: shape.egress_gib, price: shape.price?, currency: shape.currency.clone() })
    }

    fn found(&self, provider: &str, sites: &[String]) -> Vec<&Site> {
        let known = self.providers.get(provider);
        known.map(|p| sites.iter().filter_map(|name| p.sites.get(name)).collect()).unwrap_or_default()
    }

    /// What users of each location wait for. A figure that was measured at the home stands in place of the claimed one.
    pub(crate) fn latencies(&self, provider: &str, sites: &[String], measured: Option<u32>) -> Vec<(u32, Trust)> {
        let mut found: Vec<Site> = self.found(provider, sites).into_iter().cloned().collect();
        if let (Some(home), Some(ms)) = (found.first_mut(), measured) {
            (home.near_ms, home.trust) = (Some(ms), Trust::Measured);
        }
        (0..self.locations.len()).map(|at| self.latency(&found, at)).collect()
    }

    /// What users of a location wait for, served from the nearest of these sites.
    fn latency(&self, sites: &[Site], location: usize) -> (u32, Trust) {
        let from = |site: &Site| {
            let region = &self.regions[site.region];
            let Some(near) = site.near_ms else { return (u32::MAX, Trust::Claimed) };
            if region.location == location {
                return (near, site.trust);
            }
            let there = &self.locations[location];
            let way = km((region.lat, region.lon), (there.lat, there.lon)) * MS_PER_KM;
            (near.saturating_add(way.round() as u32), Trust::Computed)
        };
        sites.iter().map(from).min_by_key(|(ms, _)| *ms).unwrap_or((u32::MAX, Trust::Claimed))
    }

    /// Whether a use fits what a provider gives. `Err` carries the quota; a provider without that quota gives any amount.
    pub fn within_quota(&self, provider: &str, what: &str, wanted: u64) -> Result<(), &Quota> {
        let quotas = self.providers.get(provider).map(|p| p.quotas.as_slice()).unwrap_or_default();
        quotas.iter().find(|quota| quota.what == what && quota.amount < wanted).map_or(Ok(()), Err)
    }

    /// What an answer that rests on this catalogue has to say of it.
    pub fn assumptions(&self, today: Date) -> Vec<String> {
        let rates = &self.rates;
        let age = rates.age_days(today);
        let mut said = vec![format!("prices of the catalogue of {}, exchange rates of {}", self.version, rates.as_of)];
        if rates.are_too_old(today) {
            let most = rates.unusable_after_days;
            said.push(format!(
                "the exchange rates are {age} days old and not used past {most}: prices in other currencies than USD are \
                 unknown until you give the day's in `rates`"
            ));
        } else if age > rates.stale_after_days {
            said.push(format!("the exchange rates are {age} days old: give the day's in `rates`"));
        }
        said.extend(self.credit_ends(today).iter().map(ToString::to_string));
        said
    }

    /// Credits that have ended, or end within [`CREDIT_SOON_DAYS`]. No price of the catalogue has one taken off, so what
    /// ends is only ever what the bill was below them.
    pub fn credit_ends(&self, today: Date) -> Vec<CreditEnd> {
        let credits = self.providers.iter().flat_map(|(name, it)| it.credits.iter().map(move |c| (name, it, c)));
        let ending = credits.filter_map(|(name, it, credit)| {
            let on: Date = credit.expires.parse().ok()?;
            let days = (on - today).get_days();
            (days <= CREDIT_SOON_DAYS).then(|| CreditEnd {
                provider: name.clone(),
                what: credit.what.clone(),
                amount: credit.amount,
                currency: it.currency.clone(),
                on,
                days,
            })
        });
        ending.collect()
    }

    /// A quota of a provider, by what it is of.
    pub fn quota(&self, provider: &str, what: &str) -> Option<&Quota> {
        self.providers.get(provider)?.quotas.iter().find(|quota| quota.what == what)
    }
}
