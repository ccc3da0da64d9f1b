//! What a probe tells of loopback.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use whimbrel_page::ByteRate;
use whimbrel_transport::{
    Answerer, Answering, Carrier, Measured, Path, Sinks, Throughput, measure, measure_over,
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const TOKEN: [u8; 16] = [7; 16];
const SHORT: Duration = Duration::from_millis(50);

async fn answering() -> (Answering, Answerer) {
    let answering = Answering::open(&[LOOPBACK], TOKEN).await.expect("loopback");
    let there = answering.addresses()[0];
    (answering, there)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_measured_with_each_number_of_connections() {
    let (_answering, there) = answering().await;
    let path = Path { local: Some(LOOPBACK), ..Path::to(there.tcp) };
    let measured = measure(&path, there, TOKEN, &[1, 3], SHORT).await.expect("it answers");
    assert!(measured.round_trip > Duration::ZERO && measured.round_trip < Duration::MAX);
    let lanes: Vec<_> = measured.throughput.iter().map(|it| it.lanes).collect();
    assert_eq!(lanes, [1, 3]);
    assert!(measured.throughput.iter().all(|it| it.rate > ByteRate(0)), "{measured:?}");
    // Whatever loopback takes, passes: its packets meet nobody else.
    assert_eq!(measured.mtu, measured.mtu_here.map(|mtu| mtu.min(65_535)), "{measured:?}");
}

#[tokio::test]
async fn who_does_not_know_the_token_is_not_answered() {
    let (answering, there) = answering().await;
    let path = Path::to(there.tcp);
    assert!(measure(&path, there, [8; 16], &[1], SHORT).await.is_err());
    drop(answering);
    assert!(measure(&path, there, TOKEN, &[1], SHORT).await.is_err(), "nobody is there any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_of_a_carrier_are_measured_for_who_knows_the_token() {
    let sinks = Sinks::open(&[LOOPBACK], TOKEN, Carrier::Tcp).expect("loopback");
    let path = Path::to(sinks.addresses()[0]);
    let measured = measure_over(&path, &Carrier::Tcp, TOKEN, &[1, 3], SHORT).await;
    let measured = measured.expect("it answers");
    let lanes: Vec<_> = measured.iter().map(|it| it.lanes).collect();
    assert_eq!(lanes, [1, 3]);
    assert!(measured.iter().all(|it| it.rate > ByteRate(0)), "{measured:?}");
    assert!(measure_over(&path, &Carrier::Tcp, [8; 16], &[1], SHORT).await.is_err());
}

#[test]
fn the_best_is_the_fewest_that_come_near() {
    let throughput =
        |lanes, mib: u64| Throughput { lanes, rate: ByteRate(mib << 20), retransmitted: None };
    let measured = Measured {
        round_trip: Duration::from_millis(10),
        mtu: None,
        mtu_here: None,
        throughput: vec![throughput(1, 50), throughput(2, 97), throughput(4, 100)],
    };
    assert_eq!(measured.best(), Some(throughput(2, 97)));
    assert_eq!(measured.under_way().map(|bytes| bytes.0 >> 10), Some(993));
}
