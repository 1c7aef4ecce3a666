#include "model/text/mojibake.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- rules ---- */

static uint32_t classes_of(int32_t c)
{
    int low = 0, high = mojibake_class_count;

    while (low < high) {
        const int mid = low + (high - low) / 2;
        const struct mojibake_range *r = &mojibake_classes[mid];

        if (c >= r->first && c <= r->last)
            return r->classes;
        if (c < r->first)
            high = mid;
        else
            low = mid + 1;
    }
    return 0;
}

/* As Python's \w. */
static bool is_word(int32_t c)
{
    const utf8proc_category_t k = utf8proc_category(c);

    return c == '_' || (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) ||
           (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

static bool contains(const struct mojibake_set *s, int32_t c)
{
    bool found = s->classes != 0 && (s->classes & classes_of(c)) != 0;

    for (int i = 0; i < s->extras && !found; i++) {
        const struct mojibake_range *r = &mojibake_extras[s->extra + i];

        found = c >= r->first && c <= r->last;
    }
    found = found || ((s->flags & MOJIBAKE_WORD) != 0 && is_word(c)) ||
            ((s->flags & MOJIBAKE_SPACE) != 0 && text_is_space(c));
    return found != ((s->flags & MOJIBAKE_NOT) != 0);
}

/* Whether the sets match at `at`; *end: where the match ends. */
static bool match_sets(const struct mojibake_set *s, int count, const struct text *t, size_t at,
                       size_t *end)
{
    if (count == 0) {
        *end = at;
        return true;
    }
    if ((s->flags & MOJIBAKE_BEGIN) != 0)
        return at == 0 && match_sets(s + 1, count - 1, t, at, end);
    if (at < t->count && contains(s, t->cp[at]) && match_sets(s + 1, count - 1, t, at + 1, end))
        return true;
    return (s->flags & MOJIBAKE_OPTIONAL) != 0 && match_sets(s + 1, count - 1, t, at, end);
}

/* The number of characters that the first matching rule takes at `at`; 0 if none matches. */
static size_t match(const struct mojibake_rules *rules, const struct text *t, size_t at)
{
    size_t end;

    for (size_t i = 0; i < rules->count; i++) {
        const struct mojibake_sequence *s = &rules->sequences[i];

        if (match_sets(rules->sets + s->first, s->count, t, at, &end))
            return end - at;
    }
    return 0;
}

/* Each rule has a character that is not ASCII among its first three. */
static bool is_bad(const struct text *t)
{
    size_t last = 0; // 1 + index of the last character that is not ASCII, among those looked at

    for (size_t i = 0, ahead = 0; i < t->count; i++) {
        for (; ahead < t->count && ahead < i + 3; ahead++)
            last = t->cp[ahead] >= 0x80 ? ahead + 1 : last;
        if (last > i && match(&mojibake_bad, t, i) > 0)
            return true;
    }
    return false;
}

/* ---- encodings ---- */

/* Writes the bytes that the text has in the encoding; false if it does not have the characters. */
static bool encode(struct text *bytes, const struct text *t, const struct mojibake_encoding *e)
{
    for (size_t i = 0; i < t->count; i++) {
        const int32_t c = t->cp[i];
        int byte = -1;

        if (c < 0x80)
            byte = e->sloppy && c == 0x1a ? -1 : c;
        else if (c == 0xfffd && e->sloppy)
            byte = 0x1a;
        for (int k = 0; k < 128 && byte < 0; k++)
            byte = e->high[k] == c ? 0x80 + k : -1;
        if (byte < 0)
            return false;
        text_put(bytes, byte);
    }
    return true;
}

static int byte_at(const struct text *t, size_t i)
{
    return i < t->count ? t->cp[i] : -1;
}

static bool starts_with(const struct text *t, size_t at, const char *word)
{
    for (size_t i = 0; word[i] != '\0'; i++)
        if (byte_at(t, at + i) != word[i])
            return false;
    return true;
}

/* The byte 0xc3 and a space were "à", unless a Portuguese word follows; another space is added. */
static void restore_a_grave(struct text *to, const struct text *from)
{
    static const char *const words[] = { " ", "quele", "quela", "quilo", "s " };

    for (size_t i = 0; i < from->count; i++) {
        bool found = from->cp[i] == 0xc3 && byte_at(from, i + 1) == ' ';

        for (size_t k = 0; k < COUNT(words) && found; k++)
            found = !starts_with(from, i + 2, words[k]);
        text_put(to, from->cp[i]);
        if (found) {
            text_put(to, 0xa0);
            text_put(to, ' ');
            i++;
        }
    }
}

/* A space in a sequence of UTF-8 was 0xa0. */
static void restore_a0(struct text *t)
{
    for (size_t i = 0; i < t->count;) {
        const size_t n = match(&mojibake_altered, t, i);

        for (size_t k = 0; k < n; k++)
            if (t->cp[i + k] == ' ')
                t->cp[i + k] = 0xa0;
        i += n > 0 ? n : 1;
    }
}

static bool is_altered(const struct text *t)
{
    for (size_t i = 0; i < t->count; i++)
        if (match(&mojibake_altered, t, i) > 0)
            return true;
    return false;
}

/* Sequences with lost bytes become U+FFFD in UTF-8. */
static void replace_lost(struct text *to, const struct text *from)
{
    for (size_t i = 0; i < from->count;) {
        const size_t n = match(&mojibake_lossy, from, i);

        if (n == 0) {
            text_put(to, from->cp[i++]);
            continue;
        }
        text_put(to, 0xef);
        text_put(to, 0xbf);
        text_put(to, 0xbd);
        i += n;
    }
}

/* Number of bytes of the next character; 0 if they are not UTF-8. Surrogates in pairs (CESU-8) and
 * 0xc0 0x80 for U+0000 (Java) are accepted. */
static size_t next_character(const struct text *bytes, size_t at, int32_t *c)
{
    uint8_t b[6] = { 0 };
    size_t n = 0;
    utf8proc_ssize_t used;

    while (n < sizeof(b) && at + n < bytes->count) {
        b[n] = (uint8_t)bytes->cp[at + n];
        n++;
    }
    if (n >= 2 && b[0] == 0xc0 && b[1] == 0x80) {
        *c = 0;
        return 2;
    }
    if (n == 6 && b[0] == 0xed && (b[1] & 0xf0) == 0xa0 && (b[2] & 0xc0) == 0x80 && b[3] == 0xed &&
        (b[4] & 0xf0) == 0xb0 && (b[5] & 0xc0) == 0x80) {
        *c = 0x10000 +
             ((b[1] & 0xf) << 16 | (b[2] & 0x3f) << 10 | (b[4] & 0xf) << 6 | (b[5] & 0x3f));
        return 6;
    }
    used = utf8proc_iterate(b, (utf8proc_ssize_t)n, c);
    return used > 0 ? (size_t)used : 0;
}

static bool decode(struct text *to, const struct text *bytes)
{
    for (size_t i = 0; i < bytes->count;) {
        int32_t c;
        const size_t n = next_character(bytes, i, &c);

        if (n == 0)
            return false;
        text_put(to, c);
        i += n;
    }
    return true;
}

/* ---- the repair ---- */

struct repair {
    struct text bytes, other, out;
};

static void take(struct text *t, struct text *from)
{
    const struct text old = *t;

    *t = *from;
    *from = old;
}

/* Tries to take the text for UTF-8 that was decoded as `e`. *possible: it has only characters of
 * that encoding. *done: it was, and r->out has the text. */
static status try_encoding(struct repair *r, const struct text *t,
                           const struct mojibake_encoding *e, bool *possible, bool *done)
{
    *done = false;
    TRY(text_begin(&r->bytes, t->count));
    *possible = encode(&r->bytes, t, e);
    if (!*possible)
        return ST_OK;
    if (strcmp(e->name, "macroman") != 0 && is_altered(&r->bytes)) {
        TRY(text_begin(&r->other, 2 * r->bytes.count));
        restore_a_grave(&r->other, &r->bytes);
        restore_a0(&r->other);
        take(&r->bytes, &r->other);
    }
    if (e->sloppy) {
        TRY(text_begin(&r->other, 3 * r->bytes.count));
        replace_lost(&r->other, &r->bytes);
        take(&r->bytes, &r->other);
    }
    TRY(text_begin(&r->out, r->bytes.count));
    *done = decode(&r->out, &r->bytes);
    return ST_OK;
}

/* The number of characters at `at` that look like UTF-8 in another encoding. */
static size_t garbled_length(const struct text *t, size_t at)
{
    size_t end = at;

    if (at > 0 && (classes_of(t->cp[at - 1]) & MOJIBAKE_STRICT) != 0)
        return 0;
    while (end < t->count) {
        const uint32_t k = classes_of(t->cp[end]);
        const size_t n = (k & MOJIBAKE_FIRST_OF_2) != 0   ? 2
                         : (k & MOJIBAKE_FIRST_OF_3) != 0 ? 3
                         : (k & MOJIBAKE_FIRST_OF_4) != 0 ? 4
                                                          : 0;
        size_t i = 1;

        while (i < n && end + i < t->count &&
               (classes_of(t->cp[end + i]) & MOJIBAKE_CONTINUATION) != 0)
            i++;
        if (n == 0 || i < n)
            break;
        end += n;
    }
    return end - at;
}

/* Repairs parts of the text, each as a text of its own; r->out has the result. */
static status repair_parts(struct repair *r, const struct text *t, bool *changed)
{
    struct text part = { 0 };
    status st;

    *changed = false;
    TRY_OUT(text_begin(&r->out, t->count));
    for (size_t i = 0; i < t->count;) {
        const size_t n = garbled_length(t, i);

        if (n == 0) {
            text_put(&r->out, t->cp[i++]);
            continue;
        }
        TRY_OUT(text_begin(&part, n));
        memcpy(part.cp, t->cp + i, n * sizeof(*part.cp));
        part.count = n;
        if (n < t->count && is_bad(&part))
            TRY_OUT(mojibake_repair(&part));
        for (size_t k = 0; k < part.count; k++)
            text_put(&r->out, part.cp[k]); // a repair makes a text shorter, or keeps its length
        *changed =
            *changed || part.count != n || memcmp(part.cp, t->cp + i, n * sizeof(*part.cp)) != 0;
        i += n;
    }
out:
    free(part.cp);
    return st;
}

/* Latin-1's control characters were meant as Windows-1252. `strict`: only if that has all. */
static bool fix_controls(struct text *to, const struct text *t, bool strict)
{
    bool changed = false;

    for (size_t i = 0; i < t->count; i++) {
        int32_t c = t->cp[i];

        if (c >= 0x80 && c <= 0x9f) {
            c = windows_1252[c - 0x80];
            if (c == t->cp[i] && strict)
                return false;
            changed = changed || c != t->cp[i];
        }
        text_put(to, c);
    }
    return changed;
}

/* One step; *changed: r->out has another text. */
static status repair_step(struct repair *r, const struct text *t, bool *changed)
{
    bool possible, latin = false;

    *changed = false;
    if (!is_bad(t))
        return ST_OK;
    for (int i = 0; i < mojibake_encoding_count; i++) {
        TRY(try_encoding(r, t, &mojibake_encodings[i], &possible, changed));
        if (*changed)
            return ST_OK;
        latin = latin || (possible && i == 0);
    }
    TRY(repair_parts(r, t, changed));
    if (*changed)
        return ST_OK;
    if (latin) {
        TRY(text_begin(&r->out, t->count));
        *changed = fix_controls(&r->out, t, true);
        if (*changed)
            return ST_OK;
    }
    TRY(text_begin(&r->out, t->count));
    *changed = fix_controls(&r->out, t, false);
    return ST_OK;
}

static bool is_same(const struct text *a, const struct text *b)
{
    return a->count == b->count && memcmp(a->cp, b->cp, a->count * sizeof(*a->cp)) == 0;
}

status mojibake_repair(struct text *t)
{
    struct repair r = { 0 };
    bool changed = true;
    status st = ST_OK;

    while (changed) {
        TRY_OUT(repair_step(&r, t, &changed));
        changed = changed && !is_same(t, &r.out);
        if (changed)
            take(t, &r.out);
    }
out:
    free(r.bytes.cp);
    free(r.other.cp);
    free(r.out.cp);
    return st;
}
