// Steps of the optimisers in place, by the formulas of `optim/rule.rs`, and the check for gradients that are not finite.
#include "threads.cuh"

enum { SGD, MOMENTUM, NESTEROV, ADAM, RMS_PROP, ADADELTA };

// The constants of one step; `cuda/optim.rs` says which of them a rule uses.
struct Constants {
    float rate, penalty, keep, a, new_a, b, new_b, root, eps;
};

extern "C" __global__ void step(float *ps, const float *gs, float *as, float *bs, size_t n, int rule, Constants c) {
    FOR_EACH(i, n) {
        const float p = ps[i], g = gs[i] + c.penalty * p;
        switch (rule) {
        case SGD: ps[i] = p - c.rate * g; break;
        case MOMENTUM: case NESTEROV: {
            const float a = as[i] = c.a * as[i] + g;
            ps[i] = p - c.rate * (rule == NESTEROV ? g + c.a * a : a);
            break;
        }
        case ADAM: {
            const float a = as[i] = c.a * as[i] + c.new_a * g, b = bs[i] = c.b * bs[i] + c.new_b * g * g;
            ps[i] = p * c.keep - c.rate * a / (sqrtf(b) / c.root + c.eps);
            break;
        }
        case RMS_PROP: {
            const float a = as[i] = c.a * as[i] + c.new_a * g * g;
            ps[i] = p - c.rate * g / (sqrtf(a) + c.eps);
            break;
        }
        default: {
            const float a = as[i] = c.a * as[i] + c.new_a * g * g, b = bs[i];
            const float delta = sqrtf(b + c.eps) / sqrtf(a + c.eps) * g;
            bs[i] = c.a * b + c.new_a * delta * delta;
            ps[i] = p - c.rate * delta;
        }
        }
    }
}

// Sets `flag` to 1 if a value is NaN or infinite.
extern "C" __global__ void flag_non_finite(const float *xs, size_t n, float *flag) {
    bool found = false;
    FOR_EACH(i, n)
        found |= !isfinite(xs[i]);
    if (found) *flag = 1.0f; // all that write it write the same
}
