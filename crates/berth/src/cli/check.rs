//! `berth check`: reads the files of a stack and shows what the rules find. Changes nothing, and asks a server only
//! with `--live`.

mod go_live;
mod live;
mod tokens;

use super::{CliError, Context};
use berth_check::{
    Kind, Options, RULES, Report, Severity, Source,
    live::{LIVE, Login, TOKENS, TokenOf},
};
use clap::Args;
use secrecy::SecretString;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Longer than any file that people write by hand.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  berth check\n  berth check deploy/berth.yaml nginx/shop.conf docs/recovery.md --json\n  berth check --go-live --done mail,audit"
)]
pub struct Check {
    /// The files; without any the stack file here and what lies beside it
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// These rules alone
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    only: Vec<String>,
    /// Show the page of a rule, or the list of all
    #[arg(long, value_name = "RULE", num_args = 0..=1, default_missing_value = "")]
    explain: Option<String>,
    /// Ask the servers that the files name, too: DATABASE_URL, REDIS_URL and providers' tokens of `.env` files, else of the environment, and hosts
    #[arg(long)]
    live: bool,
    /// With --live: one more host name whose address and certificate are looked at
    #[arg(long, value_name = "NAME[:PORT]", requires = "live")]
    host: Vec<String>,
    /// With --live: DATABASE_URL is the mover's login, not the application's
    #[arg(long, requires = "live")]
    mover: bool,
    /// The guides' list from before and after a migration, held against what runs; 1 if an entry fails
    #[arg(long, conflicts_with_all = ["live", "only", "explain"])]
    go_live: bool,
    /// With --go-live: what cannot be told from here, and somebody looked at
    #[arg(long, value_name = "ENTRY", value_delimiter = ',', requires = "go_live")]
    done: Vec<String>,
    /// Never an argument: every user of the machine could read it
    #[arg(skip)]
    pub variables: Variables,
}

/// The servers that the environment names, resolved by `main`.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    pub database: Option<SecretString>,
    pub redis: Option<SecretString>,
    pub tokens: Vec<(&'static TokenOf, SecretString)>,
    /// Other addresses of providers, by the variable that their own tools read.
    pub bases: Vec<(&'static str, String)>,
    /// Organisations at them, by the variables that name them.
    pub organisations: Vec<(&'static str, String)>,
}

impl Variables {
    /// What `--live` may use of the environment, asked for by name.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let secret = |name: &str| variable(name).map(SecretString::from);
        let organisations = TOKENS.iter().filter_map(|of| {
            let (name, _) = of.organisation?;
            Some((name, variable(name)?))
        });
        Self {
            organisations: organisations.collect(),
            database: secret("DATABASE_URL"),
            redis: secret("REDIS_URL"),
            tokens: TOKENS.iter().filter_map(|of| Some((of, secret(of.variable)?))).collect(),
            bases: TOKENS.iter().filter_map(|of| Some((of.base_variable, variable(of.base_variable)?))).collect(),
        }
    }
}

impl Check {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        if let Some(id) = &self.explain {
            return explain(cx, id);
        }
        for id in self.only.iter().filter(|id| !is_live(id)) {
            known(id)?;
        }
        let files = if self.files.is_empty() { beside(Path::new("."))? } else { self.files };
        if files.is_empty() && !self.live && !self.go_live {
            let hint = "name files, or go to the folder of `berth.yaml`";
            return Err(CliError::request("there is nothing here that could be checked", hint));
        }
        let sources = files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
        let options = Options { now: cx.now, only: self.only };
        let mut report = berth_check::check_with(&sources, &options, &berth_control::check::placement);
        if self.go_live {
            return go_live::run(cx, report, &self.done).await;
        }
        if self.live {
            let named = berth_check::named(&sources);
            let organisations: Vec<_> = named.organisations.into_iter().chain(self.variables.organisations).collect();
            let targets = live::Targets {
                database: named.database.map(SecretString::from).or(self.variables.database),
                login: if self.mover { Login::Mover } else { Login::Application },
                wanted: named.connections,
                redis: named.redis.map(SecretString::from).or(self.variables.redis),
                hosts: hosts(self.host, named.hosts),
                tokens: held(named.tokens, self.variables.tokens, &self.variables.bases, &organisations),
            };
            let none = targets.database.is_none() && targets.redis.is_none();
            if none && targets.hosts.is_empty() && targets.tokens.is_empty() {
                let hint = "set DATABASE_URL, REDIS_URL or a provider's token, or name a host with `--host`";
                return Err(CliError::request("no server is named that could be asked", hint));
            }
            let answers = live::ask(targets, cx.now).await;
            for why in &answers.left_out {
                cx.say(&format!("note: left out: {why}"));
            }
            report.add_live(answers.asked, answers.findings, &options);
        }
        cx.show(&report, screen)?;
        match report.count(Severity::Error) {
            0 => Ok(()),
            errors => Err(CliError::Found { errors }),
        }
    }
}

