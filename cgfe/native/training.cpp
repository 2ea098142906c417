// Energies and forces of a batch of frames for training, and the gradient of a loss of both in the
// network's parameters. How, is told in kernels/training.py.
//
// Threads take blocks of frames through all layers: enough beads to use each weight that comes into
// a core's cache several times, few enough for their activations to stay there. What the way back
// needs of the way forth goes to memory that the caller keeps.

#include "vectors.h"
#include "dense.h"
#include "training_pairs.h"

namespace {

// Beads of a block of frames. From 40 to 320 the speed differed by 3 % at most.
constexpr int BLOCK_BEADS = 160;
constexpr int64_t LARGEST_GRADIENTS = 1 << 26;  // numbers

struct Sizes {
    int64_t frames, beads, layers, hidden, filters, half, intervals, activation;
    int64_t threads;  // those of torch's own operations, for which any others would have to wait
    double cutoff;

    int64_t rows_of_table() const { return 3 * (intervals + 1); }
    int64_t block() const { return std::max<int64_t>(1, BLOCK_BEADS / beads); }
    int64_t rows_of_block() const { return block() * beads; }
    int64_t blocks() const { return (frames + block() - 1) / block(); }
    // Each part has a gradient of its own, of which the tables are the most.
    int64_t parts() const {
        const int64_t most = LARGEST_GRADIENTS / (layers * rows_of_table() * filters);
        return std::max<int64_t>(1, std::min({threads, blocks(), most}));
    }
    template <class T> Grid<T> grid() const { return {T(intervals), T(intervals / cutoff)}; }
};

// The tensors of a network in the order in which they are given.
enum Tensor { EMBEDDED, TABLES, FIRST_OF_LAYERS };
enum OfLayer { TO_FILTERS, INNER, INNER_BIAS, OUTER, OUTER_BIAS, TENSORS_OF_LAYER };
enum OfOutput { WEIGHT, BIAS, LAST, LAST_BIAS, TENSORS_OF_OUTPUT };
int tensor_of_layer(int layer, OfLayer which) {
    return FIRST_OF_LAYERS + layer * TENSORS_OF_LAYER + which;
}

template <class T>
struct Linear {
    Matrix<T> forward, back;

    Linear() = default;
    Linear(const T *weight, const T *bias, int out, int in)
        : forward(weight, out, in, false), back(weight, out, in, true) {
        if (bias) std::copy_n(bias, out, static_cast<T *>(forward.bias));
    }
};

template <class T>
struct Layer {
    const T *table;
    Linear<T> to_filters, inner, outer;
};

template <class T>
struct Network {
    const Sizes &sizes;
    const int hidden, filters, half;  // with padding
    const Activation activation;
    std::vector<Layer<T>> layers;
    Linear<T> output;
    Array<T> embedded, first_neighbours, last;
    T last_bias;

    Network(const Sizes &sizes, const T *const *given)
        : sizes(sizes), hidden(padded(sizes.hidden)), filters(padded(sizes.filters)),
          half(padded(sizes.half)), activation(Activation(sizes.activation)),
          layers(sizes.layers), embedded(sizes.beads * hidden),
          first_neighbours(sizes.beads * filters), last(half) {
        const int h = sizes.hidden, f = sizes.filters;
#pragma omp parallel for schedule(static, 1) num_threads(sizes.parts())
        for (int l = 0; l < sizes.layers; ++l) {
            const T *const *own = given + tensor_of_layer(l, TO_FILTERS);
            layers[l].table = given[TABLES] + l * sizes.rows_of_table() * f;
            layers[l].to_filters = Linear<T>(own[TO_FILTERS], nullptr, f, h);
            layers[l].inner = Linear<T>(own[INNER], own[INNER_BIAS], h, f);
            layers[l].outer = Linear<T>(own[OUTER], own[OUTER_BIAS], h, h);
        }
        const T *const *own = given + tensor_of_layer(sizes.layers, TO_FILTERS);
        output = Linear<T>(own[WEIGHT], own[BIAS], sizes.half, h);
        std::copy_n(own[LAST], sizes.half, static_cast<T *>(last));
        last_bias = *own[LAST_BIAS];
        for (int bead = 0; bead < sizes.beads; ++bead)
            std::copy_n(given[EMBEDDED] + bead * h, h, embedded + bead * hidden);
        // Until the first convolution all frames have the same features.
        multiply<T>(embedded, hidden, layers[0].to_filters.forward, first_neighbours, sizes.beads);
    }
};

// What the way forth keeps of each layer, for all frames; of a block, from its first row on.
template <class T>
struct Kept {
    T *features;       // x of the result; that of the first layer's input is the embedding
    T *neighbours;     // h = L x, but of the first layer
    T *summed;         // m_i = sum_j W_ij h_j
    T *before;         // z = A m + a; the block adds B s + b to x, s = φ(z)
    T *of_update;      // dE/dx of the result
    T *of_after;       // dE/ds
    T *of_summed;      // dE/dm
    T *of_neighbours;  // dE/dh, but of the first layer

