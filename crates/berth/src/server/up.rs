//! `berth up`: one fresh host to a served tenant. Prepares it, brings this program, starts `serve` and `edge` there, and
//! does the rest as any caller of the API would, through the connection. Every step looks first: a run that was cut off is
//! gone on with by the same command.

use super::{
    Answer, ahead, beside,
    host::{Host, agree_to_changes},
    ports,
    prepare::{self, Found, USER},
    steps::{Step, Walk, Went, failed, say},
    told,
};
use crate::{
    cli::{Common, Connection as Api, Context, StackFiles, stack_apply, to_its_end, to_success},
    fail::{Failure, FailureExt as _},
};
use berth_client::ClientError;
use berth_domain::{
    CellClass, CellName, CellState, Hostname, PlanName, ProviderName, ServiceRole, TenantName, TenantState,
};
use berth_providers::ssh::{Connection, bring, listen};
use berth_render::{File, units};
use berth_wire::{CellCreate, Key, KeyCreate, TenantCreate};
use clap::Args;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::json;
use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  berth up root@203.0.113.7 --key-file ~/.ssh/id_ed25519 --dry-run\n  berth up root@203.0.113.7 --key-file ~/.ssh/id_ed25519 -f berth.yaml --tenant acme --tenant-host acme.example.com --plan hobby"
)]
pub struct Up {
    #[command(flatten)]
    host: Host,
    /// The stack file; it has to name a provider with the adapter `local`
    #[arg(long, short = 'f', default_value = "berth.yaml", value_name = "FILE")]
    file: PathBuf,
    /// A file with the variables that the stack file names, as NAME=VALUE lines; root's alone on the host
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// The first cell, where the stack file declares none
    #[arg(long, value_name = "NAME", default_value = "shared-1")]
    cell: CellName,
    /// Its provider. Default: the one with the adapter `local`
    #[arg(long, value_name = "NAME")]
    provider: Option<ProviderName>,
    /// The first tenant
    #[arg(long, value_name = "NAME", requires = "tenant_host")]
    tenant: Option<TenantName>,
    /// Its host name
    #[arg(long, value_name = "HOST", requires = "tenant")]
    tenant_host: Option<Hostname>,
    /// Its plan. Default: the only one of the stack file, else `hobby`
    #[arg(long, value_name = "PLAN")]
    plan: Option<PlanName>,
    /// Serve 443 as well, with certificates by ACME or of `berth cert add`
    #[arg(long)]
    tls: bool,
    /// Show the steps and stop
    #[arg(long)]
    dry_run: bool,
}

/// What the first cell and the first tenant are made with, where they are made.
struct FirstOf {
    provider: ProviderName,
    plan: PlanName,
}

/// What is put in force, and what is asked of it at the end.
#[derive(Clone, Copy)]
struct Served<'a> {
    files: &'a StackFiles,
    /// Of the first web service.
    path: &'a str,
    first_of: &'a FirstOf,
}

/// The name of its edge's key, which no other host's has: keys of one control plane may be of edges of many. Made of the
/// host's own name, for people, and of the id that its installation has, which is not to be told as it is.
const NAME_OF_KEY: &str = "printf 'edge-1 of %s (%s)' \"$(uname -n | cut -c1-40)\" \
                           \"$({ echo berth-edge; cat /etc/machine-id; } | sha256sum | cut -c1-12)\"";

/// Where this server's edge differs from the unit that `berth render` writes.
const EDGE_OWN: &str = "[Service]
User=berth-edge
Group=berth-edge
LoadCredential=
ExecStart=
ExecStart=/usr/local/bin/berth edge --name edge-1 --listen 0.0.0.0:80 --control http://127.0.0.1:7600 \
--key-file /etc/berth/edge.key --data-dir /var/lib/berth-edge
";

