#include "model/text/umt5.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-6f
#define BUCKETS 32 // the only number that op_relative_attention supports

/* A block's weights. */
struct block {
    struct tensor norm1, norm2; // [C]
    struct tensor qkv;          // [3 * inner, C]
    struct tensor o;            // [C, inner]
    struct tensor bias;         // [BUCKETS, N]: of positions
    struct tensor gate, up;     // [F, C]
    struct tensor down;         // [C, F]
};

struct root {
    struct tensor norm; // [C]
};

#define STACK_EMBEDDING "embedding"
#define STACK_BLOCKS "blocks"
#define STACK_ROOT "root"
#define AT(member) offsetof(struct block, member)

void umt5_tensors(struct tensor_list *l, const struct t5_config *c, enum dtype cdt,
                  enum dtype matrix)
{
    const int64_t dim = c->dim, inner = c->attn_dim, ffn = c->ffn_dim;

    tensors_stack(l, STACK_EMBEDDING, "", 1, TENSORS_READ);
    tensors_add(l, "token_embedding.weight", TENSORS_NO_SLOT, cdt, TENSOR_DIMS(c->vocab, dim));
    tensors_stack(l, STACK_BLOCKS, "blocks.%d.", c->layers, TENSORS_SHARDED);
    tensors_vector(l, "norm1.weight", AT(norm1), dim, cdt);
    tensors_add(l, "attn.q.weight", AT(qkv), matrix, TENSOR_DIMS(inner, dim));
    tensors_add(l, "attn.k.weight", AT(qkv), matrix, TENSOR_DIMS(inner, dim))->joined = true;
    tensors_add(l, "attn.v.weight", AT(qkv), matrix, TENSOR_DIMS(inner, dim))->joined = true;
    tensors_add(l, "attn.o.weight", AT(o), matrix, TENSOR_DIMS(dim, inner));
    tensors_add(l, "pos_embedding.embedding.weight", AT(bias), cdt,
                TENSOR_DIMS(c->buckets, c->heads));
    tensors_vector(l, "norm2.weight", AT(norm2), dim, cdt);
    tensors_add(l, "ffn.gate.0.weight", AT(gate), matrix, TENSOR_DIMS(ffn, dim));
    tensors_add(l, "ffn.fc1.weight", AT(up), matrix, TENSOR_DIMS(ffn, dim));
    tensors_add(l, "ffn.fc2.weight", AT(down), matrix, TENSOR_DIMS(dim, ffn));
    tensors_stack(l, STACK_ROOT, "", 1, TENSORS_LOCAL);
    tensors_vector(l, "norm.weight", offsetof(struct root, norm), dim, cdt);
}

/* All prompts are encoded together, their rows concatenated: S rows in all. */
struct encoder {
    const struct t5_config *config;
    struct device *dev;
    struct arena *a;
    enum dtype cdt;
    int count;
    const int *length; // rows of each prompt
    int64_t rows;
    struct tensor x; // [S, C] cdt: the residual stream
    struct tensor h; // [S, C] cdt: input and output of a layer
};

static status linear(struct encoder *e, struct tensor out, struct tensor x, struct tensor w)
{
    return op_gemm(e->dev, out, x, w, (struct tensor){ 0 }, ACT_NONE);
}

/* x += W_o attention(q, k, v), with q, k, v from norm(x). Each prompt attends only to itself. */
static status self_attention(struct encoder *e, const struct block *b)
{
    const int64_t inner = e->config->attn_dim, d = inner / e->config->heads;
    const size_t mark = e->a->used;
    struct tensor qkv = { 0 }, o = { 0 };
    int64_t first = 0;
    status st;

    TRY_OUT(arena_take(e->a, &qkv, e->cdt, e->rows, 3 * inner));
    TRY_OUT(arena_take(e->a, &o, e->cdt, e->rows, inner));
    TRY_OUT(op_rms_norm(e->dev, e->h, e->x, b->norm1, EPS));
    TRY_OUT(linear(e, qkv, e->h, b->qkv));
    for (int i = 0; i < e->count; i++) {
        const struct tensor own = tensor_slice(qkv, 0, first, e->length[i]);
        struct tensor heads[3];
        for (int j = 0; j < 3; j++)
            heads[j] = tensor_split(tensor_slice(own, 1, j * inner, inner), 1, d);
        TRY_OUT(op_relative_attention(e->dev,
                                      tensor_split(tensor_slice(o, 0, first, e->length[i]), 1, d),
                                      heads[0], heads[1], heads[2], b->bias));
        first += e->length[i];
    }
    TRY_OUT(linear(e, e->h, o, b->o));
    TRY_OUT(op_gate_add(e->dev, e->x, e->x, e->h, (struct tensor){ 0 }));
out:
    arena_release(e->a, mark);
    return st;
}

/* x += W_down (gelu(W_gate n) * W_up n), with n = norm(x). */
static status feed_forward(struct encoder *e, const struct block *b)
{
    const size_t mark = e->a->used;
    struct tensor gate = { 0 }, up = { 0 };
    status st;

    TRY_OUT(arena_take(e->a, &gate, e->cdt, e->rows, e->config->ffn_dim));
    TRY_OUT(arena_take(e->a, &up, e->cdt, e->rows, e->config->ffn_dim));
    TRY_OUT(op_rms_norm(e->dev, e->h, e->x, b->norm2, EPS));
    TRY_OUT(linear(e, gate, e->h, b->gate));
    TRY_OUT(linear(e, up, e->h, b->up));
    TRY_OUT(op_gated_gelu(e->dev, gate, gate, up));
    TRY_OUT(linear(e, e->h, gate, b->down));
    TRY_OUT(op_gate_add(e->dev, e->x, e->x, e->h, (struct tensor){ 0 }));
out:
    arena_release(e->a, mark);
    return st;
}

