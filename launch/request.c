#include "launch/request.h"

#include "launch/request_internal.h"
#include "launch/video/video.h"
#include "runtime/device.h"
#include "runtime/hash.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define ONE (CMD_GENERATE | CMD_PLAN | CMD_LINE)
#define ALL (ONE | CMD_BATCH)

/* An input that only some tasks use: `marks` of its row has its number (enum task_input) plus 1. */
#define INPUT_SHIFT 8
#define INPUT_MARK(name) (NUMBERS | (1 + INPUT_##name) << INPUT_SHIFT)
#define INPUT(flag, what)                                                                          \
    {                                                                                              \
        .name = #flag, .type = OPT_STRING, .offset = AT(input[INPUT_##flag]), .value = "FILE",     \
        .commands = ONE, .marks = INPUT_MARK(flag), .help = what, .hidden = true                   \
    }
/* An image that tasks use; `other`: the name that DiffSynth has for it, or NULL. */
#define IMAGE(flag, other, what)                                                                   \
    {                                                                                              \
        .name = #flag, .type = OPT_STRING, .offset = AT(input[INPUT_##flag]), .value = "FILE",     \
        .alias = other, .commands = ONE, .marks = INPUT_MARK(flag), .help = what                   \
    }

/* `plan` takes the flags of `generate`, so that one word turns a command line into its plan. */
const struct option request_rows[] = {
    { "batch_file", OPT_STRING, AT(batch_file), .group = "Request", .value = "FILE.jsonl",
      .positional = true, .commands = CMD_BATCH | CMD_PLAN,
      .help = "requests of batch, one per line: a JSON object whose keys are names of flags" },
    { "overwrite", OPT_SWITCH, AT(overwrite), .commands = CMD_BATCH, .marks = JOB,
      .help = "make results again that another request, or other weights, have made (default: "
              "such a batch is refused)" },
    { "task", OPT_STRING, AT(task_name), .group = "Request", .value = "TASK", .commands = ALL,
      .marks = NUMBERS | JOB,
      .help = "a task of the list below (default: that of the checkpoint; without one t2v-14B)" },
    { "prompt", OPT_TEXT, AT(prompt), .value = "TEXT", .commands = ONE, .marks = NUMBERS,
      .help = "text that describes the video; @FILE reads it from a file (default: the official "
              "example)" },
    { "negative_prompt", OPT_TEXT, AT(negative_prompt), .alias = "n_prompt", .value = "TEXT",
      .commands = ALL, .marks = NUMBERS,
      .help = "text that describes what to avoid (default: the official negative prompt)" },
    { "size", OPT_PAIR, AT(size), .value = "W*H", .joint = '*', .wide_joint = true, .commands = ALL,
      .marks = NUMBERS,
      .help = "width and height in pixels, multiples of 16 (default: the task's, see below)" },
    { "frame_num", OPT_INT, AT(frame_num), .value = "N", .least = 1, .commands = ALL,
      .marks = NUMBERS, .help = "number of frames, 4n+1 (default: the task's)" },
    { "base_seed", OPT_SEED, AT(base_seed), .value = "N", .commands = ALL, .marks = NUMBERS,
      .help = "random seed, 0 to 2^64-1; the same seed gives the same video; -1 chooses one "
              "(default -1)" },

    { "preset", OPT_STRING, AT(preset), .group = "Sampling", .value = "NAME", .commands = ALL,
      .marks = NUMBERS | SAMPLING,
      .help = "settings of a distilled model, of the list below; flags that are given too win" },
    { "sample_steps", OPT_INT, AT(sample_steps), .value = "N", .least = 1, .most = 1000,
      .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help = "number of denoising steps (default: the task's)" },
    { "sample_solver", OPT_CHOICE, AT(sample_solver), .choices = "unipc|dpm++|euler|renoise",
      .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help =
          "solver of the denoising steps; renoise: each step adds fresh noise to the image that "
          "it predicts, for models distilled with DMD or rCM (default unipc; euler with a list "
          "of steps)" },
    { "denoising_steps", OPT_NUMBERS, AT(denoising_steps), .alias = "denoising_step_list",
      .value = "T,T,...", .joint = ',', .least = 0, .most = 1000, .commands = ALL,
      .marks = NUMBERS | SAMPLING,
      .help = "list of steps of a distilled model, for euler and renoise: timesteps that fall from "
              "1000, as 1000,750,500,250" },
    { "warp_denoising_step", OPT_BOOL, AT(warp_denoising_step), .value = "True|False",
      .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help = "True: --sample_shift shifts the timesteps of the list; False: they are shifted "
              "already (default True)" },
    { "sigma_max", OPT_DOUBLE, AT(sigma_max), .value = "X", .least = 1e-3, .most = 1e6,
      .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help =
          "the 1 to 4 steps of rCM and TurboDiffusion, from this level of noise: 80, or 200 for "
          "I2V" },
    { "boundary", OPT_DOUBLE, AT(boundary), .alias = "boundary_ratio", .value = "X", .least = 0,
      .most = 1, .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help = "of two experts, the second computes the timesteps below 1000 X (default: the "
              "task's, 0.875 for T2V and 0.9 for I2V)" },
    { "boundary_step_index", OPT_INT, AT(boundary_step_index), .value = "N", .least = 0,
      .most = 1000, .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help = "of two experts, the first computes N steps and the second the rest" },
    { "sample_shift", OPT_DOUBLE, AT(sample_shift), .value = "X", .commands = ALL,
      .marks = NUMBERS | SAMPLING, .least = 1e-3, .most = 1e3,
      .help =
          "shift of the noise schedule: a larger value spends more steps at high noise; 8 to 12 "
          "are recommended for 1.3B (default: the task's)" },
    { "sample_guide_scale", OPT_SCALES, AT(sample_guide_scale), .value = "X[,Y]", .joint = ',',
      .least = 0, .most = 1e3, .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help = "scale of classifier-free guidance (CFG); 1 turns guidance off and halves the work; "
              "X,Y: that of low noise and of high noise, for two experts (default: the task's)" },
    { "rand_device", OPT_CHOICE, AT(rand_device), .choices = "cpu|cuda", .commands = ALL,
      .marks = NUMBERS,
      .help = "first noise as PyTorch's CPU generator or its CUDA generator draws it; needs no GPU "
              "(default cpu)" },
    { "cuda_sms", OPT_INT, AT(cuda_sms), .value = "N", .least = 1, .most = 1024, .commands = ALL,
      .marks = NUMBERS,
      .help =
          "number of multiprocessors (SMs) of the GPU that --rand_device cuda imitates (default "
          "132, H100 and H200)" },
    { "noise", OPT_STRING, AT(noise_file), .value = "FILE.h5", .commands = ONE, .marks = NUMBERS,
      .help = "read the first noise from a run file (its data set /noise)" },
    { "text", OPT_STRING, AT(text_file), .value = "FILE.h5", .commands = ONE, .marks = NUMBERS,
      .help =
          "read the text embeddings from a run file (/text/cond, /text/uncond); the text encoder "
          "is not loaded" },

    { "ckpt_dir", OPT_STRING, AT(ckpt_dir), .group = "Model", .value = "DIR", .commands = ALL,
      .marks = JOB,
      .help = "checkpoint: an official folder, a -Diffusers folder, a folder of ComfyUI's files, "
              "one in "
              "Hugging Face's cache, or the transformer's file (.safetensors, .gguf, .pth)" },
    { "dit", OPT_STRING, AT(dit), .value = "FILE", .commands = ALL, .marks = JOB,
      .help =
          "the transformer, instead of that of --ckpt_dir, or without --ckpt_dir: then the other "
          "parts are searched around it" },
    { "t5", OPT_STRING, AT(t5), .value = "FILE", .commands = ALL, .marks = JOB,
      .help = "the text encoder, instead of that of --ckpt_dir" },
    { "vae", OPT_STRING, AT(vae), .value = "FILE", .commands = ALL, .marks = JOB,
      .help = "the VAE" },
    { "clip", OPT_STRING, AT(clip), .value = "FILE", .commands = ALL, .marks = JOB,
      .help = "the image encoder" },
    { "dit_high", OPT_STRING, AT(dit_high), .value = "FILE", .commands = ALL, .marks = JOB,
      .help = "the expert for high noise; the same as --dit" },
    { "dit_low", OPT_STRING, AT(dit_low), .value = "FILE", .commands = ALL, .marks = JOB,
      .help = "the expert for low noise" },
    { "lora", OPT_LIST, AT(lora), .value = "FILE[:X]", .commands = ALL, .marks = JOB,
      .help = "merge a LoRA, of any common dialect, into the transformer's weights when they are "
              "loaded, with strength X (default 1); can be given several times. With two experts "
              "it is for both" },
    { "lora_high", OPT_LIST, AT(lora_high), .value = "FILE[:X]", .commands = ALL, .marks = JOB,
      .help = "the same for the expert for high noise alone" },
    { "lora_low", OPT_LIST, AT(lora_low), .value = "FILE[:X]", .commands = ALL, .marks = JOB,
      .help = "the same for the expert for low noise alone" },
    { "lora_ignore_unknown", OPT_SWITCH, AT(lora_ignore_unknown), .commands = ALL, .marks = JOB,
      .help = "leave out keys of a LoRA that match no tensor (default: they are an error)" },
    { "precision", OPT_CHOICE, AT(precision), .choices = "fp32|bf16", .commands = ALL,
      .marks = NUMBERS | JOB,
      .help = "data type of the computation; bf16 rounds where the official program does (default: "
              "bf16 on GPUs, else fp32)" },
    { "vae_precision", OPT_CHOICE, AT(vae_precision), .choices = "fp32|bf16", .commands = ALL,
      .marks = NUMBERS | JOB,
      .help =
          "data type of the VAE (default fp32, as in the official program; on GPUs bf16 takes a "
          "third of the time and half the memory)" },
    { "offload_model", OPT_BOOL, AT(offload_model), .value = "True|False", .commands = ALL,
      .marks = JOB,
      .help =
          "True frees the transformer before decoding, and loads it again for the next request; "
          "for batch, which keeps it by default (generate always frees it)" },
    { "convert_model_dtype", OPT_SWITCH, AT(convert_model_dtype), .commands = ALL, .marks = JOB,
      .help = "official flag, the same as --precision bf16" },
    { "t5_cpu", OPT_SWITCH, AT(t5_cpu), .commands = ALL, .marks = JOB,
      .help = "run the text encoder on rank 0's CPU, not on its GPU" },

    { "groups", OPT_INT, AT(groups),
      .group = "Ranks (cfg_size * ring_size * ulysses_size = number of ranks; sizes left out are "
               "chosen)",
      .value = "G", .least = 1, .most = 65536, .commands = CMD_BATCH | CMD_PLAN,
      .help = "divide the ranks of a batch into G groups of equal size, each of which makes one "
              "video at a time; the sizes below are those of a group (default 1; plan says which "
              "G gives the most videos per hour)" },
    { "cfg_size", OPT_INT, AT(cfg_size), .value = "N", .least = 1, .most = 2, .commands = ALL,
      .marks = JOB, .help = "2 computes the two CFG branches on different ranks" },
    { "ring_size", OPT_INT, AT(ring_size), .value = "N", .least = 1, .commands = ALL, .marks = JOB,
      .help = "ring attention: number of slices of the sequence; keys and values pass from rank to "
              "rank" },
    { "ulysses_size", OPT_INT, AT(ulysses_size), .value = "N", .least = 1, .commands = ALL,
      .marks = JOB,
      .help = "Ulysses attention: number of slices of the sequence; an all-to-all gives each rank "
              "all tokens of some heads" },
    { "dit_fsdp", OPT_SWITCH, AT(dit_fsdp), .commands = ALL, .marks = JOB,
      .help = "shard the transformer's weights over the ranks (default: only if they do not fit)" },
    { "experts", OPT_CHOICE, AT(experts), .choices = "both|ahead|later", .commands = ALL,
      .marks = JOB,
      .help = "of two experts keep both in the device's memory; or one, while the other is read "
              "ahead into the host's; or one, and read the other later, when it is needed "
              "(default: both where they fit, else ahead on GPUs, else later)" },
    { "vram_limit", OPT_DOUBLE, AT(vram_limit), .value = "GB", .least = 0.001, .most = 100000,
      .commands = ALL, .marks = JOB,
      .help = "use at most so much memory of each GPU, in GB of 10^9 bytes: blocks of the "
              "transformer that do not fit stay in pinned host memory and are copied to the GPU "
              "while it computes with others; the video is the same (default: what is free)" },
    { "vram_buffer", OPT_DOUBLE, AT(vram_buffer), .value = "GB", .least = 0, .most = 100000,
      .commands = ALL, .marks = JOB, .help = "memory of --vram_limit to leave free (default 0)" },
    { "num_persistent_param_in_dit", OPT_I64, AT(num_persistent_param_in_dit), .value = "N",
      .least = 0, .most = 1e15, .commands = ALL, .marks = JOB,
      .help = "number of the transformer's parameters that stay on the GPU, rounded down to whole "
              "blocks (default: as many as fit)" },
    { "offload_device", OPT_CHOICE, AT(offload_device), .choices = "cpu|disk", .commands = ALL,
      .marks = JOB,
      .help = "where the other blocks are: cpu in pinned host memory, once for all ranks of a "
              "node; disk in their file, which is read in every forward (default: cpu where they "
              "fit, else disk)" },
    { "t5_fsdp", OPT_SWITCH, AT(t5_fsdp), .commands = ALL, .marks = JOB,
      .help = "shard the text encoder's weights over the ranks, which all encode (default: rank 0 "
              "encodes, and streams the weights from the file)" },
    { "device", OPT_CHOICE, AT(device), .choices = "auto|cpu|cuda", .commands = ALL, .marks = JOB,
      .help = "auto: GPUs, one per rank, if there are any, else the CPU (default auto)" },
    { "threads", OPT_INT, AT(threads), .value = "N", .least = 1, .most = 4096, .commands = ALL,
      .marks = JOB,
      .help = "CPU threads per rank (default: the node's cores divided by its ranks)" },
    { "check_finite", OPT_SWITCH, AT(check_finite), .commands = ALL,
      .help =
          "name the first block that computes NaN or infinity; without it only the step is named" },
    { "timeout", OPT_INT, AT(timeout_s), .value = "SECONDS", .least = 1, .most = 1000000,
      .commands = ALL, .marks = JOB,
      .help = "a rank that shows no sign of life for so long ends the job (default 120)" },
    { "ops", OPT_CHOICE, AT(ops), .choices = "ref|cpu", .commands = ALL, .marks = JOB,
      .help = "CPU kernels: cpu is fast, ref is the slow reference for comparison (default cpu)" },

    { "tiled", OPT_SWITCH, AT(tiled), .group = "Decoding", .commands = ALL, .marks = PIXELS,
      .help = "decode in overlapping tiles: less memory, slightly different pixels" },
    { "tile_size", OPT_PAIR, AT(tile_size), .value = "ROWS,COLUMNS", .joint = ',', .commands = ALL,
      .marks = PIXELS,
      .help = "size of a tile in rows and columns of the latent, 8 pixels each (default 30,52)" },
    { "tile_stride", OPT_PAIR, AT(tile_stride), .value = "ROWS,COLUMNS", .joint = ',',
      .commands = ALL, .marks = PIXELS,
      .help = "distance from tile to tile, in the same unit (default 15,26)" },

    { "save_file", OPT_STRING, AT(save_file), .group = "Output", .value = "FILE", .commands = ONE,
      .help = ".mp4, or .png for one frame (default: a name made of task, size, "
              "ranks, prompt and time)" },
    { "fps", OPT_DOUBLE, AT(fps), .value = "X", .least = 0.1, .most = 1000, .commands = ALL,
      .marks = VIDEO | PIXELS, .help = "frames per second (default 16)" },
    { "quality", OPT_DOUBLE, AT(quality), .value = "X", .least = 0, .most = 10, .commands = ALL,
      .marks = VIDEO | PIXELS, .help = "quality of the H.264 video, 0 to 10 (default 8)" },
    { "contact_sheet", OPT_STRING, AT(contact_sheet), .value = "FILE.png", .commands = ONE,
      .help = "also write an image with up to 16 of the frames" },
    { "run_file", OPT_STRING, AT(run_file), .value = "FILE.h5", .commands = ONE,
      .help = "keep the state of the run in this HDF5 file; the same command with it goes on" },
    { "save_every", OPT_INT, AT(save_every), .value = "K", .least = 1, .commands = ALL,
      .help = "update the run file after every K steps (default 5)" },
    { "keep_frames", OPT_SWITCH, AT(keep_frames), .commands = ALL,
      .help = "also store the decoded frames in the run file" },
    { "resume", OPT_STRING, AT(resume), .value = "FILE.h5", .commands = CMD_GENERATE,
      .help =
          "continue the run of a run file, on any number of ranks; the request is read from it" },

    IMAGE(image, "input_image", "the image to start from, or a clip, for its first frame"),
    IMAGE(first_frame, NULL, "the same for FLF2V, under its official name"),
    IMAGE(last_frame, "end_image", "the image of the last frame, or a clip, for its first frame"),

    // inputs that no task of this version uses: hidden
    INPUT(src_video, "the video to edit, or that controls the result"),
    INPUT(src_mask, "mask of the regions to edit"),
    INPUT(src_ref_images, "reference images, separated by commas"),
    INPUT(audio, "the audio that drives the motion"),
    INPUT(pose_video, "the video whose poses are followed"),
    INPUT(num_clip, "number of clips, each of which continues the one before"),
    { "use_prompt_extend", OPT_SWITCH, AT(use_prompt_extend), .commands = ONE, .hidden = true,
      .marks = INPUT_MARK(use_prompt_extend), .help = "rewrite the prompt" },
    { "weights", OPT_STRING, AT(weights), .commands = CMD_RECORD, .hidden = true, .marks = PIXELS,
      .help = "digests of the weights that made a result" },
    { "media", OPT_STRING, AT(media), .commands = CMD_RECORD, .hidden = true, .marks = NUMBERS,
      .help = "sizes and digests of the images that are the request's inputs" },
    { "decoded", OPT_STRING, AT(decoded), .commands = CMD_RECORD, .hidden = true,
      .help = "how a result was decoded, if not as requested" },
    INPUT(prompt_extend_method, "method of --use_prompt_extend"),
    INPUT(prompt_extend_model, "model of --use_prompt_extend"),
    INPUT(prompt_extend_target_lang, "language of the rewritten prompt"),
};

