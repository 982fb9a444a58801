//! Members and runs from images, by podman. Never keeps a login: it stands in a file of one pull's own, and goes with it.
//!
//! A container is made and then started, with its first process written down in between, so that it is known like any
//! other process and the same janitor ends it. It is in the host's network, because its database listens on loopback.

use super::{
    files::{self, Root},
    process::{Kind, Process, User},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use berth_domain::Artifact;
use berth_infra::{EnvVar, ProviderError, RegistryLogin, Shape};
use rustix::process::Resource;
use secrecy::ExposeSecret;
use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use tokio::process::Command;

const PULL_LIMIT: Duration = Duration::from_mins(10);
/// For everything but a pull: it asks nobody on the network.
const COMMAND_LIMIT: Duration = Duration::from_mins(1);
/// Of what podman wrote, for messages.
const WORDS_MOST: usize = 600;

#[derive(Clone)]
pub(super) struct Containers {
    pub root: Root,
    /// Its global options, before the verb.
    pub options: Vec<String>,
    /// Who members are, whoever the image names. `None`: as the image says.
    pub user: Option<User>,
}

/// One container to be.
pub(super) struct Wanted<'a> {
    /// Of the member or run, for messages.
    pub what: &'a str,
    pub image: &'a str,
    pub command: &'a [String],
    pub env: &'a [EnvVar],
    pub shape: Shape,
}

/// What is given by file and by environment, and the words that say so. The file goes when this does.
struct Variables {
    file: PathBuf,
    lines: Vec<EnvVar>,
}

impl Drop for Variables {
    fn drop(&mut self) {
        let _ = files::forget(&self.file);
    }
}

impl Containers {
    /// The same name on one machine is the same installation's.
    pub fn name(&self, kind: &str, name: &str) -> String {
        format!("berth-{}-{kind}-{name}", self.root.id())
    }

    fn podman(&self) -> Command {
        let mut command = Command::new("podman");
        command.args(&self.options).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn run(&self, what: &str, limit: Duration, command: &mut Command) -> Result<Output, ProviderError> {
        match tokio::time::timeout(limit, command.output()).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Err(ProviderError::NotInstalled {
                program: "podman".to_owned(),
                remedy: "install Debian's package `podman`; services from images are run by it".to_owned(),
            }),
            Ok(Err(error)) => Err(ProviderError::io(format!("running podman for {what}"))(error)),
            Err(_) => Err(ProviderError::NoAnswer { what: format!("podman, for {what}") }),
        }
    }

