//! The 46 functions. Each answers what wasmtime 48 answers, in the same order of checks, so that guests can't tell the engines apart.

mod arguments;
mod file;
mod path;
mod poll;
mod readdir;
mod stat;

use crate::abi::types::{self, Errno};
use crate::abi::wasi_snapshot_preview1::WasiSnapshotPreview1;
use crate::context::Context;
use crate::descriptor::{Kind, Place};
use crate::error::{Failure, Stop};
use crate::host::Observation;
use std::fs::File;
use wiggle::{GuestMemory, GuestPtr};

/// Lowest exit status that means something else: that of a shell which can't run a command or saw a signal.
const FIRST_RESERVED_STATUS: u32 = 126;

/// Most random bytes at a time.
const MAX_RANDOM: u32 = 64 << 20;

type Result<T, E = Failure> = std::result::Result<T, E>;

impl types::UserErrorConversion for Context {
    fn errno_from_failure(&mut self, failure: Failure) -> wiggle::error::Result<Errno> {
        match failure {
            Failure::Errno(errno) => Ok(errno),
            Failure::Stop(stop) => Err(stop.into()),
        }
    }
}

/// A slice of the guest's memory.
fn bytes<'a>(memory: &'a GuestMemory<'_>, ptr: GuestPtr<[u8]>) -> Result<&'a [u8]> {
    memory.as_slice(ptr)?.ok_or_else(shared)
}

/// A slice of the guest's memory to be written.
fn bytes_mut<'a>(memory: &'a mut GuestMemory<'_>, ptr: GuestPtr<[u8]>) -> Result<&'a mut [u8]> {
    memory.as_slice_mut(ptr)?.ok_or_else(shared)
}

/// A string in the guest's memory.
fn text<'a>(memory: &'a GuestMemory<'_>, ptr: GuestPtr<str>) -> Result<&'a str> {
    memory.as_str(ptr)?.ok_or_else(shared)
}

fn shared() -> Failure {
    Failure::trap("preview 1 on a shared memory")
}

/// Writes bytes and returns where they end. No bytes go anywhere, also outside of the memory.
fn write_bytes(memory: &mut GuestMemory<'_>, ptr: GuestPtr<u8>, bytes: &[u8]) -> Result<GuestPtr<u8>> {
    let len = u32::try_from(bytes.len())?;
    memory.copy_from_slice(bytes, ptr.as_array(len))?;
    Ok(ptr.add(len)?)
}

impl WasiSnapshotPreview1 for Context {
    fn args_get(&mut self, memory: &mut GuestMemory<'_>, argv: GuestPtr<GuestPtr<u8>>, buffer: GuestPtr<u8>) -> Result<()> {
        self.host.observe(Observation::Arguments);
        arguments::write(memory, argv, buffer, self.grants.args.iter().map(|arg| [arg.as_str(), "", ""]))
    }

    fn args_sizes_get(&mut self, _: &mut GuestMemory<'_>) -> Result<(types::Size, types::Size)> {
        self.host.observe(Observation::Arguments);
        arguments::sizes(self.grants.args.iter().map(String::len))
    }

    fn environ_get(&mut self, memory: &mut GuestMemory<'_>, environ: GuestPtr<GuestPtr<u8>>, buffer: GuestPtr<u8>) -> Result<()> {
        self.host.observe(Observation::Environment);
        self.environment_read = true;
        arguments::write(memory, environ, buffer, self.grants.environment().map(|(name, value)| [name, "=", value.as_str()]))
    }

    fn environ_sizes_get(&mut self, _: &mut GuestMemory<'_>) -> Result<(types::Size, types::Size)> {
        self.host.observe(Observation::Environment);
        self.environment_read = true;
        arguments::sizes(self.grants.environment().map(|(name, value)| name.len() + 1 + value.len()))
    }

    fn clock_res_get(&mut self, _: &mut GuestMemory<'_>, id: types::Clockid) -> Result<types::Timestamp> {
        match id {
            types::Clockid::Realtime | types::Clockid::Monotonic => Ok(self.host.resolution()),
            types::Clockid::ProcessCputimeId | types::Clockid::ThreadCputimeId => Err(Errno::Badf.into()),
        }
    }

