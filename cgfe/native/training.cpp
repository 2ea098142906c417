// The pairs of beads in a training step: convolutions with tabulated filters, forces, and the
// gradients of the tables. All work on whole frames; a pair is handled once for both its beads.
//
// A filter is a cubic Hermite polynomial between the points of an even grid. A table has a row of
// values and a row of slopes (per interval) for each point, so the four rows that a pair needs lie
// behind each other.

#include <cmath>
#include <cstdint>

extern "C" struct Shape {
    int64_t beads, channels, intervals;
    double cutoff;
};

namespace {

template <class T>
struct Pair {
    int64_t row;         // where the four rows begin in the table
    T value[4], slope[4];  // their weights in the filter and in its derivative
    T unit[3];           // from the first bead to the second
};

// False beyond the cutoff, where the filter is zero. A distance that is not a number passes.
template <class T>
inline bool look_up(const Shape &shape, const T *positions, int64_t i, int64_t j, Pair<T> &pair) {
    T squared = 0;
    for (int axis = 0; axis < 3; ++axis) {
        pair.unit[axis] = positions[3 * j + axis] - positions[3 * i + axis];
        squared += pair.unit[axis] * pair.unit[axis];
    }
    const T per_length = T(shape.intervals / shape.cutoff);
    // As in the network: a bead on another has no direction and no force.
    const T smallest = T(1e-12), distance = std::sqrt(squared < smallest ? smallest : squared);
    const T inverse = squared < smallest ? T(0) : 1 / distance;
    for (int axis = 0; axis < 3; ++axis) pair.unit[axis] *= inverse;
    const T scaled = distance * per_length;
    if (scaled >= T(shape.intervals)) return false;
    const int64_t interval = scaled > 0 ? int64_t(scaled) : 0;
    const T right = scaled - T(interval), left = 1 - right;
    pair.row = interval * 2 * shape.channels;
    pair.value[0] = left * left * (1 + 2 * right);
    pair.value[1] = left * left * right;
    pair.value[2] = right * right * (1 + 2 * left);
    pair.value[3] = -right * right * left;
    pair.slope[0] = -6 * left * right * per_length;
    pair.slope[1] = left * (1 - 3 * right) * per_length;
    pair.slope[2] = -pair.slope[0];
    pair.slope[3] = right * (3 * right - 2) * per_length;
    return true;
}

template <class T>
inline T along(const Pair<T> &pair, const T *directions, int64_t i, int64_t j) {
    T sum = 0;
    for (int axis = 0; axis < 3; ++axis)
        sum += pair.unit[axis] * (directions[3 * j + axis] - directions[3 * i + axis]);
    return sum;
}

template <class T>
inline T weighted(const T *rows, const T *weights, int64_t channels, int64_t c) {
    return weights[0] * rows[c] + weights[1] * rows[channels + c] +
           weights[2] * rows[2 * channels + c] + weights[3] * rows[3 * channels + c];
}

template <class T>
inline void clear(T *rows, int64_t count) {
    for (int64_t c = 0; c < count; ++c) rows[c] = 0;
}

// m_i = sum_j W_ij h_j
template <class T>
void convolve(const Shape &shape, const T *positions, const T *table, const T *features,
              T *summed) {
    const int64_t channels = shape.channels;
    clear(summed, shape.beads * channels);
    Pair<T> pair;
    for (int64_t i = 0; i < shape.beads; ++i)
        for (int64_t j = i + 1; j < shape.beads; ++j) {
            if (!look_up(shape, positions, i, j, pair)) continue;
            const T *rows = table + pair.row;
            const T *h_i = features + i * channels, *h_j = features + j * channels;
            T *m_i = summed + i * channels, *m_j = summed + j * channels;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const T filter = weighted(rows, pair.value, channels, c);
                m_i[c] += filter * h_j[c];
                m_j[c] += filter * h_i[c];
            }
        }
}

// From p = dE/dm: dE/dh_j = sum_i W_ij p_i, and the forces of dE/dd_ij = W'_ij (h_j p_i + h_i p_j).
template <class T>
void pull(const Shape &shape, const T *positions, const T *table, const T *features,
          const T *of_summed, T *of_features, T *forces) {
    const int64_t channels = shape.channels;
    clear(of_features, shape.beads * channels);
    Pair<T> pair;
    for (int64_t i = 0; i < shape.beads; ++i)
        for (int64_t j = i + 1; j < shape.beads; ++j) {
            if (!look_up(shape, positions, i, j, pair)) continue;
            const T *rows = table + pair.row;
            const T *h_i = features + i * channels, *h_j = features + j * channels;
            const T *p_i = of_summed + i * channels, *p_j = of_summed + j * channels;
            T *to_i = of_features + i * channels, *to_j = of_features + j * channels;
            T pulled = 0;
#pragma omp simd reduction(+ : pulled)
            for (int64_t c = 0; c < channels; ++c) {
                const T filter = weighted(rows, pair.value, channels, c);
                to_i[c] += filter * p_j[c];
                to_j[c] += filter * p_i[c];
                pulled += weighted(rows, pair.slope, channels, c) *
                          (h_j[c] * p_i[c] + h_i[c] * p_j[c]);
            }
            for (int axis = 0; axis < 3; ++axis) {
                forces[3 * i + axis] += pulled * pair.unit[axis];
                forces[3 * j + axis] -= pulled * pair.unit[axis];
            }
        }
}

