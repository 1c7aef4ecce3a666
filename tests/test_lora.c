/* Adapters of every dialect: merged weights are those of the references, in any range; what does
 * not fit is refused with one line. argv[1]: the folder of golden files. */
#include "kernels/table.h"
#include "model/checkpoint/checkpoint.h"
#include "model/lora/lora_internal.h"
#include "model/pipeline/model.h"
#include "model/transformer/dit.h"
#include "runtime/half.h"
#include "runtime/readfile.h"
#include "runtime/tensorwriter.h"
#include "tests/golden.h"
#include "tests/scratch.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A case of make_lora.py: its adapters, with their strengths. A case has the file of its name
 * unless it names others. */
static const struct {
    const char *name;
    const char *uses[2];
} cases[] = {
    { "comfy", { NULL } },
    { "kohya", { NULL } },
    { "videox", { NULL } },
    { "diffsynth", { NULL } },
    { "aitoolkit", { NULL } },
    { "generic_a", { NULL } },
    { "unianimate", { NULL } },
    { "generic_linear", { NULL } },
    { "generic_dot", { NULL } },
    { "generic_flat", { NULL } },
    { "peft", { NULL } },
    { "diffusers", { NULL } },
    { "rslora", { NULL } },
    { "peft_dora", { NULL } },
    { "peft_bias", { NULL } },
    { "loader", { "loader.safetensors:0.5" } },
    { "loha", { NULL } },
    { "loha_tucker", { NULL } },
    { "lokr", { NULL } },
    { "lokr_full", { NULL } },
    { "lokr_both", { NULL } },
    { "lokr_tucker", { NULL } },
    { "locon_tucker", { NULL } },
    { "dora_columns", { NULL } },
    { "norms", { NULL } },
    { "dora_rows", { NULL } },
    { "set", { NULL } },
    { "dora_half", { "dora_rows.safetensors:.5" } },
    { "stacked", { "comfy.safetensors:0.5", "stacked.safetensors:-2" } },
    { "stacked_dora", { "stacked_dora.safetensors:0.7", "dora_rows.safetensors" } },
};

static const char *folder; // of the model and the adapters

static struct checkpoint open_model(void)
{
    struct checkpoint c;

    golden_need(checkpoint_open(&c, folder, model_parts));
    golden_need(checkpoint_part(&c, &part_dit));
    return c;
}

/* Opens adapters for the model; texts are names in the folder, or paths. */
static status open_adapters(struct lora **l, struct checkpoint *c, const char *const *texts,
                            int count, bool ignore)
{
    struct lora_use uses[4] = { { NULL, 0, false } };
    char text[4096];
    status st = ST_OK;

    for (int i = 0; i < count; i++) {
        snprintf(text, sizeof(text), "%s%s%s", texts[i][0] == '/' ? "" : folder,
                 texts[i][0] == '/' ? "" : "/", texts[i]);
        golden_need(lora_parse(&uses[i], text));
    }
    st = lora_open(l, &(struct lora_options){ .part = &part_dit,
                                              .config = checkpoint_config(c, &part_dit),
                                              .base = checkpoint_file(c, &part_dit),
                                              .source = checkpoint_source(c, &part_dit),
                                              .ignore_unknown = ignore,
                                              .uses = uses,
                                              .count = count });
    for (int i = 0; i < count; i++)
        free(uses[i].path);
    return st;
}

