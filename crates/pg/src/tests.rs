//! What a connection string asks for.

use super::{Tls, parse};
use tokio_postgres::config::{Host, SslMode};

#[test]
fn a_connection_string_asks_for_tls_that_proves_who_answers_or_for_none() {
    let tls = |url: &str| parse(url).map(|(_, tls)| tls);
    let system = Some(Tls { roots: None });
    assert_eq!(tls("postgres://a:b@h/d"), Ok(None));
    for none in ["disable", "allow", "prefer"] {
        assert_eq!(tls(&format!("postgres://a:b@h/d?sslmode={none}")), Ok(None));
    }
    for proved in ["require", "verify-ca", "verify-full"] {
        assert_eq!(tls(&format!("postgres://a:b@h/d?sslmode={proved}&sslrootcert=system")), Ok(system.clone()));
    }
    let roots = Some(Tls { roots: Some("/etc/my roots.pem".into()) });
    assert_eq!(tls("postgres://a:b@h/d?sslrootcert=/etc/my%20roots.pem&sslmode=verify-full"), Ok(roots));
    assert_eq!(tls("host=h user=a password=b?sslmode=disable:// dbname=d sslmode=require"), Ok(system));
    // A socket of this machine.
    assert_eq!(tls("postgres://a:b@%2Frun%2Fpg/d?sslmode=require"), Ok(None));
    assert!(tls("postgres://a:b@h/d?sslmode=verify").unwrap_err().contains("none of"));
    // Nothing that was meant to ask for it is taken for no word.
    for (url, why) in [
        ("postgres://a:b@h/d?sslrootcert=/x", "asks for no TLS"),
        ("postgres://a:b@h/d?sslrootcert=system", "asks for no TLS"),
        ("postgres://a:b@h/d?sslmode=require&sslmode=disable", "twice"),
        ("postgres://a:b@h/d?sslmode", "no value"),
        ("postgres://a:b@h/d?sslmode=%ff", "no text"),
        ("postgres://a:b@h,i/d?sslmode=require", "name one"),
        ("postgres://a:b@%2Frun%2Fpg,db.example.com/d?sslmode=require", "name one"),
        ("host=/run/pg hostaddr=203.0.113.7 user=a dbname=d sslmode=require", "name one"),
        ("host=h user=a dbname=d sslmode=verify-full", "in the form postgres://"),
    ] {
        let refused = tls(url).unwrap_err();
        assert!(refused.contains(why), "{url}: {refused}");
    }
}

#[test]
fn the_rest_of_a_connection_string_is_as_it_was() {
    let url =
        "postgres://a:p%40ss@db.example.com:6432/d?sslmode=verify-full&channel_binding=require&application_name=x";
    let (config, tls) = parse(url).unwrap();
    assert!(tls.is_some());
    assert_eq!(config.get_hosts(), [Host::Tcp("db.example.com".to_owned())]);
    assert_eq!((config.get_ports(), config.get_password()), (&[6432][..], Some(&b"p@ss"[..])));
    assert_eq!(config.get_application_name(), Some("x"));
    // Connecting decides, and never falls back.
    assert_eq!(config.get_ssl_mode(), SslMode::Prefer);
    assert!(!parse("postgres://a:geheim@h:port/d").unwrap_err().contains("geheim"));
}
