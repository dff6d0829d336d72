/* Sums of rows that are chosen by an index. */

#include "kernels.h"
#include "module.h"

/* out[index[i]] += rows[i], one after the other, so that the sums have one order. A negative index counts from the end. */
KERNEL static void add_rows(float *restrict out, const int64_t *restrict index, const float *restrict rows, ptrdiff_t length,
                            ptrdiff_t count, ptrdiff_t width) {
    for (ptrdiff_t i = 0; i < count; i++) {
        float *to = out + (index[i] < 0 ? index[i] + length : index[i]) * width;
        const float *from = rows + i * width;
        for (ptrdiff_t j = 0; j < width; j++) to[j] += from[j];
    }
}

static int add_rows_fits(const Argument *a) {
    Py_ssize_t count = SIZE(1), width = count ? SIZE(2) / count : 0, length = width ? SIZE(0) / width : 0;
    if (SIZE(2) != count * width || SIZE(0) != length * width || (count && !width)) {
        PyErr_SetString(PyExc_ValueError, "add_rows: the rows of the two arrays have different lengths");
        return 0;
    }
    const int64_t *index = a[1].array.buf;
    for (Py_ssize_t i = 0; i < count; i++)
        if (index[i] < -length || index[i] >= length) {
            PyErr_Format(PyExc_IndexError, "index %lld is out of bounds for axis 0 with size %zd", (long long)index[i], length);
            return 0;
        }
    return 1;
}

/* out (length, width), index (count,), rows (count, width) */
FUNCTION(add_rows, "wir", add_rows_fits(a),
         add_rows(FLOATS(0), WHOLES(1), FLOATS(2), SIZE(1) ? SIZE(0) / (SIZE(2) / SIZE(1)) : 0, SIZE(1),
                  SIZE(1) ? SIZE(2) / SIZE(1) : 0))

PyMethodDef indices_functions[] = {ENTRY(add_rows), {NULL, NULL, 0, NULL}};
