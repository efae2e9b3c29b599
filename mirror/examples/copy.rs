//! The library alone as a program, for `tests/bench`:
//! `copy resolve IMAGES LOCK SOURCE` and `copy run LOCK SOURCE TARGET`, both over plain HTTP.

use std::collections::BTreeMap;

use camino::Utf8Path;
use image_mirror::{Endpoint, ImageList, ImagesLock, MirrorEvent, Observe, Options};

struct Quiet;

impl Observe for Quiet {
    fn event(&self, _event: MirrorEvent) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments[..] {
        ["resolve", images, lock, source] => {
            let wanted = ImageList::read(Utf8Path::new(images))?;
            let options = options(source, source);
            runtime.block_on(image_mirror::resolve(&wanted, None, &options, &Quiet))?.write(Utf8Path::new(lock))?;
        }
        ["run", lock, source, target] => {
            let lock = ImagesLock::read(Utf8Path::new(lock))?;
            println!("{:?}", runtime.block_on(image_mirror::copy(&lock, &options(source, target), &Quiet))?);
        }
        _ => return Err("usage: copy resolve IMAGES LOCK SOURCE | copy run LOCK SOURCE TARGET".into()),
    }
    Ok(())
}

fn options(source: &str, target: &str) -> Options {
    let plain = |host: &str| Endpoint { host: host.to_owned(), plain_http: true, ca: None, anonymous: false };
    let sources = BTreeMap::from([(source.to_owned(), plain(source))]);
    Options { sources, ..Options::to(plain(target)) }
}
