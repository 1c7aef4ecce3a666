/* Quantized weight files as the reference packages write them: the same values to the last bit, in
 * any ranges, as F32 and as BF16; and hostile or foreign ones. argv[1]: the folder of golden files.
 */
#include "model/text/spiece.h"
#include "model/text/tokenizer.h"
#include "runtime/fp8.h"
#include "runtime/half.h"
#include "runtime/tensorfile_internal.h"
#include "tests/golden.h"
#include "tests/scratch.h"

#include <md5.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct golden golden;

static const char *write_bytes(const char *name, const void *bytes, size_t size)
{
    const char *path = scratch_path(name);
    FILE *file = fopen(path, "wb");

    if (file == NULL || fwrite(bytes, 1, size, file) != size || fclose(file) != 0)
        exit(2);
    return path;
}

static status open_bytes(struct tensorfile *f, const void *bytes, size_t size)
{
    const char *path = write_bytes("input", bytes, size);

    return tensorfile_open(f, &path, 1);
}

/* A recorded file; free() it. */
static char *file_bytes(const char *name, size_t *size)
{
    char key[64];
    const struct file_tensor *t;
    int64_t n = 0;
    char *bytes;

    snprintf(key, sizeof(key), "file.%s", name);
    t = tensorfile_find(&golden.file, key);
    if (t == NULL)
        exit(2);
    bytes = golden_read(&golden, t, DT_U8, &n);
    *size = (size_t)n;
    return bytes;
}

/* ---- values ---- */

/* The first difference of the tensor's values from `whole`, read in ranges of `step`; -1: none. */
static int64_t first_difference(struct tensorfile *f, const struct file_tensor *t,
                                const float *whole, int64_t n, int64_t step)
{
    float *got = malloc((size_t)step * sizeof(float));
    uint16_t *narrow = malloc((size_t)step * sizeof(uint16_t));
    int64_t wrong = -1;

    for (int64_t at = 0; at < n && wrong < 0; at += step) {
        const int64_t take = n - at < step ? n - at : step;

        CHECK(tensorfile_read(f, t, at, take, DT_F32, got) == ST_OK &&
                  tensorfile_read(f, t, at, take, DT_BF16, narrow) == ST_OK,
              "%s: %s", t->name, status_line());
        for (int64_t i = 0; i < take && wrong < 0; i++)
            if (memcmp(&got[i], &whole[at + i], 4) != 0 ||
                narrow[i] != bf16_from_f32(whole[at + i]))
                wrong = at + i;
    }
    free(got);
    free(narrow);
    return wrong;
}

/* The tensor's values are those of the reference, in any ranges. */
static void check_tensor(struct tensorfile *f, const struct file_tensor *t, const char *name)
{
    static const int64_t steps[] = { 1, 7, 100, 257 };
    const int64_t n = tensor_count(t->shape);
    float *whole = malloc((size_t)n * sizeof(float));
    const struct file_tensor *digest;
    uint8_t want[16], got[16];
    char key[128];
    MD5_CTX md5;

    snprintf(key, sizeof(key), "%s:%s", name, t->name);
    digest = tensorfile_find(&golden.file, key);
    CHECK(digest != NULL, "%s is not recorded", key);
    if (digest == NULL)
        exit(1);
    CHECK(tensorfile_read(&golden.file, digest, 0, 16, DT_U8, want) == ST_OK &&
              tensorfile_read(f, t, 0, n, DT_F32, whole) == ST_OK,
          "%s: %s", key, status_line());
    MD5Init(&md5);
    MD5Update(&md5, (const uint8_t *)whole, (size_t)n * sizeof(float));
    MD5Final(got, &md5);
    CHECK(memcmp(want, got, 16) == 0, "%s (%s): not the values of the reference", key, t->format);
    for (size_t k = 0; k < COUNT(steps); k++) {
        const int64_t at = steps[k] * 2000 > n ? first_difference(f, t, whole, n, steps[k]) : -1;

        CHECK(at < 0, "%s (%s) in ranges of %d: value %d differs", key, t->format, (int)steps[k],
              (int)at);
    }
    free(whole);
}

