//! The schema and the types that stand for it say the same, and migrations may run again.

use crate::common::{World, open};
use berth_domain::{
    ApprovalState, CellClass, CellState, EdgeId, MemberRole, MemberState, MovePhase, OperationState, OrderState,
    OrderTrouble, Revision, RollCellState, RollState, ServiceRole, TenantState, UsagePeriod, Version, WayBackState,
};
use berth_infra::Role;
use berth_store::{Drained, HoldWent, InvoiceSource, MoveOutcome, ProcessRole, Scope, Sealer, Store, StoreError};
use berth_workflow::StepState;
use std::collections::BTreeSet;

#[tokio::test]
async fn every_check_lists_the_states_of_its_enum_and_no_other() {
    let world = World::new().await;
    let client = world.database.connect(Role::Owner).await;
    let mut wanted: Vec<(&str, &str, Vec<String>)> = Vec::new();
    macro_rules! column {
        ($table:literal, $column:literal, $enum:ty) => {
            wanted.push(($table, $column, <$enum>::ALL.iter().map(|state| state.as_str().to_owned()).collect()));
        };
    }
    column!("plans", "class", CellClass);
    column!("cells", "class", CellClass);
    column!("cells", "state", CellState);
    column!("certificate_orders", "state", OrderState);
    column!("certificate_orders", "trouble", OrderTrouble);
    column!("members", "service_role", ServiceRole);
    column!("members", "role", MemberRole);
    column!("members", "state", MemberState);
    column!("tenants", "state", TenantState);
    column!("placements", "phase", MovePhase);
    column!("ways_back", "state", WayBackState);
    column!("rolls", "state", RollState);
    column!("roll_cells", "state", RollCellState);
    column!("operations", "state", OperationState);
    column!("usage", "period", UsagePeriod);
    column!("approvals", "state", ApprovalState);
    column!("operation_steps", "state", StepState);
    for (table, column, words) in [
        ("hold_reports", "outcome", HoldWent::WORDS),
        ("api_keys", "scope", Scope::WORDS),
        ("moves", "outcome", MoveOutcome::WORDS),
        ("invoices", "source", InvoiceSource::WORDS),
        ("drains", "kind", Drained::WORDS),
        ("processes", "role", ProcessRole::WORDS),
        ("placements", "hold_policy", &["unsafe", "all"]),
        // A host that is the platform's own, or was given by a person, has no claim.
        ("host_claims", "way", &["txt", "http"]),
    ] {
        wanted.push((table, column, words.iter().map(|w| (*w).to_owned()).collect()));
    }

    // Every CHECK of the form `column IN (…)` that there is, so that a new one cannot be forgotten here.
    let rows = client
        .query(
            "SELECT c.conrelid::regclass::text, a.attname::text, pg_get_constraintdef(c.oid)
             FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
             WHERE c.contype = 'c' AND cardinality(c.conkey) = 1 AND pg_get_constraintdef(c.oid) LIKE '%= ANY (ARRAY%'",
            &[],
        )
        .await
        .unwrap();
    let found: BTreeSet<(String, String, BTreeSet<String>)> = rows
        .iter()
        .map(|row| {
            let definition: String = row.get(2);
            let words = definition.split('\'').skip(1).step_by(2).map(str::to_owned).collect();
            (row.get(0), row.get(1), words)
        })
        .collect();
    let wanted: BTreeSet<(String, String, BTreeSet<String>)> = wanted
        .into_iter()
        .map(|(table, column, words)| (table.to_owned(), column.to_owned(), words.into_iter().collect()))
        .collect();
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn migrations_run_again_and_by_two_at_once_change_nothing() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let (one, two) = tokio::join!(open(&world.database), open(&world.database));
    for store in [&world.store, &one, &two] {
        assert_eq!(store.tenant_get(tenant).await.unwrap().unwrap().name.as_str(), "acme");
    }
}

#[tokio::test]
async fn a_wider_schema_serves_the_program_before_and_a_narrower_one_refuses_it() {
    let world = World::new().await;
    let client = world.database.connect(Role::Owner).await;
    let again = async || Store::open(&world.database.url(Role::Owner), Sealer::ephemeral(), 2).await;
    // As a newer program leaves it that has only added.
    client
        .batch_execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'later', true, '', 0)",
        )
        .await
        .unwrap();
    again().await.unwrap();
    client.batch_execute("UPDATE schema_floor SET migration = 9999").await.unwrap();
    let refused = again().await.unwrap_err().to_string();
    assert!(refused.contains("from migration 9999 on") && refused.contains("too old"), "{refused}");
}

#[tokio::test]
async fn a_program_far_from_the_one_that_has_worked_on_a_database_is_refused_by_name() {
    let world = World::new().await;
    let client = world.database.connect(Role::Owner).await;
    let again = async || Store::open(&world.database.url(Role::Owner), Sealer::ephemeral(), 2).await;
    let own = Version::own();
    assert_eq!(world.store.schema().await.unwrap().program, Some(own.clone()));
    client.batch_execute("UPDATE schema_floor SET program = '77.1.0'").await.unwrap();
    let refused = again().await.unwrap_err();
    assert!(matches!(&refused, StoreError::TooFar { who, .. } if who.contains("77.1.0 has worked")), "{refused}");
    assert_eq!(world.store.schema().await.unwrap().program.unwrap().to_string(), "77.1.0");
    client.batch_execute("UPDATE schema_floor SET program = NULL").await.unwrap();
    // A server that works on it now.
    let (instance, far) = (uuid::Uuid::now_v7(), "77.1.0".parse().unwrap());
    world.store.process_seen(instance, ProcessRole::Serve, "north", &far).await.unwrap();
    let refused = again().await.unwrap_err();
    assert!(matches!(&refused, StoreError::TooFar { who, .. } if who.contains("77.1.0 on north")), "{refused}");
    assert!(refused.hint().is_some());
    world.store.process_gone(instance).await.unwrap();
    again().await.unwrap();
    assert_eq!(world.store.schema().await.unwrap().program, Some(own));
}

#[tokio::test]
async fn an_edge_has_the_version_of_the_process_that_it_is_now() {
    let world = World::new().await;
    let (edge, one, two) =
        ("fra".parse().unwrap(), EdgeId::new(uuid::Uuid::now_v7()), EdgeId::new(uuid::Uuid::now_v7()));
    let version = async || world.store.edge_list().await.unwrap().remove(0).version.map(|version| version.to_string());
    world.store.edge_seen(&edge, one, Revision::new(0), false).await.unwrap();
    assert_eq!(version().await, None, "it does not say");
    let own = Version::own();
    world.store.process_seen(one.uuid(), ProcessRole::Edge, edge.as_str(), &own).await.unwrap();
    assert_eq!(version().await, Some(own.to_string()));
    // Another process of its name, of a version that says nothing.
    world.store.edge_seen(&edge, two, Revision::new(0), false).await.unwrap();
    assert_eq!(version().await, None);
    assert!(world.store.server_list().await.unwrap().is_empty(), "an edge is no server");
}
