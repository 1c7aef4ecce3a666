/* Cores chosen on described machines and on this one. With the argument "here" it runs under mpirun
 * and checks the cores of the ranks on this node. */
#include "launch/placement.h"
#include "tests/check.h"

#include <hwloc.h>
#include <string.h>

static struct placement choose(const char *topology, const char *allowed, int rank, int size,
                               int threads)
{
    struct placement_node node = { .topology = topology, .rank = rank, .size = size };
    struct placement p;

    snprintf(node.allowed, sizeof(node.allowed), "%s", allowed);
    CHECK(placement_choose(&p, &node, threads) == ST_OK, "%s", status_line());
    return p;
}

static void expect(const char *topology, const char *allowed, int rank, int size, int cores,
                   int threads, const char *pus)
{
    const struct placement p = choose(topology, allowed, rank, size, 0);

    CHECK(p.cores == cores && p.threads == threads && strcmp(p.pus, pus) == 0,
          "%s, allowed %s, rank %d of %d: %d cores, %d threads, %s", topology, allowed, rank, size,
          p.cores, p.threads, p.pus);
}

static void test_described(void)
{
    const char *const dual = "pack:2 core:8 pu:2"; // PUs 0-31, two a core
    struct placement_node node = { .topology = "pack:1 core:4 pu:1", .size = 1 };
    struct placement p;

    expect(dual, "", 0, 1, 16, 16, "0-31");
    expect(dual, "", 0, 2, 8, 8, "0-15"); // a socket each
    expect(dual, "", 1, 2, 8, 8, "16-31");
    expect(dual, "", 0, 8, 2, 2, "0-3");
    expect(dual, "", 5, 8, 2, 2, "20-23"); // ranks 4 to 7 in the second socket
    expect(dual, "", 15, 16, 1, 1, "30-31");
    expect(dual, "", 16, 17, 1, 1, "0-31");   // more ranks than cores
    expect(dual, "8-15", 0, 2, 2, 2, "8-11"); // half of a socket is allowed
    expect(dual, "8-15", 1, 2, 2, 2, "12-15");
    expect(dual, "0,2,4,6", 1, 2, 2, 2, "4,6"); // one thread of each core
    expect("pack:1 core:7 pu:1", "", 0, 3, 2, 2, "0-1");
    expect("pack:1 core:7 pu:1", "", 1, 3, 2, 2, "2-3");
    expect("pack:1 core:7 pu:1", "", 2, 3, 3, 3, "4-6");
    expect("pack:2 numa:2 core:12 pu:2", "", 3, 4, 12, 12, "72-95");
    CHECK(choose(dual, "", 0, 8, 5).threads == 5, "threads asked for");
    node.threads = 3;
    CHECK(placement_choose(&p, &node, 0) == ST_OK && p.threads == 3, "OMP_NUM_THREADS");
    CHECK(p.note[0] == 0, "%s", p.note);
    CHECK(placement_choose(&p, &node, 2) == ST_OK && p.threads == 2, "the flag comes first");

    node.topology = "a machine";
    CHECK(placement_choose(&p, &node, 0) == ST_USAGE, "no topology");
    node.topology = "pack:1 core:4 pu:1";
    snprintf(node.allowed, sizeof(node.allowed), "x-y");
    CHECK(placement_choose(&p, &node, 0) == ST_USAGE, "no list");
    snprintf(node.allowed, sizeof(node.allowed), "64-65");
    CHECK(placement_choose(&p, &node, 0) == ST_USAGE, "none of its cores");
}

static void expect_threads(int cores, int ranks, int omp, double cpus, int flag, int threads,
                           const char *note)
{
    char topology[32];
    struct placement_node node = {
        .topology = topology, .size = ranks, .threads = omp, .cpus = cpus
    };
    struct placement p;

    snprintf(topology, sizeof(topology), "pack:1 core:%d pu:1", cores);
    CHECK(placement_choose(&p, &node, flag) == ST_OK, "%s", status_line());
    CHECK(p.threads == threads && strcmp(p.note, note) == 0, "%d threads; %s", p.threads, p.note);
}

static void test_threads(void)
{
    expect_threads(2, 1, 64, 0, 0, 2,
                   "OMP_NUM_THREADS=64 is more than a rank has CPUs: 2 used (cores of the rank)");
    expect_threads(8, 4, 8, 0, 0, 2,
                   "OMP_NUM_THREADS=8 is more than a rank has CPUs: 2 used (cores of the rank)");
    expect_threads(2, 1, 64, 0, 64, 64,
                   "--threads 64 is more than a rank has CPUs, 2 (cores of the rank): this is "
                   "slower than --threads 2");
    expect_threads(
        2, 4, 2, 0, 0, 1,
        "OMP_NUM_THREADS=2 is more than a rank has CPUs: 1 used (more ranks than cores)");
    expect_threads(2, 4, 0, 0, 1, 1, "4 ranks share 2 cores: no faster than 2 ranks");
    expect_threads(2, 2, 1, 0, 0, 1, "");
    expect_threads(16, 1, 0, 3.6, 0, 4,
                   "a rank has 16 cores: 4 used (CPU quota of the control group)");
    expect_threads(16, 4, 0, 0.2, 0, 1,
                   "a rank has 4 cores: 1 used (CPU quota of the control group)");
    expect_threads(4, 1, 8, 2, 0, 2,
                   "OMP_NUM_THREADS=8 is more than a rank has CPUs: 2 used (CPU quota of the "
                   "control group)");
    expect_threads(4, 1, 0, 4, 0, 4, "");
    expect_threads(4, 1, 2, 8, 0, 2, "");
}

