//! Heap snapshots: what is written is what is read, in layers too, and damage is found.

use preheat_image::abi::ValueType;
use preheat_image::heap::{HeapBuilder, HeapSnapshot, NO_SITE, PAGE, Value, flatten, with_written};
use preheat_image::{Digest, FormatError};
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

const WASM_PAGE: usize = 65536;

fn memory(pages: usize, written: &[(usize, u8)]) -> Vec<u8> {
    let mut memory = vec![0; pages * WASM_PAGE];
    for (at, value) in written {
        let len = memory.len();
        memory[at % len] = *value;
    }
    memory
}

fn runs(snapshot: &HeapSnapshot<'_>) -> Vec<(u64, u32, bool)> {
    snapshot.runs().iter().map(|run| (run.first.get(), run.pages.get(), run.is_zero())).collect()
}

fn parsed(files: &[Vec<u8>]) -> Vec<HeapSnapshot<'_>> {
    files.iter().map(|file| HeapSnapshot::parse(file).unwrap()).collect()
}

/// A memory as snapshots say that it is, page by page from their pieces.
fn restored(files: &[Vec<u8>], index: u32) -> Vec<u8> {
    let layers = parsed(files);
    let top = layers.last().unwrap().memories().iter().find(|memory| memory.index.get() == index).unwrap();
    let mut memory = vec![0; usize::try_from(top.size.get()).unwrap()];
    for piece in flatten(&layers, index) {
        let [first, pages, offset] = [piece.first, piece.pages, piece.offset].map(|number| usize::try_from(number).unwrap());
        memory[first * PAGE..][..pages * PAGE].copy_from_slice(&files[piece.layer][offset..][..pages * PAGE]);
    }
    memory
}

#[test]
fn zero_and_equal_pages_are_left_out() {
    let source = Digest::of(b"wasm");
    let old = memory(2, &[(0, 1), (4096, 2), (8192, 3), (100_000, 4)]);
    let base = HeapBuilder::new().memory(0, &old).encode(source).unwrap();
    let snapshot = HeapSnapshot::parse(&base).unwrap();
    assert_eq!(runs(&snapshot), [(0, 3, false), (24, 1, false)]);
    assert_eq!((snapshot.source(), snapshot.base()), (source, None));

    let mut new = old.clone();
    (new[4096], new[8193]) = (0, 1);
    new.resize(3 * WASM_PAGE, 0);
    let layer = HeapBuilder::over(Digest::of(&base), &[snapshot]).memory(0, &new).encode(source).unwrap();
    let files = [base.clone(), layer];
    let layer = HeapSnapshot::parse(&files[1]).unwrap();
    assert_eq!(layer.base(), Some(Digest::of(&base)));
    assert_eq!(runs(&layer), [(1, 1, true), (2, 1, false)], "what became zero is said, and has no contents");
    let mut both = vec![0; 3 * WASM_PAGE];
    snapshot.write_into(0, &mut both);
    layer.write_into(0, &mut both);
    assert!(both == new);
    assert!(restored(&files, 0) == new);
}

#[test]
fn a_few_zero_pages_do_not_end_a_run() {
    let close = memory(1, &[(0, 1), (5 * PAGE, 1)]);
    let snapshot = HeapBuilder::new().memory(0, &close).encode(Digest::ZERO).unwrap();
    assert_eq!(runs(&HeapSnapshot::parse(&snapshot).unwrap()), [(0, 6, false)]);
    let apart = memory(1, &[(0, 1), (6 * PAGE, 1)]);
    let snapshot = HeapBuilder::new().memory(0, &apart).encode(Digest::ZERO).unwrap();
    assert_eq!(runs(&HeapSnapshot::parse(&snapshot).unwrap()), [(0, 1, false), (6, 1, false)]);
}

