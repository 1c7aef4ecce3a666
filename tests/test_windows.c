/* The windows of long videos and their weights, against ComfyUI-WanVideoWrapper's; DiffSynth's by
 * formula. */
#include "model/sampling/windows.h"
#include "tests/check.h"
#include "tests/golden.h"

#include <math.h>
#include <string.h>

static const char *const names[] = { "static_standard", "uniform_standard", "uniform_looped" };

static void test_context(struct golden *golden, const struct window_settings *set, int frames,
                         int step)
{
    struct windows w;
    int64_t count;
    char name[120];
    float *want;

    snprintf(name, sizeof(name), "windows.%s.%s.%d.%d.%d.%d.%d", names[set->kind - WINDOWS_STATIC],
             set->pyramid ? "pyramid" : "linear", frames, set->frames, set->stride, set->overlap,
             step);
    want = golden_f32(golden, &count, "%s", name);
    golden_need(windows_make(&w, set, frames, step));
    CHECK((int64_t)w.count * frames == count, "%s: %d windows, recorded %lld", name, w.count,
          (long long)(count / frames));
    for (int k = 0; k < w.count && (int64_t)w.count * frames == count; k++) {
        float row[128] = { 0 };

        for (int i = 0; i < w.length[k]; i++)
            row[w.index[k * w.frames + i]] = (float)w.weight[k * w.frames + i];
        for (int f = 0; f < frames; f++)
            CHECK(fabsf(row[f] - want[k * frames + f]) < 1e-6f,
                  "%s: window %d, frame %d: %g, not %g", name, k, f, (double)row[f],
                  (double)want[k * frames + f]);
    }
    windows_done(&w);
    free(want);
}

static void test_sliding(void)
{
    const struct window_settings set = { .kind = WINDOWS_SLIDING, .frames = 4, .stride = 3 };
    struct windows w;

    golden_need(windows_make(&w, &set, 6, 0));
    CHECK(w.count == 2 && w.length[0] == 4 && w.length[1] == 3 && w.index[w.frames] == 3,
          "%d windows", w.count);
    CHECK(w.weight[3] == 0.5 && w.weight[w.frames] == 0.5 && w.weight[2] == 1, "weights %g, %g",
          w.weight[3], w.weight[w.frames]);
    windows_done(&w);
    CHECK(!windows_divide(&set, 4) && windows_divide(&set, 5),
          "a video of one window is not divided");
}

/* Each frame has windows whose weights add up to 1, whatever the settings. */
static void test_sums(void)
{
    for (int kind = WINDOWS_SLIDING; kind <= WINDOWS_LOOPED; kind++)
        for (int size = 2; size < 9; size++)
            for (int overlap = 0; overlap < size; overlap++)
                for (int i = 0; i < 24; i++) {
                    const struct window_settings set = { .kind = (enum window_kind)kind,
                                                         .frames = size,
                                                         .stride = kind == WINDOWS_SLIDING
                                                                       ? size - overlap
                                                                       : 1 + i % 3,
                                                         .overlap = overlap,
                                                         .pyramid = i % 2 == 1 };
                    const int frames = size + 1 + i;
                    double sum[64] = { 0 };
                    struct windows w;

                    golden_need(windows_make(&w, &set, frames, i));
                    for (int k = 0; k < w.count; k++)
                        for (int f = 0; f < w.length[k]; f++)
                            sum[w.index[k * w.frames + f]] += w.weight[k * w.frames + f];
                    for (int f = 0; f < frames; f++)
                        CHECK(fabs(sum[f] - 1) < 1e-12, "kind %d, %d of %d frames, overlap %d: %g",
                              kind, size, frames, overlap, sum[f]);
                    windows_done(&w);
                }
}

int main(int argc, char **argv)
{
    static const struct {
        enum window_kind kind;
        int frames, size, stride, overlap, step;
    } cases[] = { { WINDOWS_STATIC, 23, 5, 1, 2, 0 },   { WINDOWS_STATIC, 81, 21, 1, 4, 3 },
                  { WINDOWS_UNIFORM, 23, 5, 1, 2, 3 },  { WINDOWS_UNIFORM, 40, 6, 2, 3, 5 },
                  { WINDOWS_UNIFORM, 81, 21, 1, 4, 1 }, { WINDOWS_LOOPED, 23, 5, 1, 2, 3 },
                  { WINDOWS_LOOPED, 33, 6, 3, 1, 6 } };
    struct golden golden = golden_open(argv[1], "v2v.safetensors");

    for (size_t i = 0; i < COUNT(cases); i++)
        for (int pyramid = 0; pyramid < 2; pyramid++)
            test_context(&golden,
                         &(struct window_settings){ cases[i].kind, cases[i].size, cases[i].stride,
                                                    cases[i].overlap, pyramid == 1 },
                         cases[i].frames, cases[i].step);
    test_sliding();
    test_sums();
    golden_close(&golden);
    return check_end("test_windows");
}
