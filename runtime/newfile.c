#include "runtime/newfile.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The directory of `path`; malloc'ed, NULL without memory. */
static char *directory_of(const char *path)
{
    char *copy = strdup(path), *directory = NULL;

    if (copy != NULL)
        directory = strdup(dirname(copy));
    free(copy);
    return directory;
}

status newfile_open(struct newfile *f, const char *path)
{
    status st = ST_OK;
    struct stat there;
    char *directory = directory_of(path);
    const mode_t mask = umask(0);
    int fd = -1;

    umask(mask);
    *f = (struct newfile){ .path = strdup(path) };
    if (f->path == NULL || directory == NULL ||
        asprintf(&f->temp, "%s/.wanmpi-XXXXXX", directory) < 0) {
        f->temp = NULL;
        st = fail(ST_MEMORY, "no memory for a file name");
        goto out;
    }
    if (stat(path, &there) == 0 && !S_ISREG(there.st_mode)) {
        st = fail(ST_USAGE, "%s: exists and is no regular file; choose another name", path);
        goto out;
    }
    fd = mkstemp(f->temp);
    if (fd < 0) {
        st = fail(ST_IO, "%s: cannot write into %s: %s", path, directory, strerror(errno));
        goto out;
    }
    fchmod(fd, 0666 & ~mask);
    close(fd);
out:
    if (st != ST_OK) {
        if (fd < 0) {
            free(f->temp); // no file of this name is ours
            f->temp = NULL;
        }
        newfile_drop(f);
    }
    free(directory);
    return st;
}

static status sync_path(const char *path, const char *shown, int flags)
{
    status st = ST_OK;
    const int fd = open(path, flags | O_CLOEXEC);

    if (fd < 0 || fsync(fd) != 0)
        st = fail(ST_IO, "%s: %s", shown, strerror(errno));
    if (fd >= 0)
        close(fd);
    return st;
}

status newfile_commit(struct newfile *f)
{
    char *directory = NULL;

    TRY(sync_path(f->temp, f->path, O_RDWR));
    if (rename(f->temp, f->path) != 0)
        return fail(ST_IO, "%s: %s", f->path, strerror(errno));
    free(f->temp);
    f->temp = NULL;
    // The name is on disk only when the directory is; some file systems do not support this.
    directory = directory_of(f->path);
    if (directory != NULL) {
        const int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0) {
            fsync(fd);
            close(fd);
        }
    }
    free(directory);
    return ST_OK;
}

void newfile_drop(struct newfile *f)
{
    if (f->temp != NULL)
        unlink(f->temp);
    free(f->temp);
    free(f->path);
    *f = (struct newfile){ 0 };
}
