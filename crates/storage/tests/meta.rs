//! Small state over restarts, crashes and damage.

use quorate_storage::{Meta, MetaError, Opened, SimMeta, SledMeta};

#[test]
fn values_survive_a_restart_of_sled() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("meta");
    let large = vec![5; 300_000];
    {
        let (meta, _) = SledMeta::open(&path).expect("open");
        meta.put(b"large", &[&vec![1; 40_000]]).expect("put");
        meta.put(b"large", &[&large]).expect("put");
        meta.sync().expect("sync");
    }
    let (meta, opened) = SledMeta::open(&path).expect("open");
    assert_eq!(opened, Opened::Existed);
    assert_eq!(meta.get(b"large").expect("get").as_deref(), Some(large.as_slice()));
}

#[test]
fn a_store_that_is_open_elsewhere_is_left_alone() {
    let directory = tempfile::tempdir().expect("directory");
    let (_meta, _) = SledMeta::open(directory.path()).expect("open");
    assert!(matches!(SledMeta::open(directory.path()), Err(MetaError::Locked(_))));
}

#[test]
fn a_store_that_will_not_open_is_moved_aside_and_said_so() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("meta");
    {
        let (meta, _) = SledMeta::open(&path).expect("open");
        meta.put(b"key", &[b"value"]).expect("put");
        meta.sync().expect("sync");
    }
    std::fs::write(path.join("conf"), b"not a configuration").expect("damage");
    let (meta, opened) = SledMeta::open(&path).expect("open");
    assert!(matches!(opened, Opened::Wiped { .. }), "{opened:?}");
    assert_eq!(meta.get(b"key").expect("get"), None);
    assert!(directory.path().join("meta.damaged").is_dir());
    meta.put(b"key", &[b"again"]).expect("put");
    meta.sync().expect("sync");
}

/// Whatever bytes of the data file change: no other value is ever returned.
#[test]
fn a_damaged_sled_file_never_yields_a_wrong_value() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("meta");
    let value: Vec<u8> = (0..60_000u32).map(|at| (at / 7) as u8).collect();
    {
        let (meta, _) = SledMeta::open(&path).expect("open");
        meta.put(b"key", &[&value]).expect("put");
        meta.sync().expect("sync");
    }
    let intact = std::fs::read(path.join("db")).expect("read");
    let used = intact.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    for at in (0..used).step_by(used / 12 + 1) {
        let mut damaged = intact.clone();
        damaged[at..(at + 40).min(used)].iter_mut().for_each(|byte| *byte ^= 0xa5);
        std::fs::write(path.join("db"), &damaged).expect("damage");
        let (meta, _) = SledMeta::open(&path).expect("open");
        if let Ok(Some(found)) = meta.get(b"key") {
            assert_eq!(found, value, "damage at {at}");
        }
        drop(meta);
        std::fs::remove_dir_all(&path).expect("clean");
        std::fs::create_dir(&path).expect("make");
    }
}

#[test]
fn what_was_not_synced_is_lost_as_a_suffix_of_the_changes() {
    for seed in 0..50 {
        let meta = SimMeta::new(seed);
        meta.put(b"a", &[b"1"]).expect("put");
        meta.sync().expect("sync");
        meta.put(b"a", &[b"2"]).expect("put");
        meta.put(b"b", &[b"2"]).expect("put");
        meta.power_loss();
        assert!(meta.get(b"a").is_err(), "the boot has ended");
        let meta = meta.reopen();
        let a = meta.get(b"a").expect("get").expect("synced");
        let b = meta.get(b"b").expect("get");
        assert!(b.is_none() || a == "2", "seed {seed}");
    }
}
