/* Which files a part of a model consists of, in each layout that users have. */
#include "model/checkpoint/checkpoint_internal.h"

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

    if (list->count == list->room) {
        const int room = list->room ? 2 * list->room : 16;
        char **more = realloc(list->path, (size_t)room * sizeof(char *));

        if (more == NULL)
            return fail(ST_MEMORY, "no memory for a list of files");
        list->path = more;
        list->room = room;
    }
    va_start(args, format);
    length = vasprintf(&list->path[list->count], format, args);
    va_end(args);
    if (length < 0)
        return fail(ST_MEMORY, "no memory for a list of files");
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

/* The files of `folder` whose names match, sorted; none when there is no such folder. */
static status list_matching(const char *folder, const char *pattern, struct path_list *list)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    status st = ST_OK;

    if (dir == NULL)
        return ST_OK;
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

status read_text(const char *path, size_t limit, char **text)
{
    FILE *file = fopen(path, "rbe");
    char *bytes = NULL;
    size_t size = 0, room = 0;
    status st = ST_OK;

    if (file == NULL)
        return fail(ST_IO, "%s: %s", path, strerror(errno));
    do {
        if (size + 1 >= room) {
            char *more = realloc(bytes, room ? 2 * room : 16384);

            if (more == NULL) {
                st = fail(ST_MEMORY, "%s: no memory to read it", path);
                goto out;
            }
            room = room ? 2 * room : 16384;
            bytes = more;
        }
        size += fread(bytes + size, 1, room - size - 1, file);
        if (size > limit) {
            st =
                fail(ST_FORMAT, "%s: is larger than %zu bytes, which no such file is", path, limit);
            goto out;
        }
    } while (!feof(file) && !ferror(file));
    if (ferror(file)) {
        st = fail(ST_IO, "%s: cannot be read", path);
        goto out;
    }
    bytes[size] = '\0';
    if (strlen(bytes) != size)
        st = fail(ST_FORMAT, "%s: is no text", path);
out:
    fclose(file);
    if (st == ST_OK)
        *text = bytes;
    else
        free(bytes);
    return st;
}

/* "NAME-00002-of-00006.safetensors": all six must be there. */
static status check_shards(const struct path_list *files)
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
            char *wanted = NULL;
            bool there;

            if (asprintf(&wanted, "%.*s-%05d-of-%05d.safetensors", (int)(of - 6 - path), path, k,
                         total) < 0)
                return fail(ST_MEMORY, "no memory for a file's name");
            there = path_is_file(wanted);
            if (!there)
                fail(ST_IO, "%s: is not there; %d shards belong together", wanted, total);
            free(wanted);
            if (!there)
                return ST_IO;
        }
    }
    return ST_OK;
}

static status parse_index(const char *path, cJSON **json, const cJSON **map)
{
    char *text = NULL;

    TRY(read_text(path, INDEX_BYTES_MAX, &text));
    *json = cJSON_Parse(text);
    free(text);
    *map = cJSON_GetObjectItemCaseSensitive(*json, "weight_map");
    if (cJSON_IsObject(*map))
        return ST_OK;
    cJSON_Delete(*json);
    *json = NULL;
    return fail(ST_FORMAT, "%s: is no JSON with a weight_map", path);
}

/* The shards that an index names, each once. */
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
            st = fail(ST_FORMAT, "%s: tensor %.80s is in no file that may be opened", index,
                      entry->string);
            goto out;
        }
        for (int i = files->count - 1; i >= 0 && !known; i--)
            known = strcmp(strrchr(files->path[i], '/') + 1, entry->valuestring) == 0;
        if (known)
            continue;
        TRY_OUT(path_list_add(files, "%s/%s", folder, entry->valuestring));
        if (!path_is_file(files->path[files->count - 1])) {
            st = fail(ST_IO, "%s: is not there, but %s names it", files->path[files->count - 1],
                      index);
            goto out;
        }
    }
    if (files->count == 0)
        st = fail(ST_FORMAT, "%s: names no files", index);
out:
    cJSON_Delete(json);
    return st;
}

/* Where a part's files are, first match wins. A stem stands for an index, one file, or shards; a
 * pattern must match one file. Folders are relative to the model's. */
struct place {
    const char *folder, *name;
    bool stem;
};

static const struct place official_places[PART_COUNT][8] = {
    [PART_DIT] = { { "", "diffusion_pytorch_model", true } },
    [PART_T5] = { { "", "models_t5_umt5-xxl-enc-bf16.pth", false },
                  { "", "models_t5*.pth", false },
                  { "", "models_t5*.safetensors", false },
                  { "", "umt5*.safetensors", false },
                  { "/text_encoders", "umt5*.safetensors", false },
                  { "/../text_encoders", "umt5*.safetensors", false } },
    [PART_VAE] = { { "", "Wan2.1_VAE.pth", false },
                   { "", "Wan2.1_VAE*.safetensors", false },
                   { "", "wan_2.1_vae*.safetensors", false },
                   { "", "Wan2.2_VAE.pth", false },
                   { "/vae", "wan_2.1_vae*.safetensors", false },
                   { "/../vae", "wan_2.1_vae*.safetensors", false } },
};

