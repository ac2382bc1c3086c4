//! The Merkle tree of RFC 6962: hashing, a tree that only grows at its right edge, proofs and their verification.
//!
//! Everything here is pure: who holds the hashes is behind [`Nodes`]. A *node* is a complete subtree: `(level, index)` covers the
//! leaves from `index << level` to `(index + 1) << level`. The known answers of the certificate-transparency tests hold the
//! hashing (`roots_are_those_of_certificate_transparency`); proofs of every pair of sizes up to 70 hold the rest.

use std::fmt;

use aws_lc_rs::digest;
use data_encoding::{BASE64, HEXLOWER};

/// A SHA-256 hash: of a leaf, a node or a whole tree. Prints as base64, as checkpoints and proofs write it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Reads 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Reads base64 with padding (RFC 4648 section 4); exactly one spelling of a hash is taken.
    pub fn parse(text: &str) -> Option<Self> {
        BASE64.decode(text.as_bytes()).ok().and_then(|bytes| Self::from_bytes(&bytes))
    }

    /// Lower-case hexadecimal, for messages.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&BASE64.encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Hash({})", self.hex())
    }
}

/// SHA-256 of the parts one after the other.
pub fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    hash_of(&context.finish())
}

/// The same of one part, without a context that would have to be allocated.
fn sha256_of(message: &[u8]) -> Hash {
    hash_of(&digest::digest(&digest::SHA256, message))
}

fn hash_of(digest: &digest::Digest) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    Hash(hash)
}

/// The hash of a leaf: SHA-256(0x00 ‖ entry). Source: RFC 6962 section 2.1.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    let mut message = Vec::with_capacity(entry.len() + 1);
    message.push(0);
    message.extend_from_slice(entry);
    sha256_of(&message)
}

/// The hash of two neighbours: SHA-256(0x01 ‖ left ‖ right). Source: RFC 6962 section 2.1.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut message = [1; 65];
    message[1..33].copy_from_slice(&left.0);
    message[33..].copy_from_slice(&right.0);
    sha256_of(&message)
}

/// The root of the tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    sha256(&[])
}

/// The root of a complete subtree over `hashes`, whose number is a power of two. `None` if there are none.
pub fn fold(hashes: &[Hash]) -> Option<Hash> {
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        let (pairs, _) = row.as_chunks::<2>();
        row = pairs.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    row.first().copied()
}

/// A tree of which only the right edge is kept: one hash for each bit that is set in its size. Appending costs two hashes on the
/// average, memory is at most 64 hashes whatever the size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// The complete subtrees from the left (largest) to the right (smallest).
    edge: Vec<Hash>,
}

impl Frontier {
    /// The edge of a tree of that size, read from whoever holds its hashes.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn read<N: Nodes>(size: u64, nodes: &N) -> Result<Self, N::Error> {
        let edge = subtrees(0, size).into_iter().map(|(level, index)| nodes.node(level, index));
        Ok(Self { size, edge: edge.collect::<Result<_, _>>()? })
    }

    /// Adds one leaf; gives the complete subtrees over 256, 256², … leaves that end with it, the smallest first.
    pub fn append(&mut self, leaf: Hash) -> Vec<Hash> {
        let (mut hash, mut tiles) = (leaf, Vec::new());
        // Each set bit at the end of the size is a complete subtree that now gets its right neighbour.
        for level in 1..=self.size.trailing_ones() {
            if let Some(left) = self.edge.pop() {
                hash = node_hash(&left, &hash);
            }
            if level.is_multiple_of(8) {
                tiles.push(hash);
            }
        }
        self.edge.push(hash);
        self.size += 1;
        tiles
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        let mut edge = self.edge.iter().rev();
        let Some(smallest) = edge.next() else { return empty_root() };
        edge.fold(*smallest, |right, left| node_hash(left, &right))
    }
}

/// Whoever holds the hashes of a tree.
pub trait Nodes {
    /// Why a hash cannot be had.
    type Error;

