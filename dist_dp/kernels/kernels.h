/* What the kernels share: how they are compiled, how sums are made, and the functions of real numbers.

   The bits of every result are those of the text: operations of IEEE 754 in the order written, none contracted
   (-ffp-contract=off), no function of the C library. So every compiler and every instruction set gives the same. */

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

INLINE float sum_of_lanes(float *lanes) {
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

INLINE float max_of_lanes(float *lanes) {
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
    return lanes[0];
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

/* 2^x to about one unit in the last place: 2^n 2^f with a whole n and |f| <= 1/2. Beyond the range 0 and infinity, and
   NaN for NaN. The polynomial is the Taylor series of 2^f, economised. The scale is applied in two steps, so that results
   below the smallest normal number are rounded once. */
INLINE float exp2_of(float x) {
    const float round = 12582912.0f; /* 1.5 2^23: adding it rounds to a whole number, which its low bits then hold */
    float limited = x < -160.0f ? -160.0f : x > 160.0f ? 160.0f : x;
    float shifted = limited + round;
    int32_t n = float_as_bits(shifted) - float_as_bits(round);
    float f = limited - (shifted - round);
    float p = 1.535336188319500e-4f;
    p = p * f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.0f;
    int32_t half = n >> 1;
    return p * bits_as_float((half + 127) << 23) * bits_as_float((n - half + 127) << 23);
}

/* e^x = 2^(x log2 e): the product is made in two parts, since its error would be multiplied by x. */
INLINE float exp_of(float x) {
    const float round = 12582912.0f, log2e = 1.442695041f, ln2_high = 0.693145752f, ln2_low = 1.42860677e-6f;
    float limited = x < -110.0f ? -110.0f : x > 110.0f ? 110.0f : x;
    float shifted = limited * log2e + round;
    int32_t n = float_as_bits(shifted) - float_as_bits(round);
    float k = shifted - round;
    float r = limited - k * ln2_high - k * ln2_low; /* |r| <= ln(2) / 2; k ln2_high is exact */
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t half = n >> 1;
    return p * bits_as_float((half + 127) << 23) * bits_as_float((n - half + 127) << 23);
}

/* 1 / (1 + e^-x). */
INLINE float sigmoid_of(float x) { return 1.0f / (1.0f + exp_of(-x)); }

#endif
