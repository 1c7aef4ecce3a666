#include "model/vision/clip.h"

#include "model/encoder/encoder_layer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-5f

struct embedding {
    struct tensor patch;    // [C, patch * patch * 3]
    struct tensor first;    // [C]: the token in front of the patches
    struct tensor position; // [tokens, C]
    struct linear norm;     // [C]
};

#define STACK_EMBEDDING "embedding"
#define STACK_BLOCKS "blocks"
#define EMBEDDING(member) offsetof(struct embedding, member)

static int64_t patches_of(const struct clip_config *c)
{
    return (c->side / c->patch) * (c->side / c->patch);
}

int64_t clip_tokens(const struct clip_config *c)
{
    return patches_of(c) + 1;
}

static void embedding_tensors(struct tensor_list *l, const struct clip_config *c)
{
    const int64_t dim = c->dim, tokens = clip_tokens(c);
    struct weight_spec *t;

    tensors_stack(l, STACK_EMBEDDING, "visual.", 1, TENSORS_LOCAL);
    t = tensors_add(l, "patch_embedding.weight", EMBEDDING(patch), DT_F32,
                    TENSOR_DIMS(dim, 3, c->patch, c->patch));
    t->channels_last = true;
    t->ndim = 2;
    t->dim[1] = 3 * c->patch * c->patch;
    t = tensors_add(l, "cls_embedding", EMBEDDING(first), DT_F32,
                    c->split ? TENSOR_DIMS(dim) : TENSOR_DIMS(1, 1, dim));
    t->ndim = 1;
    t->dim[0] = dim;
    t = tensors_add(l, "pos_embedding", EMBEDDING(position), DT_F32,
                    c->split ? TENSOR_DIMS(tokens, dim) : TENSOR_DIMS(1, tokens, dim));
    t->ndim = 2;
    t->dim[0] = tokens;
    t->dim[1] = dim;
    tensors_norm(l, "pre_norm", EMBEDDING(norm), dim);
}

void clip_tensors(struct tensor_list *l, const struct clip_config *c)
{
    const struct encoder_layer_names names = {
        .norm1 = "norm1",
        .qkv = { c->split ? "attn.q" : "attn.to_qkv", c->split ? "attn.k" : NULL,
                 c->split ? "attn.v" : NULL },
        .o = "attn.proj",
        .norm2 = "norm2",
        .up = "mlp.0",
        .down = "mlp.2",
    };
    const int64_t dim = c->dim;

    embedding_tensors(l, c);
    tensors_stack(l, STACK_BLOCKS, "visual.transformer.%d.", c->layers, TENSORS_LOCAL);
    encoder_layer_tensors(l, &names, dim, c->ffn_dim);
    tensors_stack(l, "head", "visual.", 1, TENSORS_READ);
    tensors_norm(l, "post_norm", TENSORS_NO_SLOT, dim);
    if (c->out_dim > 0)
        tensors_add(l, "head", TENSORS_NO_SLOT, DT_F32, TENSOR_DIMS(dim, c->out_dim));
}

status clip_check(const struct clip_config *c, const char *file)
{
    if (c->layers >= 2 && c->heads >= 1 && c->dim % c->heads == 0 && c->patch >= 1 &&
        c->side >= c->patch && c->side % c->patch == 0)
        return ST_OK;
    return fail(ST_FORMAT,
                "%s: the image encoder has %d blocks, %d heads in %lld channels and images of %lld "
                "pixels in patches of %lld; it needs 2 blocks, heads that divide the channels, and "
                "patches that divide the image",
                file, c->layers, c->heads, (long long)c->dim, (long long)c->side,
                (long long)c->patch);
}

int64_t clip_patches_count(const struct clip_config *c)
{
    return patches_of(c) * c->patch * c->patch * 3;
}

status clip_patches(float *out, const struct clip_config *c, const struct image *image,
                    struct window window)
{
    static const float mean[] = { 0.48145466f, 0.4578275f, 0.40821073f };
    static const float std[] = { 0.26862954f, 0.26130258f, 0.27577711f };
    const int64_t side = c->side, patch = c->patch;
    float *pixels = malloc((size_t)(side * side * 3) * sizeof(*pixels));
    status st;