/// Those that a person names, and after them the files' others.
fn hosts(asked: Vec<String>, files: Vec<String>) -> Vec<String> {
    let plain = |target: &str| target.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let known: Vec<String> = asked.iter().map(|target| plain(target)).collect();
    asked.into_iter().chain(files.into_iter().filter(|name| !known.contains(&plain(name)))).collect()
}

/// A token of the files goes before one of the environment.
fn held(
    files: Vec<(&'static TokenOf, String)>,
    environment: Vec<(&'static TokenOf, SecretString)>,
    bases: &[(&'static str, String)],
    organisations: &[(&'static str, String)],
) -> Vec<tokens::Held> {
    let mut found: Vec<_> = files.into_iter().map(|(of, token)| (of, SecretString::from(token))).collect();
    for (of, token) in environment {
        if !found.iter().any(|(known, _)| *known == of) {
            found.push((of, token));
        }
    }
    let base = |of: &TokenOf| bases.iter().find(|(name, _)| *name == of.base_variable).map(|(_, base)| base.clone());
    // Those of files come first.
    let organisation = |of: &TokenOf| {
        let (variable, _) = of.organisation?;
        organisations.iter().find(|(name, _)| *name == variable).map(|(_, said)| said.clone())
    };
    let held = |(of, token)| tokens::Held { base: base(of), organisation: organisation(of), of, token };
    found.into_iter().map(held).collect()
}

/// `--only` takes live rules as well.
fn is_live(id: &str) -> bool {
    LIVE.iter().any(|rule| rule.id == id)
}

fn known(id: &str) -> Result<&'static berth_check::Rule, CliError> {
    berth_check::rule(id)
        .ok_or_else(|| CliError::request(format!("no rule is called `{id}`"), "`berth check --explain` lists them"))
}

fn explain(cx: &Context, id: &str) -> Result<(), CliError> {
    if id.is_empty() {
        let mut list: Vec<_> = RULES.iter().map(|rule| (rule.id, rule.severity, rule.page.summary())).collect();
        list.extend(LIVE.iter().map(|rule| (rule.id, rule.severity, format!("With --live: {}.", rule.what))));
        return cx.show(&list, |list| {
            list.iter().map(|(id, severity, summary)| format!("{id} ({severity})\n  {summary}\n")).collect()
        });
    }
    if let Some(rule) = LIVE.iter().find(|rule| rule.id == id) {
        let page = serde_json::json!({ "rule": id, "severity": rule.severity, "page": rule.what });
        return cx.show(&page, |_| format!("{id} ({}): {}\nWhat to do: {}\n", rule.severity, rule.what, rule.remedy));
    }
    let rule = known(id)?;
    let page = serde_json::json!({ "rule": rule.id, "severity": rule.severity, "page": rule.page.text() });
    cx.show(&page, |_| rule.page.text().to_owned())
}

fn read(path: &Path) -> Result<Source, CliError> {
    let failed = |source: io::Error| CliError::File { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > FILE_BYTES_MAX {
        return Ok(Source::too_large(shown(path), length));
    }
    Ok(Source::new(shown(path), fs::read(path).map_err(failed)?))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}

/// What is looked at when nothing is named.
fn beside(folder: &Path) -> Result<Vec<PathBuf>, CliError> {
    let mut found = Vec::new();
    for place in ["", "nginx", "config", "ssl", "certs"] {
        let Ok(entries) = fs::read_dir(folder.join(place)) else { continue };
        for entry in entries {
            let entry = entry.map_err(|source| CliError::File { path: folder.to_owned(), source })?;
            let path = if place.is_empty() { PathBuf::from(entry.file_name()) } else { entry.path() };
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_file() && belongs(place, &name) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn belongs(place: &str, name: &str) -> bool {
    // By its name alone; a text that decides otherwise is not read for that.
    match Kind::of(name, "") {
        Some(Kind::Stack) => name.starts_with("berth."),
        Some(Kind::Compose | Kind::Fly | Kind::Certificate) => true,
        Some(Kind::Environment) => !name.contains("example") && !name.contains("template"),
        Some(Kind::Nginx) => place == "nginx" || name.contains("nginx"),
        Some(Kind::Elixir) => place == "config",
        Some(Kind::Runbook) | None => false,
    }
}

fn screen(report: &Report) -> String {
    let mut text: String = report.findings.iter().map(|finding| format!("{finding}\n")).collect();
    if !report.findings.is_empty() {
        text.push('\n');
    }
    for silenced in &report.silenced {
        let finding = &silenced.finding;
        let line = finding.line.map_or_else(String::new, |line| format!(":{line}"));
        text.push_str(&format!("{}{line}: [{}] stands: {}\n", finding.file, finding.rule, silenced.reason));
    }
    for stated in &report.stated {
        text.push_str(&format!("stated: {stated}\n"));
    }
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    text.push_str(&format!(
        "{} looked at: {}, {}",
        plural(report.files.len(), "file"),
        plural(report.count(Severity::Error), "error"),
        plural(report.count(Severity::Warning), "warning"),
    ));
    if !report.silenced.is_empty() {
        text.push_str(&format!(", {} silenced", report.silenced.len()));
    }
    text.push_str(".\n");
    if let Some(first) = report.findings.first() {
        text.push_str(&format!("`berth check --explain {}` says more about the first.\n", first.rule));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{belongs, screen};
    use berth_check::{Options, Source, check};

    #[test]
    fn what_lies_beside_a_stack_file_is_found_by_name() {
        let taken = |place: &str, name: &str| belongs(place, name);
        for (place, name) in [
            ("", "berth.yaml"),
            ("", "berth.staging.yaml"),
            ("", ".env"),
            ("", ".env.production"),
            ("", "docker-compose.yml"),
            ("", "compose.yaml"),
            ("", "nginx.conf"),
            ("nginx", "shop.conf"),
            ("", "fly.toml"),
            ("config", "prod.exs"),
            ("ssl", "cert.pem"),
        ] {
            assert!(taken(place, name), "{place}/{name}");
        }
        for (place, name) in
            [("", "README.md"), ("", "Cargo.toml"), ("", ".env.example"), ("", "main.rs"), ("", "mix.exs")]
        {
            assert!(!taken(place, name), "{place}/{name}");
        }
    }

    #[test]
    fn a_report_reads_like_one() {
        let text = "services:\n  db:\n    image: postgres:15.8\n    ports: [\"5432:5432\"]\n";
        let source = Source::new("compose.yaml", text);
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let report = check(&[source], &Options { now, only: Vec::new() });
        assert_eq!(
            screen(&report),
            "\
compose.yaml:4: error [published-database] `services.db.ports`: `postgres` on port 5432 is open to every address that reaches this host; Docker opens it before the host's own firewall
  remedy: take `ports` out: services of one file reach each other by name; for a look from outside publish `127.0.0.1:PORT:PORT` and come through SSH

1 file looked at: 1 error, 0 warnings.
`berth check --explain published-database` says more about the first.
"
        );
    }
}
