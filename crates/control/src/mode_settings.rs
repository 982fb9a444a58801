//! What a mode's profile says, where it acts: the variables that processes are told, and the settings of the application's
//! role in a cell's database.
//!
//! The settings are the application's role's alone: mover, hooks and migrations run as others, and take as long as they take.

use crate::{
    App, ControlError,
    cell_access::{self, connect},
};
use berth_config::{ModeProfile, Modes};
use berth_domain::Mode;
use berth_infra::{CellDatabase, EnvVar, Role};
use berth_store::Cell;

/// The WebHost guide's variables, under its names. Those of `modes.MODE.env` are not among them.
pub(crate) fn variables(modes: &Modes, cell: &Cell) -> Vec<EnvVar> {
    let mode = cell.class.mode();
    let profile = modes.of(mode);
    let (pool, isolation) = match mode {
        Mode::MultiTenant => ("SHARED_DATABASE_POOL_SIZE", "database_level"),
        Mode::SingleTenant => ("DEDICATED_DATABASE_POOL_SIZE", "infrastructure_level"),
    };
    [
        (pool, profile.pool_size.to_string()),
        ("DATABASE_QUEUE_TARGET_MS", profile.queue_target.ms().to_string()),
        ("PGAPPNAME", profile.application_name.clone()),
        ("MAX_CUSTOMERS_PER_SERVER", cell.max_tenants.to_string()),
        ("MAX_CUSTOMERS", cell.max_tenants.to_string()),
        ("CUSTOMER_RESOURCE_LIMITS_ENABLED", "true".to_owned()),
        ("TENANT_ISOLATION", isolation.to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| EnvVar::new(name, value))
    .collect()
}

/// Settings of the role, in milliseconds.
fn wanted(profile: &ModeProfile) -> [(&'static str, String); 2] {
    [
        ("statement_timeout", profile.statement_timeout.ms().to_string()),
        ("idle_in_transaction_session_timeout", profile.idle_in_transaction_timeout.ms().to_string()),
    ]
}

/// Makes the settings of the application's role in a cell what the profile says. Sessions that are open keep theirs.
pub(crate) async fn ensure(app: &App, cell: &Cell, database: &CellDatabase) -> Result<bool, ControlError> {
    let in_force = app.stack().await?;
    let profile = in_force.stack.modes.of(cell.class.mode());
    // A role may change its own settings; nobody needs to be a superuser for it.
    let client = connect(&cell.name, database, Role::App).await?;
    let failed = cell_access::failed(&cell.name);
    let known = "SELECT quote_ident(current_database()), coalesce((SELECT setconfig FROM pg_db_role_setting
                 WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND setrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)), '{}')";
    let row = client.query_one(known, &[]).await.map_err(&failed)?;
    let (name, set): (String, Vec<String>) = (row.get(0), row.get(1));
    let mut changed = false;
    for (setting, value) in wanted(profile) {
        if !set.contains(&format!("{setting}={value}")) {
            let statement = format!("ALTER ROLE CURRENT_USER IN DATABASE {name} SET {setting} = '{value}'");
            client.batch_execute(&statement).await.map_err(&failed)?;
            changed = true;
        }
    }
    Ok(changed)
}
