/* text_clean.c - the official tokenizer's cleaning of a prompt. Source: Wan2.1
 * wan/modules/tokenizers.py, which calls ftfy.fix_text (ftfy 6.3, defaults) and html.unescape.
 */
#include "model/text/mojibake.h"
#include "model/text/text_internal.h"
#include "model/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { SEGMENT_MAX = 1000000 }; // code points; ftfy splits longer lines into segments of this size
enum { ROUNDS_MAX = 64 }; // until a segment does not change; texts that people write need 2 to 4

status text_begin(struct text *t, size_t capacity)
{
    if (capacity >= t->capacity) {
        int32_t *larger = realloc(t->cp, (capacity + 1) * sizeof(*larger));
        if (larger == NULL)
            return fail(ST_MEMORY, "cannot allocate memory for a prompt of %zu characters",
                        capacity);
        t->cp = larger;
        t->capacity = capacity + 1;
    }
    t->count = 0;
    return ST_OK;
}

static status append(struct text *to, const struct text *more)
{
    if (to->capacity - to->count < more->count) {
        const size_t capacity = 2 * to->capacity + more->count;
        int32_t *larger = realloc(to->cp, capacity * sizeof(*larger));
        if (larger == NULL)
            return fail(ST_MEMORY, "cannot allocate memory for a prompt of %zu characters",
                        capacity);
        to->cp = larger;
        to->capacity = capacity;
    }
    memcpy(to->cp + to->count, more->cp, more->count * sizeof(*more->cp));
    to->count += more->count;
    return ST_OK;
}

static void swap(struct text *a, struct text *b)
{
    const struct text t = *a;

    *a = *b;
    *b = t;
}

static status decode(struct text *to, const char *in)
{
    const size_t bytes = strlen(in);

    TRY(text_begin(to, bytes));
    for (size_t i = 0; i < bytes;) {
        utf8proc_int32_t cp;
        const utf8proc_ssize_t n =
            utf8proc_iterate((const utf8proc_uint8_t *)in + i, (utf8proc_ssize_t)(bytes - i), &cp);
        if (n <= 0)
            return fail(ST_FORMAT, "the prompt is not UTF-8 at byte %zu (0x%02x)", i,
                        (unsigned char)in[i]);
        text_put(to, cp);
        i += (size_t)n;
    }
    return ST_OK;
}

static status encode(char **out, const struct text *from)
{
    char *s = malloc(from->count * 4 + 1), *end = s;

    if (s == NULL)
        return fail(ST_MEMORY, "cannot allocate memory for a prompt of %zu characters",
                    from->count);
    for (size_t i = 0; i < from->count; i++)
        end += utf8proc_encode_char(from->cp[i], (utf8proc_uint8_t *)end);
    *end = '\0';
    *out = s;
    return ST_OK;
}

bool text_is_space(int32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x1f) || c == ' ' || c == 0x85 ||
           c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

/* ---- ftfy, character by character ---- */

static const struct {
    uint16_t cp;
    uint16_t letters[3];
} ligatures[] = {
    { 0x0132, { 'I', 'J' } },      { 0x0133, { 'i', 'j' } },      { 0x0149, { 0x02bc, 'n' } },
    { 0x01c4, { 'D', 0x017d } },   { 0x01c5, { 'D', 0x017e } },   { 0x01c6, { 'd', 0x017e } },
    { 0x01c7, { 'L', 'J' } },      { 0x01c8, { 'L', 'j' } },      { 0x01c9, { 'l', 'j' } },
    { 0x01ca, { 'N', 'J' } },      { 0x01cb, { 'N', 'j' } },      { 0x01cc, { 'n', 'j' } },
    { 0x01f1, { 'D', 'Z' } },      { 0x01f2, { 'D', 'z' } },      { 0x01f3, { 'd', 'z' } },
    { 0xfb00, { 'f', 'f' } },      { 0xfb01, { 'f', 'i' } },      { 0xfb02, { 'f', 'l' } },
    { 0xfb03, { 'f', 'f', 'i' } }, { 0xfb04, { 'f', 'f', 'l' } }, { 0xfb05, { 0x017f, 't' } },
    { 0xfb06, { 's', 't' } },
};

