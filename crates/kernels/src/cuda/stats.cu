// Statistics of a batch at one site, added to those of a window: integers in `counts`, sums in `sums`. The layout is that of
// `stats/device.rs`. Sums of floats have a fixed order, so a window has the same bits each time.
#include "activation.cuh"
#include "threads.cuh"

enum { ZEROS, NEGATIVES, NEAR_ZEROS, NANS, INFINITE, FLAT_LOW, FLAT_HIGH, MIN, MAX, COUNTED, ACTIVE, MIN_ACTIVE, MAX_ACTIVE, ALL_ZERO, SCORED, BINS };
enum { SHIFT, POWERS, POPULATION = POWERS + 4, HOYER, UNITS };
static constexpr unsigned MAGNITUDES = 258;
static constexpr unsigned SMALLEST = 107u << 3; // the upper bits of 2^-20, where the regular bins begin
static constexpr unsigned UNIT_COUNTS = BINS + 2 * MAGNITUDES;
static constexpr unsigned PARTIAL = 8; // four powers, sum of magnitudes, sum of squares, finite values, values other than 0

// An integer in the order of the floats.
__device__ long long key_of(float x) {
    int bits = __float_as_int(x);
    return bits < 0 ? (long long)(bits ^ 0x7fffffff) : bits;
}

// Powers are summed about a value near the mean, so that moments keep their digits: the first one of the window.
extern "C" __global__ void set_shift(double *sums, const float *ys) { sums[SHIFT] = isfinite(*ys) ? (double)*ys : 0.0; }

// One block for each sample of `size` values. `f` is -1 where there is no f'.
extern "C" __global__ void by_sample(const float *xs, const float *ys, unsigned size, int f, float p, long long *counts,
                                     const double *sums, double *partials, u64 *faults) {
    __shared__ unsigned bins[2 * MAGNITUDES];
    for (unsigned i = threadIdx.x; i < 2 * MAGNITUDES; i += blockDim.x) bins[i] = 0;
    __syncthreads();
    const size_t first = (size_t)blockIdx.x * size;
    const double shift = sums[SHIFT];
    unsigned n[FLAT_HIGH + 1] = {}, active = 0;
    double powers[4] = {}, sum_abs = 0, sum_squares = 0;
    float low = INFINITY, high = -INFINITY;
    for (unsigned i = threadIdx.x; i < size; i += blockDim.x) {
        const float y = ys[first + i];
        if (!isfinite(y)) {
            n[isnan(y) ? NANS : INFINITE]++;
            continue;
        }
        const double y64 = y, d = y64 - shift, square = d * d;
        powers[0] += d, powers[1] += square, powers[2] += square * d, powers[3] += square * square;
        sum_abs += fabs(y64), sum_squares += y64 * y64;
        low = fminf(low, y), high = fmaxf(high, y);
        n[NEAR_ZEROS] += fabsf(y) <= 0.01f;
        if (f >= 0) {
            const float x = xs[first + i];
            if (fabsf(derivative(f, p, x)) < 0.01f) {
                n[FLAT_LOW] += x <= 0.0f;
                n[FLAT_HIGH] += x > 0.0f;
            }
        }
        if (y == 0.0f) {
            n[ZEROS]++;
            continue;
        }
        active++;
        n[NEGATIVES] += y < 0.0f;
        const unsigned magnitude = (__float_as_uint(y) & 0x7fffffffu) >> 20;
        const unsigned bin = magnitude < SMALLEST ? 0 : min(magnitude - SMALLEST + 1, MAGNITUDES - 1);
        atomicAdd(&bins[bin + (y < 0.0f ? MAGNITUDES : 0)], 1u);
    }
    for (int i = 0; i <= FLAT_HIGH; i++) {
        const unsigned all = block_sum(n[i]);
        if (threadIdx.x == 0 && all > 0) {
            atomicAdd((u64 *)&counts[i], (u64)all);
            if (i == NANS || i == INFINITE) atomicAdd(faults, (u64)all);
        }
        n[i] = all;
    }
    double *own = partials + (size_t)blockIdx.x * PARTIAL;
    for (int i = 0; i < 4; i++) powers[i] = block_sum(powers[i]);
    sum_abs = block_sum(sum_abs), sum_squares = block_sum(sum_squares), active = block_sum(active);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 4; i++) own[i] = powers[i];
        own[4] = sum_abs, own[5] = sum_squares, own[6] = size - n[NANS] - n[INFINITE], own[7] = active;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
        low = fminf(low, __shfl_down_sync(~0u, low, offset));
        high = fmaxf(high, __shfl_down_sync(~0u, high, offset));
    }
    if (threadIdx.x % 32 == 0 && low <= high) {
        atomicMin(&counts[MIN], key_of(low));
        atomicMax(&counts[MAX], key_of(high));
    }
    for (unsigned i = threadIdx.x; i < 2 * MAGNITUDES; i += blockDim.x)
        if (bins[i] > 0) atomicAdd((u64 *)&counts[BINS + i], (u64)bins[i]);
}

