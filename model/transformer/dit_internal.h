/* dit_internal.h - what the files of the transformer share: the structs of its weights, and the
 * state of one forward. */
#ifndef MODEL_TRANSFORMER_DIT_INTERNAL_H
#define MODEL_TRANSFORMER_DIT_INTERNAL_H

#include "model/transformer/dit.h"
#include "model/transformer/features.h"

/* ---- dit_tensors.c: one struct of weights per stack; matrices are cdt unless noted ---- */

#define STACK_ROOT "root"
#define STACK_MODULATION "modulation"
#define STACK_TEXT "text"
#define STACK_BLOCKS "blocks"
#define STACK_KEPT "kept blocks" // those not in fp8, if some blocks are

struct dit_root {
    struct linear patch;                  // [C, 4 in_dim]
    struct linear text0, text2;           // [C, text_dim], [C, C]
    struct linear time0, time2, time_mod; // [C, freq_dim], [C, C], [6C, C] f32
    struct linear head;                   // [4 out_dim, C] f32
    struct tensor head_mod;               // [2, C] f32: shift, scale
};

struct dit_modulation {
    struct tensor mod; // [6C] f32
};

/* Computes the keys and values of cross attention from the text, or from an image: used once per
 * run. */
struct dit_text {
    struct linear kv;     // [2C, C], [2C]: k, then v
    struct tensor norm_k; // [C] f32
};

struct dit_block {
    struct linear q, k, v, o;     // self attention: [C, C]
    struct tensor norm_q, norm_k; // [C] f32
    struct linear text_q, text_o; // cross attention: [C, C]; the bias of text_o is f32, but for fp8
    struct tensor text_norm_q;    // [C] f32
    struct linear norm3;          // weight, bias [C] f32: before cross attention
    struct linear up, down;       // feed forward: [F, C], [C, F]
    struct linear linear;         // with SLA, of the linear attention: [D, D] f32; else unset
    struct linear gate;           // with VSA, of the coarse attention: [C, C]; else unset
};

/* Names of the stacks that hold the weights of a sequence of blocks. */
struct block_stacks {
    const char *modulation, *text, *blocks, *kept;
    bool features; // the blocks are those that features add tensors to
};

/* Emits the stacks of `units` blocks, with `prefix` in their tensor names, "blocks.%d.". */
void dit_block_tensors(struct tensor_list *l, const struct dit_config *c, const char *prefix,
                       int units, enum dtype cdt, struct dit_matmul matmul,
                       struct block_stacks names);

/* The weights of block `layer`: unit *unit of them. */
struct weights *dit_block_weights(struct dit *m, int layer, int *unit);

/* Emits the tensors of a struct dit_text: "K.weight", "V.weight", their biases, "NORM.weight". */
void dit_kv_tensors(struct tensor_list *l, const char *k, const char *v, const char *norm,
                    int64_t dim, enum dtype cdt);

/* Emit tensors that are listed but not loaded: the weight [out, in, k...] and the bias [out] of a
 * convolution; the four linear layers and two norms of an attention. */
void dit_list_conv(struct tensor_list *l, const char *name, enum dtype cdt, const int64_t *dims);
void dit_list_attention(struct tensor_list *l, const char *prefix, int64_t dim, enum dtype cdt);

/* ---- one forward ---- */

struct block_ctx {
    struct dit_run *r;
    struct arena *a; // scratch
    int step, branch;
    bool beside; // the blocks are not the transformer's, but of a feature: without hooks, and with
                 // products in cdt
    int every;   // block l of them belongs to block l * every of the transformer
    struct tensor text_kv;            // [L, text_len, 2C] cdt: of the blocks, for the branch
    struct tensor patch;              // [s_loc, C] cdt: the patch embedding; until block 0 adds it
    struct tensor x;                  // [s_loc, C] f32: the residual stream
    struct tensor h, y;               // [s_loc, C] cdt: input and output of an attention or feed
                                      // forward; the input of products in fp8 is e4m3 in h's memory
    struct tensor scale;              // [s_loc] f32: of the rows of that; unset without fp8
    struct tensor mod[SEGMENT_TIMES]; // [L, 6C] f32: shift, scale, gate of self attention, then of
                                      // the feed forward; unset for a time that no segment has
};

