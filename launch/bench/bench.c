/* wanmpi bench: times the parts of a generation on this machine and compares them with the
 * machine's measured ceilings. */
#include "launch/bench/bench.h"

#include "launch/commands.h"
#include "launch/job.h"
#include "launch/options_internal.h"
#include "model/synth/synth.h"
#include "model/transformer/features.h"
#include "parallel/split.h"
#include "runtime/newfile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { ON_CUDA, ON_CPU };
enum { IN_FP32, IN_BF16 };

static const struct part_row {
    const char *name;
    status (*run)(struct bench *b);
    const char *help;
} part_rows[] = {
    { "gemm", bench_gemm, "matrix products of the transformer's shapes" },
    { "attention", bench_attention, "self and cross attention of the transformer" },
    { "conv", bench_conv, "convolutions of the VAE's decoder" },
    { "fused", bench_fused, "norms, rotary embedding, gates" },
    { "comm", bench_comm, "communication between ranks" },
    { "load", bench_load, "copies between host memory and the device" },
    { "text", bench_text, "the text encoder, 512 tokens" },
    { "clip", bench_clip, "the image encoder, for the images of the task" },
    { "dit", bench_dit, "a forward of the transformer, with a breakdown by op" },
    { "vae", bench_vae, "VAE decode, with a breakdown by op" },
    { "vae_encode", bench_vae_encode, "VAE encode of a clip, with a breakdown by op" },
    { "whole", bench_whole, "a guided step, and the time of a video estimated from it" },
    { "scale", bench_scale, "forwards and guided steps on 1, 2, 4, ... ranks in all meshes" },
    { "scale_vae", bench_scale_vae, "VAE decode on 1, 2, 4, ... ranks" },
    { "scale_encode", bench_scale_encode, "VAE encode of a clip on 1, 2, 4, ... ranks" },
};

#define AT(f) offsetof(struct bench_options, f)

static const struct option rows[] = {
    { "PARTS", OPT_STRING, AT(parts), .positional = true, .group = "What to time", .value = "PARTS",
      .help = "parts of the list above, separated by commas (default gemm,attention,fused,dit)" },
    { "model", OPT_STRING, AT(model), .group = "Model and size", .value = "NAME",
      .help = "14B, 1.3B, A14B, 5B, or another preset of synth (default 1.3B)" },
    { "preset", OPT_STRING, AT(preset), .value = "NAME",
      .help = "for part whole: the steps of a distilled model, without guidance, of the list that "
              "generate --help prints" },
    { "size", OPT_PAIR, AT(size), .value = "W*H", .joint = '*', .wide_joint = true, .least = 16,
      .most = 16384, .help = "pixels (default 832*480)" },
    { "frame_num", OPT_INT, AT(frame_num), .value = "N", .least = 1, .most = 100001,
      .help = "frames (default 81)" },
    { "with_image", OPT_SWITCH, AT(with_image),
      .help = "the video begins with an image, where the model leaves the choice (5B)" },
    { "precision", OPT_CHOICE, AT(precision), .choices = "fp32|bf16",
      .help = "of the transformer and the VAE (default bf16 on GPUs, else fp32)" },
    { "vae_precision", OPT_CHOICE, AT(vae_precision), .choices = VAE_PRECISIONS,
      .help = "of the VAE (default: --precision on GPUs, else fp32)" },
    { "matmul", OPT_CHOICE, AT(matmul), .choices = "exact|fp8",
      .help = "products of the transformer's blocks, as in generate (default exact)" },
    { "matmul_bf16_blocks", OPT_INT, AT(matmul_bf16_blocks), .value = "N", .least = 0, .most = 1000,
      .help = "for --matmul fp8, as in generate (default 3)" },
    { "attention", OPT_CHOICE, AT(attention), .choices = "exact|8bit",
      .help = "self attention, as in generate, of all steps (default exact)" },
    { "attention_exact_blocks", OPT_PAIR, AT(attention_exact_blocks), .value = "FIRST,LAST",
      .joint = ',', .least = 0, .most = 1000,
      .help = "for --attention 8bit, as in generate (default 2,2)" },
    { "repeats", OPT_INT, AT(repeats), .value = "N", .least = 1, .most = 1000,
      .help = "timed runs of each test; the median is reported (default 5)" },
    { "device", OPT_CHOICE, AT(device), .group = "Device and ranks", .choices = "cuda|cpu",
      .help = "default: cuda if there are GPUs, else cpu" },
    { "threads", OPT_INT, AT(threads), .value = "N", .least = 1, .most = 4096,
      .help = "per rank (default: this rank's share of the cores)" },
    { "cfg_size", OPT_INT, AT(cfg_size), .value = "N", .least = 1, .most = 2,
      .help = "ranks for the two CFG branches (default 1)" },
    { "ring_size", OPT_INT, AT(ring_size), .value = "N", .least = 1, .most = 65536,
      .help = "ranks for ring attention" },
    { "ulysses_size", OPT_INT, AT(ulysses_size), .value = "N", .least = 1, .most = 65536,
      .help = "ranks for Ulysses attention" },
    { "dit_fsdp", OPT_SWITCH, AT(dit_fsdp), .help = "shard the transformer's weights" },
    { "weights", OPT_CHOICE, AT(weights), .choices = "bf16|" SYNTH_QUANTIZED,
      .help = "the transformer's blocks are kept in this format and expanded when they are needed, "
              "as with --weights stored of generate (default bf16)" },
    { "vram_limit", OPT_DOUBLE, AT(vram_limit), .value = "GB", .least = 0.001, .most = 100000,
      .help = "of the transformer: blocks that do not fit are copied from host memory, as in "
              "generate" },
    { "json", OPT_STRING, AT(json), .group = "Files", .value = "FILE",
      .help = "write the results as JSON" },
    { "hdf5", OPT_STRING, AT(hdf5), .value = "FILE",
      .help = "write the results as HDF5, one data set per column" },
    { "trace", OPT_STRING, AT(trace), .value = "FILE",
      .help = "write a trace of one forward, step or decode, for ui.perfetto.dev" },
};

