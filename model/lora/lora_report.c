/* What `wanmpi inspect` prints about an adapter file. */
#include "model/lora/lora_internal.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TARGETS_MOST 256 // different names, without the numbers of blocks

/* How a file matches one variant of the part. */
struct match {
    const char *variant; // NULL: none tried yet
    int unknown, wrong, used;
};

static bool is_better(const struct match *a, const struct match *b)
{
    const int x = a->unknown + a->wrong, y = b->unknown + b->wrong;

    return b->variant == NULL || x < y || (x == y && a->used > b->used);
}

/* Matches the file with a variant; for files of two experts, the keys of both. `l` gets the
 * targets. */
static status match_variant(struct lora_file *f, const struct part *part, const struct variant *v,
                            struct lora *l, struct lora_problems *p, struct match *match)
{
    struct tensor_list list = { 0 };
    status st;

    *l = (struct lora){ .options = { .part = part, .config = v->config } };
    *match = (struct match){ .variant = v->name };
    part->tensors(&list, v->config, NULL);
    TRY_OUT(tensors_status(&list));
    for (int second = 0; second < 2; second++) {
        bool any = second == 0;
        int used = 0;

        for (int i = 0; i < f->count; i++)
            any = any || f->modules[i].place == PLACE_SECOND;
        if (!any)
            continue;
        l->options.second = second == 1;
        p->unknown = second == 1 ? p->unknown - f->unknown_count : 0; // counted for both
        TRY_OUT(lora_match(l, f, &list, true, p, &used));
        match->used += used;
    }
    match->unknown = p->unknown;
    match->wrong = p->wrong;
out:
    tensors_done(&list);
    return st;
}

/* "blocks.N.ffn.0.weight" for "blocks.7.ffn.0.weight". */
static void general_name(char *out, const char *name)
{
    const char *start = out;
    bool number = false;

    while (*name != 0) {
        const bool digit = *name >= '0' && *name <= '9' && !number && out - start >= 7 &&
                           strncmp(out - 7, "blocks.", 7) == 0;

        if (digit) {
            number = true;
            *out++ = 'N';
            name += strspn(name, "0123456789");
        } else {
            *out++ = *name++;
        }
    }
    *out = '\0';
}

/* Different names of the targets, without numbers, and how often each occurs. */
struct groups {
    char name[TARGETS_MOST][WEIGHT_NAME_BYTES];
    int times[TARGETS_MOST];
    int count;
};

static void group_targets(struct groups *g, const struct lora *l)
{
    for (int i = 0; i < l->count; i++) {
        char name[WEIGHT_NAME_BYTES];
        int k = 0;

        general_name(name, l->targets[i].name);
        while (k < g->count && strcmp(g->name[k], name) != 0)
            k++;
        if (k == TARGETS_MOST)
            continue;
        if (k == g->count)
            memcpy(g->name[g->count++], name, sizeof(name));
        g->times[k]++;
    }
}

/* Numbers of the file's modules: kinds of changes, ranks, scales. */
struct numbers {
    int kinds[LORA_SET + 1], dora;
    int64_t rank[2]; // least, most; 0: none
    float alpha[2];
    int alphas, products; // modules with an alpha; modules that may have one
};

