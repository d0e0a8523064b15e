//! `regex-lite` under the name of `regex`, which it agrees with in everything that is used here.
//!
//! The one who asks for `regex` is `oci-spec`, to check one field that no container of ours has. The real crate brings
//! 200 KB of Unicode tables made of pointers, which the dynamic linker corrects in every process that starts: more than
//! half of all it has to correct, and two programs start for every container.

#![forbid(unsafe_code)]

pub use regex_lite::*;