/* A row of x and its token id. */
struct token_row {
    int id;
    int64_t row;
};

static int by_id(const void *a, const void *b)
{
    const struct token_row *p = a, *q = b;

    if (p->id != q->id)
        return p->id < q->id ? -1 : 1;
    return (p->row > q->row) - (p->row < q->row);
}

/* x = the tokens' embeddings. The table is large and prompts are short: only the rows needed are
 * read, each once, in the order of the file. */
static status embed(struct encoder *e, struct weight_source source, const struct weight_spec *table,
                    const int *const *ids)
{
    const int64_t c = e->config->dim;
    struct token_row *tokens = malloc((size_t)e->rows * sizeof(*tokens));
    void *row = malloc((size_t)c * dtype_size(e->cdt));
    int64_t n = 0;
    status st = ST_OK;

    if (tokens == NULL || row == NULL) {
        st = fail(ST_MEMORY, "cannot allocate memory for %lld tokens", (long long)e->rows);
        goto out;
    }
    for (int i = 0; i < e->count; i++)
        for (int j = 0; j < e->length[i]; j++, n++)
            tokens[n] = (struct token_row){ .id = ids[i][j], .row = n };
    qsort(tokens, (size_t)n, sizeof(*tokens), by_id);
    for (int64_t i = 0; i < n && source.prefetch != NULL; i++)
        if (i == 0 || tokens[i].id != tokens[i - 1].id)
            source.prefetch(source.payload, table->name, tokens[i].id * c, c);
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || tokens[i].id != tokens[i - 1].id)
            TRY_OUT(source.read(source.payload, table, table->name, tokens[i].id * c, c, row));
        TRY_OUT(device_upload(e->dev, tensor_at(e->x, tokens[i].row), row));
    }
out:
    free(tokens);
    free(row);
    return st;
}

/* Final norm; the results go to the host as f32, already rounded to bf16 if cdt is BF16. */
static status write_results(struct encoder *e, struct tensor norm, float *const *out)
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

status umt5_check(const struct t5_config *c, const char *file)
{
    if (c->buckets == BUCKETS && c->heads >= 1 && c->attn_dim % c->heads == 0)
        return ST_OK;
    return fail(ST_FORMAT,
                "%s: the text encoder has %d position buckets and %d heads in %lld channels; umT5 "
                "has %d buckets, and heads that divide the channels",
                file, c->buckets, c->heads, (long long)c->attn_dim, BUCKETS);
}

static status check_ids(const struct t5_config *c, int count, const int *const *ids,
                        const int *length)
{
    for (int i = 0; i < count && ids != NULL; i++)
        for (int j = 0; j < length[i]; j++)
            if (ids[i][j] < 0 || ids[i][j] >= c->vocab)
                return fail(ST_FORMAT,
                            "token %d is outside the text encoder's vocabulary of %lld: the "
                            "tokenizer belongs to another model",
                            ids[i][j], (long long)c->vocab);
    return ST_OK;
}

status umt5_encode(const struct t5_config *config, struct device *dev, struct arena *a,
                   enum dtype cdt, struct weight_source source, enum dtype stored, struct group *g,
                   int count, const int *const *ids, const int *length, float *const *out)
{
    const enum dtype matrix = stored == DT_BF16 ? DT_BF16 : cdt;
    const size_t mark = a->used;
    struct encoder e = { .config = config, .dev = dev, .a = a, .cdt = cdt, .count = count };
    struct tensor_list list = { 0 };
    const struct tensor_stack *stack;
    struct weights blocks = { 0 }, root = { 0 };
    struct root ends;
    status st;

    assert(count > 0);
    e.length = length;
    for (int i = 0; i < count; i++) {
        assert(length[i] > 0);
        e.rows += length[i];
    }
    TRY_OUT(umt5_check(config, "umT5"));
    TRY_OUT(check_ids(config, count, ids, length));
    umt5_tensors(&list, config, cdt, matrix);
    TRY_OUT(tensors_status(&list));
    TRY_OUT(tensors_open(&root, &list, tensors_find(&list, STACK_ROOT), a, NULL,
                         (struct tensors_place){ 0 }, source));
    stack = tensors_find(&list, STACK_BLOCKS);
    TRY_OUT(weights_open(&blocks, a, g != NULL ? WEIGHTS_SHARDED : WEIGHTS_STREAMED, g,
                         stack->units, tensors_of(&list, stack), stack->count, source));
    TRY_OUT(arena_take(a, &e.x, cdt, e.rows, config->dim));
    TRY_OUT(arena_take(a, &e.h, cdt, e.rows, config->dim));
    if (ids != NULL)
        TRY_OUT(embed(&e, source, tensors_of(&list, tensors_find(&list, STACK_EMBEDDING)), ids));
    for (int l = 0; l < config->layers; l++) {
        struct block b;

        TRY_OUT(weights_acquire(&blocks, l, l + 1 < config->layers ? l + 1 : -1, &b));
        TRY_OUT(self_attention(&e, &b));
        TRY_OUT(feed_forward(&e, &b));
    }
    TRY_OUT(weights_acquire(&root, 0, -1, &ends));
    TRY_OUT(write_results(&e, ends.norm, out));
out:
    weights_close(&blocks);
    weights_close(&root);
    tensors_done(&list);
    arena_release(a, mark);
    return st;
}
