/* Adapter files as modules. The names of the trainers' dialects differ in the prefix of a key, in
 * its ending, and in how the module is spelled between them: with the official names or diffusers',
 * with '.' or '_' (lora_match.c). Each row here is one of those; to add a dialect, add its rows.
 *
 * Sources: ComfyUI comfy/lora.py and comfy/weight_adapter, LightX2V utils/lora_loader.py, diffusers
 * loaders/lora_conversion_utils.py, musubi-tuner convert_lora.py, LyCORIS lycoris/modules. */
#include "model/lora/lora_internal.h"

#include "runtime/json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Endings of keys. '*' is a word without '.': the name that PEFT gives to an adapter. */
static const struct {
    const char *ending;
    enum lora_role role;
} endings[] = {
    { ".lora_up.weight", ROLE_UP },
    { ".lora_down.weight", ROLE_DOWN },
    { ".lora_mid.weight", ROLE_MID },
    { ".lora_B.weight", ROLE_UP },
    { ".lora_A.weight", ROLE_DOWN },
    { ".lora_B.bias", ROLE_UP_BIAS },
    { ".lora_B.*.weight", ROLE_UP },
    { ".lora_A.*.weight", ROLE_DOWN },
    { ".lora_B.*.bias", ROLE_UP_BIAS },
    { ".lora_B", ROLE_UP },
    { ".lora_A", ROLE_DOWN },
    { "_lora.up.weight", ROLE_UP },
    { "_lora.down.weight", ROLE_DOWN },
    { ".lora.up.weight", ROLE_UP },
    { ".lora.down.weight", ROLE_DOWN },
    { ".lora_linear_layer.up.weight", ROLE_UP },
    { ".lora_linear_layer.down.weight", ROLE_DOWN },
    { ".alpha", ROLE_ALPHA },
    { ".dora_scale", ROLE_DORA },
    { ".lora_magnitude_vector", ROLE_MAGNITUDE },
    { ".lora_magnitude_vector.weight", ROLE_MAGNITUDE },
    { ".lora_magnitude_vector.*.weight", ROLE_MAGNITUDE },
    { ".diff", ROLE_DIFF },
    { ".diff_b", ROLE_DIFF_B },
    { ".diff_m", ROLE_DIFF_M },
    { ".w_norm", ROLE_DIFF },
    { ".b_norm", ROLE_DIFF_B },
    { ".set_weight", ROLE_SET },
    { ".set_bias", ROLE_SET_B },
    { ".reshape_weight", ROLE_RESHAPE },
    { ".hada_w1_a", ROLE_HADA_W1_A },
    { ".hada_w1_b", ROLE_HADA_W1_B },
    { ".hada_w2_a", ROLE_HADA_W2_A },
    { ".hada_w2_b", ROLE_HADA_W2_B },
    { ".hada_t1", ROLE_HADA_T1 },
    { ".hada_t2", ROLE_HADA_T2 },
    { ".lokr_w1", ROLE_LOKR_W1 },
    { ".lokr_w1_a", ROLE_LOKR_W1_A },
    { ".lokr_w1_b", ROLE_LOKR_W1_B },
    { ".lokr_w2", ROLE_LOKR_W2 },
    { ".lokr_w2_a", ROLE_LOKR_W2_A },
    { ".lokr_w2_b", ROLE_LOKR_W2_B },
    { ".lokr_t2", ROLE_LOKR_T2 },
};

/* Prefixes of keys, removed as often as one matches. */
static const struct {
    const char *text;
    enum lora_place place;
} prefixes[] = {
    { "base_model.model.", PLACE_ANY },
    { "model.diffusion_model.", PLACE_ANY },
    { "diffusion_model.", PLACE_ANY },
    { "transformer_2.", PLACE_SECOND }, // diffusers' name of the expert for low noise
    { "transformer.", PLACE_FIRST },
    { "pipe.dit.", PLACE_ANY },
    { "dit.", PLACE_ANY },
    { "unet.", PLACE_ANY },
    { "lora_unet__", PLACE_ANY },
    { "lora_unet_", PLACE_ANY },
    { "lora_transformer_", PLACE_ANY },
    { "lycoris_", PLACE_ANY },
};

/* What a dialect is called: the first row whose texts are in a key. */
static const struct {
    const char *start, *within, *name;
} dialects[] = {
    { "", ".hada_", "LyCORIS LoHa" },
    { "", ".lokr_", "LyCORIS LoKr" },
    { "lycoris_", "", "LyCORIS" },
    { "", ".w_norm", "LyCORIS" },
    { "lora_unet__", "", "VideoX-Fun" },
    { "lora_unet_", "", "kohya/musubi" },
    { "lora_transformer_", "", "kohya with diffusers' names" },
    { "diffusion_model.", ".lora_A", "ai-toolkit" },
    { "diffusion_model.", "", "LightX2V/ComfyUI" },
    { "transformer", "", "PEFT/diffusers" },
    { "base_model.", "", "PEFT" },
    { "blocks.", "attn1.to_", "PEFT/diffusers" },
    { "blocks.", "attn2.to_", "PEFT/diffusers" },
    { "", ".lora_A.", "DiffSynth/PEFT" },
    { "", ".lora_down.", "LightX2V/Lightning" },
    { "", "", "generic" },
};

