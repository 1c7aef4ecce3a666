/* checkops.h - buffers with guarded edges, and the comparison of an op with the reference.
 *
 * Every tensor lies in memory of its own, views in a wider one: what is not an element of it is
 * guard, and must be unchanged when the op is done. Inputs have NaN there, so that a kernel that
 * reads beyond an edge shows; elements of outputs start as NaN, so that one left unwritten shows.
 */
#ifndef TESTS_CHECKOPS_H
#define TESTS_CHECKOPS_H

#include "kernels/table.h"

#include <stdint.h>
#include <string.h>

/* The table under test beside the reference, and what came of it. */
struct check {
    struct device ref, got;
    const char *level;
    const struct table *below; // entries equal to its are known to be right
    const char *only;          // the op that is looked at; NULL: all
    bool bench;                // time what is run
    bool quiet;                // a self-test: failures are expected, and counted only
    uint64_t seed;             // of the next input
    int cases, failed;
    char name[160]; // of the case at hand
};

/* Two error numbers: |got - want| / |want| over the whole, and the worst
 * |got - want| / (rms of want + |want|) of one element. */
struct tol {
    double whole, one;
    const char *reason; // printed when one is exceeded
};

/* Starts a case. False when `op` (a table entry) was checked at a level below. */
#define check_begin(c, op, ...)                                                                    \
    ((c)->got.table->op != (c)->below->op && ((c)->only == NULL || strcmp((c)->only, #op) == 0) && \
     (check_name(c, #op " " __VA_ARGS__), true))
void check_name(struct check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A tensor of dims[ndim], rows and every outer axis `gap` elements further apart than need be. */
struct tensor check_make(enum dtype dt, int64_t gap, int ndim, const int64_t *dim);
#define DIMS(...)                                                                                  \
    (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), (int64_t[])                       \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

/* From here on buffers lie in host memory that `dev` can work on too; NULL for any. */
void check_memory(struct device *dev);

/* Inputs: normal with standard deviation sigma around `mean`; one value. */
struct tensor check_normal(struct check *c, enum dtype dt, float mean, float sigma, int64_t gap,
                           int ndim, const int64_t *dim);
struct tensor check_constant(enum dtype dt, float value, int64_t gap, int ndim, const int64_t *dim);

/* An output, and the reference's: f32 and contiguous, so not rounded. */
struct tensor check_output(enum dtype dt, int64_t gap, int ndim, const int64_t *dim);

/* A tensor that an op works on in place: x again, under guards of its own. `dt` F32 for the
 * reference, which then does not round. */
struct tensor check_again(struct tensor x, enum dtype dt);

float check_get(struct tensor t, const int64_t *index);

/* Runs one call on c->got, timed under --bench. */
#define check_run(c, call)                                                                         \
    do {                                                                                           \
        check_status(c, call);                                                                     \
        check_status(c, device_wait(&(c)->got));                                                   \
        if ((c)->bench) {                                                                          \
            double check_best_ = 1e30;                                                             \
            for (int check_i_ = 0; check_i_ < 5; check_i_++) {                                     \
                const double check_t_ = check_now();                                               \
                check_status(c, call);                                                             \
                check_status(c, device_wait(&(c)->got));                                           \
                check_best_ =                                                                      \
                    check_now() - check_t_ < check_best_ ? check_now() - check_t_ : check_best_;   \
            }                                                                                      \
            check_time(c, check_best_);                                                            \
        }                                                                                          \
    } while (0)
double check_now(void);
void check_time(struct check *c, double seconds);
void check_status(struct check *c, status st);

/* Compares, and looks at all guards. NaN and Inf in got fail, unless want has them there. */
void check_close(struct check *c, struct tensor got, struct tensor want, struct tol tol);
void check_same(struct check *c, struct tensor got, struct tensor want); // bit for bit
void check_fail(struct check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Looks at the guards once more and frees every buffer made since the last call. */
void check_end_case(struct check *c);

/* The cases, by family. Each runs what is new in the table. */
void check_products(struct check *c);
void check_attentions(struct check *c);
void check_norms(struct check *c);
void check_elementwise(struct check *c);

#endif
