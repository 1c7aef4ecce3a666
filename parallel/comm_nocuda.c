/* Built without CUDA: no GPU can be opened (runtime/device_nocuda.c), so this table is never used.
 */
#include "parallel/comm.h"

static status open_unavailable(struct group *g, struct world *w, int color)
{
    (void)g;
    (void)w;
    (void)color;
    return fail(ST_DEVICE, "this program was built without NCCL");
}

static void close_nothing(struct group *g)
{
    (void)g;
}

const struct comm_table comm_cuda = { .name = "none",
                                      .open = open_unavailable,
                                      .close = close_nothing };
