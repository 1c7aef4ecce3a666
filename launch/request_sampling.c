/* The sampling settings of a request: presets, lists of steps, the schedule that follows. */
#include "launch/request_internal.h"
#include "model/lora/lora.h"
#include "runtime/readfile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void default_int(int *field, int value)
{
    *field = *field < 0 ? value : *field;
}

static void default_double(double *field, double value)
{
    *field = *field < 0 ? value : *field;
}

static int experts_of(const struct task *task)
{
    return task->boundary > 0 ? 2 : 1;
}

/* Copies what the preset sets to the fields that were not given. */
static status fill_preset(struct request *r)
{
    const struct few_step *f;
    int count = 0;

    if (r->preset == NULL)
        return ST_OK;
    TRY(few_step_find(&f, r->preset));
    if (f->experts != 0 && f->experts != experts_of(r->task))
        return fail(ST_USAGE, "--preset %s is for models with %s; that of task %s has %s", f->name,
                    f->experts == 2 ? "two experts" : "one transformer", r->task_name,
                    f->experts == 2 ? "one" : "two experts");
    while (count < FEW_STEP_LIST_MAX && f->list[count] != 0)
        count++;
    if (count > 0 && r->denoising_steps.count == 0 && r->sigma_max < 0) {
        if (r->sample_steps >= 0 && r->sample_steps != count)
            return fail(ST_USAGE,
                        "--sample_steps %d: --preset %s has a list of %d steps; pass other steps "
                        "as a list, --denoising_steps",
                        r->sample_steps, f->name, count);
        memcpy(r->denoising_steps.value, f->list, (size_t)count * sizeof(f->list[0]));
        r->denoising_steps.count = count;
    }
    if (count > 0 && r->denoising_steps.count > 0)
        default_int(&r->warp_denoising_step, f->warp);
    if (f->sigma_max > 0 && r->denoising_steps.count == 0)
        default_double(&r->sigma_max, f->sigma_max);
    if (r->denoising_steps.count == 0)
        default_int(&r->sample_steps, f->steps);
    default_int(&r->sample_solver, (int)f->solver);
    if (f->shift > 0)
        default_double(&r->sample_shift, f->shift);
    default_double(&r->sample_guide_scale[0], f->guidance);
    default_double(&r->sample_guide_scale[1], f->guidance);
    if (experts_of(r->task) == 2 && r->boundary < 0 && r->boundary_step_index < 0) {
        if (f->boundary_step > 0 && r->sample_steps == f->steps && !(r->denoising_strength >= 0))
            r->boundary_step_index = f->boundary_step;
        else if (f->boundary > 0)
            r->boundary = f->boundary;
    }
    return ST_OK;
}

/* Removes the 0 with which the lists of some programs end, and checks the rest. */
static status check_list(struct number_list *list)
{
    const int last = list->count - 1;

    if (last >= 0 && list->value[last] == 0)
        list->count--;
    if (last == 0 && list->count == 0)
        return fail(ST_USAGE, "--denoising_steps 0: a list of steps falls from at most 1000 to a "
                              "number above 0");
    for (int i = 0; i < list->count; i++) {
        if (list->value[i] == 0 || (i > 0 && list->value[i] >= list->value[i - 1]))
            return fail(ST_USAGE,
                        "--denoising_steps: step %d is %g: each must be above 0 and below the one "
                        "before",
                        i + 1, list->value[i]);
    }
    return ST_OK;
}

/* ---- what the weights look like ---- */

/* Looks for a preset's word in `text`: `what` of the file `path`. */
static void recognize(struct request *r, const char *text, const char *what, const char *path,
                      int experts)
{
    const char *slash = strrchr(path, '/'), *word;
    int length;

    if (r->looks_like != NULL)
        return;
    r->looks_like = few_step_recognize(text, experts, &word, &length);
    if (r->looks_like != NULL)
        snprintf(r->looks_by, sizeof(r->looks_by), "'%.*s' is in the %s of %s", length, word, what,
                 slash != NULL ? slash + 1 : path);
}

static void recognize_name(struct request *r, const char *path, int experts)
{
    const char *slash = strrchr(path, '/');

    recognize(r, slash != NULL ? slash + 1 : path, "name", path, experts);
}

