// Random numbers that depend on seed, step and replica alone.

#include <cmath>
#include <cstdint>

namespace {

// Philox4x32-10 (Salmon et al. 2011) of 16 counters at once: the words (4, 16) of `step` and
// `replica`, from word 64 `part` on.
void philox(uint64_t seed, uint64_t step, uint32_t replica, uint32_t part, uint32_t (*word)[16]) {
    uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
    for (uint32_t k = 0; k < 16; ++k) {
        word[0][k] = uint32_t(step);
        word[1][k] = uint32_t(step >> 32);
        word[2][k] = replica;
        word[3][k] = 16 * part + k;
    }
    for (int round = 0; round < 10; ++round) {
#pragma omp simd
        for (int k = 0; k < 16; ++k) {
            const uint64_t a = uint64_t(word[0][k]) * 0xD2511F53u;
            const uint64_t b = uint64_t(word[2][k]) * 0xCD9E8D57u;
            word[0][k] = uint32_t(b >> 32) ^ word[1][k] ^ key[0];
            word[1][k] = uint32_t(b);
            word[2][k] = uint32_t(a >> 32) ^ word[3][k] ^ key[1];
            word[3][k] = uint32_t(a);
        }
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
}

// Standard normal numbers by Box and Muller, at least `count`, 32 at a time.
void normals(uint64_t seed, uint64_t step, uint32_t replica, int count, float *to) {
    alignas(64) uint32_t word[4][16];
    for (int done = 0; done < count; done += 32) {
        const int pair = done / 32 % 2;
        if (pair == 0) philox(seed, step, replica, done / 64, word);
        for (int k = 0; k < 16; k += LANES) {
            const bits one = *reinterpret_cast<const bits *>(word[2 * pair] + k);
            const bits two = *reinterpret_cast<const bits *>(word[2 * pair + 1] + k);
            // In (0, 1]: never the logarithm of zero.
            const vec uniform = __builtin_convertvector(one, vec) * 0x1p-32f + 0x1p-33f;
            vec radius = -2.0f * log_of(uniform > 1.0f ? all(1.0f) : uniform), sine, cosine;
            for (int lane = 0; lane < LANES; ++lane) radius[lane] = std::sqrt(radius[lane]);
            sine_cosine(two, sine, cosine);
            store(to + done + k, radius * cosine);
            store(to + done + 16 + k, radius * sine);
        }
    }
}

}  // namespace
