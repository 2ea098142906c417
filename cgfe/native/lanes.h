// One walker per lane: functions of vectors in few instructions, to about 1e-7.

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define NOT_INLINE __attribute__((noinline))
// What a loop over a few rows needs, so that their numbers stay in registers.
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

namespace {

// Denormal numbers cost a hundred cycles each, and far pairs have exponentials that small. The
// processor is told to take them as zero while this object lives, on this thread alone.
class FlushToZero {
  public:
#if defined(__x86_64__)
    FlushToZero() : before(_mm_getcsr()) { _mm_setcsr(before | 0x8040); }
    ~FlushToZero() { _mm_setcsr(before); }

  private:
    unsigned before;
#endif
};

// ---- Reciprocals: the processor's guess (12 to 14 bits; 8 on ARM) and Newton's steps ----

INLINE vec inverse_guess(vec x) {
#if defined(__AVX512F__)
    return (vec)_mm512_rcp14_ps((__m512)x);
#elif defined(__AVX__)
    return (vec)_mm256_rcp_ps((__m256)x);
#elif defined(__SSE__)
    return (vec)_mm_rcp_ps((__m128)x);
#elif defined(__ARM_NEON) && defined(__aarch64__)
    float32x4_t v = (float32x4_t)x, y = vrecpeq_f32(v);
    return (vec)vmulq_f32(y, vrecpsq_f32(v, y));
#else
    return 1.0f / x;
#endif
}

INLINE vec inverse_root_guess(vec x) {
#if defined(__AVX512F__)
    return (vec)_mm512_rsqrt14_ps((__m512)x);
#elif defined(__AVX__)
    return (vec)_mm256_rsqrt_ps((__m256)x);
#elif defined(__SSE__)
    return (vec)_mm_rsqrt_ps((__m128)x);
#elif defined(__ARM_NEON) && defined(__aarch64__)
    float32x4_t v = (float32x4_t)x, y = vrsqrteq_f32(v);
    return (vec)vmulq_f32(y, vrsqrtsq_f32(vmulq_f32(v, y), y));
#else
    vec y;
    for (int lane = 0; lane < LANES; ++lane) y[lane] = 1 / std::sqrt(x[lane]);
    return y;
#endif
}

INLINE vec inverse(vec x) {
    const vec y = inverse_guess(x);
    return y * (2.0f - x * y);
}

// 2 / √x: Newton's step without its factor.
INLINE vec twice_inverse_root(vec x) {
    const vec y = inverse_root_guess(x);
    return y * (3.0f - x * (y * y));
}

INLINE vec inverse_root(vec x) { return 0.5f * twice_inverse_root(x); }

// 2/3 x^(-3/2): Newton's step on the cube without its factor.
INLINE vec two_thirds_inverse_cube(vec x) {
    const vec y = inverse_root_guess(x), y2 = y * y;
    return y * (y2 * (5 / 3.0f - x * y2));
}

// ---- Comparisons ----

INLINE bool any_below(vec a, vec b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ) != 0;
#elif defined(__AVX__)
    return _mm256_movemask_ps((__m256)(a < b)) != 0;
#elif defined(__SSE__)
    return _mm_movemask_ps((__m128)(a < b)) != 0;
#else
    const ints below = a < b;
    int32_t any = 0;
    for (int lane = 0; lane < LANES; ++lane) any |= below[lane];
    return any != 0;
#endif
}

INLINE vec lesser(vec a, vec b) { return a < b ? a : b; }
INLINE vec greater(vec a, vec b) { return a > b ? a : b; }
INLINE vec absolute(vec a) { return (vec)((bits)a & 0x7fffffffu); }

// ---- Exponential and logarithm ----

// 2^x for x from -120 to 120; smaller x give 2^-120, which is nothing beside any other energy.
INLINE vec exp2_of(vec x) {
#if defined(__AVX512F__)
    // A table of 2^(k/16) in a register and a quadratic. The rounding is an intrinsic, so that the
    // compiler cannot cancel the two sums.
    const vec table = {1.f,           1.0442737824f, 1.0905077327f, 1.1387886348f,
                       1.1892071150f, 1.2418578121f, 1.2968395547f, 1.3542555469f,
                       1.4142135624f, 1.4768261459f, 1.5422108254f, 1.6104903319f,
                       1.6817928305f, 1.7562521604f, 1.8340080864f, 1.9152065614f};
    constexpr int NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    const __m512 shift = _mm512_set1_ps(786432.f);  // 1.5 · 2^19: the last bit is 1/16
    const __m512 sixteenths = _mm512_add_round_ps((__m512)x, shift, NEAREST);
    const __m512 rounded = _mm512_sub_round_ps(sixteenths, shift, NEAREST);
    const vec f = x - (vec)rounded;
    const vec of_table = (vec)_mm512_permutexvar_ps((__m512i)sixteenths, (__m512)table);
    const vec p = ((0.24022651f * f + 0.69314718f) * f + 1.0f) * of_table;
    return (vec)_mm512_scalef_ps((__m512)p, rounded);
#else
    x = greater(x, all(-120.0f));
    const ints power = __builtin_convertvector(x + (x < 0 ? all(-0.5f) : all(0.5f)), ints);
    const vec f = x - __builtin_convertvector(power, vec);
    vec p = 1.535336188e-4f * f + 1.339887440e-3f;
    p = p * f + 9.618437357e-3f;
    p = p * f + 5.550332548e-2f;
    p = p * f + 2.402264791e-1f;
    p = p * f + 6.931472028e-1f;
    p = p * f + 1.0f;
    return p * (vec)((power + 127) << 23);
#endif
}

// ln x of positive x.
INLINE vec ln_of(vec x) {
    const bits raw = (bits)x;
    // x = m 2^e with m in [√½, √2).
    const ints e = (ints)(raw - 0x3f3504f3u) >> 23;
    const vec m = (vec)(raw - ((bits)e << 23));
    const vec f = (m - 1.0f) * inverse(m + 1.0f), square = f * f;
    vec p = square * (1 / 9.0f) + 1 / 7.0f;
    p = p * square + 1 / 5.0f;
    p = p * square + 1 / 3.0f;
    return __builtin_convertvector(e, vec) * 0.693147181f + 2.0f * (p * square * f + f);
}

// ---- Vectors in space, one per lane ----

struct Point {
    vec x, y, z;
};
INLINE Point operator-(Point a, Point b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
INLINE Point operator+(Point a, Point b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
INLINE Point operator*(vec s, Point a) { return {s * a.x, s * a.y, s * a.z}; }
INLINE vec dot(Point a, Point b) { return a.x * b.x + (a.y * b.y + a.z * b.z); }
INLINE Point cross(Point a, Point b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

// Of arrays with one vector per number, and points (atom, coordinate, lane).
INLINE vec at(const float *from, size_t k) { return load(from + k * LANES); }
INLINE void put(float *to, size_t k, vec value) { store(to + k * LANES, value); }
INLINE Point point(const float *from, int atom) {
    return {at(from, 3 * atom), at(from, 3 * atom + 1), at(from, 3 * atom + 2)};
}
INLINE void put(float *to, int atom, Point p) {
    put(to, size_t(3 * atom), p.x);
    put(to, size_t(3 * atom + 1), p.y);
    put(to, size_t(3 * atom + 2), p.z);
}
INLINE void add(float *to, int atom, Point p) { put(to, atom, point(to, atom) + p); }

}  // namespace
