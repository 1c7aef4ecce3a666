/* Requests on described machines: whether they fit, and what would make them fit. With the word
 * "ranks": job_fit on several ranks, of which one has less memory. */
#include "kernels/table.h"
#include "launch/fit.h"
#include "launch/job.h"
#include "tests/check.h"

#include <string.h>

#define GB 1e9

static struct model model;

/* A complete request of a task, on a CPU. */
static void begin_task(struct request *r, const char *task, const char *precision)
{
    char *argv[] = { "--task", (char *)task, "--device", "cpu", "--precision", (char *)precision };

    request_init(r);
    CHECK(request_parse(r, CMD_PLAN, NULL, 0, 6, argv) == ST_OK &&
              request_complete(r, CMD_PLAN) == ST_OK,
          "%s", status_line());
    model = preset_model(preset_find(task));
}

/* The 1.3B model, 832 * 480, 81 frames. */
static void begin(struct request *r, const char *precision)
{
    begin_task(r, "t2v-1.3B", precision);
}

static struct plan_input plan_of(const struct request *r, int ranks, int per_node, bool gpu)
{
    struct plan_input p;

    CHECK(job_plan_input(&p, r, &model, &table_ref, ranks, per_node, 2) == ST_OK, "%s",
          status_line());
    p.gpu = gpu;
    return p;
}

/* The largest need of a rank, and of a node, with `set` flags: 'f' --dit_fsdp, 'v' VAE in bf16. */
static struct fit_rank most_of(struct plan_input p, const char *set)
{
    struct fit_rank most = { 0 }, one;

    p.fsdp = strchr(set, 'f') != NULL;
    p.vae_dtype = strchr(set, 'v') != NULL ? DT_BF16 : DT_F32;
    for (int i = 0; i < p.ranks; i++) {
        CHECK(fit_needs(&p, 1, i, &one) == ST_OK, "%s", status_line());
        most.device = fmax(most.device, one.device);
        most.host += one.host;
    }
    return most;
}

static void expect(const struct request *r, struct plan_input p, double device, double host,
                   int gpus, const char *advice)
{
    const struct fit_machine m = { gpus, device, host };
    char text[256] = "";
    const bool fits = fit_on(&p, 1, &m);

    if (!fits)
        fit_advice(text, sizeof(text), r, &p, 1, &m);
    CHECK(fits == (advice[0] == 0) && strcmp(text, advice) == 0, "%s: '%s', not '%s'",
          fits ? "fits" : "does not fit", text, advice);
}

static void test_first(void)
{
    struct fit_rank r[3] = { { 5, 10, 6, 25, 0 }, { 5, 10, 6, 25, 0 }, { 5, 10, 6, 25, 2 } };
    int local;

    CHECK(fit_first(r, 3) == -1, "all fit");
    CHECK(fit_node(r, 3, 1, &local) == 20 && local == 2, "a node's sum");
    r[2].device_free = 4;
    CHECK(fit_first(r, 3) == 2, "the last GPU is too small");
    r[0].host = 16; // rank 0 needs more than an equal part, and the node has it or not
    r[2].device_free = 6;
    CHECK(fit_first(r, 3) == 0, "26 of 25");
    r[1].host = 9;
    CHECK(fit_first(r, 3) == -1, "25 of 25");
}

static void test_advice(void)
{
    struct request r;
    struct plan_input one, two;
    struct fit_rank replicated, sharded;

    begin(&r, "bf16");
    one = plan_of(&r, 1, 1, true);
    two = plan_of(&r, 2, 2, true);
    replicated = most_of(two, "");
    sharded = most_of(two, "f");
    expect(&r, one, 80 * GB, 100 * GB, 8, "");
    expect(&r, two, replicated.device, 100 * GB, 8, "");
    CHECK(sharded.device < replicated.device, "%g, %g", sharded.device, replicated.device);
    // the VAE in fp32 needs the most here, and more ranks divide it
    expect(&r, one, most_of(one, "v").device, 100 * GB, 8,
           "with --vae_precision tf32 it would fit; unchanged on 2 GPUs");
    // a GPU in each node: NCCL takes memory, too
    expect(&r, one, most_of(one, "v").device, 100 * GB, 1,
           "with --vae_precision tf32 it would fit; unchanged on 16 GPUs with --dit_fsdp");
    expect(&r, one, 1 * GB, 100 * GB, 8,
           "use a smaller --size or --frame_num, or a machine with more memory");
    expect(&r, one, 80 * GB, 0.1 * GB, 8,
           "use a smaller --size or --frame_num, or a machine with more memory");
    one = plan_of(&r, 1, 1, false);
    expect(&r, one, 0, most_of(one, "").host, 0, "");
    expect(&r, one, 0, most_of(one, "v").host, 0,
           "with --vae_precision bf16 it would fit; unchanged on 2 such nodes");
    expect(&r, one, 0, 4 * GB, 0, "it would fit on 2 such nodes with --dit_fsdp");
    r.frame_num = 1;
    two = plan_of(&r, 2, 2, true);
    expect(&r, two, most_of(two, "f").device, 100 * GB, 2, "with --dit_fsdp it would fit");
    request_done(&r);
}

