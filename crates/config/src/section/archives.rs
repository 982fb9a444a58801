//! `archives`: where rows that leave a tenant's cell for good are kept. Never opens the place.

use crate::{
    Archives, Environment, Problem, S3Place, Template,
    read::{At, Reader},
    section::services::template,
};

pub fn read(reader: &mut Reader, at: &At<'_>, environment: Option<&Environment>) -> Option<Archives> {
    let section = reader.section(at, &["directory", "s3"])?;
    match (section.get("directory"), section.get("s3")) {
        (Some(at), None) => {
            let path = reader.text(&at)?;
            if !path.starts_with('/') || path.contains('\0') {
                let problem = Problem::Malformed {
                    message: "this is no absolute path",
                    hint: "for example `directory: /srv/berth/archives`",
                };
                reader.wrong(&at, problem);
                return None;
            }
            Some(Archives::Directory(path.to_owned()))
        }
        (None, Some(at)) => s3(reader, &at, environment).map(Archives::S3),
        _ => {
            let problem = Problem::Malformed {
                message: "archives are kept in exactly one of `directory` and `s3`",
                hint: "for example `archives: { directory: /srv/berth/archives }`",
            };
            reader.wrong(at, problem);
            None
        }
    }
}

fn s3(reader: &mut Reader, at: &At<'_>, environment: Option<&Environment>) -> Option<S3Place> {
    let keys = &["bucket", "endpoint", "region", "prefix", "access_key_id", "secret_access_key"];
    let section = reader.section(at, keys)?;
    let bucket = section.need("bucket", "bucket: acme-archives", reader).and_then(|at| text(reader, &at));
    let endpoint = section.get("endpoint").and_then(|at| url(reader, &at));
    let region = section.get("region").and_then(|at| text(reader, &at));
    let prefix = section.get("prefix").and_then(|at| text(reader, &at));
    let mut secret = |key: &'static str, example: &'static str| -> Option<Template> {
        let at = section.need(key, example, reader)?;
        template(reader, &at, environment)
    };
    let access_key_id = secret("access_key_id", "access_key_id: ${ARCHIVE_KEY_ID}");
    let secret_access_key = secret("secret_access_key", "secret_access_key: ${ARCHIVE_SECRET}");
    if let (Some(template), Some(at)) = (&secret_access_key, section.get("secret_access_key"))
        && template.variables().is_empty()
    {
        let problem = Problem::Malformed {
            message: "a secret does not stand in the stack file",
            hint: "write `${NAME}` and set the variable where `berth serve` is started",
        };
        reader.wrong(&at, problem);
        return None;
    }
    Some(S3Place {
        bucket: bucket?,
        endpoint,
        region,
        prefix,
        access_key_id: access_key_id?,
        secret_access_key: secret_access_key?,
    })
}

fn text(reader: &mut Reader, at: &At<'_>) -> Option<String> {
    let text = reader.text(at)?;
    if text.is_empty() || text.len() > 255 || !text.bytes().all(|b| b.is_ascii_graphic()) {
        let problem = Problem::Malformed { message: "this is no plain name", hint: "letters, digits and `-_./`" };
        reader.wrong(at, problem);
        return None;
    }
    Some(text.to_owned())
}

fn url(reader: &mut Reader, at: &At<'_>) -> Option<String> {
    let text = text(reader, at)?;
    if !["https://", "http://"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty())) {
        let problem = Problem::Malformed {
            message: "this is no http(s) URL",
            hint: "for example `https://fsn1.your-objectstorage.com`",
        };
        reader.wrong(at, problem);
        return None;
    }
    Some(text)
}
