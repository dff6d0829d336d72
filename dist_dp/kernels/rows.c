/* Functions of the rows of a matrix: softmax and its kin, cross-entropy, and the weights of attention; and transposes.

   Every one makes a few passes over a row, which is in the first-level cache by then. The largest entry is always
   subtracted before exponentials are taken: here it costs little. */

#include <float.h>

#include "kernels.h"
#include "module.h"

/* The largest entry; of a row of -inf the lowest number, so that x - max is -inf. NaN is passed over. */
INLINE float row_max(const float *x, ptrdiff_t n) {
    float lanes[LANES];
    OVER_LANES(lanes, n, -FLT_MAX, greater_of(x[i], so_far));
    return max_of_lanes(lanes);
}

/* From here on a pass over a row costs more than its ragged end, which is computed entry by entry. Bits are the same. */
enum { LONG = 128 };

/* For a few rows: the largest entries, out = e^(x - max), and the sums. */
INLINE void exponentials(const float *restrict x, float *restrict out, ptrdiff_t few, ptrdiff_t n, float *max, float *sum) {
    for (ptrdiff_t r = 0; r < few; r++) max[r] = row_max(x + r * n, n);
    if (n >= LONG) {
        for (ptrdiff_t r = 0; r < few; r++, x += n, out += n) {
            float lanes[LANES], m = max[r];
            OVER_LANES(lanes, n, 0.0f, so_far + (out[i] = exp_below(x[i] - m)));
            sum[r] = sum_of_lanes(lanes);
        }
        return;
    }
    for (ptrdiff_t r = 0; r < few; r++)
        for (ptrdiff_t i = r * n; i < (r + 1) * n; i++) out[i] = x[i] - max[r];
    for (ptrdiff_t i = 0; i < few * n; i++) out[i] = exp_below(out[i]); /* all rows at once: only one end is ragged */
    for (ptrdiff_t r = 0; r < few; r++) sum[r] = row_sum(out + r * n, n);
}

INLINE void divide(float *out, const float *sum, ptrdiff_t few, ptrdiff_t n) {
    for (ptrdiff_t r = 0; r < few; r++) {
        float inverse = 1.0f / sum[r];
        for (ptrdiff_t i = r * n; i < (r + 1) * n; i++) out[i] *= inverse;
    }
}

/* Of all FEW, which is a vector. */
INLINE void logarithms(const float *sum, float *log) {
    for (int r = 0; r < FEW; r++) log[r] = log_of(sum[r]);
}

/* --- softmax ----------------------------------------------------------------------------------------------------------- */

KERNEL static void softmax(const float *restrict x, float *restrict out, ptrdiff_t rows, ptrdiff_t n) {
    float max[FEW], sum[FEW];
    for (ptrdiff_t few; rows; rows -= few, x += few * n, out += few * n) {
        few = few_of(rows, n);
        exponentials(x, out, few, n, max, sum);
        divide(out, sum, few, n);
    }
}

KERNEL static void softmax_gradient(const float *restrict g, const float *restrict p, float *restrict d, ptrdiff_t rows,
                                    ptrdiff_t n) {
    float along[FEW];
    for (ptrdiff_t few; rows; rows -= few, g += few * n, p += few * n, d += few * n) {
        few = few_of(rows, n);
        for (ptrdiff_t r = 0; r < few; r++) along[r] = row_product(g + r * n, p + r * n, n);
        for (ptrdiff_t r = 0; r < few; r++)
            for (ptrdiff_t i = r * n; i < (r + 1) * n; i++) d[i] = (g[i] - along[r]) * p[i];
    }
}

KERNEL static void log_softmax(const float *restrict x, float *restrict out, ptrdiff_t rows, ptrdiff_t n) {
    float max[FEW], sum[FEW] = {0}, log[FEW];
    for (ptrdiff_t few; rows; rows -= few, x += few * n, out += few * n) {
        few = few_of(rows, n);
        exponentials(x, out, few, n, max, sum);
        logarithms(sum, log);
        for (ptrdiff_t r = 0; r < few; r++)
            for (ptrdiff_t i = r * n; i < (r + 1) * n; i++) out[i] = x[i] - max[r] - log[r];
    }
}

