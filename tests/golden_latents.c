/* golden_latents FOLDER NAME.safetensors RUN.h5 TOLERANCE [TENSOR]: whether a run file ends in the
 * latents that were recorded. */
#include "runtime/runfile.h"
#include "tests/check.h"
#include "tests/golden.h"

int main(int argc, char **argv)
{
    struct runfile run = { 0 };
    struct golden golden;
    int64_t n, got;

    if (argc < 5 || runfile_read(argv[3], &run) != ST_OK) {
        fprintf(stderr, "golden_latents: %s\n", argc < 5 ? "four arguments" : status_line());
        return 2;
    }
    golden = golden_open(argv[1], argv[2]);
    float *want = golden_f32(&golden, &n, "%s", argc > 5 ? argv[5] : "latents");
    const struct tensor latents = runfile_find(&run, "/latents");
    got = latents.data != NULL && latents.dtype == DT_F32 ? tensor_count(latents) : 0;
    CHECK(got == n, "%lld values, recorded %lld", (long long)got, (long long)n);
    if (got == n) {
        printf("relative error %.3g\n", check_distance(latents.data, want, n));
        check_near("latents", latents.data, want, n, atof(argv[4]));
    }
    free(want);
    golden_close(&golden);
    runfile_done(&run);
    return check_end("golden_latents");
}
