//! `preheat cache serve` as a process.

use super::{Home, Ran};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

pub(crate) struct Service {
    child: Child,
    /// Host and port.
    pub(crate) host: String,
    /// Where it says it listens.
    pub(crate) url: String,
    /// The token of the first start; empty where there were tokens before.
    pub(crate) token: String,
}

impl Service {
    /// Starts one on the directory `cache` of a home, with no settings.
    pub(crate) fn start(home: &Home) -> Self {
        Self::start_with(home, &[])
    }

    /// The same, with a file of settings.
    pub(crate) fn configured(home: &Home, settings: &str) -> Self {
        let file = home.write("cache.toml", settings);
        Self::start_with(home, &["--config", file.to_str().unwrap()])
    }

    pub(crate) fn start_with(home: &Home, args: &[&str]) -> Self {
        let log = home.path().join("service.log");
        let mut command = home.command(["cache", "serve", "cache", "--listen", "127.0.0.1:0"]);
        command.args(args).stdout(Stdio::piped()).stderr(std::fs::File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        // What it says on standard error comes before: the token of the first start, once.
        let said = std::fs::read_to_string(log).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}: {said}")).to_owned();
        let host = url.split_once("://").unwrap().1.to_owned();
        let token = said.find("phc_").map_or("", |start| &said[start..]);
        let token = token.chars().take_while(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).collect();
        Self { child, host, url, token }
    }

    /// `preheat login` as the admin of the first start.
    pub(crate) fn login(&self, home: &Home, flags: &[&str]) {
        let ran = self.try_login(home, flags, &self.token);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }

    /// `preheat login` with a token on standard input.
    pub(crate) fn try_login(&self, home: &Home, flags: &[&str], token: &str) -> Ran {
        let mut args = vec!["login", &self.host];
        args.extend(flags);
        home.run_with(args, token.as_bytes())
    }

    /// A builder's home, with the root made, and the root's fingerprint.
    pub(crate) fn with_root(&self) -> (Home, String) {
        let builder = Home::new();
        self.login(&builder, &[]);
        let fingerprint = self.make_root(&builder);
        (builder, fingerprint)
    }

    /// Makes the root on a home that may do everything here.
    pub(crate) fn make_root(&self, home: &Home) -> String {
        home.json(["cache", "init", &self.host])["fingerprint"].as_str().unwrap().to_owned()
    }

    /// Makes a token for the namespace `default`, or for others, as an operator does.
    pub(crate) fn token(&self, home: &Home, name: &str, namespace: &str, rights: &[&str]) -> String {
        let mut args = vec!["cache", "token", "new", name, "--directory", "cache", "--namespace", namespace];
        args.extend(rights.iter().flat_map(|right| ["--right", right]));
        home.ok(args)
    }

    pub(crate) fn place(&self, name: &str) -> String {
        format!("{}/default/{name}", self.host)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has the root of `operator`, who made it, delegate the builder's key of another home, and brings it to the service.
pub(crate) fn delegate_builder(operator: &Home, service: &Service, fingerprint: &str, builder: &Home) {
    let first = operator.root().join("trust/roots").join(fingerprint.strip_prefix("sha256:").unwrap()).join("1.json");
    let (key, next) = (operator.root().join("keys/root.json"), operator.path().join("2.root.json"));
    let [first, key, next] = [&first, &key, &next].map(|path| path.to_str().unwrap());
    let public = builder.json(["key", "show"])["public"].as_str().unwrap().to_owned();
    let delegation = ["--role", "builder", "--name", "ci", "--key", &public, "--namespace", "default", "--out", next];
    operator.ok(["root", "delegate", first].iter().chain(&delegation));
    operator.ok(["root", "sign", next, "--key", key]);
    operator.ok(["cache", "publish", &service.host, next]);
}

/// Builds a command that says `text`, under a name.
pub(crate) fn build(home: &Home, text: &str, tag: &str) -> String {
    let file = home.write(&format!("{tag}.wat"), super::hello(text, 0));
    home.ok(["build", file.to_str().unwrap(), "--tag", tag, "--cpu", "v2"])
}
