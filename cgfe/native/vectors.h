// Vectors as wide as the processor has them, and functions of them.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE_ROWS = 14;
#elif defined(__AVX__)
constexpr int LANES = 8, TILE_ROWS = 6;
#elif defined(__ARM_NEON)
constexpr int LANES = 4, TILE_ROWS = 12;
#else
constexpr int LANES = 4, TILE_ROWS = 6;
#endif
// A tile of TILE_ROWS by two vectors of sums fills the registers of a matrix product.
constexpr int PANEL = 2 * LANES;

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef double wide_vec __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), may_alias));

int padded(int width) { return (width + PANEL - 1) / PANEL * PANEL; }

// Numbers, zero at first, at addresses that vectors can be loaded from.
template <class T>
class Array {
  public:
    Array() = default;
    explicit Array(size_t size) : lines((size * sizeof(T) + sizeof(Line) - 1) / sizeof(Line)) {}
    operator T *() { return reinterpret_cast<T *>(lines.data()); }
    operator const T *() const { return reinterpret_cast<const T *>(lines.data()); }

  private:
    struct alignas(4 * LANES) Line { T values[4 * LANES / sizeof(T)] = {}; };
    std::vector<Line> lines;
};
typedef Array<float> Floats;

vec load(const float *from) { return *reinterpret_cast<const vec *>(from); }
wide_vec load(const double *from) { return *reinterpret_cast<const wide_vec *>(from); }
void store(float *to, vec value) { *reinterpret_cast<vec *>(to) = value; }
void store(double *to, wide_vec value) { *reinterpret_cast<wide_vec *>(to) = value; }
vec all(float value) { return value - vec{}; }
float sum_of(vec value) {
    float sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += value[lane];
    return sum;
}

// ---- Functions of vectors, to about 1e-7 ----

// exp(x) - 1, also to relative accuracy near zero; |x| up to 87, and a NaN stays one.
vec expm1_of(vec x) {
    x = x > 87.0f ? all(87.0f) : x;
    x = x < -87.0f ? all(-87.0f) : x;
    vec scaled = x * 1.44269504f;
    ints power = __builtin_convertvector(scaled + (scaled < 0 ? all(-0.5f) : all(0.5f)), ints);
    vec f = (scaled - __builtin_convertvector(power, vec)) * 0.693147181f;
    vec p = f * (1 / 5040.0f) + 1 / 720.0f;
    p = p * f + 1 / 120.0f;
    p = p * f + 1 / 24.0f;
    p = p * f + 1 / 6.0f;
    p = p * f + 0.5f;
    p = p * (f * f) + f;
    vec two_to_power = (vec)((power + 127) << 23);
    // The compiler may add in another order, which near zero would leave nothing of p.
    return power == 0 ? p : two_to_power * p + (two_to_power - 1.0f);
}

// The same in float64, which only checks use: no need to be fast.
wide_vec expm1_of(wide_vec x) {
    for (int lane = 0; lane < LANES / 2; ++lane) x[lane] = std::expm1(x[lane]);
    return x;
}

// ln u for u in (0, 1].
vec log_of(vec u) {
    bits raw = (bits)u;
    // u = m 2^e with m in [√½, √2).
    ints e = (ints)((raw - 0x3f3504f3u) >> 23 << 23) >> 23;
    vec m = (vec)(raw - ((bits)e << 23));
    vec f = (m - 1.0f) / (m + 1.0f), square = f * f;
    vec p = square * (1 / 9.0f) + 1 / 7.0f;
    p = p * square + 1 / 5.0f;
    p = p * square + 1 / 3.0f;
    return __builtin_convertvector(e, vec) * 0.693147181f + 2.0f * (p * square * f + f);
}

// Sine and cosine of `turns` / 2³² of a turn.
void sine_cosine(bits turns, vec &sine, vec &cosine) {
    bits quadrant = (turns + 0x20000000u) >> 30;
    vec x = __builtin_convertvector((ints)(turns - (quadrant << 30)), vec) *
            (6.28318531f / 4294967296.0f);  // from -π/4 to π/4
    vec y = x * x;
    vec s = y * (1 / 362880.0f) - 1 / 5040.0f;
    s = s * y + 1 / 120.0f;
    s = s * y - 1 / 6.0f;
    s = s * y * x + x;
    vec c = y * (-1 / 3628800.0f) + 1 / 40320.0f;
    c = c * y - 1 / 720.0f;
    c = c * y + 1 / 24.0f;
    c = c * y - 0.5f;
    c = c * y + 1.0f;
    ints odd = (ints)(quadrant << 31) < 0;
    sine = odd ? c : s;
    cosine = odd ? s : c;
    sine = (ints)(quadrant << 30) < 0 ? -sine : sine;
    cosine = (ints)((quadrant + 1) << 30) < 0 ? -cosine : cosine;
}

}  // namespace
