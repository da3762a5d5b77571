//! Where the keys of a Redis Cluster are: the slot of a key, and the cluster's own map of slots to nodes.

use redis::Value;

/// How many slots there are.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of a key whose hash tag is `tag`: CRC-16/XMODEM, as every Redis Cluster reckons it.
pub(super) fn slot_of(tag: &str) -> u16 {
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    });
    crc % SLOTS
}

/// Neighbouring slots and the node that serves them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    /// Empty: the node that was asked.
    pub(super) host: String,
    pub(super) port: u16,
}

/// What `CLUSTER SLOTS` answered; `None` where it is none of its forms. Replicas, which follow the primary in each entry, are left out.
pub(super) fn ranges(answer: &Value) -> Option<Vec<Range>> {
    let Value::Array(entries) = answer else { return None };
    let mut ranges: Vec<Range> = entries.iter().map(range).collect::<Option<_>>()?;
    ranges.sort_by_key(|range| range.first);
    Some(ranges)
}

fn range(entry: &Value) -> Option<Range> {
    let Value::Array(fields) = entry else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = &fields[..] else {
        return None;
    };
    let [host, Value::Int(port), ..] = &primary[..] else {
        return None;
    };
    let host = match host {
        Value::Nil => String::new(),
        Value::BulkString(host) => std::str::from_utf8(host).ok()?.to_owned(),
        Value::SimpleString(host) => host.clone(),
        _ => return None,
    };
    let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
    (first <= last && last < SLOTS).then_some(Range {
        first,
        last,
        host: if host == "?" { String::new() } else { host },
        port: u16::try_from(*port).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn entry(first: i64, last: i64, host: Value, port: i64) -> Value {
        let node = |host, port| Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(vec![])]);
        Value::Array(vec![
            Value::Int(first),
            Value::Int(last),
            node(host, port),
            node(text("replica"), 1),
        ])
    }

    #[test]
    fn slots_are_those_of_every_redis_cluster() {
        // From the specification of Redis Cluster, and from CLUSTER KEYSLOT.
        assert_eq!(slot_of("123456789"), 0x31c3);
        assert_eq!(slot_of("foo"), 12_182);
        assert_eq!(slot_of("1"), 9_842);
        assert_eq!(slot_of(""), 0);
    }

    #[test]
    fn the_map_is_read_with_its_primaries_alone_and_a_node_without_a_name_is_the_one_asked() {
        let answer = Value::Array(vec![
            entry(100, 16_383, text("10.0.0.2"), 7_001),
            entry(0, 99, Value::Nil, 7_000),
        ]);
        let read = ranges(&answer).unwrap();
        assert_eq!(
            read.iter()
                .map(|r| (r.first, r.last, r.host.as_str(), r.port))
                .collect::<Vec<_>>(),
            [(0, 99, "", 7_000), (100, 16_383, "10.0.0.2", 7_001)]
        );
        assert_eq!(ranges(&Value::Array(vec![])), Some(vec![]));
    }

    #[test]
    fn what_is_no_map_is_refused() {
        for odd in [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![Value::Array(vec![Value::Int(1), Value::Int(2)])]),
            Value::Array(vec![entry(5, 4, text("h"), 1)]),
            Value::Array(vec![entry(0, 16_384, text("h"), 1)]),
            Value::Array(vec![entry(0, 1, text("h"), 70_000)]),
            Value::Array(vec![entry(0, 1, Value::Int(3), 1)]),
        ] {
            assert_eq!(ranges(&odd), None, "{odd:?}");
        }
    }
}
