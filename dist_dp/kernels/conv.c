/* Convolutions without a matrix of columns: a few shifted copies of an image are read in place.

   For every column of the kernel the image is copied once, shifted by that column, with its padding and, for a stride,
   without the pixels between the windows. In such a plane the pixels under one weight lie one behind the other for all
   windows, line after line, and those under the weight one row further begin a whole number of lines later. So
   out[p] = sum over k of w[k] x[offset[k] + p] for all places p at once, and every convolution is a table of offsets,
   which Python makes (`ops/direct.py`); so is the gradient towards the image, which with a stride is one convolution
   for each place of a pixel between two windows, all of the same planes.

   For example, lines of 4 pixels a b c d, a kernel of 3 columns and one zero on either side: the planes of the three columns
   have the lines 0 a b c, a b c d and b c d 0, and the four windows of a line are w0 (0 a b c) + w1 (a b c d) + w2 (b c d 0).
   With a stride of 2 there are two windows, and the planes have the lines 0 b, a c and b d.

   Large images are taken in bands of rows, whose planes stay in the cache. Products are added by fused multiply-adds,
   which the text asks for: they round once on every machine, but where a processor has no such instruction they take long,
   and Python, which `fuses` tells it, leaves convolutions to NumPy. */

#include "kernels.h"
#include "module.h"

/* Rounding errors grow with the length of a CHAIN of additions. */
enum { FILTERS = 8, CHAIN = 128, ENOUGH = 512 };

/* Leaves the registers to the sums of the innermost loop: compilers would keep both there, and take sums out instead. */
#define IN_MEMORY(totals) __asm__ volatile("" : : "r"(totals) : "memory")

#define TILES "conv_tiles.h"
#include "widths.h"

/* --- images as planes, and back --------------------------------------------------------------------------------------- */

/* What Python says of a convolution, in this order. Channels and filters are those of one group. */
typedef struct {
    int64_t images, groups, channels, filters;
    int64_t height, width;              /* of an image */
    int64_t row_stride, column_stride;  /* line r, column q of the plane of channel c, shift j and phase b hold the pixel */
    int64_t top, phases;                /* (r row_stride + b - top, q column_stride + shifts[j]), or 0 outside */
    int64_t rows, columns;              /* windows; those of a plane's lines are the windows' columns */
    int64_t band, reach;                /* rows of windows in one go; lines that lie under them beyond as many */
    int64_t plane;                      /* from one plane to the next */
    int64_t out_height, out_width;      /* of a result; window (r, q) of a part goes to */
    int64_t row_step, column_step;      /* (row_first + r row_step, column_first + q column_step), if there is such */
} Layout;

/* A convolution among several of the same planes; offsets and weights of one follow those of the other. */
typedef struct {
    int64_t terms, row_first, column_first;
} Part;

/* Up to the end of a register behind the last place. */
static int64_t planes_of(const Layout *s, int64_t shifts) { return s->channels * shifts * s->phases * s->plane + LANES; }

static float *aligned(float *memory) { return (float *)(((uintptr_t)memory + 63) / 64 * 64); }

/* What the shifts span: an image's line with its padding begins with the least, and is read to the end of a register. */
static int64_t least_shift(const int64_t *shifts, int64_t count) {
    int64_t found = count ? shifts[0] : 0;
    for (int64_t j = 1; j < count; j++) found = least(found, shifts[j]);
    return found;
}

static int64_t line_of(const Layout *s, const int64_t *shifts, int64_t count) {
    int64_t span = 0;
    for (int64_t j = 0; j < count; j++) {
        int64_t beyond = shifts[j] - least_shift(shifts, count);
        if (beyond > span) span = beyond;
    }
    return up(s->columns, LANES) * s->column_stride + span;
}

static int64_t lines_of(const Layout *s) { return (s->band + s->reach) * s->phases; }

/* Every `stride`-th element, and what follows to the end of a register, which the next line will overwrite. */
INLINE void copy_line(const float *restrict from, float *restrict to, int64_t columns, int64_t stride) {
    for (int64_t q = 0; q < columns; q += LANES)
        for (int i = 0; i < LANES; i++) to[q + i] = from[(q + i) * stride];
}

/* Copies the pixels of an image, the channels of one group, that lie under `rows` rows of windows from `start` on. `padded`
   holds a channel with its padding, which is 0 already. */
