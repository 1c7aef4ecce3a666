/* Compares the tokenizer.json beside a SentencePiece model with it. The official program follows
 * tokenizer.json where there is one; it is normally made from the model and says the same. */
#include "model/text/text_internal.h"
#include "model/text/tokenizer.h"
#include "runtime/json.h"
#include "runtime/readfile.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_BYTES_MAX ((size_t)256 << 20)
#define DEPTH_MAX 8 // of sequences of normalizers

/* ---- members of an object, without parsing the vocabulary ---- */

struct span {
    const char *at, *end;
};

static void skip_space(struct span *s)
{
    while (s->at < s->end && strchr(" \t\r\n", *s->at) != NULL)
        s->at++;
}

static bool skip_string(struct span *s)
{
    if (s->at == s->end || *s->at != '"')
        return false;
    for (s->at++; s->at < s->end && *s->at != '"'; s->at++)
        if (*s->at == '\\' && s->at + 1 < s->end)
            s->at++;
    if (s->at == s->end)
        return false;
    s->at++;
    return true;
}

/* Skips a value: up to a comma or a closing bracket that does not belong to it. */
static bool skip_value(struct span *s)
{
    int depth = 0;

    while (s->at < s->end) {
        const char c = *s->at;

        if (depth == 0 && (c == ',' || c == '}' || c == ']'))
            return true;
        if (c == '"') {
            if (!skip_string(s))
                return false;
            continue;
        }
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        s->at++;
    }
    return depth == 0;
}

/* The value of a member of the object; an empty span if it has none. */
static struct span find_member(struct span object, const char *name)
{
    struct span s = object, value, key;

    skip_space(&s);
    if (s.at == s.end || *s.at++ != '{')
        return (struct span){ 0 };
    for (;;) {
        skip_space(&s);
        key = s;
        if (!skip_string(&s))
            return (struct span){ 0 };
        key.end = s.at;
        skip_space(&s);
        if (s.at == s.end || *s.at++ != ':')
            return (struct span){ 0 };
        skip_space(&s);
        value = s;
        if (!skip_value(&s))
            return (struct span){ 0 };
        value.end = s.at;
        if ((size_t)(key.end - key.at) == strlen(name) + 2 &&
            strncmp(key.at + 1, name, strlen(name)) == 0)
            return value;
        if (s.at == s.end || *s.at++ != ',')
            return (struct span){ 0 };
    }
}

/* *json: NULL also for an empty span. */
static status parse(cJSON **json, struct span s, const char *path)
{
    *json = NULL;
    return s.at != NULL ? json_parse(json, s.at, (size_t)(s.end - s.at), NULL, path) : ST_OK;
}

static const char *text_of(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

    return cJSON_IsString(item) ? item->valuestring : "";
}

/* ---- the comparison: each function gives what is different, or NULL ---- */

static int digit_of(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c != '\0' ? strchr(digits, c) : NULL;

    return at != NULL ? (int)(at - digits) : -1;
}

/* Whether a base64 text stands for these bytes. */
static bool is_base64_of(const char *text, const uint8_t *bytes, size_t size)
{
    uint32_t bits = 0;
    size_t done = 0;

    for (int count = 0; digit_of(*text) >= 0; text++) {
        bits = bits << 6 | (uint32_t)digit_of(*text);
        count += 6;
        if (count < 8)
            continue;
        count -= 8;
        if (done == size || bytes[done++] != (uint8_t)(bits >> count))
            return false;
    }
    return done == size;
}

struct compare {
    const uint8_t *map; // the model's normalization table
    size_t map_size;
    bool has_map, has_metaspace;
};