/* The elements of a tensor in the order of its file, from values in the order of the memory. */
static void to_file_order(const struct weight_spec *s, float *values)
{
    const int64_t count = tensor_count(tensor_dims(NULL, DT_F32, s->file_ndim, s->file_dim));
    const int64_t row = count / s->file_dim[0], channels = s->file_ndim > 1 ? s->file_dim[1] : 1;
    float *copy;

    if (!s->channels_last)
        return;
    copy = malloc((size_t)count * sizeof(float));
    memcpy(copy, values, (size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++) {
        const int64_t at = i % row, kernel = row / channels;

        values[i / row * row + at] = copy[i / row * row + at % kernel * channels + at / kernel];
    }
    free(copy);
}

/* Reads a tensor as `dt` in ranges of at most `most` elements, and gives it as f32. */
static void read_ranges(struct weight_source source, const struct weight_spec *spec,
                        const char *name, enum dtype dt, int64_t most, float *out)
{
    const int64_t count = tensor_count(tensor_dims(NULL, dt, spec->ndim, spec->dim));
    struct weight_spec s = *spec;
    uint16_t *halves = malloc((size_t)count * sizeof(*halves));

    s.dtype = dt;
    for (int64_t at = 0; at < count; at += most) {
        const int64_t n = count - at < most ? count - at : most;

        golden_need(source.read(source.payload, &s, name, at, n,
                                dt == DT_F32 ? (void *)(out + at) : (void *)(halves + at)));
    }
    for (int64_t i = 0; i < count && dt == DT_BF16; i++)
        out[i] = f32_from_bf16(halves[i]);
    free(halves);
}

static float bf16_ulp(float v)
{
    int e;

    frexpf(v == 0 ? 1e-30F : v, &e);
    return ldexpf(1, e - 8);
}

/* Compares one tensor with the reference, or if that does not change it, with the base. */
static void compare(const char *name, struct weight_source merged, struct weight_source base,
                    const struct weight_spec *spec, const char *tensor, const float *want)
{
    const int64_t count = tensor_count(tensor_dims(NULL, DT_F32, spec->ndim, spec->dim));
    float *got = malloc((size_t)count * sizeof(float)), *half = malloc((size_t)count * 4);
    float *other = malloc((size_t)count * sizeof(float));
    int wrong = 0, wrong_half = 0;

    read_ranges(merged, spec, tensor, DT_F32, count, got);
    read_ranges(merged, spec, tensor, DT_F32, 7, other);
    CHECK(memcmp(got, other, (size_t)count * sizeof(float)) == 0, "%s: %s: ranges differ", name,
          tensor);
    read_ranges(merged, spec, tensor, DT_BF16, 31, half);
    if (want == NULL) {
        read_ranges(base, spec, tensor, DT_F32, count, other);
        CHECK(memcmp(got, other, (size_t)count * sizeof(float)) == 0, "%s: %s has changed", name,
              tensor);
    } else {
        for (int64_t i = 0; i < count; i++)
            wrong_half += half[i] != bf16_round(got[i]);
        to_file_order(spec, got);
        to_file_order(spec, half);
        for (int64_t i = 0; i < count; i++) {
            wrong += !(fabsf(got[i] - want[i]) <= 2e-6F * (1 + fabsf(want[i])));
            wrong_half += !(fabsf(half[i] - bf16_round(want[i])) <= bf16_ulp(want[i]));
        }
        CHECK(wrong == 0 && wrong_half == 0, "%s: %s: %d of %lld are wrong, %d in bf16", name,
              tensor, wrong, (long long)count, wrong_half);
    }
    free(got);
    free(half);
    free(other);
}

static void test_case(int index, struct golden *expected)
{
    const char *name = cases[index].name;
    char file[80];
    const char *own[] = { file }, *const *texts = own;
    struct checkpoint c = open_model();
    const struct weight_source base = checkpoint_source(&c, &part_dit);
    struct tensor_list list = { 0 };
    struct lora *l = NULL;
    int count = 1, found = 0, wanted = 0;

    snprintf(file, sizeof(file), "%s.safetensors", name);
    if (cases[index].uses[0] != NULL) {
        texts = cases[index].uses;
        count = texts[1] != NULL ? 2 : 1;
    }
    CHECK(open_adapters(&l, &c, texts, count, false) == ST_OK, "%s: %s", name, status_line());
    part_dit.tensors(&list, checkpoint_config(&c, &part_dit), NULL);
    for (int i = 0; i < expected->file.count; i++)
        wanted += strncmp(expected->file.tensors[i].name, name, strlen(name)) == 0 &&
                  expected->file.tensors[i].name[strlen(name)] == '/';
    for (int s = 0; l != NULL && s < list.stack_count; s++) {
        const struct tensor_stack *stack = &list.stacks[s];

        for (int i = 0; i < stack->units * stack->count; i++) {
            char tensor[WEIGHT_NAME_BYTES], key[200];
            const struct weight_spec *spec = tensors_nth(&list, stack, i, tensor);
            const struct file_tensor *t;
            float *want = NULL;

            snprintf(key, sizeof(key), "%s/%s", name, tensor);
            t = tensorfile_find(&expected->file, key);
            if (t != NULL)
                want = golden_read(expected, t, DT_F32, NULL);
            found += t != NULL;
            CHECK(lora_changes(l, tensor) == (t != NULL), "%s: %s", name, tensor);
            compare(name, lora_source(l), base, spec, tensor, want);
            free(want);
        }
    }
    CHECK(found == wanted && wanted > 0, "%s: %d of %d tensors", name, found, wanted);
    CHECK(lora_line(l, 0) != NULL && lora_line(l, count) == NULL, "%s", name);
    tensors_done(&list);
    lora_close(l);
    checkpoint_close(&c);
}

/* Loads ranges of a tensor as to a GPU, and compares them with what is read. */
static void load_ranges(struct lora *l, struct device *dev, struct loader *loader,
                        const struct weight_spec *spec, const char *name, enum dtype dt)
{
    const struct weight_source source = lora_source(l);
    const int64_t count = tensor_count(tensor_dims(NULL, dt, spec->ndim, spec->dim));
    const int64_t cuts[] = { 0, count / 3, count / 3 + 1, count };
    const size_t bytes = (size_t)count * dtype_size(dt);
    struct weight_spec s = *spec;
    char *want = malloc(bytes), *got = calloc(1, bytes);
    int loaded = 0;

    s.dtype = dt;
    for (size_t i = 0; i + 1 < COUNT(cuts); i++) {
        const int64_t n = cuts[i + 1] - cuts[i];
        char *to = got + (size_t)cuts[i] * dtype_size(dt);
        bool loads = false;

        if (n == 0)
            continue;
        golden_need(source.load(source.payload, loader, dev, &s, name, cuts[i], n,
                                tensor_of(to, dt, n), &loads));
        loaded += loads;
        if (!loads)
            golden_need(source.read(source.payload, &s, name, cuts[i], n, to));
    }
    golden_need(source.flush(source.payload));
    golden_need(source.read(source.payload, &s, name, 0, count, want));
    CHECK(memcmp(got, want, bytes) == 0, "%s: other bits on a device", name);
    if (lora_find(l, name) != NULL) // all but differences are merged on the device
        CHECK(loaded > 0 || lora_find(l, name)->terms[0].kind >= LORA_DIFF, "%s", name);
    free(want);
    free(got);
}

/* A stack whose weights are loaded with a loader has the bits of what is read. */
static void open_stack(struct lora *l, struct device *dev, const struct tensor_list *list,
                       const struct tensor_stack *stack)
{
    const struct weight_source source = lora_source(l);
    const struct weight_spec *specs = tensors_of(list, stack);
    struct arena a = { 0 };
    struct weights w = { 0 };

    golden_need(arena_init(
        &a, dev, "weights",
        weights_bytes(WEIGHTS_RESIDENT, 1, 0, stack->units, specs, stack->count) + 4096));
    golden_need(tensors_open(&w, list, stack, &a, NULL, (struct tensors_place){ 0 }, source));
    CHECK(w.loader != NULL, "no loader");
    for (int i = 0; i < stack->units * stack->count; i++) {
        char name[WEIGHT_NAME_BYTES];
        const struct weight_spec *spec = tensors_nth(list, stack, i, name);
        struct tensor unit[64], got;
        void *want;

        golden_need(weights_acquire(&w, i / stack->count, -1, unit));
        got = w.tensors[i % stack->count];
        want = malloc(tensor_bytes(got));
        golden_need(source.read(source.payload, spec, name, 0, tensor_count(got), want));
        CHECK(memcmp(got.data, want, tensor_bytes(got)) == 0, "%s: other bits when loaded", name);
        free(want);
    }
    weights_close(&w);
    arena_done(&a);
}

/* What is merged on a device has the bits of what is merged on the host. */
static void test_device(void)
{
    static const char *const uses[][2] = {
        { "comfy.safetensors:0.5", "stacked.safetensors:-2" },
        { "loha.safetensors:0.7", "comfy.safetensors" },
        { "lokr.safetensors", "loha_tucker.safetensors:-0.5" },
        { "dora_columns.safetensors:0.3", NULL },
        { "stacked_dora.safetensors:0.7", "dora_rows.safetensors" },
        { "peft_dora.safetensors", "dora_columns.safetensors" },
        { "lokr_both.safetensors", NULL },
    };
    struct table table;
    struct device dev;
    struct loader *loader;

    table_cpu(&table);
    golden_need(device_open_cpu(&dev, 1, &table, table.workspace));
    golden_need(loader_open(&dev, (struct loader_shape){ 2, 2, 512 }, &loader));
    for (size_t k = 0; k < 2 * COUNT(uses); k++) {
        const char *const *texts = uses[k / 2];
        struct checkpoint c = open_model();
        struct tensor_list list = { 0 };
        struct lora *l = NULL;

        golden_need(open_adapters(&l, &c, texts, texts[1] != NULL ? 2 : 1, false));
        l->chunk = k % 2 == 0 ? LORA_CHUNK : k % 4 == 1 ? 5 : 100; // a row has 24 elements or more
        part_dit.tensors(&list, checkpoint_config(&c, &part_dit), NULL);
        for (int s = 0; s < list.stack_count; s++) {
            const struct tensor_stack *stack = &list.stacks[s];

            for (int i = 0; i < stack->units * stack->count; i++) {
                char name[WEIGHT_NAME_BYTES];
                const struct weight_spec *spec = tensors_nth(&list, stack, i, name);

                load_ranges(l, &dev, loader, spec, name, DT_F32);
                load_ranges(l, &dev, loader, spec, name, DT_BF16);
            }
        }
        for (int s = 0; s < list.stack_count; s++)
            open_stack(l, &dev, &list, &list.stacks[s]);
        tensors_done(&list);
        dit_tensors(&list, checkpoint_config(&c, &part_dit), DT_BF16, (struct dit_matmul){ 0 });
        for (int s = 0; s < list.stack_count; s++)
            open_stack(l, &dev, &list, &list.stacks[s]);
        CHECK(dev.held_peak >= lora_device_bytes(l), "%zu bytes of %zu", dev.held_peak,
              lora_device_bytes(l));
        tensors_done(&list);
        lora_close(l);
        checkpoint_close(&c);
    }
    device_close(&dev);
}

/* Strength 0 leaves the base; digests tell files and strengths apart. */
static void test_digest(void)
{
    static const char *const texts[] = { "comfy.safetensors:0", "comfy.safetensors",
                                         "comfy.safetensors:0.5", "kohya.safetensors",
                                         "comfy.safetensors:-.5" };
    char hex[COUNT(texts)][FINGERPRINT_BYTES];

    for (size_t i = 0; i < COUNT(texts); i++) {
        struct checkpoint c = open_model();
        struct lora *l = NULL;

        golden_need(open_adapters(&l, &c, &texts[i], 1, false));
        memcpy(hex[i], "0123456789abcdef0123456789abcdef", FINGERPRINT_BYTES);
        CHECK(lora_digest(l, hex[i]) == ST_OK, "%s", status_line());
        if (i == 0)
            CHECK(!lora_changes(l, "blocks.0.self_attn.q.weight"), "strength 0 changes a tensor");
        CHECK((strcmp(hex[i], "0123456789abcdef0123456789abcdef") == 0) == (i == 0), "%s", hex[i]);
        for (size_t k = 0; k < i; k++)
            CHECK(strcmp(hex[i], hex[k]) != 0, "%s and %s", texts[i], texts[k]);
        lora_close(l);
        checkpoint_close(&c);
    }
}

/* ---- files that are refused ---- */

static status fill(void *payload, int index, int64_t first, int64_t count, void *dst)
{
    const float *value = payload;

    for (int64_t i = 0; i < count; i++)
        ((float *)dst)[i] = *value;
    return ST_OK;
}

/* A file of up to four tensors of a value, "NAME 24 4", and what is said about it. */
static const struct {
    const char *tensors[4];
    float value;
    const char *says; // NULL: it is accepted
} files[] = {
    { { "blocks.0.self_attn.q.lora_B.weight 24 4", "blocks.0.self_attn.q.lora_A.weight 4 24" },
      1,
      NULL },
    { { "blocks.0.self_attn.q.lora_B.weight 24 4" }, 1, "has no other factor" },
    { { "blocks.0.self_attn.q.lora_A.weight 4 24" }, 1, "has no other factor" },
    { { "blocks.0.self_attn.q.lora_B.weight 25 4", "blocks.0.self_attn.q.lora_A.weight 4 24" },
      1,
      "does not fit the tensor blocks.0.self_attn.q.weight of [24, 24]" },
    { { "blocks.0.self_attn.q.lora_B.weight 24 4", "blocks.0.self_attn.q.lora_A.weight 4 25" },
      1,
      "does not fit the tensor" },
    { { "blocks.0.self_attn.q.lora_B.weight 24 4", "blocks.0.self_attn.q.lora_A.weight 3 24" },
      1,
      "have the ranks 4 (F32 [24, 4]) and 3" },
    { { "blocks.0.self_attn.q.lora_B.weight 24 4", "blocks.0.self_attn.q.lora_A.weight 4 24",
        "blocks.0.self_attn.q.alpha 2" },
      1,
      "not one number" },
    { { "blocks.0.self_attn.q.lora_B.weight 24 4", "blocks.0.self_attn.q.lora_A.weight 4 24",
        "blocks.0.self_attn.q.alpha" },
      INFINITY,
      "must be finite" },
    { { "blocks.9.self_attn.q.lora_B.weight 24 4", "blocks.9.self_attn.q.lora_A.weight 4 24" },
      1,
      "2 of its keys match no tensor of the transformer (blocks.9.self_attn.q.lora_B.weight" },
    { { "blocks.0.norm3.diff 24", "blocks.0.norm4.diff 24" }, 1, "--lora_ignore_unknown" },
    { { "blocks.0.norm3.diff 25" }, 1, "does not fit" },
    { { "blocks.0.norm3.diff 24", "diffusion_model.blocks.0.norm3.diff 24" },
      1,
      "are the same factor of one module" },
    { { "blocks.0.norm3.weight 24" }, 1, "is no LoRA" },
    { { "patch_embedding.lora_up.weight 24 2", "patch_embedding.lora_down.weight 2 16",
        "patch_embedding.reshape_weight 2" },
      1,
      "changes the shape" },
    { { "patch_embedding.lora_up.weight 24 2", "patch_embedding.lora_down.weight 2 16" }, 1, NULL },
    { { "blocks.0.ffn.0.lora_mid.weight 2 2" }, 1, "lora_mid" },
    { { "blocks.0.ffn.0.hada_w1_a 32 2", "blocks.0.ffn.0.hada_w1_b 2 24" }, 1, "has no hada_w2_a" },
    { { "blocks.0.ffn.0.lokr_w1 4 4", "blocks.0.ffn.0.lokr_w2 8 7" }, 1, "Kronecker" },
    { { "blocks.0.ffn.0.lokr_w1 4 4" }, 1, "has no lokr_w2" },
    { { "blocks.0.ffn.0.lokr_w1 4 4", "blocks.0.ffn.0.lokr_w2_a 8 3",
        "blocks.0.ffn.0.lokr_w2_b 2 6" },
      1,
      "have the ranks 3 and 2" },
    { { "blocks.0.ffn.0.lora_up.weight 32 2", "blocks.0.ffn.0.lora_down.weight 2 24",
        "blocks.0.ffn.0.dora_scale 31 1" },
      1,
      "does not fit" },
    { { "transformer_2.blocks.0.norm3.diff 24" }, 1, "changes nothing of the transformer" },
};

static status write_file(const char *path, int index)
{
    struct tensor_entry entries[4];
    char names[4][80];
    int count = 0;
    float value = files[index].value;

    for (; count < 4 && files[index].tensors[count] != NULL; count++) {
        int64_t dim[TENSOR_AXES];
        int ndim = 0, used = 0;
        const char *rest = files[index].tensors[count];

        sscanf(rest, "%79s%n", names[count], &used);
        for (char *end; rest += used, (dim[ndim] = strtoll(rest, &end, 10)) > 0; ndim++)
            used = (int)(end - rest);
        entries[count] =
            (struct tensor_entry){ names[count], tensor_dims(NULL, DT_F32, ndim, dim) };
    }
    return tensorwriter_safetensors(path, entries, count, fill, &value);
}

static void test_refused(void)
{
    for (size_t i = 0; i < COUNT(files); i++) {
        struct checkpoint c = open_model();
        struct lora *l = NULL;
        const char *path = scratch_path("file.safetensors"), *texts[] = { path };
        status st;

        golden_need(write_file(path, (int)i));
        st = open_adapters(&l, &c, texts, 1, false);
        if (files[i].says == NULL)
            CHECK(st == ST_OK, "%zu: %s", i, status_line());
        else
            CHECK(st != ST_OK && strstr(status_line(), files[i].says) != NULL &&
                      strchr(status_line(), '\n') == NULL && l == NULL,
                  "%zu: %d %s, not '%s'", i, st, status_line(), files[i].says);
        lora_close(l);
        if (files[i].says != NULL && strstr(files[i].says, "ignore_unknown") != NULL) {
            CHECK(open_adapters(&l, &c, texts, 1, true) == ST_OK && lora_unknown(l) == 1, "%s",
                  status_line());
            lora_close(l);
        }
        checkpoint_close(&c);
        remove(path);
    }
}

/* Files with a few bytes of their header changed are refused, or are other adapters. */
static void test_damaged(void)
{
    static const char *const names[] = { "comfy",       "diffusers",    "loha_tucker",
                                         "lokr_tucker", "dora_columns", "peft_dora" };
    static const char bytes[] = "0123456789[],\":{}.AB_x";
    const char *path = scratch_path("damaged.safetensors"), *texts[] = { path };
    uint32_t random = 1;
    int accepted = 0, refused = 0;

    for (size_t i = 0; i < COUNT(names); i++) {
        struct checkpoint c = open_model();
        char from[1200], *data = NULL;
        size_t size = 0;

        snprintf(from, sizeof(from), "%s/%s.safetensors", folder, names[i]);
        golden_need(readfile_bytes(from, 1 << 20, &data, &size));
        for (int n = 0; n < 60; n++) {
            const size_t header = 8 + (size_t)((uint8_t)data[0] | (uint8_t)data[1] << 8);
            char *copy = malloc(size);
            struct lora *l = NULL;
            FILE *f = fopen(path, "wb");

            memcpy(copy, data, size);
            for (int k = 0; k < 1 + n % 3; k++) {
                random = random * 1664525 + 1013904223;
                copy[8 + (random >> 8) % (header - 8)] = bytes[random % (sizeof(bytes) - 1)];
            }
            CHECK(f != NULL && fwrite(copy, 1, size, f) == size && fclose(f) == 0, "%s", path);
            free(copy);
            if (open_adapters(&l, &c, texts, 1, true) != ST_OK) {
                CHECK(strchr(status_line(), '\n') == NULL, "%s", status_line());
                refused++;
                continue;
            }
            accepted++;
            for (int k = 0; k < l->count; k++) {
                struct weight_spec spec = l->targets[k].spec;
                const int64_t count = l->targets[k].rows * l->targets[k].cols;
                float *values = malloc((size_t)count * sizeof(float));

                spec.dtype = DT_F32;
                CHECK(lora_read(l, &spec, l->targets[k].name, 0, count, values) == ST_OK, "%s",
                      status_line());
                free(values);
            }
            lora_close(l);
        }
        free(data);
        checkpoint_close(&c);
    }
    remove(path);
    CHECK(accepted > 0 && refused > 100, "%d accepted, %d refused", accepted, refused);
}

static void test_parse(void)
{
    static const struct {
        const char *text, *path;
        float strength;
    } texts[] = { { "a.safetensors", "a.safetensors", 1 },
                  { "a:0.5", "a", 0.5F },
                  { "a:b", "a:b", 1 },
                  { "a:-2e-1", "a", -0.2F },
                  { "x/a:b:3", "x/a:b", 3 },
                  { ":3", ":3", 1 } };
    struct lora_use use;

    for (size_t i = 0; i < COUNT(texts); i++) {
        CHECK(lora_parse(&use, texts[i].text) == ST_OK && strcmp(use.path, texts[i].path) == 0 &&
                  use.strength == texts[i].strength,
              "%s", texts[i].text);
        free(use.path);
    }
    CHECK(lora_parse(&use, "a:nan") == ST_USAGE && lora_parse(&use, "a:inf") == ST_USAGE &&
              lora_parse(&use, "a:1e9") == ST_USAGE,
          "%s", status_line());
}

/* `inspect` knows each dialect by name. */
static void test_report(void)
{
    static const struct {
        const char *file, *says;
    } reports[] = {
        { "comfy", "LightX2V/ComfyUI" },
        { "kohya", "kohya/musubi" },
        { "videox", "VideoX-Fun" },
        { "diffsynth", "DiffSynth" },
        { "aitoolkit", "ai-toolkit" },
        { "peft", "PEFT" },
        { "diffusers", "2 to 4" },
        { "loha", "dialect     LyCORIS LoHa" },
        { "lokr", "dialect     LyCORIS LoKr" },
        { "dora_rows", "1 with DoRA" },
        { "peft_bias", "2 differences" },
    };

    for (size_t i = 0; i < COUNT(reports); i++) {
        char path[4096], *text = NULL;
        struct cJSON *json = NULL;

        snprintf(path, sizeof(path), "%s/%s.safetensors", folder, reports[i].file);
        CHECK(lora_is(path), "%s", path);
        CHECK(lora_report(path, &part_dit, part_dit.variants, false, &text, &json) == ST_OK, "%s",
              path);
        CHECK(text != NULL && strstr(text, reports[i].says) != NULL, "%s: %s", reports[i].says,
              text);
        free(text);
        cJSON_Delete(json);
    }
}

int main(int argc, char **argv)
{
    char path[1024];
    struct golden expected;

    if (!scratch_open("lora"))
        return 1;

    snprintf(path, sizeof(path), "%s/lora", argc > 1 ? argv[1] : ".");
    folder = path;
    expected = golden_open(path, "expected.safetensors");
    for (size_t i = 0; i < COUNT(cases); i++)
        test_case((int)i, &expected);
    golden_close(&expected);
    test_device();
    test_digest();
    test_parse();
    test_refused();
    test_damaged();
    test_report();
    scratch_close();
    return check_end("lora");
}
