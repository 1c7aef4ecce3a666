/* The .safetensors format: a u64 length n, n bytes of JSON, then the tensors' bytes.
 *     {"__metadata__": {...}, "name": {"dtype": "F32", "shape": [..], "data_offsets": [from, to]}}
 * As in the format's own reader, the tensors must cover the data exactly: no overlap, no gap. */
#include "runtime/json.h"
#include "runtime/tensorfile_internal.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_BYTES_MAX ((uint64_t)16 << 20) // a 14B model's header has 130 KB

/* A whole number in [0, 2^53], which is what a JSON number holds exactly. */
static bool whole_number(const cJSON *item, int64_t *value)
{
    const double limit = 9007199254740992.0;

    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > limit)
        return false;
    *value = (int64_t)item->valuedouble;
    return (double)*value == item->valuedouble;
}

static status dtype_of(const struct tensor_source *src, const char *name, const cJSON *item,
                       enum dtype *dt)
{
    if (!cJSON_IsString(item))
        return fail(ST_FORMAT, "%s: tensor %s has no dtype", src->path, name);
    for (int i = DT_NONE + 1; i < DT_COUNT; i++) {
        if (strcmp(item->valuestring, dtype_name((enum dtype)i)) == 0) {
            *dt = (enum dtype)i;
            return ST_OK;
        }
    }
    return fail(ST_FORMAT, "%s: tensor %s has the unknown dtype \"%.20s\"%s", src->path, name,
                item->valuestring,
                strcmp(item->valuestring, "U32") == 0 ? ", as MLX writes, which is not read" : "");
}

static status shape_of(const struct tensor_source *src, const char *name, const cJSON *item,
                       int *ndim, int64_t *dim)
{
    const cJSON *number;
    int n = 0;

    if (!cJSON_IsArray(item))
        return fail(ST_FORMAT, "%s: tensor %s has no shape", src->path, name);
    cJSON_ArrayForEach(number, item)
    {
        if (n == TENSOR_AXES)
            return fail(ST_FORMAT, "%s: tensor %s has more than %d axes", src->path, name,
                        TENSOR_AXES);
        if (!whole_number(number, &dim[n++]))
            return fail(ST_FORMAT, "%s: tensor %s: axis %d of its shape is no size", src->path,
                        name, n - 1);
    }
    *ndim = n;
    return ST_OK;
}

/* One entry; `data` is where the tensors' bytes begin in the file. */
static status add_entry(const struct tensor_source *src, const cJSON *entry, uint64_t data,
                        struct tensor_list *list)
{
    const char *name = entry->string;
    const cJSON *field, *dtype = NULL, *shape = NULL, *offsets = NULL;
    int64_t dim[TENSOR_AXES], range[2], count = 0;
    enum dtype dt = DT_NONE;
    uint64_t bytes = 0;
    int ndim = 0;

    if (!cJSON_IsObject(entry))
        return fail(ST_FORMAT, "%s: the header's entry %.80s is no object", src->path, name);
    cJSON_ArrayForEach(field, entry)
    {
        const cJSON **slot = strcmp(field->string, "dtype") == 0          ? &dtype
                             : strcmp(field->string, "shape") == 0        ? &shape
                             : strcmp(field->string, "data_offsets") == 0 ? &offsets
                                                                          : NULL;
        if (slot == NULL || *slot != NULL)
            return fail(ST_FORMAT, "%s: tensor %.80s has the field \"%.20s\" %s", src->path, name,
                        field->string, slot ? "twice" : "which the format does not know");
        *slot = field;
    }
    TRY(dtype_of(src, name, dtype, &dt));
    TRY(shape_of(src, name, shape, &ndim, dim));
    TRY(tensor_extent(src, name, dt, ndim, dim, &count, &bytes));
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !whole_number(offsets->child, &range[0]) || !whole_number(offsets->child->next, &range[1]))
        return fail(ST_FORMAT, "%s: tensor %.80s: data_offsets are not two offsets", src->path,
                    name);
    if (range[0] > range[1] || (uint64_t)range[1] > src->size - data)
        return fail(ST_FORMAT,
                    "%s: tensor %.80s has the bytes %lld to %lld of %llu; was the file truncated?",
                    src->path, name, (long long)range[0], (long long)range[1],
                    (unsigned long long)(src->size - data));
    if ((uint64_t)(range[1] - range[0]) != bytes)
        return fail(ST_FORMAT, "%s: tensor %.80s has %lld bytes, but %s takes %llu", src->path,
                    name, (long long)(range[1] - range[0]),
                    tensor_text(tensor_dims(NULL, dt, ndim, dim)), (unsigned long long)bytes);
    return tensor_list_add(list, src, name, dt, ndim, dim, NULL, data + (uint64_t)range[0]);
}

