/* Checkpoints in every layout: what synth writes is opened again, with the same values in each
 * layout; tensor names are those of the diffusers models; incomplete and contradictory folders are
 * refused. argv[1]: the folder of golden files. */
#include "model/checkpoint/checkpoint_internal.h"
#include "model/pipeline/task.h"
#include "model/synth/synth.h"
#include "model/transformer/features.h"
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

/* The parts that synth writes. */
static const struct part *const written[] = { &part_dit, &part_t5, &part_vae };

static struct synth_options tiny(void)
{
    return (struct synth_options){ .model = preset_model(preset_find("tiny")), .seed = 3 };
}

static struct inventory inventory_of(const char *preset, const struct part *part)
{
    const struct model m = preset_model(preset_find(preset));
    void *config = malloc(part->config_bytes);
    struct tensor_list list = { 0 };
    struct inventory v = { 0 };

    memcpy(config, model_config(&m, part), part->config_bytes);
    if (part->in_diffusers != NULL)
        part->in_diffusers(config);
    part->tensors(&list, config, NULL);
    free(config);
    CHECK(inventory_expand(&v, &list) == ST_OK, "%s", status_line());
    tensors_done(&list);
    return v;
}

static const struct inventory_entry *find_entry(const struct inventory *v, const char *name)
{
    for (int i = 0; i < v->count; i++)
        if (strcmp(v->entries[i].name, name) == 0)
            return &v->entries[i];
    return NULL;
}

/* The models of names_diffusers.txt, in order. */
static const struct {
    const char *preset;
    const struct part *part;
    bool witnessed; // its files have the part's witness
} models[] = {
    { "tiny", &part_dit, false },          { "tiny", &part_t5, false },
    { "tiny", &part_vae, false },          { "tiny-5B", &part_vae, true },
    { "tiny-i2v-14B", &part_clip, false },
};

/* The tensors of the diffusers and transformers models, with their shapes, are exactly those of our
 * lists after renaming. */
static void test_names(const char *golden)
{
    char path[512], line[256];
    int listed[COUNT(models)] = { 0 };
    struct inventory all[COUNT(models)];
    FILE *file;

    snprintf(path, sizeof(path), "%s/names_diffusers.txt", golden);
    file = fopen(path, "r");
    CHECK(file != NULL, "%s", path);
    if (file == NULL)
        return;
    for (size_t i = 0; i < COUNT(models); i++)
        all[i] = inventory_of(models[i].preset, models[i].part);
    while (fgets(line, sizeof(line), file) != NULL) {
        char *save = NULL, official[160] = "", back[160] = "";
        const int i = atoi(strtok_r(line, " \n", &save));
        const char *name = strtok_r(NULL, " \n", &save), *size;
        const struct part *part = models[i].part;
        const struct inventory_entry *found;
        int axis = 0;

        listed[i]++;
        CHECK((models[i].witnessed ? part->rename_witnessed : part->rename)(name, true, official,
                                                                            sizeof(official)),
              "%s", name);
        CHECK(part->rename(official, false, back, sizeof(back)) && strcmp(back, name) == 0,
              "%s -> %s -> %s", name, official, back);
        found = find_entry(&all[i], official);
        CHECK(found != NULL, "%s -> %s, which is not in the list of tensors", name, official);
        while (found != NULL && (size = strtok_r(NULL, " \n", &save)) != NULL) {
            CHECK(axis < found->ndim && found->dim[axis] == atoll(size), "%s axis %d", name, axis);
            axis++;
        }
        CHECK(found != NULL && axis == found->ndim, "%s has %d axes", name, axis);
    }
    fclose(file);
    for (size_t i = 0; i < COUNT(models); i++) {
        CHECK(listed[i] == all[i].count, "%s of %s: %d names, %d tensors", models[i].part->name,
              models[i].preset, listed[i], all[i].count);
        inventory_done(&all[i]);
    }
}

/* A spec that reads the whole tensor as the file has it. */
static struct weight_spec spec_of(const struct file_tensor *t)
{
    struct weight_spec s = { .dtype = DT_F32, .ndim = t->shape.ndim, .file_ndim = t->shape.ndim };

    memcpy(s.dim, t->shape.dim, sizeof(s.dim));
    memcpy(s.file_dim, t->shape.dim, sizeof(s.file_dim));
    snprintf(s.name, sizeof(s.name), "%s", t->name);
    return s;
}

