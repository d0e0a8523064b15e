//! The contract of an overlay, as cases that every driver must pass: the kernel's, which is the reference, and ours.
//!
//! Each case is one rule, and its comment says what it shows. Where the kernel's overlay deviates from what POSIX asks,
//! what the kernel does is expected; a test that fails on the kernel is a wrong test. What our driver does otherwise,
//! on purpose, stands in [`exceptions`], and the case that shows it asks there.
//!
//! A case gets the [`Drivers`], makes a [`Scene`] and looks at it. It runs in a thread with a mount namespace and a
//! umask (022) of its own, so that nothing it mounts is seen elsewhere, or stays. Whatever a case does, its lower
//! directories must be untouched at the end; the scene sees to it.
//!
//! [`for_each_contract_case`](crate::for_each_contract_case) lists the cases, so that a test program can make a test of
//! each.

pub mod driver;
pub mod exceptions;
pub mod scene;
pub mod tree;
pub mod user_namespace;

pub mod lookup;
pub mod readdir;

pub mod durability;
pub mod exec;
pub mod io;
pub mod locks;
pub mod open;

pub mod attributes;
pub mod flags;
pub mod numbers;
pub mod size;
pub mod watch;
pub mod xattrs;

pub mod acl;
pub mod permissions;
pub mod setid;

pub mod create;
pub mod links;
pub mod rename;
pub mod rename_dir;
pub mod unlinked;

pub mod attacks;
pub mod format;
pub mod full;
pub mod names;
pub mod uppers;

pub use driver::{Driver, Drivers, Layers, Refused};
pub use scene::Scene;
pub use tree::Tree;

/// One rule.
pub type Case = fn(&Drivers);

/// Runs one case; panics when the rule does not hold.
pub fn run(name: &str, case: Case, drivers: &Drivers) {
    assert!(
        rustix::process::geteuid().is_root(),
        "overlays are mounted here: run the tests as root"
    );
    apart(name, || case(drivers));
}

/// The full name of one of the overlay's own attributes.
pub fn own(attribute: &str) -> String {
    match user_namespace::is_inside() {
        true => format!("user.overlay.{attribute}"),
        false => format!("trusted.overlay.{attribute}"),
    }
}

