/* wanmpi synth: writes a checkpoint of random weights, in the official or the -Diffusers layout. */
#include "model/synth/synth.h"
#include "launch/commands.h"
#include "launch/options_internal.h"
#include "launch/progress.h"
#include "runtime/nearest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TYPE_FP32, TYPE_BF16, TYPE_FP16, TYPE_FP8, TYPE_GGUF };

struct synth {
    char *preset, *out, *parts;
    int64_t seed;
    int dit_dtype, t5_dtype, vae_dtype; // TYPE_*
    double shard_gb;
    int diffusers;
    // sizes in place of the preset's; 0: the preset's
    int dim, ffn_dim, heads, layers, freq_dim, text_len, text_dim;
    int t5_vocab, t5_attn_dim, t5_ffn_dim, t5_heads, t5_layers, vae_base;
};

#define AT(f) offsetof(struct synth, f)
#define SIZE(flag, text)                                                                           \
    {                                                                                              \
        .name = #flag, .type = OPT_INT, .offset = AT(flag), .value = "N", .least = 1, .help = text \
    }

static const struct option rows[] = {
    { "preset", OPT_STRING, AT(preset), .group = "Checkpoint", .value = "NAME",
      .help = "sizes of a released model (t2v-1.3B, t2v-14B, ...), or tiny, tiny-5B with the "
              "VAE of Wan2.2, or tiny-A14B with two experts" },
    { "out", OPT_STRING, AT(out), .value = "DIR", .help = "folder to create; it must not exist" },
    { "seed", OPT_I64, AT(seed), .value = "N", .help = "seed of the random weights (default 0)" },
    { "parts", OPT_STRING, AT(parts), .value = "LIST",
      .help = "parts to write, out of dit,dit_low,t5,vae,clip,wav2vec2,motion (default: all; t5 "
              "includes the "
              "tokenizer)" },
    { "dit_dtype", OPT_CHOICE, AT(dit_dtype), .choices = "fp32|bf16|fp16|" SYNTH_QUANTIZED,
      .help = "data type of the transformer; fp8 and those of GGUF: of the matrices of its blocks, "
              "the rest is bf16 (default fp32)" },
    { "t5_dtype", OPT_CHOICE, AT(t5_dtype), .choices = "fp32|bf16|fp16",
      .help = "data type of the text encoder (default bf16)" },
    { "vae_dtype", OPT_CHOICE, AT(vae_dtype), .choices = "fp32|bf16|fp16",
      .help = "data type of the VAE (default fp32)" },
    { "shard_gb", OPT_DOUBLE, AT(shard_gb), .value = "X", .least = 1e-6, .most = 1e6,
      .help = "start a new .safetensors file after X GB, and write an index (default: one file)" },
    { "diffusers", OPT_SWITCH, AT(diffusers),
      .help = "write the -Diffusers layout (default: the official layout)" },
    { "dim", OPT_INT, AT(dim), .group = "Sizes that replace those of the preset", .value = "N",
      .least = 1, .help = "transformer: width" },
    SIZE(ffn_dim, "transformer: width of the feed-forward layers"),
    SIZE(heads, "transformer: attention heads; dim/heads must be even"),
    SIZE(layers, "transformer: blocks"),
    SIZE(freq_dim, "transformer: width of the time embedding; even"),
    SIZE(text_len, "transformer: rows of text that it attends to"),
    SIZE(text_dim, "text encoder: width, also of its output"),
    SIZE(t5_vocab, "text encoder: vocabulary"),
    SIZE(t5_attn_dim, "text encoder: width of all attention heads together"),
    SIZE(t5_ffn_dim, "text encoder: width of the feed-forward layers"),
    SIZE(t5_heads, "text encoder: attention heads"),
    SIZE(t5_layers, "text encoder: blocks"),
    SIZE(vae_base, "VAE: channels at full resolution"),
};

