/* Pooling backwards. (Forwards NumPy's maxima and sums of strided views are as fast as the memory.) */

#include "kernels.h"
#include "module.h"

/* What Python says of the windows, in this order. */
typedef struct {
    int64_t planes, rows, columns, out_rows, out_columns;
    int64_t kernel_rows, kernel_columns, row_stride, column_stride, row_dilation, column_dilation;
} Windows;

/* total += g at the first of each window's largest pixels, in reading order; at the last pixel if none is equal, as with
   NaN. Windows that share a pixel add to it from the last to the first, like `ops/pooling.py`. No branch depends on the
   pixels. */
INLINE void unpool_by(const Windows *s, const float *x, const float *out, const float *g, float *total, int64_t kernel_rows,
                      int64_t kernel_columns) {
    int64_t windows = s->out_rows * s->out_columns, pixels = s->rows * s->columns;
    int64_t down = s->row_dilation * s->columns, right = s->column_dilation;
    for (int64_t plane = 0; plane < s->planes; plane++) {
        memset(total, 0, (size_t)pixels * sizeof *total);
        for (int64_t r = s->out_rows - 1; r >= 0; r--)
            for (int64_t q = s->out_columns - 1; q >= 0; q--) {
                int64_t corner = r * s->row_stride * s->columns + q * s->column_stride;
                const float *window = x + corner;
                float most = out[r * s->out_columns + q];
                int64_t found = (kernel_rows - 1) * down + (kernel_columns - 1) * right;
                for (int64_t i = kernel_rows - 1; i >= 0; i--)
                    for (int64_t j = kernel_columns - 1; j >= 0; j--) {
                        int64_t place = i * down + j * right, here = -(int64_t)(window[place] == most);
                        found = (place & here) | (found & ~here);
                    }
                total[corner + found] += g[r * s->out_columns + q];
            }
        x += pixels, total += pixels, out += windows, g += windows;
    }
}

/* Windows of 2 x 2 that cover the images side by side, the usual ones: all four gradients are written at once. */
INLINE void unpool_quarters(const Windows *s, const float *restrict x, const float *restrict out, const float *restrict g,
                            float *restrict total) {
    int64_t n = s->out_columns;
    for (int64_t r = 0; r < s->planes * s->out_rows; r++) {
        for (int64_t q = 0; q < n; q++) {
            float most = out[q];
            int32_t d = float_as_bits(g[q]);
            int32_t first = -(x[2 * q] == most), second = -(x[2 * q + 1] == most), third = -(x[2 * n + 2 * q] == most);
            total[2 * q] = bits_as_float(d & first);
            total[2 * q + 1] = bits_as_float(d & ~first & second);
            total[2 * n + 2 * q] = bits_as_float(d & ~first & ~second & third);
            total[2 * n + 2 * q + 1] = bits_as_float(d & ~first & ~second & ~third);
        }
        x += 4 * n, total += 4 * n, out += n, g += n;
    }
}

KERNEL static void unpool(const Windows *s, const float *x, const float *out, const float *g, float *total) {
    int small = s->kernel_rows == 2 && s->kernel_columns == 2 && s->row_dilation == 1 && s->column_dilation == 1;
    if (small && s->row_stride == 2 && s->column_stride == 2 && s->rows == 2 * s->out_rows && s->columns == 2 * s->out_columns)
        unpool_quarters(s, x, out, g, total);
    else if (small)
        unpool_by(s, x, out, g, total, 2, 2);
    else if (s->kernel_rows == 3 && s->kernel_columns == 3)
        unpool_by(s, x, out, g, total, 3, 3);
    else
        unpool_by(s, x, out, g, total, s->kernel_rows, s->kernel_columns);
}

static int unpool_fits(const Argument *a) {
    enum { MOST = 1 << 30 };
    const int64_t *number = a[0].array.buf;
    const Windows *s = a[0].array.buf;
    int good = a[0].size * sizeof *number == sizeof *s;
    for (Py_ssize_t k = 0; good && k < a[0].size; k++) good = number[k] >= (k > 0) && number[k] <= MOST;
    /* No product of three numbers is beyond what a double says well enough, and none of two overflows. */
    if (!good || (double)s->planes * (double)s->rows * (double)s->columns > 1e18 ||
        (double)s->planes * (double)s->out_rows * (double)s->out_columns > 1e18 || s->rows * s->columns > MOST ||
        (s->out_rows - 1) * s->row_stride + (s->kernel_rows - 1) * s->row_dilation >= s->rows ||
        (s->out_columns - 1) * s->column_stride + (s->kernel_columns - 1) * s->column_dilation >= s->columns) {
        PyErr_SetString(PyExc_ValueError, "pooling: the windows do not lie on the images");
        return 0;
    }
    return sized(a, 1, 1, s->planes * s->rows * s->columns) && sized(a, 2, 3, s->planes * s->out_rows * s->out_columns) &&
           sized(a, 4, 4, a[1].size);
}

/* layout, padded images, maxima, g, total */
FUNCTION(unpool, "irrrw", unpool_fits(a), unpool((const Windows *)WHOLES(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4)))

PyMethodDef images_functions[] = {ENTRY(unpool), {NULL, NULL, 0, NULL}};
