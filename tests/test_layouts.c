/* Where users have their files: trees of folders, each with the parts of one small model under
 * other names, formats and tensor names. Opening a tree gives the same values as the official
 * folder, or one line that says what to do. */
#include "model/checkpoint/checkpoint_internal.h"
#include "model/pipeline/model.h"
#include "model/synth/synth.h"
#include "runtime/readfile.h"
#include "runtime/tensorwriter.h"
#include "tests/scratch.h"

#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int remove_entry(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about;
    (void)kind;
    (void)where;
    return remove(path);
}

static void need(status st)
{
    if (st == ST_OK)
        return;
    printf("layouts: %s\n", status_line());
    exit(1);
}

/* ---- the files that trees are made of ---- */

/* A file's tensors under other names: some of them, or those of several files. */
struct copy {
    struct tensorfile f[3];
    struct tensor_entry entry[1024];
    const struct file_tensor *from[1024];
    int file[1024], count;
    char name[1024][200];
    char *spiece;
    size_t spiece_size;
};

static status fill(void *payload, int index, int64_t first, int64_t count, void *dst)
{
    struct copy *c = payload;

    if (c->from[index] == NULL) {
        memcpy(dst, c->spiece + first, (size_t)count);
        return ST_OK;
    }
    return tensorfile_read(&c->f[c->file[index]], c->from[index], first, count,
                           c->from[index]->shape.dtype, dst);
}

/* Adds the tensors of a file whose names `pick` accepts, renamed; file: index in c->f. */
static void add(struct copy *c, int file, const char *path, const char *prefix,
                bool (*pick)(const char *name))
{
    need(tensorfile_open(&c->f[file], &path, 1));
    for (int i = 0; i < c->f[file].count; i++) {
        const struct file_tensor *t = &c->f[file].tensors[i];

        if (pick != NULL && !pick(t->name))
            continue;
        snprintf(c->name[c->count], sizeof(c->name[0]), "%s%.150s", prefix, t->name);
        c->entry[c->count] = (struct tensor_entry){ c->name[c->count], t->shape };
        c->file[c->count] = file;
        c->from[c->count++] = t;
    }
}

static void add_spiece(struct copy *c, const char *name)
{
    need(readfile_bytes(scratch_path("diffusers/tokenizer/spiece.model"), (size_t)1 << 24,
                        &c->spiece, &c->spiece_size));
    c->entry[c->count++] =
        (struct tensor_entry){ name, tensor_of(NULL, DT_U8, (int64_t)c->spiece_size) };
}

static void finish(struct copy *c, const char *name)
{
    need(tensorwriter_safetensors(scratch_path(name), c->entry, c->count, fill, c));
    for (int i = 0; i < 3; i++)
        tensorfile_close(&c->f[i]);
    free(c->spiece);
    free(c);
}

static void copy(const char *from, const char *to, const char *prefix,
                 bool (*pick)(const char *name))
{
    struct copy *c = calloc(1, sizeof(*c));

    add(c, 0, scratch_path(from), prefix, pick);
    finish(c, to);
}

static bool is_block(const char *name)
{
    return strncmp(name, "blocks.", 7) == 0;
}

static bool is_no_block(const char *name)
{
    return !is_block(name);
}

/* ---- GGUF ---- */

static void put(FILE *f, uint64_t number, size_t bytes)
{
    if (fwrite(&number, bytes, 1, f) != 1)
        exit(2);
}

static void put_text(FILE *f, const char *text)
{
    put(f, strlen(text), 8);
    fputs(text, f);
}

