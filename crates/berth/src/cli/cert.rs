//! `berth cert …`: TLS certificates of the hosts that edges serve.

use super::{CliError, Context, table::Table, units};
use berth_domain::{CertificateId, Hostname, OrderState, OrderTrouble};
use berth_wire::{Certificate, CertificateAdd, CertificateOrder};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use std::{fs, path::PathBuf};

#[derive(Subcommand, Debug)]
pub enum Cert {
    /// All certificates and when they end, and hosts that wait for one
    List {
        /// Only the orders of hosts whose certificates are got by ACME
        #[arg(long)]
        orders: bool,
    },
    /// Serve the hosts of this certificate over TLS; of two for one host the later one counts
    Add(Add),
    /// Get a new certificate for this host now, where certificates are got by ACME
    Renew { host: Hostname },
    /// Take a certificate away from all edges
    Remove { certificate: CertificateId },
}

#[derive(Args, Debug)]
pub struct Add {
    /// PEM: the certificate, then those that lead to a known authority
    #[arg(long, value_name = "FILE")]
    chain: PathBuf,
    /// PEM: its private key; kept sealed and never shown again
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

impl Cert {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::List { orders: true } => {
                let orders = cx.client.certificate_orders().await?;
                cx.show(&orders, |orders| all_orders(orders, cx.now))
            }
            Self::List { orders: false } => {
                let orders = cx.client.certificate_orders().await?;
                let certificates = cx.client.certificates().await?;
                cx.show(&certificates, |certificates| list(certificates, &orders, cx.now))
            }
            Self::Renew { host } => {
                let order = cx.client.certificate_renew(host.as_str()).await?;
                cx.show(&order, |order| {
                    format!("a new certificate for {} is asked for now: `berth cert list`\n", order.host)
                })
            }
            Self::Add(add) => {
                let wanted = CertificateAdd { chain_pem: text(&add.chain)?, key_pem: text(&add.key)? };
                let added = cx.client.certificate_add(&wanted).await?;
                cx.show(&added, |added| {
                    format!("{} is served to every edge until {}\n", added.names.join(", "), end(added))
                })
            }
            Self::Remove { certificate } => {
                let gone = cx.client.certificate_remove(certificate).await?;
                cx.show(&gone, |gone| format!("the certificate for {} is removed\n", gone.names.join(", ")))
            }
        }
    }
}

fn text(path: &PathBuf) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|error| {
        let hint = "give a file in PEM, as `fullchain.pem` and `privkey.pem` of an ACME client".to_owned();
        CliError::request(format!("{} cannot be read: {error}", path.display()), hint)
    })
}

fn end(certificate: &Certificate) -> String {
    certificate.not_after.strftime("%Y-%m-%d").to_string()
}

/// What is served, and what hosts lack.
fn list(certificates: &[Certificate], orders: &[CertificateOrder], now: Timestamp) -> String {
    let mut table = Table::new(&["HOSTS", "ENDS", "ISSUER", "ADDED", "BY", "ID"]);
    for certificate in certificates {
        let ended = if certificate.not_after <= now { " (over)" } else { "" };
        let by = if certificate.ordered_for.is_some() { "acme" } else { "hand" };
        table.row([
            certificate.names.join(" "),
            format!("{}{ended}", end(certificate)),
            certificate.issuer.clone(),
            units::ago(certificate.added_at, now),
            by.to_owned(),
            certificate.id.to_string(),
        ]);
    }
    let mut text =
        table.or("no certificates: `berth cert add --chain FILE --key FILE`, or `https.acme` in the stack file");
    for order in orders.iter().filter(|order| order.state != OrderState::Served) {
        text.push_str(&format!("{}: {}\n", order.host, state(order, now)));
    }
    text
}

fn all_orders(orders: &[CertificateOrder], now: Timestamp) -> String {
    if orders.is_empty() {
        return "no orders: `https.acme` in the stack file names an authority\n".to_owned();
    }
    orders.iter().map(|order| format!("{}: {}\n", order.host, state(order, now))).collect()
}

/// Where an order is, in a person's words.
fn state(order: &CertificateOrder, now: Timestamp) -> String {
    let Some(trouble) = order.trouble else {
        return match order.state {
            OrderState::Served => format!("served, renewed from {} on", order.next_at.strftime("%Y-%m-%d")),
            OrderState::Ordered => "ordered; the authority looks at the host".to_owned(),
            OrderState::Waiting | OrderState::Failed => "to be ordered".to_owned(),
        };
    };
    let again = if order.next_at <= now {
        "now".to_owned()
    } else {
        format!("at {}", order.next_at.strftime("%Y-%m-%d %H:%M UTC"))
    };
    let what = match trouble {
        OrderTrouble::WrongName => "wrong name".to_owned(),
        OrderTrouble::ChallengeFailed => "the authority does not find it here".to_owned(),
        OrderTrouble::RateLimited => "rate limited by the authority".to_owned(),
        OrderTrouble::Refused => "refused by the authority".to_owned(),
        OrderTrouble::AuthoritySilent => "the authority does not answer".to_owned(),
        OrderTrouble::EdgesSilent => "an edge does not answer".to_owned(),
        OrderTrouble::BadCertificate => "what the authority gave is of no use".to_owned(),
    };
    let meanwhile = if order.certificate.is_some() { "; the one there is goes on being served" } else { "" };
    format!(
        "{what}; tried {} times, next {again}{meanwhile}\n  {}",
        order.failures,
        order.detail.as_deref().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::{Certificate, CertificateOrder, list};
    use berth_domain::{CertificateId, OrderState, OrderTrouble};

    #[test]
    fn a_certificate_that_is_over_says_so_and_one_that_cannot_be_had_says_why() {
        let at = |text: &str| text.parse().unwrap();
        let certificate = |id: u128, not_after: &str| Certificate {
            id: CertificateId::new(uuid::Uuid::from_u128(id)),
            names: vec!["*.example.com".into(), "example.com".into()],
            issuer: "CN=R11".into(),
            not_before: at("2026-01-01T00:00:00Z"),
            not_after: at(not_after),
            added_at: at("2026-01-02T00:00:00Z"),
            ordered_for: None,
        };
        let both = [certificate(1, "2026-04-01T00:00:00Z"), certificate(2, "2026-01-15T00:00:00Z")];
        let orders = vec![CertificateOrder {
            host: "shop.acme.com".parse().unwrap(),
            tenant: Some("acme".parse().unwrap()),
            state: OrderState::Failed,
            trouble: Some(OrderTrouble::RateLimited),
            detail: Some("too many certificates (rateLimited)".into()),
            failures: 2,
            next_at: at("2026-02-01T01:00:00Z"),
            certificate: None,
        }];
        let screen = list(&both, &orders, at("2026-02-01T00:00:00Z"));
        assert!(screen.contains("2026-04-01 ") && screen.contains("2026-01-15 (over)"), "{screen}");
        let order = "shop.acme.com: rate limited by the authority; tried 2 times, next at 2026-02-01 01:00 UTC\n  \
                     too many certificates (rateLimited)\n";
        assert!(screen.ends_with(order), "{screen}");
        let nothing = list(&[], &[], at("2026-02-01T00:00:00Z"));
        assert!(nothing.starts_with("no certificates: `berth cert add"), "{nothing}");
    }
}
