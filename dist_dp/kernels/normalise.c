/* Layer, root-mean-square and group norm, which normalise rows, and batch norm, which normalises channels. */

#include "kernels.h"
#include "module.h"

/* --- rows -------------------------------------------------------------------------------------------------------------- */

INLINE float row_squares(const float *x, float centre, ptrdiff_t n) {
    float lanes[LANES];
    OVER_LANES(lanes, n, 0.0f, so_far + (x[i] - centre) * (x[i] - centre));
    return sum_of_lanes(lanes);
}

/* out = (x - mean) scale weight + bias with scale = 1 / sqrt(mean of squares + eps); mean = 0 if not `centred`. Weight and
   bias are of `groups` rows, for rows of x in turn. */
KERNEL static void normalise(const float *restrict x, const float *restrict weight, const float *restrict bias,
                             float *restrict out, float *restrict mean, float *restrict scale, ptrdiff_t rows,
                             ptrdiff_t groups, ptrdiff_t n, float eps, int centred) {
    for (ptrdiff_t first = 0, end; first < rows; first = end) {
        end = first + few_of(rows - first, n);
        for (ptrdiff_t r = first; r < end; r++) mean[r] = centred ? row_sum(x + r * n, n) / (float)n : 0.0f;
        for (ptrdiff_t r = first; r < end; r++)
            scale[r] = 1.0f / sqrtf(row_squares(x + r * n, mean[r], n) / (float)n + eps);
        for (ptrdiff_t r = first; r < end; r++) {
            const float *in = x + r * n, *w = weight + r % groups * n, *b = bias + r % groups * n;
            float m = mean[r], s = scale[r];
            for (ptrdiff_t i = 0; i < n; i++) out[r * n + i] = (in[i] - m) * s * w[i] + b[i];
        }
    }
}

INLINE float row_along(const float *g, const float *w, const float *x, float centre, ptrdiff_t n) {
    float lanes[LANES];
    OVER_LANES(lanes, n, 0.0f, so_far + g[i] * w[i] * (x[i] - centre));
    return sum_of_lanes(lanes);
}

/* With t = x - mean and means over a row: d = (g w - mean(g w) - t scale^2 mean(g w t)) scale; to the gradients of weight
   and bias are added g t scale and g, row after row. */
KERNEL static void normalise_gradient(const float *restrict g, const float *restrict x, const float *restrict weight,
                                      const float *restrict mean, const float *restrict scale, float *restrict d,
                                      float *restrict dweight, float *restrict dbias, ptrdiff_t rows, ptrdiff_t groups,
                                      ptrdiff_t n, int centred) {
    for (ptrdiff_t r = 0; r < rows; r++, g += n, x += n, d += n) {
        ptrdiff_t group = r % groups * n;
        const float *w = weight + group;
        float *dw = dweight + group, *db = dbias + group;
        float m = mean[r], s = scale[r];
        float shift = centred ? row_product(g, w, n) / (float)n : 0.0f;
        float along = row_along(g, w, x, m, n) * (s * s / (float)n);
        for (ptrdiff_t i = 0; i < n; i++) {
            float t = x[i] - m;
            d[i] = (g[i] * w[i] - (t * along + shift)) * s;
            dw[i] += g[i] * t * s;
            db[i] += g[i];
        }
    }
}

/* Whether the arrays `first` to `last` are equally many rows of `n`, and those of array 0 some of them for each. */
static int are_groups(const Argument *a, int first, int last, Py_ssize_t n) {
    if (!are_rows(a, first, last, n)) return 0;
    if (SIZE(first) && SIZE(0) % SIZE(first) == 0) return 1;
    PyErr_Format(PyExc_ValueError, "argument %d must have a divisor of %zd elements, got %zd", first, SIZE(0), SIZE(first));
    return 0;
}

FUNCTION(normalise, "rrrwwwnfn",
         are_rows(a, 0, 0, SIZE(6)) && are_groups(a, 1, 2, SIZE(6)) && sized(a, 3, 3, SIZE(0)) &&
             sized(a, 4, 5, SIZE(0) / SIZE(6)),
         normalise(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5), SIZE(4), SIZE(1) / SIZE(6), SIZE(6),
                   NUMBER(7), SIZE(8) != 0))
FUNCTION(normalise_gradient, "rrrrrwwwnn",
         are_rows(a, 0, 1, SIZE(8)) && are_groups(a, 2, 2, SIZE(8)) && sized(a, 3, 4, SIZE(0) / SIZE(8)) &&
             sized(a, 5, 5, SIZE(0)) && sized(a, 6, 7, SIZE(2)),
         normalise_gradient(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5), FLOATS(6), FLOATS(7), SIZE(3),
                            SIZE(2) / SIZE(8), SIZE(8), SIZE(9) != 0))

