#include "launch/machine.h"

#include "kernels/ops.h"
#include "runtime/arena.h"
#include "runtime/clock.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>

static const struct kind {
    const char *name, *gpu; // gpu: as its driver says it
    int nodes, gpus;        // GPUs of a node
    double memory_gb;       // of a GPU
    const char *network;    // between nodes, of rates.network
} kinds[] = {
    { "h100", "NVIDIA H100 80GB HBM3", 1, 8, 80,
      "InfiniBand of 400 Gb/s for each GPU, of which 80 % are used" },
    { "h200", "NVIDIA H200", 1, 8, 141,
      "InfiniBand of 400 Gb/s for each GPU, of which 80 % are used" },
    { "nvl72", "NVIDIA GB200", 18, 4, 186, "NVLink between all GPUs, through NCCL" },
};

#define AT(field) offsetof(struct machine, field)

static const struct option rows[] = {
    { "ranks", OPT_INT, AT(ranks), .value = "N", .group = "Machine (default: this one)", .least = 1,
      .most = 65536,
      .help = "number of ranks on this machine (default: as many as mpirun started)" },
    { "machine", OPT_CHOICE, AT(kind), .choices = "h100|h200|nvl72",
      .help = "plan for another machine: nodes of 8 H100 or H200 with InfiniBand, or one NVL72, 18 "
              "nodes of 4 GB200 with NVLink between all (default: h100, or h200 with more than 100 "
              "GB); the plan says what is assumed of it" },
    { "nodes", OPT_INT, AT(nodes), .value = "N", .least = 1, .most = 65536,
      .help = "plan for another machine: number of its nodes (default 1; nvl72: 18)" },
    { "gpus", OPT_INT, AT(gpus), .value = "N", .least = 1, .most = 1024,
      .help = "plan for another machine: GPUs per node, one rank each (default 8; nvl72: 4)" },
    { "gpu_memory", OPT_DOUBLE, AT(memory_gb), .value = "GB", .least = 1, .most = 100000,
      .help = "memory of one of its GPUs in GB, 10^9 bytes (default 80; h200: 141, nvl72: 186)" },
    { "tflops", OPT_DOUBLE, AT(tflops), .value = "X", .least = 0.001, .most = 100000,
      .help = "TFLOP/s of a rank's matrix products to assume; other work in proportion (default: "
              "as measured on an H100 or H200, or here)" },
    { "link", OPT_DOUBLE, AT(link_gbs), .value = "GB/S", .least = 0.001, .most = 100000,
      .help = "GB/s that a rank sends to others of its node to assume (default: 200 for GPUs, "
              "nvl72: 400, else 2)" },
    { "network", OPT_DOUBLE, AT(network_gbs), .value = "GB/S", .least = 0.001, .most = 100000,
      .help = "GB/s that a rank sends to other nodes to assume (default: 40 for GPUs, nvl72: 400, "
              "else 1)" },
    { "meshes", OPT_SWITCH, AT(meshes), .group = "Result",
      .help = "also plan all other meshes of these ranks, and print them, the fastest first" },
    { "json", OPT_SWITCH, AT(json), .help = "print JSON instead of text" },
};

void machine_init(struct machine *m)
{
    *m = (struct machine){ .kind = -1 };
}

struct option_set machine_options(struct machine *m)
{
    return (struct option_set){ rows, COUNT(rows), m, NULL };
}

bool machine_described(const struct machine *m)
{
    return m->kind >= 0 || m->nodes > 0 || m->gpus > 0;
}

void machine_complete(struct machine *m)
{
    const struct kind *k;

    if (!machine_described(m))
        return;
    if (m->kind < 0)
        m->kind = m->memory_gb > 100 ? 1 : 0;
    k = &kinds[m->kind];
    m->nodes = m->nodes > 0 ? m->nodes : k->nodes;
    m->gpus = m->gpus > 0 ? m->gpus : k->gpus;
    m->memory_gb = m->memory_gb > 0 ? m->memory_gb : k->memory_gb;
}

/* ---- rates ---- */

/* Fills t with pseudo-random numbers in [-1, 1). Zeros would give wrong timings: a GPU multiplies
 * them faster. f32: scratch on the device, of at least t's elements. */
