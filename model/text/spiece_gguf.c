/* The tokenizer in the metadata of a GGUF file, as llama.cpp's converter writes it for T5:
 * tokenizer.ggml.tokens, scores and token_type in the order of their ids. After the model's own
 * pieces come names that fill the vocabulary, which the model does not have: [PAD256000], ... */
#include "model/text/spiece.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY "tokenizer.ggml."

enum { TOKENS, SCORES, TYPES, CHARSMAP, ADD_SPACE, REMOVE_SPACES, MODEL, KEYS };

static const struct {
    const char *key;
    enum value_type type;
} keys[KEYS] = {
    [TOKENS] = { KEY "tokens", VALUE_STRING },
    [SCORES] = { KEY "scores", VALUE_F32 },
    [TYPES] = { KEY "token_type", VALUE_I32 },
    [CHARSMAP] = { KEY "precompiled_charsmap", VALUE_U8 },
    [ADD_SPACE] = { KEY "add_space_prefix", VALUE_BOOL },
    [REMOVE_SPACES] = { KEY "remove_extra_whitespaces", VALUE_BOOL },
    [MODEL] = { KEY "model", VALUE_STRING },
};

struct text {
    const char *at;
    size_t length;
};

/* The texts of a list, malloc'ed; NULL without memory. gguf.c has checked their lengths. */
static struct text *texts_of(const struct file_value *v)
{
    struct text *texts = calloc((size_t)v->count + 1, sizeof(*texts));
    const uint8_t *at = v->bytes;

    for (uint64_t i = 0; texts != NULL && i < v->count; i++) {
        uint64_t length;

        memcpy(&length, at, 8);
        texts[i] = (struct text){ (const char *)at + 8, (size_t)length };
        at += 8 + length;
    }
    return texts;
}

static bool begins_with(struct text t, const char *start)
{
    return t.length >= strlen(start) && memcmp(t.at, start, strlen(start)) == 0;
}

static bool is_true(const struct file_value *v) // also if it is not given
{
    return v->type == VALUE_NONE || v->bytes[0] != 0;
}

static status check_values(const char *path, const struct file_value *v)
{
    for (int i = 0; i < KEYS; i++) {
        const bool signed_bytes = i == CHARSMAP && v[i].type == VALUE_I8;

        if (v[i].type != VALUE_NONE && v[i].type != keys[i].type && !signed_bytes)
            return fail(ST_FORMAT, "%s: %s in its header has another type than T5's tokenizer",
                        path, keys[i].key);
    }
    if (v[MODEL].type != VALUE_NONE && strcmp((const char *)v[MODEL].bytes + 8, "t5") != 0)
        return fail(ST_FORMAT, "%s: its tokenizer is %.40s, not that of umT5", path,
                    (const char *)v[MODEL].bytes + 8);
    if (v[SCORES].count != v[TOKENS].count || v[TYPES].count != v[TOKENS].count ||
        v[SCORES].type == VALUE_NONE || v[TYPES].type == VALUE_NONE)
        return fail(ST_FORMAT, "%s: its tokenizer has %llu pieces, but %llu scores and %llu types",
                    path, (unsigned long long)v[TOKENS].count, (unsigned long long)v[SCORES].count,
                    (unsigned long long)v[TYPES].count);
    if (v[CHARSMAP].type == VALUE_NONE)
        return fail(ST_FORMAT,
                    "%s: its tokenizer has no table to normalize text: put "
                    "google/umt5-xxl/spiece.model into this folder",
                    path);
    return ST_OK;
}

static status write_model(const struct file_value *v, char **bytes, size_t *size)
{
    const struct spiece_normalizer n = { "precompiled", v[CHARSMAP].bytes, v[CHARSMAP].size,
                                         is_true(&v[ADD_SPACE]), is_true(&v[REMOVE_SPACES]) };
    struct text *texts = texts_of(&v[TOKENS]);
    uint64_t count = v[TOKENS].count;
    struct spiece s = { 0 };

    if (texts == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a tokenizer");
    while (count > 0 &&
           (begins_with(texts[count - 1], "[PAD") || begins_with(texts[count - 1], "<extra_id_")))
        count--;
    for (uint64_t i = 0; i < count; i++) {
        float score;
        int32_t type;

        memcpy(&score, v[SCORES].bytes + 4 * i, 4);
        memcpy(&type, v[TYPES].bytes + 4 * i, 4);
        spiece_add(&s, texts[i].at, texts[i].length, score, (enum piece_type)type);
    }
    free(texts);
    return spiece_finish(&s, &n, bytes, size);
}

status spiece_of_gguf(const struct tensorfile *f, char **bytes, size_t *size)
{
    struct file_value v[KEYS] = { { 0 } };
    status st = ST_OK;

    *bytes = NULL;
    for (int i = 0; i < KEYS; i++)
        TRY_OUT(tensorfile_value(f, 0, keys[i].key, &v[i]));
    if (v[TOKENS].type == VALUE_NONE)
        goto out;
    TRY_OUT(check_values(tensorfile_path(f, 0), v));
    TRY_OUT(write_model(v, bytes, size));
out:
    for (int i = 0; i < KEYS; i++)
        free(v[i].bytes);
    return st;
}
