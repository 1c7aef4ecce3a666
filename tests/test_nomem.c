/* The n-th allocation of opening a mesh and weights fails, for n = 1, 2, ... until none does: every
 * time ST_MEMORY with a line, and what was half open closes. The same for JSON texts. */
#include "kernels/table.h"
#include "parallel/mesh.h"
#include "parallel/weights.h"
#include "runtime/json.h"
#include "tests/check.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

static int until_failure = -1; // which allocation from here fails, 0 and all after; -1: none

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);

/* From the n-th on all fail: memory does not come back. */
static bool fails(void)
{
    if (until_failure > 0)
        until_failure--;
    return until_failure == 0;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}

static status zeros(void *payload, const struct weight_spec *spec, const char *name, int64_t first,
                    int64_t count, void *dst)
{
    for (size_t i = 0; i < (size_t)count * dtype_size(spec->dtype); i++)
        ((char *)dst)[i] = 0;
    return ST_OK;
}

static status open_all(struct world *w, struct device *dev, struct arena *a,
                       struct mesh_shape shape, enum weights_mode mode)
{
    static const struct weight_spec specs[] = {
        { .name = "a.%d", .dtype = DT_F32, .ndim = 1, .dim = { 100 } },
        { .name = "b.%d", .dtype = DT_F32, .ndim = 1, .dim = { 3 } },
    };
    struct weights ws = { 0 };
    struct mesh m = { 0 };
    status st;

    a->used = 0;
    TRY_OUT(mesh_open(&m, w, dev, shape));
    TRY_OUT(weights_open(&ws, a, mode, mode == WEIGHTS_SHARDED ? &m.all : NULL, 3, specs,
                         COUNT(specs), (struct weight_source){ .read = zeros }));
out:
    weights_close(&ws);
    mesh_close(&m);
    return st;
}

static void check_all(struct world *w, struct device *dev, struct mesh_shape shape)
{
    struct arena a;

    CHECK(arena_init(&a, dev, "weights", 1 << 16) == ST_OK, "%s", status_line());
    for (int mode = WEIGHTS_RESIDENT; mode <= WEIGHTS_STREAMED; mode++) {
        status st = ST_MEMORY;
        int n;
        for (n = 1; n < 1000 && st != ST_OK; n++) {
            until_failure = n;
            st = open_all(w, dev, &a, shape, (enum weights_mode)mode);
            until_failure = -1;
            CHECK(st == ST_OK || (st == ST_MEMORY && status_line()[0] != 0), "%d: status %d", n,
                  st);
        }
        CHECK(st == ST_OK && n > 10, "%d allocations: %s", n, status_line());
    }
    arena_done(&a);
}

/* A text is parsed, or memory was lacking; it is not damaged, and no member is left out. */
static void check_json(void)
{
    static const char text[] = "{\"dim\":[1.5,2],\"name\":\"a\"}";
    const double dim[] = { 1.5, 2 };
    bool parsed = false, printed = false;
    int n;

    for (n = 1; n < 100 && !(parsed && printed); n++) {
        cJSON *json = NULL;
        char *again;
        status st;

        until_failure = n;
        st = json_parse(&json, text, strlen(text), NULL, "text");
        until_failure = -1;
        parsed = st == ST_OK;
        CHECK(parsed ? json != NULL : st == ST_MEMORY, "%d: status %d", n, st);
        cJSON_Delete(json);

        until_failure = n;
        json = cJSON_CreateObject();
        cJSON_AddItemToObject(json, "dim", cJSON_CreateDoubleArray(dim, 2));
        until_failure = -1; // memory comes back before the end
        cJSON_AddStringToObject(json, "name", "a");
        again = json_text(json, false);
        printed = again != NULL;
        CHECK(!printed || strcmp(again, text) == 0, "%d: %s", n, again);
        cJSON_Delete(json);
        free(again);
    }
    CHECK(n > 5 && n < 100, "%d allocations", n);
}

int main(void)
{
    struct world w;
    struct device dev;

    world_describe(&w, 0, 1, 1);
    CHECK(device_open_cpu(&dev, 1, &table_ref, 0) == ST_OK, "%s", status_line());
    check_all(&w, &dev, (struct mesh_shape){ 1, 1, 1 });
    device_close(&dev);

    world_describe(&w, 5, 12, 6);
    CHECK(device_open_plan(&dev, &table_plan, 0) == ST_OK, "%s", status_line());
    check_all(&w, &dev, (struct mesh_shape){ 2, 3, 2 });
    device_close(&dev);

    check_json();
    return check_end("nomem");
}
