use super::*;

const MIB: u64 = 1 << 20;

fn space(change: impl FnOnce(&mut Options)) -> Arc<Space> {
    let mut options = Options::new("/");
    change(&mut options);
    Arc::new(Space::new(&options))
}

fn disk(free: u64) -> FileSystem {
    FileSystem { free, total: 6400 * MIB, free_files: None }
}

/// The compactor cannot make room.
fn give_up(space: &Space) {
    space.note_attempt();
    space.note_progress(false);
}

#[test]
fn the_floor_is_kept_back_and_by_default_a_32nd() {
    let space = space(|_| ());
    let enough = space.judge_disk(&disk(1000 * MIB), 0);
    assert_eq!((enough.headroom, enough.room, enough.low), (808 * MIB as i64, 1000 * MIB, false));
    assert!(enough.short.is_none());
    let low = space.judge_disk(&disk(700 * MIB), 0);
    assert!(low.low && low.short.is_none());
    let short = space.judge_disk(&disk(700 * MIB), 510 * MIB);
    assert_eq!(short.headroom, -2 * MIB as i64);
    assert!(short.short.is_some_and(|why| why.contains("700 MiB are free")));
}

#[test]
fn the_tighter_limit_counts() {
    let space = space(|options| {
        options.max_size = 320 * MIB;
        options.free_space_floor = Some(0);
    });
    let both = space.judge_disk(&disk(20 * MIB), 0).or_less(space.judge_size(100 * MIB));
    assert_eq!((both.headroom, both.room), (20 * MIB as i64, 20 * MIB));
    let both = space.judge_disk(&disk(500 * MIB), 0).or_less(space.judge_size(315 * MIB));
    assert_eq!((both.headroom, both.room), (-5 * MIB as i64, 5 * MIB));
    assert!(both.short.is_some_and(|why| why.contains("takes 315 MiB of 320 MiB")));
}

#[test]
fn what_is_set_aside_counts_until_it_is_measured() {
    let space = space(|_| ());
    space.most.store(10, Relaxed);
    space.capacity.store(20, Relaxed);
    let first = space.take(6).unwrap();
    assert!(matches!(space.take(6), Err(Error::Full(_))), "4 are left");
    assert_eq!((space.headroom(), space.in_flight.load(Relaxed)), (4, 6));
    drop(first);
    assert_eq!((space.headroom(), space.in_flight.load(Relaxed)), (10, 0), "it was given up");
    let written = space.take(6).unwrap();
    written.written(6);
    drop(written);
    assert_eq!((space.headroom(), space.in_flight.load(Relaxed)), (4, 0), "its bytes are in the file now");
    // A small one may draw on what is kept back; the next one waits.
    space.capacity.store(100, Relaxed);
    let _second = space.take(6).unwrap();
    assert!(space.is_waiting());
}

#[test]
fn what_is_announced_keeps_nobody_out() {
    let space = space(|_| ());
    space.most.store(100 * MIB as i64, Relaxed);
    space.capacity.store(400 * MIB, Relaxed);
    let all: Vec<_> = (0..20).map(|_| space.take(70 * MIB).unwrap()).collect();
    assert_eq!(space.headroom(), 60 * MIB);
    assert!(space.take(101 * MIB).is_err(), "that much there is not");
    drop(all);
    let short: Vec<_> = (0..20).map(|_| space.take(15 * MIB).unwrap()).collect();
    assert_eq!(space.headroom(), 80 * MIB, "what shares a file comes by single chunks");
    drop(short);
    assert_eq!(space.headroom(), 100 * MIB);
}

#[test]
fn values_are_refused_below_the_floor_and_accepted_again_with_a_margin() {
    let dir = tempfile::tempdir().unwrap();
    let mut space = Space::new(&Options::new(dir.path()));
    space.max_size = 64 * MIB;
    space.floor = Some(0);
    let level = |space: &Space, promised| {
        space.measure(&Needs { promised, stuck: None });
        space.level()
    };
    assert_eq!(level(&space, 0), Level::Enough);
    assert_eq!(level(&space, 57 * MIB), Level::Low);
    assert!(space.admit().is_ok());
    // There was nothing to compact then; since, something may have been replaced.
    space.note_attempt();
    assert_eq!(level(&space, 63 * MIB), Level::Refusing);
    space.note_progress(false);
    assert!(space.is_waiting() && space.admit().is_ok(), "until the compactor has tried, and has given up");
    space.note_attempt();
    for other in [61, 63] {
        level(&space, other * MIB);
    }
    space.note_progress(false);
    assert!(space.is_waiting(), "values came in while it tried");
    give_up(&space);
    assert!(!space.is_waiting());
    assert!(matches!(space.admit(), Err(Error::Full(_))));
    assert_eq!(level(&space, 62 * MIB), Level::Refusing, "as much as the floor, and no margin");
    assert_eq!(level(&space, 61 * MIB), Level::Low);
    let stuck = Needs { promised: 0, stuck: Some("the disk said so".into()) };
    space.measure(&stuck);
    give_up(&space);
    assert!(space.admit().unwrap_err().to_string().contains("the disk said so"));
    assert_eq!(level(&space, 0), Level::Enough);
}

#[test]
fn files_count_with_the_blocks_they_have() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
    std::fs::File::create(dir.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
    let used = disk_usage(dir.path()).unwrap();
    assert!((100_000..200_000).contains(&used), "{used}");
}

#[test]
fn what_is_whole_is_not_counted_twice() {
    let space = Arc::new(space(|_| ()));
    space.most.store(100 << 20, Relaxed);
    let before = space.in_flight.load(Relaxed);
    let mut taken = space.take(2 << 20).unwrap();
    assert_eq!(space.in_flight.load(Relaxed) - before, AHEAD as i64);
    taken.written(2 << 20);
    taken.end();
    assert_eq!((space.in_flight.load(Relaxed), space.headroom()), (before, 98 << 20));
    drop(taken);
    assert_eq!((space.in_flight.load(Relaxed), space.headroom()), (before, 98 << 20));
}

#[test]
fn what_is_written_while_the_room_is_measured_counts() {
    let dir = tempfile::tempdir().unwrap();
    let space = Arc::new(Space::new(&Options::new(dir.path()).max_size(64 * MIB)));
    space.measure(&Needs::default());
    let before = space.headroom();
    let mut taken = space.take(2 * MIB).unwrap();
    let found = space.look(&Needs::default()).unwrap();
    taken.written(2 * MIB);
    taken.end();
    let other = space.take(AHEAD).unwrap();
    space.adopt(found, &mut "".into());
    assert_eq!(space.headroom(), before - 2 * MIB - AHEAD);
    drop(other);
    assert_eq!(space.headroom(), before - 2 * MIB);
}
