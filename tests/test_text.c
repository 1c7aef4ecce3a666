/* Cleaned prompts and token ids, compared with the official tokenizer's (golden/make_text.py). */
#include "model/pipeline/prompts.h"
#include "model/text/tokenizer.h"
#include "runtime/readfile.h"
#include "tests/check.h"
#include "tests/golden.h"
#include "tests/scratch.h"

#include <string.h>

enum { IDS_MAX = 512 };

/* Concatenated rows of any length: row i is values [offset[i], offset[i + 1]). */
struct rows {
    void *values;
    int64_t *offset;
    int64_t count;
};

static struct rows read_rows(struct golden *g, const char *name, enum dtype dt)
{
    const struct file_tensor *t = tensorfile_find(&g->file, name);
    struct rows r = { 0 };

    CHECK(t != NULL, "no recorded %s", name);
    r.values = golden_read(g, t, dt, NULL);
    r.offset = golden_i64(g, &r.count, "%s_offset", name);
    r.count--;
    return r;
}

static void free_rows(struct rows *r)
{
    free(r->values);
    free(r->offset);
}

static char *string_at(const struct rows *r, int64_t i)
{
    return strndup((const char *)r->values + r->offset[i],
                   (size_t)(r->offset[i + 1] - r->offset[i]));
}

static void check_clean(struct golden *g, int64_t least)
{
    struct rows in = read_rows(g, "clean_in", DT_U8), out = read_rows(g, "clean_out", DT_U8);

    CHECK(in.count >= least && in.count == out.count, "%lld texts", (long long)in.count);
    for (int64_t i = 0; i < in.count; i++) {
        char *text = string_at(&in, i), *want = string_at(&out, i), *got = NULL;
        CHECK(text_clean(text, &got) == ST_OK && strcmp(got, want) == 0,
              "text %lld <%s> became <%s>, not <%s>", (long long)i, text, got, want);
        free(text);
        free(want);
        free(got);
    }
    free_rows(&in);
    free_rows(&out);
}

static void check_ids(struct golden *g, struct tokenizer *t, const char *name, int max)
{
    struct rows in = read_rows(g, "token_in", DT_U8), want = read_rows(g, name, DT_I32);

    CHECK(in.count == 200 && in.count == want.count, "%lld prompts", (long long)in.count);
    for (int64_t i = 0; i < in.count; i++) {
        char *text = string_at(&in, i);
        const int *row = (const int *)want.values + want.offset[i];
        const int length = (int)(want.offset[i + 1] - want.offset[i]);
        int ids[IDS_MAX + 1], count = 0;

        ids[max] = -7;
        CHECK(tokenizer_encode(t, text, max, ids, &count) == ST_OK, "%s", status_line());
        CHECK(count == length && memcmp(ids, row, (size_t)length * sizeof(*ids)) == 0,
              "%s of prompt %lld <%s>: wrong ids, or %d of them instead of %d", name, (long long)i,
              text, count, length);
        CHECK(ids[max] == -7, "prompt %lld: more than %d ids written", (long long)i, max);
        free(text);
    }
    free_rows(&in);
    free_rows(&want);
}

/* Text that is not UTF-8 is refused by text_clean and by tokenizer_encode. */
static void check_refused(struct tokenizer *t)
{
    static const char *const bad[] = {
        "\xff",
        "a\x80",
        "cut \xe4\xb8",
        "\xc0\xaf overlong",
        "\xed\xa0\x80",
        "\xf4\x90\x80\x80",
        "\xf8\x88\x80\x80\x80",
        "gr\xfc\xdf dich",
    };
    int ids[IDS_MAX], count = 0;
    char *out = NULL;

    for (size_t i = 0; i < COUNT(bad); i++) {
        CHECK(text_clean(bad[i], &out) == ST_FORMAT && out == NULL, "bad text %zu was accepted", i);
        CHECK(strstr(status_line(), "UTF-8") != NULL, "unclear line: %s", status_line());
        CHECK(tokenizer_encode(t, bad[i], IDS_MAX, ids, &count) == ST_FORMAT && count == 0,
              "bad text %zu was encoded", i);
    }
    CHECK(text_clean("a&#1;\xe2\x80\x9c", &out) == ST_OK && strcmp(out, "a\"") == 0, "<%s>", out);
    free(out);
    // each of ftfy's rounds takes one level: without a limit this one takes minutes
    char *nested = malloc(1 + 4 * (size_t)50000 + 1);
    golden_need(nested != NULL ? ST_OK : ST_MEMORY);
    strcpy(nested, "&");
    for (int i = 0; i < 50000; i++)
        memcpy(nested + 1 + 4 * i, "amp;", 5);
    out = NULL;
    CHECK(text_clean(nested, &out) == ST_FORMAT && out == NULL, "nested entities were accepted");
    CHECK(text_clean("&amp;amp;amp;amp;lt;", &out) == ST_OK && strcmp(out, "<") == 0, "<%s>", out);
    free(out);
    free(nested);
    CHECK(tokenizer_encode(t, "a b", 1, ids, &count) == ST_OK && count == 1 && ids[0] == 1,
          "with max = 1 the id is not EOS");
}