    /// The hash of the complete subtree over the leaves from `index << level` to `(index + 1) << level`.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// The complete subtrees that cover the leaves from `start` to `end`, left to right. `start` is a multiple of the largest power of
/// two below `end - start`, as every range of a proof is.
fn subtrees(start: u64, end: u64) -> Vec<(u8, u64)> {
    let mut found = Vec::new();
    let mut at = start;
    while at < end {
        let widest = (end - at).ilog2();
        let level = if at == 0 { widest } else { widest.min(at.trailing_zeros()) };
        // A level is at most 63.
        found.push((u8::try_from(level).unwrap_or(63), at >> level));
        at += 1 << level;
    }
    found
}

/// The hash over the leaves from `start` to `end`.
fn range<N: Nodes>(start: u64, end: u64, nodes: &N) -> Result<Hash, N::Error> {
    let mut row = subtrees(start, end).into_iter().rev().map(|(level, index)| nodes.node(level, index));
    let Some(last) = row.next() else { return Ok(empty_root()) };
    row.try_fold(last?, |right, left| Ok(node_hash(&left?, &right)))
}

/// The root of the tree over the first `size` leaves.
///
/// # Errors
/// Those of the reader.
pub fn root<N: Nodes>(size: u64, nodes: &N) -> Result<Hash, N::Error> {
    range(0, size, nodes)
}

/// The proof that a leaf is in the tree of that size, from the leaf's neighbour up; at most 64 hashes. `None` if `index` is not
/// below `size`. Source: RFC 6962 section 2.1.1.
///
/// # Errors
/// Those of the reader.
pub fn inclusion<N: Nodes>(index: u64, size: u64, nodes: &N) -> Result<Option<Vec<Hash>>, N::Error> {
    if index >= size {
        return Ok(None);
    }
    let (mut start, mut end, mut proof) = (0, size, Vec::new());
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            proof.push(range(middle, end, nodes)?);
            end = middle;
        } else {
            proof.push(range(start, middle, nodes)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(Some(proof))
}

/// The proof that the tree of size `old` is the beginning of the tree of size `new`; empty if they are equal or `old` is 0; at
/// most 65 hashes. `None` if `old` is larger. Source: RFC 6962 section 2.1.2.
///
/// # Errors
/// Those of the reader.
pub fn consistency<N: Nodes>(old: u64, new: u64, nodes: &N) -> Result<Option<Vec<Hash>>, N::Error> {
    if old > new {
        return Ok(None);
    }
    if old == 0 || old == new {
        return Ok(Some(Vec::new()));
    }
    let (mut start, mut end, mut proof) = (0, new, Vec::new());
    // Descends to the smallest range of the split that ends where the old tree ends.
    while end != old {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(range(middle, end, nodes)?);
            end = middle;
        } else {
            proof.push(range(start, middle, nodes)?);
            start = middle;
        }
    }
    if start != 0 {
        proof.push(range(start, end, nodes)?);
    }
    proof.reverse();
    Ok(Some(proof))
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// The root that an inclusion proof leads to; `None` if the proof has another length than its place asks for. Source: RFC 9162
/// section 2.1.3.2, which says for RFC 6962's proofs how to verify them.
pub fn root_of_inclusion(index: u64, size: u64, leaf: Hash, proof: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for step in proof {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(step, &hash);
            if at & 1 == 0 {
                let up = at.trailing_zeros();
                at = at.checked_shr(up).unwrap_or(0);
                last = last.checked_shr(up).unwrap_or(0);
            }
        } else {
            hash = node_hash(&hash, step);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// Whether a proof shows that the tree `(old, old_root)` is the beginning of `(new, new_root)`. Source: RFC 9162 section 2.1.4.2.
pub fn is_consistent((old, old_root): (u64, Hash), (new, new_root): (u64, Hash), proof: &[Hash]) -> bool {
    if old == 0 && new > 0 {
        return proof.is_empty() && old_root == empty_root();
    }
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old > new {
        return false;
    }
    let mut steps = proof.iter();
    // An old tree that is complete is itself the first step.
    let first = if old.is_power_of_two() { Some(&old_root) } else { steps.next() };
    let Some(first) = first else { return false };
    let up = (old - 1).trailing_ones();
    let (mut at, mut last) = ((old - 1) >> up, (new - 1) >> up);
    let (mut left, mut whole) = (*first, *first);
    for step in steps {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            left = node_hash(step, &left);
            whole = node_hash(step, &whole);
            if at & 1 == 0 {
                let up = at.trailing_zeros();
                at = at.checked_shr(up).unwrap_or(0);
                last = last.checked_shr(up).unwrap_or(0);
            }
        } else {
            whole = node_hash(&whole, step);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && left == old_root && whole == new_root
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A tree in memory, by the recursive definition of RFC 6962 section 2.1.
    pub struct Leaves(pub Vec<Hash>);

    impl Leaves {
        pub fn of(count: u64) -> Self {
            Self((0..count).map(|number| leaf_hash(format!("entry {number}").as_bytes())).collect())
        }

        pub fn root(&self, size: u64) -> Hash {
            definition(&self.0[..size as usize])
        }
    }

    fn definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            many => {
                let (left, right) = many.split_at(split(many.len() as u64) as usize);
                node_hash(&definition(left), &definition(right))
            }
        }
    }

    impl Nodes for Leaves {
        type Error = std::convert::Infallible;

        fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
            let width = 1_usize << level;
            Ok(definition(&self.0[index as usize * width..(index as usize + 1) * width]))
        }
    }

    /// The eight entries and the roots of their trees from certificate-transparency's own tests (`merkle_tree_test.cc`).
    const ENTRIES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn known() -> Leaves {
        Leaves(ENTRIES.iter().map(|text| leaf_hash(&HEXLOWER.decode(text.as_bytes()).unwrap())).collect())
    }

    #[test]
    fn roots_are_those_of_certificate_transparency() {
        assert_eq!(empty_root().hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let leaves = known();
        let mut frontier = Frontier::default();
        for (leaf, root) in leaves.0.iter().zip(ROOTS) {
            frontier.append(*leaf);
            assert_eq!(frontier.root().hex(), root);
            assert_eq!(super::root(frontier.size(), &leaves).unwrap().hex(), root);
        }
    }

    #[test]
    fn proofs_are_those_of_certificate_transparency() {
        let hex = |proof: Option<Vec<Hash>>| proof.unwrap().iter().map(Hash::hex).collect::<Vec<_>>();
        let leaves = known();
        assert_eq!(
            hex(inclusion(5, 8, &leaves).unwrap()),
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
        assert_eq!(
            hex(consistency(6, 8, &leaves).unwrap()),
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
        assert_eq!(
            hex(consistency(2, 5, &leaves).unwrap()),
            [
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ]
        );
    }

    #[test]
    fn every_inclusion_proof_leads_to_its_root_and_to_no_other_place() {
        let leaves = Leaves::of(70);
        for size in 1..=70 {
            let root = leaves.root(size);
            for index in 0..size {
                let proof = inclusion(index, size, &leaves).unwrap().unwrap();
                let leaf = leaves.0[index as usize];
                assert_eq!(root_of_inclusion(index, size, leaf, &proof), Some(root), "{index} of {size}");
                for other in (0..=size).filter(|other| *other != index) {
                    assert_ne!(
                        root_of_inclusion(other, size, leaf, &proof),
                        Some(root),
                        "{index} as {other} of {size}"
                    );
                }
                let longer: Vec<Hash> = proof.iter().copied().chain([root]).collect();
                assert_ne!(root_of_inclusion(index, size, leaf, &longer), Some(root));
                if let Some((_, shorter)) = proof.split_last() {
                    assert_ne!(root_of_inclusion(index, size, leaf, shorter), Some(root));
                }
            }
            assert_eq!(inclusion(size, size, &leaves).unwrap(), None);
        }
    }

    #[test]
    fn every_pair_of_sizes_is_consistent_and_any_change_is_seen() {
        let leaves = Leaves::of(70);
        let other = leaf_hash(b"other");
        assert!(!is_consistent((0, empty_root()), (0, other), &[]), "without entries there is one root only");
        for new in 0..=70 {
            let new_root = leaves.root(new);
            for old in 0..=new {
                let old_root = leaves.root(old);
                let proof = consistency(old, new, &leaves).unwrap().unwrap();
                assert!(is_consistent((old, old_root), (new, new_root), &proof), "{old} to {new}");
                assert!(!is_consistent((old, other), (new, new_root), &proof));
                if old > 0 {
                    assert!(!is_consistent((old, old_root), (new, other), &proof));
                }
                for at in 0..proof.len() {
                    let mut forged = proof.clone();
                    forged[at] = other;
                    assert!(!is_consistent((old, old_root), (new, new_root), &forged), "{old} to {new}, step {at}");
                    forged.remove(at);
                    assert!(!is_consistent((old, old_root), (new, new_root), &forged));
                }
            }
            assert_eq!(consistency(new + 1, new, &leaves).unwrap(), None);
        }
    }

    #[test]
    fn the_edge_can_be_read_from_any_tree_and_grows_on() {
        let leaves = Leaves::of(70);
        for size in 0..70 {
            let mut frontier = Frontier::read(size, &leaves).unwrap();
            assert_eq!(frontier.root(), leaves.root(size));
            frontier.append(leaves.0[size as usize]);
            assert_eq!(frontier.root(), leaves.root(size + 1));
        }
    }
}
