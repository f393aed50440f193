//! Linking: what a module's imports are.

use crate::error::Error;
use crate::func::{Func, Kind};
use crate::host::{Caller, IntoFunc};
use crate::instance::{Extern, Imports, Instance};
use crate::instantiate::{check_import, instantiate};
use crate::module::Module;
use crate::store::{AsStore, AsStoreMut, Store};
use crate::types::FuncType;
use crate::value::Val;
use preheat_image::native::ExternKind;
use std::any::TypeId;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

/// Names for what modules may import into stores with data of type `T`.
#[derive(Debug)]
pub struct Linker<T> {
    modules: HashMap<String, HashMap<String, Extern>>,
    shadowing: bool,
    data: PhantomData<fn(T)>,
}

impl<T> Clone for Linker<T> {
    fn clone(&self) -> Self {
        Self { modules: self.modules.clone(), shadowing: self.shadowing, data: PhantomData }
    }
}

impl<T> Default for Linker<T> {
    fn default() -> Self {
        Self { modules: HashMap::new(), shadowing: false, data: PhantomData }
    }
}

impl<T: 'static> Linker<T> {
    /// A linker that knows no names.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether a name may be defined again; the last definition counts.
    pub fn allow_shadowing(&mut self, allow: bool) -> &mut Self {
        self.shadowing = allow;
        self
    }

    /// Defines a name. What belongs to a store can be linked in that store only.
    ///
    /// # Errors
    /// When the name is defined, or for a host function for stores with other data.
    pub fn define(&mut self, module: &str, name: &str, item: Extern) -> Result<&mut Self, Error> {
        if let Extern::Func(Func(Kind::Host(function))) = &item
            && !function.fits(TypeId::of::<T>())
        {
            return Err(Error::Type(format!("{module}::{name} is a host function for stores with other data")));
        }
        let names = self.modules.entry(module.to_owned()).or_default();
        if names.insert(name.to_owned(), item).is_some() && !self.shadowing {
            return Err(Error::Link(format!("{module}::{name} is defined twice")));
        }
        Ok(self)
    }

    /// Defines a host function.
    ///
    /// # Errors
    /// When the name is defined.
    pub fn func_wrap<Params, Results>(
        &mut self,
        module: &str,
        name: &str,
        function: impl IntoFunc<T, Params, Results>,
    ) -> Result<&mut Self, Error> {
        self.define(module, name, Extern::Func(Func::wrap(function)))
    }

    /// Defines a host function of any type; see [`Func::new`].
    ///
    /// # Errors
    /// When the name is defined.
    pub fn func_new(
        &mut self,
        module: &str,
        name: &str,
        ty: FuncType,
        function: impl Fn(&mut Caller<'_, T>, &[Val]) -> Result<Vec<Val>, Error> + Send + Sync + 'static,
    ) -> Result<&mut Self, Error> {
        self.define(module, name, Extern::Func(Func::new(ty, function)))
    }

    /// Defines all exports of an instance.
    ///
    /// # Errors
    /// When a name is defined.
    ///
    /// # Panics
    /// When the instance is of another store.
    pub fn instance(&mut self, store: impl AsStore, module: &str, instance: Instance) -> Result<&mut Self, Error> {
        for (name, item) in instance.exports(store) {
            self.define(module, &name, item)?;
        }
        Ok(self)
    }

    /// What a name stands for.
    #[must_use]
    pub fn get(&self, module: &str, name: &str) -> Option<&Extern> {
        self.modules.get(module)?.get(name)
    }

    /// Finds what the imports of `module` are, once for all its instances.
    ///
    /// # Errors
    /// When a name is not defined, or what it stands for is of another kind, or a host function has another type.
    pub fn instantiate_pre(&self, module: &Module) -> Result<InstancePre<T>, Error> {
        InstancePre::new(module, |from, name| Ok(self.get(from, name).cloned()))
    }

    /// Makes an instance of `module`.
    ///
    /// # Errors
    /// As [`Self::instantiate_pre`] and [`InstancePre::instantiate`].
    pub fn instantiate(&self, store: &mut Store<T>, module: &Module) -> Result<Instance, Error> {
        self.instantiate_pre(module)?.instantiate(store)
    }
}

