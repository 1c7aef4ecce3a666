/* What `wanmpi inspect` prints of a checkpoint. */
#include "model/checkpoint/checkpoint.h"

#include "model/checkpoint/checkpoint_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LINES_SHOWN 20 // of missing and unknown names, unless everything is asked for

/* 1418996800 as "1,418,996,800". Valid until the next call on this thread. */
static const char *grouped(int64_t n)
{
    static _Thread_local char text[32];
    char digits[24];
    const int length = snprintf(digits, sizeof(digits), "%" PRId64, n);
    int at = 0;

    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = '\0';
    return text;
}

/* The part's tensors as a list like that of an architecture. */
static status list_opened(const struct tensorfile *f, struct spec *s)
{
    s->tensors = calloc((size_t)f->count + 1, sizeof(*s->tensors));
    if (s->tensors == NULL)
        return fail(ST_MEMORY, "no memory for a list of %d tensors", f->count);
    s->count = s->room = f->count;
    for (int i = 0; i < f->count; i++) {
        const struct tensor *t = &f->tensors[i].shape;

        snprintf(s->tensors[i].name, sizeof(s->tensors[i].name), "%s", f->tensors[i].name);
        s->tensors[i].ndim = t->ndim;
        memcpy(s->tensors[i].dim, t->dim, sizeof(t->dim));
    }
    return ST_OK;
}

/* The presets whose part has the same tensors, "t2v-14B or t2v-A14B"; "" for none. */
static status match_presets(enum part part, const char *fingerprint, char *names, size_t size)
{
    const struct preset *p;

    names[0] = '\0';
    for (int i = 0; (p = preset_at(i)) != NULL; i++) {
        char hex[FINGERPRINT_BYTES];
        struct spec s = { 0 };
        const size_t used = strlen(names);
        status st = spec_part(&s, &p->config, part);

        if (st == ST_OK)
            st = spec_fingerprint(&s, hex);
        spec_done(&s);
        TRY(st);
        if (strcmp(hex, fingerprint) == 0)
            snprintf(names + used, size - used, "%s%s", used ? " or " : "", p->name);
    }
    return ST_OK;
}

static void print_files(FILE *m, const struct checkpoint *c, const struct tensorfile *f)
{
    const size_t folder = strlen(c->folder);

    for (int i = 0; i < f->files; i++) {
        const char *path = tensorfile_path(f, i);
        struct stat about;
        int tensors = 0;

        for (int k = 0; k < f->count; k++)
            tensors += f->tensors[k].file == i;
        if (strncmp(path, c->folder, folder) == 0 && path[folder] == '/')
            path += folder + 1;
        fprintf(m, "  %-12s%s, %d tensor%s",
                i              ? ""
                : f->files > 1 ? "files"
                               : "file",
                path, tensors, tensors == 1 ? "" : "s");
        if (stat(tensorfile_path(f, i), &about) == 0)
            fprintf(m, ", %s bytes", grouped((int64_t)about.st_size));
        fputc('\n', m);
    }
}

static void print_dtypes(FILE *m, const struct tensorfile *f)
{
    bool first = true;

    fprintf(m, "  %-12s", "dtypes");
    for (int dt = DT_NONE + 1; dt < DT_COUNT; dt++) {
        int tensors = 0;

        for (int i = 0; i < f->count; i++)
            tensors += f->tensors[i].shape.dtype == (enum dtype)dt;
        if (tensors == 0)
            continue;
        fprintf(m, "%s%s in %d", first ? "" : ", ", dtype_name((enum dtype)dt), tensors);
        first = false;
    }
    fputc('\n', m);
}

static void print_config(FILE *m, const struct model_config *config, enum part part)
{
    const struct dit_config *d = &config->dit;
    const struct t5_config *t = &config->t5;
    const struct vae_config *v = &config->vae;

    fprintf(m, "  %-12s", "config");
    switch (part) {
    case PART_DIT:
        fprintf(m,
                "%s, channels %" PRId64 " to %" PRId64 ", width %" PRId64 ", ffn %" PRId64
                ", %d heads, %d layers, text %" PRId64 " x %" PRId64 ", eps %g\n",
                dit_kind_name(d->kind), d->in_dim, d->out_dim, d->dim, d->ffn_dim, d->heads,
                d->layers, d->text_len, d->text_dim, (double)d->eps);
        if (d->extra_layers > 0)
            fprintf(m, "  %-12s%d %s\n", "", d->extra_layers,
                    d->kind == DIT_VACE  ? "VACE blocks"
                    : d->kind == DIT_S2V ? "audio injectors"
                                         : "face adapters");
        break;
    case PART_T5:
        fprintf(m,
                "vocabulary %" PRId64 ", width %" PRId64 ", attention %" PRId64 ", ffn %" PRId64
                ", %d heads, %d layers, %d buckets\n",
                t->vocab, t->dim, t->attn_dim, t->ffn_dim, t->heads, t->layers, t->buckets);
        break;
    default:
        fprintf(m, "%" PRId64 " latent channels, width %" PRId64, v->z, v->base);
        if (v->decoder_base != v->base)
            fprintf(m, " and %" PRId64 " in the decoder", v->decoder_base);
        fprintf(m, ", %d blocks per level, strides %" PRId64 " x %" PRId64 " x %" PRId64 "\n",
                v->res_blocks, v->stride_t, v->stride, v->stride);
        break;
    }
}

