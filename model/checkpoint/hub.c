/* The cache of Hugging Face's hub: models--OWNER--NAME/snapshots/COMMIT/..., with the commit of a
 * branch in refs/BRANCH. */
#include "model/checkpoint/checkpoint_internal.h"
#include "runtime/readfile.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* The commit of the branch "main", if its snapshot is there. */
static status main_snapshot(const char *folder, char **snapshot)
{
    char *ref = NULL, *commit = NULL, *path = NULL;
    status st = ST_OK;

    if (asprintf(&ref, "%s/refs/main", folder) < 0) {
        ref = NULL;
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a file name"));
    }
    if (!path_is_file(ref))
        goto out;
    TRY_OUT(readfile_text(ref, 4096, &commit));
    commit[strcspn(commit, "\n/")] = '\0';
    if (asprintf(&path, "%s/snapshots/%s", folder, commit) < 0) {
        path = NULL;
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a file name"));
    }
    if (*commit != '\0' && *commit != '.' && path_is_folder(path)) {
        *snapshot = path;
        path = NULL;
    }
out:
    free(ref);
    free(commit);
    free(path);
    return st;
}

status hub_snapshot(const char *folder, char **snapshot)
{
    const struct dirent *entry;
    char *snapshots = NULL, *only = NULL;
    DIR *dir = NULL;
    int count = 0;
    status st = ST_OK;

    *snapshot = NULL;
    if (asprintf(&snapshots, "%s/snapshots", folder) < 0) {
        snapshots = NULL;
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a file name"));
    }
    if (!path_is_folder(snapshots))
        goto out;
    TRY_OUT(main_snapshot(folder, snapshot));
    dir = opendir(snapshots);
    while (*snapshot == NULL && dir != NULL && (entry = readdir(dir)) != NULL) {
        char *path;

        if (entry->d_name[0] == '.')
            continue;
        if (asprintf(&path, "%s/%s", snapshots, entry->d_name) < 0)
            TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for a file name"));
        free(only);
        only = path;
        count++;
    }
    if (count > 1)
        st = fail(ST_FORMAT, "%s: has %d snapshots; pass the folder of one of them", snapshots,
                  count);
    if (count == 1) {
        *snapshot = only;
        only = NULL;
    }
out:
    if (dir != NULL)
        closedir(dir);
    free(snapshots);
    free(only);
    return st;
}
