//! The contract where an unprivileged user mounts: in a user namespace, with `userxattr`.

use std::sync::atomic::{AtomicBool, Ordering};

static INSIDE: AtomicBool = AtomicBool::new(false);

/// This process is in a user namespace: every scene is mounted with `userxattr` from now on, and the overlay's own
/// attributes are those of the prefix `user.overlay.`.
pub fn enter() {
    INSIDE.store(true, Ordering::Relaxed);
}

/// Whether [`enter`] was called.
pub fn is_inside() -> bool {
    INSIDE.load(Ordering::Relaxed)
}

/// Cases that do not hold on the kernel's overlay there, by the reason.
pub const LEFT_OUT: &[(&str, &[&str])] = &[
    (
        "redirects are not to be had with userxattr: the kernel refuses the option",
        &[
            "lookup::a_relative_redirect_is_followed",
            "lookup::an_absolute_redirect_is_followed",
            "rename::exchange",
            "rename::exchange_with_what_is_beneath",
            "rename::over_an_empty_directory",
            "rename::which_error_comes_first",
            "rename_dir::a_redirect_that_is_too_long",
            "rename_dir::again_and_back",
            "rename_dir::exchanged",
            "rename_dir::into_another_directory",
            "rename_dir::merged_from_several_layers",
            "rename_dir::numbers_stay",
            "rename_dir::of_the_upper_layer_alone",
            "rename_dir::the_old_name_is_free",
            "rename_dir::while_it_is_open",
            "rename_dir::with_redirects",
            "rename_dir::without_redirects",
            "watch::a_directory_before_its_copy_up",
            "attacks::attributes_and_names",
        ],
    ),
    (
        "nor is metacopy",
        &[
            "lookup::metadata_alone_is_copied_up",
            "full::data_that_does_not_fit_beside_its_attributes",
        ],
    ),
    (
        "no device can be made but a whiteout",
        &[
            "create::a_device_works",
            "format::attributes_of_the_mount",
            "lookup::every_kind_is_shown",
            "rename::other_kinds",
            "create::a_whiteout_cannot_be_made",
        ],
    ),
    (
        "no attribute of the kind trusted. can be set",
        &[
            "permissions::a_copy_up_by_a_user",
            "xattrs::by_another_user",
            "xattrs::on_links",
            "xattrs::set_and_remove",
        ],
    ),
    (
        "the other prefix is the overlay's own",
        &["xattrs::the_other_prefix_is_ordinary"],
    ),
    (
        "CAP_LINUX_IMMUTABLE counts in the first user namespace alone",
        &[
            "flags::an_append_only_directory",
            "flags::an_immutable_directory",
            "flags::append_only",
            "flags::immutable",
            "flags::in_the_longer_form",
            "flags::of_a_lower_file",
        ],
    ),
    (
        "without file handles, which take a capability of the first user namespace, links break and numbers change",
        &[
            "create::a_second_name",
            "format::copied_up_things_name_their_origin",
            "links::a_new_name_of_a_lower_file",
            "links::descriptors_of_two_names",
            "links::links_are_counted",
            "links::renames_among_names",
            "links::with_an_index_they_stay_one_file",
            "numbers::a_copy_up_leaves_them",
            "numbers::several_file_systems",
        ],
    ),
    (
        "no block device can be mounted",
        &["full::a_full_disk", "size::reflinks"],
    ),
    ("ids beyond the namespace", &["attributes::chown"]),
    (
        "CAP_FSETID counts less: the kernel's overlay takes set-id bits away",
        &["setid::a_privileged_write_leaves_them"],
    ),
];

/// Whether a case is left out there.
pub fn is_left_out(name: &str) -> bool {
    LEFT_OUT.iter().any(|(_, cases)| cases.contains(&name))
}
