//! `berth cert …`: TLS certificates of the hosts that edges serve.

use super::{CliError, Context, table::Table, units};
use berth_domain::CertificateId;
use berth_wire::{Certificate, CertificateAdd};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use std::{fs, path::PathBuf};

#[derive(Subcommand, Debug)]
pub enum Cert {
    /// All certificates and when they end
    List,
    /// Serve the hosts of this certificate over TLS; of two for one host the later one counts
    Add(Add),
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
            Self::List => {
                let certificates = cx.client.certificates().await?;
                cx.show(&certificates, |certificates| list(certificates, cx.now))
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

fn list(certificates: &[Certificate], now: Timestamp) -> String {
    let mut table = Table::new(&["HOSTS", "ENDS", "ISSUER", "ADDED", "ID"]);
    for certificate in certificates {
        let ended = if certificate.not_after <= now { " (over)" } else { "" };
        table.row([
            certificate.names.join(" "),
            format!("{}{ended}", end(certificate)),
            certificate.issuer.clone(),
            units::ago(certificate.added_at, now),
            certificate.id.to_string(),
        ]);
    }
    table.or("no certificates: `berth cert add --chain FILE --key FILE`")
}

#[cfg(test)]
mod tests {
    use super::{Certificate, list};
    use berth_domain::CertificateId;

    #[test]
    fn a_certificate_that_is_over_says_so() {
        let at = |text: &str| text.parse().unwrap();
        let certificate = |id: u128, not_after: &str| Certificate {
            id: CertificateId::new(uuid::Uuid::from_u128(id)),
            names: vec!["*.example.com".into(), "example.com".into()],
            issuer: "CN=R11".into(),
            not_before: at("2026-01-01T00:00:00Z"),
            not_after: at(not_after),
            added_at: at("2026-01-02T00:00:00Z"),
        };
        let both = [certificate(1, "2026-04-01T00:00:00Z"), certificate(2, "2026-01-15T00:00:00Z")];
        let screen = list(&both, at("2026-02-01T00:00:00Z"));
        assert!(screen.contains("2026-04-01 ") && screen.contains("2026-01-15 (over)"), "{screen}");
        assert_eq!(
            list(&[], at("2026-02-01T00:00:00Z")),
            "no certificates: `berth cert add --chain FILE --key FILE`\n"
        );
    }
}
