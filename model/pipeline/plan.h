/* plan.h - what a generation takes on one rank, from running it on a device that computes nothing.
 *
 * A generation is a list of stages, one after the other, each of which releases its memory. The
 * sizes found here are those that the run allocates. To add a stage: a row in plan.c. */
#ifndef MODEL_PIPELINE_PLAN_H
#define MODEL_PIPELINE_PLAN_H

#include "model/pipeline/denoise.h"
#include "model/pipeline/model.h"

struct plan_input {
    struct model model; // borrowed configs of its parts
    struct latent_shape latent;
    struct conditioning conditioning; // shapes only
    int steps;
    bool guided;
    int ranks, ranks_per_node;
    struct mesh_shape mesh; // complete
    enum dtype cdt;
    enum dtype vae_dtype; // of the VAE's matrices and frames
    bool fsdp;
    enum dtype t5_stored; // of umT5's matrices in memory
    int prompts;          // that the text stage encodes at once; 0: text comes from a file
    int text_rows;        // longest prompt in tokens
    bool t5_cpu;          // on rank 0's host, whatever the device is
    bool t5_fsdp;         // on all ranks, a slice of the weights each
    int threads;          // of the host, for t5_cpu and for reading weights
    bool gpu;             // count the memory of CUDA and the loader
    struct vae_tiling tiling;
    bool keep_models;          // the transformer stays while the VAE decodes (batch)
    bool decode;               // false: the run ends with the latent
    const struct table *table; // whose workspace counts
};

#define STAGE_TEXT "text"   // the text encoder
#define STAGE_BEGIN "begin" // what a generation computes once, before its steps
#define STAGE_STEP "step"   // one step, with the transformer's weights
#define STAGE_DECODE "decode"

#define PLAN_STAGES_MAX 8

struct plan_stage {
    const char *name;
    size_t weights, run, scratch; // arenas: parameters; as long as one request; scratch
    double flops;                 // of the whole stage
    double sent, messages;        // bytes and messages to other ranks
};

struct plan_rank {
    int count;
    struct plan_stage stage[PLAN_STAGES_MAX]; // in the order of the run
    size_t workspace;                         // of the device, always
    size_t device;                            // the largest sum that is allocated at once
    size_t beside;                            // memory of CUDA and its libraries on a GPU
    size_t host;                              // host buffers: latents, tokens, texts, frames
};

/* The rank's memory and work. ST_USAGE when the request does not fit the model (odd latent sizes).
 */
status plan_rank(const struct plan_input *in, int rank, struct plan_rank *out);

/* The stage of this name; one of zeros where the plan has none. */
const struct plan_stage *plan_stage(const struct plan_rank *p, const char *name);

/* Makes every size and count of `all` at least that of `one`: for several requests in turn. */
void plan_cover(struct plan_rank *all, const struct plan_rank *one);

#endif
