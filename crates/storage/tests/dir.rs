//! The data directory keeps others out, and never mistakes an old node for a new one.

use std::fs;

use quorate_storage::{DataDir, DirError, Identity};

fn identity() -> Identity {
    Identity { cluster_id: "c1".into(), node_id: 3, incarnation: 1, joined: false }
}

#[test]
fn a_directory_is_made_once_and_opened_again() {
    let parent = tempfile::tempdir().expect("directory");
    let path = parent.path().join("node");
    assert!(matches!(DataDir::open(&path), Err(DirError::Uninitialised { .. })));
    drop(DataDir::create(&path, identity()).expect("create"));
    assert_eq!(DataDir::open(&path).expect("open").identity(), &identity());
    let again = DataDir::create(&path, identity()).expect_err("made before");
    assert!(matches!(again, DirError::AlreadyInitialised { .. }), "{again}");
}

#[test]
fn a_second_process_is_refused_and_told_who_holds_it() {
    let parent = tempfile::tempdir().expect("directory");
    let held = DataDir::create(parent.path(), identity()).expect("create");
    match DataDir::open(parent.path()).expect_err("locked") {
        DirError::Locked { pid, .. } => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other}"),
    }
    drop(held);
    assert!(DataDir::open(parent.path()).is_ok());
}

#[test]
fn a_log_without_an_identity_is_refused() {
    let parent = tempfile::tempdir().expect("directory");
    fs::create_dir(parent.path().join("log")).expect("log");
    assert!(matches!(DataDir::open(parent.path()), Err(DirError::IdentityMissing { .. })));
    let made = DataDir::create(parent.path(), identity());
    assert!(matches!(made, Err(DirError::IdentityMissing { .. })));
}

#[test]
fn a_newer_format_and_a_damaged_identity_are_told_apart() {
    let parent = tempfile::tempdir().expect("directory");
    drop(DataDir::create(parent.path(), identity()).expect("create"));
    let file = parent.path().join("identity.json");
    let whole = fs::read_to_string(&file).expect("read");
    fs::write(&file, r#"{"format_version": 7, "surprise": true}"#).expect("write");
    let newer = DataDir::open(parent.path());
    assert!(matches!(newer, Err(DirError::NewerFormat { version: 7, .. })));
    fs::write(&file, whole.replace("\"format_version\": 1", "\"format_version\": 0"))
        .expect("write");
    assert!(matches!(DataDir::open(parent.path()), Err(DirError::IdentityDamaged { .. })));
    fs::write(&file, r#"{"format_version": 1, "clus"#).expect("write");
    assert!(matches!(DataDir::open(parent.path()), Err(DirError::IdentityDamaged { .. })));
}
