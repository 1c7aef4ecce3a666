/* dit.h - the diffusion transformer: computes the velocity from a noisy latent, a time and a
 * conditioning.
 *
 * The latent is a sequence of tokens: token (f, h, w) of the grid has the values of its 2x2 cell in
 * the order (ph, pw, channel), channel innermost, which is also the order of the head's output. A
 * rank has the tokens of its slice of the sequence (mesh.h). Two functions convert between tokens
 * and [C, T, H, W], outside the loop over steps.
 *
 *   dit.c         open, begin, one forward
 *   dit_residual.c  what the blocks add, kept for step caching
 *   tokens.c      latents as tokens
 *   dit_block.c   a block: self attention, cross attention, feed forward
 *   dit_tensors.c the list of tensors
 *   dit_names.c   diffusers' names of the tensors
 *   dit_part.c    the transformer as rows of the table of parts
 *   sparse.h      self attention to a part of the tokens
 *   segments.c    which rows of a rank belong to which grid and time
 *   features.h    additions to the text-to-video network: image context, VACE, ...
 *
 * Source: Wan2.1 wan/modules/model.py; rounding points in ../NOTES.md. */
#ifndef MODEL_TRANSFORMER_DIT_H
#define MODEL_TRANSFORMER_DIT_H

#include "kernels/ops.h"
#include "model/checkpoint/tensors.h"
#include "model/transformer/conditioning.h"
#include "model/transformer/config.h"
#include "model/transformer/segments.h"
#include "parallel/mesh.h"
#include "parallel/tiles.h"

#define DIT_STACKS_MAX 24  // enough for a model with all features
#define DIT_MARK_NONE 1e6F // a mark that no block has
#define DIT_BRANCHES 2     // of classifier-free guidance: cond, uncond

/* How the blocks' products are computed; zeroed: in the compute type. */
struct dit_matmul {
    bool fp8; // with weights and activations in e4m3, except in the first and the last blocks, and
              // the keys and values of cross attention
    int kept; // number of blocks at each end whose products stay in the compute type
};

/* The default of `kept`: 3, for transformers of fewer than 12 blocks a quarter of them. */
int dit_default_kept(const struct dit_config *config);

/* Whether the products of block `layer` are in fp8. */
bool dit_block_in_fp8(const struct dit_config *config, struct dit_matmul matmul, int layer);

/* A stack of tensors (model/checkpoint/tensors.h) with its weights. */
struct dit_stack {
    const char *name;
    struct weights weights;
};

struct dit {
    struct dit_config config;
    enum dtype cdt; // compute type of matrices and activations: F32 or BF16
    struct dit_matmul matmul;
    struct device *dev; // borrowed
    struct mesh *mesh;  // borrowed
    int stacks;
    struct dit_stack stack[DIT_STACKS_MAX];
};

/* Emits the list of the model's tensors: first the text-to-video network's, then those of its
 * features. `cdt`: data type of the matrices in memory that are not in fp8. */
void dit_tensors(struct tensor_list *l, const struct dit_config *config, enum dtype cdt,
                 struct dit_matmul matmul);

/* Loads the weights into arena `a`, and into host memory as `place` says; the group of the stacks
 * is mesh->all. `mesh` and `dev` are borrowed until dit_close; until dit_complete, and with
 * OFFLOAD_FILE until dit_close, `source` must stay valid and `m` in place.
 * Local, not collective: the caller passes the status to agree(), as reading may fail on one rank
 * only. ST_FORMAT for a feature that this version does not compute, for sizes that do not fit each
 * other, and for damaged files; ST_IO, ST_MEMORY. */
status dit_open(struct dit *m, const struct dit_config *config, struct mesh *mesh,
                struct device *dev, struct arena *a, enum dtype cdt, struct dit_matmul matmul,
                struct tensors_place place, struct weight_source source);
void dit_close(struct dit *m); // accepts half-open and zeroed values

/* All-gathers the weights of which each rank reads a slice. Called once, after dit_open and
 * agree(). Collective over mesh->all; as weights_all_gather, it also fails when reading does. */
status dit_complete(struct dit *m);

/* The weights of the stack of this name, which must exist. */
struct weights *dit_weights(struct dit *m, const char *stack);

/* How self attention is computed: the blocks and steps in 8-bit integers (all zero: none), and how
 * much of it where it is sparse. */
struct self_attention {
    int first_step, end_step;   // steps [first_step, end_step)
    int first_block, end_block; // blocks [first_block, end_block) of each
    struct dit_sparsity sparsity;
};

/* Input of one generation. */
struct dit_input {
    int64_t f, h, w; // token grid of the latent: f frames of 2h x 2w
    int steps;
    const float *timestep; // [steps], 0 to 1000: the network's time; borrowed during dit_begin
    int last_step;         // the last step that this transformer computes; -1: it computes none
    int last_branch;       // the last branch of that step
    struct mesh *mesh; // whose ranks share the sequence; borrowed. NULL: that of the transformer
    int branches;      // number of CFG branches that this rank computes: 1 or 2
    int first_branch;  // the first of them: 0 cond, 1 uncond
    struct self_attention self_attention;
    const struct conditioning *conditioning; // borrowed during dit_begin
};

