/* What `wanmpi inspect` prints about a checkpoint: each fact goes into the text and into the JSON.
 * cJSON's functions accept NULL, so that only checkpoint_report checks for memory. */
#include "model/checkpoint/checkpoint.h"

#include "model/checkpoint/checkpoint_internal.h"

#include <cjson/cJSON.h>
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
static status match_variants(cJSON *json, const struct part *part, const char *fingerprint,
                             char *names, size_t size)
{
    cJSON *list = cJSON_AddArrayToObject(json, "released");

    names[0] = '\0';
    for (const struct variant *v = part->variants; v->name != NULL; v++) {
        const size_t used = strlen(names);
        char hex[FINGERPRINT_BYTES] = "";

        TRY(variant_fingerprint(part, v->config, hex));
        if (strcmp(hex, fingerprint) != 0)
            continue;
        snprintf(names + used, size - used, "%s%s", used ? " or " : "", v->name);
        cJSON_AddItemToArray(list, cJSON_CreateString(v->name));
    }
    return ST_OK;
}

static void print_files(FILE *m, cJSON *json, const struct checkpoint *c,
                        const struct tensorfile *f)
{
    const size_t folder = strlen(c->folder);
    cJSON *list = cJSON_AddArrayToObject(json, "files");

    for (int i = 0; i < f->files; i++) {
        const char *path = tensorfile_path(f, i);
        cJSON *file = cJSON_CreateObject();
        struct stat about;
        int tensors = 0;

        for (int k = 0; k < f->count; k++)
            tensors += f->tensors[k].file == i;
        cJSON_AddStringToObject(file, "path", path);
        cJSON_AddNumberToObject(file, "tensors", tensors);
        if (strncmp(path, c->folder, folder) == 0 && path[folder] == '/')
            path += folder + 1;
        fprintf(m, "  %-12s%s, %d tensor%s",
                i              ? ""
                : f->files > 1 ? "files"
                               : "file",
                path, tensors, tensors == 1 ? "" : "s");
        if (stat(tensorfile_path(f, i), &about) == 0) {
            fprintf(m, ", %s bytes", grouped((int64_t)about.st_size));
            cJSON_AddNumberToObject(file, "bytes", (double)about.st_size);
        }
        fputc('\n', m);
        cJSON_AddItemToArray(list, file);
    }
}

/* How many tensors are stored in each format. */
static void print_formats(FILE *m, cJSON *json, const struct tensorfile *f)
{
    cJSON *counts = cJSON_AddObjectToObject(json, "dtypes"), *count;

    for (int i = 0; i < f->count; i++) {
        count = cJSON_GetObjectItemCaseSensitive(counts, f->tensors[i].format);
        if (count != NULL)
            cJSON_SetNumberValue(count, count->valuedouble + 1);
        else
            cJSON_AddNumberToObject(counts, f->tensors[i].format, 1);
    }
    fprintf(m, "  %-12s", "dtypes");
    cJSON_ArrayForEach(count, counts)
    {
        fprintf(m, "%s%s in %.0f", count == counts->child ? "" : ", ", count->string,
                count->valuedouble);
    }
    fputc('\n', m);
}

/* Bytes of the matrices that may stay as they are in the file: so, and as bf16. */
struct staying {
    double stored, bf16;
};

static status add_staying(void *payload, const struct weight_spec *spec, const char *name,
                          int64_t first, int64_t count, const struct weight_form *form)
{
    struct staying *s = payload;

    if (form != NULL) {
        s->stored += (double)count;
        s->bf16 += 2 * (double)form->stored.count;
    }
    return ST_OK;
}

/* What --weights stored would keep, if anything. */
static status print_staying(FILE *m, cJSON *json, struct checkpoint_part *p)
{
    const struct weight_source source = part_source(p);
    struct staying s = { 0, 0 };
    struct tensor_list list = { 0 };
    status st;

    p->row->tensors(&list, p->config, &p->file);
    for (int i = 0; i < list.count; i++)
        if (list.specs[i].ndim == 2)
            list.specs[i].dtype = DT_BF16;
    st = tensors_ranges(&list, 1, 0, &source, add_staying, &s);
    tensors_done(&list);
    if (st == ST_OK && s.stored > 0) {
        fprintf(m,
                "  %-12s--weights stored keeps matrices of %.2f GB as they are; as bf16 they "
                "have %.2f GB\n",
                "memory", s.stored * 1e-9, s.bf16 * 1e-9);
        cJSON_AddNumberToObject(json, "stored_bytes", s.stored);
    }
    return st;
}

