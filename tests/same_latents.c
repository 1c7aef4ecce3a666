/* same_latents A.h5 B.h5 [TOLERANCE]: whether two run files end in the same latent: the same bits,
 * or within a relative error. */
#include "runtime/runfile.h"
#include "tests/check.h"

#include <stdlib.h>
#include <string.h>

static int64_t step(const struct runfile *f)
{
    const struct tensor t = runfile_find(f, "/step");

    return t.data != NULL && t.dtype == DT_I64 ? *(const int64_t *)t.data : -1;
}

int main(int argc, char **argv)
{
    const double tolerance = argc > 3 ? atof(argv[3]) : 0;
    struct runfile a = { 0 }, b = { 0 };
    struct tensor left, right;
    int64_t n;

    if (argc < 3 || runfile_read(argv[1], &a) != ST_OK || runfile_read(argv[2], &b) != ST_OK) {
        fprintf(stderr, "same_latents: %s\n", argc < 3 ? "two run files" : status_line());
        return 2;
    }
    left = runfile_find(&a, "/latents");
    right = runfile_find(&b, "/latents");
    n = tensor_count(left);
    CHECK(left.data != NULL && right.data != NULL && left.dtype == DT_F32 &&
              right.dtype == DT_F32 && n == tensor_count(right),
          "%s and %s", tensor_text(left), tensor_text(right));
    CHECK(step(&a) == step(&b), "steps %lld and %lld", (long long)step(&a), (long long)step(&b));
    if (checks_failed == 0 && tolerance == 0)
        CHECK(memcmp(left.data, right.data, tensor_bytes(left)) == 0,
              "bits differ, relative error %.3g", check_distance(left.data, right.data, n));
    else if (checks_failed == 0)
        check_near("latents", left.data, right.data, n, tolerance);
    runfile_done(&a);
    runfile_done(&b);
    return check_end("same_latents");
}
