//! Certificates that Berth gets by itself: one order a host, carried from step to step, and renewed long before the end.
//!
//! Every step is written down before the next one begins, under the version of the row: a server that dies midway is
//! followed by another one at that step, and of two that work on one order the second lets go. Never asks an authority
//! before every edge answers what the authority will ask, and never before the host is proved or the stack's own.

use crate::{App, Change, ControlError, Permit, Read, audited, certificates, challenges};
use berth_config::AcmeChallenge;
use berth_domain::{CertificateId, Hostname, OrderState, OrderTrouble};
use berth_infra::{AnswerWay, AuthorityAt, AuthorityError, AuthorityFault, Outside, ToAnswer};
use berth_store::{AcmeAccount, Answer, Certificate, NewCertificate, Order, OrderWant, StoreError};
use berth_wire as wire;
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tracing::{info, warn};
use uuid::Uuid;

/// Orders that are begun at one look.
const BEGIN_AT_ONCE: i64 = 500;
/// Until every edge that was heard of lately has to answer.
const EDGES_LIMIT: Duration = Duration::from_secs(10);
/// After how many failures in a row the next try waits how long. Authorities allow a few an hour.
const PAUSES: [SignedDuration; 6] = [
    SignedDuration::from_mins(1),
    SignedDuration::from_mins(10),
    SignedDuration::from_mins(30),
    SignedDuration::from_hours(2),
    SignedDuration::from_hours(6),
    SignedDuration::from_hours(24),
];
/// Where an authority does not say when it will be asked again.
const LIMITED_FOR: SignedDuration = SignedDuration::from_hours(1);
/// One that a person added is left alone until then; it is theirs to renew.
const PERSONS_LAST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// All orders, the next due first.
pub async fn list(app: &App, _permit: &Permit<Read>) -> Result<Vec<wire::CertificateOrder>, ControlError> {
    Ok(app.store().order_list().await?.into_iter().map(shown).collect())
}

/// Makes an order due now. Where no authority is asked there is none, whatever was left of one.
pub async fn renew(
    app: &App,
    permit: &Permit<Change>,
    host: &Hostname,
) -> Result<wire::CertificateOrder, ControlError> {
    app.writable().await?;
    let none = || ControlError::NoOrder(host.clone());
    match authority(app).await {
        Ok(Some(_)) => {}
        Ok(None) | Err(ControlError::NoStack) => return Err(none()),
        Err(error) => return Err(error),
    }
    let order = app.store().order_get(host).await?.ok_or_else(none)?;
    let mut tx = app.store().begin().await?;
    if !tx.order_hurry(host).await? {
        return Err(none());
    }
    // Under the tenant's name it is made nameless with it.
    let about = order.tenant.map_or_else(|| format!("host/{host}"), |tenant| format!("tenant/{tenant}"));
    audited(&mut tx, permit, "certificate.renew", &about, None, Some(json!({ "host": host }))).await?;
    tx.commit().await?;
    app.store().order_get(host).await?.map(shown).ok_or_else(none)
}

fn shown(order: Order) -> wire::CertificateOrder {
    wire::CertificateOrder {
        host: order.host,
        tenant: order.tenant,
        state: order.state,
        trouble: order.trouble,
        detail: order.detail,
        failures: order.failures,
        next_at: order.next_at,
        certificate: order.certificate,
    }
}

/// Our account there; one is made the first time. Once for all orders of a round: authorities count new accounts.
pub(crate) async fn account(app: &App, at: &AuthorityAt) -> Result<Result<AcmeAccount, AuthorityError>, ControlError> {
    if let Some(known) = app.store().acme_account(&at.directory).await? {
        return Ok(Ok(known));
    }
    let made = match app.outside()?.account(at).await {
        Ok(made) => made,
        Err(error) => return Ok(Err(error)),
    };
    let kept = app.store().acme_account_keep(&at.directory, &made).await?;
    info!(directory = at.directory, "an account was made at {}", at.directory);
    Ok(Ok(kept))
}

