//! Keys and objects in one file of an archive: entry after entry, each with its name, when it ends, and what is in it.
//!
//! An entry is the length of its name (4 bytes, big endian), the name, the moment at which it ends in Unix milliseconds
//! (8 bytes; -1: never), the length of its content (8 bytes) and the content. Never reads or writes a name outside the
//! tenant's prefixes.

use crate::archive::{self, ArchivedBeside, failed, hex, unfit};
use crate::{Archives, MoveError};
use async_compression::tokio::{bufread::ZstdDecoder, write::ZstdEncoder};
use bytes::Bytes;
use object_store::buffered::{BufReader, BufWriter};
use object_store::path::Path;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// No name of a key or an object is longer.
const NAME_MOST: usize = 1 << 20;
const CHUNK_BYTES: usize = 256 << 10;
const WRITING: &str = "writing an archive";

/// What stands before an entry's content.
pub(super) struct Entry {
    pub name: Vec<u8>,
    /// Unix milliseconds.
    pub ends_ms: Option<i64>,
    pub bytes: u64,
}

/// A pack that is being written.
pub(super) struct Packing {
    out: ZstdEncoder<BufWriter>,
    digest: Sha256,
    bytes: u64,
    many: u64,
    file: String,
}

impl Packing {
    pub fn begin(store: &Archives, at: &Path, file: &str) -> Self {
        let out = archive::create(store, at.clone().join(file));
        Self { out, digest: Sha256::new(), bytes: 0, many: 0, file: file.to_owned() }
    }

    pub async fn entry(&mut self, entry: &Entry) -> Result<(), MoveError> {
        self.many += 1;
        let length = u32::try_from(entry.name.len()).map_err(|_| unfit("a name is too long".to_owned()))?;
        self.content(&length.to_be_bytes()).await?;
        self.content(&entry.name).await?;
        self.content(&entry.ends_ms.unwrap_or(-1).to_be_bytes()).await?;
        self.content(&entry.bytes.to_be_bytes()).await
    }

    pub async fn content(&mut self, part: &[u8]) -> Result<(), MoveError> {
        self.digest.update(part);
        self.bytes += part.len() as u64;
        self.out.write_all(part).await.map_err(|error| failed(WRITING)(error.into()))
    }

    pub async fn end(mut self, prefixes: Vec<String>) -> Result<ArchivedBeside, MoveError> {
        self.out.shutdown().await.map_err(|error| failed(WRITING)(error.into()))?;
        let sha256 = hex(&self.digest.finalize());
        Ok(ArchivedBeside { prefixes, many: self.many, bytes: self.bytes, file: self.file, sha256 })
    }
}

/// A pack that is being read.
pub(super) struct Unpacking<'a> {
    pack: &'a ArchivedBeside,
    from: ZstdDecoder<BufReader>,
    digest: Sha256,
    left: u64,
    /// Content of the last entry that was not read yet.
    content: u64,
}

impl<'a> Unpacking<'a> {
    pub async fn begin(pack: &'a ArchivedBeside, store: &Archives, at: &Path) -> Result<Self, MoveError> {
        let from = archive::open(store, &at.clone().join(pack.file.clone())).await?;
        Ok(Self { pack, from, digest: Sha256::new(), left: pack.many, content: 0 })
    }

    fn changed(&self) -> MoveError {
        unfit(format!("`{}` is not what its manifest says: it was damaged or changed", self.pack.file))
    }

    async fn exactly(&mut self, many: usize) -> Result<Vec<u8>, MoveError> {
        let mut bytes = vec![0; many];
        self.from.read_exact(&mut bytes).await.map_err(|_| self.changed())?;
        self.digest.update(&bytes);
        Ok(bytes)
    }

    async fn number(&mut self) -> Result<i64, MoveError> {
        let bytes = self.exactly(8).await?;
        Ok(i64::from_be_bytes(bytes.try_into().expect("eight were read")))
    }

    /// The next entry, of which the content has to be read; none after the last one, when all was as it should be.
    pub async fn next(&mut self) -> Result<Option<Entry>, MoveError> {
        while self.part().await?.is_some() {}
        if self.left == 0 {
            let mut rest = [0; 1];
            let over = self.from.read(&mut rest).await.map_err(|_| self.changed())? == 0;
            let same = hex(&std::mem::take(&mut self.digest).finalize()) == self.pack.sha256;
            return if over && same { Ok(None) } else { Err(self.changed()) };
        }
        self.left -= 1;
        let length = self.exactly(4).await?;
        let length = u32::from_be_bytes(length.try_into().expect("four were read")) as usize;
        if length > NAME_MOST {
            return Err(self.changed());
        }
        let name = self.exactly(length).await?;
        let ends_ms = self.number().await?;
        let bytes = u64::try_from(self.number().await?).map_err(|_| self.changed())?;
        if !self.pack.prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes())) {
            return Err(unfit(format!("`{}` has names that are not the tenant's", self.pack.file)));
        }
        self.content = bytes;
        Ok(Some(Entry { name, ends_ms: (ends_ms >= 0).then_some(ends_ms), bytes }))
    }

    /// A part of the entry's content; none after the last one.
    pub async fn part(&mut self) -> Result<Option<Bytes>, MoveError> {
        if self.content == 0 {
            return Ok(None);
        }
        let many = self.content.min(CHUNK_BYTES as u64);
        self.content -= many;
        Ok(Some(self.exactly(many as usize).await?.into()))
    }

    /// All of the entry's content.
    pub async fn whole(&mut self) -> Result<Vec<u8>, MoveError> {
        let mut all = Vec::new();
        while let Some(part) = self.part().await? {
            all.extend_from_slice(&part);
        }
        Ok(all)
    }
}
