/* job.h - what `generate`, `batch` and `plan` share: the cores and the device of this rank, the
 * checkpoint, the plans of the requests, and the check that they fit into memory. */
#ifndef LAUNCH_JOB_H
#define LAUNCH_JOB_H

#include "kernels/table.h"
#include "launch/placement.h"
#include "launch/progress.h"
#include "launch/request.h"
#include "model/lora/lora.h"
#include "model/pipeline/pipeline.h"
#include "model/transformer/sparse.h"
#include "runtime/alive.h"

#define JOB_WEIGHTS_BYTES 256

/* With --groups the ranks form groups of equal size, of consecutive ranks. A group runs requests as
 * a job of its size would; only the start and the end are those of all ranks. */
struct job {
    struct world *all;        // all ranks
    struct world *world;      // those of this rank's group; `all` if there is one
    struct world group_world; // what `world` points to if there are more
    int group, groups;        // index of this rank's group, and number of groups
    struct placement place;
    struct table table;
    struct device dev;
    struct checkpoint checkpoint;
    struct lora *lora[EXPERTS_MAX]; // of the transformers; NULL: none
    struct model model;             // of the checkpoint
    struct tokenizer *tokenizer;    // rank 0 of each group, when texts are encoded
    struct progress progress;
    char weights[JOB_WEIGHTS_BYTES]; // digest of each part that is open: "dit=HEX t5=HEX vae=HEX"
    size_t resident;    // resident host memory of this process before any model is loaded, in bytes
    double device_free; // bytes of this rank's GPU before CUDA was loaded, or of --vram_limit
    double host_free;   // bytes of this node, for all of its ranks
    char devices[256];  // rank 0: of all ranks, "2 x NVIDIA H100 80GB HBM3"
    struct alive_hook hook;
    struct device_watch watch; // with several groups
    bool loading;              // rank 0: between job_load_begin and job_load_end
    int64_t read_before;       // bytes of weights that were read before
};

/* ST_USAGE if the ranks cannot form that many groups of equal size. Local. */
status job_check_groups(int groups, int ranks);

/* Forms the groups, binds this rank to its cores, opens its device, and opens and checks the parts
 * of the checkpoint that the request needs. `w` is borrowed until job_close. Collective; the ranks
 * agree on the status. ST_USAGE, ST_IO, ST_FORMAT, ST_MEMORY, ST_DEVICE. */
status job_open(struct job *j, struct world *w, const struct request *r);
void job_close(struct job *j); // accepts a half-open or zeroed job

/* Opens the LoRAs of the request for the transformers of the checkpoint that are open, makes the
 * checkpoint's sources give merged weights, and enters them into the model; with
 * as_in_file these give elements in the order of the file. lora[i] is NULL for a
 * transformer without. The caller closes them with lora_close, after the checkpoint. Local. Errors
 * as lora_open. */
status job_loras(const struct request *r, struct checkpoint *c, struct model *m, bool as_in_file,
                 struct lora *lora[EXPERTS_MAX]);

/* Whether `weights` of a run file, another job's j->weights, names no other weights for a part than
 * this job has. Local. ST_USAGE; `path` is the run file. */
status job_same_weights(const struct job *j, const char *weights, const char *path);

/* The op table for the request's device; on a CPU the one that --ops names. Local. */
void job_table(struct table *t, const struct request *r);

/* Converts a complete request to the input of plan_rank, for `ranks` ranks. Chooses the sizes of
 * the mesh that the request does not set; fsdp is false unless the request sets it. `prompts`: the
 * number of texts that are encoded; 0: the embeddings are read from a file. `model` and `table` are
 * borrowed by *plan. Local. ST_USAGE. */
status job_plan_input(struct plan_input *plan, const struct request *r, const struct model *model,
                      const struct table *table, int ranks, int ranks_per_node, int prompts);

/* Sets the steps and blocks whose attention is in 8-bit integers: all but the first and the last of
 * those numbers, -1 for the defaults. Local. ST_USAGE. */
status job_attention8(struct plan_input *plan, const int exact_steps[2], const int exact_blocks[2]);

/* The same as job_plan_input for the checkpoint, the ranks and the device of this job. Local;
 * agree() afterwards. */
