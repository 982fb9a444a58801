//! `docker-compose.yml`: the application with its Postgres on one server, as a cell that `berth cell add` takes in.
//!
//! Publishes nothing but loopback: Docker opens a published port before the host's own firewall is asked.

use crate::{MARK, Redis, Run, Service, Site, quote};
use berth_domain::ServiceRole;
use std::collections::HashSet;

/// The name under which the stack is taken in, and which its processes are told.
const CELL: &str = "existing-1";

/// Loopback ports on the host, from here on one for each copy of a web service.
const FIRST_PORT: u16 = 18_000;
const POSTGRES_PORT: u16 = 15_432;
/// What applications call the address that they listen on.
const LISTEN_ON: [&str; 2] = ["BIND", "HOST"];

/// The application's own login, made again at each start: a fence lets the superuser pass, whom the mover is.
const ROLES: &str = r#"  postgres-roles:
    <<: *service
    image: ${POSTGRES_IMAGE:?an image of Postgres by digest}
    restart: "no"
    depends_on:
      postgres: { condition: service_healthy }
    environment:
      PGHOST: postgres
      PGUSER: berth
      PGDATABASE: app
      PGPASSWORD: ${POSTGRES_PASSWORD:?set it in .env}
      APP_PASSWORD: ${APP_PASSWORD:?set it in .env}
    command:
      - sh
      - -c
      - |
        psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 <<'SQL'
        \getenv password APP_PASSWORD
        select 'create role app' where not exists (select from pg_roles where rolname = 'app') \gexec
        alter role app login nosuperuser password :'password';
        alter database app owner to app;
        SQL
"#;

/// Said where it holds: what people would find out only at the first move.
const STAYS: &str =
    "# Redis and objects beside the database are not known to Berth: no tenant moves out of here, or in, with them.\n";

/// Of the store, at each start. Whoever the application runs as in its container writes there, and takes away what is its own.
const PLACE: &str = r#"  objects-place:
    <<: *service
    image: ${POSTGRES_IMAGE:?an image of Postgres by digest}
    restart: "no"
    command: ["chmod", "1777", "/objects"]
    volumes: ["objects:/objects"]
"#;

pub fn render(site: &Site) -> String {
    let beside = if site.redis.is_some() || site.objects { STAYS } else { "" };
    let mut out = format!(
        "# {MARK}\n# `berth cell add {CELL} --endpoint http://127.0.0.1:{FIRST_PORT} --database-file FILE` takes it in, with the login\n\
         # `berth` in FILE: the application has one of its own, which a fence can refuse. Nothing here is reachable from\n\
         # other hosts. Values come from `.env`; see .env.example.\n{beside}\n\
         x-service: &service\n  restart: unless-stopped\n  init: true\n  security_opt: [\"no-new-privileges:true\"]\n\
         \x20 cap_drop: [ALL]\n  pids_limit: 512\n  logging: &logging {{ driver: json-file, options: {{ max-size: 10m, max-file: \"5\" }} }}\n\n\
         services:\n"
    );
    postgres(site, &mut out);
    out.push_str(ROLES);
    if let Some(kind) = site.redis {
        redis(site, kind, &mut out);
    }
    if site.objects {
        out.push_str(PLACE);
    }
    let mut port = FIRST_PORT;
    for service in &site.services {
        if let Some(migrate) = &service.migrate {
            one(site, service, &migration_of(service), &mut out);
            out.push_str(&format!(
                "    command: {}\n    restart: \"no\"\n    depends_on:\n      postgres-roles: {{ condition: service_completed_successfully }}\n",
                quote::words(migrate)
            ));
            after_what_stands_beside(site, &mut out);
        }
        for copy in 0..service.copies {
            one(site, service, &copy_of(service, copy), &mut out);
            if let Run::Command(command) = &service.run {
                out.push_str(&format!("    command: {}\n", quote::words(command)));
            }
            out.push_str("    stop_grace_period: 30s\n    depends_on:\n");
            match &service.migrate {
                Some(_) => out.push_str(&format!(
                    "      {}: {{ condition: service_completed_successfully }}\n",
                    migration_of(service)
                )),
                None => out.push_str("      postgres-roles: { condition: service_completed_successfully }\n"),
            }
            after_what_stands_beside(site, &mut out);
            if service.role == ServiceRole::Web {
                out.push_str(&format!("    ports: [\"127.0.0.1:{port}:{}\"]\n", service.inner_port()));
                port += 1;
            }
        }
    }
    out.push_str("\nvolumes:\n  postgres: {}\n");
    if site.redis == Some(Redis::Store) {
        out.push_str("  redis: {}\n");
    }
    if site.objects {
        out.push_str("  objects: {}\n");
    }
    out
}

/// The first name that two containers would have, with the service that asks for it: a key that stands twice is no YAML.
pub fn doubled(site: &Site) -> Option<(&Service, String)> {
    let redis = site.redis.map(|_| "redis");
    let objects = site.objects.then_some("objects-place");
    let mut taken: HashSet<String> =
        ["postgres", "postgres-roles"].into_iter().chain(redis).chain(objects).map(str::to_owned).collect();
    for service in &site.services {
        let migrate = service.migrate.as_ref().map(|_| migration_of(service));
        let copies = (0..service.copies).map(|copy| copy_of(service, copy));
        for name in migrate.into_iter().chain(copies) {
            if !taken.insert(name.clone()) {
                return Some((service, name));
            }
        }
    }
    None
}

fn migration_of(service: &Service) -> String {
    format!("{}-migrate", service.name)
}

fn copy_of(service: &Service, copy: u16) -> String {
    if copy == 0 { service.name.to_string() } else { format!("{}-{copy}", service.name) }
}

