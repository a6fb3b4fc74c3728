//! The cache directory as one caller has it open, and the way from it to an entry's payload and tag.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cachelock_platform::{Dir, FileId, GUEST, Metadata, Quoted, Shown};

use crate::context::Context;
use crate::control::{Control, TAGS, check_trust, dir_error, found, open_or_create_dir};
use crate::error::{Error, Result};
use crate::name::{CONTROL_DIR, EntryName};

pub(crate) struct Root {
    pub(crate) dir: Arc<dyn Dir>,
    metadata: Metadata,
    /// The directory of the tags, once somebody has needed it. It may have lost its name since: whoever finds nothing in
    /// it, or what does not fit, opens it anew before believing that.
    tags: Mutex<Option<Arc<dyn Dir>>>,
    remote: OnceLock<bool>,
}

impl Root {
    /// `None` if there is no such directory.
    pub(crate) fn open_for_reading(cx: &Context) -> Result<Option<Arc<Self>>> {
        match found(cx.platform.open_dir(&cx.path))
            .map_err(|error| dir_error("open", &cx.path, error))?
        {
            Some(dir) => Self::new(cx, dir).map(Some),
            None => Ok(None),
        }
    }

    /// Creates the directory if it is missing, and refuses one that others may write to.
    pub(crate) fn open_for_writing(cx: &Context) -> Result<Arc<Self>> {
        let root = match Self::open_for_reading(cx)? {
            Some(root) => root,
            None => Self::create(cx)?,
        };
        check_trust(cx, &cx.path, &root.metadata)?;
        Ok(root)
    }

    fn create(cx: &Context) -> Result<Arc<Self>> {
        let create = |error: io::Error| match error.kind() {
            // Nothing was found there.
            io::ErrorKind::AlreadyExists => {
                Error::not_a_file(&cx.path, "is a link that leads nowhere")
            }
            _ => dir_error("create", &cx.path, error),
        };
        cx.platform.create_dir_all(&cx.path).map_err(create)?;
        let dir = cx
            .platform
            .open_dir(&cx.path)
            .map_err(|error| dir_error("open", &cx.path, error))?;
        Self::new(cx, dir)
    }

    fn new(cx: &Context, dir: Arc<dyn Dir>) -> Result<Arc<Self>> {
        let metadata = dir
            .metadata()
            .map_err(|error| Error::io("look at", &*cx.path, error))?;
        Ok(Arc::new(Root {
            dir,
            metadata,
            tags: Mutex::new(None),
            remote: OnceLock::new(),
        }))
    }

    pub(crate) fn id(&self) -> FileId {
        self.metadata.id
    }

    /// Whether what this system knows of the files may be older than what they are. So it may be where that cannot be told.
    pub(crate) fn is_remote(&self) -> bool {
        let is_local = || self.dir.file_system().is_ok_and(|found| !found.remote);
        match GUEST {
            // It seldom asks.
            true => !is_local(),
            false => *self.remote.get_or_init(|| !is_local()),
        }
    }

    /// For a reader that found a tag which is not its payload's: the way to the tags is opened anew.
    pub(crate) fn forget_tags(&self) {
        *self.known_tags() = None;
    }

    fn known_tags(&self) -> MutexGuard<'_, Option<Arc<dyn Dir>>> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The control directory, created if it is missing.
    pub(crate) fn control(&self, cx: &Arc<Context>) -> Result<Control> {
        Control::open_or_create(cx, &*self.dir, &self.metadata)
    }

    /// The control directory if there is one: for readers, who change nothing.
    pub(crate) fn control_if_there(&self, cx: &Arc<Context>) -> Result<Option<Control>> {
        let opened = found(self.dir.open_dir(CONTROL_DIR));
        let dir = opened.map_err(|error| {
            dir_error(
                "open the control directory",
                &cx.path.join(CONTROL_DIR),
                error,
            )
        })?;
        let Some(dir) = dir else {
            return Ok(None);
        };
        let id = dir
            .metadata()
            .map_err(|error| Error::io("look at", cx.path.join(CONTROL_DIR), error))?
            .id;
        Ok(Some(Control {
            cx: cx.clone(),
            dir,
            id,
            remote: false,
            any_owner: true,
        }))
    }

    /// The folder of the entry's payload; `None` if it does not exist.
    pub(crate) fn folder(&self, cx: &Context, name: &EntryName) -> Result<Option<Arc<dyn Dir>>> {
        let mut dir = self.dir.clone();
        for (folder, way) in name.folders() {
            match found(dir.open_dir(folder)).map_err(|error| folder_error(cx, name, way, error))? {
                Some(opened) => dir = opened,
                None => return Ok(None),
            }
            refuse_cache_in_cache(&*dir, name, folder)?;
        }
        Ok(Some(dir))
    }

