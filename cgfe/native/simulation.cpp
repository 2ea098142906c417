// Energies, forces and Langevin steps of many replicas of one system on the CPU: the prior of
// prior_terms.py and a CGSchNet whose filters are tabulated.
//
// Replicas do not see each other, so a thread takes its replicas through many steps in one call.
// It takes a block of them at a time: enough beads to use each weight and table row that comes
// into a core's cache several times, few enough for their activations to stay there. No number
// depends on who shares a block, hence none on the threads or on how steps are cut into calls.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
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
constexpr int BLOCK_BEADS = 80;
constexpr int COEFFICIENTS = 4;        // of a cubic polynomial
constexpr float CLOSEST = 1e-12f;      // square of the least distance in the network
constexpr float TINY = 1e-12f;         // as in prior_forces.py
constexpr float SMALLEST_DISTANCE = 0.1f;  // as in prior_terms.py

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), may_alias));

int padded(int width) { return (width + PANEL - 1) / PANEL * PANEL; }

// Floats from zero on, at addresses that vectors can be loaded from.
class Floats {
  public:
    Floats() = default;
    explicit Floats(size_t size) : lines((size + LANES - 1) / LANES) {}
    operator float *() { return reinterpret_cast<float *>(lines.data()); }
    operator const float *() const { return reinterpret_cast<const float *>(lines.data()); }

  private:
    struct alignas(4 * LANES) Line { float values[LANES] = {}; };
    std::vector<Line> lines;
};

vec load(const float *from) { return *reinterpret_cast<const vec *>(from); }
void store(float *to, vec value) { *reinterpret_cast<vec *>(to) = value; }
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

// ---- Matrix products ----

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

// ---- What the potential is ----

// Reads the flat arrays that Python hands over, in its order.
struct Reader {
    const float *floats;
    const int32_t *indices;
    const float *take(size_t count) { return (floats += count) - count; }
    const int32_t *take_indices(size_t count) { return (indices += count) - count; }
};

struct Layer {
    Dense to_filters, to_filters_back, inner, inner_back, outer, outer_back;
    Floats table;
};

// K terms of one kind: `beads` (K, beads of a term) and `values` (K, parameters of a term).
struct Term {
    int count = 0;
    std::vector<int32_t> beads;
    std::vector<float> values;

    Term() = default;
    Term(int count, int of_beads, int of_values, Reader &reader) : count(count) {
        const int32_t *first = reader.take_indices(size_t(count) * of_beads);
        beads.assign(first, first + size_t(count) * of_beads);
        const float *value = reader.take(size_t(count) * of_values);
        values.assign(value, value + size_t(count) * of_values);
    }
};

struct Sizes {
    int32_t beads, layers, hidden, filters, half, intervals, activation;
    int32_t bonds, angles, dihedrals, repulsions;
    float cutoff;
};

struct Potential {
    Sizes sizes;
    int hidden, filters, half;  // with padding
    int chunk;                  // channels of a bead that are convolved together
    std::vector<Layer> layers;
    Floats embedded, first_neighbours;
    Dense output, output_back;
    Floats last;
    float last_bias = 0;
    Term bonds, angles, dihedrals, repulsions;

    Potential(const Sizes &given, Reader reader)
        : sizes(given), hidden(padded(given.hidden)), filters(padded(given.filters)),
          half(padded(given.half)), chunk(filters % (4 * LANES) ? 2 * LANES : 4 * LANES),
          layers(given.layers) {
        if (sizes.layers) read_network(reader);
        bonds = Term(sizes.bonds, 2, 2, reader);
        angles = Term(sizes.angles, 3, 2, reader);
        dihedrals = Term(sizes.dihedrals, 4, 6, reader);
        repulsions = Term(sizes.repulsions, 2, 1, reader);
    }

