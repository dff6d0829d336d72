/* A product of matrices with registers of WIDTH floats; `product.c` includes this once for each instruction set.

   ROWS by 2 WIDTH sums are held in registers at a time. Neither is seen in the bits: each sum is over the same terms in the
   same order. */

#define JOINED(name, width) name##_##width
#define WITH_WIDTH(name, width) JOINED(name, width)
#define NAME(name) WITH_WIDTH(name, WIDTH)
#define vector NAME(vector)
#define unaligned NAME(unaligned)
#define PANEL (2 * WIDTH)

typedef float vector __attribute__((vector_size(4 * WIDTH)));
typedef float unaligned __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

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
#pragma GCC unroll 4
    for (ptrdiff_t k = 0; k < terms; k++, a++, panel += PANEL) {
        vector left = *(const unaligned *)panel, right = *(const unaligned *)(panel + WIDTH);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            vector factor = a[r * A_STRIDE] - (vector){0};
            sums[r][0] = FUSED(factor, left, sums[r][0]);
            sums[r][1] = FUSED(factor, right, sums[r][1]);
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

/* The entries of b for some terms and all of `columns`, as panels: place[panel][k][column], zeros behind the last column. */
TARGET static void NAME(as_panels)(const float *b, ptrdiff_t stride, int transposed, ptrdiff_t terms, ptrdiff_t columns,
                                   float *place) {
    if (columns % PANEL)
        memset(place + columns / PANEL * PANEL * terms, 0, (size_t)(PANEL * terms) * sizeof *place);
    if (transposed) {
        for (ptrdiff_t n = 0; n < columns; n += PANEL)
            transpose(b + n * stride, stride, least(PANEL, columns - n), terms, place + n * terms, PANEL);
        return;
    }
    /* A few terms of all panels after each other, as they lie in memory. */
    for (ptrdiff_t first = 0; first < terms; first += 8)
        for (ptrdiff_t n = 0; n < columns; n += PANEL)
            for (ptrdiff_t k = first; k < least(first + 8, terms); k++) {
                const float *from = b + k * stride + n;
                float *to = place + n * terms + k * PANEL;
                if (columns - n >= PANEL)
                    memcpy(to, from, PANEL * sizeof *to); /* a size that the compiler knows */
                else
                    memcpy(to, from, (size_t)(columns - n) * sizeof *to);
            }
}

TARGET static void NAME(pack)(const float *b, int transposed, ptrdiff_t terms, ptrdiff_t columns, float *packed) {
    for (ptrdiff_t k = 0; k < terms; k += TERMS)
        NAME(as_panels)(transposed ? b + k : b + k * columns, transposed ? terms : columns, transposed,
                        least(TERMS, terms - k), columns, packed + k * up(columns, PANEL));
}

/* Rows of a, laid out, times panels. */
TARGET static void NAME(multiply_block)(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t terms, const float *a,
                                        const float *panels, float *out, ptrdiff_t stride, int add, const float *bias) {
    float edge[ROWS * PANEL] __attribute__((aligned(64)));
    for (ptrdiff_t n = 0; n < columns; n += PANEL) {
        ptrdiff_t wide = least(PANEL, columns - n);
        for (ptrdiff_t m = 0, some; m < rows; m += some) {
            const float *from = a + m * A_STRIDE, *panel = panels + n * terms;
            float *to = out + m * stride + n;
            if (wide == PANEL) {
                some = NAME(rows_of)(rows - m, terms, from, panel, to, stride, add, bias ? bias + n : NULL);
                continue;
            }
            some = NAME(rows_of)(rows - m, terms, from, panel, edge, PANEL, 0, NULL);
            for (ptrdiff_t r = 0; r < some; r++)
                for (ptrdiff_t c = 0; c < wide; c++) {
                    float sum = add ? to[r * stride + c] + edge[r * PANEL + c] : edge[r * PANEL + c];
                    to[r * stride + c] = bias ? sum + bias[n + c] : sum;
                }
        }
    }
}

TARGET static void NAME(product)(const Factors *f, float *out) {
    static _Thread_local float laid_out[ROWS_OF_A * A_STRIDE] __attribute__((aligned(64)));
    static _Thread_local float in_panels[TERMS * COLUMNS_OF_B] __attribute__((aligned(64)));
    for (ptrdiff_t n = 0; n < f->columns; n += COLUMNS_OF_B)
        for (ptrdiff_t k = 0; k < f->terms; k += TERMS) {
            ptrdiff_t columns = least(COLUMNS_OF_B, f->columns - n), terms = least(TERMS, f->terms - k);
            const float *panels = in_panels, *bias = f->bias && k + terms == f->terms ? f->bias + n : NULL;
            if (f->packed)
                panels = f->b + k * up(f->columns, PANEL) + n * terms;
            else if (f->b_transposed)
                NAME(as_panels)(f->b + n * f->terms + k, f->terms, 1, terms, columns, in_panels);
            else
                NAME(as_panels)(f->b + k * f->columns + n, f->columns, 0, terms, columns, in_panels);
            for (ptrdiff_t m = 0; m < f->rows; m += ROWS_OF_A) {
                ptrdiff_t rows = least(ROWS_OF_A, f->rows - m);
                if (f->a_transposed)
                    transpose(f->a + k * f->rows + m, f->rows, terms, rows, laid_out, A_STRIDE);
                else
                    copy(f->a + m * f->terms + k, f->terms, rows, terms, laid_out, A_STRIDE);
                NAME(multiply_block)(rows, columns, terms, laid_out, panels, out + m * f->columns + n, f->columns, k > 0,
                                     bias);
            }
        }
}

#undef PANEL
#undef vector
#undef unaligned
#undef NAME
#undef WITH_WIDTH
#undef JOINED