static status fill_random(struct device *dev, struct tensor t, struct tensor f32)
{
    uint32_t state = 1;
    float *host = malloc(tensor_bytes(f32));
    status st;

    if (host == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a timing");
    for (int64_t i = 0; i < tensor_count(f32); i++) {
        state = state * 1664525 + 1013904223;
        host[i] = (float)(int32_t)state / 2147483648.0f;
    }
    TRY_OUT(device_upload(dev, f32, host));
    TRY_OUT(op_copy(dev, t, tensor_reshape(f32, t.dim[0], t.dim[1])));
    TRY_OUT(device_wait(dev));
out:
    free(host);
    return st;
}

/* Measures the TFLOP/s of a matrix product on this rank's device, for about 0.25 s. */
static status measure(struct device *dev, enum dtype dt, double *tflops)
{
    const bool gpu = dev->kind == DEVICE_CUDA;
    const int64_t m = gpu ? 8192 : 512, n = gpu ? 8192 : 1536, k = gpu ? 4096 : 1536;
    struct arena a = { 0 };
    struct tensor out, x, w, f32, none = { 0 };
    double start_s, s = 0;
    int times = 0;
    status st;

    TRY(arena_init(&a, dev, "measure", (size_t)(m * n + m * k + 2 * n * k) * 4 + 4096));
    TRY_OUT(arena_take(&a, &out, dt, m, n));
    TRY_OUT(arena_take(&a, &x, dt, m, k));
    TRY_OUT(arena_take(&a, &w, dt, n, k));
    TRY_OUT(arena_take(&a, &f32, DT_F32, n * k));
    TRY_OUT(fill_random(dev, w, f32));
    TRY_OUT(fill_random(dev, x, tensor_slice(f32, 0, 0, m * k)));
    TRY_OUT(op_gemm(dev, out, x, w, none, ACT_NONE));
    TRY_OUT(device_wait(dev));
    start_s = clock_seconds();
    for (; s < 0.25; times++) {
        TRY_OUT(op_gemm(dev, out, x, w, none, ACT_NONE));
        TRY_OUT(device_wait(dev));
        s = clock_seconds() - start_s;
    }
    *tflops = 2.0 * (double)(m * n * k) * times / s / 1e12;
out:
    arena_done(&a);
    return st;
}

status machine_rates(struct rates *out, bool gpu, const struct machine *m, struct device *dev,
                     enum dtype cdt)
{
    char name[256];
    const struct rates *known = NULL;
    double tflops = m->tflops;

    if (machine_described(m))
        snprintf(name, sizeof(name), "%s", kinds[m->kind].gpu);
    else if (gpu)
        TRY(device_cuda_name(dev->index, name, sizeof(name)));
    if (gpu)
        known = rates_of_gpu(name);
    if (tflops == 0 && known == NULL)
        TRY(measure(dev, gpu ? DT_BF16 : cdt, &tflops));
    *out = tflops > 0 ? rates_scaled(gpu, known, tflops * 1e12) : *known;
    if (m->link_gbs > 0)
        out->link = m->link_gbs * 1e9;
    if (m->network_gbs > 0)
        out->network = m->network_gbs * 1e9;
    return ST_OK;
}

/* ---- what is assumed ---- */

/* "given", "measured" or "assumed". */
static const char *origin(double given, bool measured)
{
    return given > 0 ? "given" : measured ? "measured" : "assumed";
}

void machine_print(const struct machine *m, const struct rates *r)
{
    const struct kind *k = &kinds[m->kind];

    printf("machine   %d node%s of %d GPU%s with %.4g GB, each as an %s\n", m->nodes,
           m->nodes > 1 ? "s" : "", m->gpus, m->gpus > 1 ? "s" : "", m->memory_gb, k->gpu);
    printf("          products %.4g TFLOP/s, attention %.4g (%s)\n", r->gemm * 1e-12,
           r->attention * 1e-12, origin(m->tflops, r->measured));
    if (m->gpus > 1)
        printf("          %.4g GB/s from a rank to its node: NVLink (%s)\n", r->link * 1e-9,
               origin(m->link_gbs, r->measured));
    if (m->nodes > 1)
        printf("          %.4g GB/s from a rank to other nodes%s%s (%s)\n", r->network * 1e-9,
               m->network_gbs > 0 ? "" : ": ", m->network_gbs > 0 ? "" : k->network,
               origin(m->network_gbs, false));
}

void machine_json(struct cJSON *json, const struct machine *m, const struct rates *r)
{
    cJSON *machine = cJSON_AddObjectToObject(json, "machine");

    cJSON_AddStringToObject(machine, "kind", kinds[m->kind].name);
    cJSON_AddNumberToObject(machine, "nodes", m->nodes);
    cJSON_AddNumberToObject(machine, "gpus", m->gpus);
    cJSON_AddNumberToObject(machine, "gpu_memory_bytes", m->memory_gb * 1e9);
    cJSON_AddNumberToObject(machine, "product_flops", r->gemm);
    cJSON_AddNumberToObject(machine, "attention_flops", r->attention);
    cJSON_AddStringToObject(machine, "flops_are", origin(m->tflops, r->measured));
    cJSON_AddNumberToObject(machine, "node_bytes_per_second", r->link);
    cJSON_AddStringToObject(machine, "node_is", origin(m->link_gbs, r->measured));
    cJSON_AddNumberToObject(machine, "network_bytes_per_second", r->network);
    cJSON_AddStringToObject(machine, "network_is", origin(m->network_gbs, false));
}
