// One step of LangevinMiddle with constraints (V R O R, Zhang et al. 2019, doi
// 10.1021/acs.jpca.9b02771), as OpenMM takes it.

namespace {

// xoshiro128++ (Blackman & Vigna 2021, doi 10.1145/3460772), a stream of its own in each lane.
struct Random {
    bits state[4];

    explicit Random(const uint32_t *from) { std::memcpy(state, from, sizeof state); }
    void save(uint32_t *to) const { std::memcpy(to, state, sizeof state); }

    static INLINE bits rotated(bits x, int k) { return (x << k) | (x >> (32 - k)); }

    INLINE bits next() {
        const bits result = rotated(state[0] + state[3], 7) + state[0], t = state[1] << 9;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= t;
        state[3] = rotated(state[3], 11);
        return result;
    }

    // Two standard normal numbers per lane, by Box and Muller.
    INLINE void normals(vec &one, vec &two) {
        // 24 bits and a half, so in (0, 1): never the logarithm of zero.
        const vec uniform =
            (__builtin_convertvector((ints)(next() >> 8), vec) + 0.5f) * 0x1p-24f;
        const vec square = greater(-2.0f * ln_of(uniform), all(1e-12f));
        const vec radius = square * inverse_root(square);
        vec sine, cosine;
        sine_cosine(next(), sine, cosine);
        one = radius * cosine;
        two = radius * sine;
    }
};

struct Steps {
    int64_t count;
    float time_step, friction;
    int32_t average_every;  // after so many steps forces are added to the sums; 0: never
};

// What a step multiplies with; noise is √(kT (1 - damping²)) of each walker.
struct Scales {
    float time_step, inverse_time_step, damping;
    vec noise;
    const float *inverse_masses, *inverse_root_masses;
};

template <int K>
INLINE void invert(const vec (&a)[K][K], vec (&to)[K][K]) {
    if constexpr (K == 1) {
        to[0][0] = inverse(a[0][0]);
    } else if constexpr (K == 2) {
        const vec d = inverse(a[0][0] * a[1][1] - a[0][1] * a[1][0]);
        to[0][0] = d * a[1][1];
        to[1][1] = d * a[0][0];
        to[0][1] = -d * a[0][1];
        to[1][0] = -d * a[1][0];
    } else {
        vec cofactor[3][3];
        UNROLL for (int i = 0; i < 3; ++i)
            UNROLL for (int j = 0; j < 3; ++j) {
                const int r = (j + 1) % 3, s = (j + 2) % 3, t = (i + 1) % 3, u = (i + 2) % 3;
                cofactor[i][j] = a[r][t] * a[s][u] - a[r][u] * a[s][t];
            }
        const vec d = inverse(a[0][0] * cofactor[0][0] + a[0][1] * cofactor[1][0] +
                              a[0][2] * cofactor[2][0]);
        UNROLL for (int i = 0; i < 3; ++i)
            UNROLL for (int j = 0; j < 3; ++j) to[i][j] = d * cofactor[i][j];
    }
}

// A cluster: one atom and K others at fixed distances from it (K = 0: a free atom).
template <int K>
struct Cluster {
    static constexpr int M = K ? K : 1;  // arrays cannot be empty
    const Scales &s;
    const int32_t *atoms;
    float inverse_mass[K + 1];
    Point x[K + 1], v[K + 1], move[K + 1], bond[M];

    INLINE Cluster(const Scales &s, const int32_t *atoms, const float *positions,
                   const float *velocities)
        : s(s), atoms(atoms) {
        UNROLL for (int k = 0; k <= K; ++k) {
            x[k] = point(positions, atoms[k]);
            v[k] = point(velocities, atoms[k]);
            inverse_mass[k] = s.inverse_masses[atoms[k]];
        }
        UNROLL for (int k = 0; k < K; ++k) bond[k] = x[k + 1] - x[0];
    }

    INLINE float coupling(int k, int l) const {
        return k == l ? inverse_mass[0] + inverse_mass[k + 1] : inverse_mass[0];
    }

    // Take out the velocities along the bonds.
    INLINE void constrain_velocities() {
        vec a[M][M], m[M][M], along[M];
        UNROLL for (int k = 0; k < K; ++k) {
            along[k] = dot(bond[k], v[k + 1] - v[0]);
            UNROLL for (int l = 0; l < K; ++l) a[k][l] = coupling(k, l) * dot(bond[k], bond[l]);
        }
        invert<M>(a, m);
        UNROLL for (int k = 0; k < K; ++k) {
            vec multiplier = {};
            UNROLL for (int l = 0; l < K; ++l) multiplier -= m[k][l] * along[l];
            v[k + 1] = v[k + 1] + (inverse_mass[k + 1] * multiplier) * bond[k];
            v[0] = v[0] - (inverse_mass[0] * multiplier) * bond[k];
        }
    }

