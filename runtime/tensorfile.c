#include "runtime/tensorfile.h"

#include "runtime/alive.h"
#include "runtime/convert.h"
#include "runtime/foreign.h"
#include "runtime/stop.h"
#include "runtime/tensorfile_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_BYTES_MAX ((size_t)1024)
#define READ_BYTES ((size_t)64 << 20)    // in one call
#define BUFFER_BYTES ((size_t)256 << 10) // converted in blocks that stay in cache

struct tensorfile_impl {
    struct tensor_source *sources; // [files]; path is owned
};

status read_exactly(const struct tensor_source *src, void *dst, size_t bytes, uint64_t offset)
{
    char *to = dst;

    while (bytes > 0) {
        const size_t want = bytes < READ_BYTES ? bytes : READ_BYTES;
        ssize_t got;

        TRY(stop_check()); // reading weights takes minutes
        got = pread(src->fd, to, want, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(status_of_errno(), "%s: %s", src->path, strerror(errno));
        if (got == 0)
            return fail(ST_IO,
                        "%s: ends at byte %llu, where %zu more are needed; was it truncated?",
                        src->path, (unsigned long long)offset, bytes);
        alive();
        to += got;
        bytes -= (size_t)got;
        offset += (uint64_t)got;
    }
    return ST_OK;
}

status tensor_extent(const struct tensor_source *src, const char *name, enum dtype dt, int ndim,
                     const int64_t *dim, int64_t *count, uint64_t *bytes)
{
    int64_t n = 1, size;

    for (int i = 0; i < ndim; i++) {
        if (dim[i] < 0)
            return fail(ST_FORMAT, "%s: tensor %s has a negative size, %lld", src->path, name,
                        (long long)dim[i]);
        // also when another dim is 0: the product of the others must fit
        if (__builtin_mul_overflow(n, dim[i] ? dim[i] : 1, &n))
            return fail(ST_FORMAT, "%s: tensor %s has more elements than 63 bits count", src->path,
                        name);
    }
    if (__builtin_mul_overflow(n, (int64_t)dtype_size(dt), &size))
        return fail(ST_FORMAT, "%s: tensor %s has more bytes than 63 bits count", src->path, name);
    for (int i = 0; i < ndim; i++) {
        if (dim[i] == 0)
            n = size = 0;
    }
    *count = n;
    *bytes = (uint64_t)size;
    return ST_OK;
}

status tensor_list_add(struct tensor_list *list, const struct tensor_source *src, const char *name,
                       enum dtype dt, int ndim, const int64_t *dim, const int64_t *stride,
                       uint64_t offset)
{
    const size_t length = strnlen(name, NAME_BYTES_MAX + 1);
    struct file_tensor t = { .file = src->index, .offset = offset };

    if (length == 0 || length > NAME_BYTES_MAX)
        return fail(ST_FORMAT, "%s: a tensor's name has %s bytes; 1 to %zu are allowed", src->path,
                    length ? "too many" : "0", NAME_BYTES_MAX);
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return fail(ST_FORMAT, "%s: a tensor's name has the control character 0x%02x in it",
                        src->path, (unsigned char)name[i]);
    }
    if (list->count == list->room) {
        const int room = list->room ? 2 * list->room : 256;
        struct file_tensor *more = realloc(list->tensors, (size_t)room * sizeof(*list->tensors));

        if (more == NULL)
            return fail(ST_MEMORY, "%s: no memory for the names of %d tensors", src->path, room);
        list->tensors = more;
        list->room = room;
    }
    t.shape = tensor_dims(NULL, dt, ndim, dim);
    t.bytes = tensor_bytes(t.shape);
    t.format = dtype_name(dt);
    for (int i = 0; stride != NULL && i < ndim; i++)
        t.shape.stride[i] = stride[i];
    t.name = strdup(name);
    t.file_name = strdup(name);
    if (t.name == NULL || t.file_name == NULL) {
        free(t.name);
        free((char *)t.file_name);
        return fail(ST_MEMORY, "%s: no memory for the name of a tensor", src->path);
    }
    list->tensors[list->count++] = t;
    return ST_OK;
}

