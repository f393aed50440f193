//! Resume objects: the functions through which frozen programs wake.

use crate::error::Error;
use crate::module::Module;
use crate::registry::TEXTS;
use preheat_image::Digest;
use preheat_image::native::NativeCode;
use preheat_loader::TrustedCode;
use preheat_loader::map::MappedCode;
use std::sync::Arc;

/// A resume object of a module. Cheap to clone; programs that were frozen at the same calls share it.
#[derive(Debug, Clone)]
pub struct ResumeCode {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    module: Module,
    code: Box<MappedCode>,
    digest: Digest,
    registered: usize,
}

impl Inner {
    fn load(module: &Module, code: TrustedCode) -> Result<Self, Error> {
        if code.engine() != "native" {
            return Err(Error::Code(format!("a resume object of the engine {}", code.engine())));
        }
        let digest = code.file().artefact().digest;
        let code = Box::new(MappedCode::map(code)?);
        let native = code.native();
        let resume = native.resume.as_ref().ok_or_else(|| Error::Code("a code object that is no resume object".into()))?;
        if resume.base != module.digest() {
            let (of, other) = (resume.base, module.digest());
            return Err(Error::Code(format!("a resume object for the code object {of}, not {other}")));
        }
        let cpu = module.engine().cpu();
        if native.object.cpu > cpu {
            return Err(Error::Code(format!("a resume object for {}, but this CPU is {}", native.object.cpu.name(), cpu.name())));
        }
        let text = code.text();
        let registered = TEXTS.add(&text, &raw const *code).ok_or_else(|| Error::Limit("a million modules in one process".into()))?;
        Ok(Self { module: module.clone(), code, digest, registered })
    }
}

impl ResumeCode {
    /// Maps a resume object of `module`.
    ///
    /// # Errors
    /// When it is none, or that of another code object, is damaged or needs another CPU, or the operating system refuses.
    pub fn load(module: &Module, code: TrustedCode) -> Result<Self, Error> {
        Ok(Self { inner: Arc::new(Inner::load(module, code)?) })
    }

    /// The same, or what `module`'s engine loaded of the same resume object in this way, if somebody still has it.
    ///
    /// # Errors
    /// As [`ResumeCode::load`].
    pub fn shared(module: &Module, code: TrustedCode) -> Result<Self, Error> {
        let digest = code.file().artefact().digest;
        let native = code.engine() == "native";
        let fits = |inner: &Inner| native && inner.module.is(module);
        Ok(Self { inner: module.engine().sharing().resumes.get(digest, fits, || Inner::load(module, code))? })
    }

    /// The module whose functions it resumes.
    #[must_use]
    pub fn module(&self) -> &Module {
        &self.inner.module
    }

    /// Digest of the resume object.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }

    pub(crate) fn code(&self) -> &MappedCode {
        &self.inner.code
    }

    pub(crate) fn native(&self) -> &NativeCode<'_> {
        self.inner.code.native()
    }

    /// The address of a place in its text.
    pub(crate) fn text_address(&self, offset: u32) -> Option<u64> {
        let text = self.inner.code.text();
        let address = (text.start as u64).checked_add(u64::from(offset))?;
        (address < text.end as u64).then_some(address)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // No instance that runs in it is left: they would have it.
        TEXTS.remove(self.registered);
    }
}
