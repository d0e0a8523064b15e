use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;

fn way(given_up: &dyn Fn() -> bool) -> Way<'_> {
    Way {
        block: 4096,
        durable: true,
        given_up,
    }
}

#[test]
fn holes_stay_holes_and_a_cut_is_exact() {
    let from = tempfile::tempfile().unwrap();
    from.write_all_at(b"begin", 0).unwrap();
    from.write_all_at(b"middle", 4 << 20).unwrap();
    from.set_len(9 << 20).unwrap();
    for length in [u64::MAX, 9 << 20, (4 << 20) + 3, 2, 0] {
        let to = tempfile::tempfile().unwrap();
        copy_data(&from, &to, length, &way(&|| false)).unwrap();
        let expected = length.min(9 << 20);
        assert_eq!(to.metadata().unwrap().len(), expected);
        assert!(to.metadata().unwrap().blocks() <= from.metadata().unwrap().blocks() + 8);
        let mut bytes = [0; 6];
        if expected > 5 << 20 {
            to.read_exact_at(&mut bytes, 4 << 20).unwrap();
            assert_eq!(&bytes, b"middle");
        }
    }
}

#[test]
fn what_is_given_up_ends_with_its_piece() {
    let from = tempfile::tempfile().unwrap();
    from.write_all_at(&vec![1; PIECE as usize + 1], 0).unwrap();
    let to = tempfile::tempfile().unwrap();
    assert_eq!(
        copy_data(&from, &to, u64::MAX, &way(&|| true)).err(),
        Some(Errno::INTR)
    );
    assert!((1..=PIECE).contains(&to.metadata().unwrap().len()));
}
