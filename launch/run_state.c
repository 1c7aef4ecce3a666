#include "launch/run_state.h"

#include "runtime/newfile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const history_names[DENOISE_HISTORY] = { "/solver/m0", "/solver/m1",
                                                            "/solver/last",
                                                            "/guidance/difference" };

static struct tensor latent(float *data, struct latent_shape s)
{
    return tensor_of(data, DT_F32, s.c, s.t, s.h, s.w);
}

static struct tensor number(int64_t *value)
{
    return tensor_dims(value, DT_I64, 0, NULL);
}

static const char *const anchor_names[CACHE_BRANCHES] = { "/cache/x0", "/cache/x1" };

static struct tensor cache_steps(int64_t *steps)
{
    return tensor_of(steps, DT_I64, CACHE_BRANCHES);
}

static struct tensor cache_numbers(float *numbers)
{
    return tensor_of(numbers, DT_F32, CACHE_NUMBERS);
}

/* What a step cache needs; nothing without one, and before its first forward. */
static status save_cache(struct runfile *file, struct latent_shape s,
                         const struct denoise_state *state)
{
    for (int b = 0; b < CACHE_BRANCHES; b++)
        if (state->anchored[b])
            TRY(runfile_add(file, anchor_names[b], latent(state->anchor[b], s)));
    if (!state->anchored[0])
        return ST_OK;
    TRY(runfile_add(file, "/cache/steps", cache_steps((int64_t *)state->anchor_step)));
    return runfile_add(file, "/cache/numbers", cache_numbers((float *)state->cache));
}

status run_state_save(struct runfile *file, struct latent_shape s, const float *noise,
                      const struct denoise_state *state)
{
    TRY(runfile_add(file, "/noise", latent((float *)noise, s)));
    TRY(runfile_add(file, "/latents", latent(state->latents, s)));
    TRY(runfile_add(file, "/step", number((int64_t *)&state->step)));
    for (int i = 0; i < DENOISE_HISTORY; i++) {
        if (state->used[i])
            TRY(runfile_add(file, history_names[i], latent(state->history[i], s)));
    }
    TRY(save_cache(file, s, state));
    return runfile_add(file, "/solver/order", number((int64_t *)&state->order));
}

/* The name of a conditioning array in the run file: "/text/cond" for "text/cond". */
static void path_of(char *path, const char *condition)
{
    snprintf(path, RUNFILE_NAME_BYTES, "/%s", condition);
}

status run_state_save_conditioning(struct runfile *file, const struct conditioning *c)
{
    char path[RUNFILE_NAME_BYTES];

    for (int i = 0; i < c->count; i++) {
        path_of(path, c->array[i].name);
        TRY(runfile_add(file, path, c->array[i].value));
    }
    return ST_OK;
}

static status load_latent(float *data, struct latent_shape s, const struct runfile *file,
                          const char *name, const char *path)
{
    const struct tensor got = runfile_find(file, name), expected = latent(NULL, s);

    if (got.data == NULL && got.ndim == 0)
        return fail(ST_FORMAT, "%s: has no %s", path, name);
    if (got.data == NULL || got.dtype != DT_F32 || got.ndim != expected.ndim ||
        memcmp(got.dim, expected.dim, sizeof(expected.dim)) != 0)
        return fail(ST_USAGE, "%s: %s is %s, this request needs %s", path, name, tensor_text(got),
                    tensor_text(expected));
    memcpy(data, got.data, tensor_bytes(got));
    return ST_OK;
}

static status load_number(int64_t *value, const struct runfile *file, const char *name,
                          const char *path)
{
    const struct tensor t = runfile_find(file, name);

    if (t.data == NULL && t.dtype == DT_NONE)
        return fail(ST_FORMAT, "%s: has no %s", path, name);
    if (t.data == NULL || t.dtype != DT_I64 || t.ndim != 0)
        return fail(ST_FORMAT, "%s: %s is %s, not one integer", path, name, tensor_text(t));
    memcpy(value, t.data, sizeof(*value));
    return ST_OK;
}

status run_state_noise(float *noise, struct latent_shape s, const struct runfile *file,
                       const char *path)
{
    return load_latent(noise, s, file, "/noise", path);
}

/* The solver's part, which is needed between the first step and the last: its order, and the
 * history that its kind keeps; and what the guidance of the next step needs. */
static status load_history(struct denoise_state *state, const struct plan_input *plan,
                           const struct schedule *schedule, const struct runfile *file,
                           const char *path)
{
    const int order = solver_order(schedule, (int)state->step);
    const bool needed = state->step > 0 && state->step < schedule->steps;

    state->order = order;
    if (needed)
        TRY(load_number(&state->order, file, "/solver/order", path));
    if (state->order != order)
        return fail(ST_FORMAT, "%s: /solver/order is %lld; after step %lld of %d of %s it is %d",
                    path, (long long)state->order, (long long)state->step, schedule->steps,
                    solver_name(schedule->kind), order);
    for (int i = 0; i < DENOISE_HISTORY; i++) {
        state->used[i] =
            needed && (i < SOLVER_STATE ? i < solver_history(schedule->kind)
                                        : plan_guide(plan, (int)state->step) == GUIDE_GATE);
        if (state->used[i])
            TRY(load_latent(state->history[i], plan->latent, file, history_names[i], path));
    }
    return ST_OK;
}

static status load_array(void *data, struct tensor expected, const struct runfile *file,
                         const char *name, const char *path)
{
    const struct tensor got = runfile_find(file, name);

    if (got.data == NULL || got.dtype != expected.dtype || got.ndim != expected.ndim ||
        got.dim[0] != expected.dim[0])
        return fail(ST_FORMAT, "%s: has no %s of shape %s", path, name, tensor_text(expected));
    memcpy(data, got.data, tensor_bytes(got));
    return ST_OK;
}

