// What a potential is made of, laid out as it is read.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr int COEFFICIENTS = 4;  // of a cubic polynomial

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
    int32_t bonds, angles, dihedrals, repulsion;
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
    Term bonds, angles, dihedrals, repulsion;

    Potential(const Sizes &given, Reader reader)
        : sizes(given), hidden(padded(given.hidden)), filters(padded(given.filters)),
          half(padded(given.half)), chunk(filters % (4 * LANES) ? 2 * LANES : 4 * LANES),
          layers(given.layers) {
        if (sizes.layers) read_network(reader);
        bonds = Term(sizes.bonds, 2, 2, reader);
        angles = Term(sizes.angles, 3, 2, reader);
        dihedrals = Term(sizes.dihedrals, 4, 6, reader);
        repulsion = Term(sizes.repulsion, 2, 1, reader);
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

}  // namespace
