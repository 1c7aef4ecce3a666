/* Weights that are read ahead: each rank gets the elements that tensors_open reads, any range of
 * them; errors of the source, and a stop before the end. */
#include "model/checkpoint/readahead.h"
#include "tests/check.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DIM 300
#define UNITS 3

struct unit {
    struct linear a, b;
    struct tensor norm;
};

/* Payload of the source: which call fails, and how slow it is. */
struct source {
    _Atomic int calls;
    int fail_at, wait_us;
};

static float value(const char *name, int64_t i)
{
    uint32_t h = 2166136261u;

    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    return (float)((h ^ (uint32_t)i * 2654435761u) >> 16);
}

static status read_values(void *payload, const struct weight_spec *spec, const char *name,
                          int64_t first, int64_t count, void *dst)
{
    struct source *s = payload;

    if (s->wait_us > 0)
        usleep((useconds_t)s->wait_us);
    if (s->calls++ == s->fail_at)
        return fail(ST_IO, "%s: cut", name);
    for (int64_t i = 0; i < count; i++)
        ((float *)dst)[i] = value(name, first + i);
    return ST_OK;
}

static void make_list(struct tensor_list *l)
{
    tensors_stack(l, "root", "", 1, TENSORS_RESIDENT);
    tensors_linear(l, "head", offsetof(struct unit, a), 2048, 2048, DT_F32); // several chunks
    tensors_stack(l, "small", "blocks.%d.", UNITS, TENSORS_LOCAL);
    tensors_vector(l, "modulation", offsetof(struct unit, norm), DIM, DT_F32);
    tensors_stack(l, "blocks", "blocks.%d.", UNITS, TENSORS_SHARDED);
    tensors_linear(l, "q", offsetof(struct unit, a), DIM, DIM, DT_F32);
    tensors_add(l, "k.weight", offsetof(struct unit, b.w), DT_F32, TENSOR_DIMS(DIM, 7))->joined =
        true;
    tensors_vector(l, "norm", offsetof(struct unit, norm), 5, DT_F32);
}

/* Payload of compare: the source that is compared, and how many elements it had. */
struct comparison {
    struct weight_source got;
    int64_t count, wrong;
};

/* weight_range: reads the whole range, and ranges of it. */
static status compare(void *payload, const struct weight_spec *spec, const char *name,
                      int64_t first, int64_t count, const struct weight_form *form)
{
    struct comparison *c = payload;
    float *got = malloc((size_t)count * sizeof(float));

    for (int part = 1; part <= 3; part++) {
        const int64_t from = count * (part - 1) / 3, n = (count - from + part - 1) / part;

        c->got.read(c->got.payload, spec, name, first + from, n, got);
        for (int64_t i = 0; i < n; i++)
            c->wrong += got[i] != value(name, first + from + i);
    }
    c->count += count;
    free(got);
    return ST_OK;
}

static void check_ranks(const struct tensor_list *l, struct device *dev, int ranks)
{
    const int64_t each = UNITS * DIM, once = 2048 * 2048 + 2048 + UNITS * (DIM * DIM + DIM * 8 + 5);
    int64_t all = 0;

    for (int rank = 0; rank < ranks; rank++) {
        struct source from = { .fail_at = -1 };
        struct comparison c = { .count = 0 };
        struct readahead *r = NULL;

        CHECK(readahead_start(&r, l, ranks, rank,
                              (struct weight_source){ .read = read_values, .payload = &from },
                              false, 1 + rank % 3) == ST_OK,
              "%s", status_line());
        CHECK(readahead_wait(r, dev) == ST_OK, "%s", status_line());
        c.got = readahead_source(r);
        CHECK(c.got.in_memory, "a source in memory");
        tensors_ranges(l, ranks, rank, NULL, compare, &c);
        CHECK(c.wrong == 0, "rank %d of %d: %lld wrong values", rank, ranks, (long long)c.wrong);
        CHECK(readahead_bytes(l, ranks, rank, NULL) < (size_t)c.count * 4 + 8192,
              "%zu bytes for %lld values", readahead_bytes(l, ranks, rank, NULL),
              (long long)c.count);
        all += c.count - each;
        readahead_stop(r);
    }
    CHECK(all == once, "%d ranks hold %lld values, expected %lld", ranks, (long long)all,
          (long long)once);
}

static void check_errors(const struct tensor_list *l, struct device *dev)
{
    struct source from = { .fail_at = 3 }, slow = { .fail_at = -1, .wait_us = 20000 };
    struct readahead *r = NULL;

    CHECK(readahead_start(&r, l, 1, 0,
                          (struct weight_source){ .read = read_values, .payload = &from }, false,
                          2) == ST_OK,
          "%s", status_line());
    CHECK(readahead_wait(r, dev) == ST_IO && strstr(status_line(), ": cut") != NULL, "%s",
          status_line());
    CHECK(from.calls < 8, "%d reads, four of them after the error", (int)from.calls);
    readahead_stop(r);
    CHECK(readahead_start(&r, l, 1, 0,
                          (struct weight_source){ .read = read_values, .payload = &slow }, false,
                          1) == ST_OK,
          "%s", status_line());
    usleep(30000);
    readahead_stop(r); // without a wait
    CHECK(slow.calls < 10, "%d reads before the stop", (int)slow.calls);
    readahead_stop(NULL);
}

int main(void)
{
    struct tensor_list l = { 0 };
    struct device dev = { 0 };

    make_list(&l);
    CHECK(tensors_status(&l) == ST_OK, "%s", status_line());
    for (int ranks = 1; ranks <= 7; ranks++)
        check_ranks(&l, &dev, ranks);
    check_errors(&l, &dev);
    tensors_done(&l);
    return check_end("readahead");
}
