/* encoder_layer.h - the layer of transformer encoders that normalize before attention and before
 * the feed forward, in f32: of CLIP and of wav2vec 2.0.
 * Source: Wan2.1 wan/modules/clip.py, AttentionBlock; transformers
 * models/wav2vec2/modeling_wav2vec2.py, Wav2Vec2EncoderLayerStableLayerNorm. */
#ifndef MODEL_ENCODER_ENCODER_LAYER_H
#define MODEL_ENCODER_ENCODER_LAYER_H

#include "model/checkpoint/tensors.h"
#include "parallel/weights.h"

struct encoder_layer {
    struct linear norm1, norm2; // [C]
    struct linear qkv, o;       // [3C, C], [C, C]
    struct linear up, down;     // [F, C], [C, F]
};

/* What a file calls them. qkv: one matrix, the others NULL; or q, k and v. */
struct encoder_layer_names {
    const char *norm1, *qkv[3], *o, *norm2, *up, *down;
};

/* Emits the tensors of a stack of layers, which the caller has begun. */
void encoder_layer_tensors(struct tensor_list *l, const struct encoder_layer_names *names,
                           int64_t dim, int64_t ffn_dim);

/* `count` inputs of equal length, encoded together; S is the sum of their lengths. */
struct encoder {
    struct device *dev;
    struct arena *a;
    int64_t ffn_dim;
    int heads, count;
    float eps;       // of the norms
    struct tensor x; // [S, C]: the residual stream
    struct tensor h; // [S, C]: the input of a layer
};

/* out = the layer norm of x. */
status encoder_norm(const struct encoder *e, struct tensor out, struct tensor x, struct linear l);

/* x += W_o attention(q, k, v) for each input, with q, k, v from norm1(x); x += W_down gelu(W_up
 * norm2(x)). Allocates from the arena and releases it. Local. ST_MEMORY. */
status encoder_layer_run(const struct encoder *e, const struct encoder_layer *w);

#endif