/* Makes settings until the request fits; whether it does. */
static bool choose(const struct request *r, struct plan_input *p, double device, double host)
{
    const struct fit_machine m = { p->gpu ? 8 : 0, device, host };
    bool changed;

    for (int i = 0; i < JOB_SETTINGS && !fit_on(p, 1, &m); i++)
        job_setting(i, r, p, 1, &changed);
    return fit_on(p, 1, &m);
}

/* Where the weights of two experts are. */
static void test_experts(void)
{
    struct request r;
    struct plan_input one, two, p;
    double both, alone, sharded;

    begin_task(&r, "t2v-A14B", "bf16");
    one = plan_of(&r, 1, 1, true);
    two = plan_of(&r, 2, 2, true);
    CHECK(plan_experts(&one) == 2 && one.steps == 40 && one.low_from == 26,
          "%d steps, low noise from %d", one.steps, one.low_from);
    both = most_of(one, "").device;
    sharded = most_of(two, "f").device;
    p = one;
    p.experts = EXPERTS_AHEAD;
    alone = most_of(p, "").device;
    CHECK(both - alone > 28e9 && most_of(p, "").host > 28e9, "%g, alone %g", both, alone);
    p = one;
    p.first_step = 26;
    CHECK(most_of(p, "").device <= alone && !plan_has_two(&p), "only the second expert");

    p = one;
    CHECK(choose(&r, &p, both, 100 * GB) && p.experts == EXPERTS_BOTH, "both fit");
    p = one;
    CHECK(choose(&r, &p, both - GB, 100 * GB) && p.experts == EXPERTS_AHEAD, "one fits");
    p = one;
    CHECK(choose(&r, &p, both - GB, 20 * GB) && p.experts == EXPERTS_LATER, "with little memory");
    CHECK(choose(&r, &p, alone - GB, 100 * GB) && p.offload == OFFLOAD_HOST && p.resident == 0 &&
              p.experts == EXPERTS_BOTH,
          "blocks of both in host memory");
    CHECK(most_of(p, "").host > 50e9 && most_of(p, "").device < alone / 2, "%g of the device, %g",
          most_of(p, "").device, most_of(p, "").host);
    p = one;
    CHECK(choose(&r, &p, alone - GB, 20 * GB) && p.offload == OFFLOAD_FILE, "blocks in the file");
    p = one;
    CHECK(!choose(&r, &p, 3 * GB, 100 * GB), "nothing fits");
    r.num_persistent_param_in_dit = INT64_C(14300000000); // of one expert
    p = plan_of(&r, 1, 1, true);
    CHECK(p.offload == OFFLOAD_HOST && p.resident == 40, "%d blocks", p.resident);
    r.num_persistent_param_in_dit = INT64_C(7000000000);
    p = plan_of(&r, 1, 1, true);
    CHECK(p.offload == OFFLOAD_HOST && p.resident == 22, "%d blocks", p.resident);
    r.num_persistent_param_in_dit = -1;
    p = two;
    CHECK(choose(&r, &p, sharded, 100 * GB) && p.experts == EXPERTS_BOTH && p.fsdp, "sharded");
    p = two;
    CHECK(choose(&r, &p, sharded - GB, 100 * GB) && p.experts == EXPERTS_AHEAD, "two GPUs");
    CHECK(most_of(p, "f").host < 2 * 17e9, "half an expert on each rank");
    r.experts = EXPERTS_BOTH;
    p = one;
    CHECK(choose(&r, &p, both - GB, 100 * GB) && p.experts == EXPERTS_BOTH &&
              p.offload == OFFLOAD_HOST,
          "as the flag says");
    r.num_persistent_param_in_dit = INT64_MAX;
    p = one;
    CHECK(!choose(&r, &p, both - GB, 100 * GB) && p.experts == EXPERTS_BOTH, "as the flags say");
    r.num_persistent_param_in_dit = -1;
    r.experts = -1;
    expect(&r, one, both - GB, 100 * GB, 1, "with --experts ahead it would fit");
    expect(&r, one, both - GB, 20 * GB, 1, "with --experts later it would fit");
    request_done(&r);

    begin_task(&r, "t2v-A14B", "bf16");
    p = one = plan_of(&r, 1, 1, false);
    CHECK(!choose(&r, &p, 0, 20 * GB) && p.experts == EXPERTS_LATER, "never ahead on a CPU");
    p = one;
    CHECK(choose(&r, &p, 0, most_of(one, "").host - GB) && p.experts == EXPERTS_LATER, "on a CPU");
    request_done(&r);
}

/* Most blocks that fit stay on the device; the ranks of a node share the others' memory. */
struct room {
    const struct plan_input *plan;
    double device;
};

static status room_fits(void *payload, bool *fits)
{
    const struct room *room = payload;
    const struct fit_machine m = { 8, room->device, INFINITY };

    *fits = fit_on(room->plan, 1, &m);
    return ST_OK;
}

