// Dense layers of a network: matrix products and activations.

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace {

// A type of argument from which none is deduced, so that an Array can be given.
template <class T>
using Own = std::common_type_t<T>;

// The matrix and bias of y = x B + b, with B in panels of PANEL columns: what a tile reads next
// lies next in memory.
template <class T>
struct Matrix {
    int depth = 0, width = 0;  // width with padding, whose columns give zero
    Array<T> panels, bias;

    Matrix() = default;
    // From `weight` (out, in): x Wᵀ forward, gradient W back.
    Matrix(const T *weight, int out, int in, bool back)
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
typedef Matrix<float> Dense;

// What a product does with its result.
enum Result { SET, ADD, SET_WITHOUT_BIAS, ADD_WITHOUT_BIAS };

// The vectors of one panel's columns.
template <class T>
struct Columns {
    static constexpr int COUNT = PANEL * sizeof(T) / (4 * LANES), WIDTH = PANEL / COUNT;
    decltype(load(static_cast<const T *>(nullptr))) vectors[COUNT];

    static Columns at(const T *from) {
        Columns found;
#pragma GCC unroll 4
        for (int v = 0; v < COUNT; ++v) found.vectors[v] = load(from + v * WIDTH);
        return found;
    }
    void put(T *to) const {
#pragma GCC unroll 4
        for (int v = 0; v < COUNT; ++v) store(to + v * WIDTH, vectors[v]);
    }
    void add(T factor, const Columns &other) {
#pragma GCC unroll 4
        for (int v = 0; v < COUNT; ++v) vectors[v] += factor * other.vectors[v];
    }
};

template <int ROWS, class T>
void tile(const T *x, int stride, const T *panel, const T *bias, int depth, T *y, int y_stride,
          Result result) {
    Columns<T> sum[ROWS];
    const bool biased = result == SET || result == ADD;
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row)
        sum[row] = biased ? Columns<T>::at(bias) : Columns<T>{};
    for (int k = 0; k < depth; ++k) {
        const Columns<T> weights = Columns<T>::at(panel + k * PANEL);
#pragma GCC unroll 16
        for (int row = 0; row < ROWS; ++row) sum[row].add(x[row * stride + k], weights);
    }
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row) {
        T *to = y + row * y_stride;
        if (result == ADD || result == ADD_WITHOUT_BIAS) sum[row].add(1, Columns<T>::at(to));
        sum[row].put(to);
    }
}

// c += gᵀ x of ROWS columns of g and a panel of columns of x.
template <int ROWS, class T>
void gradient_tile(const T *g, int g_stride, const T *x, int x_stride, int depth, T *c,
                   int c_stride) {
    Columns<T> sum[ROWS];
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row) sum[row] = Columns<T>::at(c + row * c_stride);
    for (int k = 0; k < depth; ++k) {
        const Columns<T> inputs = Columns<T>::at(x + size_t(k) * x_stride);
#pragma GCC unroll 16
        for (int row = 0; row < ROWS; ++row) sum[row].add(g[size_t(k) * g_stride + row], inputs);
    }
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row) sum[row].put(c + row * c_stride);
}

// Call `function` with the number of rows of a tile as a constant.
template <int ROWS, class Function>
void with_rows(int rows, Function function) {
    if (rows == ROWS) {
        function(std::integral_constant<int, ROWS>());
    } else if constexpr (ROWS > 1) {
        with_rows<ROWS - 1>(rows, function);
    }
}

// Call `function(begin, rows)` on tiles of about the same height.
template <class Function>
void each_tile(int rows, Function function) {
    const int tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int t = 0; t < tiles; ++t) {
        const int begin = int64_t(rows) * t / tiles, end = int64_t(rows) * (t + 1) / tiles;
        with_rows<TILE_ROWS>(end - begin, [&](auto count) { function(begin, count); });
    }
}

// y = x B + b of `rows` rows, or as `result` says.
template <class T>
void multiply(const Own<T> *x, int stride, const Matrix<T> &matrix, Own<T> *y, int rows,
              Result result = SET) {
    for (int column = 0; column < matrix.width; column += PANEL)
        each_tile(rows, [&](int begin, auto count) {
            tile<count.value>(x + size_t(begin) * stride, stride,
                              matrix.panels + size_t(column) * matrix.depth, matrix.bias + column,
                              matrix.depth, y + size_t(begin) * matrix.width + column, matrix.width,
                              result);
        });
}

// c += gᵀ x: the gradient (out, width) of a weight from those of its results and from its inputs.
template <class T>
void add_gradient(const T *g, int g_stride, int out, const T *x, int width, int rows, T *c) {
    for (int column = 0; column < width; column += PANEL)
        each_tile(out, [&](int begin, auto count) {
            gradient_tile<count.value>(g + begin, g_stride, x + column, width, rows,
                                       c + size_t(begin) * width + column, width);
        });
}

enum Activation { TANH, SILU };

// An activation with its first and second derivative.
template <class V>
void activation_at(Activation activation, V before, V &after, V &slope, V &curvature) {
    if (activation == TANH) {
        V bounded = before > 20 ? V{} + 20 : before;  // beyond, it is 1 or -1
        bounded = bounded < -20 ? V{} - 20 : bounded;
        const V e = expm1_of(2 * bounded);
        after = e / (e + 2);
        slope = 1 - after * after;
        curvature = -2 * after * slope;
    } else {
        const V share = 1 / (2 + expm1_of(-before)), rest = 1 - share;
        after = before * share;
        slope = share + after * rest;
        curvature = (share + slope - after * share) * rest;
    }
}

// Replace each x by its activation and keep the slope there.
template <class T>
void activate(Activation activation, T *x, T *slopes, size_t count) {
    constexpr int WIDTH = Columns<T>::WIDTH;
    for (size_t k = 0; k < count; k += WIDTH) {
        decltype(load(x)) after, slope, curvature;
        activation_at(activation, load(x + k), after, slope, curvature);
        store(x + k, after);
        store(slopes + k, slope);
    }
}

}  // namespace
