//! What would be cheaper, or will soon not do: from what is promised, lived in and paid for. Advice is never acted on
//! by itself.

/// What a machine has, or what is promised of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerShape {
    pub cpu_millis: u64,
    pub memory_mib: u64,
    pub disk_gib: u64,
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
    /// What its machine has, as the stack file says.
    pub server: Option<ServerShape>,
    /// The cheapest machine of its provider that holds what is promised with a quarter to spare, and what a month with
    /// it costs less than with the cheapest that is like the one it has.
    pub smaller: Option<(String, i64)>,
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
        let part = |used: u64, has: u64| (used * 100).checked_div(has).unwrap_or(0);
        let used = [
            (part(cell.promised.cpu_millis, server.cpu_millis), "cpu"),
            (part(cell.promised.memory_mib, server.memory_mib), "memory"),
            (part(cell.promised.disk_gib, server.disk_gib), "disk"),
        ];
        let (most, what) = used.into_iter().max().unwrap_or_default();
        if most > 80 {
            let says =
                format!("{most} % of its machine's {what} is promised to its database and members: a larger one");
            say("server_small", says, None, None);
        } else if let Some((name, saves)) = cell.smaller.clone().filter(|(_, saves)| *saves > 0) {
            let says = format!("at most {most} % of its machine is promised ({what}): {name} would do");
            say("server_large", says, Some(saves), None);
        }
    }
    advice
}

fn dollars(cents: i64) -> String {
    berth_domain::Cents::new(cents).to_string()
}

#[cfg(test)]
mod tests {
    use super::{CellFacts, ServerShape, TenantFacts, advise, break_even};

    fn shared(tenants: u32, month_cents: i64) -> CellFacts {
        CellFacts {
            cell: "fra-1".to_owned(),
            shared: true,
            tenants,
            rooms: 150,
            month_cents: Some(month_cents),
            revenue_cents: i64::from(tenants) * 1500,
            promised: ServerShape { cpu_millis: 2000, memory_mib: 4096, disk_gib: 20 },
            server: Some(ServerShape { cpu_millis: 8000, memory_mib: 16_384, disk_gib: 160 }),
            smaller: Some(("cx22".to_owned(), 1387)),
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
        healthy.smaller = None;
        assert_eq!(codes(healthy.clone()), [""; 0]);
        assert_eq!(codes(shared(0, 8381)), ["cell_empty"]);
        assert_eq!(codes(shared(0, 0)), [""; 0], "a cell that costs nothing may stand empty");
        assert_eq!(codes(shared(2, 8381)), ["server_large", "cell_thin", "cell_at_a_loss"]);
        let cramped = ServerShape { cpu_millis: 2000, memory_mib: 4096, disk_gib: 20 };
        assert_eq!(codes(CellFacts { server: Some(cramped), ..healthy }), ["server_small"]);
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
