/* wanmpi convert: writes a checkpoint whose transformers have LoRAs merged into them, or another
 * data type. */
#include "launch/commands.h"
#include "launch/job.h"
#include "runtime/half.h"
#include "runtime/newfile.h"
#include "runtime/tensorwriter.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TYPE_KEEP, TYPE_FP32, TYPE_BF16, TYPE_FP16 };

struct convert {
    char *ckpt_dir, *out, *lora, *lora_high, *lora_low;
    int ignore, dtype; // TYPE_*
};

#define AT(f) offsetof(struct convert, f)

static const struct option rows[] = {
    { "ckpt_dir", OPT_STRING, AT(ckpt_dir), .group = "Checkpoint", .value = "DIR",
      .help = "checkpoint: a folder, or the transformer's file" },
    { "out", OPT_STRING, AT(out), .value = "DIR",
      .help =
          "folder to create, which must not exist; for a file: the .safetensors file to write" },
    { "lora", OPT_LIST, AT(lora), .value = "FILE[:X]",
      .help = "merge a LoRA with strength X (default 1); can be given several times. With two "
              "experts it is for both" },
    { "lora_high", OPT_LIST, AT(lora_high), .value = "FILE[:X]",
      .help = "the same for the expert for high noise alone" },
    { "lora_low", OPT_LIST, AT(lora_low), .value = "FILE[:X]",
      .help = "the same for the expert for low noise alone" },
    { "lora_ignore_unknown", OPT_SWITCH, AT(ignore),
      .help = "leave out keys of a LoRA that match no tensor (default: they are an error)" },
    { "dtype", OPT_CHOICE, AT(dtype), .choices = "keep|fp32|bf16|fp16",
      .help =
          "data type of the transformer's tensors in the new file (default: that of each tensor; "
          "bf16 for quantized ones)" },
};

void help_convert(FILE *out)
{
    struct convert fields = { 0 };
    const struct option_set set = { rows, COUNT(rows), &fields, NULL };

    fputs(
        "wanmpi convert: writes a checkpoint with LoRAs merged into its transformer, in the layout "
        "and\n"
        "with the names of the checkpoint that it reads. Only the transformer's .safetensors "
        "files\n"
        "are written; all other files of a folder become links to those of the checkpoint. Values\n"
        "are merged in fp32 and rounded once.\n\n"
        "    wanmpi convert --ckpt_dir Wan2.1-T2V-14B --lora style.safetensors:0.8 --out styled\n",
        out);
    options_help(out, 0, &set, 1);
}

/* What is being written. */
struct writing {
    struct checkpoint checkpoint;
    struct lora *lora[EXPERTS_MAX];
    int dtype; // TYPE_*
    struct progress progress;
    uint64_t done, total; // bytes
    int files;            // that have been written
};

/* Payload of fill: the tensors of one file. */
struct file_writing {
    struct writing *w;
    struct tensorfile *source;
    struct lora *lora; // or NULL
    const struct file_tensor **tensors;
    struct tensor_entry *entries;
};

static void count_bytes(struct writing *w, uint64_t bytes)
{
#pragma omp critical
    {
        w->done += bytes;
        progress_update(&w->progress, (int64_t)w->done);
    }
}

/* Callback of the writer. */
static status fill(void *payload, int index, int64_t first, int64_t count, void *dst)
{
    const struct file_writing *f = payload;
    const struct file_tensor *t = f->tensors[index];
    const enum dtype dt = f->entries[index].shape.dtype;
    const struct weight_spec wide = { .dtype = DT_F32 };
    const bool merged = lora_changes(f->lora, t->name);
    float *x = dst;
    status st;

    count_bytes(f->w, (uint64_t)count * dtype_size(dt));
    if (!merged && (dt == t->shape.dtype || dt == DT_F32 || dt == DT_BF16))
        return tensorfile_read(f->source, t, first, count, dt, dst);
    if (dt != DT_F32)
        x = malloc((size_t)count * sizeof(float));
    if (x == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %lld values of %s",
                    (long long)count, t->name);
    if (merged) {
        const struct weight_source source = lora_source(f->lora);

        st = source.read(source.payload, &wide, t->name, first, count, x);
    } else {
        st = tensorfile_read(f->source, t, first, count, DT_F32, x);
    }
    if (dt == DT_F32)
        return st;
    for (int64_t i = 0; st == ST_OK && i < count; i++)
        ((uint16_t *)dst)[i] = dt == DT_BF16 ? bf16_from_f32(x[i]) : f16_from_f32(x[i]);
    free(x);
    return st;
}

/* The data type of a tensor in the new file. */
static enum dtype dtype_of(const struct writing *w, const struct file_tensor *t)
{
    static const enum dtype types[] = { DT_NONE, DT_F32, DT_BF16, DT_F16 };
    const enum dtype dt = t->shape.dtype;
    const bool real = dt == DT_F32 || dt == DT_BF16 || dt == DT_F16;

