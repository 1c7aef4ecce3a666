#include "runtime/tensorwriter.h"

#include "runtime/alive.h"
#include "runtime/json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <minizip/zip.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RANGE_BYTES ((int64_t)8 << 20) // of a tensor that are filled, then written
#define PTH_ROOT "archive"
#define PTH_ALIGN 64 // of storages in the file, as torch.save does

struct out_file {
    const char *path;
    zipFile zip;
};

/* The tensors of a file, and the source of their values. */
struct content {
    const struct tensor_entry *tensors;
    int count;
    tensor_fill *fill;
    void *payload;
    char *buffer;                          // RANGE_BYTES, for the format that one thread writes
    const struct ggml_type *const *blocks; // of GGUF: of tensors that have them, else NULL
};

/* Elements that are written together, and their bytes. */
static void unit_of(const struct content *c, int index, int64_t *values, int64_t *bytes)
{
    const struct ggml_type *block = c->blocks != NULL ? c->blocks[index] : NULL;

    *values = block != NULL ? block->values : 1;
    *bytes = block != NULL ? block->bytes : (int64_t)dtype_size(c->tensors[index].shape.dtype);
}

static uint64_t bytes_of(const struct content *c, int index, int64_t count)
{
    int64_t values, bytes;

    unit_of(c, index, &values, &bytes);
    return (uint64_t)(count / values * bytes);
}

/* Calls `put` with each range of a tensor's bytes. */
static status each_range(const struct content *c, int index,
                         status (*put)(const struct out_file *f, const void *bytes, size_t size),
                         const struct out_file *f)
{
    const struct tensor shape = c->tensors[index].shape;
    const int64_t size = (int64_t)dtype_size(shape.dtype), count = tensor_count(shape);

    for (int64_t done = 0; done < count;) {
        const int64_t most = RANGE_BYTES / size;
        const int64_t take = count - done < most ? count - done : most;

        TRY(c->fill(c->payload, index, done, take, c->buffer));
        TRY(put(f, c->buffer, (size_t)(take * size)));
        done += take;
    }
    return ST_OK;
}

/* The JSON object of the safetensors header; NULL without memory. */
static cJSON *header_object(const struct tensor_entry *tensors, int count)
{
    cJSON *o = cJSON_CreateObject();
    uint64_t offset = 0;

    cJSON_AddStringToObject(cJSON_AddObjectToObject(o, "__metadata__"), "format", "pt");
    for (int i = 0; i < count; i++) {
        const struct tensor *t = &tensors[i].shape;
        const uint64_t end = offset + tensor_bytes(*t);
        const double range[] = { (double)offset, (double)end };
        cJSON *entry = cJSON_AddObjectToObject(o, tensors[i].name), *shape;

        cJSON_AddStringToObject(entry, "dtype", dtype_name(t->dtype));
        shape = cJSON_AddArrayToObject(entry, "shape");
        for (int axis = 0; axis < t->ndim; axis++)
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)t->dim[axis]));
        cJSON_AddItemToObject(entry, "data_offsets", cJSON_CreateDoubleArray(range, COUNT(range)));
        offset = end;
    }
    return o;
}

/* The header: its length, then it as text, padded with spaces so that the data begins at a multiple
 * of 8. */
static status header_of(const struct tensor_entry *tensors, int count, char **text, size_t *size)
{
    cJSON *o = header_object(tensors, count);
    char *plain = json_text(o, false), *padded = NULL;
    const size_t length = plain != NULL ? strlen(plain) : 0, whole = (length + 7) / 8 * 8;

    if (plain != NULL)
        padded = malloc(8 + whole);
    if (padded != NULL) {
        for (int i = 0; i < 8; i++)
            padded[i] = (char)((uint64_t)whole >> 8 * i);
        memcpy(padded + 8, plain, length);
        memset(padded + 8 + length, ' ', whole - length);
    }
    free(plain);
    cJSON_Delete(o);
    if (padded == NULL)
        return fail(ST_MEMORY, "no memory for the header of %d tensors", count);
    *text = padded;
    *size = 8 + whole;
    return ST_OK;
}

/* A range of a tensor, and its place in the file. */
struct range {
    int index;
    int64_t first, count;
    uint64_t offset;
};

