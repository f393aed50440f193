//! Adding contributions up, one at a time.

use super::encode::Encoded;
use super::sums::{Scale, Sums, sum};
use super::weights::Planned;
use super::{
    BodyDigest, Contribution, ContributionId, FunctionProfile, FunctionSummary, Method, Plan, Profile, ProfileError, Provenance,
    ShapeDigest, SiteKind, Summary, check,
};
use crate::Digest;
use std::collections::BTreeMap;

/// What is really in the module, from whoever has read it. An evaluator that knows it leaves out what contributors made up.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// How many functions the module has, imported ones included.
    pub functions: u32,
    /// Those that it defines, by index.
    pub bodies: BTreeMap<u32, KnownFunction>,
}

/// A function that is in the module.
#[derive(Debug, Clone)]
pub struct KnownFunction {
    /// Which body it has.
    pub body: BodyDigest,
    /// Which shape its body has.
    pub shape: ShapeDigest,
    /// How many bytes its body has; samples are below.
    pub size: u32,
    /// The places in it at which something may be counted, ordered by offset.
    pub sites: Vec<(u32, SiteKind)>,
}

impl KnownFunction {
    fn has(&self, offset: u32, kind: SiteKind) -> bool {
        match kind {
            SiteKind::Samples => offset < self.size,
            _ => self.sites.binary_search(&(offset, kind)).is_ok(),
        }
    }
}

/// Adds contributions up, in memory that grows with the module and not with how many there are: beside the sums it keeps some 100 bytes for each
/// contribution of the plan. In whatever order they come, and however often, the summary is the same.
///
/// Each contribution is brought to the same sum of counts, then multiplied by its share of the weight: who sends large numbers has no more say
/// than who sends small ones. A count that is not 0 stays at least 1. Where contributions contradict each other, about the digests of a function
/// or the kind of a site, those that weigh more are believed, and the others left out.
pub struct Evaluator {
    source: Digest,
    planned: BTreeMap<ContributionId, Planned>,
    /// Which contributors have added something.
    contributors: Vec<bool>,
    known: Option<Known>,
    sums: Sums,
    provenance: Provenance,
    failed: Option<ProfileError>,
}

impl Evaluator {
    /// An evaluator of what is in `plan`, for the module `source`.
    #[must_use]
    pub fn new(source: Digest, plan: Plan) -> Self {
        let (planned, contributors) = plan.shares();
        Self {
            source,
            planned,
            contributors: vec![false; contributors],
            known: None,
            sums: Sums::default(),
            provenance: Provenance { oldest: u64::MAX, ..Provenance::default() },
            failed: None,
        }
    }

    /// Leaves out functions that the module does not have or that have other digests, sites that are not there, and targets that can't be.
    /// Without this, somebody who makes up enough of them brings the evaluation to its limit.
    #[must_use]
    pub fn with_known(mut self, known: Known) -> Self {
        self.known = Some(known);
        self
    }

    /// Adds a contribution. One that was added already, and one that weighs nothing, changes nothing.
    ///
    /// # Errors
    /// [`ProfileError::Invalid`] when it is none that a profile may have, [`ProfileError::NotPlanned`] when the plan does not have it, and
    /// [`ProfileError::TooMuch`] when all that were added speak of more places than an evaluator keeps; then there will be no summary.
    pub fn add(&mut self, contribution: &Contribution) -> Result<(), ProfileError> {
        check::contribution(contribution).map_err(ProfileError::Invalid)?;
        self.add_as(contribution.id(), contribution)
    }

    /// Adds all contributions of a profile.
    ///
    /// # Errors
    /// As [`Self::add`], and [`ProfileError::OtherSource`] when it is of another module.
    pub fn add_profile(&mut self, profile: &Profile) -> Result<(), ProfileError> {
        if profile.source() != self.source {
            return Err(ProfileError::OtherSource { one: self.source, other: profile.source() });
        }
        profile.contributions().iter().try_for_each(|(id, contribution)| self.add_as(*id, contribution))
    }

