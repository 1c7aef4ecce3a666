/* Checkpoints in every layout: what synth writes, opened again; the same values whatever the
 * layout; names as diffusers' own models have them; and folders that lack or contradict something.
 * argv[1]: the folder of golden files. */
#include "model/checkpoint/checkpoint_internal.h"
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

static struct synth_options tiny(void)
{
    return (struct synth_options){ .config = preset_find("tiny")->config,
                                   .parts = 1 << PART_DIT | 1 << PART_T5 | 1 << PART_VAE,
                                   .dit_dtype = DT_F32,
                                   .t5_dtype = DT_BF16,
                                   .vae_dtype = DT_F32,
                                   .seed = 3 };
}

/* Every name of the libraries' models is in the table, with its shape, and the other way round. */
static void test_names(const char *golden)
{
    char path[512], line[256];
    int listed[PART_COUNT] = { 0 };
    struct spec spec[PART_COUNT] = { 0 };
    FILE *file;

    snprintf(path, sizeof(path), "%s/names_diffusers.txt", golden);
    file = fopen(path, "r");
    CHECK(file != NULL, "%s", path);
    if (file == NULL)
        return;
    for (int part = 0; part < PART_COUNT; part++)
        spec_part(&spec[part], &preset_find("tiny")->config, (enum part)part);
    while (fgets(line, sizeof(line), file) != NULL) {
        char *save = NULL, official[160] = "", back[160] = "";
        const int part = atoi(strtok_r(line, " \n", &save));
        const char *name = strtok_r(NULL, " \n", &save), *size;
        const struct spec_tensor *found = NULL;
        int axis = 0;

        listed[part]++;
        CHECK(name_to_official((enum part)part, name, official, sizeof(official)), "%s", name);
        CHECK(name_from_official((enum part)part, official, back, sizeof(back)) &&
                  strcmp(back, name) == 0,
              "%s -> %s -> %s", name, official, back);
        for (int i = 0; i < spec[part].count; i++) {
            if (strcmp(spec[part].tensors[i].name, official) == 0)
                found = &spec[part].tensors[i];
        }
        CHECK(found != NULL, "%s -> %s, which is no tensor", name, official);
        while (found != NULL && (size = strtok_r(NULL, " \n", &save)) != NULL) {
            CHECK(axis < found->ndim && found->dim[axis] == atoll(size), "%s axis %d", name, axis);
            axis++;
        }
        CHECK(found != NULL && axis == found->ndim, "%s has %d axes", name, axis);
    }
    fclose(file);
    for (int part = 0; part < PART_COUNT; part++) {
        CHECK(listed[part] == spec[part].count, "part %d: %d names, %d tensors", part, listed[part],
              spec[part].count);
        spec_done(&spec[part]);
    }
}

/* All values of all tensors of two opened checkpoints are the same. */
static void check_same(struct checkpoint *a, struct checkpoint *b)
{
    for (int part = 0; part < PART_COUNT; part++) {
        struct weight_source from_a = checkpoint_source(a, (enum part)part);
        struct weight_source from_b = checkpoint_source(b, (enum part)part);

        CHECK(a->part[part].count == b->part[part].count, "part %d", part);
        for (int i = 0; i < a->part[part].count; i++) {
            const struct file_tensor *t = &a->part[part].tensors[i];
            const int64_t n = tensor_count(t->shape);
            float *x = malloc((size_t)n * sizeof(float)), *y = malloc((size_t)n * sizeof(float));
            const status st = from_a.read(from_a.payload, t->name, 0, n, DT_F32, x);

            CHECK(st == ST_OK && from_b.read(from_b.payload, t->name, 0, n, DT_F32, y) == ST_OK &&
                      memcmp(x, y, (size_t)n * sizeof(float)) == 0,
                  "%s differs: %s", t->name, status_line());
            free(x);
            free(y);
        }
    }
}

