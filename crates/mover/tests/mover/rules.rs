//! What the two databases demand of a row besides its columns' types, and what a plan says of the rest.

use crate::common::{MemoryOwnership, Two, cut_over, until_built};
use berth_infra::Role;
use berth_mover::{MoveError, MovePlan, MoveSpec, Obstacle};

const SCHEMA: &str = "
    create type mood as enum ('calm', 'cross');
    create domain share as numeric check (value <= 1);
    create table customers (id uuid primary key, moods mood[] not null default '{}', part share);
    create table orders (
        id uuid primary key default gen_random_uuid(), customer_id uuid not null references customers,
        at date not null default '2026-01-15', net int not null default 1, gross int generated always as (net * 2) stored,
        constraint in_range check (net between 0 and 100));
    create table lines (id uuid primary key default gen_random_uuid(), order_id uuid not null references orders);";

async fn two() -> Two {
    let two = Two::shared(SCHEMA).await;
    let source = two.client(&two.source, Role::Mover).await;
    for tenant in [two.tenant, two.neighbour] {
        source.execute("insert into customers values ($1)", &[&tenant]).await.unwrap();
        let with_line = "with o as (insert into orders (customer_id) values ($1) returning id) insert into lines (order_id) select id from o";
        source.execute(with_line, &[&tenant]).await.unwrap();
    }
    two
}

async fn change(two: &Two, database: &str, sql: &str) {
    two.client(database, Role::Owner).await.batch_execute(sql).await.unwrap();
}

async fn differences(two: &Two) -> Vec<String> {
    match berth_mover::plan(&two.spec()).await {
        Err(MoveError::Obstacles(all)) => all
            .into_iter()
            .map(|obstacle| {
                assert!(obstacle.hint().contains("migration"), "{obstacle:?}");
                match obstacle {
                    Obstacle::SchemaDiffers { table, difference } => format!("{table}: {difference}"),
                    other => panic!("{other:?}"),
                }
            })
            .collect(),
        planned => panic!("{planned:?}"),
    }
}

async fn planned(spec: &MoveSpec) -> MovePlan {
    berth_mover::plan(spec).await.unwrap()
}

#[tokio::test]
async fn a_row_that_the_other_side_would_refuse_is_known_before() {
    let two = two().await;
    planned(&two.spec()).await;
    change(&two, &two.source, "alter type mood add value 'glad'").await;
    assert_eq!(differences(&two).await, ["customers: the target lacks the label 'glad' of enum public.mood"]);
    change(&two, &two.target, "alter type mood add value 'glad'").await;
    planned(&two.spec()).await;

    // Stricter there: the move would fail. Stricter here: its undo would.
    change(&two, &two.target, "alter domain share add check (value >= 0)").await;
    let [rule] = &differences(&two).await[..] else { panic!("one rule differs") };
    assert!(rule.starts_with("customers: the source lacks the rule CHECK ((VALUE >= "), "{rule}");
    assert!(rule.ends_with("of domain public.share"), "{rule}");
    change(&two, &two.target, "alter domain share drop constraint share_check1").await;

    change(&two, &two.target, "alter table orders drop constraint in_range").await;
    change(&two, &two.target, "alter table orders add constraint in_range check (net between 0 and 10)").await;
    let found = differences(&two).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("orders: the target lacks the rule CHECK") && found[0].contains("100"), "{found:?}");
    assert!(found[1].starts_with("orders: the source lacks the rule CHECK") && found[1].contains("10)"), "{found:?}");
    // The same under another name, not yet looked at for old rows, is the same rule.
    change(&two, &two.target, "alter table orders drop constraint in_range").await;
    change(&two, &two.target, "alter table orders add constraint range check (net between 0 and 100) not valid").await;
    planned(&two.spec()).await;

    change(&two, &two.target, "alter table lines drop constraint lines_order_id_fkey").await;
    assert_eq!(
        differences(&two).await,
        ["lines: the target lacks the foreign key FOREIGN KEY (order_id) REFERENCES public.orders(id)"]
    );
    change(&two, &two.target, "alter table lines add foreign key (order_id) references orders").await;
    change(&two, &two.target, "alter table orders drop gross").await;
    change(&two, &two.target, "alter table orders add gross int generated always as (net * 3) stored").await;
    assert_eq!(
        differences(&two).await,
        [
            "orders: the target lacks the expression (net * 2) of column gross",
            "orders: the source lacks the expression (net * 3) of column gross"
        ]
    );
}

#[tokio::test]
async fn keys_policies_and_triggers_of_one_side_alone_are_named() {
    let two = two().await;
    for (there, undone, says) in [
        (
            "alter table orders add constraint once unique (customer_id, at)",
            "alter table orders drop constraint once",
            "the unique key (customer_id, at)",
        ),
        (
            "create unique index once on orders (at) where net > 5",
            "drop index once",
            "the unique key (at) where (net > 5)",
        ),
        (
            "alter table orders add constraint once exclude using btree (net with =)",
            "alter table orders drop constraint once",
            "the rule EXCLUDE USING btree (net WITH =)",
        ),
        (
            "create policy mine on orders using (net > 1)",
            "drop policy mine on orders",
            "the policy mine for all using (net > 1)",
        ),
        (
            "alter table orders enable row level security",
            "alter table orders disable row level security",
            "row level security",
        ),
        (
            "create function tell() returns trigger language plpgsql as 'begin return new; end';
             create trigger tells before insert on orders for each row execute function tell()",
            "drop trigger tells on orders",
            "the TRIGGER tells BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION public.tell()",
        ),
    ] {
        change(&two, &two.target, there).await;
        assert_eq!(differences(&two).await, [format!("orders: the source lacks {says}")]);
        change(&two, &two.target, undone).await;
        planned(&two.spec()).await;
    }
    // A constraint and an index ask the same of a row.
    change(&two, &two.source, "create unique index on orders (customer_id, at)").await;
    change(&two, &two.target, "alter table orders add unique (customer_id, at)").await;
    planned(&two.spec()).await;
}