/* The name in llama.cpp of a tensor of transformers' umT5. */
static void llama_name(const char *name, char *out, size_t size)
{
    static const struct name_pair pairs[] = {
        { "token_embd.weight", "shared.weight" },
        { "enc.output_norm.weight", "encoder.final_layer_norm.weight" },
        { "attn_norm.weight", "layer.0.layer_norm.weight" },
        { "attn_q.weight", "layer.0.SelfAttention.q.weight" },
        { "attn_k.weight", "layer.0.SelfAttention.k.weight" },
        { "attn_v.weight", "layer.0.SelfAttention.v.weight" },
        { "attn_o.weight", "layer.0.SelfAttention.o.weight" },
        { "attn_rel_b.weight", "layer.0.SelfAttention.relative_attention_bias.weight" },
        { "ffn_norm.weight", "layer.1.layer_norm.weight" },
        { "ffn_gate.weight", "layer.1.DenseReluDense.wi_0.weight" },
        { "ffn_up.weight", "layer.1.DenseReluDense.wi_1.weight" },
        { "ffn_down.weight", "layer.1.DenseReluDense.wo.weight" },
    };
    const char *rest = strncmp(name, "encoder.block.", 14) == 0 ? strchr(name + 14, '.') + 1 : name;

    for (size_t i = 0; i < COUNT(pairs); i++)
        if (strcmp(rest, pairs[i].other) == 0)
            snprintf(out, size, "%s%.*s%s", rest != name ? "enc.blk." : "",
                     rest != name ? (int)(rest - name - 14) : 0, name + 14, pairs[i].official);
}

/* A file's tensors as GGUF, F32. `joined`: without the axes that some writers drop or join;
 * `llama`: with the names of llama.cpp. */
static void gguf(const char *from, const char *to, const char *architecture, bool joined,
                 bool llama)
{
    const char *path = scratch_path(from);
    FILE *out = fopen(scratch_path(to), "wb");
    struct tensorfile f;
    uint64_t at = 0;

    need(tensorfile_open(&f, &path, 1));
    fputs("GGUF", out);
    put(out, 3, 4);
    put(out, (uint64_t)f.count, 8);
    put(out, architecture != NULL, 8);
    if (architecture != NULL) {
        put_text(out, "general.architecture");
        put(out, VALUE_STRING, 4);
        put_text(out, architecture);
    }
    for (int i = 0; i < f.count; i++) {
        const struct file_tensor *t = &f.tensors[i];
        struct tensor shape = t->shape;
        char name[200];

        snprintf(name, sizeof(name), "%s", t->name);
        if (llama)
            llama_name(t->name, name, sizeof(name));
        if (joined && shape.ndim == 5)
            shape = tensor_reshape(shape, shape.dim[0] * shape.dim[1], 1, 2, 2);
        else if (joined && shape.ndim == 3)
            shape = tensor_reshape(shape, shape.dim[1], shape.dim[2]);
        put_text(out, name);
        put(out, (uint64_t)shape.ndim, 4);
        for (int k = shape.ndim - 1; k >= 0; k--)
            put(out, (uint64_t)shape.dim[k], 8);
        put(out, 0, 4);
        put(out, at, 8);
        at += (uint64_t)(tensor_count(shape) * 4 + 31) / 32 * 32;
    }
    while (ftell(out) % 32 != 0)
        fputc(0, out);
    for (int i = 0; i < f.count; i++) {
        const int64_t n = tensor_count(f.tensors[i].shape);
        float *x = malloc((size_t)n * sizeof(float));

        need(tensorfile_read(&f, &f.tensors[i], 0, n, DT_F32, x));
        if (fwrite(x, sizeof(float), (size_t)n, out) != (size_t)n)
            exit(2);
        free(x);
        while (ftell(out) % 32 != 0)
            fputc(0, out);
    }
    if (fclose(out) != 0)
        exit(2);
    tensorfile_close(&f);
}

#define OFFICIAL "official/"
#define DIT OFFICIAL "diffusion_pytorch_model.safetensors"
#define T5 OFFICIAL "models_t5_umt5-xxl-enc-bf16.pth"
#define VAE OFFICIAL "Wan2.1_VAE.pth"
#define CLIP OFFICIAL "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
#define SPIECE OFFICIAL "google/umt5-xxl/spiece.model"
#define HF_DIT "diffusers/transformer/diffusion_pytorch_model.safetensors"
#define HF_T5 "diffusers/text_encoder/model.safetensors"
#define HF_VAE "diffusers/vae/diffusion_pytorch_model.safetensors"
#define HF_CLIP "diffusers/image_encoder/model.safetensors"