static struct option_set option_set(struct bench_options *o)
{
    return (struct option_set){ rows, COUNT(rows), o, NULL };
}

void help_bench(FILE *out)
{
    struct bench_options fields = { 0 };
    const struct option_set set = option_set(&fields);

    fputs(
        "wanmpi bench: times the parts of a generation and compares them with ceilings measured "
        "in\n"
        "the same job. Weights are random; no checkpoint is needed.\n\n"
        "    wanmpi bench dit --model 14B --size 1280*720 --json dit.json --trace dit.trace.json\n"
        "    mpirun -n 8 wanmpi bench dit,comm --model 14B --ulysses_size 8\n\n"
        "Parts\n",
        out);
    for (size_t i = 0; i < COUNT(part_rows); i++)
        fprintf(out, "  %-10s %s\n", part_rows[i].name, part_rows[i].help);
    options_help(out, 0, &set, 1);
}

/* The parts named in `list`, as a bit mask. An unknown name of `length` bytes goes to *unknown. */
static unsigned parse_parts(const char *list, const char **unknown, size_t *length)
{
    unsigned parts = 0;

    *unknown = NULL;
    while (*list != 0) {
        const size_t n = strcspn(list, ",");
        unsigned found = 0;

        for (size_t i = 0; i < COUNT(part_rows); i++)
            if (strlen(part_rows[i].name) == n && memcmp(part_rows[i].name, list, n) == 0)
                found = 1u << i;
        if (found == 0) {
            *unknown = list;
            *length = n;
            return 0;
        }
        parts |= found;
        list += n + (list[n] == ',');
    }
    return parts;
}

static status find_model(const char *name, const struct preset **preset)
{
    static const char *const before[] = { "t2v-", "ti2v-", "" };

    *preset = NULL;
    for (size_t i = 0; i < COUNT(before) && *preset == NULL; i++) {
        char full[64];

        snprintf(full, sizeof(full), "%s%s", before[i], name);
        *preset = preset_find(full);
    }
    if (*preset == NULL)
        return fail(ST_USAGE, "--model %s: no such model; try 14B, 1.3B, A14B, 5B or tiny", name);
    if (task_for_preset(*preset) == NULL)
        return fail(ST_USAGE, "--model %s: this version does not run this model", name);
    return ST_OK;
}

