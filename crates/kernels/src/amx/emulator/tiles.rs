//! What the tile instructions do, from the pseudo-code of Intel's Software Developer's Manual, volume 2. What the manual
//! makes an exception is a [`Fault`] here.

use super::decode::{Dot, Instruction, Memory};

/// Rows of a tile, and bytes of a row: palette 1's.
const ROWS_MAX: usize = 16;
const ROW_BYTES_MAX: usize = 64;

/// Why a processor would refuse the instruction.
pub(super) type Fault = &'static str;

/// Adds to a row of sums that of products of `left`, a row of words, with `right`, a row for each of those words.
type AddRow = fn(sums: &mut Row, left: &[u8], right: &[Row]);

/// A tile that is not configured has no rows.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    row_bytes: usize,
}

type Row = [u8; ROW_BYTES_MAX];
type Data = [Row; ROWS_MAX];
const ZEROS: Data = [[0; ROW_BYTES_MAX]; ROWS_MAX];

/// The tile registers of one thread. What lies outside a tile's shape is 0.
pub(super) struct Tiles {
    shapes: [Shape; 8],
    data: [Data; 8],
}

impl Tiles {
    /// As a thread begins with them: none is configured.
    pub(super) const INITIAL: Self = Self { shapes: [Shape { rows: 0, row_bytes: 0 }; 8], data: [ZEROS; 8] };

    /// Carries out an instruction of a program in which general registers have the values that `register` gives.
    ///
    /// # Safety
    /// What the instruction reads or writes in memory may be read or written.
    pub(super) unsafe fn execute(
        &mut self,
        instruction: Instruction,
        register: impl Fn(u8) -> usize,
    ) -> Result<(), Fault> {
        let address =
            |memory: Memory| register(memory.base).wrapping_add_signed(memory.displacement as isize) as *mut u8;
        let index = |memory: Memory| memory.index.map_or(0, |index| register(index) << memory.shift);
        match instruction {
            Instruction::LoadConfiguration(memory) => {
                let at = address(memory).wrapping_add(index(memory));
                // SAFETY: the caller's promise.
                self.configure(&unsafe { at.cast::<[u8; 64]>().read_unaligned() })?;
            }
            Instruction::Release => *self = Self::INITIAL,
            Instruction::Zero(tile) => {
                self.shape(tile)?;
                self.data[usize::from(tile)] = ZEROS;
            }
            Instruction::Load(tile, memory) => {
                let Shape { rows, row_bytes } = self.shape(tile)?;
                let data = &mut self.data[usize::from(tile)];
                *data = ZEROS;
                for (row, data) in data[..rows].iter_mut().enumerate() {
                    let at = address(memory).wrapping_add(row.wrapping_mul(index(memory)));
                    // SAFETY: the caller's promise.
                    unsafe { at.copy_to_nonoverlapping(data.as_mut_ptr(), row_bytes) };
                }
            }
            Instruction::Store(tile, memory) => {
                let Shape { rows, row_bytes } = self.shape(tile)?;
                for (row, data) in self.data[usize::from(tile)][..rows].iter().enumerate() {
                    let at = address(memory).wrapping_add(row.wrapping_mul(index(memory)));
                    // SAFETY: the caller's promise.
                    unsafe { at.copy_from_nonoverlapping(data.as_ptr(), row_bytes) };
                }
            }
            Instruction::DotInt8(dot) => self.dot(dot, dot_int8)?,
            Instruction::DotBf16(dot) => self.dot(dot, dot_bf16)?,
        }
        Ok(())
    }

    fn shape(&self, tile: u8) -> Result<Shape, Fault> {
        let shape = self.shapes[usize::from(tile)];
        if shape.rows == 0 { Err("a tile that is not configured") } else { Ok(shape) }
    }

