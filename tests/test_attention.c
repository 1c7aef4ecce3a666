/* Attention over a sequence split over ranks against op_attention over the whole sequence, for
 * every mesh of this many ranks: the same bits with ring size 1 or between GPUs that write into
 * each other's memory, else a distance below 1e-5. Cases: heads and tokens that do not divide by
 * the ranks, fewer tokens than ranks, fewer heads than ranks. Also compares the plan's peak memory,
 * FLOPs and messages with the real ones. */
#include "kernels/ops.h"
#include "parallel/attention.h"
#include "parallel/split.h"
#include "runtime/half.h"
#include "tests/ranks_device.h"

#define GPU_CASES 3 // the last ones

static const struct {
    int64_t tokens, heads, depth;
} cases[] = {
    { 61, 12, 8 },
    { 64, 6, 4 },
    { 37, 5, 16 },
    { 3, 6, 8 },
    { 1, 2, 4 },
    { 17, 1, 4 },
    { 96, 8, 2 },
    { 5, 40, 2 },
    // on GPUs the kernel that waits for q, with tiles that belong to several ranks
    { 300, 7, 128 },
    { 1000, 12, 128 },
    { 2, 5, 128 },
};

/* Element i of row [3, N, D] of a token: its q, k and v. Any rank can compute any row. */
static float value(int64_t token, int64_t i)
{
    uint32_t h = (uint32_t)(token * 7919 + i + 1) * 2654435761u;

    h = (h ^ (h >> 15)) * 2246822519u;
    return (float)((h ^ (h >> 13)) & 0xffff) / 16384.0f -
           2; // uniform in [-2, 2): some logits are large
}

static void fill_rows(struct device *dev, struct tensor x, int64_t first)
{
    void *host = mirror(dev, x);

    for (int64_t s = 0; s < x.dim[0]; s++)
        for (int64_t i = 0; i < x.dim[1]; i++) {
            const float f = value(first + s, i);
            const int64_t at = s * x.dim[1] + i;
            if (x.dtype == DT_F32)
                ((float *)host)[at] = f;
            else
                ((uint16_t *)host)[at] = bf16_from_f32(f);
        }
    mirror_up(dev, x, host);
    mirror_free(dev, host);
}

/* Third `i` of rows [S, 3 N D] as [S, N, D]. */
static struct tensor third(struct tensor x, int i, int64_t heads, int64_t depth)
{
    return tensor_split(tensor_slice(x, 1, i * heads * depth, heads * depth), 1, depth);
}

/* Attention over all ranks of the mesh; out: the output for this rank's tokens, from the arena. */
static status run_parallel(struct mesh *m, struct device *dev, struct arena *a, struct tensor *out,
                           enum dtype dt, bool eight, int64_t tokens, int64_t heads, int64_t depth)
{
    const int parts = mesh_seq_size(m), rank = mesh_seq_rank(m);
    const int64_t first = split_at(tokens, parts, rank), count = split_count(tokens, parts, rank);
    struct parallel_attention seq;
    struct tensor x;

    TRY(arena_take(a, &x, dt, count, 3 * heads * depth));
    TRY(arena_take(a, out, dt, count, heads, depth));
    if (dev->kind != DEVICE_PLAN)
        fill_rows(dev, x, first);
    const size_t mark = a->used;
    TRY(parallel_attention_open(&seq, m, dev, a, dt, (struct attention_method){ .eight = eight },
                                tokens, heads, depth));
    TRY(parallel_attention_send(&seq, ATTENTION_V, third(x, 2, heads, depth)));
    TRY(parallel_attention_send(&seq, ATTENTION_K, third(x, 1, heads, depth)));
    TRY(parallel_attention_send(&seq, ATTENTION_Q, third(x, 0, heads, depth)));
    TRY(parallel_attention_run(&seq, *out));
    CHECK(a->used == mark, "scratch was not released");
    return ST_OK;
}

/* Attention over the whole sequence on this rank. */
static status run_whole(struct device *dev, struct arena *a, struct tensor *out, enum dtype dt,
                        bool eight, int64_t tokens, int64_t heads, int64_t depth)
{
    struct tensor x;

    TRY(arena_take(a, &x, dt, tokens, 3 * heads * depth));
    TRY(arena_take(a, out, dt, tokens, heads, depth));
    if (dev->kind != DEVICE_PLAN)
        fill_rows(dev, x, 0);

    const struct tensor none = { 0 }, q = third(x, 0, heads, depth), k = third(x, 1, heads, depth),
                        v = third(x, 2, heads, depth);
    const struct attention_part all = { .count = tokens, .out = *out };
    const float scale = 1 / sqrtf((float)depth);
    struct tensor scratch;

    if (!eight)
        return op_attention(dev, *out, none, q, k, v, scale);
    TRY(arena_take(a, &scratch, DT_U8, (int64_t)attention8_scratch(tokens, tokens, heads, depth)));
    return op_attention8(dev, &all, 1, none, q, k, v, scale, scratch);
}

