//! Verbs of the guides' scripts that Berth calls otherwise: whoever types one is told the command. `docs/verbs.md` is the same
//! for reading.

/// The verb, and what to type instead; commands stand in backticks.
pub const VERBS: &[(&str, &str)] = &[
    (
        "deploy",
        "`berth up` brings a fresh host to a served tenant; after that `berth release create` names what runs, and `berth release roll` brings it to the cells",
    ),
    (
        "update",
        "`berth release create` names what is to run, by digest, and `berth release roll` brings it to the cells",
    ),
    ("rollback", "`berth release back` gives the cells what ran before; `berth tenant undo-move` takes a move back"),
    ("restart", "`berth service restart` starts the members of a service again, one by one"),
    ("graceful-restart", "`berth service restart` starts the members of a service again, one by one"),
    ("costs", "`berth cost` says what the month costs, against its budget"),
    ("check-costs", "`berth cost` says what the month costs, against its budget"),
    ("report", "`berth cost` says what the month costs, `berth usage list` what tenants use"),
    ("metrics", "`berth status` says whether everybody is served, `berth cell show` what its members use"),
    (
        "health-check",
        "`berth status` says whether everybody is served, `berth check --go-live` goes through the whole list",
    ),
    ("validate", "`berth check` says what is wrong with the files, `berth check --go-live` with what runs"),
    ("validate-config", "`berth check` says what is wrong with the files, `berth check --go-live` with what runs"),
    ("scaling", "`berth fleet plan` says where all tenants belong, `berth approval list` what waits for a person"),
    ("scale-up", "`scale` of a service in the stack file says how many copies run; `berth apply` puts it in force"),
    ("scale-down", "`scale` of a service in the stack file says how many copies run; `berth apply` puts it in force"),
    ("migrate", "`berth tenant move` moves a tenant; a service's `migrate` is run by `berth release roll`"),
    ("maintenance", "`berth db maintain` vacuums and analyses what needs it"),
    (
        "backup",
        "Berth makes no backups yet: `berth check --go-live` asks for what makes them, `berth tenant export` keeps one tenant",
    ),
    (
        "restore",
        "`berth tenant restore` brings rows back from a tenant's archive, `berth tenant import` a whole tenant",
    ),
];

/// What to type instead of a verb that is no command.
pub fn instead_of(verb: &str) -> Option<&'static str> {
    VERBS.iter().find(|(known, _)| *known == verb).map(|(_, instead)| *instead)
}
