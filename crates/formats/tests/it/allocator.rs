//! Counts what each thread and the process allocate, so that a test can bound it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

thread_local! {
    // Without destructors and without lazy initialisation, so that the allocator may use them at any time.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// As those two, for all threads together.
static ALL_HELD: AtomicIsize = AtomicIsize::new(0);
static ALL_PEAK: AtomicIsize = AtomicIsize::new(0);

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(change: isize) {
    let held = HELD.get() + change;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
    ALL_PEAK.fetch_max(ALL_HELD.fetch_add(change, Relaxed) + change, Relaxed);
}

// SAFETY: every call is passed on to the system's allocator unchanged.
#[allow(unsafe_code, reason = "the interface of allocators is unsafe; this one only counts")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may exist for a moment.
        count(size as isize);
        count(-(layout.size() as isize));
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// What `work` returns, and the most bytes this thread held meanwhile beyond those it held before.
pub(crate) fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, usize::try_from(PEAK.get() - before).unwrap())
}

/// The memory that hostile input may cost beyond itself.
pub(crate) const HOSTILE_BYTES_MAX: usize = 64 << 20;

/// The most bytes that this process ever held at once.
pub(crate) fn peak_of_process() -> usize {
    usize::try_from(ALL_PEAK.load(Relaxed)).unwrap()
}

/// Runs `work` on an input of `input_bytes`, held by the caller, and holds it to the memory that hostile input may cost.
pub(crate) fn within_limit<T>(input_bytes: usize, work: impl FnOnce() -> T) -> T {
    let (result, peak) = peak_of(work);
    assert!(peak <= HOSTILE_BYTES_MAX + input_bytes, "an input of {input_bytes} bytes took {peak} bytes of memory");
    result
}