const int request_row_count = COUNT(request_rows);

_Static_assert(COUNT(request_rows) <= OPTIONS_MAX, "request.given has an entry for each row");
_Static_assert((int)SOLVER_UNIPC == 0 && (int)SOLVER_DPMPP == 1 && (int)SOLVER_EULER == 2 &&
                   (int)SOLVER_RENOISE == 3,
               "the order of --sample_solver's choices");
_Static_assert((int)NOISE_CPU == 0 && (int)NOISE_CUDA == 1, "the order of --rand_device's choices");

struct option_set request_options(struct request *r)
{
    return (struct option_set){ request_rows, COUNT(request_rows), r, r->given };
}

void request_init(struct request *r)
{
    *r = (struct request){
        .size = { -1, -1 },
        .frame_num = -1,
        .sample_steps = -1,
        .warp_denoising_step = -1,
        .sigma_max = -1,
        .sample_solver = -1,
        .sample_shift = -1,
        .sample_guide_scale = { -1, -1 },
        .boundary = -1,
        .boundary_step_index = -1,
        .rand_device = -1,
        .cuda_sms = -1,
        .precision = -1,
        .vae_precision = -1,
        .offload_model = -1,
        .timeout_s = -1,
        .dit_fsdp = -1,
        .experts = -1,
        .vram_buffer = -1,
        .num_persistent_param_in_dit = -1,
        .offload_device = -1,
        .device = -1,
        .ops = -1,
        .tile_size = { -1, -1 },
        .tile_stride = { -1, -1 },
        .fps = -1,
        .quality = -1,
        .save_every = -1,
    };
}

