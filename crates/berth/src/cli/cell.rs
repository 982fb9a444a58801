//! `berth cell …`.

use super::{
    CliError, Context,
    drain::Drain,
    table::{Table, facts},
    tenant::Wait,
    units,
};
use berth_client::Drainable;
use berth_domain::{CellClass, CellName, MemberId, ProviderName};
use berth_wire::{Cell as Shown, CellAbilities, CellCreate, EndpointAdd, ServerAdd, ServerLook};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use std::{fs, io, path::PathBuf};

#[derive(Subcommand, Debug)]
pub enum Cell {
    /// Make a cell: a Postgres of its own and a member for each service
    Create(Create),
    /// Take in a cell that exists, which is never changed; or make one on a server that is reached over SSH
    Add(Add),
    /// All cells
    List,
    /// One cell with its members
    Show { cell: String },
    /// What a cell's database lets Berth do, found out by trying; nothing of it stays there
    Abilities { cell: String },
    /// Find out what it does, in place of what its provider claims; takes some seconds of it
    Measure {
        cell: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let no new tenants in
    Drain {
        cell: String,
        /// Let new tenants in again
        #[arg(long)]
        undo: bool,
    },
    /// Give a member no new requests and let what is open end
    DrainMember {
        cell: String,
        /// Its id, or its address as `berth cell show` lists it
        member: String,
        #[command(flatten)]
        how: Drain,
    },
    /// Remove an empty cell with its database
    Remove(Remove),
}

#[derive(Args, Debug)]
pub struct Create {
    name: CellName,
    /// shared, pool or dedicated
    #[arg(long)]
    class: CellClass,
    /// A provider of the stack file; not needed where there is only one
    #[arg(long)]
    provider: Option<ProviderName>,
    #[arg(long)]
    region: Option<String>,
    /// How many tenants fit; otherwise what the stack file says
    #[arg(long)]
    max_tenants: Option<u32>,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  berth cell add existing-1 --endpoint http://10.0.0.5:8000 --database-file /run/secrets/shop\n  BERTH_CELL_DATABASE=postgres://… berth cell add existing-1 --endpoint http://10.0.0.5:8000\n  berth cell add fra-1 --host 203.0.113.7 --key-file ~/.ssh/id_ed25519 --class dedicated"
)]
#[command(group(clap::ArgGroup::new("where").required(true).args(["endpoint", "host"])))]
pub struct Add {
    name: CellName,
    /// Where its application answers, as http://host:port
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    #[command(flatten)]
    server: OnServer,
    /// The file with its connection string, `-` for standard input; or all of it in BERTH_CELL_DATABASE
    #[arg(long, value_name = "FILE")]
    database_file: Option<PathBuf>,
    /// The path that proves it is well; otherwise that of the stack's web service
    #[arg(long, value_name = "PATH")]
    health: Option<String>,
    /// shared, pool or dedicated
    #[arg(long, default_value = "shared")]
    class: CellClass,
    /// A provider of the stack file with the adapter `endpoint` or `ssh`; not needed where there is only one
    #[arg(long)]
    provider: Option<ProviderName>,
    #[arg(long)]
    region: Option<String>,
    /// How many tenants fit
    #[arg(long)]
    max_tenants: Option<u32>,
    #[command(flatten)]
    wait: Wait,
    /// Never an argument: every user of the machine could read it. Resolved by `main`.
    #[arg(skip)]
    pub database: Option<SecretString>,
}

#[derive(Args, Debug)]
pub struct Remove {
    cell: String,
    /// Show what would be removed and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

impl Cell {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::Create(create) => create.run(cx).await,
            Self::Add(add) => add.run(cx).await,
            Self::Abilities { cell } => {
                let abilities = cx.client.cell_abilities(&cell).await?;
                cx.show(&abilities, can)
            }
            Self::List => {
                let cells = cx.client.cells().await?;
                cx.show(&cells, |cells| list(cells))
            }
            Self::Show { cell } => {
                let cell = cx.client.cell(&cell).await?;
                cx.show(&cell, |cell| one(cell, cx.now))
            }
            Self::Measure { cell, wait } => {
                let begun = cx.client.cell_measure(&cell).await?;
                wait.finish(cx, begun).await
            }
            Self::Drain { cell, undo } => {
                let cell = cx.client.cell_drain(&cell, !undo).await?;
                cx.show(&cell, |cell| {
                    let (name, live) = (&cell.name, cell.tenants);
                    if undo {
                        format!("cell {name} takes new tenants again; {live} live there\n")
                    } else {
                        format!(
                            "cell {name} takes no new tenants; {live} live there: move them, then remove it, \
                             or `berth cell drain {name} --undo`\n"
                        )
                    }
                })
            }
            Self::DrainMember { cell, member, how } => {
                let member = find_member(cx, &cell, &member).await?;
                how.run(cx, Drainable::Member { cell, member }).await
            }
            Self::Remove(remove) => remove.run(cx).await,
        }
    }
}

