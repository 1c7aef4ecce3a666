/* test_weights [cuda|nccl]
 *
 * Weights in their modes: sharded and streamed units and those in host memory have the same bits as
 * resident ones, a rank reads only its slices, ranks of a node hold one copy in host memory, and
 * the plan allocates the same memory and sends the same bytes. With "cuda" or "nccl" in GPU memory,
 * one GPU per rank. */
#include "kernels/merge.h"
#include "parallel/split.h"
#include "parallel/weights.h"
#include "runtime/convert.h"
#include "runtime/half.h"
#include "tests/ranks_device.h"

/* Tensor i goes to the i-th of an array, joined or not. */
#define SPEC(i, of, dt, join, axes, ...)                                                           \
    {                                                                                              \
        .name = of, .dtype = dt, .joined = join, .ndim = axes, .dim = { __VA_ARGS__ },             \
        .slot = (i) * sizeof(struct tensor)                                                        \
    }

static const struct weight_spec specs[] = {
    SPEC(0, "blocks.%d.q", DT_BF16, false, 2, 40, 33),
    SPEC(1, "blocks.%d.k", DT_BF16, true, 2, 40, 33),
    SPEC(2, "blocks.%d.v", DT_BF16, true, 2, 40, 33),
    SPEC(3, "blocks.%d.bias", DT_F32, false, 1, 7),
    SPEC(4, "blocks.%d.norm", DT_F32, false, 1, 129),
    SPEC(5, "blocks.%d.bytes", DT_U8, false, 1, 1021),
};
/* Names with "stored" have a form: numbers of 8 bits with a scale for each row, but in odd units
 * not those with "even"; a product is added to those with "lora". */
static const struct weight_spec quantized[] = {
    SPEC(0, "blocks.%d.stored.even.q", DT_BF16, false, 2, 40, 33),
    SPEC(1, "blocks.%d.stored.k", DT_BF16, true, 2, 40, 33),
    SPEC(2, "blocks.%d.bias", DT_F32, false, 1, 7),
    SPEC(3, "blocks.%d.stored.lora.o", DT_BF16, false, 2, 33, 1100),
    SPEC(4, "blocks.%d.stored.lora", DT_F32, false, 2, 9, 70),
    SPEC(5, "blocks.%d.stored.even", DT_F32, false, 2, 300, 257),
    SPEC(6, "blocks.%d.norm", DT_F32, false, 1, 129),
};
static const struct weight_spec tiny[] = { SPEC(0, "scale", DT_F32, false, 1, 3) };
static const struct weight_spec large[] = {
    SPEC(0, "a.%d", DT_F32, false, 2, 1100, 1000), // more than the staging buffer holds
    SPEC(1, "b.%d", DT_F32, false, 1, 5),
};

struct source {
    _Atomic int64_t bytes;
    _Atomic int reads;
    int prefetches, fail_at; // fail_at: number of the read that fails, -1 none
};

static uint32_t seed_of(const char *name)
{
    uint32_t h = 2166136261u;

    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    return h;
}

/* The value of an element depends on its tensor's name and its index only. */
static void values_of(const char *name, int64_t first, int64_t count, enum dtype dt, void *dst)
{
    const uint32_t seed = seed_of(name);

    for (int64_t i = 0; i < count; i++) {
        uint32_t h = (seed ^ (uint32_t)(first + i)) * 2654435761u;

        h ^= h >> 15;
        const float f = (float)(h & 0xffffff) / 1e6f - 8;
        if (dt == DT_F32)
            ((float *)dst)[i] = f;
        else if (dt == DT_BF16)
            ((uint16_t *)dst)[i] = bf16_from_f32(f);
        else
            ((uint8_t *)dst)[i] = (uint8_t)h;
    }
}

static bool form_pattern(void *payload, const struct weight_spec *spec, const char *name,
                         struct weight_form *form)
{
    const int unit = atoi(name + strlen("blocks."));

