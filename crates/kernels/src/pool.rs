//! The thread pool of the kernels: chunks of one job, claimed by whoever is free, spun for briefly, then slept for.
//!
//! A decode step is a few hundred jobs of some microseconds, so workers look for the next job for a short while before
//! they sleep, and the caller works too. The caller never waits for a worker that has not begun: when all chunks are
//! claimed it closes the job, and waits only for those inside. So a pool with more threads than the machine has free
//! cores loses little.
//!
//! Which thread runs which chunk is left to chance; no result may depend on it.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Busy looks at the state before a worker begins to give its core away between looks: about 2 µs.
const SPINS: u32 = 64;
/// Looks with the core given away before it sleeps: about 50 µs on an idle machine.
const YIELDS: u32 = 128;

/// Bit that says that a job may be entered. Below it: how many workers are inside. Above it: the job's number.
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;

type Job = dyn Fn(usize) + Sync;

struct Shared {
    state: AtomicU64,
    next_chunk: AtomicUsize,
    chunks: AtomicUsize,
    job: UnsafeCell<Option<*const Job>>,
    panicked: AtomicBool,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
}

// SAFETY: `job` is written only while the state is closed with nobody inside, and read only by those inside.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `job` is dereferenced only while the caller of `run` keeps what it points to alive.
unsafe impl Send for Shared {}

