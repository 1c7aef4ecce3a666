/* bench.h - what the parts of `wanmpi bench` share: the job, the results, ceilings and timing.
 *
 * A part runs its tests on all ranks at the same time and adds rows to the results. A row's time is
 * the median of `repeats` runs on the slowest rank. It is compared with a ceiling measured in the
 * same job: the rate of a large matrix product, of a copy within the device, of a copy from pinned
 * host memory, or of one large message between two ranks.
 *
 *   bench.c         arguments, devices, the list of parts
 *   bench_time.c    timing, rows, JSON and HDF5 output
 *   bench_values.c  random weights and inputs
 *   bench_ops.c     parts gemm, attention, conv, fused, load, and the ceilings
 *   bench_comm.c    part comm
 *   bench_model.c   parts text, clip, dit, vae, vae_encode, whole
 *   bench_scale.c   parts scale, scale_vae, scale_encode
 *   trace.h         events around every op and collective; breakdown and Chrome trace */
#ifndef LAUNCH_BENCH_BENCH_H
#define LAUNCH_BENCH_BENCH_H

#include "kernels/table.h"
#include "launch/bench/trace.h"
#include "launch/placement.h"
#include "model/pipeline/plan.h"
#include "model/pipeline/task.h"
#include "model/sampling/few_step.h"
#include "model/vae/vae.h"

enum ceiling {
    CEILING_NONE,
    CEILING_GEMM,
    CEILING_COPY,
    CEILING_HOST,
    CEILING_LINK,
    CEILING_COUNT
};

/* What a run on some of the job's ranks is compared by. */
struct bench_scaling {
    int ranks; // 0: another row
    struct mesh_shape mesh;
    bool fsdp;
    double work;          // number of runs on one rank that do the same
    double efficiency;    // seconds of one rank * work / (ranks * seconds)
    double plan_s;        // the plan's estimate
    double peak, planned; // bytes, of the rank with the most
    uint64_t hash;        // of the result
    bool same_bits;       // whether the result has the bits of one rank
    double took_s;        // with loading and warming up
};

struct bench_row {
    char test[16], family[24], name[72]; // family: only in rows of a trace
    int runs;
    double median_s, least_s, most_s; // of the slowest rank
    double flops, bytes;              // of this rank
    enum ceiling against;
    double ceiling;               // operations or bytes per second
    double calls, waited_s;       // only in rows of a trace, else 0
    struct bench_scaling scaling; // only in rows of scale, scale_vae, scale_encode
};

struct bench_options {
    char *parts, *model, *preset, *json, *hdf5, *trace;
    int size[2];
    int frame_num, with_image, device, precision, vae_precision, repeats, threads;
    int matmul, matmul_bf16_blocks, attention, attention_exact_blocks[2];
    int cfg_size, ring_size, ulysses_size, dit_fsdp;
    int weights;                // WEIGHTS_*: the form in which they are kept, of SYNTH_QUANTIZED
    double vram_limit;          // GB; 0: none
    const struct few_step *few; // of `preset`; NULL: the task's steps, with guidance
};

struct bench {
    struct world *world;
    const struct bench_options *options;
    struct placement place;
    struct table table;
    struct device dev;
    enum dtype cdt;
    const struct task *task;
    struct plan_input plan; // the request's shapes and mesh
    int64_t image_frames;   // of the longest clip that the task's conditioning encodes; 0: none
    double image_clips;     // the frames of all of them, in lengths of the longest
    struct plan_rank sizes; // of this rank
    struct mesh mesh;
    int64_t tokens, s_loc;          // of the latent; of this rank
    const struct ggml_type *blocks; // of --weights
    float *values;                  // BENCH_VALUES random numbers with deviation 1, pinned
    uint16_t *values_bf16;          // the same in bf16
    double ceilings[CEILING_COUNT]; // 0 until measured
    struct bench_row *rows;
    int count, capacity; // of rows
    bool must_abort;     // a failure now aborts the job
};

enum { WEIGHTS_BF16, WEIGHTS_FP8, WEIGHTS_GGUF };

#define BENCH_VALUES ((int64_t)1 << 22)

