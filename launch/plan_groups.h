/* plan_groups.h - which --groups of `batch` makes the most videos per hour on a machine: every
 * number that divides the ranks is planned as `batch` would run it. All functions are local. */
#ifndef LAUNCH_PLAN_GROUPS_H
#define LAUNCH_PLAN_GROUPS_H

#include "kernels/rates.h"
#include "launch/fit.h"

struct cJSON;

/* What is made, and with what. All is borrowed. */
struct groups_input {
    const struct request **requests; // complete, of one batch
    int count;
    int prompts; // number of texts that are encoded
    const struct model *model;
    const struct table *table;
    const struct rates *rates;
    struct fit_machine machine;
    int ranks, ranks_per_node;
};

struct grouping {
    int groups, ranks;      // their number, and the ranks of each
    struct mesh_shape mesh; // of a group
    bool fsdp, fits;
    double device, node; // bytes: of the GPU and of the node that need the most
    double video_s;      // of a request, or the mean of all, from the first step to the last frame
    double total_s;      // of all requests, taken in their order by the group that is free first
    double per_hour;     // videos, while no group waits for work
    char why[200];       // why it is impossible; "" if it is not
};

/* The ranks of a group that share a node, where the groups have `ranks` ranks each. */
int groups_per_node(int ranks, int ranks_per_node);

/* Fills *list, which the caller frees, with the plans of all numbers of groups, one group first.
 * *best: the index of that which makes the most videos per hour, for several requests of that which
 * makes them all in the shortest time, of those that fit; -1: none fits. ST_MEMORY, ST_USAGE. */
status groups_plan(struct grouping **list, int *count, int *best, const struct groups_input *in);

/* Prints a table; adds "groupings" and "best_groups" to a JSON object; prints such an object for a
 * batch (ST_MEMORY, ST_IO). */
void groups_print(const struct grouping *list, int count, int best, const struct groups_input *in);
void groups_json(struct cJSON *json, const struct grouping *list, int count, int best);
status groups_print_json(const struct grouping *list, int count, int best,
                         const struct groups_input *in);

#endif
