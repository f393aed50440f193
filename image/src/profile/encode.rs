//! The bytes of a profile and of a contribution. `docs/image-format.md` specifies them.

use super::wire::{Ascending, Reader, put, put_bytes};
use super::{
    BodyDigest, Contribution, ContributionId, FunctionProfile, Header, MAX_ARMS, MAX_CONTRIBUTION_SIZE, MAX_CONTRIBUTIONS, MAX_CONTRIBUTOR,
    MAX_FUNCTIONS, MAX_ORIGIN, MAX_SITES, MAX_SIZE, MAX_TARGETS, Method, Profile, ShapeDigest, Site, SiteCounts, check,
};
use crate::{Digest, FormatError};

const FORMAT: &str = "profile";
const MAGIC: [u8; 8] = *b"PREHPROF";
const VERSION: u32 = 1;

/// Size of what a profile, or a summary, begins with: magic, version, source.
pub(super) const HEADER_SIZE: usize = 8 + 4 + 32;
/// Fewest bytes of a function: its index, two digests, as the how-manieth it was called, how often, how many sites it has.
pub(super) const MIN_FUNCTION: usize = 1 + 16 + 16 + 1 + 1 + 1;
/// Fewest bytes of a site: where and which kind, and a number.
const MIN_SITE: usize = 2;
/// Fewest bytes of a contribution: a contributor of one letter, and six numbers.
const MIN_CONTRIBUTION: usize = 7;

const COUNTED: u64 = 0;
const SAMPLED: u64 = 1;

const KIND_BITS: u32 = 3;
const REACHED: u64 = 0;
const BRANCH: u64 = 1;
const TABLE: u64 = 2;
const INDIRECT: u64 = 3;
const SAMPLES: u64 = 4;

/// The first bytes of a file.
pub(super) fn header(magic: [u8; 8], version: u32, source: &Digest) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_SIZE);
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(source.as_bytes());
    bytes
}

/// Reads the first bytes of a file.
pub(super) fn read_header<'a>(
    format: &'static str,
    magic: [u8; 8],
    version: u32,
    bytes: &'a [u8],
) -> Result<(Digest, Reader<'a>), FormatError> {
    if !bytes.starts_with(&magic) {
        return Err(FormatError::NotThisFormat { format, found: "no magic".into() });
    }
    let mut reader = Reader::new(format, bytes);
    if bytes.len() > MAX_SIZE {
        return Err(reader.damaged(format!("{} bytes, at most {MAX_SIZE} allowed", bytes.len())));
    }
    reader.take(magic.len())?;
    let found = u32::from_le_bytes(reader.array()?);
    if found != version {
        return Err(FormatError::Version { format, found, supported: version });
    }
    Ok((Digest::from_bytes(reader.array()?), reader))
}

/// The bytes of a contribution, of which its id is a digest.
pub(super) fn contribution(contribution: &Contribution) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, contribution.contributor.as_bytes());
    put(&mut bytes, contribution.at);
    match contribution.method {
        Method::Counted => put(&mut bytes, COUNTED),
        Method::Sampled { interval_us } => {
            put(&mut bytes, SAMPLED);
            put(&mut bytes, interval_us.into());
        }
    }
    put_bytes(&mut bytes, contribution.origin.as_bytes());
    put(&mut bytes, contribution.calls);
    put(&mut bytes, contribution.functions.len() as u64);
    let mut indices = Ascending::new();
    for function in &contribution.functions {
        put(&mut bytes, indices.distance(function.index));
        put_function(&mut bytes, &function.body, &function.shape, function.first, function.entries, &function.sites);
    }
    bytes
}

/// Appends a function, all but its index.
pub(super) fn put_function(bytes: &mut Vec<u8>, body: &BodyDigest, shape: &ShapeDigest, first: Option<u32>, entries: u64, sites: &[Site]) {
    bytes.extend_from_slice(body.as_bytes());
    bytes.extend_from_slice(shape.as_bytes());
    put(bytes, first.map_or(0, |first| u64::from(first) + 1));
    put(bytes, entries);
    put_sites(bytes, sites);
}

