//! An adapter whose world is a map in memory. It counts what was really made, fails when a test says so, and never
//! starts anything: whoever needs a true Postgres behind a cell gives it one.

use crate::{
    CellDatabase, CellSpec, Compute, Confinement, Database, DatabaseName, EnvVar, Faults, Health, Listed, Login,
    Member, MemberLoad, MemberName, MemberSpec, Observed, Provider, ProviderError, Role, RunOutcome, RunSpec, Source,
    unreliable,
};
use async_trait::async_trait;
use berth_domain::CellName;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// The fake's world. A clone is the same world.
#[derive(Clone, Default)]
pub struct Fake {
    world: Arc<Mutex<World>>,
    faults: Faults,
}

#[derive(Default)]
struct World {
    databases: BTreeMap<DatabaseName, FakeDatabase>,
    members: BTreeMap<MemberName, FakeMember>,
    /// Every creation that really happened, in order: `database a`, `member a.web.0`.
    made: Vec<String>,
    runs: Vec<RunSpec>,
    run_outcomes: Vec<RunOutcome>,
    /// How runs that had a key ended.
    ended: BTreeMap<String, RunOutcome>,
    server: Option<CellDatabase>,
    next_port: u16,
    /// Images that no registry has.
    no_images: BTreeSet<String>,
    /// Images that a cell's host cannot pull, though others can.
    no_images_in: BTreeSet<(CellName, String)>,
    /// What never answers its health path.
    sick: BTreeSet<String>,
    /// What every member uses: thousandths of a core, and bytes.
    load: Option<(u64, u64)>,
}

struct FakeDatabase {
    spec: CellSpec,
    port: u16,
    running: bool,
    /// Where it really is.
    server: Option<CellDatabase>,
}

struct FakeMember {
    spec: MemberSpec,
    port: u16,
    starts: u32,
    health: Health,
    since: Instant,
}

impl Fake {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn provider(&self) -> Provider {
        let inner = Provider {
            database: Some(Arc::new(self.clone())),
            compute: Some(Arc::new(self.clone())),
            ..Provider::default()
        };
        unreliable(inner, &self.faults)
    }

    /// Faults on the line to this fake.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Databases made from now on answer with this server's host, port and logins.
    pub fn stand_on(&self, server: CellDatabase) {
        self.world().server = Some(server);
    }

    /// Every creation that really happened, oldest first.
    pub fn made(&self) -> Vec<String> {
        self.world().made.clone()
    }

    /// Fails unless exactly these databases exist and each was made once.
    ///
    /// # Panics
    /// With what is there instead.
    #[track_caller]
    pub fn holds_exactly<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let mut wanted: Vec<&str> = names.into_iter().collect();
        wanted.sort_unstable();
        let world = self.world();
        let held: Vec<&str> = world.databases.keys().map(DatabaseName::as_str).collect();
        assert_eq!(held, wanted, "made so far: {:?}", world.made);
        for name in held {
            let times = world.made.iter().filter(|made| **made == format!("database {name}")).count();
            assert_eq!(times, 1, "database {name} was made {times} times: {:?}", world.made);
        }
    }

    /// The member's process ends; nobody is told.
    pub fn member_dies(&self, name: &MemberName) {
        self.set_health(name, Health::Stopped { reason: "a test ended it".to_owned() });
    }

    pub fn set_health(&self, name: &MemberName, health: Health) {
        if let Some(member) = self.world().members.get_mut(name) {
            member.health = health;
        }
    }

    /// Every member uses so many thousandths of a core and so much memory from now on, as if it always had.
    pub fn set_load(&self, cpu_millis: u64, memory_bytes: u64) {
        self.world().load = Some((cpu_millis, memory_bytes));
    }

    /// The environment a member was last given.
    pub fn member_env(&self, name: &MemberName) -> Vec<EnvVar> {
        self.world().members.get(name).map(|member| member.spec.env.clone()).unwrap_or_default()
    }

    /// The host of this cell cannot pull this image, though others can.
    pub fn has_no_image_in(&self, cell: &CellName, artifact: &berth_domain::Artifact) {
        self.world().no_images_in.insert((cell.clone(), artifact.to_string()));
    }

    /// The image can be pulled everywhere again.
    pub fn has_image(&self, artifact: &berth_domain::Artifact) {
        let image = artifact.to_string();
        let mut world = self.world();
        world.no_images.remove(&image);
        world.no_images_in.retain(|(_, other)| *other != image);
    }

    /// No registry has this image from now on.
    pub fn has_no_image(&self, artifact: &berth_domain::Artifact) {
        self.world().no_images.insert(artifact.to_string());
    }

    /// Members made from this are unhealthy from now on.
    pub fn is_never_well(&self, artifact: &berth_domain::Artifact) {
        self.world().sick.insert(artifact.to_string());
    }

    /// Where a member's program came from when it was last asked for.
    pub fn member_source(&self, name: &MemberName) -> Option<Source> {
        self.world().members.get(name).map(|member| member.spec.source.clone())
    }

    /// What the next runs end with, in this order; afterwards they succeed without a word.
    pub fn next_run(&self, outcome: RunOutcome) {
        self.world().run_outcomes.push(outcome);
    }

    /// Every command that was run to its end.
    pub fn runs(&self) -> Vec<RunSpec> {
        self.world().runs.clone()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    fn free_port(&mut self) -> u16 {
        self.next_port += 1;
        30_000 + self.next_port
    }

    fn describe(database: &FakeDatabase) -> CellDatabase {
        let name = database.spec.name.clone();
        if let Some(server) = &database.server {
            return CellDatabase { name, ..server.clone() };
        }
        let login = |role: Role| {
            (role, Login { user: role.user().to_owned(), password: format!("of-{}-in-{name}", role.user()).into() })
        };
        CellDatabase {
            host: "127.0.0.1".to_owned(),
            port: database.port,
            socket_dir: None,
            database: "app".to_owned(),
            logins: Role::ALL.map(login).into(),
            version: 150_000,
            free_disk_bytes: Some(u64::from(database.spec.shape.disk_gb) << 30),
            redis: None,
            objects: None,
            tls: None,
            name,
        }
    }
}

