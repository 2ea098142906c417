// A bias on two functions of a few atoms (beads), from a table that all walkers share:
//     s_k = Σ_pairs w_pk r_p, and where there is a reference s_0 is the RMSD to it beside.
// Its forces are kept apart from those of the force field.

namespace {

struct Bias {
    int32_t beads, pairs;
    int32_t points[2];
    double lowest[2], spacing[2];  // of the table in each variable
    const int32_t *atoms;          // (beads)
    const double *reference;       // (beads, 3), nm, its centre at the origin; null: no RMSD
    const int32_t *ends;           // (pairs, 2), beads
    const double *weights;         // (pairs, 2)
    // (4, points[1], points[0]): V, dV/ds_0, dV/ds_1, d²V/ds_0 ds_1, per spacing
    const double *table;
};

// Variables need more digits than float has: RMSD and TICs are small differences.
typedef double doubles __attribute__((vector_size(8 * LANES), may_alias));
struct WidePoint {
    doubles x[3];
};

INLINE doubles root(doubles x) {
    double values[LANES];
    std::memcpy(values, &x, sizeof values);
    for (int lane = 0; lane < LANES; ++lane) values[lane] = std::sqrt(values[lane]);
    std::memcpy(&x, values, sizeof values);
    return x;
}

INLINE WidePoint wide_point(const float *positions, int atom) {
    WidePoint to;
    UNROLL for (int c = 0; c < 3; ++c)
        to.x[c] = __builtin_convertvector(at(positions, 3 * atom + c), doubles);
    return to;
}

// One of Jacobi's rotations of a symmetric matrix, which makes a[P][Q] vanish.
template <int P, int Q>
INLINE void rotate(doubles (&a)[4][4], doubles (&vectors)[4][4]) {
    const doubles d = a[Q][Q] - a[P][P], b = 2.0 * a[P][Q], length = root(d * d + b * b);
    const doubles t = (d < 0 ? -b : b) / ((d < 0 ? -d : d) + length + 1e-300);
    const doubles c = 1.0 / root(1.0 + t * t), s = t * c;
    a[P][P] -= t * a[P][Q];
    a[Q][Q] += t * a[P][Q];
    a[P][Q] = a[Q][P] = doubles{};
    UNROLL for (int k = 0; k < 4; ++k) {
        if (k != P && k != Q) {
            const doubles one = a[k][P], two = a[k][Q];
            a[k][P] = a[P][k] = c * one - s * two;
            a[k][Q] = a[Q][k] = s * one + c * two;
        }
        const doubles one = vectors[k][P], two = vectors[k][Q];
        vectors[k][P] = c * one - s * two;
        vectors[k][Q] = s * one + c * two;
    }
}

// How the reference lies best on the beads.
struct Superposition {
    WidePoint centre;
    doubles rotation[3][3], rmsd;
};

// By the greatest eigenvalue of a matrix of quaternions (Horn 1987, doi 10.1364/JOSAA.4.000629).
INLINE Superposition superposed(const Bias &bias, const float *positions) {
    Superposition to;
    to.centre = {};
    for (int k = 0; k < bias.beads; ++k) {
        const WidePoint p = wide_point(positions, bias.atoms[k]);
        UNROLL for (int c = 0; c < 3; ++c) to.centre.x[c] += p.x[c];
    }
    UNROLL for (int c = 0; c < 3; ++c) to.centre.x[c] *= 1.0 / bias.beads;
    doubles m[3][3] = {}, squares = {};
    for (int k = 0; k < bias.beads; ++k) {
        const WidePoint p = wide_point(positions, bias.atoms[k]);
        const double *r = bias.reference + 3 * k;
        UNROLL for (int c = 0; c < 3; ++c) {
            const doubles x = p.x[c] - to.centre.x[c];
            squares += x * x + r[c] * r[c];
            UNROLL for (int d = 0; d < 3; ++d) m[d][c] += r[d] * x;
        }
    }
    doubles a[4][4], v[4][4] = {};
    a[0][0] = m[0][0] + m[1][1] + m[2][2];
    a[1][1] = m[0][0] - m[1][1] - m[2][2];
    a[2][2] = m[1][1] - m[0][0] - m[2][2];
    a[3][3] = m[2][2] - m[0][0] - m[1][1];
    a[0][1] = a[1][0] = m[1][2] - m[2][1];
    a[0][2] = a[2][0] = m[2][0] - m[0][2];
    a[0][3] = a[3][0] = m[0][1] - m[1][0];
    a[1][2] = a[2][1] = m[0][1] + m[1][0];
    a[1][3] = a[3][1] = m[2][0] + m[0][2];
    a[2][3] = a[3][2] = m[1][2] + m[2][1];
    UNROLL for (int k = 0; k < 4; ++k) v[k][k] += 1.0;
    // Rotations converge quadratically; six rounds leave nothing of any matrix of this size.
    for (int round = 0; round < 6; ++round) {
        rotate<0, 1>(a, v);
        rotate<2, 3>(a, v);
        rotate<0, 2>(a, v);
        rotate<1, 3>(a, v);
        rotate<0, 3>(a, v);
        rotate<1, 2>(a, v);
    }
    doubles greatest = a[0][0], q[4] = {v[0][0], v[1][0], v[2][0], v[3][0]};
    UNROLL for (int k = 1; k < 4; ++k) {
        UNROLL for (int l = 0; l < 4; ++l) q[l] = a[k][k] > greatest ? v[l][k] : q[l];
        greatest = a[k][k] > greatest ? a[k][k] : greatest;
    }
    UNROLL for (int k = 0; k < 3; ++k) {
        const int l = (k + 1) % 3, n = (k + 2) % 3;
        to.rotation[k][k] = q[0] * q[0] + q[k + 1] * q[k + 1] - q[l + 1] * q[l + 1] -
            q[n + 1] * q[n + 1];
        to.rotation[k][l] = 2.0 * (q[k + 1] * q[l + 1] - q[0] * q[n + 1]);
        to.rotation[l][k] = 2.0 * (q[k + 1] * q[l + 1] + q[0] * q[n + 1]);
    }
    // A place right on the reference has no gradient; 1e-12 nm² is 1e-5 Å.
    const doubles square = (squares - 2.0 * greatest) * (1.0 / bias.beads);
    to.rmsd = root(square > 1e-12 ? square : doubles{} + 1e-12);
    return to;
}

INLINE Point difference(const Bias &bias, int pair, const float *positions) {
    const int32_t *ends = bias.ends + 2 * pair;
    return point(positions, bias.atoms[ends[0]]) - point(positions, bias.atoms[ends[1]]);
}

// The distance of a pair in double, by one of Newton's steps from that in float.
INLINE doubles distance(const Bias &bias, int pair, const float *positions) {
    const int32_t *ends = bias.ends + 2 * pair;
    const WidePoint p = wide_point(positions, bias.atoms[ends[0]]);
    const WidePoint q = wide_point(positions, bias.atoms[ends[1]]);
    doubles square = doubles{} + 1e-12;
    UNROLL for (int c = 0; c < 3; ++c) square += (p.x[c] - q.x[c]) * (p.x[c] - q.x[c]);
    const doubles guess = __builtin_convertvector(
        inverse_root(__builtin_convertvector(square, vec)), doubles);
    const doubles r = square * guess;
    return r + 0.5 * guess * (square - r * r);
}

// Cubic Hermite interpolation on one axis: what to multiply value [0] and slope [1] with at the
// points `first` and `first` + 1, and the derivatives of that. Beyond its ends the table goes on
// with what it has there: the bias is a function of the variable clamped to the table. A bias that
// fell to zero would have a step that no force tells of, and frames' weights would be wrong.
struct Cubic {
    int first;
    double weights[2][2], slopes[2][2];

