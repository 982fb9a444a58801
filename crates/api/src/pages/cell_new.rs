//! `/cells/new`: a cell by the stack file's providers, with what the catalogue says that places cost; and the commands for
//! what is taken in with a secret, which no page asks for.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::{Change, Session},
    shown::{Frame, money, or_unknown},
    tenants::{follow, typed},
};
use askama::Template;
use axum::{extract::Query, http::Method, response::Response};
use berth_domain::CellClass;
use berth_wire::{Catalogue, CatalogueOffer, Cell, CellCreate, Operation, Overview};
use serde::Deserialize;
use std::collections::BTreeSet;

const SHOWN: usize = 2000;

/// What a row of the catalogue fills in.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filled {
    class: String,
    region: String,
    max_tenants: String,
}

struct OfferRow {
    name: String,
    class: &'static str,
    provider: String,
    region: String,
    places: u32,
    price: String,
    holds: String,
    /// With its class, region and places in the form.
    fill: String,
}

impl OfferRow {
    fn new(offer: &CatalogueOffer) -> Self {
        let class = offer.class.as_str();
        // A cell is asked for in one region; what stands in several is made of several.
        let region = match offer.at.as_slice() {
            [only] => format!("&region={}", escaped(only)),
            _ => String::new(),
        };
        Self {
            name: offer.name.clone(),
            class,
            provider: offer.provider.clone(),
            region: offer.at.join(", "),
            places: offer.places,
            price: or_unknown(offer.price_cents, money),
            holds: offer.compliance.iter().chain(&offer.residency).cloned().collect::<Vec<_>>().join(", "),
            fill: format!("/cells/new?class={class}{region}&max_tenants={}#name", offer.places),
        }
    }
}

#[derive(Template)]
#[template(path = "pages/cell_new.html")]
struct NewPage {
    frame: Frame,
    classes: Vec<&'static str>,
    filled: Filled,
    /// That cells stand at already.
    providers: Vec<String>,
    offers: Vec<OfferRow>,
    /// Of which day the catalogue is.
    version: String,
    /// A stack file was applied: there is something to run in a cell.
    stack: bool,
}

/// `GET /cells/new?class=&region=&max_tenants=`
pub async fn page(session: Session, Query(filled): Query<Filled>) -> Result<Response, Failure> {
    let overview: Overview = session.get("/v1/status").await?;
    let cells: Vec<Cell> = session.list("/v1/cells", SHOWN).await?;
    // Without a stack file there is none, and one with mistakes is said by the page of checks.
    let catalogue: Option<Catalogue> = session.get("/v1/catalogue").await.ok();
    let providers: BTreeSet<String> = cells.iter().map(|cell| cell.provider.to_string()).collect();
    html(&NewPage {
        frame: Frame::of(&session, "cells"),
        classes: CellClass::ALL.iter().map(|class| class.as_str()).collect(),
        filled,
        providers: providers.into_iter().collect(),
        offers: catalogue.iter().flat_map(|it| &it.offers).map(OfferRow::new).collect(),
        version: catalogue.map(|it| it.version).unwrap_or_default(),
        stack: overview.stack.is_some(),
    })
}

/// `POST /cells`
pub async fn create(change: Change) -> Result<Response, Failure> {
    let provider = change.field("provider").is_some();
    let max_tenants = change.field("max_tenants").is_some();
    let body = CellCreate {
        name: typed(&change, "name", "a name, as in `shared-2`")?,
        class: typed(&change, "class", "a class of the list")?,
        provider: if provider { Some(typed(&change, "provider", "a provider of the stack file")?) } else { None },
        region: change.field("region").map(str::to_owned),
        max_tenants: if max_tenants { Some(typed(&change, "max_tenants", "a whole number")?) } else { None },
    };
    let operation: Operation = change.session.send(Method::POST, "/v1/cells", &body, &change.once()).await?;
    Ok(follow(&operation))
}