static const char *dialect_of(const char *key)
{
    size_t i = 0;

    while (strncmp(key, dialects[i].start, strlen(dialects[i].start)) != 0 ||
           strstr(key, dialects[i].within) == NULL)
        i++;
    return dialects[i].name;
}

/* Of the dialects of two keys of a module, the one whose row is first: an alpha tells less. */
static const char *earlier_dialect(const char *a, const char *b)
{
    size_t i = 0;

    while (dialects[i].name != a && dialects[i].name != b)
        i++;
    return dialects[i].name;
}

/* The length of `key` without this ending; 0 if it does not end so. */
static size_t without(const char *key, const char *ending)
{
    const char *star = strchr(ending, '*'), *rest = star != NULL ? star + 1 : "";
    const size_t head = star != NULL ? (size_t)(star - ending) : strlen(ending);
    const size_t tail = strlen(rest);
    size_t length = strlen(key);

    if (length <= head + tail || strcmp(key + length - tail, rest) != 0)
        return 0;
    length -= tail;
    if (star != NULL) {
        const size_t word = length;

        while (length > 0 && key[length - 1] != '.')
            length--;
        if (length == word)
            return 0;
    }
    return length > head && strncmp(key + length - head, ending, head) == 0 ? length - head : 0;
}

/* Splits a key into its module's name and its role. False if no ending is known or the name is too
 * long for a tensor. */
static bool split_key(const char *key, struct lora_module *m, enum lora_role *role)
{
    const char *start = key;
    size_t length = 0;
    bool again = true;

    for (size_t i = 0; i < COUNT(endings) && length == 0; i++) {
        length = without(key, endings[i].ending);
        *role = endings[i].role;
    }
    if (length == 0)
        return false;
    while (again) {
        again = false;
        for (size_t i = 0; i < COUNT(prefixes) && !again; i++) {
            const size_t n = strlen(prefixes[i].text);

            again = n < length && strncmp(start, prefixes[i].text, n) == 0;
            if (again) {
                start += n;
                length -= n;
                m->place = prefixes[i].place != PLACE_ANY ? prefixes[i].place : m->place;
            }
        }
    }
    if (length >= sizeof(m->name))
        return false;
    memcpy(m->name, start, length);
    m->name[length] = '\0';
    m->dialect = dialect_of(key);
    return true;
}

static int by_name(const void *a, const void *b)
{
    const struct lora_module *x = a, *y = b;

    return x->place != y->place ? (int)x->place - (int)y->place : strcmp(x->name, y->name);
}

/* Puts modules that have the same name, of one key each, together. */
static status join_modules(struct lora_file *f)
{
    int n = 0;

    if (f->count > 0)
        qsort(f->modules, (size_t)f->count, sizeof(*f->modules), by_name);
    for (int i = 0; i < f->count; i++) {
        struct lora_module *to = n > 0 ? &f->modules[n - 1] : NULL;
        const struct lora_module *from = &f->modules[i];

        if (to == NULL || by_name(to, from) != 0) {
            f->modules[n++] = *from;
            continue;
        }
        to->dialect = earlier_dialect(to->dialect, from->dialect);
        for (int r = 0; r < LORA_ROLES; r++) {
            if (from->part[r] != NULL && to->part[r] != NULL)
                return fail(ST_FORMAT, "%s: %.80s and %.80s are the same factor of one module",
                            f->path, to->part[r]->file_name, from->part[r]->file_name);
            to->part[r] = from->part[r] != NULL ? from->part[r] : to->part[r];
        }
    }
    f->count = n;
    return ST_OK;
}

/* The settings of PEFT that diffusers writes into the metadata. */
static status read_metadata(struct lora_file *f)
{
    char *text = NULL;
    status st;

    TRY_OUT(tensorfile_metadata(&f->file, 0, "lora_adapter_metadata", &text));
    if (text == NULL)
        goto out;
    TRY_OUT(json_parse(&f->peft, text, strlen(text), NULL, f->path));
    if (!cJSON_IsObject(f->peft))
        st = fail(ST_FORMAT, "%s: lora_adapter_metadata in its header is no JSON object", f->path);
out:
    free(text);
    return st;
}

