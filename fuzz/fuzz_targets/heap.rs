//! Heap snapshots: all that is accepted lies within the file and within its memory. What does not begin like one is a memory that is
//! written as a snapshot and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::Digest;
use preheat_image::heap::{HeapBuilder, HeapSnapshot, NO_SITE, PAGE, flatten};

fuzz_target!(|data: &[u8]| {
    if let Ok(snapshot) = HeapSnapshot::parse(data) {
        let mut free = vec![0; snapshot.memories().len()];
        let mut last = 0;
        for run in snapshot.runs() {
            let memory = run.memory.get();
            assert!(memory >= last);
            last = memory;
            let contents = snapshot.contents(run);
            if run.is_zero() {
                assert!(contents.is_empty() && snapshot.base().is_some());
            } else {
                assert_eq!(contents.len(), run.pages.get() as usize * PAGE);
                assert!(data.as_ptr_range().contains(&contents.as_ptr()) && run.offset.get() % PAGE as u64 == 0);
            }
            let end = run.first.get() + u64::from(run.pages.get());
            assert!(run.first.get() >= free[memory as usize] && end * PAGE as u64 <= snapshot.memories()[memory as usize].size.get());
            free[memory as usize] = end;
        }
        let mut elements = 0;
        for (table, ranges) in snapshot.tables() {
            let mut end = 0;
            for (first, of_range) in ranges {
                assert!(first as usize >= end && first as usize + of_range.len() <= table.len.get() as usize);
                end = first as usize + of_range.len();
                elements += of_range.len();
            }
        }
        for written in snapshot.written() {
            let memory = &snapshot.memories()[written.memory.get() as usize];
            assert!((written.first.get() + u64::from(written.pages.get())) * PAGE as u64 <= memory.size.get());
        }
        let mut values = 0;
        let frames = snapshot.frames().len();
        for (number, (frame, of_frame)) in snapshot.frames().enumerate() {
            assert_eq!(frame.count.get() as usize, of_frame.len());
            assert_eq!(frame.site.get() == NO_SITE, number + 1 == frames);
            assert!(of_frame.iter().all(|value| value.ty().is_some()));
            values += of_frame.len();
        }
        assert!(elements * 4 + frames * 12 + values * 20 + snapshot.host().len() <= data.len());
        // Over itself it is itself.
        for memory in snapshot.memories() {
            let alone = flatten(&[snapshot], memory.index.get());
            let twice = flatten(&[snapshot, snapshot], memory.index.get());
            assert!(alone.is_sorted_by(|a, b| a.first + a.pages <= b.first));
            assert_eq!(alone.len(), twice.len());
            assert!(alone.iter().zip(&twice).all(|(a, b)| (a.first, a.pages, a.offset) == (b.first, b.pages, b.offset)));
        }
        // What the pages say is there afterwards, and nothing else was touched.
        let mut target = vec![0xa5; 2 * 65536];
        for position in 0..snapshot.memories().len().min(4) {
            target.fill(0xa5);
            let position = u32::try_from(position).expect("at most four");
            snapshot.write_into(position, &mut target);
            let mut left = target.chunks_exact(PAGE).map(|page| page == [0xa5; PAGE]).collect::<Vec<_>>();
            for run in snapshot.runs().iter().filter(|run| run.memory.get() == position) {
                for number in 0..run.pages.get() as usize {
                    let page = snapshot.contents(run).get(number * PAGE..).filter(|rest| !rest.is_empty());
                    let page = page.map_or(&[0; PAGE][..], |rest| &rest[..PAGE]);
                    let at = usize::try_from(run.first.get()).unwrap_or(usize::MAX).saturating_add(number);
                    if at >= left.len() {
                        break;
                    } else {
                        assert!(&target[at * PAGE..(at + 1) * PAGE] == page);
                        left[at] = true;
                    }
                }
            }
            assert!(left.into_iter().all(|untouched| untouched));
        }
    }
    // Slow under a sanitizer, so not for each.
    if data.starts_with(b"PREH") || data.len() % 8 != 0 {
        return;
    }
    let mut memory = data[..data.len().min(65536)].to_vec();
    memory.resize(65536, 0);
    let bytes = HeapBuilder::new().memory(0, &memory).encode(Digest::ZERO).expect("a whole number of Wasm pages");
    let mut again = vec![0; memory.len()];
    HeapSnapshot::parse(&bytes).expect("what was written is a snapshot").write_into(0, &mut again);
    assert!(again == memory);
});
