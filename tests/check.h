/* check.h - shared by all test programs: counts checks, prints the failed ones, prints the count at
 * the end.
 *
 *     CHECK(n == 3, "got %d tensors", n);
 *     check_near("q", got, want, n, 2e-5);        // relative error of the whole tensor
 *     return check_end("tensorfile");             // prints "tensorfile: 12 checks, 0 failed" */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

static int checks_done, checks_failed;

#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        checks_done++;                                                                             \
        if (!(cond)) {                                                                             \
            checks_failed++;                                                                       \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #cond);                                      \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
        }                                                                                          \
    } while (0)

/* |got - want| / |want| over all n values. */
static inline double check_distance(const float *got, const float *want, int64_t n)
{
    double diff = 0, norm = 0;

    for (int64_t i = 0; i < n; i++) {
        const double d = (double)got[i] - want[i];
        diff += d * d;
        norm += (double)want[i] * want[i];
    }
    return norm > 0 ? sqrt(diff / norm) : sqrt(diff);
}

static inline bool check_near(const char *what, const float *got, const float *want, int64_t n,
                              double tolerance)
{
    const double d = check_distance(got, want, n);

    CHECK(d <= tolerance, "%s: relative error %.3g, allowed %.3g", what, d, tolerance); // NaN fails
    return d <= tolerance;
}

static inline int check_end(const char *name)
{
    printf("%s: %d checks, %d failed\n", name, checks_done, checks_failed);
    return checks_failed || !checks_done ? 1 : 0;
}

#endif