    static size_t count(const Network<T> &n) {
        return size_t(n.sizes.frames) * n.sizes.beads * 4 * (n.hidden + n.filters);
    }
    Kept(const Network<T> &n, T *memory, int layer, size_t row) {
        memory += layer * count(n);
        const size_t rows = size_t(n.sizes.frames) * n.sizes.beads;
        for (T **each : {&features, &before, &of_update, &of_after}) {
            *each = memory + row * n.hidden;
            memory += rows * n.hidden;
        }
        for (T **each : {&neighbours, &summed, &of_summed, &of_neighbours}) {
            *each = memory + row * n.filters;
            memory += rows * n.filters;
        }
    }
};

// A block of frames on its way through the network.
template <class T>
struct Block {
    const Network<T> &n;
    const int64_t first, frames, rows;
    std::vector<Kept<T>> kept;
    T *before_output;  // z of the output, kept too
    std::vector<std::vector<Pair<T>>> pairs;

    Block(const Network<T> &n, int64_t number, T *memory, const T *positions, const T *directions)
        : n(n), first(number * n.sizes.block()),
          frames(std::min(n.sizes.block(), n.sizes.frames - first)), rows(frames * n.sizes.beads),
          before_output(memory + n.sizes.layers * Kept<T>::count(n) +
                        first * n.sizes.beads * n.half),
          pairs(frames) {
        for (int l = 0; l < n.sizes.layers; ++l)
            kept.emplace_back(n, memory, l, first * n.sizes.beads);
        const Grid<T> grid = n.sizes.template grid<T>();
        for (int64_t f = 0; f < frames; ++f) {
            const int64_t begin = (first + f) * 3 * n.sizes.beads;
            find_pairs(grid, n.sizes.beads, positions + begin,
                       directions ? directions + begin : nullptr, pairs[f]);
        }
    }

    // Call `function(convolution, a frame's first number in features)` for each frame.
    template <class Function> void convolve(int layer, Function function) const {
        for (int64_t f = 0; f < frames; ++f)
            function(Convolution<T>{pairs[f], n.layers[layer].table, n.sizes.filters, n.filters},
                     f * n.sizes.beads * n.filters);
    }
    const T *neighbours(int layer, int64_t at) const {
        return layer ? kept[layer].neighbours + at : static_cast<const T *>(n.first_neighbours);
    }
    // x of a layer's input.
    const T *features(int layer) const { return kept[layer - 1].features; }
};

// Activations of a block that no other pass needs; value and derivatives of those of each layer.
template <class T>
struct Activations {
    Array<T> after, slope, curvature;

    explicit Activations(size_t count) : after(count), slope(count), curvature(count) {}

    void evaluate(Activation activation, const T *before, size_t count) {
        for (size_t k = 0; k < count; k += Columns<T>::WIDTH) {
            decltype(load(before)) a, b, c;
            activation_at(activation, load(before + k), a, b, c);
            store(after + k, a);
            store(slope + k, b);
            store(curvature + k, c);
        }
    }
};

// ---- Energies and forces ----
template <class T>
struct Forth {
    const Network<T> &n;
    std::vector<Activations<T>> layers;
    Activations<T> output;
    Array<T> adjoint;

