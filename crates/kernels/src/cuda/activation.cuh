// Activation functions as `activation.rs` defines them: what the two must agree on is where f and f' are 0, NaN or infinite.
#pragma once

// The order of `Activation`.
enum {
    IDENTITY, RELU, LEAKY_RELU, PRELU, ELU, CELU, SELU, TANH, SIGMOID, SOFTPLUS, SOFTSIGN, HARDTANH, HARDSIGMOID, HARDSWISH,
    RELU6, RELU2, GELU, GELU_TANH, SILU, MISH
};

static constexpr float SELU_LAMBDA = 1.0507009873554805f;
static constexpr float SELU_SCALE = 1.7580993408473766f; // lambda * alpha

// Unlike fminf and fmaxf it hands NaN on.
__device__ inline float clampf(float x, float low, float high) { return x < low ? low : x > high ? high : x; }
__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ inline float gelu_inner(float x) {
    x = clampf(x, -20.0f, 20.0f);
    return 0.7978846f * (x + 0.044715f * x * x * x);
}

// f(x) of the function `f` with the parameter `p`.
__device__ inline float value(int f, float p, float x) {
    switch (f) {
    case RELU: return x <= 0.0f ? 0.0f : x;
    case LEAKY_RELU: case PRELU: return x <= 0.0f ? x * p : x;
    case ELU: return x <= 0.0f ? p * expm1f(x) : x;
    case CELU: return x <= 0.0f ? p * expm1f(x / p) : x;
    case SELU: return x <= 0.0f ? SELU_SCALE * expm1f(x) : SELU_LAMBDA * x;
    case TANH: return tanhf(x);
    case SIGMOID: return sigmoid(x);
    case SOFTPLUS: { float tail = log1pf(expf(-fabsf(x))); return x <= 0.0f ? tail : x + tail; }
    case SOFTSIGN: return x / (1.0f + fabsf(x));
    case HARDTANH: return clampf(x, -1.0f, 1.0f);
    case HARDSIGMOID: return clampf(x / 6.0f + 0.5f, 0.0f, 1.0f);
    case HARDSWISH: return x <= -3.0f ? 0.0f : x >= 3.0f ? x : x * (x + 3.0f) / 6.0f;
    case RELU6: return clampf(x, 0.0f, 6.0f);
    case RELU2: return x <= 0.0f ? 0.0f : x * x;
    case GELU: return x * normcdff(x);
    case GELU_TANH: return x * sigmoid(2.0f * gelu_inner(x));
    case SILU: return x * sigmoid(x);
    case MISH: { float e = expf(clampf(x, -105.0f, 20.0f)), n = e * (e + 2.0f); return x * (n / (n + 2.0f)); }
    default: return x;
    }
}

// f'(x), at a kink as PyTorch.
__device__ inline float derivative(int f, float p, float x) {
    switch (f) {
    case RELU: return x > 0.0f ? 1.0f : 0.0f;
    case LEAKY_RELU: case PRELU: return x > 0.0f ? 1.0f : p;
    case ELU: return x > 0.0f ? 1.0f : p * expf(x);
    case CELU: return x > 0.0f ? 1.0f : expf(x / p);
    case SELU: return x > 0.0f ? SELU_LAMBDA : SELU_SCALE * expf(x);
    case TANH: { float e = expf(-2.0f * fabsf(x)); return 4.0f * e / ((1.0f + e) * (1.0f + e)); }
    case SIGMOID: { float e = expf(-fabsf(x)); return e / ((1.0f + e) * (1.0f + e)); }
    case SOFTPLUS: return sigmoid(x);
    case SOFTSIGN: { float s = 1.0f + fabsf(x); return 1.0f / s / s; }
    case HARDTANH: return x > -1.0f && x < 1.0f ? 1.0f : 0.0f;
    case HARDSIGMOID: return x > -3.0f && x < 3.0f ? 1.0f / 6.0f : 0.0f;
    case HARDSWISH: return x <= -3.0f ? 0.0f : x >= 3.0f ? 1.0f : x / 3.0f + 0.5f;
    case RELU6: return x > 0.0f && x < 6.0f ? 1.0f : 0.0f;
    case RELU2: return x <= 0.0f ? 0.0f : 2.0f * x;
    case GELU: { float near = clampf(x, -20.0f, 20.0f); return normcdff(x) + near * 0.3989423f * expf(-0.5f * near * near); }
    case GELU_TANH: {
        float near = clampf(x, -20.0f, 20.0f), s = sigmoid(2.0f * gelu_inner(x));
        return s + near * s * (1.0f - s) * 2.0f * 0.7978846f * (1.0f + 3.0f * 0.044715f * near * near);
    }
    case SILU: { float s = sigmoid(x); return s + clampf(x, -105.0f, 105.0f) * s * (1.0f - s); }
    case MISH: {
        float near = clampf(x, -105.0f, 20.0f), e = expf(near), n = e * (e + 2.0f);
        return n / (n + 2.0f) + near * 4.0f * e * (e + 1.0f) / ((n + 2.0f) * (n + 2.0f));
    }
    default: return 1.0f;
    }
}
