//! Stores: what instances that may use each other have in common.

use crate::callstack::HostCall;
use crate::config::Limits;
use crate::engine::Engine;
use crate::error::Error;
use crate::exceptions::Exceptions;
use crate::func::Func;
use crate::instance::InstanceData;
use crate::interrupt::{Interrupt, InterruptHandle};
use crate::objects::{MemoryData, Place, TableData};
use crate::stack::Stack;
use crate::sys::border;
use crate::sys::cells::Cells;
use crate::sys::owner::{Owner, StorePointer};
use crate::trap::RawTrap;
use preheat_image::abi::{FuncRef, HostFunction, PAGE, StoreRecord, ValueType};
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A store: instances that may use each other, and data of type `T` for their host functions.
///
/// Instances, memories, tables and globals of it are named by handles, which mean nothing to other stores. All of them live
/// until the store is dropped.
#[derive(Debug)]
pub struct Store<T: 'static> {
    owner: Owner<T>,
}

/// Why a host function ended the call of the guest.
#[derive(Debug)]
pub(crate) enum Pending {
    /// It returned an error.
    Error(Error),
    /// It panicked.
    Panic(Box<dyn Any + Send>),
}

/// A store. Compiled code has its address and uses the record at its beginning.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct StoreInner {
    pub(crate) record: StoreRecord,
    pub(crate) id: u64,
    pub(crate) engine: Engine,
    pub(crate) stack: Option<Stack>,
    // How many calls of the guest are going on.
    pub(crate) depth: u32,
    pub(crate) instances: Vec<InstanceData>,
    // What belongs to no instance, 16 bytes each.
    host_cells: Vec<Cells>,
    host_used: u32,
    pub(crate) memories: Vec<MemoryData>,
    pub(crate) tables: Vec<TableData>,
    pub(crate) limits: Limits,
    pub(crate) interrupt: Arc<Interrupt>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) pending: Option<Pending>,
    pub(crate) raw: RawTrap,
    // The last call of a host function by code that can be captured.
    pub(crate) host_call: Option<HostCall>,
    // Functions that were made references: by instance and index, and by the reference's address.
    references: HashMap<(u32, u32), Box<FuncRef>>,
    referenced: HashMap<u64, (u32, u32)>,
    pub(crate) externs: Vec<Arc<dyn Any + Send + Sync>>,
    pub(crate) exceptions: Exceptions,
    data: Box<dyn Any>,
}

/// Bytes of cells for what belongs to no instance.
const HOST_CELLS: u32 = 4096;

impl<T: 'static> Store<T> {
    /// An empty store with data for host functions.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn new(engine: &Engine, data: T) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let stack = engine.take_stack()?;
        let inner = StoreInner {
            record: StoreRecord { stack_limit: stack.limit(), ..border::store_record() },
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            engine: engine.clone(),
            stack: Some(stack),
            depth: 0,
            instances: Vec::new(),
            host_cells: Vec::new(),
            host_used: HOST_CELLS,
            memories: Vec::new(),
            tables: Vec::new(),
            limits: engine.config().limits,
            interrupt: Arc::default(),
            deadline: None,
            pending: None,
            raw: RawTrap::new(),
            host_call: None,
            references: HashMap::new(),
            referenced: HashMap::new(),
            externs: Vec::new(),
            exceptions: Exceptions::default(),
            data: Box::new(data),
        };
        Ok(Self { owner: Owner::new(inner) })
    }

    /// The data.
    #[must_use]
    pub fn data(&self) -> &T {
        self.owner.pointer().get().data()
    }

    /// The data, to be changed.
    pub fn data_mut(&mut self) -> &mut T {
        self.owner.pointer_mut().get_mut().data_mut()
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.owner.pointer().get().engine
    }

    /// Sets what its instances may have. What they have already stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.owner.pointer_mut().get_mut().limits = limits;
    }

    /// Sets until when calls of the guest may last; they end with [`TrapCode::Interrupt`](crate::TrapCode::Interrupt). It counts for calls
    /// that begin from now on, the initialisation of instances included, and only for code that was compiled to look.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.owner.pointer_mut().get_mut().deadline = deadline;
    }

    /// With which other threads can stop its guest.
    #[must_use]
    pub fn interrupt_handle(&self) -> InterruptHandle {
        InterruptHandle(self.owner.pointer().get().interrupt.clone())
    }
}

impl Drop for StoreInner {
    fn drop(&mut self) {
        self.interrupt.clear();
        for memory in self.memories.drain(..) {
            memory.give_back(&self.engine);
        }
        for table in self.tables.drain(..) {
            table.give_back(&self.engine);
        }
        let usable = !self.interrupt.stuck();
        for instance in self.instances.drain(..).filter(|_| usable) {
            self.engine.give_cells(instance.cells);
        }
        self.host_cells.drain(..).for_each(|cells| self.engine.give_cells(cells));
        if let Some(stack) = self.stack.take() {
            self.engine.give_stack(stack);
        }
    }
}

/// What gives access to a store: a [`Store`] or, in a host function, a [`Caller`](crate::Caller).
pub trait AsStore {
    /// The pointer to it.
    #[doc(hidden)]
    fn pointer(&self) -> &StorePointer;
}

/// What gives access to a store, to change it.
pub trait AsStoreMut: AsStore {
    /// The pointer to it.
    #[doc(hidden)]
    fn pointer_mut(&mut self) -> &mut StorePointer;
}

impl<T> AsStore for Store<T> {
    fn pointer(&self) -> &StorePointer {
        self.owner.pointer()
    }
}

impl<T> AsStoreMut for Store<T> {
    fn pointer_mut(&mut self) -> &mut StorePointer {
        self.owner.pointer_mut()
    }
}