    if (real && w->dtype != TYPE_KEEP)
        return types[w->dtype];
    return t->coding != NULL ? DT_BF16 : dt;
}

/* Writes the tensors of file `index` of an expert's files. */
static status write_file(struct writing *w, int expert, int index, const char *path)
{
    struct tensorfile *source = checkpoint_file(&w->checkpoint, expert_parts[expert]);
    struct file_writing f = { .w = w, .source = source, .lora = w->lora[expert] };
    int count = 0;
    status st = ST_OK;

    f.tensors = calloc((size_t)source->count + 1, sizeof(*f.tensors));
    f.entries = calloc((size_t)source->count + 1, sizeof(*f.entries));
    if (f.tensors == NULL || f.entries == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a list of tensors"));
    for (int i = 0; i < source->count; i++) {
        const struct file_tensor *t = &source->tensors[i];

        if (t->file != index)
            continue;
        f.tensors[count] = t;
        f.entries[count++] =
            (struct tensor_entry){ t->file_name,
                                   tensor_dims(NULL, dtype_of(w, t), t->shape.ndim, t->shape.dim) };
    }
    TRY_OUT(tensorwriter_safetensors(path, f.entries, count, fill, &f));
    w->files++;
out:
    free(f.tensors);
    free(f.entries);
    return st;
}

/* Bytes that are written. */
static uint64_t bytes_of(struct writing *w)
{
    uint64_t bytes = 0;

    for (int e = 0; e < EXPERTS_MAX; e++) {
        const struct tensorfile *f = checkpoint_file(&w->checkpoint, expert_parts[e]);

        for (int i = 0; i < f->count; i++) {
            struct tensor t = f->tensors[i].shape;

            t.dtype = dtype_of(w, &f->tensors[i]);
            bytes += tensor_bytes(t);
        }
    }
    return bytes;
}

/* ---- folders ---- */

/* Whether a file of the folder is one of a transformer: which. */
static bool find_file(struct writing *w, const struct stat *about, int *expert, int *index)
{
    for (*expert = 0; *expert < EXPERTS_MAX; ++*expert) {
        const struct tensorfile *f = checkpoint_file(&w->checkpoint, expert_parts[*expert]);

        for (*index = 0; f->count > 0 && *index < f->files; ++*index) {
            struct stat file;

            if (stat(tensorfile_path(f, *index), &file) == 0 && file.st_dev == about->st_dev &&
                file.st_ino == about->st_ino)
                return true;
        }
    }
    return false;
}

/* Writes or links what is in a folder. */
static status copy_folder(struct writing *w, const char *from, const char *to, int depth)
{
    DIR *d = opendir(from);
    const struct dirent *entry;
    status st = ST_OK;

    if (d == NULL)
        return fail(status_of_errno(), "%s: %s", from, strerror(errno));
    if (mkdir(to, 0777) != 0)
        st = fail(status_of_errno(), "%s: %s", to, strerror(errno));
    while (st == ST_OK && (entry = readdir(d)) != NULL) {
        char path[PATH_MAX], target[PATH_MAX], whole[PATH_MAX];
        struct stat about;
        int expert, index;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (snprintf(path, sizeof(path), "%s/%s", from, entry->d_name) >= PATH_MAX ||
            snprintf(target, sizeof(target), "%s/%s", to, entry->d_name) >= PATH_MAX || depth > 8)
            st = fail(ST_IO, "%s: the names in it are too long", from);
        else if (stat(path, &about) != 0)
            continue; // a link to nothing
        else if (S_ISDIR(about.st_mode))
            st = copy_folder(w, path, target, depth + 1);
        else if (find_file(w, &about, &expert, &index))
            st = write_file(w, expert, index, target);
        else if (realpath(path, whole) == NULL || symlink(whole, target) != 0)
            st = fail(status_of_errno(), "%s: %s", target, strerror(errno));
    }
    closedir(d);
    return st;
}

static int remove_entry(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    return remove(path);
}

/* Writes a folder under another name, and renames it when it is complete. */
static status write_folder(struct writing *w, const char *out)
{
    size_t length = strlen(out);
    char *folder = NULL;
    status st = ST_OK;

    while (length > 1 && out[length - 1] == '/')
        length--;
    if (access(out, F_OK) == 0)
        return fail(ST_USAGE, "--out %s: exists; choose a new folder", out);
    if (asprintf(&folder, "%.*s.partial-%d", (int)length, out, (int)getpid()) < 0)
        return fail(ST_MEMORY, "cannot allocate host memory for a file name");
    TRY_OUT(copy_folder(w, w->checkpoint.folder, folder, 0));
    if (rename(folder, out) != 0)
        TRY_OUT(fail(status_of_errno(), "%s: %s", out, strerror(errno)));
out:
    if (st != ST_OK)
        nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(folder);
    return st;
}

/* Writes the transformer's file under another name, and renames it when it is complete. */
static status write_single(struct writing *w, const char *out)
{
    const char *dot = strrchr(out, '.');
    struct newfile file = { 0 };
    status st;

    if (dot == NULL || strcmp(dot, ".safetensors") != 0)
        return fail(ST_USAGE, "--out %s: the name must end in .safetensors, as %s is one file", out,
                    w->checkpoint.path);
    if (access(out, F_OK) == 0)
        return fail(ST_USAGE, "--out %s: exists; choose a new name", out);
    TRY_OUT(newfile_open(&file, out));
    TRY_OUT(write_file(w, 0, 0, file.temp));
    TRY_OUT(newfile_commit(&file));
out:
    newfile_drop(&file);
    return st;
}

/* ---- the command ---- */

/* Refuses files of a folder that would not be .safetensors files under their names. */
static status check_names(struct writing *w)
{
    for (int e = 0; e < EXPERTS_MAX; e++) {
        const struct tensorfile *f = checkpoint_file(&w->checkpoint, expert_parts[e]);

        for (int i = 0; f->count > 0 && i < f->files; i++) {
            const char *path = tensorfile_path(f, i), *dot = strrchr(path, '.');

            if (dot == NULL || strcmp(dot, ".safetensors") != 0)
                return fail(
                    ST_USAGE,
                    "%s: convert writes .safetensors files under the names of those that it "
                    "reads; pass this file itself as --ckpt_dir",
                    path);
        }
    }
    return ST_OK;
}

static status convert(int argc, char **argv)
{
    struct convert fields = { 0 };
    const struct option_set set = { rows, COUNT(rows), &fields, NULL };
    struct writing w = { 0 };
    struct request r = { 0 };
    struct model model = { .config = { NULL } };
    bool single, has;
    status st;

    progress_init(&w.progress, stderr, true);
    TRY_OUT(options_parse("convert", 0, &set, 1, argc, argv));
    if (fields.ckpt_dir == NULL || fields.out == NULL)
        TRY_OUT(fail(ST_USAGE, "convert needs --ckpt_dir DIR and --out DIR"));
    if (fields.lora == NULL && fields.lora_high == NULL && fields.lora_low == NULL &&
        fields.dtype == TYPE_KEEP)
        TRY_OUT(fail(ST_USAGE, "convert has nothing to do: pass --lora FILE, or --dtype"));
    w.dtype = fields.dtype;
    TRY_OUT(checkpoint_open(&w.checkpoint, fields.ckpt_dir, model_parts));
    single = strcmp(w.checkpoint.layout, LAYOUT_FILE) == 0;
    TRY_OUT(checkpoint_part(&w.checkpoint, &part_dit));
    TRY_OUT(checkpoint_has(&has, &w.checkpoint, &part_dit_low));
    if (has && !single)
        TRY_OUT(checkpoint_part(&w.checkpoint, &part_dit_low));
    if (!single)
        TRY_OUT(check_names(&w));
    if ((fields.lora_high != NULL || fields.lora_low != NULL) && (!has || single))
        TRY_OUT(fail(ST_USAGE, "--lora_high and --lora_low: %s has one transformer; use --lora",
                     fields.ckpt_dir));
    r = (struct request){ .lora = fields.lora,
                          .lora_high = fields.lora_high,
                          .lora_low = fields.lora_low,
                          .lora_ignore_unknown = fields.ignore };
    TRY_OUT(job_loras(&r, &w.checkpoint, &model, true, w.lora));
    w.total = bytes_of(&w);
    progress_stage(&w.progress, "writing", 0, (int64_t)w.total, PROGRESS_BYTES);
    TRY_OUT((single ? write_single : write_folder)(&w, fields.out));
    progress_end(&w.progress);
    printf("%s: %d file%s of %s written\n", fields.out, w.files, w.files == 1 ? "" : "s",
           fields.ckpt_dir);
    for (int e = 0; e < EXPERTS_MAX; e++)
        for (int i = 0; lora_line(w.lora[e], i) != NULL; i++)
            printf("%s  %s\n", has && !single ? (e == 0 ? "high noise" : "low noise") : "merged",
                   lora_line(w.lora[e], i));
out:
    checkpoint_close(&w.checkpoint);
    for (int i = 0; i < EXPERTS_MAX; i++)
        lora_close(w.lora[i]);
    options_free(&set);
    return st;
}

/* Rank 0 writes; the other ranks wait. */
status cmd_convert(struct world *w, int argc, char **argv)
{
    return agree(w, w->rank == 0 ? convert(argc, argv) : ST_OK);
}