/// The authority of the stack in force, and how hosts are shown to it. `None`: certificates are people's.
pub(crate) async fn authority(app: &App) -> Result<Option<(AuthorityAt, AnswerWay)>, ControlError> {
    let in_force = app.stack().await?;
    Ok(in_force.stack.https.acme.as_ref().map(|acme| {
        let at =
            AuthorityAt { directory: acme.directory.clone(), email: acme.email.clone(), ca_file: acme.ca_file.clone() };
        let way = match acme.challenge {
            AcmeChallenge::Http => AnswerWay::Http,
            AcmeChallenge::TlsAlpn => AnswerWay::TlsAlpn,
        };
        (at, way)
    }))
}

/// Begins orders for hosts that have none, where an authority is asked, and ends those of hosts that are gone.
pub(crate) async fn follow_hosts(app: &App, begins: bool) -> Result<(), ControlError> {
    let own = app.stack().await?.stack.hosts.own.clone();
    let mut tx = app.store().begin().await?;
    let (begun, ended) = tx.orders_follow_hosts(&OrderWant { own }, if begins { BEGIN_AT_ONCE } else { 0 }).await?;
    if ended > 0 {
        // Their certificates go, and what is answered for them.
        tx.settings_publish().await?;
        tx.challenges_publish().await?;
    }
    tx.commit().await?;
    if begun + ended > 0 {
        info!(begun, ended, "certificates for {begun} hosts are to be got, {ended} went with their hosts");
    }
    Ok(())
}

/// Who is asked, and as whom.
pub(crate) struct Asked {
    pub at: AuthorityAt,
    pub way: AnswerWay,
    /// Or why there is none.
    pub account: Result<AcmeAccount, AuthorityError>,
    /// All that were there when the orders were taken up: of many orders not each reads all.
    pub certificates: Vec<Certificate>,
}

/// An order that Berth itself could not carry on waits a while, so that others have their turn.
pub(crate) async fn put_off(app: &App, order: &Order, why: &ControlError) -> Result<(), ControlError> {
    let mut tx = app.store().begin().await?;
    let detail = format!("Berth could not go on with it: {why}");
    tx.order_put_off(order, Timestamp::now() + PAUSES[0], &detail).await?;
    Ok(tx.commit().await?)
}

/// One order as far as it goes. `now`: the moment it is judged by. Answers whether the authority takes no more for now.
pub(crate) async fn advance(app: &App, asked: &Asked, order: &mut Order, now: Timestamp) -> Result<bool, ControlError> {
    // Whoever asks for a renewal by hand gets one of Berth's own.
    let asked_for = order.state == OrderState::Waiting && order.certificate.is_some();
    if order.state != OrderState::Ordered
        && !asked_for
        && let Some(theirs) = persons(&asked.certificates, &order.host, now)
    {
        order.next_at = theirs.not_after - PERSONS_LAST;
        serve(app, order, theirs.id).await?;
        return Ok(false);
    }
    let outside = app.outside()?;
    let host = order.host.clone();
    match steps(app, outside, asked, order, now).await {
        Ok(()) => Ok(false),
        Err(Ended::Ours(error)) => Err(error),
        Err(Ended::Theirs(trouble, detail, again)) => {
            warn!(%host, trouble = trouble.as_str(), detail, "no certificate for {host} yet: {detail}");
            fail(app, order, trouble, detail, again, now).await?;
            Ok(trouble == OrderTrouble::RateLimited)
        }
    }
}

/// Why an order goes no further now.
enum Ended {
    Ours(ControlError),
    Theirs(OrderTrouble, String, Option<Timestamp>),
}

impl From<ControlError> for Ended {
    fn from(error: ControlError) -> Self {
        Self::Ours(error)
    }
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Ours(error.into())
    }
}

