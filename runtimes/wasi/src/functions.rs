//! The table of the functions: names, Wasm signatures, and how to call each.

use crate::abi::wasi_snapshot_preview1 as abi;
use crate::context::Context;
use crate::error::Stop;
use wiggle::GuestMemory;

/// The module name under which guests import the functions.
pub const MODULE: &str = "wasi_snapshot_preview1";

/// The Wasm type of a parameter or result. Pointers are `I32`: preview 1 has 32-bit memories only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// `i32`
    I32,
    /// `i64`
    I64,
}

/// One function of the interface.
#[derive(Debug)]
pub struct Function {
    name: &'static str,
    params: &'static [ValueType],
    result: Option<ValueType>,
    code: Code,
}

type Code = fn(&mut Context, &mut GuestMemory<'_>, &[u64]) -> wiggle::error::Result<i32>;

impl Function {
    /// The name under which guests import it from [`MODULE`].
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The types of its parameters, at most nine.
    #[must_use]
    pub fn params(&self) -> &'static [ValueType] {
        self.params
    }

    /// The type of its result: none for `proc_exit`, else `I32`, an error number.
    #[must_use]
    pub fn result(&self) -> Option<ValueType> {
        self.result
    }

    /// Calls it.
    ///
    /// Each argument is a Wasm value, zero-extended to 64 bits or with any upper half. `memory` is the guest's memory; its first byte must be
    /// aligned to 8 bytes, as every Wasm memory is, or accesses trap. Shared memories are refused with a trap. Returns the error number,
    /// 0 for success.
    ///
    /// # Errors
    ///
    /// If the guest must not go on: see [`Stop`]. The context stays usable.
    pub fn call(&self, context: &mut Context, memory: &mut GuestMemory<'_>, args: &[u64]) -> Result<i32, Stop> {
        context.refill();
        (self.code)(context, memory, args).map_err(|error| error.downcast::<Stop>().unwrap_or_else(|other| Stop::Trap(other.to_string())))
    }
}

/// The function that guests import under this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.binary_search_by(|function| function.name.cmp(name)).ok().map(|index| &FUNCTIONS[index])
}

/// A Wasm value in a 64-bit slot.
trait Slot {
    const TYPE: ValueType;
    fn from_slot(slot: u64) -> Self;
}

impl Slot for i32 {
    const TYPE: ValueType = ValueType::I32;
    #[allow(clippy::cast_possible_truncation, reason = "an i32 is the slot's lower half")]
    fn from_slot(slot: u64) -> Self {
        slot as Self
    }
}

impl Slot for i64 {
    const TYPE: ValueType = ValueType::I64;
    fn from_slot(slot: u64) -> Self {
        slot.cast_signed()
    }
}