/* The names of the files, and what trainers write into them. */
static void recognize_files(struct request *r, const struct tensorfile *f, int experts)
{
    static const char *const keys[] = { "modelspec.title", "ss_output_name" };

    for (int i = 0; i < f->files; i++) {
        recognize_name(r, tensorfile_path(f, i), experts);
        for (size_t k = 0; k < COUNT(keys); k++) {
            char *value = NULL;

            if (tensorfile_metadata(f, i, keys[k], &value) == ST_OK && value != NULL)
                recognize(r, value, keys[k], tensorfile_path(f, i), experts);
            free(value);
        }
    }
}

/* The LoRAs of a flag; one that cannot be read is an error later. */
static void recognize_loras(struct request *r, const char *list, int experts)
{
    while (list != NULL && *list != 0) {
        const size_t length = strcspn(list, "\n");
        char *item = strndup(list, length);
        struct lora_use use = { 0 };
        struct tensorfile f = { 0 };

        if (item != NULL && lora_parse(&use, item) == ST_OK &&
            tensorfile_open(&f, (const char *const[]){ use.path }, 1) == ST_OK)
            recognize_files(r, &f, experts);
        tensorfile_close(&f);
        free(use.path);
        free(item);
        list += length + (list[length] != 0);
    }
}

/* Diffusers' folders name the class of their pipeline. */
static void recognize_index(struct request *r, const char *folder, int experts)
{
    char *path = NULL, *text = NULL;

    if (asprintf(&path, "%s/model_index.json", folder) >= 0 && access(path, R_OK) == 0 &&
        readfile_text(path, 1 << 20, &text) == ST_OK)
        recognize(r, text, "text", path, experts);
    free(path);
    free(text);
}

void request_note_preset(struct request *r, const struct request *job)
{
    r->looks_like = job->looks_like;
    memcpy(r->looks_by, job->looks_by, sizeof(r->looks_by));
}

void request_recognize(struct request *r, struct checkpoint *c)
{
    const char *const loras[] = { r->lora, r->lora_high, r->lora_low };
    bool two = false;
    int experts;

    if (r->preset != NULL || r->resume != NULL || r->sample_steps >= 0 || r->sigma_max >= 0 ||
        r->denoising_steps.count > 0)
        return;
    experts = checkpoint_has(&two, c, &part_dit_low) == ST_OK && two ? 2 : 1;
    recognize_name(r, c->path, experts);
    recognize_files(r, checkpoint_file(c, &part_dit), experts);
    if (r->dit_low != NULL)
        recognize_name(r, r->dit_low, experts);
    for (size_t i = 0; i < COUNT(loras); i++)
        recognize_loras(r, loras[i], experts);
    if (r->looks_like == NULL)
        recognize_index(r, c->folder, experts);
}

/* ---- what is not given ---- */

static double strength_of(const struct request *r)
{
    return r->denoising_strength > 0 ? r->denoising_strength : 1;
}

/* Sets r->steps. */
static status count_steps(struct request *r)
{
    struct schedule s = { 0 };
    char line[200];
    status st;

    r->steps = r->sample_steps;
    if (strength_of(r) == 1 || (r->denoising_steps.count == 0 && r->sigma_max < 0))
        return ST_OK;
    st = request_schedule(&s, r);
    r->steps = s.steps;
    schedule_done(&s);
    if (st != ST_USAGE)
        return st;
    snprintf(line, sizeof(line), "%s", status_line());
    return fail(st, "--denoising_strength %g: %s", r->denoising_strength, line);
}

status request_fill_sampling(struct request *r, double shift)
{
    const struct task *task = r->task;

    TRY(check_list(&r->denoising_steps));
    TRY(fill_preset(r));
    if (r->denoising_steps.count > 0) {
        default_int(&r->sample_steps, r->denoising_steps.count);
        default_int(&r->sample_solver, SOLVER_EULER);
    } else if (r->sigma_max >= 0) {
        default_int(&r->sample_steps, RCM_STEPS_MAX);
        default_int(&r->sample_solver, SOLVER_RENOISE);
    }
    default_int(&r->sample_steps, task->steps);
    default_int(&r->sample_solver, SOLVER_UNIPC);
    default_double(&r->sample_shift, shift);
    default_double(&r->sample_guide_scale[0], task->guidance[0]);
    default_double(&r->sample_guide_scale[1], task->guidance[1]);
    if (task->guide_image > 0)
        default_double(&r->guide_image, task->guide_image);
    if (r->input[INPUT_input_video] != NULL)
        default_double(&r->denoising_strength, 1);
    return count_steps(r);
}

