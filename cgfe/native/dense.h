// Dense layers of a network: matrix products and activations.

#include <algorithm>
#include <cstdint>

namespace {

// The matrix and bias of y = x B + b, with B in panels of PANEL columns: what a tile reads next
// lies next in memory.
struct Dense {
    int depth = 0, width = 0;  // width with padding, whose columns give zero
    Floats panels, bias;

    Dense() = default;
    // From `weight` (out, in): x Wᵀ forward, gradient W back.
    Dense(const float *weight, int out, int in, bool back)
        : depth(back ? out : in), width(padded(back ? in : out)),
          panels(size_t(depth) * width), bias(width) {
        for (int row = 0; row < out; ++row)
            for (int column = 0; column < in; ++column) {
                int k = back ? row : column, j = back ? column : row;
                panels[size_t(j / PANEL) * depth * PANEL + k * PANEL + j % PANEL] =
                    weight[size_t(row) * in + column];
            }
    }
};

template <int ROWS>
void tile(const float *x, int stride, const float *panel, const float *bias, int depth, float *y,
          int y_stride, bool add) {
    vec sum[ROWS][2];
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row) {
        sum[row][0] = load(bias);
        sum[row][1] = load(bias + LANES);
    }
    for (int k = 0; k < depth; ++k) {
        vec left = load(panel + k * PANEL), right = load(panel + k * PANEL + LANES);
#pragma GCC unroll 16
        for (int row = 0; row < ROWS; ++row) {
            sum[row][0] += x[row * stride + k] * left;
            sum[row][1] += x[row * stride + k] * right;
        }
    }
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row) {
        float *to = y + row * y_stride;
        store(to, add ? load(to) + sum[row][0] : sum[row][0]);
        store(to + LANES, add ? load(to + LANES) + sum[row][1] : sum[row][1]);
    }
}

template <int ROWS>
void any_tile(int rows, const float *x, int stride, const float *panel, const float *bias,
              int depth, float *y, int y_stride, bool add) {
    if (rows == ROWS) {
        tile<ROWS>(x, stride, panel, bias, depth, y, y_stride, add);
    } else if constexpr (ROWS > 1) {
        any_tile<ROWS - 1>(rows, x, stride, panel, bias, depth, y, y_stride, add);
    }
}

// y = x B + b of `rows` rows, or y += x B + b.
void multiply(const float *x, int stride, const Dense &dense, float *y, int rows,
              bool add = false) {
    int tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int column = 0; column < dense.width; column += PANEL)
        for (int t = 0; t < tiles; ++t) {
            int begin = int64_t(rows) * t / tiles, end = int64_t(rows) * (t + 1) / tiles;
            any_tile<TILE_ROWS>(end - begin, x + size_t(begin) * stride, stride,
                                dense.panels + size_t(column) * dense.depth, dense.bias + column,
                                dense.depth, y + size_t(begin) * dense.width + column, dense.width,
                                add);
        }
}

enum Activation { TANH, SILU };

// Replace each x by its activation and keep the slope there.
void activate(Activation activation, float *x, float *slopes, size_t count) {
    for (size_t k = 0; k < count; k += LANES) {
        vec before = load(x + k), after, slope;
        if (activation == TANH) {
            vec bounded = before > 9.1f ? all(9.1f) : before;  // where it is 1 in float32
            bounded = bounded < -9.1f ? all(-9.1f) : bounded;
            vec e = expm1_of(2.0f * bounded);
            after = e / (e + 2.0f);
            slope = 1.0f - after * after;
        } else {
            vec share = 1.0f / (2.0f + expm1_of(-before));
            after = before * share;
            slope = share + after * (1.0f - share);
        }
        store(x + k, after);
        store(slopes + k, slope);
    }
}

}  // namespace
