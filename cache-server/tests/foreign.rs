//! Clients that nobody here wrote: ccache and Bazel get hits in a raw namespace.
//!
//! Each test starts the real server on an empty directory. A tool that is not installed is said to be missing and its test passes, unless
//! `PREHEAT_INTEROP=required` is set.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const SERVER: &str = env!("CARGO_BIN_EXE_preheat-cache-server");
/// The namespace that the tools use.
const NAMESPACE: &str = "tools";
/// Longest time that a tool gets, in seconds: these are first starts of large programs, on machines that do other things too.
const PATIENCE: &str = "900";

/// A tool that may be missing.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        assert!(std::env::var("PREHEAT_INTEROP").as_deref() != Ok("required"), "{name} is not installed");
        eprintln!("{name} is not installed: nothing is tested");
    }
    found
}

/// A server of its own, and a token for it.
struct Service {
    child: Child,
    /// `127.0.0.1:port`.
    address: String,
    token: String,
    dir: tempfile::TempDir,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    /// Starts a server with a raw namespace and a token with `rights` in `scope`.
    fn start(scope: &str, rights: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (settings, cache) = (dir.path().join("cache.toml"), dir.path().join("cache"));
        let text = format!("listen = \"127.0.0.1:0\"\ndirectory = \"{}\"\n\n[namespaces.{NAMESPACE}]\nkind = \"raw\"\n", cache.display());
        std::fs::write(&settings, text).unwrap();
        let mut new = Command::new(SERVER);
        new.args(["token", "new", "tools", "--namespace", scope]).arg("--config").arg(&settings);
        for right in rights {
            new.args(["--right", right]);
        }
        std::fs::create_dir(&cache).unwrap();
        let made = new.output().unwrap();
        assert!(made.status.success(), "{}", text_of(&made));
        let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut child =
            Command::new(SERVER).arg("--config").arg(&settings).stdout(Stdio::piped()).stderr(log).stdin(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").map(str::to_owned);
        let mut service = Self { child, address: String::new(), token, dir };
        service.address = address.unwrap_or_else(|| panic!("`{line}`; {}", service.log()));
        service
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The URL of the namespace with the token in it, for tools that take credentials in no other way.
    fn url(&self) -> String {
        format!("http://anybody:{}@{}/{NAMESPACE}", self.token, self.address)
    }

    /// Status and body of the answer to a GET.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: cache\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n", self.token).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        (status, body.to_owned())
    }

    /// How often entries that were asked for were there, as the server counts it.
    fn entry_hits(&self) -> u64 {
        let (status, metrics) = self.get("/metrics");
        assert_eq!(status, 200);
        let value = metrics.lines().find_map(|line| line.strip_prefix("preheat_cache_hits_total{kind=\"entry\"} "));
        value.map_or(0, |value| value.parse().unwrap())
    }
}

/// A command with nothing of the caller's environment but where programs are, that ends in any case.
fn command(program: &Path, home: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", PATIENCE]).arg(program).env_clear().env("HOME", home).env("LANG", "C.UTF-8").current_dir(home);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

fn text_of(output: &Output) -> String {
    format!("{}\n{}\n{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = text_of(&output);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// ccache, and something to compile.
struct Ccache {
    program: PathBuf,
    compiler: PathBuf,
    dir: tempfile::TempDir,
}

impl Ccache {
    fn new() -> Option<Self> {
        let (program, compiler) = (tool("ccache")?, tool("cc")?);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("answer.c"), "int answer(void) { return 42; }\n").unwrap();
        Some(Self { program, compiler, dir })
    }

    fn command(&self, local: &str) -> Command {
        let mut command = command(&self.program, self.dir.path());
        command.env("CCACHE_DIR", self.dir.path().join(local)).env("CCACHE_CONFIGPATH", self.dir.path().join("none.conf"));
        command
    }

    /// Compiles with the remote cache `url`, which is an address and perhaps attributes. `layout=bazel` puts all entries where raw namespaces have them: under `ac/`, with keys of 64 digits.
    fn compile(&self, local: &str, url: &str) -> Vec<u8> {
        let object = format!("{local}.o");
        let mut command = self.command(local);
        command.env("CCACHE_REMOTE_STORAGE", format!("{url}|layout=bazel"));
        run(command.arg(&self.compiler).args(["-c", "answer.c", "-o", &object]));
        std::fs::read(self.dir.path().join(object)).unwrap()
    }

    fn count(&self, local: &str, name: &str) -> u64 {
        let text = run(self.command(local).arg("--print-stats"));
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
    }
}

#[test]
fn ccache_finds_what_another_machine_compiled() {
    let Some(ccache) = Ccache::new() else { return };
    let service = Service::start(NAMESPACE, &["read", "write-blob", "write-key"]);
    // Two machines: each with a local cache of its own, which is empty at first.
    let first = ccache.compile("first", &service.url());
    assert_eq!(ccache.count("first", "cache_miss"), 1);
    assert_eq!(ccache.count("first", "remote_storage_hit"), 0);
    assert_eq!(ccache.count("first", "remote_storage_error"), 0, "{}", service.log());
    assert!(ccache.count("first", "remote_storage_write") > 0);
    assert_eq!(service.entry_hits(), 0);

    // Its other way to show a token.
    let second = ccache.compile("second", &format!("http://{}/{NAMESPACE}|bearer-token={}", service.address, service.token));
    assert_eq!(ccache.count("second", "direct_cache_hit"), 1, "{}", service.log());
    assert_eq!(ccache.count("second", "remote_storage_hit"), 1);
    assert_eq!(ccache.count("second", "remote_storage_error"), 0);
    assert_eq!(ccache.count("second", "cache_miss"), 0);
    assert!(second == first);
    assert!(service.entry_hits() > 0);
}

#[test]
fn ccache_compiles_by_itself_when_its_token_is_not_good() {
    let Some(ccache) = Ccache::new() else { return };
    let service = Service::start(NAMESPACE, &["read", "write-blob", "write-key"]);
    let first = ccache.compile("first", &service.url());
    let stranger = service.url().replace(&service.token, &format!("phc_0000000000000000_{}", "A".repeat(43)));
    let second = ccache.compile("second", &stranger);
    assert!(second == first);
    assert_eq!(ccache.count("second", "cache_miss"), 1);
    assert_eq!(service.entry_hits(), 0);
}

#[test]
fn bazel_finds_what_another_machine_built() {
    let Some(bazel) = tool("bazel") else { return };
    let service = Service::start(NAMESPACE, &["read", "write-blob", "write-key"]);
    let dir = tempfile::tempdir().unwrap();
    let workspace = dir.path().join("workspace");
    std::fs::create_dir(&workspace).unwrap();
    std::fs::write(workspace.join("WORKSPACE"), "workspace(name = \"foreign\")\n").unwrap();
    let rule = "genrule(name = \"numbers\", outs = [\"numbers.txt\"], cmd = \"for i in 1 2 3; do echo $$i; done > $@\")\n";
    std::fs::write(workspace.join("BUILD"), rule).unwrap();
    // Two machines: each with an output base of its own, which is where Bazel keeps what it built before.
    let build = |base: &str, cache: &[String]| {
        let mut command = command(&bazel, dir.path());
        command.current_dir(&workspace);
        // The system's settings stay: Debian's say there where Bazel itself is.
        command.args(["--batch", "--nohome_rc", "--noworkspace_rc"]);
        command.arg(format!("--output_user_root={}", dir.path().join("user").display()));
        command.arg(format!("--output_base={}", dir.path().join(base).display()));
        // Not in a sandbox: not every machine that runs tests lets programs make one.
        command.args(["build", "--spawn_strategy=local", "--color=no", "--curses=no", "--noshow_progress"]);
        let said = run(command.args(cache).arg("//:numbers"));
        (said, std::fs::read_to_string(workspace.join("bazel-bin/numbers.txt")).unwrap())
    };
    let (said, numbers) = build("first", &[format!("--remote_cache={}", service.url())]);
    assert!(!said.contains("remote cache hit"), "{said}");
    assert_eq!(numbers, "1\n2\n3\n");
    assert_eq!(service.entry_hits(), 0);
    // Its other way to show a token.
    let address = format!("--remote_cache=http://{}/{NAMESPACE}", service.address);
    let (said, numbers) = build("second", &[address, format!("--remote_header=Authorization=Bearer {}", service.token)]);
    assert!(said.contains("1 remote cache hit"), "{said}\n{}", service.log());
    assert_eq!(numbers, "1\n2\n3\n");
    assert_eq!(service.entry_hits(), 1);
    make_writable(dir.path());
}

/// Bazel takes the right to write away from what it made, and then nobody but it can remove that.
fn make_writable(dir: &Path) {
    run(Command::new("chmod").args(["-R", "u+w"]).arg(dir));
}
