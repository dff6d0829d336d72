/* The inner loops of a convolution, for registers of WIDTH floats; `conv.c` includes this once for each instruction set.

   WIDTH decides how many sums are made at once and nothing else: each sum is over the same terms in the same order, of
   which so many as CHAIN says are added to each other before they are added to those before. So all widths give the same
   bits. */

#include "vector.h"

/* Sums are made in tiles of ROWS x up to VECTORS registers: 24 of 32 where they are wide, else 12 of 16. */
#define VECTORS 3
#if WIDTH == 16
#define ROWS 8
#else
#define ROWS 4
#endif

/* out[f][p] = bias[f] + sum over k of weights[k][f] x[offsets[k] + p], for some <= rows filters and as many places as
   are left, at most vectors * WIDTH. */
TARGET INLINE void NAME(correlate_tile)(const int rows, const int vectors, const float *x, const int64_t *offsets,
                                        int64_t terms, const float *weights, const float *bias, int64_t some, float *out,
                                        ptrdiff_t stride, ptrdiff_t left) {
    vector totals[FILTERS][VECTORS];
    memset(totals, 0, sizeof totals);
    for (const int64_t *end = offsets + terms; offsets < end;) {
        const int64_t *stop = end - offsets > CHAIN ? offsets + CHAIN : end;
        vector sums[FILTERS][VECTORS];
        for (int f = 0; f < rows; f++)
            for (int v = 0; v < vectors; v++) sums[f][v] = (vector){0};
        for (; offsets < stop; offsets++, weights += FILTERS) {
            vector pixels[VECTORS];
            for (int v = 0; v < vectors; v++) pixels[v] = *(const unaligned *)(x + *offsets + v * WIDTH);
#pragma GCC unroll 8
            for (int f = 0; f < rows; f++)
                for (int v = 0; v < vectors; v++) sums[f][v] = NAME(multiply_add)(pixels[v], weights[f], sums[f][v]);
        }
        for (int f = 0; f < rows; f++)
            for (int v = 0; v < vectors; v++) totals[f][v] += sums[f][v];
        IN_MEMORY(totals);
    }
    for (int f = 0; f < rows; f++)
        for (int v = 0; v < vectors && f < some; v++) {
            vector sum = totals[f][v] + bias[f];
            if (left - v * WIDTH >= WIDTH)
                *(unaligned *)(out + f * stride + v * WIDTH) = sum;
            else
                memcpy(out + f * stride + v * WIDTH, &sum, (size_t)(left - v * WIDTH) * sizeof *out);
        }
}

TARGET INLINE void NAME(correlate_rows)(const int rows, const float *x, const int64_t *offsets, int64_t terms,
                                        const float *weights, const float *bias, int64_t some, float *out, ptrdiff_t stride,
                                        ptrdiff_t length) {
    for (ptrdiff_t left = length; left > 0; left -= VECTORS * WIDTH, x += VECTORS * WIDTH, out += VECTORS * WIDTH)
        if (left > 2 * WIDTH)
            NAME(correlate_tile)(rows, 3, x, offsets, terms, weights, bias, some, out, stride, left);
        else if (left > WIDTH)
            NAME(correlate_tile)(rows, 2, x, offsets, terms, weights, bias, some, out, stride, left);
        else
            NAME(correlate_tile)(rows, 1, x, offsets, terms, weights, bias, some, out, stride, left);
}

TARGET static void NAME(correlate_planes)(const float *x, const int64_t *offsets, int64_t terms, const float *weights,
                                          const float *bias, int64_t filters, float *out, ptrdiff_t stride,
                                          ptrdiff_t length) {
    for (int64_t o = 0; o < filters; o += ROWS, bias += ROWS, out += ROWS * stride) {
        const float *w = weights + o / FILTERS * FILTERS * terms + o % FILTERS;
        int64_t some = filters - o;
        if (some > 6 || some >= ROWS)
            NAME(correlate_rows)(ROWS, x, offsets, terms, w, bias, some, out, stride, length);
        else if (some > 4)
            NAME(correlate_rows)(6, x, offsets, terms, w, bias, some, out, stride, length);
        else if (some > 2)
            NAME(correlate_rows)(4, x, offsets, terms, w, bias, some, out, stride, length);
        else
            NAME(correlate_rows)(2, x, offsets, terms, w, bias, some, out, stride, length);
    }
}

/* sums[k][f] += the sum over all places p of all images of x[offsets[k] + p] g[p][f], for `rows` terms k. */
TARGET INLINE void NAME(multiply_tile)(const int rows, const int vectors, const float *x, ptrdiff_t image,
                                       const int64_t *offsets, const float *g, ptrdiff_t padded, ptrdiff_t length,
                                       int64_t images, float *out) {
    vector totals[FILTERS][VECTORS];
    memset(totals, 0, sizeof totals);
    for (int64_t n = 0; n < images; n++, x += image)
        for (ptrdiff_t p = 0; p < length;) {
            ptrdiff_t stop = length - p > CHAIN ? p + CHAIN : length;
            const float *pixels[FILTERS];
            for (int k = 0; k < rows; k++) pixels[k] = x + offsets[k];
            vector sums[FILTERS][VECTORS];
            for (int k = 0; k < rows; k++)
                for (int v = 0; v < vectors; v++) sums[k][v] = (vector){0};
            for (; p < stop; p++, g += padded) {
                vector row[VECTORS];
                for (int v = 0; v < vectors; v++) row[v] = *(const unaligned *)(g + v * WIDTH);
#pragma GCC unroll 8
                for (int k = 0; k < rows; k++)
                    for (int v = 0; v < vectors; v++) sums[k][v] = NAME(multiply_add)(row[v], pixels[k][p], sums[k][v]);
            }
            for (int k = 0; k < rows; k++)
                for (int v = 0; v < vectors; v++) totals[k][v] += sums[k][v];
            IN_MEMORY(totals);
        }
    for (int k = 0; k < rows; k++)
        for (int v = 0; v < vectors; v++) *(unaligned *)(out + k * padded + v * WIDTH) += totals[k][v];
}

/* Terms in the outer loop: their pixels stay in the first-level cache for all filters. */
TARGET static void NAME(multiply_planes)(const float *x, ptrdiff_t image, const int64_t *offsets, int64_t terms,
                                         const float *g, ptrdiff_t padded, ptrdiff_t length, int64_t images, float *out) {
    if (padded <= WIDTH)
        for (int64_t k = 0; k < terms; k += FILTERS)
            NAME(multiply_tile)(FILTERS, 1, x, image, offsets + k, g, padded, length, images, out + k * padded);
    else
        for (int64_t k = 0; k < terms; k += ROWS) {
            ptrdiff_t f = 0;
            for (; f + 2 * WIDTH <= padded; f += 2 * WIDTH)
                NAME(multiply_tile)(ROWS, 2, x, image, offsets + k, g + f, padded, length, images, out + k * padded + f);
            if (f < padded)
                NAME(multiply_tile)(ROWS, 1, x, image, offsets + k, g + f, padded, length, images, out + k * padded + f);
        }
}

#undef ROWS
#undef VECTORS
