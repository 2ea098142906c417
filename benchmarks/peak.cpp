// The most float32 operations that a core can do: multiply-adds that depend on nothing but
// themselves, in registers. Vectors of both usual widths are tried, since which one is faster
// depends on the processor.
namespace {

constexpr int CHAINS = 12;  // enough to hide the latency, few enough for 16 registers

template <typename Vector>
float loop(long rounds) {
    Vector sums[CHAINS];
    // All different and none at the fixed point, 1: the compiler would leave such chains out.
    for (int k = 0; k < CHAINS; ++k) sums[k] = Vector{} + static_cast<float>(k + 2);
    Vector factor = Vector{} + 0.5f;
    for (long round = 0; round < rounds; ++round) {
        for (auto& sum : sums) sum = sum * factor + factor;
        asm volatile("" : "+r"(rounds));  // keeps the rounds from being merged
    }
    float total = 0;
    for (const auto& sum : sums) total += sum[0];
    return total;
}

typedef float Narrow __attribute__((vector_size(32)));
typedef float Wide __attribute__((vector_size(64)));

}  // namespace

extern "C" {
int chains() { return CHAINS; }
float narrow(long rounds) { return loop<Narrow>(rounds); }
float wide(long rounds) { return loop<Wide>(rounds); }
}
