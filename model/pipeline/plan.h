/* plan.h - what a generation takes on one rank, from running it on a device that computes nothing.
 *
 * The stages follow each other and give back what they took: text (rank 0), denoising, decoding.
 * The sizes found here are those that the run allocates. */
#ifndef MODEL_PIPELINE_PLAN_H
#define MODEL_PIPELINE_PLAN_H

#include "model/pipeline/denoise.h"
#include "model/vae/vae.h"

struct plan_input {
    struct model_config config;
    struct latent_shape latent;
    int steps;
    bool guided;
    int ranks, ranks_per_node;
    struct mesh_shape mesh; // complete
    enum dtype cdt;
    enum dtype vae_dtype; // of the VAE's matrices and pictures
    bool fsdp;
    enum dtype t5_stored; // of umT5's matrices in memory
    int prompts;          // that the text stage encodes at once; 0: text comes from a file
    int text_rows;        // longest prompt in tokens
    bool t5_cpu;          // on rank 0's host, whatever the device is
    bool t5_fsdp;         // on all ranks, a slice of the weights each
    int threads;          // of the host, for t5_cpu and for reading weights
    bool gpu;             // what CUDA and the loader take counts
    struct vae_tiling tiling;
    bool keep_models;          // the transformer stays while the VAE decodes (batch)
    bool decode;               // false: the run ends with the latent
    const struct table *table; // whose workspace counts
};

struct plan_stage {
    size_t weights, run, scratch; // arenas: parameters; as long as one request; scratch
    double flops;                 // of the whole stage
    double sent, messages;        // bytes and messages to other ranks
};

struct plan_rank {
    struct plan_stage text, load, step, decode; // load: dit_begin; step: one step
    size_t workspace;                           // of the device, always
    size_t device;                              // the largest sum that is alive at once
    size_t beside;                              // what CUDA and its libraries hold on a GPU besides
    size_t host; // host buffers besides: latents, tokens, texts, frames
};

/* The rank's share. ST_USAGE when the request does not fit the model (odd latent sizes). */
status plan_rank(const struct plan_input *in, int rank, struct plan_rank *out);

/* Makes every size and count of `all` at least that of `one`: for several requests in turn. */
void plan_cover(struct plan_rank *all, const struct plan_rank *one);

#endif
