#include "model/pipeline/task.h"

#include "model/pipeline/condition.h"
#include "model/pipeline/prompts.h"
#include "model/transformer/features.h"
#include "runtime/nearest.h"

#include <stdio.h>
#include <string.h>

#define NAME_INPUT(name) #name,
const char *const task_input_names[INPUT_COUNT] = { TASK_INPUTS(NAME_INPUT) };
#undef NAME_INPUT

#define CATS                                                                                       \
    "Two anthropomorphic cats in comfy boxing gear and bright gloves fight intensely on a "        \
    "spotlighted stage."

#define WHITE_CAT                                                                                  \
    "Summer beach vacation style, a white cat wearing sunglasses sits on a surfboard. The "        \
    "fluffy-furred feline gazes directly at the camera with a relaxed expression. Blurred beach "  \
    "scenery forms the background featuring crystal-clear waters, distant green hills, and a "     \
    "blue sky dotted with white clouds. The cat assumes a naturally relaxed posture, as if "       \
    "savoring the sea breeze and warm sunlight. A close-up shot highlights the feline's "          \
    "intricate "                                                                                   \
    "details and the refreshing atmosphere of the seaside."

#define BIRD                                                                                                                           \
    "CG动画风格，一只蓝色的小鸟从地面起飞，煽动翅膀。小鸟羽毛细腻，胸前有独特的花纹，背景是" \
    "蓝天白云，阳光明媚。镜跟随小鸟向上移动，展现出小鸟飞翔的姿态和天空的广阔。近景，仰视视角。"

#define NEW_YEAR                                                                                                                                 \
    "在一个欢乐而充满节日气氛的场景中，穿着鲜艳红色春服的小女孩正与她的可爱卡通蛇嬉戏。她的春服上" \
    "绣着金色吉祥"                                                                                                                         \
    "图案，散发着喜庆的气息，脸上洋溢着灿烂的笑容。蛇身呈现出亮眼的绿色，形状圆润，宽大的眼睛让它" \
    "显得既友善又"                                                                                                                         \
    "幽默。小女孩欢快地用手轻轻抚摸着蛇的头部，共同享受着这温馨的时刻。周围五彩斑斓的灯笼和彩带装" \
    "饰着环境，阳"                                                                                                                         \
    "光透过洒在她们身上，营造出一个充满友爱与幸福的新年氛围。"

#define SIZES_480 "480*832, 832*480"
#define SIZES_720 "720*1280, 1280*720, 480*832, 832*480"
#define TI2V_CHANNELS 48 // of the latents of Wan2.2's VAE, which tell TI2V from T2V
/* The sizes of the tasks of 14B, and the two experts of Wan2.2. */
#define SIZE_14B .width_px = 1280, .height_px = 720, .sizes = SIZES_720, .frames = 81, .fps = 16
#define EXPERTS_TASK                                                                               \
    .parts = { &part_dit, &part_dit_low, &part_t5, &part_vae }, .steps = 40,                       \
    .negative = negative_shared, SIZE_14B
/* What the tasks with text alone have in common. */
#define TEXT_TASK                                                                                  \
    .parts = { &part_dit, &part_t5, &part_vae }, .steps = 50, .shift = 5, .guidance = { 5, 5 },    \
    .negative = negative_shared, .size = size_as_given, .condition = condition_text

/* What the tasks of Wan2.1 from images have in common. */
#define IMAGE_TASK .parts = { &part_dit, &part_t5, &part_vae, &part_clip }, .guidance = { 5, 5 }
/* What the tasks of Fun have in common: the defaults of DiffSynth-Studio. */
#define FUN_DEFAULTS                                                                               \
    .width_px = 832, .height_px = 480, .frames = 81, .fps = 16, .steps = 50, .shift = 5,           \
    .negative = negative_shared, .size = size_as_given
#define FUN_EXPERTS                                                                                \
    .parts = { &part_dit, &part_dit_low, &part_t5, &part_vae }, .guidance = { 5, 5 },              \
    .boundary = 875, .sizes = SIZES_720
/* Fun-InP. */
#define INP_TASK                                                                                   \
    .allowed = 1u << INPUT_image | 1u << INPUT_last_frame, .required = 1u << INPUT_image,          \
    .prompt = WHITE_CAT, .condition = condition_inp, FUN_DEFAULTS
