// The network: a CGSchNet with tabulated filters, and its gradient written out.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

// Beads of a block of replicas. From 10 to 320 the speed differed by 3 % at most.
constexpr int BLOCK_BEADS = 80;
constexpr float CLOSEST = 1e-12f;  // square of the least distance, as in the network

// Beads closer than the cutoff: the later bead, and where in the table the distance lies.
struct Pair {
    int32_t second, interval;
    float right, x, y, z, inverse;
};

struct Replica {
    std::vector<Pair> pairs;      // by first bead
    std::vector<int32_t> begins;  // of each bead's pairs
    Floats pulls;                 // dE/dd per interval: a vector for each pair, to be summed
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

// Fill in a replica's pairs; nothing pulls on them yet.
void find_pairs(const Potential &p, const float *positions, Replica &replica) {
    const int beads = p.sizes.beads;
    const float per_length = p.sizes.intervals / p.sizes.cutoff;
    Pair *next = replica.pairs.data();
    for (int i = 0; i < beads; ++i) {
        replica.begins[i] = int32_t(next - replica.pairs.data());
        for (int j = i + 1; j < beads; ++j) {
            const float x = positions[3 * j] - positions[3 * i];
            const float y = positions[3 * j + 1] - positions[3 * i + 1];
            const float z = positions[3 * j + 2] - positions[3 * i + 2];
            const float square = x * x + y * y + z * z;
            const float distance = std::sqrt(square < CLOSEST ? CLOSEST : square);
            // A distance that is not a number is kept, for its energy to show it.
            if (distance >= p.sizes.cutoff) continue;
            const float scaled = distance * per_length;
            const int interval = scaled < p.sizes.intervals ? int(scaled) : p.sizes.intervals - 1;
            *next++ = {j, interval, scaled - interval, x, y, z, 1 / distance};
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
            activate<float>(activation, w.wide, w.slopes[l], size_t(rows) * p.hidden);
            multiply(w.wide, p.hidden, layer.outer, w.features, rows, ADD);
        }
        multiply(w.features, p.hidden, p.output, w.output, rows);
        activate<float>(activation, w.output, w.output_slopes, size_t(rows) * p.half);
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
            if (l) multiply(w.back, p.filters, layer.to_filters_back, w.features, rows, ADD);
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

}  // namespace