/* The step cache's part, which is needed between the first step and the last. */
static status load_cache(struct denoise_state *state, const struct plan_input *plan,
                         const struct runfile *file, const char *path)
{
    memset(state->anchored, 0, sizeof(state->anchored));
    state->anchor_step[0] = state->anchor_step[1] = -1;
    if (plan->cache.kind == CACHE_OFF || state->step <= plan->guidance.zero_init ||
        state->step >= plan->steps)
        return ST_OK;
    TRY(load_array(state->anchor_step, cache_steps(NULL), file, "/cache/steps", path));
    TRY(load_array(state->cache, cache_numbers(NULL), file, "/cache/numbers", path));
    for (int b = 0; b < CACHE_BRANCHES; b++) {
        if (state->anchor_step[b] < -1 || state->anchor_step[b] >= state->step ||
            (b == 0 && state->anchor_step[b] < 0))
            return fail(ST_FORMAT, "%s: /cache/steps has %lld, after step %lld", path,
                        (long long)state->anchor_step[b], (long long)state->step);
        state->anchored[b] = state->anchor_step[b] >= 0 &&
                             (b == 0 || state->anchor_step[b] != state->anchor_step[0]);
        if (state->anchored[b])
            TRY(load_latent(state->anchor[b], plan->latent, file, anchor_names[b], path));
    }
    return ST_OK;
}

status run_state_load(struct denoise_state *state, const struct plan_input *plan,
                      const struct schedule *schedule, const struct runfile *file, const char *path)
{
    TRY(load_number(&state->step, file, "/step", path));
    if (state->step < 0 || state->step > schedule->steps)
        return fail(ST_FORMAT, "%s: /step is %lld of %d", path, (long long)state->step,
                    schedule->steps);
    TRY(load_latent(state->latents, plan->latent, file, "/latents", path));
    TRY(load_cache(state, plan, file, path));
    return load_history(state, plan, schedule, file, path);
}

int run_state_step(const struct runfile *file, int steps, int clips)
{
    int64_t step = 0, clip = 0;

    if (clips > 1 && (load_number(&clip, file, "/clip", "") != ST_OK || clip < clips - 1))
        return 0;
    return load_number(&step, file, "/step", "") == ST_OK && step > 0 && step <= steps ? (int)step
                                                                                       : 0;
}

status run_state_conditioning(struct conditioning *c, const struct conditioning *planned,
                              const struct runfile *file, const char *path)
{
    for (int i = 0; i < planned->count; i++) {
        const struct tensor expected = planned->array[i].value;
        char name[RUNFILE_NAME_BYTES];
        struct tensor got;
        float *data;

        path_of(name, planned->array[i].name);
        got = runfile_find(file, name);
        if (got.data == NULL || got.dtype != DT_F32 || got.ndim != expected.ndim ||
            got.dim[0] < 1 ||
            memcmp(got.dim + 1, expected.dim + 1, (size_t)(expected.ndim - 1) * sizeof(int64_t)) !=
                0)
            return fail(ST_FORMAT,
                        "%s: has no %s of shape %s (with any number of rows); use a run file of "
                        "this model",
                        path, name, tensor_text(expected));
        TRY(conditioning_add(c, planned->array[i].name, got.ndim, got.dim, &data));
        memcpy(data, got.data, tensor_bytes(got));
    }
    return ST_OK;
}

status run_state_claim(struct filelock *lock, const char *path, const struct runfile *from,
                       bool *saved)
{
    struct runfile found = { 0 };
    char *target = NULL;
    status st;

    *saved = false;
    TRY_OUT(newfile_target(&target, path));
    TRY_OUT(filelock_take(lock, target));
    newfile_clean(target);
    if (access(target, F_OK) != 0)
        goto out;
    st = runfile_read(target, &found);
    if (st == ST_FORMAT || (st == ST_OK && runfile_text(&found, "request") == NULL))
        st = fail(ST_USAGE,
                  "--run_file %s: exists and is no run file, or a damaged one; delete it or choose "
                  "another name",
                  path);
    if (st != ST_OK)
        goto out;
    if (from == NULL || strcmp(from->digest, found.digest) != 0)
        TRY_OUT(fail(ST_USAGE,
                     "--run_file %s: exists and holds another state; go on from it with --resume "
                     "%s, delete it, or choose another name",
                     path, path));
    *saved = true;
out:
    runfile_done(&found);
    free(target);
    return st;
}

void run_state_clean(const char *path)
{
    struct filelock lock = { 0 };
    char *target = NULL;

    if (newfile_target(&target, path) == ST_OK && filelock_take(&lock, target) == ST_OK)
        newfile_clean(target);
    filelock_release(&lock);
    free(target);
}

/* ---- clips ---- */

status run_state_save_clips(struct runfile *file, struct latent_shape s, const float *latents,
                            const int64_t *finished)
{
    TRY(runfile_add(file, "/clip", number((int64_t *)finished)));
    return *finished == 0
               ? ST_OK
               : runfile_add(file, "/clips",
                             tensor_of((float *)latents, DT_F32, *finished * s.c, s.t, s.h, s.w));
}

status run_state_load_clips(int64_t *finished, float *latents, struct latent_shape s, int clips,
                            const struct runfile *file, const char *path)
{
    *finished = 0;
    if (runfile_find(file, "/clip").dtype != DT_NONE)
        TRY(load_number(finished, file, "/clip", path));
    if (*finished < 0 || *finished >= clips)
        return fail(ST_FORMAT, "%s: /clip is %lld of %d", path, (long long)*finished, clips);
    if (*finished == 0 || latents == NULL)
        return ST_OK;
    s.c *= *finished;
    return load_latent(latents, s, file, "/clips", path);
}
