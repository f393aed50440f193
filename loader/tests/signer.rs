//! Commands that sign: what they may answer, and all that can go wrong with them.

use preheat_image::keys::{SecretKey, Signer as _};
use preheat_loader::{CommandSigner, Home, KeyFile, StoreError};
use std::time::{Duration, Instant};

const MESSAGE: &[u8] = b"what is to be signed";

fn key() -> SecretKey {
    SecretKey::from_seed([7; 32])
}

fn shell(script: &str) -> CommandSigner {
    CommandSigner::new(key().public(), ["sh", "-c", script].map(str::to_owned).to_vec()).unwrap()
}

/// A script that answers with the good signature, in octal escapes.
fn answer(signature: &[u8]) -> String {
    let escapes: String = signature.iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!("cat > /dev/null; printf '{escapes}'")
}

fn failure(script: &str) -> String {
    let error = shell(script).sign(MESSAGE).unwrap_err();
    assert_eq!(error.key, key().public().id());
    assert!(!error.what.contains('\n'), "{error}");
    error.to_string()
}

#[test]
fn raw_bytes_and_base64_are_signatures() {
    let signature = key().sign(MESSAGE);
    assert_eq!(shell(&answer(&signature)).sign(MESSAGE).unwrap(), signature);
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(signature);
    assert_eq!(shell(&format!("echo {text}")).sign(MESSAGE).unwrap(), signature, "and it need not read its input");
    assert_eq!(shell(&format!("printf '{}\\n{}'", &text[..40], &text[40..])).sign(MESSAGE).unwrap(), signature);
    let large = vec![1; 1 << 20];
    let signature = key().sign(&large);
    assert_eq!(shell(&answer(&signature)).sign(&large).unwrap(), signature, "more than a pipe holds");
}

#[test]
fn a_signature_by_another_key_or_of_something_else_is_noticed() {
    assert!(failure(&answer(&SecretKey::from_seed([8; 32]).sign(MESSAGE))).contains("another key"));
    assert!(failure(&answer(&key().sign(b"something else"))).contains("another key"));
}

#[test]
fn a_command_that_fails_says_why_itself() {
    let said = failure("echo first >&2; echo 'no such key' >&2; echo >&2; exit 3");
    assert!(said.ends_with(": no such key") && said.contains("sh -c"), "{said}");
    assert!(failure("exit 3").contains("it said nothing"));
    assert!(failure("echo hello").contains("6 bytes that are no signature"));
    assert!(failure("true").contains("0 bytes"));
    assert!(failure("head -c 1000000 /dev/zero").contains("no signature") || failure("head -c 1000000 /dev/zero").contains("failed"));
    let absent = CommandSigner::new(key().public(), vec!["/no/such/command".into()]).unwrap();
    assert!(absent.sign(MESSAGE).unwrap_err().to_string().contains("can't start `/no/such/command`"));
    assert!(CommandSigner::new(key().public(), Vec::new()).is_err());
}

#[test]
fn a_command_that_hangs_is_ended_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let script = format!("(sleep 3; touch {}) & sleep 100", mark.display());
    let started = Instant::now();
    let error = shell(&script).time_limit(Duration::from_millis(100)).sign(MESSAGE).unwrap_err();
    assert!(error.to_string().contains("no signature within 100ms"), "{error}");
    std::thread::sleep(Duration::from_secs(4).saturating_sub(started.elapsed()));
    assert!(!mark.exists(), "what it started lives on");
}

#[test]
fn key_files_lead_back_and_damage_is_seen() {
    let command = shell("true");
    let KeyFile::Command(read) = KeyFile::parse(&command.to_file()).unwrap() else { panic!("a secret") };
    assert_eq!((read.public(), read.to_file()), (key().public(), command.to_file()));
    assert!(matches!(KeyFile::parse(&key().to_file()).unwrap(), KeyFile::Secret(_)));
    let text = String::from_utf8(command.to_file()).unwrap();
    for (from, to) in [
        ("ed25519", "rsa"),
        ("\"version\": 1", "\"version\": 2"),
        ("\"sh\"", "\"\""),
        ("\"command\"", "\"secret\":\"c2VjcmV0\",\"command\""),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        let error = KeyFile::parse(changed.as_bytes()).unwrap_err().to_string();
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.json");
    KeyFile::Secret(key()).write_new(&path).unwrap();
    assert!(matches!(KeyFile::Secret(SecretKey::from_seed([8; 32])).write_new(&path), Err(StoreError::Io { .. })));
    assert_eq!(KeyFile::read(&path).unwrap().public(), key().public(), "the first one stays");
}

#[test]
fn a_builder_whose_key_is_elsewhere_has_no_secret_to_give() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path());
    home.builder_signer().unwrap();
    home.rotate_key(&KeyFile::Command(shell("exit 1")), 0, 0).unwrap();
    assert_eq!(home.builder_signer().unwrap().public(), key().public());
    assert!(home.builder_key().unwrap_err().to_string().contains("a command has the secret"));
}