/// The rest of a service's `depends_on`.
fn after_what_stands_beside(site: &Site, out: &mut String) {
    if site.redis.is_some() {
        out.push_str("      redis: { condition: service_healthy }\n");
    }
    if site.objects {
        out.push_str("      objects-place: { condition: service_completed_successfully }\n");
    }
}

/// Kept as in cells that Berth runs. Its settings come over standard input: a password among arguments is in every list of
/// processes.
fn redis(site: &Site, kind: Redis, out: &mut String) {
    let (keeps, volume) = match kind {
        Redis::Cache => ("appendonly no\n        maxmemory-policy allkeys-lru", ""),
        Redis::Store => (
            "dir /data\n        appendonly yes\n        appendfsync always\n        maxmemory-policy noeviction",
            "    volumes: [\"redis:/data\"]\n",
        ),
    };
    out.push_str(&format!(
        "  redis:\n    <<: *service\n    image: ${{REDIS_IMAGE:?an image of Redis by digest}}\n    user: redis\n    mem_limit: {}m\n\
         \x20   environment:\n      REDIS_PASSWORD: ${{REDIS_PASSWORD:?set it in .env}}\n\
         \x20   command:\n      - sh\n      - -c\n      - |\n        exec redis-server - <<END\n        requirepass $$REDIS_PASSWORD\n\
         \x20       maxmemory {}mb\n        save \"\"\n        {keeps}\n        END\n\
         \x20   healthcheck: {{ test: [\"CMD-SHELL\", \"REDISCLI_AUTH=$$REDIS_PASSWORD redis-cli ping | grep -q PONG\"], interval: 5s, timeout: 3s, retries: 24 }}\n\
         {volume}",
        site.redis_mib(),
        site.keys_mib()
    ));
}

fn postgres(site: &Site, out: &mut String) {
    let mib = site.database_mib;
    // What Postgres' own manual advises: a quarter for its buffers, and the planner told of what the system caches.
    let cpus = site.database_cpu_millis.map(|millis| format!("    cpus: {}\n", f64::from(millis) / 1000.0));
    let cpus = cpus.unwrap_or_default();
    let (buffers, cache) = (mib / 4, mib / 4 * 3);
    out.push_str(&format!(
        "  postgres:\n    image: ${{POSTGRES_IMAGE:?an image of Postgres by digest}}\n    restart: unless-stopped\n\
         \x20   logging: *logging\n    security_opt: [\"no-new-privileges:true\"]\n    shm_size: 128m\n    mem_limit: {mib}m\n{cpus}\
         \x20   environment:\n      POSTGRES_USER: berth\n      POSTGRES_DB: app\n\
         \x20     POSTGRES_PASSWORD: ${{POSTGRES_PASSWORD:?set it in .env}}\n\
         \x20   # A tenant can be moved out only with `wal_level=logical`.\n\
         \x20   command: [\"postgres\", \"-c\", \"wal_level=logical\", \"-c\", \"max_connections=100\", \"-c\", \"shared_buffers={buffers}MB\", \"-c\", \"effective_cache_size={cache}MB\"]\n\
         \x20   # Over TCP: the first start makes the cluster with a server that listens on its socket alone, and ends it again.\n\
         \x20   healthcheck: {{ test: [\"CMD\", \"pg_isready\", \"-h\", \"127.0.0.1\", \"-U\", \"berth\", \"-d\", \"app\"], interval: 5s, timeout: 3s, retries: 24 }}\n\
         \x20   ports: [\"127.0.0.1:{POSTGRES_PORT}:5432\"]\n    volumes: [\"postgres:/var/lib/postgresql/data\"]\n"
    ));
}

/// What copies and migration of a service have in common.
fn one(site: &Site, service: &Service, name: &str, out: &mut String) {
    let image = match &service.run {
        Run::Command(_) => format!("${{{}:?an image by digest}}", service.image_variable()),
        Run::Image(image) => quote::yaml(image),
    };
    let cpus = f64::from(service.cpu_millis) / 1000.0;
    out.push_str(&format!(
        "  {name}:\n    <<: *service\n    image: {image}\n    mem_limit: {}m\n    cpus: {cpus}\n",
        service.memory_mib
    ));
    if site.objects {
        out.push_str("    volumes: [\"objects:/objects\"]\n");
    }
    let usual = [
        ("DATABASE_URL", "postgres://app:${APP_PASSWORD}@postgres:5432/app".to_owned()),
        ("DEPLOYMENT_MODE", "multi_tenant".to_owned()),
        ("INFRASTRUCTURE_PROVIDER", "compose".to_owned()),
        ("BERTH_CELL", CELL.to_owned()),
        ("PORT", service.inner_port().to_string()),
    ];
    let keys = site.redis.map(|_| ("REDIS_URL", "redis://:${REDIS_PASSWORD}@redis:6379/0".to_owned()));
    let objects = site.objects.then(|| ("OBJECTS_URL", "file:///objects".to_owned()));
    // An application that listens on loopback unless it is told otherwise is alone in its container. What is published
    // of it is said under `ports`, and that is the host's loopback.
    let listen = LISTEN_ON.map(|variable| (variable, "0.0.0.0".to_owned()));
    // What the stack file says goes before what is usual, as in every cell; a key that stands twice is no YAML.
    let usual = usual.into_iter().chain(keys).chain(objects).chain(listen);
    let usual = usual.filter(|(variable, _)| !service.env.iter().any(|(own, _)| own == variable));
    out.push_str("    environment:\n");
    for (variable, value) in usual {
        out.push_str(&format!("      {variable}: {}\n", quote::yaml(&value)));
    }
    for (variable, value) in &service.env {
        out.push_str(&format!("      {variable}: {}\n", quote::yaml(value)));
    }
}