impl FakeMember {
    fn describe(&self) -> Member {
        Member {
            name: self.spec.name.clone(),
            cell: self.spec.cell.clone(),
            service: self.spec.service.clone(),
            index: self.spec.index,
            host: "127.0.0.1".to_owned(),
            port: self.port,
            health: self.health.clone(),
            confinement: Confinement::Provider,
            starts: self.starts,
            pid: None,
        }
    }
}

#[async_trait]
impl Database for Fake {
    async fn ensure_database(&self, spec: &CellSpec) -> Result<CellDatabase, ProviderError> {
        let mut world = self.world();
        if !world.databases.contains_key(&spec.name) {
            let port = world.free_port();
            world.made.push(format!("database {}", spec.name));
            let server = world.server.clone();
            world.databases.insert(spec.name.clone(), FakeDatabase { spec: spec.clone(), port, running: true, server });
        }
        let database = world.databases.get_mut(&spec.name).expect("it is there or was put there above");
        database.running = true;
        database.spec = spec.clone();
        Ok(World::describe(&world.databases[&spec.name]))
    }

    async fn observe_database(&self, name: &DatabaseName) -> Result<Observed<CellDatabase>, ProviderError> {
        let world = self.world();
        Ok(match world.databases.get(name) {
            None => Observed::Absent,
            Some(database) if database.running => Observed::Present(World::describe(database)),
            Some(_) => Observed::Unknown { reason: "it does not run".to_owned() },
        })
    }

    async fn remove_database(&self, name: &DatabaseName) -> Result<(), ProviderError> {
        self.world().databases.remove(name);
        Ok(())
    }

    async fn stop_database(&self, name: &DatabaseName) -> Result<(), ProviderError> {
        if let Some(database) = self.world().databases.get_mut(name) {
            database.running = false;
        }
        Ok(())
    }

    async fn list_databases(&self) -> Result<Vec<Listed<DatabaseName>>, ProviderError> {
        let world = self.world();
        Ok(world.databases.iter().map(|(name, it)| Listed { name: name.clone(), cell: it.spec.cell.clone() }).collect())
    }
}

#[async_trait]
impl Compute for Fake {
    async fn ensure_source(&self, cell: &CellName, source: &Source) -> Result<(), ProviderError> {
        let Source::Artifact { artifact, .. } = source else { return Ok(()) };
        let (image, world) = (artifact.to_string(), self.world());
        if world.no_images.contains(&image) || world.no_images_in.contains(&(cell.clone(), image.clone())) {
            let (reason, remedy) = ("manifest unknown".to_owned(), "push it".to_owned());
            return Err(ProviderError::NotPulled { image, reason, remedy });
        }
        Ok(())
    }