    if (strstr(name, "stored") == NULL || (strstr(name, "even") != NULL && unit % 2 == 1))
        return false;
    *form = (struct weight_form){
        .stored = { .dtype = DT_I8,
                    .count = spec->dim[0] * spec->dim[1],
                    .row = spec->dim[1],
                    .scale = { .dtype = DT_F32,
                               .count = spec->dim[0],
                               .rows = 1,
                               .columns = spec->dim[1],
                               .per_row = 1,
                               .factor = 1 } },
        .rank = strstr(name, "lora") != NULL ? 3 : 0,
    };
    return true;
}

/* All bytes of the tensor's form. */
static char *form_bytes(const char *name, const struct weight_form *f)
{
    const int64_t rows = f->stored.count / f->stored.row, cols = f->stored.row;
    char *bytes = calloc(1, weight_form_bytes(f));

    values_of(name, 0, f->stored.count, DT_U8, bytes);
    values_of(name, 0, rows, DT_F32, bytes + stored_scales_at(&f->stored));
    if (f->rank > 0) {
        values_of(name, 7, rows * f->rank, DT_F32, bytes + weight_form_up(f));
        values_of(name, 9, f->rank * cols, DT_F32, bytes + weight_form_down(f));
    }
    return bytes;
}

/* The values of a tensor, which may have a form. */
static void any_values(const struct weight_spec *spec, const char *name, int64_t first,
                       int64_t count, void *dst)
{
    const enum dtype dt = spec->dtype;
    struct weight_form f;
    float *wide;
    char *bytes;

    if (!form_pattern(NULL, spec, name, &f)) {
        values_of(name, first, count, dt, dst);
        return;
    }
    bytes = form_bytes(name, &f);
    wide = malloc((size_t)f.stored.count * sizeof(float));
    stored_values(&f.stored, bytes, 0, f.stored.count, DT_F32, wide);
    if (f.rank > 0)
        merge_product(wide, 0, f.stored.count, f.stored.row,
                      (const float *)(bytes + weight_form_up(&f)),
                      (const float *)(bytes + weight_form_down(&f)), f.rank);
    convert_values(dst, dt, wide + first, DT_F32, (size_t)count);
    free(wide);
    free(bytes);
}

static status read_pattern_form(void *payload, const struct weight_spec *spec, const char *name,
                                size_t first, size_t count, void *dst)
{
    struct source *s = payload;
    struct weight_form f;
    char *bytes;

    CHECK(form_pattern(NULL, spec, name, &f) && first + count <= weight_form_bytes(&f), "%s", name);
    if (s->reads++ == s->fail_at)
        return fail(ST_IO, "%s: cut", name);
    bytes = form_bytes(name, &f);
    memcpy(dst, bytes + first, count);
    free(bytes);
    s->bytes += (int64_t)count;
    return ST_OK;
}

static status read_pattern(void *payload, const struct weight_spec *spec, const char *name,
                           int64_t first, int64_t count, void *dst)
{
    const enum dtype dt = spec->dtype;
    struct source *s = payload;

    if (s->reads++ == s->fail_at)
        return fail(ST_IO, "%s: cut", name);
    any_values(spec, name, first, count, dst);
    s->bytes += count * (int64_t)dtype_size(dt);
    return ST_OK;
}

static void prefetch_pattern(void *payload, const char *name, int64_t first, int64_t count)
{
    struct source *s = payload;

    s->prefetches++;
    CHECK(first == 0 && count > 0 && name[0] != 0, "%s [%lld, +%lld)", name, (long long)first,
          (long long)count);
}