/* --- channels: each of `examples` matrices has a row of `size` entries for every channel. One channel after another, so
   that it is read from memory once and then from the cache. -------------------------------------------------------------- */

KERNEL static void batch_norm(const float *restrict x, const float *restrict weight, const float *restrict bias,
                              float *restrict out, float *restrict mean, float *restrict var, ptrdiff_t examples,
                              ptrdiff_t channels, ptrdiff_t size, float eps) {
    float count = (float)examples * (float)size;
    for (ptrdiff_t c = 0; c < channels; c++) {
        const ptrdiff_t first = c * size, step = channels * size, end = examples * step;
        float sum = 0.0f, squares = 0.0f;
        for (ptrdiff_t k = first; k < end; k += step) sum += row_sum(x + k, size);
        float m = sum / count;
        for (ptrdiff_t k = first; k < end; k += step) squares += row_squares(x + k, m, size);
        float v = squares / count, factor = 1.0f / sqrtf(v + eps) * weight[c], shift = bias[c];
        for (ptrdiff_t k = first; k < end; k += step)
            for (ptrdiff_t i = k; i < k + size; i++) out[i] = (x[i] - m) * factor + shift;
        mean[c] = m;
        var[c] = v;
    }
}

INLINE float row_centred(const float *g, const float *x, float centre, ptrdiff_t n) {
    float lanes[LANES];
    OVER_LANES(lanes, n, 0.0f, so_far + g[i] * (x[i] - centre));
    return sum_of_lanes(lanes);
}

/* d = a g + b (x - mean) + shift: through the output, its mean and its variance, the mean and the variance themselves,
   whose gradients are gmean and gvar. along = sum g (x - mean), total = sum g. */
KERNEL static void batch_norm_gradient(const float *restrict g, const float *restrict x, const float *restrict weight,
                                       const float *restrict mean, const float *restrict scale, const float *restrict gmean,
                                       const float *restrict gvar, float *restrict d, float *restrict along,
                                       float *restrict total, ptrdiff_t examples, ptrdiff_t channels, ptrdiff_t size) {
    float count = (float)examples * (float)size;
    for (ptrdiff_t c = 0; c < channels; c++) {
        const ptrdiff_t first = c * size, step = channels * size, end = examples * step;
        float m = mean[c], s = scale[c], products = 0.0f, sum = 0.0f;
        for (ptrdiff_t k = first; k < end; k += step) {
            products += row_centred(g + k, x + k, m, size);
            sum += row_sum(g + k, size);
        }
        float a = weight[c] * s, b = (2.0f * gvar[c] - a * (s * s) * products) / count, shift = (gmean[c] - a * sum) / count;
        for (ptrdiff_t k = first; k < end; k += step)
            for (ptrdiff_t i = k; i < k + size; i++) d[i] = g[i] * a + (x[i] - m) * b + shift;
        along[c] = products;
        total[c] = sum;
    }
}

/* Whether array 0 has rows of `n` for each of the channels, of which array `k` has one element each. */
static int are_channels(const Argument *a, int k, Py_ssize_t n) {
    if (!are_rows(a, 0, 0, n)) return 0;
    if (SIZE(k) && SIZE(0) / n % SIZE(k) == 0) return 1;
    PyErr_Format(PyExc_ValueError, "argument 0 must have rows for each of %zd channels, got %zd", SIZE(k), SIZE(0) / n);
    return 0;
}

FUNCTION(batch_norm, "rrrwwwnf", are_channels(a, 1, SIZE(6)) && sized(a, 2, 2, SIZE(1)) && sized(a, 3, 3, SIZE(0)) &&
                                     sized(a, 4, 5, SIZE(1)),
         batch_norm(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5), SIZE(0) / SIZE(6) / SIZE(1), SIZE(1),
                    SIZE(6), NUMBER(7)))
FUNCTION(batch_norm_gradient, "rrrrrrrwwwn",
         are_channels(a, 2, SIZE(10)) && sized(a, 1, 1, SIZE(0)) && sized(a, 3, 6, SIZE(2)) && sized(a, 7, 7, SIZE(0)) &&
             sized(a, 8, 9, SIZE(2)),
         batch_norm_gradient(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5), FLOATS(6), FLOATS(7),
                             FLOATS(8), FLOATS(9), SIZE(0) / SIZE(10) / SIZE(2), SIZE(2), SIZE(10)))

PyMethodDef normalise_functions[] = {ENTRY(normalise), ENTRY(normalise_gradient), ENTRY(batch_norm),
                                     ENTRY(batch_norm_gradient), {NULL, NULL, 0, NULL}};