static void make_files(void)
{
    struct synth_options o = { .model = preset_model(preset_find("tiny-i2v-14B")), .seed = 3 };
    struct copy *c;
    FILE *f;

    need(checkpoint_synth(scratch_path("official"), &o, NULL, NULL));
    o.diffusers = true;
    need(checkpoint_synth(scratch_path("diffusers"), &o, NULL, NULL));
    mkdir(scratch_path("f"), 0777);
    copy(DIT, "f/comfy", "model.diffusion_model.", NULL);
    copy(DIT, "f/odd", "trainer.generator.module.", NULL);
    copy(DIT, "f/compiled", "_orig_mod.", NULL);
    copy(DIT, "f/blocks", "", is_block);
    copy(DIT, "f/rest", "", is_no_block);
    copy(HF_DIT, "f/hf_blocks", "", is_block);
    copy(HF_DIT, "f/hf_rest", "", is_no_block);
    gguf(DIT, "f/gguf", "wan", false, false);
    gguf(DIT, "f/joined", NULL, true, false);
    gguf(HF_T5, "f/t5_gguf", "t5encoder", false, true);
    gguf(HF_T5, "f/t5_pig", "pig", false, false);
    c = calloc(1, sizeof(*c));
    add(c, 0, scratch_path(HF_T5), "", NULL);
    add_spiece(c, "spiece_model");
    finish(c, "f/t5");
    c = calloc(1, sizeof(*c));
    add(c, 0, scratch_path(DIT), "model.diffusion_model.", NULL);
    add(c, 1, scratch_path(HF_T5), "text_encoders.umt5xxl.transformer.", NULL);
    add(c, 2, scratch_path(VAE), "vae.", NULL);
    add_spiece(c, "text_encoders.spiece_model");
    finish(c, "f/all");
    c = calloc(1, sizeof(*c));
    add(c, 0, scratch_path(DIT), "generator.", NULL);
    add(c, 1, scratch_path("f/odd"), "generator_ema.", NULL);
    finish(c, "f/averaged");
    f = fopen(scratch_path("f/broken"), "wb");
    fputs("broken", f);
    fclose(f);
    f = fopen(scratch_path("f/main"), "wb");
    fputs("abc\n", f);
    fclose(f);
}

/* ---- trees ---- */

struct tree {
    const char *name;
    const char *files[14]; // "SOURCE PLACE"
    const char *open;      // in the tree; "": its root
    const char *layout;
    const char *dit, *t5; // given instead
    const char *line;     // part of the error; NULL: it opens
    bool low;             // has the expert for low noise
};

#define BESIDE                                                                                     \
    T5 " m/models_t5_umt5-xxl-enc-bf16.pth", VAE " m/Wan2.1_VAE.pth",                              \
        SPIECE " m/google/umt5-xxl/spiece.model"
#define COMFY_T5_VAE                                                                               \
    "f/t5 m/text_encoders/umt5_xxl_fp16.safetensors", HF_VAE " m/vae/wan_2.1_vae.safetensors"
#define HF_BESIDE                                                                                  \
    HF_T5 " m/text_encoder/model.safetensors",                                                     \
        HF_VAE " m/vae/diffusion_pytorch_model.safetensors",                                       \
        "diffusers/tokenizer/spiece.model m/tokenizer/spiece.model"
#define HF_NAME "m/transformer/diffusion_pytorch_model"