#[test]
fn everything_that_was_added_is_there() {
    let memory = memory(1, &[(5, 5)]);
    let one = Value::new(ValueType::V128, [7; 16]);
    let two = Value::new(ValueType::I32, [8; 16]);
    let bytes = HeapBuilder::new()
        .memory(2, &memory)
        .global(1, one)
        .global(4, Value::function(Some(9)))
        .table(0, 10, [(0, vec![0, 3]), (5, vec![1])])
        .table(3, 0, Vec::<(u32, Vec<u32>)>::new())
        .dropped(&[true, false, true], &[false])
        .frame(12, Some(0x77), &[one, two])
        .frame(3, Some(0x99), &[])
        .frame(0, None, &[two])
        .written(2, 3, 4)
        .host(b"{}")
        .encode(Digest::ZERO)
        .unwrap();
    let snapshot = HeapSnapshot::parse(&bytes).unwrap();
    assert_eq!(snapshot.memories().iter().map(|memory| memory.index.get()).collect::<Vec<_>>(), [2]);
    let globals: Vec<_> = snapshot.globals().iter().map(|global| (global.index.get(), global.value.ty().unwrap())).collect();
    assert_eq!(globals, [(1, ValueType::V128), (4, ValueType::FuncRef)]);
    assert_eq!((snapshot.globals()[0].value.bytes, snapshot.globals()[1].value.as_function()), ([7; 16], Some(9)));
    let tables: Vec<_> = snapshot
        .tables()
        .map(|(table, ranges)| {
            let ranges = ranges.iter().map(|(first, elements)| (*first, elements.iter().map(|e| e.get()).collect::<Vec<_>>())).collect();
            (table.index.get(), table.len.get(), ranges)
        })
        .collect::<Vec<(u32, u32, Vec<(u32, Vec<u32>)>)>>();
    assert_eq!(tables, [(0, 10, vec![(0, vec![0, 3]), (5, vec![1])]), (3, 0, vec![])]);
    assert_eq!((snapshot.dropped_data(), snapshot.dropped_elements()), (&[1, 0, 1][..], &[0][..]));
    let written: Vec<_> = snapshot.written().iter().map(|run| (run.memory.get(), run.first.get(), run.pages.get())).collect();
    assert_eq!(written, [(0, 3, 4)]);
    let frames: Vec<_> = snapshot.frames().map(|(frame, values)| (frame.function.get(), frame.site.get(), values.to_vec())).collect();
    assert_eq!(frames, [(12, 0x77, vec![one, two]), (3, 0x99, vec![]), (0, NO_SITE, vec![two])]);
    assert_eq!((two.bytes[..5].to_vec(), snapshot.host()), (vec![8, 8, 8, 8, 0], &b"{}"[..]));
}

#[test]
fn what_will_be_written_can_be_said_later() {
    let memory = memory(2, &[(5, 5), (9 * PAGE, 3)]);
    let builder =
        || HeapBuilder::new().memory(1, &memory).table(0, 3, [(1, vec![7])]).frame(3, Some(1), &[]).frame(0, None, &[]).host(&[b'x'; 3700]);
    let runs: [(u32, u64, u32); 20] = std::array::from_fn(|number| (1, number as u64, 1));
    let told = runs.iter().fold(builder(), |builder, (memory, first, pages)| builder.written(*memory, *first, *pages));
    let told = told.encode(Digest::ZERO).unwrap();
    let plain = builder().encode(Digest::ZERO).unwrap();
    assert_ne!(plain.len(), told.len(), "the contents begin elsewhere");
    assert!(with_written(&plain, &runs).unwrap() == told);
    assert!(with_written(&told, &[]).unwrap() == plain, "it replaces what was said before");
    // A layer with zero pages, which have no contents.
    let base = HeapSnapshot::parse(&plain).unwrap();
    let changed = vec![0; memory.len()];
    let layer = HeapBuilder::over(Digest::of(&plain), &[base]).memory(1, &changed).encode(Digest::ZERO).unwrap();
    let later = with_written(&layer, &[(1, 4, 2)]).unwrap();
    assert_eq!(HeapSnapshot::parse(&later).unwrap().runs(), HeapSnapshot::parse(&layer).unwrap().runs());
    let grown = with_written(&plain, &[(1, 30, 4), (1, 40, 1)]).unwrap();
    let grown = HeapSnapshot::parse(&grown).unwrap();
    assert_eq!(grown.written().iter().map(|run| (run.first.get(), run.pages.get())).collect::<Vec<_>>(), [(30, 2)]);
    for wrong in [&[(0, 0, 1)][..], &[(1, 4, 1), (1, 3, 1)]] {
        assert!(with_written(&plain, wrong).is_err(), "{wrong:?}");
    }
    assert!(with_written(&plain[1..], &[]).is_err());
}

