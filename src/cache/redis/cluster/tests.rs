use super::*;

fn cluster(urls: &[&str]) -> Result<Cluster, RedisConfigError> {
    Cluster::new(&RedisConfig {
        urls: urls.iter().map(ToString::to_string).collect(),
        ..RedisConfig::default()
    })
}

fn range(first: u16, last: u16, host: &str) -> Range {
    Range {
        first,
        last,
        host: host.to_owned(),
        port: 6_379,
    }
}

#[test]
fn a_cluster_has_database_0_alone_and_names_no_node_twice() {
    let refusal = |urls: &[&str]| cluster(urls).err().unwrap();
    assert_eq!(refusal(&[]), RedisConfigError::NoNodes);
    assert_eq!(refusal(&["redis://a", "redis://b/1"]), RedisConfigError::Database(2));
    assert_eq!(
        refusal(&["redis://a", "redis://a:6379"]),
        RedisConfigError::Twice("a:6379/0".to_owned())
    );
}

#[test]
fn a_slot_that_moved_has_its_new_owner_and_its_neighbours_their_old_one() {
    let cluster = cluster(&["redis://a"]).unwrap();
    let seed = cluster.0.seeds[0].clone();
    let told = [range(0, 99, ""), range(100, 16_383, "b")];
    let map = cluster.0.read(&seed, &told, &Map::default());
    let owner = |map: &Map, slot| map.owner(slot).unwrap().name().to_owned();
    assert_eq!(
        (map.uncovered(), owner(&map, 99), owner(&map, 100)),
        (0, "a:6379/0".to_owned(), "b:6379/0".to_owned())
    );
    for slot in [0, 50, 99, 100, 16_383] {
        let c = cluster.0.node(&map, "c", 1);
        let moved = map.with(slot, &c);
        assert_eq!(owner(&moved, slot), "c:1/0");
        assert_eq!(moved.uncovered(), 0);
        for other in (0..SLOTS).filter(|other| *other != slot) {
            assert_eq!(owner(&moved, other), owner(&map, other));
        }
    }
    let holed = cluster.0.read(&seed, &[range(5, 9, "b")], &map);
    assert!(holed.owner(4).is_none() && holed.owner(10).is_none() && holed.owner(5).is_some());
    assert_eq!(holed.uncovered(), 16_379);
}