/* A description, as XML, of a machine with a GPU at each socket, 0000:1b:00.0 and 0000:2b:00.0. */
static char *with_gpus(const char *synthetic)
{
    static char text[65536];
    hwloc_topology_t t;
    char *xml, *from;
    int length, socket = 0;
    size_t n = 0;

    hwloc_topology_init(&t);
    hwloc_topology_set_synthetic(t, synthetic);
    hwloc_topology_load(t);
    CHECK(hwloc_topology_export_xmlbuffer(t, &xml, &length, 0) == 0, "no XML");
    from = xml;
    for (char *at; (at = strstr(from, "<object type=\"Package\"")) != NULL; socket++) {
        char *const end = strchr(at, '>') + 1;

        n += (size_t)snprintf(text + n, sizeof(text) - n,
                              "%.*s<object type=\"Bridge\" gp_index=\"%d\" bridge_type=\"0-1\" "
                              "depth=\"0\" bridge_pci=\"0000:[%d0-%df]\">"
                              "<object type=\"PCIDev\" gp_index=\"%d\" pci_busid=\"0000:%db:00.0\" "
                              "pci_type=\"0302 [10de:2335] [10de:18be] a1\" "
                              "pci_link_speed=\"0.0\"/></object>",
                              (int)(end - from), from, 900 + socket, socket + 1, socket + 1,
                              950 + socket, socket + 1);
        from = end;
    }
    snprintf(text + n, sizeof(text) - n, "%s", from);
    hwloc_free_xmlbuffer(t, xml);
    hwloc_topology_destroy(t);
    return text;
}

static void expect_near(const char *topology, const char *allowed, const char *gpu, const char *pus)
{
    struct placement_node node = { .topology = topology };

    snprintf(node.allowed, sizeof(node.allowed), "%s", allowed);
    CHECK(placement_near_gpu(&node, gpu) == ST_OK, "%s", status_line());
    CHECK(strcmp(node.allowed, pus) == 0, "near %s of '%s': '%s', not '%s'", gpu, allowed,
          node.allowed, pus);
}

static void test_near_gpu(void)
{
    const char *const dual = "pack:2 core:8 pu:2", *const gpus = with_gpus(dual);

    expect_near(gpus, "", "0000:1b:00.0", "0-15");
    expect_near(gpus, "", "0000:2b:00.0", "16-31");
    expect_near(gpus, "0-3,20-23", "0000:2b:00.0", "20-23");
    expect_near(gpus, "0-3", "0000:2b:00.0", "0-3"); // none close to it: unchanged
    expect_near(gpus, "0-3", "0000:3b:00.0", "0-3"); // unknown device
    expect_near(dual, "0-3", "0000:1b:00.0", "0-3"); // no PCI devices
    expect_near(dual, "", "0000:1b:00.0", "");
}

/* The ranks of this node together have every core that the job may use, however mpirun bound them;
 * no core belongs to two ranks, unless there are more ranks than cores. */
static void test_here(struct world *w)
{
    struct placement_node node;
    struct placement p;
    char pus[16][512] = { "" };
    hwloc_bitmap_t sum = hwloc_bitmap_alloc(), one = hwloc_bitmap_alloc();
    int cores = 0;

    CHECK(placement_detect(w, NULL, &node) == ST_OK, "%s", status_line());
    node.threads = 0;
    CHECK(node.size == w->local_size && node.rank == w->local_rank, "%d of %d", node.rank,
          node.size);
    CHECK(placement_choose(&p, &node, 0) == ST_OK, "%s", status_line());
    CHECK(placement_bind(&p) == ST_OK, "%s", status_line());
    world_gather(w, p.pus, sizeof(p.pus), pus);
    for (int i = 0; w->rank == 0 && i < w->size; i++) {
        hwloc_bitmap_list_sscanf(one, pus[i]);
        CHECK(w->size > p.all_cores || !hwloc_bitmap_intersects(one, sum), "%s twice", pus[i]);
        hwloc_bitmap_or(sum, sum, one);
    }
    cores = w->rank == 0 ? hwloc_bitmap_weight(sum) : 0;
    CHECK(w->rank != 0 || cores >= p.all_cores, "%d of %d cores in use", cores, p.all_cores);
    CHECK(p.all_cores == (int)world_sum(w, p.all_cores) / w->size,
          "all ranks have the same number of cores");
    hwloc_bitmap_free(sum);
    hwloc_bitmap_free(one);
}

int main(int argc, char **argv)
{
    struct world w;
    int result;

    if (argc == 1) {
        test_described();
        test_threads();
        test_near_gpu();
        return check_end("placement");
    }
    if (world_open(&w, &argc, &argv) != ST_OK)
        return 1;
    test_here(&w);
    result = check_end("placement here");
    world_close(&w);
    return result;
}