    fn clock_time_get(&mut self, _: &mut GuestMemory<'_>, id: types::Clockid, _: types::Timestamp) -> Result<types::Timestamp> {
        match id {
            types::Clockid::Realtime => Ok(self.host.realtime()),
            types::Clockid::Monotonic => Ok(self.monotonic()),
            types::Clockid::ProcessCputimeId | types::Clockid::ThreadCputimeId => Err(Errno::Badf.into()),
        }
    }

    fn fd_advise(
        &mut self,
        _: &mut GuestMemory<'_>,
        fd: types::Fd,
        offset: types::Filesize,
        len: types::Filesize,
        advice: types::Advice,
    ) -> Result<()> {
        file::advise(self.descriptors.file(fd.into())?, offset, len, advice)
    }

    /// Refused as by wasmtime: not all systems can do it.
    fn fd_allocate(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd, _: types::Filesize, _: types::Filesize) -> Result<()> {
        self.descriptors.file(fd.into())?;
        Err(Errno::Notsup.into())
    }

    fn fd_close(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd) -> Result<()> {
        self.descriptors.remove(&self.grants, fd.into())?;
        Ok(())
    }

    fn fd_datasync(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd) -> Result<()> {
        Ok(self.descriptors.file(fd.into())?.host().map_or(Ok(()), File::sync_data)?)
    }

    fn fd_fdstat_get(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd) -> Result<types::Fdstat> {
        stat::fdstat(self, fd.into())
    }

    fn fd_fdstat_set_flags(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd, flags: types::Fdflags) -> Result<()> {
        let file = self.descriptors.file_mut(fd.into())?;
        if flags.intersects(types::Fdflags::DSYNC | types::Fdflags::SYNC | types::Fdflags::RSYNC) {
            return Err(Errno::Inval.into());
        }
        file.append = flags.contains(types::Fdflags::APPEND);
        file.nonblock = flags.contains(types::Fdflags::NONBLOCK);
        Ok(())
    }

    /// Rights are what a descriptor was opened with; nothing takes them away.
    fn fd_fdstat_set_rights(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd, _: types::Rights, _: types::Rights) -> Result<()> {
        match self.descriptors.kind(&self.grants, fd.into())? {
            Kind::Stdin | Kind::Stdout | Kind::Stderr => Err(Errno::Badf.into()),
            Kind::Directory | Kind::File => Err(Errno::Notsup.into()),
        }
    }

    fn fd_filestat_get(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd) -> Result<types::Filestat> {
        stat::of_descriptor(self, fd.into())
    }

    fn fd_filestat_set_size(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd, size: types::Filesize) -> Result<()> {
        let file = self.descriptors.file(fd.into())?;
        let host = file.host().filter(|_| file.writable).ok_or(Errno::Perm)?;
        host.set_len(size)?;
        self.changed_open(fd.into());
        Ok(())
    }

    fn fd_filestat_set_times(
        &mut self,
        _: &mut GuestMemory<'_>,
        fd: types::Fd,
        atim: types::Timestamp,
        mtim: types::Timestamp,
        flags: types::Fstflags,
    ) -> Result<()> {
        let times = stat::times(self.host.as_mut(), atim, mtim, flags)?;
        stat::set_times_of_descriptor(self, fd.into(), &times)?;
        self.changed_open(fd.into());
        Ok(())
    }

    fn fd_pread(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: types::Fd,
        iovs: types::IovecArray,
        offset: types::Filesize,
    ) -> Result<types::Size> {
        let buffer = file::first_buffer(self, memory, iovs)?;
        file::pread(self, memory, fd.into(), buffer, offset)
    }

    fn fd_prestat_get(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd) -> Result<types::Prestat> {
        let index = self.descriptors.preopen(&self.grants, fd.into()).ok_or(Errno::Badf)?;
        let pr_name_len = u32::try_from(self.grants.preopens[index].name.len())?;
        Ok(types::Prestat::Dir(types::PrestatDir { pr_name_len }))
    }

    fn fd_prestat_dir_name(&mut self, memory: &mut GuestMemory<'_>, fd: types::Fd, path: GuestPtr<u8>, len: types::Size) -> Result<()> {
        self.descriptors.kind(&self.grants, fd.into())?;
        let index = self.descriptors.preopen(&self.grants, fd.into()).ok_or(Errno::Notdir)?;
        let name = &self.grants.preopens[index].name;
        self.host.observe(Observation::Preopen(name));
        if name.len() > usize::try_from(len)? {
            return Err(Errno::Nametoolong.into());
        }
        write_bytes(memory, path, name.as_bytes())?;
        Ok(())
    }