void file_tensor_done(struct file_tensor *t)
{
    free(t->name);
    free((char *)t->file_name);
    free(t->coding);
}

void tensor_list_done(struct tensor_list *list)
{
    for (int i = 0; i < list->count; i++)
        file_tensor_done(&list->tensors[i]);
    free(list->tensors);
    *list = (struct tensor_list){ 0 };
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct file_tensor *)a)->name, ((const struct file_tensor *)b)->name);
}

status sort_names(struct file_tensor *tensors, int count, const struct tensor_source *sources)
{
    if (count > 0)
        qsort(tensors, (size_t)count, sizeof(*tensors), by_name);
    for (int i = 1; i < count; i++) {
        const struct file_tensor *a = &tensors[i - 1], *b = &tensors[i];

        if (strcmp(a->name, b->name) == 0 && a->file != b->file)
            return fail(ST_FORMAT, "tensor %s is in both %s and %s", a->name, sources[a->file].path,
                        sources[b->file].path);
        if (strcmp(a->name, b->name) == 0)
            return fail(ST_FORMAT, "%s: tensor %s occurs twice (as %s and as %s)",
                        sources[a->file].path, a->name, a->file_name, b->file_name);
    }
    return ST_OK;
}

/* The format follows from the file's first bytes, not from its name. */
static status list_file(struct tensor_source *src, struct tensor_list *list)
{
    unsigned char start[FOREIGN_BYTES] = { 0 };
    const size_t bytes = src->size < sizeof(start) ? (size_t)src->size : sizeof(start);
    const char *foreign;

    TRY(read_exactly(src, start, bytes, 0));
    foreign = foreign_kind(start, bytes);
    if (foreign != NULL)
        return fail(ST_FORMAT, "%s: is %s", src->path, foreign);
    if (src->size < 9)
        return fail(ST_FORMAT, "%s: %llu bytes are too few for a weight file", src->path,
                    (unsigned long long)src->size);
    src->gguf = memcmp(start, "GGUF", 4) == 0;
    if (src->gguf)
        return gguf_list(src, list);
    if (memcmp(start, "PK\3\4", 4) == 0)
        return pth_list(src, list);
    // a .safetensors header of 640 bytes begins with 0x80 0x02 too, but then its JSON follows
    if (start[0] == 0x80 && start[1] <= 5 && start[8] != '{')
        return fail(ST_FORMAT,
                    "%s: is a pickle without a zip archive, as written by PyTorch before 1.6; "
                    "load and save it with a newer one",
                    src->path);
    return safetensors_list(src, list);
}

static status open_source(struct tensor_source *src, const char *path, int index)
{
    struct stat about;

    *src = (struct tensor_source){ .path = strdup(path), .fd = -1, .index = index };
    if (src->path == NULL)
        return fail(ST_MEMORY, "%s: no memory for its name", path);
    src->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (src->fd < 0)
        return fail(status_of_errno(), "%s: %s", path, strerror(errno));
    if (fstat(src->fd, &about) != 0)
        return fail(status_of_errno(), "%s: %s", path, strerror(errno));
    if (!S_ISREG(about.st_mode))
        return fail(ST_IO, "%s: is not a regular file", path);
    src->size = (uint64_t)about.st_size;
    return ST_OK;
}

