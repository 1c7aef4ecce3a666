/* request.h - the user's request in one struct: filled from flags or JSON, completed with the
 * task's defaults and checked on rank 0, then sent to all ranks.
 *
 *     request_init(&r);
 *     if (world->rank == 0)
 *         st = request_parse(&r, CMD_GENERATE, NULL, 0, argc, argv);
 *     if (world->rank == 0 && st == ST_OK)
 *         st = request_complete(&r, CMD_GENERATE);
 *     TRY_OUT(request_share(world, st, &r));     // agrees, and sends rank 0's request to all ranks
 *
 * Each field has one row in request_rows.c: its flag, its line in --help, its JSON key, and its key
 * in batch lines. All functions are local unless their comment says collective. */
#ifndef LAUNCH_REQUEST_H
#define LAUNCH_REQUEST_H

#include "launch/options.h"
#include "model/pipeline/task.h"
#include "model/sampling/few_step.h"
#include "model/sampling/guidance.h"
#include "model/sampling/noise.h"
#include "model/sampling/step_cache.h"
#include "model/sampling/windows.h"
#include "parallel/world.h"

#include <time.h>

enum { CMD_GENERATE = 1, CMD_BATCH = 2, CMD_PLAN = 4 };
enum { PRECISION_FP32, PRECISION_BF16 };
enum { MATMUL_EXACT, MATMUL_FP8 };
enum { ATTENTION_EXACT, ATTENTION_8BIT };
enum { OPS_REF, OPS_CPU };
enum { OFFLOAD_TO_CPU, OFFLOAD_TO_DISK };
enum { WEIGHTS_AS_COMPUTED, WEIGHTS_AS_STORED };
enum { USE_AUTO, USE_CPU, USE_CUDA };

/* Before request_complete, -1 means "not given"; for strings NULL, for mesh sizes and threads 0,
 * and for switches 0 except dit_fsdp. Afterwards all fields are set, with these exceptions: mesh
 * sizes 0, threads 0, dit_fsdp -1, experts -1, offload_model -1, offload_device -1 and
 * num_persistent_param_in_dit -1 mean that the program chooses, attention_exact_*, vsa_sparsity,
 * sla_topk -1 the defaults, files that were not given are NULL, what a file replaces is not set:
 * the prompts with text_file, the seed with noise_file where the solver adds no noise. Strings
 * belong to the request. */
struct request {
    char *task_name;
    const struct task *task; // set by request_complete
    char *prompt, *negative_prompt;
    int size[2];       // --size: width, height in pixels
    int video_size[2]; // what the task makes of it and of its inputs; set by request_complete
    int frame_num;
    int video_frames;              // the same for the number of frames
    int clip_count;                // and of clips; 0: the video is one
    int height, width, num_frames; // DiffSynth's names; -1: not given
    struct seed base_seed;

    int fast;     // index of --fast's choice; -1: none
    char *preset; // the name of a struct few_step
    int sample_steps;
    int steps; // that are computed: sample_steps, but for those of a list that have more noise than
               // denoising_strength gives; set by request_complete
    struct number_list denoising_steps; // count 0: none
    int warp_denoising_step;            // 0, 1; -1: not given, as 1
    double sigma_max;                   // -1: no rCM
    int sample_solver;                  // enum solver_kind
    double sample_shift;
    double sample_guide_scale[2]; // low noise, high noise; the same for one transformer
    double guide_image;           // of Phantom, scale of the reference images; -1: none
    double cfg_gate[2];           // low noise, high noise; -1: none
    double cfg_interval[2];       // from, to; -1: none
    int cfg_zero_star;
    int zero_init_steps;          // -1: as cfg_zero_star
    int cfg_merge;                // without effect
    int motion_bucket_id;         // -1: none
    char *motion_controller;      // its file
    int fun_official;             // Fun: as VideoX-Fun, not as DiffSynth, where they differ
    int camera_control_direction; // index of CAMERA_DIRECTIONS; -1: none
    double camera_control_speed;  // -1 without a direction
    struct number_list camera_control_origin; // count 0: camera_origin
    double boundary;                          // 0 to 1; -1: the task's
    int boundary_step_index;                  // -1: not given
    int rand_device;                          // enum noise_device
    int cuda_sms;
    double denoising_strength;                      // -1 without input_video
    int sliding_window_size, sliding_window_stride; // latent frames; -1: none, as those below
    int context_schedule;                           // enum window_kind from WINDOWS_STATIC on
    int context_frames, context_stride, context_overlap, context_fuse; // frames; 1: pyramid
    int cache;                            // enum cache_kind up to CACHE_FIRST_BLOCK
    double cache_threshold, cache_retain; // not set without a cache, as the next two
    int cache_max_skip;                   // 0: no limit
    double tea_cache_l1_thresh;           // also cache_threshold; -1: not given
    int tea_cache_model_id;               // index of CACHE_POLYNOMIALS; -1: the task's
    int use_ret_steps;                    // 0, 1
    char *cache_ratios;                   // the file of a table; its numbers are in cache_table
    char *cache_table;                    // "1,1.01,...;1,1.02,...": cond, uncond; no flag
    char *calibrate_cache;                // the file that a table is written to
    char *noise_file, *text_file;         // run files to read /noise and /text from

