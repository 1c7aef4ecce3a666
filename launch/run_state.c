#include "launch/run_state.h"

#include <stdio.h>
#include <string.h>

static const char *const history_names[SOLVER_STATE] = { "/solver/m0", "/solver/m1",
                                                         "/solver/last" };

static struct tensor latent(float *data, struct latent_shape s)
{
    return tensor_of(data, DT_F32, s.c, s.t, s.h, s.w);
}

static struct tensor number(int64_t *value)
{
    return tensor_dims(value, DT_I64, 0, NULL);
}

status run_state_save(struct runfile *file, struct latent_shape s, const float *noise,
                      const struct denoise_state *state)
{
    TRY(runfile_add(file, "/noise", latent((float *)noise, s)));
    TRY(runfile_add(file, "/latents", latent(state->latents, s)));
    TRY(runfile_add(file, "/step", number((int64_t *)&state->step)));
    for (int i = 0; i < SOLVER_STATE; i++) {
        if (state->used[i])
            TRY(runfile_add(file, history_names[i], latent(state->history[i], s)));
    }
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

/* Reads a count; 0 if the file does not have it. */
static status load_number(int64_t *value, const struct runfile *file, const char *name,
                          const char *path)
{
    const struct tensor t = runfile_find(file, name);

    *value = 0;
    if (t.data == NULL && t.ndim == 0)
        return ST_OK;
    if (t.data == NULL || t.dtype != DT_I64 || t.ndim != 0)
        return fail(ST_FORMAT, "%s: %s is %s, not one integer", path, name, tensor_text(t));
    memcpy(value, t.data, sizeof(*value));
    if (*value < 0)
        return fail(ST_FORMAT, "%s: %s is %lld", path, name, (long long)*value);
    return ST_OK;
}

status run_state_noise(float *noise, struct latent_shape s, const struct runfile *file,
                       const char *path)
{
    return load_latent(noise, s, file, "/noise", path);
}

status run_state_load(struct denoise_state *state, struct latent_shape s, int steps,
                      const struct runfile *file, const char *path)
{
    TRY(load_number(&state->step, file, "/step", path));
    if (state->step > steps)
        return fail(ST_FORMAT, "%s: /step is %lld of %d", path, (long long)state->step, steps);
    TRY(load_number(&state->order, file, "/solver/order", path));
    TRY(load_latent(state->latents, s, file, "/latents", path));
    for (int i = 0; i < SOLVER_STATE; i++) {
        const struct tensor t = runfile_find(file, history_names[i]);

        state->used[i] = t.data != NULL || t.ndim != 0;
        if (state->used[i])
            TRY(load_latent(state->history[i], s, file, history_names[i], path));
    }
    return ST_OK;
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
