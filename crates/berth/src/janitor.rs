//! `berth janitor`: ends what a demo or a test started, once its owner is gone by whatever death. Not for people.

use crate::fail::{Failure, FailureExt as _};
use berth_providers::local::{Afterwards, run_janitor};
use clap::Args;
use std::{
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

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

/// Starts one for these folders: what is recorded in them ends, and they are deleted, when this process is gone.
pub fn hire(roots: &[PathBuf]) -> Result<(), Failure> {
    let me = std::env::current_exe().ours("this program's own path")?;
    let mut command = Command::new(me);
    command.arg("janitor").arg("--owner").arg(std::process::id().to_string()).arg("--delete");
    for root in roots {
        command.arg("--root").arg(root);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Not in the terminal's group: Ctrl-C is for its owner alone.
        .process_group(0);
    command.spawn().ours("the janitor could not be started")?;
    Ok(())
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
