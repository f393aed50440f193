//! Records on a disk that loses power: whether redb, set as it is here, keeps what was committed.

use super::{Answer, Change, Records, RedbMeta, Request};
use crate::storage::Expect;
use ::redb::{Database, StorageBackend};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

#[derive(Debug, Clone)]
enum Step {
    SetLen(u64),
    Write(u64, Vec<u8>),
    Sync,
    /// A record was acknowledged: key and value.
    Acknowledged(String, String),
}

/// A file in memory that writes down what is done to it.
#[derive(Debug, Clone, Default)]
struct Recording {
    bytes: Arc<Mutex<Vec<u8>>>,
    steps: Arc<Mutex<Vec<Step>>>,
}

fn place(offset: u64, length: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(offset).unwrap();
    start..start + length
}

impl Recording {
    fn note(&self, step: Step) {
        self.steps.lock().unwrap().push(step);
    }
}

impl StorageBackend for Recording {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        out.copy_from_slice(&self.bytes.lock().unwrap()[place(offset, out.len())]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.bytes.lock().unwrap().resize(place(len, 0).start, 0);
        self.note(Step::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.note(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.bytes.lock().unwrap()[place(offset, data.len())].copy_from_slice(data);
        self.note(Step::Write(offset, data.to_vec()));
        Ok(())
    }
}

/// What is left of the file when the power goes after `steps`; `keep` says of each write since the last sync whether it is there.
fn after_power_loss(steps: &[Step], keep: &mut dyn FnMut() -> bool) -> Vec<u8> {
    let synced = steps.iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |at| at + 1);
    let mut bytes = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        match step {
            // A length that does not reach the disk is one that is too short for what is written behind it.
            Step::SetLen(len) if at < synced || keep() => bytes.resize(place(*len, 0).start, 0),
            Step::Write(offset, data) if at < synced || keep() => {
                let place = place(*offset, data.len());
                if bytes.len() < place.end {
                    bytes.resize(place.end, 0);
                }
                bytes[place].copy_from_slice(data);
            }
            _ => {}
        }
    }
    bytes
}

fn check(dir: &Path, steps: &[Step], keep: &mut dyn FnMut() -> bool) -> Result<(), String> {
    let acknowledged: BTreeMap<&str, &str> =
        steps.iter().filter_map(|step| if let Step::Acknowledged(key, value) = step { Some((&**key, &**value)) } else { None }).collect();
    std::fs::write(dir.join("meta.redb"), after_power_loss(steps, keep)).unwrap();
    // Not verified while it is opened: what a large file gets.
    let meta = RedbMeta::open_verifying(dir, 0).map_err(|error| error.to_string())?;
    for (key, expected) in acknowledged {
        let found = meta.records.get(key).map_err(|error| error.to_string())?;
        let number = |text: &[u8]| std::str::from_utf8(text).unwrap().parse::<u32>().unwrap();
        // One that was written after it, and not acknowledged, may have taken its place.
        if found.is_none_or(|(value, _)| number(&value) < number(expected.as_bytes())) {
            return Err(format!("`{key}` has lost {expected}"));
        }
    }
    meta.records.walk().map_err(|error| error.to_string())
}

/// Writes records in commits of several, and checks after each step.
fn cut_everywhere(forget_syncs: bool) -> Result<(), String> {
    let disk = Recording::default();
    let database = Database::builder().create_with_backend(disk.clone()).unwrap();
    let records = Records::new(Path::new("/nowhere/meta.redb"), Some(database));
    for round in 0..8 {
        let mut answers = Vec::new();
        let mut batch = Vec::new();
        for i in 0..6 {
            // Some are new, some take the place of others.
            let (key, value) = (format!("key/{}", (round * 4 + i) % 20), format!("{}", round * 100 + i));
            let (done, answer) = oneshot::channel::<Answer>();
            answers.push((key.clone(), value.clone(), answer));
            batch.push(Request { key, change: Change::Put(value.into(), Expect::Any), done });
        }
        records.write(batch);
        for (key, value, answer) in answers {
            answer.blocking_recv().unwrap().unwrap();
            disk.note(Step::Acknowledged(key, value));
        }
    }
    let mut steps = disk.steps.lock().unwrap().clone();
    let made = steps.iter().position(|step| matches!(step, Step::Acknowledged(..))).unwrap();
    if forget_syncs {
        let mut at = 0;
        steps.retain(|step| {
            at += 1;
            at < made || !matches!(step, Step::Sync)
        });
    }
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut state = 0x9e37_79b9_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state & 4 == 0
    };
    for end in made..=steps.len() {
        let at = |why: String| format!("after {end} of {} steps: {why}", steps.len());
        check(dir.path(), &steps[..end], &mut || false).map_err(at)?;
        check(dir.path(), &steps[..end], &mut || true).map_err(at)?;
        check(dir.path(), &steps[..end], &mut random).map_err(at)?;
    }
    Ok(())
}

#[test]
fn acknowledged_records_survive_a_loss_of_power() {
    cut_everywhere(false).unwrap();
}

#[test]
fn this_test_notices_syncs_that_are_forgotten() {
    cut_everywhere(true).unwrap_err();
}