void request_done(struct request *r)
{
    const struct option_set set = request_options(r);

    options_free(&set);
    request_drop_images(r);
}

static const char *command_name(unsigned command)
{
    return command == CMD_GENERATE ? "generate" : command == CMD_BATCH ? "batch" : "plan";
}

status request_parse(struct request *r, unsigned command, const struct option_set *more, int count,
                     int argc, char **argv)
{
    struct option_set sets[3] = { request_options(r) };

    assert(count <= 2);
    for (int i = 0; i < count; i++)
        sets[1 + i] = more[i];
    return options_parse(command_name(command), command, sets, 1 + count, argc, argv);
}

bool request_given(const struct request *r, size_t offset)
{
    for (size_t i = 0; i < COUNT(request_rows); i++) {
        if (request_rows[i].offset == offset)
            return r->given[i];
    }
    return false;
}

static status copy_text(char **to, const char *text)
{
    *to = strdup(text);
    return *to != NULL ? ST_OK
                       : fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for a text",
                              strlen(text) + 1);
}

/* A random seed below 2^53, which a JSON number represents exactly. */
static status draw_seed(struct seed *seed)
{
    uint64_t bits = 0;

    if (getrandom(&bits, sizeof(bits), 0) != (ssize_t)sizeof(bits))
        return fail(ST_IO, "cannot get a random seed from the system; pass --base_seed N");
    *seed = (struct seed){ bits >> 11, 1 };
    return ST_OK;
}

