//! The tile registers: detection, configuration and products. Intel's Software Developer's Manual, volume 1, chapter 18.

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Whether the processor has AMX-TILE, AMX-INT8 and AMX-BF16, and the system lets this process use them. The first call
/// asks the system for the permission, which then holds for all threads, those under way among them.
///
/// Only to be called where AVX-512 is available.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| is_offered() || is_emulated())
}

/// By the machine and the system.
fn is_offered() -> bool {
    // CPUID leaf 7, EDX: bits 22 (BF16), 24 (TILE) and 25 (INT8). XCR0: bits 17 and 18, the tiles' state.
    const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    const STATE: u64 = 1 << 17 | 1 << 18;
    if __cpuid_count(7, 0).edx & FEATURES != FEATURES {
        return false;
    }
    // SAFETY: a system on which AVX-512 can be used has enabled XGETBV.
    let enabled = unsafe { _xgetbv(0) };
    enabled & STATE == STATE && is_permitted()
}

#[cfg(feature = "emulated-amx")]
use super::emulator::install as is_emulated;

/// Only where it is built in.
#[cfg(not(feature = "emulated-amx"))]
fn is_emulated() -> bool {
    false
}

/// Linux hands out the tiles' state, which makes every context larger, only on request: since 5.16 by
/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const SYS_ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: the call takes two numbers and touches no memory; a kernel that does not know it returns an error.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// How other systems permit AMX was not tried.
#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// What `ldtilecfg` reads (palette 1).
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The calling thread's tiles, configured for products of some rows of activations with sixteen outputs. Dropped, they
/// are released, so that the system has less to save when it switches threads.
pub(super) struct Tiles {
    /// Bytes of a row of activations that one step takes.
    step_bytes: usize,
    /// Tiles belong to their thread.
    _not_send: PhantomData<*const ()>,
}

impl Tiles {
    /// For `rows` rows of activations (1 to 16), and steps of `words` words of four bytes (1 to 16) along K.
    ///
    /// # Safety
    /// AMX must be available, and the thread must have no other `Tiles`.
    pub(super) unsafe fn configure(rows: usize, words: usize) -> Self {
        assert!((1..=16).contains(&rows) && (1..=16).contains(&words), "a tile of {rows} rows and {words} words");
        let (rows, words) = (rows as u8, words as u8);
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        // Tile 0 holds the sums, 1 the activations, 2 the weights.
        for (tile, rows, row_bytes) in [(0, rows, 64), (1, rows, u16::from(words) * 4), (2, words, 64)] {
            configuration.rows[tile] = rows;
            configuration.row_bytes[tile] = row_bytes;
        }
        // SAFETY: AMX is available, as the caller promises; the configuration is valid, and 64 bytes long.
        unsafe {
            asm!(
                "ldtilecfg [{configuration}]",
                configuration = in(reg) &raw const configuration,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly),
            );
        }
        Self { step_bytes: usize::from(words) * 4, _not_send: PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: they were configured, so AMX is available.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nomem, nostack, preserves_flags),
            );
        }
    }
}

/// Defines a product by the instruction of that name.
macro_rules! product {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        impl Tiles {
            $(#[$doc])*
            ///
            /// Row r of the activations begins `r · x_stride` bytes after `x`. The weights of each step follow each other:
            /// for every word of K sixteen words, one of each output. Row r of the sixteen results, which begin at 0,
            /// goes `r · out_stride` bytes after `out`.
            ///
            /// # Safety
            /// All of that must be memory that may be read or written. `steps` is not 0.
            pub(super) unsafe fn $name(
                &self,
                x: *const u8,
                x_stride: usize,
                weights: *const u8,
                steps: usize,
                out: *mut u8,
                out_stride: usize,
            ) {
                // SAFETY: the tiles are configured for these shapes; the memory is the caller's promise.
                unsafe {
                    asm!(
                        "tilezero tmm0",
                        "2:",
                        "tileloadd tmm1, [{x} + 1*{x_stride}]",
                        "tileloadd tmm2, [{weights} + 1*{weights_stride}]",
                        concat!($instruction, " tmm0, tmm1, tmm2"),
                        "add {x}, {step_bytes}",
                        "add {weights}, {weights_bytes}",
                        "dec {steps}",
                        "jnz 2b",
                        "tilestored [{out} + 1*{out_stride}], tmm0",
                        x = inout(reg) x => _,
                        x_stride = in(reg) x_stride,
                        weights = inout(reg) weights => _,
                        weights_stride = in(reg) 64usize,
                        step_bytes = in(reg) self.step_bytes,
                        weights_bytes = in(reg) self.step_bytes * 16,
                        steps = inout(reg) steps => _,
                        out = in(reg) out,
                        out_stride = in(reg) out_stride,
                        out("tmm0") _,
                        out("tmm1") _,
                        out("tmm2") _,
                        options(nostack),
                    );
                }
            }
        }
    };
}

product!(
    /// Exact sums, in i32, of products of signed bytes.
    dot_int8,
    "tdpbssd"
);
product!(
    /// The contract's chains over bf16 numbers, two to a word and 32 to a step.
    dot_bf16,
    "tdpbf16ps"
);
