/* fit.h - whether requests fit into the memory of the machine, and what would make them fit. */
#ifndef LAUNCH_FIT_H
#define LAUNCH_FIT_H

#include "launch/request.h"
#include "model/pipeline/plan.h"

/* The memory that a rank needs, and that it has, in bytes. */
struct fit_rank {
    double device, host; // needed at most, in all; without a GPU everything is in `host`, and
                         // `device` is what --vram_limit counts; what ranks
                         // of a node share is in that of the first
    double device_free;  // of its GPU, before CUDA is loaded
    double host_free;    // of its node, for all ranks of the node together
    int node;            // the same for the ranks of one node
};

/* What a rank with this plan needs. */
struct fit_rank fit_of(const struct plan_input *plan, int rank, const struct plan_rank *p);

/* Computes what `rank` needs to run the requests one after the other, which differ in sizes and
 * steps only. Local. Errors as plan_rank. */
status fit_needs(const struct plan_input *plans, int count, int rank, struct fit_rank *out);

/* The first rank that needs more than its GPU has, or than its node has for the sum of its ranks;
 * -1: all ranks fit. */
int fit_first(const struct fit_rank *ranks, int count);

/* Finds the most blocks that can stay on the device, if any are offloaded: the largest
 * plans[0 .. count).resident with which `fits` is true. It is true for the number that they have.
 */
status fit_resident(struct plan_input *plans, int count, const struct request *r,
                    status (*fits)(void *payload, bool *fits), void *payload);

/* Host memory that all ranks of the node of ranks[i] need, and their number. */
double fit_node(const struct fit_rank *ranks, int count, int i, int *local);

/* A machine of equal nodes; their number is that of the plan's ranks. */
struct fit_machine {
    int gpus;      // of a node; 0: ranks run on CPUs
    double device; // bytes free on a GPU before CUDA is loaded
    double host;   // bytes free on a node
};

/* Whether all ranks fit on such a machine; false, too, if plan_rank fails. */
bool fit_on(const struct plan_input *plans, int count, const struct fit_machine *m);

/* Writes what would make requests fit that do not: "with --dit_fsdp it would fit" or "with
 * --vae_precision bf16 it would fit; unchanged on 2 GPUs with --dit_fsdp". Tries settings that do
 * not change the result, then more ranks and settings that do, then fewer frames. r: the request,
 * if there is one only; else NULL. */
void fit_advice(char *text, size_t size, const struct request *r, const struct plan_input *plans,
                int count, const struct fit_machine *m);

#endif