status request_check_video(const struct request *r, bool whole)
{
    if (r->denoising_strength == 0)
        return fail(ST_USAGE, "--denoising_strength 0 gives the clip no noise to remove: pass a "
                              "number above 0, up to 1");
    if (r->denoising_strength >= 0 && r->input[INPUT_input_video] == NULL && whole)
        return fail(ST_USAGE, "--denoising_strength needs --input_video FILE");
    if (r->denoising_strength >= 0 && r->denoising_strength < 1 && r->calibrate_cache != NULL)
        return fail(ST_USAGE, "--calibrate_cache measures a whole schedule: remove "
                              "--denoising_strength");
    for (int i = 0; i < INPUT_COUNT; i++)
        if (((TASK_CLIPS & ~TASK_WHOLE_CLIPS) >> i & 1) != 0 && r->clips[i].w > 0)
            TRY(request_check_length(r, i));
    return ST_OK;
}

status request_check_length(const struct request *r, int input)
{
    const int64_t has = r->clips[input].frames;
    char shorter[40] = "";

    if (has >= r->frame_num)
        return ST_OK;
    if (has > 0)
        snprintf(shorter, sizeof(shorter), ", or --frame_num %d", (int)(has - 1) / 4 * 4 + 1);
    return fail(ST_USAGE,
                "--%s %s: it has %lld frames, and --frame_num %d needs as many: pass a "
                "longer clip%s",
                task_input_names[input], r->input[input], (long long)has, r->frame_num, shorter);
}

status request_check_sampling(const struct request *r)
{
    const enum solver_kind solver = (enum solver_kind)r->sample_solver;
    const int listed = r->denoising_steps.count;

    if (listed > 0 && r->sigma_max >= 0)
        return fail(ST_USAGE, "--denoising_steps and --sigma_max both say what the steps are: "
                              "remove one of them");
    if (listed > 0 && r->sample_steps != listed)
        return fail(ST_USAGE, "--sample_steps %d: --denoising_steps has %d; remove one of them",
                    r->sample_steps, listed);
    if ((listed > 0 || r->sigma_max >= 0) && !solver_takes_list(solver))
        return fail(ST_USAGE, "--%s needs --sample_solver euler or renoise, not %s",
                    listed > 0 ? "denoising_steps" : "sigma_max", solver_name(solver));
    if (r->warp_denoising_step >= 0 && listed == 0)
        return fail(ST_USAGE, "--warp_denoising_step needs --denoising_steps");
    if (r->sigma_max >= 0 && r->sample_steps > RCM_STEPS_MAX)
        return fail(ST_USAGE, "--sample_steps %d: the steps of --sigma_max are at most %d",
                    r->sample_steps, RCM_STEPS_MAX);
    if (r->sigma_max >= 0 && request_given(r, AT(sample_shift)))
        return fail(ST_USAGE, "--sample_shift is not used with --sigma_max; remove it");
    if (r->boundary >= 0 && r->boundary_step_index >= 0)
        return fail(ST_USAGE, "--boundary and --boundary_step_index both choose the second "
                              "expert's steps: remove one of them");
    if (r->boundary_step_index > r->sample_steps)
        return fail(ST_USAGE, "--boundary_step_index %d: there are %d steps",
                    r->boundary_step_index, r->sample_steps);
    return request_check_guidance(r);
}

status request_schedule(struct schedule *s, const struct request *r)
{
    const enum solver_kind solver = (enum solver_kind)r->sample_solver;
    const struct number_list *list = &r->denoising_steps;
    const double strength = strength_of(r), shift = r->sigma_max >= 0 ? 1 : r->sample_shift;
    status st;

    if (list->count == 0 && r->sigma_max < 0)
        return schedule_init_partial(s, solver, r->sample_steps, shift, strength);
    if (list->count > 0)
        TRY(schedule_init_list(s, solver, list->value, list->count, shift,
                               r->warp_denoising_step != 0));
    else
        TRY(schedule_init_rcm(s, solver, r->sample_steps, r->sigma_max));
    st = strength < 1 ? schedule_start_below(s, shift * strength / (1 + (shift - 1) * strength))
                      : ST_OK;
    if (st != ST_OK)
        schedule_done(s);
    return st;
}