    async fn must(&self, what: &str, command: &mut Command) -> Result<String, ProviderError> {
        let output = self.run(what, COMMAND_LIMIT, command).await?;
        if !output.status.success() {
            let (what, reason) = (what.to_owned(), words(&output.stderr));
            return Err(ProviderError::DidNotStart { what, reason: "podman refused it".to_owned(), log: reason });
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Pulls it unless it is here. Podman itself compares what came with the digest.
    pub async fn ensure_image(&self, image: &Artifact, login: Option<&RegistryLogin>) -> Result<(), ProviderError> {
        let text = image.to_string();
        let here = async || -> Result<bool, ProviderError> {
            is_here(&text, &self.run(&text, COMMAND_LIMIT, self.podman().args(["image", "exists", &text])).await?)
        };
        if here().await? {
            return Ok(());
        }
        // The cells of a wave look after each other's images: one of them pulls, the others wait for it.
        let _lock = self.root.lock_within(&lock_of(&text), PULL_LIMIT).await?;
        if here().await? {
            return Ok(());
        }
        let auth = self.root.path().join("run").join(format!(".auth.{}", files::random_hex(6)));
        let mut pull = self.podman();
        pull.args(["pull", "--quiet"]);
        if image.registry().is_some_and(is_loopback) {
            // Nobody between us and it could read or change anything.
            pull.arg("--tls-verify=false");
        }
        if let Some(login) = login {
            let both = format!("{}:{}", login.user, login.password.expose_secret());
            let entry = serde_json::json!({ "auths": { &login.host: { "auth": BASE64.encode(both) } } });
            files::write(&auth, entry.to_string().as_bytes())?;
            pull.arg("--authfile").arg(&auth);
        }
        let pulled = self.run(&text, PULL_LIMIT, pull.arg(&text)).await;
        files::forget(&auth)?;
        let pulled = pulled?;
        if pulled.status.success() {
            return Ok(());
        }
        Err(not_pulled(image, words(&pulled.stderr)))
    }

    /// `false`: a container is made from it, whosever. Absent is success, and so is a host without podman.
    pub async fn remove_image(&self, image: &Artifact) -> Result<bool, ProviderError> {
        let text = image.to_string();
        let _lock = self.root.lock_within(&lock_of(&text), PULL_LIMIT).await?;
        let looked = match self.run(&text, COMMAND_LIMIT, self.podman().args(["image", "exists", &text])).await {
            Err(ProviderError::NotInstalled { .. }) => return Ok(true),
            looked => looked?,
        };
        // 1 says that it is not there, anything else that it could not look.
        match looked.status.code() {
            Some(0) => {}
            Some(1) => return Ok(true),
            _ => return Err(ProviderError::Busy { what: format!("image `{text}` ({})", words(&looked.stderr)) }),
        }
        // Without `--force`, which would take the containers with it.
        let removed = self.run(&text, COMMAND_LIMIT, self.podman().args(["rmi", &text])).await?;
        let reason = words(&removed.stderr);
        let in_use = reason.contains("in use by a container");
        if removed.status.success() || in_use {
            return Ok(!in_use);
        }
        Err(ProviderError::Busy { what: format!("image `{text}` ({reason})") })
    }

    /// Makes the container, writes its first process down, and lets it go.
    pub async fn start(
        &self,
        name: &str,
        wanted: &Wanted<'_>,
        log: &Path,
        run_file: &Path,
    ) -> Result<Process, ProviderError> {
        let container = self.name("member", name);
        self.remove("member", name, Duration::ZERO).await?;
        let (arguments, variables) = self.create_words(wanted)?;
        let mut create = self.podman();
        create.args(["create", "--name", &container, "--rm", "--log-driver", "k8s-file", "--log-opt"]);
        create.arg(format!("path={}", log.display())).args(&arguments);
        for var in &variables.lines {
            create.env(&var.name, var.value.expose_secret());
        }
        self.must(wanted.what, &mut create).await?;
        drop(variables);
        let made = async {
            self.must(wanted.what, self.podman().args(["init", &container])).await?;
            let pid = self
                .must(wanted.what, self.podman().args(["inspect", "--format", "{{.State.Pid}}", &container]))
                .await?;
            let process = pid.parse().ok().and_then(|pid| Process::of_pid(pid, Kind::Member));
            let process = process.ok_or_else(|| ProviderError::DidNotStart {
                what: wanted.what.to_owned(),
                reason: "podman made no process".to_owned(),
                log: String::new(),
            })?;
            files::write(run_file, process.to_string().as_bytes())?;
            self.must(wanted.what, self.podman().args(["start", &container])).await?;
            Ok(process)
        };
        let made = made.await;
        if made.is_err() {
            self.remove("member", name, Duration::ZERO).await?;
        }
        made
    }

    /// The command line of a run to its end; its variables stand in the file that is answered beside it, which has to be
    /// deleted when the run is over.
    pub fn run_command(
        &self,
        name: &str,
        wanted: &Wanted<'_>,
    ) -> Result<(Vec<String>, PathBuf, Vec<EnvVar>), ProviderError> {
        let (arguments, mut variables) = self.create_words(wanted)?;
        let mut command = vec!["podman".to_owned()];
        command.extend(self.options.iter().cloned());
        command.extend(["run", "--rm", "--name"].map(str::to_owned));
        command.push(self.name("run", name));
        command.extend(arguments);
        let lines = std::mem::take(&mut variables.lines);
        let file = std::mem::take(&mut variables.file);
        Ok((command, file, lines))
    }

    fn create_words(&self, wanted: &Wanted<'_>) -> Result<(Vec<String>, Variables), ProviderError> {
        let file = self.root.path().join("run").join(format!(".env.{}", files::random_hex(6)));
        // A file of variables has a line for each. What has several lines itself goes through podman's environment.
        let (lines, plain): (Vec<EnvVar>, Vec<EnvVar>) =
            wanted.env.iter().cloned().partition(|var| var.value.expose_secret().contains(['\n', '\r']));
        let mut text = String::new();
        for var in &plain {
            text.extend([var.name.as_str(), "=", var.value.expose_secret(), "\n"]);
        }
        files::write(&file, text.as_bytes())?;
        let mut words: Vec<String> =
            ["--network", "host", "--cap-drop", "all", "--security-opt", "no-new-privileges"].map(str::to_owned).into();
        words.extend(["--pull".to_owned(), "never".to_owned()]);
        // In the host's network a user is what tells one cell's processes from another's.
        if let Some(user) = self.user {
            words.extend(["--user".to_owned(), format!("{}:{}", user.uid, user.gid)]);
        }
        words.extend(["--label".to_owned(), format!("berth.root={}", self.root.id())]);
        words.extend(["--memory".to_owned(), format!("{}m", wanted.shape.memory_mb.max(6))]);
        words
            .extend(["--cpu-shares".to_owned(), (u64::from(wanted.shape.cpu_millis) * 1024 / 1000).max(2).to_string()]);
        // Never above our own: that would be refused where we may not raise them.
        for (name, resource, most) in [("nofile", Resource::Nofile, 65_536), ("nproc", Resource::Nproc, 32_768)] {
            let own = rustix::process::getrlimit(resource).maximum.unwrap_or(most).min(most);
            words.extend(["--ulimit".to_owned(), format!("{name}={own}:{own}")]);
        }
        words.extend(["--env-file".to_owned(), file.display().to_string()]);
        for var in &lines {
            words.extend(["--env".to_owned(), var.name.clone()]);
        }
        words.push(wanted.image.to_owned());
        words.extend(wanted.command.iter().cloned());
        Ok((words, Variables { file, lines }))
    }

    /// Asks it to end, insists after the grace, forgets it. Absent is success.
    pub async fn remove(&self, kind: &str, name: &str, grace: Duration) -> Result<(), ProviderError> {
        let container = self.name(kind, name);
        let seconds = grace.as_secs().to_string();
        let mut remove = self.podman();
        remove.args(["rm", "--force", "--ignore", "--time", &seconds, &container]);
        let output = self.run(&container, grace + COMMAND_LIMIT, &mut remove).await?;
        let reason = words(&output.stderr);
        if output.status.success() || reason.contains("no such container") || reason.contains("no container with name")
        {
            return Ok(());
        }
        Err(ProviderError::Busy { what: format!("container `{container}` ({reason})") })
    }
}

/// One at a time pulls an image or takes it away.
fn lock_of(image: &str) -> String {
    let name: String = image.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("image.{name}")
}

/// What a container wrote, without the time and stream that podman puts before each line.
pub(super) fn plain_line(line: &str) -> &str {
    let mut rest = line;
    for _ in 0..3 {
        match rest.split_once(' ') {
            Some((_, after)) => rest = after,
            None => return line,
        }
    }
    rest
}

/// What `podman image exists` answers: 0 and 1 are yes and no, anything else says that podman itself does not work.
fn is_here(image: &str, looked: &Output) -> Result<bool, ProviderError> {
    match looked.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        // Killed by a signal: it has said nothing.
        None => Err(ProviderError::NoAnswer { what: format!("podman, looking for image `{image}`") }),
        Some(_) => Err(ProviderError::Refused {
            what: format!("looking for image `{image}`"),
            reason: format!(
                "podman does not work here for the user of the cell's services: {}; `podman info` as that user says more",
                words(&looked.stderr)
            ),
        }),
    }
}

/// Why an image did not come, by what podman passes on of the registry, the disk and the network.
fn not_pulled(image: &Artifact, reason: String) -> ProviderError {
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let registry = image.registry().unwrap_or_default();
    let image = image.to_string();
    if says(&["no space left on device", "disk quota exceeded"]) {
        let limit = format!("no room is left on the disk ({reason}); make room there");
        return ProviderError::Quota { what: format!("image `{image}`"), limit };
    }
    if says(&["connection refused", "no such host", "i/o timeout", "connection reset", "TLS handshake timeout"]) {
        return ProviderError::NoAnswer { what: format!("the registry of image `{image}` ({reason})") };
    }
    // Of a manifest, of a layer and of an image's configuration, as podman says it.
    let altered =
        says(&["does not match provided manifest digest", "Digest did not match", "Download config.json digest"]);
    // "permission denied" is this machine's, "executable file not found" too.
    let refused = says(&["unauthorized", "authentication required", "invalid username/password"])
        || says(&["access to the resource is denied", ": denied", "; denied"]);
    let missing = says(&["manifest unknown", "name unknown", "not known to registry"])
        || (says(&["not found"]) && !says(&["executable file", "command not found"]));
    let remedy = if altered {
        format!(
            "`{registry}` gave other bytes than the digest names, and none of them are used: push the image again and name the digest that the push prints; where that is the same one, look at the proxy or mirror in between"
        )
    } else if refused {
        format!("`berth registry add {registry} --user NAME` gives the account that may pull it")
    } else if missing {
        format!("push it to `{registry}` first, or compare the digest with the one that the push printed")
    } else {
        format!("`podman pull {image}` on the cell's server says more")
    };
    ProviderError::NotPulled { image, reason, remedy }
}

fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The end of what podman said, as one line.
fn words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let skip = line.chars().count().saturating_sub(WORDS_MOST);
    line.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::{is_here, is_loopback, not_pulled, plain_line};
    use berth_infra::{ErrorKind, ProviderError};
    use std::{
        os::unix::process::ExitStatusExt as _,
        process::{ExitStatus, Output},
    };

