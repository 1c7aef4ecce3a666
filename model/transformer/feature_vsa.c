/* Video sparse attention: tokens attend to the cubes of 4 x 4 x 4 tokens that are most like their
 * own, by the means of their queries and keys; the attention over all means is added, times a gate.
 * Source: FastVideo fastvideo/attention/backends/video_sparse_attn.py, and
 * fastvideo/models/dits/wanvideo.py, WanTransformerBlock_VSA. */
#include "model/transformer/dit_internal.h"

#include <math.h>
#include <stdlib.h>

#define EDGE 4 // of a cube

static void vsa_tensors(struct tensor_list *l, const struct dit_config *c, emit_linear *linear,
                        enum dtype cdt)
{
    linear(l, "to_gate_compress", offsetof(struct dit_block, gate), c->dim, c->dim, cdt);
}

static int64_t cubes(int64_t n)
{
    return (n + EDGE - 1) / EDGE;
}

static struct sparse_tiles count_tiles(struct dit_sparsity s, int64_t f, int64_t h, int64_t w)
{
    const int64_t count = cubes(f) * cubes(h) * cubes(w);

    return (struct sparse_tiles){ .q = count,
                                  .k = count,
                                  .kept = sparse_kept((int64_t)ceil((1 - s.vsa) * (double)count),
                                                      count),
                                  .q_rows = EDGE * EDGE * EDGE,
                                  .k_rows = EDGE * EDGE * EDGE };
}

/* The tensors of struct attention_tiles, in host memory. */
struct host_tiles {
    int32_t *first, *order, *place, *tile;
};

/* Tiles, and the tokens of a tile, in the order of the grid's tokens. */
static void fill(struct host_tiles t, int64_t f, int64_t h, int64_t w)
{
    int64_t row = 0, cube = 0;

    for (int64_t z = 0; z < f; z += EDGE)
        for (int64_t y = 0; y < h; y += EDGE)
            for (int64_t x = 0; x < w; x += EDGE, cube++) {
                t.first[cube] = (int32_t)row;
                for (int64_t a = z; a < f && a < z + EDGE; a++)
                    for (int64_t b = y; b < h && b < y + EDGE; b++)
                        for (int64_t c = x; c < w && c < x + EDGE; c++, row++) {
                            const int64_t token = (a * h + b) * w + c;

                            t.order[row] = (int32_t)token;
                            t.place[token] = (int32_t)row;
                            t.tile[token] = (int32_t)cube;
                        }
            }
    t.first[cube] = (int32_t)row;
}

static status vsa_begin(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                        struct arena *a, struct arena *step)
{
    const struct sparse_tiles n = count_tiles(in->self_attention.sparsity, in->f, in->h, in->w);
    const int64_t tokens = in->f * in->h * in->w;
    struct attention_tiles *t = &r->tiles;
    struct host_tiles host = { NULL };
    struct device *dev = r->m->dev;
    int32_t *all = NULL;
    status st;

    if (tokens != r->tokens)
        return fail(ST_FORMAT,
                    "the transformer has video sparse attention, and a feature that adds "
                    "tokens to those of the video: this version computes one of them");
    all = malloc((size_t)(n.q + 1 + 3 * tokens) * sizeof(*all));
    if (all == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the order of %lld tokens",
                    (long long)tokens);
    host = (struct host_tiles){ all, all + n.q + 1, all + n.q + 1 + tokens,
                                all + n.q + 1 + 2 * tokens };
    fill(host, in->f, in->h, in->w);
    *t = (struct attention_tiles){
        .q_rows = n.q_rows, .k_rows = n.k_rows, .kept = n.kept, .coarse = true
    };
    TRY_OUT(arena_take(a, &t->q_first, DT_I32, n.q + 1));
    TRY_OUT(arena_take(a, &t->order, DT_I32, tokens));
    TRY_OUT(arena_take(a, &t->place, DT_I32, tokens));
    TRY_OUT(arena_take(a, &t->tile, DT_I32, tokens));
    TRY_OUT(device_upload(dev, t->q_first, host.first));
    TRY_OUT(device_upload(dev, t->order, host.order));
    TRY_OUT(device_upload(dev, t->place, host.place));
    TRY_OUT(device_upload(dev, t->tile, host.tile));
    t->k_first = t->q_first;
out:
    free(all);
    return st;
}

static const struct sparse_kind vsa = {
    .name = "VSA", .title = "video sparse attention", .flag = "vsa_sparsity", .count = count_tiles
};
static const struct feature_hooks vsa_hooks = { .begin = vsa_begin };

const struct feature feature_vsa_gate = { .name = "gate of video sparse attention (FastWan)",
                                          .detected_by = "blocks.0.to_gate_compress.",
                                          .block_tensors = vsa_tensors,
                                          .any_task = true,
                                          .sparse = &vsa,
                                          .hooks = &vsa_hooks };
