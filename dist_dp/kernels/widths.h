/* Includes TILES, a file of inner loops, once for each width of registers that there is.

   A file of tiles begins with `vector.h`, marks its functions TARGET and names them NAME(name); `WIDEST(name)` is then the
   function for the widest registers of this processor. */

#if defined(KERNEL_IS_CHOSEN)
#define FOR(set) __attribute__((target(set)))
#define HAS_16 __builtin_cpu_supports("avx512f")
#define HAS_8 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#else
#define FOR(set)
#if defined(__AVX512F__)
#define HAS_16 1
#endif
#if defined(__AVX2__) && defined(__FMA__)
#define HAS_8 1
#endif
#endif

#if defined(HAS_16) || defined(HAS_8)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define JOINED(name, width) name##_##width
#define WITH_WIDTH(name, width) JOINED(name, width)
#define NAME(name) WITH_WIDTH(name, WIDTH)
#define vector NAME(vector)
#define unaligned NAME(unaligned)

#if defined(HAS_16)
#define WIDTH 16
#define TARGET FOR("avx512f")
#include TILES
#undef WIDTH
#undef TARGET
#define IF_16(name) HAS_16 ? name##_16 :
#else
#define IF_16(name)
#endif
#if defined(HAS_8)
#define WIDTH 8
#define TARGET FOR("avx2,fma")
#include TILES
#undef WIDTH
#undef TARGET
#define IF_8(name) HAS_8 ? name##_8 :
#else
#define IF_8(name)
#endif
#define WIDTH 4
#define TARGET
#include TILES
#undef WIDTH
#undef TARGET

#undef vector
#undef unaligned

#define WIDEST(name) (IF_16(name) IF_8(name) name##_4)
#define AT_MOST_8(name) (IF_8(name) name##_4)

/* Whether the processor fuses multiply-adds. All of ARM's do, AMD's since 2012, Intel's since 2013. */
#if defined(HAS_8)
#define FUSES HAS_8
#elif defined(__FP_FAST_FMAF) || defined(__aarch64__)
#define FUSES 1
#else
#define FUSES 0
#endif