    #[test]
    fn a_line_of_a_container_is_what_it_wrote() {
        assert_eq!(plain_line("2026-11-21T19:30:00.1+00:00 stdout F serving  hello"), "serving  hello");
        assert_eq!(plain_line("2026-11-21T19:30:00.1+00:00 stderr F "), "");
        assert_eq!(plain_line("odd"), "odd");
        assert!(is_loopback("127.0.0.1:5000") && is_loopback("localhost") && !is_loopback("ghcr.io"));
    }

    #[test]
    fn an_image_that_did_not_come_is_told_with_the_remedy_of_its_reason() {
        let image = format!("ghcr.io/shop/web@sha256:{}", "0".repeat(64)).parse().unwrap();
        for (reason, remedy) in [
            ("unable to retrieve auth token: invalid username/password: unauthorized", "registry add ghcr.io"),
            ("reading manifest sha256:00: requested access to the resource is denied", "registry add ghcr.io"),
            ("reading manifest sha256:00 in ghcr.io/shop/web: manifest unknown", "push it to `ghcr.io`"),
            ("reading manifest sha256:00: name unknown: repository name not known to registry", "push it to `ghcr.io`"),
            ("reading manifest sha256:00 in ghcr.io/shop/web: denied", "registry add ghcr.io"),
            ("reading manifest sha256:00: errors:; denied: permission_denied: read_package", "registry add ghcr.io"),
            ("reading manifest sha256:00: artifact shop/web@sha256:00 not found", "push it to `ghcr.io`"),
            (
                "determining manifest MIME type for docker://ghcr.io/shop/web@sha256:00: Manifest does not match provided manifest digest sha256:00",
                "`ghcr.io` gave other bytes",
            ),
            (
                "parsing image configuration: Download config.json digest sha256:01 does not match expected sha256:02",
                "`ghcr.io` gave other bytes",
            ),
            (
                "writing blob: storing blob to file \"/var/tmp/storage1/1\": happened during read: Digest did not match, expected sha256:01, got sha256:02",
                "`ghcr.io` gave other bytes",
            ),
            ("choosing an image: no image found for architecture", "podman pull ghcr.io/shop/web@"),
            ("creating /var/lib/containers/storage: mkdir overlay: permission denied", "podman pull ghcr.io/shop/web@"),
            ("exec: \"fuse-overlayfs\": executable file not found in $PATH", "podman pull ghcr.io/shop/web@"),
        ] {
            let error = not_pulled(&image, reason.to_owned());
            assert!(matches!(error, ProviderError::NotPulled { .. }), "{error:?}");
            let hint = error.hint().unwrap();
            assert!(hint.contains(remedy) && error.to_string().contains(reason), "{error}: {hint}");
        }
        let full = "copying layer: write /var/lib/containers/storage/tmp: no space left on device";
        let full = not_pulled(&image, full.to_owned());
        assert!(full.kind() == ErrorKind::Quota && full.to_string().contains("make room"), "{full}");
        let silent = not_pulled(&image, "dial tcp: lookup ghcr.io: no such host".to_owned());
        assert!(matches!(silent, ProviderError::NoAnswer { .. }) && silent.retryable(), "{silent}");
    }

    #[test]
    fn a_podman_that_does_not_work_is_not_an_image_that_is_missing() {
        let looked = |code: i32| {
            let stderr = b"cannot clone: Operation not permitted\n".to_vec();
            is_here("web", &Output { status: ExitStatus::from_raw(code << 8), stdout: Vec::new(), stderr })
        };
        assert!(looked(0).unwrap() && !looked(1).unwrap());
        let error = looked(125).unwrap_err();
        assert!(error.to_string().contains("cannot clone") && error.to_string().contains("podman info"), "{error}");
        assert!(!error.retryable(), "it is not mended by a pull");
        let killed = Output { status: ExitStatus::from_raw(9), stdout: Vec::new(), stderr: Vec::new() };
        let error = is_here("web", &killed).unwrap_err();
        assert!(matches!(error, ProviderError::NoAnswer { .. }) && error.retryable(), "{error}");
    }
}
