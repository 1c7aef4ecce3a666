/* Writes a random LoRA for a transformer of synth.
 *
 *     make_lora PRESET RANK SEED OUT.safetensors [PREFIX [LAYERS]]
 *
 * In LightX2V's dialect: factors and an alpha for each matrix, full differences of the other
 * tensors. PREFIX is that of its keys (default "diffusion_model."); with "loha", "lokr" or "dora"
 * in its place all matrices are changed so, and nothing else. LAYERS: of the model, in place of the
 * preset's. */
#include "model/pipeline/model.h"
#include "model/transformer/dit.h"
#include "runtime/tensorwriter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TENSORS_MOST 20000

struct writing {
    struct tensor_entry entry[TENSORS_MOST];
    char name[TENSORS_MOST][WEIGHT_NAME_BYTES + 32];
    float scale[TENSORS_MOST]; // of the values; alpha: the value
    int count;
    uint64_t seed;
};

static struct writing w;

static void add(const char *prefix, const char *module, const char *ending, float scale, int ndim,
                const int64_t *dim)
{
    const int i = w.count++;

    if (w.count == TENSORS_MOST)
        exit(1);
    snprintf(w.name[i], sizeof(w.name[i]), "%s%s%s", prefix, module, ending);
    w.entry[i] = (struct tensor_entry){ w.name[i], tensor_dims(NULL, DT_F32, ndim, dim) };
    w.scale[i] = scale;
}

static float uniform(uint64_t x)
{
    x = (x ^ x >> 31) * UINT64_C(0x7fb5d329728ea185);
    x = (x ^ x >> 27) * UINT64_C(0x81dadef4bc2dd44d);
    return (float)((x ^ x >> 33) >> 40) / 8388608.0F - 1; // in [-1, 1)
}

static status fill(void *payload, int index, int64_t first, int64_t count, void *dst)
{
    float *to = dst;

    for (int64_t i = 0; i < count; i++)
        to[i] = w.scale[index] *
                (w.entry[index].shape.ndim == 0
                     ? 1
                     : uniform(w.seed << 48 ^ (uint64_t)index << 32 ^ (uint64_t)(first + i)));
    return ST_OK;
}

enum kind { LORA, LOHA, LOKR, DORA, KINDS };

static const char *const kinds[KINDS] = { "", "loha", "lokr", "dora" };

/* The Kronecker factors: w1 [n, n], w2 of rank `rank`. */
static void add_lokr(const char *module, int64_t rows, int64_t cols, int64_t rank)
{
    int64_t n = 16;

    while (rows % n != 0 || cols % n != 0)
        n /= 2;
    add("", module, ".lokr_w1", 1, 2, (int64_t[]){ n, n });
    add("", module, ".lokr_w2_a", 1, 2, (int64_t[]){ rows / n, rank });
    add("", module, ".lokr_w2_b", 1 / sqrtf((float)cols), 2, (int64_t[]){ rank, cols / n });
    add("", module, ".alpha", (float)rank / 2, 0, NULL);
}

static void add_matrix(const char *prefix, const char *module, const struct inventory_entry *e,
                       int64_t rank, enum kind kind)
{
    int64_t up[TENSOR_AXES] = { e->dim[0], rank, 1, 1, 1 }, down[TENSOR_AXES] = { rank };
    int64_t cols = 1;

    for (int i = 1; i < e->ndim; i++) {
        down[i] = e->dim[i];
        cols *= e->dim[i];
    }
    const float scale = 1 / sqrtf((float)cols);

    if (kind == LOKR) {
        add_lokr(module, e->dim[0], cols, rank);
        return;
    }
    if (kind == LOHA) {
        down[1] = cols;
        add("", module, ".hada_w1_a", 1, 2, up);
        add("", module, ".hada_w1_b", scale, 2, down);
        add("", module, ".hada_w2_a", 1, 2, up);
        add("", module, ".hada_w2_b", 1, 2, down);
        return;
    }
    add(prefix, module, ".lora_up.weight", 1, e->ndim, up);
    add(prefix, module, ".lora_down.weight", scale, e->ndim, down);
    add(prefix, module, ".alpha", (float)rank / 2, 0, NULL);
    if (kind == DORA) { // with norms of rows, of columns, and PEFT's
        const bool columns = e->ndim == 2 && w.count % 3 == 0, peft = w.count % 3 == 1;

        add(prefix, module, peft ? ".lora_magnitude_vector.weight" : ".dora_scale", 1, peft ? 1 : 2,
            columns ? (int64_t[]){ 1, cols } : (int64_t[]){ e->dim[0], 1 });
    }
}

int main(int argc, char **argv)
{
    const char *prefix = argc > 5 ? argv[5] : "diffusion_model.";
    enum kind kind = KINDS - 1;
    const struct preset *preset = argc > 4 ? preset_find(argv[1]) : NULL;
    struct tensor_list list = { 0 };
    struct inventory v;
    struct dit_config config;
    struct model m;

    if (preset == NULL)
        return 1;
    while (kind > LORA && strcmp(prefix, kinds[kind]) != 0)
        kind--;
    prefix = kind == LORA ? prefix : "";
    m = preset_model(preset);
    config = *model_dit(&m);
    if (argc > 6)
        config.layers = atoi(argv[6]);
    part_dit.tensors(&list, &config, NULL);
    if (inventory_expand(&v, &list) != ST_OK)
        return 1;
    w.seed = strtoull(argv[3], NULL, 10);
    for (int i = 0; i < v.count; i++) {
        const struct inventory_entry *e = &v.entries[i];
        char module[WEIGHT_NAME_BYTES];
        char *dot = strrchr(memcpy(module, e->name, sizeof(module)), '.');

        if (dot == NULL)
            continue;
        *dot = '\0';
        if (e->ndim > 1 && strcmp(dot + 1, "weight") == 0)
            add_matrix(prefix, module, e, strtoll(argv[2], NULL, 10), kind);
        else if (kind == LORA)
            add(prefix, module,
                strcmp(dot + 1, "weight") == 0       ? ".diff"
                : strcmp(dot + 1, "modulation") == 0 ? ".diff_m"
                                                     : ".diff_b",
                0.02F, e->ndim, e->dim);
    }
    if (tensorwriter_safetensors(argv[4], w.entry, w.count, fill, NULL) != ST_OK) {
        fprintf(stderr, "make_lora: %s\n", status_line());
        return 1;
    }
    inventory_done(&v);
    tensors_done(&list);
    return 0;
}
