/* task.h - the tasks of the official programs: a row per task, with its defaults, its allowed and
 * required inputs, and the function that makes its conditioning.
 *
 * To add a task for a transformer that is supported: a row in task.c (a task that this version
 * refuses already has its name there) and its function in condition.c. The function makes the
 * arrays that the transformer reads (../transformer/conditioning.h): from text with pipeline_text,
 * from media with the encoders of the parts in the row. An input that the row allows is listed in
 * TASK_INPUTS; its option is in launch/request_rows.c, hidden from --help until a task uses it. An
 * encoder that runs on the device before the first step is a stage of its own: a row in plan.c.
 *
 * Source: Wan2.1 generate.py and wan/configs; Wan2.2 wan/configs. */
#ifndef MODEL_PIPELINE_TASK_H
#define MODEL_PIPELINE_TASK_H

#include "model/media/camera.h"
#include "model/media/clip_input.h"
#include "model/media/sound_input.h"
#include "model/pipeline/model.h"
#include "model/transformer/conditioning.h"

struct pipeline;
struct plan_input;

/* The inputs other than prompts, with the names of their flags. */
#define TASK_INPUTS(X)                                                                             \
    X(image)                                                                                       \
    X(first_frame)                                                                                 \
    X(last_frame)                                                                                  \
    X(reference_image)                                                                             \
    X(control_video)                                                                               \
    X(camera_control_direction)                                                                    \
    X(control_camera_txt)                                                                          \
    X(input_video)                                                                                 \
    X(src_video)                                                                                   \
    X(src_mask)                                                                                    \
    X(ref_image)                                                                                   \
    X(src_ref_images)                                                                              \
    X(audio)                                                                                       \
    X(pose_video)                                                                                  \
    X(num_clip)                                                                                    \
    X(vace_video)                                                                                  \
    X(vace_video_mask)                                                                             \
    X(vace_reference_image)                                                                        \
    X(infer_frames)                                                                                \
    X(start_from_ref)                                                                              \
    X(enable_tts)                                                                                  \
    X(tts_prompt_audio)                                                                            \
    X(tts_prompt_text)                                                                             \
    X(tts_text)                                                                                    \
    X(vace_scale)                                                                                  \
    X(use_prompt_extend)                                                                           \
    X(prompt_extend_method)                                                                        \
    X(prompt_extend_model)                                                                         \
    X(prompt_extend_target_lang)

#define NUMBER_INPUT(name) INPUT_##name,
enum task_input { TASK_INPUTS(NUMBER_INPUT) INPUT_COUNT };
#undef NUMBER_INPUT

extern const char *const task_input_names[INPUT_COUNT]; // "image", ...

/* The inputs that are an image, or the first frame of a clip: bits 1 << INPUT_*. */
#define TASK_IMAGES                                                                                \
    (1u << INPUT_image | 1u << INPUT_first_frame | 1u << INPUT_last_frame |                        \
     1u << INPUT_reference_image)

/* The inputs that are a clip, or an image as a clip of one frame. */
#define TASK_CLIPS                                                                                 \
    (1u << INPUT_input_video | 1u << INPUT_src_video | 1u << INPUT_src_mask |                      \
     1u << INPUT_control_video | 1u << INPUT_vace_video | 1u << INPUT_vace_video_mask |            \
     1u << INPUT_pose_video)

/* Those of which a request uses all frames, whatever their number. */
#define TASK_WHOLE_CLIPS (1u << INPUT_src_video | 1u << INPUT_src_mask | 1u << INPUT_pose_video)

/* The inputs that are a list of reference images. */
#define TASK_LISTS                                                                                 \
    (1u << INPUT_src_ref_images | 1u << INPUT_vace_reference_image | 1u << INPUT_ref_image)

/* VACE's inputs by DiffSynth's names: then what is made of them is DiffSynth's, too. */
#define TASK_VACE_DIFFSYNTH                                                                        \
    (1u << INPUT_vace_video | 1u << INPUT_vace_video_mask | 1u << INPUT_vace_reference_image)

/* The inputs that are a sound. */
#define TASK_SOUNDS (1u << INPUT_audio)

/* The official program's inputs for speech synthesis, which no task has. */
#define TASK_TTS                                                                                   \
    (1u << INPUT_enable_tts | 1u << INPUT_tts_prompt_audio | 1u << INPUT_tts_prompt_text |         \
     1u << INPUT_tts_text)