static void compare(const struct mesh *m, struct device *dev, struct tensor got, struct tensor want,
                    bool eight, bool same_bits)
{
    void *const mine = mirror(dev, got), *const all = mirror(dev, want);
    const int64_t n = tensor_count(got), row = want.dim[1] * want.dim[2];
    const int64_t first = split_at(want.dim[0], mesh_seq_size(m), mesh_seq_rank(m)) * row;
    const size_t size = dtype_size(want.dtype);
    const char *expected = (const char *)all + (size_t)first * size;

    mirror_down(dev, mine, got);
    mirror_down(dev, all, want);
    if (same_bits) {
        CHECK(memcmp(mine, expected, (size_t)n * size) == 0,
              "cfg %d, ring %d, ulysses %d, %s: bits differ from %s alone", m->size.cfg,
              m->size.ring, m->size.ulysses, tensor_text(got), tensor_text(want));
    } else if (want.dtype == DT_F32) {
        check_near("ring", mine, (const float *)expected, n, 1e-5);
    } else { // the result of each chunk and the sum are rounded to bf16, 1.7e-3 each
        float *a = malloc(((size_t)n + 1) * sizeof(*a)), *b = malloc(((size_t)n + 1) * sizeof(*b));
        for (int64_t i = 0; i < n; i++) {
            a[i] = f32_from_bf16(((const uint16_t *)mine)[i]);
            b[i] = f32_from_bf16(((const uint16_t *)expected)[i]);
        }
        // in 8 bits each chunk is quantized for itself
        check_near(eight ? "ring in 8 bits" : "ring in bf16", a, b, n, eight ? 3e-2 : 8e-3);
        free(a);
        free(b);
    }
    mirror_free(dev, mine);
    mirror_free(dev, all);
}

static void same_traffic(const char *name, const struct group *planned, const struct group *g)
{
    CHECK(planned->sent == g->sent && planned->messages == g->messages,
          "%s: planned %.0f bytes in %.0f messages, sent %.0f in %.0f", name, planned->sent,
          planned->messages, g->sent, g->messages);
}

/* The same between GPUs that write into each other's memory: k and v of all other ranks' heads. */
static double needed_direct(const struct mesh *m, int64_t tokens, int64_t heads, int64_t row_bytes)
{
    const int parts = mesh_seq_size(m), u = m->size.ulysses, first = m->ring * u;
    const int64_t s_loc = split_count(tokens, parts, mesh_seq_rank(m));
    const int64_t n_loc = split_count(heads, u, m->ulysses);
    const int64_t chunk = split_at(tokens, parts, first + u) - split_at(tokens, parts, first);

    return (double)((2 * s_loc * (heads * m->size.ring - n_loc) + s_loc * (heads - n_loc) +
                     (chunk - s_loc) * n_loc) *
                    row_bytes);
}

/* Bytes that this rank must send. Ulysses: q, k and v of the other ranks' heads, and outputs for
 * the other ranks' tokens. Ring: to the next rank, k and v of every chunk except that rank's own.
 */
static void needed(const struct mesh *m, int64_t tokens, int64_t heads, int64_t row_bytes,
                   double *ulysses, double *ring)
{
    const int parts = mesh_seq_size(m), u = m->size.ulysses, first = m->ring * u;
    const int64_t s_loc = split_count(tokens, parts, mesh_seq_rank(m));
    const int64_t n_loc = split_count(heads, u, m->ulysses);
    const int64_t chunk = split_at(tokens, parts, first + u) - split_at(tokens, parts, first);
    const int next = (m->ring + 1) % m->size.ring;
    const int64_t next_chunk =
        split_at(tokens, parts, (next + 1) * u) - split_at(tokens, parts, next * u);

    *ulysses += (double)((3 * s_loc * (heads - n_loc) + (chunk - s_loc) * n_loc) * row_bytes);
    *ring += m->size.ring > 1 ? (double)(2 * (tokens - next_chunk) * n_loc * row_bytes) : 0;
}

