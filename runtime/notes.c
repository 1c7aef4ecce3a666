/* ComfyUI's notes on quantized layers: {"format": F, ...} for each, in a tensor beside the weight
 * or in the file's header. */
#include "runtime/json.h"
#include "runtime/tensorfile_internal.h"

#include <cjson/cJSON.h>
#include <string.h>

#define NOTE_BYTES_MAX 4096 // of a layer: 40 to 100
#define ROTATION 256        // where a note does not say

static const struct {
    const char *name;
    bool rotates; // with "convrot"; int4: always
    bool int4;
} known[] = {
    { "float8_e4m3fn", false, false },  { "float8_e5m2", false, false },
    { "int8_tensorwise", true, false }, { "mxfp8", false, false },
    { "nvfp4", false, false },          { "convrot_w4a4", true, true },
};

/* The value of a note, which may be in its "params". */
static const cJSON *value_of(const cJSON *note, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(note, key);

    return v != NULL ? v
                     : cJSON_GetObjectItemCaseSensitive(
                           cJSON_GetObjectItemCaseSensitive(note, "params"), key);
}

/* A power of four, of values of a row that are rotated together. */
static bool is_rotation(double n)
{
    for (int64_t four = 4; four <= ROTATION_MAX; four *= 4)
        if (n == (double)four)
            return true;
    return false;
}

/* `note`: {"format": F, ...}, or F. */
static status take_note(struct layer_note *out, const char *path, const struct file_tensor *weight,
                        const cJSON *note)
{
    const cJSON *format = cJSON_IsString(note) ? note : value_of(note, "format");
    const cJSON *size = value_of(note, "convrot_groupsize");
    bool rotated = cJSON_IsTrue(value_of(note, "convrot"));

    for (size_t i = 0; cJSON_IsString(format) && i < COUNT(known); i++) {
        if (strcmp(format->valuestring, known[i].name) != 0 || (rotated && !known[i].rotates))
            continue;
        rotated = rotated || known[i].int4;
        out->int4 = known[i].int4;
        if (rotated && cJSON_IsNumber(size) && !is_rotation(size->valuedouble))
            return fail(ST_FORMAT,
                        "%s: tensor %.80s is rotated in groups of %g values; expected a power of "
                        "four of at most %d",
                        path, weight->name, size->valuedouble, ROTATION_MAX);
        out->rotation = !rotated ? 0 : cJSON_IsNumber(size) ? (int)size->valuedouble : ROTATION;
        return ST_OK;
    }
    return fail(ST_FORMAT,
                "%s: tensor %.80s is in ComfyUI's format %.40s%s, which this version does not read",
                path, weight->name, cJSON_IsString(format) ? format->valuestring : "without a name",
                rotated ? " with convrot" : "");
}

status note_read(struct layer_note *out, const struct tensor_source *sources,
                 const struct file_tensor *weight, const struct file_tensor *t)
{
    const struct tensor_source *src = &sources[t->file];
    char text[NOTE_BYTES_MAX + 1];
    cJSON *json = NULL;
    status st;

    if (t->shape.dtype != DT_U8 || t->shape.ndim != 1 || t->shape.dim[0] > NOTE_BYTES_MAX)
        return fail(ST_FORMAT, "%s: tensor %.80s is %s; expected a text of at most %d bytes",
                    src->path, t->name, tensor_text(t->shape), NOTE_BYTES_MAX);
    TRY(read_exactly(src, text, (size_t)t->shape.dim[0], t->offset));
    text[t->shape.dim[0]] = '\0';
    TRY(json_parse(&json, text, (size_t)t->shape.dim[0], NULL, src->path));
    st = take_note(out, src->path, weight, json);
    cJSON_Delete(json);
    return st;
}

status note_in_header(struct layer_note *out, const struct tensor_source *sources,
                      const struct file_tensor *weight, const char *layer,
                      const struct cJSON *layers)
{
    for (const char *name = layer; name != NULL; name = strchr(name, '.')) {
        const cJSON *note;

        name += *name == '.';
        note = cJSON_GetObjectItemCaseSensitive(layers, name);
        if (note != NULL)
            return take_note(out, sources[weight->file].path, weight, note);
    }
    return ST_OK;
}

status notes_parse(struct cJSON **notes, const struct tensor_source *sources, int files)
{
    for (int i = 0; i < files; i++) {
        cJSON *json = NULL, *layers;

        if (sources[i].layer_formats == NULL)
            continue;
        TRY(json_parse(&json, sources[i].layer_formats, strlen(sources[i].layer_formats), NULL,
                       sources[i].path));
        layers = cJSON_DetachItemFromObjectCaseSensitive(json, "layers");
        cJSON_Delete(json);
        notes[i] = layers;
    }
    return ST_OK;
}