static void default_int(int *field, int value)
{
    *field = *field < 0 ? value : *field;
}

static void default_double(double *field, double value)
{
    *field = *field < 0 ? value : *field;
}

static void forget(char **text)
{
    free(*text);
    *text = NULL;
}

/* The prompts and the seed; not set where a file replaces them. */
static status fill_inputs(struct request *r)
{
    if (r->text_file != NULL) {
        forget(&r->prompt);
        forget(&r->negative_prompt);
    } else {
        if (r->prompt == NULL)
            TRY(copy_text(&r->prompt, r->task->prompt));
        if (r->negative_prompt != NULL && r->negative_prompt[0] == 0) {
            forget(&r->negative_prompt); // "" means the default, as in the official pipeline
            r->default_negative = true;
        }
        if (r->negative_prompt == NULL)
            TRY(copy_text(&r->negative_prompt, r->task->negative));
    }
    if (r->noise_file != NULL && r->sample_solver != SOLVER_RENOISE) {
        r->base_seed = (struct seed){ 0 };
    } else if (!r->base_seed.given) {
        TRY(draw_seed(&r->base_seed));
        r->drawn_seed = true;
    }
    return ST_OK;
}

static double default_shift(const struct task *task, const int size[2])
{
    const bool is_480 = (size[0] == 832 && size[1] == 480) || (size[0] == 480 && size[1] == 832);

    return is_480 && task->shift_480 > 0 ? task->shift_480 : task->shift;
}

