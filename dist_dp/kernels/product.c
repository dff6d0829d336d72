/* Products of matrices, out = a b, by entries whose bits depend on their own row and column alone.

   An entry is s_0 + s_1 + ..., added in this order, of TERMS terms each: s = fma(a, b, ... fma(a, b, 0)), in the order of
   the terms. So it is the same whatever other rows there are, how the work is cut, and which instructions do it; a BLAS
   promises none of that. It is also a little faster than one for the shapes of training: few rows, weights as they lie.

   The order of the work is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): some
   terms of b lie in the second-level cache, as panels that a tile reads from end to end; rows of a lie in the first.

   Products are added by fused multiply-adds, which the text asks for. Where a processor has no instruction for them they
   take long, and Python, which `fuses` tells it, leaves products and convolutions to NumPy. */

#include "kernels.h"
#include "module.h"

enum { TERMS = 256, PANEL = 32, COLUMNS_OF_B = 1024, ROWS_OF_A = 96 };

/* Rows of a are laid out so far apart: not a power of two, since those meet in one place of the cache. */
enum { A_STRIDE = TERMS + 16 };

typedef struct {
    const float *a, *b, *bias; /* bias or NULL */
    int a_transposed, b_transposed, packed;
    ptrdiff_t rows, terms, columns;
} Factors;

/* What is multiplied at a time, as it is laid out: 1.1 MB for each thread that multiplies. */
static _Thread_local float rows_of_a[ROWS_OF_A * A_STRIDE] __attribute__((aligned(64)));
static _Thread_local float in_panels[TERMS * COLUMNS_OF_B] __attribute__((aligned(64)));

/* to[i][j] = x[i][j] */
static void copy(const float *x, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns, float *to, ptrdiff_t to_stride) {
    for (ptrdiff_t i = 0; i < rows; i++) memcpy(to + i * to_stride, x + i * stride, (size_t)columns * sizeof *x);
}

typedef float four __attribute__((vector_size(16)));
typedef float unaligned_four __attribute__((vector_size(16), aligned(4), may_alias));
#if defined(__clang__)
#define FIRST_HALVES(x, y) __builtin_shufflevector(x, y, 0, 4, 1, 5)
#define SECOND_HALVES(x, y) __builtin_shufflevector(x, y, 2, 6, 3, 7)
#else
typedef int four_places __attribute__((vector_size(16)));
#define FIRST_HALVES(x, y) __builtin_shuffle(x, y, (four_places){0, 4, 1, 5})
#define SECOND_HALVES(x, y) __builtin_shuffle(x, y, (four_places){2, 6, 3, 7})
#endif

/* to[j][i] = x[i][j] */
static void transpose(const float *x, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns, float *to, ptrdiff_t to_stride) {
    ptrdiff_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        const float *from = x + i * stride;
        ptrdiff_t j = 0;
        for (; j + 4 <= columns; j += 4) {
            four r[4], even, odd;
            for (int k = 0; k < 4; k++) r[k] = *(const unaligned_four *)(from + k * stride + j);
            float *place = to + j * to_stride + i;
            even = FIRST_HALVES(r[0], r[2]), odd = FIRST_HALVES(r[1], r[3]);
            *(unaligned_four *)place = FIRST_HALVES(even, odd);
            *(unaligned_four *)(place + to_stride) = SECOND_HALVES(even, odd);
            even = SECOND_HALVES(r[0], r[2]), odd = SECOND_HALVES(r[1], r[3]);
            *(unaligned_four *)(place + 2 * to_stride) = FIRST_HALVES(even, odd);
            *(unaligned_four *)(place + 3 * to_stride) = SECOND_HALVES(even, odd);
        }
        for (; j < columns; j++)
            for (int k = 0; k < 4; k++) to[j * to_stride + i + k] = from[k * stride + j];
    }
    for (; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++) to[j * to_stride + i] = x[i * stride + j];
}

/* The entries of b for some terms and all of `columns`, as panels: place[panel][k][column], zeros behind the last column. */
static void as_panels(const float *b, ptrdiff_t stride, int transposed, ptrdiff_t terms, ptrdiff_t columns, float *place) {
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

static void pack(const float *b, int transposed, ptrdiff_t terms, ptrdiff_t columns, float *packed) {
    for (ptrdiff_t k = 0; k < terms; k += TERMS)
        as_panels(transposed ? b + k : b + k * columns, transposed ? terms : columns, transposed,
                        least(TERMS, terms - k), columns, packed + k * up(columns, PANEL));
}

#define TILES "product_tiles.h"
#include "widths.h"

int fuses(void) { return FUSES; }

/* --- what may be asked for -------------------------------------------------------------------------------------------- */

/* Whether they are sizes of matrices: not 0, and such that no product of two overflows. */
static int are_sizes(const Argument *a, int first, int last) {
    for (int k = first; k <= last; k++)
        if (a[k].size < 1 || a[k].size > INT32_MAX) {
            PyErr_Format(PyExc_ValueError, "a matrix with a side of %zd", a[k].size);
            return 0;
        }
    return 1;
}

static int product_fits(const Argument *a, int packed) {
    if (!are_sizes(a, 4, 6)) return 0;
    Py_ssize_t rows = a[4].size, terms = a[5].size, columns = a[6].size;
    return sized(a, 0, 0, rows * terms) && sized(a, 1, 1, terms * (packed ? up(columns, PANEL) : columns)) &&
           (!a[2].size || sized(a, 2, 2, columns)) && sized(a, 3, 3, rows * columns);
}

#define FACTORS(a_transposed, b_transposed, packed)                                                                     \
    &(Factors) {                                                                                                        \
        FLOATS(0), FLOATS(1), SIZE(2) ? FLOATS(2) : NULL, a_transposed, b_transposed, packed, SIZE(4), SIZE(5), SIZE(6) \
    }

/* a, b, bias or nothing, out, rows, terms, columns, whether a is transposed, whether b is */
FUNCTION(product, "rrrwnnnnn", product_fits(a, 0), WIDEST(product)(FACTORS(SIZE(7) != 0, SIZE(8) != 0, 0), FLOATS(3)))
/* a, what `pack` made of b, bias or nothing, out, rows, terms, columns */
FUNCTION(product_with_packed, "rrrwnnn", product_fits(a, 1), WIDEST(product)(FACTORS(0, 0, 1), FLOATS(3)))
/* b, packed, terms, columns, whether b is transposed */
FUNCTION(pack, "rwnnn",
         are_sizes(a, 2, 3) && sized(a, 0, 0, SIZE(2) * SIZE(3)) && sized(a, 1, 1, SIZE(2) * up(SIZE(3), PANEL)),
         pack(FLOATS(0), SIZE(4) != 0, SIZE(2), SIZE(3), FLOATS(1)))

PyMethodDef product_functions[] = {ENTRY(product), ENTRY(product_with_packed), ENTRY(pack), {NULL, NULL, 0, NULL}};
