//! What this edge carried for whom, told to the control plane as counters that only rise: said twice they count once,
//! and a report that is lost is made up for by the next.
//!
//! Never in the way of a request, and never loses what can be kept: counters that nobody took are on disk before the
//! edge goes, and the next life of this edge says them under the old life's name. A kill takes what was counted since
//! the last report.

use crate::{
    core::Order,
    feed::{self, Link},
    ledger::{self, Ledger},
    meter::Meter,
};
use berth_domain::TenantId;
use berth_wire::edge::{EdgeMeters, TenantMeter};
use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc::UnboundedSender, time::timeout};

/// Tenants in one message, well below what a control plane takes.
const AT_ONCE: usize = 5_000;
/// How long an edge that goes tries to say the rest.
const LAST_TIME: Duration = Duration::from_secs(3);
/// That it is alive, where nothing passes.
const IDLE_SAYS_EVERY: Duration = Duration::from_hours(24);
const FILE: &str = "meters.json";

/// Lives of this edge whose counters nobody has taken.
type Owed = Vec<EdgeMeters>;

pub struct Reporter {
    link: Arc<Link>,
    ledger: Arc<Ledger>,
    folder: PathBuf,
    file: PathBuf,
    /// Where earlier lives left what they owed.
    read: Vec<PathBuf>,
    owed: Owed,
    /// What was taken of this life: the sum of a tenant's counters, each of which only rises.
    taken: HashMap<TenantId, u64>,
    saved: bool,
    /// When something was taken last.
    said: Option<Instant>,
}

impl Reporter {
    pub fn new(link: Arc<Link>, ledger: Arc<Ledger>, folder: &Path) -> Self {
        let mut owed = Owed::new();
        let read = left_behind(folder);
        for file in &read {
            let text = fs::read(file).and_then(|text| Ok(serde_json::from_slice::<Owed>(&text)?));
            match text {
                Ok(lives) => owed.extend(lives),
                Err(error) => {
                    tracing::warn!(file = %file.display(), %error, "what an earlier life counted cannot be read and is lost");
                }
            }
        }
        let (saved, folder) = (!owed.is_empty(), folder.to_owned());
        Self { link, ledger, file: folder.join(FILE), folder, read, owed, taken: HashMap::new(), saved, said: None }
    }

    /// Another process keeps its own in the usual place from now on.
    pub fn move_aside(&mut self) {
        self.file = self.folder.join(format!("meters-{}.json", self.link.instance));
        // Its to remove.
        self.read.clear();
    }

    pub fn stay(&mut self) {
        self.file = self.folder.join(FILE);
    }

    /// Reports every so often, until it is dropped.
    pub async fn run(this: Arc<tokio::sync::Mutex<Self>>, cores: Vec<UnboundedSender<Order>>, every: Duration) {
        loop {
            ledger::collect(&cores).await;
            this.lock().await.say().await;
            tokio::time::sleep(every).await;
        }
    }

    /// The rest, when every core has ended.
    pub async fn last(&mut self) {
        if timeout(LAST_TIME, self.say()).await.is_err() {
            self.save();
        }
    }

    /// What nobody took.
    fn untold(&self) -> Vec<TenantMeter> {
        let new = |now: &TenantMeter| self.taken.get(&now.tenant) != Some(&sum(now));
        self.ledger.read(|all| all.iter().map(|(tenant, meter)| figures(tenant, &meter)).filter(new).collect())
    }

    async fn say(&mut self) {
        while let Some(life) = self.owed.first() {
            if !feed::say_meters(&self.link, life).await {
                return self.save();
            }
            self.owed.remove(0);
        }
        let mut new = self.untold();
        new.sort_unstable_by_key(|meter| meter.tenant);
        for part in new.chunks(AT_ONCE) {
            let said = EdgeMeters { instance: self.link.instance, tenants: part.to_vec() };
            if !feed::say_meters(&self.link, &said).await {
                return self.save();
            }
            self.taken.extend(part.iter().map(|meter| (meter.tenant, sum(meter))));
            self.said = Some(Instant::now());
        }
        // Whoever says nothing for a month is forgotten with all it counted, and what it says then counts no more.
        if self.said.is_some_and(|at| at.elapsed() > IDLE_SAYS_EVERY) {
            let alive = EdgeMeters { instance: self.link.instance, tenants: Vec::new() };
            if feed::say_meters(&self.link, &alive).await {
                self.said = Some(Instant::now());
            }
        }
        if self.saved {
            // Gone or not, it is written anew before it is needed.
            let _ = fs::remove_file(&self.file);
            for file in self.read.drain(..) {
                let _ = fs::remove_file(file);
            }
            self.saved = false;
        }
    }

    /// Keeps what nobody took, whole or not at all.
    fn save(&mut self) {
        let own = self.untold();
        let mut all = self.owed.clone();
        if !own.is_empty() {
            all.push(EdgeMeters { instance: self.link.instance, tenants: own });
        }
        if all.is_empty() {
            return;
        }
        let new = self.file.with_extension("new");
        let written = serde_json::to_vec(&all).map_err(io::Error::from).and_then(|text| {
            fs::write(&new, text)?;
            fs::rename(&new, &self.file)
        });
        match written {
            Ok(()) => self.saved = true,
            Err(error) => {
                self.link.disk_failed();
                tracing::warn!(%error, "what was counted and not yet reported cannot be kept on disk");
            }
        }
    }
}

/// `meters.json`, and those of processes that another one followed.
fn left_behind(folder: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = |path: &PathBuf| {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        (name == "meters" || name.starts_with("meters-")) && path.extension().is_some_and(|end| end == "json")
    };
    found.filter(ours).collect()
}

fn figures(tenant: TenantId, meter: &Meter) -> TenantMeter {
    TenantMeter {
        tenant,
        requests: meter.requests(),
        failed_requests: meter.classes[4],
        limited_requests: meter.limited,
        received_bytes: meter.received_bytes,
        sent_bytes: meter.sent_bytes,
        request_time_us: meter.time_us,
    }
}

fn sum(meter: &TenantMeter) -> u64 {
    let all = [
        meter.requests,
        meter.failed_requests,
        meter.limited_requests,
        meter.received_bytes,
        meter.sent_bytes,
        meter.request_time_us,
    ];
    all.into_iter().fold(0, u64::wrapping_add)
}
