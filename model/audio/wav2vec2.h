/* wav2vec2.h - the audio encoder of Wan2.2's S2V: wav2vec 2.0 with a layer norm after each
 * convolution and before each layer's attention and feed forward (the large models). All of its
 * states are used: the input of the first layer, the output of each layer.
 * Source: transformers models/wav2vec2/modeling_wav2vec2.py, as Wan2.2 wan/modules/s2v calls it. */
#ifndef MODEL_AUDIO_WAV2VEC2_H
#define MODEL_AUDIO_WAV2VEC2_H

#include "kernels/ops.h"
#include "model/checkpoint/tensors.h"

#define WAV2VEC2_RATE 16000 // samples per second
#define WAV2VEC2_CONVS 8    // at most

struct wav2vec2_config {
    int64_t dim, ffn_dim;
    int64_t channels; // of the convolutions
    int convs;        // their number
    int64_t kernel[WAV2VEC2_CONVS], stride[WAV2VEC2_CONVS];
    int64_t position_kernel, position_groups; // of the position embedding
    int64_t vocab;                            // of the head, which is not computed; 0: none
    int heads, layers;
    float eps;
};

/* Emits every tensor. All are f32 in memory. */
void wav2vec2_tensors(struct tensor_list *l, const struct wav2vec2_config *config);

/* ST_FORMAT when these numbers, found in `file`, are none that the encoder can run. */
status wav2vec2_check(const struct wav2vec2_config *config, const char *file);

/* The number of rows of each state for so many samples; 0: too few for one. */
int64_t wav2vec2_rows(const struct wav2vec2_config *config, int64_t samples);

/* Makes samples of mean 0 and variance 1, in place. Source: transformers
 * feature_extraction_wav2vec2.py, zero_mean_unit_var_norm. */
void wav2vec2_normalize(float *samples, int64_t count);

/* Encodes samples [count], which make at least one row, in f32. `state` is called for each state in
 * order, index 0 to layers: `rows` [rows, dim] f32 in host memory, valid during the call; its error
 * ends the encoding. For plans samples is NULL, and it is not called. Weights are streamed from
 * `source`. Allocates from `a` and releases everything before it returns. Local. ST_IO, ST_FORMAT,
 * ST_MEMORY. */
struct wav2vec2_sink {
    status (*state)(void *payload, int index, const float *rows);
    void *payload;
};
status wav2vec2_encode(const struct wav2vec2_config *config, struct device *dev, struct arena *a,
                       struct weight_source source, const float *samples, int64_t count,
                       struct wav2vec2_sink sink);

#endif