    /// The layout is `ldtilecfg`'s: palette, first row, bytes of a row from byte 16 on and rows from byte 48 on.
    fn configure(&mut self, bytes: &[u8; 64]) -> Result<(), Fault> {
        match bytes[0] {
            0 => {
                *self = Self::INITIAL;
                return Ok(());
            }
            1 => {}
            _ => return Err("a palette that does not exist"),
        }
        if bytes[1] != 0 {
            return Err("an instruction that goes on from a row in the middle, which is not emulated");
        }
        let reserved = bytes[2..16].iter().chain(&bytes[32..48]).chain(&bytes[56..]);
        if reserved.into_iter().any(|&byte| byte != 0) {
            return Err("a configuration with reserved bytes that are not 0");
        }
        let mut tiles = Self::INITIAL;
        for (tile, shape) in tiles.shapes.iter_mut().enumerate() {
            let row_bytes = usize::from(u16::from_le_bytes([bytes[16 + tile * 2], bytes[17 + tile * 2]]));
            let rows = usize::from(bytes[48 + tile]);
            if rows > ROWS_MAX || row_bytes > ROW_BYTES_MAX {
                return Err("a tile that is configured larger than it is");
            }
            if (rows == 0) != (row_bytes == 0) {
                return Err("a tile that is configured with rows or with bytes only");
            }
            *shape = Shape { rows, row_bytes };
        }
        *self = tiles;
        Ok(())
    }

    /// Adds a product of tiles, row by row of the sums.
    fn dot(&mut self, dot: Dot, add_row: AddRow) -> Result<(), Fault> {
        let (sums, left, right) = (self.shape(dot.sums)?, self.shape(dot.left)?, self.shape(dot.right)?);
        let tiles = [dot.sums, dot.left, dot.right].map(usize::from);
        let Ok([sums_data, left_data, right_data]) = self.data.get_disjoint_mut(tiles) else {
            return Err("a product whose tiles are not three");
        };
        if [sums, left, right].iter().any(|shape| shape.row_bytes % 4 != 0) {
            return Err("a product of tiles whose rows are no whole words");
        }
        if sums.rows != left.rows || left.row_bytes / 4 != right.rows || sums.row_bytes != right.row_bytes {
            return Err("a product of tiles whose shapes do not fit");
        }
        for (sums_row, left_row) in sums_data.iter_mut().zip(&*left_data).take(sums.rows) {
            add_row(sums_row, &left_row[..left.row_bytes], &right_data[..right.rows]);
            sums_row[sums.row_bytes..].fill(0);
        }
        Ok(())
    }
}

/// `tdpbssd`: sums in i32, which wrap, of four products of signed bytes for each word.
fn dot_int8(sums: &mut Row, left: &[u8], right: &[Row]) {
    let mut totals: [i32; 16] = std::array::from_fn(|n| i32::from_le_bytes(word(sums, n)));
    for (k, right) in right.iter().enumerate() {
        let left = word(left, k).map(|byte| i32::from(byte as i8));
        for (n, total) in totals.iter_mut().enumerate() {
            let right = word(right, n).map(|byte| i32::from(byte as i8));
            for (left, right) in left.into_iter().zip(right) {
                *total = total.wrapping_add(left * right);
            }
        }
    }
    put_words(sums, totals.map(i32::to_le_bytes));
}

/// `tdpbf16ps`: for each sum a chain over the lower numbers of the words and one over the upper ones, which are added
/// to each other and then to the sum.
fn dot_bf16(sums: &mut Row, left: &[u8], right: &[Row]) {
    let mut chains = [[0.0; 2]; 16];
    for (k, right) in right.iter().enumerate() {
        let left = two_bf16(word(left, k));
        for (n, chains) in chains.iter_mut().enumerate() {
            let right = two_bf16(word(right, n));
            for (chain, (left, right)) in chains.iter_mut().zip(left.into_iter().zip(right)) {
                *chain = flushed_sum(input(left) * input(right), input(*chain));
            }
        }
    }
    let total = |n: usize, [lower, upper]: [f32; 2]| {
        let both = flushed_sum(input(lower), input(upper));
        flushed_sum(input(f32::from_le_bytes(word(sums, n))), input(both))
    };
    let totals = std::array::from_fn(|n| total(n, chains[n]).to_le_bytes());
    put_words(sums, totals);
}