// The derivative of m along directions of the beads: m'_i = sum_j W_ij h'_j + W'_ij d'_ij h_j.
// Its transpose, with p in place of h and the adjoint of m in place of h', gives that of h.
template <class T>
void convolve_dual(const Shape &shape, const T *positions, const T *directions, const T *table,
                   const T *features, const T *tangents, T *summed) {
    const int64_t channels = shape.channels;
    clear(summed, shape.beads * channels);
    Pair<T> pair;
    for (int64_t i = 0; i < shape.beads; ++i)
        for (int64_t j = i + 1; j < shape.beads; ++j) {
            if (!look_up(shape, positions, i, j, pair)) continue;
            const T change = along(pair, directions, i, j);
            const T *rows = table + pair.row;
            const T *h_i = features + i * channels, *h_j = features + j * channels;
            const T *t_i = tangents + i * channels, *t_j = tangents + j * channels;
            T *m_i = summed + i * channels, *m_j = summed + j * channels;
            T slope[4];
            for (int k = 0; k < 4; ++k) slope[k] = change * pair.slope[k];
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const T filter = weighted(rows, pair.value, channels, c);
                const T filter_change = weighted(rows, slope, channels, c);
                m_i[c] += filter * t_j[c] + filter_change * h_j[c];
                m_j[c] += filter * t_i[c] + filter_change * h_i[c];
            }
        }
}

// The gradient of a table, from the adjoints a of m and p of m':
// dS/dW_ij = a_i h_j + a_j h_i + p_i h'_j + p_j h'_i, dS/dW'_ij = d'_ij (p_i h_j + p_j h_i).
template <class T>
void collect(const Shape &shape, const T *positions, const T *directions, const T *features,
             const T *tangents, const T *adjoints, const T *of_summed, T *of_table) {
    const int64_t channels = shape.channels;
    Pair<T> pair;
    for (int64_t i = 0; i < shape.beads; ++i)
        for (int64_t j = i + 1; j < shape.beads; ++j) {
            if (!look_up(shape, positions, i, j, pair)) continue;
            const T change = along(pair, directions, i, j);
            const T *h_i = features + i * channels, *h_j = features + j * channels;
            const T *t_i = tangents + i * channels, *t_j = tangents + j * channels;
            const T *a_i = adjoints + i * channels, *a_j = adjoints + j * channels;
            const T *p_i = of_summed + i * channels, *p_j = of_summed + j * channels;
            T *rows = of_table + pair.row;
            T slope[4];
            for (int k = 0; k < 4; ++k) slope[k] = change * pair.slope[k];
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const T of_value = a_i[c] * h_j[c] + a_j[c] * h_i[c] + p_i[c] * t_j[c] + p_j[c] * t_i[c];
                const T of_slope = p_i[c] * h_j[c] + p_j[c] * h_i[c];
                for (int k = 0; k < 4; ++k)
                    rows[k * channels + c] += pair.value[k] * of_value + slope[k] * of_slope;
            }
        }
}

}  // namespace

// Frames [begin, end). `stride` is the distance between two frames' features, 0 where all frames
// have the same.
#define EXPORT(T)                                                                                  \
    extern "C" void convolve_##T(const Shape *shape, int64_t begin, int64_t end, int64_t stride,   \
                                 const T *positions, const T *table, const T *features,            \
                                 T *summed) {                                                      \
        const int64_t xyz = 3 * shape->beads, size = shape->beads * shape->channels;               \
        for (int64_t f = begin; f < end; ++f)                                                      \
            convolve(*shape, positions + f * xyz, table, features + f * stride,                    \
                     summed + f * size);                                                           \
    }                                                                                              \
    extern "C" void pull_##T(const Shape *shape, int64_t begin, int64_t end, int64_t stride,       \
                             const T *positions, const T *table, const T *features,                \
                             const T *of_summed, T *of_features, T *forces) {                      \
        const int64_t xyz = 3 * shape->beads, size = shape->beads * shape->channels;               \
        for (int64_t f = begin; f < end; ++f)                                                      \
            pull(*shape, positions + f * xyz, table, features + f * stride, of_summed + f * size,  \
                 of_features + f * size, forces + f * xyz);                                        \
    }                                                                                              \
    extern "C" void convolve_dual_##T(const Shape *shape, int64_t begin, int64_t end,              \
                                      int64_t stride, const T *positions, const T *directions,     \
                                      const T *table, const T *features, const T *tangents,        \
                                      T *summed) {                                                 \
        const int64_t xyz = 3 * shape->beads, size = shape->beads * shape->channels;               \
        for (int64_t f = begin; f < end; ++f)                                                      \
            convolve_dual(*shape, positions + f * xyz, directions + f * xyz, table,                \
                          features + f * stride, tangents + f * stride, summed + f * size);        \
    }                                                                                              \
    extern "C" void collect_##T(const Shape *shape, int64_t begin, int64_t end, int64_t stride,    \
                                const T *positions, const T *directions, const T *features,        \
                                const T *tangents, const T *adjoints, const T *of_summed,          \
                                T *of_table) {                                                     \
        const int64_t xyz = 3 * shape->beads, size = shape->beads * shape->channels;               \
        for (int64_t f = begin; f < end; ++f)                                                      \
            collect(*shape, positions + f * xyz, directions + f * xyz, features + f * stride,      \
                    tangents + f * stride, adjoints + f * size, of_summed + f * size, of_table);   \
    }

EXPORT(float)
EXPORT(double)
