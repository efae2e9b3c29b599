//! Feeds parsers real text, mutated real text and arbitrary bytes: none may panic, recurse
//! endlessly, or take memory out of proportion to its input.
//!
//! In the test runs it takes moments. To run it by hand for longer: `SEED=7 ITERATIONS=100000 cargo
//! test -p xtask --lib fuzzing -- --nocapture`, with `PARSER=name` for one of them. `fuzz/` has the
//! same parsers for `cargo fuzz`, which is guided by coverage; `CORPUS=folder` writes the real
//! texts there as its starting corpus.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::Parser;

/// The most memory that a parser may use, in bytes: a base, and an amount per byte read. A list of
/// nothing but brackets takes some hundred bytes for each of them.
const BASE: i64 = 24 << 20;
const EACH: i64 = 1024;

/// Counts the memory held by the current thread.
struct Counting;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    // A thread that is ending no longer has counters.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call is the system allocator's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}

/// Feeds each parser its samples unchanged, input that is hostile to any parser, and this many
/// mutations.
#[track_caller]
pub fn hold(parsers: &[Parser], samples: impl Fn(&str) -> Vec<Vec<u8>>) {
    let (seed, asked) = (variable("SEED").unwrap_or(1), variable("ITERATIONS"));
    let only = std::env::var("PARSER").ok();
    let mut executions = 0;
    for (name, run) in parsers.iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)) {
        let samples = samples(name);
        assert!(!samples.is_empty(), "{name} has no sample");
        keep(name, &samples);
        let mut slowest = (Duration::ZERO, 0);
        let mut largest = 0;
        let mut feed = |input: &[u8], which: &str| {
            let (held, began) = (HELD.get(), Instant::now());
            PEAK.set(held);
            let ended = catch_unwind(AssertUnwindSafe(|| run(input)));
            let took = PEAK.get() - held;
            slowest = slowest.max((began.elapsed(), input.len()));
            largest = largest.max(took);
            executions += 1;
            if ended.is_err() || took > BASE + EACH * input.len() as i64 {
                let path = std::env::temp_dir().join(format!("fuzz-{name}-{seed}"));
                let _ = std::fs::write(&path, input);
                let what = if ended.is_err() { "panicked".to_owned() } else { format!("took {took} bytes") };
                let shown = String::from_utf8_lossy(&input[..input.len().min(2000)]).into_owned();
                panic!("{name} {what} at {which} of SEED={seed}; the input is in {}: {shown:?}", path.display());
            }
        };
        for sample in &samples {
            feed(sample, "a sample");
        }
        let long = if asked.is_some() { 64 << 10 } else { 4 << 10 };
        for input in hostile(long) {
            feed(&input, "a hostile input");
        }
        for n in 0..asked.unwrap_or(60) {
            // Each iteration has its own seed, so that one can be repeated without those before it.
            let mut rng = Rng::with_seed(seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            feed(&mutated(&samples, &mut rng), &format!("iteration {n}"));
        }
        if asked.is_some() {
            eprintln!("{name}: slowest {:?} for {} bytes, at most {} KiB held", slowest.0, slowest.1, largest / 1024);
        }
    }
    eprintln!("{executions} executions, SEED={seed}");
}

fn keep(name: &str, samples: &[Vec<u8>]) {
    let Some(corpus) = std::env::var_os("CORPUS") else { return };
    let folder = std::path::Path::new(&corpus).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for (index, sample) in samples.iter().enumerate() {
        std::fs::write(folder.join(format!("sample-{index}")), sample).unwrap();
    }
}

/// What trips parsers of any kind: depth, and loops within loops.
fn hostile(long: usize) -> Vec<Vec<u8>> {
    const REPEATED: &[&str] = &[
        "[",
        "{\"a\":",
        "- ",
        "a: {",
        "? ",
        "&a ",
        "*a ",
        "!!x ",
        "\"",
        "'",
        "\\",
        "%",
        "%2",
        "@",
        ":",
        "=",
        ",",
        "/",
        "-",
        " ",
        "\n",
        "\r\n",
        "\t",
        "\0",
        "\u{feff}",
        "\u{1b}[",
        "é",
        "\u{fffd}",
        "1",
        "9",
        ".",
        "a",
        "a=b,",
        "a:b@",
        "x y\n",
        "---\n",
        "<<: ",
        "(os error ",
        "Basic ",
        "Bearer a=\"",
        "(",
        "|\n",
        ">\n ",
        "#",
        "::",
    ];
    let mut all: Vec<Vec<u8>> = REPEATED.iter().map(|piece| piece.repeat(long / piece.len()).into_bytes()).collect();
    all.push(Vec::new());
    all.push(laughs("a: &a [lol, lol]\n", |before| format!("[{}]", vec![format!("*{before}"); 9].join(","))));
    all.push(laughs("a: &a {k: v}\n", |before| format!("{{<<: *{before}, x: *{before}, y: *{before}}}")));
    // One long text, repeated many times through aliases.
    let mut heavy = format!("a: &a {}\nb:\n", "x".repeat(long / 2));
    heavy.push_str(&"- *a\n".repeat(long / 10));
    all.push(heavy.into_bytes());
    all
}

