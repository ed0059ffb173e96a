//! Pieces of what is stored, each compressed by itself.
//!
//! restic finds again what it has, but only whole pieces of about 1 MiB that it cuts where the bytes say so. Of what is
//! compressed as one stream nothing comes back after the first change. So it is cut before it is compressed, at rows that are
//! chosen by their own bytes: after a change the next cut is where it was. Standard zstd puts such pieces together again.

use std::io;

use zstd::bulk::Compressor;

/// Nothing shorter is cut, in bytes: larger pieces are compressed better.
const LEAST: usize = 512 << 10;

/// A cut is to be expected within so many bytes more.
const MORE: u64 = 512 << 10;

/// Whatever the rows say.
const MOST: usize = 4 << 20;

/// The level takes a third of the time that restic's own compression takes. Another one, or another zstd, stores all anew once.
const LEVEL: i32 = 1;

/// Where bytes become pieces.
pub struct Frames<Send> {
    compressor: Compressor<'static>,
    bytes: Vec<u8>,
    cuts: u64,
    send: Send,
}

/// A place in what was put.
#[derive(Clone, Copy)]
pub struct Place {
    cuts: u64,
    bytes: usize,
}

impl<Send: FnMut(Vec<u8>) -> io::Result<()>> Frames<Send> {
    /// `send` takes each piece.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(send: Send) -> io::Result<Self> {
        Ok(Self { compressor: Compressor::new(LEVEL)?, bytes: Vec::with_capacity(MOST), cuts: 0, send })
    }

    /// What no cut may go through, and which may say that one follows.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn put(&mut self, line: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(line);
        if self.bytes.len() >= LEAST && (self.bytes.len() >= MOST || is_cut(line)) { self.cut() } else { Ok(()) }
    }

    /// A part of a row that is too long to be held whole. Such a row has pieces of its own, between [`Self::end_piece`], so that
    /// they are the same bytes again whatever stands before it.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn put_part(&mut self, mut part: &[u8]) -> io::Result<()> {
        while self.bytes.len() + part.len() >= MOST {
            let (now, later) = part.split_at(MOST.saturating_sub(self.bytes.len()));
            self.bytes.extend_from_slice(now);
            self.cut()?;
            part = later;
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    /// What follows is in another piece.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn end_piece(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() { Ok(()) } else { self.cut() }
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        Place { cuts: self.cuts, bytes: self.bytes.len() }
    }

    /// Takes back what was put since a place, as far as it is in no piece yet. True: that is all of it.
    pub fn take_back(&mut self, Place { cuts, bytes }: Place) -> (Vec<u8>, bool) {
        let is_all = cuts == self.cuts;
        (self.bytes.split_off(if is_all { bytes } else { 0 }), is_all)
    }

    /// The last piece.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn finish(mut self) -> io::Result<()> {
        self.end_piece()
    }

    fn cut(&mut self) -> io::Result<()> {
        let frame = self.compressor.compress(&self.bytes)?;
        self.bytes.clear();
        self.cuts += 1;
        (self.send)(frame)
    }
}

/// Chosen by chance, long lines more often than short ones.
fn is_cut(line: &[u8]) -> bool {
    // FNV-1a by eight bytes: all of the line, as the beginnings of rows are often alike.
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for eight in line.chunks(8) {
        let mut word = [0; 8];
        word[..eight.len()].copy_from_slice(eight);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(PRIME);
        hash ^= hash >> 29;
    }
    (hash >> 32) < (line.len() as u64).saturating_mul((1 << 32) / MORE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sentence of words that are never the same.
    fn lines(numbers: std::ops::Range<u64>) -> Vec<String> {
        let word = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        numbers.map(|number| format!("{number}\t{:x}{:x}\n", word(number), word(number + 1_000_000))).collect()
    }

    fn cut(lines: &[String]) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut frames = Frames::new(|piece| {
            pieces.push(piece);
            Ok(())
        })
        .unwrap();
        lines.iter().for_each(|line| frames.put(line.as_bytes()).unwrap());
        frames.finish().unwrap();
        pieces
    }

    #[test]
    fn stock_zstd_reads_all_of_it() {
        let lines = lines(0..200_000);
        let stored = cut(&lines).concat();
        assert_eq!(zstd::decode_all(&stored[..]).unwrap(), lines.concat().into_bytes());
    }

    #[test]
    fn a_row_more_spoils_one_piece() {
        let mut lines = lines(0..400_000);
        let before = cut(&lines);
        assert!((8..28).contains(&before.len()), "{} pieces of some 15 MB", before.len());
        lines.insert(200_000, "new\n".to_owned());
        let after = cut(&lines);
        let spoiled = after.iter().filter(|piece| !before.contains(piece)).count();
        assert!((1..=2).contains(&spoiled), "{spoiled} of {} pieces", after.len());
    }

    #[test]
    fn a_long_row_has_pieces_of_its_own_that_do_not_depend_on_how_it_comes() {
        let long: Vec<u8> = (0..3 * MOST + 5).map(|index| (index % 251) as u8).collect();
        let pieces = |before: &[u8], step: usize| {
            let mut pieces = Vec::new();
            let mut frames = Frames::new(|piece| {
                pieces.push(piece);
                Ok(())
            })
            .unwrap();
            frames.put(before).unwrap();
            frames.end_piece().unwrap();
            for part in long.chunks(step) {
                frames.put_part(part).unwrap();
                assert!(frames.bytes.capacity() <= 2 * MOST);
            }
            frames.end_piece().unwrap();
            frames.finish().unwrap();
            pieces
        };
        let one = pieces(b"before\n", 1000);
        assert_eq!(one.len(), 1 + 4);
        let another = pieces(b"something else\n", 3 * MOST);
        assert_eq!(one[1..], another[1..]);
        assert_eq!(zstd::decode_all(&one.concat()[..]).unwrap(), [b"before\n".as_slice(), &long].concat());
    }
}