void help_synth(FILE *out)
{
    struct synth fields = { 0 };
    const struct option_set set = { rows, COUNT(rows), &fields, NULL };

    fputs(
        "wanmpi synth: writes a checkpoint of random weights, with a small working tokenizer. It\n"
        "loads and runs like a released checkpoint, but its videos are noise: for tests and for\n"
        "timing.\n\n"
        "    wanmpi synth --preset tiny --out tiny-checkpoint\n"
        "    wanmpi synth --preset tiny --dim 192 --heads 6 --layers 2 --out six-heads\n"
        "    wanmpi synth --preset t2v-1.3B --dit_dtype bf16 --out random-1.3B\n",
        out);
    options_help(out, 0, &set, 1);
}

static void set_int64(int64_t *to, int from)
{
    *to = from > 0 ? from : *to;
}

static void set_int(int *to, int from)
{
    *to = from > 0 ? from : *to;
}

static status check_sizes(const struct dit_config *dit, const struct t5_config *t5)
{
    if (dit->dim % dit->heads != 0 || dit->dim / dit->heads % 2 != 0)
        return fail(ST_USAGE, "--dim %lld --heads %d: dim must be heads times an even number",
                    (long long)dit->dim, dit->heads);
    if (dit->freq_dim % 2 != 0)
        return fail(ST_USAGE, "--freq_dim %lld: must be even", (long long)dit->freq_dim);
    if (t5->attn_dim % t5->heads != 0)
        return fail(ST_USAGE, "--t5_attn_dim %lld --t5_heads %d: the heads must divide it",
                    (long long)t5->attn_dim, t5->heads);
    return ST_OK;
}

/* Removes from the model the parts that are not in the list; list NULL keeps all. */
static status choose_parts(const char *list, struct model *m)
{
    struct model all = *m;

    if (list == NULL)
        return ST_OK;
    *m = (struct model){ .config = { NULL } };
    while (*list != 0) {
        const size_t n = strcspn(list, ",");
        int found = -1;

        for (int i = 0; i < MODEL_PART_COUNT; i++) {
            const char *key = model_parts[i]->key;

            if (strlen(key) == n && memcmp(key, list, n) == 0 && all.config[i] != NULL)
                found = i;
        }
        if (found < 0)
            return fail(ST_USAGE,
                        "--parts %.*s: not a part of this model; choose from "
                        "dit,dit_low,t5,vae,clip,wav2vec2,motion",
                        (int)n, list);
        m->config[found] = all.config[found];
        list += n + (list[n] == ',');
    }
    return ST_OK;
}

static status find_preset(const char *name, const struct preset **preset)
{
    const char *known[64], *near;
    int n = 0;

    *preset = preset_find(name);
    if (*preset != NULL)
        return ST_OK;
    for (; n < (int)COUNT(known) && preset_at(n) != NULL; n++)
        known[n] = preset_at(n)->name;
    near = nearest_word(name, known, n);
    if (near != NULL)
        return fail(ST_USAGE, "--preset %s: no such model; did you mean %s?", name, near);
    return fail(ST_USAGE, "--preset %s: no such model; use t2v-1.3B or tiny, for example", name);
}

/* The sizes of the parts: those of the preset, with the flags' values in their place. */
struct sizes {
    struct dit_config dit;
    struct t5_config t5;
    struct vae_config vae;
};

static void change_sizes(struct sizes *z, const struct synth *s)
{
    set_int64(&z->dit.dim, s->dim);
    set_int64(&z->dit.ffn_dim, s->ffn_dim);
    set_int(&z->dit.heads, s->heads);
    set_int(&z->dit.layers, s->layers);
    set_int64(&z->dit.freq_dim, s->freq_dim);
    set_int64(&z->dit.text_len, s->text_len);
    set_int64(&z->dit.text_dim, s->text_dim);
    set_int64(&z->t5.dim, s->text_dim);
    set_int64(&z->t5.vocab, s->t5_vocab);
    set_int64(&z->t5.attn_dim, s->t5_attn_dim);
    set_int64(&z->t5.ffn_dim, s->t5_ffn_dim);
    set_int(&z->t5.heads, s->t5_heads);
    set_int(&z->t5.layers, s->t5_layers);
    set_int64(&z->vae.base, s->vae_base);
    set_int64(&z->vae.decoder_base, s->vae_base);
}