    Cubic(double place, int points) {
        const double end = points - 1;
        const bool inside = place > 0 && place < end;  // neither of a place that is no number
        place = !(place > 0) ? 0 : place < end ? place : end;
        first = place < end - 1 ? int(place) : points - 2;
        const double t = place - first, u = 1 - t, slope = inside;
        weights[0][0] = (1 + 2 * t) * u * u;
        weights[0][1] = t * u * u;
        weights[1][0] = (1 + 2 * u) * t * t;
        weights[1][1] = -u * t * t;
        slopes[0][0] = -6 * t * u * slope;
        slopes[0][1] = u * (1 - 3 * t) * slope;
        slopes[1][0] = 6 * t * u * slope;
        slopes[1][1] = t * (3 * t - 2) * slope;
    }
};

// V and its gradient at a place (2) of the variables.
struct Surface {
    double value = 0, slopes[2] = {0, 0};

    Surface(const Bias &bias, double first, double second) {
        const Cubic x((first - bias.lowest[0]) / bias.spacing[0], bias.points[0]);
        const Cubic y((second - bias.lowest[1]) / bias.spacing[1], bias.points[1]);
        const size_t row = bias.points[0], plane = row * bias.points[1];
        for (int j = 0; j < 2; ++j)
            for (int i = 0; i < 2; ++i) {
                const double *at = bias.table + (y.first + j) * row + x.first + i;
                for (int n = 0; n < 2; ++n)
                    for (int m = 0; m < 2; ++m) {
                        const double f = at[(2 * n + m) * plane];
                        value += x.weights[i][m] * y.weights[j][n] * f;
                        slopes[0] += x.slopes[i][m] * y.weights[j][n] * f;
                        slopes[1] += x.weights[i][m] * y.slopes[j][n] * f;
                    }
            }
        for (int k = 0; k < 2; ++k) slopes[k] /= bias.spacing[k];
    }
};

// Bias energies (LANES), variables (2, LANES) and forces (beads, 3) of one vector of walkers. Never
// inlined: the same instructions run wherever it is called, so that no bit depends on how steps
// are cut into calls.
NOT_INLINE void evaluate_bias(const Bias &bias, const float *positions, float *forces,
                              double *energies, double *variables) {
    doubles s[2] = {};
    Superposition best;
    if (bias.reference) {
        best = superposed(bias, positions);
        s[0] = best.rmsd;
    }
    for (int pair = 0; pair < bias.pairs; ++pair) {
        const doubles r = distance(bias, pair, positions);
        UNROLL for (int k = 0; k < 2; ++k) s[k] += bias.weights[2 * pair + k] * r;
    }
    std::memcpy(variables, s, sizeof s);
    double slopes[2][LANES];
    for (int lane = 0; lane < LANES; ++lane) {
        const Surface surface(bias, variables[lane], variables[LANES + lane]);
        energies[lane] = surface.value;
        for (int k = 0; k < 2; ++k) slopes[k][lane] = surface.slopes[k];
    }
    doubles pull[2];  // -dV/ds
    std::memcpy(pull, slopes, sizeof pull);
    UNROLL for (int k = 0; k < 2; ++k) pull[k] = -pull[k];
    std::memset(forces, 0, size_t(bias.beads) * 3 * 4 * LANES);
    if (bias.reference) {
        const doubles scale = pull[0] / (best.rmsd * double(bias.beads));
        for (int bead = 0; bead < bias.beads; ++bead) {
            const WidePoint p = wide_point(positions, bias.atoms[bead]);
            const double *r = bias.reference + 3 * bead;
            UNROLL for (int c = 0; c < 3; ++c) {
                doubles away = p.x[c] - best.centre.x[c];
                UNROLL for (int d = 0; d < 3; ++d) away -= best.rotation[c][d] * r[d];
                put(forces, 3 * bead + c, __builtin_convertvector(scale * away, vec));
            }
        }
    }
    const vec narrow[2] = {__builtin_convertvector(pull[0], vec),
                           __builtin_convertvector(pull[1], vec)};
    for (int pair = 0; pair < bias.pairs; ++pair) {
        const Point d = difference(bias, pair, positions);
        const float one = bias.weights[2 * pair], two = bias.weights[2 * pair + 1];
        const vec inverse_r = inverse_root(greater(dot(d, d), all(1e-12f)));
        const Point force = ((one * narrow[0] + two * narrow[1]) * inverse_r) * d;
        const int32_t *ends = bias.ends + 2 * pair;
        add(forces, ends[0], force);
        put(forces, ends[1], point(forces, ends[1]) - force);
    }
}

// The bias' share of a kick. Its forces add up to nothing, so the motion of the whole, which the
// other share takes out, is not touched.
NOT_INLINE void kick_beads(const Bias &bias, const Scales &s, const float *forces,
                           float *velocities) {
    for (int bead = 0; bead < bias.beads; ++bead) {
        const int atom = bias.atoms[bead];
        add(velocities, atom,
            all(s.time_step * s.inverse_masses[atom]) * point(forces, bead));
    }
}

}  // namespace
