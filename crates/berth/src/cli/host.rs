//! `berth host …`: which hosts are whose, and what proves those that are not proved.

use super::{CliError, Context, table::Table};
use berth_domain::TenantHost;
use berth_wire::{Host as Shown, HostAdd, HostVerify};
use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub enum Host {
    /// Say that a host is a tenant's; it is routed once it is proved
    #[command(after_help = "Examples:\n  berth host add acme shop.acme.com\n  berth host add acme '*.acme.com'")]
    Add { tenant: String, host: TenantHost },
    /// Look for the proof of a host now; with it the host is routed
    Verify(One),
    /// All hosts that tenants have and claim
    List {
        /// Only this tenant's
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
    },
    /// Take a host, or the claim to it, away from a tenant
    Remove(One),
}

#[derive(Args, Debug)]
pub struct One {
    host: TenantHost,
    /// Where several tenants claim it
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
}

impl Host {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::Add { tenant, host } => {
                let added = cx.client.host_add(&HostAdd { tenant, host }).await?;
                cx.show(&added, screen)
            }
            Self::Verify(One { host, tenant }) => {
                let seen = cx.client.host_verify(&host.to_string(), &HostVerify { tenant }).await?;
                cx.show(&seen, screen)
            }
            Self::List { tenant } => {
                let hosts = cx.client.hosts(tenant.as_deref()).await?;
                cx.show(&hosts, |hosts| list(hosts))
            }
            Self::Remove(One { host, tenant }) => {
                let gone = cx.client.host_remove(&host.to_string(), tenant.as_deref()).await?;
                cx.show(&gone, |gone| format!("{} is taken away from {}\n", gone.host, gone.tenant))
            }
        }
    }
}

fn proof(host: &Shown) -> &str {
    host.proof.map_or("not proved", |proof| proof.as_str())
}

fn list(hosts: &[Shown]) -> String {
    let mut table = Table::new(&["HOST", "TENANT", "ROUTED", "PROOF", "LAST LOOK"]);
    for host in hosts {
        let routed = if host.served { "yes" } else { "no" };
        table.row([
            host.host.to_string(),
            host.tenant.to_string(),
            routed.to_owned(),
            proof(host).to_owned(),
            host.trouble.clone().unwrap_or_default(),
        ]);
    }
    let mut text = table.or("no hosts: `berth host add TENANT HOST`");
    for host in hosts.iter().filter(|host| host.proof.is_none()) {
        text.push('\n');
        text.push_str(&wanted(host));
    }
    text
}

fn screen(host: &Shown) -> String {
    if host.served && host.show.is_none() {
        return format!("{} is routed to {} (proof: {})\n", host.host, host.tenant, proof(host));
    }
    let routed = if host.served { "routed without proof" } else { "not routed before it is proved" };
    format!("{} is claimed for {}, {routed}\n{}", host.host, host.tenant, wanted(host))
}

/// What proves it.
fn wanted(host: &Shown) -> String {
    let Some(show) = &host.show else { return String::new() };
    let mut text =
        format!("to prove {}:\n  TXT record {} with the text {}\n", host.host, show.txt_name, show.txt_value);
    if let Some(url) = &show.url {
        text.push_str(&format!("  or {url} with the same text; edges show it once the host leads to them\n"));
    }
    text.push_str(&format!("then: berth host verify {}{}\n", host.host, of(host)));
    text
}

fn of(host: &Shown) -> String {
    if host.contested { format!(" --tenant {}", host.tenant) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::{Shown, list, screen};
    use berth_domain::HostProof;
    use berth_wire::HostShow;

    #[test]
    fn an_unproved_host_says_what_proves_it_and_what_to_do_then() {
        let claimed = Shown {
            host: "shop.acme.com".parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            served: false,
            proof: None,
            show: Some(HostShow {
                txt_name: "_berth.shop.acme.com".into(),
                txt_value: "berth-host=ab".into(),
                url: Some("http://shop.acme.com/.well-known/berth-host/ab".into()),
                page: Some("berth-host=ab".into()),
            }),
            contested: false,
            looked_at: None,
            trouble: None,
        };
        assert_eq!(
            screen(&claimed),
            "shop.acme.com is claimed for acme, not routed before it is proved\n\
             to prove shop.acme.com:\n  TXT record _berth.shop.acme.com with the text berth-host=ab\n  \
             or http://shop.acme.com/.well-known/berth-host/ab with the same text; edges show it once the host leads to them\n\
             then: berth host verify shop.acme.com\n"
        );
        let proved = Shown { served: true, proof: Some(HostProof::Txt), show: None, ..claimed.clone() };
        assert_eq!(screen(&proved), "shop.acme.com is routed to acme (proof: txt)\n");
        let both = list(&[claimed, proved]);
        assert!(both.contains("not proved") && both.contains("then: berth host verify"), "{both}");
        assert_eq!(list(&[]), "no hosts: `berth host add TENANT HOST`\n");
    }
}
