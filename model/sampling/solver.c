/* One step of each solver, as weighted sums of latents. The weights are computed on the host: in
 * f32 where the official code has f32 scalar tensors, because their cancellation errors are part of
 * the result; in double only for the final products, which combine terms that the official code
 * adds one by one. */
#include "model/sampling/schedule.h"

#include <assert.h>
#include <math.h>

/* f32 functions computed in double and rounded: correctly rounded in almost all cases. */
static float log_f32(float x)
{
    return (float)log(x);
}

static float exp_f32(float x)
{
    return (float)exp(x);
}

static float expm1_f32(float x)
{
    return (float)expm1(x);
}

struct level {
    float alpha, sigma, lambda; // lambda = ln alpha - ln sigma: infinite at both ends
};

static struct level level_at(const struct solver *s, int i)
{
    const float sigma = s->schedule->sigma[i], alpha = 1.0f - sigma;

    return (struct level){ alpha, sigma, log_f32(alpha) - log_f32(sigma) };
}

int solver_history(enum solver_kind kind)
{
    return kind == SOLVER_UNIPC ? SOLVER_STATE : kind == SOLVER_DPMPP ? 2 : 0;
}

int solver_order(const struct schedule *s, int step)
{
    if (s->kind != SOLVER_UNIPC || step == 0)
        return 0;
    return step > 1 && step < s->steps ? 2 : 1; // the first and the last predictor have order 1
}

status solver_init(struct solver *s, const struct schedule *schedule, struct arena *a, int64_t rows,
                   int64_t cols)
{
    const int history = solver_history(schedule->kind);
    struct tensor *const state[SOLVER_STATE] = { &s->m[0], &s->m[1], &s->last };

    *s = (struct solver){ .schedule = schedule };
    for (int i = 0; i < history; i++) {
        TRY(arena_take(a, state[i], DT_F32, rows, cols));
        TRY(device_zero(a->dev, *state[i]));
    }
    if (schedule->kind == SOLVER_RENOISE)
        TRY(arena_take(a, &s->noise, DT_F32, rows, cols));
    return arena_take(a, &s->next, DT_F32, rows, cols);
}

static status sum2(struct device *dev, struct tensor out, float a, struct tensor x, float b,
                   struct tensor y)
{
    return op_lincomb(dev, out, 2, (float[]){ a, b }, (struct tensor[]){ x, y });
}

/* The new x0, already in s->next, becomes m[0]; the oldest becomes scratch. */
static void shift_history(struct solver *s)
{
    const struct tensor oldest = s->m[1];

    s->m[1] = s->m[0];
    s->m[0] = s->next;
    s->next = oldest;
}

/* Shared by predictor and corrector: the coefficients of a step from level s to level t. */
struct step_coef {
    float ratio;   // sigma_t / sigma_s
    float hh;      // minus the step in lambda
    float e;       // e^hh - 1, which is also B(h)
    float alpha_e; // alpha_t (e^hh - 1)
};

static struct step_coef step_coef(struct level from, struct level to)
{
    const float hh = -(to.lambda - from.lambda), e = expm1_f32(hh);

    return (struct step_coef){ to.sigma / from.sigma, hh, e, to.alpha * e };
}

/* Corrector: last = the sample at step i, computed again from `last` at step i - 1 and the
 * network's new prediction x0, which is in s->next. */
static status unipc_correct(struct solver *s, struct device *dev)
{
    const struct level from = level_at(s, s->step - 1), to = level_at(s, s->step);
    const struct step_coef w = step_coef(from, to);
    double before = 0, here = 0.5; // weights of (m[1] - m[0]) and (next - m[0])

    if (s->order == 2) {
        const float r = (level_at(s, s->step - 2).lambda - from.lambda) / -w.hh;
        const float phi1 = w.e / w.hh - 1.0f, phi2 = phi1 / w.hh - 0.5f;
        const float b1 = phi1 / w.e, b2 = phi2 * 2.0f / w.e;
        const float rho1 = (b2 - r * b1) / (1.0f - r), rho0 = b1 - rho1;

        before = (double)rho0 / r;
        here = rho1;
    }
    const double k = -(double)w.alpha_e;
    const float coef[4] = { w.ratio, (float)(k - k * before - k * here), (float)(k * before),
                            (float)(k * here) };

    return op_lincomb(dev, s->last, 4, coef,
                      (struct tensor[]){ s->last, s->m[0], s->m[1], s->next });
}

