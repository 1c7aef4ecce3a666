#include "model/sampling/few_step.h"

#include "runtime/nearest.h"

#include <string.h>

/* Four or more equal steps of Euler with shift 5: lists 1000, 750, 500, 250 before the shift. */
#define EULER_5 .solver = SOLVER_EULER, .shift = 5, .guidance = 1
/* The list of CausVid and FastVideo. */
#define DMD_3                                                                                      \
    .solver = SOLVER_RENOISE, .steps = 3, .list = { 1000, 757, 522 }, .shift = 8, .guidance = 1
#define RCM_4 .solver = SOLVER_RENOISE, .steps = RCM_STEPS_MAX, .guidance = 1

static const struct few_step presets[] = {
    // LightX2V configs/meanflow: denoising_step_list 1000, 500
    { .name = "meanflow-2",
      .what = "LightX2V's MeanFlow distillation of Wan2.1",
      .words = "meanflow mean_flow",
      .experts = 1,
      .steps = 2,
      EULER_5 },
    // LightX2V configs/distill: denoising_step_list, boundary_step_index 2
    { .name = "lightx2v-4",
      .what = "LightX2V's 4-step distillations of Wan2.1 and Wan2.2, weights or LoRA",
      .words = "lightx2v stepdistill step_distill",
      .steps = 4,
      .boundary_step = 2,
      EULER_5 },
    // the list that its authors give for 8 steps
    { .name = "lightx2v-8",
      .what = "the same in 8 steps, for more motion",
      .words = "",
      .steps = 8,
      EULER_5 },
    // Wan2.2-Lightning wan/configs: sample_steps 4, sample_shift 5, guidance 1, euler
    { .name = "lightning-4",
      .what = "Wan2.2-Lightning, LoRAs of A14B",
      .words = "lightning",
      .experts = 2,
      .steps = 4,
      EULER_5 },
    // FastVideo DmdDenoisingStage: always shift 8
    { .name = "fastwan-3",
      .what = "FastWan2.1 and FastWan2.2",
      .words = "fastwan wandmd",
      .experts = 1,
      DMD_3 },
    // CausVid configs/wan_bidirectional_dmd.yaml
    { .name = "causvid-3",
      .what = "CausVid's bidirectional weights of 1.3B",
      .words = "",
      .experts = 1,
      DMD_3 },
    // ComfyUI-WanVideoWrapper flowmatch_causvid; LightX2V configs/causvid
    { .name = "causvid-9",
      .what = "CausVid's LoRA of 14B",
      .words = "causvid",
      .experts = 1,
      .solver = SOLVER_EULER,
      .steps = 9,
      .list = { 999, 934, 862, 756, 603, 410, 250, 140, 74 },
      .warp = true,
      .shift = 1,
      .guidance = 1 },
    // AccVideo README: sample_solver unipc, sample_steps 10
    { .name = "accvideo-10",
      .what = "AccVideo's weights or LoRA of Wan2.1 14B",
      .words = "accvid",
      .experts = 1,
      .solver = SOLVER_UNIPC,
      .steps = 10,
      .shift = 5,
      .guidance = 1 },
    // radial-attention scripts for FusionX
    { .name = "fusionx-8",
      .what = "FusionX, weights or LoRA of Wan2.1 14B",
      .words = "fusionx fusionix",
      .experts = 1,
      .solver = SOLVER_UNIPC,
      .steps = 8,
      .shift = 2,
      .guidance = 1 },
    // TurboDiffusion inference/wan2.1_t2v_infer.py; wan2.2_i2v_infer.py
    { .name = "turbowan-4",
      .what = "TurboWan2.1 and rCM",
      .words = "turbowan rcm-wan rcm_wan",
      .experts = 1,
      .sigma_max = 80,
      RCM_4 },
    { .name = "turbowan-i2v-4",
      .what = "TurboWan2.2-I2V-A14B",
      .words = "turbowan",
      .experts = 2,
      .sigma_max = 200,
      .boundary = 0.9,
      RCM_4 },
};

const struct few_step *few_step_at(int index)
{
    return index >= 0 && index < (int)COUNT(presets) ? &presets[index] : NULL;
}

status few_step_find(const struct few_step **f, const char *name)
{
    const char *known[COUNT(presets)], *near;

    for (size_t i = 0; i < COUNT(presets); i++) {
        known[i] = presets[i].name;
        if (strcmp(presets[i].name, name) == 0) {
            *f = &presets[i];
            return ST_OK;
        }
    }
    near = nearest_word(name, known, COUNT(known));
    return near != NULL
               ? fail(ST_USAGE, "--preset %s: no such preset; did you mean %s?", name, near)
               : fail(ST_USAGE, "--preset %s: no such preset; wanmpi generate --help lists them",
                      name);
}

const struct few_step *few_step_recognize(const char *text, int experts, const char **word,
                                          int *length)
{
    for (size_t i = 0; i < COUNT(presets); i++) {
        const struct few_step *f = &presets[i];

        if (f->experts != 0 && f->experts != experts)
            continue;
        for (const char *w = f->words; *w != 0; w += strspn(w, " ")) {
            char one[24] = "";
            const char *found;

            *length = (int)strcspn(w, " ");
            memcpy(one, w, (size_t)*length);
            found = strcasestr(text, one);
            w += *length;
            if (found == NULL)
                continue;
            *word = found;
            return f;
        }
    }
    return NULL;
}
