//! From the words of a mount to what is mounted: what `strata mount`, the mount helper and the drop-in have in common.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ::mount::Mount;
use ::mount::fuse::{Helper, Request};
use ::mount::overlay::{Overlay, split_options};
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

    /// The value for the kernel's driver.
    pub(crate) fn for_kernel(&self) -> Mount {
        let overlay = Overlay {
            extra: self.options.kernel.clone(),
            ..self.overlay.clone()
        };
        Mount {
            source: self.mount.source.clone(),
            ..overlay.to_mount()
        }
    }
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
    if foreground {
        let setup = Setup {
            foreground: true,
            ..setup(&request).map_err(Failure::user)?
        };
        return fuse::process::serve(&setup, ready).map_err(Failure::user);
    }
    // Said before a process is started for nothing.
    setup(&request).map_err(Failure::user)?;
    let served = ::mount::fuse::attach(&helper(), &request).map_err(Failure::user)?;
    ready(match served.over_io_uring {
        true => Transport::IoUring,
        false => Transport::Device,
    });
    Ok(())
}
