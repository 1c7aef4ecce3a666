#include "launch/placement.h"

#include "launch/cgroup.h"

#include <hwloc.h>
#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static status set_to_text(hwloc_const_cpuset_t set, char *text, size_t size)
{
    if (hwloc_bitmap_list_snprintf(text, size, set) >= (int)size)
        return fail(ST_DEVICE, "the list of this rank's cores is longer than %zu bytes", size);
    return ST_OK;
}

/* This machine's topology, which takes 0.1 s to read where there are many cores: kept until the
 * program ends. NULL: not read yet. */
static hwloc_topology_t machine;

/* Loads the topology of this machine, or with `described` the one that it describes, in XML or in
 * hwloc's synthetic form. `unload` it. */
static status load(hwloc_topology_t *topology, const char *described)
{
    *topology = machine;
    if (described == NULL && machine != NULL)
        return ST_OK;
    if (hwloc_topology_init(topology) != 0)
        return fail(ST_MEMORY, "cannot allocate host memory for hwloc");
    hwloc_topology_set_io_types_filter(*topology, HWLOC_TYPE_FILTER_KEEP_IMPORTANT); // GPUs
    if (described != NULL && described[0] == '<'
            ? hwloc_topology_set_xmlbuffer(*topology, described, (int)strlen(described) + 1) != 0
            : described != NULL && hwloc_topology_set_synthetic(*topology, described) != 0) {
        hwloc_topology_destroy(*topology);
        return fail(ST_USAGE,
                    "'%s' is not a machine description; write it like \"pack:2 core:8 pu:2\"",
                    described);
    }
    if (hwloc_topology_load(*topology) != 0) {
        hwloc_topology_destroy(*topology);
        return fail(ST_DEVICE, "hwloc cannot read this machine's topology");
    }
    if (described == NULL)
        machine = *topology;
    return ST_OK;
}

static void unload(hwloc_topology_t topology)
{
    if (topology != machine)
        hwloc_topology_destroy(topology);
}

/* Writes the PUs that process `pid` (0: this thread) may run on, as a list. */
static status affinity(pid_t pid, char *list, size_t size)
{
    status st = ST_OK;
    cpu_set_t *mask = NULL;
    size_t bytes = 0;
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    int most = 1024;

    for (; most <= 1 << 18; most *= 2) { // EINVAL if smaller than the kernel's mask
        CPU_FREE(mask);
        mask = CPU_ALLOC(most);
        bytes = CPU_ALLOC_SIZE(most);
        if (mask == NULL || sched_getaffinity(pid, bytes, mask) == 0)
            break;
    }
    if (mask == NULL || set == NULL) {
        st = fail(ST_MEMORY, "cannot allocate host memory for the cores that this rank may use");
        goto out;
    }
    if (most > 1 << 18) {
        st = fail(ST_DEVICE, "cannot read which cores this rank may use (sched_getaffinity)");
        goto out;
    }
    for (int i = 0; i < most; i++) {
        if (CPU_ISSET_S(i, bytes, mask))
            hwloc_bitmap_set(set, (unsigned)i);
    }
    st = set_to_text(set, list, size);
out:
    CPU_FREE(mask);
    hwloc_bitmap_free(set);
    return st;
}

status placement_near_gpu(struct placement_node *node, const char *gpu)
{
    status st;
    hwloc_topology_t topology;
    hwloc_bitmap_t usable = hwloc_bitmap_alloc();
    hwloc_obj_t at;

    st = load(&topology, node->topology);
    if (st != ST_OK) {
        hwloc_bitmap_free(usable);
        return st;
    }
    if (node->allowed[0] == 0)
        hwloc_bitmap_copy(usable, hwloc_topology_get_allowed_cpuset(topology));
    else if (hwloc_bitmap_list_sscanf(usable, node->allowed) != 0)
        st = fail(ST_USAGE, "'%s' is not a list of cores like \"0-7,16\"", node->allowed);
    at = hwloc_get_pcidev_by_busidstring(topology, gpu);
    at = at != NULL ? hwloc_get_non_io_ancestor_obj(topology, at) : NULL;
    if (st == ST_OK && at != NULL && hwloc_bitmap_intersects(usable, at->cpuset)) {
        hwloc_bitmap_and(usable, usable, at->cpuset);
        st = set_to_text(usable, node->allowed, sizeof(node->allowed));
    }
    hwloc_bitmap_free(usable);
    unload(topology);
    return st;
}