#define CONTROL_INPUTS 1u << INPUT_control_video | 1u << INPUT_image
/* Fun Control. */
#define CONTROL_TASK                                                                               \
    .required = 1u << INPUT_control_video, .prompt = CATS, .condition = condition_control,         \
    FUN_DEFAULTS
/* Fun Camera. */
#define CAMERA_TASK                                                                                \
    .allowed =                                                                                     \
        1u << INPUT_image | 1u << INPUT_camera_control_direction | 1u << INPUT_control_camera_txt, \
    .required = 1u << INPUT_image, .prompt = WHITE_CAT, .condition = condition_camera,             \
    FUN_DEFAULTS

#define VACE_TASK                                                                                  \
    .parts = { &part_dit, &part_t5, &part_vae },                                                   \
    .allowed = 1u << INPUT_src_video | 1u << INPUT_src_mask | 1u << INPUT_src_ref_images |         \
               1u << INPUT_vace_scale | TASK_VACE_DIFFSYNTH,                                       \
    .prepends = true, .steps = 50, .shift = 16, .guidance = { 5, 5 }, .prompt = NEW_YEAR,          \
    .negative = negative_shared, .size = size_of_vace, .condition = condition_vace

/* Phantom, whose transformers have the tensors of T2V. */
#define PHANTOM_TASK                                                                               \
    .parts = { &part_dit, &part_t5, &part_vae }, .allowed = 1u << INPUT_ref_image,                 \
    .required = 1u << INPUT_ref_image, .appends = true, .steps = 50, .shift = 5,                   \
    .guidance = { 7.5, 7.5 }, .guide_image = 5, .prompt = WHITE_CAT, .negative = negative_shared,  \
    .size = size_of_phantom, .condition = condition_phantom

