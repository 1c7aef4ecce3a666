/* Exchanges between ranks, at the sizes of a forward. */
#include "launch/bench/bench.h"

#include <stdlib.h>

struct exchanging {
    struct bench *b;
    struct group *group;
    struct tensor send, recv;
    size_t *offset; // [size + 1]
};

static status call_gather(void *payload)
{
    const struct exchanging *e = payload;
    struct transfer t = { 0 };

    TRY(group_all_gather(e->group, &t, e->recv.data, e->offset, e->send.data));
    return transfer_wait(&t);
}

static status call_all_to_all(void *payload)
{
    const struct exchanging *e = payload;
    struct transfer t = { 0 };

    TRY(group_all_to_all(e->group, &t, e->recv.data, e->offset, e->send.data, e->offset));
    return transfer_wait(&t);
}

/* Round the ring: to the next, from the one before. */
static status call_ring(void *payload)
{
    const struct exchanging *e = payload;
    const struct group *g = e->group;
    const size_t bytes = tensor_bytes(e->send);
    const struct message to = message_of((g->rank + 1) % g->size, e->send.data, bytes);
    const struct message from = message_of((g->rank + g->size - 1) % g->size, e->recv.data, bytes);
    struct transfer t = { 0 };

    TRY(group_exchange(e->group, &t, &to, 1, &from, 1));
    return transfer_wait(&t);
}

/* `part` bytes for each rank of the group, or from each. */
static status exchange(struct bench *b, struct group *g, status (*call)(void *payload), size_t part,
                       double sent, const char *what)
{
    struct exchanging e = { .b = b, .group = g };
    struct arena a = { 0 };
    status st;

    part = (part + 255) / 256 * 256;
    e.offset = calloc((size_t)g->size + 1, sizeof(*e.offset));
    if (e.offset == NULL)
        return fail(ST_MEMORY, "no host memory");
    for (int r = 0; r <= g->size; r++)
        e.offset[r] = (size_t)r * part;
    TRY_OUT(arena_init(&a, &b->dev, "exchange", 2 * (size_t)g->size * part + 4096));
    TRY_OUT(arena_take(&a, &e.recv, DT_U8, (int64_t)((size_t)g->size * part)));
    TRY_OUT(arena_take(&a, &e.send, DT_U8,
                       (int64_t)(call == call_all_to_all ? (size_t)g->size * part : part)));
    TRY_OUT(device_zero(&b->dev, e.send));
    TRY_OUT(bench_time(b, "comm", (struct bench_work){ call, &e, 0, sent, CEILING_LINK, false },
                       "%s, %d ranks, %.1f MB sent", what, g->size, sent / 1e6));
out:
    arena_done(&a);
    free(e.offset);
    return st;
}

status bench_comm(struct bench *b)
{
    const struct dit_config *c = &b->plan.config.dit;
    const size_t row = (size_t)c->dim * dtype_size(b->cdt);
    const double tokens = (double)b->tokens / (double)mesh_seq_size(&b->mesh);
    struct group *all = &b->mesh.all, *ulysses = &b->mesh.ulysses_group;
    struct group *ring = &b->mesh.ring_group;
    const size_t large = b->dev.kind == DEVICE_CUDA ? (size_t)256 << 20 : (size_t)16 << 20;

    if (all->size < 2) {
        if (b->world->rank == 0)
            printf("comm      one rank exchanges nothing; start several with mpirun\n");
        return ST_OK;
    }
    TRY(exchange(b, all, call_ring, large, (double)large, "ceiling: one message round the ring"));
    b->ceilings[CEILING_LINK] = b->rows[b->count - 1].bytes / b->rows[b->count - 1].median_s;
    if (ulysses->size > 1) {
        const double part = tokens * (double)row / ulysses->size;

        TRY(exchange(b, ulysses, call_all_to_all, (size_t)part, part * (ulysses->size - 1),
                     "Ulysses, one of q k v"));
    }
    if (ring->size > 1) {
        const double part = 2 * tokens * (double)row;

        TRY(exchange(b, ring, call_ring, (size_t)part, part, "ring, keys and values"));
    }
    const double block =
        2 * (double)dtype_size(b->cdt) * (double)c->dim * (4 * (double)c->dim + (double)c->ffn_dim);
    const double kept = block / all->size;

    return exchange(b, all, call_gather, (size_t)kept, kept * (all->size - 1), "a block's weights");
}