    explicit Forth(const Network<T> &n)
        : n(n), output(n.sizes.rows_of_block() * n.half),
          adjoint(n.sizes.rows_of_block() * n.hidden) {
        for (int l = 0; l < n.sizes.layers; ++l)
            layers.emplace_back(n.sizes.rows_of_block() * n.hidden);
    }

    void run(const Block<T> &block, T *energies, T *forces) {
        values(block, energies);
        adjoints(block, forces);
    }

    void values(const Block<T> &block, T *energies) {
        const int rows = block.rows;
        for (int l = 0; l < n.sizes.layers; ++l) {
            const Layer<T> &layer = n.layers[l];
            const Kept<T> &k = block.kept[l];
            if (l)
                multiply<T>(block.features(l), n.hidden, layer.to_filters.forward, k.neighbours,
                            rows);
            std::fill_n(k.summed, rows * n.filters, T(0));
            block.convolve(l, [&](const Convolution<T> &convolution, int64_t at) {
                convolution.forward(block.neighbours(l, at), k.summed + at);
            });
            multiply<T>(k.summed, n.filters, layer.inner.forward, k.before, rows);
            layers[l].evaluate(n.activation, k.before, size_t(rows) * n.hidden);
            if (l) std::copy_n(block.features(l), rows * n.hidden, k.features);
            for (int f = 0; l == 0 && f < block.frames; ++f)
                std::copy_n(static_cast<const T *>(n.embedded), n.sizes.beads * n.hidden,
                            k.features + f * n.sizes.beads * n.hidden);
            multiply<T>(layers[l].after, n.hidden, layer.outer.forward, k.features, rows, ADD);
        }
        multiply<T>(block.features(n.sizes.layers), n.hidden, n.output.forward,
                    block.before_output, rows);
        output.evaluate(n.activation, block.before_output, size_t(rows) * n.half);
        for (int f = 0; f < block.frames; ++f) {
            T sum = n.sizes.beads * n.last_bias;
            for (int row = f * n.sizes.beads; row < (f + 1) * n.sizes.beads; ++row)
                for (int c = 0; c < n.half; ++c) sum += output.after[row * n.half + c] * n.last[c];
            energies[f] = sum;
        }
    }

    void adjoints(const Block<T> &block, T *forces) {
        const int rows = block.rows, last = n.sizes.layers - 1;
        for (int row = 0; row < rows; ++row)
            for (int c = 0; c < n.half; ++c) output.slope[row * n.half + c] *= n.last[c];
        multiply<T>(output.slope, n.half, n.output.back, block.kept[last].of_update, rows);
        for (int l = last; l >= 0; --l) {
            const Layer<T> &layer = n.layers[l];
            const Kept<T> &k = block.kept[l];
            multiply<T>(k.of_update, n.hidden, layer.outer.back, k.of_after, rows);
            const T *slope = layers[l].slope;
            for (int c = 0; c < rows * n.hidden; ++c) adjoint[c] = k.of_after[c] * slope[c];
            multiply<T>(adjoint, n.hidden, layer.inner.back, k.of_summed, rows);
            std::fill_n(k.of_neighbours, rows * n.filters, T(0));
            block.convolve(l, [&](const Convolution<T> &convolution, int64_t at) {
                convolution.pull(block.neighbours(l, at), k.of_summed + at, k.of_neighbours + at,
                                 forces + at / n.filters * 3);
            });
            if (l == 0) break;  // the embedding does not depend on positions
            T *before = block.kept[l - 1].of_update;
            std::copy_n(k.of_update, rows * n.hidden, before);
            multiply<T>(k.of_neighbours, n.filters, layer.to_filters.back, before, rows, ADD);
        }
    }
};

// ---- The gradient ----

// The shape of each tensor of a network; sums of gradients have rows of `stride` numbers.
struct Shape {
    int64_t rows, columns, stride;
    Shape(int64_t rows, int64_t columns, bool pad = true)
        : rows(rows), columns(columns), stride(pad ? padded(columns) : columns) {}
};

std::vector<Shape> shapes(const Sizes &s) {
    std::vector<Shape> found = {{s.beads, s.hidden},
                                {s.layers * s.rows_of_table(), s.filters, false}};
    for (int l = 0; l < s.layers; ++l)
        found.insert(found.end(), {{s.filters, s.hidden}, {s.hidden, s.filters}, {1, s.hidden},
                                   {s.hidden, s.hidden}, {1, s.hidden}});
    found.insert(found.end(), {{s.half, s.hidden}, {1, s.half}, {1, s.half}, {1, 1}});
    return found;
}

// The gradient from one thread's frames.
template <class T>
struct Gradient {
    std::vector<Array<T>> sums;
    Array<T> of_first_neighbours;