    fn fd_pwrite(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: types::Fd,
        iovs: types::CiovecArray,
        offset: types::Filesize,
    ) -> Result<types::Size> {
        let buffer = file::first_buffer(self, memory, file::as_iovecs(iovs))?;
        file::write(self, memory, fd.into(), buffer, Some(offset))
    }

    fn fd_read(&mut self, memory: &mut GuestMemory<'_>, fd: types::Fd, iovs: types::IovecArray) -> Result<types::Size> {
        let buffer = file::first_buffer(self, memory, iovs)?;
        file::read(self, memory, fd.into(), buffer)
    }

    fn fd_readdir(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: types::Fd,
        buffer: GuestPtr<u8>,
        len: types::Size,
        cookie: types::Dircookie,
    ) -> Result<types::Size> {
        let directory = self.descriptors.directory(&self.grants, fd.into())?;
        self.host.observe(Observation::Names(directory.origin.as_ref()));
        match &directory.place {
            Place::Host(dir) => {
                let how = readdir::How { sorted: self.sorted_names, recording: self.recording.as_ref() };
                readdir::readdir(dir, how, memory, buffer, len, cookie)
            }
            Place::Wake => readdir::wake_directory(memory, buffer, len, cookie),
        }
    }

    fn fd_renumber(&mut self, _: &mut GuestMemory<'_>, from: types::Fd, to: types::Fd) -> Result<()> {
        Ok(self.descriptors.renumber(&self.grants, from.into(), to.into())?)
    }

    fn fd_seek(
        &mut self,
        _: &mut GuestMemory<'_>,
        fd: types::Fd,
        offset: types::Filedelta,
        whence: types::Whence,
    ) -> Result<types::Filesize> {
        file::seek(self, fd.into(), offset, whence)
    }

    fn fd_sync(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd) -> Result<()> {
        Ok(self.descriptors.file(fd.into())?.host().map_or(Ok(()), File::sync_all)?)
    }

    fn fd_tell(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd) -> Result<types::Filesize> {
        Ok(file::seekable(self, fd.into())?.position)
    }

    fn fd_write(&mut self, memory: &mut GuestMemory<'_>, fd: types::Fd, iovs: types::CiovecArray) -> Result<types::Size> {
        let buffer = file::first_buffer(self, memory, file::as_iovecs(iovs))?;
        file::write(self, memory, fd.into(), buffer, None)
    }

    fn path_create_directory(&mut self, memory: &mut GuestMemory<'_>, fd: types::Fd, path: GuestPtr<str>) -> Result<()> {
        path::create_directory(self, memory, fd.into(), path)?;
        self.changed_at(memory, fd, path)
    }

    fn path_filestat_get(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: types::Fd,
        flags: types::Lookupflags,
        path: GuestPtr<str>,
    ) -> Result<types::Filestat> {
        path::filestat(self, memory, fd.into(), flags, path)
    }

    fn path_filestat_set_times(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: types::Fd,
        lookup: types::Lookupflags,
        path: GuestPtr<str>,
        atim: types::Timestamp,
        mtim: types::Timestamp,
        flags: types::Fstflags,
    ) -> Result<()> {
        let times = stat::times(self.host.as_mut(), atim, mtim, flags)?;
        path::set_times(self, memory, fd.into(), lookup, path, &times)?;
        self.changed_at(memory, fd, path)
    }

    fn path_link(
        &mut self,
        memory: &mut GuestMemory<'_>,
        old_fd: types::Fd,
        flags: types::Lookupflags,
        old: GuestPtr<str>,
        new_fd: types::Fd,
        new: GuestPtr<str>,
    ) -> Result<()> {
        path::link(self, memory, (old_fd.into(), old), flags, (new_fd.into(), new))?;
        self.changed_at(memory, new_fd, new)
    }

    fn path_open(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: types::Fd,
        lookup: types::Lookupflags,
        path: GuestPtr<str>,
        oflags: types::Oflags,
        rights: types::Rights,
        _: types::Rights,
        fdflags: types::Fdflags,
    ) -> Result<types::Fd> {
        path::open(self, memory, fd.into(), path, path::How { lookup, oflags, rights, fdflags }).map(types::Fd::from)
    }

