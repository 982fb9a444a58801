//! `berth render`: the files of people's own tools, from the stack file. Asks no server.
//!
//! Never writes over a file that people wrote, and with `--check` writes nothing at all.

use super::{CliError, Context, table::Table, text};
use berth_config::Stack;
use berth_domain::Hostname;
use berth_render::{Alert, Alerts, DATABASE_MIB, File, Language, MARK, Redis, Run, Service, Site};
use clap::{Args, ValueEnum as _, builder::PossibleValue};
use serde::Serialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  berth render --host shop.example.com\n  berth render --host shop.example.com --check --json"
)]
pub struct Render {
    /// The stack file
    #[arg(long, short = 'f', value_name = "FILE", default_value = "berth.yaml")]
    file: PathBuf,
    /// The name that nginx answers to, with every name below it
    #[arg(long, value_name = "NAME")]
    host: Hostname,
    /// What the application is written in; otherwise what its folder shows
    #[arg(long, value_name = "LANGUAGE")]
    language: Option<Written>,
    /// Memory of the server in MiB; otherwise the smallest `server` of the stack file's cells
    #[arg(long, value_name = "MIB")]
    server_mib: Option<u32>,
    /// The folder to write to; otherwise that of the stack file
    #[arg(long, short = 'o', value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Write nothing: say which files are not what they would be, with status 1 if any
    #[arg(long)]
    check: bool,
}

/// As a word of the command line.
#[derive(Clone, Copy, Debug)]
struct Written(Language);

impl clap::ValueEnum for Written {
    fn value_variants<'a>() -> &'a [Self] {
        const { &[Self(Language::Go), Self(Language::Node), Self(Language::Python), Self(Language::Rust)] }
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.as_str()))
    }
}

/// One file, and what became of it.
#[derive(Debug, Serialize)]
struct Shown {
    path: PathBuf,
    /// `written`, `same`, `differs` or `missing`.
    state: &'static str,
}

impl Render {
    pub fn run(self, cx: &Context) -> Result<(), CliError> {
        let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let text = text::read(&self.file)?;
        let stack = berth_config::parse(&text, None, &|name| fs::read_to_string(folder.join(name)))
            .map_err(|mistakes| CliError::Stack { path: self.file.clone(), mistakes })?;
        let output = self.output.clone().unwrap_or_else(|| folder.to_owned());
        let language = match self.language {
            Some(Written(language)) => language,
            None => found(folder)?,
        };
        let site = site(&stack, self.host.clone(), language, self.server_mib);
        let files = site.files().map_err(|error| CliError::request(error.to_string(), error.hint()))?;
        let shown = if self.check { compared(&output, &files)? } else { written(&output, &files)? };
        cx.show(&shown, |shown| screen(shown))?;
        match shown.iter().filter(|file| matches!(file.state, "differs" | "missing")).count() {
            0 => Ok(()),
            errors => Err(CliError::Found { errors }),
        }
    }
}

/// The only language whose manifest lies in the folder.
fn found(folder: &Path) -> Result<Language, CliError> {
    let there: Vec<Language> = Language::ALL.into_iter().filter(|l| folder.join(l.manifest()).exists()).collect();
    let words = Written::value_variants().iter().map(|w| w.0.as_str()).collect::<Vec<_>>().join(", ");
    match there[..] {
        [only] => Ok(only),
        [] => Err(CliError::request(
            "the folder does not show what the application is written in",
            format!("say it with `--language`: {words}"),
        )),
        [first, second, ..] => Err(CliError::request(
            format!("the folder holds both `{}` and `{}`", first.manifest(), second.manifest()),
            format!("say which with `--language`: {words}"),
        )),
    }
}

fn site(stack: &Stack, host: Hostname, language: Language, server_mib: Option<u32>) -> Site {
    let services = stack.services.iter().map(|(name, service)| Service {
        name: name.clone(),
        role: service.role,
        run: match &service.run {
            berth_config::Run::Command(words) => Run::Command(words.clone()),
            berth_config::Run::Image(image) => Run::Image(image.clone()),
        },
        migrate: service.migrate.clone(),
        port: service.port,
        health: service.health.clone(),
        copies: service.copies,
        env: service.env.iter().map(|(name, value)| (name.clone(), String::from(value.clone()))).collect(),
        memory_mib: service.shape.memory_mib.unwrap_or(256),
        cpu_millis: service.shape.cpu_millis.unwrap_or(1000),
    });
    Site {
        stack: stack.stack.clone(),
        services: services.collect(),
        database_mib: stack.cells.values().filter_map(|cell| cell.shape.memory_mib).min().unwrap_or(DATABASE_MIB),
        database_cpu_millis: stack.cells.values().filter_map(|cell| cell.shape.cpu_millis).min(),
        redis: stack.data.redis.as_ref().map(|redis| if redis.store { Redis::Store } else { Redis::Cache }),
        objects: stack.data.objects.is_some(),
        server_mib: server_mib.or_else(|| stack.cells.values().filter_map(|cell| cell.server.shape.memory_mib).min()),
        host,
        language,
        alerts: alerts(stack),
    }
}

/// Those whose figures edges measure; the others are for who sends.
fn alerts(stack: &Stack) -> Alerts {
    let of = |name: &str| {
        let said = stack.alerts.as_ref().and_then(|alerts| alerts.on.get(name));
        said.map_or_else(Alert::default, |said| Alert {
            warning: said.warning,
            critical: said.critical,
            lasting_ms: said.lasting.map(berth_config::Span::ms),
        })
    };
    Alerts { error_percent: of("error_percent"), response_ms: of("response_ms"), down_s: of("down_s") }
}

fn read(path: &Path) -> Result<Option<String>, CliError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CliError::Read { path: path.to_owned(), source }),
    }
}

fn compared(folder: &Path, files: &[File]) -> Result<Vec<Shown>, CliError> {
    let compare = |file: &File| {
        let path = folder.join(file.path);
        let state = match read(&path)? {
            Some(text) if text == file.text => "same",
            Some(_) => "differs",
            None => "missing",
        };
        Ok(Shown { path, state })
    };
    files.iter().map(compare).collect()
}

fn written(folder: &Path, files: &[File]) -> Result<Vec<Shown>, CliError> {
    // All are looked at before the first is written.
    let mut work = Vec::new();
    for file in files {
        let path = folder.join(file.path);
        let there = read(&path)?;
        if there.as_ref().is_some_and(|text| !text.lines().take(2).any(|line| line.contains(MARK))) {
            let hint = "move it away, or render into another folder with `--output`; nothing was written";
            return Err(CliError::request(
                format!("`{}` was not rendered, and is not written over", path.display()),
                hint,
            ));
        }
        let same = there.as_ref() == Some(&file.text);
        work.push((path, file, same));
    }
    let mut shown = Vec::new();
    for (path, file, same) in work {
        if !same {
            let failed = |source| CliError::Write { path: path.clone(), source };
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(failed)?;
            }
            fs::write(&path, &file.text).map_err(failed)?;
        }
        shown.push(Shown { path, state: if same { "same" } else { "written" } });
    }
    Ok(shown)
}

fn screen(shown: &[Shown]) -> String {
    let mut table = Table::new(&["FILE", "STATE"]);
    for file in shown {
        table.row([file.path.display().to_string(), file.state.to_owned()]);
    }
    table.text()
}
