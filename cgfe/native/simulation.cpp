// Energies, forces and Langevin steps of many replicas of one system on the CPU: the prior of
// model/prior_terms.py and a CGSchNet whose filters are tabulated.
//
// Replicas do not see each other, so a thread takes its replicas through many steps in one call.
// It takes a block of them at a time: enough beads to use each weight and table row that comes
// into a core's cache several times, few enough for their activations to stay there. No number
// depends on who shares a block, hence none on the threads or on how steps are cut into calls.

#include "vectors.h"
#include "dense.h"
#include "potential.h"
#include "network.h"
#include "prior.h"
#include "noise.h"

namespace {

void evaluate(const Potential &p, Workspace &w, const float *positions, float *energies,
              float *forces, int count) {
    const size_t numbers = size_t(3) * p.sizes.beads;
    std::fill_n(forces, count * numbers, 0.0f);
    for (int r = 0; r < count; ++r)
        energies[r] = Prior(p, positions + r * numbers, forces + r * numbers).evaluate();
    if (p.sizes.layers) Network(p, w, count).evaluate(positions, energies, forces);
}

struct Dynamics {
    float half_step, damping;
    uint64_t seed, first_step;
    int32_t steps;
};

// V R O R of one replica; the second V needs the new forces. Without friction there is no noise,
// whose scale grows with the root of the replica's temperature, `heat`.
void move(const Dynamics &d, uint64_t step, uint32_t replica, int numbers, const float *kick,
          const float *noise_scale, float heat, const float *forces, float *positions,
          float *velocities, float *noise) {
    if (d.damping < 1) normals(d.seed, step, replica, numbers, noise);
#pragma omp simd
    for (int k = 0; k < numbers; ++k) {
        float v = velocities[k] + forces[k] * kick[k];
        positions[k] += d.half_step * v;
        v = d.damping * v + noise[k] * (noise_scale[k] * heat);
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
// before and after; kick and noise_scale (N, 3) multiply forces and noise, heat (R) noise too.
void potential_advance(const void *potential, const Dynamics *dynamics, const float *kick,
                       const float *noise_scale, const float *heat, float *positions,
                       float *velocities, float *energies, float *forces, int32_t begin,
                       int32_t end) {
    const Potential &p = *static_cast<const Potential *>(potential);
    const Dynamics &d = *dynamics;
    Workspace w(p);
    const size_t numbers = size_t(3) * p.sizes.beads;
    for (int first = begin; first < end; first += w.block) {
        const int last = std::min(first + w.block, end);
        for (int step = 0; step < d.steps; ++step) {
            for (int r = first; r < last; ++r)
                move(d, d.first_step + step, r, numbers, kick, noise_scale, heat[r],
                     forces + r * numbers, positions + r * numbers, velocities + r * numbers,
                     w.noise);
            evaluate(p, w, positions + first * numbers, energies + first, forces + first * numbers,
                     last - first);
            for (int r = first; r < last; ++r)
                for (size_t k = 0; k < numbers; ++k)
                    velocities[r * numbers + k] += forces[r * numbers + k] * kick[k];
        }
    }
}

}  // extern "C"