#[tokio::test]
async fn a_type_that_the_target_lacks_is_named_with_its_extension() {
    let two = two().await;
    change(&two, &two.source, "create extension hstore; alter table orders add tags hstore[]").await;
    let found = differences(&two).await;
    assert!(
        found.contains(&"orders: the target lacks type `public.hstore` of extension `hstore`".to_owned()),
        "{found:?}"
    );
    change(&two, &two.target, "create extension hstore").await;
    assert_eq!(differences(&two).await, ["orders: the target lacks column `tags`"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_comes_while_a_tenant_moves_ends_the_move_as_a_change_of_the_schema() {
    let two = two().await;
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, _) = until_built(&spec, &ownership).await;
    change(&two, &two.source, "alter type mood add value 'glad'").await;
    let glad = format!("update customers set moods = '{{glad}}' where id = '{}'", two.tenant);
    change(&two, &two.source, &glad).await;
    let cut = cut_over(&spec, &plan, &ownership).await.unwrap_err();
    assert!(matches!(&cut, MoveError::SchemaChanged { what } if what.contains("mood")), "{cut:?}");
    let token = berth_mover::give_up(&spec, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, false, token).await.unwrap();
    assert_eq!(ownership.row().owner, spec.source_cell);
}

#[tokio::test]
async fn a_plan_says_what_it_costs_the_neighbours_and_nothing_where_there_are_none() {
    let two = two().await;
    let spec = MoveSpec { alone: false, way_back: true, ..two.spec() };
    let costs = planned(&spec).await.neighbours;
    assert_eq!(costs.len(), 6, "{costs:#?}");
    assert!(costs[0].contains("MB/s") && costs[0].starts_with("source:"), "{}", costs[0]);
    assert!(costs[1].contains("on each of 3 tables"), "{}", costs[1]);
    assert!(costs[2].contains("`lines` without the tenant column"), "{}", costs[2]);
    assert!(costs[3..].iter().all(|cost| cost.starts_with("target:")), "{costs:#?}");

    let source = two.client(&two.source, Role::Mover).await;
    let gone = "delete from lines where order_id in (select id from orders where customer_id = $1)";
    source.execute(gone, &[&two.neighbour]).await.unwrap();
    source.execute("delete from orders where customer_id = $1", &[&two.neighbour]).await.unwrap();
    source.execute("delete from customers where id = $1", &[&two.neighbour]).await.unwrap();
    assert!(planned(&two.spec()).await.neighbours.is_empty());
}

#[tokio::test]
async fn views_that_keep_old_rows_and_partitions_that_are_missing_are_told() {
    let two = two().await;
    for database in [&two.source, &two.target] {
        change(
            &two,
            database,
            "create view sums as select customer_id, sum(net) from orders group by 1;
             create materialized view totals as select * from sums;
             create materialized view of_nobody as select 1;
             create table visits (customer_id uuid not null references customers, at date not null, primary key (customer_id, at))
                 partition by range (at);
             create table visits_2025 partition of visits for values from ('2025-01-01') to ('2026-01-01');",
        )
        .await;
    }
    change(
        &two,
        &two.source,
        "create table visits_2026 partition of visits for values from ('2026-01-01') to ('2027-01-01')",
    )
    .await;
    let notes = planned(&two.spec()).await.notes;
    assert_eq!(notes.len(), 2, "{notes:#?}");
    assert!(notes[0].starts_with("`visits` has partitions in the source that the target has not (1, "), "{}", notes[0]);
    assert!(notes[0].contains("('2026-01-01')"), "{}", notes[0]);
    assert!(notes[1].ends_with("in both cells: REFRESH MATERIALIZED VIEW public.totals"), "{}", notes[1]);
    change(&two, &two.target, "create table visits_rest partition of visits default").await;
    assert_eq!(planned(&two.spec()).await.notes.len(), 1);
}

/// What they do, they do for a tenant that lives on elsewhere.
#[tokio::test]
async fn triggers_that_fire_when_the_rows_leave_are_said() {
    let two = two().await;
    for database in [&two.source, &two.target] {
        let triggers = "create function purge() returns trigger language plpgsql as 'begin return null; end';
            create trigger purges after delete on orders for each row execute function purge();
            create trigger empties after insert or delete on lines for each statement execute function purge();
            create trigger sleeps after delete on lines for each row execute function purge();
            alter table lines disable trigger sleeps;
            create trigger counts after insert or update on orders for each row execute function purge();";
        change(&two, database, triggers).await;
    }
    let notes = planned(&two.spec()).await.notes;
    let [note] = &notes[..] else { panic!("{notes:#?}") };
    assert!(note.contains("fire there: `empties` on `public.lines`, `purges` on `public.orders`."), "{note}");
    assert!(note.ends_with("where session_user is `berth_mover`"), "{note}");
}