status tensorfile_open(struct tensorfile *f, const char *const *paths, int count)
{
    struct tensor_list list = { 0 };
    status st = ST_OK;

    assert(count > 0);
    *f = (struct tensorfile){ 0 };
    f->impl = calloc(1, sizeof(*f->impl));
    if (f->impl != NULL)
        f->impl->sources = calloc((size_t)count, sizeof(*f->impl->sources));
    if (f->impl == NULL || f->impl->sources == NULL) {
        st = fail(ST_MEMORY, "%s: no memory to read it", paths[0]);
        goto out;
    }
    for (int i = 0; i < count; i++) {
        f->files = i + 1;
        TRY_OUT(open_source(&f->impl->sources[i], paths[i], i));
        TRY_OUT(list_file(&f->impl->sources[i], &list));
    }
    TRY_OUT(sort_names(list.tensors, list.count, f->impl->sources));
    TRY_OUT(companions_attach(&list, f->impl->sources));
    for (int i = 0; i < list.count; i++) {
        if (__builtin_add_overflow(f->total_bytes, list.tensors[i].bytes, &f->total_bytes)) {
            st = fail(ST_FORMAT, "%s: its tensors have more bytes than 64 bits count", paths[0]);
            goto out;
        }
    }
    f->tensors = list.tensors;
    f->count = list.count;
    list = (struct tensor_list){ 0 };
out:
    tensor_list_done(&list);
    if (st != ST_OK)
        tensorfile_close(f);
    return st;
}

void tensorfile_close(struct tensorfile *f)
{
    struct tensor_list list = { f->tensors, f->count, f->count };

    tensor_list_done(&list);
    if (f->impl != NULL) {
        for (int i = 0; i < f->files && f->impl->sources != NULL; i++) {
            if (f->impl->sources[i].path != NULL && f->impl->sources[i].fd >= 0)
                close(f->impl->sources[i].fd);
            free((char *)f->impl->sources[i].path);
            free(f->impl->sources[i].layer_formats);
        }
        free(f->impl->sources);
        free(f->impl);
    }
    *f = (struct tensorfile){ 0 };
}

status tensorfile_rename(struct tensorfile *f,
                         bool (*map)(void *payload, const char *name, char *out, size_t size),
                         void *payload)
{
    struct file_tensor *renamed = calloc((size_t)f->count + 1, sizeof(*renamed));
    char name[2 * NAME_BYTES_MAX];
    status st = ST_OK;

    if (renamed == NULL)
        return fail(ST_MEMORY, "no memory to rename %d tensors", f->count);
    for (int i = 0; i < f->count; i++) {
        renamed[i] = f->tensors[i];
        renamed[i].name = strdup(
            map(payload, f->tensors[i].name, name, sizeof(name)) ? name : f->tensors[i].name);
        if (renamed[i].name == NULL) {
            st = fail(ST_MEMORY, "no memory to rename %d tensors", f->count);
            goto out;
        }
    }
    TRY_OUT(sort_names(renamed, f->count, f->impl->sources));
    for (int i = 0; i < f->count; i++)
        free(f->tensors[i].name);
    free(f->tensors);
    f->tensors = renamed;
    return ST_OK;
out:
    for (int i = 0; i < f->count; i++)
        free(renamed[i].name);
    free(renamed);
    return st;
}

void tensorfile_keep(struct tensorfile *f, bool (*keep)(void *payload, const struct file_tensor *t),
                     void *payload)
{
    int kept = 0;

    for (int i = 0; i < f->count; i++) {
        struct file_tensor *t = &f->tensors[i];

        if (keep(payload, t)) {
            f->tensors[kept++] = *t;
            continue;
        }
        f->total_bytes -= t->bytes;
        file_tensor_done(t);
    }
    f->count = kept;
}

bool tensorfile_reshape(struct tensorfile *f, const char *name, int ndim, const int64_t *dim)
{
    struct file_tensor *t = (struct file_tensor *)tensorfile_find(f, name);
    int64_t n = 1;

    if (t == NULL || !tensor_contiguous(t->shape))
        return false;
    for (int i = 0; i < ndim; i++)
        if (dim[i] < 1 || __builtin_mul_overflow(n, dim[i], &n))
            return false;
    if (n != tensor_count(t->shape))
        return false;
    t->shape = tensor_dims(NULL, t->shape.dtype, ndim, dim);
    return true;
}