/* What rank 0 gathers from every rank, and the result that it broadcasts. */
struct rank_info {
    char host[64], allowed[512];
    int rank, size; // among the ranks with the same host and allowed PUs
};

static void number_ranks(struct rank_info *all, int ranks)
{
    for (int i = 0; i < ranks; i++) {
        for (int j = 0; j < ranks; j++) {
            const bool same = strcmp(all[i].host, all[j].host) == 0 &&
                              strcmp(all[i].allowed, all[j].allowed) == 0;
            all[i].size += same;
            all[i].rank += same && j < i;
        }
    }
}

status placement_detect(struct world *w, const char *gpu, struct placement_node *node)
{
    status st;
    // mpirun passes a policy on only if the user set one (--bind-to, or the MCA variable).
    const bool by_mpirun = getenv("OMPI_COMM_WORLD_RANK") != NULL;
    const bool requested = getenv("OMPI_MCA_hwloc_base_binding_policy") != NULL;
    const char *threads = getenv("OMP_NUM_THREADS");
    struct rank_info mine = { .host = "" }, *all = calloc((size_t)w->size, sizeof(*all));

    gethostname(mine.host, sizeof(mine.host) - 1);
    // The parent process is mpirun, or its daemon on this node: it may use all cores of the job.
    *node = (struct placement_node){ .threads = 0 };
    st = affinity(by_mpirun && !requested ? getppid() : 0, node->allowed, sizeof(node->allowed));
    if (st == ST_OK && gpu != NULL)
        st = placement_near_gpu(node, gpu);
    memcpy(mine.allowed, node->allowed, sizeof(mine.allowed));
    if (all == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for %d ranks", w->size);
    TRY_OUT(agree(w, st));
    world_gather(w, &mine, sizeof(mine), all);
    if (w->rank == 0)
        number_ranks(all, w->size);
    world_broadcast(w, all, (size_t)w->size * sizeof(*all), 0);
    node->rank = all[w->rank].rank;
    node->size = all[w->rank].size;
    node->threads = threads != NULL && atoi(threads) > 0 ? atoi(threads) : 0;
    node->cpus = cgroup_cpus("") / w->local_size;
out:
    free(all);
    return st;
}

/* Counts the cores of which at least one PU may be used, and lists them in `cores` if not NULL. */
static int usable_cores(hwloc_topology_t t, hwloc_const_cpuset_t usable, hwloc_obj_t *cores)
{
    int count = 0;

    for (hwloc_obj_t core = NULL; (core = hwloc_get_next_obj_by_type(t, HWLOC_OBJ_CORE, core));) {
        if (hwloc_bitmap_intersects(core->cpuset, usable)) {
            if (cores != NULL)
                cores[count] = core;
            count++;
        }
    }
    return count;
}

static void set_cpu(struct placement *p, hwloc_topology_t t)
{
    const hwloc_obj_t package = hwloc_get_obj_by_type(t, HWLOC_OBJ_PACKAGE, 0);
    const char *model = package != NULL ? hwloc_obj_get_info_by_name(package, "CPUModel") : NULL;

    snprintf(p->cpu, sizeof(p->cpu), "%s", model != NULL && model[0] != 0 ? model : "CPU");
}

/* Threads of a rank with `pus` PUs: one per core, fewer if the control group has less CPU time. A
 * larger number from the environment, which is often meant for all ranks together, is reduced; one
 * from the command line is kept. */
static void choose_threads(struct placement *p, const struct placement_node *node, int threads,
                           int pus)
{
    const bool crowded = node->size > p->all_cores;
    const int quota = node->cpus > 0 ? (int)fmax(1, round(node->cpus)) : INT_MAX;
    const int most = crowded ? 1 : quota < pus ? quota : pus;
    const char *why = crowded            ? "more ranks than cores"
                      : quota < p->cores ? "CPU quota of the control group"
                                         : "cores of the rank";
    char *const note = p->note;

    p->threads = quota < p->cores ? quota : p->cores;
    if (threads > 0)
        p->threads = threads;
    else if (node->threads > 0)
        p->threads = node->threads < most ? node->threads : most;
    if (threads > most)
        snprintf(note, sizeof(p->note),
                 "--threads %d is more than a rank has CPUs, %d (%s): this is slower than "
                 "--threads %d",
                 threads, most, why, most);
    else if (threads == 0 && node->threads > most)
        snprintf(note, sizeof(p->note),
                 "OMP_NUM_THREADS=%d is more than a rank has CPUs: %d used (%s)", node->threads,
                 most, why);
    else if (threads == 0 && node->threads == 0 && quota < p->cores)
        snprintf(note, sizeof(p->note), "a rank has %d cores: %d used (%s)", p->cores, quota, why);
    else if (crowded)
        snprintf(note, sizeof(p->note), "%d ranks share %d cores: no faster than %d ranks",
                 node->size, p->all_cores, p->all_cores);
}

status placement_choose(struct placement *p, const struct placement_node *node, int threads)
{
    status st;
    hwloc_topology_t topology;
    hwloc_bitmap_t usable = hwloc_bitmap_alloc(), mine = hwloc_bitmap_alloc();
    hwloc_obj_t *cores = NULL;
    int count;

    *p = (struct placement){ 0 };
    st = load(&topology, node->topology);
    if (st != ST_OK) {
        hwloc_bitmap_free(usable);
        hwloc_bitmap_free(mine);
        return st;
    }
    hwloc_bitmap_copy(usable, hwloc_topology_get_allowed_cpuset(topology));
    if (node->allowed[0] != 0) {
        if (hwloc_bitmap_list_sscanf(mine, node->allowed) != 0) {
            st = fail(ST_USAGE, "'%s' is not a list of cores like \"0-7,16\"", node->allowed);
            goto out;
        }
        hwloc_bitmap_and(usable, usable, mine);
        hwloc_bitmap_zero(mine);
    }
    count = usable_cores(topology, usable, NULL);
    if (count == 0) {
        st = fail(ST_USAGE, "none of the cores %s exists on this machine", node->allowed);
        goto out;
    }
    cores = calloc((size_t)count, sizeof(hwloc_obj_t));
    if (cores == NULL) {
        st = fail(ST_MEMORY, "cannot allocate host memory for %d cores", count);
        goto out;
    }
    usable_cores(topology, usable, cores);
    set_cpu(p, topology);
    p->all_cores = count;
    p->cores = 1;
    if (node->size > count) { // more ranks than cores: the kernel schedules them
        hwloc_bitmap_copy(mine, usable);
    } else {
        const int first = (int)((int64_t)count * node->rank / node->size);
        const int last = (int)((int64_t)count * (node->rank + 1) / node->size);
        p->cores = last - first;
        for (int i = first; i < last; i++)
            hwloc_bitmap_or(mine, mine, cores[i]->cpuset);
        hwloc_bitmap_and(mine, mine, usable);
    }
    choose_threads(p, node, threads, hwloc_bitmap_weight(mine));
    st = set_to_text(mine, p->pus, sizeof(p->pus));
out:
    free(cores);
    hwloc_bitmap_free(usable);
    hwloc_bitmap_free(mine);
    unload(topology);
    return st;
}

status placement_bind(const struct placement *p)
{
    status st = ST_OK;
    hwloc_topology_t topology;
    hwloc_bitmap_t set = hwloc_bitmap_alloc();

    TRY_OUT(load(&topology, NULL));
    if (hwloc_bitmap_list_sscanf(set, p->pus) != 0 ||
        hwloc_set_cpubind(topology, set, HWLOC_CPUBIND_THREAD) != 0)
        st = fail(ST_DEVICE, "cannot bind to the cores %s", p->pus);
    unload(topology);
out:
    hwloc_bitmap_free(set);
    return st;
}