static const struct place diffusers_places[PART_COUNT][2] = {
    [PART_DIT] = { { "/transformer", "diffusion_pytorch_model", true } },
    [PART_T5] = { { "/text_encoder", "model", true } },
    [PART_VAE] = { { "/vae", "diffusion_pytorch_model", true } },
};

static const struct place *place_at(const struct checkpoint *c, enum part part, int i)
{
    const bool diffusers = strcmp(c->layout, LAYOUT_DIFFUSERS) == 0;
    const struct place *p = diffusers ? diffusers_places[part] : official_places[part];
    const int room = diffusers ? (int)COUNT(diffusers_places[0]) : (int)COUNT(official_places[0]);

    return i < room && p[i].name != NULL ? &p[i] : NULL;
}

static status files_of_stem(const char *folder, const char *stem, struct path_list *files)
{
    static const char *const endings[] = { ".safetensors", "-*-of-*.safetensors", "*.safetensors" };
    char *index = NULL;
    status st = ST_OK;

    if (asprintf(&index, "%s/%s.safetensors.index.json", folder, stem) < 0)
        return fail(ST_MEMORY, "no memory for a file's name");
    if (path_is_file(index)) {
        TRY_OUT(files_of_index(folder, index, files));
        goto out;
    }
    for (size_t i = 0; files->count == 0 && i < COUNT(endings); i++) {
        char pattern[128];

        snprintf(pattern, sizeof(pattern), "%s%s", stem, endings[i]);
        TRY_OUT(list_matching(folder, pattern, files));
    }
    TRY_OUT(check_shards(files));
out:
    free(index);
    return st;
}

static status files_of_place(const struct checkpoint *c, const struct place *p,
                             struct path_list *files)
{
    char *folder = NULL;
    status st = ST_OK;

    if (asprintf(&folder, "%s%s", c->folder, p->folder) < 0)
        return fail(ST_MEMORY, "no memory for a file's name");
    if (p->stem) {
        TRY_OUT(files_of_stem(folder, p->name, files));
        goto out;
    }
    TRY_OUT(list_matching(folder, p->name, files));
    if (files->count > 1)
        st = fail(ST_FORMAT, "%s and %s are both there; leave one of them", files->path[0],
                  files->path[1]);
out:
    free(folder);
    return st;
}

status layout_files(const struct checkpoint *c, enum part part, struct path_list *files)
{
    char tried[700] = "";
    int length = 0;
    const struct place *p;

    if (part == PART_DIT && strcmp(c->layout, LAYOUT_FILE) == 0)
        return path_list_add(files, "%s", c->path);
    for (int i = 0; (p = place_at(c, part, i)) != NULL; i++) {
        TRY(files_of_place(c, p, files));
        if (files->count > 0)
            return ST_OK;
        if (length < (int)sizeof(tried))
            length +=
                snprintf(tried + length, sizeof(tried) - (size_t)length, "%s%s%s%s", i ? ", " : "",
                         *p->folder ? p->folder + 1 : "", *p->folder ? "/" : "", p->name);
        if (p->stem && length < (int)sizeof(tried))
            length += snprintf(tried + length, sizeof(tried) - (size_t)length, "*.safetensors");
    }
    return fail(ST_IO, "%s: the %s is not there; tried %s", c->folder, part_names[part], tried);
}

status layout_check_index(const struct checkpoint *c, enum part part, const struct tensorfile *f)
{
    const struct place *p = place_at(c, part, 0);
    const cJSON *map = NULL, *entry;
    cJSON *json = NULL;
    char *index = NULL;
    status st = ST_OK;

    if (!p->stem || (part == PART_DIT && strcmp(c->layout, LAYOUT_FILE) == 0))
        return ST_OK;
    if (asprintf(&index, "%s%s/%s.safetensors.index.json", c->folder, p->folder, p->name) < 0)
        return fail(ST_MEMORY, "no memory for a file's name");
    if (!path_is_file(index))
        goto out;
    TRY_OUT(parse_index(index, &json, &map));
    cJSON_ArrayForEach(entry, map)
    {
        const struct file_tensor *t = tensorfile_find(f, entry->string);

        if (t == NULL) {
            st = fail(ST_FORMAT, "%s: names the tensor %.80s, which none of its files has", index,
                      entry->string);
            goto out;
        }
        if (!cJSON_IsString(entry) ||
            strcmp(strrchr(tensorfile_path(f, t->file), '/') + 1, entry->valuestring) != 0) {
            st = fail(ST_FORMAT, "%s: tensor %.80s is in %s, not where this says", index,
                      entry->string, tensorfile_path(f, t->file));
            goto out;
        }
    }
out:
    cJSON_Delete(json);
    free(index);
    return st;
}

char *layout_config(const struct checkpoint *c, enum part part)
{
    const bool diffusers = strcmp(c->layout, LAYOUT_DIFFUSERS) == 0;
    char *path = NULL;

    if (!diffusers && part != PART_DIT)
        return NULL;
    if (asprintf(&path, "%s%s/config.json", c->folder,
                 diffusers ? diffusers_places[part][0].folder : "") < 0)
        return NULL;
    if (!path_is_file(path)) {
        free(path);
        return NULL;
    }
    return path;
}