fn word(row: &[u8], n: usize) -> [u8; 4] {
    [row[n * 4], row[n * 4 + 1], row[n * 4 + 2], row[n * 4 + 3]]
}

fn put_words(row: &mut Row, words: [[u8; 4]; 16]) {
    row.copy_from_slice(words.as_flattened());
}

fn two_bf16(word: [u8; 4]) -> [f32; 2] {
    let bits = u32::from_le_bytes(word);
    [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)]
}

/// A subnormal number counts as a zero of its sign (DAZ). In binary64 the product of two bf16 numbers is exact.
fn input(x: f32) -> f64 {
    if x.is_subnormal() { 0.0f64.copysign(f64::from(x)) } else { f64::from(x) }
}

/// `a + b` rounded once to binary32, to nearest, ties to even; a result that is tiny after rounding as if exponents were
/// unbounded becomes a zero of its sign (FTZ).
fn flushed_sum(a: f64, b: f64) -> f32 {
    // What binary64 rounded off (Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B).
    let sum = a + b;
    let virtual_b = sum - a;
    let error = (a - (sum - virtual_b)) + (b - virtual_b);
    // Rounded to odd instead, it can be rounded again as if it were exact (Boldo and Melquiond, 2008). No error is a number
    // where the sum is none.
    let bits = sum.to_bits();
    let odd = if error.abs() > 0.0 && bits & 1 == 0 {
        f64::from_bits(if (error > 0.0) == (sum > 0.0) { bits + 1 } else { bits - 1 })
    } else {
        sum
    };
    // Halfway between 2^-126 and the number of 24 bits below it, the tie goes to 2^-126.
    const TINY: f64 = f32::MIN_POSITIVE as f64 * (1.0 - 1.0 / (1u32 << 25) as f64);
    if odd.abs() < TINY { 0.0f32.copysign(odd as f32) } else { odd as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use serde_json::Value;

    /// What `ldtilecfg` reads: rows and bytes of a row of the first tiles.
    fn configuration(shapes: &[(u8, u16)]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        for (tile, (rows, row_bytes)) in shapes.iter().enumerate() {
            bytes[16 + tile * 2..][..2].copy_from_slice(&row_bytes.to_le_bytes());
            bytes[48 + tile] = *rows;
        }
        bytes
    }

    /// An operand at the address in register 0, with the stride in register 1.
    const AT: Memory = Memory { base: 0, index: Some(1), shift: 0, displacement: 0 };

    /// Runs an instruction whose operand is [`AT`] this memory, which has to be as long as its tile.
    fn execute(tiles: &mut Tiles, instruction: Instruction, at: &mut [u8], stride: usize) -> Result<(), Fault> {
        let registers = [at.as_mut_ptr() as usize, stride];
        // SAFETY: the memory is as long as the tests make the tiles.
        unsafe { tiles.execute(instruction, |number| registers[usize::from(number)]) }
    }

    fn configured(shapes: &[(u8, u16)]) -> Tiles {
        let mut tiles = Tiles::INITIAL;
        execute(&mut tiles, Instruction::LoadConfiguration(AT), &mut configuration(shapes), 0).unwrap();
        tiles
    }

    const DOT: Dot = Dot { sums: 0, left: 1, right: 2 };

    #[test]
    fn products_are_those_worked_out_from_the_manual() {
        let golden: Vec<Value> = serde_json::from_str(include_str!("../../../tests/data/tiles_golden.json")).unwrap();
        for case in golden {
            let bytes =
                |key: &str| base64::engine::general_purpose::STANDARD.decode(case[key].as_str().unwrap()).unwrap();
            let count = |key: &str| case[key].as_u64().unwrap() as usize;
            let (rows, words, columns) = (count("rows"), count("words"), count("columns"));
            let mut tiles = configured(&[
                (rows as u8, columns as u16 * 4),
                (rows as u8, words as u16 * 4),
                (words as u8, columns as u16 * 4),
            ]);
            for (tile, key, words) in [(0, "sums_b64", columns), (1, "left_b64", words), (2, "right_b64", columns)] {
                execute(&mut tiles, Instruction::Load(tile, AT), &mut bytes(key), words * 4).unwrap();
            }
            let instruction = match case["instruction"].as_str() {
                Some("tdpbssd") => Instruction::DotInt8(DOT),
                Some("tdpbf16ps") => Instruction::DotBf16(DOT),
                other => panic!("{other:?}"),
            };
            execute(&mut tiles, instruction, &mut [], 0).unwrap();
            let mut found = vec![0; rows * columns * 4];
            execute(&mut tiles, Instruction::Store(0, AT), &mut found, columns * 4).unwrap();
            for (at, (found, expected)) in found.chunks(4).zip(bytes("result_b64").chunks(4)).enumerate() {
                let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
                let (found_number, expected_number) = (number(found), number(expected));
                let is_nan = instruction == Instruction::DotBf16(DOT) && expected_number.is_nan();
                assert!(
                    if is_nan { found_number.is_nan() } else { found == expected },
                    "{}, {at}: {found_number:e} is not {expected_number:e}",
                    case["name"]
                );
            }
        }
    }

    /// `a · b + c` by the processor, with MXCSR's DAZ and FTZ and all exceptions masked.
    #[target_feature(enable = "fma")]
    fn flushed_by_the_processor(a: f32, b: f32, c: f32) -> f32 {
        let (flushing, mut saved, mut result) = (0x9fc0u32, 0u32, c);
        // SAFETY: MXCSR is as it was at the end.
        unsafe {
            std::arch::asm!(
                "vstmxcsr [{saved}]",
                "vldmxcsr [{flushing}]",
                "vfmadd231ss {result}, {a}, {b}",
                "vldmxcsr [{saved}]",
                saved = in(reg) &raw mut saved,
                flushing = in(reg) &raw const flushing,
                a = in(xmm_reg) a,
                b = in(xmm_reg) b,
                result = inout(xmm_reg) result,
                options(nostack),
            );
        }
        result
    }

    #[test]
    fn sums_are_rounded_and_flushed_as_the_processor_does() {
        assert!(is_x86_feature_detected!("fma"), "the emulator is for machines with AVX-512");
        // Exponents about each edge: products as small as sums, as large, and of nothing; all mantissas alike, or any.
        let mut state = 0u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let mut check = |low: u32, high: u32| {
            let mut float = |low: u32, high: u32, mantissa_bits: u32| {
                let mantissa = [0, 1, 0x40_0000, 0x7f_fffe, 0x7f_ffff, random() % 0x80_0000][random() as usize % 6];
                let mantissa = mantissa >> (23 - mantissa_bits) << (23 - mantissa_bits);
                f32::from_bits((random() & 1) << 31 | (low + random() % (high - low + 1)) << 23 | mantissa)
            };
            // The product of two exponents e is 2e - 127.
            let (a, b) = (float(low, high, 7), float(low, high, 7));
            let c = float((2 * low).saturating_sub(127).min(255), (2 * high).saturating_sub(127).min(255), 23);
            // SAFETY: FMA is there.
            let expected = unsafe { flushed_by_the_processor(a, b, c) };
            let found = flushed_sum(input(a) * input(b), input(c));
            assert!(
                found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()),
                "{a:e} · {b:e} + {c:e}: {found:e} is not {expected:e}"
            );
        };
        for _ in 0..100_000 {
            check(0, 2);
            check(50, 66);
            check(63, 64);
            check(110, 140);
            check(188, 191);
            check(250, 255);
        }
    }

    #[test]
    fn a_tile_is_zero_outside_its_shape() {
        let mut tiles = configured(&[(3, 8), (16, 64)]);
        let mut memory: Vec<u8> = (1..=48).collect();
        execute(&mut tiles, Instruction::Load(0, AT), &mut memory, 16).unwrap();
        assert_eq!(tiles.data[0][1][..10], [17, 18, 19, 20, 21, 22, 23, 24, 0, 0]);
        assert_eq!(tiles.data[0][3..], ZEROS[3..]);
        memory.fill(255);
        execute(&mut tiles, Instruction::Store(0, AT), &mut memory, 12).unwrap();
        assert_eq!(memory[12..26], [17, 18, 19, 20, 21, 22, 23, 24, 255, 255, 255, 255, 33, 34]);
        assert_eq!(memory[32..], [255; 16]);
        execute(&mut tiles, Instruction::Zero(0), &mut [], 0).unwrap();
        assert_eq!(tiles.data[0], ZEROS);
    }

    #[test]
    fn what_a_processor_refuses_is_a_fault() {
        let check = |tiles: &mut Tiles, instruction, memory: &mut [u8], expected: &str| {
            let fault = execute(tiles, instruction, memory, 0).expect_err(expected);
            assert!(fault.contains(expected), "{instruction:?}: {fault}");
        };
        let whole = [(16, 64); 8];
        for (byte, value, expected) in [
            (0, 2, "palette"),
            (1, 1, "row in the middle"),
            (2, 1, "reserved"),
            (15, 128, "reserved"),
            (32, 64, "reserved"),
            (47, 1, "reserved"),
            (56, 16, "reserved"),
            (63, 1, "reserved"),
            (16, 65, "larger"),
            (31, 1, "larger"),
            (48, 17, "larger"),
            (55, 255, "larger"),
            (18, 0, "with rows or with bytes only"),
            (54, 0, "with rows or with bytes only"),
        ] {
            let mut bytes = configuration(&whole);
            bytes[byte] = value;
            let mut tiles = Tiles::INITIAL;
            check(&mut tiles, Instruction::LoadConfiguration(AT), &mut bytes, expected);
        }
        // Nothing is configured at the beginning, after a release, and by palette 0.
        let mut tiles =
            [Tiles::INITIAL, configured(&whole), configured(&whole), configured(&[(0, 0), (16, 64), (16, 64)])];
        execute(&mut tiles[1], Instruction::Release, &mut [], 0).unwrap();
        execute(&mut tiles[2], Instruction::LoadConfiguration(AT), &mut [0; 64], 0).unwrap();
        for tiles in &mut tiles {
            for instruction in [
                Instruction::Zero(0),
                Instruction::Load(0, AT),
                Instruction::Store(0, AT),
                Instruction::DotInt8(DOT),
                Instruction::DotBf16(DOT),
            ] {
                check(tiles, instruction, &mut [0; 64], "not configured");
            }
        }
        for dot in [[0, 0, 1], [0, 1, 0], [1, 0, 0], [3, 3, 3]] {
            let [sums, left, right] = dot;
            let instruction = Instruction::DotInt8(Dot { sums, left, right });
            check(&mut configured(&whole), instruction, &mut [], "not three");
        }
        for (shapes, expected) in [
            ([(16, 64), (16, 62), (16, 64)], "whole words"),
            ([(16, 62), (16, 64), (16, 62)], "whole words"),
            ([(15, 64), (16, 64), (16, 64)], "do not fit"),
            ([(16, 64), (16, 60), (16, 64)], "do not fit"),
            ([(16, 64), (16, 64), (15, 64)], "do not fit"),
            ([(16, 60), (16, 64), (16, 64)], "do not fit"),
            ([(16, 64), (16, 64), (16, 60)], "do not fit"),
        ] {
            check(&mut configured(&shapes), Instruction::DotInt8(DOT), &mut [], expected);
            check(&mut configured(&shapes), Instruction::DotBf16(DOT), &mut [], expected);
        }
    }
}