static status options_of(struct synth_options *o, struct sizes *z, const struct synth *s)
{
    static const enum dtype types[] = { DT_F32, DT_BF16, DT_F16 };
    const enum dtype dit = s->dit_dtype < TYPE_FP8 ? types[s->dit_dtype] : DT_BF16;
    char name[16];
    const struct preset *preset = NULL;
    struct model m;

    if (s->preset == NULL || s->out == NULL)
        return fail(ST_USAGE, "synth needs --preset NAME and --out DIR, as in --preset tiny --out "
                              "tiny-checkpoint");
    TRY(find_preset(s->preset, &preset));
    m = preset_model(preset);
    *z = (struct sizes){ *model_dit(&m), *model_t5(&m), *model_vae(&m) };
    change_sizes(z, s);
    TRY(check_sizes(&z->dit, &z->t5));
    model_set(&m, &part_dit, &z->dit);
    if (model_config(&m, &part_dit_low) != NULL)
        model_set(&m, &part_dit_low, &z->dit);
    model_set(&m, &part_t5, &z->t5);
    model_set(&m, &part_vae, &z->vae);
    TRY(choose_parts(s->parts, &m));
    *o = (struct synth_options){
        .model = m,
        .seed = (uint64_t)s->seed,
        .shard_bytes = (int64_t)(s->shard_gb * 1e9),
        .diffusers = s->diffusers != 0,
        .fp8 = s->dit_dtype == TYPE_FP8,
    };
    if (s->dit_dtype >= TYPE_GGUF) {
        option_choice(SYNTH_QUANTIZED, s->dit_dtype - TYPE_FP8, name, sizeof(name));
        o->blocks = ggml_type_named(name);
        if (s->diffusers || s->shard_gb > 0)
            return fail(ST_USAGE, "--dit_dtype %s writes one GGUF file: remove %s", name,
                        s->diffusers ? "--diffusers" : "--shard_gb");
    }
    o->dtype[model_index(&part_dit)] = dit;
    o->dtype[model_index(&part_dit_low)] = dit;
    o->dtype[model_index(&part_t5)] = types[s->t5_dtype];
    o->dtype[model_index(&part_vae)] = types[s->vae_dtype];
    return ST_OK;
}

/* Callback of checkpoint_synth. */
static void report(void *payload, uint64_t done, uint64_t total)
{
    struct progress *p = payload;

    if (!p->in_stage)
        progress_stage(p, "writing", 0, (int64_t)total, PROGRESS_BYTES);
    progress_update(p, (int64_t)done);
}

static status synth(int argc, char **argv)
{
    status st;
    struct synth fields = { .t5_dtype = TYPE_BF16 };
    const struct option_set set = { rows, COUNT(rows), &fields, NULL };
    struct synth_options options;
    struct sizes sizes;
    struct progress progress;

    progress_init(&progress, stderr, true);
    TRY_OUT(options_parse("synth", 0, &set, 1, argc, argv));
    TRY_OUT(options_of(&options, &sizes, &fields));
    TRY_OUT(checkpoint_synth(fields.out, &options, report, &progress));
    progress_end(&progress);
    printf("%s: random weights of %s\n", fields.out, fields.preset);
out:
    options_free(&set);
    return st;
}

/* Rank 0 writes; the other ranks wait. */
status cmd_synth(struct world *w, int argc, char **argv)
{
    return agree(w, w->rank == 0 ? synth(argc, argv) : ST_OK);
}