static status fill_defaults(struct request *r)
{
    const struct task *task = NULL;

    if (r->task_name == NULL)
        TRY(copy_text(&r->task_name, "t2v-14B"));
    TRY(task_find(&task, r->task_name));
    r->task = task;
    default_int(&r->size[0], task->width_px);
    default_int(&r->size[1], task->height_px);
    default_int(&r->frame_num, task->frames);
    TRY(request_fill_sampling(r, default_shift(task, r->size)));
    TRY(fill_inputs(r));
    default_int(&r->rand_device, NOISE_CPU);
    default_int(&r->cuda_sms, 132);
    default_int(&r->device, USE_AUTO);
    if (r->device == USE_AUTO) // rank 0 chooses for all ranks; --ops implies a CPU
        r->device = !request_given(r, AT(ops)) && device_cuda_count() > 0 ? USE_CUDA : USE_CPU;
    default_int(&r->precision,
                r->device == USE_CUDA || r->convert_model_dtype ? PRECISION_BF16 : PRECISION_FP32);
    default_int(&r->vae_precision, PRECISION_FP32);
    default_int(&r->timeout_s, (int)WORLD_DEADLINE_S);
    default_int(&r->ops, OPS_CPU);
    default_int(&r->tile_size[0], 30);
    default_int(&r->tile_size[1], 52);
    default_int(&r->tile_stride[0], 15);
    default_int(&r->tile_stride[1], 26);
    default_double(&r->fps, task->fps);
    default_double(&r->quality, 8);
    default_int(&r->save_every, 5);
    return ST_OK;
}

