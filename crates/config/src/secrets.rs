//! Which names stand for secrets: for `berth config show`, which masks them, and for `berth check`, which finds them
//! written out. Never sees a value.

/// Endings of such names, without what stands between words.
const WORDS: &[&str] = &[
    "secret",
    "password",
    "passwd",
    "passphrase",
    "token",
    "salt",
    "releasecookie",
    "apikey",
    "appkey",
    "accesskey",
    "authkey",
    "cookiekey",
    "deploykey",
    "encryptionkey",
    "hashkey",
    "hmackey",
    "jwtkey",
    "masterkey",
    "privatekey",
    "secretkey",
    "sessionkey",
    "sharedkey",
    "signaturekey",
    "signingkey",
    "stripekey",
];
/// Of names that may say a secret, and as often the path of a file, a switch or an address without a password.
const DOUBTFUL: &[&str] = &["credential", "dsn"];
/// What follows such a word and changes nothing: `SECRET_KEY_BASE`, `STRIPE_SECRET_KEY_TEST`, `API_KEY_2`.
const AFTER: &[&str] =
    &["base", "test", "live", "dev", "staging", "production", "prod", "old", "new", "previous", "next"];

/// Whether what stands under this name is a secret.
pub fn is_secret(name: &str) -> bool {
    let mut words: Vec<&str> = segments(name).collect();
    while words.len() > 1 && words.last().is_some_and(|word| is_after(word) || word.bytes().all(|b| b.is_ascii_digit()))
    {
        words.pop();
    }
    let plain = words.concat().to_ascii_lowercase();
    !is_harmless(name) && WORDS.iter().any(|word| plain.ends_with(word))
}

/// Whether it may be one, or say something of one: for whoever rather hides too much.
pub fn may_be_secret(name: &str) -> bool {
    let plain = plain(name);
    !is_harmless(name) && WORDS.iter().chain(DOUBTFUL).any(|word| plain.contains(word))
}

fn is_after(word: &str) -> bool {
    AFTER.iter().any(|after| after.eq_ignore_ascii_case(word))
}

/// A file that holds a secret, and keys that everybody may have.
fn is_harmless(name: &str) -> bool {
    let plain = plain(name);
    let public = |word: &str| word.eq_ignore_ascii_case("public") || word.eq_ignore_ascii_case("publishable");
    plain.ends_with("file")
        || plain.ends_with("publickey")
        || plain.ends_with("publishablekey")
        || segments(name).any(public)
}

fn segments(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

fn plain(name: &str) -> String {
    segments(name).collect::<String>().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::{is_secret, may_be_secret};

    #[test]
    fn names_of_secrets_are_known_and_those_of_other_things_are_not() {
        for name in [
            "ENCRYPTION_KEY",
            "APP_KEY",
            "LIVE_VIEW_SIGNING_SALT",
            "SECRET_KEY_BASE",
            "TOKEN_SIGNING_SECRET",
            "STRIPE_SECRET_KEY_TEST",
            "STRIPE_WEBHOOK_SECRET",
            "UPSTASH_API_KEY",
            "POSTMARK_API_TOKEN",
            "SMTP_PASSWORD",
            "AWS_SECRET_ACCESS_KEY",
            "API_KEY_2",
            "PUBLICATION_PASSWORD",
            "--api-key",
            "clientSecret",
            "webhookSecret",
            "token",
        ] {
            assert!(is_secret(name) && may_be_secret(name), "{name}");
        }
        for name in [
            "PASSWORD_FILE",
            "STRIPE_PUBLISHABLE_KEY",
            "STRIPE_PUBLISHABLE_KEY_TEST",
            "NEXT_PUBLIC_API_KEY",
            "publicKey",
            "tenant_column",
            "key",
            "LOG_LEVEL",
            "PHX_HOST",
        ] {
            assert!(!is_secret(name) && !may_be_secret(name), "{name}");
        }
        // Hidden, and not called a mistake.
        for name in [
            "PASSWORD_MIN_LENGTH",
            "TOKEN_TTL",
            "AWS_ACCESS_KEY_ID",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "CORS_ALLOW_CREDENTIALS",
            "DATABASE_DSN",
        ] {
            assert!(!is_secret(name) && may_be_secret(name), "{name}");
        }
    }
}
