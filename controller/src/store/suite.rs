//! What every store must do, run on each of them. Durability across a reopening is asked of those that have
//! a disk.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::memory::MemoryStore;
use super::sled::SledStore;
use super::{Claim, Expect, Store, StoreError, Transaction, VALUE_MAX};

/// Runs `check` on an empty store of each kind.
async fn on_each<F: AsyncFn(&dyn Store)>(check: F) {
    check(&MemoryStore::default()).await;
    let dir = tempfile::tempdir().unwrap();
    check(&SledStore::create(&dir.path().join("store")).unwrap()).await;
}

fn put(key: &str, value: &str) -> Transaction {
    Transaction::default().put(key.to_owned(), value.into())
}

async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().records.into_iter().map(|(key, _)| key).collect()
}

#[tokio::test]
async fn a_record_has_the_revision_that_wrote_it() {
    on_each(async |store| {
        assert_eq!(store.get("a").await.unwrap(), None);
        assert_eq!(store.commit(put("a", "1")).await.unwrap(), 1);
        assert_eq!(store.commit(put("b", "2")).await.unwrap(), 2);
        let record = store.get("a").await.unwrap().unwrap();
        assert_eq!((&*record.value, record.revision), (&b"1"[..], 1));
        assert_eq!(store.list("").await.unwrap().revision, 2);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_is_made_as_a_whole_or_not_at_all() {
    on_each(async |store| {
        store.commit(put("a", "1")).await.unwrap();
        let second = put("b", "2").put_if("a".to_owned(), Expect::Absent, b"3".to_vec());
        assert_eq!(store.commit(second).await, Err(StoreError::Conflict { key: "a".to_owned() }));
        assert_eq!(keys(store, "").await, ["a"]);
        assert_eq!(store.list("").await.unwrap().revision, 1);
    })
    .await;
}

#[tokio::test]
async fn conditions_hold_for_putting_and_deleting() {
    on_each(async |store| {
        let key = || "a".to_owned();
        let put_if = |expect| Transaction::default().put_if(key(), expect, b"x".to_vec());
        let conflict = Err(StoreError::Conflict { key: key() });
        assert_eq!(store.commit(put_if(Expect::Revision(1))).await, conflict);
        assert_eq!(store.commit(put_if(Expect::Absent)).await, Ok(1));
        assert_eq!(store.commit(put_if(Expect::Absent)).await, conflict);
        assert_eq!(store.commit(put_if(Expect::Revision(1))).await, Ok(2));
        let delete_if = |expect| Transaction::default().delete_if(key(), expect);
        assert_eq!(store.commit(delete_if(Expect::Revision(1))).await, conflict);
        assert_eq!(store.commit(delete_if(Expect::Revision(2))).await, Ok(3));
        assert_eq!(store.get("a").await, Ok(None));
        assert_eq!(store.commit(delete_if(Expect::Revision(2))).await, conflict);
    })
    .await;
}

#[tokio::test]
async fn of_many_who_want_the_same_record_one_gets_it() {
    on_each(async |store| {
        let attempts = (0..50)
            .map(|n| store.commit(Transaction::default().put_if("one".to_owned(), Expect::Absent, vec![n])));
        let results = futures_util::future::join_all(attempts).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        assert_eq!(store.list("").await.unwrap().revision, 1);
    })
    .await;
}

#[tokio::test]
async fn a_listing_is_in_order_and_keeps_to_its_prefix() {
    on_each(async |store| {
        for key in ["b/2", "a", "b/1", "b", "c", "b0"] {
            store.commit(put(key, "")).await.unwrap();
        }
        assert_eq!(keys(store, "b/").await, ["b/1", "b/2"]);
        assert_eq!(keys(store, "").await, ["a", "b", "b/1", "b/2", "b0", "c"]);
        assert!(keys(store, "d").await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_watch_sees_every_later_change_of_its_prefix_in_order() {
    on_each(async |store| {
        store.commit(put("h/0", "")).await.unwrap();
        let mut watch = store.watch("h/", 1).unwrap();
        store.commit(put("x", "")).await.unwrap();
        store.commit(put("h/1", "1").put("h/2".to_owned(), b"2".to_vec())).await.unwrap();
        let delete = Transaction::default().delete_if("h/1".to_owned(), Expect::Anything);
        store.commit(delete).await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let change = watch.next().await.unwrap();
            seen.push((change.key, change.record.is_some(), change.revision));
        }
        let expected = [("h/1", true, 3), ("h/2", true, 3), ("h/1", false, 4)];
        assert_eq!(seen, expected.map(|(key, there, revision)| (key.to_owned(), there, revision)));
    })
    .await;
}

#[tokio::test]
async fn a_watch_from_an_earlier_revision_begins_with_what_came_after_it() {
    on_each(async |store| {
        for value in ["1", "2", "3"] {
            store.commit(put("h/a", value).put("x".to_owned(), Vec::new())).await.unwrap();
        }
        let mut watch = store.watch("h/", 1).unwrap();
        store.commit(put("h/b", "4")).await.unwrap();
        for (revision, value) in [(2, "2"), (3, "3"), (4, "4")] {
            let change = watch.next().await.unwrap();
            let record = change.record.unwrap();
            assert_eq!((change.revision, &*record.value), (revision, value.as_bytes()));
        }
    })
    .await;
}

#[tokio::test]
async fn a_watch_from_too_long_ago_is_told_to_list_again() {
    on_each(async |store| {
        // More than a history may hold.
        for _ in 0..20 {
            store.commit(Transaction::default().put("a".to_owned(), vec![0; VALUE_MAX])).await.unwrap();
        }
        let compacted = match store.watch("", 0) {
            Err(StoreError::Compacted { revision }) => revision,
            other => panic!("{other:?}"),
        };
        assert!(store.watch("", compacted - 1).is_err());
        let mut watch = store.watch("", compacted).unwrap();
        assert_eq!(watch.next().await.unwrap().revision, compacted + 1);
    })
    .await;
}

#[tokio::test]
async fn a_claim_has_one_holder_until_it_is_released_or_runs_out() {
    on_each(async |store| {
        let long = Duration::from_secs(600);
        let held_by = |holder: &str| Ok(Claim::HeldBy(holder.to_owned()));
        assert_eq!(store.claim("c", "one", long).await, Ok(Claim::Held));
        assert_eq!(store.claim("c", "two", long).await, held_by("one"));
        assert_eq!(store.claim("d", "two", long).await, Ok(Claim::Held));
        // Renewed, as short as it gets.
        assert_eq!(store.claim("c", "one", Duration::ZERO).await, Ok(Claim::Held));
        assert_eq!(store.claim("c", "two", long).await, Ok(Claim::Held));
        store.release("c", "one").await.unwrap();
        assert_eq!(store.claim("c", "one", long).await, held_by("two"));
        store.release("c", "two").await.unwrap();
        assert_eq!(store.claim("c", "one", long).await, Ok(Claim::Held));
    })
    .await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_hurts_nobody() {
    on_each(async |store| {
        let large = Transaction::default().put("a".to_owned(), vec![0; VALUE_MAX + 1]);
        assert!(matches!(store.commit(large).await, Err(StoreError::TooLarge { .. })));
        for key in ["", "\0meta", &"k".repeat(2000)] {
            assert!(matches!(store.commit(put(key, "")).await, Err(StoreError::Key { .. })), "{key:?}");
        }
        assert_eq!(store.commit(put("a", "")).await, Ok(1));
        assert_eq!(store.commit(Transaction::default()).await, Ok(1));
        assert_eq!(store.usable(), Ok(()));
    })
    .await;
}

#[tokio::test]
async fn an_open_store_is_found_again_as_it_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    assert!(matches!(SledStore::open(&path).map(|_| ()), Err(StoreError::Missing { .. })));
    let store = SledStore::create(&path).unwrap();
    futures_util::future::join_all((0..500).map(|n| store.commit(put(&format!("k{n}"), "v")))).await;
    let before = store.list("").await.unwrap();
    assert!(matches!(SledStore::open(&path).map(|_| ()), Err(StoreError::Locked { .. })));
    drop(store);
    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.list("").await.unwrap(), before);
    assert!(matches!(store.watch("", 499), Err(StoreError::Compacted { revision: 500 })));
    assert_eq!(before.revision, 500);
    assert_eq!(store.commit(put("k0", "new")).await, Ok(501));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is written and deleted in whatever groups, the disk holds what memory would.
    #[test]
    fn the_disk_agrees_with_memory(
        steps in prop::collection::vec(prop::collection::vec((0_u8..6, prop::option::of(0_u8..9)), 1..5), 1..20)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store");
            let (disk, memory) = (SledStore::create(&path).unwrap(), MemoryStore::default());
            let mut expected = BTreeMap::new();
            for step in steps {
                let mut transaction = Transaction::default();
                for (key, value) in step {
                    let key = format!("k{key}");
                    transaction = match value {
                        Some(value) => transaction.put(key.clone(), vec![value]),
                        None => transaction.delete_if(key.clone(), Expect::Anything),
                    };
                    expected.insert(key, value);
                }
                assert_eq!(disk.commit(transaction.clone()).await, memory.commit(transaction).await);
            }
            drop(disk);
            let disk = SledStore::open(&path).unwrap();
            assert_eq!(disk.list("").await, memory.list("").await);
            for (key, value) in expected {
                let found = disk.get(&key).await.unwrap().map(|record| record.value[0]);
                assert_eq!(found, value);
            }
        });
    }
}