static status count_module(struct lora_file *f, const struct lora_module *m, struct numbers *n)
{
    static const enum lora_role sizes[] = { ROLE_DOWN, ROLE_HADA_W1_B, ROLE_LOKR_W2_B,
                                            ROLE_LOKR_W1_B };
    const struct file_tensor *t = NULL;
    float scale, alpha;

    n->dora += m->part[ROLE_DORA] != NULL || m->part[ROLE_MAGNITUDE] != NULL;
    n->kinds[LORA_PRODUCT] += m->part[ROLE_UP] != NULL || m->part[ROLE_DOWN] != NULL;
    n->kinds[LORA_HADAMARD] += m->part[ROLE_HADA_W1_A] != NULL;
    n->kinds[LORA_KRONECKER] += m->part[ROLE_LOKR_W1] != NULL || m->part[ROLE_LOKR_W1_A] != NULL;
    n->kinds[LORA_DIFF] += (m->part[ROLE_DIFF] != NULL) + (m->part[ROLE_DIFF_B] != NULL) +
                           (m->part[ROLE_DIFF_M] != NULL) + (m->part[ROLE_UP_BIAS] != NULL);
    n->kinds[LORA_SET] += (m->part[ROLE_SET] != NULL) + (m->part[ROLE_SET_B] != NULL);
    for (size_t i = 0; i < COUNT(sizes) && t == NULL; i++)
        t = m->part[sizes[i]];
    if (t == NULL || t->shape.ndim == 0)
        return ST_OK;
    n->products++;
    n->rank[0] = n->rank[0] == 0 || t->shape.dim[0] < n->rank[0] ? t->shape.dim[0] : n->rank[0];
    n->rank[1] = t->shape.dim[0] > n->rank[1] ? t->shape.dim[0] : n->rank[1];
    TRY(lora_scale(f, m, t->shape.dim[0] > 0 ? t->shape.dim[0] : 1, &scale, &alpha));
    if (isnan(alpha))
        return ST_OK;
    n->alpha[0] = n->alphas == 0 || alpha < n->alpha[0] ? alpha : n->alpha[0];
    n->alpha[1] = n->alphas == 0 || alpha > n->alpha[1] ? alpha : n->alpha[1];
    n->alphas++;
    return ST_OK;
}

static void print_numbers(FILE *m, cJSON *json, const struct numbers *n)
{
    static const char *const names[] = { "products", "Hadamard products (LoHa)",
                                         "Kronecker products (LoKr)", "differences",
                                         "replacements" };
    static const char *const keys[] = { "lora", "loha", "lokr", "diff", "set" };
    cJSON *kinds = cJSON_AddObjectToObject(json, "kinds"), *list;
    int before = 0;

    fprintf(m, "  %-12s", "changes");
    for (int i = 0; i <= LORA_SET; i++) {
        if (n->kinds[i] == 0)
            continue;
        fprintf(m, "%s%d %s", before++ > 0 ? ", " : "", n->kinds[i], names[i]);
        cJSON_AddNumberToObject(kinds, keys[i], n->kinds[i]);
    }
    if (n->dora > 0)
        fprintf(m, ", %d with DoRA", n->dora);
    cJSON_AddNumberToObject(kinds, "dora", n->dora);
    fprintf(m, "\n");
    list = cJSON_AddArrayToObject(json, "rank");
    if (n->rank[1] > 0) {
        fprintf(m, "  %-12s%lld", "rank", (long long)n->rank[0]);
        if (n->rank[0] != n->rank[1])
            fprintf(m, " to %lld", (long long)n->rank[1]);
        fprintf(m, "\n");
        for (int i = 0; i < 2; i++)
            cJSON_AddItemToArray(list, cJSON_CreateNumber((double)n->rank[i]));
    }
    list = cJSON_AddArrayToObject(json, "alpha");
    for (int i = 0; i < 2 && n->alphas > 0; i++)
        cJSON_AddItemToArray(list, cJSON_CreateNumber((double)n->alpha[i]));
    if (n->products > 0) {
        fprintf(m, "  %-12s", "alpha");
        if (n->alphas == 0)
            fprintf(m, "none: as the rank\n");
        else if (n->alpha[0] == n->alpha[1])
            fprintf(m, "%g\n", (double)n->alpha[0]);
        else
            fprintf(m, "%g to %g\n", (double)n->alpha[0], (double)n->alpha[1]);
    }
}