const struct file_tensor *tensorfile_find(const struct tensorfile *f, const char *name)
{
    const struct file_tensor key = { .name = (char *)name };

    if (f->count == 0)
        return NULL;
    return bsearch(&key, f->tensors, (size_t)f->count, sizeof(*f->tensors), by_name);
}

const char *tensorfile_path(const struct tensorfile *f, int file)
{
    assert(file >= 0 && file < f->files);
    return f->impl->sources[file].path;
}

status tensorfile_metadata(const struct tensorfile *f, int file, const char *key, char **value)
{
    const struct tensor_source *src = &f->impl->sources[file];
    unsigned char start[4] = { 0 };

    assert(file >= 0 && file < f->files);
    *value = NULL;
    TRY(read_exactly(src, start, sizeof(start), 0));
    return memcmp(start, "PK\3\4", sizeof(start)) == 0 ? ST_OK
                                                       : safetensors_metadata(src, key, value);
}

/* Offset in elements, from the tensor's first, of its row-major element `index`. */
static int64_t element_offset(const struct tensor *t, int64_t index)
{
    int64_t offset = 0;

    for (int i = t->ndim - 1; i >= 0; i--) {
        offset += index % t->dim[i] * t->stride[i];
        index /= t->dim[i];
    }
    return offset;
}

/* Several threads may read at once. */
static void count_read(struct tensorfile *f, uint64_t bytes)
{
    __atomic_fetch_add(&f->bytes_read, bytes, __ATOMIC_RELAXED);
}

/* A tensor that was saved as a view: the bytes from the first to the last element are read, then
 * the elements are picked. Rare, and small where it occurs. */
static status read_strided(struct tensorfile *f, const struct file_tensor *t, int64_t first,
                           int64_t count, enum dtype dt, void *dst)
{
    const struct tensor_source *src = &f->impl->sources[t->file];
    const enum dtype from = t->shape.dtype;
    const size_t size = dtype_size(from);
    int64_t low = INT64_MAX, high = -1;
    char *span = NULL;
    status st = ST_OK;

    for (int64_t i = first; i < first + count; i++) {
        const int64_t at = element_offset(&t->shape, i);
        low = at < low ? at : low;
        high = at > high ? at : high;
    }
    span = malloc((size_t)(high - low + 1) * size);
    if (span == NULL)
        return fail(ST_MEMORY, "%s: no memory for the %lld elements that %s spans", src->path,
                    (long long)(high - low + 1), t->name);
    TRY_OUT(
        read_exactly(src, span, (size_t)(high - low + 1) * size, t->offset + (uint64_t)low * size));
    count_read(f, (uint64_t)(high - low + 1) * size);
    for (int64_t i = 0; i < count; i++)
        convert_values((char *)dst + (size_t)i * dtype_size(dt), dt,
                       span + (size_t)(element_offset(&t->shape, first + i) - low) * size, from, 1);
out:
    free(span);
    return st;
}

status tensorfile_read(struct tensorfile *f, const struct file_tensor *t, int64_t first,
                       int64_t count, enum dtype dt, void *dst)
{
    const struct tensor_source *src = &f->impl->sources[t->file];
    const enum dtype from = t->shape.dtype;
    const size_t size = dtype_size(from), block = BUFFER_BYTES / size;
    size_t left = (size_t)count;
    uint64_t offset = t->offset + (uint64_t)first * size;
    char *to = dst, buffer[BUFFER_BYTES] __attribute__((aligned(64)));

    assert(first >= 0 && count >= 0 && count <= tensor_count(t->shape) - first);
    if (!convert_possible(dt, from))
        return fail(ST_FORMAT, "%s: tensor %s is %s and cannot be read as %s", src->path, t->name,
                    tensor_text(t->shape), dtype_name(dt));
    if (count == 0)
        return ST_OK;
    if (t->coding != NULL) {
        uint64_t bytes = 0;

        TRY(coded_read(f->impl->sources, t, first, count, dt, dst, &bytes));
        count_read(f, bytes);
        return ST_OK;
    }
    if (!tensor_contiguous(t->shape))
        return read_strided(f, t, first, count, dt, dst);
    if (dt == from) {
        TRY(read_exactly(src, dst, left * size, offset));
        count_read(f, left * size);
        return ST_OK;
    }
    while (left > 0) {
        const size_t take = left < block ? left : block;

        TRY(read_exactly(src, buffer, take * size, offset));
        convert_values(to, dt, buffer, from, take);
        count_read(f, take * size);
        offset += take * size;
        to += take * dtype_size(dt);
        left -= take;
    }
    return ST_OK;
}