impl From<AuthorityError> for Ended {
    fn from(error: AuthorityError) -> Self {
        let (trouble, again) = match error.fault {
            AuthorityFault::WrongName => (OrderTrouble::WrongName, None),
            AuthorityFault::Challenge => (OrderTrouble::ChallengeFailed, None),
            AuthorityFault::RateLimited { until } => (OrderTrouble::RateLimited, until),
            AuthorityFault::NoAccount | AuthorityFault::Refused => (OrderTrouble::Refused, None),
            AuthorityFault::Silent => (OrderTrouble::AuthoritySilent, None),
        };
        Self::Theirs(trouble, error.detail, again)
    }
}

async fn steps(
    app: &App,
    outside: Arc<dyn Outside>,
    asked: &Asked,
    order: &mut Order,
    now: Timestamp,
) -> Result<(), Ended> {
    let (at, way) = (&asked.at, asked.way);
    let account = asked.account.as_ref().map_err(|error| Ended::from(error.clone()))?;
    // An order at an authority that the stack file no longer names is nobody's.
    if order.state == OrderState::Ordered && order.directory.as_ref() != Some(&at.directory) {
        order.state = OrderState::Waiting;
    }
    let host = order.host.to_string();
    let url = match order.order_url.clone().filter(|_| order.state == OrderState::Ordered) {
        Some(url) => url,
        None => {
            let ordered = match outside.order(at, &account.secret, &host, way).await {
                Err(AuthorityError { fault: AuthorityFault::NoAccount, .. }) => {
                    // Made anew at the next try.
                    app.store().acme_account_forget(account).await?;
                    return Err(Ended::Theirs(
                        OrderTrouble::Refused,
                        "the authority does not know the account any more; a new one is made".to_owned(),
                        None,
                    ));
                }
                ordered => ordered?,
            };
            order.state = OrderState::Ordered;
            order.directory = Some(at.directory.clone());
            order.order_url = Some(ordered.url.clone());
            order.answer = ordered.answer.map(stored);
            put(app, order, false).await?;
            ordered.url
        }
    };
    if order.answer.is_some() {
        // Also of an order that another server left: its version is in the list for long, and this returns at once.
        let version = app.store().challenge_answers().await?.version;
        let late = challenges::await_answered(app, version, EDGES_LIMIT).await?;
        if !late.is_empty() {
            let names: Vec<String> = late.iter().map(ToString::to_string).collect();
            let detail = format!("not taken by {}; an edge of an older version cannot", names.join(", "));
            return Err(Ended::Theirs(OrderTrouble::EdgesSilent, detail, None));
        }
    }
    outside.prove(at, &account.secret, &url, way).await?;
    let key = match app.store().order_key(order).await? {
        Some(key) => key,
        None => {
            let key = outside.new_key();
            app.store().order_set_key(order, &key).await?;
            key
        }
    };
    let chain_pem = outside.collect(at, &account.secret, &url, &host, &key).await?;
    keep(app, order, chain_pem, key, now).await
}

fn stored(answer: ToAnswer) -> Answer {
    match answer {
        ToAnswer::Http { path, body } => Answer::Http { path, body },
        ToAnswer::Tls { chain_pem, key_pem } => Answer::Tls { chain_pem, key_pem: key_pem.expose_secret().to_owned() },
    }
}

