/* charsmap.c - checks the normalization table of a SentencePiece model. SentencePiece (0.1.97, and
 * 0.2) looks characters up in it without a bounds check, so that a damaged model reads any address.
 *
 * The table is field 2 of field 3 (normalizer_spec.precompiled_charsmap) of the model:
 *     u32 n, n bytes of a double array (Darts), the replacements, each with a zero at its end
 * A unit of the double array, at index i: bit 31 is set in a leaf, whose value (bits 0 to 30) is an
 * offset into the replacements. In any other unit the bits 10 and up, times 256 if bit 9 is set,
 * are XORed with i: that is the index of its leaf, if bit 8 says that it has one, and XORed with
 * one byte more the index of a child. Source: sentencepiece src/normalizer.cc, darts_clone/darts.h.
 */
#include "model/text/tokenizer.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct wire {
    const uint8_t *at, *end;
};

static bool take_varint(struct wire *w, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64 && w->at < w->end; shift += 7) {
        const uint8_t byte = *w->at++;

        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

/* The next field of a Protocol Buffers message; `value` is empty for a number. */
static bool take_field(struct wire *w, uint64_t *number, struct wire *value)
{
    uint64_t key = 0, bytes = 0;
    bool valid = take_varint(w, &key);

    switch (key & 7) {
    case 0:
        valid = valid && take_varint(w, &bytes);
        bytes = 0;
        break;
    case 1:
        bytes = 8;
        break;
    case 2:
        valid = valid && take_varint(w, &bytes);
        break;
    case 5:
        bytes = 4;
        break;
    default: // groups: no SentencePiece model has them
        return false;
    }
    if (!valid || bytes > (uint64_t)(w->end - w->at))
        return false;
    *number = key >> 3;
    *value = (key & 7) == 2 ? (struct wire){ w->at, w->at + bytes } : (struct wire){ 0 };
    w->at += bytes;
    return true;
}

static uint32_t unit_at(const uint8_t *units, uint32_t i)
{
    uint32_t unit;

    memcpy(&unit, units + 4 * (size_t)i, sizeof(unit));
    return unit;
}

static bool is_safe(struct wire map)
{
    const size_t size = (size_t)(map.end - map.at);
    uint32_t bytes = 0, count;
    size_t text;

    if (size == 0)
        return true; // no table
    if (size < 4)
        return false;
    memcpy(&bytes, map.at, 4);
    if (bytes > size - 4 || bytes < 1024 || bytes % 4 != 0)
        return false;
    count = bytes / 4;
    text = size - 4 - bytes;
    if (text == 0 || map.end[-1] != 0)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t unit = unit_at(map.at + 4, i),
                       next = i ^ (unit >> 10 << ((unit & 1u << 9) >> 6));

        if (unit >> 31 != 0 && i > 0) // the root is read as a node, whatever it says
            continue;                 // reached as a leaf only, where its value is checked
        if ((next | 0xff) >= count)
            return false;
        if ((unit & 1u << 8) != 0 && (unit_at(map.at + 4, next) & 0x7fffffff) >= text)
            return false;
    }
    return true;
}

/* Calls `use` for each table of the model; false if it is no SentencePiece model. */
static bool each_map(const void *bytes, size_t size, void (*use)(void *payload, struct wire map),
                     void *payload)
{
    struct wire model = { bytes, (const uint8_t *)bytes + size };

    while (model.at < model.end) {
        struct wire spec, value;
        uint64_t number = 0, inner = 0;

        if (!take_field(&model, &number, &spec))
            return false;
        while (number == 3 && spec.at < spec.end) {
            if (!take_field(&spec, &inner, &value))
                return false;
            if (inner == 2)
                use(payload, value);
        }
    }
    return true;
}

static void check_map(void *payload, struct wire map)
{
    bool *safe = payload;

    *safe = *safe && is_safe(map);
}

status charsmap_check(const void *bytes, size_t size, const char *from)
{
    bool safe = true;

    if (!each_map(bytes, size, check_map, &safe))
        return fail(ST_FORMAT, "%s: not a SentencePiece model", from);
    return safe ? ST_OK
                : fail(ST_FORMAT,
                       "%s: the normalization table of this SentencePiece model is damaged", from);
}

static void keep_map(void *payload, struct wire map)
{
    *(struct wire *)payload = map;
}

void charsmap_find(const void *bytes, size_t size, const uint8_t **map, size_t *map_size)
{
    struct wire found = { 0 };

    each_map(bytes, size, keep_map, &found);
    *map = found.at;
    *map_size = (size_t)(found.end - found.at);
}