    char *ckpt_dir;
    char *dit, *t5, *vae, *clip, *wav2vec2; // files of parts, instead of those of ckpt_dir
    char *dit_high, *dit_low;               // files of the experts
    char *lora;                 // LoRAs, "FILE" or "FILE:STRENGTH", with '\n' between them
    char *lora_high, *lora_low; // of one expert
    int lora_ignore_unknown;
    int precision;     // PRECISION_*
    int vae_precision; // VAE_*
    int matmul;        // MATMUL_*
    int matmul_bf16_blocks;
    int attention;                                           // ATTENTION_*
    int attention_exact_steps[2], attention_exact_blocks[2]; // first, last; -1: as --help says
    double vsa_sparsity, sla_topk;                           // -1: as dit_default_sparsity
    int offload_model; // 0, 1; -1: not given, as 1 for `generate` and 0 for `batch`
    int t5_cpu;
    int convert_model_dtype; // the official flag for --precision bf16

    int cfg_size, ring_size, ulysses_size;
    int dit_fsdp; // 0, 1; -1: job_fit chooses
    int t5_fsdp;
    int experts;                         // enum expert_memory; -1: job_fit chooses
    double vram_limit, vram_buffer;      // GB; 0: no limit
    int64_t num_persistent_param_in_dit; // -1: job_fit chooses
    int offload_device;                  // OFFLOAD_TO_*; -1: job_fit chooses
    int weight_storage;                  // WEIGHTS_AS_*; -1: WEIGHTS_AS_COMPUTED
    int device;                          // USE_*; not USE_AUTO in a complete request
    int threads;                         // per rank; 0: one per core of this rank
    int timeout_s;
    int check_finite;
    int ops; // OPS_*, used on a CPU

    int tiled, tiled_encode;
    int tile_size[2], tile_stride[2]; // rows, columns of the latent

    char *save_file;
    double fps, quality;
    char *contact_sheet;
    char *run_file;
    int save_every;
    char *resume;
    int keep_frames;

    char *input[INPUT_COUNT];             // inputs of the task other than prompts; see task.h
    int use_prompt_extend;                // the only input without a value
    struct image image[INPUT_COUNT];      // of TASK_IMAGES; see request_images
    struct clip_input clips[INPUT_COUNT]; // of TASK_CLIPS
    struct image *reference;              // those of TASK_LISTS
    int references;                       // their number
    double vace_scale;                    // -1: not given, and for other tasks
    struct sound_input sound;             // of TASK_SOUNDS
    int num_clip;                         // at most so many clips; -1: not given, as 0, any number
    int infer_frames;                     // of a clip; -1 for tasks without clips
    int start_from_ref, enable_tts;
    char *camera_text; // of --control_camera_txt, on rank 0, while it is used; no flag
    char *media;       // what these are: "image=640x480:DIGEST ..."; no flag

    char *batch_file; // the file of `batch`
    int overwrite;    // of `batch`
    int groups;       // of `batch` and `plan`; 0: not given, as 1

    char *weights; // what the result was made with; no flag: request_set_weights
    char *decoded; // how, if memory was missing for what was requested; no flag

    bool given[OPTIONS_MAX]; // row i was given as a flag, or in a batch line

    // no flags: for the notes
    bool drawn_seed;                   // base_seed was not given
    const struct few_step *looks_like; // what the weights look like; NULL: nothing; rank 0
    char looks_by[160];                // "'lightx2v' is in the name of FILE"; rank 0
    unsigned turned;       // inputs (bits 1 << INPUT_*) that were turned as their EXIF data say
    bool default_negative; // an empty --negative_prompt became the task's
    bool sparse;           // whether the checkpoint's transformer attends to a part of the tokens
    int64_t head_size,
        layers; // of the checkpoint's transformer, for --fast; 0: without one; rank 0
};

