//! `berth tenant allow`: the networks whose clients edges serve. Never asks who a client is: edges do.

use crate::cli::{CliError, Context};
use berth_domain::Network;
use berth_wire::TenantAllow;
use clap::Args;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  berth tenant allow acme
  berth tenant allow acme --add 203.0.113.0/24 --add 2001:db8::/32
  berth tenant allow acme --everybody")]
pub struct Allow {
    tenant: String,
    /// Serve this network, as `203.0.113.0/24` or one address; may be given more than once
    #[arg(long, value_name = "NETWORK")]
    add: Vec<Network>,
    /// Serve it no longer; may be given more than once
    #[arg(long, value_name = "NETWORK")]
    remove: Vec<Network>,
    /// Serve everybody again
    #[arg(long, conflicts_with_all = ["add", "remove"])]
    everybody: bool,
}

impl Allow {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let tenant = cx.client.tenant(&self.tenant).await?;
        if self.add.is_empty() && self.remove.is_empty() && !self.everybody {
            return cx.show(&tenant.allow, |networks| shown(networks));
        }
        if let Some(missing) = self.remove.iter().find(|network| !tenant.allow.contains(network)) {
            return Err(CliError::request(
                format!("`{missing}` is none of the networks of tenant `{}`", tenant.name),
                format!("`berth tenant allow {}` lists them", tenant.name),
            ));
        }
        let mut networks = if self.everybody { Vec::new() } else { tenant.allow.clone() };
        networks.retain(|network| !self.remove.contains(network));
        if networks.is_empty() && self.add.is_empty() && !self.everybody {
            return Err(CliError::request(
                format!("without these tenant `{}` would be open to everybody", tenant.name),
                "`--everybody` says so",
            ));
        }
        networks.extend(self.add);
        networks.sort_unstable();
        networks.dedup();
        let wanted = TenantAllow { networks };
        let changed = cx.client.tenant_set_allow(&self.tenant, &wanted, Some(tenant.version)).await?;
        cx.show(&changed.allow, |networks| shown(networks))
    }
}

fn shown(networks: &[Network]) -> String {
    if networks.is_empty() {
        return "It serves everybody: `--add NETWORK` closes it to all others.\n".to_owned();
    }
    networks.iter().map(|network| format!("{network}\n")).collect()
}
