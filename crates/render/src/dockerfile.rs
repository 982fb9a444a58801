//! `Dockerfile`: built in one stage, run in another that has no compiler; as a user without rights, with a health check.

use crate::{MARK, Site};

/// What the application is written in, which decides how it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Go,
    Node,
    Python,
    Rust,
}

impl Language {
    pub const ALL: [Self; 4] = [Self::Go, Self::Node, Self::Python, Self::Rust];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Node => "node",
            Self::Python => "python",
            Self::Rust => "rust",
        }
    }

    /// The file by which a folder is told to be of it.
    pub const fn manifest(self) -> &'static str {
        match self {
            Self::Go => "go.mod",
            Self::Node => "package.json",
            Self::Python => "requirements.txt",
            Self::Rust => "Cargo.toml",
        }
    }
}

/// Everything but the end, which all have in common. Sources are copied after what they depend on, so that a change of
/// a line does not build the world.
fn stages(language: Language) -> &'static str {
    match language {
        Language::Go => {
            "FROM golang:1.25-bookworm AS build
WORKDIR /src
COPY go.mod go.sum* ./
RUN go mod download
COPY . .
RUN mkdir -p /out && CGO_ENABLED=0 go build -trimpath -o /out/ ./...

FROM debian:12-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /usr/local/bin/
WORKDIR /app
"
        }
        Language::Node => {
            "FROM node:22-bookworm-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci
COPY . .
RUN npm run build --if-present && npm prune --omit=dev

FROM node:22-bookworm-slim
ENV NODE_ENV=production
WORKDIR /app
COPY --from=build /app /app
"
        }
        Language::Python => {
            "FROM python:3.13-slim-bookworm AS build
RUN python -m venv /venv
COPY requirements.txt .
RUN /venv/bin/pip install --no-cache-dir -r requirements.txt

FROM python:3.13-slim-bookworm
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
COPY --from=build /venv /venv
COPY . .
"
        }
        Language::Rust => {
            "FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \\
    cargo build --release --locked && mkdir -p /out && find target/release -maxdepth 1 -type f -executable -exec cp {} /out/ \\;

FROM debian:12-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /usr/local/bin/
WORKDIR /app
"
        }
    }
}

/// What lies beside the sources and belongs into no image: above all the variables with their secrets.
pub fn ignored() -> String {
    format!(
        "# {MARK}\n**/.env\n**/.env.*\n!**/.env.example\n**/*.key\n.git\n.github\nberth.hosts\ndocker-compose.yml\nnginx.conf\n\
         systemd\nprometheus\ngrafana\ntarget\n**/node_modules\n**/.venv\n**/venv\n**/__pycache__\n"
    )
}

pub fn render(site: &Site) -> String {
    let web = site.web();
    let health = web.and_then(|web| web.health.as_deref()).unwrap_or("/health");
    let port = web.map_or(8000, crate::Service::inner_port);
    let command = web.map_or_else(String::new, |web| match &web.run {
        crate::Run::Command(words) => {
            let words: Vec<String> = words.iter().map(|word| crate::quote::yaml(word)).collect();
            format!("CMD [{}]\n", words.join(", "))
        }
        crate::Run::Image(_) => String::new(),
    });
    // The path is a word of its own, whatever stands in it.
    let path = format!("'{}'", health.replace('\'', "'\\''"));
    let check = crate::quote::yaml(&format!(
        "exec 3<>/dev/tcp/127.0.0.1/$PORT && printf 'GET %s HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' {path} >&3 && head -n 1 <&3 | grep -q ' 2'"
    ));
    // The shell of all these images opens a connection by itself: there is no curl in them, and no need for one.
    format!(
        "# syntax=docker/dockerfile:1\n# {MARK}\n{}\
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin app
USER 10001
ENV PORT={port}
EXPOSE {port}
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \\
    CMD [\"bash\", \"-c\", {check}]
{command}",
        stages(site.language)
    )
}