/* --with_image is for a model that runs with an image or without one. */
static status check_image(const struct bench_options *o, const struct task *task)
{
    if (o->with_image && (task->allowed & ~task->required & TASK_IMAGES) == 0)
        return fail(ST_USAGE, "--with_image: task %s %s an image; remove it", task->name,
                    (task->required & TASK_IMAGES) != 0 ? "always has" : "does not use");
    return ST_OK;
}

/* All ranks parse the same arguments, but one of them may lack memory. */
static status parse(struct bench_options *o, int argc, char **argv, unsigned *parts,
                    const struct preset **preset)
{
    const struct option_set set = option_set(o);
    const char *unknown;
    size_t length;

    *o = (struct bench_options){ .size = { 832, 480 },
                                 .frame_num = 81,
                                 .device = -1,
                                 .precision = -1,
                                 .vae_precision = -1,
                                 .matmul_bf16_blocks = -1,
                                 .attention_exact_blocks = { -1, -1 },
                                 .repeats = 5 };
    TRY(options_parse("bench", 0, &set, 1, argc, argv));
    *parts =
        parse_parts(o->parts != NULL ? o->parts : "gemm,attention,fused,dit", &unknown, &length);
    if (unknown != NULL)
        return fail(ST_USAGE, "bench %.*s: no such part; wanmpi bench --help lists them",
                    (int)length, unknown);
    TRY(find_model(o->model != NULL ? o->model : "1.3B", preset));
    if (o->preset != NULL)
        TRY(few_step_find(&o->few, o->preset));
    if (o->few != NULL && o->cfg_size == 2)
        return fail(ST_USAGE,
                    "--cfg_size 2 needs guidance, which --preset %s turns off: remove "
                    "one of them",
                    o->preset);
    if (o->size[0] % 16 != 0 || o->size[1] % 16 != 0)
        return fail(ST_USAGE, "--size %d*%d: width and height must be multiples of 16", o->size[0],
                    o->size[1]);
    if (o->attention == ATTENTION_EXACT && o->attention_exact_blocks[0] >= 0)
        return fail(ST_USAGE, "--attention_exact_blocks is for --attention 8bit");
    return check_image(o, task_for_preset(*preset));
}

static status open_device(struct bench *b, const struct placement_node *node, int gpus)
{
    const struct bench_options *o = b->options;
    const int index = gpus > 0 ? b->world->local_rank % gpus : 0;

    TRY(placement_choose(&b->place, node, o->threads));
    TRY(placement_bind(&b->place));
    if (gpus == 0 && o->device == ON_CUDA)
        return fail(ST_DEVICE, "--device cuda: no GPU is usable on this machine");
    b->cdt = o->precision == IN_BF16 || (o->precision < 0 && gpus > 0) ? DT_BF16 : DT_F32;
    if (gpus > 0) {
        table_cuda(&b->table);
        return device_open_cuda(&b->dev, index, &b->table, b->table.workspace);
    }
    table_cpu(&b->table);
    return device_open_cpu(&b->dev, b->place.threads, &b->table, b->table.workspace);
}

/* Shapes of the conditioning of the task, with images of the video's size. */
static status plan_condition(struct bench *b, bool clip)
{
    const struct bench_options *o = b->options;
    const unsigned images = (o->with_image ? b->task->allowed : b->task->required) & TASK_IMAGES;
    struct task_inputs in = { 0 };

    for (int i = 0; i < INPUT_COUNT; i++)
        if ((images >> i & 1) != 0)
            in.image[i] = (struct image){ .w = o->size[0], .h = o->size[1] };
    TRY(b->task->condition(NULL, &b->plan, &in, &b->plan.conditioning));
    b->image_frames = b->plan.encode_frames;
    for (int i = 0; i < b->plan.clips; i++)
        b->image_clips += (double)b->plan.clip_frames[i] / (double)b->image_frames;
    if (clip)
        plan_add_clip(&b->plan, 1 + (b->plan.latent.t - 1) * model_vae(&b->plan.model)->stride_t);
    return ST_OK;
}