async fn find_member(cx: &Context, cell: &str, which: &str) -> Result<MemberId, CliError> {
    let members = cx.client.cell(cell).await?.members;
    let is = |member: &&berth_wire::Member| member.id.to_string() == which || member.address.as_deref() == Some(which);
    members.iter().find(is).map(|member| member.id).ok_or_else(|| {
        CliError::request(
            format!("cell `{cell}` has no member `{which}`"),
            format!("`berth cell show {cell}` lists them with their addresses"),
        )
    })
}

impl Create {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let wanted = CellCreate {
            name: self.name,
            class: self.class,
            provider: self.provider,
            region: self.region,
            max_tenants: self.max_tenants,
        };
        let begun = cx.client.cell_create(&wanted).await?;
        self.wait.finish(cx, begun).await
    }
}

impl Add {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        if self.server.host.is_some() {
            return self.on_server(cx).await;
        }
        let database = match &self.database_file {
            Some(path) if path.as_os_str() == "-" => io::read_to_string(io::stdin()),
            Some(path) => fs::read_to_string(path),
            None => match &self.database {
                Some(database) => Ok(database.expose_secret().to_owned()),
                None => {
                    let hint = "name a file with `--database-file`, or set BERTH_CELL_DATABASE";
                    return Err(CliError::request("where is its database?", hint));
                }
            },
        };
        let path = self.database_file.unwrap_or_default();
        let database = database.map_err(|source| CliError::Read { path, source })?;
        let wanted = EndpointAdd {
            name: self.name,
            class: self.class,
            url: self.endpoint.unwrap_or_default(),
            database: database.trim().to_owned(),
            health: self.health,
            provider: self.provider,
            region: self.region,
            max_tenants: self.max_tenants,
        };
        let begun = cx.client.endpoint_add(&wanted).await?;
        self.wait.finish(cx, begun).await
    }
}

/// Where a cell is made over SSH.
#[derive(Args, Debug)]
pub struct OnServer {
    /// A server that is reached over SSH, by name or address
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// The port of its SSH
    #[arg(long, value_name = "PORT", default_value_t = 22, requires = "host")]
    ssh_port: u16,
    /// A user with root's rights there
    #[arg(long, value_name = "USER", default_value = "berth-ssh", requires = "host")]
    user: String,
    /// The private key that lets that user in, in OpenSSH's form and without a passphrase
    #[arg(long, value_name = "FILE", requires = "host")]
    key_file: Option<PathBuf>,
    /// The fingerprint of the server's host key. Default: the one it shows is printed and asked about
    #[arg(long, value_name = "SHA256:…", requires = "host")]
    host_key: Option<String>,
}

impl Add {
    async fn on_server(self, cx: &Context) -> Result<(), CliError> {
        let OnServer { host, ssh_port: port, user, key_file, host_key } = self.server;
        let host = host.unwrap_or_default();
        let path = key_file.ok_or_else(|| {
            let hint = "`ssh-keygen -t ed25519 -N '' -f FILE` makes one; `berth server prepare` puts it there";
            CliError::request("which key lets Berth in? name its file with `--key-file`", hint)
        })?;
        let key = fs::read_to_string(&path).map_err(|source| CliError::Read { path, source })?;
        let host_key = match host_key {
            Some(known) => known,
            None => {
                let provider = self.provider.clone();
                let look = ServerLook { host: host.clone(), port, user: user.clone(), key: key.clone(), provider };
                let seen = cx.client.server_look(&look).await?.host_key;
                let compare = "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints it on the server itself.";
                cx.agree(&format!("`{host}` shows the host key {seen}\n{compare}"), "Is this the server?")?;
                cx.say(&format!("host key of `{host}`: {seen}"));
                seen
            }
        };
        let wanted = ServerAdd {
            name: self.name,
            class: self.class,
            host,
            port,
            user,
            key,
            host_key,
            provider: self.provider,
            region: self.region,
            max_tenants: self.max_tenants,
        };
        let begun = cx.client.server_add(&wanted).await?;
        self.wait.finish(cx, begun).await
    }
}

