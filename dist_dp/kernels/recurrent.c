/* The steps of recurrent networks beside their products: gates, states, and the gradients of both in one pass.

   `ops/recurrent.py`, `ops/lstm_cell.py` and `ops/tree.py` have the formulas. Gates lie side by side in a row; those that
   come in are what a matrix product and the input made, those that go out are activated. The derivative of a sigmoid s
   is s (1 - s), of a tanh 1 - t^2. */

#include "kernels.h"
#include "module.h"

/* To two units in the last place: a polynomial (of Cephes) near 0, where 1 - 2 / (e^2x + 1) would cancel. */
INLINE float tanh_of(float x) {
    float z = x * x, magnitude = x < 0.0f ? -x : x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float near = p * z * x + x;
    float far = 1.0f - 2.0f / (exp_of(2.0f * magnitude) + 1.0f);
    return magnitude < 0.625f ? near : x < 0.0f ? -far : far;
}

INLINE float slope_of_sigmoid(float s) { return s * (1.0f - s); }
INLINE float slope_of_tanh(float t) { return 1.0f - t * t; }

/* The rows do not overlap: what is read and written through one pointer is not read through another. */
#define EACH_ROW for (ptrdiff_t row = 0; row < rows; row++)
#if defined(__clang__)
#define NO_OVERLAP _Pragma("clang loop vectorize(assume_safety)")
#else
#define NO_OVERLAP _Pragma("GCC ivdep")
#endif
#define EACH_UNIT NO_OVERLAP for (ptrdiff_t j = 0; j < n; j++)

/* --- LSTM: gates i, f, g, o -------------------------------------------------------------------------------------------- */

/* v += product, activated; next = f c + i g; squashed = tanh(next); h = o squashed. */
KERNEL static void lstm_step(const float *product, float *v, const float *c, float *next, float *squashed, float *h,
                             ptrdiff_t rows, ptrdiff_t n) {
    EACH_ROW {
        EACH_UNIT {
            float i = sigmoid_of(v[j] + product[j]), f = sigmoid_of(v[n + j] + product[n + j]);
            float g = tanh_of(v[2 * n + j] + product[2 * n + j]), o = sigmoid_of(v[3 * n + j] + product[3 * n + j]);
            float state = i * g + f * c[j], s = tanh_of(state);
            v[j] = i, v[n + j] = f, v[2 * n + j] = g, v[3 * n + j] = o;
            next[j] = state, squashed[j] = s, h[j] = o * s;
        }
        product += 4 * n, v += 4 * n, c += n, next += n, squashed += n, h += n;
    }
}

/* d for the gates before their activation; dc becomes the gradient of c. The gradient of h is dh + g. */
KERNEL static void lstm_step_gradient(const float *dh, const float *g, const float *v, const float *c,
                                      const float *squashed, float *dc, float *d, ptrdiff_t rows, ptrdiff_t n) {
    EACH_ROW {
        EACH_UNIT {
            float i = v[j], f = v[n + j], candidate = v[2 * n + j], o = v[3 * n + j], s = squashed[j];
            float of_h = dh[j] + g[j], of_c = slope_of_tanh(s) * o * of_h + dc[j];
            d[j] = of_c * candidate * slope_of_sigmoid(i);
            d[n + j] = of_c * c[j] * slope_of_sigmoid(f);
            d[2 * n + j] = of_c * i * slope_of_tanh(candidate);
            d[3 * n + j] = of_h * s * slope_of_sigmoid(o);
            dc[j] = of_c * f;
        }
        dh += n, g += n, v += 4 * n, c += n, squashed += n, dc += n, d += 4 * n;
    }
}

/* --- GRU: gates r, z, n ------------------------------------------------------------------------------------------------ */

/* recalled = product_n + bias; n = tanh(v_n + r recalled); next = n + z (h - n). */
KERNEL static void gru_step(const float *product, const float *bias, float *v, const float *h, float *recalled, float *next,
                            ptrdiff_t rows, ptrdiff_t n) {
    EACH_ROW {
        EACH_UNIT {
            float r = sigmoid_of(v[j] + product[j]), z = sigmoid_of(v[n + j] + product[n + j]);
            float u = product[2 * n + j] + bias[j], candidate = tanh_of(v[2 * n + j] + u * r);
            v[j] = r, v[n + j] = z, v[2 * n + j] = candidate;
            recalled[j] = u, next[j] = (h[j] - candidate) * z + candidate;
        }
        product += 3 * n, v += 3 * n, h += n, recalled += n, next += n;
    }
}