static void check_unit(struct device *dev, const struct weight_spec *spec, int count, int unit,
                       const struct tensor *got)
{
    for (int i = 0; i < count; i++) {
        const int64_t n = tensor_count(got[i]);
        char *host = malloc(tensor_bytes(got[i]));
        char *want = malloc(tensor_bytes(got[i]));
        const size_t size = dtype_size(got[i].dtype);
        int64_t bad = 0;
        char name[64];
        snprintf(name, sizeof(name), spec[i].name, unit);
        any_values(&spec[i], name, 0, n, want);
        CHECK(device_download(dev, host, got[i]) == ST_OK && device_wait(dev) == ST_OK, "%s",
              status_line());
        if (memcmp(want, host, tensor_bytes(got[i])) != 0)
            for (size_t j = 0; j < (size_t)n * size; j += size)
                bad += memcmp(want + j, host + j, size) != 0;
        free(want);
        free(host);
        CHECK(bad == 0, "%s: %lld of %lld elements", name, (long long)bad, (long long)n);
        if (spec[i].joined)
            CHECK((char *)got[i].data == (char *)got[i - 1].data + tensor_bytes(got[i - 1]),
                  "%s does not directly follow the previous tensor", name);
        else
            CHECK((uintptr_t)got[i].data % 256 == 0, "%s is not aligned", name);
    }
}

/* Acquires units in the order of a model, twice; then out of order and repeated. */
static void use(struct weights *w, const struct weight_spec *spec, bool real)
{
    static const int odd[][2] = { { 0, -1 }, { 3, 1 }, { 1, 1 }, { 1, 2 }, { 3, 0 }, { 0, -1 } };
    struct tensor got[8];

    for (int i = 0; i < 2 * w->units; i++) {
        const int unit = i % w->units;
        CHECK(weights_acquire(w, unit, (unit + 1) % w->units, got) == ST_OK, "%s", status_line());
        if (real)
            check_unit(w->dev, spec, w->count, unit, got);
    }
    // one gather per acquire and one before the first; up to two units stay in the buffers
    if (w->mode == WEIGHTS_SHARDED) {
        const int gathers = w->units > 2 ? 2 * w->units + 1 : w->units;
        CHECK(w->group->messages == (w->kept_bytes > 0 ? gathers * (w->group->size - 1) : 0),
              "%.0f messages, expected %d gathers", w->group->messages, gathers);
    }
    for (size_t i = 0; i < COUNT(odd); i++) {
        const int unit = odd[i][0] % w->units, next = odd[i][1] < 0 ? -1 : odd[i][1] % w->units;
        CHECK(weights_acquire(w, unit, next, got) == ST_OK, "%s", status_line());
        if (real)
            check_unit(w->dev, spec, w->count, unit, got);
    }
}

/* With a described world and a plan device: the same memory and bytes sent as in the real run. */
static void check_plan(struct world *w, enum weights_mode mode, bool grouped, const struct group *g,
                       int units, const struct weight_spec *spec, int count, size_t taken)
{
    int *members = calloc((size_t)w->size, sizeof(*members));
    struct world described;
    struct device dev;
    struct group planned;
    struct arena a;
    struct weights ws;

    for (int i = 0; i < w->size; i++)
        members[i] = i;
    world_describe(&described, w->rank, w->size, w->size);
    device_open_plan(&dev, &table_plan, 0);
    arena_init(&a, &dev, "plan", 0);
    CHECK(group_open(&planned, "all", &described, &dev, 0, members, w->size) == ST_OK, "open");
    CHECK(weights_open(&ws, &a, mode, grouped ? &planned : NULL, units, spec, count,
                       (struct weight_source){ 0 }) == ST_OK,
          "%s", status_line());
    CHECK(weights_all_gather(&ws) == ST_OK, "%s", status_line());
    CHECK(a.used == taken, "planned %zu bytes, took %zu", a.used, taken);
    use(&ws, spec, false);
    CHECK(planned.sent == g->sent && planned.messages == g->messages,
          "planned %.0f bytes in %.0f messages, sent %.0f in %.0f", planned.sent, planned.messages,
          g->sent, g->messages);
    weights_close(&ws);
    group_close(&planned);
    arena_done(&a);
    device_close(&dev);
    free(members);
}

