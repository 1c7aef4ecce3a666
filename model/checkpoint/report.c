/* The text that `wanmpi inspect` prints about a checkpoint. */
#include "model/checkpoint/checkpoint.h"

#include "model/checkpoint/checkpoint_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LINES_SHOWN 20 // missing and unknown tensors that are listed without --tensors

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

/* Writes the names of the variants with the same tensors, "t2v-14B or t2v-A14B"; "" if none. */
static status match_variants(const struct part *part, const char *fingerprint, char *names,
                             size_t size)
{
    names[0] = '\0';
    for (const struct variant *v = part->variants; v->name != NULL; v++) {
        const size_t used = strlen(names);
        char hex[FINGERPRINT_BYTES] = "";

        TRY(variant_fingerprint(part, v->config, hex));
        if (strcmp(hex, fingerprint) == 0)
            snprintf(names + used, size - used, "%s%s", used ? " or " : "", v->name);
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

/* Prints whether the part is complete, and which tensors are missing, unknown or wrong. */
static status print_state(FILE *m, const struct checkpoint *c, const struct checkpoint_part *p,
                          bool all)
{
    char *text = NULL;
    size_t size = 0;
    int lines = 0;
    FILE *full = open_memstream(&text, &size);
    status st;

    if (full == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a report");
    st = compare_part(c, p, full);
    if (fclose(full) != 0)
        st = fail(ST_MEMORY, "cannot allocate host memory for a report");
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
        st = ST_OK; // the report contains the error
    }
    free(text);
    return st;
}

static status print_part(FILE *m, struct checkpoint *c, struct checkpoint_part *p, bool all)
{
    const struct tensorfile *f = &p->file;
    char fingerprint[FINGERPRINT_BYTES], variants[256];
    struct inventory opened = { 0 };
    status st = f->count > 0 ? ST_OK : part_open(c, p);

    fprintf(m, "\n%s\n", p->row->name);
    if (st == ST_IO || st == ST_FORMAT) {
        fprintf(m, "  %-12s%s\n", "state", status_line());
        return ST_OK; // the report contains the error
    }
    if (st != ST_OK)
        return st;
    TRY_OUT(inventory_of_file(&opened, f));
    TRY_OUT(inventory_fingerprint(&opened, fingerprint));
    TRY_OUT(match_variants(p->row, fingerprint, variants, sizeof(variants)));
    print_files(m, c, f);
    fprintf(m, "  %-12s%d, ", "tensors", f->count);
    fprintf(m, "%s parameters, ", grouped(inventory_parameters(&opened)));
    fprintf(m, "%s bytes\n", grouped((int64_t)f->total_bytes));
    print_dtypes(m, f);
    if (p->prefix[0] != '\0')
        fprintf(m, "  %-12s%s\n", "prefix", p->prefix);
    p->row->print(m, p->config);
    fprintf(m, "  %-12s%s, %s%s\n", "fingerprint", fingerprint,
            variants[0] ? "the tensors of " : "of no released model", variants);
    TRY_OUT(print_state(m, c, p, all));
    for (int i = 0; all && i < f->count; i++) {
        const struct file_tensor *t = &f->tensors[i];

        fprintf(m, "    %s %s%s%s\n", t->name, tensor_text(t->shape),
                strcmp(t->name, t->file_name) != 0 ? ", in the file " : "",
                strcmp(t->name, t->file_name) != 0 ? t->file_name : "");
    }
out:
    inventory_done(&opened);
    return st;
}

static void print_tokenizer(FILE *m, struct checkpoint *c)
{
    const char *from = NULL;
    char *bytes = NULL;
    size_t size = 0;

    fprintf(m, "\ntokenizer\n");
    if (checkpoint_tokenizer(c, &bytes, &size, &from) != ST_OK)
        fprintf(m, "  %-12s%s\n", "state", status_line());
    else
        fprintf(m, "  %-12s%s, %s bytes\n", "file", from, grouped((int64_t)size));
    free(bytes);
}

status checkpoint_report(struct checkpoint *c, char **text, bool all_tensors)
{
    char *report = NULL;
    size_t size = 0;
    FILE *m = open_memstream(&report, &size);
    status st = ST_OK;

    if (m == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a report");
    fprintf(m, "%s: %s%s\n", c->path, c->layout,
            strcmp(c->layout, LAYOUT_FILE) == 0 ? "" : " layout");
    for (int i = 0; i < c->count; i++)
        if (!c->parts[i].row->optional || checkpoint_has(c, c->parts[i].row))
            TRY_OUT(print_part(m, c, &c->parts[i], all_tensors));
    print_tokenizer(m, c);
out:
    if (fclose(m) != 0 && st == ST_OK)
        st = fail(ST_MEMORY, "cannot allocate host memory for a report");
    if (st == ST_OK)
        *text = report;
    else
        free(report);
    return st;
}