/* ---- bench_time.c ---- */

/* Times `call`, which queues work on the device. Unless it is `warm`, one run that is not counted
 * comes first. All ranks start together. Adds a row, and prints it on rank 0. `flops` and `bytes`
 * are of one run; flops below 0: use the number that the ops count. Collective. */
struct bench_work {
    status (*call)(void *payload);
    void *payload;
    double flops, bytes;
    enum ceiling against;
    bool warm;
};
status bench_time(struct bench *b, const char *test, struct bench_work work, const char *format,
                  ...) __attribute__((format(printf, 4, 5)));

/* Adds a row from times already measured: seconds[runs] of this rank. Collective. */
status bench_add(struct bench *b, const char *test, const char *name, int runs, double *seconds,
                 double flops, double bytes, enum ceiling against);

/* Adds a row of a trace, with this rank's times; it is not printed. Local. */
status bench_add_trace_row(struct bench *b, const char *test, const struct trace_row *row,
                           enum ceiling against);

/* Seconds of one run of `call` on this rank. bench_run_together is collective: all ranks start
 * after a barrier. bench_run is local. */
status bench_run_together(struct bench *b, status (*call)(void *payload), void *payload,
                          double *seconds);
status bench_run(struct bench *b, status (*call)(void *payload), void *payload, double *seconds);

/* Writes the results to a file. Local; rank 0 calls it. ST_IO. */
status bench_json(const struct bench *b, const char *path);
status bench_hdf5(const struct bench *b, const char *path);

/* ---- bench_values.c ---- */

status bench_values_open(struct bench *b);
void bench_values_close(struct bench *b);

/* Fills a contiguous tensor, f32 or bf16, with random numbers times `scale`, which is 1 or 0.02. */
status bench_fill(struct bench *b, struct tensor t, float scale);

/* Weights for any tensor name: 1 for norms, random with deviation 0.02 for all others; and with
 * --weights matrices of blocks in the form of a file, of about this deviation. */
struct weight_source bench_source(struct bench *b);

/* ---- bench_model.c: a transformer and a VAE with random weights ---- */

struct forward {
    struct bench *b;
    struct dit dit;
    struct arena weights, run, scratch;
    struct host_memory host;
    struct schedule schedule;
    struct denoise d;
    struct conditioning conditioning;
    float *noise;
    double load_s;
};

/* Opens the transformer of b->plan on b->mesh. Collective. forward_close accepts a half-open one.
 * The calls are for bench_time: payload is a struct forward; call_step repeats the first step. */
status forward_open(struct forward *f, struct bench *b);
void forward_close(struct forward *f);
status call_forward(void *payload);
status call_step(void *payload);

struct decoding {
    struct bench *b;
    struct vae vae;
    struct arena weights, scratch;
    float *latent;
    uint64_t *hash; // NULL, or where the frames are added to
};

/* The same for the VAE, on all ranks of b->mesh. */
status decoding_open(struct decoding *d, struct bench *b);
void decoding_close(struct decoding *d);
status call_decode(void *payload);

struct encoding {
    struct bench *b;
    struct vae vae;
    struct arena weights, scratch;
    struct frame_source source;
    float *pixels, *latent;
    bool first_only; // zeros after the first frame
};

/* And for the encoder, with a clip of `frames` frames, at most the plan's number. */
status encoding_open(struct encoding *e, struct bench *b, int64_t frames);
void encoding_close(struct encoding *e);
status call_encode(void *payload);

/* ---- the parts ---- */

status bench_ceilings(struct bench *b);
status bench_gemm(struct bench *b);
status bench_attention(struct bench *b);
status bench_conv(struct bench *b);
status bench_fused(struct bench *b);
status bench_comm(struct bench *b);
status bench_load(struct bench *b);
status bench_text(struct bench *b);
status bench_clip(struct bench *b);
status bench_dit(struct bench *b);
status bench_vae(struct bench *b);
status bench_vae_encode(struct bench *b);
status bench_whole(struct bench *b);
status bench_scale(struct bench *b);
status bench_scale_vae(struct bench *b);
status bench_scale_encode(struct bench *b);

#endif
