/* Writes the folder of a checkpoint: the files of each part, and the small JSON files. */
#include "model/synth/synth_internal.h"
#include "model/transformer/dit_part.h"
#include "runtime/json.h"
#include "runtime/tensorwriter.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* *path = "FOLDER/SUB/NAME", malloc'ed. Makes its folders. */
static status path_in(const struct synth *s, const char *sub, const char *name, char **path)
{
    char *slash;

    if (asprintf(path, "%s/%s%s%s", s->folder, sub, *sub ? "/" : "", name) < 0) {
        *path = NULL;
        return fail(ST_MEMORY, "cannot allocate host memory for a file name");
    }
    for (slash = *path + strlen(s->folder); slash != NULL; slash = strchr(slash + 1, '/')) {
        int made;

        *slash = '\0';
        made = mkdir(*path, 0777);
        if (made != 0 && errno != EEXIST) {
            const status st = fail(status_of_errno(), "%s: %s", *path, strerror(errno));
            free(*path);
            *path = NULL;
            return st;
        }
        *slash = '/';
    }
    return ST_OK;
}

static status write_small(const struct synth *s, const char *sub, const char *name,
                          const char *text, size_t size)
{
    char *path = NULL;
    FILE *file;
    status st = ST_OK;

    TRY(path_in(s, sub, name, &path));
    file = fopen(path, "wbe");
    if (file == NULL || fwrite(text, 1, size, file) != size)
        st = fail(status_of_errno(), "%s: %s", path, strerror(errno));
    if (file != NULL && fclose(file) != 0 && st == ST_OK)
        st = fail(status_of_errno(), "%s: %s", path, strerror(errno));
    free(path);
    return st;
}

