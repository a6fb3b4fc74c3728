//! What is in a file.

/// A file's bytes. What lies between the end of `data` and `len` is zeros and takes no space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) data: Vec<u8>,
    pub(super) len: u64,
}

impl Content {
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = usize::try_from(offset).expect("writes are bounded by MAX_DATA");
        let end = start + bytes.len();
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[start..end].copy_from_slice(bytes);
        self.len = self.len.max(end as u64);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.len = len;
        if let Ok(len) = usize::try_from(len) {
            self.data.truncate(len);
        }
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let count = usize::try_from(self.len.saturating_sub(offset))
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let buf = &mut buf[..count];
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(self.data.len());
        let real = count.min(self.data.len() - start);
        buf[..real].copy_from_slice(&self.data[start..start + real]);
        buf[real..].fill(0);
        count
    }

    /// All bytes, holes included.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).expect("too long to be read whole")];
        self.read(&mut bytes, 0);
        bytes
    }
}
