#include "model/text/umt5.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-6f
#define BUCKETS 32 // what op_relative_attention knows

/* The tensors of a block, in the order of block_specs. */
enum { NORM1, Q, K, V, O, BIAS, NORM2, GATE, UP, DOWN, BLOCK_TENSORS };

/* All prompts at once, one behind the other: S rows in all. */
struct encoder {
    const struct t5_config *config;
    struct device *dev;
    struct arena *a;
    enum dtype cdt;
    int count;
    const int *length; // rows of each prompt
    int64_t rows;
    struct tensor x; // [S, C] cdt: the residual stream
    struct tensor h; // [S, C] cdt: what goes into a layer, and what comes out
};

#define MATRIX(of, rows, cols)                                                                     \
    {                                                                                              \
        .name = "blocks.%d." of ".weight", .dtype = matrix, .ndim = 2, .dim = { rows, cols }       \
    }
#define JOINED(of, rows, cols)                                                                     \
    {                                                                                              \
        .name = "blocks.%d." of ".weight", .dtype = matrix, .joined = true, .ndim = 2, .dim = {    \
            rows,                                                                                  \
            cols                                                                                   \
        }                                                                                          \
    }
#define VECTOR(of)                                                                                 \
    {                                                                                              \
        .name = of, .dtype = cdt, .ndim = 1, .dim = { c }                                          \
    }

static void block_specs(struct weight_spec specs[BLOCK_TENSORS], const struct t5_config *config,
                        enum dtype cdt, enum dtype matrix)
{
    const int64_t c = config->dim, inner = config->attn_dim, f = config->ffn_dim;
    const struct weight_spec all[BLOCK_TENSORS] = {
        [NORM1] = VECTOR("blocks.%d.norm1.weight"),
        [Q] = MATRIX("attn.q", inner, c),
        [K] = JOINED("attn.k", inner, c),
        [V] = JOINED("attn.v", inner, c),
        [O] = MATRIX("attn.o", c, inner),
        [BIAS] = { .name = "blocks.%d.pos_embedding.embedding.weight",
                   .dtype = cdt,
                   .ndim = 2,
                   .dim = { BUCKETS, config->heads } },
        [NORM2] = VECTOR("blocks.%d.norm2.weight"),
        [GATE] = MATRIX("ffn.gate.0", f, c),
        [UP] = MATRIX("ffn.fc1", f, c),
        [DOWN] = MATRIX("ffn.fc2", c, f),
    };

    memcpy(specs, all, sizeof(all));
}

static status linear(struct encoder *e, struct tensor out, struct tensor x, struct tensor w)
{
    return op_gemm(e->dev, out, x, w, (struct tensor){ 0 }, ACT_NONE);
}

/* x += W_o attention(q, k, v), with q, k, v from norm(x). A prompt sees itself alone. */
static status self_attention(struct encoder *e, const struct tensor w[BLOCK_TENSORS])
{
    const int64_t inner = e->config->attn_dim, d = inner / e->config->heads;
    const struct tensor w_qkv =
        tensor_of(w[Q].data, w[Q].dtype, 3 * inner, e->config->dim); // joined by their specs
    const size_t mark = e->a->used;
    struct tensor qkv = { 0 }, o = { 0 };
    int64_t first = 0;
    status st;

    TRY_OUT(arena_take(e->a, &qkv, e->cdt, e->rows, 3 * inner));
    TRY_OUT(arena_take(e->a, &o, e->cdt, e->rows, inner));
    TRY_OUT(op_rms_norm(e->dev, e->h, e->x, w[NORM1], EPS));
    TRY_OUT(linear(e, qkv, e->h, w_qkv));
    for (int i = 0; i < e->count; i++) {
        const struct tensor own = tensor_slice(qkv, 0, first, e->length[i]);
        struct tensor heads[3];
        for (int j = 0; j < 3; j++)
            heads[j] = tensor_split(tensor_slice(own, 1, j * inner, inner), 1, d);
        TRY_OUT(op_relative_attention(e->dev,
                                      tensor_split(tensor_slice(o, 0, first, e->length[i]), 1, d),
                                      heads[0], heads[1], heads[2], w[BIAS]));
        first += e->length[i];
    }
    TRY_OUT(linear(e, e->h, o, w[O]));
    TRY_OUT(op_gate_add(e->dev, e->x, e->x, e->h, (struct tensor){ 0 }));
out:
    arena_release(e->a, mark);
    return st;
}

/* x += W_down (gelu(W_gate n) * W_up n), with n = norm(x). */
static status feed_forward(struct encoder *e, const struct tensor w[BLOCK_TENSORS])
{
    const size_t mark = e->a->used;
    struct tensor gate = { 0 }, up = { 0 };
    status st;

    TRY_OUT(arena_take(e->a, &gate, e->cdt, e->rows, e->config->ffn_dim));
    TRY_OUT(arena_take(e->a, &up, e->cdt, e->rows, e->config->ffn_dim));
    TRY_OUT(op_rms_norm(e->dev, e->h, e->x, w[NORM2], EPS));
    TRY_OUT(linear(e, gate, e->h, w[GATE]));
    TRY_OUT(linear(e, up, e->h, w[UP]));
    TRY_OUT(op_gated_gelu(e->dev, gate, gate, up));
    TRY_OUT(linear(e, e->h, gate, w[DOWN]));
    TRY_OUT(op_gate_add(e->dev, e->x, e->x, e->h, (struct tensor){ 0 }));
out:
    arena_release(e->a, mark);
    return st;
}