/* Whether the part is whole; which tensors are not as they should be. */
static status print_state(FILE *m, const struct checkpoint *c, enum part part, bool all)
{
    char *text = NULL;
    size_t size = 0;
    int lines = 0;
    FILE *full = open_memstream(&text, &size);
    status st;

    if (full == NULL)
        return fail(ST_MEMORY, "no memory for a report");
    st = compare_part(c, part, full);
    if (fclose(full) != 0)
        st = fail(ST_MEMORY, "no memory for a report");
    if (st == ST_OK) {
        fprintf(m, "  %-12scomplete\n", "state");
    } else if (st == ST_FORMAT) {
        fprintf(m, "  %-12s%s\n", "state", status_line());
        for (char *line = text; *line != '\0';) {
            const size_t length = strcspn(line, "\n");

            if (all || lines < LINES_SHOWN)
                fprintf(m, "  %.*s\n", (int)length, line);
            lines++;
            line += length + (line[length] == '\n');
        }
        if (!all && lines > LINES_SHOWN)
            fprintf(m, "    ... and %d more\n", lines - LINES_SHOWN);
        st = ST_OK; // it is reported
    }
    free(text);
    return st;
}

static status print_part(FILE *m, struct checkpoint *c, enum part part, bool all)
{
    const struct tensorfile *f = &c->part[part];
    char fingerprint[FINGERPRINT_BYTES], presets[256];
    struct spec opened = { 0 };
    status st = f->count > 0 ? ST_OK : part_open(c, part);

    fprintf(m, "\n%s\n", part_names[part]);
    if (st == ST_IO || st == ST_FORMAT) {
        fprintf(m, "  %-12s%s\n", "state", status_line());
        return ST_OK; // that it cannot be opened is what there is to say
    }
    if (st != ST_OK)
        return st;
    TRY_OUT(list_opened(f, &opened));
    TRY_OUT(spec_fingerprint(&opened, fingerprint));
    TRY_OUT(match_presets(part, fingerprint, presets, sizeof(presets)));
    print_files(m, c, f);
    fprintf(m, "  %-12s%d, ", "tensors", f->count);
    fprintf(m, "%s parameters, ", grouped(spec_parameters(&opened)));
    fprintf(m, "%s bytes\n", grouped((int64_t)f->total_bytes));
    print_dtypes(m, f);
    if (c->prefix[part][0] != '\0')
        fprintf(m, "  %-12s%s\n", "prefix", c->prefix[part]);
    print_config(m, &c->config, part);
    fprintf(m, "  %-12s%s, %s%s\n", "fingerprint", fingerprint,
            presets[0] ? "the tensors of " : "of no released model", presets);
    TRY_OUT(print_state(m, c, part, all));
    for (int i = 0; all && i < f->count; i++) {
        const struct file_tensor *t = &f->tensors[i];

        fprintf(m, "    %s %s%s%s\n", t->name, tensor_text(t->shape),
                strcmp(t->name, t->file_name) != 0 ? ", in the file " : "",
                strcmp(t->name, t->file_name) != 0 ? t->file_name : "");
    }
out:
    spec_done(&opened);
    return st;
}

status checkpoint_report(struct checkpoint *c, char **text, bool all_tensors)
{
    char *report = NULL;
    size_t size = 0;
    FILE *m = open_memstream(&report, &size);
    status st = ST_OK;

    if (m == NULL)
        return fail(ST_MEMORY, "no memory for a report");
    fprintf(m, "%s: %s%s\n", c->path, c->layout,
            strcmp(c->layout, LAYOUT_FILE) == 0 ? "" : " layout");
    for (int part = 0; part < PART_COUNT; part++)
        TRY_OUT(print_part(m, c, (enum part)part, all_tensors));
    fprintf(m, "\ntokenizer\n  %-12s%s\n", "file",
            c->tokenizer ? c->tokenizer : "no spiece.model was found");
out:
    if (fclose(m) != 0 && st == ST_OK)
        st = fail(ST_MEMORY, "no memory for a report");
    if (st == ST_OK)
        *text = report;
    else
        free(report);
    return st;
}
