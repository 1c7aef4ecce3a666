/* pipeline.h - runs the stages of a generation, from prompts to frames, on all ranks of the job.
 *
 *     conditioning, noise -> { transformer -> guidance -> solver } x steps -> VAE -> frames
 *
 *   model.h      parts, released models, and the check that parts fit each other
 *   task.h       a row per task; condition.h makes its conditioning
 *   denoise.h    the loop over steps, with one or two experts
 *   plan.h       memory, FLOPs and messages of a request, before it runs
 *   pipeline.h   loading, text, and the stages of a run; decode.c: decoding, with less memory
 *
 * All functions are collective over the world unless noted. They return the same status on every
 * rank if p->must_abort is false; if it is true, the status may differ between ranks, and the
 * caller must end the job (world_abort). */
#ifndef MODEL_PIPELINE_PIPELINE_H
#define MODEL_PIPELINE_PIPELINE_H

#include "model/checkpoint/readahead.h"
#include "model/pipeline/plan.h"
#include "model/text/tokenizer.h"

/* The text encoder's output for a prompt. */
struct text_entry {
    char *prompt;       // owned
    struct tensor rows; // [rows, text_dim] f32; data malloc'ed
};

struct pipeline {
    struct world *world; // borrowed, as are device, checkpoint and tokenizer
    struct device *dev;
    struct checkpoint *checkpoint;
    struct tokenizer *tokenizer; // on rank 0; NULL if no text is encoded
    struct plan_input plan;      // of the first request; settings are the same for all requests
    struct plan_rank sizes;      // the maximum over all requests, of this rank
    struct mesh mesh;
    struct arena dit_weights, vae_weights, clip_weights;
    struct host_memory host;         // for blocks of the transformers
    struct vae_tiling encode_tiling; // of the request whose conditioning is made
    struct dit dit[EXPERTS_MAX];
    int experts;                // number of transformers of the model
    bool uses[EXPERTS_MAX];     // some request has steps of it
    bool loaded[EXPERTS_MAX];   // its weights are being read, or are
    bool complete[EXPERTS_MAX]; // the ranks have gathered the slices that each has read
    struct readahead *ahead;    // the second expert, while the first computes; NULL: none
    struct vae vae;
    bool vae_ready;
    struct clip_weights clip; // on rank 0, while it encodes, or longer with plan.keep_images
    bool clip_ready;
    struct text_entry *texts; // all encoded prompts, the same on every rank
    int text_count;
    bool must_abort; // an error now is not agreed on by the ranks: the job must end
};

/* Opens the mesh; models are loaded at first use. plans[0 .. count): those of all requests that
 * will run, which differ in sizes and steps only; their model is the checkpoint's. */
status pipeline_open(struct pipeline *p, struct world *world, struct device *dev,
                     struct checkpoint *checkpoint, struct tokenizer *tokenizer,
                     const struct plan_input *plans, int count);
void pipeline_close(struct pipeline *p);

/* Opens the checkpoint's tokenizer, which must not have more pieces than the text encoder's
 * vocabulary, if that is open. The caller closes it with tokenizer_close. Local. ST_FORMAT, ST_IO,
 * ST_MEMORY; then *t is NULL. */
status pipeline_tokenizer(struct tokenizer **t, struct checkpoint *c);

/* Encodes the prompts that are not encoded yet; if there are any, also loads the transformer. Rank
 * 0 encodes while the other ranks load the transformer; with t5_fsdp all ranks encode. */
status pipeline_text(struct pipeline *p, int count, const char *const *prompts);

/* The entry of a prompt, owned by the pipeline; NULL if it has not been encoded. Local. */
struct text_entry *pipeline_find_text(const struct pipeline *p, const char *prompt);

/* Gives the prompts that rank 0 of `w` has encoded to all ranks of w, the job's ranks, which are
 * those of several pipelines. Collective over w. `prompts`: each text once, the same on all ranks.
 * ST_MEMORY. */
status pipeline_share_texts(struct pipeline *p, struct world *w, int count,
                            const char *const *prompts);

