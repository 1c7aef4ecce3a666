/* A message of more than INT_MAX bytes, from rank 0 to rank 1. */
#include "kernels/table.h"
#include "parallel/group.h"
#include "tests/ranks.h"

#include <limits.h>
#include <string.h>
#include <sys/mman.h>

#define BYTES ((size_t)INT_MAX + 12346)

static double available_gib(void)
{
    FILE *f = fopen("/proc/meminfo", "r");
    char line[256];
    double kib = 0;

    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        sscanf(line, "MemAvailable: %lf", &kib);
    if (f != NULL)
        fclose(f);
    return kib / (1 << 20);
}

int main(int argc, char **argv)
{
    static const size_t checked[] = { 0, 1, 1u << 30, INT_MAX - 1u, INT_MAX, BYTES - 1 };
    struct transfer t = { 0 };
    struct world w;
    struct device dev;
    struct group g;
    bool enough_memory;

    if (world_open(&w, &argc, &argv) != ST_OK)
        return 1;
    // The receiver's pages, and the sender's if they are not the zero page.
    enough_memory = available_gib() > 4.5;
    world_broadcast(&w, &enough_memory, sizeof(enough_memory), 0);
    if (!enough_memory || w.size < 2) {
        if (w.rank == 0)
            printf("large: skipped, needs two ranks and 4.5 GiB free\n");
        world_close(&w);
        return 77;
    }

    unsigned char *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(p != MAP_FAILED, "no address space");
    CHECK(device_open_cpu(&dev, 1, &table_ref, 0) == ST_OK, "%s", status_line());
    CHECK(group_open(&g, "all", &w, &dev, 0, NULL, 0) == ST_OK, "%s", status_line());
    for (size_t i = 0; w.rank == 0 && i < COUNT(checked); i++)
        p[checked[i]] = (unsigned char)(i + 1);
    if (w.rank < 2) {
        const struct message m = message_of(1 - w.rank, p, BYTES);

        CHECK(group_send_recv(&g, &t, &m, 1 - w.rank, &m, w.rank) == ST_OK, "%s", status_line());
        CHECK(transfer_wait(&t) == ST_OK, "%s", status_line());
    }
    CHECK(g.sent == (w.rank == 0 ? (double)BYTES : 0), "sent %.0f", g.sent);
    for (size_t i = 0; w.rank == 1 && i < COUNT(checked); i++)
        CHECK(p[checked[i]] == i + 1, "byte %zu is %d", checked[i], p[checked[i]]);
    for (size_t at = 7; w.rank == 1 && at < BYTES; at += 4099 * 4096)
        CHECK(p[at] == 0, "byte %zu is %d", at, p[at]);
    munmap(p, BYTES);
    group_close(&g);
    device_close(&dev);
    return ranks_end(&w, "large");
}
