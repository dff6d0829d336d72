/* Convolutions without a matrix of columns: an image is copied once, with its padding, and read in place.

   With the padding around it an image is one line of numbers, and the pixels under one weight are that line from an
   offset on: out[p] = sum over k of w[k] x[offset[k] + p], for all places p at once. Where a line of the image ends and
   the next begins, p runs over places that are no window; these are computed too and left out. With a stride the image
   is first dealt out into planes, such that a weight meets neighbours of one plane. So every convolution is a table of
   offsets, which Python makes (`ops/direct.py`), and so is the gradient towards the image.

   No fused multiply-add: products are rounded. On AMD's processors that costs nothing, since there multiplications and
   additions run beside each other; on others it is still ahead of a product of matrices with the columns to be made. */

#include "kernels.h"
#include "module.h"

enum { FILTERS = 8, PLACES = 4, ENOUGH = 512 };

/* --- the inner loops for each width of the registers ------------------------------------------------------------------ */

#if defined(KERNEL_IS_CHOSEN)
#define WIDTH 16
#define TARGET __attribute__((target("avx512f")))
#include "conv_tiles.h"
#undef WIDTH
#undef TARGET
#define WIDTH 8
#define TARGET __attribute__((target("avx2")))
#include "conv_tiles.h"
#undef WIDTH
#undef TARGET
#define WIDTH 4
#define TARGET
#include "conv_tiles.h"
#define CALL(name, ...)                                                        \
    (__builtin_cpu_supports("avx512f") ? name##_16(__VA_ARGS__)                \
                                       : __builtin_cpu_supports("avx2") ? name##_8(__VA_ARGS__) : name##_4(__VA_ARGS__))
#else
#define TARGET
#if defined(__AVX512F__)
#define WIDTH 16
#define CALL(name, ...) name##_16(__VA_ARGS__)
#elif defined(__AVX__)
#define WIDTH 8
#define CALL(name, ...) name##_8(__VA_ARGS__)
#else
#define WIDTH 4
#define CALL(name, ...) name##_4(__VA_ARGS__)
#endif
#include "conv_tiles.h"
#endif

/* --- images as planes, and back --------------------------------------------------------------------------------------- */

/* What Python says of a convolution, in this order. Channels and filters are those of one group. */
typedef struct {
    int64_t images, groups, channels, filters, terms;
    int64_t height, width;                    /* of an image */
    int64_t row_stride, column_stride;        /* pixel (y, x) goes to the plane ((y + top) % row_stride, ...) */
    int64_t row_phases, column_phases;        /* if there is one: small kernels leave planes out */
    int64_t top, left;                        /* at (y + top) / row_stride, ... */
    int64_t rows, columns;                    /* of a plane */
    int64_t out_rows, out_columns;            /* windows; the first lies at the beginning of the planes */
    int64_t out_height, out_width;            /* of a result; window (r, c) goes to */
    int64_t row_first, row_step;              /* row_first + r row_step, */
    int64_t column_first, column_step;        /* column_first + c column_step */
} Layout;

static int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* Places that are computed: to the last window, and to the end of a register. */
static int64_t length_of(const Layout *s) { return up((s->out_rows - 1) * s->columns + s->out_columns, LANES); }

static int64_t planes_of(const Layout *s) {
    return s->channels * s->row_phases * s->column_phases * s->rows * s->columns + LANES;
}

/* Copies images of one group into their planes; what lies around them is already 0. */
static void deal_out(const Layout *s, const float *x, float *planes) {
    for (int64_t c = 0; c < s->channels; c++)
        for (int64_t y = 0; y < s->height; y++) {
            const float *row = x + (c * s->height + y) * s->width;
            int64_t at = (y + s->top) / s->row_stride, which = (y + s->top) % s->row_stride;
            if (at >= s->rows) break;
            if (which >= s->row_phases) continue;
            for (int64_t b = 0; b < s->column_phases; b++) {
                float *to = planes + (((c * s->row_phases + which) * s->column_phases + b) * s->rows + at) * s->columns;
                int64_t first = s->left > b ? (s->left - b + s->column_stride - 1) / s->column_stride : 0;
                int64_t behind = s->width + s->left - b; /* columns of the padded row from b on that hold pixels */
                int64_t last = behind > 0 ? (behind - 1) / s->column_stride + 1 : 0;
                if (last > s->columns) last = s->columns;
                if (s->column_stride == 1) {
                    if (last > first) memcpy(to + first, row + first - s->left, (size_t)(last - first) * sizeof *to);
                } else if (s->column_stride == 2)
                    for (int64_t q = first; q < last; q++) to[q] = row[q * 2 + b - s->left];
                else
                    for (int64_t q = first; q < last; q++) to[q] = row[q * s->column_stride + b - s->left];
            }
        }
}

/* Gathers the windows of a group out of the computed places, and adds each filter's bias if there is one. */
static void gather(const Layout *s, const float *places, const float *bias, float *out) {
    int64_t length = length_of(s);
    for (int64_t o = 0; o < s->filters; o++)
        for (int64_t r = 0; r < s->out_rows; r++) {
            const float *from = places + o * length + r * s->columns;
            float *to = out + (o * s->out_height + s->row_first + r * s->row_step) * s->out_width + s->column_first;
            if (s->column_step == 1 && bias)
                for (int64_t q = 0; q < s->out_columns; q++) to[q] = from[q] + bias[o];
            else if (s->column_step == 1)
                memcpy(to, from, (size_t)s->out_columns * sizeof *to);
            else
                for (int64_t q = 0; q < s->out_columns; q++)
                    to[q * s->column_step] = bias ? from[q] + bias[o] : from[q];
        }
}

/* Copies the gradients of windows to where the windows are; what lies between them is already 0. (0 times a pixel that is
   not finite is NaN: then it may stand in the gradient of more weights than with a product of matrices.) */
static void spread(const Layout *s, const float *g, float *places) {
    for (int64_t o = 0; o < s->filters; o++)
        for (int64_t r = 0; r < s->out_rows; r++)
            memcpy(places + o * length_of(s) + r * s->columns, g + (o * s->out_rows + r) * s->out_columns,
                   (size_t)s->out_columns * sizeof *places);
}

/* --- the two functions ------------------------------------------------------------------------------------------------ */

/* weights (groups, filters / FILTERS, terms, FILTERS), padded with zeros; memory for planes and places. */
static void correlate(const Layout *s, const float *x, const float *weights, const int64_t *offsets, const float *bias,
                      float *out, float *memory) {
    int64_t padded = up(s->filters, FILTERS), length = length_of(s);
    float *planes = memory, *places = memory + planes_of(s);
    memset(planes, 0, (size_t)planes_of(s) * sizeof *planes);
    for (int64_t k = 0; k < s->images * s->groups; k++) {
        int64_t group = k % s->groups;
        deal_out(s, x + k * s->channels * s->height * s->width, planes);
        CALL(correlate_image, planes, offsets, s->terms, weights + group * padded * s->terms, padded, places, length);
        gather(s, places, bias ? bias + group * s->filters : NULL, out + k * s->filters * s->out_height * s->out_width);
    }
}

/* Images in one go: enough places that reading and writing the sums does not show. */
static int64_t together(const Layout *s) {
    int64_t most = ENOUGH / length_of(s) + 1;
    return most < s->images ? most : s->images;
}

static int64_t memory_for_weights(const Layout *s) {
    int64_t padded = up(s->filters, PLACES);
    return together(s) * (planes_of(s) + padded * length_of(s)) + padded * s->terms * LANES;
}

/* out (groups, filters, terms), memory for planes, places and lanes; `terms` is a multiple of PLACES. */
static void correlate_weights(const Layout *s, const float *x, const float *g, const int64_t *offsets, float *out,
                              float *memory) {
    int64_t padded = up(s->filters, PLACES), length = length_of(s), pixels = s->channels * s->height * s->width;
    int64_t some = together(s), sums = s->filters * s->terms;
    float *planes = memory, *places = planes + some * planes_of(s), *lanes = places + some * padded * length;
    memset(memory, 0, (size_t)(lanes - memory) * sizeof *memory);
    for (int64_t group = 0; group < s->groups; group++) {
        memset(lanes, 0, (size_t)(padded * s->terms * LANES) * sizeof *lanes);
        for (int64_t n = 0; n < s->images; n += some) {
            int64_t count = s->images - n < some ? s->images - n : some;
            for (int64_t i = 0; i < count; i++) {
                int64_t k = (n + i) * s->groups + group;
                deal_out(s, x + k * pixels, planes + i * planes_of(s));
                spread(s, g + k * s->filters * s->out_rows * s->out_columns, places + i * padded * length);
            }
            CALL(multiply_images, planes, planes_of(s), offsets, s->terms, places, padded, length, count, lanes);
        }
        for (int64_t k = 0; k < sums; k++) out[group * sums + k] = sum_of_lanes(lanes + k * LANES);
    }
}

/* --- what may be asked for -------------------------------------------------------------------------------------------- */

/* No product of sizes overflows: each is at most MOST, and all of those that are multiplied in any place are less than
   2^62, which their product as real numbers says well enough. */
enum { MOST = 1 << 24 };

static int fit_in_memory(const Layout *s) {
    double batch = (double)s->images * (double)s->groups, channels = (double)s->channels, filters = (double)s->filters + LANES;
    double plane = (double)s->rows * (double)s->columns, length = plane + (double)s->columns + LANES;
    double planes = (channels + 1) * (double)s->row_phases * (double)s->column_phases * plane + LANES;
    double most = 1e18;
    return batch * channels * (double)s->height * (double)s->width < most && planes * (ENOUGH + 1) < most &&
           batch * filters * (double)s->out_height * (double)s->out_width < most && filters * length * (ENOUGH + 1) < most &&
           batch * filters * (double)s->out_rows * (double)s->out_columns < most &&
           (double)s->groups * filters * (double)s->terms * LANES < most && (double)s->out_rows * (double)s->columns < most;
}

static int refused(const char *why) {
    PyErr_Format(PyExc_ValueError, "convolution: %s", why);
    return 0;
}

/* Whether the layout and the offsets let nothing be read outside of the planes, or written outside of the result. */
static int laid_out(const Argument *layout, const Argument *offsets) {
    const int64_t *number = layout->array.buf, *offset = offsets->array.buf;
    const Layout *s = layout->array.buf;
    if (layout->size * sizeof *number != sizeof *s) return refused("the layout has another number of entries");
    for (Py_ssize_t k = 0; k < layout->size; k++)
        if (number[k] < 0 || number[k] > MOST) return refused("a number of the layout is out of range");
    if (!s->groups || !s->row_stride || !s->column_stride || !s->out_rows || !s->out_columns || !s->row_step ||
        !s->column_step || s->out_columns > s->columns || s->out_rows > s->rows || s->row_phases > s->row_stride ||
        s->column_phases > s->column_stride || !fit_in_memory(s))
        return refused("a number of the layout is out of range");
    if (s->row_first + (s->out_rows - 1) * s->row_step >= s->out_height ||
        s->column_first + (s->out_columns - 1) * s->column_step >= s->out_width)
        return refused("windows lie outside of the result");
    if (offsets->size != s->terms) return refused("there must be an offset for every term");
    for (int64_t k = 0; k < s->terms; k++)
        if (offset[k] < 0 || offset[k] > planes_of(s) - length_of(s)) return refused("an offset lies outside of the planes");
    return 1;
}

static int correlate_fits(const Argument *a) {
    if (!laid_out(&a[0], &a[3])) return 0;
    const Layout *s = a[0].array.buf;
    int64_t padded = up(s->filters, FILTERS), batch = s->images * s->groups;
    return sized(a, 1, 1, batch * s->channels * s->height * s->width) && sized(a, 2, 2, s->groups * padded * s->terms) &&
           (!a[4].size || sized(a, 4, 4, s->groups * s->filters)) &&
           sized(a, 5, 5, batch * s->filters * s->out_height * s->out_width) &&
           sized(a, 6, 6, planes_of(s) + padded * length_of(s));
}

static int correlate_weights_fits(const Argument *a) {
    if (!laid_out(&a[0], &a[3])) return 0;
    const Layout *s = a[0].array.buf;
    int64_t batch = s->images * s->groups;
    if (s->terms % PLACES) return refused("the number of terms must be a multiple of 4");
    return sized(a, 1, 1, batch * s->channels * s->height * s->width) &&
           sized(a, 2, 2, batch * s->filters * s->out_rows * s->out_columns) &&
           sized(a, 4, 4, s->groups * s->filters * s->terms) &&
           sized(a, 5, 5, memory_for_weights(s));
}

/* layout, x, weights, offsets, bias (empty if there is none), out, memory */
FUNCTION(correlate, "irrirww", correlate_fits(a),
         correlate((const Layout *)WHOLES(0), FLOATS(1), FLOATS(2), WHOLES(3), SIZE(4) ? FLOATS(4) : NULL, FLOATS(5),
                   FLOATS(6)))
/* layout, x, g, offsets, out, memory */
FUNCTION(correlate_weights, "irriww", correlate_weights_fits(a),
         correlate_weights((const Layout *)WHOLES(0), FLOATS(1), FLOATS(2), WHOLES(3), FLOATS(4), FLOATS(5)))

PyMethodDef conv_functions[] = {ENTRY(correlate), ENTRY(correlate_weights), {NULL, NULL, 0, NULL}};