/* The encoded rows of a prompt, [rows, text_dim] f32 in host memory, owned by the pipeline. The
 * prompt must have been encoded. Local. */
struct tensor pipeline_text_rows(const struct pipeline *p, const char *prompt);

/* Encodes the frames of `source`, of the size of the plan's latent, into a latent [C, T, H, W] in
 * host memory of every rank: T = 1 + (frames - 1) / 4. The encoder is loaded for that, and freed.
 */
status pipeline_encode(struct pipeline *p, struct frame_source source, float *latent);

/* The same of several clips, one after the other: latents [i] of sources [i]. */
status pipeline_encode_all(struct pipeline *p, int count, const struct frame_source *sources,
                           float *const *latents);

/* A part of an image. */
struct picture {
    const struct image *image;
    struct window window;
};

/* Encodes pictures with the image encoder: tokens [count * rows, width] in host memory of every
 * rank. Rank 0 encodes, and only there are the pictures used; the encoder is loaded for that, and
 * freed unless the plan keeps it. */
status pipeline_images(struct pipeline *p, int count, const struct picture *pictures,
                       float *tokens);

/* The audio encoder's rows for `frames` frames of S2V's video, [frames, width] in host memory of
 * every rank: of the weighted mean of its states (speech.h). Rank 0 encodes. */
struct sound_input;
status pipeline_audio(struct pipeline *p, const struct sound_input *sound, int64_t frames,
                      float *rows);

/* Loads the transformer, or those experts with which the first request starts, if none is loaded.
 * ST_PREEMPTED. */
status pipeline_load(struct pipeline *p);

/* Callback on every rank after each step: `done` of `steps` are finished, and the device is idle. A
 * status other than ST_OK ends the run; ST_PREEMPTED must be that of all ranks. */
struct step_callback {
    status (*call)(void *payload, struct denoise *d, int done, int steps);
    /* On every rank after `done` steps, when another expert has replaced the one in memory, which
     * took `seconds`, or `wait_s` of them to wait until it was read ahead. */
    void (*switched)(void *payload, int done, double wait_s, double seconds);
    void *payload;
};

/* Denoises: writes the whole latent [C, T, H, W] f32 to host memory of every rank. Starts from
 * `noise`, of the same shape on every rank, or from `state` if that is not NULL. */
status pipeline_denoise(struct pipeline *p, const struct denoise_input *in, const float *noise,
                        const struct denoise_state *state, struct step_callback callback,
                        float *latent);

/* Frees the image encoder, if it is loaded. Local. */
void pipeline_close_clip(struct pipeline *p);

/* Frees the transformer, unless the plan keeps the models. Local. */
void pipeline_offload(struct pipeline *p);

/* ST_FORMAT if a value that an encoder gave is not finite. `encoder`: for the line. Local. */
status pipeline_finite(const float *values, int64_t count, const char *encoder);

/* The `ready` of frame_source and frame_sink, whose payload is the pipeline: agrees on the status
 * with which the ranks are ready; from then on an error of one rank is not known to the others. */
status pipeline_ready(void *payload, status st);

/* Callback on every rank when the memory is not enough for decoding, with status_line() saying for
 * what, and another way will be tried: `way` says which and what it costs, and `exact` whether the
 * frames are the same. The ranks agree on the status, which other than ST_OK ends the decoding. */
struct decode_callback {
    status (*call)(void *payload, const char *way, bool exact);
    void *payload;
};

/* Decodes a latent [C, T, H, W] f32, in host memory of every rank, without its first `skip` and its
 * last `drop` frames; the sink gets the frames on rank 0. If memory cannot be allocated, tries ways
 * that need less, until one can be begun: decode.c. ST_MEMORY if there is none; nothing has been
 * put then. */
status pipeline_decode(struct pipeline *p, struct latent_shape shape, int skip, int drop,
                       const float *latent, struct vae_tiling tiling, struct frame_sink sink,
                       struct decode_callback less);

#endif