    Gradient() = default;
    explicit Gradient(const Network<T> &n) : of_first_neighbours(n.sizes.beads * n.filters) {
        for (const Shape &shape : shapes(n.sizes)) sums.emplace_back(shape.rows * shape.stride);
    }
    T *of(int layer, OfLayer which) { return sums[tensor_of_layer(layer, which)]; }
};

template <class T>
void add_rows(const T *from, int rows, int width, T *sum) {
    for (int row = 0; row < rows; ++row)
        for (int c = 0; c < width; ++c) sum[c] += from[row * width + c];
}

// From the gradients g of energies and -v of forces: that of S = Σ g E + E', where E' is the
// derivative of Σ E along v.
template <class T>
struct Back {
    // Derivatives along v, of a layer's input and what it computes.
    struct Along {
        Array<T> features, neighbours, summed, before, after;
        Activations<T> activations;

        Along(size_t rows, int hidden, int filters)
            : features(rows * hidden), neighbours(rows * filters), summed(rows * filters),
              before(rows * hidden), after(rows * hidden), activations(rows * hidden) {}
    };

    const Network<T> &n;
    Gradient<T> &gradient;
    std::vector<Along> layers;
    Array<T> last_features, before_output, adjoint, of_before, of_energy_before, of_summed,
        of_neighbours, of_output, of_energy_output;
    Activations<T> output;

    Back(const Network<T> &n, Gradient<T> &gradient)
        : Back(n, gradient, n.sizes.rows_of_block()) {}
    Back(const Network<T> &n, Gradient<T> &gradient, size_t rows)
        : n(n), gradient(gradient), last_features(rows * n.hidden), before_output(rows * n.half),
          adjoint(rows * n.hidden), of_before(rows * n.hidden), of_energy_before(rows * n.hidden),
          of_summed(rows * n.filters), of_neighbours(rows * n.filters), of_output(rows * n.half),
          of_energy_output(rows * n.half), output(rows * n.half) {
        for (int l = 0; l < n.sizes.layers; ++l) layers.emplace_back(rows, n.hidden, n.filters);
    }

    void run(const Block<T> &block, const T *of_energies) {
        along(block);
        through_output(block, of_energies);
        for (int l = n.sizes.layers - 1; l >= 0; --l) through_layer(block, l);
    }

    void along(const Block<T> &block) {
        const int rows = block.rows;
        for (int l = 0; l < n.sizes.layers; ++l) {
            const Layer<T> &layer = n.layers[l];
            Along &t = layers[l];
            // The embedding does not depend on positions: the first layer's input has none.
            if (l)
                multiply<T>(t.features, n.hidden, layer.to_filters.forward, t.neighbours, rows);
            std::fill_n(static_cast<T *>(t.summed), rows * n.filters, T(0));
            block.convolve(l, [&](const Convolution<T> &convolution, int64_t at) {
                convolution.along(block.neighbours(l, at), t.neighbours + at, t.summed + at);
            });
            multiply<T>(t.summed, n.filters, layer.inner.forward, t.before, rows,
                        SET_WITHOUT_BIAS);
            t.activations.evaluate(n.activation, block.kept[l].before, size_t(rows) * n.hidden);
            const T *slope = t.activations.slope, *before = t.before;
            for (int c = 0; c < rows * n.hidden; ++c) t.after[c] = slope[c] * before[c];
            T *next = l + 1 < n.sizes.layers ? layers[l + 1].features : last_features;
            std::copy_n(static_cast<const T *>(t.features), rows * n.hidden, next);
            multiply<T>(t.after, n.hidden, layer.outer.forward, next, rows, ADD_WITHOUT_BIAS);
        }
        multiply<T>(last_features, n.hidden, n.output.forward, before_output, rows,
                    SET_WITHOUT_BIAS);
    }

