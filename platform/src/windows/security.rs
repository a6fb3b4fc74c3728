//! Whose a file is, who may write to it, and files that are this user's alone.
//!
//! Windows has no permission bits but a list of who may do what. Two things are made of it here:
//!
//! - A file that is asked for without bits for others gets a list of its own with one entry, this user, and inherits nothing.
//!   All other files inherit what their directory hands down.
//! - [`Metadata::shared`](crate::Metadata::shared): the list lets somebody write who is neither the owner nor this user nor
//!   an administrator, who may do so anyway.
//!
//! An owner that is no person (administrators' files belong to their group; a profile directory to the system) says nothing
//! about whose an object is: [`Owner::Unknown`].

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr;
use std::sync::OnceLock;

use windows_sys::Win32::Foundation::{
    ERROR_INSUFFICIENT_BUFFER, GENERIC_ALL, GENERIC_WRITE, HANDLE,
};
use windows_sys::Win32::Security::{
    ACCESS_ALLOWED_ACE, ACE_HEADER, ACL, ACL_REVISION, AddAccessAllowedAce,
    DACL_SECURITY_INFORMATION, EqualSid, GetAce, GetKernelObjectSecurity, GetLengthSid,
    GetSecurityDescriptorDacl, GetSecurityDescriptorOwner, GetSidSubAuthority,
    GetSidSubAuthorityCount, GetTokenInformation, INHERIT_ONLY_ACE, InitializeAcl,
    InitializeSecurityDescriptor, IsValidSid, IsWellKnownSid, OWNER_SECURITY_INFORMATION, PSID,
    SE_DACL_PROTECTED, SECURITY_DESCRIPTOR, SetSecurityDescriptorControl,
    SetSecurityDescriptorDacl, TOKEN_QUERY, TOKEN_USER, TokenUser, WELL_KNOWN_SID_TYPE,
    WinBuiltinAdministratorsSid, WinCreatorOwnerRightsSid, WinLocalSystemSid,
};
use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_ALL_ACCESS, FILE_APPEND_DATA, FILE_DELETE_CHILD, FILE_WRITE_DATA, WRITE_DAC,
    WRITE_OWNER,
};
use windows_sys::Win32::System::SystemServices::{
    ACCESS_ALLOWED_ACE_TYPE, SECURITY_DESCRIPTOR_REVISION,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use crate::Owner;

/// What lets somebody change a file or a directory, or who may.
const WRITES: u32 = FILE_WRITE_DATA
    | FILE_APPEND_DATA
    | FILE_DELETE_CHILD
    | DELETE
    | WRITE_DAC
    | WRITE_OWNER
    | GENERIC_WRITE
    | GENERIC_ALL;

/// Whose an object is, and whether others may write to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) owner: Owner,
    pub(super) shared: bool,
}

impl Access {
    /// Where nothing can be found out, as on FAT.
    pub(super) const UNKNOWN: Access = Access {
        owner: Owner::Unknown,
        shared: false,
    };
}

/// What the security descriptor of `object` says; it must be open for reading that.
pub(super) fn access(object: BorrowedHandle<'_>) -> io::Result<Access> {
    let descriptor = descriptor(object)?;
    let pointer = descriptor.as_ptr().cast_mut().cast::<c_void>();
    let mut owner: PSID = ptr::null_mut();
    let mut defaulted = 0;
    // SAFETY: `pointer` is to a descriptor that the system has filled in; the others are writable.
    check(unsafe { GetSecurityDescriptorOwner(pointer, &raw mut owner, &raw mut defaulted) })?;
    let mut dacl: *mut ACL = ptr::null_mut();
    let mut present = 0;
    // SAFETY: as above.
    check(unsafe {
        GetSecurityDescriptorDacl(pointer, &raw mut present, &raw mut dacl, &raw mut defaulted)
    })?;
    let me = user()?;
    if owner.is_null() {
        return Ok(Access::UNKNOWN);
    }
    let whose = if equal(owner, me.as_psid()) {
        Owner::Me
    } else if is_privileged(owner) {
        Owner::Unknown
    } else {
        Owner::Other(number(owner))
    };
    let shared = may_others(WRITES, dacl, owner, me.as_psid());
    Ok(Access {
        owner: whose,
        shared,
    })
}