    void read_network(Reader &reader) {
        const int h = sizes.hidden, f = sizes.filters;
        embedded = rows(reader, sizes.beads, h, hidden);
        for (Layer &layer : layers) {
            const float *weight = reader.take(size_t(f) * h);
            layer.to_filters = Dense(weight, f, h, false);
            layer.to_filters_back = Dense(weight, f, h, true);
            linear(reader, layer.inner, layer.inner_back, h, f);
            linear(reader, layer.outer, layer.outer_back, h, h);
            layer.table = table(reader);
        }
        linear(reader, output, output_back, sizes.half, h);
        last = rows(reader, 1, sizes.half, half);
        last_bias = *reader.take(1);
        // The first layer's features depend on the bead type alone.
        first_neighbours = Floats(size_t(sizes.beads) * filters);
        multiply(embedded, hidden, layers[0].to_filters, first_neighbours, sizes.beads);
    }

    static Floats rows(Reader &reader, int count, int width, int padded_width) {
        Floats result(size_t(count) * padded_width);
        for (int row = 0; row < count; ++row)
            std::copy_n(reader.take(width), width, result + size_t(row) * padded_width);
        return result;
    }

    static void linear(Reader &reader, Dense &forward, Dense &back, int out, int in) {
        const float *weight = reader.take(size_t(out) * in);
        forward = Dense(weight, out, in, false);
        back = Dense(weight, out, in, true);
        std::copy_n(reader.take(out), out, static_cast<float *>(forward.bias));
    }

    // By chunk of channels, then interval, so that one chunk's table may stay in the cache, and
    // what one pair needs is one piece of memory.
    Floats table(Reader &reader) const {
        Floats result(size_t(sizes.intervals) * COEFFICIENTS * filters);
        for (int row = 0; row < sizes.intervals * COEFFICIENTS; ++row) {
            const float *values = reader.take(sizes.filters);
            for (int c = 0; c < sizes.filters; ++c)
                result[chunk_of_table(c / chunk) + size_t(row) * chunk + c % chunk] = values[c];
        }
        return result;
    }
    size_t chunk_of_table(int number) const {
        return size_t(number) * sizes.intervals * COEFFICIENTS * chunk;
    }
};

// ---- The network ----

// Beads closer than the cutoff: the later bead, and where in the table the distance lies.
struct Pair {
    int32_t second, interval;
    float right, x, y, z, inverse;
};

struct Replica {
    std::vector<Pair> pairs;       // by first bead
    std::vector<int32_t> begins;   // of each bead's pairs
    Floats pulls;                  // dE/dd per interval: a vector for each pair, to be summed
    Floats coordinates;            // all x, all y, all z
};

// Activations of a block of replicas; y and the slopes are kept of each layer for the way back.
struct Workspace {
    int block;
    std::vector<Replica> replicas;
    std::vector<Floats> neighbours, slopes;
    Floats features, wide, summed, back, output, output_slopes;
    Floats noise;

    explicit Workspace(const Potential &p)
        : block(std::max(1, BLOCK_BEADS / p.sizes.beads)), replicas(block) {
        const size_t beads = p.sizes.beads, rows = block * beads, most = beads * (beads - 1) / 2;
        noise = Floats(3 * beads + 2 * 16);
        if (!p.sizes.layers) return;
        for (Replica &replica : replicas) {
            replica.pairs.resize(most);
            replica.begins.resize(beads + 1);
            replica.pulls = Floats(most * LANES);
            replica.coordinates = Floats(3 * (beads + LANES));
        }
        for (int layer = 0; layer < p.sizes.layers; ++layer) {
            neighbours.emplace_back(layer ? rows * p.filters : 0);
            slopes.emplace_back(rows * p.hidden);
        }
        features = Floats(rows * p.hidden);
        wide = Floats(rows * p.hidden);
        summed = Floats(rows * p.filters);
        back = Floats(rows * p.filters);
        output = Floats(rows * p.half);
        output_slopes = Floats(rows * p.half);
    }
};

