//! Feeds one parser of external text, the one that `PARSER` names:
//!
//! `PARSER=kubeconfig cargo +nightly fuzz run parsers fuzz/corpus/kubeconfig`

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static PARSER: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let all = || xtask::fuzzing::PARSERS.iter().chain(image_mirror::fuzzing::PARSERS);
    let names: Vec<&str> = all().map(|(name, _)| *name).collect();
    let wanted = std::env::var("PARSER").unwrap_or_default();
    let found = all().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("PARSER={wanted}: expected one of {}", names.join(", "))).1
});

fuzz_target!(|bytes: &[u8]| (*PARSER)(bytes));
