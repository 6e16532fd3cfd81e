//! The server's figures in the OpenMetrics text format. They name no room, no user and no address.

use std::fmt;

use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::core::room::Stats;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The answer to a scrape.
pub(super) fn render(stats: &Stats) -> impl IntoResponse + use<> {
    let mut registry = Registry::with_prefix("swarm");
    registry.register_collector(Box::new(Snapshot(*stats)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String takes all text");
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text)
}

#[derive(Debug)]
struct Snapshot(Stats);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Stats { rooms, members, sockets, offers, links, counters } = self.0;
        let gauges = [
            ("rooms", "Rooms with at least one member", rooms),
            ("members", "Members of all rooms, those within their grace included", members),
            ("sockets", "Open WebSockets", sockets),
            ("offers", "Offers waiting to be taken", offers),
            ("links", "Links between members", links),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let counts = [
            ("joined", "Members who entered", counters.joined),
            ("resumed", "Members who took their place back", counters.resumed),
            ("received", "Messages of clients", counters.received),
            ("claimed", "Offers handed to newcomers", counters.claimed),
            ("given_back", "Claims that brought no link", counters.given_back),
            ("relayed", "Messages passed from one member to another", counters.relayed),
            ("refused", "Messages refused", counters.refused),
        ];
        for (name, help, value) in counts {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_has_every_figure() {
        let stats = Stats { sockets: 3, ..Stats::default() };
        let mut text = String::new();
        let mut registry = Registry::with_prefix("swarm");
        registry.register_collector(Box::new(Snapshot(stats)));
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String takes all text");
        assert!(text.contains("swarm_sockets 3\n"), "{text}");
        assert!(text.contains("swarm_joined_total 0\n"), "{text}");
    }
}