fn can(abilities: &CellAbilities) -> String {
    let mut table = Table::new(&["ABILITY", "CAN", "FOR"]);
    for item in &abilities.items {
        table.row([item.ability.clone(), if item.can { "yes" } else { "no" }.to_owned(), item.means.clone()]);
    }
    let mut text = table.text();
    for item in abilities.items.iter().filter(|item| !item.can) {
        let because = item.because.as_deref().unwrap_or("?");
        text.push_str(&format!("\n{}: {because}\n", item.ability));
        if let Some(remedy) = &item.remedy {
            text.push_str(&format!("hint: {remedy}\n"));
        }
    }
    text
}

impl Remove {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let cell = cx.client.cell(&self.cell).await?;
        if self.dry_run {
            return cx.show(&cell, removal);
        }
        cx.agree(&removal(&cell), "Remove it?")?;
        let begun = cx.client.cell_remove(&self.cell).await?;
        self.wait.finish(cx, begun).await
    }
}

fn list(cells: &[Shown]) -> String {
    let mut table =
        Table::new(&["CELL", "STATE", "CLASS", "PROVIDER", "REGION", ">TENANTS", ">MEMBERS", ">PRICE/MONTH"]);
    for cell in cells {
        table.row([
            cell.name.to_string(),
            cell.state.to_string(),
            cell.class.to_string(),
            cell.provider.to_string(),
            units::or_unknown(cell.region.as_ref()),
            format!("{}/{}", cell.tenants, cell.max_tenants),
            cell.members.len().to_string(),
            units::or_unknown(cell.price_cents),
        ]);
    }
    table.or("No cells yet: `berth cell create NAME --class shared` makes one.")
}

fn one(cell: &Shown, now: Timestamp) -> String {
    let mut text = facts(&[
        ("cell", cell.name.to_string()),
        ("state", cell.state.to_string()),
        ("class", cell.class.to_string()),
        ("provider", cell.provider.to_string()),
        ("region", units::or_unknown(cell.region.as_ref())),
        ("tenants", format!("{} of {}", cell.tenants, cell.max_tenants)),
        ("database", units::bytes_or_unknown(cell.database_bytes)),
        ("price", format!("{} a month", units::or_unknown(cell.price_cents))),
        ("made", units::ago(cell.created_at, now)),
        ("id", cell.id.to_string()),
    ]);
    let mut table = Table::new(&["SERVICE", "ROLE", "STATE", ">CPU", ">MEMORY", "ADDRESS", "SEEN"]);
    for member in &cell.members {
        table.row([
            member.service.to_string(),
            member.service_role.to_string(),
            member.state.to_string(),
            units::or_unknown(member.cpu_percent.map(|percent| format!("{percent:.0} %"))),
            units::bytes_or_unknown(member.memory_bytes),
            units::or_unknown(member.address.as_ref()),
            units::ago_or(member.seen_at, now, "never"),
        ]);
    }
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.text());
    }
    for member in cell.members.iter().filter(|member| member.in_the_open) {
        text.push_str(&format!(
            "warning: requests to `{}` at {} would pass a public network without TLS: {}\n",
            member.service,
            units::or_unknown(member.address.as_ref()),
            berth_control::in_the_open::REMEDY
        ));
    }
    let table = figures(cell, now);
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.text());
    }
    text
}

