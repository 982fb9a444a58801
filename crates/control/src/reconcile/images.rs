//! Images that no release needs any more go from the hosts of cells, or each release would leave one until the disk is
//! full. Never touches an image that no release of this stack names, nor one that a container is made from.

use super::Loop;
use crate::{App, ControlError};
use async_trait::async_trait;
use berth_config::{Run, Stack};
use berth_domain::{Artifact, CellId, CellState, RollState};
use berth_store::{Cell, Release, Roll, RollCell};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tracing::{info, warn};

/// The newest releases, whose images stay: a way back must not wait for a pull.
const KEPT: usize = 5;
/// Of those before them as many are looked at as can have piled up while a host did not answer.
const LOOKED_AT: usize = 50;

/// What has gone from which cell's host since this server began: each image is asked about once.
#[derive(Default)]
pub(super) struct Images {
    gone: BTreeMap<CellId, BTreeSet<Artifact>>,
}

#[async_trait]
impl Loop for Images {
    const NAME: &'static str = "images";
    const PAUSE: Duration = Duration::from_mins(10);

    async fn round(&mut self, app: &App) -> Result<(), ControlError> {
        // Rolls before cells: one that ends in between has its release in the cells by then.
        let (rolls, rows) = (app.store().roll_list(None).await?, app.store().roll_cells(None).await?);
        let cells = app.store().cell_list().await?;
        let releases = app.store().release_list().await?;
        let in_force = app.stack().await?;
        let past = plan_images(&in_force.stack, &releases, &needed(&rolls, &rows, &cells));
        self.gone.retain(|id, _| cells.iter().any(|cell| cell.id == *id));
        for cell in cells {
            if !matches!(cell.state, CellState::Ready | CellState::Draining) || app.is_foreign(&cell).await? {
                continue;
            }
            let gone = self.gone.entry(cell.id).or_default();
            // One that is needed again may be pulled again.
            gone.retain(|image| past.contains(image));
            // Whoever keeps its members says what is wrong with its provider.
            let Ok(compute) = app.compute_of(&cell).await else { continue };
            for image in &past {
                if gone.contains(image) {
                    continue;
                }
                match compute.remove_image(&cell.name, image).await {
                    Ok(true) => {
                        info!(cell = %cell.name, "image `{image}` is not on the host of cell {} any more", cell.name);
                        gone.insert(image.clone());
                    }
                    // Something runs from it: asked again.
                    Ok(false) => {}
                    Err(error) => {
                        warn!(cell = %cell.name, %error, "old images stay on the host of cell {} for now", cell.name);
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Releases that a cell runs, or that one is on its way to or from.
fn needed(rolls: &[Roll], rows: &[RollCell], cells: &[Cell]) -> BTreeSet<u32> {
    let mut needed: BTreeSet<u32> = cells.iter().map(|cell| cell.release).collect();
    for roll in rolls.iter().filter(|roll| roll.state == RollState::Rolling) {
        needed.extend([roll.release, roll.before]);
        let own = rows.iter().filter(|row| row.roll == roll.number);
        needed.extend(own.flat_map(|row| [Some(row.before), row.release]).flatten());
    }
    needed
}

/// Images of earlier releases that neither one of the newest names, nor a needed one, nor the stack file.
fn plan_images(stack: &Stack, releases: &[Release], needed: &BTreeSet<u32>) -> BTreeSet<Artifact> {
    let mut newest: Vec<&Release> = releases.iter().collect();
    newest.sort_unstable_by_key(|release| std::cmp::Reverse(release.number));
    let (kept, past) = newest.split_at(newest.len().min(KEPT));
    let (mut stay, mut go) = (BTreeSet::new(), BTreeSet::new());
    for service in stack.services.values() {
        if let Run::Image(image) = &service.run {
            stay.extend(image.parse::<Artifact>().ok());
        }
    }
    stay.extend(kept.iter().flat_map(|release| release.services.values().cloned()));
    for (at, release) in past.iter().enumerate() {
        let images = release.services.values().filter(|artifact| matches!(artifact, Artifact::Image { .. })).cloned();
        if needed.contains(&release.number) {
            stay.extend(images);
        } else if at < LOOKED_AT {
            go.extend(images);
        }
    }
    go.difference(&stay).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::{KEPT, plan_images};
    use berth_domain::{Artifact, ServiceName};
    use berth_store::Release;
    use std::collections::{BTreeMap, BTreeSet};

    fn image(n: u32) -> Artifact {
        format!("registry.example.com/shop/web@sha256:{n:064x}").parse().unwrap()
    }

    fn release(number: u32, artifact: Artifact) -> Release {
        let services = BTreeMap::from([(ServiceName::new("web").unwrap(), artifact)]);
        Release { number, services, created_by: "test".to_owned(), created_at: jiff::Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn images_of_old_releases_go_but_those_that_something_still_needs() {
        let file = format!(
            "stack: shop\nservices:\n  web: {{ image: \"{}\", role: web, health: /health }}\ndata: {{ root: public.customers }}\n",
            image(1)
        );
        let stack = berth_config::parse(&file, None, &berth_config::no_files).unwrap();
        let newest = 4 + u32::try_from(KEPT).unwrap();
        let mut releases: Vec<Release> = (1..=newest).map(|n| release(n, image(n))).collect();
        // Said once more by a release that stays.
        releases.last_mut().unwrap().services.insert(ServiceName::new("worker").unwrap(), image(2));
        let program: Artifact = format!("/opt/shop/web@sha256:{}", "7".repeat(64)).parse().unwrap();
        releases[3].services.insert(ServiceName::new("worker").unwrap(), program);
        let go = |needed: &[u32]| plan_images(&stack, &releases, &needed.iter().copied().collect());
        assert_eq!(go(&[]), BTreeSet::from([image(3), image(4)]), "1 is the stack file's, 2 is named again");
        assert_eq!(go(&[3, newest]), BTreeSet::from([image(4)]), "a cell runs 3");
        assert_eq!(plan_images(&stack, &releases[4..], &BTreeSet::new()), BTreeSet::new());
    }
}
