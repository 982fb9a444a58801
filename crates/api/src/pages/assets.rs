//! Files of the dashboard, inside the program. Never reads a disk.

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest as _, Sha256};
use std::{fmt::Write as _, sync::LazyLock};

/// Name, type, content.
const FILES: &[(&str, &str, &[u8])] = &[
    ("berth.css", "text/css; charset=utf-8", include_bytes!("../../assets/berth.css")),
    ("berth.svg", "image/svg+xml", include_bytes!("../../assets/berth.svg")),
    ("vendor/htmx.min.js", "text/javascript; charset=utf-8", include_bytes!("../../assets/vendor/htmx.min.js")),
    ("vendor/sse.min.js", "text/javascript; charset=utf-8", include_bytes!("../../assets/vendor/sse.min.js")),
];

/// Changes with the content of the files: pages ask for them under it, so a kept copy is never older than its page.
pub static EDITION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for (_, _, content) in FILES {
        hash.update(content);
    }
    hash.finalize().iter().take(6).fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
});

/// `GET /assets/{file}`
pub async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(known, _, _)| *known == name) {
        Some((_, kind, content)) => {
            let headers = [
                (header::CONTENT_TYPE, *kind),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, *content).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