static const struct tree trees[] = {
    { "official",
      { DIT " m/diffusion_pytorch_model.safetensors", OFFICIAL "config.json m/config.json",
        CLIP " m/models_clip_x.pth", BESIDE },
      "m",
      .layout = LAYOUT_OFFICIAL },
    { "official without config.json",
      { DIT " m/diffusion_pytorch_model.safetensors", BESIDE },
      "m",
      .layout = LAYOUT_OFFICIAL },
    { "shards without an index",
      { "f/blocks m/diffusion_pytorch_model-00001-of-00002.safetensors",
        "f/rest m/diffusion_pytorch_model-00002-of-00002.safetensors", BESIDE },
      "m",
      .layout = LAYOUT_OFFICIAL },
    { "a shard is missing",
      { "f/rest m/diffusion_pytorch_model-00002-of-00002.safetensors", BESIDE },
      "m",
      .layout = LAYOUT_OFFICIAL,
      .line = "00001-of-00002.safetensors: is missing" },
    { "official, text encoder as .safetensors",
      { DIT " m/diffusion_pytorch_model.safetensors", "f/t5 m/models_t5_umt5.safetensors",
        VAE " m/Wan2.1_VAE.pth" },
      "m",
      .layout = LAYOUT_OFFICIAL },
    { "official, transformer as GGUF",
      { "f/gguf m/wan2.1-t2v-Q8_0.gguf", BESIDE },
      "m",
      .layout = LAYOUT_OFFICIAL },
    { "diffusers",
      { HF_DIT " " HF_NAME ".safetensors", HF_BESIDE },
      "m",
      .layout = LAYOUT_DIFFUSERS },
    { "diffusers, variant",
      { HF_DIT " " HF_NAME ".fp16.safetensors", HF_BESIDE },
      "m",
      .layout = LAYOUT_DIFFUSERS },
    { "diffusers, two variants",
      { HF_DIT " " HF_NAME ".safetensors", HF_DIT " " HF_NAME ".fp16.safetensors", HF_BESIDE },
      "m",
      .layout = LAYOUT_DIFFUSERS },
    { "diffusers, variants without a plain one",
      { "f/broken " HF_NAME ".fp16.safetensors", HF_DIT " " HF_NAME ".bf16.safetensors",
        HF_BESIDE },
      "m",
      .layout = LAYOUT_DIFFUSERS },
    { "diffusers, shards of a variant",
      { "f/hf_blocks " HF_NAME ".fp16-00001-of-00002.safetensors",
        "f/hf_rest " HF_NAME ".fp16-00002-of-00002.safetensors", HF_BESIDE },
      "m",
      .layout = LAYOUT_DIFFUSERS },
    { "Hugging Face's cache",
      { DIT " m/snapshots/abc/diffusion_pytorch_model.safetensors",
        T5 " m/snapshots/abc/models_t5_umt5-xxl-enc-bf16.pth",
        VAE " m/snapshots/abc/Wan2.1_VAE.pth",
        SPIECE " m/snapshots/abc/google/umt5-xxl/spiece.model" },
      "m",
      .layout = LAYOUT_OFFICIAL },
    { "the cache, two snapshots",
      { DIT " m/snapshots/abc/diffusion_pytorch_model.safetensors",
        T5 " m/snapshots/abc/models_t5_umt5-xxl-enc-bf16.pth",
        VAE " m/snapshots/abc/Wan2.1_VAE.pth", "f/main m/refs/main",
        SPIECE " m/snapshots/abc/google/umt5-xxl/spiece.model",
        "f/broken m/snapshots/def/README.md" },
      "m",
      .layout = LAYOUT_OFFICIAL },
    { "the cache, which snapshot",
      { "f/broken m/snapshots/abc/README.md", "f/broken m/snapshots/def/README.md" },
      "m",

      .line = "has 2 snapshots; pass the folder of one of them" },
    { "a file beside official ones",
      { DIT " m/a.safetensors", BESIDE },
      "m/a.safetensors",
      .layout = LAYOUT_FILE },
    { "ComfyUI's folders",
      { "f/comfy m/diffusion_models/wan.safetensors", COMFY_T5_VAE,
        HF_CLIP " m/clip_vision/clip_vision_h.safetensors" },
      "m",
      .layout = LAYOUT_FOLDERS },
    { "a file in ComfyUI's folders",
      { "f/comfy m/diffusion_models/wan.safetensors", COMFY_T5_VAE },
      "m/diffusion_models/wan.safetensors",
      .layout = LAYOUT_FILE },
    { "a file in a folder of the user's",
      { "f/comfy m/diffusion_models/wan/2.1/wan.safetensors", COMFY_T5_VAE },
      "m/diffusion_models/wan/wan.safetensors",

      .line = "No such file" },
    { "ComfyUI's folders, with the user's in them",
      { "f/comfy m/diffusion_models/wan/wan.safetensors", "f/t5 m/text_encoders/t/a.safetensors",
        HF_VAE " m/vae/w/b.safetensors" },
      "m",
      .layout = LAYOUT_FOLDERS },
    { "a file in one of them",
      { "f/comfy m/diffusion_models/wan/wan.safetensors", "f/t5 m/text_encoders/t/a.safetensors",
        HF_VAE " m/vae/w/b.safetensors" },
      "m/diffusion_models/wan/wan.safetensors",
      .layout = LAYOUT_FILE },
    { "older names of folders",
      { DIT " m/unet/wan.safetensors", "f/t5 m/clip/text.safetensors", VAE " m/vae/v.pt" },
      "m",
      .layout = LAYOUT_FOLDERS },
    { "ComfyUI's root",
      { DIT " m/models/diffusion_models/wan.safetensors",
        "f/t5 m/models/text_encoders/text.safetensors", VAE " m/models/vae/v.pth" },
      "m",
      .layout = LAYOUT_FOLDERS },
    { "split_files",
      { DIT " m/split_files/diffusion_models/wan.safetensors",
        "f/t5 m/split_files/text_encoders/text.safetensors",
        HF_VAE " m/split_files/vae/v.safetensors" },
      "m",
      .layout = LAYOUT_FOLDERS },
    { "one folder, any names",
      { DIT " m/a.sft", "f/t5 m/b.safetensors", VAE " m/c.ckpt" },
      "m",
      .layout = LAYOUT_FOLDERS },
    { "all in one file",
      { "f/all m/wan.safetensors" },
      "m/wan.safetensors",
      .layout = LAYOUT_FILE },
    { "all in one, in checkpoints",
      { "f/all m/checkpoints/wan.safetensors" },
      "m",
      .layout = LAYOUT_FOLDERS },
    { "GGUF in unet",
      { "f/gguf m/unet/wan2.1-Q4_K_M.gguf", COMFY_T5_VAE },
      "m",
      .layout = LAYOUT_FOLDERS },
    { "GGUF with joined axes, given",
      { "f/joined m/wan.gguf", BESIDE },
      "m/wan.gguf",
      .layout = LAYOUT_FILE },
    { "umT5 as GGUF",
      { DIT " m/unet/a.safetensors", "f/t5_gguf m/clip/umt5-xxl-encoder-Q5_K_M.gguf",
        HF_VAE " m/vae/v.safetensors", SPIECE " m/clip/spiece.model" },
      "m",
      .layout = LAYOUT_FOLDERS },
    { "umT5 as GGUF with other names",
      { DIT " m/unet/a.safetensors", "f/t5_pig m/clip/t.gguf", HF_VAE " m/vae/v.safetensors",
        SPIECE " m/tokenizer/spiece.model" },
      "m",
      .layout = LAYOUT_FOLDERS },
    { "no tokenizer",
      { DIT " m/unet/a.safetensors", "f/t5_gguf m/clip/t.gguf", HF_VAE " m/vae/v.safetensors" },
      "m",
      .layout = LAYOUT_FOLDERS,
      .line = "the tokenizer is missing; put google/umt5-xxl/spiece.model" },
    { "any prefix",
      { "f/odd m/wan.safetensors", BESIDE },
      "m/wan.safetensors",
      .layout = LAYOUT_FILE },
    { "names of torch.compile",
      { "f/compiled m/wan.safetensors", BESIDE },
      "m/wan.safetensors",
      .layout = LAYOUT_FILE },
    { "averaged weights beside",
      { "f/averaged m/wan.safetensors", BESIDE },
      "m/wan.safetensors",
      .layout = LAYOUT_FILE },
    { "LightX2V, a file per block",
      { "f/blocks m/diffusion_models/block_0.safetensors",
        "f/rest m/diffusion_models/non_block.safetensors", COMFY_T5_VAE },
      "m",
      .layout = LAYOUT_FOLDERS },
    { "LightX2V, in parts",
      { "f/blocks m/x_part1.safetensors", "f/rest m/x_part2.safetensors", BESIDE },
      "m/x_part2.safetensors",
      .layout = LAYOUT_FILE },
    { "two transformers",
      { DIT " m/unet/a.safetensors", "f/gguf m/unet/b.gguf", COMFY_T5_VAE },
      "m",
      .layout = LAYOUT_FOLDERS,
      .line = "a.safetensors, b.gguf: each has a transformer; choose one with --dit" },
    { "two transformers, one given",
      { DIT " m/unet/a.safetensors", "f/gguf m/unet/b.gguf", COMFY_T5_VAE },
      "m",
      .layout = LAYOUT_FOLDERS,
      .dit = "m/unet/b.gguf" },
    { "a folder given",
      { "f/blocks m/x/block_0.safetensors", "f/rest m/x/non_block.safetensors", COMFY_T5_VAE },
      "m",
      .layout = LAYOUT_FOLDERS,
      .dit = "m/x" },
    { "two text encoders",
      { DIT " m/unet/a.safetensors", "f/t5 m/clip/umt5_a.safetensors",
        "f/t5 m/clip/umt5_b.safetensors", HF_VAE " m/vae/v.safetensors" },
      "m",
      .layout = LAYOUT_FOLDERS,
      .line = "choose one with --t5" },
    { "two text encoders, one given",
      { DIT " m/unet/a.safetensors", "f/t5 m/clip/umt5_a.safetensors",
        "f/t5 m/clip/umt5_b.safetensors", HF_VAE " m/vae/v.safetensors" },
      "m",
      .layout = LAYOUT_FOLDERS,
      .t5 = "m/clip/umt5_b.safetensors" },
    { "two experts",
      { DIT " m/unet/wan2.2_t2v_high_noise_14B.safetensors",
        DIT " m/unet/wan2.2_t2v_low_noise_14B.safetensors", COMFY_T5_VAE },
      "m",
      .layout = LAYOUT_FOLDERS,
      .low = true },
    { "two experts in folders",
      { "f/gguf m/HighNoise/Wan2.2-HighNoise-Q4.gguf", "f/gguf m/LowNoise/Wan2.2-LowNoise-Q4.gguf",
        "f/t5 m/a.safetensors", VAE " m/v.pth", SPIECE " m/HighNoise/spiece.model" },
      "m/HighNoise/Wan2.2-HighNoise-Q4.gguf",
      .layout = LAYOUT_FILE,
      .t5 = "m/a.safetensors",
      .line = "the VAE is missing" },
    { "Kijai's names of experts",
      { DIT " m/unet/Wan2_2-T2V-A14B_HIGH_fp8.safetensors",
        DIT " m/unet/Wan2_2-T2V-A14B-LOW_fp8.safetensors",
        DIT " m/unet/Wan2_2-T2V-A14B_LOW_fp8.safetensors", COMFY_T5_VAE },
      "m",
      .layout = LAYOUT_FOLDERS,
      .low = true },
    { "broken files beside",
      { DIT " m/unet/a.safetensors", "f/broken m/unet/b.safetensors", COMFY_T5_VAE },
      "m",
      .layout = LAYOUT_FOLDERS },
    { "a broken file",
      { "f/broken m/unet/b.safetensors", COMFY_T5_VAE },
      "m",
      .layout = LAYOUT_FOLDERS,
      .line = "b.safetensors: is a text" },
    { "nothing", { "f/broken m/README.md" }, "m", .line = "is not a checkpoint" },
};

