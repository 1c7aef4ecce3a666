/* plan_meshes.h - all meshes of a request's ranks, by their time as `plan` estimates it. All
 * functions are local. */
#ifndef LAUNCH_PLAN_MESHES_H
#define LAUNCH_PLAN_MESHES_H

#include "launch/fit.h"

struct cJSON;

struct mesh_plan {
    struct mesh_shape mesh;
    bool chosen; // the plan's mesh
    bool fits;
    double device;          // bytes of the GPU, or on CPUs of the rank, that needs the most
    double step_s, total_s; // of the slowest rank in each stage
    double waited_s;        // of step_s, for messages
    double sent, across;    // bytes that a rank sends in a step, and of them to other nodes
};

/* Fills *list, which the caller frees, with the plans of all meshes of the same ranks, with the
 * settings of `in`, the fastest of those that fit first. Meshes with ranks that have no heads are
 * left out. ST_MEMORY. */
status meshes_plan(struct mesh_plan **list, int *count, const struct plan_input *in,
                   const struct fit_machine *machine);

void meshes_print(const struct mesh_plan *list, int count);
void meshes_json(struct cJSON *json, const struct mesh_plan *list, int count);

#endif
