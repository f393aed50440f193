//! Tokens of the cache: what each right lets its holder do by the command, and what it does not.

use crate::common::service::{Service, build};
use crate::common::{Home, Ran};

/// What came of something that somebody tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Refused for lack of this right.
    Lacks(&'static str),
    /// The namespace might as well not be there.
    Hidden,
}
use Outcome::{Done, Hidden, Lacks};

/// Somebody with a token, and what they may.
struct Holder {
    who: &'static str,
    /// Where the token counts.
    namespace: &'static str,
    rights: &'static [&'static str],
    pull: Outcome,
    /// By digest: blobs, then statements.
    push: Outcome,
    /// With a namer's key.
    promote: Outcome,
    collect: Outcome,
    make_namespace: Outcome,
}

const ALL: [Holder; 8] = [
    Holder {
        who: "reader",
        namespace: "default",
        rights: &["read"],
        pull: Done,
        push: Lacks("write-blob"),
        promote: Lacks("name"),
        collect: Lacks("admin"),
        make_namespace: Lacks("admin"),
    },
    Holder {
        who: "blobs",
        namespace: "default",
        rights: &["read", "write-blob"],
        pull: Done,
        push: Lacks("write-key"),
        promote: Lacks("name"),
        collect: Lacks("admin"),
        make_namespace: Lacks("admin"),
    },
    Holder {
        who: "keys",
        namespace: "default",
        rights: &["read", "write-key"],
        pull: Done,
        push: Lacks("write-blob"),
        promote: Lacks("name"),
        collect: Lacks("admin"),
        make_namespace: Lacks("admin"),
    },
    Holder {
        who: "builder",
        namespace: "default",
        rights: &["read", "write-blob", "write-key"],
        pull: Done,
        push: Done,
        promote: Lacks("name"),
        collect: Lacks("admin"),
        make_namespace: Lacks("admin"),
    },
    Holder {
        who: "namer",
        namespace: "default",
        rights: &["read", "name"],
        pull: Done,
        push: Lacks("write-blob"),
        promote: Done,
        collect: Lacks("admin"),
        make_namespace: Lacks("admin"),
    },
    // Without `read` nothing is to be seen, not even that there is something.
    Holder {
        who: "blind",
        namespace: "default",
        rights: &["write-blob", "write-key", "name"],
        pull: Hidden,
        push: Hidden,
        promote: Hidden,
        collect: Hidden,
        make_namespace: Lacks("admin"),
    },
    // No right includes another, and what is for all namespaces needs a token for all.
    Holder {
        who: "admin of one",
        namespace: "default",
        rights: &["admin"],
        pull: Hidden,
        push: Hidden,
        promote: Hidden,
        collect: Done,
        make_namespace: Lacks("admin"),
    },
    Holder {
        who: "admin of all",
        namespace: "*",
        rights: &["read", "admin"],
        pull: Done,
        push: Lacks("write-blob"),
        promote: Lacks("name"),
        collect: Done,
        make_namespace: Done,
    },
];

fn check(what: &str, ran: &Ran, wanted: Outcome) {
    match wanted {
        Done => assert_eq!(ran.code, Some(0), "{what}: {ran:?}"),
        Lacks(right) => {
            println!("{what}");
            ran.assert_fails(127, &format!("has no right `{right}`"));
        }
        Hidden => {
            println!("{what}");
            ran.assert_fails(120, "no namespace `default` here that you may read");
        }
    }
}

