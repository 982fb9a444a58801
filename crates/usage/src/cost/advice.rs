//! What would be cheaper, or will soon not do: from what is promised, lived in and paid for. Advice is never acted on
//! by itself.

/// What a machine has, or what is promised of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerShape {
    pub cpu_millis: u64,
    pub memory_mib: u64,
    pub disk_gib: u64,
}

/// What was measured of a cell's members and database, over some days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Hours in which anybody looked.
    pub hours: u32,
    pub cpu_millis: u64,
    /// The most of one look.
    pub cpu_most: u64,
    pub memory_mib: u64,
    pub memory_most: u64,
    pub disk_gib: Option<u64>,
}

/// Another machine of the same provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub name: String,
    /// A month, against the cheapest machine that is like the one there is. Less than nothing: it is cheaper.
    pub more_cents: i64,
    pub has: ServerShape,
}

/// What is known of a cell that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellFacts {
    pub cell: String,
    pub shared: bool,
    pub tenants: u32,
    pub rooms: u32,
    /// A whole month; absent where nobody knows.
    pub month_cents: Option<i64>,
    /// What its tenants' plans bring in a month.
    pub revenue_cents: i64,
    /// What its database and members are promised together.
    pub promised: ServerShape,
    /// The database's part of it. What it uses is measured by nobody but the size of its files.
    pub database: ServerShape,
    /// What its machine has, as the stack file or the offer says.
    pub server: Option<ServerShape>,
    /// What was measured; `None`: nobody looked, and what is promised stands in its place.
    pub used: Option<Used>,
    /// The cheapest machine of its provider that holds what is needed with a quarter to spare, if it is another.
    pub fitting: Option<Machine>,
}

/// What is known of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantFacts {
    pub tenant: String,
    /// Of the month, as far as it has gone.
    pub cost_cents: i64,
    pub revenue_cents: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// Stable: `cell_empty`, …
    pub code: &'static str,
    /// `cell fra-1`, `tenant acme`
    pub about: String,
    pub says: String,
    /// A month.
    pub saves_cents: Option<i64>,
    pub command: Option<String>,
}

/// Of its places: above it another host is asked for, as the WebHost guide does. Below a fifth a cell is thin.
const FULL: (u64, u64) = (4, 5);
const THIN: (u64, u64) = (1, 5);

/// How many tenants pay for a cell, at the average of those that live in it (`tenants` of them bring `revenue_cents`),
/// else at a plan's price.
pub fn break_even(month_cents: i64, revenue_cents: i64, tenants: u32, plan_cents: Option<i64>) -> Option<u64> {
    let one = if tenants > 0 && revenue_cents > 0 { Some((revenue_cents, i64::from(tenants))) } else { None };
    let (revenue, of) = one.or(plan_cents.filter(|price| *price > 0).map(|price| (price, 1)))?;
    let needed = i128::from(month_cents.max(0)) * i128::from(of);
    u64::try_from(needed.div_euclid(i128::from(revenue)) + i128::from(needed.rem_euclid(i128::from(revenue)) > 0)).ok()
}

pub fn advise(cells: &[CellFacts], tenants: &[TenantFacts]) -> Vec<Advice> {
    let mut advice: Vec<Advice> = cells.iter().flat_map(of_cell).collect();
    advice.extend(tenants.iter().filter(|t| t.cost_cents > t.revenue_cents).map(|tenant| Advice {
        code: "tenant_at_a_loss",
        about: format!("tenant {}", tenant.tenant),
        says: format!(
            "it cost {} and brought {} this month",
            dollars(tenant.cost_cents),
            dollars(tenant.revenue_cents)
        ),
        saves_cents: None,
        command: Some(format!("berth decide {}", tenant.tenant)),
    }));
    // What saves most first.
    advice.sort_by_key(|one| (std::cmp::Reverse(one.saves_cents.unwrap_or(0)), one.about.clone()));
    advice
}