/* All values of all tensors of two opened checkpoints are the same. */
static void check_same(struct checkpoint *a, struct checkpoint *b)
{
    for (size_t p = 0; p < COUNT(written); p++) {
        struct weight_source from_a = checkpoint_source(a, written[p]);
        struct weight_source from_b = checkpoint_source(b, written[p]);
        const struct tensorfile *f = checkpoint_file(a, written[p]);

        CHECK(f->count == checkpoint_file(b, written[p])->count, "%s", written[p]->name);
        for (int i = 0; i < f->count; i++) {
            const struct file_tensor *t = &f->tensors[i];
            const struct weight_spec s = spec_of(t);
            const int64_t n = tensor_count(t->shape);
            float *x = malloc((size_t)n * sizeof(float)), *y = malloc((size_t)n * sizeof(float));
            const status st = from_a.read(from_a.payload, &s, t->name, 0, n, x);

            CHECK(st == ST_OK && from_b.read(from_b.payload, &s, t->name, 0, n, y) == ST_OK &&
                      memcmp(x, y, (size_t)n * sizeof(float)) == 0,
                  "%s differs: %s", t->name, status_line());
            free(x);
            free(y);
        }
    }
}

/* With channels_last a tensor [O, I, k] is read in the order [O, k, I], in any ranges. */
static void test_order(struct checkpoint *c, const struct part *part, const char *name)
{
    const struct file_tensor *t = tensorfile_find(checkpoint_file(c, part), name);
    const struct weight_source s = checkpoint_source(c, part);
    struct weight_spec plain_spec = spec_of(t), spec = plain_spec;
    const int64_t n = tensor_count(t->shape), in_dim = t->shape.dim[1];
    const int64_t k = n / t->shape.dim[0] / in_dim, ranges[] = { n, 1, 7, 333, in_dim * k };
    float *plain = malloc((size_t)n * sizeof(float)), *got = calloc((size_t)n, sizeof(float));

    spec.channels_last = true;
    CHECK(s.read(s.payload, &plain_spec, name, 0, n, plain) == ST_OK, "%s", status_line());
    for (size_t p = 0; p < COUNT(ranges); p++) {
        const int64_t limit = ranges[p] == 1 ? 100 : n; // one by one, only the first hundred
        int wrong = 0;

        for (int64_t first = 0; first < limit; first += ranges[p]) {
            const int64_t count = first + ranges[p] < n ? ranges[p] : n - first;
            CHECK(s.read(s.payload, &spec, name, first, count, got + first) == ST_OK, "%s",
                  status_line());
        }
        for (int64_t i = 0; i < limit; i++)
            wrong +=
                got[i] != plain[i / (in_dim * k) * in_dim * k + i % in_dim * k + i / in_dim % k];
        CHECK(wrong == 0, "%s in ranges of %d: %d wrong", name, (int)ranges[p], wrong);
    }
    CHECK(s.read(s.payload, &spec, name, n - 1, 2, got) == ST_FORMAT, "read beyond the end");
    CHECK(s.read(s.payload, &spec, "nothing", 0, 1, got) == ST_FORMAT, "read nothing");
    spec.file_dim[0]++;
    CHECK(s.read(s.payload, &spec, name, 0, 1, got) == ST_FORMAT, "read another shape");
    free(plain);
    free(got);
}

static void open_all_parts(struct checkpoint *c, const char *name, const char *layout)
{
    CHECK(checkpoint_open(c, scratch_path(name), model_parts) == ST_OK, "%s", status_line());
    CHECK(c->layout != NULL && strcmp(c->layout, layout) == 0, "%s is %s", name, c->layout);
    for (size_t i = 0; i < COUNT(written); i++)
        CHECK(checkpoint_part(c, written[i]) == ST_OK, "%s", status_line());
}

