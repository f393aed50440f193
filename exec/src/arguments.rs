//! The command line.

use preheat_call::Directory;
use preheat_call::text::{parse_size, parse_time};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The first line is shown with errors.
pub(crate) const HELP: &str = "Usage: preheat-exec [OPTIONS] IMAGE [ARGS]...

Runs an image that was built with `preheat build --engine native`. Options are as for `preheat run`:

  --dir HOST[::GUEST]     directory that the guest may read and write; repeatable
  --ro-dir HOST[::GUEST]  directory that the guest may only read; repeatable
  --env NAME=VALUE        environment variable of the guest; repeatable
  --invoke EXPORT         call this export with ARGS, and print its results
  --timeout TIME          end the guest after this time, such as 500ms or 2s
  --max-memory SIZE       most memory that each of the guest's memories may have, such as 64M
  --verify                hash the image's blobs again before they are used
  --home DIR              directory of store and trust policy [default: $PREHEAT_HOME, as for `preheat`]
  --help, --version

IMAGE is a name or digest in the local store; nothing is built and nothing pulled. Exit codes are those of `preheat run`.
";

/// What is to be run, and how.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) image: String,
    pub(crate) args: Vec<String>,
    pub(crate) dirs: Vec<Directory>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) invoke: Option<String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_memory: Option<u64>,
    pub(crate) verify: bool,
    pub(crate) home: Option<PathBuf>,
}

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Parsed {
    Run(Box<Arguments>),
    Help,
    Version,
}

/// Reads a command line. Options end at the image or at `--`: what follows the image is the guest's.
///
/// # Errors
/// In words.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, String> {
    let mut args = args.into_iter().map(|arg| arg.into_string().map_err(|arg| format!("{} is not UTF-8", arg.display())));
    let mut parsed = Arguments::default();
    let image = loop {
        let arg = args.next().ok_or("no image was given")??;
        let Some(option) = arg.strip_prefix("--") else {
            if arg.starts_with('-') && arg.len() > 1 {
                return Err(format!("there is no option {arg}"));
            }
            break arg;
        };
        let (name, mut inline) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let mut value = || match inline.take() {
            Some(value) => Ok(value),
            None => args.next().ok_or_else(|| format!("--{name} needs a value"))?,
        };
        match name {
            "" => break args.next().ok_or("no image was given")??,
            "dir" | "ro-dir" => {
                let value = value()?;
                let (host, guest) = value.split_once("::").unwrap_or((&value, &value));
                parsed.dirs.push(Directory { host: host.into(), guest: guest.to_owned(), writable: name == "dir" });
            }
            "env" => {
                let value = value()?;
                let variable = value.split_once('=').filter(|(name, _)| !name.is_empty());
                let (name, value) = variable.ok_or_else(|| format!("`{value}` is not NAME=VALUE"))?;
                parsed.env.push((name.to_owned(), value.to_owned()));
            }
            "invoke" => parsed.invoke = Some(value()?),
            "timeout" => parsed.timeout = Some(parse_time(&value()?)?),
            "max-memory" => parsed.max_memory = Some(parse_size(&value()?)?),
            "home" => parsed.home = Some(value()?.into()),
            "verify" | "help" | "version" if inline.is_some() => return Err(format!("--{name} takes no value")),
            "verify" => parsed.verify = true,
            "help" => return Ok(Parsed::Help),
            "version" => return Ok(Parsed::Version),
            _ => return Err(format!("there is no option --{name}")),
        }
    };
    parsed.image = image;
    parsed.args = args.collect::<Result<_, _>>()?;
    // As in `preheat run`, where `--` may stand between the image and its arguments.
    if parsed.args.first().is_some_and(|arg| arg == "--") {
        parsed.args.remove(0);
    }
    Ok(Parsed::Run(Box::new(parsed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Arguments {
        match parse(args.iter().map(OsString::from)) {
            Ok(Parsed::Run(arguments)) => *arguments,
            other => panic!("{other:?}"),
        }
    }

    fn error(args: &[&str]) -> String {
        parse(args.iter().map(OsString::from)).unwrap_err()
    }

    #[test]
    fn options_end_at_the_image() {
        let parsed =
            run(&["--dir", "/a::/b", "--ro-dir=/c", "--env=A=b=c", "--timeout", "50ms", "--max-memory=64M", "app:v1", "--dir", "x"]);
        assert_eq!((parsed.image.as_str(), parsed.args), ("app:v1", vec!["--dir".to_owned(), "x".to_owned()]));
        let dir = |host: &str, guest: &str, writable| Directory { host: host.into(), guest: guest.into(), writable };
        assert_eq!(parsed.dirs, [dir("/a", "/b", true), dir("/c", "/c", false)]);
        assert_eq!(parsed.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!((parsed.timeout, parsed.max_memory), (Some(Duration::from_millis(50)), Some(64 << 20)));
        assert_eq!(run(&["--", "--odd"]).image, "--odd");
        assert_eq!(run(&["app", "--", "--", "x"]).args, ["--", "x"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (args, what) in [
            (&[][..], "no image"),
            (&["--dir"], "needs a value"),
            (&["--env", "=x", "a"], "NAME=VALUE"),
            (&["--timeout", "soon", "a"], "`soon` is no unit of time"),
            (&["--verify=yes", "a"], "takes no value"),
            (&["--engine", "wasmtime", "a"], "no option --engine"),
            (&["-x", "a"], "no option -x"),
            (&["--"], "no image"),
        ] {
            assert!(error(args).contains(what), "{args:?}: {}", error(args));
        }
        assert_eq!(parse(["--help".into()]), Ok(Parsed::Help));
    }
}
