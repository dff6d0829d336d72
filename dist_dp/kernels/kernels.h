/* What the kernels share: how they are compiled, how sums are made, and the functions of real numbers.

   The bits of every result are those of the text: operations of IEEE 754 in the order written, multiply-adds fused where
   the text says so (`vector.h`) and nowhere else (-ffp-contract=off), no function of the C library but fmaf, which rounds
   once. So every compiler and every instruction set gives the same. */

#ifndef DIST_DP_KERNELS_H
#define DIST_DP_KERNELS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Compiled for several instruction sets, of which the loader takes the best (GNU libc can do that). */
#if !defined(KERNEL) && defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define KERNEL __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define KERNEL_IS_CHOSEN /* when the module is loaded; a kernel that has other loops for each set chooses by itself */
#endif
#endif
#ifndef KERNEL
#define KERNEL
#endif

#define INLINE static inline __attribute__((always_inline))

/* Sums and maxima over a row are made in so many lanes, which are then joined in pairs: the same order whatever the
   width of the machine's registers. */
enum { LANES = 16 };

/* lanes[l] = next(... next(next(start, l), LANES + l) ..., l + the last multiple of LANES that is in a row of `length`):
   `next` is an expression of `so_far` and the index `i`. The loop over the lanes is the outer one, since then compilers
   keep as many lanes as fit in a register; and the inner one is known to run, without which they do not. */
#define OVER_LANES(lanes, length, start, next)                    \
    do {                                                          \
        ptrdiff_t steps_ = (length) / LANES, i = 0;               \
        for (int l_ = 0; l_ < LANES; l_++) (lanes)[l_] = (start); \
        if (steps_ > 0)                                           \
            for (int l_ = 0; l_ < LANES; l_++) {                  \
                float so_far = (start);                           \
                ptrdiff_t step_ = 0;                              \
                do {                                              \
                    i = LANES * step_ + l_;                       \
                    so_far = (next);                              \
                } while (++step_ < steps_);                       \
                (lanes)[l_] = so_far;                             \
            }                                                     \
        for (i = LANES * steps_; i < (length); i++) {             \
            float so_far = (lanes)[i - LANES * steps_];           \
            (lanes)[i - LANES * steps_] = (next);                 \
        }                                                         \
    } while (0)

