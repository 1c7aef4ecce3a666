/* readahead.h - reads the weights that this rank will load next into host memory, with threads of
 * its own, while the device computes with other weights.
 *
 *     source -> [threads: read, convert] -> host memory -> weights_open, later -> device
 *
 * Of each tensor it holds the elements that this rank reads in tensors_open, so the ranks together
 * hold the weights once. The functions are called by one thread. All functions are local. */
#ifndef MODEL_CHECKPOINT_READAHEAD_H
#define MODEL_CHECKPOINT_READAHEAD_H

#include "model/checkpoint/tensors.h"

struct readahead;

/* Bytes of host memory on rank `rank` of `ranks`. as_stored: as of tensors_ranges. */
size_t readahead_bytes(const struct tensor_list *l, int ranks, int rank,
                       const struct weight_source *as_stored);

/* Starts to read; `source` must stay valid until readahead_stop, the list need not. as_stored:
 * tensors_open will be told the same. ST_MEMORY. */
status readahead_start(struct readahead **r, const struct tensor_list *l, int ranks, int rank,
                       struct weight_source source, bool as_stored, int threads);

/* Waits until everything is read, and checks the other ranks meanwhile. Returns the first error of
 * the source; ST_PREEMPTED. */
status readahead_wait(struct readahead *r, struct device *dev);

/* A source of what was read, which must be complete: for tensors_open with the same list, on the
 * same rank. Valid until readahead_stop. */
struct weight_source readahead_source(struct readahead *r);

void readahead_stop(struct readahead *r); // ends the threads and frees the memory; accepts NULL

#endif
