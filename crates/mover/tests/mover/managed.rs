//! Servers whose logins are no superusers, as managed databases give them: what such a login lacks is named before anything
//! is touched, and with exactly what is printed for it a tenant is moved, compared, brought back and settled.

use crate::common::{MemoryOwnership, SCHEMA, Two, Watch, cut_over, endpoint, rows_of, run_move, until_built};
use berth_domain::MovePhase;
use berth_infra::Role;
use berth_mover::{Archives, MoveError, MoveSpec, Obstacle, Side};
use berth_testkit::{TestPg, wait_until};
use object_store::{memory::InMemory, path::Path};
use secrecy::SecretString;
use std::sync::Arc;
use tokio_postgres::Client;

/// A name that has to be quoted.
const LOGIN: &str = "managed-by";

/// Two servers, a login in each that may nothing, and a tenant in the first.
struct Managed {
    here: Two,
    there: TestPg,
    target: String,
}

impl Managed {
    async fn filled(rows: i64) -> Self {
        Self::between(Two::filled(rows).await, TestPg::new().await).await
    }

    async fn between(here: Two, there: TestPg) -> Self {
        let target = there.database("target").await;
        there.connect_to(Role::Owner, &target).await.batch_execute(SCHEMA).await.unwrap();
        let managed = Self { here, there, target };
        for side in [Side::Source, Side::Target] {
            let make = format!("create role \"{LOGIN}\" login password 'x'");
            managed.client(side, Role::Mover).await.batch_execute(&make).await.unwrap();
        }
        managed
    }

    async fn client(&self, side: Side, role: Role) -> Client {
        match side {
            Side::Source => self.here.client(&self.here.source, role).await,
            Side::Target => self.there.connect_to(role, &self.target).await,
        }
    }

    fn spec(&self) -> MoveSpec {
        let target = endpoint(&self.there, &self.target);
        let mut spec = MoveSpec { target, way_back: true, ..self.here.spec() };
        for end in [&mut spec.source, &mut spec.target] {
            end.user = LOGIN.into();
            end.password = SecretString::from("x");
        }
        spec
    }

    /// Does what is printed, as somebody who may.
    async fn grant(&self, lacking: &[Obstacle]) {
        for obstacle in lacking {
            let (Obstacle::Grant { side, .. } | Obstacle::Rights { side, .. } | Obstacle::EarlierMoves { side, .. }) =
                obstacle
            else {
                panic!("{obstacle:?}")
            };
            self.client(*side, Role::Mover).await.batch_execute(&obstacle.hint()).await.unwrap();
        }
    }

    /// Nothing of a move is in either database.
    async fn untouched(&self) {
        for side in [Side::Source, Side::Target] {
            let look = self.client(side, Role::Mover).await;
            let left = "select (select count(*) from pg_namespace where nspname = 'berth') + (select count(*) from pg_publication)
                + (select count(*) from pg_trigger where tgname like 'berth%')
                + (select count(*) from pg_replication_slots where database = current_database())
                + (select count(*) from pg_roles where rolname = 'berth_fence')";
            let left: i64 = look.query_one(left, &[]).await.unwrap().get(0);
            assert_eq!(left, 0, "in the {side}");
        }
    }
}

