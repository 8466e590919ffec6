//! Memory that begins as zeros on a cache line, and that the system maps only when it is touched.
//!
//! It comes in mappings of its own rather than from the allocator: what is not there is an answer (`vec!` ends the
//! process), and pages of 2 MB, which Linux gives to whoever asks, save decoding a fifth of its time.

use memmap2::{MmapMut, MmapOptions};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Where memory begins: on a cache line, so that no vector straddles two.
const LINE: usize = 64;

/// Numbers, all zero at first.
pub struct Zeroed<T> {
    start: NonNull<T>,
    length: usize,
    /// Kept alive; nobody goes through it.
    _mapping: Option<Arc<MmapMut>>,
    _owned: PhantomData<T>,
}

// SAFETY: it owns the numbers in its part of the mapping, as a vector does.
unsafe impl<T: Send> Send for Zeroed<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Zeroed<T> {}

impl<T> Default for Zeroed<T> {
    fn default() -> Self {
        Self { start: NonNull::dangling(), length: 0, _mapping: None, _owned: PhantomData }
    }
}

impl<T: Zeroable> Zeroed<T> {
    /// In a mapping of its own; `None` where the system does not give the memory.
    pub(crate) fn new(length: usize) -> Option<Self> {
        Rest::map(size_of::<T>().checked_mul(length)?)?.take(length)
    }

    /// All of them.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: the part is this value's own, mapped, aligned, and zeros or what was written since.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// All of them, to write to.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

/// Numbers whose bytes may all be zero.
///
/// # Safety
/// A value whose bytes are all zero is valid, and the type has a size that divides a cache line, and nothing to drop.
pub unsafe trait Zeroable: Copy {}

// SAFETY: zero bytes are +0.
unsafe impl Zeroable for f32 {}
// SAFETY: zero bytes are 0.
unsafe impl Zeroable for u16 {}
// SAFETY: zero bytes are 0.
unsafe impl Zeroable for i8 {}
// SAFETY: zero bytes are 0.
unsafe impl Zeroable for u8 {}
// SAFETY: zero bytes are 0.
unsafe impl Zeroable for u64 {}

/// Memory on large pages, for what is read over and over: matrices, small ones too, lie side by side in it. A mapping goes
/// back to the system when the last of its parts is dropped.
#[derive(Default)]
pub(crate) struct Arena(Mutex<Option<Rest>>);

impl Arena {
    /// The size of a large page.
    const PAGE: usize = 2 << 20;
    /// What is mapped at once, at least. Untouched, it takes no memory.
    const CHUNK: usize = 32 << 20;

    /// `None` where the system does not give the memory.
    pub(crate) fn zeroed<T: Zeroable>(&self, length: usize) -> Option<Zeroed<T>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = open.as_mut().and_then(|rest| rest.take(length)) {
            return Some(part);
        }
        let bytes = size_of::<T>().checked_mul(length)?.max(Self::CHUNK).checked_next_multiple_of(Self::PAGE)?;
        let mut rest = Rest::map_large(bytes)?;
        let part = rest.take(length);
        if open.as_ref().is_none_or(|open| open.left < rest.left) {
            *open = Some(rest);
        }
        part
    }
}

/// Rows of equal length, a stride apart. What lies between belongs to others.
pub(crate) struct Rows<T> {
    first: Zeroed<T>,
    stride: usize,
    count: usize,
}

impl<T: Zeroable> Rows<T> {
    pub(crate) fn row(&self, index: usize) -> &[T] {
        // SAFETY: the row is this value's own, mapped, aligned, and zeros or what was written since.
        unsafe { std::slice::from_raw_parts(self.start(index), self.first.length) }
    }

    pub(crate) fn row_mut(&mut self, index: usize) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start(index), self.first.length) }
    }

    fn start(&self, index: usize) -> *mut T {
        assert!(index < self.count, "row {index} of {}", self.count);
        // SAFETY: the mapping has a stride for each row.
        unsafe { self.first.start.as_ptr().byte_add(index * self.stride) }
    }
}

/// Memory of which several have a row each in every stride. Rows are used from the first on: large pages do not take much
/// more than what is used.
pub(crate) struct Shelves {
    first: Rest,
    stride: usize,
    count: usize,
}

impl Shelves {
    /// `stride` counts bytes; `None` where the system does not give the memory.
    pub(crate) fn new(stride: usize, count: usize) -> Option<Self> {
        let stride = stride.checked_next_multiple_of(LINE)?;
        let first = Rest::map_large(stride.checked_mul(count)?)?;
        Some(Self { first: Rest { left: if count > 0 { stride } else { 0 }, ..first }, stride, count })
    }

