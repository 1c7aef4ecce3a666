#include "runtime/fp8.h"
#include "tests/checkops.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EDGE 256 // guard bytes before and after a tensor
#define GUARD 0xa5

static struct buffer {
    uint8_t *memory;
    uint8_t *expected; // of an output: a copy of `memory`, to compare guard bytes with; else NULL
    size_t bytes;
    struct tensor t;
} buffers[64];
static int count;
static struct device *memory; // allocates the buffers; NULL: malloc

void check_memory(struct device *dev)
{
    memory = dev;
}

static void *buffer_alloc(size_t bytes)
{
    void *p = NULL;

    if (memory == NULL)
        p = malloc(bytes);
    else if (device_host_alloc(memory, &p, bytes) != ST_OK)
        p = NULL;
    assert(p != NULL);
    return p;
}

static void buffer_free(void *p)
{
    if (memory == NULL)
        free(p);
    else
        device_host_free(memory, p);
}

void check_name(struct check *c, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(c->name, sizeof(c->name), format, args);
    va_end(args);
    c->cases++;
}

void check_fail(struct check *c, const char *format, ...)
{
    va_list args;

    c->failed++;
    if (c->quiet)
        return;
    printf("%s %s: ", c->level, c->name);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

void check_status(struct check *c, status st)
{
    if (st != ST_OK)
        check_fail(c, "status %d, %s", (int)st, status_line());
}

static int64_t offset_of(struct tensor t, const int64_t *index)
{
    int64_t at = 0;

    for (int i = 0; i < t.ndim; i++)
        at += index[i] * t.stride[i];
    return at;
}

/* Advances to the next index in row-major order; false after the last. */
static bool next(struct tensor t, int64_t *index)
{
    for (int i = t.ndim - 1; i >= 0; i--) {
        if (++index[i] < t.dim[i])
            return true;
        index[i] = 0;
    }
    return false;
}

static void put(struct tensor t, const int64_t *index, float v)
{
    const int64_t at = offset_of(t, index);

    if (t.dtype == DT_F32)
        ((float *)t.data)[at] = v;
    else if (t.dtype == DT_F64)
        ((double *)t.data)[at] = v;
    else if (t.dtype == DT_BF16)
        ((uint16_t *)t.data)[at] = bf16_from_f32(v);
    else if (t.dtype == DT_F16)
        ((uint16_t *)t.data)[at] = f16_from_f32(v);
    else if (t.dtype == DT_F8_E4M3)
        ((uint8_t *)t.data)[at] = e4m3_from_f32(v);
    else if (t.dtype == DT_I32)
        ((int32_t *)t.data)[at] = isnan(v) ? -1 : (int32_t)v;
    else
        ((uint8_t *)t.data)[at] = (uint8_t)v;
}

float check_get(struct tensor t, const int64_t *index)
{
    const int64_t at = offset_of(t, index);

    if (t.dtype == DT_F32)
        return ((float *)t.data)[at];
    if (t.dtype == DT_F64)
        return (float)((double *)t.data)[at];
    if (t.dtype == DT_BF16)
        return f32_from_bf16(((uint16_t *)t.data)[at]);
    if (t.dtype == DT_F16)
        return f32_from_f16(((uint16_t *)t.data)[at]);
    if (t.dtype == DT_F8_E4M3)
        return f32_from_e4m3(((uint8_t *)t.data)[at]);
    if (t.dtype == DT_I32)
        return (float)((int32_t *)t.data)[at];
    return ((uint8_t *)t.data)[at];
}

struct tensor check_make(enum dtype dt, int64_t gap, int ndim, const int64_t *dim)
{
    struct tensor t = { .dtype = dt, .ndim = ndim };
    struct buffer *b = &buffers[count++];
    int64_t stride = 1;

    assert(count <= (int)COUNT(buffers));
    for (int i = ndim - 1; i >= 0; i--) {
        t.dim[i] = dim[i];
        t.stride[i] = stride;
        stride = stride * dim[i] + gap;
    }
    b->bytes = (size_t)stride * dtype_size(dt) + 2 * EDGE;
    b->memory = buffer_alloc(b->bytes);
    b->expected = NULL;
    memset(b->memory, GUARD, b->bytes);
    t.data = b->memory + EDGE;
    b->t = t;
    return t;
}

static bool empty(struct tensor t)
{
    return tensor_count(t) == 0;
}

/* splitmix64: a number in [0, 1). */
static double uniform(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

int64_t check_random(struct check *c, int64_t below)
{
    uint64_t state = c->seed++ * 0x2545f4914f6cdd1du;

    return (int64_t)(uniform(&state) * (double)below);
}

/* The Box-Muller transform. */
static float normal(uint64_t *state)
{
    double u[2];

    for (int i = 0; i < 2; i++)
        u[i] = uniform(state);
    return (float)(sqrt(-2 * log(1 - u[0])) * cos(2 * M_PI * u[1]));
}

/* All bytes are 0xff, so that a kernel that reads guard bytes gets NaN. */
static struct tensor make_input(enum dtype dt, int64_t gap, int ndim, const int64_t *dim)
{
    const struct tensor t = check_make(dt, gap, ndim, dim);

    memset(buffers[count - 1].memory, 0xff, buffers[count - 1].bytes);
    return t;
}

/* From now on the guard bytes of the last buffer must not change. */
static void guard(void)
{
    struct buffer *b = &buffers[count - 1];

    b->expected = malloc(b->bytes);
    assert(b->expected != NULL);
    memcpy(b->expected, b->memory, b->bytes);
}

struct tensor check_normal(struct check *c, enum dtype dt, float mean, float sigma, int64_t gap,
                           int ndim, const int64_t *dim)
{
    const struct tensor t = make_input(dt, gap, ndim, dim);
    int64_t index[TENSOR_AXES] = { 0 };
    uint64_t state = c->seed++ * 0x2545f4914f6cdd1du;

    if (!empty(t))
        do
            put(t, index, mean + sigma * normal(&state));
        while (next(t, index));
    return t;
}

struct tensor check_constant(enum dtype dt, float value, int64_t gap, int ndim, const int64_t *dim)
{
    const struct tensor t = make_input(dt, gap, ndim, dim);
    int64_t index[TENSOR_AXES] = { 0 };

    if (!empty(t))
        do
            put(t, index, value);
        while (next(t, index));
    return t;
}

struct tensor check_output(enum dtype dt, int64_t gap, int ndim, const int64_t *dim)
{
    const struct tensor t = check_make(dt, gap, ndim, dim);
    int64_t index[TENSOR_AXES] = { 0 };

    guard();
    if (!empty(t) && dt != DT_U8)
        do
            put(t, index, NAN);
        while (next(t, index));
    return t;
}

struct tensor check_clone(struct tensor x, enum dtype dt)
{
    const int last = x.ndim - 1;
    const int64_t gap = last > 0 && x.dtype == dt ? x.stride[last - 1] - x.dim[last] : 0;
    const struct tensor t = check_make(dt, gap, x.ndim, x.dim);
    int64_t index[TENSOR_AXES] = { 0 };

    guard();
    if (!empty(t))
        do
            put(t, index, check_get(x, index));
        while (next(t, index));
    return t;
}

/* Fails with the first guard byte that changed in each output. */
static void check_guards(struct check *c)
{
    check_status(c, device_wait(&c->got));
    for (int i = 0; i < count; i++) {
        struct buffer *b = &buffers[i];
        const size_t size = dtype_size(b->t.dtype);
        int64_t index[TENSOR_AXES] = { 0 };
        struct tensor rows = b->t; // by their first elements
        size_t row = size;

        if (rows.ndim > 0 && rows.stride[rows.ndim - 1] == 1) {
            row *= (size_t)rows.dim[rows.ndim - 1];
            rows.dim[rows.ndim - 1] = 1;
        }
        if (b->expected == NULL)
            continue;
        if (!empty(b->t)) // elements may change
            do {
                const size_t at = EDGE + (size_t)offset_of(b->t, index) * size;
                memcpy(b->expected + at, b->memory + at, row);
            } while (next(rows, index));
        if (memcmp(b->memory, b->expected, b->bytes) == 0)
            continue;
        for (size_t at = 0; at < b->bytes; at++)
            if (b->memory[at] != b->expected[at]) {
                check_fail(c, "wrote byte %lld, which is not part of an element of %s",
                           (long long)at - EDGE, tensor_text(b->t));
                memcpy(b->expected, b->memory, b->bytes); // report it once
                break;
            }
    }
}

void check_close(struct check *c, struct tensor got, struct tensor want, struct tol tol)
{
    double diff = 0, norm = 0, rms, worst = 0;
    int64_t index[TENSOR_AXES] = { 0 }, n = tensor_count(want);

    check_guards(c);
    if (n == 0)
        return;
    do
        norm += (double)check_get(want, index) * check_get(want, index);
    while (next(want, index));
    rms = sqrt(norm / (double)n);
    do {
        const double g = check_get(got, index), w = check_get(want, index);

        if (!isfinite(g) && isfinite(w)) {
            check_fail(c, "%g at [%lld, %lld, ...] of %s, expected %g", g, (long long)index[0],
                       (long long)index[1], tensor_text(got), w);
            return;
        }
        diff += (g - w) * (g - w);
        worst = fmax(worst, fabs(g - w) / (rms + fabs(w) + 1e-30));
    } while (next(want, index));
    diff = sqrt(diff / (norm + 1e-60));
    if (!(diff <= tol.total) || !(worst <= tol.element))
        check_fail(
            c,
            "error %.3g over the whole tensor (limit %.3g), %.3g of one element (limit %.3g: "
            "%s)",
            diff, tol.total, worst, tol.element, tol.reason);
}

/* Whether both are contiguous and have the same bytes. */
static bool same_bytes(struct tensor a, struct tensor b)
{
    return a.dtype == b.dtype && tensor_contiguous(a) && tensor_contiguous(b) &&
           memcmp(a.data, b.data, tensor_bytes(b)) == 0;
}

void check_same(struct check *c, struct tensor got, struct tensor want)
{
    int64_t index[TENSOR_AXES] = { 0 };

    check_guards(c);
    if (empty(want) || same_bytes(got, want))
        return;
    do {
        const float g = check_get(got, index), w = check_get(want, index);

        if (memcmp(&g, &w, sizeof(g)) != 0) {
            check_fail(c, "%.9g at [%lld, %lld, ...] of %s, expected exactly %.9g", (double)g,
                       (long long)index[0], (long long)index[1], tensor_text(got), (double)w);
            return;
        }
    } while (next(want, index));
}

void check_end_case(struct check *c)
{
    check_guards(c);
    for (; count > 0; count--) {
        buffer_free(buffers[count - 1].memory);
        free(buffers[count - 1].expected);
    }
}

void check_time(struct check *c, double seconds)
{
    printf("%-8s %-48s %10.3f ms\n", c->level, c->name, seconds * 1e3);
}
