/* Remarks about a request that are not errors. */
#include "launch/request_internal.h"

#include <stdio.h>
#include <string.h>

/* Whether the task's model was trained for the size. */
static bool is_trained_size(const struct request *r)
{
    char size[32];
    const char *found = NULL;

    snprintf(size, sizeof(size), "%d*%d", r->size[0], r->size[1]);
    found = strstr(r->task->sizes, size);
    // compares whole list entries: "20*1280" is not in "720*1280"
    return found != NULL && (found == r->task->sizes || found[-1] == ' ') &&
           (found[strlen(size)] == ',' || found[strlen(size)] == 0);
}

const char *request_note(const struct request *r, int index)
{
    static _Thread_local char note[400];

    if (!is_trained_size(r) && index-- == 0) {
        snprintf(note, sizeof(note),
                 "size %d*%d is not one of the sizes that %s was trained for: %s", r->size[0],
                 r->size[1], r->task_name, r->task->sizes);
        return note;
    }
    if (((r->width >= 0 && r->width != r->size[0]) || (r->height >= 0 && r->height != r->size[1]) ||
         (r->num_frames >= 0 && r->num_frames != r->frame_num)) &&
        index-- == 0) {
        snprintf(note, sizeof(note),
                 "width, height and frames are rounded up to %d*%d and %d, as "
                 "DiffSynth does",
                 r->size[0], r->size[1], r->frame_num);
        return note;
    }
    if (r->text_file != NULL &&
        (request_given(r, AT(prompt)) || request_given(r, AT(negative_prompt))) && index-- == 0)
        return "the prompts are not used: --text has their embeddings";
    if (r->noise_file != NULL && !r->base_seed.given && request_given(r, AT(base_seed)) &&
        index-- == 0)
        return "the seed is not used: --noise has the noise";
    if (!request_guided(r) && r->text_file == NULL && request_given(r, AT(negative_prompt)) &&
        index-- == 0)
        return "the negative prompt is not used: with guidance 1 only the prompt's branch is "
               "computed";
    if (r->cfg_merge == 1 && index-- == 0)
        return "--cfg_merge is not needed: both branches have the same bits one after the other";
    if (r->preset != NULL && request_guided(r) && index-- == 0)
        return "models that were distilled are for guidance 1: with more the video may be blurred";
    if (r->looks_like != NULL && index-- == 0) {
        snprintf(note, sizeof(note), "this looks like %s, as %s; if so: --preset %s",
                 r->looks_like->what, r->looks_by, r->looks_like->name);
        return note;
    }
    if (r->default_negative && request_guided(r) && index-- == 0)
        return "the negative prompt is empty: the task's default is used, as in the official "
               "program; \" \" is a negative prompt without words";
    for (int i = 0; i < INPUT_COUNT; i++) {
        if ((r->turned >> i & 1) == 0 || index-- != 0)
            continue;
        snprintf(note, sizeof(note),
                 "--%s is turned upright, as its EXIF orientation says; the official program uses "
                 "it as it is stored",
                 task_input_names[i]);
        return note;
    }
    if (r->tiled && index == 0 &&
        (r->tile_stride[0] == r->tile_size[0] || r->tile_stride[1] == r->tile_size[1]))
        return "tiles do not overlap, as --tile_stride is --tile_size: their borders will be "
               "visible";
    return NULL;
}
