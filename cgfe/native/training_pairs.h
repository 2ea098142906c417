// The pairs of beads of a frame in training: convolutions with tabulated filters, forces, and the
// gradient of the table. A pair is handled once for both its beads.
//
// A filter is a cubic Hermite polynomial between the points of an even grid. A table has three rows
// for each point: the value, its rise to the next point, and the slope (per interval). The rise is
// given, since little would be left of it in the difference of two rounded values.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t ROWS[4] = {0, 1, 2, 5};  // the next point's slope is two rows into its three

template <class T>
struct Pair {
    int32_t i, j;
    int64_t row;           // of the table, where those of the lower grid point begin
    T value[4], slope[4];  // weights of its value, rise and slope, and of the next slope
    T unit[3];             // from the first bead to the second
    T change;              // of the distance, along given directions of the beads
};

template <class T>
struct Grid {
    T intervals, per_length;
};

// Fill in all but `change`; false beyond the cutoff, where the filter is zero. A distance that is
// not a number passes.
template <class T>
bool look_up(const Grid<T> &grid, const T *first, const T *second, Pair<T> &pair) {
    T squared = 0;
    for (int axis = 0; axis < 3; ++axis) {
        pair.unit[axis] = second[axis] - first[axis];
        squared += pair.unit[axis] * pair.unit[axis];
    }
    // As in the network: a bead on another has no direction and no force.
    const T smallest = T(1e-12);
    const T distance = std::sqrt(squared < smallest ? smallest : squared);
    const T inverse = squared < smallest ? T(0) : 1 / distance;
    for (T &component : pair.unit) component *= inverse;
    const T scaled = distance * grid.per_length;
    if (scaled >= grid.intervals) return false;
    const int64_t interval = scaled > 0 ? int64_t(scaled) : 0;
    const T right = scaled - T(interval), left = 1 - right;
    pair.row = 3 * interval;
    pair.value[0] = 1;
    pair.value[1] = right * right * (1 + 2 * left);
    pair.value[2] = left * left * right;
    pair.value[3] = -right * right * left;
    pair.slope[0] = 0;
    pair.slope[1] = 6 * left * right * grid.per_length;
    pair.slope[2] = left * (1 - 3 * right) * grid.per_length;
    pair.slope[3] = right * (3 * right - 2) * grid.per_length;
    return true;
}

// The pairs of a frame; `directions` may be null.
template <class T>
void find_pairs(const Grid<T> &grid, int beads, const T *positions, const T *directions,
                std::vector<Pair<T>> &pairs) {
    pairs.clear();
    Pair<T> pair;
    for (pair.i = 0; pair.i < beads; ++pair.i)
        for (pair.j = pair.i + 1; pair.j < beads; ++pair.j) {
            if (!look_up(grid, positions + 3 * pair.i, positions + 3 * pair.j, pair)) continue;
            pair.change = 0;
            for (int axis = 0; directions && axis < 3; ++axis)
                pair.change += pair.unit[axis] *
                               (directions[3 * pair.j + axis] - directions[3 * pair.i + axis]);
            pairs.push_back(pair);
        }
}

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

// One layer's convolutions of one frame. Features are rows of `stride` numbers, of which `channels`
// count. Results are added to.
template <class T>
struct Convolution {
    const std::vector<Pair<T>> &pairs;
    const T *table;
    int64_t channels, stride;