    async fn ensure_member(&self, spec: &MemberSpec) -> Result<Member, ProviderError> {
        let mut world = self.world();
        if !world.members.contains_key(&spec.name) {
            let port = if spec.port == 0 { world.free_port() } else { spec.port };
            world.made.push(format!("member {}", spec.name));
            let member =
                FakeMember { spec: spec.clone(), port, starts: 1, health: Health::Healthy, since: Instant::now() };
            world.members.insert(spec.name.clone(), member);
        }
        let member = world.members.get_mut(&spec.name).expect("it is there or was put there above");
        if matches!(member.health, Health::Stopped { .. }) || !same(&member.spec, spec) {
            member.starts += 1;
            member.health = Health::Healthy;
        }
        member.spec = spec.clone();
        if let Source::Artifact { artifact, .. } = &spec.source
            && world.sick.contains(&artifact.to_string())
        {
            let reason = "`/health` answered 500".to_owned();
            world.members.get_mut(&spec.name).expect("it was put there above").health = Health::Unhealthy { reason };
        }
        Ok(world.members[&spec.name].describe())
    }

    async fn observe_member(&self, name: &MemberName) -> Result<Observed<Member>, ProviderError> {
        let world = self.world();
        Ok(world.members.get(name).map_or(Observed::Absent, |member| Observed::Present(member.describe())))
    }

    async fn remove_member(&self, name: &MemberName) -> Result<(), ProviderError> {
        self.world().members.remove(name);
        Ok(())
    }

    async fn list_members(&self) -> Result<Vec<Listed<MemberName>>, ProviderError> {
        let world = self.world();
        Ok(world.members.iter().map(|(name, it)| Listed { name: name.clone(), cell: it.spec.cell.clone() }).collect())
    }

    async fn run_once(&self, spec: &RunSpec) -> Result<RunOutcome, ProviderError> {
        let mut world = self.world();
        if let Some(outcome) = spec.key.as_ref().and_then(|key| world.ended.get(key)) {
            return Ok(outcome.clone());
        }
        world.runs.push(spec.clone());
        let quiet = RunOutcome { exit_code: Some(0), timed_out: false, output: String::new() };
        let outcome = if world.run_outcomes.is_empty() { quiet } else { world.run_outcomes.remove(0) };
        if let Some(key) = spec.key.clone() {
            world.ended.insert(key, outcome.clone());
        }
        Ok(outcome)
    }

    async fn member_load(&self, name: &MemberName) -> Result<Option<MemberLoad>, ProviderError> {
        let world = self.world();
        let Some(((cpu_millis, memory_bytes), member)) = world.load.zip(world.members.get(name)) else {
            return Ok(None);
        };
        let time_ms = u64::try_from(member.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Some(MemberLoad { cpu_ms: time_ms * cpu_millis / 1000, memory_bytes }))
    }

    async fn member_logs(&self, name: &MemberName, _lines: usize) -> Result<Vec<String>, ProviderError> {
        let world = self.world();
        let member = world.members.get(name);
        let member = member.ok_or_else(|| ProviderError::Absent { what: format!("member {name}") })?;
        Ok((0..member.starts).map(|start| format!("start {}", start + 1)).collect())
    }
}

/// Whether a running member already is what is asked for.
fn same(one: &MemberSpec, two: &MemberSpec) -> bool {
    use secrecy::ExposeSecret;
    let env = |spec: &MemberSpec| -> Vec<(String, String)> {
        spec.env.iter().map(|var| (var.name.clone(), var.value.expose_secret().to_owned())).collect()
    };
    let artifact = |spec: &MemberSpec| match &spec.source {
        Source::Host => None,
        Source::Artifact { artifact, .. } => Some(artifact.clone()),
    };
    artifact(one) == artifact(two)
        && one.command == two.command
        && one.health_path == two.health_path
        && one.shape == two.shape
        && env(one) == env(two)
}

#[cfg(test)]
mod tests {
    use super::Fake;
    use crate::{
        Call, Fault,
        conformance::{Subject, cell},
    };

    struct Any(Fake);
    impl Subject for Any {
        fn provider(&self) -> crate::Provider {
            self.0.provider()
        }
        fn serving_command(&self) -> Vec<String> {
            vec!["serve".to_owned()]
        }
    }
    async fn subject() -> Any {
        Any(Fake::new())
    }
    crate::conformance!(super::subject);

    #[tokio::test]
    async fn a_crash_between_the_change_and_its_answer_leaves_one_thing_made() {
        let fake = Fake::new();
        let database = fake.provider().database.unwrap();
        fake.faults().next(Call::EnsureDatabase, Fault::Hang);
        let spec = cell("a");
        tokio::select! {
            biased;
            answer = database.ensure_database(&spec) => panic!("{answer:?}"),
            () = std::future::ready(()) => {}
        }
        fake.holds_exactly(["a"]);
        database.ensure_database(&spec).await.unwrap();
        fake.holds_exactly(["a"]);
        assert!(fake.faults().left().is_empty());
    }
}