/* Of the products of x and of the state; dh becomes the part of the gradient of h that goes past the gates. */
KERNEL static void gru_step_gradient(const float *g, const float *v, const float *h, const float *recalled, float *dh,
                                     float *of_x, float *of_state, ptrdiff_t rows, ptrdiff_t n) {
    EACH_ROW {
        EACH_UNIT {
            float r = v[j], z = v[n + j], candidate = v[2 * n + j], of_h = dh[j] + g[j];
            float of_candidate = slope_of_tanh(candidate) * of_h * (1.0f - z);
            of_x[j] = of_state[j] = of_candidate * recalled[j] * slope_of_sigmoid(r);
            of_x[n + j] = of_state[n + j] = (h[j] - candidate) * of_h * slope_of_sigmoid(z);
            of_x[2 * n + j] = of_candidate;
            of_state[2 * n + j] = of_candidate * r;
            dh[j] = of_h * z;
        }
        g += n, v += 3 * n, h += n, recalled += n, dh += n, of_x += 3 * n, of_state += 3 * n;
    }
}

/* --- binary Tree-LSTM: gates i, f_left, f_right, o, u ------------------------------------------------------------------ */

/* c = i u + f_left left + f_right right; without a subtree its c is NULL. */
KERNEL static void tree_step(float *v, const float *left, const float *right, float *c, float *squashed, float *h,
                             ptrdiff_t rows, ptrdiff_t n) {
    EACH_ROW {
        EACH_UNIT {
            v[j] = sigmoid_of(v[j]), v[n + j] = sigmoid_of(v[n + j]), v[2 * n + j] = sigmoid_of(v[2 * n + j]);
            v[3 * n + j] = sigmoid_of(v[3 * n + j]), v[4 * n + j] = tanh_of(v[4 * n + j]);
            c[j] = v[j] * v[4 * n + j];
        }
        if (left) EACH_UNIT c[j] += v[n + j] * left[row * n + j];
        if (right) EACH_UNIT c[j] += v[2 * n + j] * right[row * n + j];
        EACH_UNIT {
            squashed[j] = tanh_of(c[j]);
            h[j] = v[3 * n + j] * squashed[j];
        }
        v += 5 * n, c += n, squashed += n, h += n;
    }
}

/* d for the gates, and the gradients of the two c: of_left = dc f_left, of_right = dc f_right. */
KERNEL static void tree_step_gradient(const float *dh, const float *dc, const float *v, const float *squashed,
                                      const float *left, const float *right, float *d, float *of_left, float *of_right,
                                      ptrdiff_t rows, ptrdiff_t n) {
    EACH_ROW {
        EACH_UNIT {
            float s = squashed[j], o = v[3 * n + j];
            float of_c = slope_of_tanh(s) * o * dh[j] + dc[j];
            d[j] = of_c * v[4 * n + j] * slope_of_sigmoid(v[j]);
            d[n + j] = d[2 * n + j] = of_c;
            d[3 * n + j] = dh[j] * s * slope_of_sigmoid(o);
            d[4 * n + j] = of_c * v[j] * slope_of_tanh(v[4 * n + j]);
        }
        const float *c[2] = {left, right};
        float *of[2] = {of_left, of_right};
        for (int side = 0; side < 2; side++) {
            float *to = d + (1 + side) * n;
            const float *f = v + (1 + side) * n;
            if (!c[side])
                memset(to, 0, (size_t)n * sizeof *to);
            else
                EACH_UNIT {
                    of[side][row * n + j] = to[j] * f[j];
                    to[j] = to[j] * c[side][row * n + j] * slope_of_sigmoid(f[j]);
                }
        }
        dh += n, dc += n, v += 5 * n, squashed += n, d += 5 * n;
    }
}

/* --- what may be asked for --------------------------------------------------------------------------------------------- */

