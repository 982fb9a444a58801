//! `berth check`: rules over the texts of a stack, its variables, proxy, compose file and their like.
//!
//! Pure: texts and the present moment in, findings out. Never reads a file, never opens a connection, never changes
//! anything, and never repeats a value that may be a secret. Each rule is explained by one page of `docs/check`, whose
//! examples are its tests.

mod environments;
mod finding;
pub mod golive;
pub mod live;
mod node;
mod page;
mod read;
mod rules;
mod silence;
mod stated;
mod world;

pub use finding::{Finding, Looked, Report, Severity, Silenced};
pub use page::{Example, Page};
pub use read::{Kind, Source, Unread};
pub use rules::{RULES, Rule};

use berth_config::Stack;
use jiff::Timestamp;
use nginx_lint_parser::ast::Directive;
use std::collections::BTreeSet;
use world::{Out, Variable, World};

/// What to look for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Against which the end of certificates and tokens is held.
    pub now: Timestamp,
    /// These rules alone; all when empty.
    pub only: Vec<String>,
}

/// What somebody else knows to be wrong with a stack file that is one: keys, and what is wrong with them.
pub type Judge<'a> = &'a dyn Fn(&Stack, Timestamp) -> Vec<(String, String)>;

const REPAIR: &str = "repair it there, or leave it out of the check";

/// Looks at all files together.
pub fn check(sources: &[Source], options: &Options) -> Report {
    check_with(sources, options, &|_, _| Vec::new())
}

/// The same, with what a judge has to say of the stack file, alone and with each environment over it.
pub fn check_with(sources: &[Source], options: &Options, judge: Judge<'_>) -> Report {
    let mut files = Vec::new();
    let mut out = Out::default();
    let mut report = Report::default();
    for source in sources {
        let text = match &source.text {
            Ok(text) => text,
            Err(unread) => {
                out.unreadable(&source.path, unread.line, &unread.why, &unread.remedy);
                continue;
            }
        };
        let Some(kind) = Kind::of(&source.path, text) else {
            out.unreadable(&source.path, None, "nothing is known about a file of this name", REPAIR);
            continue;
        };
        report.files.push(Looked { path: source.path.clone(), kind: kind.as_str() });
        match read::read(&source.path, text, kind) {
            Ok(file) => files.push(file),
            Err(why) => out.unreadable(&source.path, why.line, &why.message, REPAIR),
        }
    }
    let world = World { files: &files, now: options.now, judge };
    run(&world, &mut out, |_| true);
    environments::look(&world, &mut out);
    // A mistake that a rule explains is not said twice.
    let mut found = out.findings;
    let explained: Vec<(String, Option<u64>)> =
        found.iter().filter(|f| f.rule != "stack-file").map(|f| (f.file.clone(), f.line)).collect();
    found.retain(|f| f.rule != "stack-file" || f.line.is_none() || !explained.contains(&(f.file.clone(), f.line)));
    silence::apply(&world, found, &options.only, &mut report);
    let wanted = |rule: &str| options.only.is_empty() || options.only.iter().any(|only| only == rule);
    report.findings.retain(|finding| wanted(finding.rule));
    report.silenced.retain(|silenced| wanted(silenced.finding.rule));
    report.findings.sort_by(|a, b| (&a.file, a.line, a.rule, &a.key).cmp(&(&b.file, b.line, b.rule, &b.key)));
    report.findings.dedup();
    if options.only.is_empty() {
        report.stated = stated::of(&world);
    }
    report
}

fn run(world: &World<'_>, out: &mut Out, wanted: impl Fn(&Rule) -> bool) {
    for rule in RULES.iter().filter(|rule| wanted(rule)) {
        out.begin(rule);
        (rule.run)(world, out);
    }
}