fn of_cell(cell: &CellFacts) -> Vec<Advice> {
    let about = format!("cell {}", cell.cell);
    let (tenants, rooms) = (u64::from(cell.tenants), u64::from(cell.rooms));
    let mut advice = Vec::new();
    let mut say = |code, says, saves_cents, command: Option<String>| {
        advice.push(Advice { code, about: about.clone(), says, saves_cents, command });
    };
    if tenants == 0 {
        // Nothing costs nothing: what is free may stand empty.
        if cell.month_cents.is_some_and(|cents| cents > 0) {
            let remove = format!("berth cell remove {}", cell.cell);
            say("cell_empty", "nobody lives in it".to_owned(), cell.month_cents, Some(remove));
        }
        return advice;
    }
    if cell.shared && tenants * FULL.1 > rooms * FULL.0 {
        let says = format!("{tenants} of {rooms} places are taken: more than four fifths; have another cell ready");
        say("cell_nearly_full", says, None, Some("berth cell create".to_owned()));
    }
    if cell.shared && tenants * THIN.1 < rooms * THIN.0 {
        let each = cell
            .month_cents
            .map(|cents| format!(", which makes {} each", dollars(cents / i64::from(cell.tenants.max(1)))));
        let says = format!("{tenants} of {rooms} places are taken{}", each.unwrap_or_default());
        say("cell_thin", says, None, Some("berth fleet plan".to_owned()));
    }
    if let Some(cents) = cell.month_cents
        && cents > cell.revenue_cents
    {
        let says = format!("it costs {} a month and its tenants bring {}", dollars(cents), dollars(cell.revenue_cents));
        say("cell_at_a_loss", says, None, Some("berth fleet plan".to_owned()));
    }
    if let Some(server) = cell.server {
        let Some((says, code)) = size(cell, &server) else { return advice };
        let saves = cell.fitting.as_ref().map(|machine| -machine.more_cents).filter(|_| code == "server_large");
        say(code, says, saves, None);
    }
    advice
}

/// Of a machine: above these it is small, as the Chrono guide's monitor warns.
const CPU_HIGH: u64 = 80;
const MEMORY_HIGH: u64 = 85;
const DISK_HIGH: u64 = 90;
/// A day of looks; less says little about a week.
const HOURS_ENOUGH: u32 = 24;

/// What a machine should have so that this much of it is used at most, with a quarter to spare.
pub fn needed(cell: &CellFacts) -> Option<ServerShape> {
    let roomy = |n: u64| n + n.div_ceil(4);
    match cell.used.filter(|used| used.hours >= HOURS_ENOUGH) {
        // Members were measured, their database was not: without a word of what it is promised nobody knows its part.
        Some(_) if cell.database.cpu_millis == 0 || cell.database.memory_mib == 0 => None,
        Some(used) => Some(ServerShape {
            // A second of full processors is no reason for more of them: the mean, and half of the way to the most.
            cpu_millis: roomy(used.cpu_millis + used.cpu_most.saturating_sub(used.cpu_millis) / 2)
                + cell.database.cpu_millis,
            memory_mib: roomy(used.memory_most) + cell.database.memory_mib,
            disk_gib: used.disk_gib.map_or(cell.promised.disk_gib, |disk| roomy(disk).max(1)),
        }),
        // What is not promised at all is no reason for a smaller machine.
        None if cell.promised.cpu_millis > 0 && cell.promised.memory_mib > 0 => Some(ServerShape {
            cpu_millis: roomy(cell.promised.cpu_millis),
            memory_mib: roomy(cell.promised.memory_mib),
            disk_gib: roomy(cell.promised.disk_gib),
        }),
        None => None,
    }
}

