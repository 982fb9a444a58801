//! The schema of the control database, over versions: what is applied at a start, and what waits.
//!
//! A migration's first line says which kind it is. `-- berth: expand`, and one that says nothing, adds what the version
//! before does not see, and is applied at a start. `-- berth: contract 0.2.0` takes away what the version before 0.2.0 uses,
//! and raises `schema_floor`: it waits until an upgrade to 0.2.0 is finished, for until then there is a way back; a later
//! minor version applies it at its start, because it works beside nothing older than 0.2. So what expands must not rest on
//! a contraction with a lower number.

use crate::{Store, StoreError};
use berth_domain::{BadStep, Version};
use sqlx::{
    PgPool,
    error::DatabaseError,
    migrate::{Migration, Migrator},
};
use std::borrow::Cow;

const MARK: &str = "-- berth: contract ";

/// A migration that this program carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownMigration {
    pub number: i64,
    /// It takes away what the version before this one uses. `None`: it only adds.
    pub contracts: Option<Version>,
}

/// How far the control database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    pub applied: Vec<i64>,
    /// The oldest program that it still serves, by the newest migration that it knows.
    pub floor: i64,
    /// The newest program that has worked on it.
    pub program: Option<Version>,
}

impl Schema {
    pub fn newest(&self) -> i64 {
        self.applied.iter().copied().max().unwrap_or(0)
    }
}

/// What this program carries, in order. Embedded: a program and the schema it needs are never apart.
pub fn migrations() -> Vec<KnownMigration> {
    embedded().iter().map(known).collect()
}

#[cfg(debug_assertions)]
static MORE: std::sync::OnceLock<Vec<Migration>> = std::sync::OnceLock::new();

/// Migrations of a version that is not written yet, by their numbers, once: beside `Version::claim`. Not in releases.
#[cfg(debug_assertions)]
pub fn carry(mut more: Vec<(i64, String)>) {
    use sqlx::{SqlSafeStr as _, migrate::MigrationType};
    more.sort_unstable();
    let migration = |(number, text): (i64, String)| {
        let text: &'static str = text.leak();
        Migration::new(number, "later".into(), MigrationType::Simple, text.into_sql_str(), false)
    };
    let _ = MORE.set(more.into_iter().map(migration).collect());
}

fn embedded() -> Migrator {
    let carried = sqlx::migrate!();
    #[cfg(debug_assertions)]
    if let Some(more) = MORE.get() {
        let all = carried.iter().chain(more).cloned().collect();
        return Migrator { migrations: Cow::Owned(all), ..Migrator::DEFAULT };
    }
    carried
}

fn known(migration: &Migration) -> KnownMigration {
    let first = migration.sql.as_str().lines().next().unwrap_or_default();
    let contracts = first.strip_prefix(MARK).map(|version| {
        // One that cannot be read would be applied too early; a test reads all of them.
        version.trim().parse().expect("a contraction names the version that it came with")
    });
    KnownMigration { number: migration.version, contracts }
}

/// Whether a start of `own` applies it. `fresh`: nobody has used this database.
fn at_start(migration: &KnownMigration, own: &Version, fresh: bool) -> bool {
    migration.contracts.as_ref().is_none_or(|of| fresh || of.is_of_earlier_minor_than(own))
}

/// Whether `own` may work on a database on which `program` was the newest one, beside servers of these versions.
fn may_work(own: &Version, program: Option<&Version>, others: &[(String, Version)]) -> Result<(), StoreError> {
    let refused = |who: String, refused: BadStep| StoreError::TooFar { who, refused: Box::new(refused) };
    if let Some(program) = program {
        program.step(own).map_err(|error| refused(format!("{program} has worked on this control database"), error))?;
    }
    for (name, version) in others {
        let who = || format!("a server of {version} on {name} works on this control database");
        version.step(own).map_err(|error| refused(who(), error))?;
    }
    Ok(())
}

/// Brings the schema up to what this program knows. One that a newer program has widened is left as it is: the two work
/// side by side while an upgrade is under way. One that a newer program has narrowed, or that is not of a version beside
/// this one, is not touched.
pub(crate) async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
    migrate_with(pool, &embedded(), &Version::own()).await
}