static status print_targets(FILE *m, cJSON *json, const struct lora *l)
{
    struct groups *g = calloc(1, sizeof(*g));
    cJSON *list = cJSON_AddObjectToObject(json, "targets");

    if (g == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a report");
    group_targets(g, l);
    fprintf(m, "  %-12s%d tensors\n", "targets", l->count);
    for (int i = 0; i < g->count; i++) {
        fprintf(m, "  %-12s%4d  %s\n", "", g->times[i], g->name[i]);
        cJSON_AddNumberToObject(list, g->name[i], g->times[i]);
    }
    free(g);
    return ST_OK;
}

/* Prints the variants that the file fits, and for the best one its targets and unknown keys. */
static status print_matches(FILE *m, cJSON *json, struct lora_file *f, const struct part *part,
                            const struct variant *variants, bool all)
{
    struct lora_problems p = { .list = calloc(2 * (size_t)f->file.count + 1, sizeof(char *)) };
    cJSON *fits = cJSON_AddArrayToObject(json, "fits"), *unknown;
    const struct variant *best = NULL;
    struct match match, least = { NULL, 0, 0, 0 };
    struct lora l = { .count = 0 };
    int found = 0;
    status st = ST_OK;

    if (p.list == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a report");
    fprintf(m, "  %-12s", "fits");
    for (const struct variant *v = variants; v->name != NULL; v++) {
        p = (struct lora_problems){ .list = p.list };
        st = match_variant(f, part, v, &l, &p, &match);
        lora_targets_done(&l);
        TRY_OUT(st);
        if (is_better(&match, &least)) {
            least = match;
            best = v;
        }
        if (match.unknown + match.wrong == 0 && match.used > 0) {
            fprintf(m, "%s%s", found++ > 0 ? ", " : "", v->name);
            cJSON_AddItemToArray(fits, cJSON_CreateString(v->name));
        }
    }
    fprintf(m, "%s\n", found > 0 ? "" : "none of the models that it was compared with");
    p = (struct lora_problems){ .list = p.list };
    TRY_OUT(match_variant(f, part, best, &l, &p, &match));
    if (found == 0)
        fprintf(m, "  %-12s%s\n", "compared", best->name);
    TRY_OUT(print_targets(m, json, &l));
    if (p.wrong > 0)
        fprintf(m, "  %-12s%d modules, the first: %s\n", "do not fit", p.wrong, p.first_wrong);
    unknown = cJSON_AddArrayToObject(json, "unknown");
    if (p.unknown > 0)
        fprintf(m, "  %-12s%d keys%s%s\n", "unknown", p.unknown, all ? "" : ": ",
                all ? "" : p.names);
    for (int i = 0; i < p.unknown; i++) {
        cJSON_AddItemToArray(unknown, cJSON_CreateString(p.list[i]));
        if (all)
            fprintf(m, "  %-12s      %s\n", "", p.list[i]);
    }
    if (p.damaged > 0)
        st = fail(ST_FORMAT, "%s", p.first_wrong);
    else if (p.unknown > 0)
        st = fail(ST_FORMAT, "%s: %d of its keys are unknown (%s%s)", f->path, p.unknown, p.names,
                  p.unknown > 3 ? ", ..." : "");
out:
    lora_targets_done(&l);
    free(p.list);
    return st;
}

status lora_report(const char *path, const struct part *part, const struct variant *variants,
                   bool all_keys, char **text, cJSON **json)
{
    struct lora_file f = { .count = 0 };
    struct numbers n = { .dora = 0 };
    size_t size = 0;
    FILE *m = open_memstream(text, &size);
    status st;

    *json = cJSON_CreateObject();
    if (m == NULL || *json == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a report"));
    TRY_OUT(lora_file_open(&f, path));
    cJSON_AddStringToObject(*json, "path", path);
    cJSON_AddStringToObject(*json, "layout", "LoRA");
    cJSON_AddStringToObject(*json, "dialect", f.dialect);
    fprintf(m, "%s: LoRA\n  %-12s%s\n  %-12s%d\n", path, "dialect", f.dialect, "keys",
            f.file.count);
    for (int i = 0; i < f.count; i++)
        TRY_OUT(count_module(&f, &f.modules[i], &n));
    print_numbers(m, *json, &n);
    TRY_OUT(print_matches(m, *json, &f, part, variants, all_keys));
out:
    lora_file_close(&f);
    if (m != NULL && fclose(m) != 0 && st == ST_OK)
        st = fail(ST_MEMORY, "cannot allocate host memory for a report");
    return st;
}