void checkpoint_report_problem(struct checkpoint_report *r, status st)
{
    cJSON_AddItemToArray(cJSON_GetObjectItem(r->json, "problems"),
                         cJSON_CreateString(status_line()));
    if (r->st != ST_OK)
        return;
    r->st = st;
    snprintf(r->problem, sizeof(r->problem), "%s", status_line());
}

/* Prints the state of a part or of the tokenizer: complete, or status_line(). */
static void print_state(struct checkpoint_report *r, FILE *m, cJSON *json, status st)
{
    fprintf(m, "  %-12s%s\n", "state", st == ST_OK ? "complete" : status_line());
    cJSON_AddBoolToObject(json, "complete", st == ST_OK);
    if (st != ST_OK)
        checkpoint_report_problem(r, st);
}

/* Prints whether the part is complete, and which tensors are missing, unknown or wrong. */
static status print_compared(struct checkpoint_report *r, FILE *m, cJSON *json,
                             const struct checkpoint *c, const struct checkpoint_part *p, bool all)
{
    char *text = NULL;
    size_t size = 0;
    int lines = 0;
    FILE *full = open_memstream(&text, &size);
    cJSON *list;
    status st;

    if (full == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a report");
    st = compare_part(c, p, full);
    if (fclose(full) != 0)
        st = fail(ST_MEMORY, "cannot allocate host memory for a report");
    if (st == ST_OK || st == ST_FORMAT) {
        print_state(r, m, json, st);
        list = cJSON_AddArrayToObject(json, "differences");
        for (char *rest = text, *line; st != ST_OK && (line = strsep(&rest, "\n")) != NULL;) {
            if (*line == '\0')
                continue;
            if (all || lines < LINES_SHOWN)
                fprintf(m, "  %s\n", line);
            cJSON_AddItemToArray(list, cJSON_CreateString(line + strspn(line, " ")));
            lines++;
        }
        if (!all && lines > LINES_SHOWN)
            fprintf(m, "    ... and %d more\n", lines - LINES_SHOWN);
        st = ST_OK; // the report contains the error
    }
    free(text);
    return st;
}

static void print_tensors(FILE *m, cJSON *json, const struct tensorfile *f)
{
    cJSON *list = cJSON_AddArrayToObject(json, "names");

    for (int i = 0; i < f->count; i++) {
        const struct file_tensor *t = &f->tensors[i];
        cJSON *entry = cJSON_CreateObject(), *shape;

        cJSON_AddStringToObject(entry, "name", t->name);
        cJSON_AddStringToObject(entry, "file_name", t->file_name);
        cJSON_AddStringToObject(entry, "dtype", t->format);
        shape = cJSON_AddArrayToObject(entry, "shape");
        for (int k = 0; k < t->shape.ndim; k++)
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)t->shape.dim[k]));
        cJSON_AddItemToArray(list, entry);
        fprintf(m, "    %s %s%s%s%s\n", t->name, t->format, strchr(tensor_text(t->shape), ' '),
                strcmp(t->name, t->file_name) != 0 ? ", in the file " : "",
                strcmp(t->name, t->file_name) != 0 ? t->file_name : "");
    }
}

static status print_part(struct checkpoint_report *r, FILE *m, struct checkpoint *c,
                         struct checkpoint_part *p, bool all)
{
    const struct tensorfile *f = &p->file;
    char fingerprint[FINGERPRINT_BYTES], variants[256];
    struct inventory opened = { 0 };
    cJSON *json = cJSON_CreateObject();
    status st = f->count > 0 ? ST_OK : part_open(c, p);

