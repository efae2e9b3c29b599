//! Gives the program a digest of its sources, those of its two crates included, so that a record written by one build can be
//! compared with another build.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let mut files = Vec::new();
    for sources in ["src", "../record/src", "../mirror/src"] {
        println!("cargo:rerun-if-changed={sources}");
        collect(Path::new(sources), &mut files);
    }
    files.sort();
    // FNV-1a: it only has to change, not to resist attacks.
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
    for path in files {
        let content = std::fs::read(&path).unwrap_or_default();
        for byte in path.bytes().chain([0]).chain(content) {
            sum = (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    println!("cargo:rustc-env=XTASK_SOURCES={sum:016x}");
}

fn collect(folder: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path.display().to_string());
        }
    }
}
