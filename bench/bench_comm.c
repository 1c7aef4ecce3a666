/* bench_comm [cuda|nccl], under mpirun, one rank per GPU
 *
 * The collectives of a group at the sizes of a 14B block, by copy engines or through NCCL: alone,
 * and overlapped with matrix products on the device's stream. GB/s count the bytes that one rank
 * sends. */
#include "kernels/ops.h"
#include "parallel/group.h"
#include "runtime/arena.h"
#include "runtime/clock.h"
#include "runtime/half.h"
#include "tests/ranks_device.h"

#define MB ((size_t)1 << 20)
#define MOST (512 * MB)

enum { ALL_GATHER, ALL_TO_ALL, RING, BROADCAST };
static const char *const name[] = { "all-gather", "all-to-all", "ring", "broadcast" };

static const size_t sizes[] = { 64 << 10, 1 * MB, 10 * MB, 80 * MB,
                                338 * MB }; // that one rank sends

static void need(status st)
{
    if (st != ST_OK) {
        fprintf(stderr, "bench_comm: %s\n", status_line());
        abort();
    }
}

struct bench {
    struct world *w;
    struct group g;
    struct device dev;
    struct tensor send, recv, x, m, y; // [MOST] bytes; y = x m^T
};

/* Starts communication of `kind` in which this rank sends `bytes` in all. */
static void start(struct bench *b, struct transfer *t, int kind, size_t bytes)
{
    struct group *g = &b->g;
    const size_t part = bytes / (size_t)(g->size - 1);
    const struct message to = message_of((g->rank + 1) % g->size, b->send.data, bytes);
    const struct message from = message_of((g->rank + g->size - 1) % g->size, b->recv.data, bytes);

    for (int i = 0; i <= g->size; i++)
        g->recv_offset[i] = g->send_offset[i] = (size_t)i * part;
    if (kind == ALL_GATHER)
        need(group_all_gather(g, t, b->recv.data, g->recv_offset,
                              (char *)b->recv.data + g->recv_offset[g->rank]));
    else if (kind == ALL_TO_ALL) // nothing is sent to the rank itself
        for (int i = g->rank; i < g->size; i++)
            g->send_offset[i + 1] -= part;
    if (kind == ALL_TO_ALL)
        need(group_all_to_all(g, t, b->recv.data, g->recv_offset, b->send.data, g->send_offset));
    if (kind == RING)
        need(group_send_recv(g, t, &to, 1, &from, 1));
    if (kind == BROADCAST)
        need(group_broadcast(g, t, b->recv.data, part, 0));
}

static void product(struct bench *b)
{
    need(op_gemm(&b->dev, b->y, b->x, b->m, (struct tensor){ 0 }, ACT_NONE));
}

/* Seconds for `products` matrix products and `transfers` collectives, started alternately. */
static double run(struct bench *b, int products, int transfers, int kind, size_t bytes)
{
    struct transfer t[GROUP_IN_FLIGHT] = { { 0 } };
    double from;

    need(device_wait(&b->dev));
    world_barrier(b->w);
    from = clock_seconds();
    for (int i = 0; i < products || i < transfers; i++) {
        if (i < transfers) {
            need(transfer_wait(&t[i % GROUP_IN_FLIGHT]));
            start(b, &t[i % GROUP_IN_FLIGHT], kind, bytes);
        }
        if (i < products)
            product(b);
    }
    for (int i = 0; i < GROUP_IN_FLIGHT; i++)
        need(transfer_wait(&t[i]));
    need(device_wait(&b->dev));
    return clock_seconds() - from;
}

/* The minimum of three runs. */
static double best(struct bench *b, int products, int transfers, int kind, size_t bytes)
{
    double least = 1e9;

    for (int i = 0; i < 3; i++) {
        const double s = run(b, products, transfers, kind, bytes);

        least = s < least ? s : least;
    }
    return least;
}

static void fill(struct device *dev, struct tensor t)
{
    const int64_t n = tensor_count(t);
    uint16_t *host = malloc((size_t)n * 2);
    uint32_t state = 1;

    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        host[i] = bf16_from_f32((float)(int32_t)state / 2147483648.0f);
    }
    need(device_upload(dev, t, host));
    need(device_wait(dev));
    free(host);
}

int main(int argc, char **argv)
{
    const int times = 24;
    struct world w;
    struct bench b = { .w = &w };
    struct arena a;
    struct table table;
    double alone;

    if (world_open(&w, &argc, &argv) != ST_OK || !ranks_on_gpus(&w, &argc, argv) || w.size < 2)
        return 1;
    table_cuda(&table);
    need(ranks_device(&b.dev, &w, true, &table));
    need(group_open(&b.g, "bench", &w, &b.dev, 0, NULL, 0));
    need(arena_init(&a, &b.dev, "bench", 3 * MOST + 512 * MB));
    need(arena_take(&a, &b.send, DT_U8, (int64_t)MOST));
    need(arena_take(&a, &b.recv, DT_U8, (int64_t)MOST * 2));
    need(arena_take(&a, &b.x, DT_BF16, 16380, 5120));
    need(arena_take(&a, &b.m, DT_BF16, 5120, 5120));
    need(arena_take(&a, &b.y, DT_BF16, 16380, 5120));
    fill(&b.dev, b.x);
    fill(&b.dev, b.m);
    best(&b, times, 0, 0, 0);
    alone = best(&b, times, 0, 0, 0);
    if (w.rank == 0)
        printf("%d ranks, %s; a product of 16380 x 5120 x 5120: %.3f ms\n%-10s %9s %9s %9s %10s "
               "%13s\n",
               w.size, w.nccl ? "nccl" : "cuda", alone / times * 1e3, "", "MB sent", "ms", "GB/s",
               "overlap ms", "exposed %");
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int kind = 0; kind < 4; kind++) {
            const double s = best(&b, 0, times, kind, sizes[i]);
            const double both = best(&b, times, times, kind, sizes[i]);

            if (w.rank == 0)
                printf("%-10s %9.2f %9.3f %9.1f %9.3f %14.1f\n", name[kind], (double)sizes[i] / 1e6,
                       s / times * 1e3, (double)sizes[i] * times / s / 1e9, both / times * 1e3,
                       100 * (both - alone) / s);
            fflush(stdout);
        }
    arena_done(&a);
    group_close(&b.g);
    device_close(&b.dev);
    world_close(&w);
    return 0;
}
