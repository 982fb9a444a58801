//! Places of archives: a folder, or a bucket of anything that speaks S3's protocol.

use berth_infra::ProviderError;
use object_store::{ObjectStore, local::LocalFileSystem};
use std::{path::Path, sync::Arc};

/// A bucket and the key to it.
#[derive(Debug)]
pub struct Bucket<'a> {
    pub name: &'a str,
    /// Absent: Amazon's own.
    pub endpoint: Option<&'a str>,
    pub region: Option<&'a str>,
    /// What the names of all objects begin with.
    pub prefix: Option<&'a str>,
    pub access_key_id: secrecy::SecretString,
    pub secret_access_key: secrecy::SecretString,
}

fn refused(reason: String) -> ProviderError {
    ProviderError::Refused { what: "the place of archives".to_owned(), reason }
}

/// A folder, made when it is not there; nobody but this user may read it then.
pub fn folder(path: &Path) -> Result<Arc<dyn ObjectStore>, ProviderError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let wrong = |error: &dyn std::error::Error| refused(format!("{}: {error}", path.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| wrong(&error))?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| wrong(&error))?;
    Ok(Arc::new(store.with_automatic_cleanup(false).with_fsync(true)))
}

#[cfg(feature = "s3")]
pub fn bucket(bucket: &Bucket<'_>) -> Result<Arc<dyn ObjectStore>, ProviderError> {
    use object_store::{aws::AmazonS3Builder, prefix::PrefixStore};
    use secrecy::ExposeSecret as _;
    // Fails where one is installed already, which is as good.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket.name)
        .with_region(bucket.region.unwrap_or("us-east-1"))
        .with_access_key_id(bucket.access_key_id.expose_secret())
        .with_secret_access_key(bucket.secret_access_key.expose_secret());
    if let Some(endpoint) = bucket.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    let store = builder.build();
    let store = store.map_err(|error| refused(format!("bucket {}: {error}", bucket.name)))?;
    Ok(match bucket.prefix {
        Some(prefix) => Arc::new(PrefixStore::new(store, prefix)),
        None => Arc::new(store),
    })
}

#[cfg(not(feature = "s3"))]
pub fn bucket(bucket: &Bucket<'_>) -> Result<Arc<dyn ObjectStore>, ProviderError> {
    let name = bucket.name;
    Err(refused(format!("bucket {name}: this program was built without the feature `s3`")))
}
