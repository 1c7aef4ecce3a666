/* golden.h - reads recorded tensors by name, for tests whose first argument is the golden folder.
 *
 *     struct golden g = golden_open(argv[1], "solver.safetensors");
 *     int64_t n = 0;
 *     float *want = golden_f32(&g, &n, "states.%s.%d", kind, steps);    // free() it
 *
 * A missing file or tensor ends the program as failed. */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include "runtime/tensorfile.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct golden {
    struct tensorfile file;
};

static inline void golden_need(status st)
{
    if (st != ST_OK) {
        printf("golden: %s\n", status_line());
        exit(1);
    }
}

static inline struct golden golden_open(const char *folder, const char *name)
{
    struct golden g = { 0 };
    char path[4096];
    const char *paths[] = { path };

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    golden_need(tensorfile_open(&g.file, paths, 1));
    return g;
}

static inline void golden_close(struct golden *g)
{
    tensorfile_close(&g->file);
}

static inline const struct file_tensor *golden_find(struct golden *g, const char *format,
                                                    va_list args)
{
    const struct file_tensor *t = NULL;
    char name[256];

    vsnprintf(name, sizeof(name), format, args);
    t = tensorfile_find(&g->file, name);
    if (t == NULL)
        golden_need(fail(ST_FORMAT, "no recorded tensor %s", name));
    return t;
}

/* All elements of one tensor as `dt`, malloc'ed; the caller frees them. count may be NULL. */
static inline void *golden_read(struct golden *g, const struct file_tensor *t, enum dtype dt,
                                int64_t *count)
{
    const int64_t n = tensor_count(t->shape);
    void *data = malloc((size_t)n * dtype_size(dt) + 1);

    golden_need(data != NULL ? tensorfile_read(&g->file, t, 0, n, dt, data)
                             : fail(ST_MEMORY, "cannot allocate memory for %s", t->name));
    if (count != NULL)
        *count = n;
    return data;
}

__attribute__((format(printf, 3, 4))) static inline float *golden_f32(struct golden *g,
                                                                      int64_t *count,
                                                                      const char *format, ...)
{
    va_list args;

    va_start(args, format);
    const struct file_tensor *t = golden_find(g, format, args);
    va_end(args);
    return golden_read(g, t, DT_F32, count);
}

__attribute__((format(printf, 3, 4))) static inline int64_t *golden_i64(struct golden *g,
                                                                        int64_t *count,
                                                                        const char *format, ...)
{
    va_list args;

    va_start(args, format);
    const struct file_tensor *t = golden_find(g, format, args);
    va_end(args);
    return golden_read(g, t, DT_I64, count);
}

#endif
