//! What the services of a release run, and with which account it is pulled. One rule for members, migrations and whoever
//! brings a member back. Starts nothing.

use crate::{App, ControlError, ReleaseError};
use berth_config::{Run, Service};
use berth_domain::{Artifact, ServiceName};
use berth_infra::{RegistryLogin, Source};
use berth_store::Artifacts;
use secrecy::ExposeSecret as _;

/// A release's artifacts.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    artifacts: Artifacts,
}

/// What it is, `None` for what lies on the host, and the command.
type Runs = (Option<Artifact>, Vec<String>);

impl Programs {
    /// Of release 0: what the stack file alone says.
    pub async fn load(app: &App, release: u32) -> Result<Self, ControlError> {
        let artifacts = match release {
            0 => Artifacts::new(),
            number => app.store().release_get(number).await?.ok_or(ReleaseError::NoRelease(number))?.services,
        };
        Ok(Self { artifacts })
    }

    /// Where the service's program comes from, and the command that starts it.
    pub async fn of(
        &self,
        app: &App,
        name: &ServiceName,
        service: &Service,
    ) -> Result<(Source, Vec<String>), ControlError> {
        let (artifact, command) = self.runs(name, service)?;
        Ok((source(app, artifact).await?, command))
    }

    /// The same of what is on its host by now: a password that cannot be had is no reason to keep it down, since nothing is
    /// fetched unless somebody took it away.
    pub async fn known(
        &self,
        app: &App,
        name: &ServiceName,
        service: &Service,
    ) -> Result<(Source, Vec<String>), ControlError> {
        match self.of(app, name, service).await {
            Ok(known) => Ok(known),
            Err(error) => {
                let (Some(artifact), command) = self.runs(name, service)? else { return Err(error) };
                tracing::warn!(%error, "no account for {}", artifact.registry().unwrap_or("its registry"));
                Ok((Source::Artifact { artifact, login: None }, command))
            }
        }
    }

    /// The same of its migration.
    pub async fn of_migrate(
        &self,
        app: &App,
        name: &ServiceName,
        service: &Service,
    ) -> Result<Option<(Source, Vec<String>)>, ControlError> {
        let Some((artifact, command)) = self.migrates(name, service)? else { return Ok(None) };
        Ok(Some((source(app, artifact).await?, command)))
    }

    /// `None`: what lies on the host.
    fn runs(&self, name: &ServiceName, service: &Service) -> Result<Runs, ControlError> {
        let said: &[String] = match &service.run {
            Run::Command(command) => command,
            Run::Image(_) => &[],
        };
        match self.artifacts.get(name) {
            Some(artifact @ Artifact::Program { path, .. }) => {
                let command = [path.clone()].into_iter().chain(said.iter().skip(1).cloned()).collect();
                Ok((Some(artifact.clone()), command))
            }
            Some(artifact @ Artifact::Image { .. }) => Ok((Some(artifact.clone()), said.to_vec())),
            None => match &service.run {
                Run::Command(command) => Ok((None, command.clone())),
                Run::Image(image) => {
                    let artifact = image.parse().map_err(|_| ReleaseError::NoDigest(name.clone()))?;
                    Ok((Some(artifact), Vec::new()))
                }
            },
        }
    }

    /// A program of its own, that is not the service's, is the stack file's.
    fn migrates(&self, name: &ServiceName, service: &Service) -> Result<Option<Runs>, ControlError> {
        let Some(migrate) = service.migrate.clone() else { return Ok(None) };
        let (artifact, command) = self.runs(name, service)?;
        let own = match &service.run {
            Run::Command(said) => said.first() == migrate.first(),
            Run::Image(_) => false,
        };
        Ok(Some(match artifact {
            Some(Artifact::Image { .. }) => (artifact, migrate),
            Some(Artifact::Program { .. }) if own => {
                let program = command.into_iter().take(1);
                (artifact, program.chain(migrate.into_iter().skip(1)).collect())
            }
            Some(Artifact::Program { .. }) | None => (None, migrate),
        }))
    }
}

/// With the account of its own registry: what is wrong with another one's keeps nothing from being fetched.
async fn source(app: &App, artifact: Option<Artifact>) -> Result<Source, ControlError> {
    let Some(artifact) = artifact else { return Ok(Source::Host) };
    let Some(host) = artifact.registry().map(str::to_owned) else {
        return Ok(Source::Artifact { artifact, login: None });
    };
    // What the stack file says of a registry goes before what somebody added.
    let account = match app.stack().await?.stack.registries.get(&host) {
        Some(account) => {
            let password = account.password.resolve(app.environment())?;
            if password.expose_secret().is_empty() {
                return Err(ReleaseError::EmptyPassword { host, template: account.password.clone() }.into());
            }
            Some((account.user.clone(), password))
        }
        None => app.store().registry_login(&host).await?,
    };
    let login = account.map(|(user, password)| RegistryLogin { host, user, password });
    Ok(Source::Artifact { artifact, login })
}

#[cfg(test)]
mod tests {
    use super::Programs;
    use berth_config::{Service, no_files, parse};
    use berth_domain::{Artifact, ServiceName};

    fn service(says: &str) -> Service {
        let text = format!("stack: a\nservices: {{ web: {{ {says}, health: /h }} }}\n");
        parse(&text, None, &no_files).unwrap().services.into_values().next().unwrap()
    }

    fn shown((artifact, command): (Option<Artifact>, Vec<String>)) -> String {
        let from = match artifact {
            None => "host".to_owned(),
            Some(Artifact::Image { name, .. }) => name,
            Some(Artifact::Program { path, .. }) => format!("checked {path}"),
        };
        format!("{from}: {}", command.join(" "))
    }

    #[test]
    fn a_release_says_which_program_and_the_stack_file_how_it_is_started() {
        let web = ServiceName::new("web").unwrap();
        let digest = "a1".repeat(32);
        for (says, released, runs, migrates) in [
            ("command: [./web, --fast], migrate: [./web, migrate]", None, "host: ./web --fast", "host: ./web migrate"),
            (
                "command: [./web, --fast], migrate: [./web, migrate]",
                Some("/opt/2/web"),
                "checked /opt/2/web: /opt/2/web --fast",
                "checked /opt/2/web: /opt/2/web migrate",
            ),
            (
                "command: [./web], migrate: [psql, -f, x]",
                Some("/opt/2/web"),
                "checked /opt/2/web: /opt/2/web",
                "host: psql -f x",
            ),
            ("command: [/web, a], migrate: [/web, m]", Some("r.io/web"), "r.io/web: /web a", "r.io/web: /web m"),
            ("image: r.io/web, migrate: [/web, m]", Some("r.io/web"), "r.io/web: ", "r.io/web: /web m"),
        ] {
            let service = service(says);
            let artifacts = released.map(|name| (web.clone(), format!("{name}@sha256:{digest}").parse().unwrap()));
            let programs = Programs { artifacts: artifacts.into_iter().collect() };
            assert_eq!(shown(programs.runs(&web, &service).unwrap()), runs);
            assert_eq!(shown(programs.migrates(&web, &service).unwrap().unwrap()), migrates);
        }
        let bare = service("image: r.io/web");
        let error = Programs::default().runs(&web, &bare).unwrap_err();
        assert!(error.hint().unwrap().contains("berth release create"), "{error}");
    }
}
