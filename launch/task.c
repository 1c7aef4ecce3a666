#include "launch/task.h"

#include "launch/options.h"
#include "model/pipeline/prompts.h"

#include <string.h>

#define CATS                                                                                       \
    "Two anthropomorphic cats in comfy boxing gear and bright gloves fight intensely on a "        \
    "spotlighted stage."

#define SIZES_480 "480*832, 832*480"
#define SIZES_720 "720*1280, 1280*720, 480*832, 832*480"

static const struct task tasks[] = {
    { .name = "t2v-1.3B",
      .preset = "t2v-1.3B",
      .width_px = 832,
      .height_px = 480,
      .sizes = SIZES_480,
      .frames = 81,
      .fps = 16,
      .steps = 50,
      .shift = 5,
      .guidance = 5,
      .prompt = CATS,
      .negative = negative_shared },
    { .name = "t2v-14B",
      .preset = "t2v-14B",
      .width_px = 1280,
      .height_px = 720,
      .sizes = SIZES_720,
      .frames = 81,
      .fps = 16,
      .steps = 50,
      .shift = 5,
      .guidance = 5,
      .prompt = CATS,
      .negative = negative_shared },
    { .name = "t2i-14B",
      .preset = "t2v-14B",
      .image = true,
      .width_px = 1280,
      .height_px = 720,
      .sizes = SIZES_720 ", 1024*1024",
      .frames = 1,
      .fps = 16,
      .steps = 50,
      .shift = 5,
      .guidance = 5,
      .prompt = "一个朴素端庄的美人",
      .negative = negative_shared },
};

/* Tasks of the official programs that this version knows by name only. */
static const char *const others[] = {
    "i2v-14B",  "flf2v-14B", "vace-1.3B", "vace-14B",    "t2v-A14B",
    "i2v-A14B", "ti2v-5B",   "s2v-14B",   "animate-14B",
};

const struct task *task_at(int index)
{
    return index >= 0 && index < (int)COUNT(tasks) ? &tasks[index] : NULL;
}

status task_find(const struct task **task, const char *name)
{
    const char *known[COUNT(tasks) + COUNT(others)];
    const char *near = NULL;
    int n = 0;

    for (size_t i = 0; i < COUNT(tasks); i++) {
        if (strcmp(tasks[i].name, name) == 0) {
            *task = &tasks[i];
            return ST_OK;
        }
        known[n++] = tasks[i].name;
    }
    for (size_t i = 0; i < COUNT(others); i++) {
        if (strcmp(others[i], name) == 0)
            return fail(ST_USAGE,
                        "--task %s: this version does text to video only: t2v-1.3B, "
                        "t2v-14B or t2i-14B",
                        name);
        known[n++] = others[i];
    }
    near = options_nearest(name, known, n);
    if (near != NULL)
        return fail(ST_USAGE, "--task %s: no such task; did you mean %s?", name, near);
    return fail(ST_USAGE, "--task %s: no such task; choose t2v-1.3B, t2v-14B or t2i-14B", name);
}