static const struct task tasks[] = {
    { .name = "t2v-1.3B",
      .presets = { "t2v-1.3B", "fastwan-1.3B", "turbowan-1.3B" },
      .width_px = 832,
      .height_px = 480,
      .sizes = SIZES_480,
      .frames = 81,
      .fps = 16,
      .prompt = CATS,
      TEXT_TASK },
    { .name = "t2v-14B",
      .presets = { "t2v-14B", "fastwan-14B", "turbowan-14B" },
      .prompt = CATS,
      SIZE_14B,
      TEXT_TASK },
    { .name = "t2i-14B",
      .presets = { "t2v-14B", "fastwan-14B", "turbowan-14B" },
      .image = true,
      .width_px = 1280,
      .height_px = 720,
      .sizes = SIZES_720 ", 1024*1024",
      .frames = 1,
      .fps = 16,
      .prompt = "一个朴素端庄的美人",
      TEXT_TASK },
    { .name = "i2v-14B",
      .presets = { "i2v-14B" },
      .allowed = 1u << INPUT_image,
      .required = 1u << INPUT_image,
      .steps = 40,
      .shift = 5,
      .shift_480 = 3,
      .prompt = WHITE_CAT,
      .negative = negative_i2v,
      .size = size_of_image,
      .condition = condition_image_tokens,
      SIZE_14B,
      IMAGE_TASK },
    { .name = "flf2v-14B",
      .presets = { "flf2v-14B" },
      .allowed = 1u << INPUT_image | 1u << INPUT_first_frame | 1u << INPUT_last_frame,
      .required = 1u << INPUT_last_frame, // and one of the others, see first_frame_of
      .steps = 50,
      .shift = 16,
      .prompt = BIRD,
      .negative = negative_flf2v,
      .size = size_of_first_frame,
      .condition = condition_first_last,
      SIZE_14B,
      IMAGE_TASK },
    { .name = "inp-1.3B", .presets = { "inp-1.3B" }, .sizes = SIZES_480, INP_TASK, IMAGE_TASK },
    { .name = "inp-14B", .presets = { "i2v-14B" }, .sizes = SIZES_720, INP_TASK, IMAGE_TASK },
    { .name = "control-1.3B",
      .presets = { "control-1.3B" },
      .allowed = CONTROL_INPUTS,
      .sizes = SIZES_480,
      CONTROL_TASK,
      IMAGE_TASK },
    { .name = "control-14B",
      .presets = { "control-14B" },
      .allowed = CONTROL_INPUTS,
      .sizes = SIZES_720,
      CONTROL_TASK,
      IMAGE_TASK },
    { .name = "control-ref-1.3B",
      .presets = { "control-ref-1.3B" },
      .allowed = CONTROL_INPUTS | 1u << INPUT_reference_image,
      .sizes = SIZES_480,
      CONTROL_TASK,
      IMAGE_TASK },
    { .name = "control-ref-14B",
      .presets = { "control-ref-14B" },
      .allowed = CONTROL_INPUTS | 1u << INPUT_reference_image,
      .sizes = SIZES_720,
      CONTROL_TASK,
      IMAGE_TASK },
    { .name = "camera-1.3B",
      .presets = { "camera-1.3B" },
      .sizes = SIZES_480,
      CAMERA_TASK,
      IMAGE_TASK },
    { .name = "camera-14B",
      .presets = { "camera-14B" },
      .sizes = SIZES_720,
      CAMERA_TASK,
      IMAGE_TASK },
    { .name = "t2v-A14B",
      .presets = { "t2v-A14B" },
      .shift = 12,
      .guidance = { 3, 4 },
      .boundary = 875,
      .prompt = CATS,
      .size = size_as_given,
      .condition = condition_text,
      EXPERTS_TASK },
    { .name = "i2v-A14B",
      .presets = { "i2v-A14B", "turbowan-i2v-A14B" },
      .allowed = 1u << INPUT_image,
      .required = 1u << INPUT_image,
      .shift = 5,
      .guidance = { 3.5, 3.5 },
      .boundary = 900,
      .prompt = WHITE_CAT,
      .size = size_of_image,
      .condition = condition_image,
      EXPERTS_TASK },
    { .name = "inp-A14B", .presets = { "i2v-A14B" }, INP_TASK, FUN_EXPERTS },
    { .name = "control-A14B",
      .presets = { "control-A14B" },
      .allowed = CONTROL_INPUTS | 1u << INPUT_last_frame | 1u << INPUT_reference_image,
      CONTROL_TASK,
      FUN_EXPERTS },
    { .name = "camera-A14B", .presets = { "camera-A14B" }, CAMERA_TASK, FUN_EXPERTS },
    { .name = "ti2v-5B",
      .presets = { "ti2v-5B", "fastwan-5B" },
      .parts = { &part_dit, &part_t5, &part_vae },
      .allowed = 1u << INPUT_image,
      .width_px = 1280,
      .height_px = 704,
      .sizes = "704*1280, 1280*704",
      .frames = 121,
      .fps = 24,
      .steps = 50,
      .shift = 5,
      .guidance = { 5, 5 },
      .prompt = CATS,
      .negative = negative_shared,
      .size = size_of_ti2v,
      .condition = condition_ti2v },
    { .name = "vace-1.3B",
      .presets = { "vace-1.3B" },
      .width_px = 832,
      .height_px = 480,
      .sizes = SIZES_480,
      .frames = 81,
      .fps = 16,
      VACE_TASK },
    { .name = "vace-14B", .presets = { "vace-14B" }, SIZE_14B, VACE_TASK },
    { .name = "phantom-1.3B",
      .presets = { "t2v-1.3B" },
      .width_px = 832,
      .height_px = 480,
      .sizes = SIZES_480,
      .frames = 81,
      .fps = 16,
      PHANTOM_TASK },
    { .name = "phantom-14B",
      .presets = { "t2v-14B" },
      .width_px = 832,
      .height_px = 480,
      .sizes = SIZES_720,
      .frames = 121,
      .fps = 24,
      PHANTOM_TASK },
    { .name = "s2v-14B",
      .presets = { "s2v-14B" },
      .parts = { &part_dit, &part_t5, &part_vae, &part_wav2vec2 },
      .allowed = 1u << INPUT_image | 1u << INPUT_audio | 1u << INPUT_pose_video |
                 1u << INPUT_num_clip | 1u << INPUT_infer_frames | 1u << INPUT_start_from_ref,
      .required = 1u << INPUT_image | 1u << INPUT_audio,
      .sound = true,
      .sizes = SIZES_720 ", 1024*704, 704*1024, 704*1280, 1280*704",
      .width_px = 1280,
      .height_px = 720,
      .frames = 77,
      .fps = 16,
      .steps = 40,
      .shift = 3,
      .guidance = { 4.5, 4.5 },
      .prompt = WHITE_CAT,
      .negative = negative_s2v,
      .size = size_of_s2v,
      .condition = condition_s2v },
    // tasks of the official programs that this version does not run
    { .name = "animate-14B", .presets = { "animate-14B" } },
};