static int in_fp8; // matrices that are rows of fp8 as they are stored

/* A matrix's bytes times its rows' scales are its values. */
static void check_fp8(struct tensorfile *f, const struct file_tensor *t)
{
    const int64_t rows = t->shape.dim[0], n = tensor_count(t->shape), cols = n / rows;
    float *values = malloc((size_t)n * sizeof(float)),
          *scales = malloc((size_t)rows * sizeof(float));
    uint8_t *bytes = malloc((size_t)n);
    int wrong = 0;

    CHECK(tensorfile_read(f, t, 0, n, DT_F32, values) == ST_OK &&
              tensorfile_read_fp8(f, t, 0, 3, bytes) == ST_OK &&
              tensorfile_read_fp8(f, t, 3, n - 3, bytes + 3) == ST_OK &&
              tensorfile_read_fp8_scales(f, t, 0, 1, scales) == ST_OK &&
              tensorfile_read_fp8_scales(f, t, 1, rows - 1, scales + 1) == ST_OK,
          "%s: %s", t->name, status_line());
    for (int64_t i = 0; i < n; i++)
        wrong += f32_from_e4m3(bytes[i]) * scales[i / cols] != values[i];
    CHECK(wrong == 0, "%s: %d of %lld products with a scale are not its values", t->name, wrong,
          (long long)n);
    in_fp8++;
    free(values);
    free(scales);
    free(bytes);
}

/* Every tensor of the recorded file `name` has the values recorded for it; and no others. */
static void check_file(const char *name, const char *formats)
{
    int64_t recorded = 0;
    size_t size = 0;
    char *bytes = file_bytes(name, &size);
    struct tensorfile f;

    CHECK(open_bytes(&f, bytes, size) == ST_OK, "%s: %s", name, status_line());
    for (int i = 0; i < f.count; i++) {
        check_tensor(&f, &f.tensors[i], name);
        if (tensorfile_has_fp8(&f.tensors[i]))
            check_fp8(&f, &f.tensors[i]);
        CHECK(strstr(formats, f.tensors[i].format) != NULL, "%s: %s has the format %s", name,
              f.tensors[i].name, f.tensors[i].format);
    }
    for (int i = 0; i < golden.file.count; i++)
        recorded += strncmp(golden.file.tensors[i].name, name, strlen(name)) == 0 &&
                    golden.file.tensors[i].name[strlen(name)] == ':';
    CHECK(recorded == f.count, "%s: %d tensors, %d recorded", name, f.count, (int)recorded);
    tensorfile_close(&f);
    free(bytes);
}

/* The tokenizer in a GGUF file gives the ids of the SentencePiece model that it was made from. */
static void test_tokenizer(void)
{
    static const char *const prompts[] = { "two cats boxing in the ring", "the \xe7\x8c\xab sat",
                                           "\xef\xbc\xa1 \xf0\x9d\x95\x9c \xe2\x91\xa0",
                                           "e\xcc\x81t\xc3\xa9  unknown? [PAD71]" };
    const struct file_tensor *t = tensorfile_find(&golden.file, "spiece");
    struct tokenizer *model = NULL, *made = NULL;
    size_t size = 0, made_size = 0;
    char *file = file_bytes("tokenizer.gguf", &size), *bytes = NULL, *original;
    int64_t n = 0;
    struct tensorfile f;

    if (t == NULL)
        exit(2);
    original = golden_read(&golden, t, DT_U8, &n);
    CHECK(open_bytes(&f, file, size) == ST_OK && spiece_of_gguf(&f, &bytes, &made_size) == ST_OK &&
              bytes != NULL &&
              tokenizer_open(&made, bytes, made_size, scratch_path("input")) == ST_OK &&
              tokenizer_open(&model, original, (size_t)n, scratch_path("input")) == ST_OK,
          "%s", status_line());
    CHECK(tokenizer_pieces(made) == tokenizer_pieces(model), "%d pieces",
          (int)tokenizer_pieces(made));
    for (size_t i = 0; i < COUNT(prompts); i++) {
        int a[64] = { 0 }, b[64] = { 0 }, a_count = 0, b_count = 0;

        CHECK(tokenizer_encode(made, prompts[i], 64, a, &a_count) == ST_OK &&
                  tokenizer_encode(model, prompts[i], 64, b, &b_count) == ST_OK &&
                  a_count == b_count && memcmp(a, b, sizeof(a)) == 0,
              "other ids for %s", prompts[i]);
    }
    tokenizer_close(made);
    tokenizer_close(model);
    tensorfile_close(&f);
    free(original);
    free(bytes);
    free(file);
}