KERNEL static void log_softmax_gradient(const float *restrict g, const float *restrict y, float *restrict d, ptrdiff_t rows,
                                        ptrdiff_t n) {
    float sum[FEW];
    for (ptrdiff_t few; rows; rows -= few, g += few * n, y += few * n, d += few * n) {
        few = few_of(rows, n);
        for (ptrdiff_t r = 0; r < few; r++) sum[r] = row_sum(g + r * n, n);
        if (n >= LONG) {
            for (ptrdiff_t r = 0; r < few; r++)
                for (ptrdiff_t i = r * n; i < (r + 1) * n; i++) d[i] = g[i] - exp_below(y[i]) * sum[r];
            continue;
        }
        for (ptrdiff_t i = 0; i < few * n; i++) d[i] = exp_below(y[i]);
        for (ptrdiff_t r = 0; r < few; r++)
            for (ptrdiff_t i = r * n; i < (r + 1) * n; i++) d[i] = g[i] - d[i] * sum[r];
    }
}

FUNCTION(softmax, "rwn", are_rows(a, 0, 1, SIZE(2)), softmax(FLOATS(0), FLOATS(1), SIZE(0) / SIZE(2), SIZE(2)))
FUNCTION(softmax_gradient, "rrwn", are_rows(a, 0, 2, SIZE(3)),
         softmax_gradient(FLOATS(0), FLOATS(1), FLOATS(2), SIZE(0) / SIZE(3), SIZE(3)))
FUNCTION(log_softmax, "rwn", are_rows(a, 0, 1, SIZE(2)), log_softmax(FLOATS(0), FLOATS(1), SIZE(0) / SIZE(2), SIZE(2)))
FUNCTION(log_softmax_gradient, "rrwn", are_rows(a, 0, 2, SIZE(3)),
         log_softmax_gradient(FLOATS(0), FLOATS(1), FLOATS(2), SIZE(0) / SIZE(3), SIZE(3)))

/* --- cross-entropy against class indices; p is the softmax, which its gradient needs ----------------------------------- */

KERNEL static void cross_entropy(const float *restrict x, const int64_t *restrict target, float *restrict p,
                                 float *restrict losses, ptrdiff_t rows, ptrdiff_t n) {
    float max[FEW], sum[FEW] = {0}, log[FEW];
    for (ptrdiff_t few; rows; rows -= few, x += few * n, p += few * n, target += few, losses += few) {
        few = few_of(rows, n);
        exponentials(x, p, few, n, max, sum);
        logarithms(sum, log);
        for (ptrdiff_t r = 0; r < few; r++) losses[r] = log[r] - (x[r * n + target[r]] - max[r]);
        divide(p, sum, few, n);
    }
}

/* d = p both, less own at the target. */
KERNEL static void cross_entropy_gradient(const float *restrict p, const int64_t *restrict target,
                                          const float *restrict both, const float *restrict own, float *restrict d,
                                          ptrdiff_t rows, ptrdiff_t n) {
    for (ptrdiff_t r = 0; r < rows; r++, p += n, d += n) {
        for (ptrdiff_t i = 0; i < n; i++) d[i] = p[i] * both[r];
        d[target[r]] -= own[r];
    }
}

/* Whether argument `k` holds class indices below `n`, one for each row of argument 0. */
static int are_classes(const Argument *a, int k, Py_ssize_t n) {
    if (!sized(a, k, k, SIZE(0) / n)) return 0;
    for (Py_ssize_t r = 0; r < SIZE(k); r++)
        if (WHOLES(k)[r] < 0 || WHOLES(k)[r] >= n) {
            PyErr_Format(PyExc_IndexError, "argument %d must hold indices below %zd", k, n);
            return 0;
        }
    return 1;
}

FUNCTION(cross_entropy, "rwwin",
         are_rows(a, 0, 1, SIZE(4)) && sized(a, 2, 2, SIZE(0) / SIZE(4)) && are_classes(a, 3, SIZE(4)),
         cross_entropy(FLOATS(0), WHOLES(3), FLOATS(1), FLOATS(2), SIZE(2), SIZE(4)))
FUNCTION(cross_entropy_gradient, "rrrwin",
         are_rows(a, 0, 0, SIZE(5)) && sized(a, 1, 2, SIZE(0) / SIZE(5)) && sized(a, 3, 3, SIZE(0)) &&
             are_classes(a, 4, SIZE(5)),
         cross_entropy_gradient(FLOATS(0), WHOLES(4), FLOATS(1), FLOATS(2), FLOATS(3), SIZE(1), SIZE(5)))

/* --- attention: from scores to exponentials, and back -------------------------------------------------------------------- */

/* The softmax of scores in base 2, in place; 0 for a row of -inf. Each run of `queries` rows is of the queries first,
   first + 1, ..., and a query looks at the keys up to its own number. */
