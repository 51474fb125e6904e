//! The data directory keeps others out, and never mistakes an old node for a new one.

use std::fs;

use quorate_storage::{DataDir, DirError, Identity, Meta, StoppedDir};

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

#[test]
fn a_directory_that_is_looked_at_lets_no_node_start_and_is_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path();
    let open = || StoppedDir::open(path);
    assert!(matches!(open(), Err(DirError::Uninitialised { .. })));
    let node = DataDir::create(path, identity()).expect("create");
    node.disk().expect("make the log");
    let mine = std::process::id();
    assert!(matches!(open(), Err(DirError::Locked { pid: Some(pid), .. }) if pid == mine));
    drop(node);
    let lock = fs::read(path.join("lock")).expect("read the lock");
    let (first, second) = (open().expect("open"), open().expect("two may look"));
    assert_eq!((first.unlocked(), first.identity().expect("identity")), (None, identity()));
    assert!(matches!(DataDir::open(path), Err(DirError::Locked { .. })));
    assert_eq!(fs::read(path.join("lock")).expect("read the lock"), lock);
    drop((first, second));
    assert!(DataDir::open(path).is_ok());
    fs::remove_file(path.join("lock")).expect("remove the lock");
    assert!(open().expect("a copy").unlocked().is_some_and(|why| why.contains("copy")));
    assert!(!path.join("lock").exists());
}

#[test]
fn the_small_state_is_read_from_a_copy() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = DataDir::create(dir.path(), identity()).expect("create");
    node.disk().expect("make the log");
    let (meta, _) = node.meta().expect("open");
    meta.put(b"key", &[&vec![7; 100_000]]).expect("put");
    meta.sync().expect("sync");
    drop((meta, node));
    let scratch = tempfile::tempdir().expect("a directory");
    let stopped = StoppedDir::open(dir.path()).expect("open");
    let meta = stopped.meta(&scratch.path().join("meta")).expect("copy").expect("it is there");
    assert_eq!(meta.get(b"key").expect("get").map(|value| value.len()), Some(100_000));
    meta.put(b"key", &[b"changed"]).expect("put");
    drop(meta);
    let again = stopped.meta(&scratch.path().join("again")).expect("copy").expect("it is there");
    assert_eq!(again.get(b"key").expect("get").map(|value| value.len()), Some(100_000));
}