async fn migrate_with(pool: &PgPool, carried: &Migrator, own: &Version) -> Result<(), StoreError> {
    let newest = carried.iter().map(|migration| migration.version).max().unwrap_or(0);
    // Tables and columns that are not there yet are those of an older schema, or of an empty database.
    let floor = there(sqlx::query_scalar!("SELECT migration FROM schema_floor").fetch_optional(pool).await)?.flatten();
    if let Some(floor) = floor.filter(|floor| *floor > newest) {
        return Err(StoreError::TooOld { floor, newest });
    }
    let program = program(pool).await?;
    may_work(own, program.as_ref(), &servers(pool).await?)?;
    let fresh = sqlx::query_scalar!(r#"SELECT to_regclass('_sqlx_migrations') IS NULL AS "fresh!""#);
    let fresh = fresh.fetch_one(pool).await?;
    apply(pool, carried, |migration| at_start(migration, own, fresh)).await?;
    // Two may say so at once: the newer one is the one that counts, and it says it again at its next start.
    if program.is_none_or(|program| program < *own) {
        sqlx::query!("UPDATE schema_floor SET program = $1", own.to_string()).execute(pool).await?;
    }
    Ok(())
}

async fn apply(pool: &PgPool, carried: &Migrator, wanted: impl Fn(&KnownMigration) -> bool) -> Result<(), StoreError> {
    let chosen: Vec<Migration> = carried.iter().filter(|migration| wanted(&known(migration))).cloned().collect();
    let mut migrator = Migrator { migrations: Cow::Owned(chosen), ..Migrator::DEFAULT };
    migrator.set_ignore_missing(true);
    Ok(migrator.run(pool).await?)
}

/// `None`: the table or the column is not there.
fn there<T>(answer: Result<T, sqlx::Error>) -> Result<Option<T>, StoreError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error)
            if error
                .as_database_error()
                .and_then(DatabaseError::code)
                .is_some_and(|code| matches!(&*code, "42P01" | "42703")) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

async fn program(pool: &PgPool) -> Result<Option<Version>, StoreError> {
    let text = sqlx::query_scalar!("SELECT program FROM schema_floor").fetch_optional(pool).await;
    // What this version cannot read is of one that is far from it, and its step is refused by the floor.
    Ok(there(text)?.flatten().flatten().and_then(|text| text.parse().ok()))
}

/// Those that have been heard of lately.
async fn servers(pool: &PgPool) -> Result<Vec<(String, Version)>, StoreError> {
    let rows = sqlx::query!(
        "SELECT name, version FROM processes WHERE role = 'serve' AND last_seen > now() - make_interval(secs => $1)",
        crate::processes::SERVER_SILENT_S
    )
    .fetch_all(pool)
    .await;
    let rows = there(rows)?.unwrap_or_default();
    Ok(rows.into_iter().filter_map(|row| Some((row.name, row.version.parse().ok()?))).collect())
}

impl Store {
    pub async fn schema(&self) -> Result<Schema, StoreError> {
        // The migrator's own table, which no migration makes: the one statement that is not checked beforehand.
        let applied = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success ORDER BY version");
        let applied = applied.fetch_all(&self.pool).await?;
        let floor = sqlx::query_scalar!("SELECT migration FROM schema_floor").fetch_one(&self.pool).await?;
        Ok(Schema { applied, floor, program: program(&self.pool).await? })
    }

    /// Applies the contractions that have waited. Only for who knows that nothing older runs: there is no way back then.
    pub async fn schema_contract(&self) -> Result<(), StoreError> {
        apply(&self.pool, &embedded(), |_| true).await
    }
}

#[cfg(test)]
mod tests {
    use super::{KnownMigration, at_start, known, may_work, migrate_with, migrations, program};
    use crate::StoreError;
    use berth_infra::Role;
    use berth_testkit::TestDatabase;
    use secrecy::ExposeSecret as _;
    use sqlx::{
        PgPool, SqlSafeStr as _,
        migrate::{Migration, MigrationType, Migrator},
        postgres::PgPoolOptions,
    };
    use std::borrow::Cow;

