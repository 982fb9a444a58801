//! How to get into a cell's database: the form in which it is sealed, sessions on it, and the mover's end of it.
//!
//! Never a password in an error or a log line.

use crate::ControlError;
use berth_domain::CellName;
use berth_infra::{CellDatabase, DatabaseName, Login, Role};
use berth_mover::Endpoint;
use berth_pg::Tls;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, de::Error as _};
use std::{collections::BTreeMap, path::PathBuf};
use tokio_postgres::Client;

/// The stored form. `CellDatabase` itself cannot be serialized, so that nobody stores it unsealed by mistake.
#[derive(Serialize, Deserialize)]
struct Stored {
    name: DatabaseName,
    /// None where it is come to over TLS: a version of Berth that knows none must not come in plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    port: u16,
    socket_dir: Option<PathBuf>,
    database: String,
    logins: BTreeMap<Role, (String, String)>,
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redis: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    objects: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    over_tls: Option<(String, Tls)>,
}

/// Equal for two looks at the same database: free disk space is not part of it.
pub(crate) fn write(database: &CellDatabase) -> Result<SecretString, ControlError> {
    let login =
        |(role, login): (&Role, &Login)| (*role, (login.user.clone(), login.password.expose_secret().to_owned()));
    let stored = Stored {
        name: database.name.clone(),
        host: database.tls.is_none().then(|| database.host.clone()),
        port: database.port,
        socket_dir: database.socket_dir.clone(),
        database: database.database.clone(),
        logins: database.logins.iter().map(login).collect(),
        version: database.version,
        redis: database.redis.as_ref().map(|url| url.expose_secret().to_owned()),
        objects: database.objects.clone(),
        over_tls: database.tls.clone().map(|tls| (database.host.clone(), tls)),
    };
    Ok(serde_json::to_string(&stored)?.into())
}

pub(crate) fn read(text: &SecretString) -> Result<CellDatabase, ControlError> {
    let stored: Stored = serde_json::from_str(text.expose_secret())?;
    let login = |(role, (user, password)): (Role, (String, String))| (role, Login { user, password: password.into() });
    let (host, tls) = match stored.over_tls {
        Some((host, tls)) => (host, Some(tls)),
        None => (stored.host.ok_or_else(|| serde_json::Error::missing_field("host"))?, None),
    };
    Ok(CellDatabase {
        name: stored.name,
        host,
        port: stored.port,
        socket_dir: stored.socket_dir,
        database: stored.database,
        logins: stored.logins.into_iter().map(login).collect(),
        version: stored.version,
        free_disk_bytes: None,
        redis: stored.redis.map(SecretString::from),
        objects: stored.objects,
        tls,
    })
}

/// The mover's way in: over the Unix socket where there is one, which saves a copy of every row.
pub fn endpoint(database: &CellDatabase) -> Endpoint {
    let login = database.login(Role::Mover);
    Endpoint {
        host: match &database.socket_dir {
            Some(folder) => folder.to_string_lossy().into_owned(),
            None => database.host.clone(),
        },
        port: database.port,
        database: database.database.clone(),
        user: login.user.clone(),
        password: login.password.clone(),
        tls: database.tls.clone(),
    }
}

/// A session in a cell's database. Dropping the client ends it.
pub(crate) async fn connect(cell: &CellName, database: &CellDatabase, role: Role) -> Result<Client, ControlError> {
    let login = database.login(role);
    let mut config = tokio_postgres::Config::new();
    config
        .host(&database.host)
        .port(database.port)
        .dbname(&database.database)
        .user(&login.user)
        .password(login.password.expose_secret())
        .application_name("berth");
    let connected = berth_pg::connect(&config, database.tls.as_ref()).await;
    connected.map_err(|source| ControlError::CellDatabase { cell: cell.clone(), source })
}

pub(crate) fn failed(cell: &CellName) -> impl Fn(tokio_postgres::Error) -> ControlError {
    move |source| ControlError::CellDatabase { cell: cell.clone(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::{read, write};
    use berth_infra::{CellDatabase, DatabaseName, Login, Role};
    use secrecy::ExposeSecret;

    #[test]
    fn what_is_sealed_reads_back_with_its_passwords() {
        let login = |role: Role| (role, Login { user: role.user().into(), password: format!("pw {role:?}").into() });
        let database = CellDatabase {
            name: DatabaseName::new("a").unwrap(),
            host: "127.0.0.1".into(),
            port: 5433,
            socket_dir: Some("/run/x".into()),
            database: "app".into(),
            logins: Role::ALL.map(login).into(),
            version: 150_014,
            free_disk_bytes: Some(5),
            redis: Some("redis://:pw@127.0.0.1:6380/0".into()),
            objects: Some("file:///srv/objects".into()),
            tls: Some(berth_pg::Tls { roots: Some("/etc/roots.pem".into()) }),
        };
        let back = read(&write(&database).unwrap()).unwrap();
        assert_eq!(back.url(Role::App).expose_secret(), database.url(Role::App).expose_secret());
        assert_eq!(back.redis.unwrap().expose_secret(), "redis://:pw@127.0.0.1:6380/0");
        assert_eq!((back.socket_dir, back.version), (database.socket_dir.clone(), database.version));
        let fuller = CellDatabase { free_disk_bytes: None, ..database.clone() };
        assert_eq!(write(&fuller).unwrap().expose_secret(), write(&database).unwrap().expose_secret());
    }
}
