/* dit_internal.h - a block of the transformer, between dit.c and dit_block.c. */
#ifndef MODEL_TRANSFORMER_DIT_INTERNAL_H
#define MODEL_TRANSFORMER_DIT_INTERNAL_H

#include "model/transformer/dit.h"

/* y = x w^T + b */
struct linear {
    struct tensor w, b; // [out, in], [out]
};

struct block {
    struct linear q, k, v, o;     // self attention: [C, C]
    struct tensor norm_q, norm_k; // [C] f32
    struct linear text_q, text_o; // cross attention: [C, C]
    struct tensor text_norm_q;    // [C] f32
    struct tensor norm_w, norm_b; // [C] f32: before cross attention
    struct linear up, down;       // feed forward: [F, C], [C, F]
};

void block_specs(struct weight_spec specs[DIT_BLOCK_TENSORS], const struct dit_config *c,
                 enum dtype cdt);
void text_specs(struct weight_spec specs[DIT_TEXT_TENSORS], const struct dit_config *c,
                enum dtype cdt);

/* The unit's tensors by name, those that lie behind each other as one. */
void block_from_tensors(struct block *b, const struct tensor t[DIT_BLOCK_TENSORS]);

/* text_kv of one layer and side: norm(W_k context) beside W_v context. */
status block_text_kv(struct dit_run *r, const struct tensor t[DIT_TEXT_TENSORS], int layer,
                     int side);

/* What a block works on, for one forward. */
struct block_ctx {
    struct dit_run *r;
    struct arena *a;
    int side;
    struct tensor x;    // [s_loc, C] f32: the residual stream
    struct tensor h, y; // [s_loc, C] cdt: what goes into a layer, what comes out
    struct tensor mod;  // [L, 6C] f32: shift, scale, gate of self attention, of the feed forward
};

/* What goes into the first block's self attention: h = norm(from) * (1 + scale) + shift. */
status block_enter(struct block_ctx *f, struct tensor from);

/* x = from + gate * W_o attention(q, k, v), with q, k, v from h; then h = norm(x) * w + b.
 * from: [s_loc, C], x itself, or in block 0 the embedded patches in cdt. */
status block_self_attention(struct block_ctx *f, const struct block *b, int layer,
                            struct tensor from);

/* x += W_o attention(q, k, v), with q from h, k and v from the text; then h = norm(x) * (1 + scale)
 * + shift for the feed forward. */
status block_cross_attention(struct block_ctx *f, const struct block *b, int layer);

/* x += gate * W_down gelu(W_up h); then h for the next block, if there is one. */
status block_feed_forward(struct block_ctx *f, const struct block *b, int layer);

#endif