/// Appends how many sites there are, and the sites.
fn put_sites(bytes: &mut Vec<u8>, sites: &[Site]) {
    put(bytes, sites.len() as u64);
    let mut offsets = Ascending::new();
    for site in sites {
        let mut place = |kind| put(bytes, offsets.distance(site.offset) << KIND_BITS | kind);
        match &site.counts {
            SiteCounts::Reached(reached) => {
                place(REACHED);
                put(bytes, *reached);
            }
            SiteCounts::Branch { reached, taken } => {
                place(BRANCH);
                put(bytes, *reached);
                put(bytes, *taken);
            }
            SiteCounts::Table { arms } => {
                place(TABLE);
                put(bytes, arms.len() as u64);
                arms.iter().for_each(|arm| put(bytes, *arm));
            }
            SiteCounts::Indirect { reached, targets } => {
                place(INDIRECT);
                put(bytes, *reached);
                put(bytes, targets.len() as u64);
                for (index, count) in targets {
                    put(bytes, (*index).into());
                    put(bytes, *count);
                }
            }
            SiteCounts::Samples(samples) => {
                place(SAMPLES);
                put(bytes, *samples);
            }
        }
    }
}

/// What stands in front of a contribution's functions.
fn read_head(reader: &mut Reader<'_>) -> Result<Contribution, FormatError> {
    let contributor = reader.text(MAX_CONTRIBUTOR, "bytes of a contributor's name")?;
    let at = reader.varint()?;
    let method = match reader.varint()? {
        COUNTED => Method::Counted,
        SAMPLED => Method::Sampled { interval_us: reader.varint32()? },
        other => return Err(reader.damaged(format!("counts found in the way {other}, which is none"))),
    };
    let origin = reader.text(MAX_ORIGIN, "bytes of an origin")?;
    Ok(Contribution { contributor, at, method, origin, calls: reader.varint()?, functions: Vec::new() })
}

fn read_contribution(bytes: &[u8]) -> Result<Contribution, FormatError> {
    let encoded = Encoded::read(ContributionId::of(bytes), bytes)?;
    let mut functions = Vec::with_capacity(encoded.count);
    for function in encoded.functions() {
        functions.push(function?);
    }
    Ok(Contribution { functions, ..encoded.head })
}

/// A contribution as it is in a profile's bytes. Its header was read and checked; its functions are when somebody asks for them, one at a time, so that it
/// takes no more memory than its bytes, whatever is in them.
#[derive(Clone)]
pub struct Encoded<'a> {
    id: ContributionId,
    /// Without functions.
    head: Contribution,
    count: usize,
    rest: Reader<'a>,
}

impl<'a> Encoded<'a> {
    fn read(id: ContributionId, bytes: &'a [u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(FORMAT, bytes);
        let head = read_head(&mut reader)?;
        let count = reader.count(MAX_FUNCTIONS as usize, MIN_FUNCTION, "functions")?;
        check::contribution(&head).map_err(|what| reader.damaged(what))?;
        Ok(Self { id, head, count, rest: reader })
    }

    /// What it says of itself.
    #[must_use]
    pub fn header(&self) -> Header {
        Header::of(self.id, &self.head)
    }

    /// How its counts were found.
    #[must_use]
    pub fn method(&self) -> Method {
        self.head.method
    }

    /// Its functions, ordered by index. If something in it is wrong, an error is the last; without one, all of it is as it should be.
    pub fn functions(&self) -> impl Iterator<Item = Result<FunctionProfile, FormatError>> + use<'a> {
        let (mut reader, mut left, mut indices, mut ended) = (self.rest, self.count, Ascending::new(), false);
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let next = if left > 0 {
                left -= 1;
                next_function(&mut reader, &mut indices).map(Some)
            } else {
                reader.end().map(|()| None)
            };
            ended = !matches!(next, Ok(Some(_)));
            next.transpose()
        })
    }
}

fn next_function(reader: &mut Reader<'_>, indices: &mut Ascending) -> Result<FunctionProfile, FormatError> {
    let index = read_index(reader, indices)?;
    let function = read_function(reader, index)?;
    check::function(&function).map_err(|what| reader.damaged(what))?;
    Ok(function)
}

/// The index of the next function.
pub(super) fn read_index(reader: &mut Reader<'_>, indices: &mut Ascending) -> Result<u32, FormatError> {
    let distance = reader.varint()?;
    indices.number(distance).filter(|index| *index < MAX_FUNCTIONS).ok_or_else(|| reader.damaged("a function of too large an index"))
}

/// A function, all but its index.
pub(super) fn read_function(reader: &mut Reader<'_>, index: u32) -> Result<FunctionProfile, FormatError> {
    let (body, shape) = (BodyDigest::from_bytes(reader.array()?), ShapeDigest::from_bytes(reader.array()?));
    let first = reader.varint()?.checked_sub(1).map(u32::try_from).transpose();
    let first = first.map_err(|_| reader.damaged("a function that was called first as none can be"))?;
    Ok(FunctionProfile { index, body, shape, first, entries: reader.varint()?, sites: read_sites(reader)? })
}

