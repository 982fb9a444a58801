//! What a member of a cell is to run, from the stack file: the same answer for whoever starts it, the workflow that
//! makes the cell or the reconciler that brings a member back.

use crate::{App, ControlError, app::StackInForce, mode_settings, programs::Programs};
use berth_config::Service;
use berth_domain::{CellName, OperationId, ServiceName};
use berth_infra::{
    CellDatabase, CellSpec, DatabaseName, EnvVar, MemberName, MemberSpec, RedisUse, Role, RunSpec, Shape,
};
use berth_store::{Cell, Member};
use secrecy::SecretString;
use std::{collections::BTreeMap, time::Duration};

/// A shape with what the stack file leaves open filled in.
pub(crate) fn shape(wanted: berth_config::Shape) -> Shape {
    let usual = Shape::default();
    Shape {
        cpu_millis: wanted.cpu_millis.unwrap_or(usual.cpu_millis),
        memory_mb: wanted.memory_mib.unwrap_or(usual.memory_mb),
        disk_gb: wanted.disk_gib.unwrap_or(usual.disk_gb),
    }
}

pub(crate) fn cell_spec(cell: &Cell, data: &berth_config::Data) -> Result<CellSpec, ControlError> {
    let wanted: berth_config::Shape = serde_json::from_value(cell.shape.clone())?;
    Ok(CellSpec {
        name: DatabaseName::of(&cell.name),
        cell: cell.name.clone(),
        shape: shape(wanted),
        redis: data.redis.as_ref().map(|redis| if redis.store { RedisUse::Store } else { RedisUse::Cache }),
        objects: data.objects.is_some(),
    })
}

pub(crate) fn member_name(cell: &CellName, member: &Member) -> MemberName {
    let copy = u16::try_from(member.copy).unwrap_or(u16::MAX);
    MemberName::of_release(cell, &member.service, copy, member.release)
}

/// `programs`: of the member's release.
pub(crate) async fn member_spec(
    app: &App,
    in_force: &StackInForce,
    programs: &Programs,
    cell: &Cell,
    database: &CellDatabase,
    member: &Member,
    service: &Service,
) -> Result<MemberSpec, ControlError> {
    let (source, command) = programs.known(app, &member.service, service).await?;
    Ok(MemberSpec {
        name: member_name(&cell.name, member),
        cell: cell.name.clone(),
        service: member.service.clone(),
        index: u16::try_from(member.copy).unwrap_or(u16::MAX),
        source,
        command,
        env: environment(app, in_force, cell, database, service, Role::App)?,
        port: service.port.unwrap_or(0),
        health_path: service.health.clone(),
        shape: shape(service.shape),
    })
}

/// The service's migration, to be run in the cell. Every program with a `migrate` is run, and each has to bear that
/// the schema is already there.
pub(crate) async fn migrate_spec(
    app: &App,
    in_force: &StackInForce,
    programs: &Programs,
    cell: &Cell,
    database: &CellDatabase,
    (name, service): (&ServiceName, &Service),
    operation: OperationId,
) -> Result<Option<RunSpec>, ControlError> {
    let Some((source, command)) = programs.of_migrate(app, name, service).await? else { return Ok(None) };
    Ok(Some(RunSpec {
        what: format!("`migrate` of service `{name}` in cell `{}`", cell.name),
        cell: cell.name.clone(),
        source,
        command,
        env: environment(app, in_force, cell, database, service, Role::Owner)?,
        time_limit: Duration::from_millis(in_force.stack.releases.migrate_limit.ms()),
        shape: shape(service.shape),
        key: Some(format!("{operation}.{name}")),
    }))
}

/// What every process of a cell is told (`app.md`), then the service's own variables.
fn environment(
    app: &App,
    in_force: &StackInForce,
    cell: &Cell,
    database: &CellDatabase,
    service: &Service,
    role: Role,
) -> Result<Vec<EnvVar>, ControlError> {
    let mut env = vec![
        EnvVar::new("DATABASE_URL", database.url(role)),
        EnvVar::new("DEPLOYMENT_MODE", cell.class.mode().as_str().to_owned()),
        EnvVar::new("INFRASTRUCTURE_PROVIDER", cell.provider.clone()),
        EnvVar::new("BERTH_CELL", cell.name.to_string()),
    ];
    env.extend(database.redis.clone().map(|url| EnvVar::new("REDIS_URL", url)));
    env.extend(database.objects.clone().map(|url| EnvVar::new("OBJECTS_URL", url)));
    let modes = &in_force.stack.modes;
    env.extend(mode_settings::variables(modes, cell, database, service, role));
    // What is said nearer to the process goes before what is said for the mode, and that before what is usual.
    let mut own: BTreeMap<String, SecretString> = BTreeMap::new();
    for (name, template) in &modes.of(cell.class.mode()).env {
        own.insert(name.clone(), template.resolve(app.environment())?);
    }
    own.extend(service.resolved_env(app.environment())?);
    env.retain(|usual| !own.contains_key(&usual.name));
    env.extend(own.into_iter().map(|(name, value)| EnvVar { name, value }));
    Ok(env)
}
