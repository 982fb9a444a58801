//! The stack file as `berth init` writes it: what was found as keys, what nobody can know as questions. Pure.

use super::application::Application;
use berth_domain::StackName;
use berth_mover::{Discovery, Look, Obstacle, RootGuess, Side};
use std::fmt::Write as _;

/// What was looked at.
pub struct Found<'a> {
    pub look: &'a Look,
    pub root: &'a RootGuess,
    pub discovery: &'a Discovery,
    pub application: Option<&'a Application>,
}

pub struct Draft {
    pub text: String,
    /// In the order in which they stand in the text.
    pub questions: Vec<String>,
}

/// Widest line of a comment.
const WIDTH: usize = 110;
/// A longer list of tables is not read by anybody.
const TABLES_SHOWN: usize = 12;

pub fn draft(found: &Found<'_>) -> Draft {
    let mut page = Page::default();
    page.head(found);
    page.services(found);
    page.data(found);
    page.plans();
    page.places();
    Draft { text: page.text, questions: page.questions }
}

#[derive(Default)]
struct Page {
    text: String,
    questions: Vec<String>,
}

impl Page {
    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    /// Words as comments of this depth, broken where they get wide.
    fn say(&mut self, depth: usize, words: impl AsRef<str>) {
        let margin = format!("{}# ", " ".repeat(depth));
        let mut line = String::new();
        // Names of tables may hold any character: none may end the comment.
        let words = words.as_ref().replace(|c: char| c.is_control(), " ");
        for word in words.split(' ') {
            if !line.is_empty() && margin.len() + line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(format!("{margin}{line}"));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.line(format!("{margin}{line}"));
    }

    fn ask(&mut self, depth: usize, question: impl Into<String>) {
        let question = question.into();
        self.say(depth, format!("QUESTION: {question}"));
        self.questions.push(question);
    }

    fn head(&mut self, found: &Found<'_>) {
        let server = &found.look.server;
        let app = found.application.map_or_else(String::new, |app| format!(" and the application at {}", app.origin));
        self.say(
            0,
            format!("Written by `berth init` from the database `{}`{app}. Nothing was changed there.", server.database),
        );
        self.say(0, "What could not be known stands as QUESTION. `berth check` looks at the answers, `berth apply` puts them in force.");
        self.line(format!("stack: {}", stack_name(&server.database)));
        self.line("");
    }

    fn services(&mut self, found: &Found<'_>) {
        self.line("services:");
        self.line("  web:");
        self.ask(4, "which program starts the application, as a list of words? It is told DATABASE_URL and PORT");
        self.line("    command: [./start-web]");
        self.ask(4, "which program brings an empty database to its schema, and does no harm when run again? Without it no new cell can be made");
        self.line("    # migrate: [./migrate]");
        self.line("    role: web");
        match found.application {
            Some(Application { health: Some(path), answers_all: false, .. }) => {
                self.say(4, "It answered with 2xx when asked.");
                self.ask(4, format!("does `{path}` fail when the application cannot reach its database? Only then does it prove anything"));
                self.line(format!("    health: {}", scalar(path)));
            }
            other => {
                let why = match other {
                    Some(Application { answers_all: true, .. }) => {
                        "the application answers 2xx to every path, so none proves anything: "
                    }
                    Some(_) => "none of the usual paths answered with 2xx: ",
                    None => "",
                };
                self.ask(4, format!("{why}which path answers 2xx only while the application reaches its database?"));
                self.line("    health: /health");
            }
        }
        self.line("    copies: 1");
        self.ask(4, "does anything write on GET? Then `all`: every request is parked in the pause of a move, not only those that may write");
        self.line("    hold: unsafe");
        self.ask(2, "does a worker run beside the web processes? It takes `BF001` of the database as: this tenant is not mine any more");
        self.line("  # worker: { command: [./start-worker], role: worker }");
        self.line("");
    }

    fn data(&mut self, found: &Found<'_>) {
        let (root, discovery) = (found.root, found.discovery);
        self.line("data:");
        self.say(
            2,
            format!(
                "`{}` has one row per tenant, by its key `{}` ({}): {} tables name it as `{}`, and {} belong to a tenant in all.",
                root.table, root.key, root.key_type, root.with_column, root.tenant_column, discovery.tables.len()
            ),
        );
        let others = found.look.roots.iter().filter(|other| other.table != root.table);
        let others: Vec<String> = others
            .map(|other| format!("`{}` by `{}`, {} tables", other.table, other.tenant_column, other.covers))
            .collect();
        if !others.is_empty() {
            self.ask(2, format!("is that right? It could also be {}", others.join("; ")));
        }
        self.line(format!("  root: {}", scalar(&format!("{}.{}", root.table.schema, root.table.name))));
        self.line(format!("  key: {}", scalar(&root.key)));
        self.line(format!("  tenant_column: {}", scalar(&root.tenant_column)));
        if !root.other_columns.is_empty() {
            self.say(2, "These say it under another name, as their foreign keys tell.");
            self.line("  tenant_columns:");
            for (table, column) in &root.other_columns {
                self.line(format!("    {}: {}", scalar(table), scalar(column)));
            }
        }
        self.tables(found);
        for obstacle in &discovery.obstacles {
            self.ask(2, format!("{obstacle}. What is to be done? {}", obstacle.hint()));
        }
        for unsure in &discovery.unsure {
            self.ask(
                2,
                format!(
                    "`{}` {}; a move leaves it where it is. If that is wrong: `{}`",
                    unsure.table, unsure.says, unsure.line
                ),
            );
        }
        for host in &root.hosts {
            let (table, column) = (&root.table, &host.column);
            match host.shared_by_rows {
                Some(0) => {}
                Some(rows) => {
                    let names = host.shared_names.join("`, `");
                    let question = "a host belongs to one tenant. Which keeps it?";
                    self.ask(
                        2,
                        format!(
                            "{rows} rows of `{table}` share their `{column}` with another row (`{names}`); {question}"
                        ),
                    );
                }
                None => {
                    let role = &found.look.server.role;
                    let quoted = format!("\"{}\"", role.replace('"', "\"\""));
                    let grant = format!("GRANT SELECT ON {} TO {quoted}", table.sql());
                    self.ask(2, format!("do two rows of `{table}` have one `{column}`? `{role}` may not read them: `{grant}`, then run this again"));
                }
            }
        }
        if let Some(host) = root.hosts.first() {
            self.ask(
                2,
                format!(
                    "are tenants served under what stands in `{}.{}`? `berth tenant hosts` takes the names",
                    root.table, host.column
                ),
            );
        }
        self.ask(2, "does the application make its tenants itself? Then it calls `POST /v1/tenants`; otherwise `create` makes the row and returns its key");
        self.line("  # hooks: { create: { sql: \"insert into … values (:slug) returning id\" } }");
        self.server(found);
        self.line("");
    }

    fn tables(&mut self, found: &Found<'_>) {
        let belongs = |name: &berth_mover::TableName| found.discovery.tables.iter().any(|t| t.table == *name);
        let mut shown = String::new();
        for seen in found.look.tables.iter().filter(|seen| belongs(&seen.table)).take(TABLES_SHOWN) {
            let rows =
                if seen.rows_estimated > 0 { format!("about {} rows, ", seen.rows_estimated) } else { String::new() };
            let _ = write!(shown, "{} ({rows}{}); ", seen.table, size(seen.bytes));
        }
        self.say(2, format!("The tenants' largest tables: {}.", shown.trim_end_matches("; ")));
        let stay: Vec<String> = found
            .look
            .tables
            .iter()
            .filter(|seen| !belongs(&seen.table))
            .map(|seen| format!("`{}`", seen.table))
            .collect();
        if !stay.is_empty() {
            self.say(2, format!("Nothing of a tenant is in: {}.", stay.join(", ")));
        }
    }

    /// What a move needs of the server, with the statements that give it.
    fn server(&mut self, found: &Found<'_>) {
        let server = &found.look.server;
        self.line("");
        self.say(
            2,
            format!(
                "The server: {}, {} in `{}`, {} of {} connections, {} of {} replication slots, {} of {} WAL senders in use.",
                server.version, size(server.database_bytes), server.database,
                server.connections_used, server.connections_most, server.slots_used, server.slots_most,
                server.senders_used, server.senders_most
            ),
        );
        let mut lacks = Vec::new();
        if server.wal_level != "logical" {
            lacks.push(Obstacle::WalLevel { side: Side::Source, found: server.wal_level.clone() });
        }
        if server.standby {
            lacks.push(Obstacle::Standby { side: Side::Source });
        }
        for (what, used, most) in [
            ("replication slots", server.slots_used, server.slots_most),
            ("WAL senders", server.senders_used, server.senders_most),
        ] {
            if used >= most {
                lacks.push(Obstacle::NoFree { side: Side::Source, what: what.to_owned(), used, most });
            }
        }
        lacks.extend(server.lacks.iter().cloned());
        if lacks.is_empty() && server.superuser {
            self.say(2, format!("A tenant can be moved out of it with the login `{}`.", server.role));
        } else if lacks.is_empty() {
            self.say(
                2,
                format!(
                    "The login `{}` has what a move out of it needs of the server. It has to be a member of the tables' owner too, and not the application's own: `berth mover rights` looks at both.",
                    server.role
                ),
            );
        }
        for lack in lacks {
            self.ask(2, format!("before a tenant can be moved out of it: {lack}. Who runs this? {}", lack.hint()));
        }
    }

    fn plans(&mut self) {
        self.line("plans:");
        self.ask(2, "what do tenants pay a month in dollars, and what may they do for it?");
        self.line("  standard: { price: 0, class: shared }");
        self.line("");
        self.ask(0, "how many requests a minute may one tenant make, by class? `api` are all that name no other class in their path; as many as it likes until it is said");
        self.line("# limits:");
        self.line("#   requests_per_minute: { api: 100, upload: 10, gps: 1000 }");
        self.line("");
    }

    fn places(&mut self) {
        self.say(
            0,
            "`existing` is what runs already: `berth cell add existing-1 --endpoint URL --database-file FILE` takes it in. \
             `local` makes cells on the server that runs `berth serve`, each a Postgres of its own and the services above.",
        );
        self.line("providers:");
        self.line("  existing: { adapter: endpoint }");
        self.line("  local: { adapter: local }");
        self.line("");
        self.line("edges: [edge-1]");
    }
}

/// A scalar that reads back as this text, quoted where YAML would see something else in it.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c))
        && !["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&text.to_ascii_lowercase().as_str());
    // What JSON escapes, YAML's double quotes escape in the same way.
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

fn size(bytes: i64) -> String {
    match bytes {
        ..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// The database's name as far as it is one for a stack.
fn stack_name(database: &str) -> String {
    let clean: String = database
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    let clean: String = clean.trim_matches('-').chars().take(40).collect();
    let clean = clean.trim_matches('-');
    // Quoted, since `1234` would be a number and `no` a refusal.
    StackName::new(clean).map_or_else(|_| "app".to_owned(), |name| format!("\"{name}\""))
}

#[cfg(test)]
mod tests {
    use super::{scalar, stack_name};

    #[test]
    fn names_of_databases_become_names_of_stacks() {
        for (database, name) in
            [("shop", "\"shop\""), ("Shop_Prod", "\"shop-prod\""), ("__", "app"), ("1234", "\"1234\"")]
        {
            assert_eq!(stack_name(database), name);
        }
        assert!(stack_name(&"a-".repeat(40)).len() <= 42);
    }

    #[test]
    fn a_name_that_means_something_in_yaml_is_quoted() {
        for (text, written) in [
            ("public.firms", "public.firms"),
            ("no", "\"no\""),
            ("7up", "\"7up\""),
            ("a: b", "\"a: b\""),
            ("é", "\"é\""),
        ] {
            assert_eq!(scalar(text), written);
        }
    }
}
