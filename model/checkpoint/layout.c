/* Which files a part of a model consists of, in each layout. */
#include "model/checkpoint/checkpoint_internal.h"
#include "runtime/json.h"
#include "runtime/readfile.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define INDEX_BYTES_MAX ((size_t)16 << 20)

bool path_is_file(const char *path)
{
    struct stat about;

    return stat(path, &about) == 0 && S_ISREG(about.st_mode);
}

bool path_is_folder(const char *path)
{
    struct stat about;

    return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}

status path_list_add(struct path_list *list, const char *format, ...)
{
    va_list args;
    int length;

    if (list->count == list->capacity) {
        const int capacity = list->capacity ? 2 * list->capacity : 16;
        char **more = realloc(list->path, (size_t)capacity * sizeof(char *));

        if (more == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for a list of files");
        list->path = more;
        list->capacity = capacity;
    }
    va_start(args, format);
    length = vasprintf(&list->path[list->count], format, args);
    va_end(args);
    if (length < 0)
        return fail(ST_MEMORY, "cannot allocate host memory for a list of files");
    list->count++;
    return ST_OK;
}

void path_list_done(struct path_list *list)
{
    for (int i = 0; i < list->count; i++)
        free(list->path[i]);
    free(list->path);
    *list = (struct path_list){ 0 };
}

static int by_path(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Appends the files of `folder` whose names match the pattern, sorted; none if the folder does not
 * exist. */
status list_matching(const char *folder, const char *pattern, struct path_list *list)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    status st = ST_OK;

    if (dir == NULL)
        return errno == ENOENT || errno == ENOTDIR
                   ? ST_OK
                   : fail(status_of_errno(), "%s: %s", folder, strerror(errno));
    while (st == ST_OK && (entry = readdir(dir)) != NULL) {
        if (fnmatch(pattern, entry->d_name, FNM_PERIOD) != 0)
            continue;
        st = path_list_add(list, "%s/%s", folder, entry->d_name);
        if (st == ST_OK && !path_is_file(list->path[list->count - 1]))
            free(list->path[--list->count]);
    }
    closedir(dir);
    if (list->count > 0)
        qsort(list->path, (size_t)list->count, sizeof(char *), by_path);
    return st;
}

/* Checks that files named as shards are complete: with "NAME-00002-of-00006.safetensors" all six
 * must exist. */
status check_shards(const struct path_list *files)
{
    for (int i = 0; i < files->count; i++) {
        const char *path = files->path[i], *of = strstr(path, "-of-");
        int number, total, end = 0;

        for (const char *next = of; next != NULL; next = strstr(next + 1, "-of-"))
            of = next;
        if (of == NULL || of - path < 6 ||
            sscanf(of - 6, "-%5d-of-%5d.safetensors%n", &number, &total, &end) != 2 || end == 0)
            continue;
        for (int k = 1; k <= total; k++) {
            char *shard = NULL;
            bool exists;

            if (asprintf(&shard, "%.*s-%05d-of-%05d.safetensors", (int)(of - 6 - path), path, k,
                         total) < 0)
                return fail(ST_MEMORY, "cannot allocate host memory for a file name");
            exists = path_is_file(shard);
            if (!exists)
                fail(ST_IO, "%s: is missing; all %d shards are needed", shard, total);
            free(shard);
            if (!exists)
                return ST_IO;
        }
    }
    return ST_OK;
}

static status parse_index(const char *path, cJSON **json, const cJSON **map)
{
    char *text = NULL;
    status st;

    TRY(readfile_text(path, INDEX_BYTES_MAX, &text));
    st = json_parse(json, text, strlen(text), NULL, path);
    free(text);
    TRY(st);
    *map = cJSON_GetObjectItemCaseSensitive(*json, "weight_map");
    if (cJSON_IsObject(*map))
        return ST_OK;
    cJSON_Delete(*json);
    *json = NULL;
    return fail(ST_FORMAT, "%s: is not a JSON file with a weight_map", path);
}

/* Appends the shards that an index names, each once. Names with a '/' or a '.' at their start are
 * refused: an index must not name files outside its folder. */
static status files_of_index(const char *folder, const char *index, struct path_list *files)
{
    const cJSON *map = NULL, *entry;
    cJSON *json = NULL;
    status st = ST_OK;

    TRY(parse_index(index, &json, &map));
    cJSON_ArrayForEach(entry, map)
    {
        bool known = false;

        if (!cJSON_IsString(entry) || strchr(entry->valuestring, '/') != NULL ||
            entry->valuestring[0] == '.' || entry->valuestring[0] == '\0') {
            st = fail(ST_FORMAT, "%s: tensor %.80s must be in a file of the same folder", index,
                      entry->string);
            goto out;
        }
        for (int i = files->count - 1; i >= 0 && !known; i--)
            known = strcmp(strrchr(files->path[i], '/') + 1, entry->valuestring) == 0;
        if (known)
            continue;
        TRY_OUT(path_list_add(files, "%s/%s", folder, entry->valuestring));
        if (!path_is_file(files->path[files->count - 1])) {
            st = fail(ST_IO, "%s: is missing, but %s names it", files->path[files->count - 1],
                      index);
            goto out;
        }
    }
    if (files->count == 0)
        st = fail(ST_FORMAT, "%s: its weight_map is empty", index);
out:
    cJSON_Delete(json);
    return st;
}

bool layout_is_diffusers(const struct checkpoint *c)
{
    return strcmp(c->layout, LAYOUT_DIFFUSERS) == 0;
}

static const struct place *places_of(const struct checkpoint *c, const struct part *part)
{
    return layout_is_diffusers(c) ? part->diffusers : part->official;
}

/* The variant of a file of this stem: "fp16" of STEM.fp16.safetensors or
 * STEM.fp16-00001-of-00002.safetensors; "" if it has none. */
static void variant_of(const char *path, const char *stem, char *variant, size_t size)
{
    const char *name = strrchr(path, '/') + 1 + strlen(stem);
    const size_t length = *name == '.' ? strcspn(name + 1, ".-") : 0;

    variant[0] = '\0';
    if (length > 0 && length < size && (name[1 + length] == '.' || name[1 + length] == '-'))
        snprintf(variant, size, "%.*s", (int)length, name + 1);
}

/* Of files in several variants (`*variant`: "", or of diffusers), keeps those of one: without a
 * variant if there are such files, else bf16, else the first one. */
static void keep_variant(struct path_list *files, const char *stem, char *variant, size_t size)
{
    static const char *const preferred[] = { "", "bf16", "fp16", "fp32" };
    size_t best = COUNT(preferred) + 1;
    char own[32];
    int kept = 0;

    variant[0] = '\0';
    for (int i = 0; i < files->count; i++) {
        size_t rank = 0;

        variant_of(files->path[i], stem, own, sizeof(own));
        while (rank < COUNT(preferred) && strcmp(preferred[rank], own) != 0)
            rank++;
        if (rank >= best)
            continue;
        best = rank;
        snprintf(variant, size, "%s", own);
    }
    for (int i = 0; i < files->count; i++) {
        variant_of(files->path[i], stem, own, sizeof(own));
        if (strcmp(own, variant) == 0)
            files->path[kept++] = files->path[i];
        else
            free(files->path[i]);
    }
    files->count = kept;
}

/* The files STEM.safetensors, its shards, or other files that begin with the stem: those that an
 * index names, if there is one. */
status files_of_stem(const char *folder, const char *stem, struct path_list *files)
{
    static const char *const endings[] = { ".safetensors", "-*-of-*.safetensors", "*.safetensors" };
    char *index = NULL, variant[32];
    status st = ST_OK;

    if (asprintf(&index, "%s/%s.safetensors.index.json", folder, stem) < 0)
        return fail(ST_MEMORY, "cannot allocate host memory for a file name");
    if (path_is_file(index)) {
        TRY_OUT(files_of_index(folder, index, files));
        goto out;
    }
    for (size_t i = 0; files->count == 0 && i < COUNT(endings); i++) {
        char pattern[128];

        snprintf(pattern, sizeof(pattern), "%s%s", stem, endings[i]);
        TRY_OUT(list_matching(folder, pattern, files));
    }
    keep_variant(files, stem, variant, sizeof(variant));
    TRY_OUT(check_shards(files));
out:
    free(index);
    return st;
}

static status files_of_place(const struct checkpoint *c, const struct part *part,
                             const struct place *p, struct path_list *files)
{
    char *folder = NULL;
    status st = ST_OK;

    if (asprintf(&folder, "%s%s", c->folder, p->folder) < 0)
        return fail(ST_MEMORY, "cannot allocate host memory for a file name");
    if (p->stem) {
        TRY_OUT(files_of_stem(folder, p->name, files));
        goto out;
    }
    TRY_OUT(list_matching(folder, p->name, files));
    if (files->count > 1)
        st = fail(ST_FORMAT, "%s and %s both exist; choose one with --%s FILE", files->path[0],
                  files->path[1], part->key);
out:
    free(folder);
    return st;
}

/* Appends a place to the text of the paths that were tried:
 * "diffusion_pytorch_model*.safetensors, vae/...". */
static void note_tried(char *tried, size_t size, const struct place *p)
{
    const size_t used = strlen(tried);

    snprintf(tried + used, size - used, "%s%s%s%s%s", used ? ", " : "",
             *p->folder ? p->folder + 1 : "", *p->folder ? "/" : "", p->name,
             p->stem ? "*.safetensors" : "");
}

/* Finds the first place that has files of the part, and appends them; *found: NULL if none has. */
static status find_place(const struct checkpoint *c, const struct part *part,
                         const struct place **found, struct path_list *files)
{
    *found = NULL;
    for (const struct place *p = places_of(c, part); p->name != NULL; p++) {
        TRY(files_of_place(c, part, p, files));
        if (files->count > 0) {
            *found = p;
            return ST_OK;
        }
    }
    return ST_OK;
}

status layout_find(const struct checkpoint *c, const struct part *part, struct path_list *files,
                   const struct place **place)
{
    const bool single = strcmp(c->layout, LAYOUT_FILE) == 0;

    *place = NULL;
    if (part_of(c, part)->given != NULL)
        return search_given(c, part, part_of(c, part)->given, files);
    if (single && part->single_file)
        return search_given(c, part, c->path, files);
    if (single && part->pair == NULL)
        TRY(search_inside(c, part, files));
    if (files->count == 0)
        TRY(find_place(c, part, place, files));
    if (files->count == 0 && !layout_is_diffusers(c))
        TRY(search_folders(c, part, files));
    return ST_OK;
}

status layout_files(const struct checkpoint *c, const struct part *part, struct path_list *files,
                    const struct place **place)
{
    char tried[1000] = "";

    TRY(layout_find(c, part, files, place));
    if (files->count > 0)
        return ST_OK;
    for (const struct place *p = places_of(c, part); p->name != NULL; p++)
        note_tried(tried, sizeof(tried), p);
    for (const char *const *f = part->folders; f != NULL && *f != NULL; f++)
        if (!layout_is_diffusers(c))
            snprintf(tried + strlen(tried), sizeof(tried) - strlen(tried), ", %s/", *f);
    return fail(ST_IO, "%s: the %s is missing; tried %s; or pass --%s FILE", c->folder, part->name,
                tried, part->key);
}

/* "FOLDER/NAME", malloc'ed, where FOLDER is that of the opened part's first file; NULL without
 * memory. */
static char *path_in_folder_of(const struct checkpoint_part *p, const char *name)
{
    const char *first = tensorfile_path(&p->file, 0), *slash = strrchr(first, '/');
    char *path = NULL;

    if (slash == NULL)
        return strdup(name);
    return asprintf(&path, "%.*s/%s", (int)(slash - first), first, name) < 0 ? NULL : path;
}

status layout_check_index(const struct checkpoint_part *p)
{
    const cJSON *map = NULL, *entry;
    cJSON *json = NULL;
    char name[128], *index = NULL;
    status st = ST_OK;

    if (p->place == NULL || !p->place->stem)
        return ST_OK;
    snprintf(name, sizeof(name), "%s.safetensors.index.json", p->place->name);
    index = path_in_folder_of(p, name);
    if (index == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a file name");
    if (!path_is_file(index))
        goto out;
    TRY_OUT(parse_index(index, &json, &map));
    cJSON_ArrayForEach(entry, map)
    {
        const struct file_tensor *t = tensorfile_find(&p->file, entry->string);

        if (t == NULL && tensorfile_is_companion(entry->string))
            continue;
        if (t == NULL) {
            st = fail(ST_FORMAT, "%s: lists the tensor %.80s, but none of its files has it", index,
                      entry->string);
            goto out;
        }
        if (!cJSON_IsString(entry) ||
            strcmp(strrchr(tensorfile_path(&p->file, t->file), '/') + 1, entry->valuestring) != 0) {
            st = fail(ST_FORMAT, "%s: lists the tensor %.80s in another file than %s, which has it",
                      index, entry->string, tensorfile_path(&p->file, t->file));
            goto out;
        }
    }
out:
    cJSON_Delete(json);
    free(index);
    return st;
}

status layout_config(const struct checkpoint *c, const struct checkpoint_part *p, char **path)
{
    *path = NULL;
    if (!layout_is_diffusers(c) && !p->row->official_config)
        return ST_OK;
    *path = path_in_folder_of(p, "config.json");
    if (*path == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a file name");
    if (!path_is_file(*path)) {
        free(*path);
        *path = NULL;
    }
    return ST_OK;
}