impl Up {
    pub(super) async fn run(mut self, common: &Common) -> Result<Answer, Failure> {
        let begun = Instant::now();
        self.host.beside(&self.file);
        // Its mistakes before anything is asked of a host.
        let files = StackFiles::read(&self.file, None).map_err(told)?;
        let stack = files.parse().map_err(told)?;
        ahead::settings(&stack)?;
        ahead::images(&stack)?;
        let first_of = FirstOf {
            provider: ahead::provider(&stack, self.provider.as_ref())?,
            plan: ahead::plan(&stack, self.plan.as_ref()),
        };
        let env = self.env_file.as_ref().map(fs::read).transpose().ours("the file of variables")?;
        let first = self.host.open(common.yes).await?;
        let found = prepare::look(&first).await?;
        let name = self.host.name().to_owned();
        say(&format!("`{name}` runs {}", found.system));
        beside::tell(&found.beside);
        let mut walk = Walk::new(&first, found.sudo, self.dry_run);
        ports::are_free(&walk, self.tls).await?;
        let known = ahead::environment(&walk, env.as_deref()).await?;
        files.parse_with(Some(&known)).map_err(|error| {
            let hint = "variables come with `--env-file FILE`, as NAME=VALUE lines; nothing was changed";
            Failure::request(error, hint)
        })?;
        ahead::of_providers(&stack, &known)?;
        if let (Some(tenant), Some(host)) = (&self.tenant, &self.tenant_host) {
            ahead::tenant(&walk, &stack, (tenant, host, &first_of.plan)).await?;
        }
        ahead::programs(&walk, &stack).await?;
        if self.dry_run {
            self.plan(&mut walk).await?;
            return Ok(self.answer(&name, &found, &walk, begun.elapsed(), None));
        }
        if !common.yes {
            let mut plan = Walk::new(&first, found.sudo, true);
            self.plan(&mut plan).await?;
            agree_to_changes(&name).await?;
        }
        prepare::prepare(&mut walk, &self.host).await?;
        program(&mut walk).await?;
        if let Some(env) = env {
            // Read at a start only: with other variables it is started again, in the same breath, so that a connection
            // that breaks leaves no control plane stopped.
            let script = "set -e; umask 077; install -d -m 755 /etc/berth; cat >/etc/berth/serve.env.new; \
                          if cmp -s /etc/berth/serve.env.new /etc/berth/serve.env; then rm /etc/berth/serve.env.new; else \
                          mv /etc/berth/serve.env.new /etc/berth/serve.env; \
                          systemctl try-restart berth-serve 2>/dev/null || true; fi";
            walk.must("the variables", script, &env).await?;
        }
        walk.step(&serve()).await?;
        let key = walk.must("reading the first key", "cat /var/lib/berth/serve/admin.key", b"").await?;
        let web = stack.services.values().find(|service| service.role == ServiceRole::Web);
        let path = web.and_then(|service| service.health.clone()).unwrap_or_else(|| "/".to_owned());
        let served = Served { files: &files, path: &path, first_of: &first_of };
        self.over_the_api(&mut walk, key.trim().to_owned().into(), served, common).await?;
        // Last: a run that is broken off before has shown nothing.
        let shown = "mkdir /var/lib/berth/serve/admin.key.shown 2>/dev/null";
        let shown_key = walk.is(shown).await?.then(|| key.trim().to_owned());
        Ok(self.answer(&name, &found, &walk, begun.elapsed(), shown_key))
    }

    /// All that would be done, and nothing done.
    async fn plan(&self, walk: &mut Walk<'_>) -> Result<(), Failure> {
        prepare::prepare(walk, &self.host).await?;
        program(walk).await?;
        walk.step(&serve()).await?;
        for (step, says) in self.rest() {
            walk.note(step, &says, Went::Would, Duration::ZERO);
        }
        Ok(())
    }

