#include "parallel/ulysses.h"

#include "kernels/ops.h"
#include "parallel/split.h"

/* First token of ring chunk r. */
static int64_t chunk_start(const struct seq_layout *s, int r)
{
    return split_at(s->tokens, mesh_seq_size(s->m), r * s->m->size.ulysses);
}

int64_t seq_layout_ring_tokens(const struct seq_layout *s, int r)
{
    return chunk_start(s, r + 1) - chunk_start(s, r);
}

struct seq_layout seq_layout_of(struct mesh *m, struct device *dev, int64_t tokens, int64_t heads,
                                int64_t depth)
{
    struct seq_layout s = {
        .m = m,
        .dev = dev,
        .tokens = tokens,
        .heads = heads,
        .depth = depth,
        .s_loc = split_count(tokens, mesh_seq_size(m), mesh_seq_rank(m)),
        .n_first = split_at(heads, m->size.ulysses, m->ulysses),
        .n_loc = split_count(heads, m->size.ulysses, m->ulysses),
    };

    s.s_ring = seq_layout_ring_tokens(&s, m->ring);
    return s;
}

struct heads seq_layout_heads(const struct seq_layout *s, int rank)
{
    return (struct heads){ split_at(s->heads, s->m->size.ulysses, rank),
                           split_count(s->heads, s->m->size.ulysses, rank) };
}

/* Offsets of the blocks of the all-to-all. By heads: block i holds the tokens of rank i, for the
 * heads of this rank. By tokens (packed): block i holds the heads of rank i, for the tokens of this
 * rank; this rank's own block is empty, as its data is copied directly. */
static void by_heads_offsets(const struct seq_layout *s, size_t element, size_t *at)
{
    const int ulysses = s->m->size.ulysses, first = s->m->ring * ulysses;
    for (int i = 0; i <= ulysses; i++) {
        const int64_t tokens =
            split_at(s->tokens, mesh_seq_size(s->m), first + i) - chunk_start(s, s->m->ring);
        at[i] = (size_t)(tokens * s->n_loc * s->depth) * element;
    }
}

static void packed_offsets(const struct seq_layout *s, size_t element, size_t *at)
{
    at[0] = 0;
    for (int i = 0; i < s->m->size.ulysses; i++) {
        const int64_t heads = i == s->m->ulysses ? 0 : seq_layout_heads(s, i).count;
        at[i + 1] = at[i] + (size_t)(s->s_loc * heads * s->depth) * element;
    }
}

/* The heads of rank i in x [s_loc, N, D]. */
static struct tensor heads_of(const struct seq_layout *s, struct tensor x, int i)
{
    const struct heads h = seq_layout_heads(s, i);

    return tensor_slice(x, 1, h.first, h.count);
}

/* The tokens of this rank in x [s_ring, count, D]. */
static struct tensor own_tokens(const struct seq_layout *s, struct tensor x)
{
    const int64_t first = split_at(s->tokens, mesh_seq_size(s->m), mesh_seq_rank(s->m));

    return tensor_slice(x, 0, first - chunk_start(s, s->m->ring), s->s_loc);
}

/* The block of rank i in the packed buffer, [s_loc, heads, D]. */
static struct tensor packed_block(const struct seq_layout *s, enum dtype dt, struct tensor buffer,
                                  size_t at, int i)
{
    return tensor_of((char *)buffer.data + at, dt, s->s_loc, seq_layout_heads(s, i).count,
                     s->depth);
}

size_t ulysses_buffer_bytes(const struct seq_layout *s, enum dtype dt)
{
    int64_t heads = 0;

    for (int i = 0; i < s->m->size.ulysses; i++)
        heads += i == s->m->ulysses ? 0 : seq_layout_heads(s, i).count;
    return (size_t)(s->s_loc * heads * s->depth) * dtype_size(dt);
}

status ulysses_to_heads(const struct seq_layout *s, struct transfer *t, struct tensor out,
                        struct tensor packed, struct tensor x)
{
    struct group *g = &s->m->ulysses_group;
    const size_t element = dtype_size(x.dtype);

    packed_offsets(s, element, g->send_offset);
    by_heads_offsets(s, element, g->recv_offset);
    for (int i = 0; i < g->size; i++)
        TRY(op_copy(s->dev,
                    i == g->rank ? own_tokens(s, out)
                                 : packed_block(s, x.dtype, packed, g->send_offset[i], i),
                    heads_of(s, x, i)));
    return group_all_to_all(g, t, out.data, g->recv_offset, packed.data, g->send_offset);
}

status ulysses_to_tokens(const struct seq_layout *s, struct tensor packed, struct tensor out,
                         struct tensor a)
{
    struct group *g = &s->m->ulysses_group;
    const size_t element = dtype_size(a.dtype);
    struct transfer t = { 0 };

    by_heads_offsets(s, element, g->send_offset);
    packed_offsets(s, element, g->recv_offset);
    TRY(group_all_to_all(g, &t, packed.data, g->recv_offset, a.data, g->send_offset));
    TRY(op_copy(s->dev, heads_of(s, out, g->rank), own_tokens(s, a)));
    TRY(transfer_wait(&t));
    for (int i = 0; i < g->size; i++)
        if (i != g->rank)
            TRY(op_copy(s->dev, heads_of(s, out, i),
                        packed_block(s, out.dtype, packed, g->recv_offset[i], i)));
    return ST_OK;
}
