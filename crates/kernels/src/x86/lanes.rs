//! Registers of floats: eight in AVX2, sixteen in AVX-512.

use std::arch::x86_64::*;
use std::ops::Range;

/// Defines [`Lanes`] and both of its forms: each line has a function, and what it is of eight and of sixteen.
macro_rules! lanes {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty = $of_8:expr, $of_16:expr;)+) => {
        /// A register of floats. Arithmetic rounds once, as IEEE 754 says.
        ///
        /// # Safety
        /// Every function needs the features of its instruction set where it is inlined, and the memory that it reads or
        /// writes.
        pub(crate) trait Lanes: Copy {
            /// How many there are: 8 or 16.
            const COUNT: usize;
            /// As many i32.
            type Ints: Copy;
            /// As many truths.
            type Mask: Copy;

            $($(#[$doc])* unsafe fn $name($($arg: $type),*) -> $result;)+
        }

        impl Lanes for __m256 {
            const COUNT: usize = 8;
            type Ints = __m256i;
            type Mask = __m256;

            $(
                #[inline(always)]
                unsafe fn $name($($arg: $type),*) -> $result {
                    // SAFETY: the target features and the memory are the caller's promise.
                    unsafe { $of_8 }
                }
            )+
        }

        impl Lanes for __m512 {
            const COUNT: usize = 16;
            type Ints = __m512i;
            type Mask = __mmask16;

            $(
                #[inline(always)]
                unsafe fn $name($($arg: $type),*) -> $result {
                    // SAFETY: the target features, AVX2's among them, and the memory are the caller's promise.
                    unsafe { $of_16 }
                }
            )+
        }
    };
}

lanes! {
    /// +0.
    fn zero() -> Self = _mm256_setzero_ps(), _mm512_setzero_ps();
    /// The same number in every lane.
    fn splat(x: f32) -> Self = _mm256_set1_ps(x), _mm512_set1_ps(x);
    /// `COUNT` numbers, of any alignment.
    fn load(from: *const f32) -> Self = _mm256_loadu_ps(from), _mm512_loadu_ps(from);
    /// `COUNT` numbers of half precision, widened.
    fn load_f16(from: *const u16) -> Self =
        _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()));
    /// `COUNT` signed bytes, widened.
    fn load_i8(from: *const i8) -> Self =
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))),
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())));
    /// Writes `COUNT` numbers.
    fn store(to: *mut f32, x: Self) -> () = _mm256_storeu_ps(to, x), _mm512_storeu_ps(to, x);

    fn add(a: Self, b: Self) -> Self = _mm256_add_ps(a, b), _mm512_add_ps(a, b);
    fn sub(a: Self, b: Self) -> Self = _mm256_sub_ps(a, b), _mm512_sub_ps(a, b);
    fn mul(a: Self, b: Self) -> Self = _mm256_mul_ps(a, b), _mm512_mul_ps(a, b);
    fn div(a: Self, b: Self) -> Self = _mm256_div_ps(a, b), _mm512_div_ps(a, b);
    /// `a · b + c`.
    fn fma(a: Self, b: Self, c: Self) -> Self = _mm256_fmadd_ps(a, b, c), _mm512_fmadd_ps(a, b, c);
    /// `a · b − c`.
    fn fms(a: Self, b: Self, c: Self) -> Self = _mm256_fmsub_ps(a, b, c), _mm512_fmsub_ps(a, b, c);
    /// `c − a · b`.
    fn fnma(a: Self, b: Self, c: Self) -> Self = _mm256_fnmadd_ps(a, b, c), _mm512_fnmadd_ps(a, b, c);
    /// `a · b − c` in even lanes, `a · b + c` in odd ones.
    fn fmaddsub(a: Self, b: Self, c: Self) -> Self = _mm256_fmaddsub_ps(a, b, c), _mm512_fmaddsub_ps(a, b, c);
    /// The smaller one; `b` where either is NaN.
    fn min(a: Self, b: Self) -> Self = _mm256_min_ps(a, b), _mm512_min_ps(a, b);
    /// The larger one; `b` where either is NaN.
    fn max(a: Self, b: Self) -> Self = _mm256_max_ps(a, b), _mm512_max_ps(a, b);
    /// The bits that both have.
    fn and(a: Self, b: Self) -> Self = _mm256_and_ps(a, b), _mm512_and_ps(a, b);
    /// The bits of `b` that `a` has not.
    fn and_not(a: Self, b: Self) -> Self = _mm256_andnot_ps(a, b), _mm512_andnot_ps(a, b);
    /// The bits that one of them has.
    fn or(a: Self, b: Self) -> Self = _mm256_or_ps(a, b), _mm512_or_ps(a, b);
    /// The bits in which they differ.
    fn xor(a: Self, b: Self) -> Self = _mm256_xor_ps(a, b), _mm512_xor_ps(a, b);
    /// `x · 2ⁿ` where the low nine bits of `n` are the integer n. The exponent stays in range.
    fn scale_by_power(x: Self, n: Self) -> Self =
        {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent))
        },
        {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), exponent))
        };

    /// Where `a < b`; false where either is NaN.
    fn below(a: Self, b: Self) -> Self::Mask =
        _mm256_cmp_ps::<_CMP_LT_OQ>(a, b),
        _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
    /// Where `a ≤ b`; false where either is NaN.
    fn at_most(a: Self, b: Self) -> Self::Mask =
        _mm256_cmp_ps::<_CMP_LE_OQ>(a, b),
        _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b);
    /// Which lanes have their number in `range`.
    fn within(range: Range<i32>) -> Self::Mask =
        {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let before = _mm256_cmpgt_epi32(_mm256_set1_epi32(range.start), lane);
            let up_to_end = _mm256_cmpgt_epi32(_mm256_set1_epi32(range.end), lane);
            _mm256_castsi256_ps(_mm256_andnot_si256(before, up_to_end))
        },
        {
            let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let up_to_end = _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(range.end), lane);
            _mm512_mask_cmple_epi32_mask(up_to_end, _mm512_set1_epi32(range.start), lane)
        };
    /// `yes` where `mask` is true, `no` elsewhere.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self =
        _mm256_blendv_ps(no, yes, mask),
        _mm512_mask_blend_ps(mask, no, yes);

    /// +0 where `mask` is true, `x` elsewhere.
    fn clear(mask: Self::Mask, x: Self) -> Self = _mm256_andnot_ps(mask, x), _mm512_maskz_mov_ps(!mask, x);

    /// The tree of the contract's sums over sixteen lanes: those of the first register, or of both.
    fn tree(lanes: [Self; 2]) -> f32 =
        {
            let eight = _mm256_add_ps(lanes[0], lanes[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        },
        __m256::tree([_mm512_castps512_ps256(lanes[0]), _mm512_extractf32x8_ps::<1>(lanes[0])]);
    /// The largest lane, where none is NaN.
    fn largest(x: Self) -> f32 =
        {
            let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        },
        __m256::largest(_mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)));
    /// Every two lanes exchanged.
    fn swap_pairs(x: Self) -> Self = _mm256_permute_ps::<0b1011_0001>(x), _mm512_permute_ps::<0b1011_0001>(x);
    /// Every lane twice, in two registers.
    fn doubled(x: Self) -> [Self; 2] =
        {
            let low = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
            let high = _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7);
            [_mm256_permutevar8x32_ps(x, low), _mm256_permutevar8x32_ps(x, high)]
        },
        {
            let low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            let high = _mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
            [_mm512_permutexvar_ps(low, x), _mm512_permutexvar_ps(high, x)]
        };

    /// The same integer in every lane.
    fn splat_int(x: i32) -> Self::Ints = _mm256_set1_epi32(x), _mm512_set1_epi32(x);
    fn sub_ints(a: Self::Ints, b: Self::Ints) -> Self::Ints = _mm256_sub_epi32(a, b), _mm512_sub_epi32(a, b);
    /// The low 32 bits of a product.
    fn mul_ints(a: Self::Ints, b: Self::Ints) -> Self::Ints = _mm256_mullo_epi32(a, b), _mm512_mullo_epi32(a, b);
    /// The nearest floats, to even on ties.
    fn from_ints(x: Self::Ints) -> Self = _mm256_cvtepi32_ps(x), _mm512_cvtepi32_ps(x);
}
