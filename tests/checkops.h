/* checkops.h - tensors with guard bytes, and the comparison of an op with the reference.
 *
 * Every tensor has its own buffer, larger than the tensor. Bytes that are not part of an element
 * (before, after, and between the rows of a view) are guard bytes: those of outputs must be
 * unchanged after the op; those of inputs are NaN, so that a kernel that reads out of bounds gives
 * NaN. The elements of outputs start as NaN, so that an element that is not written is found. */
#ifndef TESTS_CHECKOPS_H
#define TESTS_CHECKOPS_H

#include "kernels/table.h"
#include "runtime/clock.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* The reference, the table under test, and the results. */
struct check {
    struct device ref, got;
    const char *level;
    const struct table
        *previous;    // the level tested before: entries equal to its are not tested again
    const char *only; // the one op to test; NULL: all
    bool bench;       // time the ops
    bool quiet;       // self-test: failures are expected, count them without printing
    uint64_t seed;    // of the next input
    int cases, failed;
    char name[160]; // of the current case
};

/* Limits of two errors: |got - want| / |want| over the whole tensor, and the maximum over the
 * elements of |got - want| / (rms of want + |want|). */
struct tol {
    double total, element;
    const char *reason; // for these limits; printed when one is exceeded
};

/* Starts a case of `op` (a table entry). False when there is nothing to do: the previous level has
 * the same function, or only another op is tested. */
#define check_begin(c, op, ...)                                                                    \
    ((c)->got.table->op != (c)->previous->op &&                                                    \
     ((c)->only == NULL || strcmp((c)->only, #op) == 0) &&                                         \
     (check_name(c, #op " " __VA_ARGS__), true))
void check_name(struct check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A tensor of dim[ndim] in a new buffer; rows, and the slices of every outer axis, have `gap`
 * elements between them. */
struct tensor check_make(enum dtype dt, int64_t gap, int ndim, const int64_t *dim);
#define DIMS(...)                                                                                  \
    (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), (int64_t[])                       \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

/* Whether the kernel under test is the GPU's plain one of this op, whose code has one path: cases
 * for the tiles of others are left out. */
#define check_is_plain(c, op) ((c)->got.kind == DEVICE_CUDA && (c)->previous->op == NULL)

/* From now on allocates buffers in host memory that `dev` can access; with NULL by malloc. */
void check_memory(struct device *dev);

/* Inputs: normally distributed; or all of one value. */
struct tensor check_normal(struct check *c, enum dtype dt, float mean, float sigma, int64_t gap,
                           int ndim, const int64_t *dim);
struct tensor check_constant(enum dtype dt, float value, int64_t gap, int ndim, const int64_t *dim);

/* An output. The one for the reference is f32, so that it is not rounded. */
struct tensor check_output(enum dtype dt, int64_t gap, int ndim, const int64_t *dim);

/* A copy of x in a new buffer, for an op that works in place. dt is F32 for the reference, so that
 * it is not rounded, else x's dtype. */
struct tensor check_clone(struct tensor x, enum dtype dt);

/* A number in [0, below), which differs from call to call. */
int64_t check_random(struct check *c, int64_t below);

float check_get(struct tensor t, const int64_t *index); // one element

/* Runs one call on c->got and waits for it; with --bench prints the best time of five more. */
#define check_run(c, call)                                                                         \
    do {                                                                                           \
        check_status(c, call);                                                                     \
        check_status(c, device_wait(&(c)->got));                                                   \
        if ((c)->bench) {                                                                          \
            double check_best_ = 1e30;                                                             \
            for (int check_i_ = 0; check_i_ < 5; check_i_++) {                                     \
                const double check_t_ = clock_seconds();                                           \
                check_status(c, call);                                                             \
                check_status(c, device_wait(&(c)->got));                                           \
                check_best_ = fmin(check_best_, clock_seconds() - check_t_);                       \
            }                                                                                      \
            check_time(c, check_best_);                                                            \
        }                                                                                          \
    } while (0)
void check_time(struct check *c, double seconds);
void check_status(struct check *c, status st);

/* Compares, and checks all guard bytes. NaN and Inf in got fail, unless want has them there. */
void check_close(struct check *c, struct tensor got, struct tensor want, struct tol tol);
void check_same(struct check *c, struct tensor got, struct tensor want); // bitwise
void check_fail(struct check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Checks the guard bytes once more and frees every buffer allocated since the last call. */
void check_end_case(struct check *c);

/* A struct conv of stride_t, stride, front, top, bottom, left, right, upsample2x. */
#define CONV(st, s, f, t, b, l, r, up)                                                             \
    {                                                                                              \
        .stride_t = st, .stride = s, .front = f, .top = t, .bottom = b, .left = l, .right = r,     \
        .upsample2x = up                                                                           \
    }

/* The cases, by family. Each tests the entries that differ from the previous level's. */
void check_products(struct check *c);
void check_fp8(struct check *c);
void check_arrivals(struct check *c);
void check_attentions(struct check *c);
void check_sparse(struct check *c);
void check_rows(struct check *c);
void check_norms(struct check *c);
void check_elementwise(struct check *c);
void check_merges(struct check *c);
void check_expand(struct check *c);

#endif