/* The inputs that are files, whose contents matter and not their names. */
#define TASK_MEDIA                                                                                 \
    (TASK_IMAGES | TASK_CLIPS | TASK_LISTS | TASK_SOUNDS | 1u << INPUT_control_camera_txt)

/* The inputs that every task allows. */
#define TASK_ANY (1u << INPUT_input_video)

/* The inputs of a request, borrowed from it. */
struct task_inputs {
    const char *prompt, *negative_prompt;
    const char *input[INPUT_COUNT]; // values of their flags; NULL: not given
    // Upright images of TASK_IMAGES, on every rank; w 0: not given. For `size`, and for the plan,
    // only w and h are set.
    struct image image[INPUT_COUNT];
    struct clip_input clip[INPUT_COUNT]; // of TASK_CLIPS, on every rank; pixels on rank 0
    int references;                      // number of the images of TASK_LISTS
    const struct image *reference;       // as `image`
    double vace_scale;
    struct camera_path camera;  // on rank 0; of a plan zeroed
    bool fun_official;          // Fun: as VideoX-Fun, not as DiffSynth, where they differ
    struct sound_input sound;   // of INPUT_audio
    int num_clip, infer_frames; // at most so many clips, 0: any number; frames of a clip
    bool start_from_ref;
    bool speed;           // whether there is a motion_bucket_id
    int motion_bucket_id; // of the motion controller
};

#define TASK_PRESETS_MAX 4

struct task {
    const char *name;                           // "t2v-1.3B"
    const char *presets[TASK_PRESETS_MAX];      // names of its released models (model.h)
    const struct part *parts[MODEL_PART_COUNT]; // the parts that it needs
    unsigned allowed, required;                 // inputs: bits 1 << INPUT_*, beside TASK_ANY
    bool image;                                 // makes one frame, written as .png
    bool prepends; // each reference image is a frame of the latent, before those of the video; they
                   // are not decoded
    bool appends;  // the same, after those of the video

    bool sound; // the video is made of clips, and ends with the sound of --audio, which it gets

    /* defaults of a request */
    int width_px, height_px;
    const char *sizes; // the sizes that the model was trained for, "832*480, 480*832"
    int frames, fps, steps;
    double shift, shift_480; // of the noise schedule; at 832*480 and 480*832, if that is not 0
    double guide_image;      // scale of the reference images, of Phantom's guidance; 0: none
    double guidance[2];      // low noise, high noise, as in the official configs
    double boundary;      // the first of two experts computes timesteps >= boundary; 0: one expert
    const char *prompt;   // the official example
    const char *negative; // also used for an empty negative prompt

    /* Checks the requested size [width, height] in pixels and number of frames, or computes them
     * from the inputs. Local. ST_USAGE. */
    status (*size)(const struct task_inputs *in, int size[2], int *frames);

    /* Adds the arrays of the conditioning to *c, which is empty or has the texts. p NULL: for a
     * plan, shapes only, and what is encoded is noted in *plan; local. Else collective over the
     * pipeline's world, and all ranks return the same status. The member is NULL for a task of the
     * official programs that this version does not run. */
    status (*condition)(struct pipeline *p, struct plan_input *plan, const struct task_inputs *in,
                        struct conditioning *c);
};

/* The sides of its videos are multiples of so many pixels. */
int task_grid(const struct task *task);

const struct task *task_at(int index);   // all rows in order; NULL after the last one
bool task_runs(const struct task *task); // whether this version runs it

/* Finds a task by name. ST_USAGE for an unknown name, with the most similar one, and for a task
 * that this version does not run. Local, as the functions below. */
status task_find(const struct task **task, const char *name);

/* The first task that can run with a checkpoint whose part_dit is open: a task of the released
 * model that it is, or for another model, a task with the same features. ST_FORMAT if this version
 * has none; ST_MEMORY. */
status task_for_checkpoint(const struct task **task, const struct checkpoint *c);

/* The first task that can run with a preset, chosen in the same way; NULL if this version has none.
 */
const struct task *task_for_preset(const struct preset *preset);

/* ST_USAGE if the task cannot run with the checkpoint, whose part_dit is open; the line names the
 * tasks that can. ST_FORMAT if this version has none; ST_MEMORY. */
status task_check(const struct task *task, const struct checkpoint *c);

/* ST_USAGE for an input that the task does not use, or that it requires and is missing. `given`:
 * bits 1 << INPUT_*. */
status task_check_inputs(const struct task *task, unsigned given);

#endif
