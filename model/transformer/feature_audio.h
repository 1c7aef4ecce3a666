/* feature_audio.h - what the files of the audio feature (S2V) share. */
#ifndef MODEL_TRANSFORMER_FEATURE_AUDIO_H
#define MODEL_TRANSFORMER_FEATURE_AUDIO_H

#include "model/transformer/dit_internal.h"

#define AUDIO_HEADS 4                  // of the audio encoder
#define AUDIO_TOKENS (1 + AUDIO_HEADS) // of a latent frame
#define AUDIO_KERNEL 3                 // of its convolutions
#define STACK_AUDIO_ENCODER "audio encoder"

struct audio_encoder {
    struct linear local, global; // [C, 3 width], [C / 4, 3 width]
    struct linear conv2, conv3;  // [C / 2, 3 C / 4], [C, 3 C / 2]
    struct linear last;          // [C, C]: of the token for the frame
    struct tensor constant;      // [1, C]
};

/* Data of a run; rows of branches one after the other. */
enum {
    AUDIO_EXTRA, // [rows, C] cdt: the tokens after the latent's, of all ranks
    AUDIO_POSE,  // [latent_rows, C] cdt
    AUDIO_MASK,  // [2, C] f32: ones, and what is added to the latent's tokens
    AUDIO_FRAME, // [branches * F, C] cdt: silu of the token for the frame
    AUDIO_SOUND, // [branches * F * AUDIO_TOKENS, C] cdt: the others
    AUDIO_KV,    // [injectors, branches * F * AUDIO_TOKENS, 2C] cdt
    AUDIO_MOD,   // [injectors, branches * F, 2C] f32: shift, scale
};

/* A convolution as the matrix of a product: the weight [out, in, k...] as [out, k... * in]. Emits
 * "NAME.weight" and "NAME.bias"; slot: a struct linear. */
void audio_conv(struct tensor_list *l, const char *name, size_t slot, enum dtype cdt,
                const int64_t *dims);

/* Emits the encoder's tensors, for input rows of this width. */
void audio_encoder_tensors(struct tensor_list *l, int64_t dim, int64_t width, enum dtype cdt);

/* Encodes the sound of each branch into data[AUDIO_FRAME] and data[AUDIO_SOUND]. */
status audio_encode(struct dit_run *r, struct tensor *data, const struct dit_input *in,
                    struct arena *step);

#endif
