//! The one program: the server, the proxy, the demo and the command line. Wiring only; no rule lives here.
//!
//! Each role gets the runtime that fits it: a command one thread, a server few.

mod archives;
mod cli;
mod demo;
mod edge;
mod fail;
mod init;
mod janitor;
mod mover;
mod serve;
#[cfg(feature = "ssh")]
mod server;
#[cfg(feature = "ssh")]
mod ways;

use clap::{
    CommandFactory, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};
use cli::{ApiCommand, CliError, Common, Context};
use jiff::Timestamp;
use secrecy::SecretString;
use std::{io::Write, process::ExitCode};

/// The edge's requests make many small, short-lived pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "berth", version, about = "Runs one SaaS for many tenants", disable_help_subcommand = true)]
struct Program {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Api(ApiCommand),
    /// Keep a server's address and the key to it, which is asked for
    Login(cli::Login),
    /// Servers that were logged in to
    #[command(subcommand)]
    Context(cli::Contexts),
    /// The stack file of an application that runs already, from a look at its database
    Init(init::Init),
    /// The control plane: API, dashboard, reconcilers, workers
    Serve(serve::Serve),
    /// The proxy in front of the cells
    Edge(edge::EdgeOptions),
    /// The main job on this machine, with nothing set up
    Demo(demo::Demo),
    /// One tenant between two Postgres databases, with no control plane
    #[command(subcommand)]
    Mover(mover::Mover),
    /// One fresh host to a served tenant: serve, edge, Postgres, the first cell
    #[cfg(feature = "ssh")]
    Up(server::Up),
    /// Another version of this program: serve, then edges, while requests are served
    #[cfg(feature = "ssh")]
    Upgrade(server::Upgrade),
    /// Hosts for cells, by their own SSH
    #[cfg(feature = "ssh")]
    #[command(subcommand)]
    Server(server::Server),
    #[command(hide = true)]
    Janitor(janitor::Janitor),
    /// The half of the adapter `ssh` that runs on a host: started over SSH, never by people
    #[cfg(feature = "ssh")]
    #[command(hide = true)]
    Agent,
    /// What this program is, for `berth upgrade`: with `--json` its migrations and workflows too
    #[command(hide = true)]
    Version,
    /// Completions for a shell, on stdout
    Completions { shell: clap_complete::Shell },
}

fn main() -> ExitCode {
    #[cfg(debug_assertions)]
    claim();
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => return usage(&error),
    };
    let Some(command) = program.command else {
        return print(cli::OVERVIEW);
    };
    match command {
        Command::Api(mut command) => {
            if let ApiCommand::Check(check) = &mut command {
                check.variables = check_variables();
            }
            if let ApiCommand::Cell(cli::Cell::Add(add)) = &mut command {
                add.database = cell_database();
            }
            api(command, program.common)
        }
        Command::Login(login) => login_to(login, program.common.json),
        Command::Context(contexts) => match contexts.run(config_folder(), program.common.json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Command::Init(options) => init::run(&options, program.common.json, &mover_variables()),
        Command::Serve(options) => role(|| serve::run(&options, serve_variables())),
        Command::Edge(mut options) => match options.verb.take() {
            Some(verb) => api(ApiCommand::Edge(verb), program.common),
            None => {
                let said = api_key();
                let kept = said.is_none();
                let asked = cli::Asked { url: program.common.url, key: said, context: program.common.context };
                match cli::resolve(asked, config_folder().as_deref()) {
                    Ok(connection) => role(|| edge::run(options, connection, kept)),
                    Err(error) => fail(&error),
                }
            }
        },
        Command::Demo(options) => demo::run(&options, program.common.json),
        Command::Mover(command) => mover::run(command, program.common.json, &mover_variables()),
        #[cfg(feature = "ssh")]
        Command::Up(options) => options.start(&program.common),
        #[cfg(feature = "ssh")]
        Command::Server(verb) => {
            let Common { url, context, .. } = program.common.clone();
            match cli::resolve(cli::Asked { url, key: api_key(), context }, config_folder().as_deref()) {
                Ok(connection) => verb.run(&program.common, connection),
                Err(error) => fail(&error),
            }
        }
        #[cfg(feature = "ssh")]
        Command::Upgrade(options) => {
            let Common { url, context, .. } = program.common.clone();
            match cli::resolve(cli::Asked { url, key: api_key(), context }, config_folder().as_deref()) {
                Ok(connection) => options.start(&program.common, connection, api_key()),
                Err(error) => fail(&error),
            }
        }
        Command::Version => version(program.common.json),
        Command::Janitor(options) => role(|| janitor::run(&options)),
        #[cfg(feature = "ssh")]
        Command::Agent => role(agent),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Program::command(), "berth", &mut text);
            print(&String::from_utf8_lossy(&text))
        }
    }
}