void find_pairs(const Potential &p, const float *positions, Replica &replica) {
    const int beads = p.sizes.beads, stride = beads + LANES;
    const float per_length = p.sizes.intervals / p.sizes.cutoff;
    float *x = replica.coordinates, *y = x + stride, *z = y + stride;
    for (int bead = 0; bead < beads; ++bead) {
        x[bead] = positions[3 * bead];
        y[bead] = positions[3 * bead + 1];
        z[bead] = positions[3 * bead + 2];
    }
    Pair *next = replica.pairs.data();
    for (int i = 0; i < beads; ++i) {
        replica.begins[i] = int32_t(next - replica.pairs.data());
        for (int j = i + 1; j < beads; ++j) {
            const float dx = x[j] - x[i], dy = y[j] - y[i], dz = z[j] - z[i];
            const float square = dx * dx + dy * dy + dz * dz;
            const float distance = std::sqrt(square < CLOSEST ? CLOSEST : square);
            // A distance that is not a number is kept, for its energy to show it.
            if (distance >= p.sizes.cutoff) continue;
            const float scaled = distance * per_length;
            const int interval = scaled < p.sizes.intervals ? int(scaled) : p.sizes.intervals - 1;
            *next++ = {j, interval, scaled - interval, dx, dy, dz, 1 / distance};
        }
    }
    const size_t found = next - replica.pairs.data();
    replica.begins[beads] = int32_t(found);
    std::fill_n(static_cast<float *>(replica.pulls), found * LANES, 0.0f);
}

// summed_i = Σ_j W_ij y_j of one chunk of VECTORS vectors of channels.
template <int VECTORS>
void convolve(const Replica &replica, int beads, const float *table, const float *y, float *summed,
              int stride) {
    constexpr int CHUNK = VECTORS * LANES;
    for (int i = 0; i < beads; ++i) {
        vec own[VECTORS], sum[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            own[v] = load(y + size_t(i) * stride + v * LANES);
            sum[v] = load(summed + size_t(i) * stride + v * LANES);
        }
        for (int at = replica.begins[i]; at < replica.begins[i + 1]; ++at) {
            const Pair &pair = replica.pairs[at];
            const float *c = table + size_t(pair.interval) * COEFFICIENTS * CHUNK;
            const float *other = y + size_t(pair.second) * stride;
            float *others_sum = summed + size_t(pair.second) * stride;
            const vec t = all(pair.right);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v, c += LANES) {
                vec w = load(c + 3 * CHUNK) * t + load(c + 2 * CHUNK);
                w = w * t + load(c + CHUNK);
                w = w * t + load(c);
                sum[v] += w * load(other + v * LANES);
                store(others_sum + v * LANES, load(others_sum + v * LANES) + w * own[v]);
            }
        }
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) store(summed + size_t(i) * stride + v * LANES, sum[v]);
    }
}

// From the gradient g in the sums: the pull W'_ij (y_j g_i + y_i g_j) of each pair and, if DEEP,
// the gradient in y, back_i = Σ_j W_ij g_j.
template <int VECTORS, bool DEEP>
void convolve_back(Replica &replica, int beads, const float *table, const float *y,
                   const float *g, float *back, int stride) {
    constexpr int CHUNK = VECTORS * LANES;
    for (int i = 0; i < beads; ++i) {
        vec own_y[VECTORS], own_g[VECTORS], sum[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            own_y[v] = load(y + size_t(i) * stride + v * LANES);
            own_g[v] = load(g + size_t(i) * stride + v * LANES);
            if (DEEP) sum[v] = load(back + size_t(i) * stride + v * LANES);
        }
        for (int at = replica.begins[i]; at < replica.begins[i + 1]; ++at) {
            const Pair &pair = replica.pairs[at];
            const float *c = table + size_t(pair.interval) * COEFFICIENTS * CHUNK;
            const float *other_y = y + size_t(pair.second) * stride;
            const float *other_g = g + size_t(pair.second) * stride;
            float *others_back = back + size_t(pair.second) * stride;
            const vec t = all(pair.right), twice = 2 * t, thrice = 3 * t * t;
            vec pull = load(replica.pulls + size_t(at) * LANES);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v, c += LANES) {
                const vec c1 = load(c + CHUNK), c2 = load(c + 2 * CHUNK), c3 = load(c + 3 * CHUNK);
                const vec gradient = load(other_g + v * LANES);
                const vec both = load(other_y + v * LANES) * own_g[v] + own_y[v] * gradient;
                pull += (c1 + twice * c2 + thrice * c3) * both;
                if (DEEP) {
                    const vec w = load(c) + t * (c1 + t * (c2 + t * c3));
                    sum[v] += w * gradient;
                    float *to = others_back + v * LANES;
                    store(to, load(to) + w * own_g[v]);
                }
            }
            store(replica.pulls + size_t(at) * LANES, pull);
        }
        if (DEEP) {
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) store(back + size_t(i) * stride + v * LANES, sum[v]);
        }
    }
}

