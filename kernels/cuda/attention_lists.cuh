/* attention_lists.cuh - which keys a block of attention_kernel.cuh visits, from struct tile_lists.
 *
 * A block visits pieces: up to 64 adjacent rows of keys, a tile or half of one. Where tiles of
 * queries have up to 128 rows, a block has one of them, and both of its warpgroups attend to each
 * piece. Where they have up to 64, each warpgroup has a tile of its own, the block visits the union
 * of both lists, and a piece says which warpgroups attend to it; the other one gets p = 0. */
#ifndef KERNELS_CUDA_ATTENTION_LISTS_CUH
#define KERNELS_CUDA_ATTENTION_LISTS_CUH

#include "kernels/ops.h"

#include <stdint.h>

/* struct tile_lists. */
struct list_view {
    const int *q_first, *k_first, *count, *index;
    int lists, most; // lists of a head, tiles in a list at most
    bool pairs;      // a block has two lists
};

static inline struct list_view view_of(const struct tile_lists *lists)
{
    struct list_view view = {};

    view.q_first = (const int *)lists->q_first.data;
    view.k_first = (const int *)lists->k_first.data;
    view.count = (const int *)lists->count.data;
    view.index = (const int *)lists->index.data;
    view.lists = (int)lists->count.dim[1];
    view.most = (int)lists->index.dim[2];
    view.pairs = lists->q_rows == 64;
    return view;
}

struct piece {
    int first, rows;
    int groups; // bit i: warpgroup i attends to it

    __device__ __forceinline__ uint32_t rows_for(int group) const
    {
        return (groups >> group & 1) != 0 ? rows : 0;
    }
};

/* The rows [x, y) of q of a warpgroup, in the block's tile `q_tile` of a head. */
__device__ __forceinline__ int2 rows_of(const struct list_view &lists, int q_tile, int group)
{
    if (!lists.pairs)
        return make_int2(__ldg(lists.q_first + q_tile) + 64 * group,
                         __ldg(lists.q_first + q_tile + 1));
    q_tile = 2 * q_tile + group;
    return q_tile < lists.lists
               ? make_int2(__ldg(lists.q_first + q_tile), __ldg(lists.q_first + q_tile + 1))
               : make_int2(0, 0);
}

/* The pieces of a block, in the order of the lists; but the first two are of the first tile of each
 * list, because a warpgroup must attend to some of the first keys that it gets. */
struct walk {
    const int *k_first, *a, *a_end, *b, *b_end; // what is left of the lists
    int all;                                    // groups that attend to every piece
    int start;        // number of the next piece of the first tiles; 4: none is left
    int tile, groups; // whose second half is next; tile -1: none

    __device__ __forceinline__ walk(const struct list_view &lists, int head, int q_tile)
    {
        const int first = head * lists.lists, last = lists.lists - 1;
        const int at = first + (lists.pairs ? 2 * q_tile : q_tile);
        const int beside = lists.pairs ? first + min(2 * q_tile + 1, last) : at;

        k_first = lists.k_first;
        a = lists.index + (int64_t)at * lists.most;
        a_end = a + __ldg(lists.count + at);
        b = lists.index + (int64_t)beside * lists.most;
        b_end = lists.pairs ? b + __ldg(lists.count + beside) : b;
        all = lists.pairs ? 0 : 3;
        start = __ldg(a) != __ldg(b) ? 0 : 4;
        tile = -1;
        groups = 0;
    }

    /* Sets p to half of a tile. False, and p unchanged, if that has no rows. */
    __device__ __forceinline__ bool set(struct piece &p, int of, int half, int attend) const
    {
        const int first = __ldg(k_first + of) + 64 * half;
        const int rows = min(__ldg(k_first + of + 1) - first, 64);

        if (rows > 0) {
            p.first = first;
            p.rows = rows;
            p.groups = attend;
        }
        return rows > 0;
    }

    /* False after the last piece. */
    __device__ __forceinline__ bool next(struct piece &p)
    {
        while (start < 4) {
            const int list = start % 2, half = start / 2;
            const bool some = set(p, __ldg(list == 0 ? a : b), half, 1 << list);

            a += half == 1 && list == 0;
            b += half == 1 && list == 1;
            start++;
            if (some)
                return true;
        }
        if (tile >= 0) {
            const int of = tile;

            tile = -1;
            if (set(p, of, 1, groups))
                return true;
        }

        const int x = a < a_end ? __ldg(a) : INT32_MAX, y = b < b_end ? __ldg(b) : INT32_MAX;

        tile = min(x, y);
        if (tile == INT32_MAX)
            return false;
        groups = all | (x == tile ? 1 : 0) | (y == tile ? 2 : 0);
        a += x == tile;
        b += y == tile;
        return set(p, tile, 0, groups);
    }
};

#endif
