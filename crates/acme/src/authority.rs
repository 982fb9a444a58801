//! An authority asked step by step. Each step finds the order by its address and does what is left of it, so that it may
//! be done twice and by another server.

use crate::transport::{Again, Https};
use berth_infra::{AnswerWay, AuthorityAt, AuthorityError, AuthorityFault, Ordered, ToAnswer};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use secrecy::{ExposeSecret as _, SecretString};
use std::{sync::PoisonError, time::Duration};

/// How long an authority may take to look at a host, or to sign.
const PATIENCE: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(300)).backoff(1.5).timeout(Duration::from_secs(40));

fn fault(fault: AuthorityFault, detail: impl Into<String>) -> AuthorityError {
    AuthorityError { fault, detail: detail.into() }
}

fn silent(detail: impl std::fmt::Display) -> AuthorityError {
    fault(AuthorityFault::Silent, detail.to_string())
}

/// What an authority said, judged. `asked_host`: it speaks of its look at the host.
fn judged(problem: &Problem, asked_host: bool, again: &Again) -> AuthorityError {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let kind = kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind);
    let detail = problem.detail.as_deref().unwrap_or("no reason was given");
    let judged = match kind {
        "rateLimited" => AuthorityFault::RateLimited { until: *again.lock().unwrap_or_else(PoisonError::into_inner) },
        "rejectedIdentifier" | "unsupportedIdentifier" | "caa" | "dns" => AuthorityFault::WrongName,
        "accountDoesNotExist" => AuthorityFault::NoAccount,
        "serverInternal" => AuthorityFault::Silent,
        _ if asked_host => AuthorityFault::Challenge,
        _ => AuthorityFault::Refused,
    };
    let of_one = problem.subproblems.iter().filter_map(|sub| sub.detail.as_deref()).collect::<Vec<_>>().join("; ");
    let detail = if of_one.is_empty() { detail.to_owned() } else { format!("{detail}: {of_one}") };
    fault(judged, if kind.is_empty() { detail } else { format!("{detail} ({kind})") })
}

fn failed(error: Error, again: &Again) -> AuthorityError {
    match error {
        Error::Api(problem) => judged(&problem, false, again),
        Error::Timeout(_) => silent("the authority takes longer than is waited for"),
        // Not in the protocol's form; a proxy's, mostly.
        Error::Json(error) => match *again.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(until) => fault(AuthorityFault::RateLimited { until: Some(until) }, "the authority asks to wait"),
            None => silent(format!("what came is no answer of an authority: {error}")),
        },
        Error::Other(error) => silent(format!("the authority cannot be asked: {error}")),
        other => silent(format!("the authority cannot be asked: {other}")),
    }
}

fn client(at: &AuthorityAt) -> Result<(Https, Again), AuthorityError> {
    Https::new(at).map_err(|error| {
        let file = at.ca_file.as_deref().unwrap_or_default();
        silent(format!("`https.acme.ca_file` {file} cannot be used: {error}"))
    })
}

pub async fn account(at: &AuthorityAt) -> Result<SecretString, AuthorityError> {
    let (https, again) = client(at)?;
    let contact: Vec<String> = at.email.iter().map(|email| format!("mailto:{email}")).collect();
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let made = Account::builder_with_http(Box::new(https)).create(&wanted, at.directory.clone(), None).await;
    let (_, credentials) = made.map_err(|error| failed(error, &again))?;
    serde_json::to_string(&credentials).map(SecretString::from).map_err(silent)
}

async fn open(at: &AuthorityAt, account: &SecretString) -> Result<(Account, Again), AuthorityError> {
    let (https, again) = client(at)?;
    // What is wrong with it is not repeated: it holds a key.
    let credentials = serde_json::from_str(account.expose_secret())
        .map_err(|_| fault(AuthorityFault::NoAccount, "the stored account is none"))?;
    let opened = Account::builder_with_http(Box::new(https)).from_credentials(credentials).await;
    Ok((opened.map_err(|error| failed(error, &again))?, again))
}

const fn kind(way: AnswerWay) -> ChallengeType {
    match way {
        AnswerWay::Http => ChallengeType::Http01,
        AnswerWay::TlsAlpn => ChallengeType::TlsAlpn01,
    }
}