/// Takes what the authority gave, and serves it in place of what was got before.
async fn keep(app: &App, order: &mut Order, chain_pem: String, key: SecretString, now: Timestamp) -> Result<(), Ended> {
    let wanted = wire::CertificateAdd { chain_pem, key_pem: key.expose_secret().to_owned() };
    let bad = |why: String| Ended::Theirs(OrderTrouble::BadCertificate, why, None);
    let facts = certificates::read(&wanted).map_err(bad)?;
    if !facts.names.iter().any(|name| *name == order.host.as_str()) {
        return Err(bad(format!("it is for {}", facts.names.join(", "))));
    }
    let id = CertificateId::new(Uuid::now_v7());
    let host = order.host.clone();
    let new = NewCertificate {
        id,
        names: facts.names,
        issuer: facts.issuer,
        not_before: facts.not_before,
        not_after: facts.not_after,
        chain_pem: facts.chain_pem,
        key_pem: key,
        added_by: "berth".to_owned(),
        ordered_for: Some(host.clone()),
    };
    let next_at = renew_at(new.not_before, new.not_after);
    order.state = OrderState::Served;
    order.certificate = Some(id);
    order.order_url = None;
    order.answer = None;
    order.trouble = None;
    order.detail = None;
    order.failures = 0;
    // Whatever the dates say, not at once again.
    order.next_at = next_at.max(now + PAUSES[0]);
    let mut tx = app.store().begin().await?;
    app.store().certificate_insert(&mut tx, &new).await?;
    tx.order_put(order, false).await?;
    tx.certificates_superseded(&host, id).await?;
    tx.settings_publish().await?;
    tx.challenges_publish().await?;
    tx.commit().await?;
    info!(%host, not_after = %new.not_after, "the certificate of {host} is served; it is renewed from {next_at} on");
    Ok(())
}

/// When a third of its life is left.
fn renew_at(not_before: Timestamp, not_after: Timestamp) -> Timestamp {
    not_after - not_after.duration_since(not_before) / 3
}

/// What a person added for a host and is good for a while yet.
fn persons<'a>(all: &'a [Certificate], host: &Hostname, now: Timestamp) -> Option<&'a Certificate> {
    let beside = host.as_str().split_once('.').map(|(_, parent)| format!("*.{parent}"));
    all.iter().find(|certificate| {
        let covers = certificate.names.iter().any(|name| *name == host.as_str() || Some(name) == beside.as_ref());
        certificate.ordered_for.is_none()
            && covers
            && certificate.not_before <= now
            && certificate.not_after - PERSONS_LAST > now
    })
}

/// Serves a person's, in place of what was got before.
async fn serve(app: &App, order: &mut Order, certificate: CertificateId) -> Result<(), ControlError> {
    order.state = OrderState::Served;
    order.certificate = Some(certificate);
    order.trouble = None;
    order.detail = None;
    order.failures = 0;
    let mut tx = app.store().begin().await?;
    tx.order_put(order, false).await?;
    if tx.certificates_superseded(&order.host, certificate).await? > 0 {
        tx.settings_publish().await?;
    }
    tx.challenges_publish().await?;
    Ok(tx.commit().await?)
}

async fn fail(
    app: &App,
    order: &mut Order,
    trouble: OrderTrouble,
    detail: String,
    again: Option<Timestamp>,
    now: Timestamp,
) -> Result<(), ControlError> {
    let pause = PAUSES.get(order.failures as usize).copied().unwrap_or(PAUSES[PAUSES.len() - 1]);
    let usual = if trouble == OrderTrouble::RateLimited { pause.max(LIMITED_FOR) } else { pause };
    // The authority's own word counts, within a day: a wrong one must not end renewals.
    let again = again.map_or(now + usual, |again| again.clamp(now + PAUSES[0], now + PAUSES[PAUSES.len() - 1]));
    // What only waits for an answer goes on where it is.
    let goes_on = matches!(trouble, OrderTrouble::AuthoritySilent | OrderTrouble::EdgesSilent)
        && order.state == OrderState::Ordered
        && order.failures < 3;
    if !goes_on {
        order.state = OrderState::Failed;
        order.order_url = None;
        order.answer = None;
    }
    order.trouble = Some(trouble);
    order.detail = Some(detail);
    order.failures += 1;
    order.next_at = again;
    put(app, order, goes_on).await
}

async fn put(app: &App, order: &mut Order, keep_key: bool) -> Result<(), ControlError> {
    let mut tx = app.store().begin().await?;
    tx.order_put(order, keep_key).await?;
    tx.challenges_publish().await?;
    tx.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::renew_at;

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
        let at = |text: &str| text.parse().unwrap();
        assert_eq!(renew_at(at("2026-01-01T00:00:00Z"), at("2026-04-01T00:00:00Z")), at("2026-03-02T00:00:00Z"));
    }
}