/* Marked names walk [O, I, k] as [O, k, I], in any pieces. */
static void test_marks(struct checkpoint *c, enum part part, const char *mark, const char *name)
{
    const struct file_tensor *t = tensorfile_find(&c->part[part], name);
    const struct weight_source s = checkpoint_source(c, part);
    const int64_t n = tensor_count(t->shape), in_dim = t->shape.dim[1];
    const int64_t k = n / t->shape.dim[0] / in_dim, pieces[] = { n, 1, 7, 333, in_dim * k };
    float *plain = malloc((size_t)n * sizeof(float)), *got = calloc((size_t)n, sizeof(float));
    char marked[160];

    snprintf(marked, sizeof(marked), "%s:%s", mark, name);
    CHECK(s.read(s.payload, name, 0, n, DT_F32, plain) == ST_OK, "%s", status_line());
    for (size_t p = 0; p < COUNT(pieces); p++) {
        const int64_t limit = pieces[p] == 1 ? 100 : n; // one by one, only the first hundred
        int wrong = 0;

        for (int64_t first = 0; first < limit; first += pieces[p]) {
            const int64_t take = first + pieces[p] < n ? pieces[p] : n - first;
            CHECK(s.read(s.payload, marked, first, take, DT_F32, got + first) == ST_OK, "%s",
                  status_line());
        }
        for (int64_t i = 0; i < limit; i++)
            wrong +=
                got[i] != plain[i / (in_dim * k) * in_dim * k + i % in_dim * k + i / in_dim % k];
        CHECK(wrong == 0, "%s in pieces of %d: %d wrong", marked, (int)pieces[p], wrong);
    }
    CHECK(s.read(s.payload, marked, n - 1, 2, DT_F32, got) == ST_FORMAT, "read beyond the end");
    CHECK(s.read(s.payload, "conv:nothing", 0, 1, DT_F32, got) == ST_FORMAT, "read nothing");
    free(plain);
    free(got);
}

static void open_whole(struct checkpoint *c, const char *name, const char *layout)
{
    CHECK(checkpoint_open(c, scratch_path(name)) == ST_OK, "%s", status_line());
    CHECK(c->layout != NULL && strcmp(c->layout, layout) == 0, "%s is %s", name, c->layout);
    for (int part = 0; part < PART_COUNT; part++)
        CHECK(checkpoint_part(c, (enum part)part) == ST_OK, "%s", status_line());
}

static void test_layouts(void)
{
    struct synth_options o = tiny();
    const struct model_config want = o.config;
    struct checkpoint official, shards, diffusers;
    char *report = NULL;

    CHECK(checkpoint_synth(scratch_path("official"), &o, NULL, NULL) == ST_OK, "%s", status_line());
    CHECK(checkpoint_synth(scratch_path("official"), &o, NULL, NULL) == ST_USAGE, "written over");
    o.shard_bytes = 500000;
    CHECK(checkpoint_synth(scratch_path("shards"), &o, NULL, NULL) == ST_OK, "%s", status_line());
    o.diffusers = true;
    CHECK(checkpoint_synth(scratch_path("diffusers"), &o, NULL, NULL) == ST_OK, "%s",
          status_line());

    open_whole(&official, "official", LAYOUT_OFFICIAL);
    open_whole(&shards, "shards", LAYOUT_OFFICIAL);
    open_whole(&diffusers, "diffusers", LAYOUT_DIFFUSERS);
    CHECK(shards.part[PART_DIT].files > 2 && diffusers.part[PART_VAE].files > 2, "no shards");
    CHECK(official.tokenizer && diffusers.tokenizer, "no tokenizer");
    CHECK(memcmp(&official.config.dit, &want.dit, sizeof(want.dit)) == 0 &&
              memcmp(&diffusers.config.dit, &want.dit, sizeof(want.dit)) == 0,
          "transformer's numbers");
    CHECK(memcmp(&official.config.t5, &want.t5, sizeof(want.t5)) == 0 &&
              memcmp(&diffusers.config.t5, &want.t5, sizeof(want.t5)) == 0,
          "text encoder's numbers");
    CHECK(memcmp(&official.config.vae, &want.vae, sizeof(want.vae)) == 0 &&
              memcmp(&diffusers.config.vae, &want.vae, sizeof(want.vae)) == 0,
          "VAE's numbers");
    check_same(&official, &shards);
    check_same(&official, &diffusers);
    test_marks(&official, PART_VAE, "conv", "decoder.conv1.weight");
    test_marks(&diffusers, PART_VAE, "conv", "decoder.upsamples.3.resample.1.weight");
    test_marks(&official, PART_DIT, "patch", "patch_embedding.weight");
    CHECK(checkpoint_report(&diffusers, &report, true) == ST_OK && strstr(report, "complete") &&
              strstr(report, "the tensors of tiny") && strstr(report, "attn1.to_q"),
          "%s", report);
    free(report);
    checkpoint_close(&official);
    checkpoint_close(&shards);
    checkpoint_close(&diffusers);
}

