//! What goes wrong with releases, and what to do next. Part of `ControlError`.

use crate::Kind;
use berth_config::Template;
use berth_domain::{BadArtifact, CellName, OperationId, ServiceName, TenantName};

#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("there is no release r{0}")]
    NoRelease(u32),
    #[error("service `{service}`: {source}")]
    BadArtifact { service: String, source: BadArtifact },
    #[error("a release names what at least one service runs")]
    Empty,
    #[error("the stack file has no service `{0}`")]
    NoService(String),
    /// An image without a digest, and no release that names one.
    #[error("service `{0}` is an image without a digest in the stack file, and no release says which one to run")]
    NoDigest(ServiceName),
    #[error("release {} is still rolling", said(*.0))]
    Rolling(u32),
    /// Somebody wants to change a cell that a release is changing.
    #[error("release {} is rolling in cell {cell}", said(*.release))]
    InCell { release: u32, cell: CellName },
    /// The other way round.
    #[error("tenant `{tenant}` is moving out of cell `{cell}` or into it")]
    Moving { tenant: TenantName, cell: CellName },
    #[error("the release before is not known: nothing has been rolled yet")]
    NothingBefore,
    #[error("cell `{0}` is run by somebody else, who releases there")]
    Foreign(CellName),
    #[error("cell `{to}` runs {}, and `{from}` runs {}: their schemas differ", said(*.to_release), said(*.from_release))]
    BehindRelease { from: CellName, from_release: u32, to: CellName, to_release: u32 },
    #[error("service `{0}` has a fixed `port`, and two releases of it cannot both have that beside each other")]
    FixedPort(ServiceName),
    #[error("cell `{0}` is run by somebody else, who restarts what runs there")]
    NotOurs(CellName),
    #[error("service `{0}` has a fixed `port`, and no second copy can serve while one is restarted")]
    PortTaken(ServiceName),
    #[error("another service of cell `{0}` is being restarted")]
    Restarting(CellName),
    #[error("the database of cell `{cell}` is being maintained, and no index is built anew by that")]
    Maintained { cell: CellName, operation: OperationId },
    #[error("`{0}` is not the host of a registry")]
    BadRegistry(String),
    #[error("there is no account for the registry `{0}`")]
    NoRegistry(String),
    #[error("the password of the registry `{host}` is empty: `{}` of the stack file comes to nothing", .template.as_str())]
    EmptyPassword { host: String, template: Template },
}

/// As people name it.
pub(crate) fn said(release: u32) -> String {
    if release == 0 { "what the stack file says".to_owned() } else { format!("r{release}") }
}

impl ReleaseError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NoRelease(_) | Self::NoRegistry(_) => Kind::NotFound,
            Self::BadArtifact { .. }
            | Self::Empty
            | Self::NoService(_)
            | Self::NoDigest(_)
            | Self::Foreign(_)
            | Self::FixedPort(_)
            | Self::NotOurs(_)
            | Self::PortTaken(_)
            | Self::EmptyPassword { .. }
            | Self::BadRegistry(_) => Kind::Invalid,
            Self::Rolling(_)
            | Self::InCell { .. }
            | Self::Moving { .. }
            | Self::NothingBefore
            | Self::Restarting(_)
            | Self::Maintained { .. }
            | Self::BehindRelease { .. } => Kind::Conflict,
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoRelease(_) => "no_release",
            Self::BadArtifact { .. } => "bad_artifact",
            Self::Empty => "empty_release",
            Self::NoService(_) => "no_service",
            Self::NoDigest(_) => "no_digest",
            Self::Rolling(_) => "release_rolling",
            Self::InCell { .. } => "cell_has_release",
            Self::Moving { .. } => "cell_has_move",
            Self::NothingBefore => "nothing_before",
            Self::Foreign(_) | Self::NotOurs(_) => "foreign_cell",
            Self::FixedPort(_) | Self::PortTaken(_) => "fixed_port",
            Self::Restarting(_) => "cell_has_restart",
            Self::Maintained { .. } => "cell_has_maintenance",
            Self::BehindRelease { .. } => "release_missing",
            Self::BadRegistry(_) => "bad_registry",
            Self::NoRegistry(_) => "no_registry",
            Self::EmptyPassword { .. } => "empty_password",
        }
    }

    pub(crate) fn hint(&self) -> String {
        match self {
            Self::NoRelease(_) => "`berth release list` shows those there are".to_owned(),
            Self::BadArtifact { source, .. } => source.hint().to_owned(),
            Self::Empty => "for example `berth release create web=registry.example.com/shop/web@sha256:…`".to_owned(),
            Self::NoService(_) => "take one of the names under `services` of the stack file".to_owned(),
            Self::NoDigest(name) => {
                format!("`berth release create {name}=IMAGE@sha256:…`, then `berth release roll`")
            }
            Self::Rolling(_) => {
                "`berth release status` shows how far it is; `berth release back` stops it and goes back".to_owned()
            }
            Self::InCell { .. } => "try again when it has: `berth release status`".to_owned(),
            Self::Moving { .. } => {
                "try again when it has: `berth operation list --open`; `--to` leaves the cell out".to_owned()
            }
            Self::NothingBefore => "`berth release back --to rN` names one".to_owned(),
            Self::Foreign(_) => "name the cells that Berth runs with `--to`".to_owned(),
            Self::NotOurs(_) => "restart it where it runs; `berth cell list` shows whose cells are whose".to_owned(),
            Self::Restarting(cell) => {
                format!("try again when it has: `berth operation list --open`; it is about cell `{cell}`")
            }
            Self::Maintained { operation, .. } => {
                format!("ask again when it has ended: `berth operation watch {operation}`")
            }
            Self::FixedPort(_) | Self::PortTaken(_) => {
                "leave `port` out: each copy is given one of its own as `PORT`".to_owned()
            }
            Self::BehindRelease { from, from_release, to, to_release } => {
                let (cell, release) = if to_release < from_release { (to, from_release) } else { (from, to_release) };
                format!("`berth release roll r{release} --to {cell}` brings the missing release there")
            }
            Self::BadRegistry(_) => "a host as in `registry.example.com` or `registry.example.com:5000`".to_owned(),
            Self::NoRegistry(_) => "`berth registry list` shows those there are".to_owned(),
            Self::EmptyPassword { template, .. } => format!(
                "give {} a value where `berth serve` is started, and start it anew; or take the account out of `registries`",
                template.variables().join(" and ")
            ),
        }
    }
}