/* ---- damage ---- */

/* Cut anywhere, a file is refused with a line. With a changed byte it is read or refused. */
static void check_damage(const char *name, size_t header)
{
    size_t size = 0;
    char *bytes = file_bytes(name, &size);
    int accepted = 0;
    struct tensorfile f;

    for (size_t n = 0; n < size; n += n < header ? 1 : 997) {
        const status st = open_bytes(&f, bytes, n);

        CHECK(st == ST_FORMAT && *status_line(), "%s cut at %d: %d", name, (int)n, st);
        tensorfile_close(&f);
    }
    for (size_t at = 0; at < header; at += 3) {
        static char values[1 << 16];
        const char old = bytes[at];

        bytes[at] = (char)(old ^ (at % 2 == 0 ? 0xff : 1 << at % 8));
        if (open_bytes(&f, bytes, size) == ST_OK) {
            accepted++;
            for (int i = 0; i < f.count; i++) {
                const int64_t n = tensor_count(f.tensors[i].shape);

                tensorfile_read(&f, &f.tensors[i], 0, n < 4096 ? n : 4096, DT_F32, values);
            }
        }
        tensorfile_close(&f);
        bytes[at] = old;
    }
    CHECK(accepted > 0, "%s: no changed byte was accepted", name);
    free(bytes);
}

/* A GGUF file, written field by field. */
struct writer {
    uint8_t bytes[4096];
    size_t size;
};

static void put(struct writer *w, uint64_t number, int bytes)
{
    for (int i = 0; i < bytes; i++)
        w->bytes[w->size++] = (uint8_t)(number >> 8 * i);
}

static void put_text(struct writer *w, const char *text)
{
    put(w, strlen(text), 8);
    memcpy(w->bytes + w->size, text, strlen(text));
    w->size += strlen(text);
}

/* What a test writes: valid but for what the test sets. */
struct gguf_case {
    const char *line; // part of the error; NULL: valid
    uint64_t version, tensors, pairs, axes, ne[9], type, offset, data, alignment;
    const char *key;
    uint64_t key_type, item_type, count, value;
    const char *name;
};

static void write_case(struct writer *w, const struct gguf_case *c)
{
    *w = (struct writer){ 0 };
    memcpy(w->bytes, "GGUF", 4);
    w->size = 4;
    put(w, c->version ? c->version : 3, 4);
    put(w, c->tensors ? c->tensors : 1, 8);
    put(w, c->key != NULL ? (c->pairs ? c->pairs : 1) : c->pairs, 8);
    if (c->key != NULL) {
        put_text(w, c->key);
        put(w, c->key_type, 4);
        if (c->key_type == VALUE_ARRAY) {
            put(w, c->item_type, 4);
            put(w, c->count, 8);
        }
        put(w, c->value, c->key_type == VALUE_ARRAY ? 8 : 4);
    }
    put_text(w, c->name != NULL ? c->name : "a");
    put(w, c->axes ? c->axes : 1, 4);
    for (uint64_t i = 0; i < (c->axes ? c->axes < 9 ? c->axes : 9 : 1); i++)
        put(w, c->ne[i] ? c->ne[i] : 32, 8);
    put(w, c->type, 4);
    put(w, c->offset, 8);
    w->size = (w->size + 31) / 32 * 32;
    w->size += c->data ? (size_t)c->data : 128;
}