/// Runs `act` in a thread with a mount namespace and a umask (022) of its own.
pub fn apart<T: Send>(name: &str, act: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        sys::process::unshare_directories().expect("a thread may have its own directories");
        sys::process::unshare(sys::process::namespaces::MOUNT).expect("root may have its own mounts");
        let private =
            rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).expect("our own mounts");
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        act()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(name.into());
        match thread.spawn_scoped(scope, inside).expect("a thread").join() {
            Ok(answer) => answer,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Hands the list of the cases to a macro, as `subject { case case … } …`: [`contract`](crate::contract)`::subject::case`
/// is a [`Case`](crate::contract::Case).
#[macro_export]
macro_rules! for_each_contract_case {
    ($hand_to:ident) => {
        $hand_to! {
            lookup {
                the_topmost_file_wins directories_merge a_file_ends_the_merge
                a_whiteout_hides_what_is_below an_opaque_directory_hides_what_is_below
                an_opaque_root_hides_nothing whiteouts_of_the_attribute_kind
                a_relative_redirect_is_followed an_absolute_redirect_is_followed
                a_redirect_not_to_be_followed a_path_through_a_file
                links_lead_through_the_merged_view a_name_comes_and_goes
                metadata_alone_is_copied_up every_kind_is_shown
                the_root_is_the_upper_directory
            }
            readdir {
                each_name_once numbers_and_kinds_are_those_of_lstat
                seekdir_returns_to_where_telldir_was seekdir_in_a_directory_of_one_layer
                rewinding_reads_again removing_while_listing_reaches_everything
                a_listing_during_changes_keeps_what_stays
                a_directory_opened_before_its_copy_up a_removed_directory_lists_nothing
                files_are_not_directories nothing_of_the_overlays_own_is_listed
            }
            durability {
                everything_can_be_synced volatile statfs
            }
            exec {
                a_program_runs a_script_runs a_running_program
                a_running_lower_program_is_copied_up set_uid_programs
            }
            io {
                reading_ends_at_the_end writing_beyond_the_end a_large_file_is_copied_up_whole
                an_old_descriptor_sees_later_writes two_descriptors_see_each_other
                odd_sizes_and_places a_shared_map_writes_to_the_file
                a_shared_map_outlives_its_descriptor a_shared_map_sets_the_time a_private_map_changes_nothing
                a_readers_map_is_not_writable a_shared_map_made_before_the_copy_up
                a_map_keeps_an_unlinked_file a_map_follows_the_size sendfile_between_layers
                reading_during_a_copy_up writing_sets_the_times
            }
            locks {
                flock_between_descriptors locks_between_processes locks_of_descriptions
                locks_hold_across_the_copy_up waiting_for_a_lock
                locks_need_the_right_descriptor
            }
            open {
                exclusive_creation creation_of_what_is_there the_umask_applies
                what_is_followed path_descriptors truncation_on_open appending
                many_append_at_once a_file_without_a_name a_file_that_never_gets_a_name
                direct_io directories_are_not_written a_descriptor_does_what_it_was_opened_for
                opening_for_writing_copies_up reopening_by_proc
            }
            attributes {
                chmod chown times the_change_time directories_after_a_copy_up birth_times what_statx_tells access
                of_what_is_missing a_copy_up_keeps_the_rest
            }
            flags {
                attributes_of_an_upper_file append_only immutable an_immutable_directory
                an_append_only_directory of_a_lower_file in_the_longer_form who_may_set_them
            }
            numbers {
                a_copy_up_leaves_them one_device several_file_systems readdir_agrees
                new_things_are_others
            }
            size {
                truncate_both_ways truncate_refuses fallocate_reserves fallocate_makes_zeros
                fallocate_moves fallocate_refuses copies_of_ranges reflinks where_data_is
                holes_survive_the_copy_up
            }
            watch {
                a_directory a_file_before_its_copy_up a_directory_before_its_copy_up
            }
            xattrs {
                set_and_remove create_and_replace sizes private_names_are_hidden_and_escaped
                escapes_come_from_below the_other_prefix_is_ordinary userxattr capabilities
                on_links by_another_user unknown_namespaces
            }
            acl {
                an_access_list_is_obeyed mode_and_list_follow_each_other
                default_lists_are_inherited what_is_refused lists_that_are_not_there named_groups
                default_list_in_a_setgid_directory
            }
            permissions {
                which_bits_count directories_decide_about_names
                searching_and_reading_directories a_copy_up_by_a_user
                removing_and_making_by_a_user attributes_are_the_owners what_takes_privilege
                rights_are_looked_at_on_open
            }
            setid {
                an_unprivileged_write_clears_them a_privileged_write_leaves_them
                a_copy_up_leaves_them every_write_counts setgid_without_group_execution
                setgid_written_by_a_stranger chown_of_nothing chown_clears_them
                setgid_directories setgid_for_strangers sticky_directories
            }
            create {
                what_is_made_is_in_the_upper_directory what_is_there_is_not_made_again
                a_removed_name_is_made_again unlink_leaves_a_whiteout_where_one_is_needed
                the_right_call_for_the_kind rmdir_counts_what_is_shown a_device_works
                a_whiteout_cannot_be_made a_fifo_works a_socket_works targets_of_links
                a_second_name links_do_not_cross_mounts the_directorys_times
            }
            links {
                with_an_index_they_stay_one_file links_are_counted
                without_an_index_a_copy_up_breaks_them a_new_name_of_a_lower_file
                renames_among_names descriptors_of_two_names links_within_the_upper_layer
            }
            rename {
                a_lower_file an_upper_file over_another_file to_a_removed_name other_kinds
                over_the_same_file noreplace exchange exchange_with_what_is_beneath
                whiteout_and_unknown_flags which_error_comes_first over_an_empty_directory
                open_descriptors_go_along the_times
            }
            rename_dir {
                without_redirects with_redirects into_another_directory again_and_back
                the_old_name_is_free exchanged merged_from_several_layers while_it_is_open
                a_redirect_that_is_too_long numbers_stay of_the_upper_layer_alone
            }
            unlinked {
                an_upper_file a_copied_up_file a_lower_file changing_a_lower_file
                a_file_renamed_over one_name_of_two no_name_again a_directory
                the_working_directory two_descriptors
            }
            attacks {
                every_kind_of_write shared_maps attributes_and_names
                old_descriptors_opened_again racing_opens racing_copy_ups links_that_lead_out
            }
            format {
                whiteouts_are_devices directories_over_deleted_things_are_opaque
                copied_up_things_name_their_origin the_work_directory_is_left_empty
                leftovers_are_cleaned_at_mount an_upper_in_use_is_refused nonsense_is_refused
                layers_that_overlap_are_refused
                without_an_upper_directory mounted_read_only mountinfo_names_the_layers
                attributes_of_the_mount
            }
            full {
                a_copy_up_that_does_not_fit data_that_does_not_fit_beside_its_attributes writes_to_a_full_upper no_inodes_left a_full_disk
            }
            names {
                long_names odd_bytes names_that_mean_something_elsewhere deep_paths many_names
                trailing_slashes many_layers
            }
            uppers {
                without_attributes emptied_directories_without_attributes
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    macro_rules! names {
        ($($subject:ident { $($case:ident)* })*) => {
            [$($((stringify!($subject), stringify!($case))),*),*]
        };
    }

    #[test]
    fn every_case_is_in_the_list() {
        let listed: BTreeSet<_> = for_each_contract_case!(names)
            .iter()
            .map(|(subject, case)| format!("{subject}::{case}"))
            .collect();
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/contract");
        let mut written = BTreeSet::new();
        for entry in std::fs::read_dir(here).unwrap() {
            let path = entry.unwrap().path();
            let subject = path.file_stem().unwrap().to_string_lossy().into_owned();
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let case = line
                    .strip_prefix("pub fn ")
                    .and_then(|rest| rest.split_once("(d: &Drivers)"));
                written.extend(case.map(|(case, _)| format!("{subject}::{case}")));
            }
        }
        assert_eq!(listed, written);
    }
}