double request_vram(const struct request *r)
{
    return (r->vram_limit - (r->vram_buffer > 0 ? r->vram_buffer : 0)) * 1e9;
}

struct task_inputs request_inputs(const struct request *r)
{
    struct task_inputs in = { .prompt = r->prompt, .negative_prompt = r->negative_prompt };

    memcpy(in.input, r->input, sizeof(in.input));
    memcpy(in.image, r->image, sizeof(in.image));
    return in;
}

static status check_shape(struct request *r)
{
    const struct task_inputs in = request_inputs(r);
    const int f = r->frame_num;

    memcpy(r->video_size, r->size, sizeof(r->video_size));
    TRY(r->task->size(&in, r->video_size));
    if (r->task->image && f != 1)
        return fail(ST_USAGE, "--frame_num %d: task %s makes one image; remove --frame_num", f,
                    r->task_name);
    if (f % 4 != 1)
        return fail(ST_USAGE, "--frame_num %d: must be 4n+1; try %d or %d", f, (f - 1) / 4 * 4 + 1,
                    (f - 1) / 4 * 4 + 5);
    return ST_OK;
}

/* Refuses inputs that the task does not use, and missing inputs that it requires; a plan requires
 * none, and those of a batch are in its lines. */
static status check_inputs(const struct request *r, unsigned command)
{
    unsigned given = command != CMD_GENERATE ? r->task->required : 0;

    for (size_t i = 0; i < COUNT(request_rows); i++)
        if (request_rows[i].marks >> INPUT_SHIFT != 0 && r->given[i])
            given |= 1u << ((request_rows[i].marks >> INPUT_SHIFT) - 1);
    for (int i = 0; i < INPUT_COUNT; i++)
        if (r->input[i] != NULL)
            given |= 1u << i;
    return task_check_inputs(r->task, given);
}

