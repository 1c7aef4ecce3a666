/* The state of a generation in a run file: saved arrays are loaded again, and arrays that do not
 * fit are refused by name. */
#include "launch/run_state.h"
#include "tests/scratch.h"

#include <string.h>

#define COUNT_F (2 * 3 * 4 * 5)

static const struct latent_shape shape = { 2, 3, 4, 5 };
static const struct schedule ten = { .kind = SOLVER_UNIPC, .steps = 10 };
static const struct schedule six = { .kind = SOLVER_UNIPC, .steps = 6 };
static struct plan_input plan = { .latent = { 2, 3, 4, 5 }, .steps = 10, .low_from = 10 };
static float data[5][COUNT_F], back[5][COUNT_F];

static struct denoise_state state_of(float arrays[5][COUNT_F])
{
    return (struct denoise_state){ .latents = arrays[0],
                                   .history = { arrays[1], arrays[2], arrays[3], arrays[4] } };
}

static void test_round_trip(void)
{
    struct denoise_state saved = state_of(data), loaded = state_of(back);
    struct conditioning text = { 0 }, planned = { 0 }, other = { 0 }, got = { 0 };
    float *rows[2];
    struct runfile file = { 0 };
    float noise[COUNT_F];

    plan.guidance.gate[0] = 5;
    saved.used[0] = saved.used[1] = saved.used[2] = saved.used[3] = true;
    saved.step = 7;
    saved.order = 2;
    for (int i = 0; i < 5 * COUNT_F; i++)
        data[i / COUNT_F][i % COUNT_F] = (float)i;
    CHECK(run_state_save(&file, shape, data[2], &saved) == ST_OK, "%s", status_line());
    CHECK(conditioning_add(&text, "text/cond", 2, (const int64_t[]){ 5, 8 }, &rows[0]) == ST_OK &&
              conditioning_add(&text, "text/uncond", 2, (const int64_t[]){ 3, 8 }, &rows[1]) ==
                  ST_OK,
          "%s", status_line());
    memset(rows[0], 0, 5 * 8 * sizeof(float));
    memcpy(rows[1], data[1], 3 * 8 * sizeof(float));
    conditioning_add_shape(&planned, "text/cond", 2, (const int64_t[]){ 512, 8 });
    conditioning_add_shape(&planned, "text/uncond", 2, (const int64_t[]){ 512, 8 });
    conditioning_add_shape(&other, "text/cond", 2, (const int64_t[]){ 512, 9 });
    CHECK(run_state_save_conditioning(&file, &text) == ST_OK, "%s", status_line());

    CHECK(run_state_noise(noise, shape, &file, "a.h5") == ST_OK, "%s", status_line());
    CHECK(memcmp(noise, data[2], sizeof(noise)) == 0, "noise");
    CHECK(run_state_load(&loaded, &plan, &ten, &file, "a.h5") == ST_OK, "%s", status_line());
    CHECK(loaded.step == 7 && loaded.order == 2, "step %lld", (long long)loaded.step);
    CHECK(loaded.used[0] && loaded.used[1] && loaded.used[2], "history");
    CHECK(memcmp(back[0], data[0], sizeof(data[0])) == 0, "latents");
    CHECK(memcmp(back[1], data[1], sizeof(data[1])) == 0, "m0");
    CHECK(memcmp(back[3], data[3], sizeof(data[3])) == 0, "last");
    CHECK(loaded.used[3] && memcmp(back[4], data[4], sizeof(data[4])) == 0, "difference");
    plan.guidance.gate[0] = 8; // the next step is guided
    CHECK(run_state_load(&loaded, &plan, &ten, &file, "a.h5") == ST_OK && !loaded.used[3], "gate");
    CHECK(run_state_conditioning(&got, &planned, &file, "a.h5") == ST_OK, "%s", status_line());
    CHECK(conditioning_find(&got, "text/cond").dim[0] == 5 &&
              conditioning_find(&got, "text/uncond").dim[0] == 3 &&
              ((float *)conditioning_find(&got, "text/uncond").data)[2] == data[1][2],
          "text");
    conditioning_done(&got);

    CHECK(run_state_load(&loaded, &plan, &six, &file, "a.h5") == ST_FORMAT, "steps");
    CHECK(strcmp(status_line(), "a.h5: /step is 7 of 6") == 0, "%s", status_line());
    CHECK(run_state_conditioning(&got, &other, &file, "a.h5") == ST_FORMAT, "columns");
    conditioning_done(&got);
    conditioning_done(&text);
    runfile_done(&file);
}

/* Loading must fail when one array of a complete state, after step 7 of 10, has another value,
 * shape or data type, or is missing: `value` zeroed. */
static void refuse(const char *name, struct tensor value, status expected, const char *line)
{
    struct denoise_state saved = state_of(data), loaded = state_of(back);
    struct runfile file = { 0 };
    status st;

    plan.guidance.gate[0] = strcmp(name, "/guidance/difference") == 0 ? 5 : 0;
    saved.used[0] = saved.used[1] = saved.used[2] = true;
    saved.step = 7;
    saved.order = 2;
    CHECK(run_state_save(&file, shape, data[2], &saved) == ST_OK, "%s", status_line());
    for (int i = 0; i < file.array_count; i++) {
        if (strcmp(file.arrays[i].name, name) == 0)
            file.arrays[i].value = value;
    }
    st = run_state_load(&loaded, &plan, &ten, &file, "a.h5");
    CHECK(st == expected && strcmp(status_line(), line) == 0, "%d: %s", st, status_line());
    runfile_done(&file);
}