/// One call of the API, or a few.
fn api(command: ApiCommand, common: Common) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => return fail(&CliError::Output { source }),
    };
    let asked = cli::Asked { url: common.url, key: api_key(), context: common.context };
    let done = cli::resolve(asked, config_folder().as_deref())
        .and_then(|connection| Context::new(connection, common.json, common.yes, Timestamp::now()))
        .and_then(|cx| runtime.block_on(cli::run(command, &cx)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn version(json: bool) -> ExitCode {
    let program = berth_control::upgrade::program();
    print(&if json { format!("{}\n", serde_json::json!(program)) } else { format!("berth {}\n", program.version) })
}

#[cfg(feature = "ssh")]
fn agent() -> Result<(), fail::Failure> {
    use fail::FailureExt as _;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.ours("threads could not be started")?.block_on(berth_providers::ssh::run_agent()).ours("answering")
}

fn login_to(login: cli::Login, json: bool) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => return fail(&CliError::Output { source }),
    };
    match runtime.block_on(login.run(config_folder(), json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Where this user's settings are.
#[allow(clippy::disallowed_methods, reason = "configuration is resolved here and nowhere below")]
fn config_folder() -> Option<std::path::PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(std::path::PathBuf::from);
    // The specification of those folders: what is no whole path does not count.
    let own = set("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    own.or_else(|| set("HOME").map(|home| home.join(".config"))).map(|folder| folder.join("berth"))
}

/// A long-running role: with a log, and its end told as an exit status.
fn role(run: impl FnOnce() -> Result<(), fail::Failure>) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_env_var("BERTH_LOG")
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // On a full disk a line is lost. Told on the same disk, that would end whoever tells it.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Without a terminal the exit status has to do.
            let _ = write!(std::io::stderr().lock(), "{}", failure.screen());
            ExitCode::from(failure.status)
        }
    }
}

/// What a server takes from the environment. The stack file may refer to any variable but the server's own secrets.
#[expect(clippy::disallowed_methods, reason = "configuration is resolved here and nowhere below")]
fn serve_variables() -> serve::Variables {
    let own = |name: &str| matches!(name, "DATABASE_URL" | "BERTH_API_KEY");
    serve::Variables {
        database_url: std::env::var("DATABASE_URL").ok().filter(|url| !url.is_empty()).map(SecretString::from),
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| !own(name))
            .collect(),
    }
}

/// Only in builds for tests: the program as another version of itself, with migrations that nobody has written yet.
#[cfg(debug_assertions)]
#[expect(clippy::disallowed_methods, reason = "configuration is resolved here and nowhere below")]
fn claim() {
    if let Ok(version) = std::env::var("BERTH_TEST_VERSION") {
        berth_domain::Version::claim(version.parse().expect("BERTH_TEST_VERSION is a version"));
    }
    if let Ok(folder) = std::env::var("BERTH_TEST_MIGRATIONS") {
        let one = |file: std::io::Result<std::fs::DirEntry>| {
            let path = file.expect("the folder can be read").path();
            let number = path.file_stem().and_then(|name| name.to_str()?.parse().ok());
            let text = std::fs::read_to_string(&path).expect("a migration can be read");
            (number.expect("a migration is named after its number"), text)
        };
        let files = std::fs::read_dir(folder).expect("BERTH_TEST_MIGRATIONS is a folder");
        berth_store::carry(files.map(one).collect());
    }
}

/// Only from the environment: an argument would show in every process list.
#[expect(clippy::disallowed_methods, reason = "configuration is resolved here and nowhere below")]
fn api_key() -> Option<SecretString> {
    std::env::var("BERTH_API_KEY").ok().filter(|key| !key.is_empty()).map(SecretString::from)
}

/// Where the two sides of `berth mover` are, one of which `berth init` looks at, and the passwords there.
#[expect(clippy::disallowed_methods, reason = "configuration is resolved here and nowhere below")]
fn mover_variables() -> mover::Variables {
    let secret = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty()).map(SecretString::from);
    mover::Variables {
        from: secret("BERTH_FROM"),
        from_password: secret("BERTH_FROM_PASSWORD"),
        to: secret("BERTH_TO"),
        to_password: secret("BERTH_TO_PASSWORD"),
    }
}