/* Refuses flags that have no effect without another flag, or for this task. */
static status check_needs(const struct request *r)
{
    if (r->task->boundary == 0 && r->sample_guide_scale[0] != r->sample_guide_scale[1])
        return fail(ST_USAGE,
                    "--sample_guide_scale %g,%g: task %s has one transformer: pass one number",
                    r->sample_guide_scale[0], r->sample_guide_scale[1], r->task_name);
    for (size_t i = 0; i < COUNT(request_rows); i++) {
        const size_t at = request_rows[i].offset;

        if (r->task->boundary == 0 && r->given[i] &&
            (at == AT(experts) || at == AT(dit_high) || at == AT(dit_low) || at == AT(boundary) ||
             at == AT(boundary_step_index) || at == AT(lora_high) || at == AT(lora_low)))
            return fail(ST_USAGE, "--%s: task %s has one transformer; remove it",
                        request_rows[i].name, r->task_name);
    }
    if (request_given(r, AT(lora_ignore_unknown)) && r->lora == NULL && r->lora_high == NULL &&
        r->lora_low == NULL)
        return fail(ST_USAGE, "--lora_ignore_unknown needs --lora FILE");
    if (request_given(r, AT(vram_buffer)) && r->vram_buffer >= r->vram_limit)
        return fail(ST_USAGE, "--vram_buffer %g leaves nothing of --vram_limit %g", r->vram_buffer,
                    r->vram_limit);
    if (r->offload_device == OFFLOAD_TO_DISK && r->dit_fsdp == 1)
        return fail(ST_USAGE, "--offload_device disk is for weights that are not sharded: remove "
                              "it or --dit_fsdp");
    if (request_given(r, AT(ops)) && r->device == USE_CUDA)
        return fail(ST_USAGE, "--ops is for --device cpu");
    if (r->convert_model_dtype && r->precision == PRECISION_FP32)
        return fail(ST_USAGE, "--convert_model_dtype is --precision bf16, and --precision fp32 is "
                              "given too: remove one of them");
    if (request_given(r, AT(cuda_sms)) && r->rand_device != NOISE_CUDA)
        return fail(ST_USAGE, "--cuda_sms is for --rand_device cuda");
    if ((request_given(r, AT(tile_size)) || request_given(r, AT(tile_stride))) && !r->tiled)
        return fail(ST_USAGE, "--tile_size and --tile_stride need --tiled");
    if (r->tile_stride[0] > r->tile_size[0] || r->tile_stride[1] > r->tile_size[1])
        return fail(ST_USAGE, "--tile_stride %d,%d is larger than --tile_size %d,%d",
                    r->tile_stride[0], r->tile_stride[1], r->tile_size[0], r->tile_size[1]);
    if (r->keep_frames && r->run_file == NULL)
        return fail(ST_USAGE, "--keep_frames needs --run_file FILE.h5");
    for (size_t i = 0; i < COUNT(request_rows); i++) {
        if ((request_rows[i].marks & VIDEO) != 0 && r->task->image && r->given[i])
            return fail(ST_USAGE, "--%s: task %s makes an image and does not use it; remove it",
                        request_rows[i].name, r->task_name);
    }
    return ST_OK;
}

static bool ends_in(const char *path, const char *suffix)
{
    const size_t n = strlen(path), m = strlen(suffix);

    return n > m && strcasecmp(path + n - m, suffix) == 0;
}

static status check_files(const struct request *r, unsigned command)
{
    if (r->ckpt_dir == NULL && command != CMD_PLAN)
        return fail(ST_USAGE,
                    "--ckpt_dir DIR is needed: the folder of the checkpoint for %s (or --dit FILE)",
                    r->task_name);
    if (r->ckpt_dir == NULL && (r->lora != NULL || r->lora_high != NULL || r->lora_low != NULL))
        return fail(ST_USAGE, "--lora needs --ckpt_dir DIR, whose tensors it changes");
    if (r->save_file != NULL)
        TRY(video_check_path(r->save_file, r->frame_num));
    if (r->contact_sheet != NULL && !ends_in(r->contact_sheet, ".png"))
        return fail(ST_USAGE, "--contact_sheet %s: the name must end in .png", r->contact_sheet);
    if (r->save_file != NULL && r->contact_sheet != NULL &&
        strcmp(r->save_file, r->contact_sheet) == 0)
        return fail(ST_USAGE, "--save_file and --contact_sheet are both %s", r->save_file);
    return ST_OK;
}