static void test_hostile_gguf(void)
{
    static const struct gguf_case cases[] = {
        { NULL, .version = 2 },
        { NULL, .version = 3, .key = "general.alignment", .key_type = VALUE_U32, .value = 32 },
        { NULL, .axes = 5, .ne = { 2, 2, 1, 2, 4 } },
        { NULL, .type = 8, .data = 34 },
        { NULL, .key = "x", .key_type = VALUE_ARRAY, .item_type = VALUE_U16, .count = 4 },
        { "version 1;", .version = 1 },
        { "version 50331648, or of a big-endian machine", .version = 3u << 24 },
        { "too few for the 72057594037927936 tensors", .tensors = (uint64_t)1 << 56 },
        { "too few for the 1 tensors and 1000000 values", .pairs = 1000000 },
        { "has 9 axes", .axes = 9 },
        { "has 4294967295 axes", .axes = 0xffffffff },
        { "type IQ2_XXS (16), which is not read", .type = 16 },
        { "type NVFP4 (40), which is not read", .type = 40 },
        { "type unknown (4), which is not read", .type = 4 },
        { "rows of 33 values, no multiple of 32", .ne = { 33 }, .type = 8 },
        { "rows of 32 values, no multiple of 256", .type = 12 },
        { "tensor a has 128 bytes at 32, the file ends at", .offset = 32 },
        { "the file ends at", .offset = UINT64_MAX },
        { "the file ends at", .ne = { (uint64_t)1 << 59 } },
        { "a negative size", .ne = { (uint64_t)1 << 63 } },
        { "more elements than 63 bits", .axes = 2, .ne = { (uint64_t)1 << 40, (uint64_t)1 << 40 } },
        { "more bytes than 63 bits", .ne = { (uint64_t)1 << 61 } },
        { "the file ends at", .data = 127 },
        { "general.alignment is 24; expected a power of two", .key = "general.alignment",
          .key_type = VALUE_U32, .value = 24 },
        { "general.alignment is 0;", .key = "general.alignment", .key_type = VALUE_U32 },
        { "general.alignment in its header is no whole number", .key = "general.alignment",
          .key_type = VALUE_F32, .value = 32 },
        { "one of 3 files of a divided GGUF", .key = "split.count", .key_type = VALUE_U32,
          .value = 3 },
        { "of x in its header has the unknown type 13", .key = "x", .key_type = 13 },
        { "of x in its header has the unknown type 9", .key = "x", .key_type = VALUE_ARRAY,
          .item_type = VALUE_ARRAY },
        { "truncated", .key = "x", .key_type = VALUE_ARRAY, .item_type = VALUE_STRING,
          .count = UINT64_MAX },
        { "truncated", .key = "x", .key_type = VALUE_ARRAY, .item_type = VALUE_U64,
          .count = (uint64_t)1 << 61 },
        { "truncated", .key = "x", .key_type = VALUE_ARRAY, .item_type = VALUE_STRING, .count = 1,
          .value = (uint64_t)1 << 63 },
        { "is not a list of at most 5 sizes", .key = "comfy.gguf.orig_shape.a",
          .key_type = VALUE_U32, .value = 32 },
        { "control character 0x0a", .name = "a\nb" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct writer w;
        struct tensorfile f;
        status st;

        write_case(&w, &cases[i]);
        st = open_bytes(&f, w.bytes, w.size);
        CHECK(st == (cases[i].line != NULL ? ST_FORMAT : ST_OK) &&
                  (st == ST_OK || strstr(status_line(), cases[i].line) != NULL),
              "case %d: %d %s", (int)i, st, st == ST_OK ? "accepted" : status_line());
        CHECK(st == ST_OK || strchr(status_line(), '\n') == NULL, "case %d: two lines", (int)i);
        tensorfile_close(&f);
    }
}

/* A shape that a converter changed is restored. */
static void test_original_shape(void)
{
    struct gguf_case c = { .axes = 1,
                           .ne = { 32 },
                           .key = "comfy.gguf.orig_shape.a",
                           .key_type = VALUE_ARRAY,
                           .item_type = VALUE_I32,
                           .count = 2,
                           .value = (uint64_t)8 << 32 | 4 };
    struct file_value v;
    struct writer w;
    struct tensorfile f;

    write_case(&w, &c);
    CHECK(open_bytes(&f, w.bytes, w.size) == ST_OK, "%s", status_line());
    CHECK(f.count == 1 && f.tensors[0].shape.ndim == 2 && f.tensors[0].shape.dim[0] == 4 &&
              f.tensors[0].shape.dim[1] == 8,
          "%s", tensor_text(f.tensors[0].shape));
    CHECK(tensorfile_value(&f, 0, c.key, &v) == ST_OK && v.type == VALUE_I32 && v.count == 2 &&
              v.size == 8 && v.bytes[0] == 4 && v.bytes[4] == 8,
          "the value of %s", c.key);
    free(v.bytes);
    CHECK(tensorfile_value(&f, 0, "none", &v) == ST_OK && v.type == VALUE_NONE, "a value of none");
    tensorfile_close(&f);
}

/* ---- tensors beside a weight ---- */

/* A .safetensors file with tensors "NAME DTYPE DIM,DIM; ..." of zero bytes, but `note` in the first
 * U8 one. */
static status open_tensors(struct tensorfile *f, const char *text, const char *note)
{
    char header[2048] = "{", file[8192] = "", spec[512], *save = NULL;
    size_t at = 0, length, note_at = SIZE_MAX;

    snprintf(spec, sizeof(spec), "%s", text);
    for (char *one = strtok_r(spec, ";", &save); one != NULL; one = strtok_r(NULL, ";", &save)) {
        char name[64], dtype[16], dims[32] = "", *dim, *inner = NULL;
        size_t n = 1, width;

        sscanf(one, " %63s %15s %31s", name, dtype, dims);
        width = strstr(dtype, "32") ? 4 : strstr(dtype, "16") ? 2 : 1;
        snprintf(header + strlen(header), 256, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],",
                 at > 0 || strlen(header) > 1 ? "," : "", name, dtype, dims);
        for (dim = strtok_r(dims, ",", &inner); dim != NULL; dim = strtok_r(NULL, ",", &inner))
            n *= (size_t)atoi(dim);
        if (note_at == SIZE_MAX && strcmp(dtype, "U8") == 0)
            note_at = at;
        snprintf(header + strlen(header), 64, "\"data_offsets\":[%d,%d]}", (int)at,
                 (int)(at + n * width));
        at += n * width;
    }
    strcat(header, "}");
    length = strlen(header);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, length);
    if (note != NULL && note_at != SIZE_MAX)
        memcpy(file + 8 + length + note_at, note, strlen(note));
    return open_bytes(f, file, 8 + length + at);
}