    fn carried(more: &[(i64, &'static str)]) -> Migrator {
        let mut all: Vec<Migration> = sqlx::migrate!().iter().cloned().collect();
        all.extend(more.iter().map(|(number, sql)| {
            Migration::new(*number, "later".into(), MigrationType::Simple, (*sql).into_sql_str(), false)
        }));
        Migrator { migrations: Cow::Owned(all), ..Migrator::DEFAULT }
    }

    async fn has(pool: &PgPool, relation: &str) -> bool {
        sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(relation).fetch_one(pool).await.unwrap()
    }

    #[test]
    fn every_migration_says_its_kind_or_expands() {
        let all = migrations();
        assert!(all.len() > 10 && all.iter().all(|migration| migration.number > 0));
        let contraction = Migration::new(
            1,
            "x".into(),
            MigrationType::Simple,
            "-- berth: contract 0.2.0\nDROP TABLE x".into_sql_str(),
            false,
        );
        assert_eq!(known(&contraction).contracts, Some("0.2.0".parse().unwrap()));
    }

    #[test]
    fn a_contraction_waits_for_the_end_of_its_upgrade_or_for_the_next_version() {
        let of = |version: &str| KnownMigration { number: 1, contracts: Some(version.parse().unwrap()) };
        let own = "0.2.3".parse().unwrap();
        assert!(at_start(&KnownMigration { number: 1, contracts: None }, &own, false));
        for (version, fresh, applied) in
            [("0.2.0", false, false), ("0.2.3", false, false), ("0.1.4", false, true), ("0.2.0", true, true)]
        {
            assert_eq!(at_start(&of(version), &own, fresh), applied, "{version} fresh: {fresh}");
        }
    }

    #[test]
    fn a_program_works_on_a_database_of_its_own_minor_version_or_an_adjacent_one() {
        let own = "0.2.0".parse().unwrap();
        let may = |program: Option<&str>, other: &str| {
            let program = program.map(|version| version.parse().unwrap());
            may_work(&own, program.as_ref(), &[("north".into(), other.parse().unwrap())])
        };
        may(None, "0.2.0").unwrap();
        may(Some("0.1.9"), "0.3.0").unwrap();
        for (program, other) in [(Some("0.4.0"), "0.2.0"), (None, "0.0.9"), (Some("0.2.0"), "1.0.0")] {
            let refused = may(program, other).unwrap_err();
            assert!(matches!(&refused, StoreError::TooFar { .. }) && refused.hint().is_some(), "{refused}");
        }
    }

    #[tokio::test]
    async fn an_upgrade_expands_at_its_start_and_contracts_at_its_end() {
        let database = TestDatabase::new().await;
        let url = database.url(Role::Owner);
        let pool = PgPoolOptions::new().max_connections(2).connect(url.expose_secret()).await.unwrap();
        let (old, new, next) = ("0.1.0".parse().unwrap(), "0.2.0".parse().unwrap(), "0.3.0".parse().unwrap());
        let narrower = "-- berth: contract 0.2.0\nDROP TABLE used_before; UPDATE schema_floor SET migration = 9002;";
        let before = carried(&[(9001, "CREATE TABLE used_before (x int)")]);
        let after = carried(&[
            (9001, "CREATE TABLE used_before (x int)"),
            (9002, narrower),
            (9003, "-- berth: expand\nCREATE TABLE used_after (x int)"),
        ]);
        migrate_with(&pool, &before, &old).await.unwrap();
        assert_eq!(program(&pool).await.unwrap(), Some(old));
        migrate_with(&pool, &after, &new).await.unwrap();
        assert!(has(&pool, "used_before").await && has(&pool, "used_after").await, "it expanded and nothing else");
        // The way back, and forth again.
        migrate_with(&pool, &before, &"0.1.0".parse().unwrap()).await.unwrap();
        assert_eq!(program(&pool).await.unwrap(), Some(new.clone()), "the newest one stays known");
        migrate_with(&pool, &after, &new).await.unwrap();
        // Two steps at once are refused before anything is changed.
        let refused = migrate_with(&pool, &after, &"0.4.0".parse().unwrap()).await.unwrap_err();
        assert_eq!(refused.hint().unwrap(), "upgrade to 0.3 first");
        // The version after it applies what has waited, and the one before it is refused from then on.
        migrate_with(&pool, &after, &next).await.unwrap();
        assert!(!has(&pool, "used_before").await);
        let refused = migrate_with(&pool, &before, &new).await.unwrap_err();
        assert!(matches!(refused, StoreError::TooOld { floor: 9002, newest: 9001 }), "{refused}");
    }

    #[tokio::test]
    async fn an_empty_database_gets_everything_at_once() {
        let database = TestDatabase::new().await;
        let url = database.url(Role::Owner);
        let pool = PgPoolOptions::new().max_connections(2).connect(url.expose_secret()).await.unwrap();
        let all = carried(&[(9001, "CREATE TABLE x (x int)"), (9002, "-- berth: contract 0.2.0\nDROP TABLE x")]);
        migrate_with(&pool, &all, &"0.2.0".parse().unwrap()).await.unwrap();
        assert!(!has(&pool, "x").await);
    }
}
