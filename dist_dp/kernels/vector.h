/* Registers of WIDTH floats. */

typedef float vector __attribute__((vector_size(4 * WIDTH)));
typedef float unaligned __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

/* x y + sum, rounded once: by one instruction, or where there is none by the C library, as exactly and very slowly. */
TARGET INLINE vector NAME(multiply_add)(vector x, float y, vector sum) {
#if WIDTH == 16
    return (vector)_mm512_fmadd_ps((__m512)x, _mm512_set1_ps(y), (__m512)sum);
#elif WIDTH == 8
    return (vector)_mm256_fmadd_ps((__m256)x, _mm256_set1_ps(y), (__m256)sum);
#elif defined(__aarch64__)
    return (vector)vfmaq_n_f32((float32x4_t)sum, (float32x4_t)x, y);
#else
    for (int i = 0; i < WIDTH; i++) sum[i] = __builtin_fmaf(x[i], y, sum[i]);
    return sum;
#endif
}
