//! The bench's images: valid ones (every tool here unpacks or reads them), with incompressible
//! bytes derived from a seed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::path::Path;
use std::sync::Mutex;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::Result;
use crate::wire::Connection;

pub struct Image {
    name: &'static str,
    platforms: Vec<&'static str>,
    /// Of the manifest or index.
    digest: String,
    blobs: Vec<Blob>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blob {
    pub size: u64,
    digest: String,
    repository: String,
}

impl Image {
    pub fn at(&self, registry: &str) -> String {
        format!("{registry}/{}:1", self.repository())
    }

    fn repository(&self) -> String {
        format!("bench/{}", self.name)
    }
}

/// Layers by name and MB (`@` is replaced by the platform's name, giving each its own layer), and
/// whether the manifest is Docker's. Images of the same vendor share layers as real ones do.
type Row = (&'static str, &'static [&'static str], &'static [(&'static str, u64)], bool);
const IMAGES: [Row; 7] = [
    ("database", &["amd64", "arm64"], &[("base-@", 28), ("database-@", 100)], false),
    ("server", &["amd64", "arm64"], &[("base-@", 28), ("server-@", 45)], false),
    ("admin", &["amd64", "arm64"], &[("base-@", 28), ("server-@", 45), ("admin-@", 20)], false),
    ("store", &["amd64"], &[("base-@", 28), ("store-@", 130)], true),
    ("client", &["amd64"], &[("base-@", 28), ("client-@", 60)], true),
    ("cache", &["amd64"], &[("base-@", 28), ("cache-@", 12)], false),
    ("tools", &["amd64"], &[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1), ("f", 1), ("g", 1)], false),
];

/// `images.yaml`, as `mirror` reads it.
pub fn wanted(registry: &str, images: &[Image]) -> String {
    let rows = images.iter().map(|image| {
        let platforms: Vec<String> = image.platforms.iter().map(|arch| format!("linux/{arch}")).collect();
        let (id, repository, platforms) = (image.name, image.repository(), platforms.join(", "));
        format!(
            "- {{id: {id}, image: '{registry}/{repository}:1', target: {repository}, platforms: [{platforms}], why: bench}}\n"
        )
    });
    format!("images:\n{}", rows.collect::<String>())
}

/// All blobs, each once, the largest first.
pub fn blobs(images: &[Image]) -> Vec<Blob> {
    let by_digest: BTreeMap<&str, &Blob> =
        images.iter().flat_map(|image| &image.blobs).map(|blob| (blob.digest.as_str(), blob)).collect();
    let mut blobs: Vec<Blob> = by_digest.into_values().cloned().collect();
    blobs.sort_by(|a, b| b.cmp(a));
    blobs
}

/// Whether the target holds every image as the source does.
pub fn check(target: &str, images: &[Image]) -> Result<()> {
    let mut connection = Connection::open(target)?;
    let accept = [("Accept", [OCI.index, OCI.manifest, DOCKER.manifest].join(", "))];
    for image in images {
        let path = format!("/v2/{}/manifests/1", image.repository());
        let answer = connection.ask("HEAD", &path, &accept.each_ref().map(|(name, value)| (*name, value.as_str())))?;
        if answer.header("docker-content-digest") != Some(&image.digest) {
            return Err(format!("{} is not {}: {}", image.at(target), image.digest, answer.status));
        }
    }
    Ok(())
}

/// Transfers every blob once from registry to registry, without inspecting it.
pub fn relay(source: &str, target: &str, images: &[Image], connections: usize) -> Result<()> {
    let queue = Mutex::new(blobs(images).into_iter());
    let work = || -> Result<()> {
        let (mut from, mut to) = (Connection::open(source)?, Connection::open(target)?);
        loop {
            let next = queue.lock().map_err(|_| "a thread panicked")?.next();
            let Some(blob) = next else { return Ok(()) };
            let upload = to.ask("POST", &format!("/v2/{}/blobs/uploads/", blob.repository), &[])?.expect(202)?;
            let path = format!("/v2/{}/blobs/{}", blob.repository, blob.digest);
            let found = from.ask("GET", &path, &[])?.expect(200)?;
            let put = format!("{}&digest={}", upload.location()?, blob.digest);
            to.tell("PUT", &put, &[], &mut from.body(&found), blob.size)?.expect(201)?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
    })
}

struct Types {
    index: &'static str,
    manifest: &'static str,
    config: &'static str,
    layer: &'static str,
}

const OCI: Types = Types {
    index: "application/vnd.oci.image.index.v1+json",
    manifest: "application/vnd.oci.image.manifest.v1+json",
    config: "application/vnd.oci.image.config.v1+json",
    layer: "application/vnd.oci.image.layer.v1.tar+gzip",
};

const DOCKER: Types = Types {
    index: "application/vnd.docker.distribution.manifest.list.v2+json",
    manifest: "application/vnd.docker.distribution.manifest.v2+json",
    config: "application/vnd.docker.container.image.v1+json",
    layer: "application/vnd.docker.image.rootfs.diff.tar.gzip",
};

struct Layer {
    blob: Blob,
    /// Of the uncompressed archive.
    diff: String,
}

/// Makes the images and pushes them to a registry.
pub fn push(registry: &str, scratch: &Path, percent: u64) -> Result<Vec<Image>> {
    let mut pusher = Pusher { connection: Connection::open(registry)?, layers: BTreeMap::new(), percent };
    let mut images = Vec::new();
    for (name, platforms, layers, docker) in IMAGES {
        let types = if docker { &DOCKER } else { &OCI };
        let mut image = Image { name, platforms: platforms.to_vec(), digest: String::new(), blobs: Vec::new() };
        let mut manifests = Vec::new();
        for arch in platforms {
            manifests.push(pusher.manifest(&mut image, arch, layers, types, scratch)?);
        }
        let (_, top, content_type) = match manifests.as_slice() {
            [_, _, ..] => {
                for (_, bytes, content_type) in &manifests {
                    pusher.put_manifest(&image, &digest(bytes), bytes, content_type)?;
                }
                let described: Vec<_> = manifests
                    .iter()
                    .map(|(arch, bytes, content_type)| {
                        json!({"mediaType": content_type, "size": bytes.len(), "digest": digest(bytes),
                            "platform": {"os": "linux", "architecture": arch}})
                    })
                    .collect();
                let index = json!({"schemaVersion": 2, "mediaType": types.index, "manifests": described});
                ("", index.to_string().into_bytes(), types.index)
            }
            _ => manifests.remove(0),
        };
        image.digest = digest(&top);
        pusher.put_manifest(&image, "1", &top, content_type)?;
        images.push(image);
    }
    Ok(images)
}

struct Pusher {
    connection: Connection,
    layers: BTreeMap<String, Layer>,
    percent: u64,
}

impl Pusher {
    fn manifest(
        &mut self,
        image: &mut Image,
        arch: &'static str,
        layers: &[(&str, u64)],
        types: &Types,
        scratch: &Path,
    ) -> Result<(&'static str, Vec<u8>, &'static str)> {
        let (mut diffs, mut described) = (Vec::new(), Vec::new());
        for (layer, megabytes) in layers {
            let layer = layer.replace('@', arch);
            if !self.layers.contains_key(&layer) {
                let mut file = tempfile::tempfile_in(scratch).map_err(|error| error.to_string())?;
                let made = archive(&layer, megabytes * 10_000 * self.percent, &mut file, &image.repository())
                    .map_err(|error| format!("making a layer: {error}"))?;
                self.put_blob(&made.blob, &mut file)?;
                self.layers.insert(layer.clone(), made);
            }
            let made = &self.layers[&layer];
            if made.blob.repository != image.repository() {
                let (to, from) = (image.repository(), &made.blob.repository);
                let path = format!("/v2/{to}/blobs/uploads/?mount={}&from={from}", made.blob.digest);
                self.connection.ask("POST", &path, &[])?.expect(201)?;
            }
            diffs.push(made.diff.clone());
            described.push(json!({"mediaType": types.layer, "size": made.blob.size, "digest": made.blob.digest}));
            image.blobs.push(made.blob.clone());
        }
        let config = json!({"os": "linux", "architecture": arch, "config": {"Labels": {"bench": image.name}},
            "rootfs": {"type": "layers", "diff_ids": diffs}})
        .to_string();
        let blob =
            Blob { size: config.len() as u64, digest: digest(config.as_bytes()), repository: image.repository() };
        self.put_blob(&blob, &mut config.as_bytes())?;
        let manifest = json!({"schemaVersion": 2, "mediaType": types.manifest, "layers": described,
            "config": {"mediaType": types.config, "size": blob.size, "digest": blob.digest}});
        image.blobs.push(blob);
        Ok((arch, manifest.to_string().into_bytes(), types.manifest))
    }

    fn put_blob(&mut self, blob: &Blob, bytes: &mut dyn Read) -> Result<()> {
        let path = format!("/v2/{}/blobs/uploads/", blob.repository);
        let upload = self.connection.ask("POST", &path, &[])?.expect(202)?;
        let put = format!("{}&digest={}", upload.location()?, blob.digest);
        self.connection.tell("PUT", &put, &[], bytes, blob.size)?.expect(201).map(|_| ())
    }

    fn put_manifest(&mut self, image: &Image, reference: &str, bytes: &[u8], content_type: &str) -> Result<()> {
        let path = format!("/v2/{}/manifests/{reference}", image.repository());
        let headers = [("Content-Type", content_type)];
        self.connection.tell("PUT", &path, &headers, &mut &*bytes, bytes.len() as u64)?.expect(201).map(|_| ())
    }
}

fn digest(bytes: &[u8]) -> String {
    shown(Sha256::new_with_prefix(bytes))
}

fn shown(hash: Sha256) -> String {
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Hashes what is written through it.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// A layer with one file, as gzip without compression. The file is rewound to its start.
fn archive(name: &str, size: u64, file: &mut File, repository: &str) -> std::io::Result<Layer> {
    let packed = Hashed { inner: BufWriter::with_capacity(1 << 20, file.try_clone()?), hash: Sha256::new() };
    let gzip = flate2::write::GzEncoder::new(packed, flate2::Compression::none());
    let mut archive = Hashed { inner: gzip, hash: Sha256::new() };
    archive.write_all(&tar_header(name, size))?;
    let mut state = Sha256::digest(name).iter().take(8).fold(0, |seed: u64, byte| seed << 8 | u64::from(*byte));
    let mut left = size;
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        for word in buffer.chunks_exact_mut(8) {
            word.copy_from_slice(&splitmix(&mut state).to_le_bytes());
        }
        let count = left.min(buffer.len() as u64);
        archive.write_all(&buffer[..count as usize])?;
        left -= count;
    }
    // The file is padded to 512 bytes; two empty blocks end the archive.
    let padding = size.next_multiple_of(512) - size + 1024;
    archive.write_all(&vec![0; padding as usize])?;
    let diff = shown(archive.hash);
    let mut packed = archive.inner.finish()?;
    packed.flush()?;
    let digest = shown(packed.hash);
    drop(packed.inner);
    let size = file.stream_position()?;
    file.rewind()?;
    Ok(Layer { blob: Blob { size, digest, repository: repository.to_owned() }, diff })
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators".
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// POSIX ustar, for one regular file.
fn tar_header(name: &str, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    // The checksum is computed with its own field blank.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
