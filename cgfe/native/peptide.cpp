// All-atom molecular dynamics of many walkers of one small peptide on the CPU, one walker in each
// lane of a vector: bonded terms, Lennard-Jones and Coulomb without cutoff, generalised Born
// (OBC2) with surface term, constrained hydrogens, LangevinMiddle.
//
// The arrays of LANES walkers lie together: (vector, atom, coordinate, lane). A thread takes the
// walkers of a vector through all steps of a call; vectors do not see each other, so no number
// depends on the threads or on how steps are cut into calls.

#if defined(CGFE_TIMING)
#include <ctime>
#endif

#include "vectors.h"
#include "lanes.h"
#include "peptide.h"
#include "peptide_pairs.h"
#include "peptide_bonded.h"
#include "peptide_step.h"
#include "peptide_bias.h"

namespace {

// State of all walkers; V vectors, A atoms.
struct Walkers {
    float *positions, *velocities, *forces;  // (V, A, 3, LANES)
    uint32_t *random;                        // (V, 4, LANES)
    const float *thermal;           // (V, LANES), kT
    double *energies;                        // (V, TERMS, LANES)
    double *force_sums;                      // (V, A, 3, LANES)
    double *bias;                            // (V, LANES)
    double *variables;                       // (V, 2, LANES), what the bias is a function of

    Walkers vector(const Peptide &p, size_t v) const {
        const size_t numbers = v * p.sizes.atoms * 3 * LANES;
        return {positions + numbers,
                velocities + numbers,
                forces + numbers,
                random + v * 4 * LANES,
                thermal + v * LANES,
                energies + v * TERMS * LANES,
                force_sums + numbers,
                bias + v * LANES,
                variables + v * 2 * LANES};
    }
};

// ---- Where the time goes, for benchmarks: nothing unless compiled with -DCGFE_TIMING ----

enum Pass { BONDED, BORN_RADII, PAIR_FORCES, CHAIN_RULE, STEP, PASSES };

#if defined(CGFE_TIMING)
thread_local double cpu_seconds[PASSES], last_mark;

// Adds this thread's time since the last mark to `pass`.
void mark(Pass pass) {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    const double seconds = now.tv_sec + 1e-9 * now.tv_nsec;
    cpu_seconds[pass] += seconds - last_mark;
    last_mark = seconds;
}
#else
void mark(Pass) {}
#endif

template <bool ENERGY>
void evaluate(const Peptide &p, Workspace &w) {
    const size_t line = 4 * LANES, atoms = p.sizes.atoms;
    if (ENERGY) std::memset(w.energies, 0, sizeof w.energies);
    std::memset(w.sums, 0, atoms * line);
    std::memset(w.slopes, 0, atoms * line);
    std::memset(w.forces, 0, 3 * atoms * line);
    bonds<ENERGY>(p, w);
    angles<ENERGY>(p, w);
    torsions<ENERGY>(p, w);
    mark(BONDED);
    sweep<BornIntegrals>(p, w);
    born_radii(p, w);
    mark(BORN_RADII);
    sweep<PairForces<ENERGY>>(p, w);
    born_slopes<ENERGY>(p, w);
    mark(PAIR_FORCES);
    sweep<ChainRule>(p, w);
    mark(CHAIN_RULE);
}

// Forces always come from the same instructions, so that their bits do not depend on whether
// energies are asked for: those are evaluated beside them.
void evaluate_with_energies(const Peptide &p, Workspace &w, const Walkers &to) {
    w.forces = w.spare;
    evaluate<true>(p, w);
    std::memcpy(to.energies, w.energies, sizeof w.energies);
    w.forces = to.forces;
    evaluate<false>(p, w);
}

void evaluate_bias(const Bias &bias, Workspace &w, const Walkers &to) {
    evaluate_bias(bias, to.positions, w.bias_forces, to.bias, to.variables);
}

void advance(const Peptide &p, Workspace &w, const Walkers &to, const Steps &steps,
             const Bias *bias, Scales s) {
    s.noise = load(to.thermal) * (1 - s.damping * s.damping);
    for (int lane = 0; lane < LANES; ++lane) s.noise[lane] = std::sqrt(s.noise[lane]);
    const size_t numbers = size_t(p.sizes.atoms) * 3 * LANES;
    Random random(to.random);
    if (bias) evaluate_bias(*bias, w, to);  // the table may be another than in the last call
    for (int64_t k = 1; k <= steps.count; ++k) {
        if (bias) kick_beads(*bias, s, w.bias_forces, to.velocities);
        step(p, s, to.forces, to.positions, to.velocities, random);
        mark(STEP);
        if (k < steps.count)
            evaluate<false>(p, w);
        else
            evaluate_with_energies(p, w, to);
        if (bias) evaluate_bias(*bias, w, to);
        if (steps.average_every && k % steps.average_every == 0)
            for (size_t i = 0; i < numbers; ++i) to.force_sums[i] += to.forces[i];
    }
    random.save(to.random);
}

template <class Action>
void for_vectors(const Peptide &p, const Walkers &walkers, int begin, int end, Action action) {
    const FlushToZero flush;
    Workspace w(p);
    for (int v = begin; v < end; ++v) {
        const Walkers of_vector = walkers.vector(p, v);
        w.positions = of_vector.positions;
        w.forces = of_vector.forces;
        action(w, of_vector);
    }
}

}  // namespace