    // R O R: `move` is the way of both halves.
    INLINE void drift(const vec *normals) {
        UNROLL for (int k = 0; k <= K; ++k) {
            const vec noise = s.noise * s.inverse_root_masses[atoms[k]];
            const Point kicked = {s.damping * v[k].x + noise * normals[3 * k],
                                  s.damping * v[k].y + noise * normals[3 * k + 1],
                                  s.damping * v[k].z + noise * normals[3 * k + 2]};
            move[k] = all(0.5f * s.time_step) * (v[k] + kicked);
            v[k] = kicked;
        }
    }

    // Newton's method for the lengths, with the matrix of the first iteration: the error falls by
    // the square of the change of direction, so that four iterations reach float32.
    INLINE void constrain_positions(const float *lengths) {
        vec a[M][M], m[M][M], total[M];
        Point q[M];
        UNROLL for (int k = 0; k < K; ++k) {
            q[k] = bond[k] + (move[k + 1] - move[0]);
            total[k] = vec{};
        }
        UNROLL for (int k = 0; k < K; ++k)
            UNROLL for (int l = 0; l < K; ++l)
                a[k][l] = 2 * coupling(k, l) * dot(q[k], bond[l]);
        invert<M>(a, m);
        UNROLL for (int iteration = 0; iteration < 4; ++iteration) {
            vec missing[M], change[M];
            UNROLL for (int k = 0; k < K; ++k)
                missing[k] = lengths[k] * lengths[k] - dot(q[k], q[k]);
            UNROLL for (int k = 0; k < K; ++k) {
                change[k] = vec{};
                UNROLL for (int l = 0; l < K; ++l) change[k] += m[k][l] * missing[l];
                total[k] += change[k];
            }
            UNROLL for (int k = 0; k < K; ++k)
                UNROLL for (int l = 0; l < K; ++l)
                    q[k] = q[k] + (coupling(k, l) * change[l]) * bond[l];
        }
        UNROLL for (int k = 0; k < K; ++k) {
            const Point shift = total[k] * bond[k];
            move[k + 1] = move[k + 1] + all(inverse_mass[k + 1]) * shift;
            move[0] = move[0] - all(inverse_mass[0]) * shift;
            v[k + 1] = v[k + 1] + all(inverse_mass[k + 1] * s.inverse_time_step) * shift;
            v[0] = v[0] - all(inverse_mass[0] * s.inverse_time_step) * shift;
        }
    }

    INLINE void save(float *positions, float *velocities) const {
        UNROLL for (int k = 0; k <= K; ++k) {
            put(positions, atoms[k], x[k] + move[k]);
            put(velocities, atoms[k], v[k]);
        }
    }
};

// The largest is called, the others are part of the step: named here, since where the compiler
// decides, bits depend on how much other code the library has.
template <int K>
INLINE void advance(const Scales &s, const int32_t *atoms, const float *lengths, float *positions,
                    float *velocities, Random &random) {
    vec normals[3 * K + 4] = {};
    if (s.damping < 1)
        UNROLL for (int k = 0; k < 3 * K + 3; k += 2) random.normals(normals[k], normals[k + 1]);
    Cluster<K> cluster(s, atoms, positions, velocities);
    if constexpr (K > 0) cluster.constrain_velocities();
    cluster.drift(normals);
    if constexpr (K > 0) cluster.constrain_positions(lengths);
    cluster.save(positions, velocities);
}

NOT_INLINE void advance_largest(const Scales &s, const int32_t *atoms, const float *lengths,
                                float *positions, float *velocities, Random &random) {
    advance<3>(s, atoms, lengths, positions, velocities, random);
}

// The kick of the forces, without motion of the whole if the system asks for that.
void kick(const Peptide &p, const Scales &s, const float *forces, float *velocities) {
    Point motion = {};
    if (p.sizes.remove_motion) {
        double mass = 0;
        for (int atom = 0; atom < p.sizes.atoms; ++atom) {
            motion = motion + all(p.masses[atom]) * point(velocities, atom);
            mass += p.masses[atom];
        }
        motion = all(float(1 / mass)) * motion;
    }
    for (int atom = 0; atom < p.sizes.atoms; ++atom)
        put(velocities, atom, (point(velocities, atom) - motion) +
            all(s.time_step * p.inverse_masses[atom]) * point(forces, atom));
}

void step(const Peptide &p, const Scales &s, const float *forces, float *positions,
          float *velocities, Random &random) {
    kick(p, s, forces, velocities);
    for (int k = 0; k < p.sizes.clusters; ++k) {
        const int32_t *atoms = p.clusters.data() + 5 * k + 1;
        const float *lengths = p.cluster_values.data() + 3 * k;
        switch (atoms[-1]) {
            case 0: advance<0>(s, atoms, lengths, positions, velocities, random); break;
            case 1: advance<1>(s, atoms, lengths, positions, velocities, random); break;
            case 2: advance<2>(s, atoms, lengths, positions, velocities, random); break;
            default: advance_largest(s, atoms, lengths, positions, velocities, random);
        }
    }
}

}  // namespace