/* The option set of *r, for options_help and for commands that parse it together with other sets.
 * *r is borrowed. */
struct option_set request_options(struct request *r);

/* Bytes of the device's memory that --vram_limit and --vram_buffer leave; 0: no limit. */
double request_vram(const struct request *r);

/* Whether both CFG branches are computed, in some steps at least; in all steps. */
bool request_guided(const struct request *r);
bool request_always_guided(const struct request *r);

/* The guidance of a complete request. */
struct guidance request_guidance(const struct request *r);

/* The number of texts that a new run encodes: none with text_file, one without guidance. */
int request_prompts(const struct request *r);

/* The schedule of a complete request; schedule_done follows. Errors as schedule_init. */
status request_schedule(struct schedule *s, const struct request *r);

/* The first step that the second of two experts computes; the number of steps if there is none. */
int request_low_from(const struct request *r, const struct schedule *s);

/* The windows of latent frames in which it is denoised. */
struct window_settings request_windows(const struct request *r);

/* Whether they divide the latent: the video's frames, and those of the references. */
bool request_windowed(const struct request *r);

/* What the request says about step caching. ST_USAGE if cache_table is damaged. */
status request_cache(const struct request *r, struct cache_settings *set);

/* Writes "magcache, threshold 0.12, the first 0.2 of the steps computed, ..."; nothing without a
 * cache. */
void request_cache_text(char *text, size_t size, const struct request *r);

/* Writes measured ratios [steps] of cond and uncond to a file that --cache_ratios reads; ratio[0]
 * is not used. ST_IO, ST_MEMORY. */
status request_write_ratios(const struct request *r, double *const ratio[CACHE_BRANCHES]);

/* Writes "4 steps of euler, shift 5, guidance 1". */
void request_sampling(char *text, size_t size, const struct request *r);

/* Writes " --sample_steps 4 --sample_solver euler": the sampling flags that were not given, as the
 * preset has set them. ST_MEMORY. */
status request_preset(char *text, size_t size, const struct request *r);

/* Writes " --cfg_gate 0.5": what --fast has set. */
void request_fast(char *text, size_t size, const struct request *r);
extern const char *const request_fast_names[];

/* Writes guidance scales [low noise, high noise] as --sample_guide_scale takes them: "5", "3,4". */
void request_scales(char *text, size_t size, const double scales[2]);

/* The prompts and inputs in the form that the task's functions need; borrowed from *r. */
struct task_inputs request_inputs(const struct request *r);

/* The images of the inputs are read twice, as a batch has many: when the request is completed, for
 * their sizes and digests, and before they are used, with their pixels. So are clips, frame by
 * frame.
 *
 * request_read_images, on rank 0 only, reads them, sets w and h of r->image, and adds to r->media
 * what is not there. If that has another image, that of a run that goes on, the request is refused.
 * An image of such a run need not exist any more. ST_USAGE, ST_IO, ST_FORMAT, ST_MEMORY.
 *
 * request_share_images reads the pixels on rank 0 and sends them to all ranks. Collective; the
 * ranks agree on the status. ST_USAGE if a file has changed meanwhile.
 *
 * request_drop_images frees the pixels; w and h are kept. */
status request_read_images(struct request *r);
status request_share_images(struct world *w, struct request *r);
void request_drop_images(struct request *r);

/* Sets the sizes of r->image, r->clips and r->reference from r->media. Local. ST_MEMORY. */
status request_image_sizes(struct request *r);

void request_init(struct request *r);
void request_done(struct request *r); // accepts a zeroed request

/* Parses the flags of a command (CMD_*) into *r, and into `count` further sets of the command, at
 * most 2. ST_USAGE, ST_IO (@FILE), ST_MEMORY. */
status request_parse(struct request *r, unsigned command, const struct option_set *more, int count,
                     int argc, char **argv);

/* Opens the checkpoint of the request, whose --ckpt_dir is given; checkpoint_close follows. Local.
 * Errors as checkpoint_open. */
status request_checkpoint(const struct request *r, struct checkpoint *c);

/* Called on rank 0. If no task was given, chooses it from the checkpoint; if one was given, refuses
 * a checkpoint of another task. Without ckpt_dir only the task's name is checked. ST_USAGE, ST_IO,
 * ST_FORMAT, ST_MEMORY. */
