//! `berth janitor`: ends what a demo or a test started, once its owner is gone by whatever death. Not for people.

use crate::fail::Failure;
use berth_providers::local::{Afterwards, run_janitor};
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct Janitor {
    /// A folder whose records name the processes; ended in this order
    #[arg(long = "root", required = true)]
    roots: Vec<PathBuf>,
    /// The process that is waited for
    #[arg(long)]
    owner: u32,
    /// Delete the folders as well
    #[arg(long)]
    delete: bool,
}

pub fn run(options: &Janitor) -> Result<(), Failure> {
    for root in &options.roots {
        run_janitor(root, options.owner, Afterwards::Keep).map_err(|error| {
            let hint = error.hint().unwrap_or_default();
            Failure::ours(error, format!("clearing {}", root.display()), hint)
        })?;
    }
    if options.delete {
        // Not before everything has ended: one folder may lie in another.
        for root in &options.roots {
            match std::fs::remove_dir_all(root) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::ours(error, format!("deleting {}", root.display()), ""));
                }
                _ => {}
            }
        }
    }
    Ok(())
}
