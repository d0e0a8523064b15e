//! From the words of a mount to what is mounted: what `strata mount`, the mount helper and the drop-in have in common.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ::mount::fuse::{Helper, Request, is_ours};
use ::mount::overlay::{Overlay, has_a_gap, split_options};
use ::mount::{Mount, MountError};
use fuse::Transport;
use fuse::layers::Paths;
use fuse::options::Options;
use fuse::process::Setup;

use crate::failure::Failure;

/// An overlay as it was asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The value, with absolute paths and every option as given.
    pub(crate) mount: Mount,
    /// Its parts.
    pub(crate) overlay: Overlay,
    /// Its options, understood.
    pub(crate) options: Options,
}

impl Asked {
    /// Reads option strings as mount(8) takes them. `source` is what the mount table shall name.
    pub(crate) fn read(texts: &[String], source: &str) -> Result<Asked, Failure> {
        let words: Vec<String> = texts.iter().flat_map(|text| split_options(text)).collect();
        let mut overlay = Overlay::parse(&words);
        if let Some(list) = words
            .iter()
            .filter_map(|word| word.strip_prefix("lowerdir="))
            .next_back()
            && !list.is_empty()
            && has_a_gap(list)
        {
            return Err(Failure::user(format!("lowerdir={list}: a name is empty")).hint(
                "name them with -o lowerdir=TOP:…:BOTTOM; what stands behind :: is looked at for data alone",
            ));
        }
        let named = |key: &str| words.iter().any(|word| word.starts_with(key));
        if overlay.lower.is_empty() {
            return Err(
                Failure::user("no lower directory is named").hint("name them with -o lowerdir=TOP:…:BOTTOM")
            );
        }
        if named("upperdir=") != named("workdir=") {
            return Err(Failure::user("upperdir and workdir go together")
                .hint("workdir is an empty directory on the file system of upperdir"));
        }
        let options = Options::parse(&overlay.extra).map_err(Failure::user)?;
        let (upper, work) = overlay.writable.take().unzip();
        overlay.lower = absolute(overlay.lower)?;
        overlay.data = absolute(overlay.data)?;
        overlay.writable = absolute(upper.into_iter().chain(work))?
            .try_into()
            .ok()
            .map(|[upper, work]: [_; 2]| (upper, work));
        let mut mount = overlay.to_mount();
        mount.source = source.to_owned();
        Ok(Asked {
            mount,
            overlay,
            options,
        })
    }

    /// What a driver refused, with a hint.
    pub(crate) fn refused(&self, error: impl std::fmt::Display) -> Failure {
        let failure = Failure::user(error);
        match self.options.lacks_userxattr() {
            true => failure.hint("in a user namespace an overlay needs the option userxattr"),
            false if !rustix::process::geteuid().is_root() => {
                failure.hint("an ordinary user mounts where the user is root: strata unshare strata mount …")
            }
            false => failure,
        }
    }

    /// Refuses directories that the kernel's overlay writes to.
    pub(crate) fn refuse_in_use(&self) -> Result<(), Failure> {
        ::mount::fuse::refuse_in_use(&self.mount).map_err(in_use)
    }

    /// The value for the kernel's driver.
    pub(crate) fn for_kernel(&self) -> Mount {
        let attributes = self.options.attribute_words().map(str::to_owned);
        let overlay = Overlay {
            extra: attributes.chain(self.options.kernel.iter().cloned()).collect(),
            ..self.overlay.clone()
        };
        Mount {
            source: self.mount.source.clone(),
            ..overlay.to_mount()
        }
    }
}

/// Upper or work directory are another overlay's.
pub(crate) fn in_use(error: MountError) -> Failure {
    Failure::user(error).hint("two overlays that write to one directory destroy it; unmount the other first")
}

fn absolute(paths: impl IntoIterator<Item = PathBuf>) -> Result<Vec<PathBuf>, Failure> {
    let absolute = |path: PathBuf| match path.to_str() {
        Some(_) => {
            std::path::absolute(&path).map_err(|error| Failure::user(format!("{}: {error}", path.display())))
        }
        None => Err(Failure::user(format!(
            "{}: not UTF-8, which names of layers must be",
            path.display()
        ))),
    };
    paths.into_iter().map(absolute).collect()
}

