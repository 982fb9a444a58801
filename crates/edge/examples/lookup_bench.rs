//! `scripts/bench lookup [ROUTES]`: how long an edge takes to find whose host it is. An example of the crate, so that it
//! builds without the rest of Berth. One thread.

use berth_edge::measure::lookups;

const ROUTES: usize = 1_000_000;
/// Of design: for a look-up among a million routes.
const GOAL_NS: u32 = 200;

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let routes = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(ROUTES);
    let found = lookups(routes);
    if !json {
        say(&format!("{routes} routes, the mean of one look-up (goal {GOAL_NS} ns):"));
        say(&format!("a host that the core remembers: {:.0} ns", found.remembered_ns));
        say(&format!("a host among all routes: {:.0} ns", found.found_ns));
        say(&format!("a host below a pattern: {:.0} ns", found.pattern_ns));
        say(&format!("a host that nobody has: {:.0} ns", found.unknown_ns));
    }
    let figures = serde_json::json!({
        "routes": routes, "remembered_ns": round(found.remembered_ns), "found_ns": round(found.found_ns),
        "pattern_ns": round(found.pattern_ns), "unknown_ns": round(found.unknown_ns), "wrong": found.wrong,
    });
    say(&serde_json::json!({ "bench": "lookup", "figures": figures }).to_string());
}

#[expect(clippy::print_stdout, reason = "the figures are this program's output")]
fn say(line: &str) {
    println!("{line}");
}

fn round(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}