impl<S: AsStore + ?Sized> AsStore for &S {
    fn pointer(&self) -> &StorePointer {
        (**self).pointer()
    }
}

impl<S: AsStore + ?Sized> AsStore for &mut S {
    fn pointer(&self) -> &StorePointer {
        (**self).pointer()
    }
}

impl<S: AsStoreMut + ?Sized> AsStoreMut for &mut S {
    fn pointer_mut(&mut self) -> &mut StorePointer {
        (**self).pointer_mut()
    }
}

impl StoreInner {
    /// The data.
    ///
    /// # Panics
    /// When it is of another type, which linkers see to that it is not.
    pub(crate) fn data<T: 'static>(&self) -> &T {
        self.data.downcast_ref().expect("the store has data of this type")
    }

    pub(crate) fn data_mut<T: 'static>(&mut self) -> &mut T {
        self.data.downcast_mut().expect("the store has data of this type")
    }

    pub(crate) fn data_type(&self) -> std::any::TypeId {
        (*self.data).type_id()
    }

    pub(crate) fn memory_and_data<T: 'static>(&mut self, memory: u32) -> (&mut [u8], &mut T) {
        (self.memories[memory as usize].bytes_mut(), self.data.downcast_mut().expect("the store has data of this type"))
    }

    /// Notes which import of an instance is being called, from the address of its record in the context, and the parameters.
    pub(crate) fn note_host_call(&mut self, instance: u32, record: u64, params: &[u128]) {
        let Some(data) = self.instances.get(instance as usize) else { return };
        let first = data.cells.address(data.module.native().layout.size);
        let import = record.wrapping_sub(first) / size_of::<HostFunction>() as u64;
        let import = u32::try_from(import).unwrap_or(u32::MAX);
        self.host_call = Some(HostCall { exit_frame: self.record.exit_frame, import, params: params.to_vec() });
    }

    /// Whether `page` is an interrupt page of one of its instances.
    pub(crate) fn is_interrupt_page(&self, page: u64) -> bool {
        self.instances.iter().any(|instance| instance.cells.base() == page.wrapping_add(PAGE))
    }

    /// Whether `address` is in the reservation of one of its memories.
    pub(crate) fn is_in_memory(&self, address: u64) -> bool {
        self.memories.iter().any(|memory| memory.reservation().contains(&address))
    }

    /// A place for something that belongs to no instance, all zero.
    pub(crate) fn host_cell(&mut self) -> Result<Place, Error> {
        if self.host_used == HOST_CELLS {
            self.host_cells.push(self.engine.take_cells(HOST_CELLS as usize)?);
            self.host_used = 0;
        }
        let offset = self.host_used;
        self.host_used += 16;
        let block = u32::try_from(self.host_cells.len() - 1).map_err(|_| Error::Limit("objects of the host".into()))?;
        Ok(Place::Host { block, offset })
    }

    pub(crate) fn cells(&self, place: Place) -> (&Cells, u32) {
        match place {
            Place::Instance { instance, offset } => (&self.instances[instance as usize].cells, offset),
            Place::Host { block, offset } => (&self.host_cells[block as usize], offset),
        }
    }

    pub(crate) fn cells_mut(&mut self, place: Place) -> (&mut Cells, u32) {
        match place {
            Place::Instance { instance, offset } => (&mut self.instances[instance as usize].cells, offset),
            Place::Host { block, offset } => (&mut self.host_cells[block as usize], offset),
        }
    }

    pub(crate) fn address(&self, place: Place) -> u64 {
        let (cells, offset) = self.cells(place);
        cells.address(offset)
    }

    /// The funcref value of a function of an instance. The same each time. `None` if there is no such function.
    pub(crate) fn reference(&mut self, instance: u32, index: u32) -> Option<u64> {
        if let Some(reference) = self.references.get(&(instance, index)) {
            return Some((&raw const **reference).expose_provenance() as u64);
        }
        let data = self.instances.get(instance as usize)?;
        let type_id = data.module.type_id_of(index)?;
        let (code, context) = data.code_and_context(index)?;
        let reference = Box::new(FuncRef { code, context, type_id, index });
        let address = (&raw const *reference).expose_provenance() as u64;
        self.references.insert((instance, index), reference);
        self.referenced.insert(address, (instance, index));
        Some(address)
    }

    /// The index in an instance of the function of a funcref value that is not null. `None` if the instance does not have it.
    pub(crate) fn function_in(&self, instance: u32, value: u64) -> Option<u32> {
        let (owner, index) = *self.referenced.get(&value)?;
        if owner == instance {
            return Some(index);
        }
        let function = self.function_of(value)?;
        let imports = &self.instances.get(instance as usize)?.imports.functions;
        imports.iter().position(|import| import.is_same(&function)).and_then(|index| u32::try_from(index).ok())
    }

    /// Forgets the exceptions that nobody can reach any more. `stack` are the words of the guest's stack.
    pub(crate) fn forget_exceptions(&mut self, stack: Vec<u64>) {
        let tables = self.tables.iter().filter(|table| table.element == ValueType::ExnRef);
        let in_tables = tables.flat_map(|table| table.entries().iter().map(|entry| u64::from_ne_bytes(*entry)));
        let cells = self.instances.iter().map(|instance| &instance.cells).chain(&self.host_cells);
        let in_cells = cells.flat_map(Cells::words);
        self.exceptions.keep(stack.into_iter().chain(in_tables).chain(in_cells));
    }

    /// The function of a funcref value.
    pub(crate) fn function_of(&self, value: u64) -> Option<Func> {
        let (instance, index) = self.referenced.get(&value)?;
        self.instances.get(*instance as usize)?.func(self.id, *instance, *index)
    }
}