    // The output, e = w · φ(O x + o) + c.
    void through_output(const Block<T> &block, const T *of_energies) {
        const int rows = block.rows;
        output.evaluate(n.activation, block.before_output, size_t(rows) * n.half);
        const int first = tensor_of_layer(n.sizes.layers, TO_FILTERS);
        T *of_last = gradient.sums[first + LAST];
        for (int row = 0; row < rows; ++row) {
            const T g = of_energies[row / n.sizes.beads];
            const size_t at = size_t(row) * n.half;
            for (int c = 0; c < n.half; ++c) {
                const T change = before_output[at + c], slope = output.slope[at + c];
                of_last[c] += slope * change + g * output.after[at + c];
                of_energy_output[at + c] = slope * n.last[c];
                of_output[at + c] = n.last[c] * (g * slope + output.curvature[at + c] * change);
            }
        }
        for (int f = 0; f < block.frames; ++f)
            gradient.sums[first + LAST_BIAS][0] += of_energies[f] * n.sizes.beads;
        T *of_weight = gradient.sums[first + WEIGHT];
        add_gradient<T>(of_output, n.half, n.sizes.half, block.features(n.sizes.layers), n.hidden,
                        rows, of_weight);
        add_gradient<T>(of_energy_output, n.half, n.sizes.half, last_features, n.hidden, rows,
                        of_weight);
        add_rows<T>(of_output, rows, n.half, gradient.sums[first + BIAS]);
        multiply<T>(of_output, n.half, n.output.back, adjoint, rows);
    }

    // From dS/dx of the layer's result, `adjoint`, to that of its input.
    void through_layer(const Block<T> &block, int l) {
        const int rows = block.rows, h = n.sizes.hidden, f = n.sizes.filters;
        const Layer<T> &layer = n.layers[l];
        const Kept<T> &k = block.kept[l];
        Along &t = layers[l];
        add_gradient<T>(adjoint, n.hidden, h, t.activations.after, n.hidden, rows,
                        gradient.of(l, OUTER));
        add_gradient<T>(k.of_update, n.hidden, h, t.after, n.hidden, rows, gradient.of(l, OUTER));
        add_rows<T>(adjoint, rows, n.hidden, gradient.of(l, OUTER_BIAS));

        multiply<T>(adjoint, n.hidden, layer.outer.back, of_before, rows);
        const T *slope = t.activations.slope, *curvature = t.activations.curvature;
        for (int c = 0; c < rows * n.hidden; ++c) {
            of_before[c] = of_before[c] * slope[c] + k.of_after[c] * curvature[c] * t.before[c];
            of_energy_before[c] = k.of_after[c] * slope[c];
        }
        add_gradient<T>(of_before, n.hidden, h, k.summed, n.filters, rows, gradient.of(l, INNER));
        add_gradient<T>(of_energy_before, n.hidden, h, t.summed, n.filters, rows,
                        gradient.of(l, INNER));
        add_rows<T>(of_before, rows, n.hidden, gradient.of(l, INNER_BIAS));

        multiply<T>(of_before, n.hidden, layer.inner.back, of_summed, rows);
        std::fill_n(static_cast<T *>(of_neighbours), rows * n.filters, T(0));
        T *of_table = gradient.sums[TABLES] + l * n.sizes.rows_of_table() * f;
        block.convolve(l, [&](const Convolution<T> &convolution, int64_t at) {
            convolution.back(block.neighbours(l, at), t.neighbours + at, of_summed + at,
                             k.of_summed + at, of_neighbours + at, of_table);
        });
        if (l == 0) return through_embedding(block);
        add_gradient<T>(of_neighbours, n.filters, f, block.features(l), n.hidden, rows,
                        gradient.of(l, TO_FILTERS));
        add_gradient<T>(k.of_neighbours, n.filters, f, t.features, n.hidden, rows,
                        gradient.of(l, TO_FILTERS));
        multiply<T>(of_neighbours, n.filters, layer.to_filters.back, adjoint, rows, ADD);
    }