#[test]
fn what_is_out_of_order_is_not_written() {
    let empty = || Vec::<(u32, Vec<u32>)>::new();
    let value = Value::function(None);
    for builder in [
        HeapBuilder::new().memory(1, &[]).memory(1, &[]),
        HeapBuilder::new().memory(0, &[0; 100]),
        HeapBuilder::new().global(1, value).global(0, value),
        HeapBuilder::new().table(1, 0, empty()).table(0, 0, empty()),
        HeapBuilder::new().table(0, 3, [(2, vec![0, 0])]),
        HeapBuilder::new().table(0, 3, [(1, vec![0]), (0, vec![0])]),
        HeapBuilder::new().frame(0, None, &[]),
        HeapBuilder::new().memory(0, &[0; WASM_PAGE]).written(1, 0, 1),
        HeapBuilder::new().memory(0, &[0; WASM_PAGE]).written(0, 15, 2),
        HeapBuilder::new().memory(0, &[0; WASM_PAGE]).written(0, 3, 2).written(0, 4, 1),
        HeapBuilder::new().frame(0, Some(1), &[]),
        HeapBuilder::new().frame(0, None, &[]).frame(0, None, &[]),
    ] {
        assert!(matches!(builder.encode(Digest::ZERO), Err(FormatError::Damaged { .. })));
    }
}

#[test]
fn names_what_is_wrong() {
    let bytes = HeapBuilder::new().memory(0, &memory(1, &[(5000, 1)])).encode(Digest::ZERO).unwrap();
    assert!(HeapSnapshot::parse(&bytes).is_ok());
    assert!(matches!(HeapSnapshot::parse(&bytes[..bytes.len() - 1]), Err(FormatError::Truncated { .. })));
    assert!(matches!(HeapSnapshot::parse(&bytes[..100]), Err(FormatError::Truncated { .. })));
    let error = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        HeapSnapshot::parse(&bytes).map(drop).unwrap_err()
    };
    assert!(matches!(error(0, 0), FormatError::NotThisFormat { .. }));
    assert_eq!(error(8, 1), FormatError::Version { format: "heap snapshot", found: 1, supported: 2 });
    let run = 192 + 16;
    assert!(error(run, 1).to_string().contains("run 0 is of memory 1"));
    assert!(error(run + 8, 200).to_string().contains("not within its memory"));
    assert!(error(run + 17, 0x20).to_string().contains("not within the file"));
    assert!(error(run + 17, 0).to_string().contains("not within the file"), "there are no zero runs without base");
    assert!(error(run + 4, 0).to_string().contains("not within its memory"));
    assert!(error(145, 0x20).to_string().contains("bytes of the host"));
}

/// Memories that grow and shrink, one over the other.
fn states() -> impl Strategy<Value = Vec<(usize, Vec<(usize, u8)>)>> {
    let written = proptest::collection::vec((0usize..5 * WASM_PAGE, 0u8..3), 0..40);
    proptest::collection::vec((1usize..5, written), 1..5)
}

proptest! {
    #[test]
    fn layers_make_the_state(states in states()) {
        let states: Vec<Vec<u8>> = states.iter().map(|(pages, written)| memory(*pages, written)).collect();
        let mut files: Vec<Vec<u8>> = Vec::new();
        for state in &states {
            let below = parsed(&files);
            let builder = files.last().map_or_else(HeapBuilder::new, |last| HeapBuilder::over(Digest::of(last), &below));
            let file = builder.memory(7, state).encode(Digest::ZERO).unwrap();
            files.push(file);
        }
        for count in 1..=files.len() {
            prop_assert!(restored(&files[..count], 7) == states[count - 1]);
            let pieces = flatten(&parsed(&files[..count]), 7);
            prop_assert!(pieces.is_sorted_by(|a, b| a.first + a.pages <= b.first));
        }
    }

    #[test]
    fn damage_never_panics(flips in proptest::collection::vec((0usize..600, any::<u8>()), 1..6)) {
        let contents = memory(1, &[(5000, 1), (60000, 2)]);
        let base = HeapBuilder::new().memory(0, &contents).encode(Digest::ZERO).unwrap();
        let below = [HeapSnapshot::parse(&base).unwrap()];
        let contents = memory(2, &[(5001, 1)]);
        let mut bytes = HeapBuilder::over(Digest::of(&base), &below).memory(0, &contents).table(0, 5, [(1, [1, 2])]).global(0, Value::function(None))
            .frame(3, Some(4), &[Value::function(None)]).frame(0, None, &[]).dropped(&[true], &[true]).host(b"host").encode(Digest::ZERO).unwrap();
        for (at, value) in flips {
            bytes[at] = value;
        }
        if let Ok(snapshot) = HeapSnapshot::parse(&bytes) {
            let mut target = vec![0; WASM_PAGE];
            for position in 0..2 {
                snapshot.write_into(position, &mut target);
            }
            let _ = flatten(&[below[0], snapshot], 0);
            for (table, ranges) in snapshot.tables() {
                prop_assert_eq!(table.ranges.get() as usize, ranges.len());
            }
            for (frame, values) in snapshot.frames() {
                prop_assert_eq!(frame.count.get() as usize, values.len());
            }
        }
    }
}