static status put_at(int fd, const char *path, const char *bytes, size_t size, uint64_t offset)
{
    while (size > 0) {
        const ssize_t put = pwrite(fd, bytes, size, (off_t)offset);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return fail(status_of_errno(), "%s: %s", path, strerror(errno));
        alive();
        bytes += put;
        size -= (size_t)put;
        offset += (uint64_t)put;
    }
    return ST_OK;
}

/* Elements of a range. */
static int64_t range_most(const struct content *c, int index)
{
    int64_t values, bytes;

    unit_of(c, index, &values, &bytes);
    return RANGE_BYTES / bytes * values;
}

static uint64_t align_up(uint64_t offset, uint64_t align)
{
    return (offset + align - 1) / align * align;
}

/* All ranges of all tensors, in the order of the file, whose data begins at `offset`; each tensor
 * at a multiple of `align`. */
static status list_ranges(const struct content *c, uint64_t offset, uint64_t align,
                          struct range **list, int64_t *count)
{
    int64_t n = 0;

    for (int i = 0; i < c->count; i++)
        n += (tensor_count(c->tensors[i].shape) + range_most(c, i) - 1) / range_most(c, i);
    *list = malloc(((size_t)n + 1) * sizeof(**list));
    if (*list == NULL)
        return fail(ST_MEMORY, "no memory for a list of %lld ranges", (long long)n);
    *count = n;
    n = 0;
    for (int i = 0; i < c->count; i++) {
        const struct tensor t = c->tensors[i].shape;
        const int64_t most = range_most(c, i);

        offset = align_up(offset, align);
        for (int64_t first = 0; first < tensor_count(t); first += most) {
            const int64_t left = tensor_count(t) - first;
            const int64_t take = left < most ? left : most;

            (*list)[n++] = (struct range){ i, first, take, offset };
            offset += bytes_of(c, i, take);
        }
    }
    return ST_OK;
}

/* Several threads fill and write ranges: writing a new file takes longer than computing its values.
 * After an error a thread only skips; the error's line is copied to the calling thread. */
static status write_ranges(const struct content *c, int fd, const char *path,
                           const struct range *list, int64_t count)
{
    char line[512] = "";
    status all = ST_OK;

#pragma omp parallel
    {
        char *buffer = malloc((size_t)RANGE_BYTES);
        status st = buffer != NULL ? ST_OK : fail(ST_MEMORY, "%s: no memory to write it", path);

#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count; i++) {
            const struct range *s = &list[i];
            const size_t size = (size_t)bytes_of(c, s->index, s->count);

            if (st == ST_OK)
                st = c->fill(c->payload, s->index, s->first, s->count, buffer);
            if (st == ST_OK)
                st = put_at(fd, path, buffer, size, s->offset);
        }
        if (st != ST_OK) {
#pragma omp critical
            {
                all = st;
                snprintf(line, sizeof(line), "%s", status_line());
            }
        }
        free(buffer);
    }
    return all == ST_OK ? ST_OK : fail(all, "%s", line);
}

/* Writes a file: its header, then the tensors, each at a multiple of `align`. */
static status write_file(const struct content *c, const char *path, const char *header,
                         size_t header_size, uint64_t align)
{
    struct range *list = NULL;
    int64_t ranges = 0;
    int fd = -1;
    status st = ST_OK;

    TRY_OUT(list_ranges(c, header_size, align, &list, &ranges));
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        st = fail(status_of_errno(), "%s: %s", path, strerror(errno));
        goto out;
    }
    TRY_OUT(put_at(fd, path, header, header_size, 0));
    TRY_OUT(write_ranges(c, fd, path, list, ranges));
out:
    free(list);
    if (fd >= 0 && close(fd) != 0 && st == ST_OK) // where a full disk may be reported
        st = fail(status_of_errno(), "%s: %s", path, strerror(errno));
    return st;
}

status tensorwriter_safetensors(const char *path, const struct tensor_entry *tensors, int count,
                                tensor_fill *fill, void *payload)
{
    const struct content c = { tensors, count, fill, payload, NULL, NULL };
    char *header = NULL;
    size_t header_size = 0;
    status st;

    TRY(header_of(tensors, count, &header, &header_size));
    st = write_file(&c, path, header, header_size, 1);
    free(header);
    return st;
}

/* ---- GGUF ---- */

#define GGUF_ALIGN 32 // of the data and of each tensor, where the header says nothing else

static void gguf_number(FILE *m, uint64_t n, int bytes)
{
    for (int i = 0; i < bytes; i++)
        fputc((int)(n >> 8 * i & 0xff), m);
}