    /// Rows of `length` numbers; `None` where a stride has not as much left.
    pub(crate) fn rows<T: Zeroable>(&mut self, length: usize) -> Option<Rows<T>> {
        Some(Rows { first: self.first.take(length)?, stride: self.stride, count: self.count })
    }
}

/// The part of a mapping that nobody has yet.
struct Rest {
    mapping: Arc<MmapMut>,
    next: NonNull<u8>,
    left: usize,
}

// SAFETY: it owns its part of the mapping.
unsafe impl Send for Rest {}

impl Rest {
    fn map(bytes: usize) -> Option<Self> {
        let bytes = bytes.max(1).checked_next_multiple_of(LINE)?;
        let mut mapping = MmapOptions::new().len(bytes).map_anon().ok()?;
        let next = NonNull::new(mapping.as_mut_ptr())?;
        Some(Self { mapping: Arc::new(mapping), next, left: bytes })
    }

    /// On large pages, where the system has them for whoever asks.
    fn map_large(bytes: usize) -> Option<Self> {
        let rest = Self::map(bytes)?;
        #[cfg(target_os = "linux")]
        let _only_advice = rest.mapping.advise(memmap2::Advice::HugePage);
        Some(rest)
    }

    /// Room for `length` numbers, from a cache line on; `None` where as much is not left.
    fn take<T: Zeroable>(&mut self, length: usize) -> Option<Zeroed<T>> {
        let bytes = size_of::<T>().checked_mul(length)?.checked_next_multiple_of(LINE)?;
        self.left = self.left.checked_sub(bytes)?;
        let start = self.next;
        // SAFETY: as many bytes are left of the mapping, and a mapping has less than isize::MAX.
        self.next = unsafe { start.add(bytes) };
        Some(Zeroed { start: start.cast(), length, _mapping: Some(Arc::clone(&self.mapping)), _owned: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_arena_are_zero_and_apart() {
        let arena = Arena::default();
        let lengths = [1, 63, 64, 0, 65, 7_000_000, 40 << 20, 3, 1 << 20, 31 << 20, 5];
        let mut parts: Vec<Zeroed<u8>> = lengths.iter().map(|&length| arena.zeroed(length).unwrap()).collect();
        for (number, (part, &length)) in parts.iter_mut().zip(&lengths).enumerate() {
            assert_eq!(part.as_slice().len(), length);
            assert!(part.as_slice().as_ptr().addr().is_multiple_of(LINE));
            assert!(part.as_slice().iter().all(|&byte| byte == 0), "part {number} of {length} bytes");
            part.as_mut_slice().fill(number as u8 + 1);
        }
        let whole = |(number, part): (usize, &Zeroed<u8>)| part.as_slice().iter().all(|&byte| byte == number as u8 + 1);
        assert!(parts.iter().enumerate().all(whole));
    }

    #[test]
    fn rows_are_zero_and_apart() {
        let mut shelves = Shelves::new(3 * 64 + 128, 5).unwrap();
        let mut bytes: [Rows<u8>; 3] = [64, 1, 63].map(|length| shelves.rows(length).unwrap());
        let mut halves: Rows<u16> = shelves.rows(64).unwrap();
        assert!(shelves.rows::<u8>(1).is_none());
        for index in 0..5 {
            for (number, rows) in bytes.iter_mut().enumerate() {
                assert!(rows.row(index).iter().all(|&byte| byte == 0));
                rows.row_mut(index).fill((10 * index + number) as u8);
            }
            assert!(halves.row(index).iter().all(|&half| half == 0));
            halves.row_mut(index).fill(index as u16);
        }
        for index in 0..5 {
            for (number, rows) in bytes.iter().enumerate() {
                assert!(rows.row(index).iter().all(|&byte| byte == (10 * index + number) as u8));
            }
            assert_eq!(halves.row(index), [index as u16; 64]);
        }
    }

    #[test]
    fn memory_that_no_machine_has_is_no_panic() {
        assert!(Zeroed::<f32>::new(usize::MAX).is_none());
        assert!(Zeroed::<f32>::new(usize::MAX / 8).is_none());
        assert!(Arena::default().zeroed::<u16>(usize::MAX / 4).is_none());
        assert!(Shelves::new(usize::MAX, 2).is_none());
        assert!(Shelves::new(1 << 40, 1 << 23).is_none());
        assert!(Shelves::new(64, 0).unwrap().rows::<u8>(1).is_none());
        assert!(Zeroed::<u16>::new(0).unwrap().as_slice().is_empty());
        assert!(Zeroed::<i8>::default().as_slice().is_empty());
    }
}