async fn refused(spec: &MoveSpec) -> Vec<Obstacle> {
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(spec).await else { panic!("a plan was made") };
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_moved_compared_brought_back_and_settled_with_exactly_the_rights_that_are_printed() {
    Box::pin(there_and_back(&Managed::filled(1_500).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn and_so_it_is_to_18_and_back() {
    let Some(there) = TestPg::version_18().await else {
        println!("skipped: there is no PostgreSQL 18 on this machine");
        return;
    };
    Box::pin(there_and_back(&Managed::between(Two::filled(1_500).await, there).await)).await;
}

async fn there_and_back(managed: &Managed) {
    let spec = managed.spec();
    managed.grant(&berth_mover::lacks(&spec).await.unwrap()).await;
    assert_eq!(berth_mover::lacks(&spec).await.unwrap(), []);
    for side in [Side::Source, Side::Target] {
        let sql = "select rolsuper or rolbypassrls or rolcreaterole or rolcreatedb from pg_roles where rolname = $1";
        let row = managed.client(side, Role::Mover).await.query_one(sql, &[&LOGIN]).await.unwrap();
        assert!(!row.get::<_, bool>(0), "the login is more than it has to be in the {side}");
    }
    let tenant = managed.here.tenant;
    let (source, target) =
        (managed.client(Side::Source, Role::Mover).await, managed.client(Side::Target, Role::Mover).await);
    let (before, neighbour) = (rows_of(&source, tenant).await, rows_of(&source, managed.here.neighbour).await);

    let ownership = MemoryOwnership::new();
    let (plan, token) = until_built(&spec, &ownership).await;
    // What is written while it is followed arrives.
    let write = "update vehicles set odometer = odometer + 1 where customer_id = 'T';
                 insert into counters (customer_id, amount) values ('T', 42)"
        .replace('T', &tenant.to_string());
    managed.client(Side::Source, Role::App).await.batch_execute(&write).await.unwrap();
    let cut = cut_over(&spec, &plan, &ownership).await.unwrap();
    assert!(cut.rows_verified > 1_500);
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    assert_eq!(rows_of(&target, tenant).await, rows_of(&source, tenant).await);
    assert_ne!(rows_of(&target, tenant).await, before);
    let same = berth_mover::compare(&spec).await.unwrap();
    assert!(same.iter().all(|table| table.differing == 0) && same.len() == 4, "{same:?}");

    // One owner: the old side refuses its application, the new one takes its writes.
    let error = managed.client(Side::Source, Role::App).await.batch_execute(&write).await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code().to_owned()).as_deref(), Some("BF001"));
    managed.client(Side::Target, Role::App).await.batch_execute(&write).await.unwrap();
    let written = rows_of(&target, tenant).await;

    let back = spec.back();
    cut_over(&back, &plan, &ownership).await.unwrap();
    let row = ownership.row();
    assert_eq!((row.owner, row.phase), (spec.source_cell, MovePhase::Idle));
    assert_eq!(rows_of(&source, tenant).await, written);
    managed.client(Side::Source, Role::App).await.batch_execute(&write).await.unwrap();
    berth_mover::retire(&back, &plan, true, row.token).await.unwrap();
    assert!(berth_mover::release(&back, &plan, &ownership, &Watch::default()).await.unwrap() > 1_500);
    assert!(rows_of(&target, tenant).await.is_empty());
    berth_mover::close_way_back(&spec).await.unwrap();

    // And once more, to stay.
    let now = rows_of(&source, tenant).await;
    let stays = managed.spec();
    run_move(&stays, &ownership).await.unwrap();
    berth_mover::close_way_back(&stays).await.unwrap();
    assert!(berth_mover::release(&stays, &plan, &ownership, &Watch::default()).await.unwrap() > 1_500);
    assert_eq!(rows_of(&target, tenant).await, now);
    assert!(rows_of(&source, tenant).await.is_empty());
    assert_eq!(rows_of(&source, managed.here.neighbour).await, neighbour);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_that_is_missing_is_refused_by_name_before_anything_is_touched() {
    let managed = Managed::filled(10).await;
    let spec = managed.spec();
    let all = refused(&spec).await;
    assert!(all.iter().all(|it| matches!(it, Obstacle::Grant { .. } | Obstacle::Rights { .. })), "{all:?}");
    managed.untouched().await;
    managed.grant(&berth_mover::lacks(&spec).await.unwrap()).await;
    berth_mover::plan(&spec).await.unwrap();

    let owner = &managed.here.pg.cell().login(Role::Owner).user;
    for (side, database) in [(Side::Source, &managed.here.source), (Side::Target, &managed.target)] {
        let admin = managed.client(side, Role::Mover).await;
        for (taken, given) in [
            (format!("alter role \"{LOGIN}\" noreplication"), format!("ALTER ROLE \"{LOGIN}\" REPLICATION")),
            (
                format!("revoke set on parameter session_replication_role from \"{LOGIN}\""),
                format!("GRANT SET ON PARAMETER session_replication_role TO \"{LOGIN}\""),
            ),
            (format!("revoke pg_read_all_stats from \"{LOGIN}\""), format!("GRANT pg_read_all_stats TO \"{LOGIN}\"")),
            (
                format!("revoke create on database \"{database}\" from \"{LOGIN}\", \"{owner}\""),
                format!("GRANT CREATE ON DATABASE \"{database}\" TO \"{LOGIN}\""),
            ),
            (format!("revoke \"{owner}\" from \"{LOGIN}\""), format!("GRANT \"{owner}\" TO \"{LOGIN}\"")),
            (
                "alter table positions enable row level security; alter table positions force row level security"
                    .into(),
                format!("ALTER ROLE \"{LOGIN}\" BYPASSRLS"),
            ),
        ] {
            admin.batch_execute(&taken).await.unwrap();
            let all = refused(&spec).await;
            let on_this_side = |it: &&Obstacle| matches!(it, Obstacle::Grant { side: of, .. } | Obstacle::Rights { side: of, .. } if *of == side);
            let found: Vec<&Obstacle> = all.iter().filter(on_this_side).collect();
            assert!(found.iter().any(|it| it.hint() == given), "after `{taken}`: {all:?}");
            if given.contains("BYPASSRLS") {
                admin.batch_execute("alter table positions no force row level security").await.unwrap();
            } else {
                let found: Vec<Obstacle> = found.into_iter().cloned().collect();
                managed.grant(&found).await;
            }
        }
        admin.batch_execute("alter table positions disable row level security").await.unwrap();
    }
    berth_mover::plan(&spec).await.unwrap();
    managed.untouched().await;
}

/// Nobody else says it where no event trigger can be made: rows that were compared would be others without a change of theirs.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_event_trigger_a_changed_column_or_type_ends_the_move_all_the_same() {
    let managed = Managed::filled(10).await;
    for side in [Side::Source, Side::Target] {
        let kinds = "create type level as enum ('low', 'high'); create domain level_of as level;
                     create type rated as (level level_of, by text);
                     alter table customers add column rated rated, add column one text, add column two text";
        managed.client(side, Role::Owner).await.batch_execute(kinds).await.unwrap();
    }
    let spec = MoveSpec { way_back: false, ..managed.spec() };
    managed.grant(&berth_mover::lacks(&spec).await.unwrap()).await;
    for change in [
        "alter type level rename value 'low' to 'lowest'; alter type level rename value 'lowest' to 'low'",
        "alter table customers rename column one to three; alter table customers rename column two to one;
         alter table customers rename column three to two",
    ] {
        let ownership = MemoryOwnership::new();
        let spec = MoveSpec { id: managed.spec().id, ..spec.clone() };
        let (plan, _) = until_built(&spec, &ownership).await;
        managed.client(Side::Source, Role::Owner).await.batch_execute(change).await.unwrap();
        let met = cut_over(&spec, &plan, &ownership).await;
        assert!(matches!(met, Err(MoveError::SchemaChanged { .. })), "after `{change}`: {met:?}");
        let token = berth_mover::give_up(&spec, &ownership).await.unwrap();
        berth_mover::retire(&spec, &plan, false, token).await.unwrap();
        berth_mover::forget(&spec).await.unwrap();
    }
    managed.untouched().await;
}

/// The fence of such a table reads its parents as the mover's login, beside every writer there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_says_by_its_parent_whose_a_row_is_lets_neighbours_write_whatever_the_login_is_a_member_of() {
    let managed = Managed::filled(10).await;
    let schema = "create table logs (id int primary key, vehicle_id uuid not null references vehicles, note text);
                  alter table vehicles enable row level security; create policy everybody on vehicles using (true) with check (true);
                  alter table logs enable row level security; create policy everybody on logs using (true) with check (true)";
    for side in [Side::Source, Side::Target] {
        managed.client(side, Role::Owner).await.batch_execute(schema).await.unwrap();
    }
    let spec = MoveSpec { alone: false, ..managed.spec() };
    let lacking = berth_mover::lacks(&spec).await.unwrap();
    let bypass = format!("ALTER ROLE \"{LOGIN}\" BYPASSRLS");
    assert_eq!(lacking.iter().filter(|it| it.hint() == bypass).count(), 2, "{lacking:?}");
    managed.grant(&lacking).await;
    let (tenant, neighbour) = (managed.here.tenant, managed.here.neighbour);
    let app = managed.client(Side::Source, Role::App).await;
    let write = "insert into logs select $2, id, 'n' from vehicles where customer_id = $1 order by label limit 1";
    assert_eq!(app.execute(write, &[&tenant, &1_i32]).await.unwrap(), 1);
    assert_eq!(app.execute(write, &[&neighbour, &2_i32]).await.unwrap(), 1);

    let ownership = MemoryOwnership::new();
    let (plan, token) = until_built(&spec, &ownership).await;
    assert_eq!(app.execute(write, &[&tenant, &3_i32]).await.unwrap(), 1);
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    let refused = async |id: i32| {
        let error = app.execute(write, &[&tenant, &id]).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code().to_owned()).as_deref(), Some("BF001"), "{error:?}");
    };
    refused(4).await;
    assert_eq!(app.execute(write, &[&neighbour, &5_i32]).await.unwrap(), 1);
    let owner = &managed.here.pg.cell().login(Role::Owner).user;
    let admin = managed.client(Side::Source, Role::Mover).await;
    admin.batch_execute(&format!("revoke \"{owner}\" from \"{LOGIN}\"")).await.unwrap();
    refused(6).await;
    assert_eq!(app.execute(write, &[&neighbour, &7_i32]).await.unwrap(), 1);
    admin.batch_execute(&format!("grant \"{owner}\" to \"{LOGIN}\"")).await.unwrap();

    berth_mover::close_way_back(&spec).await.unwrap();
    assert!(berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await.unwrap() > 10);
    let ids = async |side: Side| -> Vec<i32> {
        let client = managed.client(side, Role::Mover).await;
        let rows = client.query("select id from logs order by id", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert_eq!((ids(Side::Source).await, ids(Side::Target).await), (vec![2, 5, 7], vec![1, 3]));
}

/// One table says by its parent whose a row is: the fence has a function of its own for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_superusers_move_is_kept_undone_and_settled_by_another_login_after_what_is_printed() {
    let managed = Managed::filled(300).await;
    let logs = "create table logs (id int primary key, vehicle_id uuid not null references vehicles)";
    for side in [Side::Source, Side::Target] {
        managed.client(side, Role::Owner).await.batch_execute(logs).await.unwrap();
    }
    let spec = managed.spec();
    managed.grant(&berth_mover::lacks(&spec).await.unwrap()).await;
    let (here, tenant, ownership) = (&managed.here, managed.here.neighbour, MemoryOwnership::new());
    let target = endpoint(&managed.there, &managed.target);
    let earlier = MoveSpec { target, alone: false, way_back: true, ..here.spec_of(tenant) };
    let (plan, token) = until_built(&earlier, &ownership).await;
    cut_over(&earlier, &plan, &ownership).await.unwrap();
    berth_mover::retire(&earlier, &plan, true, token).await.unwrap();

    // To read rows it need only see whether their tenant lives there.
    let (store, at): (Archives, Path) = (Arc::new(InMemory::new()), Path::from("one"));
    let met = berth_mover::export(&spec, &store, &at, &Watch::default()).await.unwrap_err();
    let MoveError::Obstacles(to_read) = met else { panic!("{met:?}") };
    let hints: Vec<String> = to_read.iter().map(Obstacle::hint).collect();
    let wanted = ["USAGE ON SCHEMA \"berth\"", "SELECT ON \"berth\".\"fence\""];
    assert_eq!(hints, wanted.map(|right| format!("GRANT {right} TO \"{LOGIN}\"")));
    managed.grant(&to_read).await;
    assert!(berth_mover::export(&spec, &store, &at, &Watch::default()).await.unwrap().rows() > 300);

    // Refused with the statements, and nothing has changed by it.
    let by_another = MoveSpec { source: spec.source.clone(), target: spec.target.clone(), ..earlier.clone() };
    let watch = Watch::default();
    let kept = berth_mover::keep(&by_another, &plan, &ownership, &watch).await;
    assert!(matches!(kept, Err(MoveError::Obstacles(_))), "{kept:?}");
    // The application's own, whatever it is called.
    managed.client(Side::Source, Role::Mover).await.batch_execute("create publication berth_x").await.unwrap();
    let all = refused(&spec).await;
    let owner = earlier.source.user.clone();
    for side in [Side::Source, Side::Target] {
        let is_wanted = |it: &&Obstacle| matches!(it, Obstacle::EarlierMoves { side: of, owner: by, .. } if *of == side && *by == owner);
        let hint = all.iter().find(is_wanted).unwrap().hint();
        // It goes before its function gets another owner, who could put another one in its place.
        assert!(hint.starts_with("DROP EVENT TRIGGER berth_ddl"), "in the {side}: {hint}");
        assert!(hint.contains("ALTER FUNCTION berth.ddl() OWNER TO \"berth_fence\""), "in the {side}: {hint}");
        assert_eq!(hint.contains("ALTER PUBLICATION berth_"), side == Side::Target, "the way back's alone: {hint}");
    }
    assert!(
        !all.iter().any(|it| it.hint().contains(&format!("GRANT \"{owner}\""))),
        "nobody is made a superuser: {all:?}"
    );
    managed.grant(&all).await;
    assert_eq!(berth_mover::lacks(&spec).await.unwrap(), []);

    let write = format!(
        "update vehicles set odometer = odometer + 1 where customer_id = '{tenant}';
         insert into logs select 1, id from vehicles where customer_id = '{tenant}' order by label limit 1"
    );
    managed.client(Side::Target, Role::App).await.batch_execute(&write).await.unwrap();
    let (old, new) = (managed.client(Side::Source, Role::Mover).await, managed.client(Side::Target, Role::Mover).await);
    let now = rows_of(&new, tenant).await;
    let state = async || {
        let logs: i64 = old.query_one("select count(*) from logs", &[]).await.unwrap().get(0);
        (logs, rows_of(&old, tenant).await)
    };
    tokio::select! {
        ended = berth_mover::keep(&by_another, &plan, &ownership, &watch) => panic!("{ended:?}"),
        _ = wait_until("the old side follows", state, |(logs, rows)| *logs == 1 && *rows == now) => {}
    }
    let back = by_another.back();
    cut_over(&back, &plan, &ownership).await.unwrap();
    assert_eq!((ownership.row().owner, rows_of(&old, tenant).await), (earlier.source_cell, now));
    berth_mover::retire(&back, &plan, true, ownership.row().token).await.unwrap();
    assert!(berth_mover::release(&back, &plan, &ownership, &watch).await.unwrap() > 300);
    assert!(rows_of(&new, tenant).await.is_empty());
    berth_mover::close_way_back(&by_another).await.unwrap();
    let left = "select (select count(*) from pg_namespace where nspname = 'berth') + (select count(*) from pg_publication)
        + (select count(*) from pg_event_trigger) + (select count(*) from pg_replication_slots where database = current_database())";
    assert_eq!(new.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    berth_mover::plan(&spec).await.unwrap();
}

/// What an event trigger runs has the rights of whoever changes a table.
#[tokio::test(flavor = "multi_thread")]
async fn a_superusers_move_puts_up_no_event_trigger_whose_function_another_login_may_replace() {
    let managed = Managed::filled(10).await;
    let spec = managed.spec();
    managed.grant(&berth_mover::lacks(&spec).await.unwrap()).await;
    until_built(&spec, &MemoryOwnership::new()).await;
    let (target, ownership) = (endpoint(&managed.there, &managed.target), MemoryOwnership::new());
    let later = managed.here.spec_of(managed.here.neighbour);
    let later = MoveSpec { target, alone: false, way_back: true, ..later };
    let (plan, _) = until_built(&later, &ownership).await;
    for side in [Side::Source, Side::Target] {
        let look = managed.client(side, Role::Mover).await;
        let triggers: i64 = look.query_one("select count(*) from pg_event_trigger", &[]).await.unwrap().get(0);
        assert_eq!(triggers, 0, "in the {side}");
    }
    // One that an earlier release put up is taken off.
    let source = managed.client(Side::Source, Role::Mover).await;
    let put_up = "create event trigger berth_ddl on ddl_command_end execute function berth.ddl()";
    source.batch_execute(put_up).await.unwrap();
    berth_mover::prepare(&later, &plan, ownership.row(), &ownership).await.unwrap();
    let triggers: i64 = source.query_one("select count(*) from pg_event_trigger", &[]).await.unwrap().get(0);
    assert_eq!(triggers, 0);
    // What it would have said is looked at.
    let renamed = "alter table customers rename name to other; alter table customers rename other to name";
    managed.client(Side::Source, Role::Owner).await.batch_execute(renamed).await.unwrap();
    let met = cut_over(&later, &plan, &ownership).await;
    assert!(matches!(met, Err(MoveError::SchemaChanged { .. })), "{met:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_the_owners_or_within_the_applications_reach_is_refused() {
    let managed = Managed::filled(10).await;
    let spec = managed.spec();
    managed.grant(&berth_mover::lacks(&spec).await.unwrap()).await;
    let admin = managed.client(Side::Source, Role::Mover).await;
    let login = |role| managed.here.pg.cell().login(role).user.clone();
    let (mover, app) = (login(Role::Mover), login(Role::App));
    let give = async |to: &str| {
        admin.batch_execute(&format!("alter table counters owner to \"{to}\"")).await.unwrap();
    };

    give(LOGIN).await;
    let table = berth_mover::TableName::parse("counters");
    let own = Obstacle::OwnerLogin { side: Side::Source, role: LOGIN.into(), table };
    assert_eq!(refused(&spec).await, std::slice::from_ref(&own));
    assert!(berth_mover::lacks(&spec).await.unwrap().contains(&own));

    give(&mover).await;
    let all = refused(&spec).await;
    let [lacking] = &all[..] else { panic!("{all:?}") };
    let hint = lacking.hint();
    let at_the_end =
        "GRANT USAGE ON SCHEMA \"public\" TO tables_owner; ALTER TABLE \"public\".\"counters\" OWNER TO tables_owner";
    assert!(hint.starts_with("CREATE ROLE tables_owner; GRANT ") && hint.ends_with(at_the_end), "{hint}");
    managed.grant(&all).await;
    let plan = berth_mover::plan(&spec).await.unwrap();
    assert!(!plan.notes.iter().any(|note| note.contains("may become")), "{:?}", plan.notes);

    admin.batch_execute(&format!("grant \"{LOGIN}\" to \"{app}\"")).await.unwrap();
    let all = refused(&spec).await;
    let statement = format!("REVOKE \"{LOGIN}\" FROM \"{app}\"");
    assert_eq!(all, [Obstacle::MemberOfMover { side: Side::Source, role: LOGIN.into(), member: app, statement }]);
    admin.batch_execute(&all[0].hint()).await.unwrap();
    // Who made the role writes no tenant's tables.
    admin.batch_execute(&format!("create role boss login; grant \"{LOGIN}\" to boss")).await.unwrap();
    let notes = berth_mover::plan(&spec).await.unwrap().notes;
    assert_eq!(notes.iter().filter(|note| note.contains("`boss`")).count(), 1, "{notes:?}");
    // One column is enough to write past the fence.
    admin.batch_execute("grant update (odometer) on vehicles to boss").await.unwrap();
    let all = refused(&spec).await;
    assert!(
        matches!(&all[..], [Obstacle::MemberOfMover { side: Side::Source, member, .. }] if member == "boss"),
        "{all:?}"
    );
    admin.batch_execute("revoke update (odometer) on vehicles from boss").await.unwrap();
    berth_mover::plan(&spec).await.unwrap();

    // Since version 16 it is the membership that inherits, and no longer the login.
    let version = admin.query_one("select current_setting('server_version_num')::int4", &[]).await.unwrap();
    if version.get::<_, i32>(0) < 160_000 {
        admin.batch_execute(&format!("alter role \"{LOGIN}\" noinherit")).await.unwrap();
        let all = refused(&spec).await;
        let inherit = format!("ALTER ROLE \"{LOGIN}\" INHERIT");
        assert!(all.iter().any(|it| it.hint() == inherit), "{all:?}");
        admin.batch_execute(&inherit).await.unwrap();
        berth_mover::plan(&spec).await.unwrap();
    }
}

/// Since version 16 a membership may be without any use, or of no other use than to be given away: to oneself too.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_may_give_itself_the_movers_role_is_refused_and_one_that_may_nothing_with_it_is_not() {
    let Some(there) = TestPg::version_18().await else {
        println!("skipped: there is no PostgreSQL 18 on this machine");
        return;
    };
    let managed = Managed::between(Two::filled(10).await, there).await;
    let spec = managed.spec();
    managed.grant(&berth_mover::lacks(&spec).await.unwrap()).await;
    let admin = managed.client(Side::Target, Role::Mover).await;
    let make = format!(
        "create role idle login; grant \"{LOGIN}\" to idle with admin false, inherit false, set false;
         create role giver nologin; grant \"{LOGIN}\" to giver with admin true, inherit false, set false;
         create role taker login; grant giver to taker with admin false, inherit false, set true;
         create role maker login createrole; grant \"{LOGIN}\" to maker with admin true, inherit false, set false;
         grant insert on vehicles to idle, taker, maker"
    );
    admin.batch_execute(&make).await.unwrap();
    // Its own membership is of another role: what is taken away is that one's. Granted by somebody else, it is by that name.
    let all = refused(&spec).await;
    let statement = format!("REVOKE \"{LOGIN}\" FROM \"giver\"");
    let member = "taker".to_owned();
    assert_eq!(all, [Obstacle::MemberOfMover { side: Side::Target, role: LOGIN.into(), member, statement }]);
    admin.batch_execute(&all[0].hint()).await.unwrap();
    let by_maker = format!("grant \"{LOGIN}\" to giver with admin true, inherit false, set false granted by maker");
    admin.batch_execute(&by_maker).await.unwrap();
    let all = refused(&spec).await;
    assert_eq!(all[0].hint(), format!("REVOKE \"{LOGIN}\" FROM \"giver\" GRANTED BY \"maker\""));
    admin.batch_execute(&all[0].hint()).await.unwrap();
    let notes = berth_mover::plan(&spec).await.unwrap().notes;
    let of: Vec<&String> = notes.iter().filter(|note| note.contains("may become")).collect();
    assert!(matches!(of[..], [note] if note.contains("`maker`")), "{notes:?}");
}

/// The fence lets them through, at whatever moment they come.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_not_berths_under_the_movers_login_keeps_the_pause_from_beginning() {
    let managed = Managed::filled(10).await;
    let mut spec = managed.spec();
    spec.tuning.attempts = 3;
    managed.grant(&berth_mover::lacks(&spec).await.unwrap()).await;
    let ownership = MemoryOwnership::new();
    let (plan, _) = until_built(&spec, &ownership).await;
    let mut config = managed.here.pg.config(Role::Mover, &managed.here.source);
    config.user(LOGIN).password("x").application_name("rails");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let met = cut_over(&spec, &plan, &ownership).await;
    let Err(MoveError::NoMoment { last, .. }) = &met else { panic!("{met:?}") };
    assert!(last.contains("the mover's own role"), "{last}");
    drop(client);
    connection.await.unwrap().unwrap();
    spec.tuning.attempts = 50;
    cut_over(&spec, &plan, &ownership).await.unwrap();
}

