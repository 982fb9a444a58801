//! `berth init`: looks at a running database and application, and writes the stack file they seem to make.
//!
//! Changes nothing there: its sessions are refused every write. Never writes over a file, and never writes a password.

mod application;
mod draft;

use crate::fail::{Failure, FailureExt as _};
use crate::mover::{From, Variables, stopped};
use application::Application;
use berth_infra::Origin;
use berth_mover::{DataRules, Look, RootGuess, TableName};
use clap::Args;
use draft::Found;
use serde_json::{Value, json};
use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  berth init --from postgres://app@db.example.com:5432/shop --app https://shop.example.com\n  berth init --from postgres://app@127.0.0.1:5432/shop --root public.firms --tenant-column firm_id"
)]
pub struct Init {
    #[command(flatten)]
    from: From,
    /// The application, as http://host:port; its health path is looked for
    #[arg(long, value_name = "URL")]
    app: Option<String>,
    /// The file to write; one that is there already is left as it is
    #[arg(long, short = 'o', value_name = "FILE", default_value = "berth.yaml")]
    output: PathBuf,
    /// The table with one row per tenant, where the guess is wrong
    #[arg(long, value_name = "TABLE")]
    root: Option<String>,
    /// Its key column
    #[arg(long, value_name = "COLUMN", requires = "root")]
    key: Option<String>,
    /// The column that names the tenant in other tables
    #[arg(long, value_name = "COLUMN", requires = "root")]
    tenant_column: Option<String>,
}

pub fn run(options: &Init, json: bool, variables: &Variables) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done =
        runtime.ours("threads could not be started").and_then(|runtime| runtime.block_on(init(options, variables)));
    let (text, value) = match done {
        Ok(answer) => answer,
        Err(failure) => {
            // Without a terminal the exit status has to do.
            let _ = io::stderr().lock().write_all(failure.screen().as_bytes());
            return ExitCode::from(failure.status);
        }
    };
    let text = if json { format!("{value}\n") } else { text };
    let _ = io::stdout().lock().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

async fn init(options: &Init, variables: &Variables) -> Result<(String, Value), Failure> {
    let path = &options.output;
    let there = || {
        let hint = "nothing was looked at; name another file with `--output`, or move this one away";
        Failure::request(format!("`{}` exists and is not written over", path.display()), hint)
    };
    if path.symlink_metadata().is_ok() {
        return Err(there());
    }
    let origin = match &options.app {
        Some(url) => Some(Origin::parse(url).map_err(|why| {
            Failure::request(
                format!("`--app` is not the URL of an application: {why}"),
                "for example http://127.0.0.1:8000",
            )
        })?),
        None => None,
    };
    let endpoint = options.from.endpoint(variables)?;
    let look = berth_mover::look(&endpoint).await.map_err(stopped)?;
    let root = chosen(options, &look)?;
    let mut rules = DataRules::of(&qualified(&root.table), &root.key, &root.tenant_column);
    rules.tenant_columns.clone_from(&root.other_columns);
    let discovery = berth_mover::discover(&endpoint, &rules).await.map_err(stopped)?;
    let application = match &origin {
        Some(origin) => Some(application::look(origin).await?),
        None => None,
    };
    let found = Found { look: &look, root: &root, discovery: &discovery, application: application.as_ref() };
    let draft = draft::draft(&found);
    berth_config::parse(&draft.text, None, &berth_config::no_files).map_err(|mistakes| {
        Failure::ours(mistakes, "what was found makes no stack file", "name the root table with `--root`")
    })?;
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(there()),
        Err(error) => {
            return Err(Failure::ours(
                error,
                format!("writing `{}`", path.display()),
                "choose a folder that you may write to",
            ));
        }
    };
    file.write_all(draft.text.as_bytes()).ours("writing the stack file")?;
    let mut text = format!(
        "{} is written: {} tables belong to a tenant, a row of `{}`.\n",
        path.display(),
        discovery.tables.len(),
        root.table
    );
    for (n, question) in draft.questions.iter().enumerate() {
        text = format!("{text}{}{}. {question}\n", if n == 0 { "\nTo be answered in it:\n" } else { "" }, n + 1);
    }
    text.push_str("\nNext: answer the questions, then `berth check`.\n");
    let value = json!({
        "file": path, "root": root, "look": look, "discovery": discovery,
        "application": application.as_ref().map(Application::value), "questions": draft.questions,
    });
    Ok((text, value))
}

fn qualified(table: &TableName) -> String {
    format!("{}.{}", table.schema, table.name)
}

/// What was asked for, else the likeliest guess.
fn chosen(options: &Init, look: &Look) -> Result<RootGuess, Failure> {
    let Some(named) = &options.root else {
        return look.roots.first().cloned().ok_or_else(|| {
            let tables = look.tables.len();
            Failure::request(
                format!(
                    "no table of `{}` looks like one with a row per tenant; {tables} tables were looked at",
                    look.server.database
                ),
                "name it: `--root TABLE --tenant-column COLUMN`",
            )
        });
    };
    let table = TableName::parse(named);
    if !look.tables.iter().any(|seen| seen.table == table) {
        let tables: Vec<String> = look.tables.iter().take(10).map(|seen| seen.table.to_string()).collect();
        return Err(Failure::request(
            format!("there is no table `{table}` in `{}`", look.server.database),
            format!("the largest are: {}", tables.join(", ")),
        ));
    }
    let known = look.roots.iter().find(|guess| guess.table == table).cloned();
    let given = options.tenant_column.clone();
    let mut root = match (known, &given) {
        (Some(known), _) => known,
        (None, Some(_)) => RootGuess {
            table: table.clone(),
            key: "id".to_owned(),
            key_type: "?".to_owned(),
            tenant_column: String::new(),
            with_column: 0,
            other_columns: std::collections::BTreeMap::new(),
            covers: 0,
            hosts: Vec::new(),
        },
        (None, None) => {
            let hint = "name the column that says whose a row is in other tables: `--tenant-column COLUMN`";
            return Err(Failure::request(format!("no table refers to `{table}`"), hint));
        }
    };
    if let Some(column) = given.filter(|column| *column != root.tenant_column) {
        root.tenant_column = column;
        root.other_columns.clear();
    }
    if let Some(key) = &options.key {
        root.key.clone_from(key);
    }
    Ok(root)
}
