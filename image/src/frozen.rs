//! What a manifest says of a frozen image: where its program was stopped, and in which state it wakes.

use crate::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Most heap layers that an image may have: each is a file that is mapped at every load.
pub const MAX_LAYERS: usize = 16;

/// Where a program is frozen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FreezePoint {
    /// Where it first reads its standard input, or waits for it.
    Stdin,
    /// When its initialisation is done: behind its `_initialize`, or behind the export that was named, if it has one.
    Init,
    /// Where it first calls this import.
    Import {
        /// The module from which it is imported.
        module: String,
        /// Its name there.
        name: String,
    },
}

impl fmt::Display for FreezePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("stdin"),
            Self::Init => f.write_str("init"),
            Self::Import { module, name } => write!(f, "import:{module}.{name}"),
        }
    }
}

impl FromStr for FreezePoint {
    type Err = String;

    /// Reads `stdin`, `init` or `import:MODULE.NAME`; the name is what follows the last dot.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdin" => return Ok(Self::Stdin),
            "init" => return Ok(Self::Init),
            _ => {}
        }
        let import = text.strip_prefix("import:").and_then(|import| import.rsplit_once('.'));
        match import.filter(|(module, name)| !module.is_empty() && !name.is_empty()) {
            Some((module, name)) => Ok(Self::Import { module: module.to_owned(), name: name.to_owned() }),
            None => Err(format!("`{}` is none of stdin, init, import:MODULE.NAME", text.escape_default())),
        }
    }
}

impl Serialize for FreezePoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FreezePoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The frozen state of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Frozen {
    /// Where the program was stopped.
    pub point: FreezePoint,
    /// The heap snapshots, each a layer over the one before. A component has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Digest>,
    /// Of a component: the component that it became when it was initialised, whose code the image has. It has its state in itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<Digest>,
    /// Environment variables that were absent when the program was frozen, and that each call may set.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub late_env: BTreeSet<String>,
    /// The record of what the program learned from outside before it was frozen.
    pub record: Digest,
    /// What stays the same in every call and might better not, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub risks: Vec<String>,
}

impl Frozen {
    /// As compact JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Text, digests and lists of them: nothing that JSON can't say.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the JSON.
    ///
    /// # Errors
    /// In words.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lead_back() {
        let import = FreezePoint::Import { module: "a.b".into(), name: "c".into() };
        for point in [FreezePoint::Stdin, FreezePoint::Init, import] {
            assert_eq!(point.to_string().parse(), Ok(point));
        }
        for junk in ["", "exit", "import:", "import:a", "import:.a", "import:a."] {
            assert!(junk.parse::<FreezePoint>().is_err(), "{junk}");
        }
    }
}