static status make_plan(struct bench *b, const struct preset *preset, unsigned parts)
{
    const struct bench_options *o = b->options;
    const struct model model = preset_model(preset);
    const struct dit_config *dit = model_dit(&model);
    char type[16];
    bool guided = o->cfg_size == 2, clip = false;
    struct mesh_shape shape = { o->cfg_size > 0 ? o->cfg_size : 1, o->ring_size, o->ulysses_size };

    for (size_t i = 0; i < COUNT(part_rows); i++) {
        const bool runs = (parts >> i & 1) != 0;

        guided |= runs && part_rows[i].run == bench_whole && o->few == NULL;
        clip |= runs &&
                (part_rows[i].run == bench_vae_encode || part_rows[i].run == bench_scale_encode);
    }
    b->task = task_for_preset(preset);
    b->plan = (struct plan_input){
        .model = model,
        .latent = latent_of_video(model_vae(&model), o->size[0], o->size[1], o->frame_num),
        .steps = 4,
        .low_from = 4, // of two experts only the first
        .guided = guided,
        .guidance.scale = { guided ? 5 : 1, guided ? 5 : 1 },
        .ranks = b->world->size,
        .ranks_per_node = b->world->local_size,
        .cdt = b->cdt,
        .matmul = { o->matmul == 1,
                    o->matmul_bf16_blocks >= 0 ? o->matmul_bf16_blocks : dit_default_kept(dit) },
        .self_attention.sparsity = dit_default_sparsity(dit),
        .gpu = b->dev.kind == DEVICE_CUDA,
        .vae_dtype = o->vae_precision >= 0        ? vae_precision(o->vae_precision)
                     : b->dev.kind == DEVICE_CUDA ? b->cdt
                                                  : DT_F32,
        .fsdp = o->dit_fsdp != 0,
        .as_stored = o->weights != WEIGHTS_BF16,
        .t5_stored = DT_BF16,
        .prompts = 1,
        .text_rows = (int)dit->text_len,
        .decode = true,
        .table = &b->table,
    };
    if (o->weights >= WEIGHTS_GGUF) {
        option_choice(SYNTH_QUANTIZED, o->weights - WEIGHTS_FP8, type, sizeof(type));
        b->blocks = ggml_type_named(type);
    }
    for (int i = 0; i < EXPERTS_MAX; i++)
        b->plan.model.source[model_index(expert_parts[i])] = bench_source(b);
    TRY(plan_choose_mesh(&b->plan, shape, guided));
    if (o->attention == ATTENTION_8BIT)
        TRY(job_attention8(&b->plan, (int[]){ 0, 0 }, o->attention_exact_blocks));
    TRY(plan_condition(b, clip));
    return plan_rank(&b->plan, b->world->rank, &b->sizes);
}

/* That the file can be written; a device or a pipe is not opened before its time. */
static status check_file(const char *path)
{
    struct newfile file = { 0 };
    struct stat there;
    status st = ST_OK;

    if (path == NULL || (stat(path, &there) == 0 && !S_ISREG(there.st_mode)))
        return ST_OK;
    st = newfile_open(&file, path);
    newfile_drop(&file);
    return st;
}

static status check_files(const struct bench_options *o)
{
    TRY(check_file(o->json));
    TRY(check_file(o->trace));
    return check_file(o->hdf5);
}

/* Everything that can fail on one rank alone; what follows is collective. */
static status open_local(struct bench *b, const struct placement_node *node, int gpus,
                         const struct preset *preset, unsigned parts)
{
    if (b->world->rank == 0)
        TRY(check_files(b->options));
    TRY(open_device(b, node, gpus));
    TRY(make_plan(b, preset, parts));
    return bench_values_open(b);
}

/* Whether the transformer fits into --vram_limit on every rank, with `resident` blocks there. */
static status fits_limit(struct bench *b, double *needed, bool *fits)
{
    *needed = 0;
    for (int i = 0; i < b->plan.ranks; i++) {
        const struct plan_stage *s;
        struct plan_rank one;

        TRY(plan_rank(&b->plan, i, &one));
        s = plan_stage(&one, STAGE_STEP);
        *needed =
            fmax(*needed, (double)(s->weights + s->run + s->scratch + one.workspace + one.cuda));
    }
    *fits = *needed <= b->options->vram_limit * 1e9;
    return ST_OK;
}

/* As many blocks as fit stay on the device. */
static status choose_offload(struct bench *b)
{
    double needed;
    bool fits;

    if (b->options->vram_limit == 0)
        return ST_OK;
    TRY(fits_limit(b, &needed, &fits));
    if (fits)
        return ST_OK;
    b->plan.offload = OFFLOAD_HOST;
    for (b->plan.resident = model_dit(&b->plan.model)->layers; !fits; b->plan.resident--) {
        TRY(fits_limit(b, &needed, &fits));
        if (fits)
            return ST_OK;
        if (b->plan.resident == 0)
            break;
    }
    return fail(ST_MEMORY, "--vram_limit %g: the transformer needs %.2f GB at least",
                b->options->vram_limit, needed / 1e9);
}