fn laughs(first: &str, more: impl Fn(char) -> String) -> Vec<u8> {
    let mut text = first.to_owned();
    for (before, after) in "abcdefghijklmnopqrstuvwxy".chars().zip("bcdefghijklmnopqrstuvwxyz".chars()) {
        text.push_str(&format!("{after}: &{after} {}\n", more(before)));
    }
    text.into_bytes()
}

/// What occurs between, around or in place of values in some format.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "\\",
    "\\u0000",
    "\\ud800",
    ":",
    ": ",
    ",",
    "- ",
    "\n- ",
    "\n  ",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "\0",
    "#",
    "&a ",
    "*a",
    "<<: *a",
    "!!binary ",
    "!!str ",
    "---\n",
    "...\n",
    "? ",
    "| ",
    ">-\n",
    "null",
    "~",
    "true",
    "{}",
    "[]",
    "\"\"",
    "é",
    "日本",
    "\u{1f600}",
    "\u{301}",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "\u{1b}[31m",
    "\u{9b}",
    "%",
    "%zz",
    "%00",
    "@",
    "//",
    "://",
    "/../",
    "..",
    ";",
    "=",
    "\"=\"",
    "$",
    "(",
    ")",
    "|",
    "`",
    "sha256:",
    "Bearer ",
    "Basic ",
];

/// Numbers at the edges of what types hold, and text that is no number.
const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "-1",
    "1",
    "00",
    "007",
    "255",
    "256",
    "32767",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "-2147483649",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "1e3",
    "1e308",
    "1e999",
    "-1e308",
    "0.1",
    "1.",
    ".5",
    "NaN",
    ".nan",
    "inf",
    ".inf",
    "-.inf",
    "0x7fffffffffffffff",
    "0o777",
    "1_000",
    "+1",
    "99999999999999999999999999999999999999999999",
    "1970-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "-009999-01-01T00:00:00Z",
];

fn mutated(samples: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    const LONGEST: usize = 64 << 10;
    let any = |rng: &mut Rng| samples[rng.usize(..samples.len())].clone();
    if rng.u8(..20) == 0 {
        return (0..rng.usize(..300)).map(|_| rng.u8(..)).collect();
    }
    let mut text = any(rng);
    // Mostly small, so that the rest is still parsed to its end.
    for _ in 0..[1, 1, 1, 2, 3, 5, 10][rng.usize(..7)] {
        let at = rng.usize(..=text.len());
        let length = [1, 2, 4, 16, 64, 1024][rng.usize(..6)].min(text.len() - at);
        match rng.u8(..11) {
            0 if at < text.len() => text[at] ^= 1 << rng.u8(..8),
            1 if at < text.len() => text[at] = rng.u8(..),
            2 => drop(text.drain(at..at + length)),
            3 => text.truncate(at),
            4 => {
                let piece = text[at..at + length].to_vec();
                let times = [1, 2, 10, 200][rng.usize(..4)];
                let to = rng.usize(..=text.len());
                text.splice(to..to, piece.repeat(times));
            }
            5 => {
                let other = any(rng);
                let from = rng.usize(..=other.len());
                let to = (from + rng.usize(..200)).min(other.len());
                text.splice(at..at + length, other[from..to].iter().copied());
            }
            6 | 7 => {
                let piece = PIECES[rng.usize(..PIECES.len())].repeat([1, 1, 1, 3, 300][rng.usize(..5)]);
                text.splice(at..at + length.min(2), piece.into_bytes());
            }
            _ => number(&mut text, at, rng),
        }
        text.truncate(LONGEST);
    }
    text
}

/// Replaces the next number after `at`, or the next word, with another number.
fn number(text: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    let digit = |byte: &u8| byte.is_ascii_digit();
    let word = |byte: &u8| byte.is_ascii_alphanumeric();
    let is: &dyn Fn(&u8) -> bool = if rng.bool() { &digit } else { &word };
    let Some(start) = text[at..].iter().position(is).map(|start| at + start) else { return };
    let end = text[start..].iter().position(|byte| !is(byte)).map_or(text.len(), |end| start + end);
    text.splice(start..end, NUMBERS[rng.usize(..NUMBERS.len())].bytes());
}
