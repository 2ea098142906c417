// A peptide's force field and walkers, laid out as they are read. Units: nm, ps, kJ/mol, amu.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

// Rows of a block of the sweep over pairs, as many as the registers hold.
constexpr int ROWS = LANES == 16 ? 4 : 2;
// Coefficients of the series in 1/r² of a Born integral, at middle and at far distance.
constexpr int MIDDLE = 5, FAR = 3;

struct PeptideSizes {
    int32_t atoms, bonds, angles, torsions, clusters, remove_motion;
    float far;  // nm; from here on FAR coefficients do
};

struct Peptide {
    PeptideSizes sizes;
    size_t pairs;
    // (terms, atoms of a term) and (terms, parameters):
    std::vector<int32_t> bonds, angles, torsions, clusters;
    std::vector<float> bond_values, angle_values, torsion_values, cluster_values;
    std::vector<float> inverse_masses;  // 0: the atom keeps its place
    std::vector<float> masses;
    std::vector<float> pair_values;  // (pairs, 4): charges, Born energy, r^-12, r^-6
    std::vector<float> near;         // (pairs): squared distance up to which no series will do
    std::vector<float> middle, far;  // (atoms, 2, coefficients): integral and its slope
    std::vector<float> born;         // (atoms, 5), see peptide_pairs.h

    Peptide(const PeptideSizes &given, const float *floats, const int32_t *indices)
        : sizes(given), pairs(size_t(given.atoms) * (given.atoms - 1) / 2) {
        auto take = [&](auto &to, auto &from, size_t count) {
            to.assign(from, from + count);
            from += count;
        };
        const size_t n = sizes.atoms;
        take(bonds, indices, size_t(sizes.bonds) * 2);
        take(angles, indices, size_t(sizes.angles) * 3);
        take(torsions, indices, size_t(sizes.torsions) * 4);
        take(clusters, indices, size_t(sizes.clusters) * 5);
        take(bond_values, floats, size_t(sizes.bonds) * 2);
        take(angle_values, floats, size_t(sizes.angles) * 3);
        take(torsion_values, floats, size_t(sizes.torsions) * 7);
        take(cluster_values, floats, size_t(sizes.clusters) * 3);
        take(masses, floats, n);
        take(inverse_masses, floats, n);
        take(pair_values, floats, pairs * 4);
        take(near, floats, pairs);
        take(middle, floats, n * 2 * MIDDLE);
        take(far, floats, n * 2 * FAR);
        take(born, floats, n * 5);
    }
};

// Memory for vectors, in large pages where the system has them: the passes stream through it.
class Scratch {
  public:
    explicit Scratch(size_t vectors) {
        const size_t page = size_t(1) << 21, bytes = (vectors * 4 * LANES + page - 1) / page * page;
        memory = static_cast<float *>(std::aligned_alloc(page, bytes));
        if (!memory) std::abort();
#if defined(__linux__)
        madvise(memory, bytes, MADV_HUGEPAGE);
#endif
        std::memset(memory, 0, bytes);
    }
    ~Scratch() { std::free(memory); }
    Scratch(const Scratch &) = delete;
    float *take(size_t vectors) { return (used += vectors * LANES) - vectors * LANES + memory; }

  private:
    float *memory;
    size_t used = 0;
};

enum Term { BONDS, ANGLES, TORSIONS, PAIRS, SOLVENT, TERMS };

// What one thread needs for the LANES walkers of one vector.
struct Workspace {
    Scratch scratch;
    float *sums;         // (atoms): Born integrals, then dR/dsum
    float *radii;        // (atoms): Born radii R
    float *roots;        // (atoms): √(log2 e) / (2 R)
    float *slopes;       // (atoms): dE/dR, then dE/dsum
    float *of_pair;      // (pairs): r², then force / r
    float *chain;        // (pairs, 2): -(1/r) d(integral)/dr in both directions
    float *spare;        // (atoms, 3): forces that nobody asks for
    float *bias_forces;  // (beads, 3)
    const float *positions = nullptr;
    float *forces = nullptr;
    double energies[TERMS][LANES];

    explicit Workspace(const Peptide &p) : scratch(10 * size_t(p.sizes.atoms) + 3 * p.pairs) {
        const size_t n = p.sizes.atoms;
        sums = scratch.take(n);
        radii = scratch.take(n);
        roots = scratch.take(n);
        slopes = scratch.take(n);
        spare = scratch.take(3 * n);
        of_pair = scratch.take(p.pairs);
        chain = scratch.take(2 * p.pairs);
        bias_forces = scratch.take(3 * n);
    }

    void add_energy(Term term, vec value) {
        for (int lane = 0; lane < LANES; ++lane) energies[term][lane] += value[lane];
    }
};

}  // namespace