/// A fixed number of threads, the caller's among them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One job at a time.
    running: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` threads, the calling thread counted; 0 counts as 1.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            next_chunk: AtomicUsize::new(0),
            chunks: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let mut pool = Self { shared, workers: Vec::new(), running: Mutex::new(()) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name(format!("freehold-kernel-{index}"));
            pool.workers.push(builder.spawn(move || shared.work())?);
        }
        Ok(pool)
    }

    /// How many threads work on a job.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(0)` … `job(chunks − 1)`, each once, in any order, on any thread; returns when all have returned.
    ///
    /// # Panics
    /// If a chunk panicked. A job must not run another one on the same pool: it would wait for itself.
    pub fn run(&self, chunks: usize, job: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || chunks <= 1 {
            (0..chunks).for_each(job);
            return;
        }
        let _one_job = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let job: &(dyn Fn(usize) + Sync) = &job;
        // SAFETY: only the lifetime changes. Nobody dereferences the pointer after this function has closed the job and
        // seen everybody leave, which it does on every path.
        let job: *const Job = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Job>(job) };
        // SAFETY: the state is closed and nobody is inside: the last job ended so, and `running` is held.
        unsafe { *shared.job.get() = Some(job) };
        shared.chunks.store(chunks, Ordering::Relaxed);
        shared.next_chunk.store(0, Ordering::Relaxed);
        shared.panicked.store(false, Ordering::Relaxed);
        let number = shared.state.load(Ordering::Relaxed) >> 32;
        shared.state.store(number.wrapping_add(1) << 32 | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _sleep = shared.lock_sleep();
            shared.wake.notify_all();
        }
        // SAFETY: `job` lives until the end of this function.
        let outcome = catch_unwind(AssertUnwindSafe(|| shared.claim_chunks(unsafe { &*job })));
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0u32;
        while shared.state.load(Ordering::Acquire) & INSIDE != 0 {
            wait_a_little(looks);
            looks = looks.saturating_add(1);
        }
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
        assert!(!shared.panicked.load(Ordering::Relaxed), "a chunk of a kernel's job panicked on another thread");
    }

    /// Splits `data` into rows of `width` elements and runs `job(index, row)` for each, `rows_per_chunk` at a time.
    ///
    /// # Panics
    /// If `data` is no whole number of rows.
    pub fn run_rows<T: Send>(
        &self,
        data: &mut [T],
        width: usize,
        rows_per_chunk: usize,
        job: impl Fn(usize, &mut [T]) + Sync,
    ) {
        assert!(width > 0 && data.len().is_multiple_of(width), "data is no whole number of rows");
        let rows = data.len() / width;
        let rows_per_chunk = rows_per_chunk.max(1);
        let base = SharedMut(data.as_mut_ptr());
        self.run(rows.div_ceil(rows_per_chunk), |chunk| {
            for index in chunk * rows_per_chunk..rows.min((chunk + 1) * rows_per_chunk) {
                // SAFETY: each row belongs to one chunk, each chunk runs once, and `data` is borrowed for the whole run.
                let row = unsafe { std::slice::from_raw_parts_mut(base.get().add(index * width), width) };
                job(index, row);
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _sleep = self.shared.lock_sleep();
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker's panic has been reported by `run`.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn lock_sleep(&self) -> MutexGuard<'_, ()> {
        self.sleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim_chunks(&self, job: &Job) {
        let chunks = self.chunks.load(Ordering::Relaxed);
        loop {
            let chunk = self.next_chunk.fetch_add(1, Ordering::Relaxed);
            if chunk >= chunks {
                return;
            }
            job(chunk);
        }
    }

    /// The life of a worker.
    fn work(&self) {
        let mut last = 0;
        while let Some(state) = self.next_job(last) {
            last = state >> 32;
            if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                // Somebody else entered, or the job closed: look again at the same job.
                last = last.wrapping_sub(1);
                continue;
            }
            // SAFETY: inside an open job, `job` is set and what it points to is alive.
            let job = unsafe { &*(*self.job.get()).expect("an open job has a function") };
            if catch_unwind(AssertUnwindSafe(|| self.claim_chunks(job))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// The state of an open job other than number `last`; `None` when the pool is dropped.
    fn next_job(&self, last: u64) -> Option<u64> {
        let open = |state: u64| state & OPEN != 0 && state >> 32 != last;
        let mut looks = 0;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let state = self.state.load(Ordering::Acquire);
            if open(state) {
                return Some(state);
            }
            if looks < SPINS + YIELDS {
                wait_a_little(looks);
                looks += 1;
                continue;
            }
            let mut sleep = self.lock_sleep();
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            while !open(self.state.load(Ordering::SeqCst)) && !self.stop.load(Ordering::SeqCst) {
                sleep = self.wake.wait(sleep).unwrap_or_else(PoisonError::into_inner);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
            looks = 0;
        }
    }
}

fn wait_a_little(looks: u32) {
    if looks < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// A pointer that chunks write through, each to places of its own.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<T>(pub(crate) *mut T);

impl<T> SharedMut<T> {
    /// A method, so that closures capture the wrapper and not the bare pointer.
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: whoever dereferences it answers for writing to disjoint places.
unsafe impl<T: Send> Sync for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedMut<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_runs_once_whatever_the_number_of_threads() {
        for threads in [0, 1, 2, 3, 8, 33] {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads.max(1));
            for round in 0..200 {
                let chunks = round % 37;
                let counts: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(chunks, |chunk| {
                    counts[chunk].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts.iter().all(|count| count.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {chunks} chunks"
                );
            }
        }
    }

    #[test]
    fn rows_are_split_without_gap_or_overlap() {
        let pool = Pool::new(3).unwrap();
        for (rows, width, rows_per_chunk) in [(0, 4, 2), (1, 5, 0), (7, 3, 2), (64, 1, 10)] {
            let mut data = vec![0; rows * width];
            pool.run_rows(&mut data, width, rows_per_chunk, |index, row| row.iter_mut().for_each(|x| *x += index + 1));
            let expected: Vec<usize> = (0..rows * width).map(|element| element / width + 1).collect();
            assert_eq!(data, expected);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(4).unwrap();
        for bad in 0..8 {
            let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(8, |chunk| assert_ne!(chunk, bad))));
            assert!(outcome.is_err());
        }
        let sum = AtomicUsize::new(0);
        pool.run(100, |chunk| {
            sum.fetch_add(chunk, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4950);
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let pool = Pool::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(10, |_| {
                            sum.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4000);
    }
}