// The network of a block of replicas, added to energies (count) and forces (count, N, 3).
class Network {
  public:
    Network(const Potential &p, Workspace &w, int count)
        : p(p), w(w), count(count), rows(count * p.sizes.beads),
          activation(Activation(p.sizes.activation)) {}

    void evaluate(const float *positions, float *energies, float *forces) {
        for (int r = 0; r < count; ++r)
            find_pairs(p, positions + size_t(3) * p.sizes.beads * r, w.replicas[r]);
        forward(energies);
        backward();
        for (int r = 0; r < count; ++r) add_forces(r, forces + size_t(3) * p.sizes.beads * r);
    }

  private:
    const Potential &p;
    Workspace &w;
    const int count, rows;
    const Activation activation;

    const float *neighbours(int layer, int replica) const {
        if (layer == 0) return p.first_neighbours;
        return w.neighbours[layer] + size_t(replica) * p.sizes.beads * p.filters;
    }

    // Call `function(replica, chunk of the table, first value of the replica, first channel)`.
    template <class Function> void each_chunk(int layer, Function function) {
        for (int channel = 0; channel < p.filters; channel += p.chunk)
            for (int r = 0; r < count; ++r)
                function(r, p.layers[layer].table + p.chunk_of_table(channel / p.chunk),
                         size_t(r) * p.sizes.beads * p.filters + channel, channel);
    }

    void forward(float *energies) {
        for (int r = 0; r < count; ++r)
            std::copy_n(static_cast<const float *>(p.embedded), size_t(p.sizes.beads) * p.hidden,
                        w.features + size_t(r) * p.sizes.beads * p.hidden);
        for (int l = 0; l < p.sizes.layers; ++l) {
            const Layer &layer = p.layers[l];
            if (l) multiply(w.features, p.hidden, layer.to_filters, w.neighbours[l], rows);
            std::fill_n(static_cast<float *>(w.summed), size_t(rows) * p.filters, 0.0f);
            auto *function = p.chunk == 4 * LANES ? convolve<4> : convolve<2>;
            each_chunk(l, [&](int r, const float *table, size_t begin, int channel) {
                function(w.replicas[r], p.sizes.beads, table, neighbours(l, r) + channel,
                         w.summed + begin, p.filters);
            });
            multiply(w.summed, p.filters, layer.inner, w.wide, rows);
            activate(activation, w.wide, w.slopes[l], size_t(rows) * p.hidden);
            multiply(w.wide, p.hidden, layer.outer, w.features, rows, true);
        }
        multiply(w.features, p.hidden, p.output, w.output, rows);
        activate(activation, w.output, w.output_slopes, size_t(rows) * p.half);
        for (int r = 0; r < count; ++r) energies[r] += energy(r);
    }

    float energy(int replica) const {
        const float *after = w.output + size_t(replica) * p.sizes.beads * p.half;
        vec sum = {};
        for (int bead = 0; bead < p.sizes.beads; ++bead)
            for (int k = 0; k < p.half; k += LANES)
                sum += load(after + size_t(bead) * p.half + k) * load(p.last + k);
        return sum_of(sum) + p.sizes.beads * p.last_bias;
    }

    void backward() {
        for (int row = 0; row < rows; ++row)
            for (int k = 0; k < p.half; k += LANES) {
                const size_t at = size_t(row) * p.half + k;
                store(w.output + at, load(p.last + k) * load(w.output_slopes + at));
            }
        multiply(w.output, p.half, p.output_back, w.features, rows);
        for (int l = p.sizes.layers - 1; l >= 0; --l) {
            const Layer &layer = p.layers[l];
            multiply(w.features, p.hidden, layer.outer_back, w.wide, rows);
            for (size_t k = 0; k < size_t(rows) * p.hidden; k += LANES)
                store(w.wide + k, load(w.wide + k) * load(w.slopes[l] + k));
            multiply(w.wide, p.hidden, layer.inner_back, w.summed, rows);
            if (l) std::fill_n(static_cast<float *>(w.back), size_t(rows) * p.filters, 0.0f);
            const bool four = p.chunk == 4 * LANES;
            auto *function = l ? (four ? convolve_back<4, true> : convolve_back<2, true>)
                               : (four ? convolve_back<4, false> : convolve_back<2, false>);
            each_chunk(l, [&](int r, const float *table, size_t begin, int channel) {
                function(w.replicas[r], p.sizes.beads, table, neighbours(l, r) + channel,
                         w.summed + begin, w.back + begin, p.filters);
            });
            if (l) multiply(w.back, p.filters, layer.to_filters_back, w.features, rows, true);
        }
    }

