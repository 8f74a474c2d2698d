//! Many entries of a map in one call, on a real kernel: batches come to what single calls come to.

#[path = "../f2b-user/src/xdp/batch.rs"]
#[expect(dead_code, reason = "each test uses a part of it")]
mod batch;

use std::{
    collections::BTreeMap,
    io, ptr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    thread,
};

use aya::maps::{HashMap, IterableMap as _, MapData};
use f2b_ebpf::{ALL_PORTS, BanEntry, BanKey, FOREVER, SLOTS, Slot};

const MANY: u32 = 100_000;

type Map = HashMap<MapData, BanKey, BanEntry>;
type Content = BTreeMap<[u8; 16], BanEntry>;

#[test]
fn batches_and_single_calls_come_to_the_same_map() {
    let batches = fill();
    let expected = content(&batches);
    assert_eq!(expected.len() as u32, MANY - MANY / 5, "each fifth is removed");
    assert_eq!(read(&batches, batch::ENTRIES), expected);

    let mut singly = map(2 * MANY);
    for n in 0..MANY {
        singly.insert(key(n), entry(n), 0).expect("there is room");
    }
    for n in (0..MANY).step_by(5) {
        singly.remove(&key(n)).expect("it is there");
    }
    assert_eq!(content(&singly), expected);

    let refused = thread::spawn(|| {
        refuse_batches();
        let map = fill();
        let read = read(&map, batch::ENTRIES);
        (content(&map), read)
    });
    let (content, read) = refused.join().expect("a kernel without batches takes single calls");
    assert_eq!(content, expected);
    assert_eq!(read, expected);
}

#[test]
fn a_full_map_takes_what_fits_and_tells_the_rest() {
    for sandboxed in [false, true] {
        let work = move || {
            if sandboxed {
                refuse_batches();
            }
            let mut map = map(1000);
            // The last ones are there already, and are written anew in the full map.
            let keys: Vec<_> = (0..1500).chain(0..100).map(key).collect();
            let entries: Vec<_> = (0..1600).map(entry).collect();
            let mut refused = Vec::new();
            batch::insert(&mut map, &keys, &entries, batch::Known::Replaced, |n, error| {
                assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
                refused.push(n);
            });
            assert_eq!(refused, (1000..1500).collect::<Vec<_>>());
            let expected: Content =
                (0..1000).map(|n| (key(n).addr, entry(if n < 100 { 1500 + n } else { n }))).collect();
            assert_eq!(content(&map), expected);

            let mut missing = Vec::new();
            batch::remove(&mut map, &keys[995..1005], |n, error| {
                assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
                missing.push(n);
            });
            assert_eq!(missing, [5, 6, 7, 8, 9]);
            assert_eq!(content(&map).len(), 995);
        };
        thread::spawn(work).join().expect("what it asserts holds");
    }
}

#[test]
fn what_is_known_is_kept_and_told() {
    for sandboxed in [false, true] {
        let work = move || {
            if sandboxed {
                refuse_batches();
            }
            let mut map = map(1000);
            let is_known = |n: u32| n.is_multiple_of(3);
            for n in (0..100).filter(|n| is_known(*n)) {
                map.insert(key(n), entry(n), 0).expect("there is room");
            }
            let keys: Vec<_> = (0..100).map(key).collect();
            let entries: Vec<_> = (0..100).map(|n| entry(1000 + n)).collect();
            let mut known = Vec::new();
            batch::insert(&mut map, &keys, &entries, batch::Known::Kept, |n, error| {
                assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
                known.push(n as u32);
            });
            assert_eq!(known, (0..100).filter(|n| is_known(*n)).collect::<Vec<_>>());
            let value = |n| if is_known(n) { entry(n) } else { entry(1000 + n) };
            assert_eq!(content(&map), (0..100).map(|n| (key(n).addr, value(n))).collect());
        };
        thread::spawn(work).join().expect("what it asserts holds");
    }
}

#[test]
fn little_room_becomes_as_much_as_the_kernel_needs() {
    let map = fill();
    // With 80,000 entries in 262,144 buckets, many a bucket has several.
    assert_eq!(read(&map, 1), content(&map));
}

