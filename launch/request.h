/* request.h - what the user asked for, in one struct: filled from flags or JSON, completed with the
 * task's defaults and checked once on rank 0, then the same on every rank.
 *
 *     request_init(&r);
 *     if (world->rank == 0)
 *         st = request_parse(&r, CMD_GENERATE, NULL, 0, argc, argv);
 *     if (world->rank == 0 && st == ST_OK)
 *         st = request_complete(&r, CMD_GENERATE);
 *     TRY_OUT(request_share(world, st, &r));     // agrees, and sends rank 0's to everybody
 *
 * The rows behind the fields (request.c) are flags, --help, JSON keys and batch lines in one. */
#ifndef LAUNCH_REQUEST_H
#define LAUNCH_REQUEST_H

#include "launch/options.h"
#include "model/pipeline/task.h"
#include "model/sampling/schedule.h"
#include "parallel/world.h"

#include <time.h>

enum { CMD_GENERATE = 1, CMD_BATCH = 2, CMD_PLAN = 4 };
enum { PRECISION_FP32, PRECISION_BF16 };
enum { RAND_CPU, RAND_CUDA };
enum { OPS_REF, OPS_CPU };
enum { USE_AUTO, USE_CPU, USE_CUDA };

/* Between request_init and request_complete, -1 (0 for fps, NULL for strings) means "not given".
 * Afterwards all are set, but: mesh sizes, threads and dit_fsdp may still be 0, 0 and -1 for "the
 * plan chooses", and files that were not asked for are NULL. Strings belong to the request. */
struct request {
    char *task_name;
    const struct task *task; // set by request_complete
    char *prompt, *negative_prompt;
    int size[2]; // width, height in pixels
    int frame_num;
    int64_t base_seed;

    int sample_steps;
    int sample_solver; // enum solver_kind
    double sample_shift, sample_guide_scale;
    int rand_device; // RAND_*
    int cuda_sms;
    char *noise_file, *text_file; // run files to take /noise and /text from

    char *ckpt_dir;
    int precision;     // PRECISION_*
    int vae_precision; // of the VAE alone, PRECISION_*
    int offload_model; // 0, 1, -1
    int t5_cpu;
    int convert_model_dtype; // the official flag for bf16

    int cfg_size, ring_size, ulysses_size;
    int dit_fsdp; // 0, 1, -1: the plan chooses
    int t5_fsdp;
    int device;  // USE_*; complete: not USE_AUTO
    int threads; // per rank; 0: this rank's share of the cores
    int ops;     // OPS_*, of a CPU

    int tiled;
    int tile_size[2], tile_stride[2]; // rows, columns of the latent

    char *save_file;
    double fps, quality;
    char *contact_sheet;
    char *run_file;
    int save_every;
    char *resume;
    int keep_frames;

    char *input[INPUT_COUNT]; // of the task, beside the prompts; see task.h
    int use_prompt_extend;    // of the inputs the one without a value

    char *batch_file; // the lines of `batch`

    bool given[OPTIONS_MAX]; // rows that were given as flags
};

/* The rows over *r, for options_help and for commands that parse them beside their own. */
struct option_set request_options(struct request *r);

/* The prompts and inputs as the task's functions take them; borrowed. */
struct task_inputs request_inputs(const struct request *r);

void request_init(struct request *r);
void request_done(struct request *r); // accepts a zeroed request

/* Flags of one command (CMD_*), beside up to two further sets of its own. ST_USAGE, ST_IO (@FILE).
 */
status request_parse(struct request *r, unsigned command, const struct option_set *more, int count,
                     int argc, char **argv);

/* Rank 0: chooses the task by the checkpoint where none was given; where one was, refuses a
 * checkpoint that is a model of another task. Nothing without ckpt_dir. ST_USAGE, ST_IO, ST_FORMAT.
 */
status request_choose_task(struct request *r);

/* Fills in what was not given, draws the seed for base_seed < 0, and checks everything that can be
 * checked without files and ranks. `plan` needs no checkpoint. ST_USAGE. */
status request_complete(struct request *r, unsigned command);

/* A remark about a complete request that is no error (a size nobody trained), or NULL. */
const char *request_note(const struct request *r);

/* Collective. All get rank 0's request, or the lowest failing rank's status and line. */
status request_share(struct world *w, status st, struct request *r);

/* JSON object of everything set; *text is malloc'ed. What mp4 and run file carry. */
status request_to_json(const struct request *r, char **text);

/* Lays JSON over *r. `where` names the source in error lines ("jobs.jsonl:3"). Complete after. */
status request_from_json(struct request *r, const char *text, const char *where);

/* A batch line over the job's flags: *r becomes a complete request. Keys that belong to the whole
 * job (task, ckpt_dir, precision, mesh, ...) may only repeat the job's value. ST_USAGE. */
status request_line(struct request *r, const struct request *job, const char *text,
                    const char *where);

/* For --resume: *r (parsed, not complete) becomes the request of the run file, whose JSON is
 * `text`, with the flags of *r that do not change the numbers (ranks, files, fps, ...) over it,
 * complete. A flag that would change them is ST_USAGE unless it says the same. */
status request_resume(struct request *r, const char *text, const char *run_file);

/* Name of the result when --save_file is not given, as the official program forms it; malloc'ed.
 *     t2v-1.3B_832*480_1_1_Two_anthropomorphic_cats_20250225_120000.mp4 */
status request_default_name(const struct request *r, int ulysses_size, int ring_size, time_t now,
                            char **name);

#endif