    void add_forces(int number, float *forces) const {
        const Replica &replica = w.replicas[number];
        const float per_length = p.sizes.intervals / p.sizes.cutoff;
        for (int i = 0; i < p.sizes.beads; ++i)
            for (int at = replica.begins[i]; at < replica.begins[i + 1]; ++at) {
                const Pair &pair = replica.pairs[at];
                const float pull = sum_of(load(replica.pulls + size_t(at) * LANES)) * per_length;
                const float vector[3] = {pair.x, pair.y, pair.z};
                for (int axis = 0; axis < 3; ++axis) {
                    const float part = pull * pair.inverse * vector[axis];
                    forces[3 * i + axis] += part;
                    forces[3 * pair.second + axis] -= part;
                }
            }
    }
};

// ---- The prior: the formulas of prior_forces.py ----

struct Vector {
    float x, y, z;
};
Vector operator-(Vector a, Vector b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
Vector operator*(float s, Vector a) { return {s * a.x, s * a.y, s * a.z}; }
float dot(Vector a, Vector b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
Vector cross(Vector a, Vector b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
float at_least(float value, float least) { return value < least ? least : value; }  // keeps a NaN

class Prior {
  public:
    Prior(const Potential &p, const float *positions, float *forces)
        : p(p), positions(positions), forces(forces) {}

    float evaluate() const {
        return bonds() + angles() + dihedrals() + repulsions();
    }

  private:
    const Potential &p;
    const float *positions;
    float *forces;

    Vector between(int start, int end) const { return at(end) - at(start); }
    Vector at(int bead) const {
        return {positions[3 * bead], positions[3 * bead + 1], positions[3 * bead + 2]};
    }
    // Add the force of an energy with this gradient in the vector from `start` to `end`.
    void push(int start, int end, Vector gradient) const {
        const float parts[3] = {gradient.x, gradient.y, gradient.z};
        for (int axis = 0; axis < 3; ++axis) {
            forces[3 * start + axis] += parts[axis];
            forces[3 * end + axis] -= parts[axis];
        }
    }

    float bonds() const {
        float energy = 0;
        for (int k = 0; k < p.bonds.count; ++k) {
            const int32_t *bead = &p.bonds.beads[2 * k];
            const Vector bond = between(bead[0], bead[1]);
            const float length = std::sqrt(dot(bond, bond));
            const float stretch = length - p.bonds.values[2 * k];
            const float force = p.bonds.values[2 * k + 1] * stretch;
            energy += 0.5f * force * stretch;
            push(bead[0], bead[1], (force / at_least(length, TINY)) * bond);
        }
        return energy;
    }

    float angles() const {
        float energy = 0;
        constexpr float least = SMALLEST_DISTANCE * SMALLEST_DISTANCE;
        for (int k = 0; k < p.angles.count; ++k) {
            const int32_t *bead = &p.angles.beads[3 * k];
            const Vector a = between(bead[1], bead[0]), b = between(bead[1], bead[2]);
            const float aa = dot(a, a), bb = dot(b, b), lengths = std::sqrt(aa * bb);
            const float bounded = at_least(lengths, least), cosine = dot(a, b) / bounded;
            const float off = cosine - p.angles.values[2 * k];
            const float force = p.angles.values[2 * k + 1] * off;
            energy += 0.5f * force * off;
            // Below the bound the cosine does not depend on the lengths.
            const float inner = lengths >= least ? force * cosine : 0.0f;
            push(bead[1], bead[0], (force / bounded) * b - (inner / at_least(aa, TINY)) * a);
            push(bead[1], bead[2], (force / bounded) * a - (inner / at_least(bb, TINY)) * b);
        }
        return energy;
    }

    float dihedrals() const {
        float energy = 0;
        for (int k = 0; k < p.dihedrals.count; ++k) {
            const int32_t *bead = &p.dihedrals.beads[4 * k];
            const Vector a = between(bead[0], bead[1]), b = between(bead[1], bead[2]),
                         c = between(bead[2], bead[3]);
            const Vector normal_1 = cross(a, b), normal_2 = cross(b, c);
            const float square = dot(b, b), length = std::sqrt(square);
            const float across = length * dot(a, normal_2), along = dot(normal_1, normal_2);
            float slope;
            energy += fourier(&p.dihedrals.values[6 * k], across, along, slope);
            const float torque = slope * length;
            const Vector of_a = (torque / at_least(dot(normal_1, normal_1), TINY)) * normal_1;
            const Vector of_c = (torque / at_least(dot(normal_2, normal_2), TINY)) * normal_2;
            const float per_square = 1 / at_least(square, TINY);
            push(bead[0], bead[1], of_a);
            push(bead[1], bead[2],
                 (-dot(a, b) * per_square) * of_a - (dot(c, b) * per_square) * of_c);
            push(bead[2], bead[3], of_c);
        }
        return energy;
    }

    // Σ_m a_m cos mφ + b_m sin mφ and its slope in φ, the angle of (along, across).
    static float fourier(const float *values, float across, float along, float &slope) {
        // In double, where no square of a float is too large or too small.
        const double radius = std::sqrt(double(across) * across + double(along) * along);
        const bool defined = !(radius == 0);  // otherwise φ = 0, without a gradient
        const float cosine = defined ? float(along / radius) : 1.0f;
        const float sine = defined ? float(across / radius) : 0.0f;
        float energy = 0, c = 1, s = 0;
        slope = 0;
        for (int m = 1; m <= 3; ++m) {
            const float next = c * cosine - s * sine;
            s = s * cosine + c * sine;
            c = next;
            energy += values[m - 1] * c + values[m + 2] * s;
            slope += m * (values[m + 2] * c - values[m - 1] * s);
        }
        if (!defined) slope = 0;
        return energy;
    }

    float repulsions() const {
        float energy = 0;
        for (int k = 0; k < p.repulsions.count; ++k) {
            const int32_t *bead = &p.repulsions.beads[2 * k];
            const Vector apart = between(bead[0], bead[1]);
            const float distance = dot(apart, apart), sigma = p.repulsions.values[k];
            constexpr float least = SMALLEST_DISTANCE * SMALLEST_DISTANCE;
            const float inverse = 1 / at_least(distance, least);
            const float square = sigma * sigma * inverse, term = square * square * square;
            energy += term;
            push(bead[0], bead[1], (distance < least ? 0.0f : -6 * term * inverse) * apart);
        }
        return energy;
    }
};

void evaluate(const Potential &p, Workspace &w, const float *positions, float *energies,
              float *forces, int count) {
    const size_t numbers = size_t(3) * p.sizes.beads;
    std::fill_n(forces, count * numbers, 0.0f);
    for (int r = 0; r < count; ++r)
        energies[r] = Prior(p, positions + r * numbers, forces + r * numbers).evaluate();
    if (p.sizes.layers) Network(p, w, count).evaluate(positions, energies, forces);
}

// ---- Dynamics ----

// Philox4x32-10 (Salmon et al. 2011) of 16 counters at once: the words (4, 16) of `step` and
// `replica`, from word 64 `part` on.
void philox(uint64_t seed, uint64_t step, uint32_t replica, uint32_t part, uint32_t (*word)[16]) {
    uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
    for (uint32_t k = 0; k < 16; ++k) {
        word[0][k] = uint32_t(step);
        word[1][k] = uint32_t(step >> 32);
        word[2][k] = replica;
        word[3][k] = 16 * part + k;
    }
    for (int round = 0; round < 10; ++round) {
#pragma omp simd
        for (int k = 0; k < 16; ++k) {
            const uint64_t a = uint64_t(word[0][k]) * 0xD2511F53u;
            const uint64_t b = uint64_t(word[2][k]) * 0xCD9E8D57u;
            word[0][k] = uint32_t(b >> 32) ^ word[1][k] ^ key[0];
            word[1][k] = uint32_t(b);
            word[2][k] = uint32_t(a >> 32) ^ word[3][k] ^ key[1];
            word[3][k] = uint32_t(a);
        }
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
}

// Standard normal numbers by Box and Muller, at least `count`, 32 at a time.
void normals(uint64_t seed, uint64_t step, uint32_t replica, int count, float *to) {
    alignas(64) uint32_t word[4][16];
    for (int done = 0; done < count; done += 32) {
        const int pair = done / 32 % 2;
        if (pair == 0) philox(seed, step, replica, done / 64, word);
        for (int k = 0; k < 16; k += LANES) {
            const bits one = *reinterpret_cast<const bits *>(word[2 * pair] + k);
            const bits two = *reinterpret_cast<const bits *>(word[2 * pair + 1] + k);
            // In (0, 1]: never the logarithm of zero.
            const vec uniform = __builtin_convertvector(one, vec) * 0x1p-32f + 0x1p-33f;
            vec radius = -2.0f * log_of(uniform > 1.0f ? all(1.0f) : uniform), sine, cosine;
            for (int lane = 0; lane < LANES; ++lane) radius[lane] = std::sqrt(radius[lane]);
            sine_cosine(two, sine, cosine);
            store(to + done + k, radius * cosine);
            store(to + done + 16 + k, radius * sine);
        }
    }
}

struct Dynamics {
    float half_step, damping;
    uint64_t seed, first_step;
    int32_t steps;
};

// V R O R of one replica; the second V needs the new forces. Without friction there is no noise.
void move(const Dynamics &d, uint64_t step, uint32_t replica, int numbers, const float *kick,
          const float *noise_scale, const float *forces, float *positions, float *velocities,
          float *noise) {
    if (d.damping < 1) normals(d.seed, step, replica, numbers, noise);
#pragma omp simd
    for (int k = 0; k < numbers; ++k) {
        float v = velocities[k] + forces[k] * kick[k];
        positions[k] += d.half_step * v;
        v = d.damping * v + noise[k] * noise_scale[k];
        positions[k] += d.half_step * v;
        velocities[k] = v;
    }
}

}  // namespace

extern "C" {

void *potential_new(const Sizes *sizes, const float *parameters, const int32_t *indices) {
    return new Potential(*sizes, {parameters, indices});
}

void potential_delete(void *potential) { delete static_cast<Potential *>(potential); }

// Energies (R) and forces (R, N, 3) at positions (R, N, 3) of the replicas from begin to end.
void potential_evaluate(const void *potential, const float *positions, float *energies,
                        float *forces, int32_t begin, int32_t end) {
    const Potential &p = *static_cast<const Potential *>(potential);
    Workspace w(p);
    const size_t numbers = size_t(3) * p.sizes.beads;
    for (int r = begin; r < end; r += w.block)
        evaluate(p, w, positions + r * numbers, energies + r, forces + r * numbers,
                 std::min(w.block, end - r));
}

// Take the replicas from begin to end through some BAOAB steps. Forces are those at the positions
// before and after; kick and noise_scale (N, 3) multiply forces and noise.
void potential_advance(const void *potential, const Dynamics *dynamics, const float *kick,
                       const float *noise_scale, float *positions, float *velocities,
                       float *energies, float *forces, int32_t begin, int32_t end) {
    const Potential &p = *static_cast<const Potential *>(potential);
    const Dynamics &d = *dynamics;
    Workspace w(p);
    const size_t numbers = size_t(3) * p.sizes.beads;
    for (int first = begin; first < end; first += w.block) {
        const int last = std::min(first + w.block, end);
        for (int step = 0; step < d.steps; ++step) {
            for (int r = first; r < last; ++r)
                move(d, d.first_step + step, r, numbers, kick, noise_scale, forces + r * numbers,
                     positions + r * numbers, velocities + r * numbers, w.noise);
            evaluate(p, w, positions + first * numbers, energies + first, forces + first * numbers,
                     last - first);
            for (int r = first; r < last; ++r)
                for (size_t k = 0; k < numbers; ++k)
                    velocities[r * numbers + k] += forces[r * numbers + k] * kick[k];
        }
    }
}

}  // extern "C"
