//! What a stack file states about how the stack is run: budget, alerts, backups, failover, quotas.
//!
//! Statements that `berth check` judges and `berth config show` prints. Berth sends no alerts, makes no backups and fails
//! nothing over, which is why these three each name who does, and may not name Berth. Of alerts `berth render` writes rules.

use crate::{Span, stack::price};
use berth_domain::Cents;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the stack may cost in a month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    #[serde(with = "price")]
    pub amount: Cents,
    pub currency: String,
    #[serde(default, with = "optional_price", skip_serializing_if = "Option::is_none")]
    pub warning: Option<Cents>,
    #[serde(default, with = "optional_price", skip_serializing_if = "Option::is_none")]
    pub critical: Option<Cents>,
}

/// When people are woken, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alerts {
    /// What sends them.
    pub by: String,
    /// `cpu_percent` and its like.
    #[serde(flatten)]
    pub on: BTreeMap<String, Alert>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical: Option<u64>,
    /// How long the value has to stay above.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasting: Option<Span>,
}

/// How the stack's data is backed up, and what that promises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backups {
    /// What makes them.
    pub by: String,
    pub every: Span,
    /// Where they lie; somewhere else than the data.
    pub to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_days: Option<u32>,
    /// How much work may be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<Span>,
    /// How long a restore may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto: Option<Span>,
    /// How often a restore is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill_every: Option<Span>,
}

/// What takes over when a place is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// What carries it out.
    pub by: String,
    /// Where to.
    pub to: String,
    #[serde(default)]
    pub automatic: bool,
    /// How the old place is kept from writing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<String>,
    /// How the copy at the other place is kept up to date, and how old it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_every: Option<Span>,
}

/// What a provider lets through before it refuses or charges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Span>,
    /// `commands`, `requests`, `mails`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Whose it is, in place of the three: the catalogue's provider, and which of its quotas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
}

/// Work that a service does by the clock, whether or not anybody uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// The quota that it draws on.
    pub of: String,
    pub every: Span,
    /// In the quota's unit, each time, in each copy.
    pub amount: u64,
}

/// A finding of `berth check` that somebody looked at and lets stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    pub rule: String,
    /// One file only; otherwise all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    pub reason: String,
}

mod optional_price {
    use super::{Cents, price};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::ref_option, reason = "serde calls it with a reference")]
    pub fn serialize<S: Serializer>(price: &Option<Cents>, to: S) -> Result<S::Ok, S::Error> {
        match price {
            Some(price) => price::serialize(price, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cents>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        price::parse(&text).map(Some).ok_or_else(|| D::Error::custom(format!("`{text}` is not a price")))
    }
}