    /// The folder of the entry's payload, created if it is missing.
    pub(crate) fn folder_or_create(&self, cx: &Context, name: &EntryName) -> Result<Arc<dyn Dir>> {
        let mut dir = self.dir.clone();
        for (folder, way) in name.folders() {
            dir = self
                .enter(&*dir, folder)
                .map_err(|error| folder_error(cx, name, way, error))?;
            refuse_cache_in_cache(&*dir, name, folder)?;
            if GUEST || cx.options.allow_shared {
                continue;
            }
            let metadata = dir.metadata();
            let metadata = metadata.map_err(|error| folder_error(cx, name, way, error))?;
            check_trust(cx, &cx.path.join(way), &metadata)?;
        }
        Ok(dir)
    }

    /// The folder of the entry's tag; `None` if it does not exist. `anew` opens the way to it once more.
    pub(crate) fn tag_folder(
        &self,
        cx: &Context,
        name: &EntryName,
        anew: bool,
    ) -> Result<Option<Arc<dyn Dir>>> {
        let open = |parent: &dyn Dir, name: &str, path: &dyn Fn() -> PathBuf| {
            found(parent.open_dir(name)).map_err(|error| dir_error("open", &path(), error))
        };
        // Its own statement: the guard must be gone before the other arm locks again.
        let known = if anew {
            None
        } else {
            self.known_tags().clone()
        };
        let mut dir = match known {
            Some(tags) => tags,
            None => {
                let Some(control) = open(&*self.dir, CONTROL_DIR, &|| cx.path.join(CONTROL_DIR))?
                else {
                    return Ok(None);
                };
                let Some(tags) = open(&*control, TAGS, &|| tags_path(cx))? else {
                    return Ok(None);
                };
                *self.known_tags() = Some(tags.clone());
                tags
            }
        };
        for (folder, way) in name.folders() {
            match found(dir.open_dir(folder)).map_err(|error| tag_error("open", cx, way, error))? {
                Some(opened) => dir = opened,
                None => return Ok(None),
            }
        }
        Ok(Some(dir))
    }

    /// The folder of the entry's tag, created if it is missing.
    pub(crate) fn tag_folder_or_create(
        &self,
        control: &Control,
        name: &EntryName,
    ) -> Result<Arc<dyn Dir>> {
        let cx = &*control.cx;
        let mut dir = self
            .enter(&*control.dir, TAGS)
            .map_err(|error| dir_error("create", &tags_path(cx), error))?;
        for (folder, way) in name.folders() {
            dir = self
                .enter(&*dir, folder)
                .map_err(|error| tag_error("create", cx, way, error))?;
        }
        Ok(dir)
    }

    fn enter(&self, parent: &dyn Dir, name: &str) -> io::Result<Arc<dyn Dir>> {
        let there = found(parent.open_dir(name))?;
        there.map_or_else(|| open_or_create_dir(parent, name, &self.metadata), Ok)
    }
}

fn refuse_cache_in_cache(dir: &dyn Dir, name: &EntryName, folder: &str) -> Result<()> {
    match dir.glance(CONTROL_DIR) {
        Ok(_) => Err(Error::invalid_name(
            name.as_str(),
            format!(
                "its folder {} is a cache of its own, as it has a {CONTROL_DIR}",
                Quoted(folder)
            ),
        )),
        Err(_) => Ok(()),
    }
}

/// Of a folder on the way to a payload.
fn folder_error(cx: &Context, name: &EntryName, way: &str, error: io::Error) -> Error {
    let path = cx.path.join(way);
    if error.kind() == io::ErrorKind::NotADirectory {
        let reason = format!("{} is not a folder (an entry, or a link)", Shown(&path));
        return Error::invalid_name(name.as_str(), reason);
    }
    Error::io("open", path, error)
}

/// The same for a tag.
fn tag_error(action: &'static str, cx: &Context, way: &str, error: io::Error) -> Error {
    let path = tags_path(cx).join(way);
    if error.kind() == io::ErrorKind::NotADirectory {
        let reason =
            "is an entry's tag (of one deleted by hand, or known to be absent), and no folder";
        return Error::not_a_file(&path, reason);
    }
    Error::io(action, path, error)
}

/// The path of an entry's tag, for messages.
pub(crate) fn tag_path(cx: &Context, name: &EntryName) -> PathBuf {
    tags_path(cx).join(name.as_str())
}

fn tags_path(cx: &Context) -> PathBuf {
    cx.path.join(CONTROL_DIR).join(TAGS)
}