/// Owner and list of `object`, as one block that refers to itself by offsets.
fn descriptor(object: BorrowedHandle<'_>) -> io::Result<Vec<u64>> {
    let wanted = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    // Enough for some ten entries.
    let mut buffer = vec![0_u64; 64];
    loop {
        let mut needed = 0;
        let len = u32::try_from(size_of_val(&buffer[..])).unwrap_or(u32::MAX);
        let to = buffer.as_mut_ptr().cast::<c_void>();
        // SAFETY: `object` is open, `to` has `len` writable bytes, and `needed` is writable.
        let done = unsafe {
            GetKernelObjectSecurity(object.as_raw_handle(), wanted, to, len, &raw mut needed)
        };
        match check(done) {
            Ok(()) => return Ok(buffer),
            Err(error)
                if error.raw_os_error() == Some(ERROR_INSUFFICIENT_BUFFER.cast_signed())
                    && needed > len =>
            {
                buffer.resize((needed as usize).div_ceil(8), 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether `dacl` lets somebody do any of `what` who could not anyway. Entries that deny are not weighed against it.
fn may_others(what: u32, dacl: *const ACL, owner: PSID, me: PSID) -> bool {
    // No list at all lets everybody do everything.
    if dacl.is_null() {
        return true;
    }
    // SAFETY: `dacl` is a list inside of a descriptor that the system has filled in.
    let count = unsafe { (*dacl).AceCount };
    (0..u32::from(count)).any(|index| {
        let mut entry: *mut c_void = ptr::null_mut();
        // SAFETY: `dacl` as above, `index` is below its count, and `entry` is writable.
        if unsafe { GetAce(dacl, index, &raw mut entry) } == 0 {
            return true;
        }
        // SAFETY: each entry begins with a header.
        let header = unsafe { *entry.cast::<ACE_HEADER>() };
        let only_handed_down = u32::from(header.AceFlags) & INHERIT_ONLY_ACE != 0;
        if u32::from(header.AceType) != ACCESS_ALLOWED_ACE_TYPE || only_handed_down {
            return false;
        }
        let entry = entry.cast::<ACCESS_ALLOWED_ACE>();
        // SAFETY: an entry of this type is that structure, and what it is for begins at its last field.
        let (mask, who) = unsafe { ((*entry).Mask, (&raw mut (*entry).SidStart).cast::<c_void>()) };
        mask & what != 0
            && !equal(who, owner)
            && !equal(who, me)
            && !is_privileged(who)
            && !is_well_known(who, WinCreatorOwnerRightsSid)
    })
}

fn equal(one: PSID, other: PSID) -> bool {
    // SAFETY: both callers pass identifiers of the system's, or the one of this process's token.
    unsafe { EqualSid(one, other) != 0 }
}

/// Who may do everything anyway, and is nobody in particular.
fn is_privileged(who: PSID) -> bool {
    is_well_known(who, WinBuiltinAdministratorsSid) || is_well_known(who, WinLocalSystemSid)
}

fn is_well_known(who: PSID, kind: WELL_KNOWN_SID_TYPE) -> bool {
    // SAFETY: `who` is an identifier of the system's.
    unsafe { IsWellKnownSid(who, kind) != 0 }
}

/// The last part of an identifier, by which users of one machine differ.
fn number(who: PSID) -> u32 {
    // SAFETY: `who` is an identifier of the system's, checked to be one; its last part is below its count.
    unsafe {
        if IsValidSid(who) == 0 {
            return 0;
        }
        match *GetSidSubAuthorityCount(who) {
            0 => 0,
            count => *GetSidSubAuthority(who, u32::from(count) - 1),
        }
    }
}

/// The user that this process acts as.
struct User {
    /// A `TOKEN_USER`, and what it points to.
    info: Vec<u64>,
}

impl User {
    fn ask() -> io::Result<Self> {
        let mut token: HANDLE = ptr::null_mut();
        // SAFETY: the pseudo-handle of this process needs no care; `token` is writable.
        check(unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) })?;
        // SAFETY: the call has succeeded, so `token` is open, and nobody else has it.
        let token = unsafe { OwnedHandle::from_raw_handle(token) };
        // More than the longest identifier takes.
        let mut info = vec![0_u64; 32];
        let len = u32::try_from(size_of_val(&info[..])).unwrap_or(0);
        let to = info.as_mut_ptr().cast::<c_void>();
        let mut needed = 0;
        // SAFETY: `token` is open, `to` has `len` writable bytes, aligned for the structure, and `needed` is writable.
        check(unsafe {
            GetTokenInformation(token.as_raw_handle(), TokenUser, to, len, &raw mut needed)
        })?;
        Ok(User { info })
    }

    fn as_psid(&self) -> PSID {
        // SAFETY: `ask` has filled in the structure at the start of `info`, which never moves.
        unsafe { (*self.info.as_ptr().cast::<TOKEN_USER>()).User.Sid }
    }
}

/// Asked once: a process does not change its user.
fn user() -> io::Result<&'static User> {
    static USER: OnceLock<User> = OnceLock::new();
    if let Some(user) = USER.get() {
        return Ok(user);
    }
    let user = User::ask()?;
    Ok(USER.get_or_init(|| user))
}

/// The security descriptor of a file that is this user's alone.
pub(super) struct Private {
    descriptor: Box<SECURITY_DESCRIPTOR>,
    /// What the descriptor points to.
    _dacl: Vec<u64>,
}

// SAFETY: the pointers in the descriptor are to memory that it owns, and nothing is written to after its making.
unsafe impl Send for Private {}
// SAFETY: as above.
unsafe impl Sync for Private {}

impl Private {
    /// Made once.
    pub(super) fn get() -> io::Result<&'static Self> {
        static PRIVATE: OnceLock<Private> = OnceLock::new();
        if let Some(private) = PRIVATE.get() {
            return Ok(private);
        }
        let private = Private::new(user()?)?;
        Ok(PRIVATE.get_or_init(|| private))
    }

    fn new(user: &User) -> io::Result<Self> {
        let me = user.as_psid();
        // SAFETY: `me` is a valid identifier.
        let sid = unsafe { GetLengthSid(me) } as usize;
        let len = size_of::<ACL>() + size_of::<ACCESS_ALLOWED_ACE>() + sid;
        let mut dacl = vec![0_u64; len.div_ceil(8)];
        let list = dacl.as_mut_ptr().cast::<ACL>();
        let len = u32::try_from(size_of_val(&dacl[..])).unwrap_or(0);
        let mut descriptor = Box::new(SECURITY_DESCRIPTOR::default());
        let this = (&raw mut *descriptor).cast::<c_void>();
        // SAFETY: `list` has `len` writable bytes, aligned, with room for one entry for `me`; `this` is a writable
        // descriptor, and the list that it is given lives as long as it does.
        unsafe {
            check(InitializeAcl(list, len, ACL_REVISION))?;
            check(AddAccessAllowedAce(list, ACL_REVISION, FILE_ALL_ACCESS, me))?;
            check(InitializeSecurityDescriptor(
                this,
                SECURITY_DESCRIPTOR_REVISION,
            ))?;
            check(SetSecurityDescriptorDacl(this, 1, list, 0))?;
            check(SetSecurityDescriptorControl(
                this,
                SE_DACL_PROTECTED,
                SE_DACL_PROTECTED,
            ))?;
        }
        Ok(Private {
            descriptor,
            _dacl: dacl,
        })
    }

    pub(super) fn as_ptr(&self) -> *const SECURITY_DESCRIPTOR {
        &raw const *self.descriptor
    }
}

/// What Win32 says: zero is failure.
pub(super) fn check(done: i32) -> io::Result<()> {
    match done {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::windows::fs::OpenOptionsExt as _;
    use std::os::windows::io::AsHandle;

    use windows_sys::Win32::Security::SetKernelObjectSecurity;
    use windows_sys::Win32::Storage::FileSystem::FILE_READ_DATA;

    use super::*;
    use crate::{Access as How, native};

    /// What others may do with a file made with these permission bits: whether they may read it, and what is made of it all.
    fn made(mode: u32, open_up: bool) -> (bool, Access) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let made = native().open_dir(dir.path()).expect("it was just made");
        made.open("file", How::CreateNew(mode)).expect("it is new");
        let mut options = std::fs::OpenOptions::new();
        options.access_mode(GENERIC_ALL);
        let file = options.open(dir.path().join("file")).expect("it is ours");
        if open_up {
            let mut all = SECURITY_DESCRIPTOR::default();
            let all = (&raw mut all).cast::<c_void>();
            // SAFETY: `all` is writable and lives until the end of this block; it is given no list, which lets everybody in.
            let opened = unsafe {
                check(InitializeSecurityDescriptor(
                    all,
                    SECURITY_DESCRIPTOR_REVISION,
                ))
                .and_then(|()| check(SetSecurityDescriptorDacl(all, 1, ptr::null(), 0)))
                .and_then(|()| {
                    let what = DACL_SECURITY_INFORMATION;
                    check(SetKernelObjectSecurity(file.as_raw_handle(), what, all))
                })
            };
            opened.expect("it is ours");
        }
        let found = descriptor(file.as_handle()).expect("readable");
        let (mut present, mut defaulted) = (0, 0);
        let mut dacl: *mut ACL = ptr::null_mut();
        // SAFETY: the descriptor was filled in by the system; the others are writable.
        check(unsafe {
            GetSecurityDescriptorDacl(
                found.as_ptr().cast_mut().cast::<c_void>(),
                &raw mut present,
                &raw mut dacl,
                &raw mut defaulted,
            )
        })
        .expect("a list");
        let me = user().expect("everybody is somebody").as_psid();
        let access = access(file.as_handle()).expect("readable");
        (may_others(FILE_READ_DATA, dacl, me, me), access)
    }

    #[test]
    fn a_private_file_is_this_users_alone() {
        let mine = Access {
            owner: Owner::Me,
            shared: false,
        };
        assert_eq!(made(0o600, false), (false, mine));
        assert_eq!(made(0o700, false), (false, mine));
    }

    #[test]
    fn what_everybody_may_write_is_shared() {
        let (_, access) = made(0o666, false);
        assert!(!access.shared, "{access:?}");
        let (read, access) = made(0o666, true);
        assert!(read && access.shared, "{access:?}");
    }
}