KERNEL static void deal_out(const Layout *s, const float *x, const int64_t *shifts, int64_t count, int64_t start, int64_t rows,
                            float *planes, float *padded) {
    int64_t line = line_of(s, shifts, count), left = least_shift(shifts, count), lines = (rows + s->reach) * s->phases;
    int64_t first = left < 0 ? least(-left, line) : 0, width = least(s->width - left - first, line - first);
    for (int64_t c = 0; c < s->channels; c++, x += s->height * s->width) {
        for (int64_t i = 0; i < lines; i++) {
            int64_t y = (start + i / s->phases) * s->row_stride + i % s->phases - s->top;
            if (y < 0 || y >= s->height)
                memset(padded + i * line, 0, (size_t)line * sizeof *padded);
            else if (width > 0)
                memcpy(padded + i * line + first, x + y * s->width + left + first, (size_t)width * sizeof *padded);
        }
        for (int64_t j = 0; j < count; j++)
            for (int64_t b = 0; b < s->phases; b++, planes += s->plane)
                for (int64_t i = b, r = 0; i < lines; i += s->phases, r++) {
                    const float *from = padded + i * line + shifts[j] - left;
                    if (s->column_stride == 1)
                        copy_line(from, planes + r * s->columns, s->columns, 1);
                    else if (s->column_stride == 2)
                        copy_line(from, planes + r * s->columns, s->columns, 2);
                    else
                        copy_line(from, planes + r * s->columns, s->columns, s->column_stride);
                }
    }
}

/* Whether the places of a band are those of the result, one behind the other. */
static int dense(const Layout *s, int64_t parts) {
    return parts == 1 && s->row_step == 1 && s->column_step == 1 && s->out_height == s->rows && s->out_width == s->columns;
}

/* Whether the next part has the odd columns of those rows whose even columns this one has. */
static int has_twin(const Layout *s, const Part *part, const Part *end) {
    return s->column_step == 2 && part + 1 < end && part[0].row_first == part[1].row_first && part[0].column_first == 0 &&
           part[1].column_first == 1;
}

/* Puts the places of a band where the windows of a part go, or those of a part and its twin. */
KERNEL static void put(const Layout *s, const Part *part, const float *restrict places, const float *restrict twin,
                       int64_t start, int64_t rows, float *restrict out) {
    int64_t columns = least(s->columns, (s->out_width - part->column_first - 1) / s->column_step + 1);
    int64_t pairs = least(s->columns, s->out_width / 2);
    for (int64_t o = 0; o < s->filters; o++)
        for (int64_t r = 0; r < rows; r++) {
            const float *from = places + (o * s->band + r) * s->columns, *odd = twin + (from - places);
            int64_t row = part->row_first + (start + r) * s->row_step;
            float *to = out + (o * s->out_height + row) * s->out_width + part->column_first;
            if (row >= s->out_height) break;
            if (twin != places) {
                for (int64_t q = 0; q < pairs; q++) to[2 * q] = from[q], to[2 * q + 1] = odd[q];
                if (pairs < columns) to[2 * pairs] = from[pairs];
            } else
                for (int64_t q = 0; q < columns; q++) to[q * s->column_step] = from[q];
        }
}

/* g (filters, length), of which `stride` is from one filter to the next, as (length, padded), square by square. */
enum { SIDE = 8 };

INLINE void turn_square(const float *g, ptrdiff_t stride, float *out, ptrdiff_t padded, ptrdiff_t filters, ptrdiff_t length) {
    for (ptrdiff_t p = 0; p < length; p++)
        for (ptrdiff_t f = 0; f < filters; f++) out[p * padded + f] = g[f * stride + p];
}

KERNEL static void turn(const float *restrict g, ptrdiff_t filters, ptrdiff_t stride, ptrdiff_t length, float *restrict out,
                        ptrdiff_t padded) {
    for (ptrdiff_t f = 0; f < filters; f += SIDE)
        for (ptrdiff_t p = 0; p < length; p += SIDE)
            if (filters - f >= SIDE && length - p >= SIDE)
                turn_square(g + f * stride + p, stride, out + p * padded + f, padded, SIDE, SIDE);
            else
                turn_square(g + f * stride + p, stride, out + p * padded + f, padded, least(filters - f, SIDE),
                            least(length - p, SIDE));
}

/* --- the two functions ------------------------------------------------------------------------------------------------ */

/* weights: of every part (groups, filters / FILTERS, terms, FILTERS), padded with zeros as is the bias (groups, filters);
   memory for planes, a channel, and twice the places of a band. */
