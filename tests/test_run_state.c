/* The state of a generation in a run file: saved arrays are loaded again, and arrays that do not
 * fit are refused by name. */
#include "launch/run_state.h"
#include "tests/check.h"

#include <string.h>

#define COUNT_F (2 * 3 * 4 * 5)

static const struct latent_shape shape = { 2, 3, 4, 5 };
static float data[4][COUNT_F], back[4][COUNT_F];

static struct denoise_state state_of(float arrays[4][COUNT_F])
{
    return (struct denoise_state){ .latents = arrays[0],
                                   .history = { arrays[1], arrays[2], arrays[3] } };
}

static void test_round_trip(void)
{
    struct denoise_state saved = state_of(data), loaded = state_of(back);
    struct conditioning text = { 0 }, planned = { 0 }, other = { 0 }, got = { 0 };
    float *rows[2];
    struct runfile file = { 0 };
    float noise[COUNT_F];

    saved.used[0] = saved.used[2] = true;
    saved.step = 7;
    saved.order = 2;
    for (int i = 0; i < 4 * COUNT_F; i++)
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
    CHECK(run_state_load(&loaded, shape, 10, &file, "a.h5") == ST_OK, "%s", status_line());
    CHECK(loaded.step == 7 && loaded.order == 2, "step %lld", (long long)loaded.step);
    CHECK(loaded.used[0] && !loaded.used[1] && loaded.used[2], "history");
    CHECK(memcmp(back[0], data[0], sizeof(data[0])) == 0, "latents");
    CHECK(memcmp(back[1], data[1], sizeof(data[1])) == 0, "m0");
    CHECK(memcmp(back[3], data[3], sizeof(data[3])) == 0, "last");
    CHECK(run_state_conditioning(&got, &planned, &file, "a.h5") == ST_OK, "%s", status_line());
    CHECK(conditioning_find(&got, "text/cond").dim[0] == 5 &&
              conditioning_find(&got, "text/uncond").dim[0] == 3 &&
              ((float *)conditioning_find(&got, "text/uncond").data)[2] == data[1][2],
          "text");
    conditioning_done(&got);

    CHECK(run_state_load(&loaded, shape, 6, &file, "a.h5") == ST_FORMAT, "steps");
    CHECK(strcmp(status_line(), "a.h5: /step is 7 of 6") == 0, "%s", status_line());
    CHECK(run_state_conditioning(&got, &other, &file, "a.h5") == ST_FORMAT, "columns");
    conditioning_done(&got);
    conditioning_done(&text);
    runfile_done(&file);
}

/* Loading must fail when one array of a complete state has another shape or data type. */
static void refuse(const char *name, struct tensor value, status expected, const char *line)
{
    struct denoise_state saved = state_of(data), loaded = state_of(back);
    struct runfile file = { 0 };
    status st;

    saved.used[0] = true;
    CHECK(run_state_save(&file, shape, data[2], &saved) == ST_OK, "%s", status_line());
    for (int i = 0; i < file.array_count; i++) {
        if (strcmp(file.arrays[i].name, name) == 0)
            file.arrays[i].value = value;
    }
    st = run_state_load(&loaded, shape, 10, &file, "a.h5");
    CHECK(st == expected && strcmp(status_line(), line) == 0, "%d: %s", st, status_line());
    runfile_done(&file);
}

static void test_refused(void)
{
    const struct runfile none = { 0 };
    struct denoise_state loaded = state_of(back);
    struct conditioning planned = { 0 }, got = { 0 };
    int64_t step = -3;

    refuse("/latents", tensor_of(data, DT_F32, 2, 3, 4), ST_USAGE,
           "a.h5: /latents is F32 [2, 3, 4], this request needs F32 [2, 3, 4, 5]");
    refuse("/latents", tensor_of(data, DT_I64, 1, 1, 1, 1), ST_USAGE,
           "a.h5: /latents is I64 [1, 1, 1, 1], this request needs F32 [2, 3, 4, 5]");
    refuse("/solver/m0", tensor_of(data, DT_F32, 2, 3, 5, 4), ST_USAGE,
           "a.h5: /solver/m0 is F32 [2, 3, 5, 4], this request needs F32 [2, 3, 4, 5]");
    refuse("/step", tensor_dims(&step, DT_I64, 0, NULL), ST_FORMAT, "a.h5: /step is -3");
    refuse("/step", tensor_of(data, DT_F32, 1), ST_FORMAT,
           "a.h5: /step is F32 [1], not one integer");
    refuse("/solver/order", tensor_dims(&step, DT_I64, 0, NULL), ST_FORMAT,
           "a.h5: /solver/order is -3");
    CHECK(run_state_noise(back[0], shape, &none, "a.h5") == ST_FORMAT, "no noise");
    CHECK(run_state_load(&loaded, shape, 10, &none, "a.h5") == ST_FORMAT, "nothing");
    CHECK(strcmp(status_line(), "a.h5: has no /latents") == 0, "%s", status_line());
    conditioning_add_shape(&planned, "text/cond", 2, (const int64_t[]){ 512, 8 });
    CHECK(run_state_conditioning(&got, &planned, &none, "a.h5") == ST_FORMAT, "no text");
}

int main(void)
{
    test_round_trip();
    test_refused();
    return check_end("run_state");
}
