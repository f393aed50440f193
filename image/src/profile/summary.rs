//! What the contributions of a profile say together: what a compiler reads.

use super::encode::{MIN_FUNCTION, header, put_function, read_function, read_header, read_index};
use super::wire::{Ascending, Reader, put};
use super::{
    BodyDigest, FunctionProfile, MAX_FUNCTIONS, MAX_SITES, MAX_SIZE, ProfileError, ShapeDigest, Site, SiteCounts, SiteKind, check,
};
use crate::{Digest, FormatError};
use std::collections::BTreeMap;

const FORMAT: &str = "profile summary";
const MAGIC: [u8; 8] = *b"PREHPSUM";
const VERSION: u32 = 1;

/// An evaluated profile. Its counts are in proportion to each other, but not what anybody counted: what the heaviest contributor saw most is the
/// largest, and all of them together are about 2^48, or 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    source: Digest,
    provenance: Provenance,
    functions: BTreeMap<u32, FunctionSummary>,
}

/// Whom a summary is from. All of it is as they claim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Provenance {
    /// How many contributors.
    pub contributors: u32,
    /// How many contributions, of those that weigh anything.
    pub contributions: u32,
    /// How many requests they cover.
    pub calls: u64,
    /// How many of these requests were counted; the others were sampled.
    pub counted: u64,
    /// When the oldest was made, in seconds since 1970.
    pub oldest: u64,
    /// When the newest was made, in seconds since 1970.
    pub newest: u64,
}

/// What is known of one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionSummary {
    /// Which body it has.
    pub body: BodyDigest,
    /// Which shape its body has.
    pub shape: ShapeDigest,
    /// As the how-manieth function it was called for the first time, of those that most runs call; 0 for the first. None for the others.
    pub first: Option<u32>,
    /// How often it was called.
    pub entries: u64,
    /// The places in it at which something was counted, ordered by offset. Each is there once.
    pub sites: Vec<Site>,
    /// Offsets at which samples were taken, in ascending order, and how many.
    pub samples: Vec<(u32, u64)>,
}

impl FunctionSummary {
    /// About how many blocks of it ran: how often it was called, and how often control was seen at any place in it.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let sites = self.sites.iter().map(|site| site.counts.total());
        let samples = self.samples.iter().map(|sample| sample.1);
        sites.chain(samples).fold(self.entries, u64::saturating_add)
    }

    /// What was counted at this offset.
    #[must_use]
    pub fn site(&self, offset: u32) -> Option<&SiteCounts> {
        let place = self.sites.binary_search_by_key(&offset, |site| site.offset).ok()?;
        self.sites.get(place).map(|site| &site.counts)
    }

    fn check(&self) -> Result<(), String> {
        check::sites(&self.sites)?;
        if self.sites.iter().any(|site| site.counts.kind() == SiteKind::Samples) {
            return Err("samples among what was counted".into());
        }
        if self.samples.len() > MAX_SITES || !self.samples.is_sorted_by(|one, next| one.0 < next.0) {
            return Err("too many samples, or out of order".into());
        }
        Ok(())
    }
}

impl Summary {
    /// A summary of these functions.
    ///
    /// # Errors
    /// [`ProfileError::Invalid`] when something in it is not as its field's description says; [`ProfileError::TooMuch`] when it is larger than a
    /// summary may be.
    pub fn new(source: Digest, provenance: Provenance, functions: BTreeMap<u32, FunctionSummary>) -> Result<Self, ProfileError> {
        let summary = Self { source, provenance, functions };
        summary.check().map_err(ProfileError::Invalid)?;
        if summary.to_bytes().len() > MAX_SIZE {
            return Err(ProfileError::TooMuch(format!("a summary of more than {MAX_SIZE} bytes")));
        }
        Ok(summary)
    }

    fn check(&self) -> Result<(), String> {
        let Provenance { contributors, contributions, calls, counted, oldest, newest } = self.provenance;
        if contributors > contributions || counted > calls || oldest > newest {
            return Err("more contributors than contributions, more counted than there was, or the oldest after the newest".into());
        }
        let mut all = 0u64;
        for (index, function) in &self.functions {
            if *index >= MAX_FUNCTIONS {
                return Err(format!("a function with the index {index}, which is not below {MAX_FUNCTIONS}"));
            }
            function.check().map_err(|what| format!("function {index}: {what}"))?;
            // A weight that does not fit is the largest of 64 bits, to which nothing more can be added.
            let sum = all.checked_add(function.weight()).filter(|sum| *sum < u64::MAX);
            all = sum.ok_or("its counts are more than 64 bits together")?;
        }
        Ok(())
    }

