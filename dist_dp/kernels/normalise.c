/* Layer and root-mean-square norm, with a weight for every entry of a row; group and batch norm, with one for a channel. */

#include "kernels.h"
#include "module.h"

/* --- rows -------------------------------------------------------------------------------------------------------------- */

INLINE float row_squares(const float *x, float centre, ptrdiff_t n) {
    float lanes[LANES];
    OVER_LANES(lanes, n, 0.0f, so_far + (x[i] - centre) * (x[i] - centre));
    return sum_of_lanes(lanes);
}

/* out = (x - mean) scale weight + bias with scale = 1 / sqrt(mean of squares + eps); mean = 0 if not `centred`. */
KERNEL static void normalise(const float *restrict x, const float *restrict weight, const float *restrict bias,
                             float *restrict out, float *restrict mean, float *restrict scale, ptrdiff_t rows,
                             ptrdiff_t n, float eps, int centred) {
    for (ptrdiff_t first = 0, end; first < rows; first = end) {
        end = first + few_of(rows - first, n);
        for (ptrdiff_t r = first; r < end; r++) mean[r] = centred ? row_sum(x + r * n, n) / (float)n : 0.0f;
        for (ptrdiff_t r = first; r < end; r++)
            scale[r] = 1.0f / sqrtf(row_squares(x + r * n, mean[r], n) / (float)n + eps);
        for (ptrdiff_t r = first; r < end; r++) {
            const float *in = x + r * n;
            float m = mean[r], s = scale[r];
            for (ptrdiff_t i = 0; i < n; i++) out[r * n + i] = (in[i] - m) * s * weight[i] + bias[i];
        }
    }
}

/* The sums of g w and of g w (x - centre), as OVER_LANES makes them. */
INLINE void row_gradients(const float *g, const float *w, const float *x, float centre, ptrdiff_t n, float *sum,
                          float *along) {
    float sums[LANES] = {0}, products[LANES] = {0};
    ptrdiff_t steps = n / LANES;
    if (steps > 0)
        for (int l = 0; l < LANES; l++) {
            float s = 0.0f, p = 0.0f;
            ptrdiff_t step = 0;
            do {
                ptrdiff_t i = LANES * step + l;
                s += g[i] * w[i];
                p += g[i] * w[i] * (x[i] - centre);
            } while (++step < steps);
            sums[l] = s;
            products[l] = p;
        }
    for (ptrdiff_t i = LANES * steps; i < n; i++) {
        float own = g[i] * w[i];
        sums[i - LANES * steps] += own;
        products[i - LANES * steps] += own * (x[i] - centre);
    }
    *sum = sum_of_lanes(sums);
    *along = sum_of_lanes(products);
}

/* With t = x - mean and means over a row: d = (g w - mean(g w) - t scale^2 mean(g w t)) scale; to the gradients of weight
   and bias are added g t scale and g, row after row. */
KERNEL static void normalise_gradient(const float *restrict g, const float *restrict x, const float *restrict weight,
                                      const float *restrict mean, const float *restrict scale, float *restrict d,
                                      float *restrict dweight, float *restrict dbias, ptrdiff_t rows, ptrdiff_t n,
                                      int centred) {
    for (ptrdiff_t r = 0; r < rows; r++, g += n, x += n, d += n) {
        float m = mean[r], s = scale[r], shift, along;
        row_gradients(g, weight, x, m, n, &shift, &along);
        shift = centred ? shift / (float)n : 0.0f;
        along *= s * s / (float)n;
        for (ptrdiff_t i = 0; i < n; i++) {
            float t = x[i] - m;
            d[i] = (g[i] * weight[i] - (t * along + shift)) * s;
            dweight[i] += g[i] * t * s;
            dbias[i] += g[i];
        }
    }
}

FUNCTION(normalise, "rrrwwwnfn",
         are_rows(a, 0, 0, SIZE(6)) && sized(a, 1, 2, SIZE(6)) && sized(a, 3, 3, SIZE(0)) && sized(a, 4, 5, SIZE(0) / SIZE(6)),
         normalise(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5), SIZE(4), SIZE(6), NUMBER(7), SIZE(8) != 0))
FUNCTION(normalise_gradient, "rrrrrwwwnn",
         are_rows(a, 0, 1, SIZE(8)) && sized(a, 2, 2, SIZE(8)) && sized(a, 3, 4, SIZE(0) / SIZE(8)) &&
             sized(a, 5, 5, SIZE(0)) && sized(a, 6, 7, SIZE(8)),
         normalise_gradient(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5), FLOATS(6), FLOATS(7), SIZE(3),
                            SIZE(8), SIZE(9) != 0))

/* --- channels: rows of `size` entries, one for each channel of an example, example after example. Some of them share mean
   and variance: those of `members` channels next to each other (group norm), or of one channel in all examples (batch
   norm). ----------------------------------------------------------------------------------------------------------------- */

/* `count` sets. The rows of one are `step` apart, and their channels `next`. */
typedef struct {
    ptrdiff_t count, channels, size, members, step, next;
} Sets;

/* With `members` = 0 a set is a channel in all examples. */
INLINE Sets sets_of(ptrdiff_t entries, ptrdiff_t channels, ptrdiff_t size, ptrdiff_t members) {
    ptrdiff_t rows = entries / size;
    return members ? (Sets){rows / members, channels, size, members, 1, 1}
                   : (Sets){channels, channels, size, rows / channels, channels, 0};
}