/* Widths that the compiler knows: it makes vectors of them. */
INLINE float sum_of_lanes(float *lanes) {
    for (int i = 0; i < 8; i++) lanes[i] += lanes[i + 8];
    for (int i = 0; i < 4; i++) lanes[i] += lanes[i + 4];
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

INLINE float row_sum(const float *x, ptrdiff_t n) {
    float lanes[LANES];
    OVER_LANES(lanes, n, 0.0f, so_far + x[i]);
    return sum_of_lanes(lanes);
}

INLINE float row_product(const float *x, const float *y, ptrdiff_t n) {
    float lanes[LANES];
    OVER_LANES(lanes, n, 0.0f, so_far + x[i] * y[i]);
    return sum_of_lanes(lanes);
}

/* How many of the rows that are left, of `n`, are taken at a time, each pass going over all of them: the chain of additions
   of one row hides behind those of the others, and they fit the first-level cache. */
enum { FEW = 8 };

INLINE ptrdiff_t few_of(ptrdiff_t left, ptrdiff_t n) {
    ptrdiff_t few = n > 512 ? 1 : FEW;
    return left < few ? left : few;
}

INLINE int64_t least(int64_t n, int64_t m) { return n < m ? n : m; }

/* The least multiple of `unit` that n does not exceed. */
INLINE int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

INLINE float greater_of(float x, float y) { return x > y ? x : y; }

INLINE float max_of_lanes(float *lanes) {
    for (int i = 0; i < 8; i++) lanes[i] = greater_of(lanes[i], lanes[i + 8]);
    for (int i = 0; i < 4; i++) lanes[i] = greater_of(lanes[i], lanes[i + 4]);
    return greater_of(greater_of(lanes[0], lanes[2]), greater_of(lanes[1], lanes[3]));
}

INLINE float bits_as_float(int32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE int32_t float_as_bits(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* 2^f for |f| <= 1/2, to 2e-9; the coefficients are those of the least relative error. Terms are taken in pairs, and pairs
   of these: a processor then waits half as long for one operation before the next as it would term after term. */
INLINE float exp2_of_fraction(float f) {
    float square = f * f;
    float high = 1.535334e-4f * square + (1.33989002e-3f * f + 9.61843761e-3f);
    return (high * square + (5.55033241e-2f * f + 2.40226479e-1f)) * square + 6.93147203e-1f * f + 1.0f;
}

/* e^r for |r| <= ln(2) / 2, to 3e-9, in the same way. */
INLINE float exp_of_fraction(float r) {
    float square = r * r;
    float high = 1.38145592e-3f * square + (8.36873520e-3f * r + 4.16683890e-2f);
    return (high * square + (1.66665211e-1f * r + 4.99999940e-1f)) * square + r + 1.0f;
}

/* 2^x to about one unit in the last place: 2^n 2^f with a whole n and |f| <= 1/2. Beyond the range 0 and infinity, and
   NaN for NaN. The scale is applied in two steps, so that results below the smallest normal number are rounded once. */
INLINE float exp2_of(float x) {
    const float round = 12582912.0f; /* 1.5 2^23: adding it rounds to a whole number, which its low bits then hold */
    float limited = x < -160.0f ? -160.0f : x > 160.0f ? 160.0f : x;
    float shifted = limited + round;
    int32_t n = float_as_bits(shifted) - float_as_bits(round);
    float f = limited - (shifted - round);
    int32_t half = n >> 1;
    return exp2_of_fraction(f) * bits_as_float((half + 127) << 23) * bits_as_float((n - half + 127) << 23);
}

/* e^x = 2^(x log2 e): the product is made in two parts, since its error would be multiplied by x. */
INLINE float exp_of(float x) {
    const float round = 12582912.0f, log2e = 1.442695041f, ln2_high = 0.693145752f, ln2_low = 1.42860677e-6f;
    float limited = x < -110.0f ? -110.0f : x > 110.0f ? 110.0f : x;
    float shifted = limited * log2e + round;
    int32_t n = float_as_bits(shifted) - float_as_bits(round);
    float k = shifted - round;
    float r = limited - k * ln2_high - k * ln2_low; /* |r| <= ln(2) / 2; k ln2_high is exact */
    int32_t half = n >> 1;
    return exp_of_fraction(r) * bits_as_float((half + 127) << 23) * bits_as_float((n - half + 127) << 23);
}

/* The same for x <= 0, which is what a row less its maximum holds, at half the operations: 0 instead of numbers below
   2e-38, where the normal ones end. The low bits of `shifted`, moved up, are those of 2^n. */
INLINE float exp2_below(float x) {
    const float round = 12582912.0f + 127.0f;
    float shifted = x + round;
    float e = exp2_of_fraction(x - (shifted - round)) * bits_as_float((int32_t)((uint32_t)float_as_bits(shifted) << 23));
    return x < -126.0f ? 0.0f : e;
}

INLINE float exp_below(float x) {
    const float round = 12582912.0f + 127.0f, log2e = 1.442695041f, ln2_high = 0.693145752f, ln2_low = 1.42860677e-6f;
    float shifted = x * log2e + round;
    float k = shifted - round;
    float e = exp_of_fraction(x - k * ln2_high - k * ln2_low) *
              bits_as_float((int32_t)((uint32_t)float_as_bits(shifted) << 23));
    return x < -87.0f ? 0.0f : e;
}

/* ln x to about one unit in the last place, for normal numbers and 0: ln x = k ln 2 + ln(1 + f) with 1 + f between
   sqrt(1/2) and sqrt(2). The polynomial is that of Cephes. */
INLINE float log_of(float x) {
    const float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    const int32_t root = 0x3f3504f3; /* the bits of sqrt(1/2) */
    int32_t exponent = (float_as_bits(x) - root) >> 23;
    float f = bits_as_float(float_as_bits(x) - exponent * (1 << 23)) - 1.0f, k = (float)exponent;
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    float rest = p * f * (f * f) + k * ln2_low - 0.5f * (f * f);
    return x > 0.0f ? f + rest + k * ln2_high : x == 0.0f ? -INFINITY : x - x; /* NaN for NaN */
}

/* 1 / (1 + e^-x). */
INLINE float sigmoid_of(float x) { return 1.0f / (1.0f + exp_of(-x)); }

#endif