    cJSON_AddItemToArray(cJSON_GetObjectItem(r->json, "parts"), json);
    cJSON_AddStringToObject(json, "part", p->row->key);
    fprintf(m, "\n%s\n", p->row->name);
    if (st == ST_IO || st == ST_FORMAT) {
        print_state(r, m, json, st);
        return ST_OK; // the report contains the error
    }
    if (st != ST_OK)
        return st;
    TRY_OUT(inventory_of_file(&opened, f));
    TRY_OUT(inventory_fingerprint(&opened, fingerprint));
    print_files(m, json, c, f);
    fprintf(m, "  %-12s%d, ", "tensors", f->count);
    fprintf(m, "%s parameters, ", grouped(inventory_parameters(&opened)));
    fprintf(m, "%s bytes\n", grouped((int64_t)f->total_bytes));
    cJSON_AddNumberToObject(json, "tensors", f->count);
    cJSON_AddNumberToObject(json, "parameters", (double)inventory_parameters(&opened));
    cJSON_AddNumberToObject(json, "bytes", (double)f->total_bytes);
    print_formats(m, json, f);
    if (p->row->may_stay)
        TRY_OUT(print_staying(m, json, p));
    if (p->naming.prefix[0] != '\0')
        fprintf(m, "  %-12s%s\n", "prefix", p->naming.prefix);
    cJSON_AddStringToObject(json, "prefix", p->naming.prefix);
    p->row->print(m, p->config);
    p->row->config_json(cJSON_AddObjectToObject(json, "config"), p->config, false);
    cJSON_AddStringToObject(json, "fingerprint", fingerprint);
    TRY_OUT(match_variants(json, p->row, fingerprint, variants, sizeof(variants)));
    fprintf(m, "  %-12s%s, %s%s\n", "fingerprint", fingerprint,
            variants[0] ? "the tensors of " : "of no released model", variants);
    TRY_OUT(print_compared(r, m, json, c, p, all));
    if (all)
        print_tensors(m, json, f);
out:
    inventory_done(&opened);
    return st;
}

static void print_tokenizer(struct checkpoint_report *r, FILE *m, struct checkpoint *c)
{
    cJSON *json = cJSON_AddObjectToObject(r->json, "tokenizer");
    const char *from = NULL;
    char *bytes = NULL;
    size_t size = 0;
    const status st = checkpoint_tokenizer(c, &bytes, &size, &from);

    fprintf(m, "\ntokenizer\n");
    if (st != ST_OK) {
        print_state(r, m, json, st);
    } else {
        fprintf(m, "  %-12s%s, %s bytes\n", "file", from, grouped((int64_t)size));
        cJSON_AddStringToObject(json, "path", from);
        cJSON_AddNumberToObject(json, "bytes", (double)size);
        cJSON_AddBoolToObject(json, "complete", true);
    }
    free(bytes);
}

/* Prints the parts that a single file has, which is not the part that it should be. */
static status print_inside(struct checkpoint_report *r, FILE *m, struct checkpoint *c, bool all)
{
    for (int i = 0; i < c->count; i++) {
        struct path_list files = { 0 };
        status st = ST_OK;

        if (!c->parts[i].row->single_file && c->parts[i].row->pair == NULL)
            st = search_inside(c, c->parts[i].row, &files);
        if (st == ST_OK && files.count > 0)
            st = print_part(r, m, c, &c->parts[i], all);
        path_list_done(&files);
        TRY(st);
    }
    return ST_OK;
}

/* Prints the parts. If a single file is not the part that it should be, the others are not looked
 * for beside it. */
static status print_parts(struct checkpoint_report *r, FILE *m, struct checkpoint *c, bool all)
{
    for (int i = 0; i < c->count; i++) {
        struct checkpoint_part *p = &c->parts[i];
        bool has;

        if (p->row->optional && checkpoint_has(&has, c, p->row) == ST_OK && !has)
            continue;
        TRY(print_part(r, m, c, p, all));
        if (strcmp(c->layout, LAYOUT_FILE) == 0 && p->row->single_file && p->file.count == 0)
            return print_inside(r, m, c, all);
    }
    print_tokenizer(r, m, c);
    return ST_OK;
}

status checkpoint_report(struct checkpoint *c, struct checkpoint_report *r, bool all_tensors)
{
    size_t size = 0;
    FILE *m;
    status st = ST_OK;

    *r = (struct checkpoint_report){ .json = cJSON_CreateObject() };
    m = open_memstream(&r->text, &size);
    cJSON_AddStringToObject(r->json, "path", c->path);
    cJSON_AddStringToObject(r->json, "layout", c->layout);
    cJSON_AddArrayToObject(r->json, "parts");
    if (m == NULL || cJSON_AddArrayToObject(r->json, "problems") == NULL) {
        st = fail(ST_MEMORY, "cannot allocate host memory for a report");
        goto out;
    }
    fprintf(m, "%s: %s%s\n", c->path, c->layout,
            strcmp(c->layout, LAYOUT_FILE) == 0 ? "" : " layout");
    TRY_OUT(print_parts(r, m, c, all_tensors));
out:
    if (m != NULL && fclose(m) != 0 && st == ST_OK)
        st = fail(ST_MEMORY, "cannot allocate host memory for a report");
    if (st != ST_OK)
        checkpoint_report_done(r);
    return st;
}

void checkpoint_report_done(struct checkpoint_report *r)
{
    free(r->text);
    cJSON_Delete(r->json);
    *r = (struct checkpoint_report){ 0 };
}