/* The path in the tree, with its folders. */
static const char *place(const char *name, bool make)
{
    const char *path = scratch_path(name);

    for (char *c = (char *)path + strlen(scratch) + 1; make && *c != '\0'; c++) {
        if (*c == '/') {
            *c = '\0';
            mkdir(path, 0777);
            *c = '/';
        }
    }
    return path;
}

static void make_tree(const struct tree *t)
{
    for (size_t i = 0; i < COUNT(t->files) && t->files[i] != NULL; i++) {
        char from[128], to[128];

        sscanf(t->files[i], "%127s %127s", from, to);
        if (symlink(scratch_path(from), place(to, true)) != 0)
            exit(2);
    }
}

static const struct part *const checked[] = { &part_dit, &part_t5, &part_vae };
static char want[COUNT(checked)][FINGERPRINT_BYTES];

/* Opens what a run opens. */
static status open_tree(struct checkpoint *c, const struct tree *t,
                        char digest[][FINGERPRINT_BYTES])
{
    const char *from = NULL;
    char *bytes = NULL;
    size_t size = 0;
    status st;

    TRY(checkpoint_open(c, place(t->open, false), model_parts));
    if (t->dit != NULL)
        TRY(checkpoint_use(c, &part_dit, place(t->dit, false)));
    if (t->t5 != NULL)
        TRY(checkpoint_use(c, &part_t5, place(t->t5, false)));
    for (size_t i = 0; i < COUNT(checked); i++) {
        TRY(checkpoint_part(c, checked[i]));
        TRY(checkpoint_digest(c, checked[i], digest[i]));
    }
    st = checkpoint_tokenizer(c, &bytes, &size, &from);
    free(bytes);
    return st;
}

