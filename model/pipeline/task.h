/* task.h - what can be asked for: a row per task of the official programs, with its defaults, the
 * inputs it takes, and the function that makes its conditioning.
 *
 * To add a task on an existing transformer: a row in task.c and its function. An input that no
 * task took before is a line in TASK_INPUTS and its option in launch/request.c.
 *
 * Source: Wan2.1 generate.py and wan/configs; Wan2.2 wan/configs. */
#ifndef MODEL_PIPELINE_TASK_H
#define MODEL_PIPELINE_TASK_H

#include "model/pipeline/model.h"
#include "model/transformer/conditioning.h"

struct pipeline;
struct plan_input;

/* Inputs beside the prompts, by the names of their flags. */
#define TASK_INPUTS(X)                                                                             \
    X(image)                                                                                       \
    X(first_frame)                                                                                 \
    X(last_frame)                                                                                  \
    X(src_video)                                                                                   \
    X(src_mask)                                                                                    \
    X(src_ref_images)                                                                              \
    X(audio)                                                                                       \
    X(pose_video)                                                                                  \
    X(num_clip)                                                                                    \
    X(use_prompt_extend)                                                                           \
    X(prompt_extend_method)                                                                        \
    X(prompt_extend_model)                                                                         \
    X(prompt_extend_target_lang)

#define NUMBER_INPUT(name) INPUT_##name,
enum task_input { TASK_INPUTS(NUMBER_INPUT) INPUT_COUNT };
#undef NUMBER_INPUT

extern const char *const task_input_names[INPUT_COUNT]; // "image", ...

/* What the user gave. */
struct task_inputs {
    const char *prompt, *negative_prompt;
    const char *input[INPUT_COUNT]; // as their flags gave them; NULL: not given
};

#define TASK_PRESETS_MAX 4

struct task {
    const char *name;                           // "t2v-1.3B"
    const char *presets[TASK_PRESETS_MAX];      // its released models (model.h)
    const struct part *parts[MODEL_PART_COUNT]; // that it needs
    unsigned takes, needs;                      // inputs: bits 1 << INPUT_*
    bool image;                                 // one frame, to a .png
    int width_px, height_px;
    const char *sizes; // officially supported, "832*480, 480*832"
    int frames, fps, steps;
    double shift, guidance;
    const char *prompt;   // the official example, used when no prompt is given
    const char *negative; // used when none is given, or an empty one

    /* Checks the size [width, height] in pixels that was asked for, or derives it from the inputs.
     * ST_USAGE. */
    status (*size)(const struct task_inputs *in, int size[2]);

    /* Fills the conditioning. p NULL: on a plan, shapes only. Collective. NULL: a task of the
     * official programs that this version knows by name and does not run. */
    status (*condition)(struct pipeline *p, const struct plan_input *plan,
                        const struct task_inputs *in, struct conditioning *c);
};

const struct task *task_at(int index); // every row; NULL after the last
bool task_runs(const struct task *task);

/* ST_USAGE for an unknown name, with the nearest, and for a task that this version does not run. */
status task_find(const struct task **task, const char *name);

/* The task for a checkpoint whose transformer is opened: by the released model that it is, else by
 * the features of its transformer. ST_FORMAT when this version has none. */
status task_for_checkpoint(const struct task **task, const struct checkpoint *c);

/* ST_USAGE, naming the right task, when the checkpoint is a model of another one. */
status task_check(const struct task *task, const struct checkpoint *c);

/* ST_USAGE for an input that the task does not take, or needs and has not. given: bits 1 <<
 * INPUT_*.
 */
status task_check_inputs(const struct task *task, unsigned given);

#endif