// Adds what the samples summed up to, by one block.
__device__ void add_samples(const double *partials, unsigned samples, long long *counts, double *sums) {
    double powers[4] = {}, population = 0, hoyer = 0;
    u64 counted = 0, active = 0, all_zero = 0, scored = 0;
    long long least = counts[MIN_ACTIVE], most = counts[MAX_ACTIVE];
    for (unsigned s = threadIdx.x; s < samples; s += blockDim.x) {
        const double *of = partials + (size_t)s * PARTIAL;
        for (int i = 0; i < 4; i++) powers[i] += of[i];
        const double sum_abs = of[4], sum_squares = of[5], n = of[6];
        const long long own = (long long)of[7];
        if (n == 0.0) continue;
        counted++, active += own, all_zero += own == 0;
        least = min(least, own), most = max(most, own);
        if (n < 2.0 || sum_squares <= 0.0) continue;
        scored++;
        population += (1.0 - sum_abs * sum_abs / (n * sum_squares)) / (1.0 - 1.0 / n);
        hoyer += (sqrt(n) - sum_abs / sqrt(sum_squares)) / (sqrt(n) - 1.0);
    }
    atomicMin(&counts[MIN_ACTIVE], least);
    atomicMax(&counts[MAX_ACTIVE], most);
    for (int i = 0; i < 4; i++) powers[i] = block_sum(powers[i]);
    population = block_sum(population), hoyer = block_sum(hoyer);
    counted = block_sum(counted), active = block_sum(active), all_zero = block_sum(all_zero), scored = block_sum(scored);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 4; i++) sums[POWERS + i] += powers[i];
        sums[POPULATION] += population, sums[HOYER] += hoyer;
        counts[COUNTED] += counted, counts[ACTIVE] += active, counts[ALL_ZERO] += all_zero, counts[SCORED] += scored;
    }
}

struct Unit {
    unsigned faulty, fired, passed;
    double sum, below, sum_squares;

    __device__ void add(float y, const float *x, int f, float p) {
        if (!isfinite(y)) {
            faulty++;
            return;
        }
        const double y64 = y;
        fired += y > 0.0f;
        sum += y64, below += fmin(y64, 0.0), sum_squares += y64 * y64;
        if (f >= 0) passed += derivative(f, p, *x) != 0.0f;
    }

    __device__ void write(unsigned u, unsigned units, long long *counts, double *sums) const {
        long long *n = counts + UNIT_COUNTS + u;
        n[0] += faulty, n[units] += fired, n[2 * units] += passed;
        double *s = sums + UNITS + u;
        s[0] += sum, s[units] += below, s[2 * units] += sum_squares;
    }
};

// Values are `(samples, units, positions)`: one block for each unit, and one that adds the samples.
extern "C" __global__ void by_plane(const float *xs, const float *ys, unsigned samples, unsigned units, unsigned positions,
                                    int f, float p, long long *counts, double *sums, const double *partials) {
    const unsigned u = blockIdx.x;
    if (u == units) return add_samples(partials, samples, counts, sums);
    Unit own = {};
    const unsigned lanes = min(blockDim.x, (positions + 31) / 32 * 32), rows = blockDim.x / lanes;
    if (threadIdx.x / lanes < rows)
        for (unsigned s = threadIdx.x / lanes; s < samples; s += rows) {
            const size_t first = ((size_t)s * units + u) * positions;
            for (unsigned i = threadIdx.x % lanes; i < positions; i += lanes) own.add(ys[first + i], xs + first + i, f, p);
        }
    own = {block_sum(own.faulty), block_sum(own.fired), block_sum(own.passed),
           block_sum(own.sum), block_sum(own.below), block_sum(own.sum_squares)};
    if (threadIdx.x == 0) own.write(u, units, counts, sums);
}

// Values are `(rows, units)`: 32 x 32 threads for each 32 units, and one block that adds the samples.
extern "C" __global__ void by_row(const float *xs, const float *ys, unsigned samples, unsigned rows, unsigned units, int f,
                                  float p, long long *counts, double *sums, const double *partials) {
    if (blockIdx.x == gridDim.x - 1) return add_samples(partials, samples, counts, sums);
    __shared__ Unit lanes[32][33];
    const unsigned lane = threadIdx.x % 32, part = threadIdx.x / 32, u = blockIdx.x * 32 + lane;
    Unit own = {};
    if (u < units)
        for (unsigned row = part; row < rows; row += 32) {
            const size_t at = (size_t)row * units + u;
            own.add(ys[at], xs + at, f, p);
        }
    lanes[part][lane] = own;
    __syncthreads();
    if (part > 0 || u >= units) return;
    for (int i = 1; i < 32; i++) {
        const Unit &other = lanes[i][lane];
        own.faulty += other.faulty, own.fired += other.fired, own.passed += other.passed;
        own.sum += other.sum, own.below += other.below, own.sum_squares += other.sum_squares;
    }
    own.write(u, units, counts, sums);
}
