//! Which node a segment belongs to: the one that scores highest for it. Adding a node to N moves 1/(N+1) of the segments, all of them to
//! the new one. Every replica, of this version and the next, must score alike: the functions here may not change.

use crate::counting::SegmentId;

/// The hash of a node's name (FNV-1a).
pub(super) fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The index of the node for a segment, of nodes with these hashes; 0 where there are none.
pub(super) fn choose(nodes: impl Iterator<Item = u64>, segment: SegmentId) -> usize {
    let scored = nodes.map(|node| mix(node ^ mix(segment.0.cast_unsigned())));
    scored
        .enumerate()
        .max_by_key(|(index, score)| (*score, *index))
        .map_or(0, |(index, _)| index)
}

/// The finaliser of SplitMix64: every bit of the input moves half the bits of the output.
fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<u64> {
        (0..count)
            .map(|index| hash(&format!("redis-{index}.cache:6379/0")))
            .collect()
    }

    #[test]
    fn nodes_get_equal_shares() {
        let nodes = names(3);
        let mut shares = [0_u32; 3];
        for id in 0..30_000 {
            shares[choose(nodes.iter().copied(), SegmentId(id))] += 1;
        }
        for share in shares {
            assert!((9_500..10_500).contains(&share), "{shares:?}");
        }
    }

    #[test]
    fn a_new_node_takes_its_share_and_moves_nothing_else() {
        let (three, four) = (names(3), names(4));
        let mut moved = 0;
        for id in 0..40_000 {
            let before = choose(three.iter().copied(), SegmentId(id));
            let after = choose(four.iter().copied(), SegmentId(id));
            if before != after {
                assert_eq!(after, 3, "segment {id} moved between nodes that stayed");
                moved += 1;
            }
        }
        assert!((9_500..10_500).contains(&moved), "{moved} of 40000 moved");
    }

    #[test]
    fn scores_are_those_of_every_other_version() {
        let chosen: Vec<usize> = (1..=12).map(|id| choose(names(3).into_iter(), SegmentId(id))).collect();
        assert_eq!(chosen, PINNED);
    }

    const PINNED: [usize; 12] = [2, 0, 1, 0, 0, 2, 2, 0, 0, 2, 2, 0];
}
