//! What a mode's profile says, where it acts: the variables that processes are told, and the settings of the application's
//! role in a cell's database.
//!
//! The settings are the application's role's alone: mover, hooks and migrations run as others, and take as long as they take.

use crate::{
    App, ControlError,
    cell_access::{self, connect},
};
use berth_config::{ModeProfile, Modes, Service};
use berth_domain::Mode;
use berth_infra::{CellDatabase, EnvVar, Role};
use berth_store::Cell;
use secrecy::ExposeSecret as _;

/// The WebHost guide's variables, under its names, as far as Berth knows what they should say. Those of `modes.MODE.env` are
/// not among them.
pub(crate) fn variables(
    modes: &Modes,
    cell: &Cell,
    database: &CellDatabase,
    service: &Service,
    role: Role,
) -> Vec<EnvVar> {
    let mode = cell.class.mode();
    let profile = modes.of(mode);
    let (pool, url, isolation) = match mode {
        Mode::MultiTenant => ("SHARED_DATABASE_POOL_SIZE", "SHARED_DATABASE_URL", "database_level"),
        Mode::SingleTenant => ("DEDICATED_DATABASE_POOL_SIZE", "DEDICATED_DATABASE_URL", "infrastructure_level"),
    };
    let mut told = vec![EnvVar::new(url, database.url(role))];
    if let Some((host, port)) = database.redis.as_ref().and_then(|url| host_of(url.expose_secret())) {
        told.extend([
            EnvVar::new("REDIS_HOST", host),
            EnvVar::new("REDIS_PORT", port),
            EnvVar::new("REDIS_POOL_SIZE", profile.redis_pool_size.to_string()),
        ]);
    }
    told.extend(cell.region.clone().map(|region| EnvVar::new("PRIMARY_REGION", region)));
    // Both of the guide's names for it.
    for name in ["AUTOSCALING_ENABLED", "AUTO_SCALING_ENABLED"] {
        told.push(EnvVar::new(name, service.scale.is_some().to_string()));
    }
    if let Some(scale) = &service.scale {
        told.extend([
            EnvVar::new("MIN_INSTANCES", scale.min.to_string()),
            EnvVar::new("MAX_INSTANCES", scale.max.to_string()),
            EnvVar::new("CPU_THRESHOLD", scale.cpu.to_string()),
            EnvVar::new("MEMORY_THRESHOLD", scale.memory.to_string()),
        ]);
    }
    let always = [
        ("POOL_SIZE", profile.pool_size.to_string()),
        (pool, profile.pool_size.to_string()),
        ("DATABASE_QUEUE_TARGET_MS", profile.queue_target.ms().to_string()),
        ("PGAPPNAME", profile.application_name.clone()),
        ("MAX_CUSTOMERS_PER_SERVER", cell.max_tenants.to_string()),
        ("MAX_CUSTOMERS", cell.max_tenants.to_string()),
        ("CUSTOMER_RESOURCE_LIMITS_ENABLED", "true".to_owned()),
        ("TENANT_ISOLATION", isolation.to_owned()),
    ];
    told.extend(always.into_iter().map(|(name, value)| EnvVar::new(name, value)));
    told
}

/// Host and port of a URL with a login: `redis://:secret@10.0.0.5:6379/0`.
fn host_of(url: &str) -> Option<(String, String)> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let place = authority.rsplit('@').next()?;
    let (host, port) = place.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).to_owned(), port.to_owned()))
}

/// Settings of the role that the stack file speaks of, in milliseconds. Others are whoever set them's.
fn wanted(profile: &ModeProfile) -> Vec<(&'static str, String)> {
    [
        ("statement_timeout", profile.statement_timeout),
        ("idle_in_transaction_session_timeout", profile.idle_in_transaction_timeout),
    ]
    .into_iter()
    .filter_map(|(setting, span)| Some((setting, span?.ms().to_string())))
    .collect()
}

/// Makes the settings of the application's role in a cell what the profile says. Sessions that are open keep theirs.
pub(crate) async fn ensure(app: &App, cell: &Cell, database: &CellDatabase) -> Result<bool, ControlError> {
    let in_force = app.stack().await?;
    let wanted = wanted(in_force.stack.modes.of(cell.class.mode()));
    if wanted.is_empty() {
        return Ok(false);
    }
    // A role may change its own settings; nobody needs to be a superuser for it.
    let client = connect(&cell.name, database, Role::App).await?;
    let failed = cell_access::failed(&cell.name);
    let known = "SELECT quote_ident(current_database()), coalesce((SELECT setconfig FROM pg_db_role_setting
                 WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND setrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)), '{}')";
    let row = client.query_one(known, &[]).await.map_err(&failed)?;
    let (name, set): (String, Vec<String>) = (row.get(0), row.get(1));
    let mut changed = false;
    for (setting, value) in wanted {
        if !set.contains(&format!("{setting}={value}")) {
            let statement = format!("ALTER ROLE CURRENT_USER IN DATABASE {name} SET {setting} = '{value}'");
            client.batch_execute(&statement).await.map_err(&failed)?;
            changed = true;
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn a_place_is_told_without_its_login() {
        for (url, host, port) in [
            ("redis://:p%40ss@10.0.0.5:6379/0", "10.0.0.5", "6379"),
            ("redis://user:pw@cache.example:6380", "cache.example", "6380"),
            ("redis://[::1]:7000/", "::1", "7000"),
        ] {
            assert_eq!(host_of(url), Some((host.to_owned(), port.to_owned())), "{url}");
        }
        assert_eq!(host_of("unix:/run/redis"), None);
    }
}