/// What a live check needs of the files.
#[derive(Clone, Debug, Default)]
pub struct Named {
    pub database: Option<String>,
    pub redis: Option<String>,
    /// Those of [`live::TOKENS`] that are set.
    pub tokens: Vec<(&'static live::TokenOf, String)>,
    /// Organisations at providers, by the variables that name them.
    pub organisations: Vec<(&'static str, String)>,
    /// Connections that all processes whose pool a file names may open together.
    pub connections: Option<i64>,
    /// Of nginx's `server_name` with TLS and `PHX_HOST`, in their order, each once. Not of `hosts.own`: names below
    /// those are served, and often not the names themselves.
    pub hosts: Vec<String>,
}

/// The servers that the `.env` files name. URLs hold passwords: not to be printed.
pub fn named(sources: &[Source]) -> Named {
    let read = |source: &Source| {
        let text = source.text.as_ref().ok()?;
        read::read(&source.path, text, Kind::of(&source.path, text)?).ok()
    };
    let files: Vec<_> = sources.iter().filter_map(read).collect();
    let world = World { files: &files, now: Timestamp::UNIX_EPOCH, judge: &|_, _| Vec::new() };
    let variables = world.variables();
    let value = |name: &str| {
        let own = variables.iter().filter(move |v| v.file.kind == Kind::Environment && v.name == name);
        own.map(|v| v.value.clone()).filter(|value| !value.is_empty() && !value.contains("${")).collect::<Vec<_>>()
    };
    let url = |name: &str| value(name).into_iter().find(|value| value.contains("://"));
    let tokens = live::TOKENS.iter().filter_map(|of| Some((of, value(of.variable).into_iter().next()?)));
    let organisations = live::TOKENS.iter().filter_map(|of| {
        let (name, _) = of.organisation?;
        Some((name, value(name).into_iter().next()?))
    });
    let organisations = organisations.collect();
    let connections = rules::wanted(&world).map(|wanted| wanted as i64);
    Named {
        database: url("DATABASE_URL"),
        redis: url("REDIS_URL"),
        tokens: tokens.collect(),
        organisations,
        connections,
        hosts: hosts(&world, &variables),
    }
}

fn hosts(world: &World<'_>, variables: &[Variable<'_>]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for config in world.of(Kind::Nginx).filter_map(|file| file.nginx.as_ref()) {
        let blocks = config.all_directives().filter(|d| d.is("server")).filter_map(|d| d.block.as_ref());
        for block in blocks.filter(|block| block.directives().any(listens_with_tls)) {
            for directive in block.directives().filter(|d| d.is("server_name")) {
                found.extend(directive.args.iter().filter(|arg| !arg.is_variable()).map(|arg| arg.as_str().to_owned()));
            }
        }
    }
    found.extend(variables.iter().filter(|v| v.name == "PHX_HOST").map(|v| v.value.clone()));
    let mut seen = BTreeSet::new();
    found.retain(|name| is_public_name(name) && seen.insert(name.to_ascii_lowercase()));
    found
}

/// `listen 443 ssl`, whatever the address before it: there a certificate is asked for.
fn listens_with_tls(directive: &Directive) -> bool {
    let https = |listen: &str| listen == "443" || listen.ends_with(":443");
    directive.is("listen")
        && directive.first_arg().is_some_and(https)
        && directive.args.iter().any(|arg| arg.as_str() == "ssl")
}

/// Endings under which no public name is.
const RESERVED: &[&str] = &["localhost", "test", "local", "internal", "example", "invalid"];

/// Not `_`, `*.example.com`, `~^www`, `${HOST}`, `localhost`, `shop.test` or an address.
fn is_public_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !label.starts_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let reserved = RESERVED.iter().any(|ending| last.eq_ignore_ascii_case(ending));
    name.contains('.') && name.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit()) && !reserved
}

/// The rule of that name.
pub fn rule(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id)
}

#[cfg(test)]
mod tests {
    use super::{Source, named};

    #[test]
    fn hosts_are_taken_where_files_name_them() {
        let stack = "stack: s\nservices: { web: { command: [a], health: /h, env: { PHX_HOST: app.example.com } } }\nhosts: { own: [fleet.example.com] }\n";
        let nginx = "events {}\nhttp {\n  server { listen [::]:443 ssl; server_name shop.example.com www.example.com *.example.net _ 10.0.0.1; }\n  server { listen 80; server_name plain.example.com; }\n  server { listen 443 ssl; server_name localhost shop.local shop.TEST $host; }\n}\n";
        let sources = [
            Source::new("berth.yaml", stack),
            Source::new("nginx.conf", nginx),
            Source::new(".env", "PHX_HOST=live.example.com\n"),
            Source::new("fly.toml", "app = \"shop\"\n[env]\nPHX_HOST = \"${HOST}\"\n"),
        ];
        assert_eq!(
            named(&sources).hosts,
            ["shop.example.com", "www.example.com", "app.example.com", "live.example.com"]
        );
    }
}
