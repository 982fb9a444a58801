//! The list itself, in the order of docs/go-live.md.

use serde::Serialize;

/// One entry of the list.
pub struct Task {
    /// On the command line: never renamed.
    pub id: &'static str,
    pub when: When,
    pub what: &'static str,
    pub remedy: &'static str,
}

/// In which of the guides' two lists it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    Before,
    After,
}

const fn task(id: &'static str, when: When, what: &'static str, remedy: &'static str) -> Task {
    Task { id, when, what, remedy }
}

use When::{After, Before};

/// Those of docs/go-live.md, in its order.
pub const LIST: &[Task] = &[
    task("files", Before, "the files of the stack have no mistake", "`berth check` shows each with its remedy"),
    task(
        "stack",
        Before,
        "the stack file that lies here is the one in force",
        "`berth apply --dry-run`, then `berth apply`",
    ),
    task(
        "secrets",
        Before,
        "no secret stands in a file or is a guide's example",
        "make new ones, keep them in the server's environment and write `${NAME}`; `berth check` names the keys",
    ),
    task(
        "api",
        Before,
        "the API is spoken to in private",
        "put TLS in front of `berth serve` and `berth login https://…`",
    ),
    task("limits", Before, "every plan has limits, and they are kept", "`plans.NAME.limits` of the stack file"),
    task(
        "retention",
        Before,
        "what a plan promises to keep is kept, and no longer",
        "`data.retention` and `data.purge` of the stack file; `berth check` shows what drops too much",
    ),
    task(
        "backups",
        Before,
        "backups are made, somewhere else",
        "set them up and say so in `backups` of the stack file",
    ),
    task(
        "restore",
        Before,
        "a backup was restored and looked at",
        "restore the newest into a scratch database, compare row counts, then `--done restore`; `backups.drill_every` says how often",
    ),
    task(
        "alerts",
        Before,
        "somebody is woken: processor, memory, disk, and nobody served",
        "`alerts` of the stack file with `by`, `cpu_percent`, `memory_percent`, `disk_percent` and `down_s`",
    ),
    task(
        "alert-arrives",
        Before,
        "an alert reaches whoever is on call",
        "let one be sent and see it arrive, then `--done alert-arrives`",
    ),
    task(
        "monitoring",
        Before,
        "the control plane and every edge are scraped",
        "scrape the address of `berth serve --metrics` and of each `berth edge --admin`, then `--done monitoring`",
    ),
    task(
        "measured",
        Before,
        "every cell was measured under load",
        "`berth cell measure CELL` says how fast its application, database and disk are",
    ),
    task(
        "movable",
        Before,
        "every cell's database lets tenants in and out",
        "`berth cell abilities CELL` has the statements that grant what is missing",
    ),
    task(
        "firewall",
        Before,
        "nothing but 80, 443 and SSH answers from outside",
        "`berth server prepare` sets the firewall up, `berth server check` tries it; take published ports out of compose files",
    ),
    task("audit", Before, "somebody looked for holes", "`berth server check` for each host, then `--done audit`"),
    task("dns", After, "every host that is served has an address", "make its record: it leads to the edges"),
    task(
        "certificates",
        After,
        "every host that is served has a certificate that is good for three weeks and more",
        "`berth cert list` says what stands in the way, `berth cert renew HOST` tries at once",
    ),
    task("https", After, "plain requests are sent to TLS", "`https: { redirect: true }` in the stack file"),
    task(
        "health",
        After,
        "every cell is ready and every member well",
        "`berth cell show CELL`, `berth logs --cell CELL`",
    ),
    task(
        "edges",
        After,
        "every edge is there and has the newest routes",
        "`berth edge list`; start missing ones with `berth edge`",
    ),
    task(
        "releases",
        After,
        "every cell runs the release that new cells get, with the same schema",
        "`berth release status`, then `berth release roll` or `back`",
    ),
    task("database", After, "no database is bloated or held up", "`berth db top CELL`, `berth db maintain`"),
    task("disk", After, "every server has room", "`berth server list`; make room there, or move tenants away"),
    task(
        "search-index",
        After,
        "the application's search index is filled, where it has one",
        "search for something that you know is there, then `--done search-index`",
    ),
    task("mail", After, "the application's mail arrives", "let it send one, then `--done mail`"),
    task(
        "cost",
        After,
        "the month stays within its budget",
        "`budget` of the stack file; `berth cost` says what costs it",
    ),
    task("attention", After, "nothing waits for a person", "`berth status`"),
];