int task_grid(const struct task *task)
{
    const struct model m = preset_model(preset_find(task->presets[0]));

    return 2 * (int)model_vae(&m)->stride;
}

const struct task *task_at(int index)
{
    return index >= 0 && index < (int)COUNT(tasks) ? &tasks[index] : NULL;
}

bool task_runs(const struct task *task)
{
    return task->condition != NULL;
}

/* "t2v-1.3B, t2v-14B or t2i-14B": the tasks that this version runs and for which `matches` is true;
 * "" if there is none. Valid until the next call on this thread. */
static const char *list_tasks(bool (*matches)(const struct task *task, const void *payload),
                              const void *payload)
{
    static _Thread_local char text[256];
    const struct task *last = NULL;
    int length = 0;

    text[0] = '\0';
    for (size_t i = 0; i < COUNT(tasks); i++)
        if (task_runs(&tasks[i]) && matches(&tasks[i], payload))
            last = &tasks[i];
    for (size_t i = 0; i < COUNT(tasks) && length < (int)sizeof(text); i++) {
        if (!task_runs(&tasks[i]) || !matches(&tasks[i], payload))
            continue;
        length += snprintf(text + length, sizeof(text) - (size_t)length, "%s%s",
                           length == 0         ? ""
                           : &tasks[i] == last ? " or "
                                               : ", ",
                           tasks[i].name);
    }
    return text;
}

static bool any_task(const struct task *task, const void *payload)
{
    return true;
}

static bool has_preset(const struct task *task, const struct preset *preset)
{
    for (int i = 0; i < TASK_PRESETS_MAX && task->presets[i] != NULL; i++)
        if (strcmp(task->presets[i], preset->name) == 0)
            return true;
    return false;
}

/* What a model is. */
struct recognized {
    const struct dit_config *dit;
    const struct preset *preset; // the released model; NULL: none
    int experts;
};

static bool uses_input(const struct task *task, const void *payload)
{
    return ((task->allowed | TASK_ANY) >> *(const int *)payload & 1) != 0;
}

/* The next feature at *i or after it on which the task depends, and where to go on; NULL after the
 * last. */
static const struct feature *next_feature(const struct dit_config *c, int *i)
{
    while (*i < DIT_FEATURES_MAX && c->use[*i].feature != NULL) {
        const struct feature *f = c->use[(*i)++].feature;

        if (!f->any_task)
            return f;
    }
    return NULL;
}

/* Whether the model's transformers have the number and features of the task's released models,
 * and as many channels that are concatenated to the latent's. */
static bool matches_transformer(const struct task *task, const struct recognized *is)
{
    const struct preset *preset = preset_find(task->presets[0]);
    const struct model m = preset_model(preset);
    const struct dit_config *c = is->dit, *released = model_dit(&m);

    if (preset->experts != is->experts ||
        released->in_dim - released->out_dim != c->in_dim - c->out_dim ||
        (released->out_dim == TI2V_CHANNELS) != (c->out_dim == TI2V_CHANNELS))
        return false;
    for (int i = 0, k = 0;;) {
        const struct feature *f = next_feature(c, &i);

        if (f != next_feature(released, &k))
            return false;
        if (f == NULL)
            return true;
    }
}

status task_find(const struct task **task, const char *name)
{
    const char *known[COUNT(tasks)], *near;

    for (size_t i = 0; i < COUNT(tasks); i++) {
        known[i] = tasks[i].name;
        if (strcmp(tasks[i].name, name) != 0)
            continue;
        if (!task_runs(&tasks[i]))
            return fail(ST_USAGE, "--task %s: this version does not run it; it runs %s", name,
                        list_tasks(any_task, NULL));
        *task = &tasks[i];
        return ST_OK;
    }
    near = nearest_word(name, known, COUNT(known));
    if (near != NULL)
        return fail(ST_USAGE, "--task %s: no such task; did you mean %s?", name, near);
    return fail(ST_USAGE, "--task %s: no such task; choose %s", name, list_tasks(any_task, NULL));
}