static void correlate(const Layout *s, const float *x, const float *weights, const int64_t *shifts, int64_t count,
                      const int64_t *offsets, const Part *parts, int64_t how_many, const float *bias, float *out,
                      float *memory) {
    int64_t padded = up(s->filters, FILTERS), size = s->out_height * s->out_width;
    float *planes = aligned(memory), *channel = planes + planes_of(s, count);
    float *places = channel + lines_of(s) * line_of(s, shifts, count), *twin = places + s->filters * s->band * s->columns;
    int whole = dense(s, how_many);
    memset(planes, 0, (size_t)(places - planes) * sizeof *planes);
    for (int64_t k = 0; k < s->images * s->groups; k++, x += s->channels * s->height * s->width, out += s->filters * size) {
        int64_t group = k % s->groups;
        for (int64_t start = 0; start < s->rows; start += s->band) {
            int64_t rows = least(s->band, s->rows - start);
            const int64_t *offset = offsets;
            const float *w = weights;
            deal_out(s, x, shifts, count, start, rows, planes, channel);
            for (const Part *part = parts, *end = parts + how_many; part < end; part++) {
                float *here = part > parts && has_twin(s, part - 1, end) ? twin : places;
                WIDEST(correlate_planes)(planes, offset, part->terms, w + group * padded * part->terms, bias + group * padded,
                                         s->filters, whole ? out + start * s->columns : here,
                                         whole ? size : s->band * s->columns, rows * s->columns);
                if (here == twin)
                    put(s, part - 1, places, twin, start, rows, out);
                else if (!whole && !has_twin(s, part, end))
                    put(s, part, places, places, start, rows, out);
                offset += part->terms, w += s->groups * padded * part->terms;
            }
        }
    }
}

/* Filters that are computed with the weights' gradient. */
static int64_t wide(const Layout *s) { return up(s->filters, s->filters > FILTERS ? LANES : FILTERS); }

/* Images in one go: enough places that reading and writing the sums does not show. */
static int64_t together(const Layout *s) { return least(ENOUGH / (s->band * s->columns) + 1, s->images); }

static int64_t memory_for_weights(const Layout *s, const int64_t *shifts, int64_t count) {
    return together(s) * (planes_of(s, count) + s->band * s->columns * wide(s)) + lines_of(s) * line_of(s, shifts, count) +
           LANES;
}

/* out (groups, terms, wide): the sum over all images n and places p of x[n][offsets[k] + p] g[n][f][p]; memory for the
   planes and gradients of some images, and for a channel. */
static void correlate_weights(const Layout *s, const float *x, const float *g, const int64_t *shifts, int64_t count,
                              const int64_t *offsets, int64_t terms, float *out, float *memory) {
    int64_t padded = wide(s), pixels = s->channels * s->height * s->width, size = s->rows * s->columns;
    int64_t some = together(s);
    float *planes = aligned(memory), *turned = planes + some * planes_of(s, count);
    float *channel = turned + some * s->band * s->columns * padded;
    memset(memory, 0, (size_t)memory_for_weights(s, shifts, count) * sizeof *memory);
    memset(out, 0, (size_t)(s->groups * terms * padded) * sizeof *out);
    for (int64_t group = 0; group < s->groups; group++, out += terms * padded)
        for (int64_t n = 0; n < s->images; n += some)
            for (int64_t start = 0; start < s->rows; start += s->band) {
                int64_t rows = least(s->band, s->rows - start), images = least(some, s->images - n);
                for (int64_t i = 0; i < images; i++) {
                    int64_t k = (n + i) * s->groups + group;
                    deal_out(s, x + k * pixels, shifts, count, start, rows, planes + i * planes_of(s, count), channel);
                    turn(g + k * s->filters * size + start * s->columns, s->filters, size, rows * s->columns,
                         turned + i * rows * s->columns * padded, padded);
                }
                (padded == FILTERS ? AT_MOST_8(multiply_planes) : WIDEST(multiply_planes))(
                    planes, planes_of(s, count), offsets, terms, turned, padded, rows * s->columns, images, out);
            }
}

/* --- what may be asked for -------------------------------------------------------------------------------------------- */

/* No product of sizes overflows: each is at most MOST, and all of those that are multiplied in any place are less than
   2^62, which their product as real numbers says well enough. */
enum { MOST = 1 << 24 };

static int fit_in_memory(const Layout *s, const int64_t *shifts, int64_t count, int64_t terms) {
    double batch = (double)s->images * (double)s->groups + 1, filters = (double)s->filters + LANES, most = 1e18;
    double places = (double)s->band * ((double)s->columns + LANES), lines = (double)lines_of(s);
    double planes = ((double)s->channels + 1) * ((double)count + 1) * (double)s->phases * ((double)s->plane + LANES);
    return batch * (double)s->channels * (double)s->height * (double)s->width < most && planes * (ENOUGH + 1) < most &&
           batch * filters * (double)s->out_height * (double)s->out_width < most && filters * places * (ENOUGH + 1) < most &&
           batch * filters * (double)s->rows * (double)s->columns < most &&
           (double)s->groups * filters * ((double)terms + 1) < most && lines * (double)line_of(s, shifts, count) < most;
}