/* Whether `size` is that of whole rows of n. */
static int in_rows(Py_ssize_t size, Py_ssize_t n) {
    if (n > 0 && size % n == 0) return 1;
    PyErr_Format(PyExc_ValueError, "%zd elements are no rows of %zd", size, n);
    return 0;
}

/* Whether argument k is empty or has `size` elements. */
static int absent_or_sized(const Argument *a, int k, Py_ssize_t size) { return !a[k].size || sized(a, k, k, size); }

#define ROWS(k, n) (SIZE(k) / SIZE(n))
#define OPTIONAL(k) (SIZE(k) ? FLOATS(k) : NULL)

/* product, gates, c, next, squashed, h, hidden */
FUNCTION(lstm_step, "rwrwwwn", in_rows(SIZE(2), SIZE(6)) && sized(a, 0, 1, 4 * SIZE(2)) && sized(a, 3, 5, SIZE(2)),
         lstm_step(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5), ROWS(2, 6), SIZE(6)))
/* dh, g, gates, c, squashed, dc, d, hidden */
FUNCTION(lstm_step_gradient, "rrrrrwwn",
         in_rows(SIZE(0), SIZE(7)) && sized(a, 1, 1, SIZE(0)) && sized(a, 2, 2, 4 * SIZE(0)) && sized(a, 3, 5, SIZE(0)) &&
             sized(a, 6, 6, 4 * SIZE(0)),
         lstm_step_gradient(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5), FLOATS(6), ROWS(0, 7), SIZE(7)))
/* product, bias, gates, h, recalled, next, hidden */
FUNCTION(gru_step, "rrwrwwn",
         in_rows(SIZE(3), SIZE(6)) && sized(a, 0, 0, 3 * SIZE(3)) && sized(a, 1, 1, SIZE(6)) &&
             sized(a, 2, 2, 3 * SIZE(3)) && sized(a, 4, 5, SIZE(3)),
         gru_step(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5), ROWS(3, 6), SIZE(6)))
/* g, gates, h, recalled, dh, of_x, of_state, hidden */
FUNCTION(gru_step_gradient, "rrrrwwwn",
         in_rows(SIZE(0), SIZE(7)) && sized(a, 1, 1, 3 * SIZE(0)) && sized(a, 2, 4, SIZE(0)) && sized(a, 5, 6, 3 * SIZE(0)),
         gru_step_gradient(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5), FLOATS(6), ROWS(0, 7), SIZE(7)))
/* gates, c_left or nothing, c_right or nothing, c, squashed, h, hidden */
FUNCTION(tree_step, "wrrwwwn",
         in_rows(SIZE(3), SIZE(6)) && sized(a, 0, 0, 5 * SIZE(3)) && absent_or_sized(a, 1, SIZE(3)) &&
             absent_or_sized(a, 2, SIZE(3)) && sized(a, 4, 5, SIZE(3)),
         tree_step(FLOATS(0), OPTIONAL(1), OPTIONAL(2), FLOATS(3), FLOATS(4), FLOATS(5), ROWS(3, 6), SIZE(6)))
/* dh, dc, gates, squashed, c_left or nothing, c_right or nothing, d, of_left, of_right (as long as these), hidden */
FUNCTION(tree_step_gradient, "rrrrrrwwwn",
         in_rows(SIZE(0), SIZE(9)) && sized(a, 1, 1, SIZE(0)) && sized(a, 2, 2, 5 * SIZE(0)) && sized(a, 3, 3, SIZE(0)) &&
             absent_or_sized(a, 4, SIZE(0)) && absent_or_sized(a, 5, SIZE(0)) && sized(a, 6, 6, 5 * SIZE(0)) &&
             sized(a, 7, 7, SIZE(4)) && sized(a, 8, 8, SIZE(5)),
         tree_step_gradient(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), OPTIONAL(4), OPTIONAL(5), FLOATS(6), FLOATS(7),
                            FLOATS(8), ROWS(0, 9), SIZE(9)))

PyMethodDef recurrent_functions[] = {ENTRY(lstm_step), ENTRY(lstm_step_gradient), ENTRY(gru_step),
                                     ENTRY(gru_step_gradient), ENTRY(tree_step), ENTRY(tree_step_gradient),
                                     {NULL, NULL, 0, NULL}};
