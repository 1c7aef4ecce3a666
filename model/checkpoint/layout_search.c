/* Finds the files of a part by what they contain: in ComfyUI's folders, in files that the user
 * gives, and in a file that has several parts. */
#include "model/checkpoint/checkpoint_internal.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? slash + 1 : path;
}

/* ---- which files belong together ---- */

static bool is_weight_file(const char *name)
{
    static const char *const endings[] = { ".safetensors", ".sft", ".gguf", ".pth",
                                           ".pt",          ".bin", ".ckpt" };
    const char *end = strrchr(name, '.');

    for (size_t i = 0; end != NULL && i < COUNT(endings); i++)
        if (strcasecmp(end, endings[i]) == 0)
            return true;
    return false;
}

/* Where the number of a shard begins in a name without ending: "-00001-of-00006", "_part1",
 * "block_7"; *whole: after the number, but for an ending. NULL: it is not named so. */
static const char *shard_number(const char *name)
{
    const char *of = strstr(name, "-of-"), *part = strstr(name, "_part");

    if (of != NULL && of - name > 6 && of[-6] == '-' && isdigit((unsigned char)of[-1]))
        return of - 6;
    return part != NULL && isdigit((unsigned char)part[5]) ? part : NULL;
}

/* Whether both are shards of the same tensors. LightX2V: block_0.safetensors, ...,
 * non_block.safetensors. */
static bool is_together(const char *a, const char *b)
{
    const char *number;
    size_t stem;

    a = name_of(a);
    b = name_of(b);
    if (strncmp(a, "block_", 6) == 0 || strncmp(a, "non_block.", 10) == 0)
        return strncmp(b, "block_", 6) == 0 || strncmp(b, "non_block.", 10) == 0;
    number = shard_number(a);
    if (number == NULL || shard_number(b) == NULL)
        return false;
    stem = (size_t)(number - a);
    return stem == (size_t)(shard_number(b) - b) && strncmp(a, b, stem) == 0;
}

/* Appends the weight files of a folder; none if it does not exist. */
static status list_weights(const char *folder, struct path_list *list)
{
    struct path_list all = { 0 };
    status st;

    TRY_OUT(list_matching(folder, "*", &all));
    for (int i = 0; i < all.count; i++)
        if (is_weight_file(all.path[i]))
            TRY_OUT(path_list_add(list, "%s", all.path[i]));
out:
    path_list_done(&all);
    return st;
}

/* Moves path[first] and the files that belong to it from `all` to `group`. */
static status take_group(struct path_list *all, struct path_list *group)
{
    char *first = all->path[0];
    int kept = 0;
    status st = ST_OK;

    for (int i = 0; i < all->count && st == ST_OK; i++) {
        if (i == 0 || is_together(first, all->path[i]))
            st = path_list_add(group, "%s", all->path[i]);
    }
    for (int i = 1; i < all->count; i++) {
        if (is_together(first, all->path[i]))
            free(all->path[i]);
        else
            all->path[kept++] = all->path[i];
    }
    free(first);
    all->count = kept;
    return st;
}

/* ---- what they contain ---- */

/* *has: whether the files have the part. A file that cannot be read has none: *st is then its
 * error, whose line stays. */
static bool has_part(const struct path_list *group, const struct part *part, status *st)
{
    struct tensorfile f = { 0 };
    struct naming naming;
    bool has = false;

    *st = tensorfile_open(&f, (const char *const *)group->path, group->count);
    if (*st == ST_OK)
        has = names_detect(&naming, &f, part);
    tensorfile_close(&f);
    return has;
}

/* Where the word `mark` ("low") is in the last two names of a path, as in low_noise or LowNoise;
 * NULL: nowhere. */
static char *find_mark(const char *path, const char *mark)
{
    const char *from = name_of(path), *found = NULL;
    const size_t length = strlen(mark);

    if (from > path + 1) {
        from--;
        while (from > path && from[-1] != '/')
            from--;
    }
    for (const char *at = strcasestr(from, mark); at != NULL; at = strcasestr(at + 1, mark)) {
        const char *end = at + length;

        if ((at == from || !isalpha((unsigned char)at[-1])) &&
            (!isalpha((unsigned char)*end) || strncasecmp(end, "noise", 5) == 0))
            found = at;
    }
    return (char *)found;
}