static void check_tree(const struct tree *t)
{
    char digest[COUNT(checked)][FINGERPRINT_BYTES] = { "" };
    struct checkpoint c = { 0 };
    bool low = false;
    status st;

    make_tree(t);
    st = open_tree(&c, t, digest);
    if (t->line != NULL) {
        CHECK(st != ST_OK && strstr(status_line(), t->line) != NULL &&
                  strchr(status_line(), '\n') == NULL,
              "%s: %d, %s", t->name, st, st == ST_OK ? "opened" : status_line());
    } else {
        CHECK(st == ST_OK, "%s: %s", t->name, status_line());
        for (size_t i = 0; i < COUNT(checked) && st == ST_OK; i++)
            CHECK(strcmp(digest[i], want[i]) == 0, "%s: other values of the %s", t->name,
                  checked[i]->name);
        CHECK(st != ST_OK || (checkpoint_has(&low, &c, &part_dit_low) == ST_OK && low == t->low),
              "%s: %s for low noise: %s", t->name, low ? "has a transformer" : "no transformer",
              status_line());
        CHECK(!low || checkpoint_part(&c, &part_dit_low) == ST_OK, "%s: %s", t->name,
              status_line());
    }
    CHECK(t->layout == NULL || (c.layout != NULL && strcmp(c.layout, t->layout) == 0), "%s is %s",
          t->name, c.layout);
    checkpoint_close(&c);
    nftw(scratch_path("m"), remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
    const struct tree official = { .open = "official" };
    struct checkpoint c = { 0 };

    if (!scratch_open("layouts"))
        return 2;
    make_files();
    need(open_tree(&c, &official, want));
    checkpoint_close(&c);
    for (size_t i = 0; i < COUNT(trees); i++)
        check_tree(&trees[i]);
    nftw(scratch, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    printf("layouts: %d trees\n", (int)COUNT(trees));
    return check_end("layouts");
}