/* grouped: each rank reads one slice of each unit. */
static void check_mode(struct world *w, struct device *dev, enum weights_mode mode, bool grouped,
                       int units, const struct weight_spec *spec, int count)
{
    const size_t bytes = weights_bytes(mode, w->size, w->rank, units, spec, count);
    const bool sharded = mode == WEIGHTS_SHARDED, resident = mode == WEIGHTS_RESIDENT;
    struct source from = { .fail_at = -1 };
    const struct weight_source source = { .read = read_pattern,
                                          .prefetch = prefetch_pattern,
                                          .payload = &from };
    int64_t all = 0;
    struct group g;
    struct arena a;
    struct weights ws;

    CHECK(group_open(&g, "all", w, dev, 0, NULL, 0) == ST_OK, "%s", status_line());
    CHECK(arena_init(&a, dev, "weights", bytes + 4096) == ST_OK, "%s", status_line());
    CHECK(weights_open(&ws, &a, mode, grouped ? &g : NULL, units, spec, count, source) == ST_OK,
          "%s", status_line());
    CHECK(a.used >= bytes && a.used <= bytes + 3 * 256, "took %zu bytes, said %zu", a.used, bytes);
    for (int i = 0; i < count; i++)
        all += units *
               (int64_t)tensor_bytes(tensor_dims(NULL, spec[i].dtype, spec[i].ndim, spec[i].dim));
    if (resident && !grouped)
        CHECK(from.bytes == all, "read %lld of %lld bytes", (long long)from.bytes, (long long)all);
    if (mode == WEIGHTS_STREAMED)
        CHECK(from.bytes == 0, "read %lld bytes before the first acquire", (long long)from.bytes);
    CHECK(weights_all_gather(&ws) == ST_OK, "%s", status_line());
    if (grouped) { // every byte is read once, by one rank, and at most one slice per rank
        const double total = world_sum(w, (double)from.bytes);
        CHECK(total == (double)all, "all ranks read %.0f of %lld bytes", total, (long long)all);
        CHECK(from.bytes <= units * (int64_t)(ws.unit_bytes / (size_t)w->size + 256),
              "read %lld of %d units of %zu", (long long)from.bytes, units, ws.unit_bytes);
        CHECK(!sharded || ws.kept_bytes <= ws.unit_bytes / (size_t)w->size + 256,
              "keeps %zu of %zu", ws.kept_bytes, ws.unit_bytes);
    }
    use(&ws, spec, true);
    if (mode == WEIGHTS_STREAMED && units > 2)
        CHECK(from.bytes > all && (from.prefetches > 0 || ws.loader != NULL),
              "%lld bytes, %d hints", (long long)from.bytes, from.prefetches);
    else // the two buffers hold all units
        CHECK(grouped || from.bytes == all, "read %lld of %lld bytes", (long long)from.bytes,
              (long long)all);
    check_plan(w, mode, grouped, &g, units, spec, count, a.used);
    weights_close(&ws);
    group_close(&g);

    from = (struct source){ .fail_at = 0 };
    a.used = 0;
    if (resident && !grouped)
        CHECK(weights_open(&ws, &a, mode, NULL, units, spec, count, source) == ST_IO &&
                  ws.specs == NULL && strstr(status_line(), "cut") != NULL,
              "a failing source: %s", status_line());
    arena_done(&a);
}