bool tensorfile_form(const struct file_tensor *t, struct stored_form *form)
{
    if (!tensor_contiguous(t->shape) || !convert_possible(DT_F32, t->shape.dtype) ||
        (t->coding != NULL && t->coding->form.rotation > 0))
        return false;
    coded_form(t, form);
    return true;
}

status tensorfile_read_stored(struct tensorfile *f, const struct file_tensor *t, size_t first,
                              size_t count, void *dst)
{
    struct stored_form form;

    coded_form(t, &form);
    assert(first + count <= stored_bytes(&form));
    TRY(coded_read_stored(f->impl->sources, t, &form, first, count, dst));
    count_read(f, count);
    return ST_OK;
}

bool tensorfile_has_fp8(const struct file_tensor *t)
{
    const struct stored_form *c = t->coding != NULL ? &t->coding->form : NULL;

    if (t->shape.ndim != 2 || !tensor_contiguous(t->shape))
        return false;
    if (c == NULL)
        return t->shape.dtype == DT_F8_E4M3;
    return c->block == NULL && c->dtype == DT_F8_E4M3 && t->coding->scale_file >= 0 &&
           !c->scale.tiled && c->scale.per_row == 1 &&
           (c->scale.rows == 1 || c->scale.rows == t->shape.dim[0]);
}

status tensorfile_read_fp8(struct tensorfile *f, const struct file_tensor *t, int64_t first,
                           int64_t count, uint8_t *dst)
{
    struct file_tensor stored = *t; // without its scales

    assert(tensorfile_has_fp8(t));
    stored.coding = NULL;
    stored.shape.dtype = DT_F8_E4M3;
    return tensorfile_read(f, &stored, first, count, DT_F8_E4M3, dst);
}

status tensorfile_read_fp8_scales(struct tensorfile *f, const struct file_tensor *t, int64_t first,
                                  int64_t count, float *dst)
{
    uint64_t bytes = 0;

    assert(tensorfile_has_fp8(t) && first >= 0 && count >= 0 && count <= t->shape.dim[0] - first);
    if (count == 0)
        return ST_OK;
    if (t->coding != NULL)
        TRY(coded_row_scales(f->impl->sources, t, first, count, dst, &bytes));
    else
        for (int64_t i = 0; i < count; i++)
            dst[i] = 1;
    count_read(f, bytes);
    return ST_OK;
}

void tensorfile_prefetch(struct tensorfile *f, const struct file_tensor *t, int64_t first,
                         int64_t count)
{
    const size_t size = dtype_size(t->shape.dtype);
    uint64_t offset = t->offset + (uint64_t)first * size, bytes = (uint64_t)count * size;

    if (!tensor_contiguous(t->shape) || count == 0)
        return;
    if (t->coding != NULL)
        coded_range(t, first, count, &offset, &bytes);
    // only a hint: errors do not matter
    (void)posix_fadvise(f->impl->sources[t->file].fd, (off_t)offset, (off_t)bytes,
                        POSIX_FADV_WILLNEED);
}

status tensorfile_value(const struct tensorfile *f, int file, const char *key, struct file_value *v)
{
    const struct tensor_source *src = &f->impl->sources[file];

    *v = (struct file_value){ .type = VALUE_NONE };
    return src->gguf ? gguf_value(src, key, v) : ST_OK;
}
