//! The world outside, for real: names over DNS, pages over HTTP, certificates over ACME (RFC 8555).
//!
//! Implements [`berth_infra::Outside`]. Keeps nothing between two calls, never knows whose a host is, and never decides
//! when to ask.

mod authority;
mod dns;
mod exchange;
mod page;
mod transport;

use async_trait::async_trait;
use berth_infra::{AnswerWay, Asking, AuthorityAt, AuthorityError, NothingSeen, Ordered, Outside};
use secrecy::SecretString;

/// The one implementation.
#[derive(Clone, Copy, Debug, Default)]
pub struct World;

#[async_trait]
impl Outside for World {
    async fn texts(&self, asking: Asking, name: &str) -> Result<Vec<String>, NothingSeen> {
        dns::texts(asking, name).await
    }

    async fn page(&self, asking: Asking, host: &str, path: &str) -> Result<String, NothingSeen> {
        page::text(asking, host, path).await
    }

    async fn account(&self, at: &AuthorityAt) -> Result<SecretString, AuthorityError> {
        authority::account(at).await
    }

    async fn order(
        &self,
        at: &AuthorityAt,
        account: &SecretString,
        host: &str,
        way: AnswerWay,
    ) -> Result<Ordered, AuthorityError> {
        authority::order(at, account, host, way).await
    }

    async fn prove(
        &self,
        at: &AuthorityAt,
        account: &SecretString,
        url: &str,
        way: AnswerWay,
    ) -> Result<(), AuthorityError> {
        authority::prove(at, account, url, way).await
    }

    fn new_key(&self) -> SecretString {
        authority::new_key()
    }

    async fn collect(
        &self,
        at: &AuthorityAt,
        account: &SecretString,
        url: &str,
        host: &str,
        key_pem: &SecretString,
    ) -> Result<String, AuthorityError> {
        authority::collect(at, account, url, host, key_pem).await
    }
}