/* The segments of the whole sequence, and the rows of this rank. Local. ST_USAGE if the
 * conditioning does not have the shapes that the model needs. */
status dit_spans(const struct dit *m, const struct dit_input *in, struct segments *segments,
                 struct spans *spans);

/* Called in a forward after the first block, if it is set, with the block's residual `change`
 * [s_loc, C] f32: x after it minus the patch embedding. *reuse: the other blocks are not computed;
 * what they added in the last forward of the branch that was computed is added again. Collective as
 * dit_forward; it may wait for the device. */
struct dit_decision {
    status (*call)(void *payload, int step, int branch, struct tensor change, bool *reuse);
    void *payload;
};

/* The data of one generation that does not change from step to step. */
struct dit_run {
    struct dit *m;
    struct mesh *mesh;        // whose ranks share the sequence
    struct segments segments; // of the whole sequence
    struct spans spans;       // the rows of this rank
    int64_t tokens, s_loc;    // number of tokens: of the whole sequence, of this rank
    int steps, last_step, last_branch, branches;
    struct self_attention self_attention;
    struct attention_tiles tiles;     // of self attention; kept 0: over all tokens
    struct tensor rope[SEGMENTS_MAX]; // of each segment: [G, D/2, 2] f32: (cos, sin) at G positions
    struct tensor time;      // [times, C] f32: e, for the head; one row per step, then time 0 if
                             // a segment has it
    struct tensor time_mod;  // [times, 6C] f32: e0, for the blocks
    struct tensor block_mod; // [L, 6C] f32: modulation parameters of all blocks
    struct tensor channels;  // [latent_rows, 4, c] f32: concatenated to the latent's; ndim 0: none
    struct tensor context[DIT_BRANCHES]; // [text_len, C] cdt: the embedded text
    struct tensor text_kv[DIT_BRANCHES]; // [L, text_len, 2C] cdt: k after its norm, then v
    int64_t padding[DIT_BRANCHES];       // rows after the text, which are all equal
    struct tensor mark; // [1] f32, borrowed: gets the number of the first block after which x has
                        // values that are not finite, plus 1; ndim 0: no check
    struct tensor residual[DIT_BRANCHES]; // [s_loc, C] f32: what the blocks added to x in the last
                                          // forward that was computed; borrowed; ndim
                                          // 0: not kept
    struct dit_decision after_first;      // then `residual` is without the first block
    bool prepared; // text_kv and the features' `prepare` are done, in the first forward
    struct tensor feature[DIT_FEATURES_MAX][FEATURE_TENSORS]; // belong to the features
};

/* Prepares a run. Its data is allocated from arena `a`, and is valid as long as that; scratch comes
 * from `step` and is released. `m` is borrowed for the run. Local. ST_USAGE if the conditioning
 * does not have the shapes that the model needs; ST_MEMORY. */
status dit_begin(struct dit_run *r, struct dit *m, struct arena *a, struct arena *step,
                 const struct dit_input *in);

/* A view of *run for a shorter video, of in->f frames, and another conditioning, of which only the
 * known frames are used: it has its own segments and rows, and borrows all else. Feature data that
 * depends on the frames is not supported. `a`: as in dit_begin. Local. ST_MEMORY. */
status dit_begin_view(struct dit_run *view, const struct dit_run *run, struct arena *a,
                      const struct dit_input *in);

/* v = the velocity that the network predicts for branch `branch` of this rank (0: the first_branch)
 * at step `step`.
 *   v  [n, 4 * out_dim] f32, contiguous: the n = spans.latent_rows tokens of the latent that this
 *      rank has
 *   x  [n, 4 * c] f32, contiguous: the same tokens of the latent, which has c channels
 *   a  scratch, released on return
 * Collective over the ranks that share the sequence; with sharded weights over mesh->all. Queued on
 * the device's stream. */
status dit_forward(struct dit_run *r, struct arena *a, int step, int branch, struct tensor v,
                   struct tensor x);

/* The same as dit_forward with the kept residual of the branch in place of the blocks; not with
 * after_first. Local. */
status dit_reuse(struct dit_run *r, struct arena *a, int step, int branch, struct tensor v,
                 struct tensor x);

/* Takes part in what the ranks of another branch do for sharded weights in a dit_forward of the
 * first branch, while this rank computes no block. Collective over mesh->all. */
status dit_follow(struct dit_run *r, int step);

/* Convert between a latent [C, T, H, W] and all its tokens [T * H/2 * W/2, 4C], both f32 in host
 * memory; h and w are even. Local. */
void tokens_from_latent(float *tokens, const float *latent, int64_t c, int64_t t, int64_t h,
                        int64_t w);
void latent_from_tokens(float *latent, const float *tokens, int64_t c, int64_t t, int64_t h,
                        int64_t w);

#endif