/* The VAE of Wan2.2, whose names in diffusers are partly those of Wan2.1's. */
static void test_second_vae(void)
{
    struct synth_options o = { .model = preset_model(preset_find("tiny-5B")), .seed = 4 };
    struct checkpoint official, diffusers;

    CHECK(checkpoint_synth(scratch_path("official22"), &o, NULL, NULL) == ST_OK, "%s",
          status_line());
    o.diffusers = true;
    CHECK(checkpoint_synth(scratch_path("diffusers22"), &o, NULL, NULL) == ST_OK, "%s",
          status_line());
    open_all_parts(&official, "official22", LAYOUT_OFFICIAL);
    open_all_parts(&diffusers, "diffusers22", LAYOUT_DIFFUSERS);
    for (int i = 0; i < 2; i++)
        CHECK(memcmp(checkpoint_config(i == 0 ? &official : &diffusers, &part_vae),
                     model_config(&o.model, &part_vae), part_vae.config_bytes) == 0,
              "config of the VAE");
    check_same(&official, &diffusers);
    checkpoint_close(&official);
    checkpoint_close(&diffusers);
}

static void test_layouts(void)
{
    struct synth_options o = tiny();
    struct checkpoint official, shards, diffusers;
    struct checkpoint_report report;

    CHECK(checkpoint_synth(scratch_path("official"), &o, NULL, NULL) == ST_OK, "%s", status_line());
    CHECK(checkpoint_synth(scratch_path("official"), &o, NULL, NULL) == ST_USAGE, "written over");
    o.shard_bytes = 500000;
    CHECK(checkpoint_synth(scratch_path("shards"), &o, NULL, NULL) == ST_OK, "%s", status_line());
    o.diffusers = true;
    CHECK(checkpoint_synth(scratch_path("diffusers"), &o, NULL, NULL) == ST_OK, "%s",
          status_line());

    open_all_parts(&official, "official", LAYOUT_OFFICIAL);
    open_all_parts(&shards, "shards", LAYOUT_OFFICIAL);
    open_all_parts(&diffusers, "diffusers", LAYOUT_DIFFUSERS);
    CHECK(checkpoint_file(&shards, &part_dit)->files > 2 &&
              checkpoint_file(&diffusers, &part_vae)->files > 2,
          "no shards");
    CHECK(official.tokenizer && diffusers.tokenizer, "no tokenizer");
    for (size_t i = 0; i < COUNT(written); i++) {
        const void *expected = model_config(&o.model, written[i]);

        CHECK(memcmp(checkpoint_config(&official, written[i]), expected,
                     written[i]->config_bytes) == 0 &&
                  memcmp(checkpoint_config(&diffusers, written[i]), expected,
                         written[i]->config_bytes) == 0,
              "config of the %s", written[i]->name);
    }
    check_same(&official, &shards);
    check_same(&official, &diffusers);
    test_order(&official, &part_vae, "decoder.conv1.weight");
    test_order(&diffusers, &part_vae, "decoder.upsamples.3.resample.1.weight");
    test_order(&official, &part_dit, "patch_embedding.weight");
    CHECK(checkpoint_report(&diffusers, &report, true) == ST_OK && report.st == ST_OK &&
              strstr(report.text, "complete") && strstr(report.text, "the tensors of tiny") &&
              strstr(report.text, "the tensors of umt5-tiny") && strstr(report.text, "attn1.to_q"),
          "%s", report.text);
    checkpoint_report_done(&report);
    checkpoint_close(&official);
    checkpoint_close(&shards);
    checkpoint_close(&diffusers);
}

/* Opening the part must fail with a line that contains `text`. */
static void refuse(const char *name, const struct part *part, const char *text)
{
    struct checkpoint c;
    status st = checkpoint_open(&c, scratch_path(name), model_parts);

    if (st == ST_OK)
        st = checkpoint_part(&c, part);
    CHECK((st == ST_FORMAT || st == ST_IO) && strstr(status_line(), text), "%s: %d %s", name, st,
          status_line());
    checkpoint_close(&c);
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0, "%s", path);
}

