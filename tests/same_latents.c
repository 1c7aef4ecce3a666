/* same_latents A.h5 B.h5 [TOLERANCE]: whether two run files end in the same latent: the same bits,
 * or within a relative error. */
#include "runtime/runfile.h"
#include "tests/check.h"

#include <stdlib.h>
#include <string.h>

static int64_t count(const struct run_array *a)
{
    int64_t n = a->ndim > 0 ? 1 : 0;

    for (int i = 0; i < a->ndim; i++)
        n *= a->dim[i];
    return n;
}

int main(int argc, char **argv)
{
    const double tolerance = argc > 3 ? atof(argv[3]) : 0;
    struct runfile a = { 0 }, b = { 0 };
    int64_t n;

    if (argc < 3 || runfile_read(argv[1], &a) != ST_OK || runfile_read(argv[2], &b) != ST_OK) {
        fprintf(stderr, "same_latents: %s\n", argc < 3 ? "two run files" : status_line());
        return 2;
    }
    n = count(&a.latents);
    CHECK(n > 0 && n == count(&b.latents), "%lld and %lld values", (long long)n,
          (long long)count(&b.latents));
    CHECK(a.step == b.step, "steps %lld and %lld", (long long)a.step, (long long)b.step);
    if (checks_failed == 0 && tolerance == 0)
        CHECK(memcmp(a.latents.data, b.latents.data, (size_t)n * sizeof(float)) == 0,
              "bits differ, relative error %.3g",
              check_distance(a.latents.data, b.latents.data, n));
    else if (checks_failed == 0)
        check_near("latents", a.latents.data, b.latents.data, n, tolerance);
    runfile_done(&a);
    runfile_done(&b);
    return check_end("same_latents");
}
