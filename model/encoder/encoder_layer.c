#include "model/encoder/encoder_layer.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>

#define AT(member) offsetof(struct encoder_layer, member)

/* Three matrices that are one in memory. */
static void split_qkv(struct tensor_list *l, const char *const names[3], int64_t dim)
{
    char name[WEIGHT_NAME_BYTES];

    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), "%s.weight", names[i]);
        tensors_add(l, name, AT(qkv.w), DT_F32, TENSOR_DIMS(dim, dim))->joined = i > 0;
    }
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), "%s.bias", names[i]);
        tensors_add(l, name, AT(qkv.b), DT_F32, TENSOR_DIMS(dim))->joined = i > 0;
    }
}

void encoder_layer_tensors(struct tensor_list *l, const struct encoder_layer_names *names,
                           int64_t dim, int64_t ffn_dim)
{
    tensors_norm(l, names->norm1, AT(norm1), dim);
    if (names->qkv[1] != NULL)
        split_qkv(l, names->qkv, dim);
    else
        tensors_linear(l, names->qkv[0], AT(qkv), 3 * dim, dim, DT_F32);
    tensors_linear(l, names->o, AT(o), dim, dim, DT_F32);
    tensors_norm(l, names->norm2, AT(norm2), dim);
    tensors_linear(l, names->up, AT(up), ffn_dim, dim, DT_F32);
    tensors_linear(l, names->down, AT(down), dim, ffn_dim, DT_F32);
}

status encoder_norm(const struct encoder *e, struct tensor out, struct tensor x, struct linear l)
{
    return op_layer_norm(e->dev, out, x, l.w, l.b, e->eps);
}

static status self_attention(const struct encoder *e, const struct encoder_layer *w)
{
    const int64_t dim = e->x.dim[1], d = dim / e->heads, rows = e->x.dim[0] / e->count;
    const size_t mark = e->a->used;
    struct tensor qkv = { 0 };
    status st;

    TRY_OUT(arena_take(e->a, &qkv, DT_F32, e->x.dim[0], 3 * dim));
    TRY_OUT(encoder_norm(e, e->h, e->x, w->norm1));
    TRY_OUT(op_gemm(e->dev, qkv, e->h, w->qkv.w, w->qkv.b, ACT_NONE));
    for (int i = 0; i < e->count; i++) {
        const struct tensor own = tensor_slice(qkv, 0, i * rows, rows);
        struct tensor heads[3];

        for (int j = 0; j < 3; j++)
            heads[j] = tensor_split(tensor_slice(own, 1, j * dim, dim), 1, d);
        TRY_OUT(op_attention(e->dev, tensor_split(tensor_slice(e->h, 0, i * rows, rows), 1, d),
                             (struct tensor){ 0 }, heads[0], heads[1], heads[2],
                             1 / sqrtf((float)d)));
    }
    TRY_OUT(op_gemm_add(e->dev, e->x, e->h, w->o.w, w->o.b));
out:
    arena_release(e->a, mark);
    return st;
}

static status feed_forward(const struct encoder *e, const struct encoder_layer *w)
{
    const size_t mark = e->a->used;
    struct tensor wide = { 0 };
    status st;

    TRY_OUT(arena_take(e->a, &wide, DT_F32, e->x.dim[0], e->ffn_dim));
    TRY_OUT(encoder_norm(e, e->h, e->x, w->norm2));
    TRY_OUT(op_gemm(e->dev, wide, e->h, w->up.w, w->up.b, ACT_GELU));
    TRY_OUT(op_gemm_add(e->dev, e->x, wide, w->down.w, w->down.b));
out:
    arena_release(e->a, mark);
    return st;
}

status encoder_layer_run(const struct encoder *e, const struct encoder_layer *w)
{
    TRY(self_attention(e, w));
    return feed_forward(e, w);
}