/* The plan of this rank. */
static status plan_limited(struct bench *b)
{
    TRY(choose_offload(b));
    return plan_rank(&b->plan, b->world->rank, &b->sizes);
}

static void print_setup(const struct bench *b, const struct preset *preset)
{
    const struct mesh_shape m = b->plan.mesh;
    const struct latent_shape s = b->plan.latent;
    char text[240];

    if (b->world->rank != 0)
        return;
    printf("bench   %s on %s, %s; %d*%d, %d frames: latent %lld x %lld x %lld, %lld tokens\n",
           preset->name, b->dev.kind == DEVICE_CUDA ? "GPU" : "CPU",
           b->cdt == DT_BF16 ? "bf16" : "fp32", b->options->size[0], b->options->size[1],
           b->options->frame_num, (long long)s.t, (long long)s.h, (long long)s.w,
           (long long)b->tokens);
    printf("ranks   %d: cfg %d x ring %d x ulysses %d; transformer %s, %.1f GB of weights per "
           "rank\n",
           b->world->size, m.cfg, m.ring, m.ulysses, b->plan.fsdp ? "sharded" : "replicated",
           (double)plan_stage(&b->sizes, STAGE_STEP)->weights / 1e9);
    job_offload(text, sizeof(text), &b->plan, &b->sizes);
    if (text[0] != 0)
        printf("weights %s\n", text);
    job_storage(text, sizeof(text), &b->plan, &b->sizes);
    if (text[0] != 0)
        printf("weights %s\n", text);
    job_attention(text, sizeof(text), &b->plan);
    if (text[0] != 0)
        printf("attention %s\n", text);
    fflush(stdout);
}

static status bench(struct bench *b, const struct preset *preset, unsigned parts)
{
    const struct bench_options *o = b->options;
    const int gpus = o->device == ON_CPU ? 0 : device_cuda_count();
    struct placement_node node;
    char bus[32] = "";
    int seq;
    status st = ST_OK;

    if (gpus > 0)
        st = device_cuda_bus(b->world->local_rank % gpus, bus, sizeof(bus));
    TRY(agree(b->world, st));
    TRY(placement_detect(b->world, gpus > 0 ? bus : NULL, &node));
    TRY(agree(b->world, open_local(b, &node, gpus, preset, parts)));
    TRY(agree(b->world, mesh_open(&b->mesh, b->world, &b->dev, b->plan.mesh)));
    b->plan.nccl = b->mesh.direct == NULL;
    TRY(agree(b->world, plan_limited(b)));
    seq = mesh_seq_size(&b->mesh);
    b->tokens = b->plan.latent.t * (b->plan.latent.h / 2) * (b->plan.latent.w / 2);
    b->s_loc = split_count(b->tokens, seq, mesh_seq_rank(&b->mesh));
    print_setup(b, preset);
    b->must_abort = true;
    TRY(bench_ceilings(b));
    for (size_t i = 0; i < COUNT(part_rows); i++)
        if (parts >> i & 1)
            TRY(part_rows[i].run(b));
    b->must_abort = false;
    if (o->json != NULL && b->world->rank == 0)
        st = bench_json(b, o->json);
    if (st == ST_OK && o->hdf5 != NULL && b->world->rank == 0)
        st = bench_hdf5(b, o->hdf5);
    return agree(b->world, st);
}

status cmd_bench(struct world *w, int argc, char **argv)
{
    struct bench_options options;
    const struct option_set set = option_set(&options);
    const struct preset *preset = NULL;
    struct bench b = { .world = w, .options = &options };
    unsigned parts = 0;
    status st;

    TRY_OUT(agree(w, parse(&options, argc, argv, &parts, &preset)));
    TRY_OUT(bench(&b, preset, parts));
out:
    if (b.must_abort)
        command_abort(w, st);
    mesh_close(&b.mesh);
    bench_values_close(&b);
    device_close(&b.dev);
    free(b.rows);
    options_free(&set);
    return st;
}
