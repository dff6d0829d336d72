/* The inner loops of a convolution, for registers of WIDTH floats; `conv.c` includes this once for each instruction set.

   WIDTH decides how many sums are made at once and nothing else: each sum is over the same terms in the same order. So
   all widths give the same bits. */

#define JOINED(name, width) name##_##width
#define WITH_WIDTH(name, width) JOINED(name, width)
#define NAME(name) WITH_WIDTH(name, WIDTH)
#define vector NAME(vector)
#define unaligned NAME(unaligned)

typedef float vector __attribute__((vector_size(4 * WIDTH)));
typedef float unaligned __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

/* Eight sums at a time: of all filters where a register holds all LANES places, else of half of them and twice the places,
   so that there are fewer weights to load for a product. */
#if WIDTH == 16
#define VECTORS 1
#else
#define VECTORS 2
#endif
#define SOME (FILTERS / VECTORS)

/* VECTORS * WIDTH places of SOME results: out[f][p] = sum over k of weights[k][f] x[offsets[k] + p]. */
TARGET static inline void NAME(correlate)(const float *x, const int64_t *offsets, int64_t terms, const float *weights,
                                          float *out, ptrdiff_t stride) {
    vector sums[SOME][VECTORS];
    for (int f = 0; f < SOME; f++)
        for (int v = 0; v < VECTORS; v++) sums[f][v] = (vector){0};
    for (int64_t k = 0; k < terms; k++, weights += FILTERS) {
        vector pixels[VECTORS];
        for (int v = 0; v < VECTORS; v++) pixels[v] = *(const unaligned *)(x + offsets[k] + v * WIDTH);
#pragma GCC unroll 8
        for (int f = 0; f < SOME; f++)
            for (int v = 0; v < VECTORS; v++) sums[f][v] += pixels[v] * weights[f];
    }
    for (int f = 0; f < SOME; f++)
        for (int v = 0; v < VECTORS; v++) *(unaligned *)(out + f * stride + v * WIDTH) = sums[f][v];
}

TARGET static void NAME(correlate_image)(const float *planes, const int64_t *offsets, int64_t terms, const float *weights,
                                         int64_t filters, float *out, ptrdiff_t length) {
    for (ptrdiff_t p = 0; p < length; p += VECTORS * WIDTH)
        for (int64_t o = 0; o < filters; o += SOME)
            NAME(correlate)(planes + p, offsets, terms, weights + o / FILTERS * FILTERS * terms + o % FILTERS,
                            out + o * length + p, length);
}

#undef VECTORS
#undef SOME

/* As many sums at a time as the registers hold: 16 of 32 where they are wide, else 8 of 16. */
#if WIDTH == 16
#define ROWS 4
#else
#define ROWS 2
#endif

/* Adds to `lanes` the products of ROWS rows of g with PLACES shifts of x, of one image after the other: lane l of a sum
   has the places p with p % LANES = l. */
TARGET static inline void NAME(multiply)(const float *x, ptrdiff_t image, const int64_t *offsets, const float *g,
                                         ptrdiff_t gradient, ptrdiff_t length, int64_t images, float *lanes,
                                         ptrdiff_t stride) {
    for (int part = 0; part < LANES; part += WIDTH) {
        vector sums[ROWS][PLACES];
        for (int f = 0; f < ROWS; f++)
            for (int k = 0; k < PLACES; k++) sums[f][k] = *(unaligned *)(lanes + f * stride + k * LANES + part);
        for (int64_t n = 0; n < images; n++)
            for (ptrdiff_t p = part; p < length; p += LANES) {
                vector pixels[PLACES];
#pragma GCC unroll 8
                for (int k = 0; k < PLACES; k++) pixels[k] = *(const unaligned *)(x + n * image + offsets[k] + p);
#pragma GCC unroll 8
                for (int f = 0; f < ROWS; f++) {
                    vector row = *(const unaligned *)(g + n * gradient + f * length + p);
#pragma GCC unroll 8
                    for (int k = 0; k < PLACES; k++) sums[f][k] += pixels[k] * row;
                }
            }
        for (int f = 0; f < ROWS; f++)
            for (int k = 0; k < PLACES; k++) *(unaligned *)(lanes + f * stride + k * LANES + part) = sums[f][k];
    }
}

TARGET static void NAME(multiply_images)(const float *planes, ptrdiff_t image, const int64_t *offsets, int64_t terms,
                                         const float *g, int64_t filters, ptrdiff_t length, int64_t images, float *lanes) {
    for (int64_t o = 0; o < filters; o += ROWS)
        for (int64_t k = 0; k < terms; k += PLACES)
            NAME(multiply)(planes, image, offsets + k, g + o * length, filters * length, length, images,
                           lanes + (o * terms + k) * LANES, terms * LANES);
}

#undef ROWS
#undef vector
#undef unaligned
#undef NAME
#undef WITH_WIDTH
#undef JOINED
