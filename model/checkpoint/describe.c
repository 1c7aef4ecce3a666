#include "model/checkpoint/describe.h"

#include "model/checkpoint/checkpoint_internal.h"
#include "runtime/json.h"
#include "runtime/readfile.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_BYTES_MAX ((size_t)1 << 20)
#define SIZE_LIMIT ((int64_t)1 << 20) // larger than any width or vocabulary

status describe_axis(const struct describing *d, const char *tensor, int ndim, int axis,
                     int64_t *size)
{
    const struct file_tensor *t = tensorfile_find(d->f, tensor);

    if (t == NULL)
        return fail(ST_FORMAT, "%s: has no tensor %s", d->file, tensor);
    if (t->shape.ndim != ndim)
        return fail(ST_FORMAT, "%s: tensor %s is %s; expected %d axes", d->file, tensor,
                    tensor_text(t->shape), ndim);
    if (t->shape.dim[axis] < 1 || t->shape.dim[axis] > SIZE_LIMIT)
        return fail(ST_FORMAT, "%s: tensor %s is %s; sizes must be 1 to %lld", d->file, tensor,
                    tensor_text(t->shape), (long long)SIZE_LIMIT);
    *size = t->shape.dim[axis];
    return ST_OK;
}

status describe_count(const struct describing *d, const char *list, int *count)
{
    const size_t length = strlen(list);
    long most = 0;

    for (int i = 0; i < d->f->count; i++) {
        const char *name = d->f->tensors[i].name;
        char *end;
        long n;

        if (strncmp(name, list, length) != 0 || name[length] < '0' || name[length] > '9')
            continue;
        n = strtol(name + length, &end, 10);
        if (*end != '.')
            continue;
        if (n >= d->f->count)
            return fail(ST_FORMAT, "%s: has tensor %.100s, but only %d tensors in total", d->file,
                        name, d->f->count);
        most = n + 1 > most ? n + 1 : most;
    }
    *count = (int)most;
    return ST_OK;
}

static const cJSON *json_item(const struct describing *d, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(d->json, key);

    return item == NULL || cJSON_IsNull(item) ? NULL : item;
}

status describe_number(const struct describing *d, const char *key, double *value)
{
    const cJSON *item = json_item(d, key);

    if (item == NULL)
        return ST_OK;
    if (!cJSON_IsNumber(item))
        return fail(ST_FORMAT, "%s: %s is not a number", d->config, key);
    *value = item->valuedouble;
    return ST_OK;
}

status describe_size(const struct describing *d, const char *key, int64_t *value)
{
    double number = 0;

    if (json_item(d, key) == NULL)
        return ST_OK;
    TRY(describe_number(d, key, &number));
    if (!(number >= 1) || number > (double)SIZE_LIMIT || number != (double)(int64_t)number)
        return fail(ST_FORMAT, "%s: %s is %.15g; expected a whole number from 1 to %lld", d->config,
                    key, number, (long long)SIZE_LIMIT);
    *value = (int64_t)number;
    return ST_OK;
}

status describe_heads(const struct describing *d, int64_t dim, int64_t head_dim, const char *what,
                      int *heads)
{
    int64_t count = dim % head_dim == 0 ? dim / head_dim : 0;

    TRY(describe_size(d, "num_attention_heads", &count));
    if (count == 0 || dim % count != 0)
        return fail(ST_FORMAT,
                    "%s: the width %lld of the %s does not divide into %lld heads (0: not given, "
                    "and not a multiple of %lld): its config.json must have num_attention_heads",
                    d->file, (long long)dim, what, (long long)count, (long long)head_dim);
    *heads = (int)count;
    return ST_OK;
}

status describe_agree(const struct describing *d, const char *key, int64_t size, const char *tensor)
{
    const struct file_tensor *t = tensorfile_find(d->f, tensor);
    double number = (double)size;

    TRY(describe_number(d, key, &number));
    if (number == (double)size)
        return ST_OK;
    return fail(ST_FORMAT, "%s: %s is %.15g, but %lld in the tensors (%s%s%s)", d->config, key,
                number, (long long)size, tensor, t ? " " : "", t ? tensor_text(t->shape) : "");
}

status describe_list(const struct describing *d, const char *key, int64_t count, bool positive,
                     float *out)
{
    const cJSON *list = json_item(d, key), *number;
    int n = 0;

    if (list == NULL)
        return ST_OK;
    cJSON_ArrayForEach(number, list)
    {
        const float value = (float)cJSON_GetNumberValue(number); // NaN if it is no number

        if (!isfinite(value) || n == count || (positive && !(value > 0)))
            return fail(ST_FORMAT, "%s: %s is not a list of %lld %snumbers", d->config, key,
                        (long long)count, positive ? "positive " : "");
        out[n++] = value;
    }
    if (n != count)
        return fail(ST_FORMAT, "%s: %s has %d numbers; expected %lld", d->config, key, n,
                    (long long)count);
    return ST_OK;
}

bool describe_has(const struct describing *d, const char *tensor)
{
    const size_t length = strlen(tensor);

    if (tensor[length - 1] != '.')
        return tensorfile_find(d->f, tensor) != NULL;
    for (int i = 0; i < d->f->count; i++)
        if (strncmp(d->f->tensors[i].name, tensor, length) == 0)
            return true;
    return false;
}

/* Libraries that quantize note it in config.json; their weights would be misread. */
static status check_quantization(const cJSON *json, const char *config)
{
    const cJSON *quantization = cJSON_GetObjectItemCaseSensitive(json, "quantization_config");
    const cJSON *method = cJSON_GetObjectItemCaseSensitive(quantization, "quant_method");

    if (!cJSON_IsString(method))
        return ST_OK;
    return fail(ST_FORMAT,
                "%s: the weights are quantized by %.40s, which this version does not read", config,
                method->valuestring);
}

status describe_part(struct checkpoint *c, struct checkpoint_part *p)
{
    struct describing d = { .f = &p->file, .file = tensorfile_path(&p->file, 0) };
    char *config = NULL, *text = NULL;
    cJSON *json = NULL;
    status st;

    TRY_OUT(layout_config(c, p, &config));
    if (config != NULL) {
        TRY_OUT(readfile_text(config, CONFIG_BYTES_MAX, &text));
        TRY_OUT(json_parse(&json, text, strlen(text), NULL, config));
        if (!cJSON_IsObject(json)) {
            st = fail(ST_FORMAT, "%s: is not a JSON object { ... }", config);
            goto out;
        }
        TRY_OUT(check_quantization(json, config));
        d.config = config;
        d.json = json;
    }
    TRY_OUT(p->row->describe(&d, p->config));
out:
    cJSON_Delete(json);
    free(text);
    free(config);
    return st;
}
