//! `docker-compose.yml`: the application with its Postgres on one server, as a cell that `berth cell add` takes in.
//!
//! Publishes nothing but loopback: Docker opens a published port before the host's own firewall is asked.

use crate::{MARK, Run, Service, Site, quote};
use berth_domain::ServiceRole;

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

pub fn render(site: &Site) -> String {
    let mut out = format!(
        "# {MARK}\n# `berth cell add existing-1 --endpoint http://127.0.0.1:{FIRST_PORT} --database-file FILE` takes it in, with the login\n\
         # `berth` in FILE: the application has one of its own, which a fence can refuse. Nothing here is reachable from\n\
         # other hosts. Values come from `.env`; see .env.example.\n\n\
         x-service: &service\n  restart: unless-stopped\n  init: true\n  security_opt: [\"no-new-privileges:true\"]\n\
         \x20 cap_drop: [ALL]\n  pids_limit: 512\n  logging: &logging {{ driver: json-file, options: {{ max-size: 10m, max-file: \"5\" }} }}\n\n\
         services:\n"
    );
    postgres(site, &mut out);
    out.push_str(ROLES);
    let mut port = FIRST_PORT;
    for service in &site.services {
        if let Some(migrate) = &service.migrate {
            one(service, &format!("{}-migrate", service.name), &mut out);
            out.push_str(&format!(
                "    command: {}\n    restart: \"no\"\n    depends_on:\n      postgres-roles: {{ condition: service_completed_successfully }}\n",
                quote::words(migrate)
            ));
        }
        for copy in 0..service.copies {
            let name = if copy == 0 { service.name.to_string() } else { format!("{}-{copy}", service.name) };
            one(service, &name, &mut out);
            if let Run::Command(command) = &service.run {
                out.push_str(&format!("    command: {}\n", quote::words(command)));
            }
            out.push_str("    stop_grace_period: 30s\n    depends_on:\n");
            match &service.migrate {
                Some(_) => out.push_str(&format!(
                    "      {}-migrate: {{ condition: service_completed_successfully }}\n",
                    service.name
                )),
                None => out.push_str("      postgres-roles: { condition: service_completed_successfully }\n"),
            }
            if service.role == ServiceRole::Web {
                out.push_str(&format!("    ports: [\"127.0.0.1:{port}:{}\"]\n", service.inner_port()));
                port += 1;
            }
        }
    }
    out.push_str("\nvolumes:\n  postgres: {}\n");
    out
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
fn one(service: &Service, name: &str, out: &mut String) {
    let image = match &service.run {
        Run::Command(_) => format!("${{{}:?an image by digest}}", service.image_variable()),
        Run::Image(image) => quote::yaml(image),
    };
    let cpus = f64::from(service.cpu_millis) / 1000.0;
    out.push_str(&format!(
        "  {name}:\n    <<: *service\n    image: {image}\n    mem_limit: {}m\n    cpus: {cpus}\n    environment:\n\
         \x20     DATABASE_URL: \"postgres://app:${{APP_PASSWORD}}@postgres:5432/app\"\n\
         \x20     DEPLOYMENT_MODE: multi_tenant\n      INFRASTRUCTURE_PROVIDER: compose\n      PORT: \"{}\"\n",
        service.memory_mib,
        service.inner_port()
    ));
    // An application that listens on loopback unless it is told otherwise is alone in its container. What is published
    // of it is said under `ports`, and that is the host's loopback.
    for variable in LISTEN_ON {
        if !service.env.iter().any(|(own, _)| own == variable) {
            out.push_str(&format!("      {variable}: \"0.0.0.0\"\n"));
        }
    }
    for (variable, value) in &service.env {
        out.push_str(&format!("      {variable}: {}\n", quote::yaml(value)));
    }
}