    // m_i = sum_j W_ij h_j
    void forward(const T *h, T *m) const {
        for (const Pair<T> &pair : pairs) {
            const T *rows = table + pair.row * channels;
            const T *h_i = h + pair.i * stride, *h_j = h + pair.j * stride;
            T *m_i = m + pair.i * stride, *m_j = m + pair.j * stride;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const T filter = value_at(pair, rows, channels, c);
                m_i[c] += filter * h_j[c];
                m_j[c] += filter * h_i[c];
            }
        }
    }

    // From p = dE/dm: q_j = dE/dh_j = sum_i W_ij p_i, and the forces of
    // dE/dd_ij = W'_ij (h_j p_i + h_i p_j).
    void pull(const T *h, const T *p, T *q, T *forces) const {
        for (const Pair<T> &pair : pairs) {
            const T *rows = table + pair.row * channels;
            const T *h_i = h + pair.i * stride, *h_j = h + pair.j * stride;
            const T *p_i = p + pair.i * stride, *p_j = p + pair.j * stride;
            T *q_i = q + pair.i * stride, *q_j = q + pair.j * stride, pulled = 0;
#pragma omp simd reduction(+ : pulled)
            for (int64_t c = 0; c < channels; ++c) {
                const T filter = value_at(pair, rows, channels, c);
                q_i[c] += filter * p_j[c];
                q_j[c] += filter * p_i[c];
                pulled += slope_at(pair, rows, channels, c) * (h_j[c] * p_i[c] + h_i[c] * p_j[c]);
            }
            for (int axis = 0; axis < 3; ++axis) {
                forces[3 * pair.i + axis] += pulled * pair.unit[axis];
                forces[3 * pair.j + axis] -= pulled * pair.unit[axis];
            }
        }
    }

    // The derivative of m along the directions: m'_i = sum_j W_ij h'_j + W'_ij d'_ij h_j.
    void along(const T *h, const T *tangent, T *m) const {
        for (const Pair<T> &pair : pairs) {
            const T *rows = table + pair.row * channels;
            const T *h_i = h + pair.i * stride, *h_j = h + pair.j * stride;
            const T *t_i = tangent + pair.i * stride, *t_j = tangent + pair.j * stride;
            T *m_i = m + pair.i * stride, *m_j = m + pair.j * stride;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const T filter = value_at(pair, rows, channels, c);
                const T turn = pair.change * slope_at(pair, rows, channels, c);
                m_i[c] += filter * t_j[c] + turn * h_j[c];
                m_j[c] += filter * t_i[c] + turn * h_i[c];
            }
        }
    }

    // The way back of `along` and `forward`, from the adjoints a of m and p of m': the adjoint of
    // h, sum_i W_ij a_i + W'_ij d'_ij p_i, and the table's, from
    // dS/dW_ij = a_i h_j + a_j h_i + p_i h'_j + p_j h'_i, dS/dW'_ij = d'_ij (p_i h_j + p_j h_i).
    void back(const T *h, const T *tangent, const T *a, const T *p, T *of_h, T *of_table) const {
        for (const Pair<T> &pair : pairs) {
            const T *rows = table + pair.row * channels;
            const T *h_i = h + pair.i * stride, *h_j = h + pair.j * stride;
            const T *t_i = tangent + pair.i * stride, *t_j = tangent + pair.j * stride;
            const T *a_i = a + pair.i * stride, *a_j = a + pair.j * stride;
            const T *p_i = p + pair.i * stride, *p_j = p + pair.j * stride;
            T *to_i = of_h + pair.i * stride, *to_j = of_h + pair.j * stride;
            T *to_rows = of_table + pair.row * channels;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const T filter = value_at(pair, rows, channels, c);
                const T turn = pair.change * slope_at(pair, rows, channels, c);
                to_i[c] += filter * a_j[c] + turn * p_j[c];
                to_j[c] += filter * a_i[c] + turn * p_i[c];
                const T of_value =
                    a_i[c] * h_j[c] + a_j[c] * h_i[c] + p_i[c] * t_j[c] + p_j[c] * t_i[c];
                const T of_slope = pair.change * (p_i[c] * h_j[c] + p_j[c] * h_i[c]);
                for (int k = 0; k < 4; ++k)
                    to_rows[ROWS[k] * channels + c] +=
                        pair.value[k] * of_value + pair.slope[k] * of_slope;
            }
        }
    }
};

}  // namespace
