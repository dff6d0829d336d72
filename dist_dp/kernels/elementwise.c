/* Functions of each element by itself: activations and their gradients, and the updates of optimizers. */

#include "kernels.h"
#include "module.h"

/* --- activations of the form x gate(x); `ops/gated.py` has the formulas and where the numbers come from --------------- */

INLINE float normal_gate(float x) {
    float u = x * x;
    float q = -90.4190246444585f / ((u + 18.0968039629074f) * u + 312.579867322358f);
    return sigmoid_of(2.0f * ((q + 0.0195992097114497f * u + 1.08714801414788f) * x));
}

INLINE float normal_slope(float x, float gate) {
    (void)gate;
    return exp2_of(x * x * -0.7213475204444817f) * 0.3989422804014327f;
}

INLINE float cubic_gate(float x) { return sigmoid_of(2.0f * ((x * x * 0.03567740814183455f + 0.7978845608028654f) * x)); }

INLINE float cubic_slope(float x, float gate) {
    return (x * x * 0.2140644488510073f + 1.5957691216057308f) * gate * (1.0f - gate);
}

INLINE float logistic_gate(float x) { return sigmoid_of(x); }

INLINE float logistic_slope(float x, float gate) {
    (void)x;
    return (1.0f - gate) * gate;
}

#define GATED(kind)                                                                                                  \
    KERNEL static void kind##_gated(const float *restrict x, float *restrict out, float *restrict gate, ptrdiff_t n) { \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                          \
            float g = kind##_gate(x[i]);                                                                             \
            gate[i] = g;                                                                                             \
            out[i] = x[i] * g;                                                                                       \
        }                                                                                                            \
    }                                                                                                                \
    KERNEL static void kind##_gated_gradient(const float *restrict g, const float *restrict x,                       \
                                             const float *restrict gate, float *restrict d, ptrdiff_t n) {           \
        for (ptrdiff_t i = 0; i < n; i++) d[i] = (kind##_slope(x[i], gate[i]) * x[i] + gate[i]) * g[i];              \
    }                                                                                                                \
    FUNCTION(kind##_gated, "rww", sized(a, 1, 2, SIZE(0)), kind##_gated(FLOATS(0), FLOATS(1), FLOATS(2), SIZE(0)))   \
    FUNCTION(kind##_gated_gradient, "rrrw", sized(a, 1, 3, SIZE(0)),                                                 \
             kind##_gated_gradient(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), SIZE(0)))

GATED(normal)
GATED(cubic)
GATED(logistic)

/* --- rectification: NumPy's bits, those of maximum(x, 0) and g (out > 0); NaN stays NaN ------------------------------- */

KERNEL static void relu(const float *restrict x, float *restrict out, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) out[i] = x[i] <= 0.0f ? 0.0f : x[i];
}

KERNEL static void relu_gradient(const float *restrict g, const float *restrict out, float *restrict d, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) d[i] = g[i] * (out[i] > 0.0f ? 1.0f : 0.0f);
}

FUNCTION(relu, "rw", sized(a, 1, 1, SIZE(0)), relu(FLOATS(0), FLOATS(1), SIZE(0)))
FUNCTION(relu_gradient, "rrw", sized(a, 1, 2, SIZE(0)), relu_gradient(FLOATS(0), FLOATS(1), FLOATS(2), SIZE(0)))

/* --- optimizers: the same operations in the same order as `optim/`, so the same bits ----------------------------------- */

/* m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p = p - m / (sqrt(v) + eps) rate. */
KERNEL static void adam(float *restrict p, const float *restrict g, float *restrict m, float *restrict v, ptrdiff_t n,
                        float beta1, float rest1, float beta2, float rest2, float eps, float rate) {
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = m[i] * beta1 + g[i] * rest1;
        v[i] = v[i] * beta2 + g[i] * g[i] * rest2;
        p[i] -= m[i] / (sqrtf(v[i]) + eps) * rate;
    }
}

FUNCTION(adam, "wrwwffffff", sized(a, 1, 3, SIZE(0)),
         adam(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), SIZE(0), NUMBER(4), NUMBER(5), NUMBER(6), NUMBER(7), NUMBER(8),
              NUMBER(9)))

PyMethodDef elementwise_functions[] = {
    ENTRY(normal_gated), ENTRY(normal_gated_gradient), ENTRY(cubic_gated), ENTRY(cubic_gated_gradient),
    ENTRY(logistic_gated), ENTRY(logistic_gated_gradient), ENTRY(relu), ENTRY(relu_gradient), ENTRY(adam), {NULL, NULL, 0, NULL}};
