//! Media types: what a blob says it is (OCI image-spec `media-types.md`; Docker image manifest version 2 schema 2).

/// An OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// An uncompressed OCI layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// An OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// An OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// A Docker manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A Docker image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

const SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// What a client accepts for a manifest, as the value of `Accept`.
pub(crate) const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A manifest of one image.
pub(crate) fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// A list of manifests.
pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// Docker's first manifest format, given up by Docker itself.
pub(crate) fn is_schema1(media_type: &str) -> bool {
    SCHEMA1.contains(&media_type)
}

/// What a layer's media type says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    /// A file-system layer; its compression is seen in its first bytes, whatever the media type says.
    Known,
    /// A file-system layer that need not be in the registry but at the descriptor's `urls`.
    Foreign,
    /// Encrypted: no key here opens it.
    Encrypted,
    /// Something else.
    Unknown,
}

/// Sorts a layer's media type.
pub(crate) fn layer(media_type: &str) -> Layer {
    const TAR: [&str; 2] = [OCI_LAYER, "application/vnd.docker.image.rootfs.diff.tar"];
    const FOREIGN: [&str; 2] = [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    // Docker writes ".gzip" where OCI writes "+gzip".
    let base = uncompressed(media_type);
    if TAR.contains(&base) {
        Layer::Known
    } else if FOREIGN.contains(&base) {
        Layer::Foreign
    } else if media_type.ends_with("+encrypted") {
        Layer::Encrypted
    } else {
        Layer::Unknown
    }
}

/// The media type of a layer when it is not compressed.
pub(crate) fn uncompressed(media_type: &str) -> &str {
    ["+gzip", "+zstd", ".gzip", ".zstd"]
        .iter()
        .find_map(|suffix| media_type.strip_suffix(suffix))
        .unwrap_or(media_type)
}

/// A layer's media type in OCI's words, for a manifest of OCI's.
pub(crate) fn as_oci(media_type: &str) -> String {
    let name = "application/vnd.docker.image.rootfs.";
    let Some(kind) = media_type.strip_prefix(name) else {
        return media_type.to_owned();
    };
    let (kind, compression) = match kind.rsplit_once('.') {
        Some((kind, compression @ ("gzip" | "zstd"))) => (kind, format!("+{compression}")),
        _ => (kind, String::new()),
    };
    match kind {
        "foreign.diff.tar" => format!("application/vnd.oci.image.layer.nondistributable.v1.tar{compression}"),
        _ => format!("{OCI_LAYER}{compression}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_layers_in_ocis_words() {
        for (docker, oci) in [
            ("application/vnd.docker.image.rootfs.diff.tar", OCI_LAYER),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                OCI_LAYER_GZIP,
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.zstd",
                OCI_LAYER_ZSTD,
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            ),
            (OCI_LAYER_GZIP, OCI_LAYER_GZIP),
        ] {
            assert_eq!(as_oci(docker), oci);
            assert_eq!(layer(docker), layer(oci));
        }
    }

    #[test]
    fn layers() {
        for known in [
            OCI_LAYER,
            OCI_LAYER_GZIP,
            OCI_LAYER_ZSTD,
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
        ] {
            assert_eq!(layer(known), Layer::Known, "{known}");
        }
        assert_eq!(
            layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
            Layer::Foreign
        );
        assert_eq!(
            layer("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"),
            Layer::Foreign
        );
        assert_eq!(
            layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
            Layer::Encrypted
        );
        for unknown in [
            "",
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            "application/wasm",
        ] {
            assert_eq!(layer(unknown), Layer::Unknown, "{unknown}");
        }
    }
}