status request_complete(struct request *r, unsigned command)
{
    TRY(fill_defaults(r));
    TRY(check_inputs(r, command));
    TRY(request_read_images(r));
    TRY(check_shape(r));
    TRY(check_needs(r));
    TRY(request_check_sampling(r));
    return check_files(r, command);
}

status request_to_json(const struct request *r, char **text)
{
    const struct option_set set = { request_rows, COUNT(request_rows), (void *)r,
                                    NULL }; // read only

    return options_to_json(&set, text);
}

status request_record(const struct request *r, char **text)
{
    struct request whole = *r; // borrowed strings

    whole.resume = NULL;
    return request_to_json(&whole, text);
}

status request_from_json(struct request *r, const char *text, const char *where)
{
    const struct option_set set = { request_rows, COUNT(request_rows), r,
                                    NULL }; // r->given stays unchanged

    return options_from_json(&set, 0, text, where);
}

/* Number of bytes of the first `most` characters of a UTF-8 text. */
static size_t utf8_bytes(const char *text, int most)
{
    size_t n = 0;

    for (int i = 0; text[n] != 0; n++) {
        if (((unsigned char)text[n] & 0xc0) != 0x80 && i++ == most)
            break;
    }
    return n;
}

const char *request_title(const struct request *r)
{
    const char *slash = r->text_file != NULL ? strrchr(r->text_file, '/') : NULL;

    return r->text_file == NULL ? r->prompt : slash != NULL ? slash + 1 : r->text_file;
}

/* The official program replaces ' ' and '/' in a name; this also replaces control characters. */
static void replace_spaces(char *name)
{
    for (char *c = name; *c != 0; c++) {
        if (*c == ' ' || *c == '/' || (unsigned char)*c < 32)
            *c = '_';
    }
}

status request_default_name(const struct request *r, int ulysses_size, int ring_size, time_t now,
                            char **name)
{
    const char *title = request_title(r);
    const size_t length = utf8_bytes(title, 50);
    char clock[32] = "";
    struct tm local;

    localtime_r(&now, &local);
    strftime(clock, sizeof(clock), "%Y%m%d_%H%M%S", &local);
    if (asprintf(name, "%s_%d*%d_%d_%d_%.*s_%s%s", r->task_name, r->size[0], r->size[1],
                 ulysses_size, ring_size, (int)length, title, clock,
                 r->task->image ? ".png" : ".mp4") < 0)
        return fail(ST_MEMORY, "cannot allocate host memory for a file name");
    replace_spaces(*name);
    return ST_OK;
}

/* A digest of the values that were given and decide the result. */
static status given_digest(const struct request *r, uint64_t *h)
{
    const struct option_set set = { request_rows, COUNT(request_rows), (void *)r, NULL };

    *h = HASH_START;
    for (int i = 0; i < set.count; i++) {
        const struct option *row = &set.rows[i];
        const char *string = NULL;
        char value[64] = "";

        if (!r->given[i] || (row->marks & (NUMBERS | PIXELS)) == 0 ||
            (row->offset == AT(base_seed) && r->drawn_seed))
            continue;
        if (row->type == OPT_STRING || row->type == OPT_TEXT)
            string = *(char **)((char *)r + row->offset);
        else
            TRY(options_value(&set, i, value, sizeof(value)));
        *h = hash_text(hash_text(*h, row->name), string != NULL ? string : value);
    }
    return ST_OK;
}

status request_result_name(const struct request *r, const char *batch_file, char **name)
{
    const char *slash = strrchr(batch_file, '/'), *title = request_title(r);
    const char *base = slash != NULL ? slash + 1 : batch_file, *dot = strrchr(base, '.');
    uint64_t digest;

    TRY(given_digest(r, &digest));
    if (asprintf(name, "%.*s-%.*s-%08x.%s",
                 (int)(dot != NULL && dot > base ? (size_t)(dot - base) : strlen(base)), base,
                 (int)utf8_bytes(title, 30), title, (unsigned)(digest ^ digest >> 32),
                 r->frame_num == 1 ? "png" : "mp4") < 0) {
        *name = NULL;
        return fail(ST_MEMORY, "cannot allocate host memory for a file name");
    }
    replace_spaces(*name);
    return ST_OK;
}
