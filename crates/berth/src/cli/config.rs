//! `berth config`: what a stack file comes to, and its schema for editors. Asks no server.

use super::{CliError, Context, apply::StackFiles};
use berth_config::{Layer, Shown, tree};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Subcommand, Debug)]
pub enum Config {
    /// Every effective value and where it came from; secrets are masked
    Show(Show),
    /// JSON Schema of the stack file, for editors
    Schema,
}

#[derive(Args, Debug)]
pub struct Show {
    /// The stack file
    #[arg(long, short = 'f', default_value = "berth.yaml", value_name = "FILE")]
    file: PathBuf,
    /// With the file of this environment over it: `staging` is `berth.staging.yaml`
    #[arg(long, short = 'e', value_name = "NAME")]
    environment: Option<String>,
    /// Only values that a file says, without defaults
    #[arg(long)]
    said: bool,
}

impl Config {
    pub fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::Show(show) => show.run(cx),
            Self::Schema => {
                let schema: serde_json::Value =
                    serde_json::from_str(berth_config::SCHEMA).expect("a test reads the schema as JSON");
                cx.show(&schema, |_| berth_config::SCHEMA.to_owned())
            }
        }
    }
}

impl Show {
    fn run(self, cx: &Context) -> Result<(), CliError> {
        let files = StackFiles::read(&self.file, self.environment.as_deref())?;
        let stack = files.parse()?;
        let trees: Vec<_> =
            files.layers.iter().map(|(_, text)| tree::parse(text).expect("it was read a moment ago")).collect();
        let layers: Vec<_> = files.layers.iter().zip(&trees).map(|((name, _), tree)| Layer { name, tree }).collect();
        let mut shown = berth_config::show(&stack, &layers);
        shown.retain(|one| !self.said || one.from != "default");
        cx.show(&shown, |shown| screen(shown))
    }
}

/// One line each, like a stack file laid flat: a table would cut long values.
fn screen(shown: &[Shown]) -> String {
    let line = |one: &Shown| {
        let mut lines = one.value.lines();
        let first = lines.next().unwrap_or_default();
        let more = if lines.next().is_some() { " …" } else { "" };
        format!("{}: {first}{more}  # {}\n", one.key, one.from)
    };
    shown.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::screen;
    use berth_config::Shown;

    #[test]
    fn a_value_stands_beside_the_line_that_said_it() {
        let one = |key: &str, value: &str, from: &str| Shown {
            key: key.to_owned(),
            value: value.to_owned(),
            from: from.to_owned(),
        };
        let text = screen(&[one("stack", "fleet", "berth.yaml:2"), one("data.hooks.create.sql", "a\nb", "default")]);
        assert_eq!(text, "stack: fleet  # berth.yaml:2\ndata.hooks.create.sql: a …  # default\n");
    }
}