    if (pixels == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for an image of %lld x %lld",
                    (long long)side, (long long)side);
    TRY_OUT(resize_torch(pixels, (int)side, (int)side, image, window));
    for (int64_t y = 0; y < side; y += patch)
        for (int64_t x = 0; x < side; x += patch)
            for (int64_t row = y; row < y + patch; row++)
                for (int64_t i = 0; i < 3 * patch; i++) {
                    const float v = pixels[(row * side + x) * 3 + i] * 0.5f + 0.5f;

                    *out++ = (v - mean[i % 3]) / std[i % 3];
                }
out:
    free(pixels);
    return st;
}

/* x = norm([first; patches W] + position) of each image, which has n patches. */
static status embed(const struct encoder *e, int64_t n, const struct embedding *w,
                    const float *patches)
{
    const int64_t width = w->patch.dim[1], dim = e->x.dim[1];
    const struct tensor first = tensor_reshape(w->first, 1, dim);
    const size_t mark = e->a->used;
    struct tensor in = { 0 }, embedded = { 0 };
    status st;

    TRY_OUT(arena_take(e->a, &in, DT_F32, e->count * n, width));
    TRY_OUT(arena_take(e->a, &embedded, DT_F32, e->count * n, dim));
    if (patches != NULL)
        TRY_OUT(device_upload(e->dev, in, patches));
    TRY_OUT(op_gemm(e->dev, embedded, in, w->patch, (struct tensor){ 0 }, ACT_NONE));
    for (int i = 0; i < e->count; i++) {
        const struct tensor rows = tensor_slice(e->h, 0, i * (n + 1), n + 1);

        TRY_OUT(op_gate_add(e->dev, tensor_slice(rows, 0, 0, 1), first,
                            tensor_slice(w->position, 0, 0, 1), (struct tensor){ 0 }));
        TRY_OUT(op_gate_add(e->dev, tensor_slice(rows, 0, 1, n),
                            tensor_slice(embedded, 0, i * n, n), tensor_slice(w->position, 0, 1, n),
                            (struct tensor){ 0 }));
    }
    TRY_OUT(encoder_norm(e, e->x, e->h, w->norm));
out:
    arena_release(e->a, mark);
    return st;
}

status clip_open(struct clip_weights *w, const struct clip_config *config, struct arena *a,
                 struct weight_source source, bool keep)
{
    const enum weights_mode mode = keep ? WEIGHTS_RESIDENT : WEIGHTS_STREAMED;
    const struct tensor_stack *embedding, *blocks;
    struct tensor_list list = { 0 };
    status st;

    *w = (struct clip_weights){ 0 };
    TRY_OUT(clip_check(config, "CLIP"));
    clip_tensors(&list, config);
    TRY_OUT(tensors_status(&list));
    embedding = tensors_find(&list, STACK_EMBEDDING);
    blocks = tensors_find(&list, STACK_BLOCKS);
    TRY_OUT(weights_open(&w->embedding, a, mode, NULL, 1, tensors_of(&list, embedding),
                         embedding->count, source));
    TRY_OUT(weights_open(&w->blocks, a, mode, NULL, config->layers - 1, tensors_of(&list, blocks),
                         blocks->count, source)); // the last one is not computed
out:
    tensors_done(&list);
    if (st != ST_OK)
        clip_close(w);
    return st;
}

void clip_close(struct clip_weights *w)
{
    weights_close(&w->blocks);
    weights_close(&w->embedding);
    *w = (struct clip_weights){ 0 };
}

status clip_encode(const struct clip_config *config, struct device *dev, struct arena *a,
                   struct clip_weights *w, int count, const float *patches, float *out)
{
    const int64_t rows = count * clip_tokens(config), computed = config->layers - 1;
    const size_t mark = a->used;
    struct encoder e = { .dev = dev,
                         .a = a,
                         .ffn_dim = config->ffn_dim,
                         .heads = config->heads,
                         .count = count,
                         .eps = EPS };
    struct embedding embedding;
    status st;

    TRY_OUT(arena_take(a, &e.x, DT_F32, rows, config->dim));
    TRY_OUT(arena_take(a, &e.h, DT_F32, rows, config->dim));
    TRY_OUT(weights_acquire(&w->embedding, 0, -1, &embedding));
    TRY_OUT(embed(&e, patches_of(config), &embedding, patches));
    for (int l = 0; l < computed; l++) {
        struct encoder_layer b;

        TRY_OUT(weights_acquire(&w->blocks, l, l + 1 < computed ? l + 1 : -1, &b));
        TRY_OUT(encoder_layer_run(&e, &b));
    }
    if (out != NULL)
        TRY_OUT(device_download(dev, out, e.x));
    TRY_OUT(device_wait(dev));
out:
    arena_release(a, mark);
    return st;
}