/* Units in host memory, of which some stay on the device. shared: one copy for all ranks. */
static void check_host(struct world *w, struct device *dev, bool sharded, bool shared, int resident,
                       int units, const struct weight_spec *spec, int count)
{
    const size_t bytes = weights_bytes(WEIGHTS_RESIDENT, 1, 0, units + 4, spec, count);
    struct source from = { .fail_at = -1 };
    const struct weight_source source = { .read = read_pattern, .payload = &from };
    const struct weights_store store = { .mode = WEIGHTS_HOST,
                                         .resident = resident,
                                         .sharded = sharded };
    struct weights_store real = store, planned = store;
    struct host_memory host, counted;
    struct world described;
    struct device plan;
    struct group g, pg;
    struct arena a, pa;
    struct weights ws, pw;
    int members[64], *m = members;
    int64_t all = 0;
    double taken;

    for (int i = 0; i < w->size; i++)
        m[i] = i;
    world_describe(&described, w->rank, w->size, w->size);
    device_open_plan(&plan, &table_plan, 0);
    arena_init(&pa, &plan, "plan", 0);
    CHECK(group_open(&g, "all", w, dev, 0, NULL, 0) == ST_OK, "%s", status_line());
    CHECK(group_open(&pg, "all", &described, &plan, 0, m, w->size) == ST_OK, "%s", status_line());
    CHECK(arena_init(&a, dev, "weights", bytes + 4096) == ST_OK, "%s", status_line());
    CHECK(host_memory_open(&counted, &described, &plan, 0, shared) == ST_OK, "%s", status_line());
    planned.host = &counted;
    CHECK(weights_open_store(&pw, &pa, planned, &pg, units, spec, count, source) == ST_OK, "%s",
          status_line());
    CHECK(host_memory_open(&host, w, dev, counted.used, shared) == ST_OK, "%s", status_line());
    real.host = &host;
    CHECK(agree(w, weights_open_store(&ws, &a, real, &g, units, spec, count, source)) == ST_OK,
          "%s", status_line());
    CHECK(weights_all_gather(&ws) == ST_OK && weights_all_gather(&pw) == ST_OK, "%s",
          status_line());
    CHECK(host.used == counted.used && a.used == pa.used, "%zu, %zu: planned %zu, %zu", host.used,
          a.used, counted.used, pa.used);
    for (int i = 0; i < count; i++)
        all += units *
               (int64_t)tensor_bytes(tensor_dims(NULL, spec[i].dtype, spec[i].ndim, spec[i].dim));
    if (sharded || shared) { // each byte is read by one rank, and held once
        const double total = world_sum(w, (double)from.bytes);

        CHECK(total == (double)all, "all ranks read %.0f of %lld bytes", total, (long long)all);
    }
    taken = sharded ? world_sum(w, (double)host.used) : (double)host.used;
    CHECK(taken <= (double)(ws.unit_bytes * (size_t)(units - resident)) + 256 * w->size * units,
          "%.0f bytes of host memory for %d units of %zu", taken, units - resident, ws.unit_bytes);
    use(&ws, spec, true);
    use(&pw, spec, false);
    CHECK(g.sent == pg.sent && g.messages == pg.messages && dev->streamed == plan.streamed,
          "sent %.0f, streamed %.0f, planned %.0f, %.0f", g.sent, dev->streamed, pg.sent,
          plan.streamed);
    CHECK((dev->streamed > 0) == (resident < units && ws.kept_bytes > 0), "streamed %.0f",
          dev->streamed);
    dev->streamed = 0;
    world_barrier(w);
    weights_close(&ws);
    weights_close(&pw);
    host_memory_close(&host);
    host_memory_close(&counted);
    group_close(&g);
    group_close(&pg);
    arena_done(&a);
    arena_done(&pa);
    device_close(&plan);
}

/* Units that are kept in the form of their file have the bits of those that are expanded when they
 * are read; the plan allocates the same memory; less is read and kept. */