#define LOW "low"
#define HIGH "high"

/* Whether a file's name says that it is the other expert. */
static bool is_other_expert(const struct part *part, const char *path)
{
    return part->mark != NULL && find_mark(path, part->mark) != NULL &&
           find_mark(path, part->pair != NULL ? LOW : HIGH) == NULL;
}

/* The group of files that have the part in `folder`, if there is one. `found` has one file of each
 * group; *first_error: of the files that could not be read. */
static status search_folder(const char *folder, const struct part *part, struct path_list *files,
                            char *unread, size_t unread_size)
{
    struct path_list all = { 0 }, group = { 0 };
    char several[400] = "";
    int others = 0;
    status st;

    TRY_OUT(list_weights(folder, &all));
    while (all.count > 0) {
        status opened = ST_OK;
        bool has;

        path_list_done(&group);
        TRY_OUT(take_group(&all, &group));
        if (is_other_expert(part, group.path[0]) ||
            (part->pair != NULL && find_mark(group.path[0], LOW) == NULL))
            continue;
        has = has_part(&group, part, &opened);
        if (opened == ST_MEMORY)
            TRY_OUT(opened);
        if (opened != ST_OK && *unread == '\0')
            snprintf(unread, unread_size, "%s", status_line());
        if (!has)
            continue;
        if (files->count > 0) {
            if (*several == '\0')
                snprintf(several, sizeof(several), "%s", files->path[0]);
            if (++others < 3)
                snprintf(several + strlen(several), sizeof(several) - strlen(several), ", %s",
                         name_of(group.path[0]));
            continue;
        }
        for (int i = 0; i < group.count; i++)
            TRY_OUT(path_list_add(files, "%s", group.path[i]));
    }
    if (others > 0)
        st = fail(ST_FORMAT, "%s%s: each has a %s; choose one with --%s FILE", several,
                  others > 2 ? ", ..." : "", part->name, part->key);
    if (st == ST_OK)
        st = check_shards(files);
out:
    path_list_done(&all);
    path_list_done(&group);
    return st;
}

/* ---- where they are ---- */

/* Appends the folders to search for the part, under `base`. Users sort files into folders of their
 * own in ComfyUI's. */
static status add_folders(const char *base, const struct part *part, struct path_list *folders)
{
    static const char *const bases[] = { "", "/split_files", "/models" };

    for (size_t b = 0; b < COUNT(bases); b++) {
        for (const char *const *f = part->folders; f != NULL && *f != NULL; f++) {
            const struct dirent *entry;
            const char *folder;
            status st = ST_OK;
            DIR *dir;

            TRY(path_list_add(folders, "%s%s/%s", base, bases[b], *f));
            folder = folders->path[folders->count - 1];
            dir = opendir(folder);
            while (st == ST_OK && dir != NULL && (entry = readdir(dir)) != NULL)
                if (entry->d_name[0] != '.')
                    st = path_list_add(folders, "%s%s/%s/%s", base, bases[b], *f, entry->d_name);
            if (dir != NULL)
                closedir(dir);
            TRY(st);
        }
    }
    return ST_OK;
}

/* The file for low noise that belongs to one for high noise: the same path, with "low". */
static status search_pair(const struct checkpoint *c, const struct part *part, const char *high,
                          struct path_list *files)
{
    char *low = NULL, *mark;
    status st = ST_OK;

    if (find_mark(high, HIGH) == NULL)
        return ST_OK;
    low = strdup(high);
    if (low == NULL)
        return fail(ST_MEMORY, "%s: cannot allocate host memory for the path", high);
    while ((mark = find_mark(low, HIGH)) != NULL) {
        const bool capital = isupper((unsigned char)mark[0]), all = isupper((unsigned char)mark[1]);

        memcpy(mark, all ? "LOW" : capital ? "Low" : "low", 3);
        memmove(mark + 3, mark + 4, strlen(mark + 4) + 1);
    }
    if (path_is_file(low))
        st = search_given(c, part, low, files);
    free(low);
    return st;
}