static int by_offset(const void *a, const void *b)
{
    const struct file_tensor *x = *(const struct file_tensor *const *)a,
                             *y = *(const struct file_tensor *const *)b;

    const size_t x_bytes = tensor_bytes(x->shape), y_bytes = tensor_bytes(y->shape);

    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x_bytes > y_bytes) - (x_bytes < y_bytes); // empty ones first
}

/* Tensors [from, count) of the list are this file's: they must cover [data, size) exactly. */
static status check_cover(const struct tensor_source *src, const struct tensor_list *list, int from,
                          uint64_t data)
{
    const int count = list->count - from;
    const struct file_tensor **order = malloc(((size_t)count + 1) * sizeof(struct file_tensor *));
    uint64_t end = data;
    status st = ST_OK;

    if (order == NULL)
        return fail(ST_MEMORY, "%s: no memory to check %d tensors", src->path, count);
    for (int i = 0; i < count; i++)
        order[i] = &list->tensors[from + i];
    qsort(order, (size_t)count, sizeof(order[0]), by_offset);
    for (int i = 0; i < count; i++) {
        if (order[i]->offset != end) {
            st = fail(ST_FORMAT, "%s: tensor %.80s %s the one before it", src->path, order[i]->name,
                      order[i]->offset < end ? "overlaps" : "leaves a gap after");
            goto out;
        }
        end += tensor_bytes(order[i]->shape);
    }
    if (end != src->size)
        st = fail(ST_FORMAT, "%s: has %llu bytes after its last tensor", src->path,
                  (unsigned long long)(src->size - end));
out:
    free(order);
    return st;
}

/* ComfyUI's note of the formats of layers, for companions_attach. */
static status keep_formats(struct tensor_source *src, const cJSON *metadata)
{
    const cJSON *formats = cJSON_GetObjectItemCaseSensitive(metadata, "_quantization_metadata");

    if (!cJSON_IsString(formats) || src->layer_formats != NULL)
        return ST_OK;
    src->layer_formats = strdup(formats->valuestring);
    return src->layer_formats != NULL
               ? ST_OK
               : fail(ST_MEMORY, "%s: no memory for its metadata", src->path);
}

/* The header as JSON, for cJSON_Delete; *data: where the tensors' bytes begin in the file. */
static status read_header(const struct tensor_source *src, cJSON **json, uint64_t *data)
{
    unsigned char start[8];
    uint64_t length = 0;
    const char *end = NULL;
    char *text = NULL;
    status st = ST_OK;

    *json = NULL;
    TRY(read_exactly(src, start, sizeof(start), 0));
    for (int i = 7; i >= 0; i--)
        length = length << 8 | start[i];
    if (length > src->size - 8)
        return fail(
            ST_FORMAT,
            "%s: is neither a .safetensors nor a .pth file, or it was truncated: its header "
            "would have %llu of %llu bytes",
            src->path, (unsigned long long)length, (unsigned long long)src->size);
    if (length > HEADER_BYTES_MAX)
        return fail(ST_FORMAT, "%s: a header of %llu bytes; at most %llu are read", src->path,
                    (unsigned long long)length, (unsigned long long)HEADER_BYTES_MAX);
    *data = 8 + length;
    text = malloc((size_t)length + 1);
    if (text == NULL)
        return fail(ST_MEMORY, "%s: no memory for its header", src->path);
    TRY_OUT(read_exactly(src, text, (size_t)length, 8));
    text[length] = '\0';
    if (length > 0 && text[0] == '{')
        TRY_OUT(json_parse(json, text, (size_t)length, &end, src->path));
    while (*json != NULL && end < text + length && *end == ' ')
        end++; // writers pad the header to align the data
    if (!cJSON_IsObject(*json) || end != text + length)
        st = fail(ST_FORMAT, "%s: its header is no JSON object", src->path);
out:
    free(text);
    return st;
}

status safetensors_list(struct tensor_source *src, struct tensor_list *list)
{
    const int from = list->count;
    const cJSON *entry;
    cJSON *json = NULL;
    uint64_t data = 0;
    status st;

    TRY_OUT(read_header(src, &json, &data));
    cJSON_ArrayForEach(entry, json)
    {
        if (strcmp(entry->string, "__metadata__") != 0)
            TRY_OUT(add_entry(src, entry, data, list));
        else
            TRY_OUT(keep_formats(src, entry));
    }
    TRY_OUT(check_cover(src, list, from, data));
out:
    cJSON_Delete(json);
    return st;
}

status safetensors_metadata(const struct tensor_source *src, const char *key, char **value)
{
    const cJSON *item;
    cJSON *json = NULL;
    uint64_t data = 0;
    status st;

    *value = NULL;
    TRY_OUT(read_header(src, &json, &data));
    item = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(json, "__metadata__"),
                                            key);
    if (!cJSON_IsString(item))
        goto out;
    *value = strdup(item->valuestring);
    if (*value == NULL)
        st = fail(ST_MEMORY, "%s: no memory for its header", src->path);
out:
    cJSON_Delete(json);
    return st;
}
