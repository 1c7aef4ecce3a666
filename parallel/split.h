/* split.h - an even split of `total` elements into `parts` contiguous ranges: range i is
 * [split_at(total, parts, i), split_at(total, parts, i + 1)). Range sizes differ by at most 1. */
#ifndef PARALLEL_SPLIT_H
#define PARALLEL_SPLIT_H

#include <stdint.h>

static inline int64_t split_at(int64_t total, int parts, int i)
{
    return total * i / parts;
}

static inline int64_t split_count(int64_t total, int parts, int i)
{
    return split_at(total, parts, i + 1) - split_at(total, parts, i);
}

#endif
