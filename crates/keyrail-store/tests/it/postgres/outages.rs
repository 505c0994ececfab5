//! A server that goes away: refusals within a bounded time, work again by itself, and nothing lost that was told.

use std::time::{Duration, Instant};

use keyrail_store::{OpenMode, Store, StoreError, postgres_limits as limits};
use keyrail_testkit::postgres::{Cluster, Stop, Version};

use super::{numbers, open, store_number};

/// Two tries to get an answer, and to connect; with room for a loaded machine.
const BOUND: Duration =
    Duration::from_millis(2 * (limits::POSTGRES_ANSWER_MILLIS_MAX + 2 * limits::POSTGRES_CONNECT_MILLIS_MAX) + 5_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_away_and_comes_back() {
    for version in Version::ALL {
        let cluster = Cluster::start(version).unwrap();
        let store = open(&cluster.url("postgres"), OpenMode::Create).await.unwrap();
        let ends: [fn(&Cluster) -> anyhow::Result<()>; 3] =
            [Cluster::kill, |it| it.stop(Stop::Fast), |it| it.stop(Stop::Immediate)];
        let mut stored = 0;
        for end in ends {
            store_number(&store, stored).await.unwrap();
            stored += 1;
            end(&cluster).unwrap();
            for error in [
                store_number(&store, 99).await.unwrap_err(),
                numbers(&store).await.map(drop).unwrap_err(),
                store.health().await.unwrap_err(),
                store.integrity().await.map(drop).unwrap_err(),
            ] {
                assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
            }
            cluster.restart().unwrap();
            store.health().await.unwrap();
            assert_eq!(numbers(&store).await.unwrap(), u64::try_from(stored).unwrap());
        }
        store_number(&store, stored).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halted_server_is_given_up_in_time_and_works_again() {
    let cluster = Cluster::start(Version::V18).unwrap();
    let store = open(&cluster.url("postgres"), OpenMode::Create).await.unwrap();
    store_number(&store, 0).await.unwrap();
    cluster.pause().unwrap();
    let began = Instant::now();
    let (write, read, health) = tokio::join!(store_number(&store, 1), numbers(&store), store.health());
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    for error in [write.unwrap_err(), read.map(drop).unwrap_err(), health.unwrap_err()] {
        assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
    }
    cluster.resume().unwrap();
    store.health().await.unwrap();
    // What was given up before its commit was sent is not there, and can be stored now.
    store_number(&store, 1).await.unwrap();
    assert_eq!(numbers(&store).await.unwrap(), 2);
}

/// Kills at any moment, while several write: what was acknowledged is there afterwards, what was refused is not, and only
/// what was called unknown may be either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_has_all_that_was_acknowledged() {
    for version in Version::ALL {
        let cluster = Cluster::start(version).unwrap();
        let store = open(&cluster.url("postgres"), OpenMode::Create).await.unwrap();
        let (mut acknowledged, mut unknown, mut next) = (0, 0, 0_i64);
        for round in 0..keyrail_testkit::scale(100) {
            let work: Vec<_> = (0..8)
                .map(|writer| {
                    let (store, first) = (store.clone(), next + writer * 10_000);
                    tokio::spawn(async move {
                        let (mut done, mut open) = (0, 0);
                        for number in first.. {
                            match store_number(&store, number).await {
                                Ok(()) => done += 1,
                                Err(StoreError::Indeterminate { .. }) => {
                                    open += 1;
                                    break;
                                }
                                Err(StoreError::Unreachable(_)) => break,
                                Err(error) => panic!("{error:?}"),
                            }
                        }
                        (done, open)
                    })
                })
                .collect();
            next += 80_000;
            // Some commits, a different number in each round.
            let wanted = acknowledged + 5 + 7 * round as u64;
            while numbers(&store).await.unwrap() < wanted {}
            cluster.kill().unwrap();
            for work in work {
                let (done, open) = work.await.unwrap();
                acknowledged += done;
                unknown += open;
            }
            cluster.restart().unwrap();
            let found = numbers(&store).await.unwrap();
            assert!((acknowledged..=acknowledged + unknown).contains(&found), "{acknowledged} {unknown} {found}");
            (acknowledged, unknown) = (found, 0);
        }
        assert_eq!(store.integrity().await.unwrap(), Vec::<String>::new());
    }
}
