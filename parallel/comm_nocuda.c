/* Built without CUDA: no GPU can be opened (runtime/device_nocuda.c), so nothing is ever asked of
 * this table. */
#include "parallel/comm.h"

static status without(struct group *g, struct world *w, int color)
{
    (void)g;
    (void)w;
    (void)color;
    return fail(ST_DEVICE, "this program was built without NCCL");
}

static void nothing(struct group *g)
{
    (void)g;
}

const struct comm_table comm_cuda = { .name = "none", .open = without, .close = nothing };