/* Model files that are missing or of another kind are refused. */
/* Opens a file's bytes as a tokenizer. */
static status open_file(struct tokenizer **t, const char *path)
{
    char *bytes = NULL;
    size_t size = 0;
    status st = readfile_bytes(path, (size_t)64 << 20, &bytes, &size);

    if (st == ST_OK)
        st = tokenizer_open(t, bytes, size, path);
    free(bytes);
    return st;
}

static void check_model(const char *folder)
{
    struct tokenizer *t = NULL;
    char path[4096];

    snprintf(path, sizeof(path), "%s/text.safetensors", folder);
    CHECK(open_file(&t, path) == ST_FORMAT && t == NULL, "a wrong file was opened");
    CHECK(strstr(status_line(), path) != NULL, "unclear line: %s", status_line());
    tokenizer_close(NULL);
}

/* The golden model with one bit changed in its normalization table, which SentencePiece would
 * follow to an address outside. */
static void check_charsmap(const char *path)
{
    struct tokenizer *t = NULL;
    char *bytes = NULL, *map;
    size_t size = 0;
    static const char n[] = { 0, (char)0xbc, 2, 0 }; // the table's first four bytes

    golden_need(readfile_bytes(path, (size_t)64 << 20, &bytes, &size));
    map = memmem(bytes, size, n, sizeof(n));
    golden_need(map != NULL ? ST_OK : fail(ST_FORMAT, "%s: has no normalization table", path));
    map[4 + 3] |= 0x40;
    CHECK(tokenizer_open(&t, bytes, size, "m") == ST_FORMAT && t == NULL, "opened a damaged table");
    CHECK(strstr(status_line(), "table") != NULL, "unclear line: %s", status_line());
    free(bytes);
}

/* The default negative prompts, which reach the model with ASCII commas. */
static void check_prompts(void)
{
    static const struct {
        const char *prompt, *begins;
        int commas; // number in the official prompt
    } prompts[] = {
        { negative_shared, "色调艳丽，过曝，静态，", 27 },
        { negative_i2v, "镜头晃动，色调艳丽，过曝，静态，", 28 },
        { negative_flf2v, "镜头切换，镜头晃动，色调艳丽，", 29 },
        { negative_s2v, "画面模糊，最差质量，画面模糊，", 20 },
    };

    for (size_t i = 0; i < COUNT(prompts); i++) {
        const char *p = prompts[i].prompt;
        char *clean = NULL;
        int commas = 0;

        CHECK(strncmp(p, prompts[i].begins, strlen(prompts[i].begins)) == 0, "<%s>", p);
        CHECK(text_clean(p, &clean) == ST_OK && strstr(clean, "，") == NULL, "<%s>", clean);
        for (const char *c = clean; *c != '\0'; c++)
            commas += *c == ',';
        CHECK(commas == prompts[i].commas, "%d commas in <%s>", commas, clean);
        free(clean);
    }
}

/* A tokenizer.json beside the model: `differs` as text, or NULL if it says the same. */
static void check_json(const char *spiece, size_t size, const char *json, const char *differs)
{
    const char *path = scratch_path("tokenizer.json"), *got = NULL;
    FILE *f = fopen(path, "w");

    CHECK(f != NULL && fputs(json, f) >= 0 && fclose(f) == 0, "%s", path);
    CHECK(tokenizer_json_compare(&got, scratch_path("spiece.model"), spiece, size) == ST_OK, "%s",
          status_line());
    CHECK(differs == NULL ? got == NULL : got != NULL && strcmp(got, differs) == 0,
          "%.200s: '%s', expected '%s'", json, got, differs);
    unlink(path);
}

