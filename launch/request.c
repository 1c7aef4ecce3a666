#include "launch/request.h"

#include "launch/request_internal.h"
#include "launch/video/video.h"
#include "model/audio/speech.h"
#include "model/pipeline/condition.h"
#include "runtime/device.h"
#include "runtime/hash.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct option_set request_options(struct request *r)
{
    return (struct option_set){ request_rows, request_row_count, r, r->given };
}

void request_init(struct request *r)
{
    *r = (struct request){
        .size = { -1, -1 },
        .frame_num = -1,
        .height = -1,
        .width = -1,
        .num_frames = -1,
        .fast = -1,
        .sample_steps = -1,
        .warp_denoising_step = -1,
        .sigma_max = -1,
        .sample_solver = -1,
        .sample_shift = -1,
        .sample_guide_scale = { -1, -1 },
        .cfg_gate = { -1, -1 },
        .cfg_interval = { -1, -1 },
        .zero_init_steps = -1,
        .denoising_strength = -1,
        .guide_image = -1,
        .sliding_window_size = -1,
        .sliding_window_stride = -1,
        .context_schedule = -1,
        .context_frames = -1,
        .context_stride = -1,
        .context_overlap = -1,
        .context_fuse = -1,
        .motion_bucket_id = -1,
        .camera_control_direction = -1,
        .camera_control_speed = -1,
        .boundary = -1,
        .boundary_step_index = -1,
        .cache = -1,
        .cache_threshold = -1,
        .cache_retain = -1,
        .cache_max_skip = -1,
        .tea_cache_l1_thresh = -1,
        .tea_cache_model_id = -1,
        .rand_device = -1,
        .vace_scale = -1,
        .num_clip = -1,
        .infer_frames = -1,
        .cuda_sms = -1,
        .precision = -1,
        .vae_precision = -1,
        .matmul = -1,
        .matmul_bf16_blocks = -1,
        .attention = -1,
        .attention_exact_steps = { -1, -1 },
        .attention_exact_blocks = { -1, -1 },
        .vsa_sparsity = -1,
        .sla_topk = -1,
        .offload_model = -1,
        .timeout_s = -1,
        .dit_fsdp = -1,
        .experts = -1,
        .vram_buffer = -1,
        .num_persistent_param_in_dit = -1,
        .offload_device = -1,
        .weight_storage = -1,
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
    free(r->reference);
    r->reference = NULL;
    r->references = 0;
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
    for (size_t i = 0; i < (size_t)request_row_count; i++) {
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

static int round_up(int value, int grid)
{
    return (value + grid - 1) / grid * grid;
}

/* Sets the size and the number of frames that DiffSynth's flags give. */
static status fill_diffsynth(struct request *r)
{
    const int grid = task_grid(r->task);

    if ((r->width >= 0 || r->height >= 0) && request_given(r, AT(size)))
        return fail(ST_USAGE, "--size and --%s both say how large the video is: remove one of them",
                    r->width >= 0 ? "width" : "height");
    if (r->num_frames >= 0 && request_given(r, AT(frame_num)))
        return fail(ST_USAGE, "--frame_num and --num_frames are the same: remove one of them");
    if (r->width >= 0)
        r->size[0] = round_up(r->width, grid);
    if (r->height >= 0)
        r->size[1] = round_up(r->height, grid);
    if (r->num_frames >= 0)
        r->frame_num = round_up(r->num_frames - 1, 4) + 1;
    return ST_OK;
}

static status fill_defaults(struct request *r)
{
    const struct task *task = NULL;

    if (r->task_name == NULL)
        TRY(copy_text(&r->task_name, "t2v-14B"));
    TRY(task_find(&task, r->task_name));
    r->task = task;
    TRY(fill_diffsynth(r));
    default_int(&r->size[0], task->width_px);
    default_int(&r->size[1], task->height_px);
    default_int(&r->frame_num, task->frames);
    TRY(request_fill_sampling(r, default_shift(task, r->size)));
    TRY(fill_inputs(r));
    if (r->camera_control_direction >= 0)
        default_double(&r->camera_control_speed, CAMERA_SPEED);
    default_int(&r->rand_device, NOISE_CPU);
    default_int(&r->cuda_sms, 132);
    default_int(&r->device, USE_AUTO);
    if (r->device == USE_AUTO) // rank 0 chooses for all ranks; --ops implies a CPU
        r->device = !request_given(r, AT(ops)) && device_cuda_count() > 0 ? USE_CUDA : USE_CPU;
    TRY(request_fill_fast(r));
    TRY(request_fill_cache(r));
    default_int(&r->precision,
                r->device == USE_CUDA || r->convert_model_dtype ? PRECISION_BF16 : PRECISION_FP32);
    default_int(&r->vae_precision, r->device == USE_CUDA ? VAE_TF32 : VAE_FP32);
    default_int(&r->matmul, MATMUL_EXACT);
    default_int(&r->timeout_s, (int)WORLD_DEADLINE_S);
    default_int(&r->attention, ATTENTION_EXACT);
    default_int(&r->ops, OPS_CPU);
    default_int(&r->tile_size[0], 30);
    default_int(&r->tile_size[1], 52);
    default_int(&r->tile_stride[0], 15);
    default_int(&r->tile_stride[1], 26);
    default_double(&r->fps, task->fps);
    if (task->sound)
        default_int(&r->infer_frames, 80);
    if ((task->allowed >> INPUT_vace_scale & 1) != 0)
        default_double(&r->vace_scale, 1);
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
    struct task_inputs in = { .prompt = r->prompt,
                              .negative_prompt = r->negative_prompt,
                              .camera = request_camera(r),
                              .speed = r->motion_bucket_id >= 0,
                              .motion_bucket_id = r->motion_bucket_id,
                              .fun_official = r->fun_official == 1 };

    memcpy(in.input, r->input, sizeof(in.input));
    memcpy(in.image, r->image, sizeof(in.image));
    memcpy(in.clip, r->clips, sizeof(in.clip));
    in.references = r->references;
    in.reference = r->reference;
    in.vace_scale = r->vace_scale;
    in.sound = r->sound;
    in.num_clip = r->num_clip > 0 ? r->num_clip : 0;
    in.infer_frames = r->infer_frames;
    in.start_from_ref = r->start_from_ref != 0;
    return in;
}

static status check_shape(struct request *r)
{
    const struct task_inputs in = request_inputs(r);
    const int f = r->frame_num;

    memcpy(r->video_size, r->size, sizeof(r->video_size));
    r->video_frames = f;
    TRY(r->task->size(&in, r->video_size, &r->video_frames));
    r->clip_count = r->task->sound ? s2v_clips(&in) : 0;
    if (r->task->sound && request_given(r, AT(frame_num)))
        return fail(ST_USAGE,
                    "--frame_num %d: the length of task %s follows from --audio: remove it, or use "
                    "--num_clip and --infer_frames",
                    f, r->task_name);
    if (r->task->sound && r->fps != SPEECH_FPS)
        return fail(ST_USAGE, "--fps %g: the sound moves %d frames a second; remove it", r->fps,
                    SPEECH_FPS);
    if (r->clip_count > 1 && r->noise_file != NULL)
        return fail(ST_USAGE,
                    "--noise %s: has the noise of one clip, and this video has %d: "
                    "remove it, or add --num_clip 1",
                    r->noise_file, r->clip_count);
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

    for (size_t i = 0; i < (size_t)request_row_count; i++)
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
    for (size_t i = 0; i < (size_t)request_row_count; i++) {
        const size_t at = request_rows[i].offset;

        if (r->task->boundary == 0 && r->given[i] &&
            (at == AT(experts) || at == AT(dit_high) || at == AT(dit_low) || at == AT(boundary) ||
             at == AT(boundary_step_index) || at == AT(lora_high) || at == AT(lora_low)))
            return fail(ST_USAGE, "--%s: task %s has one transformer; remove it",
                        request_rows[i].name, r->task_name);
    }
    if (r->fun_official && (r->task->allowed >> INPUT_control_video & 1) == 0)
        return fail(ST_USAGE, "--fun_official is for the tasks of Fun Control, not %s; remove it",
                    r->task_name);
    if (r->fun_official == 0 && r->task->boundary > 0 && r->input[INPUT_control_video] != NULL &&
        (r->input[INPUT_image] != NULL || r->input[INPUT_last_frame] != NULL))
        return fail(ST_USAGE,
                    "--%s: DiffSynth does not use it in task %s, so it has no effect; remove it, "
                    "or pass --fun_official",
                    r->input[INPUT_image] != NULL ? "image" : "last_frame", r->task_name);
    if (r->input[INPUT_last_frame] != NULL && r->input[INPUT_control_video] != NULL &&
        r->input[INPUT_image] == NULL)
        return fail(ST_USAGE, "--last_frame needs --image in task %s", r->task_name);
    if (request_given(r, AT(lora_ignore_unknown)) && r->lora == NULL && r->lora_high == NULL &&
        r->lora_low == NULL)
        return fail(ST_USAGE, "--lora_ignore_unknown needs --lora FILE");
    if (request_given(r, AT(vram_buffer)) && r->vram_buffer >= r->vram_limit)
        return fail(ST_USAGE, "--vram_buffer %g leaves nothing of --vram_limit %g", r->vram_buffer,
                    r->vram_limit);
    if (r->offload_device == OFFLOAD_TO_DISK && r->dit_fsdp == 1)
        return fail(ST_USAGE, "--offload_device disk is for weights that are not sharded: remove "
                              "it or --dit_fsdp");
    if (r->weight_storage == WEIGHTS_AS_STORED && r->ckpt_dir == NULL)
        return fail(ST_USAGE,
                    "--weights stored needs --ckpt_dir or --dit: the forms of its weights "
                    "are those of the file");
    if (r->attention != ATTENTION_8BIT &&
        (r->attention_exact_steps[0] >= 0 || r->attention_exact_blocks[0] >= 0))
        return fail(ST_USAGE, "--attention_exact_steps and --attention_exact_blocks are for "
                              "--attention 8bit");
    if (request_given(r, AT(ops)) && r->device == USE_CUDA)
        return fail(ST_USAGE, "--ops is for --device cpu");
    if (r->convert_model_dtype && r->precision == PRECISION_FP32)
        return fail(ST_USAGE, "--convert_model_dtype is --precision bf16, and --precision fp32 is "
                              "given too: remove one of them");
    if (request_given(r, AT(matmul_bf16_blocks)) && r->matmul != MATMUL_FP8)
        return fail(ST_USAGE, "--matmul_bf16_blocks is for --matmul fp8");
    if (request_given(r, AT(cuda_sms)) && r->rand_device != NOISE_CUDA)
        return fail(ST_USAGE, "--cuda_sms is for --rand_device cuda");
    if ((request_given(r, AT(tile_size)) || request_given(r, AT(tile_stride))) && !r->tiled &&
        !r->tiled_encode)
        return fail(ST_USAGE, "--tile_size and --tile_stride need --tiled");
    if (r->tile_stride[0] > r->tile_size[0] || r->tile_stride[1] > r->tile_size[1])
        return fail(ST_USAGE, "--tile_stride %d,%d is larger than --tile_size %d,%d",
                    r->tile_stride[0], r->tile_stride[1], r->tile_size[0], r->tile_size[1]);
    if (r->keep_frames && r->run_file == NULL)
        return fail(ST_USAGE, "--keep_frames needs --run_file FILE.h5");
    for (size_t i = 0; i < (size_t)request_row_count; i++) {
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
        TRY(video_check_path(r->save_file, r->video_frames));
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
    TRY(request_check_video(r, command == CMD_GENERATE));
    TRY(request_check_windows(r));
    TRY(request_check_camera(r, command == CMD_GENERATE));
    if (command == CMD_GENERATE && r->motion_controller != NULL && r->motion_bucket_id < 0)
        return fail(ST_USAGE, "--motion_controller needs --motion_bucket_id N");
    TRY(request_check_sampling(r));
    return check_files(r, command);
}

status request_to_json(const struct request *r, char **text)
{
    const struct option_set set = { request_rows, request_row_count, (void *)r, NULL }; // read only

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
    const struct option_set set = { request_rows, request_row_count, r,
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
    const struct option_set set = { request_rows, request_row_count, (void *)r, NULL };

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
                 r->video_frames == 1 ? "png" : "mp4") < 0) {
        *name = NULL;
        return fail(ST_MEMORY, "cannot allocate host memory for a file name");
    }
    replace_spaces(*name);
    return ST_OK;
}
