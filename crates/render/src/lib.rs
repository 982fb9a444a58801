//! Files for people's own tools, from what a stack is: variables, compose, nginx, systemd units, Dockerfile, alert rules, a dashboard, a workflow
//! that builds images. Knows those formats' keys and what belongs into them.
//!
//! Pure: the same site gives the same bytes. Never reads or writes a file, and never holds a secret: values stand as
//! the names of variables.

#![expect(clippy::format_push_string, reason = "files are small and rendered once")]

mod compose;
mod dockerfile;
mod env;
mod monitoring;
mod nginx;
mod quote;
mod systemd;
mod workflow;

pub use dockerfile::Language;
pub use monitoring::{Alert, Alerts};

use berth_domain::{Hostname, ServiceName, ServiceRole, StackName};

/// The first line of every file, by which one that people wrote themselves is told from ours.
pub const MARK: &str = "Rendered by `berth render` from the stack file. Change that, and render again.";

/// What Postgres gets where nobody says: enough for a small shared cell.
pub const DATABASE_MIB: u32 = 512;
/// The system, the engine of the containers, `berth serve` and `berth edge`.
pub const SYSTEM_MIB: u32 = 768;

/// What is rendered.
#[derive(Clone, Debug)]
pub struct Site {
    pub stack: StackName,
    pub services: Vec<Service>,
    /// What the database of the server is promised.
    pub database_mib: u32,
    /// Where a cell's shape says it.
    pub database_cpu_millis: Option<u32>,
    /// Where the application has keys in a Redis (`data.redis`).
    pub redis: Option<Redis>,
    /// Whether it has objects in a place beside the database (`data.objects`).
    pub objects: bool,
    /// The server that carries it all, where its size is known.
    pub server_mib: Option<u32>,
    /// The name that nginx answers to.
    pub host: Hostname,
    pub language: Language,
    /// In place of the limits that alert rules usually have.
    pub alerts: Alerts,
}

/// One service, as every copy of it runs.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: ServiceName,
    pub role: ServiceRole,
    pub run: Run,
    pub migrate: Option<Vec<String>>,
    pub port: Option<u16>,
    pub health: Option<String>,
    pub copies: u16,
    /// Values with `${NAME}` for variables and `$$` for a dollar sign, which is how compose reads them too.
    pub env: Vec<(String, String)>,
    pub memory_mib: u32,
    pub cpu_millis: u32,
}

/// What the Redis is to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redis {
    /// What is in it can be had again.
    Cache,
    /// The only place of what is in it.
    Store,
}

/// What is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Program and arguments in an image that the variable `SERVICE_IMAGE` names.
    Command(Vec<String>),
    /// As the stack file names it.
    Image(String),
}

/// One file, by its path below the folder of the stack file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub path: &'static str,
    pub text: String,
}

/// Why nothing is rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    #[error("the stack promises {wanted_mib} MiB ({parts}), and the server has {server_mib} MiB")]
    TooSmall { wanted_mib: u64, server_mib: u32, parts: String },
    #[error("service `{service}` names the image `{image}` by a tag, which somebody can move")]
    MovingTag { service: ServiceName, image: String },
    #[error("the stack has no service with the role `web`")]
    NoWeb,
    #[error("service `{service}` would be called `{name}` in `docker-compose.yml`, as another container there is")]
    NameTaken { service: ServiceName, name: String },
}

/// The units of `berth serve` and `berth edge`, which no stack changes.
pub fn units() -> Vec<File> {
    systemd::render()
}

impl RenderError {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TooSmall { .. } => "too_small",
            Self::MovingTag { .. } => "moving_tag",
            Self::NoWeb => "no_web",
            Self::NameTaken { .. } => "name_taken",
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            Self::TooSmall { .. } => {
                "take a larger server, or promise less: `services.NAME.shape.memory_mib`, `copies`"
            }
            Self::MovingTag { .. } => "name it by its digest: `NAME@sha256:…`",
            Self::NoWeb => "give one service `role: web`",
            Self::NameTaken { .. } => {
                "give the service another name: Postgres, Redis, the place of objects, copies and migrations have theirs"
            }
        }
    }
}

impl Site {
    /// Every file, in one order.
    pub fn files(&self) -> Result<Vec<File>, RenderError> {
        self.check()?;
        let mut files = vec![
            File { path: ".env.example", text: env::render(self) },
            File { path: "Dockerfile", text: dockerfile::render(self) },
            File { path: "docker-compose.yml", text: compose::render(self) },
            File { path: "nginx.conf", text: nginx::render(self) },
        ];
        files.extend(systemd::render());
        files.extend(monitoring::render(&self.alerts));
        files.push(File { path: ".github/workflows/images.yml", text: workflow::render(self) });
        files.push(File { path: ".dockerignore", text: dockerfile::ignored() });
        Ok(files)
    }

    fn check(&self) -> Result<(), RenderError> {
        if self.web().is_none() {
            return Err(RenderError::NoWeb);
        }
        for service in &self.services {
            if let Run::Image(image) = &service.run
                && !image.contains("@sha256:")
            {
                return Err(RenderError::MovingTag { service: service.name.clone(), image: image.clone() });
            }
        }
        if let Some((service, name)) = compose::doubled(self) {
            return Err(RenderError::NameTaken { service: service.name.clone(), name });
        }
        let Some(server_mib) = self.server_mib else { return Ok(()) };
        let mut parts = vec![format!("{SYSTEM_MIB} system"), format!("{} postgres", self.database_mib)];
        let mut wanted_mib = u64::from(SYSTEM_MIB) + u64::from(self.database_mib);
        if self.redis.is_some() {
            wanted_mib += u64::from(self.redis_mib());
            parts.push(format!("{} redis", self.redis_mib()));
        }
        for service in &self.services {
            wanted_mib += u64::from(service.memory_mib) * u64::from(service.copies);
            parts.push(format!("{} x {} {}", service.copies, service.memory_mib, service.name));
        }
        if wanted_mib > u64::from(server_mib) {
            return Err(RenderError::TooSmall { wanted_mib, server_mib, parts: parts.join(", ") });
        }
        Ok(())
    }

    /// What keys may take: a quarter of the database's memory, as in cells that Berth runs.
    fn keys_mib(&self) -> u32 {
        (self.database_mib / 4).max(16)
    }

    /// What the Redis may take: as much again, since it writes its file anew from a copy of itself.
    fn redis_mib(&self) -> u32 {
        self.keys_mib() * 2
    }

    fn web(&self) -> Option<&Service> {
        self.services.iter().find(|service| service.role == ServiceRole::Web)
    }
}

impl Service {
    /// The port inside its container.
    fn inner_port(&self) -> u16 {
        self.port.unwrap_or(8000)
    }

    /// The variable that names its image.
    fn image_variable(&self) -> String {
        format!("{}_IMAGE", self.name.as_str().to_uppercase().replace('-', "_"))
    }
}
