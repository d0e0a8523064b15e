//! The images that tests are made with are images to others too: skopeo reads every form.

use std::process::Command;

use testkit::{Compression, Image, Layer};

#[test]
fn others_read_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let image = Image::busybox()
            .layer(
                Layer::new()
                    .whiteout("etc/group")
                    .dir("var", 0o755)
                    .opaque("var")
                    .file("new", 0o644, "new"),
            )
            .compression(compression);
        image.write_layout(&path("layout"));
        image.write_oci_archive(&path("oci.tar"));
        image.write_docker_archive(&path("docker.tar"));
        for source in [
            "oci:layout:latest",
            "oci-archive:oci.tar:latest",
            "docker-archive:docker.tar",
        ] {
            let copied = Command::new("skopeo")
                .args([
                    "--insecure-policy",
                    "copy",
                    source,
                    &format!("dir:{}", path("copy").display()),
                ])
                .current_dir(dir.path())
                .output()
                .expect("skopeo is installed");
            assert!(
                copied.status.success(),
                "{source}: {}",
                String::from_utf8_lossy(&copied.stderr)
            );
        }
        std::fs::remove_dir_all(path("layout")).unwrap();
    }
}
