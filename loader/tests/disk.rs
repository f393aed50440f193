//! A disk that is full and one that can't be written. Needs the right to mount a tmpfs; without it these tests say so and do nothing.

mod common;

use common::{CDS, Env, Recipe, assert_clear, files, reference};
use preheat_loader::StoreError;
use preheat_loader::store::Collection;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// A small file system of its own, unmounted at the end.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(dir.path()).output();
        match output {
            Ok(output) if output.status.success() => Some(Self { dir }),
            other => {
                let why = other.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
                // Not `eprintln!`, which the test harness swallows.
                let _ = writeln!(std::io::stderr(), "not tested: a tmpfs can't be mounted here ({why})");
                None
            }
        }
    }

    fn remount(&self, mode: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{mode}")]).arg(self.dir.path()).status().unwrap();
        assert!(status.success());
    }

    fn env(&self) -> Env {
        Env::at(tempfile::tempdir_in(self.dir.path()).unwrap())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

fn listing(env: &Env) -> (usize, usize) {
    let count = |dir: &str| files(&env.store.root().join(dir)).len();
    (count("blobs"), count("tmp"))
}

#[test]
fn a_full_disk_is_an_error_that_leaves_nothing() {
    let Some(disk) = Disk::new("256k") else { return };
    let env = disk.env();
    let made = env.image("app");
    env.store.tag(&reference("app"), &made.image).unwrap();
    let before = listing(&env);
    assert_eq!(before.1, 0);

    let mut publication = env.store.publish().unwrap();
    let error = publication.put(CDS, &vec![7; 1 << 20]).unwrap_err();
    assert!(matches!(&error, StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull), "{error:?}");
    assert_clear(&error);
    assert!(error.to_string().contains("free some space"), "{error}");
    drop(publication);
    assert_eq!(listing(&env), before);

    // Small files one by one, until the last page is taken: each is there whole or not at all.
    let mut count = 0;
    let error = loop {
        let recipe = Recipe::new(&format!("more {count}"));
        match recipe.publish(&env.store, &env.key) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_clear(&error);
    assert_eq!(listing(&env).1, 0);
    let report = env.verify();
    assert_eq!(report.problems, []);
    assert_eq!(env.run(&made.image).unwrap(), b"code of app");
    assert_eq!(env.image_digests().len(), report_images(&env), "without room for an index the files are asked");

    // What a collection frees can be used again.
    env.store.collect(&Collection::default()).unwrap();
    env.image("after");
    assert_eq!(env.run(&made.image).unwrap(), b"code of app");
    assert_eq!(env.verify().problems, []);
}

/// Images by their entries, as the files say.
fn report_images(env: &Env) -> usize {
    let entries = files(&env.store.root().join("entries"));
    let is_image = |path: &&std::path::PathBuf| std::fs::read_to_string(path).unwrap().contains("\"kind\":\"image\"");
    entries.iter().filter(is_image).count()
}

#[test]
fn a_read_only_store_runs_what_it_has() {
    let Some(disk) = Disk::new("8m") else { return };
    let env = disk.env();
    let made = env.publish(&Recipe::large("app"));
    env.store.tag(&reference("app"), &made.image).unwrap();
    let code = env.run(&made.image).unwrap();
    for index in ["there", "missing"] {
        if index == "missing" {
            disk.remount("rw");
            std::fs::remove_file(env.store.root().join("index.redb")).unwrap();
            // A seal that does not fit can't be renewed either.
            common::change(&env.store.blob_path(&made.code()), |_| {});
        }
        disk.remount("ro");
        let store = env.home.store().unwrap();
        assert_eq!(store.resolve_text("app").unwrap(), made.image);
        assert!(env.run(&made.image).unwrap() == code);
        assert_eq!(env.image_digests(), [made.image]);
        assert_eq!(store.names().unwrap().len(), 1);
        assert_eq!(env.verify().problems, []);
        let refused = [
            store.publish().map(drop).unwrap_err(),
            store.tag(&reference("other"), &made.image).unwrap_err(),
            store.untag(&reference("app")).unwrap_err(),
            store.pin(&made.image, true).unwrap_err(),
            store.set_max_bytes(None).unwrap_err(),
            store.collect(&Collection::default()).unwrap_err(),
            store.verify(&env.policy(), true, &mut |_, _| {}).unwrap_err(),
        ];
        for error in refused {
            assert_clear(&error);
            assert!(error.to_string().contains("the store is read-only"), "{error}");
        }
    }
    disk.remount("rw");
    assert!(Path::new(env.store.root()).join("store.json").exists());
    env.image("other");
    assert_eq!(env.verify().problems, []);
}