macro_rules! functions {
    ($($name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        /// All functions of preview 1, by name.
        pub static FUNCTIONS: [Function; 46] = [$(Function {
            name: stringify!($name),
            params: &[$(<$type as Slot>::TYPE),*],
            result: functions!(@result $($result)?),
            code: |context, memory, args| {
                let &[$($arg),*] = args else {
                    return Err(Stop::Trap(format!("{} called with {} arguments", stringify!($name), args.len())).into());
                };
                let result = abi::$name(context, memory, $(<$type>::from_slot($arg)),*)?;
                functions!(@return result $($result)?)
            },
        }),*];
    };
    (@result) => { None };
    (@result $type:ty) => { Some(<$type as Slot>::TYPE) };
    // What returns nothing does not return.
    (@return $value:ident) => { Ok({ let () = $value; 0 }) };
    (@return $value:ident $type:ty) => { Ok($value) };
}

functions! {
    args_get(argv: i32, buffer: i32) -> i32;
    args_sizes_get(count: i32, size: i32) -> i32;
    clock_res_get(id: i32, resolution: i32) -> i32;
    clock_time_get(id: i32, precision: i64, time: i32) -> i32;
    environ_get(environ: i32, buffer: i32) -> i32;
    environ_sizes_get(count: i32, size: i32) -> i32;
    fd_advise(fd: i32, offset: i64, len: i64, advice: i32) -> i32;
    fd_allocate(fd: i32, offset: i64, len: i64) -> i32;
    fd_close(fd: i32) -> i32;
    fd_datasync(fd: i32) -> i32;
    fd_fdstat_get(fd: i32, stat: i32) -> i32;
    fd_fdstat_set_flags(fd: i32, flags: i32) -> i32;
    fd_fdstat_set_rights(fd: i32, base: i64, inheriting: i64) -> i32;
    fd_filestat_get(fd: i32, stat: i32) -> i32;
    fd_filestat_set_size(fd: i32, size: i64) -> i32;
    fd_filestat_set_times(fd: i32, atim: i64, mtim: i64, flags: i32) -> i32;
    fd_pread(fd: i32, iovs: i32, iovs_len: i32, offset: i64, read: i32) -> i32;
    fd_prestat_dir_name(fd: i32, path: i32, path_len: i32) -> i32;
    fd_prestat_get(fd: i32, prestat: i32) -> i32;
    fd_pwrite(fd: i32, iovs: i32, iovs_len: i32, offset: i64, written: i32) -> i32;
    fd_read(fd: i32, iovs: i32, iovs_len: i32, read: i32) -> i32;
    fd_readdir(fd: i32, buffer: i32, buffer_len: i32, cookie: i64, used: i32) -> i32;
    fd_renumber(fd: i32, to: i32) -> i32;
    fd_seek(fd: i32, offset: i64, whence: i32, position: i32) -> i32;
    fd_sync(fd: i32) -> i32;
    fd_tell(fd: i32, position: i32) -> i32;
    fd_write(fd: i32, iovs: i32, iovs_len: i32, written: i32) -> i32;
    path_create_directory(fd: i32, path: i32, path_len: i32) -> i32;
    path_filestat_get(fd: i32, flags: i32, path: i32, path_len: i32, stat: i32) -> i32;
    path_filestat_set_times(fd: i32, flags: i32, path: i32, path_len: i32, atim: i64, mtim: i64, times: i32) -> i32;
    path_link(old_fd: i32, old_flags: i32, old: i32, old_len: i32, new_fd: i32, new: i32, new_len: i32) -> i32;
    path_open(fd: i32, flags: i32, path: i32, path_len: i32, oflags: i32, base: i64, inheriting: i64, fdflags: i32, opened: i32) -> i32;
    path_readlink(fd: i32, path: i32, path_len: i32, buffer: i32, buffer_len: i32, used: i32) -> i32;
    path_remove_directory(fd: i32, path: i32, path_len: i32) -> i32;
    path_rename(fd: i32, old: i32, old_len: i32, new_fd: i32, new: i32, new_len: i32) -> i32;
    path_symlink(old: i32, old_len: i32, fd: i32, new: i32, new_len: i32) -> i32;
    path_unlink_file(fd: i32, path: i32, path_len: i32) -> i32;
    poll_oneoff(subscriptions: i32, events: i32, count: i32, occurred: i32) -> i32;
    proc_exit(status: i32);
    proc_raise(signal: i32) -> i32;
    random_get(buffer: i32, buffer_len: i32) -> i32;
    sched_yield() -> i32;
    sock_accept(fd: i32, flags: i32, accepted: i32) -> i32;
    sock_recv(fd: i32, iovs: i32, iovs_len: i32, flags: i32, received: i32, message: i32) -> i32;
    sock_send(fd: i32, iovs: i32, iovs_len: i32, flags: i32, sent: i32) -> i32;
    sock_shutdown(fd: i32, how: i32) -> i32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_function_is_found() {
        assert!(FUNCTIONS.is_sorted_by(|a, b| a.name < b.name));
        for function in &FUNCTIONS {
            assert!(std::ptr::eq(find(function.name).unwrap(), function));
        }
        assert!(find("").is_none() && find("fd_writev").is_none());
    }

    #[test]
    fn a_wrong_number_of_arguments_is_a_trap() {
        let mut context = Context::new(std::sync::Arc::default());
        for function in &FUNCTIONS {
            let args = vec![0; function.params.len() + 1];
            let result = function.call(&mut context, &mut GuestMemory::Unshared(&mut []), &args);
            assert!(matches!(result, Err(Stop::Trap(message)) if message.contains("arguments")), "{}", function.name);
        }
    }
}