KERNEL static void attention_weights(float *restrict x, ptrdiff_t rows, ptrdiff_t keys, ptrdiff_t queries, ptrdiff_t first) {
    for (ptrdiff_t r = 0; r < rows; r++, x += keys) {
        ptrdiff_t seen = first < keys ? first + r % queries + 1 : keys;
        /* What is not seen is -inf as far as the lanes of the last key that is seen go, and 0 behind them. */
        ptrdiff_t end = seen + (LANES - 1) & ~(ptrdiff_t)(LANES - 1);
        if (end > keys) end = keys;
        for (ptrdiff_t k = seen; k < end; k++) x[k] = -INFINITY;
        for (ptrdiff_t k = end; k < keys; k++) x[k] = 0.0f;
        float max = row_max(x, end);
        for (ptrdiff_t k = 0; k < end; k++) x[k] = exp2_below(x[k] - max);
        float sum = row_sum(x, end);
        float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
        for (ptrdiff_t k = 0; k < end; k++) x[k] *= inverse;
    }
}

/* d = (d - along) e factor. */
KERNEL static void attention_weights_gradient(float *restrict d, const float *restrict e, const float *restrict along,
                                              ptrdiff_t rows, ptrdiff_t keys, float factor) {
    for (ptrdiff_t r = 0; r < rows; r++, d += keys, e += keys)
        for (ptrdiff_t i = 0; i < keys; i++) d[i] = (d[i] - along[r]) * e[i] * factor;
}

/* Whether argument `k` is at least `least`. */
static int at_least(const Argument *a, int k, Py_ssize_t least) {
    if (SIZE(k) >= least) return 1;
    PyErr_Format(PyExc_ValueError, "argument %d must be at least %zd, got %zd", k, least, SIZE(k));
    return 0;
}

FUNCTION(attention_weights, "wnnn", are_rows(a, 0, 0, SIZE(1)) && at_least(a, 2, 1) && at_least(a, 3, 0),
         attention_weights(FLOATS(0), SIZE(0) / SIZE(1), SIZE(1), SIZE(2), SIZE(3)))
FUNCTION(attention_weights_gradient, "wrrnf", are_rows(a, 0, 1, SIZE(3)) && sized(a, 2, 2, SIZE(0) / SIZE(3)),
         attention_weights_gradient(FLOATS(0), FLOATS(1), FLOATS(2), SIZE(2), SIZE(3), NUMBER(4)))

/* Every matrix transposed, square by square: compilers read and write a square in whole registers. */
enum { SIDE = 8 };

INLINE void transpose(const float *restrict x, float *restrict out, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t height,
                      ptrdiff_t width) {
    for (ptrdiff_t j = 0; j < width; j++)
        for (ptrdiff_t i = 0; i < height; i++) out[j * rows + i] = x[i * columns + j];
}

KERNEL static void transposed(const float *restrict x, float *restrict out, ptrdiff_t matrices, ptrdiff_t rows,
                              ptrdiff_t columns) {
    for (ptrdiff_t k = 0; k < matrices; k++, x += rows * columns, out += rows * columns)
        for (ptrdiff_t i = 0; i < rows; i += SIDE)
            for (ptrdiff_t j = 0; j < columns; j += SIDE) {
                const float *from = x + i * columns + j;
                float *to = out + j * rows + i;
                ptrdiff_t height = rows - i, width = columns - j;
                if (height >= SIDE && width >= SIDE)
                    transpose(from, to, rows, columns, SIDE, SIDE);
                else
                    transpose(from, to, rows, columns, height < SIDE ? height : SIDE, width < SIDE ? width : SIDE);
            }
}

/* Whether the arrays `first` to `last` are equally many matrices. */
static int are_matrices(const Argument *a, int first, int last, Py_ssize_t rows, Py_ssize_t columns) {
    if (!are_rows(a, first, last, columns)) return 0;
    if (rows > 0 && SIZE(first) / columns % rows == 0) return 1;
    PyErr_Format(PyExc_ValueError, "argument %d must have matrices of %zd rows, got %zd", first, rows, SIZE(first) / columns);
    return 0;
}

FUNCTION(transposed, "rwnn", are_matrices(a, 0, 1, SIZE(2), SIZE(3)),
         transposed(FLOATS(0), FLOATS(1), SIZE(0) / SIZE(3) / SIZE(2), SIZE(2), SIZE(3)))

PyMethodDef rows_functions[] = {
    ENTRY(softmax), ENTRY(softmax_gradient), ENTRY(log_softmax), ENTRY(log_softmax_gradient), ENTRY(cross_entropy),
    ENTRY(cross_entropy_gradient), ENTRY(attention_weights), ENTRY(attention_weights_gradient), ENTRY(transposed),
    {NULL, NULL, 0, NULL}};
