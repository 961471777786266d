// How threads divide work among them, and add up what they computed.
#pragma once

typedef unsigned long long u64;

#define FOR_EACH(i, n) for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (size_t)gridDim.x * blockDim.x)

// The sum over all threads of a block, in a fixed order, in thread 0.
template <typename T> __device__ T block_sum(T x) {
    __shared__ T lanes[32];
    __syncthreads();
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(~0u, x, offset);
    if (threadIdx.x % 32 == 0) lanes[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x < 32) {
        x = threadIdx.x < blockDim.x / 32 ? lanes[threadIdx.x] : T(0);
        for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(~0u, x, offset);
    }
    return x;
}