/* Walks over a normalizer or a pre-tokenizer, and over the parts of a sequence of them. */
static const char *compare_steps(struct compare *c, const cJSON *step, int depth)
{
    const char *type = text_of(step, "type"), *differs = NULL;
    const cJSON *child, *steps, *prefix;

    if (depth == DEPTH_MAX)
        return "nested steps";
    if (strcmp(type, "Sequence") == 0) {
        steps = cJSON_GetObjectItemCaseSensitive(step, "normalizers");
        if (steps == NULL)
            steps = cJSON_GetObjectItemCaseSensitive(step, "pretokenizers");
        child = steps != NULL ? steps->child : NULL;
        for (; child != NULL && differs == NULL; child = child->next)
            differs = compare_steps(c, child, depth + 1);
        return differs;
    }
    if (strcmp(type, "Precompiled") == 0) {
        c->has_map = true;
        return is_base64_of(text_of(step, "precompiled_charsmap"), c->map, c->map_size)
                   ? NULL
                   : "another normalization table";
    }
    if (strcmp(type, "Metaspace") == 0) {
        prefix = cJSON_GetObjectItemCaseSensitive(step, "add_prefix_space");
        c->has_metaspace = true;
        return cJSON_IsFalse(prefix) || strcmp(text_of(step, "prepend_scheme"), "never") == 0
                   ? "no space before the text"
                   : NULL;
    }
    if (strcmp(type, "Replace") == 0) // of runs of spaces, which the cleaning has joined
        return strcmp(text_of(cJSON_GetObjectItemCaseSensitive(step, "pattern"), "Regex"),
                      " {2,}") == 0
                   ? NULL
                   : "replacements in the text";
    if (strcmp(type, "Strip") == 0 || strcmp(type, "WhitespaceSplit") == 0)
        return NULL;
    return "another normalizer or another division into words";
}

static status compare_json(const char **what, struct compare *c, struct span file, const char *path)
{
    const struct span model = find_member(file, "model");
    cJSON *normalizer = NULL, *words = NULL, *type = NULL, *bytes = NULL;
    const char *differs = NULL;
    status st;

    TRY_OUT(parse(&normalizer, find_member(file, "normalizer"), path));
    TRY_OUT(parse(&words, find_member(file, "pre_tokenizer"), path));
    TRY_OUT(parse(&type, find_member(model, "type"), path));
    TRY_OUT(parse(&bytes, find_member(model, "byte_fallback"), path));
    if (model.at == NULL)
        differs = "no model";
    else if (!cJSON_IsString(type) || strcmp(type->valuestring, "Unigram") != 0)
        differs = "a model that is not Unigram";
    else if (cJSON_IsTrue(bytes))
        differs = "bytes for unknown characters";
    if (differs == NULL && cJSON_IsObject(normalizer))
        differs = compare_steps(c, normalizer, 0);
    if (differs == NULL && c->map_size > 0 && !c->has_map)
        differs = "no normalization table";
    if (differs == NULL && cJSON_IsObject(words))
        differs = compare_steps(c, words, 0);
    if (differs == NULL && !c->has_metaspace)
        differs = "another division into words";
    *what = differs;
out:
    cJSON_Delete(normalizer);
    cJSON_Delete(words);
    cJSON_Delete(type);
    cJSON_Delete(bytes);
    return st;
}

status tokenizer_json_compare(const char **differs, const char *from, const void *bytes,
                              size_t size)
{
    const char *slash = strrchr(from, '/');
    struct compare c = { 0 };
    char *path = NULL, *text = NULL;
    size_t text_size = 0;
    status st = ST_OK;

    *differs = NULL;
    charsmap_find(bytes, size, &c.map, &c.map_size);
    if (asprintf(&path, "%.*stokenizer.json", slash != NULL ? (int)(slash + 1 - from) : 0, from) <
        0) {
        path = NULL;
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a file name"));
    }
    if (access(path, F_OK) != 0)
        goto out;
    TRY_OUT(readfile_bytes(path, FILE_BYTES_MAX, &text, &text_size));
    TRY_OUT(compare_json(differs, &c, (struct span){ text, text + text_size }, path));
out:
    free(path);
    free(text);
    return st;
}