    /// The module's digest.
    #[must_use]
    pub fn source(&self) -> Digest {
        self.source
    }

    /// Whom it is from.
    #[must_use]
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// The functions of which something is known, by index.
    #[must_use]
    pub fn functions(&self) -> &BTreeMap<u32, FunctionSummary> {
        &self.functions
    }

    /// What is known of this function.
    #[must_use]
    pub fn function(&self, index: u32) -> Option<&FunctionSummary> {
        self.functions.get(&index)
    }

    /// About how many blocks of this function ran, see [`FunctionSummary::weight`]; 0 if nothing is known of it.
    #[must_use]
    pub fn weight(&self, index: u32) -> u64 {
        self.functions.get(&index).map_or(0, FunctionSummary::weight)
    }

    /// The weight of all functions.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.functions.values().map(FunctionSummary::weight).sum()
    }

    /// Which share of the weight each function has that has any, the hottest first; of equals the one with the smaller index.
    #[must_use]
    pub fn shares(&self) -> Vec<(u32, f64)> {
        let total = self.total() as f64;
        let mut weights: Vec<(u32, u64)> = self.functions.iter().map(|(index, function)| (*index, function.weight())).collect();
        weights.retain(|(_, weight)| *weight > 0);
        weights.sort_by_key(|(index, weight)| (std::cmp::Reverse(*weight), *index));
        weights.into_iter().map(|(index, weight)| (index, weight as f64 / total)).collect()
    }

    /// How many functions were seen to run, of those of which something is known. A contribution may well name functions that it never saw.
    #[must_use]
    pub fn coverage(&self) -> (usize, usize) {
        (self.functions.values().filter(|function| function.weight() > 0).count(), self.functions.len())
    }

    /// The bytes of the summary. The same summary has the same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = header(MAGIC, VERSION, &self.source);
        let Provenance { contributors, contributions, calls, counted, oldest, newest } = self.provenance;
        for number in [contributors.into(), contributions.into(), calls, counted, oldest, newest] {
            put(&mut bytes, number);
        }
        put(&mut bytes, self.functions.len() as u64);
        let mut indices = Ascending::new();
        for (index, function) in &self.functions {
            put(&mut bytes, indices.distance(*index));
            put_function(&mut bytes, &function.body, &function.shape, function.first, function.entries, &function.sites);
            put(&mut bytes, function.samples.len() as u64);
            let mut offsets = Ascending::new();
            for (offset, samples) in &function.samples {
                put(&mut bytes, offsets.distance(*offset));
                put(&mut bytes, *samples);
            }
        }
        bytes
    }

    /// What stands for the summary in a build key: the digest of its bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// Reads a summary.
    ///
    /// # Errors
    /// When the bytes are no summary of this version, say what none may say, or are not those that [`Self::to_bytes`] gives.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let (source, mut reader) = read_header(FORMAT, MAGIC, VERSION, bytes)?;
        let provenance = Provenance {
            contributors: reader.varint32()?,
            contributions: reader.varint32()?,
            calls: reader.varint()?,
            counted: reader.varint()?,
            oldest: reader.varint()?,
            newest: reader.varint()?,
        };
        let count = reader.count(MAX_FUNCTIONS as usize, MIN_FUNCTION + 1, "functions")?;
        let mut functions = BTreeMap::new();
        let mut indices = Ascending::new();
        for _ in 0..count {
            let index = read_index(&mut reader, &mut indices)?;
            let FunctionProfile { body, shape, first, entries, sites, .. } = read_function(&mut reader, index)?;
            let samples = read_samples(&mut reader)?;
            functions.insert(index, FunctionSummary { body, shape, first, entries, sites, samples });
        }
        reader.end()?;
        let summary = Self { source, provenance, functions };
        summary.check().map_err(|what| reader.damaged(what))?;
        Ok(summary)
    }
}

fn read_samples(reader: &mut Reader<'_>) -> Result<Vec<(u32, u64)>, FormatError> {
    let count = reader.count(MAX_SITES, 2, "samples")?;
    let mut samples = Vec::with_capacity(count);
    let mut offsets = Ascending::new();
    for _ in 0..count {
        let distance = reader.varint()?;
        let offset = offsets.number(distance).ok_or_else(|| reader.damaged("a sample at too large an offset"))?;
        samples.push((offset, reader.varint()?));
    }
    Ok(samples)
}
