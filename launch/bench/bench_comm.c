/* Collectives and messages between ranks, at the sizes of a forward. */
#include "launch/bench/bench.h"

#include <stdlib.h>

struct operands {
    struct bench *b;
    struct group *group;
    struct tensor send, recv;
    size_t *offset; // [size + 1]
};

static status call_gather(void *payload)
{
    const struct operands *o = payload;
    struct transfer t = { 0 };

    TRY(group_all_gather(o->group, &t, o->recv.data, o->offset, o->send.data));
    return transfer_wait(&t);
}

static status call_all_to_all(void *payload)
{
    const struct operands *o = payload;
    struct transfer t = { 0 };

    TRY(group_all_to_all(o->group, &t, o->recv.data, o->offset, o->send.data, o->offset));
    return transfer_wait(&t);
}

/* One ring step: send to the next rank, receive from the previous one. */
static status call_ring(void *payload)
{
    const struct operands *o = payload;
    const struct group *g = o->group;
    const size_t bytes = tensor_bytes(o->send);
    const struct message to = message_of((g->rank + 1) % g->size, o->send.data, bytes);
    const struct message from = message_of((g->rank + g->size - 1) % g->size, o->recv.data, bytes);
    struct transfer t = { 0 };

    TRY(group_send_recv(o->group, &t, &to, 1, &from, 1));
    return transfer_wait(&t);
}

/* Times `call` with messages of `part` bytes per rank of the group; `sent` counts what this rank
 * sends in all. */
static status time_comm(struct bench *b, struct group *g, status (*call)(void *payload),
                        size_t part, double sent, const char *what)
{
    struct operands o = { .b = b, .group = g };
    struct arena a = { 0 };
    status st;

    part = (part + 255) / 256 * 256;
    o.offset = calloc((size_t)g->size + 1, sizeof(*o.offset));
    if (o.offset == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory");
    for (int r = 0; r <= g->size; r++)
        o.offset[r] = (size_t)r * part;
    TRY_OUT(arena_init(&a, &b->dev, "messages", 2 * (size_t)g->size * part + 4096));
    TRY_OUT(arena_take(&a, &o.recv, DT_U8, (int64_t)((size_t)g->size * part)));
    TRY_OUT(arena_take(&a, &o.send, DT_U8,
                       (int64_t)(call == call_all_to_all ? (size_t)g->size * part : part)));
    TRY_OUT(device_zero(&b->dev, o.send));
    TRY_OUT(bench_time(b, "comm", (struct bench_work){ call, &o, 0, sent, CEILING_LINK, false },
                       "%s, %d ranks, %.1f MB sent", what, g->size, sent / 1e6));
out:
    arena_done(&a);
    free(o.offset);
    return st;
}

status bench_comm(struct bench *b)
{
    const struct dit_config *c = model_dit(&b->plan.model);
    const size_t row = (size_t)c->dim * dtype_size(b->cdt);
    const double tokens = (double)b->tokens / (double)mesh_seq_size(&b->mesh);
    struct group *all = &b->mesh.all, *ulysses = &b->mesh.ulysses_group;
    struct group *ring = &b->mesh.ring_group;
    const size_t large = b->dev.kind == DEVICE_CUDA ? (size_t)256 << 20 : (size_t)16 << 20;

    if (all->size < 2) {
        if (b->world->rank == 0)
            printf("comm      one rank has nothing to communicate; start several with mpirun\n");
        return ST_OK;
    }
    TRY(time_comm(b, all, call_ring, large, (double)large, "ceiling: one message around the ring"));
    b->ceilings[CEILING_LINK] = b->rows[b->count - 1].bytes / b->rows[b->count - 1].median_s;
    if (ulysses->size > 1) {
        const double part = tokens * (double)row / ulysses->size;

        TRY(time_comm(b, ulysses, call_all_to_all, (size_t)part, part * (ulysses->size - 1),
                      "Ulysses, one of q k v"));
    }
    if (ring->size > 1) {
        const double part = 2 * tokens * (double)row;

        TRY(time_comm(b, ring, call_ring, (size_t)part, part, "ring, keys and values"));
    }
    const double block =
        2 * (double)dtype_size(b->cdt) * (double)c->dim * (4 * (double)c->dim + (double)c->ffn_dim);
    const double shard = block / all->size;

    return time_comm(b, all, call_gather, (size_t)shard, shard * (all->size - 1),
                     "a block's weights");
}
