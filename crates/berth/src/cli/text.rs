//! Files that people wrote, read as text. Asks no server, and never takes one encoding for another.

use super::CliError;
use std::{fs, path::Path};

pub fn read(path: &Path) -> Result<String, CliError> {
    let bytes = fs::read(path).map_err(|source| CliError::File { path: path.to_owned(), source })?;
    berth_config::text_of(bytes)
        .map_err(|why| CliError::request(format!("{} cannot be read: {why}", path.display()), why.hint()))
}