    /// Adds a contribution out of its encoding, one function at a time: that takes no more memory than the sums and one function. `id` is what the
    /// plan calls it, which need not be its own: who keeps contributions may have another name for each, and put what he knows into the header.
    ///
    /// # Errors
    /// As [`Self::add`]. What is no contribution adds nothing.
    pub fn add_encoded(&mut self, id: ContributionId, encoded: &Encoded<'_>) -> Result<(), ProfileError> {
        // All of it is read before any of it counts.
        let (mut all, mut knows_firsts) = (0, false);
        for function in encoded.functions() {
            let function = function.map_err(|error| ProfileError::Invalid(error.to_string()))?;
            all += sum(&function);
            knows_firsts |= function.first.is_some();
        }
        let Some(share) = self.begin(id, encoded.method())? else { return Ok(()) };
        let scale = self.scale(share, all, knows_firsts);
        encoded.functions().flatten().try_for_each(|function| self.add_function(scale, &function))
    }

    /// Adds a contribution of a profile, which therefore is checked and has this id.
    pub(super) fn add_as(&mut self, id: ContributionId, contribution: &Contribution) -> Result<(), ProfileError> {
        let Some(share) = self.begin(id, contribution.method)? else { return Ok(()) };
        let knows_firsts = contribution.functions.iter().any(|function| function.first.is_some());
        let scale = self.scale(share, contribution.functions.iter().map(sum).sum(), knows_firsts);
        contribution.functions.iter().try_for_each(|function| self.add_function(scale, function))
    }

    /// Notes that a contribution is added. Its share, if there is anything to add.
    fn begin(&mut self, id: ContributionId, method: Method) -> Result<Option<u64>, ProfileError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let planned = self.planned.get_mut(&id).ok_or(ProfileError::NotPlanned(id))?;
        if planned.share == 0 || std::mem::replace(&mut planned.added, true) {
            return Ok(None);
        }
        let provenance = &mut self.provenance;
        provenance.contributions += 1;
        if let Some(seen) = self.contributors.get_mut(planned.contributor) {
            provenance.contributors += u32::from(!std::mem::replace(seen, true));
        }
        provenance.calls = provenance.calls.saturating_add(planned.calls);
        if method == Method::Counted {
            provenance.counted = provenance.counted.saturating_add(planned.calls);
        }
        provenance.oldest = provenance.oldest.min(planned.at);
        provenance.newest = provenance.newest.max(planned.at);
        Ok(Some(planned.share))
    }

    fn scale(&mut self, share: u64, all: u128, knows_firsts: bool) -> Scale {
        let scale = Scale::new(share, all);
        if knows_firsts {
            self.sums.count_firsts(scale);
        }
        scale
    }

    fn add_function(&mut self, scale: Scale, function: &FunctionProfile) -> Result<(), ProfileError> {
        let added = add_function(&mut self.sums, self.known.as_ref(), scale, function);
        if let Err(failed) = &added {
            self.failed = Some(failed.clone());
        }
        added
    }

    /// What all that were added say together.
    ///
    /// # Errors
    /// [`ProfileError::TooMuch`] when that was too much.
    pub fn finish(self) -> Result<Summary, ProfileError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let functions: BTreeMap<u32, FunctionSummary> = self.sums.finish();
        let mut provenance = self.provenance;
        provenance.oldest = provenance.oldest.min(provenance.newest);
        Summary::new(self.source, provenance, functions)
    }
}

fn add_function(sums: &mut Sums, known: Option<&Known>, scale: Scale, function: &FunctionProfile) -> Result<(), ProfileError> {
    let Some(known) = known else {
        return sums.add(scale, function, |_, _| true, |_| true);
    };
    match known.bodies.get(&function.index) {
        Some(body) if body.body == function.body && body.shape == function.shape => {
            sums.add(scale, function, |offset, kind| body.has(offset, kind), |target| target < known.functions)
        }
        _ => Ok(()),
    }
}