double request_start(const struct request *r)
{
    const int removed = r->sample_steps - r->steps;

    return removed > 0 ? (double)removed / r->sample_steps : 1 - strength_of(r);
}

int request_low_from(const struct request *r, const struct schedule *s)
{
    if (r->task->boundary == 0)
        return s->steps;
    if (r->boundary_step_index >= 0) { // among all steps of a list
        const int removed = r->sample_steps - s->steps;

        return r->boundary_step_index > removed ? r->boundary_step_index - removed : 0;
    }
    return schedule_below(s, r->boundary >= 0 ? r->boundary * 1000 : r->task->boundary);
}

int request_prompts(const struct request *r)
{
    return r->text_file != NULL ? 0 : request_guided(r) ? 2 : 1;
}

void request_scales(char *text, size_t size, const double scales[2])
{
    const int n = snprintf(text, size, "%g", scales[0]);

    if (scales[1] != scales[0])
        snprintf(text + n, size - (size_t)n, ",%g", scales[1]);
}

/* Appends to text[size]; *used is its length, at most `size`. */
static void add(char *text, size_t size, size_t *used, const char *format, double value)
{
    if (*used < size)
        *used += (size_t)snprintf(text + *used, size - *used, format, value);
}

void request_sampling(char *text, size_t size, const struct request *r)
{
    const struct number_list *list = &r->denoising_steps;
    char guidance[24];
    size_t used = (size_t)snprintf(text, size, "%d steps", r->steps);

    for (int i = 0; i < r->steps && list->count > 0; i++)
        add(text, size, &used, i == 0 ? " %g" : ",%g", list->value[list->count - r->steps + i]);
    if (r->sample_solver != SOLVER_UNIPC && used < size)
        used += (size_t)snprintf(text + used, size - used, " of %s",
                                 solver_name((enum solver_kind)r->sample_solver));
    if (r->sigma_max >= 0)
        add(text, size, &used, ", sigma_max %g", r->sigma_max);
    else
        add(text, size, &used, ", shift %g", r->sample_shift);
    if (list->count > 0 && r->sample_shift != 1 && used < size)
        used += (size_t)snprintf(text + used, size - used, " (%s in the list)",
                                 r->warp_denoising_step == 0 ? "already" : "not yet");
    if (r->denoising_strength >= 0)
        add(text, size, &used, ", strength %g", r->denoising_strength);
    request_scales(guidance, sizeof(guidance), r->sample_guide_scale);
    if (used < size)
        used += (size_t)snprintf(text + used, size - used, ", guidance %s", guidance);
    if (r->boundary_step_index >= 0)
        add(text, size, &used, ", low noise from step %g on", r->boundary_step_index + 1);
    else if (r->boundary >= 0)
        add(text, size, &used, ", low noise below %g", r->boundary);
}

/* Copies a JSON value as a flag takes it: without quotes, brackets and spaces. */
static void flag_value(char *out, const char *json)
{
    for (; *json != 0; json++)
        if (strchr("\"[] ", *json) == NULL)
            *out++ = *json;
    *out = 0;
}

status request_preset(char *text, size_t size, const struct request *r)
{
    const struct option_set set = { request_rows, request_row_count, (void *)r, NULL };
    size_t used = 0;

    text[0] = 0;
    for (int i = 0; i < request_row_count && used < size; i++) {
        const struct option *row = &request_rows[i];
        char json[600], value[600];

        if ((row->marks & SAMPLING) == 0 || r->given[i] || !options_is_set(&set, i) ||
            (row->offset == AT(sample_steps) && r->denoising_steps.count > 0) ||
            (row->offset == AT(sample_shift) && r->sigma_max >= 0))
            continue;
        TRY(options_value(&set, i, json, sizeof(json)));
        flag_value(value, json);
        used += (size_t)snprintf(text + used, size - used, " --%s %s", row->name, value);
    }
    return ST_OK;
}