pub async fn order(
    at: &AuthorityAt,
    account: &SecretString,
    host: &str,
    way: AnswerWay,
) -> Result<Ordered, AuthorityError> {
    let (account, again) = open(at, account).await?;
    let names = [Identifier::Dns(host.to_owned())];
    let mut order = account.new_order(&NewOrder::new(&names)).await.map_err(|error| failed(error, &again))?;
    let url = order.url().to_owned();
    let mut answer = None;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|error| failed(error, &again))?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let challenge = authorization.challenge(kind(way)).ok_or_else(|| {
            fault(AuthorityFault::Refused, "the authority does not offer the challenge of `https.acme.challenge`")
        })?;
        let proof = challenge.key_authorization();
        answer = Some(match way {
            AnswerWay::Http => ToAnswer::Http {
                path: format!("/.well-known/acme-challenge/{}", challenge.token),
                body: proof.as_str().to_owned(),
            },
            AnswerWay::TlsAlpn => handshake(host, proof.digest().as_ref())?,
        });
    }
    Ok(Ordered { url, answer })
}

/// The certificate that a handshake for `acme-tls/1` is answered with (RFC 8737).
fn handshake(host: &str, digest: &[u8]) -> Result<ToAnswer, AuthorityError> {
    let made = || -> Result<_, rcgen::Error> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let key = KeyPair::generate()?;
        Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
    };
    let (chain_pem, key_pem) = made().map_err(|error| fault(AuthorityFault::WrongName, error.to_string()))?;
    Ok(ToAnswer::Tls { chain_pem, key_pem: key_pem.into() })
}

/// Why the authority holds an order for invalid: what it said of its look at the host.
async fn why_invalid(order: &mut Order, again: &Again) -> AuthorityError {
    let mut authorizations = order.authorizations();
    while let Some(Ok(authorization)) = authorizations.next().await {
        if let Some(problem) = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return judged(problem, true, again);
        }
    }
    fault(AuthorityFault::Challenge, "the authority did not see what it looked for, and gave no reason")
}

pub async fn prove(at: &AuthorityAt, account: &SecretString, url: &str, way: AnswerWay) -> Result<(), AuthorityError> {
    let (account, again) = open(at, account).await?;
    let find = || async { account.order(url.to_owned()).await.map_err(|error| failed(error, &again)) };
    let mut order = find().await?;
    match order.state().status {
        OrderStatus::Pending => {}
        OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid => return Ok(()),
        OrderStatus::Invalid => return Err(why_invalid(&mut order, &again).await),
    }
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|error| failed(error, &again))?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let Some(mut challenge) = authorization.challenge(kind(way)) else { continue };
        if challenge.status == ChallengeStatus::Pending {
            challenge.set_ready().await.map_err(|error| match error {
                Error::Api(problem) => judged(&problem, true, &again),
                other => failed(other, &again),
            })?;
        }
    }
    match order.poll_ready(&PATIENCE).await {
        Ok(OrderStatus::Ready) => Ok(()),
        // What the order knows of its challenges is from before the look.
        Ok(_) => Err(why_invalid(&mut find().await?, &again).await),
        Err(Error::Api(problem)) => {
            let mut order = find().await?;
            if order.state().status == OrderStatus::Invalid {
                Err(why_invalid(&mut order, &again).await)
            } else {
                Err(judged(&problem, true, &again))
            }
        }
        Err(error) => Err(failed(error, &again)),
    }
}

pub fn new_key() -> SecretString {
    KeyPair::generate().expect("the system gives random bytes").serialize_pem().into()
}

pub async fn collect(
    at: &AuthorityAt,
    account: &SecretString,
    url: &str,
    host: &str,
    key_pem: &SecretString,
) -> Result<String, AuthorityError> {
    let (account, again) = open(at, account).await?;
    let mut order = account.order(url.to_owned()).await.map_err(|error| failed(error, &again))?;
    if order.state().status == OrderStatus::Ready {
        let request = || -> Result<_, rcgen::Error> {
            let mut params = CertificateParams::new(vec![host.to_owned()])?;
            params.distinguished_name = DistinguishedName::new();
            params.serialize_request(&KeyPair::from_pem(key_pem.expose_secret())?)
        };
        // What is wrong with a key is not repeated.
        let request =
            request().map_err(|_| fault(AuthorityFault::Refused, "the certificate could not be asked for"))?;
        order.finalize_csr(request.der()).await.map_err(|error| failed(error, &again))?;
    }
    if order.state().status == OrderStatus::Invalid {
        return Err(why_invalid(&mut order, &again).await);
    }
    order.poll_certificate(&PATIENCE).await.map_err(|error| failed(error, &again))
}
