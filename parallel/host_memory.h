/* host_memory.h - pinned host memory for weights that do not stay on the device, each byte once per
 * node: ranks of a node that keep the same weights map the same memory.
 *
 * The memory of several ranks is an anonymous file (memfd) of the first of them, so that it ends
 * with the processes however they end, and the size of /dev/shm does not matter. On the plan device
 * nothing is allocated, and only bytes are counted. */
#ifndef PARALLEL_HOST_MEMORY_H
#define PARALLEL_HOST_MEMORY_H

#include "parallel/world.h"
#include "runtime/device.h"

struct host_memory {
    struct device *dev; // borrowed
    char *base;         // NULL on the plan device
    size_t size, used, peak;
    bool pinned;
    int ranks, rank; // that share it, all on this node; and which of them this one is
};

/* `shared`: by all ranks of `w` on a node; then collective over `w`, and the ranks agree on the
 * status. Else local. ST_MEMORY. */
status host_memory_open(struct host_memory *m, struct world *w, struct device *dev, size_t size,
                        bool shared);
void host_memory_close(struct host_memory *m); // local; accepts zeroed memory

/* The next `bytes` bytes, aligned to 256; NULL on the plan device. All ranks that share the memory
 * take the same sizes in the same order. ST_MEMORY when it is full, an error of the plan. */
status host_memory_take(struct host_memory *m, char **p, size_t bytes);

/* Releases what was taken since `used` was `mark`. */
void host_memory_release(struct host_memory *m, size_t mark);

#endif
