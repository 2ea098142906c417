// Bonds, angles and torsions.

namespace {

template <bool ENERGY>
void bonds(const Peptide &p, Workspace &w) {
    vec energy = {};
    for (int k = 0; k < p.sizes.bonds; ++k) {
        const int one = p.bonds[2 * k], two = p.bonds[2 * k + 1];
        const float length = p.bond_values[2 * k], stiffness = p.bond_values[2 * k + 1];
        const Point d = point(w.positions, one) - point(w.positions, two);
        const vec r2 = dot(d, d), inverse_r = inverse_root(r2), change = r2 * inverse_r - length;
        const Point force = (-stiffness * change * inverse_r) * d;
        add(w.forces, one, force);
        put(w.forces, two, point(w.forces, two) - force);
        if (ENERGY) energy += 0.5f * stiffness * change * change;
    }
    if (ENERGY) w.add_energy(BONDS, energy);
}

// The angle with this sine and cosine, up to 1.3, far beyond what an angle leaves its rest by.
INLINE vec angle_of(vec sine, vec cosine) {
    const vec half = sine * inverse_root(2.0f + 2.0f * cosine), y = half * half;  // sin(angle / 2)
    vec p = 5.876726e-2f * y + 1.283624e-2f;
    p = p * y + 4.814274e-2f;
    p = p * y + 7.470556e-2f;
    p = p * y + 1.666745963e-1f;
    return 2.0f * (p * y * half + half);
}

template <bool ENERGY>
void angles(const Peptide &p, Workspace &w) {
    vec energy = {};
    for (int k = 0; k < p.sizes.angles; ++k) {
        const int32_t *atoms = p.angles.data() + 3 * k;
        const float *rest = p.angle_values.data() + 3 * k;  // cos, sin, stiffness
        const Point middle = point(w.positions, atoms[1]);
        Point a = point(w.positions, atoms[0]) - middle, b = point(w.positions, atoms[2]) - middle;
        const vec inverse_a = inverse_root(dot(a, a)), inverse_b = inverse_root(dot(b, b));
        a = inverse_a * a;
        b = inverse_b * b;
        const vec cosine = dot(a, b), sine2 = greater(1.0f - cosine * cosine, all(1e-8f));
        const vec inverse_sine = inverse_root(sine2), sine = sine2 * inverse_sine;
        const vec change = angle_of(sine * rest[0] - cosine * rest[1],
                                    cosine * rest[0] + sine * rest[1]);  // θ - θ0
        const vec torque = rest[2] * change * inverse_sine;
        const Point on_a = (torque * inverse_a) * (b - cosine * a);
        const Point on_b = (torque * inverse_b) * (a - cosine * b);
        add(w.forces, atoms[0], on_a);
        add(w.forces, atoms[2], on_b);
        put(w.forces, atoms[1], point(w.forces, atoms[1]) - on_a - on_b);
        if (ENERGY) energy += 0.5f * rest[2] * change * change;
    }
    if (ENERGY) w.add_energy(ANGLES, energy);
}

// Energies are polynomials of cos φ, since phases are 0 or π (Blondel & Karplus 1996,
// doi 10.1002/(SICI)1096-987X(19960715)17:9<1132::AID-JCC5>3.0.CO;2-T, for the forces).
template <bool ENERGY>
void torsions(const Peptide &p, Workspace &w) {
    vec energy = {};
    for (int k = 0; k < p.sizes.torsions; ++k) {
        const int32_t *atoms = p.torsions.data() + 4 * k;
        const float *power = p.torsion_values.data() + 7 * k;
        const Point second = point(w.positions, atoms[1]), third = point(w.positions, atoms[2]);
        const Point f = point(w.positions, atoms[0]) - second, g = second - third;
        const Point h = point(w.positions, atoms[3]) - third, a = cross(f, g), b = cross(h, g);
        const vec a2 = dot(a, a), b2 = dot(b, b), g2 = dot(g, g), inverse_g = inverse_root(g2);
        const vec inverse_ab = inverse_root(a2 * b2), cosine = dot(a, b) * inverse_ab;
        const vec sine = dot(cross(b, a), g) * inverse_g * inverse_ab;
        vec slope = all(6 * power[6]);
        UNROLL for (int m = 5; m > 0; --m) slope = slope * cosine + m * power[m];
        slope = slope * sine;  // dE/dφ
        const vec inverse_a2 = inverse(a2), inverse_b2 = inverse(b2), length = g2 * inverse_g;
        const Point first = (-slope * length * inverse_a2) * a;
        const Point last = (slope * length * inverse_b2) * b;
        const Point shift = (slope * dot(f, g) * inverse_g * inverse_a2) * a -
            (slope * dot(h, g) * inverse_g * inverse_b2) * b;
        add(w.forces, atoms[0], first);
        add(w.forces, atoms[3], last);
        add(w.forces, atoms[1], shift - first);
        put(w.forces, atoms[2], point(w.forces, atoms[2]) - shift - last);
        if (ENERGY) {
            vec u = all(power[6]);
            UNROLL for (int m = 5; m >= 0; --m) u = u * cosine + power[m];
            energy += u;
        }
    }
    if (ENERGY) w.add_energy(TORSIONS, energy);
}

}  // namespace
