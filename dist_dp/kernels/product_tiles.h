/* A product of matrices with registers of WIDTH floats; `product.c` includes this once for each instruction set.

   ROWS by 2 WIDTH sums are held in registers at a time. Neither is seen in the bits: each sum is over the same terms in the
   same order. */

#include "vector.h"

/* 24 registers of sums where there are 32, else 12 of 16. */
#if WIDTH == 16 || defined(__aarch64__)
#define ROWS 12
#else
#define ROWS 6
#endif

/* sums[r][c] = the sum over k of a[r][k] panel[k][c], which is added to `out` or replaces it; then the bias is added. */
TARGET INLINE void NAME(tile)(const int rows, ptrdiff_t terms, const float *a, const float *panel, float *out,
                              ptrdiff_t stride, int add, const float *bias) {
    vector sums[ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        sums[r][0] = sums[r][1] = (vector){0};
        __builtin_prefetch(out + r * stride, 1);
        __builtin_prefetch(out + r * stride + WIDTH, 1);
    }
#pragma GCC unroll 2
    for (ptrdiff_t k = 0; k < terms; k++, a++, panel += PANEL) {
        vector left = *(const unaligned *)panel, right = *(const unaligned *)(panel + WIDTH);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            sums[r][0] = NAME(multiply_add)(left, a[r * A_STRIDE], sums[r][0]);
            sums[r][1] = NAME(multiply_add)(right, a[r * A_STRIDE], sums[r][1]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            unaligned *to = (unaligned *)(out + r * stride + v * WIDTH);
            vector sum = sums[r][v];
            if (add) sum = *to + sum;
            if (bias) sum = sum + *(const unaligned *)(bias + v * WIDTH);
            *to = sum;
        }
}

#define SOME_ROWS(rows)                                                                                                 \
    __attribute__((noinline)) TARGET static void NAME(tile_of_##rows)(ptrdiff_t terms, const float *a,                  \
                                                                      const float *panel, float *out, ptrdiff_t stride, \
                                                                      int add, const float *bias) {                     \
        NAME(tile)(rows, terms, a, panel, out, stride, add, bias);                                                      \
    }
#if ROWS == 12
SOME_ROWS(12)
SOME_ROWS(8)
#else
SOME_ROWS(6)
#endif
SOME_ROWS(4)
SOME_ROWS(2)
SOME_ROWS(1)
#undef SOME_ROWS

/* As many of the rows that are left as there is a tile for; says how many. */
TARGET static int NAME(rows_of)(ptrdiff_t left, ptrdiff_t terms, const float *a, const float *panel, float *out,
                                ptrdiff_t stride, int add, const float *bias) {
#define TAKE(rows)                                                                \
    if (left >= rows) {                                                           \
        NAME(tile_of_##rows)(terms, a, panel, out, stride, add, bias);            \
        return rows;                                                              \
    }
#if ROWS == 12
    TAKE(12)
    TAKE(8)
#else
    TAKE(6)
#endif
    TAKE(4)
    TAKE(2)
    TAKE(1)
#undef TAKE
    return 0;
}

/* Rows of a, laid out, times panels. */
TARGET static void NAME(multiply_block)(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t terms, const float *a,
                                        const float *panels, float *out, ptrdiff_t stride, int add, const float *bias) {
    float edge[ROWS * 2 * WIDTH] __attribute__((aligned(64)));
    for (ptrdiff_t m = 0, some; m < rows; m += some)
        for (ptrdiff_t n = 0; n < columns; n += 2 * WIDTH) {
            const float *from = a + m * A_STRIDE, *panel = panels + n / PANEL * PANEL * terms + n % PANEL;
            float *to = out + m * stride + n;
            ptrdiff_t wide = least(2 * WIDTH, columns - n);
            if (wide == 2 * WIDTH) {
                some = NAME(rows_of)(rows - m, terms, from, panel, to, stride, add, bias ? bias + n : NULL);
                continue;
            }
            some = NAME(rows_of)(rows - m, terms, from, panel, edge, 2 * WIDTH, 0, NULL);
            for (ptrdiff_t r = 0; r < some; r++)
                for (ptrdiff_t c = 0; c < wide; c++) {
                    float sum = add ? to[r * stride + c] + edge[r * 2 * WIDTH + c] : edge[r * 2 * WIDTH + c];
                    to[r * stride + c] = bias ? sum + bias[n + c] : sum;
                }
        }
}

TARGET static void NAME(product)(const Factors *f, float *out) {
    for (ptrdiff_t n = 0; n < f->columns; n += COLUMNS_OF_B)
        for (ptrdiff_t k = 0; k < f->terms; k += TERMS) {
            ptrdiff_t columns = least(COLUMNS_OF_B, f->columns - n), terms = least(TERMS, f->terms - k);
            const float *panels = in_panels, *bias = f->bias && k + terms == f->terms ? f->bias + n : NULL;
            if (f->packed)
                panels = f->b + k * up(f->columns, PANEL) + n * terms;
            else if (f->b_transposed)
                as_panels(f->b + n * f->terms + k, f->terms, 1, terms, columns, in_panels);
            else
                as_panels(f->b + k * f->columns + n, f->columns, 0, terms, columns, in_panels);
            for (ptrdiff_t m = 0; m < f->rows; m += ROWS_OF_A) {
                ptrdiff_t rows = least(ROWS_OF_A, f->rows - m);
                if (f->a_transposed)
                    transpose(f->a + k * f->rows + m, f->rows, terms, rows, rows_of_a, A_STRIDE);
                else
                    copy(f->a + m * f->terms + k, f->terms, rows, terms, rows_of_a, A_STRIDE);
                NAME(multiply_block)(rows, columns, terms, rows_of_a, panels, out + m * f->columns + n, f->columns, k > 0,
                                     bias);
            }
        }
}

#undef ROWS
