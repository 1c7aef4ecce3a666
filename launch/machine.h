/* machine.h - the machine that `plan` is for: this one, or one that flags describe. Of a described
 * machine, what the flags leave open is that of a kind of machine, a row of a table. All functions
 * are local. */
#ifndef LAUNCH_MACHINE_H
#define LAUNCH_MACHINE_H

#include "kernels/rates.h"
#include "launch/options.h"
#include "runtime/device.h"

#include <stdbool.h>

struct cJSON;

/* The flags of `plan`: the machine, and how to print. */
struct machine {
    int kind; // index of a row; -1: none is given
    int nodes, gpus, ranks, json, meshes;
    double memory_gb, tflops, link_gbs, network_gbs;
};

void machine_init(struct machine *m);
struct option_set machine_options(struct machine *m);

/* Whether flags describe it; else it is this machine. */
bool machine_described(const struct machine *m);

/* Sets kind, nodes, gpus and memory_gb of a described machine where they are not given. */
void machine_complete(struct machine *m);

/* The rates of its ranks, on GPUs or not: measured before, scaled to --tflops, or from a product of
 * type `cdt` that is measured now. ST_MEMORY, ST_DEVICE. */
status machine_rates(struct rates *out, bool gpu, const struct machine *m, struct device *dev,
                     enum dtype cdt);

/* Print a described machine: what is assumed of it. */
void machine_print(const struct machine *m, const struct rates *r);
void machine_json(struct cJSON *json, const struct machine *m, const struct rates *r);

#endif