static void check_mesh(struct world *w, struct device *dev, struct mesh_shape shape)
{
    struct world described;
    struct device plan;
    struct mesh m, planned;
    struct arena a, counted;
    double ulysses = 0, ring = 0, direct = 0;

    world_describe(&described, w->rank, w->size, w->size);
    CHECK(device_open_plan(&plan, &table_plan, 0) == ST_OK, "%s", status_line());
    CHECK(mesh_open(&m, w, dev, shape) == ST_OK, "%s", status_line());
    described.direct = m.direct != NULL;
    CHECK(mesh_open(&planned, &described, &plan, shape) == ST_OK, "%s", status_line());
    const size_t count = COUNT(cases) - (dev->kind == DEVICE_CUDA ? 0 : GPU_CASES);

    for (size_t i = 0; i < count * 3; i++) {
        const int64_t s = cases[i / 3].tokens, n = cases[i / 3].heads, d = cases[i / 3].depth;
        const bool eight = i % 3 == 2;
        const enum dtype dt = i % 3 != 0 ? DT_BF16 : DT_F32;
        struct tensor got, want, none;

        if (eight && dev->kind == DEVICE_CUDA && d != 128)
            continue;
        dev->flops = plan.flops = 0;
        CHECK(arena_init(&counted, &plan, "step", 0) == ST_OK, "%s", status_line());
        CHECK(run_parallel(&planned, &plan, &counted, &none, dt, eight, s, n, d) == ST_OK, "%s",
              status_line());
        const size_t peak = counted.peak;
        const double flops = plan.flops;
        CHECK(run_whole(&plan, &counted, &none, dt, eight, s, n, d) == ST_OK, "%s", status_line());
        CHECK(arena_init(&a, dev, "step", counted.peak) == ST_OK, "%s", status_line());
        CHECK(run_parallel(&m, dev, &a, &got, dt, eight, s, n, d) == ST_OK, "%s", status_line());
        CHECK(a.peak == peak, "peak %zu, planned %zu", a.peak, peak);
        CHECK(dev->flops == flops, "%.0f FLOPs, planned %.0f", dev->flops, flops);
        CHECK(run_whole(dev, &a, &want, dt, eight, s, n, d) == ST_OK, "%s", status_line());
        compare(&m, dev, got, want, eight,
                m.direct != NULL || (shape.ring == 1 && (eight || dev->kind == DEVICE_CUDA ||
                                                         dev->table == &table_ref)));
        needed(&m, s, n, d * (int64_t)dtype_size(dt), &ulysses, &ring);
        direct += needed_direct(&m, s, n, d * (int64_t)dtype_size(dt));
        arena_done(&counted);
        arena_done(&a);
    }
    same_traffic("ulysses", &planned.ulysses_group, &m.ulysses_group);
    same_traffic("ring", &planned.ring_group, &m.ring_group);
    CHECK(m.all.sent == 0 && m.cfg_group.sent == 0, "the all or cfg group sent messages");
    if (m.direct != NULL) {
        same_traffic("direct", planned.direct, m.direct);
        CHECK(m.direct->sent == direct, "%.0f bytes sent, %.0f needed", m.direct->sent, direct);
        ulysses = m.direct == &m.ulysses_group ? direct : 0;
        ring = m.direct == &m.ring_group ? direct : 0;
    }
    CHECK(m.ulysses_group.sent == ulysses, "ulysses: %.0f bytes sent, %.0f needed",
          m.ulysses_group.sent, ulysses);
    CHECK(m.ring_group.sent == ring, "ring: %.0f bytes sent, %.0f needed", m.ring_group.sent, ring);
    mesh_close(&planned);
    mesh_close(&m);
    device_close(&plan);
}

int main(int argc, char **argv)
{
    struct device plain_dev, fast_dev;
    struct table plain, fast;
    struct world w;
    bool gpu;

    if (world_open(&w, &argc, &argv) != ST_OK)
        return 1;
    gpu = ranks_on_gpus(&w, &argc, argv);
    table_cpu(&fast);
    if (gpu) {
        table_cuda_plain(&plain);
        table_cuda(&fast);
    }
    CHECK(ranks_device(&plain_dev, &w, gpu, gpu ? &plain : &table_ref) == ST_OK, "%s",
          status_line());
    CHECK(ranks_device(&fast_dev, &w, gpu, &fast) == ST_OK, "%s", status_line());
    for (int cfg = 1; cfg <= 2; cfg++)
        for (int ring = 1; ring <= w.size; ring++) {
            const struct mesh_shape shape = { cfg, ring, w.size / cfg / ring };
            if (w.size % (cfg * ring) != 0)
                continue;
            check_mesh(&w, &plain_dev, shape);
            check_mesh(&w, &fast_dev, shape);
        }
    device_close(&plain_dev);
    device_close(&fast_dev);
    return ranks_end(&w, "attention");
}
