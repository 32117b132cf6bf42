//! Keys, names and lives: what is written, what is read back, what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{HOUR, authority, identity, lasting, name, now};
use crate::{
    Authority, CaCertificate, Identity, KeyError, Life, NodeKey, NodeName, PublicKey, Trust,
};

#[test]
fn a_life_is_renewed_at_two_thirds() {
    assert_eq!(Life::new(0, 30 * 24 * HOUR).renew_at(), 20 * 24 * HOUR);
    assert_eq!(Life::new(100, 10).renew_at(), 106);
    assert_eq!(Life { from: 5, until: 5 }.renew_at(), 5);
}

#[test]
fn a_name_is_read_in_one_spelling_only() {
    let good = "millrace://mill-1/node/7/3";
    let parsed: NodeName = good.parse().unwrap();
    assert_eq!((parsed.node.0, parsed.incarnation, parsed.to_string().as_str()), (7, 3, good));
    for bad in [
        "millrace://mill-1/node/07/3",
        "millrace://mill-1/node/+7/3",
        "millrace://mill-1/node/7/3/",
        "millrace://Mill/node/7/3",
        "millrace:///node/7/3",
        "millrace://a/node/7",
        "https://mill-1/node/7/3",
    ] {
        assert!(bad.parse::<NodeName>().is_err(), "{bad}");
    }
    assert!(matches!(Authority::create("../x", lasting()), Err(KeyError::Name)));
}

#[test]
fn a_ca_is_kept_for_its_owner_alone_and_issues_the_same_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.json");
    let ca = authority("mill");
    ca.save(&path).unwrap();
    ca.save(&path).unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o600);
    let again = Authority::load(&path).unwrap();
    assert_eq!(again.certificate(), ca.certificate());
    assert_eq!(again.cluster(), "mill");
    let key = NodeKey::generate().unwrap();
    assert!(again.issue(&name("mill", 1), &key.public(), lasting()).is_ok());
    assert!(matches!(
        again.issue(&name("other", 1), &key.public(), lasting()),
        Err(KeyError::Name)
    ));

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(Authority::load(&path), Err(KeyError::Mode { mode: 0o640, .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    // Another CA's certificate beside this key.
    let text = fs::read_to_string(&path).unwrap();
    let other = folder.path().join("other.json");
    authority("mill").save(&other).unwrap();
    let line = |text: &str| {
        text.lines().find(|line| line.contains("\"certificate\"")).map(str::to_owned).unwrap()
    };
    let mixed = text.replace(&line(&text), &line(&fs::read_to_string(&other).unwrap()));
    fs::write(&path, mixed).unwrap();
    assert!(matches!(Authority::load(&path), Err(KeyError::Key)));
    fs::write(&path, "{\"cluster\": \"mill\"").unwrap();
    assert!(matches!(Authority::load(&path), Err(KeyError::File { .. })));
}

#[test]
fn an_identity_is_read_back_whole_and_shows_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.json");
    let ca = authority("mill");
    let written = identity(&ca, name("mill", 4), lasting());
    written.save(&path).unwrap();
    let read = Identity::load(&path).unwrap();
    assert_eq!(read.name(), written.name());
    assert_eq!(read.life(), written.life());
    assert_eq!(read.ca(), ca.certificate());
    assert_eq!(read.public_key(), written.public_key());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let shown = format!("{read:?}");
    assert!(shown.contains(&read.public_key().fingerprint().to_string()));
    assert!(shown.len() < 4_000, "no key in the debug form: {shown}");
}

#[test]
fn a_certificate_ends_with_its_ca_at_the_latest() {
    let until = now() + HOUR;
    let ca = Authority::create("mill", Life { from: now() - HOUR, until }).unwrap();
    let key = NodeKey::generate().unwrap();
    let issued = ca.issue(&name("mill", 1), &key.public(), lasting()).unwrap();
    assert_eq!(issued.life.until, until);
}

#[test]
fn what_is_no_key_no_ca_and_no_window_is_refused() {
    assert!(matches!(PublicKey::new(&[4; 64]), Err(KeyError::Key)));
    assert!(matches!(PublicKey::new(&[2; 65]), Err(KeyError::Key)));
    assert!(matches!(CaCertificate::new(vec![0x30, 0]), Err(KeyError::Certificate)));
    let ca = authority("mill").certificate().clone();
    assert!(matches!(Trust::new(Vec::new()), Err(KeyError::Cas(0))));
    assert!(matches!(Trust::new(vec![ca.clone(), ca.clone(), ca]), Err(KeyError::Cas(3))));
}
