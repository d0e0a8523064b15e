//! Loading an archive as a file and as a stream.

use std::fs::File;
use std::path::Path;

use image::install::Installed;
use image::load::{LoadError, LoadOptions, Source, load};
use image::progress::Silent;
use testkit::{Compression, Image, Layer};

use super::Home;

pub fn from_path(home: &Home, path: &Path) -> Result<Vec<Installed>, LoadError> {
    load(
        &home.store,
        "default",
        Source::Path(path),
        &LoadOptions::default(),
        &Silent,
    )
}

pub fn from_stream(home: &Home, path: &Path) -> Result<Vec<Installed>, LoadError> {
    let mut file = File::open(path).unwrap();
    load(
        &home.store,
        "default",
        Source::Stream(&mut file),
        &LoadOptions::default(),
        &Silent,
    )
}

/// An image with a layer large enough to be spooled when it comes by stream.
pub fn image(name: &str) -> Image {
    let noise: Vec<u8> = (0..400_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    Image::new(name)
        .layer(
            Layer::new()
                .file("base", 0o644, "one")
                .file("noise", 0o644, noise),
        )
        .layer_as(Layer::new().file("top", 0o644, "two"), Compression::Zstd)
}
