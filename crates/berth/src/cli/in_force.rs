//! The stack file in force, read here. It came without the files that it names, whose texts are not what is asked for.

use super::{CliError, Context};
use berth_config::{Mistakes, Stack};
use std::{fs, path::PathBuf};

/// Passes for SQL and for certificates, where the file that is named does not lie here.
const ABSENT: &str = "SELECT 1 -- -----BEGIN CERTIFICATE-----";

pub fn parsed(text: &str) -> Result<Stack, Mistakes> {
    berth_config::parse(text, None, &|name| Ok(fs::read_to_string(name).unwrap_or_else(|_| ABSENT.to_owned())))
}

pub async fn stack(cx: &Context) -> Result<Stack, CliError> {
    let text = cx.client.stack().await?.file;
    parsed(&text).map_err(|mistakes| CliError::Stack { path: PathBuf::from("the one in force"), mistakes })
}

#[cfg(test)]
mod tests {
    use super::parsed;

    #[test]
    fn a_file_that_is_named_and_not_here_is_no_mistake() {
        let text = "stack: s\nservices:\n  web: { command: [./web], health: /h, edge: { speaks: https, ca: gone.pem } }\n\
                    data:\n  hooks: { create: { file: gone.sql } }\n";
        assert!(parsed(text).is_ok(), "{:?}", parsed(text));
        assert!(parsed("stack: s\nservices: {}\nwrong: 1\n").is_err());
    }
}
