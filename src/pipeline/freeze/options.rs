//! How a function is to be frozen: what the builder is told.

use crate::pipeline::json;
use preheat_call::Directory;
use preheat_image::Digest;
use preheat_image::frozen::FreezePoint;
use preheat_native_wasi::FreezeLimits;
use serde::Serialize;
use std::collections::BTreeSet;

/// How a function is frozen.
#[derive(Debug, Clone)]
#[must_use]
pub struct Freeze {
    pub(in crate::pipeline) point: FreezePoint,
    pub(in crate::pipeline) init_export: Option<String>,
    pub(in crate::pipeline) dirs: Vec<Directory>,
    pub(in crate::pipeline) late_env: BTreeSet<String>,
    pub(in crate::pipeline) wake_dir: bool,
    pub(in crate::pipeline) allow_frozen_random: bool,
    pub(in crate::pipeline) deny: BTreeSet<Baked>,
    pub(in crate::pipeline) limits: FreezeLimits,
    pub(in crate::pipeline) trial_input: Vec<u8>,
    pub(in crate::pipeline) warmup: Vec<Vec<u8>>,
    pub(in crate::pipeline) base: Option<Digest>,
    pub(in crate::pipeline) base_input: Option<Vec<u8>>,
}

/// What can be baked into a frozen image, and be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baked {
    /// What a clock showed.
    Clock,
    /// Environment variables.
    Env,
    /// What was in files and directories.
    Files,
    /// Random numbers.
    Random,
    /// Output that was written before the freeze.
    Output,
}

impl Baked {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Clock, Self::Env, Self::Files, Self::Random, Self::Output];

    /// Its name in commands and keys.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Env => "env",
            Self::Files => "files",
            Self::Random => "random",
            Self::Output => "output",
        }
    }
}

impl std::str::FromStr for Baked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|baked| baked.name() == text)
            .ok_or_else(|| format!("`{text}` is none of clock, env, files, random, output"))
    }
}

impl Freeze {
    /// Freezes at a point, with nothing granted.
    pub fn at(point: FreezePoint) -> Self {
        Self {
            point,
            init_export: None,
            dirs: Vec::new(),
            late_env: BTreeSet::new(),
            wake_dir: false,
            allow_frozen_random: false,
            deny: BTreeSet::new(),
            limits: FreezeLimits::default(),
            trial_input: Vec::new(),
            warmup: Vec::new(),
            base: None,
            base_input: None,
        }
    }

    /// Makes the heap a layer over that of another frozen image of the same module: only pages that differ from its pages are kept.
    pub fn over(mut self, image: Digest) -> Self {
        self.base = Some(image);
        self
    }

    /// Does not begin the program, but wakes that of [`Freeze::over`], which was frozen where it reads its standard input, lets it read this,
    /// and freezes it where it wants more. Arguments and environment are those of the other image.
    pub fn base_input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.base_input = Some(input.into());
        self
    }

    /// For [`FreezePoint::Init`]: the export to run instead of `_initialize` or `wizer-initialize`.
    pub fn init_export(mut self, name: impl Into<String>) -> Self {
        self.init_export = Some(name.into());
        self
    }

    /// A directory that the program sees while it is frozen. Each call has to grant one under the same name in the guest.
    pub fn dir(mut self, directory: Directory) -> Self {
        self.dirs.push(directory);
        self
    }

    /// An environment variable that is absent while building, and that each call may set. The program finds it in `/preheat/env`.
    pub fn late_env(mut self, name: impl Into<String>) -> Self {
        self.late_env.insert(name.into());
        self
    }

    /// Gives the program the directory `/preheat`, from which it can get random bytes and late variables after waking.
    pub fn wake_dir(mut self, wanted: bool) -> Self {
        self.wake_dir = wanted;
        self
    }

    /// Freezes even a program that drew random bytes and draws none after waking.
    pub fn allow_frozen_random(mut self, allowed: bool) -> Self {
        self.allow_frozen_random = allowed;
        self
    }

    /// Refuses to freeze a program into which this would be baked.
    pub fn deny(mut self, baked: impl IntoIterator<Item = Baked>) -> Self {
        self.deny.extend(baked);
        self
    }

    /// What the program may take until it is frozen.
    pub fn limits(mut self, limits: FreezeLimits) -> Self {
        self.limits = limits;
        self
    }

    /// A request as there will be many: the frozen program is woken with it once, and the image keeps which pages of its memories it wrote, so that slots
    /// which are made ahead have them. Of several requests the pages count that at least half of them wrote.
    pub fn warmup_request(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.warmup.push(input.into());
        self
    }

    /// What a trial call reads, where it is to be seen whether the program draws random bytes anew.
    pub fn trial_input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.trial_input = input.into();
        self
    }

    /// All that can change what comes out, in canonical JSON.
    pub(in crate::pipeline) fn declared(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Declared<'a> {
            point: &'a FreezePoint,
            init_export: &'a Option<String>,
            dirs: Vec<(&'a str, bool)>,
            late_env: &'a BTreeSet<String>,
            wake_dir: bool,
            allow_frozen_random: bool,
            deny: &'a BTreeSet<Baked>,
            trial_input: Digest,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            warmup: Vec<Digest>,
            #[serde(skip_serializing_if = "Option::is_none")]
            base: Option<Digest>,
            #[serde(skip_serializing_if = "Option::is_none")]
            base_input: Option<Digest>,
        }
        json(&Declared {
            point: &self.point,
            init_export: &self.init_export,
            dirs: self.dirs.iter().map(|dir| (dir.guest.as_str(), dir.writable)).collect(),
            late_env: &self.late_env,
            wake_dir: self.has_wake_dir(),
            allow_frozen_random: self.allow_frozen_random,
            deny: &self.deny,
            trial_input: Digest::of(&self.trial_input),
            warmup: self.warmup.iter().map(|input| Digest::of(input)).collect(),
            base: self.base,
            base_input: self.base_input.as_deref().map(Digest::of),
        })
    }

    pub(super) fn has_wake_dir(&self) -> bool {
        self.wake_dir || !self.late_env.is_empty()
    }
}
