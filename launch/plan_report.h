/* plan_report.h - what `wanmpi plan` prints, as text or as JSON (its keys: README.md). */
#ifndef LAUNCH_PLAN_REPORT_H
#define LAUNCH_PLAN_REPORT_H

#include "kernels/rates.h"
#include "launch/machine.h"
#include "launch/plan_groups.h"
#include "launch/plan_meshes.h"

/* One group of ranks makes the request; with --groups there are more of them. */
struct plan_report {
    const struct request *request;
    const struct plan_input *in;   // of a group
    const struct plan_rank *ranks; // [in->ranks]
    const struct rates *rates;
    const struct machine *described; // NULL: this machine
    struct fit_machine machine;      // INFINITY: not known
    int most;                        // the rank of `needs`
    struct fit_rank needs;           // of the rank that needs the most
    double node;                     // host memory that the ranks of its node need
    bool fits, chose_fsdp;           // chose_fsdp: sharded since it does not fit otherwise
    char advice[256];                // what would fit, if it does not

    int groups, ranks_per_node;              // of the job; several groups may share a node
    const struct groups_input *groups_input; // with --groups; else NULL
    struct grouping *groupings;
    int groupings_count, groupings_best;
    struct mesh_plan *meshes; // with --meshes; else NULL
    int meshes_count;
};

void plan_print(const struct plan_report *r);
status plan_print_json(const struct plan_report *r); // ST_MEMORY, ST_IO

#endif
