//! Limits for external input: how much of a file is read, how far YAML may expand, and how large a
//! number in a file of the tree may be.
//!
//! A file may be endless (a pipe, a log that nobody stopped), a few aliases may expand to millions
//! of values, and adding a number of seconds that overflows to a clock panics.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::RangeInclusive;
use std::time::Duration;

use camino::Utf8Path;
use image_mirror::yaml::utf8;
pub use image_mirror::yaml::{documents, in_words, parse as yaml};
use indicatif::BinaryBytes;

/// The maximum size in bytes of a settings file: one of the tree, a kubeconfig, a cached answer.
pub const SETTINGS: u64 = 8 << 20;

/// The longest time that a file of the tree may set: a day, in seconds.
pub const DAY: u64 = 86_400;

/// The longest time that a flag may set: a year.
pub const YEAR: Duration = Duration::from_secs(366 * DAY);

/// Reads a file of at most `most` bytes as text.
///
/// # Errors
/// Those of reading; a file that is larger, or the position of what is not UTF-8.
pub fn read(path: &Utf8Path, most: u64) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let message = format!("is larger than {}", BinaryBytes(most));
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, message));
    }
    utf8(bytes).map_err(|place| std::io::Error::new(ErrorKind::InvalidData, place))
}

/// The beginning and the end of a file, and how many bytes in between are left out.
pub fn ends(path: &Utf8Path, first: u64, last: u64) -> std::io::Result<(Vec<u8>, Vec<u8>, u64)> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let (mut begin, mut end) = (Vec::new(), Vec::new());
    (&mut file).take(first).read_to_end(&mut begin)?;
    let left_out = size.saturating_sub(first.saturating_add(last));
    if left_out > 0 {
        file.seek(SeekFrom::Current(i64::try_from(left_out).unwrap_or(i64::MAX)))?;
    }
    file.take(last).read_to_end(&mut end)?;
    Ok((begin, end, left_out))
}

/// Checks that a field's number is plausible.
///
/// # Errors
/// A sentence that names the field, its value, and what is expected.
pub fn within(field: &str, value: u64, expected: RangeInclusive<u64>) -> Result<(), String> {
    if expected.contains(&value) {
        return Ok(());
    }
    Err(format!("{field}: {value}: expected {} to {}", expected.start(), expected.end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8PathBuf;
    use serde_json::Value;

    fn file(content: &[u8]) -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("f")).unwrap();
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn a_file_is_read_up_to_its_bound_and_one_without_end_is_refused() {
        let (_folder, path) = file(b"12345");
        assert_eq!(read(&path, 5).unwrap(), "12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(read("/dev/zero".into(), 1 << 16).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(read("/nowhere".into(), 1).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn both_ends_of_a_file_are_read_and_no_byte_twice() {
        let (_folder, path) = file(b"0123456789");
        for (first, last, expected) in [
            (3, 2, ("012", "89", 5)),
            (5, 5, ("01234", "56789", 0)),
            (8, 8, ("01234567", "89", 0)),
            (0, 3, ("", "789", 7)),
            (20, 0, ("0123456789", "", 0)),
            (u64::MAX, u64::MAX, ("0123456789", "", 0)),
        ] {
            let (begin, end, left_out) = ends(&path, first, last).unwrap();
            let found = (String::from_utf8(begin).unwrap(), String::from_utf8(end).unwrap(), left_out);
            assert_eq!((found.0.as_str(), found.1.as_str(), found.2), expected, "{first} {last}");
        }
    }

    #[test]
    fn aliases_stand_for_what_people_write_and_for_no_bomb() {
        let value: Value = yaml("a: &a {x: 1}\nb: *a\nc: [*a, *a]\n").unwrap();
        assert_eq!(value["c"][1]["x"], 1);
        let mut laughs = "a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for (before, after) in "abcdefgh".chars().zip("bcdefghi".chars()) {
            laughs.push_str(&format!("{after}: &{after} [{}]\n", vec![format!("*{before}"); 9].join(",")));
        }
        assert!(yaml::<Value>(&laughs).is_err());
        assert!(documents(&laughs).is_err());
    }

    #[test]
    fn a_number_out_of_its_range_is_named_with_its_field() {
        assert_eq!(within("a.b", 5, 1..=5), Ok(()));
        assert_eq!(within("a.b", 6, 1..=5), Err("a.b: 6: expected 1 to 5".to_owned()));
    }
}