/// Whether the machine is too small or too large, by what was measured, else by what is promised.
fn size(cell: &CellFacts, server: &ServerShape) -> Option<(String, &'static str)> {
    let part = |used: u64, has: u64| (used * 100).checked_div(has);
    let machine = cell.fitting.as_ref();
    let price = |cents: i64| format!("{} a month {}", dollars(cents.abs()), if cents < 0 { "less" } else { "more" });
    let named = machine.map(|machine| {
        let ServerShape { cpu_millis, memory_mib, disk_gib } = machine.has;
        let cores = cpu_millis as f64 / 1000.0;
        let (name, memory) = (&machine.name, memory_mib as f64 / 1024.0);
        format!("{name} ({cores:.0} cores, {memory:.0} GiB, {disk_gib} GB disk) for {}", price(machine.more_cents))
    });
    let larger = named.clone().filter(|_| machine.is_some_and(|machine| machine.more_cents > 0));
    let larger = larger.unwrap_or_else(|| "a larger one, of which the catalogue knows none here".to_owned());
    if let Some(used) = cell.used.filter(|used| used.hours >= HOURS_ENOUGH) {
        let parts = [
            (part(used.cpu_millis, server.cpu_millis), CPU_HIGH, "of its processors on average"),
            (
                part(used.memory_most + cell.database.memory_mib, server.memory_mib),
                MEMORY_HIGH,
                "of its memory at most",
            ),
            (used.disk_gib.and_then(|disk| part(disk, server.disk_gib)), DISK_HIGH, "of its disk"),
        ];
        let words: Vec<String> =
            parts.iter().filter_map(|(part, _, of)| part.map(|part| format!("{part} % {of}"))).collect();
        let words = format!("it uses {} (measured over {} h)", words.join(", "), used.hours);
        if parts.iter().any(|(part, high, _)| part.is_some_and(|part| part > *high)) {
            return Some((format!("{words}: {larger}"), "server_small"));
        }
        let smaller = machine.filter(|machine| machine.more_cents < 0)?;
        let over =
            cell.promised.cpu_millis > smaller.has.cpu_millis || cell.promised.memory_mib > smaller.has.memory_mib;
        let first = if over { "; its services are promised more than that: lower their `shape` first" } else { "" };
        return Some((format!("{words}: {}{first}", named?), "server_large"));
    }
    let promised = [
        (part(cell.promised.cpu_millis, server.cpu_millis), "cpu"),
        (part(cell.promised.memory_mib, server.memory_mib), "memory"),
        (part(cell.promised.disk_gib, server.disk_gib), "disk"),
    ];
    let (most, what) = promised.into_iter().filter_map(|(part, what)| Some((part?, what))).max()?;
    if most > 80 {
        let says = format!("{most} % of its machine's {what} is promised to its database and members: {larger}");
        return Some((says, "server_small"));
    }
    machine.filter(|machine| machine.more_cents < 0)?;
    let says = format!(
        "at most {most} % of its machine is promised ({what}), and nobody measured what is used: {} would do",
        named?
    );
    Some((says, "server_large"))
}

fn dollars(cents: i64) -> String {
    berth_domain::Cents::new(cents).to_string()
}

#[cfg(test)]
mod tests {
    use super::{CellFacts, Machine, ServerShape, TenantFacts, Used, advise, break_even, needed};

    fn machine(name: &str, more_cents: i64) -> Machine {
        let has = ServerShape { cpu_millis: 2000, memory_mib: 4096, disk_gib: 40 };
        Machine { name: name.to_owned(), more_cents, has }
    }

    fn shared(tenants: u32, month_cents: i64) -> CellFacts {
        CellFacts {
            cell: "fra-1".to_owned(),
            shared: true,
            tenants,
            rooms: 150,
            month_cents: Some(month_cents),
            revenue_cents: i64::from(tenants) * 1500,
            promised: ServerShape { cpu_millis: 2000, memory_mib: 4096, disk_gib: 20 },
            database: ServerShape { cpu_millis: 500, memory_mib: 1024, disk_gib: 10 },
            server: Some(ServerShape { cpu_millis: 8000, memory_mib: 16_384, disk_gib: 160 }),
            used: None,
            fitting: Some(machine("cx22", -1387)),
        }
    }

