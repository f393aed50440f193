//! Reading the state of an instrumented component.

use super::host::State;
use std::collections::BTreeMap;
use wasmtime::Store;
use wasmtime::component::{Instance, Lift, WasmList};
use wasmtime_wizer::ComponentInstanceState;

/// An instance whose state is read. What can't be read is noted, and zero is given in its place.
pub(super) struct Access<'a> {
    store: &'a mut Store<State>,
    instance: Instance,
    /// The memories, by the functions that give them: they are asked for twice, and each time takes a page of the memory.
    memories: BTreeMap<String, Vec<u8>>,
    failed: Option<String>,
}

impl<'a> Access<'a> {
    pub(super) fn new(store: &'a mut Store<State>, instance: Instance) -> Self {
        Self { store, instance, memories: BTreeMap::new(), failed: None }
    }

    /// What could not be read.
    pub(super) fn failed(self) -> Option<String> {
        self.failed
    }

    async fn try_call<R: Lift + Send + 'static, T: Send>(
        &mut self,
        interface: &str,
        name: &str,
        take: impl FnOnce(&Store<State>, R) -> T + Send,
    ) -> Result<T, wasmtime::Error> {
        let missing = || wasmtime::format_err!("`{interface}#{name}` is missing");
        let interface = self.instance.get_export_index(&mut *self.store, None, interface).ok_or_else(missing)?;
        let index = self.instance.get_export_index(&mut *self.store, Some(&interface), name).ok_or_else(missing)?;
        let function = self.instance.get_typed_func::<(), (R,)>(&mut *self.store, index)?;
        let (result,) = function.call_async(&mut *self.store, ()).await?;
        Ok(take(self.store, result))
    }

    async fn call<R: Lift + Default + Send + 'static>(&mut self, interface: &str, name: &str) -> R {
        match self.try_call(interface, name, |_, result: R| result).await {
            Ok(result) => result,
            Err(error) => {
                self.failed.get_or_insert(format!("{error:#}"));
                R::default()
            }
        }
    }
}

impl ComponentInstanceState for Access<'_> {
    async fn call_func_ret_list_u8(&mut self, interface: &str, name: &str, contents: impl FnOnce(&[u8]) + Send) {
        if !self.memories.contains_key(name) {
            let take = |store: &Store<State>, list: WasmList<u8>| list.as_le_slice(store).to_vec();
            let memory = self.try_call(interface, name, take).await.unwrap_or_else(|error| {
                let what = format!(
                    "a memory is as large as it may be, and reading it takes one page more: let it begin smaller, or its maximum be larger \
                     ({error:#})"
                );
                self.failed.get_or_insert(what);
                Vec::new()
            });
            self.memories.insert(name.to_owned(), memory);
        }
        contents(self.memories.get(name).map_or(&[], Vec::as_slice));
    }

    async fn call_func_ret_s32(&mut self, interface: &str, name: &str) -> i32 {
        self.call(interface, name).await
    }

    async fn call_func_ret_s64(&mut self, interface: &str, name: &str) -> i64 {
        self.call(interface, name).await
    }

    async fn call_func_ret_f32(&mut self, interface: &str, name: &str) -> u32 {
        self.call::<f32>(interface, name).await.to_bits()
    }

    async fn call_func_ret_f64(&mut self, interface: &str, name: &str) -> u64 {
        self.call::<f64>(interface, name).await.to_bits()
    }
}
