/* split.h - sharing things out as evenly as integers allow: part i of `parts` over `total` things
 * is [split_at(total, parts, i), split_at(total, parts, i + 1)). Parts differ by one at most. */
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