static void test_damage(void)
{
    write_text(scratch_path("official/config.json"), "{\"num_heads\": 4, \"dim\": 256}");
    refuse("official", &part_dit, "dim is 256, but 128 in the tensors (patch_embedding.weight");
    write_text(scratch_path("official/config.json"), "{\"num_heads\": 5}");
    refuse("official", &part_dit, "width 128 does not divide into 5 heads");
    write_text(scratch_path("official/config.json"),
               "{\"num_heads\": 4, \"quantization_config\": {\"quant_method\": \"torchao\"}}");
    refuse("official", &part_dit, "the weights are quantized by torchao");
    write_text(scratch_path("official/config.json"), "{\"num_heads\": ");
    refuse("official", &part_dit, "not a JSON");
    CHECK(unlink(scratch_path("official/Wan2.1_VAE.pth")) == 0, "unlink");
    refuse("official", &part_vae, "tried Wan2.1_VAE.pth");

    CHECK(rename(scratch_path("shards/diffusion_pytorch_model-00002-of-00007.safetensors"),
                 scratch_path("gone")) == 0,
          "the tiny transformer is not in 7 shards");
    refuse("shards", &part_dit, "is missing, but");
    CHECK(unlink(scratch_path("shards/diffusion_pytorch_model.safetensors.index.json")) == 0,
          "unlink");
    refuse("shards", &part_dit, "00002-of-00007.safetensors: is missing; all 7 shards");
    rename(scratch_path("gone"),
           scratch_path("shards/diffusion_pytorch_model-00002-of-00007.safetensors"));
    write_text(scratch_path("shards/diffusion_pytorch_model.safetensors.index.json"),
               "{\"weight_map\": {\"nothing\": "
               "\"diffusion_pytorch_model-00001-of-00007.safetensors\"}}");
    refuse("shards", &part_dit, "lists the tensor nothing");
    write_text(scratch_path("shards/diffusion_pytorch_model.safetensors.index.json"),
               "{\"weight_map\": {\"x\": \"../secret\"}}");
    refuse("shards", &part_dit, "tensor x must be in a file of the same folder");
    write_text(scratch_path("shards/diffusion_pytorch_model.safetensors.index.json"),
               "{\"weight_map\": {\"patch_embedding.weight\": "
               "\"diffusion_pytorch_model-00001-of-00007.safetensors\"}}");
    refuse("shards", &part_dit, "lists the tensor patch_embedding.weight, but none");
    mkdir(scratch_path("empty"), 0777);
    refuse("empty", &part_dit, "is not a checkpoint");
    refuse("nowhere", &part_dit, "No such file");
}

/* Models that this version does not run are refused with the name of their feature. */
static void test_families(void)
{
    static const struct {
        struct feature_use use; // with widths other than the released ones
        const char *text;
    } kinds[] = {
        { { NULL }, "36 input and 16 output channels" },
        { { .feature = &feature_animate,
            .units = 2,
            .width = { 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14 } },
          "(Animate)' (tensor motion_encoder" },
    };

    for (size_t i = 0; i < COUNT(kinds); i++) {
        struct synth_options o = tiny();
        struct dit_config config = *model_dit(&o.model);
        const struct task *task = NULL;
        char name[32];
        struct checkpoint c;

        snprintf(name, sizeof(name), "family%d", (int)i);
        memcpy(config.use, &kinds[i].use, sizeof(kinds[i].use));
        config.in_dim = 36;
        o.model = (struct model){ .config = { NULL } };
        model_set(&o.model, &part_dit, &config);
        o.diffusers = kinds[i].use.feature == NULL;
        CHECK(checkpoint_synth(scratch_path(name), &o, NULL, NULL) == ST_OK, "%s", status_line());
        CHECK(checkpoint_open(&c, scratch_path(name), model_parts) == ST_OK, "%s", status_line());
        if (checkpoint_part(&c, &part_dit) == ST_OK)
            CHECK(task_for_checkpoint(&task, &c) == ST_FORMAT &&
                      strstr(status_line(), kinds[i].text),
                  "%s: %s", name, status_line());
        else
            CHECK(strstr(status_line(), kinds[i].text), "%s: %s", name, status_line());
        checkpoint_close(&c);
        CHECK(checkpoint_open(&c, scratch_path(name), model_parts) == ST_OK &&
                  part_open(&c, part_of(&c, &part_dit)) == ST_OK &&
                  compare_part(&c, part_of(&c, &part_dit), NULL) == ST_OK,
              "%s", status_line());
        CHECK(memcmp(checkpoint_config(&c, &part_dit), &config, sizeof(config)) == 0,
              "%s: the config differs", name);
        checkpoint_close(&c);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2 || !scratch_open("checkpoint"))
        return 2;
    test_names(argv[1]);
    test_layouts();
    test_second_vae();
    test_damage();
    test_families();
    nftw(scratch, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return check_end("checkpoint");
}