static void gguf_text(FILE *m, const char *text)
{
    gguf_number(m, strlen(text), 8);
    fputs(text, m);
}

static uint32_t gguf_type(const struct content *c, int index)
{
    const struct ggml_type *type = c->blocks[index] != NULL
                                       ? c->blocks[index]
                                       : ggml_type_named(dtype_name(c->tensors[index].shape.dtype));

    return type->id;
}

status tensorwriter_gguf(const char *path, const char *architecture,
                         const struct tensor_entry *tensors, const struct ggml_type *const *blocks,
                         int count, tensor_fill *fill, void *payload)
{
    const struct content c = { tensors, count, fill, payload, NULL, blocks };
    char *header = NULL;
    size_t size = 0;
    uint64_t offset = 0;
    FILE *m = open_memstream(&header, &size);
    status st;

    if (m == NULL)
        return fail(ST_MEMORY, "no memory for the header of %d tensors", count);
    fputs("GGUF", m);
    gguf_number(m, 3, 4);
    gguf_number(m, (uint64_t)count, 8);
    gguf_number(m, 1, 8); // pairs of key and value
    gguf_text(m, "general.architecture");
    gguf_number(m, 8, 4); // a string
    gguf_text(m, architecture);
    for (int i = 0; i < count; i++) {
        const struct tensor *t = &tensors[i].shape;

        offset = align_up(offset, GGUF_ALIGN);
        gguf_text(m, tensors[i].name);
        gguf_number(m, (uint64_t)t->ndim, 4);
        for (int axis = t->ndim - 1; axis >= 0; axis--)
            gguf_number(m, (uint64_t)t->dim[axis], 8);
        gguf_number(m, gguf_type(&c, i), 4);
        gguf_number(m, offset, 8);
        offset += bytes_of(&c, i, tensor_count(*t));
    }
    while (ftell(m) % GGUF_ALIGN != 0)
        fputc(0, m);
    st = ferror(m) ? ST_MEMORY : ST_OK;
    if (fclose(m) != 0 || st != ST_OK)
        st = fail(ST_MEMORY, "no memory for the header of %d tensors", count);
    else
        st = write_file(&c, path, header, size, GGUF_ALIGN);
    free(header);
    return st;
}

/* The pickle of a dict of tensors, protocol 2; pickle.c reads it. */
static void pickle_text(FILE *m, const char *text)
{
    const size_t length = strlen(text);

    fputc('X', m); // BINUNICODE
    for (int i = 0; i < 4; i++)
        fputc((int)(length >> 8 * i & 0xff), m);
    fwrite(text, 1, length, m);
}

static void pickle_int(FILE *m, int64_t n)
{
    const int bytes = n <= INT32_MAX ? 4 : 8;

    if (bytes == 4)
        fputc('J', m); // BININT
    else
        fprintf(m, "\x8a%c", bytes); // LONG1
    for (int i = 0; i < bytes; i++)
        fputc((int)(n >> 8 * i & 0xff), m);
}

static void pickle_sizes(FILE *m, int ndim, const int64_t *sizes)
{
    fputc('(', m); // MARK
    for (int i = 0; i < ndim; i++)
        pickle_int(m, sizes[i]);
    fputc('t', m); // TUPLE
}

/* name, _rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict()) */
static void pickle_tensor(FILE *m, const struct tensor_entry *t, int key)
{
    const char *storage = t->shape.dtype == DT_F32    ? "FloatStorage"
                          : t->shape.dtype == DT_BF16 ? "BFloat16Storage"
                                                      : "HalfStorage";
    char number[16];

    snprintf(number, sizeof(number), "%d", key);
    pickle_text(m, t->name);
    fputs("ctorch._utils\n_rebuild_tensor_v2\n((", m);
    pickle_text(m, "storage");
    fprintf(m, "ctorch\n%s\n", storage);
    pickle_text(m, number);
    pickle_text(m, "cpu");
    pickle_int(m, tensor_count(t->shape));
    fputs("tQ", m); // TUPLE, BINPERSID
    pickle_int(m, 0);
    pickle_sizes(m, t->shape.ndim, t->shape.dim);
    pickle_sizes(m, t->shape.ndim, t->shape.stride);
    fputs("\x89"
          "ccollections\nOrderedDict\n)RtR", // NEWFALSE, EMPTY_TUPLE, REDUCE, TUPLE, REDUCE
          m);
}

