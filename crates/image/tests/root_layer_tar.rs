//! A layer's tar is had from its blob, or without it from its directory, bit for bit the same.

mod common;

use common::Home;
use common::archive::{from_path, image};
use image::layer_tar::{self, LayerTarError, Origin};
use testkit::Compression;

#[test]
fn from_whichever_is_there() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let home = Home::new();
        let some = image("docker.io/library/some:1").compression(compression);
        let archive = home.dir.path().join("some.tar");
        some.write_oci_archive(&archive);
        from_path(&home, &archive).unwrap();
        let tars = some.build().tars;
        let row = home
            .store
            .find_image("default", "docker.io/library/some:1")
            .unwrap()
            .unwrap();
        let layers = home.store.manifest_layers(&row.manifest.digest).unwrap();
        let lease = home.store.lease("test").unwrap();
        let tar = |place: usize| {
            let mut tar = Vec::new();
            layer_tar::write(&home.store, &lease, &layers[place], &mut tar).map(|from| (from, tar))
        };
        for (place, wanted) in tars.iter().enumerate() {
            assert!(
                layer_tar::open_blob(&home.store, &layers[place])
                    .unwrap()
                    .is_some()
            );
            let (from, got) = tar(place).unwrap();
            assert!(from == Origin::Blob && got == *wanted, "{compression:?}");
        }
        let spare: Vec<_> = home
            .store
            .spare_blobs()
            .unwrap()
            .iter()
            .map(|layer| layer.blob.digest)
            .collect();
        assert_eq!(home.store.drop_blobs(&spare).unwrap().blobs, tars.len() as u64);
        for (place, wanted) in tars.iter().enumerate() {
            assert!(
                layer_tar::open_blob(&home.store, &layers[place])
                    .unwrap()
                    .is_none()
            );
            let (from, got) = tar(place).unwrap();
            assert!(from == Origin::Directory && got == *wanted, "{compression:?}");
        }
        // Damaged, it is not passed on as if it were whole.
        let path = home.store.layer_path(layers[0].layer_n).join("base");
        std::fs::File::create(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"two"))
            .unwrap();
        let error = tar(0).unwrap_err();
        assert!(matches!(error, LayerTarError::Rebuild { .. }), "{error}");
        assert!(error.to_string().contains("base"), "{error}");
    }
}