/* A row of x and the token it begins as. */
struct place {
    int id;
    int64_t row;
};

static int by_id(const void *a, const void *b)
{
    const struct place *p = a, *q = b;

    if (p->id != q->id)
        return p->id < q->id ? -1 : 1;
    return (p->row > q->row) - (p->row < q->row);
}

/* x = the tokens' embeddings. The table is large and the prompts are short: each row that they have
 * is read once, in the order of the file. */
static status embed(struct encoder *e, struct weight_source source, const int *const *ids)
{
    static const char table[] = "token_embedding.weight";
    const int64_t c = e->config->dim;
    struct place *places = malloc((size_t)e->rows * sizeof(*places));
    void *row = malloc((size_t)c * dtype_size(e->cdt));
    int64_t n = 0;
    status st = ST_OK;

    if (places == NULL || row == NULL) {
        st = fail(ST_MEMORY, "no memory for the places of %lld tokens", (long long)e->rows);
        goto out;
    }
    for (int i = 0; i < e->count; i++)
        for (int j = 0; j < e->length[i]; j++, n++)
            places[n] = (struct place){ .id = ids[i][j], .row = n };
    qsort(places, (size_t)n, sizeof(*places), by_id);
    for (int64_t i = 0; i < n && source.want != NULL; i++)
        if (i == 0 || places[i].id != places[i - 1].id)
            source.want(source.payload, table, places[i].id * c, c);
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || places[i].id != places[i - 1].id)
            TRY_OUT(source.read(source.payload, table, places[i].id * c, c, e->cdt, row));
        TRY_OUT(device_upload(e->dev, tensor_at(e->x, places[i].row), row));
    }
out:
    free(places);
    free(row);
    return st;
}

/* Results go to the host as f32; bf16 has been rounded to before. */
static status hand_out(struct encoder *e, struct tensor norm, float *const *out)
{
    struct tensor y = { 0 };
    int64_t first = 0;

    TRY(arena_take(e->a, &y, DT_F32, e->rows, e->config->dim));
    TRY(op_rms_norm(e->dev, e->h, e->x, norm, EPS));
    TRY(op_copy(e->dev, y, e->h));
    for (int i = 0; i < e->count && out != NULL; i++) {
        TRY(device_download(e->dev, out[i], tensor_slice(y, 0, first, e->length[i])));
        first += e->length[i];
    }
    return device_wait(e->dev);
}

static status check(const struct t5_config *c, int count, const int *const *ids, const int *length)
{
    if (c->buckets != BUCKETS || c->heads < 1 || c->attn_dim % c->heads != 0)
        return fail(ST_FORMAT,
                    "the text encoder has %d position buckets and %d heads in %lld channels; "
                    "umT5 has %d buckets, and heads that divide the channels",
                    c->buckets, c->heads, (long long)c->attn_dim, BUCKETS);
    for (int i = 0; i < count && ids != NULL; i++)
        for (int j = 0; j < length[i]; j++)
            if (ids[i][j] < 0 || ids[i][j] >= c->vocab)
                return fail(ST_FORMAT,
                            "token %d is not among the text encoder's %lld: the tokenizer belongs "
                            "to another model",
                            ids[i][j], (long long)c->vocab);
    return ST_OK;
}

status umt5_encode(const struct t5_config *config, struct device *dev, struct arena *a,
                   enum dtype cdt, struct weight_source source, enum dtype stored, struct group *g,
                   int count, const int *const *ids, const int *length, float *const *out)
{
    const enum dtype matrix = stored == DT_BF16 ? DT_BF16 : cdt;
    const struct weight_spec last = {
        .name = "norm.weight", .dtype = cdt, .ndim = 1, .dim = { config->dim }
    };
    const size_t mark = a->used;
    struct encoder e = { .config = config, .dev = dev, .a = a, .cdt = cdt, .count = count };
    struct weight_spec specs[BLOCK_TENSORS];
    struct weights blocks = { 0 }, norm = { 0 };
    struct tensor w[BLOCK_TENSORS], w_norm;
    status st;

    assert(count > 0);
    e.length = length;
    for (int i = 0; i < count; i++) {
        assert(length[i] > 0);
        e.rows += length[i];
    }
    TRY_OUT(check(config, count, ids, length));
    block_specs(specs, config, cdt, matrix);
    TRY_OUT(weights_open(&norm, a, WEIGHTS_RESIDENT, NULL, 1, &last, 1, source));
    TRY_OUT(weights_open(&blocks, a, g != NULL ? WEIGHTS_SHARDED : WEIGHTS_STREAMED, g,
                         config->layers, specs, BLOCK_TENSORS, source));
    TRY_OUT(arena_take(a, &e.x, cdt, e.rows, config->dim));
    TRY_OUT(arena_take(a, &e.h, cdt, e.rows, config->dim));
    if (ids != NULL)
        TRY_OUT(embed(&e, source, ids));
    for (int l = 0; l < config->layers; l++) {
        TRY_OUT(weights_acquire(&blocks, l, l + 1 < config->layers ? l + 1 : -1, w));
        TRY_OUT(self_attention(&e, w));
        TRY_OUT(feed_forward(&e, w));
    }
    TRY_OUT(weights_acquire(&norm, 0, -1, &w_norm));
    TRY_OUT(hand_out(&e, w_norm, out));
out:
    weights_close(&blocks);
    weights_close(&norm);
    arena_release(a, mark);
    return st;
}