static status unipc_predict(struct solver *s, struct device *dev, struct tensor x)
{
    const struct level from = level_at(s, s->step), to = level_at(s, s->step + 1);
    const struct step_coef w = step_coef(from, to);
    const double k = -(double)w.alpha_e;
    double before = 0; // weight of (m[1] - m[0])

    if (s->order == 2) {
        const float r = (level_at(s, s->step - 1).lambda - from.lambda) / -w.hh;
        before = 0.5 / r;
    }
    const float coef[3] = { w.ratio, (float)(k - k * before), (float)(k * before) };

    return op_lincomb(dev, x, 3, coef, (struct tensor[]){ s->last, s->m[0], s->m[1] });
}

/* Takes this step's x0 from s->next. */
static status unipc(struct solver *s, struct device *dev, struct tensor x)
{
    if (s->step > 0)
        TRY(unipc_correct(s, dev));
    else
        TRY(op_copy(dev, s->last, x));
    shift_history(s);
    s->order = solver_order(s->schedule, s->step + 1);
    return unipc_predict(s, dev, x);
}

static status dpmpp(struct solver *s, struct device *dev, struct tensor x)
{
    const struct level from = level_at(s, s->step), to = level_at(s, s->step + 1);
    const float h = to.lambda - from.lambda;
    const float k = to.alpha * (exp_f32(-h) - 1.0f);
    double before = 0; // weight of (m[0] - m[1])

    if (s->step > 0 && s->step + 1 < s->schedule->steps) {
        const float r = (from.lambda - level_at(s, s->step - 1).lambda) / h;
        before = 0.5 * (1.0f / r); // 0 after the start at sigma 1, where r is infinite
    }
    const float coef[3] = { to.sigma / from.sigma, (float)(-k - k * before), (float)(k * before) };

    shift_history(s);
    return op_lincomb(dev, x, 3, coef, (struct tensor[]){ x, s->m[0], s->m[1] });
}

/* x0 = x - sigma v, then x = (1 - sigma') x0 + sigma' noise. */
static status renoise(struct solver *s, struct device *dev, struct tensor x, struct tensor v)
{
    const float *sigma = s->schedule->sigma + s->step;
    const float coef[3] = { 1.0f - sigma[1], -sigma[0] * (1.0f - sigma[1]), sigma[1] };

    return op_lincomb(dev, x, 3, coef, (struct tensor[]){ x, v, s->noise });
}

status solver_step(struct solver *s, struct device *dev, struct tensor x, struct tensor c,
                   struct tensor u, float guidance)
{
    const struct schedule *sc = s->schedule;
    const float sigma = sc->sigma[s->step];
    struct tensor v = c;

    assert(s->step < sc->steps);
    if (u.ndim != 0) {
        v = s->next;
        TRY(sum2(dev, v, 1, c, -1, u));
        TRY(sum2(dev, v, 1, u, guidance, v));
    }
    if (sc->kind == SOLVER_EULER) {
        TRY(sum2(dev, x, 1, x, sc->sigma[s->step + 1] - sigma, v));
    } else if (sc->kind == SOLVER_RENOISE) {
        TRY(renoise(s, dev, x, v));
    } else {
        TRY(sum2(dev, s->next, 1, x, -sigma, v));
        TRY(sc->kind == SOLVER_UNIPC ? unipc(s, dev, x) : dpmpp(s, dev, x));
    }
    s->step++;
    return ST_OK;
}