/* Appends c; curly quotes become straight ones. */
static void put_quote(struct text *to, int32_t c)
{
    if (c == 0x02bc || (c >= 0x2018 && c <= 0x201b))
        c = '\'';
    else if (c >= 0x201c && c <= 0x201f)
        c = '"';
    text_put(to, c);
}

/* Appends c; ideographic space becomes a space, half and full width forms are NFKC-normalized. */
static void put_width(struct text *to, int32_t c)
{
    utf8proc_int32_t wide[8] = { c };
    utf8proc_ssize_t n = 1;

    if (c == 0x3000) {
        wide[0] = ' ';
    } else if (c >= 0xff01 && c <= 0xffef) {
        int last_class = 0;
        n = utf8proc_decompose_char(c, wide, (utf8proc_ssize_t)COUNT(wide),
                                    UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, &last_class);
        assert(n > 0 && n <= (utf8proc_ssize_t)COUNT(wide));
        n = utf8proc_normalize_utf32(wide, n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    }
    for (utf8proc_ssize_t i = 0; i < n; i++)
        put_quote(to, wide[i]);
}

static void put_ligature(struct text *to, int32_t c)
{
    for (size_t i = 0; i < COUNT(ligatures); i++) {
        if (ligatures[i].cp != c)
            continue;
        for (int j = 0; j < 3 && ligatures[i].letters[j] != 0; j++)
            put_width(to, ligatures[i].letters[j]);
        return;
    }
    put_width(to, c);
}

/* C1 controls to Windows-1252, ligatures, width, quotes. Each step depends on one character only,
 * so one pass with all four gives the same as four passes. */
static status fix_characters(struct text *to, const struct text *from)
{
    TRY(text_begin(to, from->count * TEXT_GROWTH));
    for (size_t i = 0; i < from->count; i++) {
        const int32_t c = from->cp[i];
        put_ligature(to, c >= 0x80 && c <= 0x9f ? windows_1252[c - 0x80] : c);
    }
    return ST_OK;
}

/* ---- ftfy, lines and controls ---- */

/* Length of a terminal escape sequence at s: ESC [, digits and semicolons, a letter. 0 if none. */
static size_t escape_length(const int32_t *s, size_t size)
{
    size_t i = 2;

    if (size < 3 || s[0] != 0x1b || s[1] != '[')
        return 0;
    while (i < size && (s[i] == ';' || utf8proc_category(s[i]) == UTF8PROC_CATEGORY_ND))
        i++;
    if (i == size || !((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z')))
        return 0;
    return i + 1;
}

static bool is_dropped_control(int32_t c)
{
    return c <= 0x08 || c == 0x0b || (c >= 0x0e && c <= 0x1f) || c == 0x7f ||
           (c >= 0x206a && c <= 0x206f) || c == 0xfeff || (c >= 0xfff9 && c <= 0xfffc);
}

/* Line breaks become line feeds; terminal escapes and control characters are removed. */
static status fix_controls(struct text *to, const struct text *from)
{
    TRY(text_begin(to, from->count));
    for (size_t i = 0; i < from->count; i++) {
        const int32_t c = from->cp[i];
        const size_t escape = escape_length(from->cp + i, from->count - i);
        if (escape > 0) {
            i += escape - 1;
        } else if (c == '\r' || c == 0x2028 || c == 0x2029) {
            if (c == '\r' && i + 1 < from->count && from->cp[i + 1] == '\n')
                i++;
            text_put(to, '\n');
        } else if (!is_dropped_control(c)) {
            text_put(to, c);
        }
    }
    return ST_OK;
}

/* Normalizes to NFC. */
static status compose(struct text *to, struct text *from)
{
    char *utf8 = NULL;
    utf8proc_ssize_t n;
    status st;

    TRY(encode(&utf8, from));
    TRY_OUT(text_begin(to, from->count * TEXT_GROWTH));
    n = utf8proc_decompose((const utf8proc_uint8_t *)utf8, 0, to->cp,
                           (utf8proc_ssize_t)to->capacity,
                           UTF8PROC_NULLTERM | UTF8PROC_DECOMPOSE | UTF8PROC_STABLE);
    assert(n >= 0 &&
           n <= (utf8proc_ssize_t)to->capacity); // canonical decomposition gives at most four
    to->count = (size_t)utf8proc_normalize_utf32(to->cp, n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
out:
    free(utf8);
    return st;
}

/* ftfy.fix_text of one segment, in place: repeats its steps until nothing changes. Each round takes
 * one level from "&amp;amp;amp;", so that ftfy needs hours for a long one; here it is refused. */
static status fix_segment(struct text *t, bool unescape, struct text *step, struct text *before)
{
    int rounds = 0;

    do {
        if (rounds++ == ROUNDS_MAX)
            return fail(ST_FORMAT,
                        "the prompt has HTML entities inside each other, more than %d "
                        "deep (&amp;amp;...): write the characters themselves",
                        ROUNDS_MAX);
        TRY(text_begin(before, t->count));
        memcpy(before->cp, t->cp, t->count * sizeof(*t->cp));
        before->count = t->count;
        if (unescape) {
            TRY(html_unescape_strict(step, t));
            swap(step, t);
        }
        TRY(mojibake_repair(t));
        TRY(fix_characters(step, t));
        TRY(fix_controls(t, step));
        TRY(compose(step, t));
        swap(step, t);
    } while (t->count != before->count ||
             memcmp(t->cp, before->cp, t->count * sizeof(*t->cp)) != 0);
    return ST_OK;
}

/* ftfy.fix_text: segments end after a line feed. From the first "<" on the text is treated as HTML
 * and its entities are kept. */
static status fix_text(struct text *to, const struct text *from)
{
    struct text segment = { 0 }, step = { 0 }, before = { 0 };
    bool unescape = true;
    status st;

    TRY_OUT(text_begin(to, from->count));
    for (size_t i = 0; i < from->count;) {
        TRY_OUT(
            text_begin(&segment, from->count - i < SEGMENT_MAX ? from->count - i : SEGMENT_MAX));
        while (i < from->count && segment.count < SEGMENT_MAX) {
            text_put(&segment, from->cp[i]);
            unescape = unescape && from->cp[i] != '<';
            if (from->cp[i++] == '\n')
                break;
        }
        TRY_OUT(fix_segment(&segment, unescape, &step, &before));
        TRY_OUT(append(to, &segment));
    }
out:
    free(segment.cp);
    free(step.cp);
    free(before.cp);
    return st;
}

/* ---- the tokenizer's own steps after ftfy ---- */

/* White space becomes single spaces between words; none at the ends. */
static status join_words(struct text *to, const struct text *from)
{
    TRY(text_begin(to, from->count));
    for (size_t i = 0; i < from->count; i++) {
        if (text_is_space(from->cp[i]))
            continue;
        if (to->count > 0 && text_is_space(from->cp[i - 1]))
            text_put(to, ' ');
        text_put(to, from->cp[i]);
    }
    return ST_OK;
}

status text_clean(const char *in, char **out)
{
    struct text a = { 0 }, b = { 0 };
    status st;

    TRY_OUT(decode(&a, in));
    TRY_OUT(fix_text(&b, &a));
    TRY_OUT(html_unescape(&a, &b));
    TRY_OUT(html_unescape(&b, &a));
    TRY_OUT(join_words(&a, &b));
    TRY_OUT(encode(out, &a));
out:
    free(a.cp);
    free(b.cp);
    return st;
}
