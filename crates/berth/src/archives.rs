//! Joins the stack file's `archives` with the places that this program can speak to.

use berth_config::{Archives, Environment};
use berth_infra::ProviderError;
use berth_providers::archives::{Bucket, bucket, folder};
use std::path::Path;

/// `own`: where they are when the stack file does not say.
pub fn open(
    place: Option<&Archives>,
    environment: &Environment,
    own: &Path,
) -> Result<berth_mover::Archives, ProviderError> {
    let place = match place {
        None => return folder(own),
        Some(Archives::Directory(path)) => return folder(Path::new(path)),
        Some(Archives::S3(place)) => place,
    };
    let secret = |template: &berth_config::Template| {
        template.resolve(environment).map_err(|missing| ProviderError::Refused {
            what: "the place of archives".to_owned(),
            reason: missing.to_string(),
        })
    };
    bucket(&Bucket {
        name: &place.bucket,
        endpoint: place.endpoint.as_deref(),
        region: place.region.as_deref(),
        prefix: place.prefix.as_deref(),
        access_key_id: secret(&place.access_key_id)?,
        secret_access_key: secret(&place.secret_access_key)?,
    })
}