status request_choose_task(struct request *r);

/* Sets defaults for what was not given, draws the seed if it was not given, and checks everything
 * that can be checked without reading files and without the number of ranks. `command` is CMD_*;
 * CMD_PLAN needs no checkpoint. ST_USAGE, ST_MEMORY; ST_IO if no seed can be drawn. */
status request_complete(struct request *r, unsigned command);

/* *r gets the remark about a preset that *job has. */
void request_note_preset(struct request *r, const struct request *job);

/* Remarks about a complete request that are not errors (a size that the model was not trained for):
 * number `index` = 0, 1, ..., NULL after the last. Valid until the next call on this thread. */
const char *request_note(const struct request *r, int index);

/* Copies rank 0's request to all ranks, or gives all ranks the status and the line of the lowest
 * rank that failed. `st` is this rank's status so far. Collective. */
status request_share(struct world *w, status st, struct request *r);

/* Writes all fields that are set as a JSON object; *text is malloc'ed. ST_MEMORY. */
status request_to_json(const struct request *r, char **text);

/* The same for the .mp4 and the run file: without --resume, as it does not matter how often a run
 * was interrupted. */
status request_record(const struct request *r, char **text);

/* Sets the fields of *r that the JSON object names; request_complete must follow. `where` names the
 * source in error lines ("jobs.jsonl:3"). ST_USAGE, ST_MEMORY. */
status request_from_json(struct request *r, const char *text, const char *where);

/* Makes a complete request *r from the flags of `batch` (*job) and the JSON of one line, whose
 * values replace those of the flags. Keys that must be the same for all lines (task, ckpt_dir,
 * precision, mesh, ...) may only repeat the job's value. ST_USAGE, ST_MEMORY. */
status request_line(struct request *r, const struct request *job, const char *text,
                    const char *where);

/* For --resume. *r is parsed but not complete; `text` is the JSON of the run file's request. *r
 * becomes that request, complete, whose run file is `run_file` unless *r names another, and whose
 * relative paths are those of `folder` (NULL: of the current one); in it the flags of *r that do
 * not change the latent (ranks, files, fps, ...) replace the saved values. ST_USAGE for a flag that
 * changes the latent and differs from the saved value; ST_MEMORY. On failure *r is unchanged. */
status request_resume(struct request *r, const char *text, const char *folder,
                      const char *run_file);

/* For a --run_file that exists. *r is complete; text and folder are as above. If both requests
 * give the same latent, *r gets from it the seed and the name of the result, where they were not
 * given, and r->resume. *same_result: fps, quality and the name of the result are the same too.
 * ST_USAGE with what differs; ST_MEMORY. */
status request_go_on(struct request *r, const char *text, const char *folder, bool *same_result);

/* Compares a complete request with `text`, which request_to_json wrote and the file `where` holds.
 * *differs: the first value that would give another latent, or with `pixels` another result, as
 * text ("sample_steps is 4 there and 8 here"); NULL if the requests are the same. A seed that *r
 * has drawn is not compared. *differs is valid until the next call on this thread. ST_USAGE if
 * `text` is no such request. */
status request_difference(const char **differs, const struct request *r, const char *text,
                          const char *where, bool pixels);

/* The prompt, or the name of the file that has its embeddings. Borrowed from *r. */
const char *request_title(const struct request *r);

/* Sets what a result and a run file record about the weights: j->weights of job.h. The record of a
 * run that goes on is kept: it has the text encoder too. ST_MEMORY. */
status request_set_weights(struct request *r, const char *weights);

/* The key of the first part that has other weights in `a` than in `b`, or NULL. A part that is
 * missing in one of them is not compared. "dit=HEX t5=HEX": *length is that of the key. */
const char *request_other_weights(const char *a, const char *b, int *length);

/* The file name of a line of `batch` that has none: it depends on what the line and the flags say,
 * not on where the line is. malloc'ed. ST_MEMORY.
 *     jobs-A_cat_surfs-1c09a4fe.mp4 */
status request_result_name(const struct request *r, const char *batch_file, char **name);

/* The file name when --save_file is not given, as in the official program; malloc'ed. ST_MEMORY.
 *     t2v-1.3B_832*480_1_1_Two_anthropomorphic_cats_20250225_120000.mp4 */
status request_default_name(const struct request *r, int ulysses_size, int ring_size, time_t now,
                            char **name);

#endif
