//! One machine's shell as root: this one's, or a host's over SSH. Never decides what is run there.

use super::steps::failed;
use crate::fail::{Failure, FailureExt as _};
use berth_providers::ssh::{Connection, quoted, root};
use std::{process::Stdio, sync::Arc};
use tokio::{io::AsyncWriteExt as _, process::Command};

pub enum Machine {
    /// Before every script: `sudo -n`, or nothing for root.
    Here(Option<&'static str>),
    There(Arc<Connection>, &'static str),
}

pub struct Said {
    pub good: bool,
    pub out: String,
    pub err: String,
}

impl Machine {
    /// `looking`: what this user may see is enough.
    pub async fn here(looking: bool) -> Result<Self, Failure> {
        if rustix::process::geteuid().is_root() {
            return Ok(Self::Here(None));
        }
        let machine = Self::Here(Some("sudo"));
        if machine.run("true", b"").await.is_ok_and(|said| said.good) {
            return Ok(machine);
        }
        if looking {
            return Ok(Self::Here(None));
        }
        let what = "this user has no root's rights, which restarting units needs";
        Err(Failure::request(what, "run it as root, or as a user whom sudo asks for no password"))
    }

    pub async fn there(connection: Connection) -> Result<Self, Failure> {
        let sudo = root(&connection).await.map_err(failed)?;
        Ok(Self::There(Arc::new(connection), sudo))
    }

    pub fn name(&self) -> String {
        match self {
            Self::Here(_) => "this machine".to_owned(),
            Self::There(connection, _) => format!("`{}`", connection.target().name()),
        }
    }

    /// Runs a script as root. What it must not show in a list of processes goes into `input`.
    pub async fn run(&self, script: &str, input: &[u8]) -> Result<Said, Failure> {
        match self {
            Self::There(connection, sudo) => {
                let said = connection.run(&format!("{sudo}sh -c {}", quoted(script)), input).await.map_err(failed)?;
                Ok(Said { good: said.status == 0, out: said.out, err: said.err })
            }
            Self::Here(sudo) => {
                let mut words = sudo.map_or_else(Vec::new, |sudo| vec![sudo, "-n"]);
                words.extend(["sh", "-c", script]);
                let mut child = Command::new(words[0])
                    .args(&words[1..])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .kill_on_drop(true)
                    .spawn()
                    .ours("the shell of this machine")?;
                let mut stdin = child.stdin.take().expect("it was asked for");
                let tell = async move {
                    // A script that does not read to the end closes its input; what it says of that comes by itself.
                    let _ = stdin.write_all(input).await;
                    let _ = stdin.shutdown().await;
                };
                let ((), ended) = tokio::join!(tell, child.wait_with_output());
                let ended = ended.ours("the shell of this machine")?;
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                Ok(Said { good: ended.status.success(), out: text(&ended.stdout), err: text(&ended.stderr) })
            }
        }
    }

    pub async fn is(&self, script: &str) -> Result<bool, Failure> {
        Ok(self.run(script, b"").await?.good)
    }

    /// Runs a script that must succeed. Answers what it wrote. `hint`: what to do when it does not.
    pub async fn must(&self, doing: &str, script: &str, input: &[u8], hint: &str) -> Result<String, Failure> {
        let said = self.run(script, input).await?;
        if said.good {
            return Ok(said.out);
        }
        let mut lines: Vec<&str> = said.err.lines().chain(said.out.lines()).rev().take(12).collect();
        lines.reverse();
        Err(Failure::request(format!("{doing} failed on {}: {}", self.name(), lines.join("\n")), hint))
    }
}

#[cfg(test)]
mod tests {
    use super::Machine;

    #[tokio::test]
    async fn a_script_here_has_its_input_and_says_how_it_ended() {
        let here = Machine::Here(None);
        // Larger than a pipe holds, to a script that reads it and to one that does not.
        let input = vec![b'x'; 1 << 20];
        let counted = here.must("counting", "wc -c", &input, "").await.unwrap();
        assert_eq!(counted.trim(), (1 << 20).to_string());
        let failed = here.must("failing", "echo why >&2; exit 3", &input, "do it").await.unwrap_err();
        assert_eq!(failed.screen(), "error: failing failed on this machine: why\nhint: do it\n");
    }
}