INLINE ptrdiff_t first_row(const Sets *sets, ptrdiff_t set) { return sets->next ? set * sets->members : set; }

/* out = (x - mean) / sqrt(var + eps) weight + bias. */
KERNEL static void normalise_channels(const float *restrict x, const float *restrict weight, const float *restrict bias,
                                      float *restrict out, float *restrict mean, float *restrict var, Sets sets, float eps) {
    const ptrdiff_t size = sets.size, step = sets.step * size;
    /* What lies next to each other in a set is one row to the sums. */
    const ptrdiff_t run = sets.step == 1 ? sets.members * size : size, leap = sets.step == 1 ? run : step;
    const float count = (float)sets.members * (float)size;
    for (ptrdiff_t s = 0; s < sets.count; s++) {
        const ptrdiff_t row = first_row(&sets, s), first = row * size, end = first + sets.members * step;
        float sum = 0.0f, squares = 0.0f;
        for (ptrdiff_t k = first; k < end; k += leap) sum += row_sum(x + k, run);
        float m = mean[s] = sum / count;
        for (ptrdiff_t k = first; k < end; k += leap) squares += row_squares(x + k, m, run);
        float scale = 1.0f / sqrtf((var[s] = squares / count) + eps);
        for (ptrdiff_t k = first, c = row % sets.channels; k < end; k += step, c += sets.next) {
            float factor = scale * weight[c], shift = bias[c];
            for (ptrdiff_t i = k; i < k + size; i++) out[i] = (x[i] - m) * factor + shift;
        }
    }
}

INLINE float row_centred(const float *g, const float *x, float centre, ptrdiff_t n) {
    float lanes[LANES];
    OVER_LANES(lanes, n, 0.0f, so_far + g[i] * (x[i] - centre));
    return sum_of_lanes(lanes);
}

/* d = a g + b (x - mean) + shift: through the output, its mean and its variance, the mean and the variance themselves,
   whose gradients are gmean and gvar. To the gradients of weight and bias are added the sums over each row of
   g (x - mean) scale and of g. */
KERNEL static void normalise_channels_gradient(const float *restrict g, const float *restrict x,
                                               const float *restrict weight, const float *restrict mean,
                                               const float *restrict scale, const float *restrict gmean,
                                               const float *restrict gvar, float *restrict d, float *restrict dweight,
                                               float *restrict dbias, Sets sets) {
    const ptrdiff_t size = sets.size, step = sets.step * size;
    const float count = (float)sets.members * (float)size;
    for (ptrdiff_t set = 0; set < sets.count; set++) {
        const ptrdiff_t row = first_row(&sets, set), first = row * size, end = first + sets.members * step;
        float m = mean[set], s = scale[set], products = 0.0f, sum = 0.0f;
        for (ptrdiff_t k = first, c = row % sets.channels; k < end; k += step, c += sets.next) {
            float along = row_centred(g + k, x + k, m, size), total = row_sum(g + k, size);
            dweight[c] += along * s;
            dbias[c] += total;
            products += along * weight[c];
            sum += total * weight[c];
        }
        float b = (2.0f * gvar[set] - s * s * s * products) / count, shift = (gmean[set] - s * sum) / count;
        for (ptrdiff_t k = first, c = row % sets.channels; k < end; k += step, c += sets.next) {
            float a = weight[c] * s;
            for (ptrdiff_t i = k; i < k + size; i++) d[i] = g[i] * a + (x[i] - m) * b + shift;
        }
    }
}

/* Whether array 0 has rows of `size` for each of the channels, of which array `weight` has one element each, and array
   `moment` an element for each set of `members` rows. */
static int are_sets(const Argument *a, int weight, int moment, Py_ssize_t size, Py_ssize_t members) {
    if (!are_rows(a, 0, 0, size)) return 0;
    Py_ssize_t rows = SIZE(0) / size, channels = SIZE(weight);
    if (channels == 0 || rows % channels || members < 0 || (members && channels % members)) {
        PyErr_Format(PyExc_ValueError, "argument 0 must have rows for each of %zd channels in sets of %zd, got %zd", channels,
                     members, rows);
        return 0;
    }
    return sized(a, moment, moment, members ? rows / members : channels);
}

FUNCTION(normalise_channels, "rrrwwwnnf",
         are_sets(a, 1, 4, SIZE(6), SIZE(7)) && sized(a, 2, 2, SIZE(1)) && sized(a, 3, 3, SIZE(0)) && sized(a, 5, 5, SIZE(4)),
         normalise_channels(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5),
                            sets_of(SIZE(0), SIZE(1), SIZE(6), SIZE(7)), NUMBER(8)))
FUNCTION(normalise_channels_gradient, "rrrrrrrwwwnn",
         are_sets(a, 2, 3, SIZE(10), SIZE(11)) && sized(a, 1, 1, SIZE(0)) && sized(a, 4, 6, SIZE(3)) &&
             sized(a, 7, 7, SIZE(0)) && sized(a, 8, 9, SIZE(2)),
         normalise_channels_gradient(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5), FLOATS(6), FLOATS(7),
                                     FLOATS(8), FLOATS(9), sets_of(SIZE(0), SIZE(2), SIZE(10), SIZE(11))))

PyMethodDef normalise_functions[] = {ENTRY(normalise), ENTRY(normalise_gradient), ENTRY(normalise_channels),
                                     ENTRY(normalise_channels_gradient), {NULL, NULL, 0, NULL}};