/* Writes a JSON object to a file, and deletes the object. json NULL: it could not be allocated. */
static status write_json(const struct synth *s, const char *sub, const char *name, cJSON *json)
{
    char *text = json_text(json, true);
    status st;

    cJSON_Delete(json);
    if (text == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %s", name);
    st = write_small(s, sub, name, text, strlen(text));
    free(text);
    return st;
}

/* Payload of fill: the tensors of one file. */
struct file_range {
    struct synth *s;
    const struct synth_tensor *tensors;
};

/* Callback of the writer: the values of a range of a tensor. */
static status fill(void *payload, int index, int64_t first, int64_t count, void *dst)
{
    const struct file_range *r = payload;
    const struct synth_tensor *t = &r->tensors[index];

    synth_values(t, first, count, dst);
#pragma omp critical
    {
        r->s->done += synth_bytes(t, count);
        if (r->s->progress != NULL)
            r->s->progress(r->s->payload, r->s->done, r->s->total);
    }
    return ST_OK;
}

/* Writes tensors [first, end) of a part to one file. */
static status write_tensors(struct synth *s, const struct synth_part *p, const char *path,
                            int first, int end, bool pth)
{
    struct file_range r = { s, p->tensors + first };
    struct tensor_entry *entries = calloc((size_t)(end - first) + 1, sizeof(*entries));
    status st;

    if (entries == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a list of %d tensors", end - first);
    for (int i = 0; i < end - first; i++)
        entries[i] = (struct tensor_entry){ r.tensors[i].name, r.tensors[i].shape };
    st = pth ? tensorwriter_pth(path, entries, end - first, fill, &r)
             : tensorwriter_safetensors(path, entries, end - first, fill, &r);
    free(entries);
    return st;
}

/* Writes a part as one GGUF file. */
static status write_gguf(struct synth *s, const struct synth_part *p, const char *sub,
                         const char *stem)
{
    struct file_range r = { s, p->tensors };
    struct tensor_entry *entries = calloc((size_t)p->count + 1, sizeof(*entries));
    const struct ggml_type **blocks = calloc((size_t)p->count + 1, sizeof(*blocks));
    char name[80], *path = NULL;
    status st = ST_OK;

    if (entries == NULL || blocks == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a list of %d tensors", p->count));
    for (int i = 0; i < p->count; i++) {
        entries[i] = (struct tensor_entry){ p->tensors[i].name, p->tensors[i].shape };
        blocks[i] = p->tensors[i].block;
    }
    snprintf(name, sizeof(name), "%s.gguf", stem);
    TRY_OUT(path_in(s, sub, name, &path));
    st = tensorwriter_gguf(path, "wan", entries, blocks, p->count, fill, &r);
out:
    free(path);
    free(entries);
    free(blocks);
    return st;
}

/* Divides the part's tensors into shards: shard i has tensors [start[i], start[i + 1]). Returns the
 * number of shards. */
static int shard_starts(const struct synth *s, const struct synth_part *p, int *start)
{
    int shards = 1;
    int64_t bytes = 0;

    start[0] = 0;
    for (int i = 0; i < p->count; i++) {
        const struct synth_tensor *t = &p->tensors[i];
        const int64_t size = (int64_t)synth_bytes(t, tensor_count(t->shape));

        if (s->options->shard_bytes > 0 && bytes > 0 && bytes + size > s->options->shard_bytes) {
            start[shards++] = i;
            bytes = 0;
        }
        bytes += size;
    }
    start[shards] = p->count;
    return shards;
}

static void shard_name(char *name, size_t size, const char *stem, int shard, int shards)
{
    if (shards == 1)
        snprintf(name, size, "%s.safetensors", stem);
    else
        snprintf(name, size, "%s-%05d-of-%05d.safetensors", stem, shard + 1, shards);
}

static status write_index(const struct synth *s, const struct synth_part *p, const char *sub,
                          const char *stem, const int *start, int shards)
{
    cJSON *json = cJSON_CreateObject();
    cJSON *metadata = cJSON_AddObjectToObject(json, "metadata");
    cJSON *map = cJSON_AddObjectToObject(json, "weight_map");
    double bytes = 0;
    char name[80];

    for (int i = 0; i < p->count; i++)
        bytes += (double)tensor_bytes(p->tensors[i].shape);
    cJSON_AddNumberToObject(metadata, "total_size", bytes);
    for (int shard = 0; shard < shards; shard++) {
        shard_name(name, sizeof(name), stem, shard, shards);
        for (int i = start[shard]; i < start[shard + 1]; i++)
            cJSON_AddStringToObject(map, p->tensors[i].name, name);
    }
    snprintf(name, sizeof(name), "%s.safetensors.index.json", stem);
    return write_json(s, sub, name, json);
}

static status write_shards(struct synth *s, const struct synth_part *p, const char *sub,
                           const char *stem)
{
    int *start = calloc((size_t)p->count + 2, sizeof(*start));
    char name[80], *path = NULL;
    int shards;
    status st = ST_OK;

    if (start == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a list of shards");
    shards = shard_starts(s, p, start);
    for (int i = 0; i < shards; i++) {
        shard_name(name, sizeof(name), stem, i, shards);
        TRY_OUT(path_in(s, sub, name, &path));
        TRY_OUT(write_tensors(s, p, path, start[i], start[i + 1], false));
        free(path);
        path = NULL;
    }
    if (shards > 1)
        TRY_OUT(write_index(s, p, sub, stem, start, shards));
out:
    free(path);
    free(start);
    return st;
}

static status write_pth(struct synth *s, const struct synth_part *p, const char *name)
{
    char *path = NULL;
    status st;

    TRY(path_in(s, "", name, &path));
    st = write_tensors(s, p, path, 0, p->count, true);
    free(path);
    return st;
}

static status write_config(const struct synth *s, const struct synth_part *p, const char *sub)
{
    cJSON *json = cJSON_CreateObject();

    if (json != NULL)
        p->row->config_json(json, p->config, s->options->diffusers);
    return write_json(s, sub, "config.json", json);
}

static status write_tokenizer(const struct synth *s, const char *sub)
{
    const struct t5_config *t5 = model_t5(&s->options->model);
    char *bytes = NULL;
    size_t size = 0;
    status st;

    TRY(synth_tokenizer(t5->vocab, &bytes, &size));
    st = write_small(s, sub, "spiece.model", bytes, size);
    free(bytes);
    return st;
}

/* The first place of a part for the layout; the transformer is in the folder of an expert if there
 * is another one. */
static const struct place *place_of(const struct synth *s, const struct part *row)
{
    const struct place *place = s->options->diffusers ? row->diffusers : row->official;
    const bool expert = row == &part_dit && !s->options->diffusers &&
                        model_config(&s->options->model, &part_dit_low) != NULL;

    while (expert && strcmp(place->folder, EXPERT_FOLDER) != 0)
        place++;
    return place;
}

/* Writes a part. */
static status write_part(struct synth *s, const struct synth_part *p)
{
    const bool diffusers = s->options->diffusers;
    const struct place *place = place_of(s, p->row);
    const char *sub = place->folder[0] == '/' ? place->folder + 1 : place->folder;
    const char *tokenizer = p->row->tokenizers[diffusers];

    if (tokenizer != NULL)
        TRY(write_tokenizer(s, tokenizer));
    if (diffusers || p->row->official_config)
        TRY(write_config(s, p, sub));
    if (s->options->blocks != NULL && (p->row == &part_dit || p->row == &part_dit_low))
        return write_gguf(s, p, sub, place->name);
    return !diffusers && p->row->official_file != NULL
               ? write_pth(s, p, p->row->official_file(p->config))
               : write_shards(s, p, sub, place->name);
}

/* ---- files of a -Diffusers folder that belong to no part ---- */

static void add_class(cJSON *json, const char *key, const char *library, const char *name)
{
    cJSON *pair = cJSON_AddArrayToObject(json, key);

    cJSON_AddItemToArray(pair, cJSON_CreateString(library));
    cJSON_AddItemToArray(pair, cJSON_CreateString(name));
}

static status write_model_index(const struct synth *s)
{
    cJSON *json = cJSON_CreateObject();

    cJSON_AddStringToObject(json, "_class_name", "WanPipeline");
    cJSON_AddStringToObject(json, "_diffusers_version", "0.33.0");
    if (model_config(&s->options->model, &part_dit_low) != NULL)
        cJSON_AddNumberToObject(json, "boundary_ratio",
                                model_dit(&s->options->model)->in_dim == 36 ? 0.9 : 0.875);
    add_class(json, "scheduler", "diffusers", "UniPCMultistepScheduler");
    for (int i = 0; i < s->count; i++) {
        const struct part *row = s->parts[i].row;

        add_class(json, row->diffusers->folder + 1, row->library, row->class_name);
        if (row->tokenizers[1] != NULL)
            add_class(json, row->tokenizers[1], "transformers", "T5TokenizerFast");
    }
    return write_json(s, "", "model_index.json", json);
}

static status write_scheduler(const struct synth *s)
{
    cJSON *json = cJSON_CreateObject();

    cJSON_AddStringToObject(json, "_class_name", "UniPCMultistepScheduler");
    cJSON_AddNumberToObject(json, "flow_shift", 3);
    cJSON_AddNumberToObject(json, "num_train_timesteps", 1000);
    cJSON_AddStringToObject(json, "prediction_type", "flow_prediction");
    cJSON_AddNumberToObject(json, "solver_order", 2);
    cJSON_AddStringToObject(json, "solver_type", "bh2");
    cJSON_AddBoolToObject(json, "use_flow_sigmas", true);
    return write_json(s, "scheduler", "scheduler_config.json", json);
}

status synth_write(struct synth *s)
{
    if (s->options->diffusers) {
        TRY(write_model_index(s));
        TRY(write_scheduler(s));
    }
    for (int i = 0; i < s->count; i++)
        TRY(write_part(s, &s->parts[i]));
    return ST_OK;
}