/* ---- tasks and checkpoints ---- */

/* "is a checkpoint of i2v-14B", or for another model a description of its transformer. Valid until
 * the next call on this thread. */
static const char *describe_model(const struct recognized *is)
{
    const struct dit_config *dit = is->dit;
    static _Thread_local char text[160];

    if (is->preset != NULL)
        snprintf(text, sizeof(text), "is a checkpoint of %s", is->preset->name);
    else
        snprintf(text, sizeof(text), "has %s with %d layers, %lld input and %lld output channels",
                 is->experts == 2 ? "two transformers (experts)" : "a transformer", dit->layers,
                 (long long)dit->in_dim, (long long)dit->out_dim);
    return text;
}

static status recognize(struct recognized *is, const struct checkpoint *c)
{
    *is = (struct recognized){ .dit = checkpoint_config(c, &part_dit) };
    TRY(model_experts(&is->experts, c));
    TRY(preset_of_checkpoint(&is->preset, c));
    if (is->preset != NULL && is->preset->experts < is->experts)
        is->preset = NULL; // the tensors of a model with one transformer
    return ST_OK;
}

/* Whether the task is one for this model. */
static bool suits(const struct task *task, const void *payload)
{
    const struct recognized *is = payload;

    return is->preset != NULL ? has_preset(task, is->preset) : matches_transformer(task, is);
}

status task_for_checkpoint(const struct task **task, const struct checkpoint *c)
{
    struct recognized is;

    TRY(recognize(&is, c));
    for (size_t i = 0; i < COUNT(tasks); i++) {
        if (!task_runs(&tasks[i]) || !suits(&tasks[i], &is))
            continue;
        *task = &tasks[i];
        return ST_OK;
    }
    return fail(ST_FORMAT, "%s: %s, which this version does not run; it runs %s", c->path,
                describe_model(&is), list_tasks(any_task, NULL));
}

const struct task *task_for_preset(const struct preset *preset)
{
    const struct model m = preset_model(preset);
    const struct recognized is = { .dit = model_dit(&m),
                                   .preset = preset->experts > 0 ? preset : NULL,
                                   .experts = model_config(&m, &part_dit_low) != NULL ? 2 : 1 };

    for (size_t i = 0; i < COUNT(tasks); i++)
        if (task_runs(&tasks[i]) && suits(&tasks[i], &is))
            return &tasks[i];
    return NULL;
}

status task_check(const struct task *task, const struct checkpoint *c)
{
    struct recognized is;
    const char *names;

    TRY(recognize(&is, c));
    if (task_runs(task) && suits(task, &is))
        return ST_OK;
    names = list_tasks(suits, &is);
    if (names[0] == '\0')
        return task_for_checkpoint(&task, c); // fails: there is none
    return fail(ST_USAGE, "--task %s: %s %s; use --task %s, or remove --task", task->name, c->path,
                describe_model(&is), names);
}

status task_check_inputs(const struct task *task, unsigned given)
{
    for (int i = 0; i < INPUT_COUNT; i++) {
        const bool has = (given >> i & 1) != 0, required = (task->required >> i & 1) != 0;

        if (has && (TASK_TTS >> i & 1) != 0)
            return fail(ST_USAGE,
                        "--%s: this program does not speak: make the speech with a text-to-speech "
                        "program, such as CosyVoice, and pass its file with --audio",
                        task_input_names[i]);
        if (has && !uses_input(task, &i)) {
            const char *others = list_tasks(uses_input, &i);

            return fail(ST_USAGE, "--%s: task %s does not use it; remove it%s%s",
                        task_input_names[i], task->name,
                        others[0] ? ", or use --task " : " (no task of this version uses it)",
                        others);
        }
        if (!has && required)
            return fail(ST_USAGE, "task %s needs --%s", task->name, task_input_names[i]);
    }
    return ST_OK;
}