status search_folders(const struct checkpoint *c, const struct part *part, struct path_list *files)
{
    static const char *const up[] = { "", "/..", "/../.." };
    const bool single = strcmp(c->layout, LAYOUT_FILE) == 0;
    struct path_list folders = { 0 }, high = { 0 };
    char unread[512] = "";
    status st = ST_OK;

    if (part->pair != NULL) { // only beside a file for high noise
        const struct place *place;

        TRY_OUT(layout_find(c, part->pair, &high, &place));
        if (high.count > 0)
            TRY_OUT(search_pair(c, part, high.path[0], files));
        if (files->count > 0 || high.count == 0 || find_mark(high.path[0], HIGH) == NULL ||
            single || part_of(c, part->pair)->given != NULL)
            goto out;
    }
    TRY_OUT(path_list_add(&folders, "%s", c->folder));
    for (size_t i = 0; i < (single ? COUNT(up) : 1); i++) {
        char base[4096];

        if (snprintf(base, sizeof(base), "%s%s", c->folder, up[i]) < (int)sizeof(base))
            TRY_OUT(add_folders(base, part, &folders));
    }
    for (int i = 0; i < folders.count && files->count == 0; i++) {
        if (i == 1)
            *unread = '\0'; // the first folder has files of all parts
        TRY_OUT(search_folder(folders.path[i], part, files, unread, sizeof(unread)));
    }
    if (files->count == 0 && folders.count > 1 && *unread != '\0' && !part->optional)
        st = fail(ST_FORMAT, "%s", unread);
out:
    path_list_done(&folders);
    path_list_done(&high);
    return st;
}

bool checkpoint_is_high_noise(const struct checkpoint *c, const struct part *part)
{
    const struct tensorfile *f = &part_of(c, part)->file;
    const char *mark = f->count > 0 ? find_mark(name_of(tensorfile_path(f, 0)), HIGH) : NULL;

    if (mark == NULL)
        return false;
    mark += strlen(HIGH);
    return strncasecmp(mark + (!isalpha((unsigned char)*mark) && *mark != '\0'), "noise", 5) == 0;
}

status search_inside(const struct checkpoint *c, const struct part *part, struct path_list *files)
{
    struct path_list own = { 0 };
    status st, opened = ST_OK;

    TRY_OUT(path_list_add(&own, "%s", c->path));
    if (has_part(&own, part, &opened))
        TRY_OUT(path_list_add(files, "%s", c->path));
    if (opened == ST_MEMORY)
        st = opened;
out:
    path_list_done(&own);
    return st;
}

status search_given(const struct checkpoint *c, const struct part *part, const char *path,
                    struct path_list *files)
{
    struct path_list all = { 0 };
    char *folder = NULL, unread[512] = "";
    status st = ST_OK;

    (void)c;
    if (path_is_folder(path)) {
        TRY_OUT(files_of_stem(path, "diffusion_pytorch_model", files));
        if (files->count == 0)
            TRY_OUT(search_folder(path, part, files, unread, sizeof(unread)));
        if (files->count == 0)
            TRY_OUT(fail(ST_IO, "%s: has no file with a %s", path, part->name));
        goto out;
    }
    folder =
        name_of(path) == path ? strdup(".") : strndup(path, (size_t)(name_of(path) - path) - 1);
    if (folder == NULL)
        TRY_OUT(fail(ST_MEMORY, "%s: cannot allocate host memory for the path", path));
    TRY_OUT(path_list_add(files, "%s", path));
    TRY_OUT(list_weights(*folder != '\0' ? folder : "/", &all));
    for (int i = 0; i < all.count; i++)
        if (strcmp(name_of(all.path[i]), name_of(path)) != 0 && is_together(path, all.path[i]))
            TRY_OUT(path_list_add(files, "%s", all.path[i]));
    TRY_OUT(check_shards(files));
out:
    path_list_done(&all);
    free(folder);
    return st;
}

status search_has_weights(const struct checkpoint *c, const struct part *const *parts, bool *has)
{
    struct path_list folders = { 0 }, files = { 0 };
    status st;

    *has = false;
    TRY_OUT(path_list_add(&folders, "%s", c->path));
    for (int i = 0; parts[i] != NULL; i++)
        TRY_OUT(add_folders(c->path, parts[i], &folders));
    for (int i = 0; i < folders.count && files.count == 0; i++)
        TRY_OUT(list_weights(folders.path[i], &files));
    *has = files.count > 0;
out:
    path_list_done(&folders);
    path_list_done(&files);
    return st;
}