static void check_stored(struct world *w, struct device *dev, struct weights_store store,
                         bool grouped, int units)
{
    struct source from = { .fail_at = -1 };
    struct weight_source source = {
        .read = read_pattern, .form = form_pattern, .read_form = read_pattern_form, .payload = &from
    };
    struct weights_store planned = store;
    struct host_memory host = { 0 }, counted;
    struct world described;
    struct device plan;
    struct group g, pg;
    struct arena a, pa;
    struct weights ws, pw;
    int members[64], *m = members;

    for (int i = 0; i < w->size; i++)
        m[i] = i;
    world_describe(&described, w->rank, w->size, w->size);
    device_open_plan(&plan, &table_plan, 0);
    arena_init(&pa, &plan, "plan", 0);
    CHECK(group_open(&g, "all", w, dev, 0, NULL, 0) == ST_OK, "%s", status_line());
    CHECK(group_open(&pg, "all", &described, &plan, 0, m, w->size) == ST_OK, "%s", status_line());
    CHECK(host_memory_open(&counted, &described, &plan, 0, !store.sharded) == ST_OK, "%s",
          status_line());
    store.as_stored = planned.as_stored = true;
    planned.host = &counted;
    CHECK(weights_open_store(&pw, &pa, planned, grouped ? &pg : NULL, units, quantized,
                             COUNT(quantized), source) == ST_OK,
          "%s", status_line());
    CHECK(arena_init(&a, dev, "weights", pa.used) == ST_OK, "%s", status_line());
    CHECK(host_memory_open(&host, w, dev, counted.used, !store.sharded) == ST_OK, "%s",
          status_line());
    store.host = &host;
    CHECK(agree(w, weights_open_store(&ws, &a, store, grouped ? &g : NULL, units, quantized,
                                      COUNT(quantized), source)) == ST_OK,
          "%s", status_line());
    CHECK(weights_all_gather(&ws) == ST_OK && weights_all_gather(&pw) == ST_OK, "%s",
          status_line());
    CHECK(host.used == counted.used && a.used == pa.used, "%zu, %zu: planned %zu, %zu", host.used,
          a.used, counted.used, pa.used);
    CHECK(ws.unit_bytes < weights_bytes(WEIGHTS_RESIDENT, 1, 0, 1, quantized, COUNT(quantized)),
          "%zu bytes of a unit", ws.unit_bytes);
    use(&ws, quantized, true);
    use(&pw, quantized, false);
    CHECK(g.sent == pg.sent && g.messages == pg.messages &&
              (dev->streamed == plan.streamed || store.mode == WEIGHTS_STREAMED),
          "sent %.0f, streamed %.0f, planned %.0f, %.0f", g.sent, dev->streamed, pg.sent,
          plan.streamed);
    dev->streamed = 0;
    world_barrier(w);
    weights_close(&ws);
    weights_close(&pw);
    host_memory_close(&host);
    host_memory_close(&counted);
    group_close(&g);
    group_close(&pg);
    arena_done(&a);
    arena_done(&pa);
    device_close(&plan);
}

struct bytes {
    _Atomic int fills;
    int fail_at;
};

static unsigned char byte_at(int unit, size_t at)
{
    return (unsigned char)(((uint32_t)at * 2654435761u + (uint32_t)unit * 40503u) >> 13);
}

static status fill_bytes(void *payload, int unit, size_t from, size_t to, void *dst)
{
    struct bytes *b = payload;

    if (b->fills++ == b->fail_at)
        return fail(ST_IO, "unit %d: cut", unit);
    for (size_t i = from; i < to; i++)
        ((unsigned char *)dst)[i - from] = byte_at(unit, i);
    return ST_OK;
}

/* The loader alone: ranges of many sizes, a round with an error, and a round after it. Odd rounds
 * wait for one range at a time. */