    fn path_readlink(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: types::Fd,
        path: GuestPtr<str>,
        buffer: GuestPtr<u8>,
        len: types::Size,
    ) -> Result<types::Size> {
        path::readlink(self, memory, fd.into(), path, buffer, len)
    }

    fn path_remove_directory(&mut self, memory: &mut GuestMemory<'_>, fd: types::Fd, path: GuestPtr<str>) -> Result<()> {
        path::remove_directory(self, memory, fd.into(), path)?;
        self.changed_at(memory, fd, path)
    }

    fn path_rename(
        &mut self,
        memory: &mut GuestMemory<'_>,
        old_fd: types::Fd,
        old: GuestPtr<str>,
        new_fd: types::Fd,
        new: GuestPtr<str>,
    ) -> Result<()> {
        path::rename(self, memory, (old_fd.into(), old), (new_fd.into(), new))?;
        self.changed_at(memory, old_fd, old)
    }

    fn path_symlink(&mut self, memory: &mut GuestMemory<'_>, old: GuestPtr<str>, fd: types::Fd, new: GuestPtr<str>) -> Result<()> {
        path::symlink(self, memory, old, fd.into(), new)?;
        self.changed_at(memory, fd, new)
    }

    fn path_unlink_file(&mut self, memory: &mut GuestMemory<'_>, fd: types::Fd, path: GuestPtr<str>) -> Result<()> {
        path::unlink_file(self, memory, fd.into(), path)?;
        self.changed_at(memory, fd, path)
    }

    fn poll_oneoff(
        &mut self,
        memory: &mut GuestMemory<'_>,
        subscriptions: GuestPtr<types::Subscription>,
        events: GuestPtr<types::Event>,
        count: types::Size,
    ) -> Result<types::Size> {
        poll::poll(self, memory, subscriptions, events, count)
    }

    fn proc_exit(&mut self, _: &mut GuestMemory<'_>, status: types::Exitcode) -> wiggle::error::Error {
        if status < FIRST_RESERVED_STATUS {
            Stop::Exit(status).into()
        } else {
            Stop::Trap(format!("exit status {status} is not below {FIRST_RESERVED_STATUS}")).into()
        }
    }

    fn proc_raise(&mut self, _: &mut GuestMemory<'_>, _: types::Signal) -> Result<()> {
        Err(Errno::Notsup.into())
    }

    /// A guest has one thread.
    fn sched_yield(&mut self, _: &mut GuestMemory<'_>) -> Result<()> {
        Ok(())
    }

    fn random_get(&mut self, memory: &mut GuestMemory<'_>, buffer: GuestPtr<u8>, len: types::Size) -> Result<()> {
        if len > MAX_RANDOM {
            return Err(Failure::trap(format!("{len} random bytes at a time, more than {MAX_RANDOM}")));
        }
        if len > 0 {
            self.counters.draw(self.host.as_mut(), bytes_mut(memory, buffer.as_array(len))?)?;
        }
        Ok(())
    }

    fn sock_accept(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd, _: types::Fdflags) -> Result<types::Fd> {
        Err(self.not_a_socket(fd))
    }

    fn sock_recv(
        &mut self,
        _: &mut GuestMemory<'_>,
        fd: types::Fd,
        _: types::IovecArray,
        _: types::Riflags,
    ) -> Result<(types::Size, types::Roflags)> {
        Err(self.not_a_socket(fd))
    }

    fn sock_send(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd, _: types::CiovecArray, _: types::Siflags) -> Result<types::Size> {
        Err(self.not_a_socket(fd))
    }

    fn sock_shutdown(&mut self, _: &mut GuestMemory<'_>, fd: types::Fd, _: types::Sdflags) -> Result<()> {
        Err(self.not_a_socket(fd))
    }
}

impl Context {
    /// The guest has changed what is at a path that is in its memory.
    fn changed_at(&self, memory: &GuestMemory<'_>, fd: types::Fd, path: GuestPtr<str>) -> Result<()> {
        if self.recording.is_some() {
            self.changed(fd.into(), text(memory, path)?);
        }
        Ok(())
    }

    /// No descriptor is a socket, as no guest is granted a network.
    fn not_a_socket(&self, fd: types::Fd) -> Failure {
        self.descriptors.kind(&self.grants, fd.into()).map_or_else(Failure::from, |_| Errno::Notsock.into())
    }
}