fn read_sites(reader: &mut Reader<'_>) -> Result<Vec<Site>, FormatError> {
    let count = reader.count(MAX_SITES, MIN_SITE, "sites")?;
    let mut sites = Vec::with_capacity(count);
    let mut offsets = Ascending::new();
    for _ in 0..count {
        let place = reader.varint()?;
        let offset = offsets.number(place >> KIND_BITS).ok_or_else(|| reader.damaged("a site of too large an offset"))?;
        let counts = match place & ((1 << KIND_BITS) - 1) {
            REACHED => SiteCounts::Reached(reader.varint()?),
            BRANCH => SiteCounts::Branch { reached: reader.varint()?, taken: reader.varint()? },
            TABLE => {
                let count = reader.count(MAX_ARMS, 1, "arms")?;
                let mut arms = Vec::with_capacity(count);
                for _ in 0..count {
                    arms.push(reader.varint()?);
                }
                SiteCounts::Table { arms }
            }
            INDIRECT => {
                let reached = reader.varint()?;
                let count = reader.count(MAX_TARGETS, 2, "targets")?;
                let mut targets = Vec::with_capacity(count);
                for _ in 0..count {
                    targets.push((reader.varint32()?, reader.varint()?));
                }
                SiteCounts::Indirect { reached, targets }
            }
            SAMPLES => SiteCounts::Samples(reader.varint()?),
            other => return Err(reader.damaged(format!("a site of kind {other}, which is none"))),
        };
        sites.push(Site { offset, counts });
    }
    Ok(sites)
}

/// Calls `each` with the id and the encoding of each contribution.
fn for_each<'a>(bytes: &'a [u8], mut each: impl FnMut(ContributionId, &'a [u8]) -> Result<(), FormatError>) -> Result<Digest, FormatError> {
    let (source, mut reader) = read_header(FORMAT, MAGIC, VERSION, bytes)?;
    let count = reader.count(MAX_CONTRIBUTIONS, MIN_CONTRIBUTION + 1, "contributions")?;
    let mut last = None;
    for _ in 0..count {
        let len = reader.count(MAX_CONTRIBUTION_SIZE, 1, "bytes of a contribution")?;
        let encoding = reader.take(len)?;
        let id = ContributionId::of(encoding);
        if last.is_some_and(|last| last >= id) {
            return Err(reader.damaged("the contributions are out of order"));
        }
        last = Some(id);
        each(id, encoding)?;
    }
    reader.end()?;
    Ok(source)
}

impl Profile {
    /// The bytes of the profile. The same set of contributions has the same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = header(MAGIC, VERSION, &self.source);
        put(&mut bytes, self.contributions.len() as u64);
        for one in self.contributions.values() {
            put_bytes(&mut bytes, &contribution(one));
        }
        bytes
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// When the bytes are no profile of this version, say what no contribution may say, or are not those that [`Self::to_bytes`] gives.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut profile = Self::new(Digest::ZERO);
        profile.source = for_each(bytes, |id, encoding| {
            profile.contributions.insert(id, read_contribution(encoding)?);
            profile.size += super::wire::size_of_varint(encoding.len() as u64) + encoding.len();
            Ok(())
        })?;
        Ok(profile)
    }

    /// Reads of a profile its module and its contributions' headers; their functions can be read one at a time.
    ///
    /// # Errors
    /// When the bytes are no profile of this version, or a header says what it may not say.
    pub fn encoded(bytes: &[u8]) -> Result<(Digest, Vec<Encoded<'_>>), FormatError> {
        let mut contributions = Vec::new();
        let source = for_each(bytes, |id, encoding| {
            contributions.push(Encoded::read(id, encoding)?);
            Ok(())
        })?;
        Ok((source, contributions))
    }

    /// Reads of a profile only what a [`Plan`](super::Plan) needs: its module and its contributions' headers. What is behind a header is not looked at.
    ///
    /// # Errors
    /// When the bytes are no profile of this version, or a header says what it may not say.
    pub fn headers(bytes: &[u8]) -> Result<(Digest, Vec<Header>), FormatError> {
        let mut headers = Vec::new();
        let source = for_each(bytes, |id, encoding| {
            let mut reader = Reader::new(FORMAT, encoding);
            let head = read_head(&mut reader)?;
            check::contribution(&head).map_err(|what| reader.damaged(what))?;
            headers.push(Header::of(id, &head));
            Ok(())
        })?;
        Ok((source, headers))
    }
}
