/* plan.h - memory, FLOPs and messages of a generation on one rank, from running its code on the
 * plan device, which computes nothing; and an estimate of its time.
 *
 * A generation is a list of stages, which run one after the other and release their memory. The run
 * allocates its arenas with the sizes computed here. To add a stage: a row in plan.c. */
#ifndef MODEL_PIPELINE_PLAN_H
#define MODEL_PIPELINE_PLAN_H

#include "model/pipeline/denoise.h"
#include "model/pipeline/model.h"

extern const struct part *const expert_parts[EXPERTS_MAX]; // the transformers

/* The shape of the latent of a video of w x h pixels, which are multiples of the VAE's stride, and
 * `frames` frames. */
struct latent_shape latent_of_video(const struct vae_config *vae, int w, int h, int frames);

/* Where the weights of two experts are. */
enum expert_memory {
    EXPERTS_BOTH,  // both are on the device
    EXPERTS_AHEAD, // one; the second is read into host memory while the first computes
    EXPERTS_LATER  // one; the second is read when it is needed
};

#define PLAN_CLIPS_MAX 16

/* A video in clips, each of which continues the one before: clips.h. */
struct plan_chain {
    int clips;           // 0: the video is one
    bool from_reference; // the first clip continues the reference image
};

struct plan_input {
    struct model model; // borrowed configs of the parts
    struct latent_shape latent;
    int prepended, appended;          // its first and last frames, which are not decoded
    struct conditioning conditioning; // shapes only
    int steps;
    int first_step; // number of steps that are done before; all: no text, no transformer
    int low_from;   // with two experts, the first step of the second; `steps`: none
    enum expert_memory experts;
    bool cond_only;           // no text of the uncond branch is needed: no step is guided
    bool guided;              // both CFG branches are computed, in some steps at least
    struct guidance guidance; // of the steps
    struct cache_settings cache;
    struct window_settings windows;
    enum solver_kind solver;
    struct self_attention self_attention;
    int ranks, ranks_per_node;
    struct mesh_shape mesh;       // all sizes set
    struct mesh_shape joined;     // of the same ranks in steps with one branch; all 0: none
    enum dtype cdt;               // compute type of the transformer and the text encoder
    struct dit_matmul matmul;     // of the transformer's blocks
    enum dtype vae_dtype;         // of vae_open
    bool fsdp;                    // shard the transformer's weights
    enum tensors_offload offload; // where its blocks are that do not stay on the device
    int resident;                 // with offload, number of its blocks that do
    bool limited;                 // the device's memory has a limit, on a CPU, too
    bool as_stored;               // its matrices stay in the form of their file
    enum dtype t5_stored;         // data type of umT5's matrices in memory
    int prompts;   // number of texts that the text stage encodes at once; 0: no text stage
    int text_rows; // number of tokens to plan for, of each text
    bool t5_cpu;   // run the text encoder on rank 0's cores, not on its GPU
    bool t5_fsdp;  // run the text encoder on all ranks, with sharded weights
    int threads;   // host threads, for t5_cpu and for reading weights
    bool gpu;      // add the memory of CUDA and of the loader
    bool nccl;     // GPUs of one node do not write into each other's memory
    struct vae_tiling tiling;
    bool frame_by_frame; // the VAE decodes with less memory, exactly: see vae.h
    bool keep_models;    // the transformer stays loaded while the VAE decodes (batch)
    bool saves;          // rank 0 writes a run file
    bool decode;         // false: the run ends with the latent
    bool keep_images;    // the image encoder stays loaded too, for the next requests (batch)
    int images;          // number of images that the image encoder reads; 0: none
    struct plan_chain chain;
    bool decode_pixels;    // rank 0 gets the decoded frames as f32 too
    int64_t sound_samples; // number of samples that the audio encoder reads; 0: none
    int clips;             // number of clips that the VAE encodes, one after the other
    int64_t clip_frames[PLAN_CLIPS_MAX]; // their lengths; see plan_add_clip
    struct vae_tiling encode_tiling;     // of them
    int64_t encode_frames;               // the length of the longest; 0: none
    const struct table *table; // the run's op table, for the size of its workspace; borrowed
    const struct rates *rates; // borrowed; NULL: no time is estimated
};

#define STAGE_IMAGE "image"   // the image encoder
#define STAGE_AUDIO "audio"   // the audio encoder
#define STAGE_ENCODE "encode" // the VAE encodes images
#define STAGE_TEXT "text"     // the text encoder
#define STAGE_BEGIN "begin"   // what a generation computes once, before its steps
#define STAGE_STEP "step"     // one step, with the transformer's weights
#define STAGE_DECODE "decode"

#define PLAN_STAGES_MAX 8