status lora_file_open(struct lora_file *f, const char *path)
{
    status st;

    *f = (struct lora_file){ .path = strdup(path) };
    if (f->path == NULL)
        return fail(ST_MEMORY, "%s: cannot allocate host memory for the path", path);
    TRY_OUT(tensorfile_open(&f->file, (const char *const *)&f->path, 1));
    f->modules = calloc((size_t)f->file.count + 1, sizeof(*f->modules));
    f->unknown = calloc((size_t)f->file.count + 1, sizeof(*f->unknown));
    if (f->modules == NULL || f->unknown == NULL)
        TRY_OUT(
            fail(ST_MEMORY, "%s: cannot allocate host memory for %d keys", path, f->file.count));
    for (int i = 0; i < f->file.count; i++) {
        struct lora_module one = { .place = PLACE_ANY };
        enum lora_role role;

        if (!split_key(f->file.tensors[i].name, &one, &role)) {
            f->unknown[f->unknown_count++] = f->file.tensors[i].file_name;
            continue;
        }
        one.part[role] = &f->file.tensors[i];
        f->modules[f->count++] = one;
    }
    if (f->count == 0)
        TRY_OUT(fail(ST_FORMAT,
                     "%s: is no LoRA: none of its %d tensors has the name of a factor, as "
                     "X.lora_up.weight or X.lora_A.weight",
                     path, f->file.count));
    TRY_OUT(join_modules(f));
    f->dialect = f->modules[0].dialect;
    TRY_OUT(read_metadata(f));
out:
    if (st != ST_OK)
        lora_file_close(f);
    return st;
}

void lora_file_close(struct lora_file *f)
{
    tensorfile_close(&f->file);
    cJSON_Delete(f->peft);
    free(f->path);
    free(f->modules);
    free(f->unknown);
    *f = (struct lora_file){ 0 };
}

bool lora_is(const char *path)
{
    struct tensorfile f = { 0 };
    bool is = false;

    if (tensorfile_open(&f, &path, 1) != ST_OK)
        return false;
    for (int i = 0; i < f.count && !is; i++) {
        struct lora_module m = { .place = PLACE_ANY };
        enum lora_role role;

        is = split_key(f.tensors[i].name, &m, &role) && role != ROLE_ALPHA;
    }
    tensorfile_close(&f);
    return is;
}

/* ---- alpha ---- */

/* The number "PREFIX.KEY" of PEFT's settings; NAN if there is none. */
static double peft_number(const struct lora_file *f, const struct lora_module *m, const char *key)
{
    const char *prefix = m->place == PLACE_SECOND ? "transformer_2." : "transformer.";
    const cJSON *item;
    char full[64];

    snprintf(full, sizeof(full), "%s%s", prefix, key);
    item = cJSON_GetObjectItemCaseSensitive(f->peft, full);
    if (item == NULL)
        item = cJSON_GetObjectItemCaseSensitive(f->peft, key);
    return cJSON_IsBool(item) ? cJSON_IsTrue(item) : cJSON_IsNumber(item) ? item->valuedouble : NAN;
}

/* The value for this module in PEFT's table of exceptions `key`, whose names are modules or their
 * ends; NAN if there is none. */
static double peft_pattern(const struct lora_file *f, const struct lora_module *m, const char *key)
{
    const char *prefix = m->place == PLACE_SECOND ? "transformer_2." : "transformer.";
    const cJSON *table, *item;
    char full[64];

    snprintf(full, sizeof(full), "%s%s", prefix, key);
    table = cJSON_GetObjectItemCaseSensitive(f->peft, full);
    if (table == NULL)
        table = cJSON_GetObjectItemCaseSensitive(f->peft, key);
    cJSON_ArrayForEach(item, table)
    {
        const size_t n = strlen(m->name), k = item->string != NULL ? strlen(item->string) : 0;

        if (k > 0 && n >= k && strcmp(m->name + n - k, item->string) == 0 &&
            (n == k || m->name[n - k - 1] == '.') && cJSON_IsNumber(item))
            return item->valuedouble;
    }
    return NAN;
}

status lora_scale(struct lora_file *f, const struct lora_module *m, int64_t rank, float *scale,
                  float *alpha)
{
    const struct file_tensor *t = m->part[ROLE_ALPHA];
    double value = NAN;
    float one = 0;

    if (t != NULL) {
        if (tensor_count(t->shape) != 1)
            return fail(ST_FORMAT, "%s: %.80s is %s, not one number", f->path, t->file_name,
                        tensor_text(t->shape));
        if (t->shape.dtype == DT_I64) {
            int64_t whole = 0;

            TRY(tensorfile_read(&f->file, t, 0, 1, DT_I64, &whole));
            one = (float)whole;
        } else {
            TRY(tensorfile_read(&f->file, t, 0, 1, DT_F32, &one));
        }
        if (!isfinite(one))
            return fail(ST_FORMAT, "%s: %.80s is %g; it must be finite", f->path, t->file_name,
                        (double)one);
        value = one;
    } else if (f->peft != NULL) {
        value = peft_pattern(f, m, "alpha_pattern");
        if (isnan(value))
            value = peft_number(f, m, "lora_alpha");
    }
    if (value == 0) // as LightX2V does: 0 would turn the module off
        value = NAN;
    *alpha = (float)value;
    *scale = 1;
    if (isnan(value))
        return ST_OK;
    *scale = (float)(peft_number(f, m, "use_rslora") == 1 ? value / sqrt((double)rank)
                                                          : value / (double)rank);
    return ST_OK;
}