    fn codes(cell: CellFacts) -> Vec<&'static str> {
        advise(&[cell], &[]).iter().map(|advice| advice.code).collect()
    }

    #[test]
    fn a10_another_host_is_asked_for_above_four_fifths_and_not_at_them() {
        assert!(codes(shared(121, 8381)).contains(&"cell_nearly_full"));
        assert!(!codes(shared(120, 8381)).contains(&"cell_nearly_full"));
    }

    #[test]
    fn what_saves_most_comes_first_and_nothing_is_said_of_a_healthy_cell() {
        let mut healthy = shared(80, 8381);
        healthy.fitting = None;
        assert_eq!(codes(healthy.clone()), [""; 0]);
        assert_eq!(codes(shared(0, 8381)), ["cell_empty"]);
        assert_eq!(codes(shared(0, 0)), [""; 0], "a cell that costs nothing may stand empty");
        assert_eq!(codes(shared(2, 8381)), ["server_large", "cell_thin", "cell_at_a_loss"]);
        let cramped = ServerShape { cpu_millis: 2000, memory_mib: 4096, disk_gib: 20 };
        assert_eq!(codes(CellFacts { server: Some(cramped), ..healthy }), ["server_small"]);
    }

    #[test]
    fn what_was_measured_goes_before_what_is_promised_and_names_the_machine_and_its_price() {
        let mut cell = shared(80, 8381);
        cell.fitting = None;
        let used = Used {
            hours: 168,
            cpu_millis: 400,
            cpu_most: 1200,
            memory_mib: 1500,
            memory_most: 2000,
            disk_gib: Some(12),
        };
        cell.used = Some(used);
        // 400 and half of the way to 1200, and a quarter more; and what the database is promised.
        assert_eq!(needed(&cell), Some(ServerShape { cpu_millis: 1500, memory_mib: 3524, disk_gib: 15 }));
        assert_eq!(needed(&CellFacts { database: ServerShape::default(), ..cell.clone() }), None);
        assert_eq!(codes(cell.clone()), [""; 0], "it has what it needs, and nothing cheaper is known");
        cell.fitting = Some(machine("cx22", -1387));
        let advice = advise(&[cell.clone()], &[]);
        assert_eq!((advice[0].code, advice[0].saves_cents), ("server_large", Some(1387)));
        let says = "it uses 5 % of its processors on average, 18 % of its memory at most, 7 % of its disk (measured over 168 h): \
                    cx22 (2 cores, 4 GiB, 40 GB disk) for $13.87 a month less";
        assert_eq!(advice[0].says, says);
        cell.promised.memory_mib = 8192;
        assert!(advise(&[cell.clone()], &[])[0].says.ends_with("lower their `shape` first"));

        // The Chrono guide's marks: 80 % of the processors is not above, one more is.
        cell.used = Some(Used { cpu_millis: 6400, cpu_most: 6400, ..used });
        cell.fitting = Some(machine("cx52", 2100));
        assert_eq!(codes(cell.clone()), [""; 0]);
        for much in [
            Used { cpu_millis: 6480, ..used },
            Used { memory_most: 16_384 * 86 / 100 + 1, ..used },
            Used { disk_gib: Some(146), ..used },
        ] {
            cell.used = Some(much);
            let advice = advise(&[cell.clone()], &[]);
            assert_eq!((advice[0].code, advice[0].saves_cents), ("server_small", None));
            assert!(advice[0].says.ends_with("for $21.00 a month more"), "{}", advice[0].says);
        }
        // An hour says nothing of a week: until a day is known what is promised stands in its place.
        cell.used = Some(Used { hours: 23, cpu_millis: 8000, ..used });
        assert_eq!(codes(cell), [""; 0]);
    }

    #[test]
    fn a_tenant_that_costs_more_than_it_pays_is_named() {
        let loss = TenantFacts { tenant: "acme".to_owned(), cost_cents: 40_000, revenue_cents: 4900 };
        let advice = advise(&[], &[loss]);
        assert_eq!(advice[0].says, "it cost $400.00 and brought $49.00 this month");
    }

    #[test]
    fn the_guides_shared_server_breaks_even_at_seven_hobby_tenants() {
        // 83.81 EUR at 1.10; the guide prints 6, for $89.
        assert_eq!(break_even(9219, 0, 0, Some(1500)), Some(7));
        assert_eq!(break_even(8900, 0, 0, Some(1500)), Some(6));
        assert_eq!(break_even(40_000, 4900 * 3, 3, None), Some(9), "at what its tenants bring on average");
        assert_eq!(break_even(40_000, 0, 0, None), None, "without a price nobody knows");
        assert_eq!(break_even(0, 0, 0, Some(1500)), Some(0));
    }
}