/// The servers that `berth check --live` asks when no file names them.
#[expect(clippy::disallowed_methods, reason = "configuration is resolved here and nowhere below")]
fn check_variables() -> cli::CheckVariables {
    cli::CheckVariables::of(|name| std::env::var(name).ok().filter(|text| !text.is_empty()))
}

/// The connection string of a cell that is taken in, where no file has it.
#[expect(clippy::disallowed_methods, reason = "configuration is resolved here and nowhere below")]
fn cell_database() -> Option<SecretString> {
    std::env::var("BERTH_CELL_DATABASE").ok().filter(|url| !url.is_empty()).map(SecretString::from)
}

fn fail(error: &CliError) -> ExitCode {
    // Without a terminal the exit status has to do.
    let _ = write!(std::io::stderr().lock(), "{}", error.screen());
    ExitCode::from(error.exit_status())
}

/// Usage errors are the caller's: status 1, where clap would say 2.
fn usage(error: &clap::Error) -> ExitCode {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // The same: nobody to tell.
    let _ = error.print();
    if let (ErrorKind::InvalidSubcommand, Some(ContextValue::String(verb))) =
        (error.kind(), error.get(ContextKind::InvalidSubcommand))
        && let Some(instead) = cli::instead_of(verb)
    {
        let _ = writeln!(std::io::stderr().lock(), "hint: {instead}");
    }
    if asked_for { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::from(2),
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::Program;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_free_of_contradictions() {
        Program::command().debug_assert();
    }

    #[test]
    fn every_command_is_in_the_overview() {
        let program = Program::command();
        for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
            let line = format!("berth {}", command.get_name());
            let lines: Vec<_> = crate::cli::OVERVIEW.lines().filter(|text| text.contains(&line)).collect();
            assert!(!lines.is_empty(), "`{line}` is missing");
            for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
                let there = lines.iter().any(|text| text.split_whitespace().any(|word| word == verb.get_name()));
                assert!(there, "`{line} {}` is missing", verb.get_name());
            }
        }
        assert!(crate::cli::OVERVIEW.lines().count() <= 24, "one screen");
        assert!(crate::cli::OVERVIEW.lines().all(|line| line.chars().count() <= 100));
    }

    #[test]
    fn move_help_ends_with_two_real_examples() {
        let help = Program::try_parse_from(["berth", "tenant", "move", "--help"]).err().unwrap().to_string();
        let examples = help.split("Examples:").nth(1).unwrap();
        let commands: Vec<&str> = examples.lines().filter_map(|line| line.trim().strip_prefix("berth ")).collect();
        assert_eq!(commands.len(), 2, "{examples}");
        for command in commands {
            let words = std::iter::once("berth").chain(command.split_whitespace());
            assert!(Program::try_parse_from(words).is_ok(), "{command}");
        }
    }

    #[test]
    fn the_guides_verbs_are_answered_with_commands_that_there_are() {
        let page = include_str!("../../../docs/verbs.md");
        for (verb, instead) in crate::cli::VERBS {
            assert!(Program::try_parse_from(["berth", verb]).is_err(), "`{verb}` is a command");
            assert!(page.contains(&format!("`{verb}`")), "docs/verbs.md lacks `{verb}`");
            let commands: Vec<&str> = instead.split('`').filter(|text| text.starts_with("berth ")).collect();
            assert!(!commands.is_empty(), "{verb}: {instead}");
            for command in commands {
                names_a_command(command);
            }
        }
        for command in page.split('`').filter(|text| text.starts_with("berth ")) {
            names_a_command(command);
        }
    }

    /// Its words that are no option, value or placeholder lead to a command with no further ones below it, and its options are that
    /// command's.
    fn names_a_command(text: &str) {
        let program = Program::command();
        let mut at = &program;
        for word in text.split_whitespace().skip(1) {
            if let Some(option) = word.strip_prefix("--") {
                assert!(at.get_arguments().any(|arg| arg.get_long() == Some(option)), "`{text}`: no {word}");
            } else if let Some(verb) = at.find_subcommand(word) {
                at = verb;
            } else {
                // An argument then.
                assert!(at.get_positionals().next().is_some() || text.contains("--"), "`{text}`: no `{word}`");
            }
        }
        assert!(!at.is_subcommand_required_set(), "`{text}` is not whole");
    }

    #[test]
    fn a_key_cannot_be_an_argument() {
        assert!(Program::try_parse_from(["berth", "status", "--api-key", "bk_x"]).is_err());
    }
}