struct plan_stage {
    const char *name;
    size_t weights, run, scratch; // bytes of arenas: weights; data of one request; scratch
    size_t host;                  // bytes of host memory in this stage only
    double flops;                 // of the whole stage; a multiply-add is two
    double sent, messages;        // bytes and messages that this rank sends
    double sent_across;           // of them, bytes to other nodes
    double streamed;              // bytes of weights copied to the device, not to stay there
    double seconds;               // estimated; of copies from host memory, only those of a step
    double waited;                // of them, estimated, for messages
};

struct plan_rank {
    int count;
    struct plan_stage stage[PLAN_STAGES_MAX]; // in the order of the run
    size_t workspace; // bytes of the ops' workspace, allocated as long as the device is open
    size_t device;    // maximum bytes on the device at one time, with what is used of the workspace
                      // and, on a CPU, the stage's host memory
    size_t cuda;      // bytes of the CUDA context and libraries on a GPU, not in `device`
    size_t host;      // bytes of host buffers: latents, tokens, texts, frames, `ahead`
    size_t ahead;     // of them, those of the expert that is read ahead
    size_t weights;   // bytes of pinned host memory for blocks of the transformers; part of `host`
                      // unless it is shared
    size_t shared;    // the same, if the ranks of a node share them: once per node, not in `host`
};

/* Whether some clip continues frames, those of the clip before or of the reference image. */
static inline bool plan_chained(const struct plan_input *in)
{
    return in->chain.clips > 1 || in->chain.from_reference;
}

/* The shape of the part of the latent that is decoded. */
static inline struct latent_shape plan_decoded(const struct plan_input *in)
{
    struct latent_shape s = in->latent;

    s.t -= in->prepended + in->appended;
    if (in->chain.clips > 0) // with the latent frames before the clip
        s.t += plan_chained(in) ? AUDIO_MOTION_LATENTS : 1;
    return s;
}

/* Notes that the VAE encodes a clip of so many frames, of the size of the video. */
void plan_add_clip(struct plan_input *in, int64_t frames);

int plan_experts(const struct plan_input *in); // number of transformers of the model: 1 or 2

/* The number of latent frames that the transformer computes at once: of a window, or all. */
int64_t plan_frames(const struct plan_input *in);

/* The number of windows of a step; 1 without. */
int plan_windows(const struct plan_input *in, int step);

/* The number of steps that an expert computes; 0: its weights are not needed. */
int plan_expert_steps(const struct plan_input *in, int expert);

/* What a step does, without its step cache. */
enum guide plan_guide(const struct plan_input *in, int step);

/* The number of forwards of the steps that are left: of those that are computed, or of `all` with
 * those that a step cache skips. Those that it skips by what it measures in the run count as
 * computed. */
int plan_forwards(const struct plan_input *in, bool all);

/* For each of in->steps steps, the branches that are computed: bits 1 << branch. */
void plan_schedule(const struct plan_input *in, unsigned char *branches);

/* Whether the two branches of guidance can be computed on different ranks. */
static inline bool plan_two_branches(const struct plan_input *in)
{
    return in->guided && !in->guidance.three;
}

/* Whether some step has one branch, which needs no ranks for the other. */
bool plan_has_single(const struct plan_input *in);

/* Sets in->mesh to the sizes that are given, and those that are 0 as mesh_choose; without a ring if
 * self attention is sparse. guided: whether both CFG branches count. Errors as mesh_choose. */
status plan_choose_mesh(struct plan_input *in, struct mesh_shape given, bool guided);

/* Sets in->joined, from in->mesh and what the steps do; without a ring if self attention is sparse.
 */
void plan_join(struct plan_input *in);

/* The number of steps, as multiples of the longest: a step with one branch takes half of the time
 * of one with both, unless half of the ranks compute nothing of use in it; a forward that
 * a step cache skips takes none. */
double plan_whole_steps(const struct plan_input *in);

/* Estimated seconds of all stages and steps, of the ranks that `most` covers (plan_cover). */
double plan_seconds(const struct plan_input *in, const struct plan_rank *most);

/* The tiles of sparse self attention; all 0 if it is over all tokens. */
struct sparse_tiles plan_tiles(const struct plan_input *in);

/* Whether the run uses two experts, so that `experts` matters. */
bool plan_has_two(const struct plan_input *in);

/* Where the blocks of the transformer with this config are; `host`: memory for them. */
struct tensors_place plan_place(const struct plan_input *in, const struct dit_config *config,
                                struct host_memory *host);

/* Computes memory, FLOPs and messages of rank `rank`. Local. ST_USAGE if the request does not fit
 * the model (odd latent sizes) or the mesh; ST_MEMORY. */
status plan_rank(const struct plan_input *in, int rank, struct plan_rank *out);

/* The stage of this name; a zeroed one if the plan does not have it. */
const struct plan_stage *plan_stage(const struct plan_rank *p, const char *name);

/* Sets every size and count of `all` to the maximum of both, for requests that run one after the
 * other, or for several ranks. `all` may be zeroed. */
void plan_cover(struct plan_rank *all, const struct plan_rank *one);

#endif