extern "C" {

// How this library was compiled: what Python needs to lay out parameters and walkers.
void peptide_layout(int32_t *lanes, int32_t *rows, int32_t *middle, int32_t *far) {
    *lanes = LANES;
    *rows = ROWS;
    *middle = MIDDLE;
    *far = FAR;
}

void *peptide_new(const PeptideSizes *sizes, const float *parameters, const int32_t *indices) {
    return new Peptide(*sizes, parameters, indices);
}

void peptide_delete(void *peptide) { delete static_cast<Peptide *>(peptide); }

// Forces and energies at the positions of the vectors from begin to end; the bias may be null.
void peptide_evaluate(const void *peptide, const Walkers *walkers, const Bias *bias, int32_t begin,
                      int32_t end) {
    const Peptide &p = *static_cast<const Peptide *>(peptide);
    for_vectors(p, *walkers, begin, end, [&](Workspace &w, const Walkers &of_vector) {
        evaluate_with_energies(p, w, of_vector);
        if (bias) evaluate_bias(*bias, w, of_vector);
    });
}

// Some steps. Forces must be those at the positions, and are so after; a bias, if any, moves the
// atoms but is no part of them.
void peptide_advance(const void *peptide, const Walkers *walkers, const Steps *steps,
                     const Bias *bias, int32_t begin, int32_t end) {
    const Peptide &p = *static_cast<const Peptide *>(peptide);
    const float damping = std::exp(-steps->time_step * steps->friction);
    std::vector<float> inverse_roots(p.inverse_masses);
    for (float &value : inverse_roots) value = std::sqrt(value);
    const Scales scales = {steps->time_step, 1 / steps->time_step, damping, {},
                           p.inverse_masses.data(), inverse_roots.data()};
    for_vectors(p, *walkers, begin, end, [&](Workspace &w, const Walkers &of_vector) {
        advance(p, w, of_vector, *steps, bias, scales);
    });
}

// `count` pairs of vectors of normal numbers (count, 2, LANES), for tests.
void peptide_normals(uint32_t *random, int32_t count, float *to) {
    Random source(random);
    for (int k = 0; k < count; ++k) {
        vec one, two;
        source.normals(one, two);
        put(to, 2 * k, one);
        put(to, 2 * k + 1, two);
    }
    source.save(random);
}

#if defined(CGFE_TIMING)
// CPU seconds that this thread spent in each pass since the last call (PASSES).
void peptide_times(double *seconds) {
    std::memcpy(seconds, cpu_seconds, sizeof cpu_seconds);
    std::memset(cpu_seconds, 0, sizeof cpu_seconds);
    mark(STEP);
    cpu_seconds[STEP] = 0;
}
#endif

}  // extern "C"
