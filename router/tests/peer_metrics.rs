//! Names and help texts as Prometheus wants them.

use flotilla_router::peer::PeerMetrics;
use prometheus::proto::MetricType;

#[test]
fn names_follow_the_conventions() {
    let registry = prometheus::Registry::new();
    let metrics = PeerMetrics::new();
    metrics.register(&registry).unwrap();
    assert!(metrics.register(&registry).is_err(), "one set per registry");
    let families = registry.gather();
    assert!(families.len() >= 10);
    for family in families {
        let name = family.name();
        assert!(name.starts_with("flotilla_peer_"), "{name}");
        assert!(!family.help().is_empty(), "{name}");
        let is_counter = family.get_field_type() == MetricType::COUNTER;
        assert_eq!(name.ends_with("_total"), is_counter, "{name}");
        for unit in ["_ms", "_us", "_secs", "_kb", "_mb"] {
            assert!(!name.contains(unit), "{name}");
        }
    }
}
