// The prior of model/prior_terms.py, and its gradient written out. All terms depend on positions by
// vectors between two beads; each gives its energy's gradient in its own vectors.

#include <cmath>
#include <cstdint>

namespace {

// Keeps the gradient of coinciding or collinear beads finite, where it has no direction.
constexpr float TINY = 1e-12f;
constexpr float SMALLEST_DISTANCE = 0.1f;  // as in model/prior_terms.py

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

    // Return the energy and add the forces.
    float evaluate() const { return bonds() + angles() + dihedrals() + repulsions(); }

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

    // d(cos θ)/da = (b - cos θ a |b| / |a|) / (|a| |b|)
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

    // dφ/db₁ = |b₂| n₁ / n₁², dφ/db₃ = |b₂| n₂ / n₂²; dφ/db₂ from invariance under rotation.
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
        for (int k = 0; k < p.repulsion.count; ++k) {
            const int32_t *bead = &p.repulsion.beads[2 * k];
            const Vector apart = between(bead[0], bead[1]);
            const float distance = dot(apart, apart), sigma = p.repulsion.values[k];
            constexpr float least = SMALLEST_DISTANCE * SMALLEST_DISTANCE;
            const float inverse = 1 / at_least(distance, least);
            const float square = sigma * sigma * inverse, term = square * square * square;
            energy += term;
            push(bead[0], bead[1], (distance < least ? 0.0f : -6 * term * inverse) * apart);
        }
        return energy;
    }
};

}  // namespace
