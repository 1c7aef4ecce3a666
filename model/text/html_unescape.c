#include "model/text/text_internal.h"

#include <string.h>
#include <utf8proc.h>

enum { NAME_MAX_CHARS = 32, STRICT_MAX_CHARS = 24 };

const uint16_t windows_1252[32] = {
    0x20ac, 0x0081, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160,
    0x2039, 0x0152, 0x008d, 0x017d, 0x008f, 0x0090, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022,
    0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x009d, 0x017e, 0x0178,
};

static int digit_value(int32_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 16;
}

static bool alphanumeric(int32_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* The entity of exactly this name, or NULL. */
static const struct html_entity *find(const int32_t *name, size_t length)
{
    char key[NAME_MAX_CHARS + 1];
    int low = 0, high = html_entity_count;

    if (length > NAME_MAX_CHARS)
        return NULL;
    for (size_t i = 0; i < length; i++) {
        if (!alphanumeric(name[i]))
            return NULL;
        key[i] = (char)name[i];
    }
    key[length] = '\0';
    while (low < high) {
        const int mid = low + (high - low) / 2;
        const int order = strcmp(key, html_entities[mid].name);
        if (order == 0)
            return &html_entities[mid];
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

static void put_utf8(struct text *to, const char *s)
{
    while (*s != '\0') {
        utf8proc_int32_t cp;
        s += utf8proc_iterate((const utf8proc_uint8_t *)s, -1, &cp);
        text_put(to, cp);
    }
}

/* Number of characters of "#12" or "#x1F" at s, without a semicolon; 0 if it is not a number. */
static size_t number_length(const int32_t *s, size_t size, int32_t *value)
{
    const bool hex = size > 1 && (s[1] == 'x' || s[1] == 'X');
    const int base = hex ? 16 : 10;
    const size_t first = hex ? 2 : 1;
    size_t i = first;

    for (*value = 0; i < size && digit_value(s[i]) < base; i++)
        if (*value <= 0x10ffff) // larger values need not be exact
            *value = *value * base + digit_value(s[i]);
    return i > first ? i : 0;
}

/* The character of a numeric reference in the HTML standard; -1 if it is to be dropped. */
static int32_t number_character(int32_t value)
{
    if (value >= 0x80 && value <= 0x9f)
        return windows_1252[value - 0x80];
    if (value == 0 || (value >= 0xd800 && value <= 0xdfff) || value > 0x10ffff)
        return 0xfffd;
    if ((value < 0x20 && strchr("\t\n\f\r", value) == NULL) || value == 0x7f)
        return -1;
    if ((value >= 0xfdd0 && value <= 0xfdef) || (value & 0xfffe) == 0xfffe)
        return -1;
    return value;
}

/* Decodes the reference after an ampersand at s and appends its text. Returns the number of
 * characters read; 0 if it is not a reference, then nothing is appended. */
static size_t unescape_one(struct text *to, const int32_t *s, size_t size)
{
    size_t length = 0;
    int32_t value;

    if (size > 0 && s[0] == '#') {
        length = number_length(s, size, &value);
        if (length == 0)
            return 0;
        value = number_character(value);
        if (value >= 0)
            text_put(to, value);
        return length < size && s[length] == ';' ? length + 1 : length;
    }
    while (length < size && length < NAME_MAX_CHARS && alphanumeric(s[length]))
        length++;
    for (size_t n = length; n > 1; n--) {
        const bool closed = n < size && n == length && s[n] == ';';
        const struct html_entity *e = find(s, n);
        if (e == NULL || e->kind == HTML_FTFY || (!closed && e->kind != HTML_BARE))
            continue;
        put_utf8(to, e->text);
        return closed ? n + 1 : n;
    }
    return 0;
}

status html_unescape(struct text *to, const struct text *from)
{
    TRY(text_begin(to, from->count * TEXT_GROWTH));
    for (size_t i = 0; i < from->count;) {
        size_t taken = 0;
        if (from->cp[i] == '&')
            taken = unescape_one(to, from->cp + i + 1, from->count - i - 1);
        if (taken == 0)
            text_put(to, from->cp[i]);
        i += 1 + taken;
    }
    return ST_OK;
}

/* As unescape_one, for html_unescape_strict. */
static size_t unescape_one_strict(struct text *to, const int32_t *s, size_t size)
{
    const size_t first = size > 0 && s[0] == '#' ? 1 : 0;
    size_t length = first;
    int32_t value;

    while (length < size && length < first + STRICT_MAX_CHARS && alphanumeric(s[length]))
        length++;
    if (length == first || length == size || s[length] != ';')
        return 0;
    if (first == 0) {
        const struct html_entity *e = find(s, length);
        if (e == NULL)
            return 0;
        put_utf8(to, e->text);
        return length + 1;
    }
    if (number_length(s, size, &value) != length)
        return 0;
    value = number_character(value);
    if (value == ';') // ftfy: a result that ends in a semicolon is not a reference
        return 0;
    if (value >= 0)
        text_put(to, value);
    return length + 1;
}

status html_unescape_strict(struct text *to, const struct text *from)
{
    TRY(text_begin(to, from->count * TEXT_GROWTH));
    for (size_t i = 0; i < from->count;) {
        size_t taken = 0;
        if (from->cp[i] == '&')
            taken = unescape_one_strict(to, from->cp + i + 1, from->count - i - 1);
        if (taken == 0)
            text_put(to, from->cp[i]);
        i += 1 + taken;
    }
    return ST_OK;
}
