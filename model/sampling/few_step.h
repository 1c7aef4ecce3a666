/* few_step.h - the sampling settings of distilled models, which need few steps and no guidance: a
 * row per preset in few_step.c. The settings belong to the weights, be they a checkpoint or a LoRA;
 * another schedule gives blurred or noisy videos.
 *
 * Sources, per row, are in few_step.c. */
#ifndef MODEL_SAMPLING_FEW_STEP_H
#define MODEL_SAMPLING_FEW_STEP_H

#include "model/sampling/schedule.h"

#define FEW_STEP_LIST_MAX 10

struct few_step {
    const char *name;  // "lightx2v-4"
    const char *what;  // the weights that it is for
    const char *words; // in the names of their files, lower case, separated by spaces; "": none
    int experts;       // of their model; 0: one or two
    enum solver_kind solver;
    int steps;
    double list[FEW_STEP_LIST_MAX]; // of schedule_init_list; list[0] 0: none
    bool warp;                      // of the list
    double shift;                   // not used by rCM
    double sigma_max;               // of schedule_init_rcm; 0: no rCM
    double guidance;
    int boundary_step; // the first step of the second expert; 0: by the timestep
    double boundary;   // as in struct task, of 1; 0: the task's
};

const struct few_step *few_step_at(int index); // in order; NULL after the last one

/* Finds a preset by name. ST_USAGE for an unknown name, with the most similar one. */
status few_step_find(const struct few_step **f, const char *name);

/* The preset of which `text`, a file name or a line about the weights, has a word, for a model with
 * so many experts; NULL: none. *word, *length: where in `text`. */
const struct few_step *few_step_recognize(const char *text, int experts, const char **word,
                                          int *length);

#endif