#[test]
fn each_right_lets_its_holder_do_one_thing_and_nothing_else() {
    let home = Home::new();
    let service = Service::start(&home);
    let (builder, fingerprint) = service.with_root();
    let namespace = format!("{}/default", service.host);
    let digest = build(&builder, "there from the start", "first");
    builder.ok(["push", "first", &service.place("app:v1")]);
    let namer = builder.root().join("keys/namer.json");
    for (number, holder) in ALL.into_iter().enumerate() {
        let token = service.token(&home, holder.who, holder.namespace, holder.rights);
        // The builder's key counts: only the token decides.
        let fresh = build(&builder, holder.who, "fresh");
        check(&format!("{} pushes", holder.who), &builder.run_as(&token, ["push", "fresh", &namespace]), holder.push);
        let name = service.place(&format!("app:{number}"));
        let promoted = builder.run_as(&token, ["promote", &name, &digest, "--namer-key", namer.to_str().unwrap()]);
        check(&format!("{} promotes", holder.who), &promoted, holder.promote);
        let collected = builder.run_as(&token, ["cache", "collect", &service.host, "default", "--dry-run"]);
        check(&format!("{} collects", holder.who), &collected, holder.collect);
        let made = builder.run_as(&token, ["cache", "namespace", &service.host, &format!("new-{number}"), "--kind", "raw"]);
        check(&format!("{} makes a namespace", holder.who), &made, holder.make_namespace);
        // On a machine that has nothing yet.
        let node = Home::new();
        service.login(&node, &[]);
        node.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
        let pulled = node.run_as(&token, ["pull", &service.place("app:v1")]);
        check(&format!("{} pulls", holder.who), &pulled, holder.pull);
        assert_eq!(node.run(["run", &digest]).code == Some(0), holder.pull == Done, "{}", holder.who);
        let there = node.run(["pull", &format!("{namespace}@{fresh}")]);
        assert_eq!(there.code == Some(0), holder.push == Done, "{}: {there:?}", holder.who);
    }
    // Each name that was moved, and no other.
    let names = builder.json(["names", &namespace]);
    let names: Vec<&String> = names["snapshot"]["names"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["app:4", "app:v1"]);
}

#[test]
fn the_right_to_name_is_worth_nothing_without_a_namers_key() {
    let home = Home::new();
    let service = Service::start(&home);
    let (builder, fingerprint) = service.with_root();
    let digest = build(&builder, "named by its namer", "app");
    builder.ok(["push", "app", &format!("{}/default", service.host)]);
    let other = Home::new();
    let ran = service.try_login(&other, &[], &service.token(&home, "namer", "default", &["read", "name"]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    other.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    let key = other.path().join("own.json");
    other.ok(["key", "new", "--out", key.to_str().unwrap()]);
    let ran = other.run(["promote", &service.place("app:v1"), &digest, "--namer-key", key.to_str().unwrap()]);
    ran.assert_fails(122, "refuses it (names-refused)");
    builder.ok(["promote", &service.place("app:v1"), &digest]);
    assert_eq!(other.ok(["pull", &service.place("app:v1")]), digest);
}

#[test]
fn a_token_that_was_revoked_or_has_ended_lets_nobody_in() {
    let home = Home::new();
    let service = Service::start(&home);
    let (builder, fingerprint) = service.with_root();
    build(&builder, "for a while", "app");
    builder.ok(["push", "app", &service.place("app:v1")]);
    let node = Home::new();
    let made = home.json(["cache", "token", "new", "node", "--directory", "cache", "--namespace", "default", "--right", "read"]);
    let ran = service.try_login(&node, &[], made["token"].as_str().unwrap());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    node.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    node.ok(["run", &service.place("app:v1")]);
    home.ok(["cache", "token", "revoke", made["id"].as_str().unwrap(), "--directory", "cache"]);
    // The service sees it within a second.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let refused = loop {
        let ran = node.run(["pull", &service.place("app:v1")]);
        if ran.code != Some(0) {
            break ran;
        }
        assert!(std::time::Instant::now() < until, "it still counts");
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    refused.assert_fails(127, "does not accept who asks");
    // What was pulled stays usable: a token is no trust.
    assert_eq!(node.run(["run", &service.place("app:v1")]).stdout, "for a while");
}

#[test]
fn a_token_in_the_environment_goes_to_no_host_but_those_of_login() {
    let home = Home::new();
    let service = Service::start(&home);
    let (builder, fingerprint) = service.with_root();
    let digest = build(&builder, "for readers", "app");
    builder.ok(["push", "app", &service.place("app:v1")]);
    let token = service.token(&home, "node", "default", &["read"]);
    let node = Home::new();
    let image = format!("{}/default@{digest}", service.host);
    // Whoever can write a reference could else collect tokens.
    node.run_as(&token, ["pull", &image]).assert_fails(127, "needs credentials");
    let ran = node.run_as(&token, ["login", &service.host, "--no-token"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = node.run_as(&token, ["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(node.run_as(&token, ["pull", &image]).code, Some(0));
    assert!(!node.root().join("credentials.json").exists(), "it is kept nowhere");
}
