//! What the services of a release run, and with which account it is pulled. One rule for members, migrations and whoever
//! brings a member back. Starts nothing.

use crate::{App, ControlError, ReleaseError};
use berth_config::{Run, Service};
use berth_domain::{Artifact, ServiceName};
use berth_infra::{RegistryLogin, Source};
use berth_store::Artifacts;
use std::collections::BTreeMap;

/// A release's artifacts with the accounts of their registries.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    artifacts: Artifacts,
    logins: BTreeMap<String, RegistryLogin>,
}

impl Programs {
    /// Of release 0: what the stack file alone says.
    pub async fn load(app: &App, release: u32) -> Result<Self, ControlError> {
        let artifacts = match release {
            0 => Artifacts::new(),
            number => app.store().release_get(number).await?.ok_or(ReleaseError::NoRelease(number))?.services,
        };
        let mut logins = BTreeMap::new();
        let in_force = app.stack().await?;
        let own = in_force.stack.services.values().filter_map(|service| match &service.run {
            Run::Image(image) => image.parse::<Artifact>().ok(),
            Run::Command(_) => None,
        });
        let hosts: Vec<String> =
            artifacts.values().cloned().chain(own).filter_map(|it| it.registry().map(str::to_owned)).collect();
        for host in hosts {
            if logins.contains_key(&host) {
                continue;
            }
            // What the stack file says of a registry goes before what somebody added.
            let account = match in_force.stack.registries.get(&host) {
                Some(account) => Some((account.user.clone(), account.password.resolve(app.environment())?)),
                None => app.store().registry_login(&host).await?,
            };
            if let Some((user, password)) = account {
                logins.insert(host.clone(), RegistryLogin { host, user, password });
            }
        }
        Ok(Self { artifacts, logins })
    }

    fn source(&self, artifact: Artifact) -> Source {
        let login = artifact.registry().and_then(|host| self.logins.get(host)).cloned();
        Source::Artifact { artifact, login }
    }

    /// Where the service's program comes from, and the command that starts it.
    pub fn of(&self, name: &ServiceName, service: &Service) -> Result<(Source, Vec<String>), ControlError> {
        let said: &[String] = match &service.run {
            Run::Command(command) => command,
            Run::Image(_) => &[],
        };
        match self.artifacts.get(name) {
            Some(artifact @ Artifact::Program { path, .. }) => {
                let command = [path.clone()].into_iter().chain(said.iter().skip(1).cloned()).collect();
                Ok((self.source(artifact.clone()), command))
            }
            Some(artifact @ Artifact::Image { .. }) => Ok((self.source(artifact.clone()), said.to_vec())),
            None => match &service.run {
                Run::Command(command) => Ok((Source::Host, command.clone())),
                Run::Image(image) => {
                    let artifact = image.parse().map_err(|_| ReleaseError::NoDigest(name.clone()))?;
                    Ok((self.source(artifact), Vec::new()))
                }
            },
        }
    }

    /// The same of its migration. A program of its own, that is not the service's, is the stack file's.
    pub fn of_migrate(
        &self,
        name: &ServiceName,
        service: &Service,
    ) -> Result<Option<(Source, Vec<String>)>, ControlError> {
        let Some(migrate) = service.migrate.clone() else { return Ok(None) };
        let (source, command) = self.of(name, service)?;
        let own = match &service.run {
            Run::Command(said) => said.first() == migrate.first(),
            Run::Image(_) => false,
        };
        Ok(Some(match &source {
            Source::Artifact { artifact: Artifact::Image { .. }, .. } => (source, migrate),
            Source::Artifact { artifact: Artifact::Program { .. }, .. } if own => {
                let program = command.into_iter().take(1);
                (source, program.chain(migrate.into_iter().skip(1)).collect())
            }
            Source::Artifact { .. } | Source::Host => (Source::Host, migrate),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::Programs;
    use berth_config::{Service, no_files, parse};
    use berth_domain::{Artifact, ServiceName};
    use berth_infra::Source;

    fn service(says: &str) -> Service {
        let text = format!("stack: a\nservices: {{ web: {{ {says}, health: /h }} }}\n");
        parse(&text, None, &no_files).unwrap().services.into_values().next().unwrap()
    }

    fn shown((source, command): (Source, Vec<String>)) -> String {
        let from = match source {
            Source::Host => "host".to_owned(),
            Source::Artifact { artifact: Artifact::Image { name, .. }, .. } => name,
            Source::Artifact { artifact: Artifact::Program { path, .. }, .. } => format!("checked {path}"),
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
            let programs = Programs { artifacts: artifacts.into_iter().collect(), ..Programs::default() };
            assert_eq!(shown(programs.of(&web, &service).unwrap()), runs);
            assert_eq!(shown(programs.of_migrate(&web, &service).unwrap().unwrap()), migrates);
        }
        let bare = service("image: r.io/web");
        let error = Programs::default().of(&web, &bare).unwrap_err();
        assert!(error.hint().unwrap().contains("berth release create"), "{error}");
    }
}
