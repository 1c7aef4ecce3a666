/* Rows of an image split over ranks: halo exchange and gathering against the whole image. */
#include "parallel/halo.h"
#include "parallel/split.h"
#include "tests/ranks_device.h"

/* The value of element i of a row: different for every element of the image. */
static float pixel(int64_t t, int64_t row, int64_t i)
{
    return (float)(1 + t * 100000 + row * 1000 + i);
}

struct shape {
    int64_t t, total, scale, w, c;
};

static void check_halo(const struct rows *r, struct device *dev, struct arena *step, struct shape s,
                       bool above)
{
    const int64_t h = r->count * s.scale, first = r->first * s.scale, line = s.w * s.c;
    const int64_t begin = halo_above(r), end = begin + h; // this rank's rows in memory
    struct transfer transfer = { 0 };
    struct tensor x;
    int64_t bad = 0;

    CHECK(rows_take(r, step, &x, DT_F32, s.t, h, s.w, s.c) == ST_OK, "%s", status_line());
    const struct tensor memory = rows_with_halo(r, x, true);
    const int64_t rows = memory.dim[1];
    CHECK(rows == end + halo_below(r) && tensor_contiguous(memory), "%lld rows", (long long)rows);
    CHECK(tensor_bytes(memory) == rows_bytes(r, DT_F32, s.t, h, s.w, s.c), "bytes");
    CHECK(rows_with_halo(r, x, false).dim[1] == h + halo_below(r),
          "rows without the halo row above");
    float *p = mirror(dev, memory);
    for (int64_t n = 0; dev->kind != DEVICE_PLAN && n < tensor_count(memory); n++) {
        const int64_t t = n / line / rows, row = n / line % rows;
        p[n] = row >= begin && row < end ? pixel(t, first - begin + row, n % line) : -7;
    }
    mirror_up(dev, memory, p);
    CHECK(rows_halo_exchange(r, &transfer, x, above) == ST_OK, "%s", status_line());
    CHECK(transfer_wait(&transfer) == ST_OK, "%s", status_line());
    mirror_down(dev, p, memory);
    for (int64_t n = 0; dev->kind != DEVICE_PLAN && n < tensor_count(memory); n++) {
        const int64_t t = n / line / rows, row = n / line % rows;
        bad += p[n] != (row < begin && !above ? -7 : pixel(t, first - begin + row, n % line));
    }
    CHECK(bad == 0, "rank %d: %lld wrong values of [%lld, %lld, %lld, %lld]", r->group->rank,
          (long long)bad, (long long)s.t, (long long)rows, (long long)s.w, (long long)s.c);
    mirror_free(dev, p);
    arena_release(step, 0);
}

static void check_gather(const struct rows *r, struct device *dev, struct arena *step,
                         struct shape s, int root)
{
    const int64_t rows = s.total * s.scale, h = r->count * s.scale, first = r->first * s.scale;
    const int64_t line = s.w * s.c;
    const bool receives = root < 0 || r->group->rank == root;
    struct transfer transfer = { 0 };
    struct tensor x, out = { 0 };
    int64_t bad = 0;

    CHECK(arena_take(step, &x, DT_F32, s.t, h, s.w, s.c) == ST_OK, "%s", status_line());
    if (receives)
        CHECK(arena_take(step, &out, DT_F32, s.t, rows, s.w, s.c) == ST_OK, "%s", status_line());
    float *p = mirror(dev, x);
    for (int64_t n = 0; dev->kind != DEVICE_PLAN && n < tensor_count(x); n++)
        p[n] = pixel(n / line / h, first + n / line % h, n % line);
    mirror_up(dev, x, p);
    mirror_free(dev, p);
    CHECK(rows_gather(r, &transfer, out, x, s.scale, root) == ST_OK, "%s", status_line());
    CHECK(transfer_wait(&transfer) == ST_OK, "%s", status_line());
    p = receives ? mirror(dev, out) : NULL;
    if (receives)
        mirror_down(dev, p, out);
    for (int64_t n = 0; receives && dev->kind != DEVICE_PLAN && n < tensor_count(out); n++)
        bad += p[n] != pixel(n / line / rows, n / line % rows, n % line);
    if (receives)
        mirror_free(dev, p);
    CHECK(bad == 0, "rank %d, root %d: %lld wrong values", r->group->rank, root, (long long)bad);
    arena_release(step, 0);
}

static void check_shape(struct group *g, struct arena *step, struct shape s)
{
    struct rows r;
    int64_t rows = 0;

    rows_split(&r, g, s.total);
    CHECK(r.ranks == (g->size < s.total ? g->size : s.total), "%d ranks hold rows", r.ranks);
    CHECK((r.count > 0) == (g->rank < r.ranks), "rank %d has %lld rows", g->rank,
          (long long)r.count);
    for (int i = 0; i < r.ranks; i++)
        rows += split_count(s.total, r.ranks, i);
    CHECK(rows == s.total, "%lld rows in all", (long long)rows);
    if (r.count == 0)
        return;
    check_halo(&r, g->dev, step, s, true);
    check_halo(&r, g->dev, step, s, false);
    check_gather(&r, g->dev, step, s, -1);
    check_gather(&r, g->dev, step, s, 0);
    check_gather(&r, g->dev, step, s, r.ranks - 1);
}

static const struct shape shapes[] = {
    { 1, 60, 1, 5, 4 }, { 3, 9, 2, 3, 5 }, { 2, 3, 8, 2, 3 }, { 4, 1, 1, 7, 2 }, { 2, 2, 1, 1, 1 },
};

int main(int argc, char **argv)
{
    struct world w, described;
    struct device dev, plan;
    struct group g, planned;
    struct arena a, counted;
    struct table on_gpu;
    int *members;
    bool gpu;

    if (world_open(&w, &argc, &argv) != ST_OK)
        return 1;
    gpu = ranks_on_gpus(&w, &argc, argv);
    table_cuda(&on_gpu);
    CHECK(ranks_device(&dev, &w, gpu, gpu ? &on_gpu : &table_ref) == ST_OK, "%s", status_line());
    CHECK(group_open(&g, "all", &w, &dev, 0, NULL, 0) == ST_OK, "%s", status_line());
    CHECK(arena_init(&a, &dev, "step", 1 << 20) == ST_OK, "%s", status_line());

    members = calloc((size_t)w.size, sizeof(*members));
    for (int i = 0; i < w.size; i++)
        members[i] = i;
    world_describe(&described, w.rank, w.size, w.size);
    device_open_plan(&plan, &table_plan, 0);
    CHECK(group_open(&planned, "all", &described, &plan, 0, members, w.size) == ST_OK, "open");
    arena_init(&counted, &plan, "step", 0);
    for (size_t i = 0; i < COUNT(shapes); i++) {
        check_shape(&g, &a, shapes[i]);
        check_shape(&planned, &counted, shapes[i]);
        CHECK(a.peak == counted.peak, "peak %zu, planned %zu", a.peak, counted.peak);
        CHECK(planned.sent == g.sent && planned.messages == g.messages,
              "planned %.0f bytes in %.0f messages, sent %.0f in %.0f", planned.sent,
              planned.messages, g.sent, g.messages);
    }
    group_close(&planned);
    arena_done(&counted);
    device_close(&plan);
    free(members);
    arena_done(&a);
    group_close(&g);
    device_close(&dev);
    return ranks_end(&w, "halo");
}