/// Archives are read and brought in by the mover's login too.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_login_lacks_to_archive_to_restore_and_to_import_is_named_with_the_statement() {
    let managed = Managed::filled(10).await;
    let (spec, watch) = (managed.spec(), Watch::default());
    let (store, at): (Archives, Path) = (Arc::new(InMemory::new()), Path::from("one"));
    let to = format!("TO \"{LOGIN}\"");
    let lacking = |met: MoveError, wanted: &[String]| {
        let MoveError::Obstacles(all) = met else { panic!("{met:?}") };
        let hints: Vec<String> = all.iter().map(Obstacle::hint).collect();
        assert!(wanted.iter().all(|it| hints.contains(it)), "{wanted:?} in {hints:?}");
        hints.join("; ")
    };
    let give = async |side: Side, statements: &str| {
        managed.client(side, Role::Mover).await.batch_execute(statements).await.unwrap();
    };

    let met = berth_mover::export(&spec, &store, &at, &watch).await.unwrap_err();
    let statements = lacking(met, &[format!("GRANT SELECT ON \"public\".\"vehicles\" {to}")]);
    give(Side::Source, &statements).await;
    let made = berth_mover::export(&spec, &store, &at, &watch).await.unwrap();
    assert_eq!(made.rows(), 10 + 10 + 5 + 1);

    let restore = async || berth_mover::restore(&spec.source, &spec.rules, &spec.tenant, &store, &at, &watch).await;
    let statements = lacking(restore().await.unwrap_err(), &[format!("GRANT INSERT ON \"public\".\"counters\" {to}")]);
    give(Side::Source, &statements).await;
    assert_eq!(restore().await.unwrap().there_already, made.rows());

    let met = berth_mover::try_import(&spec, &store, &at, &watch).await.unwrap_err();
    let wanted = [
        format!("GRANT SELECT, INSERT, DELETE ON \"public\".\"positions\" {to}"),
        format!("GRANT SELECT, UPDATE ON SEQUENCE \"public\".\"counters_nth_seq\" {to}"),
        format!("GRANT SET ON PARAMETER session_replication_role {to}"),
    ];
    let statements = lacking(met, &wanted);
    managed.untouched().await;
    give(Side::Target, &statements).await;
    berth_mover::try_import(&spec, &store, &at, &watch).await.unwrap();
    let rows = berth_mover::import_rows(&spec, &store, &at, uuid::Uuid::now_v7(), &watch).await.unwrap();
    assert_eq!(rows, made.rows());
    let (source, target) =
        (managed.client(Side::Source, Role::Mover).await, managed.client(Side::Target, Role::Mover).await);
    assert_eq!(rows_of(&target, managed.here.tenant).await, rows_of(&source, managed.here.tenant).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_names_what_the_login_lacks_whatever_the_tables_are() {
    let managed = Managed::filled(10).await;
    let (end, owner) = (managed.spec().source, managed.client(Side::Source, Role::Owner).await);
    owner.batch_execute("alter table customers add slug text; update customers set slug = 'Acme'").await.unwrap();
    let shared = async || {
        let roots = berth_mover::look(&end).await.unwrap().roots;
        let root = roots.iter().find(|root| root.table.to_string() == "customers").unwrap();
        (root.hosts[0].column.clone(), root.hosts[0].shared_by_rows)
    };
    assert_eq!(shared().await, ("slug".to_owned(), None), "what it may not read is not known");
    owner.batch_execute(&format!("grant select on customers to \"{LOGIN}\"")).await.unwrap();
    assert_eq!(shared().await, ("slug".to_owned(), Some(2)));

    let lacks = berth_mover::look(&end).await.unwrap().server.lacks;
    let hints: Vec<String> = lacks.iter().map(Obstacle::hint).collect();
    for word in ["REPLICATION", "session_replication_role", "GRANT CREATE ON DATABASE"] {
        assert!(hints.iter().any(|hint| hint.contains(word)), "{word} in {hints:?}");
    }
    managed.grant(&lacks).await;
    assert_eq!(berth_mover::look(&end).await.unwrap().server.lacks, []);
}