    // All frames have the same input, so its adjoints are summed, and `finish` does the rest.
    void through_embedding(const Block<T> &block) {
        for (int f = 0; f < block.frames; ++f) {
            const int64_t row = f * n.sizes.beads;
            add_rows<T>(adjoint + row * n.hidden, 1, n.sizes.beads * n.hidden,
                        gradient.sums[EMBEDDED]);
            add_rows<T>(of_neighbours + row * n.filters, 1, n.sizes.beads * n.filters,
                        gradient.of_first_neighbours);
        }
    }

    void finish() {
        add_gradient<T>(gradient.of_first_neighbours, n.filters, n.sizes.filters, n.embedded,
                        n.hidden, n.sizes.beads, gradient.of(0, TO_FILTERS));
        multiply<T>(gradient.of_first_neighbours, n.filters, n.layers[0].to_filters.back,
                    gradient.sums[EMBEDDED], n.sizes.beads, ADD);
    }
};

// Call `function(part, first block, end)` for each part of the blocks, each in a thread.
template <class Function>
void each_part(const Sizes &s, Function function) {
    const int64_t parts = s.parts(), blocks = s.blocks();
#pragma omp parallel for schedule(static, 1) num_threads(parts)
    for (int64_t part = 0; part < parts; ++part)
        function(part, blocks * part / parts, blocks * (part + 1) / parts);
}

template <class T>
void evaluate(const Sizes &s, const T *const *parameters, const T *positions, T *kept,
              T *energies, T *forces) {
    const Network<T> n(s, parameters);
    std::fill_n(forces, s.frames * s.beads * 3, T(0));
    each_part(s, [&](int64_t, int64_t begin, int64_t end) {
        Forth<T> forth(n);
        for (int64_t number = begin; number < end; ++number) {
            const Block<T> block(n, number, kept, positions, nullptr);
            forth.run(block, energies + block.first, forces + block.first * s.beads * 3);
        }
    });
}

template <class T>
void differentiate(const Sizes &s, const T *const *parameters, const T *positions, T *kept,
                   const T *of_energies, const T *directions, T *const *gradients) {
    const Network<T> n(s, parameters);
    std::vector<Gradient<T>> found(s.parts());
    each_part(s, [&](int64_t part, int64_t begin, int64_t end) {
        found[part] = Gradient<T>(n);
        Back<T> back(n, found[part]);
        for (int64_t number = begin; number < end; ++number) {
            const Block<T> block(n, number, kept, positions, directions);
            back.run(block, of_energies + block.first);
        }
        back.finish();
    });
    const std::vector<Shape> all = shapes(s);
    for (size_t tensor = 0; tensor < all.size(); ++tensor) {
        const Shape &shape = all[tensor];
#pragma omp parallel for num_threads(s.parts()) if (shape.rows * shape.columns > 10000)
        for (int64_t row = 0; row < shape.rows; ++row)
            for (int64_t c = 0; c < shape.columns; ++c) {
                T sum = 0;
                for (const Gradient<T> &part : found)
                    sum += part.sums[tensor][row * shape.stride + c];
                gradients[tensor][row * shape.columns + c] = sum;
            }
    }
}

// Numbers that `evaluate` keeps for `differentiate`.
template <class T>
int64_t kept_numbers(const Sizes &s) {
    const int64_t of_layer = 4 * (padded(s.hidden) + padded(s.filters));
    return s.frames * s.beads * (s.layers * of_layer + padded(s.half));
}

}  // namespace

// In the order of `Tensor`: parameters and their gradients. Positions and forces are (B, N, 3),
// energies (B).
#define EXPORT(T)                                                                                 \
    extern "C" int64_t kept_##T(const Sizes *s) { return kept_numbers<T>(*s); }                   \
    extern "C" void evaluate_##T(const Sizes *s, const T *const *parameters, const T *positions,  \
                                 T *kept, T *energies, T *forces) {                               \
        evaluate(*s, parameters, positions, kept, energies, forces);                              \
    }                                                                                             \
    extern "C" void differentiate_##T(const Sizes *s, const T *const *parameters,                 \
                                      const T *positions, T *kept, const T *of_energies,          \
                                      const T *directions, T *const *gradients) {                 \
        differentiate(*s, parameters, positions, kept, of_energies, directions, gradients);       \
    }

EXPORT(float)
EXPORT(double)
