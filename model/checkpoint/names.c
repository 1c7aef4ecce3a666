/* Tensor names of other layouts: the prefixes that tensor names have in single files, and
 * translation with the parts' tables. Source: diffusers scripts/convert_wan_to_diffusers.py. */
#include "model/checkpoint/names.h"

#include "model/checkpoint/checkpoint_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Parses the number at *text, of one to four digits, and moves *text after it; false if there is
 * none. */
static bool parse_index(const char **text, int *index)
{
    const char *s = *text;

    *index = 0;
    while (*s >= '0' && *s <= '9' && s - *text < 4)
        *index = 10 * *index + (*s++ - '0');
    if (s == *text || (s - *text > 1 && **text == '0'))
        return false;
    *text = s;
    return true;
}

const char *names_match(const char *pattern, const char *name, int *index)
{
    const bool is_prefix = pattern[strlen(pattern) - 1] == '.';

    for (; *pattern; pattern++) {
        if (*pattern == '%') {
            if (!parse_index(&name, index))
                return NULL;
        } else if (*pattern != *name++) {
            return NULL;
        }
    }
    return is_prefix || *name == '\0' ? name : NULL;
}

bool names_write(char *out, size_t size, const char *prefix, const char *pattern, int index,
                 const char *rest)
{
    const char *number = strchr(pattern, '%');
    int n;

    if (number != NULL)
        n = snprintf(out, size, "%s%.*s%d%s%s", prefix, (int)(number - pattern), pattern, index,
                     number + 1, rest);
    else
        n = snprintf(out, size, "%s%s%s", prefix, pattern, rest);
    return n >= 0 && (size_t)n < size;
}

bool names_translate(const struct name_pair *pairs, bool to_official, const char *prefix,
                     const char *name, char *out, size_t size)
{
    for (const struct name_pair *p = pairs; p->official != NULL; p++) {
        int index = 0;
        const char *rest = names_match(to_official ? p->other : p->official, name, &index);

        if (rest != NULL)
            return names_write(out, size, prefix, to_official ? p->official : p->other, index,
                               rest);
    }
    return false;
}

/* Prefixes of tensor names in single files: ComfyUI, Kijai, all-in-one checkpoints. */
static const char *const prefixes[] = {
    "",
    "model.diffusion_model.",
    "diffusion_model.",
    "model.",
    "transformer.",
    "first_stage_model.",
    "vae.",
    "text_encoders.umt5xxl.transformer.",
    "text_encoder.",
};

static bool has(const struct tensorfile *f, const char *prefix, const char *name)
{
    char full[160];

    snprintf(full, sizeof(full), "%s%s", prefix, name);
    return tensorfile_find(f, full) != NULL;
}

/* Payload of make_official. */
struct renaming {
    const struct part *part;
    const struct tensorfile *f;
    const char *prefix;
    bool translate; // the names are those of diffusers
    bool (*rename)(const char *name, bool to_official, char *out, size_t size); // then
};

/* Callback of tensorfile_rename: the official name; false for a name without the prefix. */
static bool make_official(void *payload, const char *name, char *out, size_t size)
{
    const struct renaming *r = payload;
    const struct part *part = r->part;
    const size_t length = strlen(r->prefix);
    const char *bare = name + length;

    if (strncmp(name, r->prefix, length) != 0)
        return false;
    for (const struct name_pair *p = part->fallbacks; p != NULL && p->official != NULL; p++)
        if (r->translate && strcmp(bare, p->official) == 0 && !has(r->f, r->prefix, p->other))
            bare = p->other;
    if (r->translate && r->rename(bare, true, out, size))
        return true;
    return names_write(out, size, "", bare, 0, "");
}

bool names_detect(const struct tensorfile *f, const struct part *part, const char **prefix,
                  bool *official)
{
    for (size_t i = 0; i < COUNT(prefixes); i++) {
        for (const struct name_pair *a = part->detected_by; a->official != NULL; a++) {
            *prefix = prefixes[i];
            *official = has(f, prefixes[i], a->official);
            if (*official || has(f, prefixes[i], a->other))
                return true;
        }
    }
    *prefix = "";
    *official = true;
    return false;
}

status names_make_official(struct tensorfile *f, const struct part *part, const char **prefix)
{
    struct renaming r = { .part = part, .f = f };
    bool official;

    names_detect(f, part, &r.prefix, &official);
    r.translate = !official;
    r.rename = part->witness != NULL && has(f, r.prefix, part->witness) ? part->rename_witnessed
                                                                        : part->rename;
    *prefix = r.prefix;
    if (r.prefix[0] == '\0' && !r.translate)
        return ST_OK;
    return tensorfile_rename(f, make_official, &r);
}