static void test_companions(void)
{
    static const struct {
        const char *tensors, *note, *line; // line NULL: valid
        int count;
    } cases[] = {
        { "a.weight F8_E4M3 2,4; a.scale_weight F32", NULL, NULL, 1 },
        { "a.weight F8_E4M3 2,4; a.bias F32 2; ab.weight F8_E4M3 4; ab.x F32 1", NULL,
          "does not know how it depends on ab.x", 0 },
        { "a.weight F8_E4M3 2,4; a.scale_weight F32; a.zero_point F32", NULL,
          "a.weight is F8_E4M3 [2, 4], and this version does not know how it depends on "
          "a.zero_point",
          0 },
        { "a.weight I8 2,4", NULL, "a.weight is I8 [2, 4] without scales (a.weight_scale)", 0 },
        { "a.weight U8 2,4", NULL, "a.weight is U8 [2, 4] without scales", 0 },
        { "a.weight F8_E4M3 2,4; a.scale_weight F32 3", NULL, "no scale of a.weight", 0 },
        { "a.weight F8_E4M3 2,4; a.scale_weight F32 2,3", NULL, "no scale of a.weight", 0 },
        { "a.weight F8_E4M3 2,4; a.scale_weight F32 0", NULL, "no scale of a.weight", 0 },
        { "a.weight F8_E4M3 2,4; a.scale_weight I8", NULL, "no scale of a.weight", 0 },
        { "a.weight F8_E4M3 2,4; a.scale_weight F32; a.weight_scale_2 F32", NULL,
          "no scale of a.weight", 0 },
        { "a.weight I32 2,4; a.scale_weight F32", NULL, "no scale of a.weight", 0 },
        { "a.weight U8 2,16; a.weight_scale F8_E4M3 128,4", NULL, "without a.weight_scale_2", 0 },
        { "a.weight U8 2,16; a.weight_scale U8 2,1; a.weight_scale_2 F32", NULL,
          "no scale of a.weight", 0 },
        { "a.weight F8_E4M3 2,32; a.weight_scale U8 2,1", NULL, "no scale of a.weight", 0 },
        { "a.weight F8_E4M3 2,32; a.weight_scale U8 128,4", NULL, NULL, 1 },
        { "a.weight F16 2,4; a.comfy_quant U8 34", "{\"format\": \"float8_e4m3fn\"}          ",
          NULL, 1 },
        { "a.weight I8 2,4; a.comfy_quant U8 26", "{\"format\": \"awq_w4a16\"}   ",
          "ComfyUI's format awq_w4a16, which", 0 },
        { "a.weight I8 2,4; a.weight_scale F32; a.comfy_quant U8 45",
          "{\"format\":\"int8_tensorwise\",\"convrot\":true}  ",
          "rows of 4 values, no multiple of the 256", 0 },
        { "a.weight I8 2,4; a.comfy_quant U8 2", "{}", "without a name", 0 },
        { "a.weight I8 2,4; a.comfy_quant U8 2", "[{", "without a name", 0 },
        { "a.weight I8 2,4; a.comfy_quant F32 2", NULL, "expected a text", 0 },
        { "x.scaled_fp8 F8_E4M3 0; a F32 1", NULL, NULL, 1 },
        { "a.scale_weight F32 1", NULL, NULL, 1 }, // of no weight: the caller refuses it
        { "a.weight U8 8,1; a.weight.absmax F32 1; a.weight.quant_map F32 16", NULL,
          "in 4 bits of bitsandbytes", 0 },
        { "a.weight I8 2,2; a.SCB F32 2", NULL, "in int8 of bitsandbytes", 0 },
        { "a._weight_qdata I8 2,2", NULL, "quantized by torchao", 0 },
        { "a.qweight I32 2,2", NULL, "SVDQuant, AWQ or GPTQ", 0 },
        { "a.weight_quantizer.amax F32 1", NULL, "ModelOpt", 0 },
        { "a.weight U32 2,2", NULL, "U32\", as MLX writes", 0 },
        { "a.weight U8 2,2; a.weight_global_scale F32 1", NULL,
          "does not know how it depends on a.weight_global_scale", 0 },
        { "a.weight F8_E4M3 2,2; a.alpha F32 1", NULL, "does not know how it depends on a.alpha",
          0 },
        { "a.weight U8 2,16; a.weight_scale F8_E4M3 128,4; a.weight_global_scale F32 2", NULL,
          "a.weight_global_scale is F32 [2], not one F32", 0 },
        { "a.weight U8 2,16; a.weight_scale F8_E4M3 128,4; a.weight_global_scale F32", NULL, NULL,
          1 },
        { "a.weight U8 2,16; a.weight_scale F8_E4M3 128,4; a.alpha F32", NULL,
          "without a.weight_scale_2 or .weight_global_scale", 0 },
        { "a.weight U8 2,32; a.weight_scale F8_E8M0 128,4", NULL, "in mxfp4, mxfp6 or mxfp8", 0 },
        { "a.weight U8 2,192; a.weight_scale F8_E8M0 128,8", NULL, "mxfp6 or mxfp8, which its", 0 },
        { "a.weight U8 2,384; a.weight_scale F8_E8M0 128,16", NULL, "in mxfp6 of LightX2V", 0 },
        { "a.weight U8 2,16; a.weight_scale F8_E8M0 128,8", NULL, "no scale of a.weight", 0 },
        { "a.weight U8 2,16; a.weight_scale F8_E8M0 128,4", NULL, NULL, 1 },
        { "a.weight I8 2,32; a.weight_scale F32 2; a.comfy_quant U8 57",
          "{\"format\":\"convrot_w4a4\",\"convrot_groupsize\":64}    ", NULL, 1 },
        { "a.weight I8 2,24; a.weight_scale F32 2; a.comfy_quant U8 57",
          "{\"format\":\"convrot_w4a4\",\"convrot_groupsize\":64}    ",
          "rows of 48 values, no multiple of the 64", 0 },
        { "a.weight I8 2,24; a.weight_scale F32 2; a.comfy_quant U8 57",
          "{\"format\":\"convrot_w4a4\",\"convrot_groupsize\":48}    ",
          "rotated in groups of 48 values; expected a power of four", 0 },
        { "a.weight F8_E4M3 2,24; a.weight_scale F32; a.comfy_quant U8 50",
          "{\"format\":\"float8_e4m3fn\",\"convrot\":true}    ", "float8_e4m3fn with convrot", 0 },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct tensorfile f;
        const status st = open_tensors(&f, cases[i].tensors, cases[i].note);

        CHECK(st == (cases[i].line != NULL ? ST_FORMAT : ST_OK) && f.count == cases[i].count &&
                  (st == ST_OK || strstr(status_line(), cases[i].line) != NULL),
              "%s: %d, %d tensors, %s", cases[i].tensors, st, f.count,
              st == ST_OK ? "accepted" : status_line());
        tensorfile_close(&f);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2 || !scratch_open("formats"))
        return 2;
    golden = golden_open(argv[1], "formats.safetensors");
    check_file("blocks.gguf", "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS F32 "
                              "F16 BF16");
    check_file("scaled.safetensors",
               "F8_E4M3 scaled, F8_E5M2 scaled, I8 scaled, BF16 scaled, F8_E4M3, F8_E5M2, F16");
    check_file("comfy.safetensors", "F8_E4M3 scaled, I8 scaled, mxfp8, nvfp4");
    check_file("lightx2v.safetensors", "nvfp4, mxfp4, mxfp8");
    check_file("convrot.safetensors", "I8 rotated, int4 rotated");
    check_file("nested.pth", "F8_E4M3 scaled, I8 scaled, F8_E5M2");
    check_file("dit_mixed.gguf", "Q8_0 Q5_0 Q4_1 Q4_0 Q5_1 IQ4_NL Q4_K Q6_K F32 BF16");
    check_file("dit_comfy.safetensors", "F8_E4M3 scaled, F16");
    check_file("dit_lightx2v.safetensors", "F8_E4M3 scaled, I8 scaled, BF16");
    check_file("dit_bits.safetensors", "nvfp4, I8 rotated, mxfp4, mxfp8, BF16");
    CHECK(in_fp8 >= 3, "%d matrices in fp8", in_fp8);
    test_tokenizer();
    check_damage("blocks.gguf", 1100);
    check_damage("comfy.safetensors", 2200);
    check_damage("lightx2v.safetensors", 1400);
    check_damage("convrot.safetensors", 1300);
    test_hostile_gguf();
    test_original_shape();
    test_companions();
    unlink(scratch_path("input"));
    golden_close(&golden);
    scratch_close();
    return check_end("formats");
}
