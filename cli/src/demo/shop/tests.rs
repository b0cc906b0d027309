use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const TRACES: usize = 4_000;

/// All calls of many traces: operation and, for those that call nobody, time; and the lengths of the traces.
fn drawn() -> (System, Vec<usize>, BTreeMap<usize, Vec<u64>>) {
    let (system, mut shop) = Shop::open(11);
    let mut lengths = Vec::new();
    let mut times: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for _ in 0..TRACES {
        let plan = shop.next_plan().unwrap();
        lengths.push(plan.calls.len() - 1);
        for call in &plan.calls[1..] {
            let own = call.steps.calls.iter().map(|step| step.gap_ns).sum::<u64>();
            times
                .entry(call.operation)
                .or_default()
                .push(own + call.steps.tail_ns);
        }
    }
    (system, lengths, times)
}

fn at(sorted: &[u64], quantile: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "small counts"
    )]
    let index = (sorted.len() as f64 * quantile) as usize;
    #[expect(clippy::cast_precision_loss, reason = "latencies stay far below 2^52")]
    let value = sorted[index.min(sorted.len() - 1)] as f64;
    value
}

#[test]
fn the_shop_has_ten_services() {
    let (system, _) = Shop::open(1);
    assert_eq!(system.services.len(), 10);
    assert!(
        system
            .operations
            .iter()
            .any(|o| o.endpoint == "/hipstershop.EmailService/SendOrderConfirmation")
    );
}

#[test]
fn traces_are_as_long_as_the_recorded_ones() {
    let (_, mut lengths, _) = drawn();
    lengths.sort_unstable();
    let median = lengths[TRACES / 2];
    assert!((11..=13).contains(&median), "median {median}");
    assert!(lengths[TRACES - 1] <= 24);
    let p90 = lengths[TRACES * 9 / 10];
    assert!((15..=18).contains(&p90), "P90 {p90}");
}

#[test]
fn shares_and_latencies_are_those_of_the_figures() {
    let (system, lengths, mut times) = drawn();
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let all = lengths.iter().sum::<usize>() as f64;
    let checked = [
        (
            "hipstershop.ProductCatalogService/GetProduct",
            41.61,
            Some((2_721.0, 8_720.0)),
        ),
        (
            "grpc.hipstershop.CurrencyService/Convert",
            19.44,
            Some((1_070.0, 1_986.0)),
        ),
        (
            "hipstershop.AdService/GetAds",
            5.15,
            Some((12_369.0, 39_172.0)),
        ),
        (
            "/hipstershop.RecommendationService/ListRecommendations",
            6.43,
            None,
        ),
    ];
    for (endpoint, share, quantiles) in checked {
        let operation = system
            .operations
            .iter()
            .position(|o| o.endpoint == endpoint)
            .unwrap();
        let times = times.get_mut(&operation).unwrap();
        times.sort_unstable();
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let got = times.len() as f64 * 100.0 / all;
        assert!(
            (got - share).abs() < share * 0.15,
            "{endpoint}: {got} % of calls"
        );
        let Some((p50, p90)) = quantiles else {
            continue;
        };
        for (quantile, us) in [(0.5, p50), (0.9, p90)] {
            let got = at(times, quantile) / 1_000.0;
            assert!(
                (got - us).abs() < us * 0.1,
                "{endpoint}: P{} is {got} us",
                quantile * 100.0
            );
        }
    }
}

proptest! {
    #[test]
    fn a_quantile_rises_with_its_share(a in 0.0_f64..1.0, b in 0.0_f64..1.0) {
        let points = [(0.0, 5.0), (0.5, 10.0), (0.9, 40.0), (0.99, 41.0), (1.0, 90.0)];
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        prop_assert!(quantile(&points, low) <= quantile(&points, high) + 1e-9);
        prop_assert!((5.0..=90.000_001).contains(&quantile(&points, a)));
    }
}

#[test]
fn the_given_points_are_met_exactly() {
    let points = [(0.0, 5.0), (0.5, 10.0), (0.9, 40.0), (1.0, 90.0)];
    for (share, value) in points {
        assert!((quantile(&points, share) - value).abs() < 1e-9);
    }
}
