//! `.env.example`: every variable that the other files name, with what it is for. Never a value that is secret: people
//! copy it to `.env`, which no file of ours is.

use crate::{MARK, Run, Site, quote};
use std::collections::BTreeSet;

pub fn render(site: &Site) -> String {
    let mut out = format!(
        "# {MARK}\n# Copy it to `.env`, fill it in, and let nobody else read it: `chmod 600 .env`. It belongs into no repository.\n\n"
    );
    out.push_str("# Of the Postgres in docker-compose.yml: Berth's own login, `berth`.\nPOSTGRES_PASSWORD=\n");
    out.push_str("# The application's login there, `app`. Letters, digits, `-` and `_` only: it stands in a URL.\nAPP_PASSWORD=\n");
    out.push_str("# Its image by digest: `docker inspect --format '{{index .RepoDigests 0}}' postgres:17-bookworm` after a pull.\nPOSTGRES_IMAGE=\n");
    if site.redis.is_some() {
        out.push_str("# Of the Redis there. Letters, digits, `-` and `_` only: it stands in a URL.\nREDIS_PASSWORD=\n");
        out.push_str("# Its image by digest, from a pull of redis:7-bookworm.\nREDIS_IMAGE=\n");
    }
    for service in &site.services {
        if matches!(service.run, Run::Command(_)) {
            out.push_str(&format!(
                "# The image of `{}` by digest, as .github/workflows/images.yml prints it.\n{}=\n",
                service.name,
                service.image_variable()
            ));
        }
    }
    let own: BTreeSet<&str> =
        site.services.iter().flat_map(|s| &s.env).flat_map(|(_, value)| quote::variables(value)).collect();
    if !own.is_empty() {
        out.push_str("\n# Named by the stack file.\n");
    }
    for name in own {
        out.push_str(&format!("{name}=\n"));
    }
    out
}
