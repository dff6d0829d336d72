/* Functions of each element by itself: activations and their gradients, and the updates of optimizers. */

#include "kernels.h"
#include "module.h"

/* --- activations of the form x gate(x), of which `ops/gated.py` has the formulas ---------------------------------------

   Memory is the limit, so that backward computes the gate again: it would take longer to write it and to read it. */

/* Phi(-a) = 2^-p(a) for a >= 0, where p is nearly a parabola: this is a fit up to a = 6 with p(0) = 1. a Phi(-a) is off by
   9e-8 at most and Phi(-a), while it can be seen beside 1, by 2e-4 of its value; beyond, it goes to 0 with the fit. */
INLINE float normal_gate(float x) {
    float a = fabsf(x), p = -7.099132692215e-7f;
    p = p * a + 1.247658670931830e-5f;
    p = p * a - 5.267209458421287e-5f;
    p = p * a - 4.678631567804761e-4f;
    p = p * a + 7.495955416145688e-3f;
    p = p * a - 5.278480161169260e-2f;
    p = p * a - 4.591215948838068e-1f;
    p = p * a - 1.151113487690545f;
    float tail = exp2_below(p * a - 1.0f);
    return x < 0.0f ? tail : 1.0f - tail;
}

INLINE float normal_slope(float x, float gate) {
    (void)gate;
    return exp2_below(x * x * -0.7213475204444817f) * 0.3989422804014327f;
}

/* 1 / (1 + e^-x); half the operations of `sigmoid_of`, and good to the last bits where it is not small. */
INLINE float logistic_gate(float x) {
    float e = exp2_below(fabsf(x) * -1.442695041f), above = 1.0f / (1.0f + e);
    return x < 0.0f ? e * above : above;
}

INLINE float logistic_slope(float x, float gate) {
    (void)x;
    return (1.0f - gate) * gate;
}

INLINE float cubic_gate(float x) { return logistic_gate((x * x * 0.0713548162836691f + 1.5957691216057308f) * x); }

INLINE float cubic_slope(float x, float gate) {
    return (x * x * 0.2140644488510073f + 1.5957691216057308f) * gate * (1.0f - gate);
}

#define GATED(kind)                                                                                                   \
    KERNEL static void kind##_gated(const float *restrict x, float *restrict out, ptrdiff_t n) {                      \
        for (ptrdiff_t i = 0; i < n; i++) out[i] = x[i] * kind##_gate(x[i]);                                          \
    }                                                                                                                 \
    KERNEL static void kind##_gated_gradient(const float *restrict g, const float *restrict x, float *restrict d,     \
                                             ptrdiff_t n) {                                                           \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                           \
            float gate = kind##_gate(x[i]);                                                                           \
            d[i] = (kind##_slope(x[i], gate) * x[i] + gate) * g[i];                                                   \
        }                                                                                                             \
    }                                                                                                                 \
    FUNCTION(kind##_gated, "rw", sized(a, 1, 1, SIZE(0)), kind##_gated(FLOATS(0), FLOATS(1), SIZE(0)))                \
    FUNCTION(kind##_gated_gradient, "rrw", sized(a, 1, 2, SIZE(0)),                                                   \
             kind##_gated_gradient(FLOATS(0), FLOATS(1), FLOATS(2), SIZE(0)))

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

/* m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p = p shrink - m / (sqrt(v) + eps) rate. */
KERNEL static void adam(float *restrict p, const float *restrict g, float *restrict m, float *restrict v, ptrdiff_t n,
                        float beta1, float rest1, float beta2, float rest2, float eps, float rate, float shrink) {
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = m[i] * beta1 + g[i] * rest1;
        v[i] = v[i] * beta2 + g[i] * g[i] * rest2;
        p[i] = p[i] * shrink - m[i] / (sqrtf(v[i]) + eps) * rate;
    }
}

FUNCTION(adam, "wrwwfffffff", sized(a, 1, 3, SIZE(0)),
         adam(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), SIZE(0), NUMBER(4), NUMBER(5), NUMBER(6), NUMBER(7), NUMBER(8),
              NUMBER(9), NUMBER(10)))

/* b = momentum b + share g;  p = p - rate (b, or g + momentum b if `ahead`). */
KERNEL static void sgd(float *restrict p, const float *restrict g, float *restrict b, ptrdiff_t n, float momentum,
                       float share, float rate, int ahead) {
    for (ptrdiff_t i = 0; i < n; i++) {
        b[i] = b[i] * momentum + g[i] * share;
        p[i] -= (ahead ? g[i] + b[i] * momentum : b[i]) * rate;
    }
}

FUNCTION(sgd, "wrwfffn", sized(a, 1, 2, SIZE(0)),
         sgd(FLOATS(0), FLOATS(1), FLOATS(2), SIZE(0), NUMBER(3), NUMBER(4), NUMBER(5), SIZE(6) != 0))

PyMethodDef elementwise_functions[] = {
    ENTRY(normal_gated), ENTRY(normal_gated_gradient), ENTRY(cubic_gated), ENTRY(cubic_gated_gradient),
    ENTRY(logistic_gated), ENTRY(logistic_gated_gradient), ENTRY(relu), ENTRY(relu_gradient), ENTRY(adam), ENTRY(sgd),
    {NULL, NULL, 0, NULL}};
