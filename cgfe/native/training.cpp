// The pairs of beads in a training step: convolutions with tabulated filters, forces, and the
// gradients of the tables. All work on whole frames; a pair is handled once for both its beads.
//
// A filter is a cubic Hermite polynomial between the points of an even grid. A table has three rows
// for each point: the value, its rise to the next point, and the slope (per interval). The rise is
// given, since little would be left of it in the difference of two rounded values.

#include <algorithm>
#include <cmath>
#include <cstdint>

extern "C" struct Batch {
    int64_t frames, beads, channels, intervals;
    int64_t stride;   // between two frames' features: 0 where all frames have the same
    int64_t threads;  // frames are dealt out in as many parts
    double cutoff;
};

namespace {

template <class T>
struct Pair {
    int64_t row;           // where the rows of the lower grid point begin
    T value[4], slope[4];  // weights of its value, rise and slope, and of the next slope
    T unit[3];             // from the first bead to the second

    // The derivative of the distance along directions of the beads.
    T along(const T *directions, int64_t i, int64_t j) const {
        T sum = 0;
        for (int axis = 0; axis < 3; ++axis)
            sum += unit[axis] * (directions[3 * j + axis] - directions[3 * i + axis]);
        return sum;
    }
};

// False beyond the cutoff, where the filter is zero. A distance that is not a number passes.
template <class T>
bool look_up(const Batch &batch, const T *positions, int64_t i, int64_t j, Pair<T> &pair) {
    T squared = 0;
    for (int axis = 0; axis < 3; ++axis) {
        pair.unit[axis] = positions[3 * j + axis] - positions[3 * i + axis];
        squared += pair.unit[axis] * pair.unit[axis];
    }
    // As in the network: a bead on another has no direction and no force.
    const T smallest = T(1e-12);
    const T distance = std::sqrt(squared < smallest ? smallest : squared);
    const T inverse = squared < smallest ? T(0) : 1 / distance;
    for (int axis = 0; axis < 3; ++axis) pair.unit[axis] *= inverse;
    const T per_length = T(batch.intervals / batch.cutoff), scaled = distance * per_length;
    if (scaled >= T(batch.intervals)) return false;
    const int64_t interval = scaled > 0 ? int64_t(scaled) : 0;
    const T right = scaled - T(interval), left = 1 - right;
    pair.row = interval * 3 * batch.channels;
    pair.value[0] = 1;
    pair.value[1] = right * right * (1 + 2 * left);
    pair.value[2] = left * left * right;
    pair.value[3] = -right * right * left;
    pair.slope[0] = 0;
    pair.slope[1] = 6 * left * right * per_length;
    pair.slope[2] = left * (1 - 3 * right) * per_length;
    pair.slope[3] = right * (3 * right - 2) * per_length;
    return true;
}

constexpr int64_t ROWS[4] = {0, 1, 2, 5};  // the next point's slope is two rows into its three

template <class T>
inline T value_at(const Pair<T> &pair, const T *rows, int64_t channels, int64_t c) {
    T sum = rows[c];
    for (int k = 1; k < 4; ++k) sum += pair.value[k] * rows[ROWS[k] * channels + c];
    return sum;
}

template <class T>
inline T slope_at(const Pair<T> &pair, const T *rows, int64_t channels, int64_t c) {
    T sum = 0;
    for (int k = 1; k < 4; ++k) sum += pair.slope[k] * rows[ROWS[k] * channels + c];
    return sum;
}

// The threads are those of torch's own operations: any others would wait for the cores on which
// torch's threads spin for a while after each matrix product.
template <class Function>
void for_frames(const Batch &batch, Function function) {
    const int64_t parts = batch.threads;
#pragma omp parallel for schedule(static, 1) num_threads(parts)
    for (int64_t part = 0; part < parts; ++part)
        for (int64_t f = batch.frames * part / parts; f < batch.frames * (part + 1) / parts; ++f)
            function(f, part);
}

template <class T, class Function>
void for_pairs(const Batch &batch, const T *positions, Function function) {
    Pair<T> pair;
    for (int64_t i = 0; i < batch.beads; ++i)
        for (int64_t j = i + 1; j < batch.beads; ++j)
            if (look_up(batch, positions, i, j, pair)) function(i, j, pair);
}

// m_i = sum_j W_ij h_j
template <class T>
void convolve(const Batch &batch, const T *positions, const T *table, const T *features,
              T *summed) {
    const int64_t n = batch.channels, size = batch.beads * n;
    for_frames(batch, [=, &batch](int64_t f, int64_t) {
        const T *h = features + f * batch.stride;
        T *m = summed + f * size;
        std::fill_n(m, size, T(0));
        for_pairs(batch, positions + f * 3 * batch.beads, [=](int64_t i, int64_t j, const Pair<T> &pair) {
            const T *rows = table + pair.row, *h_i = h + i * n, *h_j = h + j * n;
            T *m_i = m + i * n, *m_j = m + j * n;
#pragma omp simd
            for (int64_t c = 0; c < n; ++c) {
                const T filter = value_at(pair, rows, n, c);
                m_i[c] += filter * h_j[c];
                m_j[c] += filter * h_i[c];
            }
        });
    });
}

// From p = dE/dm: dE/dh_j = sum_i W_ij p_i, and the forces of dE/dd_ij = W'_ij (h_j p_i + h_i p_j).
template <class T>
void pull(const Batch &batch, const T *positions, const T *table, const T *features,
          const T *of_summed, T *of_features, T *forces) {
    const int64_t n = batch.channels, size = batch.beads * n, xyz = 3 * batch.beads;
    for_frames(batch, [=, &batch](int64_t f, int64_t) {
        const T *h = features + f * batch.stride, *p = of_summed + f * size;
        T *q = of_features + f * size, *force = forces + f * xyz;
        std::fill_n(q, size, T(0));
        for_pairs(batch, positions + f * xyz, [=](int64_t i, int64_t j, const Pair<T> &pair) {
            const T *rows = table + pair.row, *h_i = h + i * n, *h_j = h + j * n;
            const T *p_i = p + i * n, *p_j = p + j * n;
            T *q_i = q + i * n, *q_j = q + j * n, pulled = 0;
#pragma omp simd reduction(+ : pulled)
            for (int64_t c = 0; c < n; ++c) {
                const T filter = value_at(pair, rows, n, c);
                q_i[c] += filter * p_j[c];
                q_j[c] += filter * p_i[c];
                pulled += slope_at(pair, rows, n, c) * (h_j[c] * p_i[c] + h_i[c] * p_j[c]);
            }
            for (int axis = 0; axis < 3; ++axis) {
                force[3 * i + axis] += pulled * pair.unit[axis];
                force[3 * j + axis] -= pulled * pair.unit[axis];
            }
        });
    });
}

// The derivative of m along directions of the beads: m'_i = sum_j W_ij h'_j + W'_ij d'_ij h_j.
// Its transpose, with p in place of h and the adjoint of m in place of h', gives that of h.
template <class T>
void convolve_dual(const Batch &batch, const T *positions, const T *directions, const T *table,
                   const T *features, const T *tangents, T *summed) {
    const int64_t n = batch.channels, size = batch.beads * n, xyz = 3 * batch.beads;
    for_frames(batch, [=, &batch](int64_t f, int64_t) {
        const T *h = features + f * batch.stride, *t = tangents + f * batch.stride;
        const T *v = directions + f * xyz;
        T *m = summed + f * size;
        std::fill_n(m, size, T(0));
        for_pairs(batch, positions + f * xyz, [=](int64_t i, int64_t j, const Pair<T> &pair) {
            const T *rows = table + pair.row, change = pair.along(v, i, j);
            const T *h_i = h + i * n, *h_j = h + j * n, *t_i = t + i * n, *t_j = t + j * n;
            T *m_i = m + i * n, *m_j = m + j * n;
#pragma omp simd
            for (int64_t c = 0; c < n; ++c) {
                const T filter = value_at(pair, rows, n, c);
                const T filter_change = change * slope_at(pair, rows, n, c);
                m_i[c] += filter * t_j[c] + filter_change * h_j[c];
                m_j[c] += filter * t_i[c] + filter_change * h_i[c];
            }
        });
    });
}

// The gradient of a table, from the adjoints a of m and p of m', one copy for each thread:
// dS/dW_ij = a_i h_j + a_j h_i + p_i h'_j + p_j h'_i, dS/dW'_ij = d'_ij (p_i h_j + p_j h_i).
template <class T>
void collect(const Batch &batch, const T *positions, const T *directions, const T *features,
             const T *tangents, const T *adjoints, const T *of_summed, T *of_tables) {
    const int64_t n = batch.channels, size = batch.beads * n, xyz = 3 * batch.beads;
    for_frames(batch, [=, &batch](int64_t f, int64_t part) {
        const T *h = features + f * batch.stride, *t = tangents + f * batch.stride;
        const T *a = adjoints + f * size, *p = of_summed + f * size, *v = directions + f * xyz;
        T *of_table = of_tables + part * (batch.intervals + 1) * 3 * n;
        for_pairs(batch, positions + f * xyz, [=](int64_t i, int64_t j, const Pair<T> &pair) {
            const T *h_i = h + i * n, *h_j = h + j * n, *t_i = t + i * n, *t_j = t + j * n;
            const T *a_i = a + i * n, *a_j = a + j * n, *p_i = p + i * n, *p_j = p + j * n;
            const T change = pair.along(v, i, j);
            T *rows = of_table + pair.row;
#pragma omp simd
            for (int64_t c = 0; c < n; ++c) {
                const T of_value =
                    a_i[c] * h_j[c] + a_j[c] * h_i[c] + p_i[c] * t_j[c] + p_j[c] * t_i[c];
                const T of_slope = change * (p_i[c] * h_j[c] + p_j[c] * h_i[c]);
                for (int k = 0; k < 4; ++k)
                    rows[ROWS[k] * n + c] += pair.value[k] * of_value + pair.slope[k] * of_slope;
            }
        });
    });
}

}  // namespace

#define EXPORT(T)                                                                                 \
    extern "C" void convolve_##T(const Batch *b, const T *positions, const T *table, const T *h,  \
                                 T *m) {                                                          \
        convolve(*b, positions, table, h, m);                                                     \
    }                                                                                             \
    extern "C" void pull_##T(const Batch *b, const T *positions, const T *table, const T *h,      \
                             const T *p, T *q, T *forces) {                                       \
        pull(*b, positions, table, h, p, q, forces);                                              \
    }                                                                                             \
    extern "C" void convolve_dual_##T(const Batch *b, const T *positions, const T *directions,    \
                                      const T *table, const T *h, const T *t, T *m) {             \
        convolve_dual(*b, positions, directions, table, h, t, m);                                 \
    }                                                                                             \
    extern "C" void collect_##T(const Batch *b, const T *positions, const T *directions,          \
                                const T *h, const T *t, const T *a, const T *p, T *of_tables) {   \
        collect(*b, positions, directions, h, t, a, p, of_tables);                                \
    }

EXPORT(float)
EXPORT(double)