static void base64(char *out, const uint8_t *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < size; i += 3) {
        const uint32_t v = (uint32_t)bytes[i] << 16 | (i + 1 < size ? bytes[i + 1] << 8 : 0) |
                           (i + 2 < size ? bytes[i + 2] : 0);
        for (int k = 0; k < 4; k++)
            *out++ = i + (size_t)k > size ? '=' : digits[v >> (18 - 6 * k) & 63];
    }
    *out = '\0';
}

static void check_tokenizer_json(const char *folder)
{
    static const char words[] = "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\","
                                "\"add_prefix_space\":%s,\"prepend_scheme\":\"%s\"}";
    static const char whole[] =
        "{\"version\":\"1.0\",\"added_tokens\":[{\"content\":\"</s>\\\"}\"}],"
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Precompiled\","
        "\"precompiled_charsmap\":\"%s\"},%s{\"type\":\"Replace\",\"pattern\":{\"Regex\":"
        "\" {2,}\"},\"content\":\" \"}]},\"pre_tokenizer\":%s,\"model\":{\"type\":\"%s\","
        "\"vocab\":[[\"a]}\",-1.5]],\"byte_fallback\":%s}}";
    char path[4096], *spiece = NULL, *map64, *json, always[256], never[256], off[256];
    const uint8_t *map;
    size_t size = 0, map_size;

    snprintf(path, sizeof(path), "%s/spiece.model", folder);
    golden_need(readfile_bytes(path, (size_t)1 << 20, &spiece, &size));
    charsmap_find(spiece, size, &map, &map_size);
    CHECK(map_size > 1000, "a table of %zu bytes", map_size);
    map64 = malloc(map_size / 3 * 4 + 8);
    json = malloc(map_size / 3 * 4 + 4096);
    golden_need(map64 != NULL && json != NULL ? ST_OK : fail(ST_MEMORY, "no memory"));
    base64(map64, map, map_size);
    snprintf(always, sizeof(always), words, "true", "always");
    snprintf(never, sizeof(never), words, "true", "never");
    snprintf(off, sizeof(off), words, "false", "always");
    const struct {
        const char *extra, *words, *type, *fallback, *differs;
    } cases[] = {
        { "", always, "Unigram", "false", NULL },
        { "", never, "Unigram", "false", "no space before the text" },
        { "", off, "Unigram", "false", "no space before the text" },
        { "", "null", "Unigram", "false", "another division into words" },
        { "", always, "BPE", "false", "a model that is not Unigram" },
        { "", always, "Unigram", "true", "bytes for unknown characters" },
        { "{\"type\":\"Lowercase\"},", always, "Unigram", "false",
          "another normalizer or another division into words" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        sprintf(json, whole, map64, cases[i].extra, cases[i].words, cases[i].type,
                cases[i].fallback);
        check_json(spiece, size, json, cases[i].differs);
    }
    map64[100] = map64[100] == 'A' ? 'B' : 'A';
    sprintf(json, whole, map64, "", always, "Unigram", "false");
    check_json(spiece, size, json, "another normalization table");
    check_json(spiece, size, "{\"model\":{\"type\":\"Unigram\"}}", "no normalization table");
    check_json(spiece, size, "{\"a\":[[[", "no model");
    free(spiece);
    free(map64);
    free(json);
}

int main(int argc, char **argv)
{
    struct golden g = golden_open(argv[1], "text.safetensors");
    struct golden mojibake = golden_open(argv[1], "mojibake.safetensors");
    struct tokenizer *t = NULL;
    char path[4096];

    if (!scratch_open("text"))
        return 1;
    check_clean(&g, 600);
    check_clean(&mojibake, 500);
    golden_close(&mojibake);
    snprintf(path, sizeof(path), "%s/spiece.model", argv[1]);
    golden_need(open_file(&t, path));
    check_ids(&g, t, "ids", IDS_MAX);
    check_ids(&g, t, "short_ids", 16);
    check_refused(t);
    check_model(argv[1]);
    check_charsmap(path);
    check_prompts();
    check_tokenizer_json(argv[1]);
    scratch_close();
    tokenizer_close(t);
    golden_close(&g);
    return check_end("text");
}