/// The words of option strings that ask for a remount, without that one.
pub(crate) fn remount_words(texts: &[String]) -> Option<Vec<String>> {
    let words: Vec<String> = texts.iter().flat_map(|text| split_options(text)).collect();
    let (remount, rest): (Vec<_>, _) = words.into_iter().partition(|word| word == "remount");
    (!remount.is_empty()).then_some(rest)
}

/// What the mount table shows of a FUSE mount, which mount(8) hands on.
const OF_THE_TABLE: [&str; 5] = ["user_id=", "group_id=", "rootmode=", "max_read=", "blksize="];

/// Gives the mount at `target` other attributes, to those that it has where `kept`. As with the kernel's overlay by
/// mount(8), every other option is left as it is.
pub(crate) fn remount(target: &Path, words: &[String], kept: bool) -> Result<u8, Failure> {
    let shown = target.display();
    let target = mount_point(target)?;
    let entry = ::mount::table::at(&target).map_err(|error| Failure::user(format!("{shown}: {error}")))?;
    let overlay = |entry: &::mount::table::Entry| entry.kind == "overlay" || is_ours(&entry.kind);
    let Some(entry) = entry.filter(overlay) else {
        return Err(Failure::user(format!("{shown} is no mounted overlay")));
    };
    let mut all = match kept {
        true => split_options(&entry.options),
        false => Vec::new(),
    };
    let described = |word: &&String| !OF_THE_TABLE.iter().any(|key| word.starts_with(key));
    all.extend(Overlay::parse(words).extra.iter().filter(described).cloned());
    let options = Options::parse(&all).map_err(Failure::user)?;
    ::mount::remount::remount(&target, options.attributes).map_err(|error| {
        let failure = Failure::user(&error);
        match &error {
            MountError::Io { error, .. } if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                failure.hint("without an upper directory nothing can be written")
            }
            _ => failure,
        }
    })?;
    Ok(0)
}

/// The mount point as the kernel will see it.
pub(crate) fn mount_point(path: &Path) -> Result<PathBuf, Failure> {
    let target = path
        .canonicalize()
        .map_err(|error| Failure::user(format!("mount point {}: {error}", path.display())))?;
    if !target.is_dir() {
        return Err(Failure::user(format!(
            "mount point {} is no directory",
            path.display()
        )));
    }
    Ok(target)
}

/// This program, as the server of an overlay.
pub(crate) fn helper() -> Helper {
    Helper {
        program: crate::program(),
        args: vec![crate::SERVER.into()],
    }
}

/// What the server is to do.
pub(crate) fn setup(request: &Request) -> Result<Setup, String> {
    let overlay = Overlay::parse(&request.mount.options);
    if !overlay.data.is_empty() {
        return Err("data-only lower directories (a::b) need the kernel's own overlay".to_owned());
    }
    let mut options = Options::parse(&overlay.extra).map_err(|error| error.to_string())?;
    options
        .check(overlay.writable.is_some())
        .map_err(|error| error.to_string())?;
    if request.subtype == crate::DROP_IN {
        options.like_fuse_overlayfs(&overlay.extra);
    }
    Ok(Setup {
        options,
        paths: Paths {
            lower: overlay.lower,
            writable: overlay.writable,
        },
        target: request.target.clone(),
        foreground: false,
        source: OsString::from(&request.mount.source),
        subtype: request.subtype.clone(),
    })
}

/// Serves the overlay: in this process until it is unmounted, or by a process that is left behind. `ready` is called
/// once it is mounted.
pub(crate) fn serve(
    asked: &Asked,
    target: &Path,
    subtype: &str,
    foreground: bool,
    ready: impl FnOnce(Transport),
) -> Result<(), Failure> {
    let mut request = Request::new(&asked.mount, target);
    request.subtype = subtype.to_owned();
    let refused = |error: &dyn std::fmt::Display| match subtype {
        // It takes that option for granted.
        crate::DROP_IN => Failure::user(error),
        _ => asked.refused(error),
    };
    if foreground {
        let setup = Setup {
            foreground: true,
            ..setup(&request).map_err(Failure::user)?
        };
        return fuse::process::serve(&setup, ready).map_err(|error| refused(&error));
    }
    // Said before a process is started for nothing.
    setup(&request).map_err(Failure::user)?;
    let served = ::mount::fuse::attach(&helper(), &request).map_err(|error| refused(&error))?;
    ready(match served.over_io_uring {
        true => Transport::IoUring,
        false => Transport::Device,
    });
    Ok(())
}
