// All pairs of atoms in three passes: Born integrals; Lennard-Jones, Coulomb and generalised Born;
// and the forces, with the chain rule through the Born radii (Onufriev, Bashford & Case 2004,
// doi 10.1002/prot.20033). Nothing is cut off. Exclusions and 1-4 pairs are in the pair table.

namespace {

// Numbers of an atom in Peptide::born.
enum { OFFSET_RADIUS, SCALED_RADIUS, RADIUS, SELF_ENERGY, SURFACE, BORN_VALUES };

// ---- First pass: Born integrals ----

// The integral over a sphere of radius s around the other atom, seen from an atom of radius o at
// distance r, and g = -(1/r) d(integral)/dr; at any distance, overlap included (Hawkins, Cramer &
// Truhlar 1996, doi 10.1021/jp961710n).
INLINE void born_general(vec r, vec inverse_r, float o, float s, vec &integral, vec &g) {
    const vec reach = r - s, lower = greater(all(o), absolute(reach)), upper = r + s;
    const vec w = inverse(lower * upper), inverse_l = upper * w, inverse_u = lower * w;
    const vec log = ln_of(lower * inverse_u), difference = inverse_l - inverse_u;
    const vec squares = difference * (inverse_l + inverse_u);
    const float s2 = s * s;
    integral = 0.5f * inverse_r * log + difference + 0.25f * squares * (s2 * inverse_r - r);
    // The atom lies within the other's sphere.
    const vec inside = 2.0f * (1.0f / o - inverse_l);
    integral = -reach > o ? integral + inside : integral;
    const vec inverse_r2 = inverse_r * inverse_r;
    g = inverse_r * (0.25f * squares * (s2 * inverse_r2 + 1.0f) + 0.5f * log * inverse_r2);
}

// Close pairs, in a function of their own: one pair in ten needs the logarithm.
__attribute__((noinline)) void born_near(vec r2, const float *one, const float *two,
                                         vec (&integral)[2], vec (&g)[2]) {
    const vec inverse_r = inverse_root(r2), r = r2 * inverse_r;
    born_general(r, inverse_r, one[OFFSET_RADIUS], two[SCALED_RADIUS], integral[0], g[0]);
    born_general(r, inverse_r, two[OFFSET_RADIUS], one[SCALED_RADIUS], integral[1], g[1]);
}

// Without overlap the integral is s³/r⁴ (2/3 · … ) as a power series in s²/r²; K coefficients, made
// for the least relative error, replace it.
template <int K>
INLINE void born_series(vec r2, const float *one, const float *two, vec &sum_one, vec &sum_two,
                        float *chain) {
    const vec q = inverse(r2), q2 = q * q, q3 = q2 * q;
    vec integral_one = all(two[K - 1]), integral_two = all(one[K - 1]);
    vec g_one = all(two[2 * K - 1]), g_two = all(one[2 * K - 1]);
    UNROLL for (int k = K - 2; k >= 0; --k) {
        integral_one = integral_one * q + two[k];
        integral_two = integral_two * q + one[k];
        g_one = g_one * q + two[K + k];
        g_two = g_two * q + one[K + k];
    }
    sum_one = integral_one * q2 + sum_one;
    sum_two = integral_two * q2 + sum_two;
    put(chain, 0, g_one * q3);
    put(chain, 1, g_two * q3);
}

// A pass over a block: N rows from `row` on against the columns from `begin` to before `end`. The
// pairs are numbered as `sweep` meets them.
struct BornIntegrals {
    template <int N>
    static INLINE void block(const Peptide &p, Workspace &w, size_t pair, int row, int begin,
                             int end) {
        const float far2 = p.sizes.far * p.sizes.far;
        Point x[N];
        vec sum[N];
        UNROLL for (int b = 0; b < N; ++b) x[b] = point(w.positions, row + b), sum[b] = vec{};
        for (int column = begin; column < end; ++column, pair += N) {
            const Point other = point(w.positions, column);
            vec sum_column = at(w.sums, column), r2[N], least;
            UNROLL for (int b = 0; b < N; ++b) {
                const Point d = x[b] - other;
                r2[b] = dot(d, d);
                put(w.of_pair, pair + b, r2[b]);
                least = b ? lesser(least, r2[b]) : r2[b];
            }
            const float *far_column = p.far.data() + 2 * FAR * column;
            const float *middle_column = p.middle.data() + 2 * MIDDLE * column;
            if (__builtin_expect(!any_below(least, all(far2)), 1)) {
                UNROLL for (int b = 0; b < N; ++b)
                    born_series<FAR>(r2[b], p.far.data() + 2 * FAR * (row + b), far_column, sum[b],
                                     sum_column, w.chain + 2 * LANES * (pair + b));
            } else {
                UNROLL for (int b = 0; b < N; ++b) {
                    float *chain = w.chain + 2 * LANES * (pair + b);
                    if (any_below(r2[b], all(p.near[pair + b]))) {
                        vec integral[2], g[2];
                        born_near(r2[b], p.born.data() + BORN_VALUES * (row + b),
                                  p.born.data() + BORN_VALUES * column, integral, g);
                        sum[b] += integral[0];
                        sum_column += integral[1];
                        put(chain, 0, g[0]);
                        put(chain, 1, g[1]);
                    } else {
                        born_series<MIDDLE>(r2[b], p.middle.data() + 2 * MIDDLE * (row + b),
                                            middle_column, sum[b], sum_column, chain);
                    }
                }
            }
            put(w.sums, column, sum_column);
        }
        UNROLL for (int b = 0; b < N; ++b) put(w.sums, row + b, at(w.sums, row + b) + sum[b]);
    }
};

// ---- Second pass: Lennard-Jones, Coulomb, generalised Born ----

// Leaves force / r of each pair where r² was, and R_i dE/dR_i of the pairs, up to a factor, in
// `slopes`. The factors in pair_values are such that no others are needed:
// charges / 8, 3/8 of the Born energy's, 12 A / 2^14 and 6 B / 2^8.
template <bool ENERGY>
struct PairForces {
    template <int N>
    static INLINE void block(const Peptide &p, Workspace &w, size_t pair, int row, int begin,
                             int end) {
        vec direct = {}, solvent = {}, slope[N], radius[N], root[N];
        UNROLL for (int b = 0; b < N; ++b) {
            slope[b] = vec{};
            radius[b] = at(w.radii, row + b);
            root[b] = -at(w.roots, row + b);
        }
        for (int column = begin; column < end; ++column) {
            vec slope_column = at(w.slopes, column);
            const vec radius_column = at(w.radii, column), root_column = at(w.roots, column);
            UNROLL for (int b = 0; b < N; ++b, ++pair) {
                const float *value = p.pair_values.data() + 4 * pair;
                const vec r2 = at(w.of_pair, pair), y = twice_inverse_root(r2), y2 = y * y;
                const vec y6 = y2 * y2 * y2;
                vec force = (value[2] * y6 - value[3]) * y6;
                force = (value[0] * y + force) * y2;
                // f² = r² + R R' exp(-r² / (4 R R'))
                const vec product = radius[b] * radius_column;
                const vec exponent = root[b] * root_column * r2, screen = exp2_of(exponent);
                const vec screened = product * screen, f2 = r2 + screened;
                const vec born = value[1] * two_thirds_inverse_cube(f2);
                put(w.of_pair, pair, born * (4.0f - screen) + force);
                const vec change = born * screened * (1.44269504f - exponent);
                slope[b] += change;
                slope_column += change;
                if (ENERGY) {
                    direct += y6 * (value[2] / 3 * y6 - value[3] * 2 / 3) + 4 * value[0] * y;
                    solvent += value[1] * 4 / 3 * twice_inverse_root(f2);
                }
            }
            put(w.slopes, column, slope_column);
        }
        if (ENERGY) {
            w.add_energy(PAIRS, direct);
            w.add_energy(SOLVENT, solvent);
        }
        UNROLL for (int b = 0; b < N; ++b) put(w.slopes, row + b, at(w.slopes, row + b) + slope[b]);
    }
};

// ---- Third pass: the chain rule, and the forces on the atoms ----

struct ChainRule {
    template <int N>
    static INLINE void block(const Peptide &p, Workspace &w, size_t pair, int row, int begin,
                             int end) {
        Point x[N], force[N];
        vec slope[N];
        UNROLL for (int b = 0; b < N; ++b) {
            x[b] = point(w.positions, row + b);
            force[b] = Point{};
            slope[b] = at(w.slopes, row + b);
        }
        for (int column = begin; column < end; ++column) {
            const Point other = point(w.positions, column);
            Point back = point(w.forces, column);
            const vec slope_column = at(w.slopes, column);
            UNROLL for (int b = 0; b < N; ++b, ++pair) {
                const vec strength = slope[b] * at(w.chain, 2 * pair) +
                    (slope_column * at(w.chain, 2 * pair + 1) + at(w.of_pair, pair));
                const Point push = strength * (x[b] - other);
                force[b] = force[b] + push;
                back = back - push;
            }
            put(w.forces, column, back);
        }
        UNROLL for (int b = 0; b < N; ++b) add(w.forces, row + b, force[b]);
    }
};

// All pairs i < j in blocks of ROWS rows: within the block, then the block against later atoms.
template <class Pass>
void sweep(const Peptide &p, Workspace &w) {
    const int atoms = p.sizes.atoms;
    size_t pair = 0;
    int row = 0;
    for (; row + ROWS <= atoms; row += ROWS) {
        for (int b = 0; b + 1 < ROWS; ++b) {
            Pass::template block<1>(p, w, pair, row + b, row + b + 1, row + ROWS);
            pair += ROWS - 1 - b;
        }
        Pass::template block<ROWS>(p, w, pair, row, row + ROWS, atoms);
        pair += size_t(ROWS) * (atoms - row - ROWS);
    }
    for (; row < atoms; ++row) {
        Pass::template block<1>(p, w, pair, row, row + 1, atoms);
        pair += atoms - row - 1;
    }
}

// Born radii from their integrals (OBC2: 1, 0.8, 4.85); `sums` becomes dR/dsum.
void born_radii(const Peptide &p, Workspace &w) {
    for (int atom = 0; atom < p.sizes.atoms; ++atom) {
        const float *born = p.born.data() + BORN_VALUES * atom;
        const float half = 0.5f * born[OFFSET_RADIUS], inverse_radius = 1 / born[RADIUS];
        const vec psi = half * at(w.sums, atom);
        const vec argument = psi * (psi * (4.85f * psi - 0.8f) + 1.0f);
        const vec power = exp2_of(lesser(argument, all(15.0f)) * (2 * 1.44269504f));
        const vec tanh = 1.0f - 2.0f * inverse(power + 1.0f);
        const vec radius = inverse(1 / born[OFFSET_RADIUS] - inverse_radius * tanh);
        put(w.radii, atom, radius);
        put(w.roots, atom, 0.5f * 1.20112241f * inverse(radius));
        const vec slope = psi * (3 * 4.85f * psi - 1.6f) + 1.0f;
        put(w.sums, atom, radius * radius * (1.0f - tanh * tanh) * slope * (half * inverse_radius));
    }
}

// dE/dsum of each atom into `slopes`: pairs, self energy and the surface term (ACE).
template <bool ENERGY>
void born_slopes(const Peptide &p, Workspace &w) {
    vec energy = {};
    for (int atom = 0; atom < p.sizes.atoms; ++atom) {
        const float *born = p.born.data() + BORN_VALUES * atom;
        const vec inverse_r = inverse(at(w.radii, atom)), inverse_r2 = inverse_r * inverse_r;
        const vec surface = born[SURFACE] * inverse_r2 * inverse_r2 * inverse_r2;
        const vec self = 0.5f * born[SELF_ENERGY] * inverse_r;
        const vec of_pairs = (-2 * 0.69314718f) * at(w.slopes, atom);
        put(w.slopes, atom, inverse_r * (of_pairs - self - 6.0f * surface) * at(w.sums, atom));
        if (ENERGY) energy += surface + self;
    }
    if (ENERGY) w.add_energy(SOLVENT, energy);
}

}  // namespace