/* The folder's part must be refused with these words. */
static void refuse(const char *name, enum part part, const char *says)
{
    struct checkpoint c;
    status st = checkpoint_open(&c, scratch_path(name));

    if (st == ST_OK)
        st = checkpoint_part(&c, part);
    CHECK((st == ST_FORMAT || st == ST_IO) && strstr(status_line(), says), "%s: %d %s", name, st,
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
    refuse("official", PART_DIT, "dim is 256, but by tensor patch_embedding.weight");
    write_text(scratch_path("official/config.json"), "{\"num_heads\": 5}");
    refuse("official", PART_DIT, "5 heads");
    write_text(scratch_path("official/config.json"), "{\"num_heads\": ");
    refuse("official", PART_DIT, "no JSON");
    CHECK(unlink(scratch_path("official/Wan2.1_VAE.pth")) == 0, "unlink");
    refuse("official", PART_VAE, "tried Wan2.1_VAE.pth");

    CHECK(rename(scratch_path("shards/diffusion_pytorch_model-00002-of-00007.safetensors"),
                 scratch_path("gone")) == 0,
          "the tiny transformer is not in 7 shards");
    refuse("shards", PART_DIT, "is not there, but");
    CHECK(unlink(scratch_path("shards/diffusion_pytorch_model.safetensors.index.json")) == 0,
          "unlink");
    refuse("shards", PART_DIT, "00002-of-00007.safetensors: is not there");
    rename(scratch_path("gone"),
           scratch_path("shards/diffusion_pytorch_model-00002-of-00007.safetensors"));
    write_text(scratch_path("shards/diffusion_pytorch_model.safetensors.index.json"),
               "{\"weight_map\": {\"nothing\": "
               "\"diffusion_pytorch_model-00001-of-00007.safetensors\"}}");
    refuse("shards", PART_DIT, "names the tensor nothing");
    write_text(scratch_path("shards/diffusion_pytorch_model.safetensors.index.json"),
               "{\"weight_map\": {\"x\": \"../secret\"}}");
    refuse("shards", PART_DIT, "no file that may be opened");
    write_text(scratch_path("shards/diffusion_pytorch_model.safetensors.index.json"),
               "{\"weight_map\": {\"patch_embedding.weight\": "
               "\"diffusion_pytorch_model-00001-of-00007.safetensors\"}}");
    refuse("shards", PART_DIT, "has no tensor");
    mkdir(scratch_path("empty"), 0777);
    refuse("empty", PART_DIT, "is no checkpoint");
    refuse("nowhere", PART_DIT, "No such file");
}

/* Other members of the family are named for what they are. */
static void test_families(void)
{
    static const struct {
        enum dit_kind kind;
        int extra;
        const char *says;
    } kinds[] = { { DIT_I2V, 0, "I2V (img_emb" },
                  { DIT_FLF2V, 0, "FLF2V (img_emb.emb_pos" },
                  { DIT_VACE, 2, "VACE (vace_patch_embedding" },
                  { DIT_T2V, 0, "takes 36 channels" } };
    struct synth_options o = tiny();

    o.parts = 1 << PART_DIT;
    for (size_t i = 0; i < COUNT(kinds); i++) {
        char name[32];
        struct checkpoint c;

        snprintf(name, sizeof(name), "family%d", (int)i);
        o.config.dit.kind = kinds[i].kind;
        o.config.dit.extra_layers = kinds[i].extra;
        o.config.dit.in_dim = 36;
        o.diffusers = i % 2 != 0;
        CHECK(checkpoint_synth(scratch_path(name), &o, NULL, NULL) == ST_OK, "%s", status_line());
        refuse(name, PART_DIT, kinds[i].says);
        CHECK(checkpoint_open(&c, scratch_path(name)) == ST_OK &&
                  part_open(&c, PART_DIT) == ST_OK && compare_part(&c, PART_DIT, NULL) == ST_OK,
              "%s", status_line());
        checkpoint_close(&c);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2 || !scratch_open("checkpoint"))
        return 2;
    test_names(argv[1]);
    test_layouts();
    test_damage();
    test_families();
    nftw(scratch, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return check_end("checkpoint");
}