    const fn edge_says(&self) -> &'static str {
        if self.tls { "the proxy, on 80 and 443" } else { "the proxy, on 80" }
    }

    fn edge(&self) -> Step {
        let answers = "curl -fs -o /dev/null http://127.0.0.1:7603/healthz";
        let unit = unit_of("systemd/berth-edge.service");
        let tls = if self.tls { "Environment=BERTH_EDGE_LISTEN_TLS=0.0.0.0:443\n" } else { "" };
        // As a user of its own: on this server members are processes of the control plane's user, and the edge's key and
        // its certificates' are none of theirs.
        let own = format!("{EDGE_OWN}{tls}");
        let folder = "/etc/systemd/system/berth-edge.service.d";
        let socket = unit_of("systemd/berth-edge.socket").text;
        let ports =
            if self.tls { "ListenStream=0.0.0.0:80\nListenStream=0.0.0.0:443\n" } else { "ListenStream=0.0.0.0:80\n" };
        let socket = socket.replace("ListenStream=0.0.0.0:80\n", ports).replace('\'', r"'\''");
        let units = "/etc/systemd/system";
        let look = format!(
            "{} && printf %s '{own}' | cmp -s - {folder}/berth.conf && \
             printf %s '{socket}' | cmp -s - {units}/berth-edge.socket && {answers}",
            runs("berth-edge", &unit)
        );
        // The socket is started before the edge, and again only while no edge holds it.
        let act = format!(
            "set -e; mkdir -p {folder}; printf %s '{own}' >{folder}/berth.conf; \
             printf %s '{socket}' >{units}/berth-edge.socket; cat >{units}/berth-edge.service; \
             systemctl daemon-reload; systemctl stop berth-edge.service berth-edge.socket; \
             systemctl enable -q berth-edge.socket berth-edge.service; \
             systemctl start berth-edge.socket; systemctl start berth-edge.service"
        );
        Step::new("edge", self.edge_says(), look, act).with(unit.text)
    }

    /// What is done over the API, for `--dry-run`.
    fn rest(&self) -> Vec<(&'static str, String)> {
        let mut rest = vec![
            ("stack", format!("{} put in force", self.file.display())),
            ("cell", format!("cell `{}`, where the stack file declares none", self.cell)),
            ("edge", self.edge_says().to_owned()),
        ];
        if let (Some(tenant), Some(host)) = (&self.tenant, &self.tenant_host) {
            rest.push(("tenant", format!("tenant `{tenant}` at {host}, served")));
        }
        rest
    }

    async fn over_the_api(
        &self,
        walk: &mut Walk<'_>,
        key: SecretString,
        served: Served<'_>,
        common: &Common,
    ) -> Result<(), Failure> {
        // The prepared user's connection: the first one may be root's, who is not let in again.
        let through: Arc<Connection> = Arc::new(self.host.again(walk.connection, USER).await.map_err(failed)?);
        let at = listen(through, 7600).await.ours("a port of this machine")?;
        let api = Api { url: format!("http://{at}"), key: Some(key) };
        let cx = Context::new(api, common.json, true, Timestamp::now()).map_err(told)?;
        let error = |error: ClientError| told(error.into());

        let begun = Instant::now();
        let applied = cx.client.stack_apply(&stack_apply(served.files)).await.map_err(error)?;
        for operation in &applied.operations {
            let ended = to_its_end(&cx, *operation).await.map_err(told)?;
            crate::cli::success(ended).map_err(told)?;
        }
        let went = if applied.differences.is_empty() { Went::Was } else { Went::Done };
        walk.note("stack", &format!("revision {} is in force", applied.revision), went, begun.elapsed());

        let begun = Instant::now();
        let cells = cx.client.cells().await.map_err(error)?;
        // A run that was broken off may have left one in the making.
        let ours = |cell: &&berth_wire::Cell| cell.state == CellState::Creating && cell.name == self.cell;
        let made = cells.iter().filter(ours).filter_map(|cell| cell.operation);
        for operation in made {
            let ended = to_its_end(&cx, operation).await.map_err(told)?;
            crate::cli::success(ended).map_err(told)?;
        }
        let went = if cells.is_empty() {
            let wanted = CellCreate {
                name: self.cell.clone(),
                class: CellClass::Shared,
                provider: Some(served.first_of.provider.clone()),
                region: None,
                max_tenants: None,
            };
            let begun = cx.client.cell_create(&wanted).await.map_err(error)?;
            to_success(&cx, begun).await.map_err(told)?;
            Went::Done
        } else {
            Went::Was
        };
        let cell = cells.first().map_or(&self.cell, |cell| &cell.name);
        walk.note("cell", &format!("cell `{cell}`"), went, begun.elapsed());

        if !walk.is("test -s /etc/berth/edge.key").await? {
            let name = walk.must("the name of the edge's key", NAME_OF_KEY, b"").await?;
            let all = cx.client.keys().await.map_err(error)?;
            for key in all.iter().filter(|key| is_lost(key, &name)) {
                cx.client.key_revoke(key.id).await.map_err(error)?;
            }
            let wanted = KeyCreate { name, scope: "edge".to_owned() };
            let made = cx.client.key_create(&wanted).await.map_err(error)?;
            let script = "set -e; umask 077; install -d -m 755 /etc/berth; cat >/etc/berth/edge.key.new; \
                          chown berth-edge /etc/berth/edge.key.new; mv /etc/berth/edge.key.new /etc/berth/edge.key";
            walk.must("the edge's key", script, made.secret.as_bytes()).await?;
        }
        walk.step(&self.edge()).await?;
        self.tenant(walk, &cx, served).await
    }

    async fn tenant(&self, walk: &mut Walk<'_>, cx: &Context, served: Served<'_>) -> Result<(), Failure> {
        let (Some(tenant), Some(host)) = (&self.tenant, &self.tenant_host) else { return Ok(()) };
        let begun = Instant::now();
        let went = match cx.client.tenant(tenant.as_str()).await {
            Ok(known) => {
                // Begun by a run that was broken off, it is not served before that is at its end.
                if let (TenantState::Provisioning, Some(operation)) = (known.state, known.operation) {
                    let ended = to_its_end(cx, operation).await.map_err(told)?;
                    crate::cli::success(ended).map_err(told)?;
                }
                Went::Was
            }
            Err(error) if error.problem().is_some_and(|problem| problem.status == 404) => {
                let wanted = TenantCreate {
                    name: tenant.clone(),
                    plan: served.first_of.plan.clone(),
                    hosts: vec![host.clone()],
                    key: None,
                    cell: None,
                    profile: None,
                };
                let begun = cx.client.tenant_create(&wanted).await.map_err(|error| told(error.into()))?;
                to_success(cx, begun).await.map_err(told)?;
                Went::Done
            }
            Err(error) => return Err(told(error.into())),
        };
        let until = Instant::now() + Duration::from_secs(20);
        let status = loop {
            match self.ask(host, served.path).await {
                Ok(status) if status < 500 && status != 404 => break status,
                other if Instant::now() > until => {
                    let what = format!("`{tenant}` is not served at {host} through port 80 of the host: {other:?}");
                    return Err(Failure::request(what, "`berth status` and `berth logs` on the host say more"));
                }
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        let says = format!("tenant `{tenant}` is served at {host}: its first answer was {status}");
        walk.note("tenant", &says, went, begun.elapsed());
        Ok(())
    }

    /// One request from here, past every name server.
    async fn ask(&self, host: &Hostname, path: &str) -> Result<u16, String> {
        let asked = async {
            let mut stream = TcpStream::connect((self.host.name(), 80)).await?;
            stream
                .write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
                .await?;
            let mut head = [0; 12];
            stream.read_exact(&mut head).await?;
            Ok::<_, std::io::Error>(head)
        };
        let head = timeout(Duration::from_secs(5), asked).await.map_err(|_| "no answer".to_owned())?;
        let head = head.map_err(|error| error.to_string())?;
        std::str::from_utf8(&head[9..]).ok().and_then(|word| word.parse().ok()).ok_or_else(|| "no HTTP".to_owned())
    }

    fn answer(&self, name: &str, found: &Found, walk: &Walk<'_>, took: Duration, key: Option<String>) -> Answer {
        let took_s = took.as_secs_f64();
        let login = self.host.key_file().map_or_else(String::new, |path| format!("-i {} ", path.display()));
        let port = if self.host.port() == 22 { String::new() } else { format!("-p {} ", self.host.port()) };
        let mut next = vec![
            format!("ssh {login}{port}-N -L 7600:127.0.0.1:7600 {USER}@{name} &"),
            "berth login http://127.0.0.1:7600".to_owned(),
        ];
        next.push(match &self.tenant {
            Some(_) => "berth cell add NAME --host ANOTHER --key-file FILE".to_owned(),
            None => "berth tenant create NAME --plan PLAN --host HOST".to_owned(),
        });
        let mut text = String::new();
        if self.dry_run {
            text.push_str("nothing was changed\n");
        } else {
            text.push_str(&format!("`{name}` is up after {took_s:.0} s\n"));
            if let Some(key) = &key {
                text.push_str(&format!("\nThe first administrator's key, shown this once:\n\n    {key}\n"));
            } else {
                text.push_str("\nThe first administrator's key was shown before; root reads it there in /var/lib/berth/serve/admin.key\n");
            }
            text.push_str(&format!("\nnext:\n  {}\n", next.join("\n  ")));
        }
        let json = json!({
            "host": name, "beside": found.beside, "dry_run": self.dry_run, "took_s": took_s, "steps": walk.rows, "admin_key": key,
            "next": next,
        });
        Answer { text, json, status: 0 }
    }
}

/// Of a run on this host that was broken off before it had written the key down: nobody has that one.
fn is_lost(key: &Key, name: &str) -> bool {
    (key.name.as_str(), key.scope.as_str()) == (name, "edge") && key.last_used_at.is_none() && key.revoked_at.is_none()
}

async fn program(walk: &mut Walk<'_>) -> Result<(), Failure> {
    let says = "this program, as /usr/local/bin/berth";
    if walk.dry_run {
        walk.note("program", says, Went::Would, Duration::ZERO);
        return Ok(());
    }
    let begun = Instant::now();
    let path = bring(walk.connection, walk.sudo).await.map_err(failed)?;
    let same = walk.is(&format!("cmp -s {path} /usr/local/bin/berth")).await?;
    if !same {
        // Moved into place: a program that runs cannot be written to.
        let script = format!(
            "install -m 755 {path} /usr/local/bin/berth.new && mv /usr/local/bin/berth.new /usr/local/bin/berth"
        );
        walk.must("the program", &script, b"").await?;
    }
    walk.note("program", says, if same { Went::Was } else { Went::Done }, begun.elapsed());
    Ok(())
}

/// `serve`, until its API answers. One that runs an older program is started again.
fn serve() -> Step {
    let unit = unit_of("systemd/berth-serve.service");
    let look = format!("{} && curl -s -o /dev/null http://127.0.0.1:7600/v1/status", runs("berth-serve", &unit));
    let act = "set -e; install -d -m 755 /etc/berth; cat >/etc/systemd/system/berth-serve.service; \
               systemctl daemon-reload; systemctl enable -q berth-serve; systemctl restart berth-serve";
    Step::new("serve", "the control plane, on 127.0.0.1:7600", look, act).with(unit.text)
}

fn unit_of(path: &str) -> File {
    units().into_iter().find(|file| file.path == path).expect("the two units are rendered")
}

/// Whether a unit is as it should be, active, and runs the program that is there now.
fn runs(name: &str, unit: &File) -> String {
    let text = unit.text.replace('\'', r"'\''");
    format!(
        "printf %s '{text}' | cmp -s - /etc/systemd/system/{name}.service && systemctl is-active -q {name} && \
         test \"$(readlink /proc/$(systemctl show -p MainPID --value {name})/exe)\" = /usr/local/bin/berth"
    )
}

#[cfg(test)]
mod tests {
    use super::{NAME_OF_KEY, is_lost};
    use berth_domain::KeyId;
    use berth_wire::Key;
    use jiff::Timestamp;
    use std::process::Command;
    use uuid::Uuid;

    #[test]
    fn only_a_key_that_this_host_was_to_have_and_nobody_used_is_revoked() {
        let name = "edge-1 of shop (0123456789ab)";
        let key = |name: &str, scope: &str| Key {
            id: KeyId::new(Uuid::now_v7()),
            name: name.to_owned(),
            scope: scope.to_owned(),
            prefix: "bk_abcde".to_owned(),
            created_at: Timestamp::UNIX_EPOCH,
            last_used_at: None,
            revoked_at: None,
        };
        assert!(is_lost(&key(name, "edge"), name));
        for other in [
            // Of an edge elsewhere, as the docs have it made; of another host; of something else.
            key("edge-1", "edge"),
            key("edge-1 of shop (ba9876543210)", "edge"),
            key(name, "admin"),
            Key { last_used_at: Some(Timestamp::UNIX_EPOCH), ..key(name, "edge") },
            Key { revoked_at: Some(Timestamp::UNIX_EPOCH), ..key(name, "edge") },
        ] {
            assert!(!is_lost(&other, name), "{other:?}");
        }
    }

    #[test]
    fn the_name_of_a_key_is_the_hosts_own_and_tells_no_id_of_it() {
        let id = tempfile::NamedTempFile::new().unwrap();
        let named = |words: &str| {
            std::fs::write(id.path(), words).unwrap();
            let script = NAME_OF_KEY.replace("/etc/machine-id", id.path().to_str().unwrap());
            String::from_utf8(Command::new("sh").args(["-c", &script]).output().unwrap().stdout).unwrap()
        };
        let (one, other) = (named("4c4c4544003410"), named("4c4c4544003411"));
        assert!(one.starts_with("edge-1 of ") && one.ends_with(')') && one.len() <= 80, "{one}");
        assert!(one != other && one == named("4c4c4544003410") && !one.contains("4c4c"), "{one} {other}");
    }
}