status job_plan(struct job *j, const struct request *r, int prompts, struct plan_input *plan);

/* Settings that need less memory and do not change the result, the cheapest first: decoding frame
 * by frame, sharded weights, one of two experts in memory while the other is read ahead, blocks in
 * host memory, the second expert later, the end of keep_images and of keep_models, then blocks in
 * host memory again, or in the file. Makes setting `index` in all plans, if the request
 * leaves it open; *changed: whether a plan has changed. Returns a text for a note, or NULL. Local.
 */
#define JOB_SETTINGS 9
const char *job_setting(int index, const struct request *r, struct plan_input *plans, int count,
                        bool *changed);

/* The groups begin or end to work on their own. Between both calls, rank 0 of each group prints its
 * progress, with the group's number before each line, and a wait looks at the group's ranks only.
 * Afterwards this rank waits for the other groups. With one group they do nothing. Local. */
void job_part(struct job *j);
void job_meet(struct job *j);

/* Compares the memory that each rank needs with that of its GPU and its node. Makes those settings,
 * one after the other, until all ranks fit. Collective; the ranks agree on the status. ST_MEMORY,
 * with what would fit. */
status job_fit(struct job *j, const struct request *r, struct plan_input *plans, int count);

/* Parts of job_open. Rank 0 of each group shows progress from now on while it works or waits.
 * Local. */
void job_hook(struct job *j);
/* Collects the names of the ranks' devices on rank 0. Collective; the ranks agree on the status. */
status job_devices(struct job *j);

/* Rank 0 shows the progress of encoding texts and loading the transformer for the plan. Local. */
void job_load_begin(struct job *j, const struct plan_input *plan);
void job_load_end(struct job *j);

/* Rank 0 prints the devices, the model, the latent, the mesh and the planned memory. Local; other
 * ranks do nothing. */
void job_announce(struct job *j, const struct request *r, const struct plan_input *plan);

/* Writes where the transformer's blocks are that do not stay on the device; empty: all do. */
void job_offload(char *text, size_t size, const struct plan_input *plan,
                 const struct plan_rank *sizes);

/* The same for how they are kept in memory, if as in the file. */
void job_storage(char *text, size_t size, const struct plan_input *plan,
                 const struct plan_rank *sizes);

/* Whether the option of this kind of sparse self attention was given. */
bool job_wants_sparse(const struct request *r, const struct sparse_kind *kind);

/* Writes which self attention is in 8 bits, or how sparse it is; empty: none is. */
void job_attention(char *text, size_t size, const struct plan_input *plan);

/* Writes which steps the experts compute and where their weights are; `ahead`: bytes of host memory
 * of a rank, as planned. Empty for a model of one transformer. */
void job_experts(char *text, size_t size, const struct plan_input *plan, size_t ahead);

/* Writes "cfg 2 x ring 1 x ulysses 2; in steps with one branch ring 1 x ulysses 4". */
void job_mesh(char *text, size_t size, const struct plan_input *plan);

/* Whether half of the ranks compute nothing that is used in the steps with one branch; then
 * JOB_IDLES, which takes the number of heads, is to be printed. */
bool job_idles(const struct plan_input *plan);
#define JOB_IDLES                                                                                  \
    "in steps with one branch half of the ranks of --cfg_size 2 compute nothing that is used, as " \
    "%d heads are too few for all of them: --cfg_size 1 with --ring_size may be faster"

/* Writes what the steps do, unless all are alike. */
void job_guidance(char *text, size_t size, const struct plan_input *plan);

/* Rank 0 prints the remarks about a request: those of request_note, and that a prompt is longer
 * than the transformer's text. Local. ST_FORMAT if a prompt is not UTF-8; ST_MEMORY. */
status job_note_request(struct job *j, const struct request *r);

/* Rank 0 prints that the GPUs of a node communicate through NCCL because they cannot write into
 * each other's memory. Local. */
void job_note_links(struct job *j, const struct pipeline *p);

/* Rank 0 prints the peak memory of each rank, the planned memory, and the bytes that the rank read
 * from the checkpoint. Collective. */
void job_memory(struct job *j, const struct pipeline *p);

#endif
