// Forward and backward kernels of the layers, in f32. Threads compute values of their own: no atomic additions of floats, so
// the bits are the same each time.
#include "activation.cuh"
#include "threads.cuh"

// ys = f(xs)
extern "C" __global__ void activate(const float *xs, float *ys, size_t n, int f, float p) {
    FOR_EACH(i, n) ys[i] = value(f, p, xs[i]);
}

// grads_x = f'(xs) * grads_y
extern "C" __global__ void activate_back(const float *xs, const float *grads_y, float *grads_x, size_t n, int f, float p) {
    FOR_EACH(i, n) grads_x[i] = derivative(f, p, xs[i]) * grads_y[i];
}

// ys = f(ys + bias), in place; units are in the middle of (.., units, positions). There may be no bias.
extern "C" __global__ void bias_act(float *ys, const float *bias, size_t n, unsigned units, unsigned positions, int f, float p) {
    FOR_EACH(i, n) {
        const float b = bias ? bias[i / positions % units] : 0.0f;
        ys[i] = value(f, p, ys[i] + b);
    }
}

// Sums of (samples, units, positions) over samples and positions: one block for each unit.
extern "C" __global__ void sum_planes(const float *xs, float *sums, unsigned samples, unsigned units, unsigned positions) {
    const unsigned u = blockIdx.x;
    const unsigned lanes = min(blockDim.x, (positions + 31) / 32 * 32), rows = blockDim.x / lanes;
    float sum = 0;
    if (threadIdx.x / lanes < rows)
        for (unsigned s = threadIdx.x / lanes; s < samples; s += rows)
            for (unsigned i = threadIdx.x % lanes; i < positions; i += lanes) sum += xs[((size_t)s * units + u) * positions + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[u] = sum;
}

// Sums of (rows, units) over rows: 32 x 32 threads for each 32 units.
extern "C" __global__ void sum_rows(const float *xs, float *sums, unsigned rows, unsigned units) {
    __shared__ float lanes[32][33];
    const unsigned lane = threadIdx.x % 32, part = threadIdx.x / 32, u = blockIdx.x * 32 + lane;
    float sum = 0;
    if (u < units)
        for (unsigned row = part; row < rows; row += 32) sum += xs[(size_t)row * units + u];
    lanes[part][lane] = sum;
    __syncthreads();
    if (part > 0 || u >= units) return;
    for (int i = 1; i < 32; i++) sum += lanes[i][lane];
    sums[u] = sum;
}

struct Conv {
    unsigned c, h, w, kh, kw, stride, padding, out_h, out_w;
};

// The columns of every image, (n, c * kh * kw, out_h * out_w): what each kernel position meets at each output position.
extern "C" __global__ void im2col(const float *xs, float *columns, size_t n, Conv s) {
    FOR_EACH(i, n) {
        const unsigned x = i % s.out_w, y = i / s.out_w % s.out_h;
        const size_t row = i / (s.out_w * s.out_h);
        const unsigned dx = row % s.kw, dy = row / s.kw % s.kh;
        const size_t plane = row / (s.kw * s.kh);
        const int at_y = (int)(y * s.stride + dy) - (int)s.padding, at_x = (int)(x * s.stride + dx) - (int)s.padding;
        const bool inside = at_y >= 0 && at_y < (int)s.h && at_x >= 0 && at_x < (int)s.w;
        columns[i] = inside ? xs[(plane * s.h + at_y) * s.w + at_x] : 0.0f;
    }
}

// The gradients of the images from those of their columns.
extern "C" __global__ void col2im(const float *columns, float *xs, size_t n, Conv s) {
    FOR_EACH(i, n) {
        const int at_x = i % s.w + s.padding, at_y = i / s.w % s.h + s.padding;
        const size_t plane = i / (s.w * s.h);
        float sum = 0;
        for (unsigned dy = 0; dy < s.kh; dy++) {
            const int y = at_y - (int)dy;
            if (y < 0 || y % s.stride != 0 || y / s.stride >= s.out_h) continue;
            for (unsigned dx = 0; dx < s.kw; dx++) {
                const int x = at_x - (int)dx;
                if (x < 0 || x % s.stride != 0 || x / s.stride >= s.out_w) continue;
                const size_t row = (plane * s.kh + dy) * s.kw + dx;
                sum += columns[(row * s.out_h + y / s.stride) * s.out_w + x / s.stride];
            }
        }
        xs[i] = sum;
    }
}

struct Pool {
    unsigned h, w, kh, kw, sh, sw, out_h, out_w;
};

// The largest value of every window and where it is in its plane; the first of equals, and NaN wins.
extern "C" __global__ void max_pool(const float *xs, float *ys, unsigned *winners, size_t n, Pool s) {
    FOR_EACH(i, n) {
        const unsigned x0 = i % s.out_w * s.sw, y0 = i / s.out_w % s.out_h * s.sh;
        const float *plane = xs + i / (s.out_w * s.out_h) * ((size_t)s.h * s.w);
        unsigned at = y0 * s.w + x0;
        float best = plane[at];
        for (unsigned dy = 0; dy < s.kh; dy++)
            for (unsigned dx = 0; dx < s.kw; dx++) {
                const unsigned here = (y0 + dy) * s.w + x0 + dx;
                const float x = plane[here];
                if (x > best || isnan(x)) best = x, at = here;
            }
        ys[i] = best, winners[i] = at;
    }
}

// The gradients of the windows that each value won.
extern "C" __global__ void max_pool_back(const unsigned *winners, const float *grads_y, float *grads_x, size_t n, Pool s) {
    FOR_EACH(i, n) {
        const unsigned x = i % s.w, y = i / s.w % s.h, at = y * s.w + x;
        const size_t plane = i / (s.w * s.h) * ((size_t)s.out_h * s.out_w);
        float sum = 0;
        for (unsigned oy = y < s.kh ? 0 : (y - s.kh) / s.sh + 1; oy <= y / s.sh && oy < s.out_h; oy++)
            for (unsigned ox = x < s.kw ? 0 : (x - s.kw) / s.sw + 1; ox <= x / s.sw && ox < s.out_w; ox++) {
                const size_t window = plane + oy * s.out_w + ox;
                if (winners[window] == at) sum += grads_y[window];
            }
        grads_x[i] = sum;
    }
}

__device__ inline u64 scramble(u64 z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

// `scale * x + shift` where the mask keeps a value, else `dropped`: the bits that `Mask::draw_row` draws on the CPU.
extern "C" __global__ void masked(const float *xs, float *ys, size_t n, size_t width, u64 seed, u64 first_row, unsigned bound,
                                  float scale, float shift, float dropped) {
    const u64 gamma = 0x9e3779b97f4a7c15ull;
    FOR_EACH(i, n) {
        const size_t row = i / width, column = i % width;
        const u64 bits = scramble(scramble(seed ^ scramble(first_row + row)) + gamma * (column / 2 + 1));
        const unsigned own = column % 2 == 0 ? (unsigned)(bits >> 32) : (unsigned)bits;
        ys[i] = own >= bound ? scale * xs[i] + shift : dropped;
    }
}

// The largest value of a row, and the sum of e^(x - top) in f64: by one warp, each thread of which gets both.
struct Normaliser {
    float top;
    double sum;

    __device__ Normaliser(const float *own, unsigned classes, unsigned lane) : top(-INFINITY), sum(0) {
        for (unsigned k = lane; k < classes; k += 32) top = own[k] > top || isnan(own[k]) ? own[k] : top;
        for (int offset = 16; offset > 0; offset /= 2) {
            const float other = __shfl_xor_sync(~0u, top, offset);
            top = other > top || isnan(other) ? other : top;
        }
        for (unsigned k = lane; k < classes; k += 32) sum += exp((double)own[k] - top);
        for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    }
};

// The loss of every row, one warp each: ln sum e^x minus the target's x, in f64.
extern "C" __global__ void row_losses(const float *xs, const unsigned *targets, double *losses, unsigned rows, unsigned classes) {
    const unsigned row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const float *own = xs + (size_t)row * classes;
    const Normaliser of(own, classes, lane);
    if (lane == 0) losses[row] = of.top + log(of.sum) - own[targets[row]];
}

// The mean of the rows' losses, by one block.
extern "C" __global__ void mean_loss(const double *losses, float *loss, unsigned rows) {
    double sum = 0;
    for (unsigned i = threadIdx.x; i < rows; i += blockDim.x) sum += losses[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *loss = sum / rows;
}

// (softmax(x) - hit) * grad / rows, one warp for each row.
extern "C" __global__ void loss_back(const float *xs, const unsigned *targets, const float *grad, float *grads, unsigned rows,
                                     unsigned classes) {
    const unsigned row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const float *own = xs + (size_t)row * classes;
    const Normaliser of(own, classes, lane);
    const double scale = (double)*grad / rows;
    for (unsigned k = lane; k < classes; k += 32) {
        const double share = exp((double)own[k] - of.top) / of.sum;
        grads[(size_t)row * classes + k] = (float)((share - (k == targets[row])) * scale);
    }
}

// How many rows have their first largest value at the target; a row with NaN has not.
extern "C" __global__ void count_hits(const float *xs, const unsigned *targets, float *hits, unsigned rows, unsigned classes) {
    __shared__ unsigned count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    for (unsigned row = threadIdx.x; row < rows; row += blockDim.x) {
        const float *own = xs + (size_t)row * classes;
        const unsigned target = targets[row];
        bool hit = target < classes;
        for (unsigned k = 0; hit && k < classes; k++) hit = k < target ? own[k] < own[target] : own[k] <= own[target];
        if (hit) atomicAdd(&count, 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) *hits = count;
}
