//! What names say. Every question is asked anew: somebody has just changed the answer.

use berth_infra::{Asking, NothingSeen};
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{RData, RecordType},
};
use std::{net::IpAddr, time::Duration};

/// Of one try; there are two.
const PATIENCE: Duration = Duration::from_secs(4);

fn resolver(asking: Asking) -> Result<TokioResolver, NothingSeen> {
    let failed = |error: &dyn std::fmt::Display| NothingSeen(format!("no DNS server can be asked: {error}"));
    let mut builder = match asking.resolver {
        None => TokioResolver::builder_tokio().map_err(|error| failed(&error))?,
        Some(address) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
            let server = NameServerConfig::new(address.ip(), true, connections.to_vec());
            Resolver::builder_with_config(
                ResolverConfig::from_name_servers(vec![server]),
                TokioRuntimeProvider::default(),
            )
        }
    };
    let options = builder.options_mut();
    options.timeout = PATIENCE;
    options.attempts = 2;
    options.cache_size = 0;
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    builder.build().map_err(|error| failed(&error))
}

/// With a dot at its end: no domain of this machine's is tried behind it.
fn whole(name: &str) -> String {
    format!("{name}.")
}

pub async fn texts(asking: Asking, name: &str) -> Result<Vec<String>, NothingSeen> {
    let found = resolver(asking)?.lookup(whole(name), RecordType::TXT).await.map_err(|error| {
        if error.is_no_records_found() {
            NothingSeen(format!("`{name}` has no TXT record"))
        } else {
            NothingSeen(format!("`{name}` could not be looked up: {error}"))
        }
    })?;
    let texts = found.answers().iter().filter_map(|record| match &record.data {
        // A long text is told in parts.
        RData::TXT(text) => {
            Some(text.txt_data.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect::<String>())
        }
        _ => None,
    });
    Ok(texts.collect())
}

pub async fn addresses(asking: Asking, host: &str) -> Result<Vec<IpAddr>, NothingSeen> {
    let found = resolver(asking)?.lookup_ip(whole(host)).await.map_err(|error| {
        if error.is_no_records_found() {
            NothingSeen(format!("`{host}` has no address"))
        } else {
            NothingSeen(format!("`{host}` could not be looked up: {error}"))
        }
    })?;
    Ok(found.iter().collect())
}
