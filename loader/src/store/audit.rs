//! What revocations and ends of trust mean for what is in the store.

use super::Store;
use crate::StoreError;
use crate::trust::{Refusal, TrustPolicy};
use preheat_image::record::Record;
use preheat_image::statement::Kind;
use preheat_image::{Digest, Manifest, media};

/// An image, or a code object that no image of the store has, that is revoked or whose builder's time is over.
#[derive(Debug, Clone)]
pub struct Affected {
    /// The digest of the manifest or of the code object.
    pub digest: Digest,
    /// What it is.
    pub kind: Kind,
    /// The local names that lead to it.
    pub names: Vec<String>,
    /// Why it is affected. For an image that still loads, why its code should not be used.
    pub refusal: Refusal,
    /// The part that is affected, where that is not the whole image: code that somebody made who is revoked, and that a trusted builder
    /// took into this image before that was known.
    pub part: Option<Digest>,
    /// For an image: whether it could be built again from this store, and where not, why.
    pub rebuild: Result<(), String>,
}

/// What an audit found.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    /// How many images were looked at.
    pub images: usize,
    /// How many code objects were looked at.
    pub objects: usize,
    /// How many of both nobody vouches for whom the policy knows. They do not load, but nothing says that they are bad.
    pub unknown: usize,
    /// What is affected: images first, then code objects of no affected image.
    pub affected: Vec<Affected>,
}

/// Whether something was good once and is not any more, other than what nobody ever trusted.
fn is_revoked(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::RevokedKey(_)
            | Refusal::RevokedBuild(_)
            | Refusal::RevokedSource(_)
            | Refusal::RevokedBlob(_)
            | Refusal::Expired { .. }
            | Refusal::RootExpired { .. }
            | Refusal::StaleRevocations { .. }
    )
}

impl Store {
    /// Looks at everything that statements in this store cover, under `policy` at `now` (seconds since 1970).
    ///
    /// # Errors
    /// When the store can't be read. What is damaged is passed over: it does not load, and `verify` finds it.
    pub fn audit(&self, policy: &TrustPolicy, now: u64) -> Result<Audit, StoreError> {
        let mut audit = Audit::default();
        let names = self.names()?;
        let mut objects = Vec::new();
        let mut covered = Vec::new();
        for (digest, _) in self.digests_in("entries")? {
            let Ok(Some(record)) = self.entry(&digest) else { continue };
            let is = |kind| record.statements.iter().any(|signed| signed.kind == kind && signed.covers(&digest));
            if is(Kind::Image) {
                audit.images += 1;
                let Some((refusal, part, manifest)) = self.audit_image(policy, now, &record, &mut audit.unknown) else { continue };
                covered.extend(manifest.iter().flat_map(|manifest| manifest.blobs()).map(|blob| blob.digest));
                let names = names.iter().filter(|name| name.digest == digest).map(|name| name.name.clone()).collect();
                let rebuild = self.can_rebuild(policy, manifest.as_ref(), &refusal);
                audit.affected.push(Affected { digest, kind: Kind::Image, names, refusal, part, rebuild });
            } else if is(Kind::CodeObject) {
                audit.objects += 1;
                match policy.choose_at(&record, Kind::CodeObject, now) {
                    Err(refusal) if is_revoked(&refusal) => objects.push((digest, refusal)),
                    Err(_) => audit.unknown += 1,
                    Ok(_) => {}
                }
            }
        }
        for (digest, refusal) in objects.into_iter().filter(|(digest, _)| !covered.contains(digest)) {
            let rebuild = Err("code is made again with the images that need it".to_owned());
            audit.affected.push(Affected { digest, kind: Kind::CodeObject, names: Vec::new(), refusal, part: None, rebuild });
        }
        Ok(audit)
    }

    /// Why an image is affected, in which part, and its manifest if that can be read.
    fn audit_image(
        &self,
        policy: &TrustPolicy,
        now: u64,
        record: &Record,
        unknown: &mut usize,
    ) -> Option<(Refusal, Option<Digest>, Option<Manifest>)> {
        let bytes = self.read_blob(&record.subject, preheat_image::manifest::MAX_SIZE).ok();
        let manifest = bytes.and_then(|bytes| Manifest::parse(&bytes).ok());
        if policy.choose_at(record, Kind::Image, now).is_err() {
            // Of several reasons the one that leaves most trust: somebody who is still trusted says what the image was built from.
            let signed = record.statements.iter().filter(|signed| signed.kind == Kind::Image && signed.covers(&record.subject));
            let refusals = signed.filter_map(|signed| policy.judge_at(signed, now).err()).filter(is_revoked);
            let Some(refusal) = refusals.min_by_key(|refusal| matches!(refusal, Refusal::RevokedKey(_))) else {
                *unknown += 1;
                return None;
            };
            return Some((refusal, None, manifest));
        }
        let manifest = manifest?;
        let revoked = manifest.blobs().find(|part| policy.revokes_blob(&part.digest)).map(|part| part.digest);
        if let Some(part) = revoked {
            return Some((Refusal::RevokedBlob(part), Some(part), Some(manifest)));
        }
        // A builder takes code that is there already. If all who vouched for that are revoked by now, it vouches for theirs.
        let bad = manifest.artefacts.iter().filter(|artefact| artefact.is_code()).find_map(|artefact| {
            let record = self.entry(&artefact.digest).ok()??;
            let refusal = policy.choose_at(&record, Kind::CodeObject, now).err()?;
            let revoked = matches!(refusal, Refusal::RevokedKey(_) | Refusal::RevokedBuild(_) | Refusal::RevokedSource(_));
            revoked.then_some((refusal, artefact.digest))
        });
        bad.map(|(refusal, part)| (refusal, Some(part), Some(manifest)))
    }

    fn can_rebuild(&self, policy: &TrustPolicy, manifest: Option<&Manifest>, refusal: &Refusal) -> Result<(), String> {
        let manifest = manifest.ok_or("its manifest is not here whole; run `preheat verify`")?;
        if matches!(refusal, Refusal::RootExpired { .. } | Refusal::StaleRevocations { .. }) {
            return Err("it need not be: `preheat trust update` gets what is missing".into());
        }
        let source = manifest.source.as_ref().ok_or("it was not built from Wasm")?;
        if policy.revokes_source(&source.digest) {
            return Err("its source is revoked".into());
        }
        if self.blob_size(&source.digest) != Some(source.size) {
            return Err("its source was not kept: give it with `preheat rebuild --source FILE`, or build with `--keep-source`".into());
        }
        if policy.revokes_blob(&source.digest) {
            return Err("the blob with its source is revoked".into());
        }
        Ok(())
    }

    /// The Wasm bytes from which an image was built, where this store has them, by their digest.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Damaged`].
    pub fn kept_source(&self, manifest: &Manifest) -> Result<Vec<u8>, StoreError> {
        let missing = StoreError::Missing(Digest::ZERO);
        let source = manifest.source.as_ref().filter(|source| source.media_type == media::WASM).ok_or(missing)?;
        self.read_blob(&source.digest, usize::try_from(source.size).unwrap_or(usize::MAX))
    }
}