/// A module whose imports were found.
#[derive(Debug)]
pub struct InstancePre<T> {
    module: Module,
    imports: Arc<Imports>,
    // The store of all imports that belong to one.
    store: Option<u64>,
    data: PhantomData<fn(T)>,
}

impl<T> Clone for InstancePre<T> {
    fn clone(&self) -> Self {
        Self { module: self.module.clone(), imports: self.imports.clone(), store: self.store, data: PhantomData }
    }
}

impl<T: 'static> InstancePre<T> {
    /// Finds what the imports of `module` are with `find`, which is asked for each by module and name.
    ///
    /// # Errors
    /// As [`Linker::instantiate_pre`], or what `find` says.
    pub fn new(module: &Module, mut find: impl FnMut(&str, &str) -> Result<Option<Extern>, Error>) -> Result<Self, Error> {
        let native = module.native();
        let mut imports = Imports::default();
        let mut store = None;
        for record in native.imports {
            let (from, name) = (native.string(record.module)?, native.string(record.name)?);
            let item = find(from, name)?.ok_or_else(|| Error::Link(format!("unknown import {from}::{name}")))?;
            let mut bind = |id: u64| match store.replace(id) {
                Some(other) if other != id => Err(Error::Link(format!("import {from}::{name} is of another store than those before"))),
                _ => Ok(()),
            };
            match (ExternKind::from_number(record.kind.get()), item) {
                (Some(ExternKind::Function), Extern::Func(func)) => {
                    match &func.0 {
                        Kind::Guest { store, .. } => bind(*store)?,
                        Kind::Host(function) => {
                            if !function.fits(TypeId::of::<T>()) {
                                return Err(Error::Type(format!("{from}::{name} is a host function for stores with other data")));
                            }
                            let expected = native.types.get(record.ty.get() as usize).map(|ty| native.signature(ty)).transpose()?;
                            let (params, results) = expected.unwrap_or_default();
                            let found = function.ty();
                            if expected.is_none() || !found.is(params, results) {
                                let expected = FuncType::of_numbers(params, results);
                                let what = format!("incompatible import type: {from}::{name} is {found}, the module needs {expected}");
                                return Err(Error::Link(what));
                            }
                        }
                    }
                    imports.functions.push(func);
                }
                (Some(ExternKind::Memory), Extern::Memory(memory)) => {
                    bind(memory.store)?;
                    imports.memories.push(memory.index);
                }
                (Some(ExternKind::Table), Extern::Table(table)) => {
                    bind(table.store)?;
                    imports.tables.push(table.index);
                }
                (Some(ExternKind::Global), Extern::Global(global)) => {
                    bind(global.store)?;
                    imports.globals.push(global);
                }
                (Some(ExternKind::Tag), Extern::Tag(tag)) => {
                    bind(tag.store)?;
                    imports.tags.push(tag);
                }
                _ => return Err(Error::Link(format!("incompatible import type: {from}::{name} is of another kind"))),
            }
        }
        Ok(Self { module: module.clone(), imports: Arc::new(imports), store, data: PhantomData })
    }

    /// The module.
    #[must_use]
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// What its imports are.
    pub(crate) fn imports(&self) -> &Arc<Imports> {
        &self.imports
    }

    /// The store of the imports that belong to one.
    pub(crate) fn store(&self) -> Option<u64> {
        self.store
    }

    /// Makes an instance: memories and tables are taken from slots, its start function runs.
    ///
    /// # Errors
    /// When an import is of another store or type, limits are reached, the operating system refuses, or its initialisation traps. What
    /// it wrote before a trap to memories and tables of others stays written.
    pub fn instantiate(&self, store: &mut Store<T>) -> Result<Instance, Error> {
        let pointer = store.pointer_mut();
        if let Some(id) = self.store {
            let inner = pointer.get();
            if inner.id != id {
                return Err(Error::Link("an import is of another store".into()));
            }
            check_import(inner, &self.module, &self.imports)?;
        }
        instantiate(pointer, &self.module, &self.imports)
    }
}