#[test]
fn what_is_there_all_the_time_comes_exactly_once_whatever_is_written_meanwhile() {
    let map = fill();
    let all = content(&map);
    let stop = AtomicBool::new(false);
    let rounds = AtomicU32::new(0);
    let mut fault = None;
    let mut own = Map::try_from(aya::maps::Map::HashMap(
        MapData::from_id(map.map().info().expect("it is open").id()).expect("it is there"),
    ))
    .expect("it is a hash map");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                for n in 1..50_000 {
                    // A fifth of the keys comes and goes; the others are written anew.
                    if n % 5 == 0 {
                        own.insert(key(n), entry(n), 0).expect("there is room");
                        own.remove(&key(n)).expect("it is there");
                    } else {
                        own.insert(key(n), entry(n + 1), 0).expect("it is there");
                    }
                }
                rounds.fetch_add(1, Relaxed);
            }
        });
        let mut reads = 0;
        while fault.is_none() && (reads < 20 || rounds.load(Relaxed) < 2) {
            let mut seen: BTreeMap<_, u32> = BTreeMap::new();
            batch::read_by(&map, 512, |keys, _| {
                for key in keys {
                    *seen.entry(key.addr).or_default() += 1;
                }
            })
            .expect("the map can be read");
            let missing = all.keys().find(|key| !seen.contains_key(*key)).map(|key| (*key, 0));
            let repeated = seen.into_iter().find(|(_, times)| *times > 1);
            fault = missing.or(repeated);
            reads += 1;
        }
        stop.store(true, Relaxed);
    });
    assert_eq!(fault, None, "a key, and how many times it came");
}

fn map(room: u32) -> Map {
    HashMap::create(room, 0).expect("root may make maps")
}

/// [`MANY`] entries written in batches, a fifth of which are removed again.
fn fill() -> Map {
    let mut map = map(2 * MANY);
    let keys: Vec<_> = (0..MANY).map(key).collect();
    let entries: Vec<_> = (0..MANY).map(entry).collect();
    batch::insert(&mut map, &keys, &entries, batch::Known::Replaced, |n, error| panic!("entry {n}: {error}"));
    let gone: Vec<_> = (0..MANY).step_by(5).map(key).collect();
    batch::remove(&mut map, &gone, |n, error| panic!("entry {n}: {error}"));
    map
}

/// IPv4 and IPv6 in turn.
fn key(n: u32) -> BanKey {
    if n.is_multiple_of(2) {
        return BanKey::from_v4(n.to_be_bytes());
    }
    let mut addr = [0x20; 16];
    addr[8..12].copy_from_slice(&n.to_be_bytes());
    BanKey::from_v6(addr)
}

fn entry(n: u32) -> BanEntry {
    let mut slots = [Slot::default(); SLOTS];
    slots[0] = Slot { ends_ns: FOREVER - u64::from(n), scopes: 1 << ALL_PORTS | u64::from(n) << 1 };
    BanEntry { packets: n.into(), slots, ..BanEntry::default() }
}

/// What is in the map, by aya's own single calls.
fn content(map: &Map) -> Content {
    let entries = map.iter().map(|entry| entry.expect("the map can be read"));
    entries.map(|(key, entry)| (key.addr, entry)).collect()
}

/// What is in the map, in batches, each entry once.
fn read(map: &Map, room: usize) -> Content {
    let mut content = Content::new();
    batch::read_by(map, room, |keys, entries| {
        assert_eq!(keys.len(), entries.len());
        for (key, entry) in keys.iter().zip(entries) {
            assert_eq!(content.insert(key.addr, *entry), None, "it comes once");
        }
    })
    .expect("the map can be read");
    content
}

/// From here on, bpf(2) answers this thread as before Linux 5.6: it knows no batches.
fn refuse_batches() {
    const FIRST: u32 = 24;
    const LAST: u32 = 27;
    let statement = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |code: u32, k, jt, jf| libc::sock_filter {
        code: (libc::BPF_JMP | code | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let answer = libc::BPF_RET | libc::BPF_K;
    // `seccomp_data` begins with the call's number; its first argument is at 16.
    let mut filter = [
        statement(load, 0),
        jump(libc::BPF_JEQ, libc::SYS_bpf as u32, 0, 4),
        statement(load, 16),
        jump(libc::BPF_JGE, FIRST, 0, 2),
        jump(libc::BPF_JGT, LAST, 1, 0),
        statement(answer, libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32),
        statement(answer, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: it takes numbers alone.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    // SAFETY: the program and its instructions live until the call is over.
    let result =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, ptr::from_ref(&program)) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