/// What was measured beside what somebody claims of such a place. Either may be missing, which is not nothing.
fn figures(cell: &Shown, now: Timestamp) -> Table {
    let with_unit = |value: f64, unit: &str| format!("{value} {}", unit.replace("_per_", "/"));
    let claim = |what: &str| cell.claimed.iter().find(|claim| claim.what == what);
    let mut table = Table::new(&["WHAT", ">MEASURED", ">CLAIMED", ">SAMPLES", "WHEN", "CLAIMED OF"]);
    for figure in &cell.measured {
        let claim = claim(&figure.what);
        table.row([
            figure.what.replace('_', " "),
            with_unit(figure.value, &figure.unit),
            units::or_unknown(claim.map(|claim| with_unit(claim.value, &claim.unit))),
            figure.samples.to_string(),
            units::ago(figure.at, now),
            claim.map(|claim| claim.of.clone()).unwrap_or_default(),
        ]);
    }
    for claim in cell.claimed.iter().filter(|claim| cell.measured.iter().all(|figure| figure.what != claim.what)) {
        let said = with_unit(claim.value, &claim.unit);
        let what = claim.what.replace('_', " ");
        table.row([what, units::or_unknown(None::<String>), said, String::new(), String::new(), claim.of.clone()]);
    }
    table
}

fn removal(cell: &Shown) -> String {
    facts(&[
        ("remove", format!("cell {} ({}) at {}", cell.name, cell.class, cell.provider)),
        ("tenants", cell.tenants.to_string()),
        ("members", cell.members.len().to_string()),
        ("database", units::bytes_or_unknown(cell.database_bytes)),
        ("saves", format!("{} a month", units::or_unknown(cell.price_cents))),
    ])
}

#[cfg(test)]
mod tests {
    use super::{list, one, removal};
    use berth_domain::{CellClass, CellState, MemberRole, MemberState, ServiceRole};
    use berth_wire::{Cell, CellClaim, CellFigure, Member};

    fn cell() -> Cell {
        Cell {
            id: "0197a000-0000-7000-8000-00000000000c".parse().unwrap(),
            name: "shared-1".parse().unwrap(),
            class: CellClass::Shared,
            state: CellState::Ready,
            provider: "local".parse().unwrap(),
            region: None,
            tenants: 19,
            max_tenants: 40,
            price_cents: None,
            database_bytes: Some(250 << 20),
            operation: None,
            members: vec![Member {
                id: "0197a000-0000-7000-8000-00000000000d".parse().unwrap(),
                service: "web".parse().unwrap(),
                service_role: ServiceRole::Web,
                role: MemberRole::Active,
                state: MemberState::Healthy,
                address: Some("127.0.0.1:9001".into()),
                seen_at: Some("2026-11-21T11:59:30Z".parse().unwrap()),
                cpu_percent: Some(12.4),
                memory_bytes: None,
                in_the_open: false,
            }],
            measured: vec![CellFigure {
                what: "query_simple".to_owned(),
                value: 0.21,
                unit: "ms".to_owned(),
                samples: 200,
                at: "2026-11-21T09:00:00Z".parse().unwrap(),
            }],
            claimed: [("query_simple", 12.0), ("websocket", 30.0)]
                .map(|(what, value)| CellClaim {
                    what: what.to_owned(),
                    value,
                    unit: "ms".to_owned(),
                    of: "hetzner-robot fsn1".to_owned(),
                })
                .to_vec(),
            created_at: "2026-11-21T10:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn cells_show_their_fill_and_no_price_that_nobody_named() {
        assert_eq!(
            list(&[cell()]),
            "\
CELL      STATE  CLASS   PROVIDER  REGION  TENANTS  MEMBERS  PRICE/MONTH
shared-1  ready  shared  local     ?         19/40        1            ?
"
        );
    }

    #[test]
    fn one_cell_shows_its_members_and_when_each_was_seen() {
        assert_eq!(
            one(&cell(), "2026-11-21T12:00:00Z".parse().unwrap()),
            "\
cell      shared-1
state     ready
class     shared
provider  local
region    ?
tenants   19 of 40
database  250.0 MiB
price     ? a month
made      2 h ago
id        0197a000-0000-7000-8000-00000000000c

SERVICE  ROLE  STATE     CPU  MEMORY  ADDRESS         SEEN
web      web   healthy  12 %       ?  127.0.0.1:9001  30 s ago

WHAT          MEASURED  CLAIMED  SAMPLES  WHEN     CLAIMED OF
query simple   0.21 ms    12 ms      200  3 h ago  hetzner-robot fsn1
websocket            ?    30 ms                    hetzner-robot fsn1
"
        );
    }

    #[test]
    fn a_removal_says_what_goes() {
        assert!(removal(&cell()).contains("tenants   19\n"));
    }
}