static void check_loader(struct device *dev)
{
    static const int64_t sizes[] = { 1, 0, 1000, 4 << 20, (8 << 20) + 256, 9000001, 17 };
    struct loader *l = NULL, *again = NULL;
    struct bytes from = { .fail_at = -1 };
    struct arena a;

    CHECK(loader_get(dev, &l) == ST_OK && loader_get(dev, &again) == ST_OK && l == again, "%s",
          status_line());
    CHECK(arena_init(&a, dev, "loaded", 32 << 20) == ST_OK, "%s", status_line());
    for (int round = 0; round < 4; round++) {
        const int64_t before = loader_added(l);
        struct tensor t[COUNT(sizes)];

        a.used = 0;
        from.fills = 0;
        from.fail_at = round == 2 ? 3 : -1;
        for (size_t i = 0; i < COUNT(sizes); i++) {
            CHECK(arena_take(&a, &t[i], DT_U8, sizes[i]) == ST_OK, "%s", status_line());
            CHECK(loader_add(l, fill_bytes, &from, (int)i, 256 * i, t[i]) == ST_OK, "%s",
                  status_line());
        }
        if (round == 2) {
            CHECK(loader_finish(l) == ST_IO && strstr(status_line(), "cut") != NULL, "%s",
                  status_line());
            continue;
        }
        if (round % 2 == 0)
            CHECK(loader_finish(l) == ST_OK && loader_finish(l) == ST_OK, "%s", status_line());
        for (size_t i = 0; i < COUNT(sizes); i++) {
            unsigned char *host = malloc((size_t)sizes[i] + 1);
            int64_t bad = 0;

            CHECK(loader_wait(l, before + (int64_t)i + 1) == ST_OK, "%s", status_line());
            CHECK(device_download(dev, host, t[i]) == ST_OK && device_wait(dev) == ST_OK, "%s",
                  status_line());
            for (int64_t j = 0; j < sizes[i]; j++)
                bad += host[j] != byte_at((int)i, 256 * i + (size_t)j);
            CHECK(bad == 0, "range %zu, round %d: %lld wrong bytes", i, round, (long long)bad);
            free(host);
        }
    }
    arena_done(&a);
}

int main(int argc, char **argv)
{
    static const enum weights_mode modes[] = { WEIGHTS_RESIDENT, WEIGHTS_SHARDED,
                                               WEIGHTS_STREAMED };
    struct world w;
    struct device dev;
    struct table on_gpu;
    bool gpu;

    if (world_open(&w, &argc, &argv) != ST_OK)
        return 1;
    gpu = ranks_on_gpus(&w, &argc, argv);
    table_cuda(&on_gpu);
    CHECK(ranks_device(&dev, &w, gpu, gpu ? &on_gpu : &table_ref) == ST_OK, "%s", status_line());
    check_loader(&dev);
    for (size_t i = 0; i < COUNT(modes); i++)
        for (int grouped = modes[i] == WEIGHTS_SHARDED; grouped <= (modes[i] != WEIGHTS_STREAMED);
             grouped++) {
            check_mode(&w, &dev, modes[i], grouped, 5, specs, COUNT(specs));
            check_mode(&w, &dev, modes[i], grouped, 1, tiny, COUNT(tiny)); // more ranks than slices
            check_mode(&w, &dev, modes[i], grouped, 2, large, COUNT(large));
        }
    dev.streamed = 0;
    for (int how = 0; how < 3; how++)
        for (int resident = 0; resident <= 5; resident += how == 0 ? 1 : 2) {
            check_host(&w, &dev, how == 1, how == 2, resident, 5, specs, COUNT(specs));
            check_host(&w, &dev, how == 1, how == 2, resident > 0, 1, tiny, COUNT(tiny));
            check_host(&w, &dev, how == 1, how == 2, resident > 2, 2, large, COUNT(large));
        }
    for (int units = 1; units <= 5; units += 2) {
        check_stored(&w, &dev, (struct weights_store){ .mode = WEIGHTS_RESIDENT }, false, units);
        check_stored(&w, &dev, (struct weights_store){ .mode = WEIGHTS_RESIDENT }, true, units);
        check_stored(&w, &dev, (struct weights_store){ .mode = WEIGHTS_SHARDED }, true, units);
        for (int resident = 0; resident <= units; resident += 2) {
            struct weights_store store = { .mode = WEIGHTS_STREAMED, .resident = resident };

            check_stored(&w, &dev, store, false, units);
            store.mode = WEIGHTS_HOST;
            check_stored(&w, &dev, store, true, units);
            store.sharded = true;
            check_stored(&w, &dev, store, true, units);
        }
    }
    device_close(&dev);
    return ranks_end(&w, "weights");
}