static struct tensor number(int64_t *value)
{
    return tensor_dims(value, DT_I64, 0, NULL);
}

static void test_refused(void)
{
    static const char *const history[] = { "/solver/m0", "/solver/m1", "/solver/last",
                                           "/guidance/difference" };
    const struct runfile none = { 0 };
    const struct tensor missing = { 0 };
    struct denoise_state loaded = state_of(back);
    struct conditioning planned = { 0 }, got = { 0 };
    int64_t before = -3, zero = 0, one = 1, many = 99;
    char line[128];

    refuse("/latents", tensor_of(data, DT_F32, 2, 3, 4), ST_USAGE,
           "a.h5: /latents is F32 [2, 3, 4], this request needs F32 [2, 3, 4, 5]");
    refuse("/latents", tensor_of(data, DT_I64, 1, 1, 1, 1), ST_USAGE,
           "a.h5: /latents is I64 [1, 1, 1, 1], this request needs F32 [2, 3, 4, 5]");
    refuse("/latents", missing, ST_FORMAT, "a.h5: has no /latents");
    refuse("/solver/m0", tensor_of(data, DT_F32, 2, 3, 5, 4), ST_USAGE,
           "a.h5: /solver/m0 is F32 [2, 3, 5, 4], this request needs F32 [2, 3, 4, 5]");
    for (int i = 0; i < DENOISE_HISTORY; i++) {
        snprintf(line, sizeof(line), "a.h5: has no %s", history[i]);
        refuse(history[i], missing, ST_FORMAT, line);
    }
    refuse("/step", missing, ST_FORMAT, "a.h5: has no /step");
    refuse("/step", number(&before), ST_FORMAT, "a.h5: /step is -3 of 10");
    refuse("/step", number(&many), ST_FORMAT, "a.h5: /step is 99 of 10");
    refuse("/step", tensor_of(data, DT_F32, 1), ST_FORMAT,
           "a.h5: /step is F32 [1], not one integer");
    refuse("/step", number(&one), ST_FORMAT,
           "a.h5: /solver/order is 2; after step 1 of 10 of unipc it is 1");
    refuse("/solver/order", missing, ST_FORMAT, "a.h5: has no /solver/order");
    refuse("/solver/order", number(&zero), ST_FORMAT,
           "a.h5: /solver/order is 0; after step 7 of 10 of unipc it is 2");
    refuse("/solver/order", number(&many), ST_FORMAT,
           "a.h5: /solver/order is 99; after step 7 of 10 of unipc it is 2");
    CHECK(run_state_noise(back[0], shape, &none, "a.h5") == ST_FORMAT, "no noise");
    CHECK(run_state_load(&loaded, &plan, &ten, &none, "a.h5") == ST_FORMAT, "nothing");
    conditioning_add_shape(&planned, "text/cond", 2, (const int64_t[]){ 512, 8 });
    CHECK(run_state_conditioning(&got, &planned, &none, "a.h5") == ST_FORMAT, "no text");
}

/* What a run may replace: nothing but the state that it continues; and one job at a time. */
static void test_claim(void)
{
    struct denoise_state saved = state_of(data);
    struct runfile first = { 0 }, next = { 0 }, none = { 0 };
    struct filelock lock = { 0 }, second = { 0 };
    const char *path = scratch_path("a.h5");
    bool same = true;
    FILE *f;

    CHECK(run_state_claim(&lock, path, NULL, &same) == ST_OK && !same, "%s", status_line());
    CHECK(run_state_claim(&second, path, NULL, &same) == ST_USAGE &&
              strstr(status_line(), "another job (process ") != NULL,
          "%s", status_line());
    CHECK(run_state_save(&first, shape, data[2], &saved) == ST_OK &&
              runfile_add_text(&first, "request", "{}") == ST_OK &&
              runfile_write(path, &first) == ST_OK,
          "%s", status_line());
    filelock_release(&lock);
    CHECK(scratch_entries() == 1, "%d entries", scratch_entries());

    CHECK(run_state_claim(&lock, path, NULL, &same) == ST_USAGE, "replaced a run file");
    filelock_release(&lock);
    CHECK(run_state_claim(&lock, path, &none, &same) == ST_USAGE, "replaced another state");
    filelock_release(&lock);
    CHECK(runfile_read(path, &next) == ST_OK, "%s", status_line());
    CHECK(run_state_claim(&lock, path, &next, &same) == ST_OK && same, "%s", status_line());
    filelock_release(&lock);
    CHECK(run_state_claim(&lock, scratch_path("b.h5"), &next, &same) == ST_OK && !same, "%s",
          status_line());
    filelock_release(&lock);
    runfile_done(&next);
    runfile_done(&first);

    f = fopen(path, "w");
    CHECK(f != NULL && fputs("a letter", f) >= 0 && fclose(f) == 0, "a text");
    CHECK(run_state_claim(&lock, path, NULL, &same) == ST_USAGE &&
              strstr(status_line(), "is no run file") != NULL,
          "%s", status_line());
    filelock_release(&lock);
    CHECK(run_state_claim(&lock, scratch_path("none/a.h5"), NULL, &same) == ST_IO, "no folder");
    CHECK(unlink(path) == 0 && scratch_entries() == 0, "%d entries", scratch_entries());
}

int main(void)
{
    if (!scratch_open("run_state"))
        return 1;
    test_round_trip();
    test_refused();
    test_claim();
    scratch_close();
    return check_end("run_state");
}