/* The row of r->time and r->time_mod for a segment's time. */
int dit_time_row(const struct dit_run *r, int step, enum segment_time time);

/* The tensor by which S2V is detected: how much each state of its audio encoder counts. */
#define FEATURE_AUDIO_WEIGHTS "casual_audio_encoder.weights"

/* ---- dit.c, of dit_begin ---- */

/* Sinusoids of times [rows, freq_dim], computed in f64 and rounded to f32: a row has all cosines,
 * then all sines. Rows [steps, ...) have time 0. */
status dit_make_sinusoid(struct device *dev, struct tensor out, const float *timestep, int steps);

/* ---- dit.c, of dit_forward ---- */

status dit_acquire_root(struct dit *m, struct dit_root *root);

/* This rank's tokens of `whole` [c, T, H, W], which has the latent's frames: *out [latent_rows, 4,
 * c] f32, from arena `a`. */
status dit_upload_tokens(struct dit_run *r, struct arena *a, struct tensor *out,
                         struct tensor whole);

/* Starts to fetch the weights that are used after those of block `layer`, of this or the next
 * forward; none after the last of the run. */
status dit_start_next(const struct dit_run *r, int step, int branch, int layer);

/* patch = W [x; channels] + b. A token's values are one row, ordered as (pixel of the 2x2 cell,
 * channel). */
status dit_embed(struct block_ctx *ctx, const struct dit_root *root, struct tensor x);

/* v = W (norm(x) * (1 + scale) + shift) + b for the rows of the latent, in f32. Overwrites x. */
status dit_head(struct block_ctx *ctx, const struct dit_root *root, struct tensor v);

/* ---- dit_residual.c ---- */

bool dit_keeps(const struct dit_run *r); // residuals

/* out = a + coef * b, [s_loc, C] f32; out may be a or b. */
status dit_add(const struct dit_run *r, struct tensor out, struct tensor a, float coef,
               struct tensor b);

/* ---- dit_block.c: x, h, y are those of block_ctx; collective as dit_forward ---- */

/* Input of a block's self attention: h = norm(from) * (1 + scale) + shift. For the first block;
 * block_feed_forward does it for the next ones, but not for those beside the transformer's. */
status block_enter(struct block_ctx *ctx, int layer, struct tensor from);

/* x = from + gate * W_o attention(q, k, v), with q, k, v from h; then h = norm(x) * w + b.
 * from: [s_loc, C]: x itself, or in block 0 the patch embedding in cdt. */
status block_self_attention(struct block_ctx *ctx, const struct dit_block *b, int layer,
                            struct tensor from);

/* x += W_o attention(q, k, v), with q from h, k and v from the text; then h = norm(x) * (1 + scale)
 * + shift for the feed forward. */
status block_cross_attention(struct block_ctx *ctx, const struct dit_block *b, int layer);

/* x += gate * W_down gelu(W_up h). Of the transformer's blocks also the features' after_block, and
 * then, unless it is the last block, h = the input of the next block's self attention. */
status block_feed_forward(struct block_ctx *ctx, const struct dit_block *b, int layer);

/* kv [rows, 2C] cdt: the keys and values of cross attention to context [rows, C] cdt:
 * norm(W_k context), then W_v context. */
status block_kv(struct dit_run *r, const struct dit_text *t, struct tensor kv,
                struct tensor context);

/* out [s_loc, C] cdt: attention of q [s_loc, C] to such keys and values, of which the last `equal`
 * are all equal (op_attention_repeated; 1: none). out may be q. */
status block_attend(const struct block_ctx *ctx, struct tensor out, struct tensor q,
                    struct tensor kv, int64_t equal);

#endif
