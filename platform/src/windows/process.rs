//! Child processes and requests to end: the console's events, and a job object.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle};
use std::process::{Child, Command, ExitStatus};
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use windows_sys::Win32::Foundation::STATUS_CONTROL_C_EXIT;
use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_CHAR, GetFileType};
use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT,
    GetConsoleMode, SetConsoleCtrlHandler,
};
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE,
    JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK, JOBOBJECT_EXTENDED_LIMIT_INFORMATION,
    JobObjectExtendedLimitInformation, SetInformationJobObject,
};
use windows_sys::Win32::System::Threading::{INFINITE, WaitForSingleObject};

use super::security::check;
use crate::process::Termination;

pub(crate) fn can_start() -> io::Result<()> {
    Ok(())
}

pub(crate) fn start(command: &mut Command) -> io::Result<Child> {
    let child = command.spawn()?;
    // A system that refuses it (a job of somebody's that allows none inside) lets the child go on after us.
    if let Some(job) = job() {
        // SAFETY: both handles are open.
        let _ =
            check(unsafe { AssignProcessToJobObject(job.as_raw_handle(), child.as_raw_handle()) });
    }
    Ok(child)
}

/// The job whose members are killed when its last handle is closed: the only one, which is ours, and never closed before this
/// process ends. What members start is no member.
fn job() -> Option<&'static OwnedHandle> {
    static JOB: OnceLock<Option<OwnedHandle>> = OnceLock::new();
    JOB.get_or_init(|| new_job().ok()).as_ref()
}

fn new_job() -> io::Result<OwnedHandle> {
    // SAFETY: neither a name nor attributes are given; so children do not inherit the handle either.
    let job = unsafe { CreateJobObjectW(ptr::null(), ptr::null()) };
    check(i32::from(!job.is_null()))?;
    // SAFETY: the call has succeeded, so `job` is open, and nobody else has it.
    let job = unsafe { OwnedHandle::from_raw_handle(job) };
    let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
    limits.BasicLimitInformation.LimitFlags =
        JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK;
    let len = u32::try_from(size_of_val(&limits)).unwrap_or(0);
    // SAFETY: `job` is open, and `limits` is what this class asks for, with its length.
    check(unsafe {
        SetInformationJobObject(
            job.as_raw_handle(),
            JobObjectExtendedLimitInformation,
            (&raw const limits).cast::<c_void>(),
            len,
        )
    })?;
    Ok(job)
}

type Handler = Box<dyn FnMut(Termination) + Send>;

/// Who is told of the console's events.
static HANDLER: Mutex<Option<Handler>> = Mutex::new(None);

pub(crate) fn on_termination(handler: impl FnMut(Termination) + Send + 'static) -> io::Result<()> {
    let tell = |handler| *HANDLER.lock().unwrap_or_else(PoisonError::into_inner) = handler;
    tell(Some(Box::new(handler)));
    // SAFETY: `on_event` is a function of the type that is asked for.
    check(unsafe { SetConsoleCtrlHandler(Some(on_event), 1) }).inspect_err(|_| tell(None))
}

/// The system calls it in a thread of its own.
unsafe extern "system" fn on_event(event: u32) -> i32 {
    let termination = match event {
        CTRL_C_EVENT => Termination::Interrupt,
        CTRL_BREAK_EVENT => Termination::Terminate,
        CTRL_CLOSE_EVENT | CTRL_LOGOFF_EVENT | CTRL_SHUTDOWN_EVENT => Termination::Hangup,
        _ => return 0,
    };
    if let Some(handler) = &mut *HANDLER.lock().unwrap_or_else(PoisonError::into_inner) {
        handler(termination);
    }
    // When this returns from any of the last three, the process is gone. The main thread needs a moment to give back what it
    // holds; if it takes too long, the system does not wait.
    match termination {
        Termination::Hangup => loop {
            thread::park();
        },
        Termination::Interrupt | Termination::Terminate => 1,
    }
}

pub(crate) const fn termination() -> Option<Termination> {
    None
}

pub(crate) const fn hear_of_children() {}

pub(crate) fn outlive_file_size_limit() -> io::Result<()> {
    Ok(())
}

pub(crate) fn terminate(_child: &Child) -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "a child process cannot be asked to end on Windows",
    ))
}

pub(crate) fn on_exit(child: &Child, handler: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let child = child.as_handle().try_clone_to_owned()?;
    thread::Builder::new()
        .name("cachelock-child".to_owned())
        .spawn(move || {
            // SAFETY: `child` is open.
            unsafe { WaitForSingleObject(child.as_raw_handle(), INFINITE) };
            handler();
        })
        .map(drop)
}

pub(crate) fn has_null_input() -> bool {
    let input = io::stdin().as_raw_handle();
    if input.is_null() {
        return true;
    }
    let mut mode = 0;
    // SAFETY: the handle is this process's standard input, which nobody closes; `mode` is writable.
    unsafe { GetFileType(input) == FILE_TYPE_CHAR && GetConsoleMode(input, &raw mut mode) == 0 }
}

pub(crate) fn odd_exit_code(status: ExitStatus) -> u8 {
    match status.code() {
        Some(STATUS_CONTROL_C_EXIT) => Termination::Interrupt.exit_code(),
        _ => 1,
    }
}