static status pickle_of(const struct tensor_entry *tensors, int count, char **text, size_t *size)
{
    FILE *m = open_memstream(text, size);

    if (m == NULL)
        return fail(ST_MEMORY, "no memory for the pickle of %d tensors", count);
    fputs("\x80\x02}(", m); // PROTO 2, EMPTY_DICT, MARK
    for (int i = 0; i < count; i++)
        pickle_tensor(m, &tensors[i], i);
    fputs("u.", m); // SETITEMS, STOP
    if (fclose(m) != 0)
        return fail(ST_MEMORY, "no memory for the pickle of %d tensors", count);
    return ST_OK;
}

static status put_zip(const struct out_file *f, const void *bytes, size_t size)
{
    if (zipWriteInFileInZip(f->zip, bytes, (unsigned)size) != ZIP_OK)
        return fail(status_of_errno(), "%s: cannot be written%s%s", f->path, errno ? ": " : "",
                    errno ? strerror(errno) : "");
    return ST_OK;
}

/* Opens a stored member whose data begins at a multiple of 64. *at: bytes of the file so far. */
static status open_member(struct out_file *f, const char *name, uint64_t size, uint64_t *at)
{
    const bool large = size >= 0xffffffffu; // then the header has 20 bytes more
    const uint64_t head = *at + 30 + strlen(name) + (large ? 20 : 0);
    const unsigned pad = (unsigned)((PTH_ALIGN - (head + 4) % PTH_ALIGN) % PTH_ALIGN);
    zip_fileinfo info = { .tmz_date = { .tm_mday = 1, .tm_year = 1980 } };
    uint8_t extra[PTH_ALIGN + 4] = { 'F', 'B', (uint8_t)pad, 0 };

    memset(extra + 4, 'Z', pad);
    errno = 0;
    if (zipOpenNewFileInZip64(f->zip, name, &info, extra, pad + 4, NULL, 0, NULL, 0, 0, large) !=
        ZIP_OK)
        return fail(status_of_errno(), "%s: cannot be written%s%s", f->path, errno ? ": " : "",
                    errno ? strerror(errno) : "");
    *at = head + 4 + pad + size;
    return ST_OK;
}

static status close_member(struct out_file *f)
{
    if (zipCloseFileInZip(f->zip) != ZIP_OK)
        return fail(ST_IO, "%s: cannot be written; is the disk full?", f->path);
    return ST_OK;
}

static status small_member(struct out_file *f, const char *name, const char *bytes, size_t size,
                           uint64_t *at)
{
    TRY(open_member(f, name, size, at));
    TRY(put_zip(f, bytes, size));
    return close_member(f);
}

status tensorwriter_pth(const char *path, const struct tensor_entry *tensors, int count,
                        tensor_fill *fill, void *payload)
{
    struct content c = { tensors, count, fill, payload, malloc((size_t)RANGE_BYTES), NULL };
    struct out_file f = { .path = path };
    char *pickle = NULL;
    size_t pickle_size = 0;
    uint64_t at = 0;
    status st = ST_OK;

    if (c.buffer == NULL) {
        st = fail(ST_MEMORY, "%s: no memory to write it", path);
        goto out;
    }
    TRY_OUT(pickle_of(tensors, count, &pickle, &pickle_size));
    f.zip = zipOpen64(path, APPEND_STATUS_CREATE);
    if (f.zip == NULL) {
        st = fail(status_of_errno(), "%s: %s", path, strerror(errno));
        goto out;
    }
    TRY_OUT(small_member(&f, PTH_ROOT "/data.pkl", pickle, pickle_size, &at));
    TRY_OUT(small_member(&f, PTH_ROOT "/byteorder", "little", 6, &at));
    for (int i = 0; i < count; i++) {
        char name[40];

        snprintf(name, sizeof(name), PTH_ROOT "/data/%d", i);
        TRY_OUT(open_member(&f, name, tensor_bytes(tensors[i].shape), &at));
        TRY_OUT(each_range(&c, i, put_zip, &f));
        TRY_OUT(close_member(&f));
    }
    TRY_OUT(small_member(&f, PTH_ROOT "/version", "3\n", 2, &at));
out:
    if (f.zip != NULL && zipClose(f.zip, NULL) != ZIP_OK && st == ST_OK)
        st = fail(ST_IO, "%s: cannot be written; is the disk full?", path);
    free(pickle);
    free(c.buffer);
    return st;
}