static void test_offload(void)
{
    struct request r;
    struct plan_input p, q;
    struct fit_rank ranks[2];
    double device;
    int local;

    begin_task(&r, "t2v-14B", "bf16");
    p = plan_of(&r, 1, 1, true);
    p.offload = OFFLOAD_HOST;
    p.vae_dtype = DT_BF16;
    for (int resident = 0; resident <= 40; resident += 10) {
        p.resident = resident;
        device = most_of(p, "v").device;
        p.resident = 0;
        CHECK(fit_resident(&p, 1, &r, room_fits, &(struct room){ &p, device }) == ST_OK &&
                  p.resident == resident,
              "%d of 40 blocks, not %d", p.resident, resident);
    }
    p.resident = 0;
    CHECK(fit_resident(&p, 1, &r, room_fits, &(struct room){ &p, 16e9 }) == ST_OK &&
              p.resident == 9,
          "720P in 16 GB: %d blocks", p.resident);
    q = plan_of(&r, 2, 2, true);
    q.offload = OFFLOAD_HOST;
    for (int i = 0; i < 2; i++)
        CHECK(fit_needs(&q, 1, i, &ranks[i]) == ST_OK, "%s", status_line());
    CHECK(ranks[0].host > 28e9 && ranks[1].host < 2e9 && fit_node(ranks, 2, 1, &local) < 31e9,
          "%g with what is shared, %g", ranks[0].host, ranks[1].host);
    q.fsdp = true;
    for (int i = 0; i < 2; i++)
        CHECK(fit_needs(&q, 1, i, &ranks[i]) == ST_OK, "%s", status_line());
    CHECK(ranks[0].host < 16e9 && fit_node(ranks, 2, 1, &local) < 31e9, "own %g", ranks[0].host);
    request_done(&r);
}

/* Rank 1's GPU is too small for replicated weights: all ranks shard them, unless told otherwise.
 * Then also for sharded ones: all ranks get the line. */
static void test_ranks(struct world *w)
{
    struct request r;
    struct plan_input p;
    struct fit_rank sharded, replicated, kept;
    struct job j = {
        .all = w, .world = w, .groups = 1, .device_free = 80 * GB, .host_free = 100 * GB
    };

    begin(&r, "bf16");
    r.frame_num = 1;
    p = plan_of(&r, w->size, w->size, true);
    replicated = most_of(p, "");
    sharded = most_of(p, "f");
    CHECK(job_fit(&j, &r, &p, 1) == ST_OK && !p.fsdp, "%s", status_line());
    if (w->rank == w->size - 1)
        j.device_free = (replicated.device + sharded.device) / 2;
    CHECK(job_fit(&j, &r, &p, 1) == ST_OK && p.fsdp, "rank %d: %d, %s", w->rank, p.fsdp,
          status_line());
    r.dit_fsdp = 0;
    p.fsdp = false;
    CHECK(job_fit(&j, &r, &p, 1) == ST_OK && !p.fsdp && p.offload == OFFLOAD_HOST &&
              p.resident > 0 && p.resident < 30,
          "rank %d: %d blocks, %s", w->rank, p.resident, status_line());
    r.num_persistent_param_in_dit = INT64_MAX; // the user's choice, which is kept
    p.offload = OFFLOAD_NONE;
    p.resident = 0;
    CHECK(job_fit(&j, &r, &p, 1) == ST_MEMORY && !p.fsdp &&
              strstr(status_line(), "with --dit_fsdp it would fit") != NULL &&
              strstr(status_line(), "rank 1 needs ") == status_line(),
          "rank %d: %s", w->rank, status_line());
    p.keep_models = true;
    p.offload = OFFLOAD_NONE;
    kept = most_of(p, "");
    j.device_free = (kept.device + replicated.device) / 2;
    r.offload_model = 0;
    CHECK(job_fit(&j, &r, &p, 1) == ST_MEMORY && p.keep_models &&
              strstr(status_line(), "with --dit_fsdp") != NULL,
          "rank %d: %s", w->rank, status_line());
    p.offload = OFFLOAD_NONE;
    r.offload_model = -1; // exact, and left open: chosen
    CHECK(job_fit(&j, &r, &p, 1) == ST_OK && !p.keep_models && !p.fsdp, "rank %d: %s", w->rank,
          status_line());
    r.dit_fsdp = -1;
    p.offload = OFFLOAD_NONE;
    j.host_free = w->rank == 0 ? 100 * GB : 1e6;
    CHECK(job_fit(&j, &r, &p, 1) == ST_MEMORY &&
              strstr(status_line(), "the node of rank 1 has 0.00 GB of memory free") != NULL,
          "rank %d: %s", w->rank, status_line());
    request_done(&r);
}

int main(int argc, char **argv)
{
    struct world w;
    int result;

    if (argc == 1) {
        test_first();
        test_advice();
        test_experts();
        test_offload();
        return check_end("fit");
    }
    if (world_open(&w, &argc, &argv) != ST_OK)
        return 1;
    test_ranks(&w);
    result = check_end("fit");
    world_close(&w);
    return result;
}