static int refused(const char *why) {
    PyErr_Format(PyExc_ValueError, "convolution: %s", why);
    return 0;
}

/* Whether the layout and the offsets let nothing be read outside of the planes, or written outside of them. */
static int laid_out(const Argument *layout, const Argument *shifts, const Argument *offsets) {
    const int64_t *number = layout->array.buf, *shift = shifts->array.buf, *offset = offsets->array.buf;
    const Layout *s = layout->array.buf;
    if (layout->size * sizeof *number != sizeof *s) return refused("the layout has another number of entries");
    for (Py_ssize_t k = 0; k < layout->size; k++)
        if (number[k] > MOST || number[k] < (number + k == &s->top ? -MOST : 0))
            return refused("a number of the layout is out of range");
    for (Py_ssize_t k = 0; k < shifts->size; k++)
        if (shift[k] < -MOST || shift[k] > MOST) return refused("a shift is out of range");
    if (!s->groups || !s->row_stride || !s->column_stride || !s->phases || !s->rows || !s->columns || !s->band ||
        !s->row_step || !s->column_step || s->rows > s->out_height || s->columns > s->out_width ||
        s->plane < (s->band + s->reach) * s->columns || !fit_in_memory(s, shift, shifts->size, offsets->size))
        return refused("a number of the layout is out of range");
    int64_t last = planes_of(s, shifts->size) - up(s->band * s->columns, LANES);
    for (Py_ssize_t k = 0; k < offsets->size; k++)
        if (offset[k] < 0 || offset[k] > last) return refused("an offset lies outside of the planes");
    return 1;
}

static int parts_fit(const Layout *s, const Argument *parts, Py_ssize_t offsets) {
    Py_ssize_t how_many = parts->size / 3;
    const Part *part = parts->array.buf;
    int64_t terms = 0;
    for (Py_ssize_t k = 0; k < how_many; k++) {
        if (part[k].terms < 0 || part[k].terms > offsets || part[k].row_first < 0 || part[k].row_first >= s->out_height ||
            part[k].column_first < 0 || part[k].column_first >= s->out_width)
            return refused("a part lies outside of the result");
        terms += part[k].terms;
    }
    if (parts->size % 3 || terms != offsets) return refused("there must be an offset for every term");
    return 1;
}

static int correlate_fits(const Argument *a) {
    if (!laid_out(&a[0], &a[3], &a[4])) return 0;
    const Layout *s = a[0].array.buf;
    int64_t padded = up(s->filters, FILTERS), batch = s->images * s->groups;
    return parts_fit(s, &a[5], SIZE(4)) && sized(a, 1, 1, batch * s->channels * s->height * s->width) &&
           sized(a, 2, 2, s->groups * padded * SIZE(4)) && sized(a, 6, 6, s->groups * padded) &&
           sized(a, 7, 7, batch * s->filters * s->out_height * s->out_width) &&
           sized(a, 8, 8,
                 planes_of(s, SIZE(3)) + lines_of(s) * line_of(s, WHOLES(3), SIZE(3)) +
                     2 * s->filters * s->band * s->columns + LANES);
}

static int correlate_weights_fits(const Argument *a) {
    if (!laid_out(&a[0], &a[3], &a[4])) return 0;
    const Layout *s = a[0].array.buf;
    int64_t batch = s->images * s->groups;
    if (SIZE(4) % FILTERS) return refused("the number of terms must be a multiple of 8");
    return sized(a, 1, 1, batch * s->channels * s->height * s->width) &&
           sized(a, 2, 2, batch * s->filters * s->rows * s->columns) &&
           sized(a, 5, 5, s->groups * SIZE(4) * wide(s)) && sized(a, 6, 6, memory_for_weights(s, WHOLES(3), SIZE(3)));
}

/* layout, x, weights, shifts, offsets, parts, bias, out, memory */
FUNCTION(correlate, "irriiirww", correlate_fits(a),
         correlate((const Layout *)WHOLES(0), FLOATS(1), FLOATS(2), WHOLES(3), SIZE(3), WHOLES(4), (const Part *)WHOLES(5),
                   SIZE(5) / 3, FLOATS(6), FLOATS(7), FLOATS(8)))
/* layout, x, g, shifts, offsets, out, memory */
FUNCTION(correlate_weights, "irriiww", correlate_weights_fits(a),
         correlate_weights((const Layout *)WHOLES(0), FLOATS(1), FLOATS(2), WHOLES(3), SIZE(3), WHOLES(4), SIZE(4), FLOATS(5),
                           FLOATS(6)))

PyMethodDef conv_functions[] = {ENTRY(correlate), ENTRY(correlate_weights), {NULL, NULL, 0, NULL}};
