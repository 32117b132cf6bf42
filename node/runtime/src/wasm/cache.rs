//! Compiled components on disk, by digest. What is loaded is native code, so a file counts only
//! with a MAC made with a key that this node alone has.
//!
//! ```text
//! file: HMAC-SHA-256 over (component's digest, engine's digest, code), 32 bytes, then the code
//! ```

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

const KEY_FILE: &str = "key";
const MAC_BYTES: usize = 32;

/// Names one compiled component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CodeId {
    component: [u8; 32],
    engine: [u8; 32],
}

impl CodeId {
    /// `engine` says what the code was compiled for: version, settings, processor.
    pub(crate) fn new(component: &[u8], engine: &[u8]) -> Self {
        Self { component: Sha256::digest(component).into(), engine: Sha256::digest(engine).into() }
    }

    fn file_name(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("{}-{}.cwasm", hex(&self.component), hex(&self.engine[..8]))
    }
}

/// The folder of compiled components.
#[derive(Debug)]
pub(crate) struct CodeCache {
    dir: PathBuf,
    key: [u8; 32],
}

impl CodeCache {
    /// Opens the folder, making it and its key if they are missing.
    pub(crate) fn open(dir: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(KEY_FILE);
        let key = match std::fs::read(&path) {
            Ok(bytes) => bytes.try_into().ok(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let key = match key {
            Some(key) => key,
            None => make_key(&path)?,
        };
        Ok(Self { dir: dir.to_owned(), key })
    }

    /// The code of `id`, if it is there and was written by this node.
    pub(crate) fn load(&self, id: &CodeId) -> Option<Vec<u8>> {
        let path = self.dir.join(id.file_name());
        let bytes = std::fs::read(&path).ok()?;
        let (mac, code) = bytes.split_at_checked(MAC_BYTES)?;
        if self.mac(id, code).verify_slice(mac).is_err() {
            tracing::warn!(path = %path.display(), "compiled code was not written by this node: ignored");
            return None;
        }
        Some(code.to_vec())
    }

    /// Keeps `code` for the next start. A cache that cannot be written costs time, not more.
    pub(crate) fn store(&self, id: &CodeId, code: &[u8]) {
        let write = || -> std::io::Result<()> {
            let mut file = tempfile_in(&self.dir)?;
            file.1.write_all(&self.mac(id, code).finalize().into_bytes())?;
            file.1.write_all(code)?;
            std::fs::rename(&file.0, self.dir.join(id.file_name()))
        };
        if let Err(error) = write() {
            tracing::warn!(dir = %self.dir.display(), %error, "could not keep compiled code");
        }
    }

    fn mac(&self, id: &CodeId, code: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("any length is a key");
        mac.update(&id.component);
        mac.update(&id.engine);
        mac.update(code);
        mac
    }
}

fn make_key(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut key = [0; 32];
    let mut random = std::fs::File::open("/dev/urandom")?;
    std::io::Read::read_exact(&mut random, &mut key)?;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&key)?;
    Ok(key)
}

/// A file of our own beside the final one, so that a rename makes it whole at once.
fn tempfile_in(dir: &Path) -> std::io::Result<(PathBuf, std::fs::File)> {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = dir.join(format!(".writing-{}-{number}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    Ok((path, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_this_node_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(dir.path()).unwrap();
        let id = CodeId::new(b"component", b"engine");
        assert_eq!(cache.load(&id), None);
        cache.store(&id, b"code");
        let again = CodeCache::open(dir.path()).unwrap();
        assert_eq!(again.load(&id).as_deref(), Some(&b"code"[..]));
        assert_eq!(again.load(&CodeId::new(b"component", b"another")), None);

        let path = dir.path().join(id.file_name());
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, bad).unwrap();
            assert_eq!(cache.load(&id), None, "flipped byte {at}");
        }
        std::fs::write(&path, good).unwrap();
        std::fs::write(dir.path().join(KEY_FILE), [7; 32]).unwrap();
        assert_eq!(CodeCache::open(dir.path()).unwrap().load(&id), None, "another node's key");
    }
}
