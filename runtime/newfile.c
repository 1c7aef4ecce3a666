#include "runtime/newfile.h"

#include "runtime/filelock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RANDOM "XXXXXX" // mkostemp replaces it
#define PREFIX_BYTES (HOST_NAME_BYTES + 16)

/* The beginning of the temporary names of this host's processes. */
static void prefix_of(char prefix[PREFIX_BYTES])
{
    char host[HOST_NAME_BYTES];

    filelock_host(host);
    snprintf(prefix, PREFIX_BYTES, ".wanmpi-%s-", host);
}

/* The directory of `path`; malloc'ed, NULL without memory. */
static char *directory_of(const char *path)
{
    char *copy = strdup(path), *directory = NULL;

    if (copy != NULL)
        directory = strdup(dirname(copy));
    free(copy);
    return directory;
}

status newfile_target(char **target, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    char *directory, *real;
    status st = ST_OK;

    *target = realpath(path, NULL);
    if (*target != NULL)
        return ST_OK;
    if (errno != ENOENT)
        return fail(status_of_errno(), "%s: %s", path, strerror(errno));
    if (name[0] == 0)
        return fail(ST_USAGE, "%s: is the name of a folder; add the name of a file", path);
    directory = directory_of(path);
    real = directory != NULL ? realpath(directory, NULL) : NULL;
    if (directory != NULL && real == NULL)
        st = fail(status_of_errno(), "%s: cannot write into %s: %s", path, directory,
                  strerror(errno));
    else if (real == NULL || asprintf(target, "%s/%s", real, name) < 0)
        st = fail(ST_MEMORY, "no memory for a file name");
    free(directory);
    free(real);
    return st;
}

/* Whether a temporary file is locked and still there: before it was locked, newfile_clean of
 * another process may have removed it. */
static bool is_ours(int fd)
{
    struct stat now;

    return filelock_try(fd) != FILELOCK_BUSY && fstat(fd, &now) == 0 && now.st_nlink > 0;
}

static status create(struct newfile *f, const char *shown)
{
    char *directory = directory_of(f->path), prefix[PREFIX_BYTES], *random = NULL;
    status st = ST_OK;

    prefix_of(prefix);
    if (directory == NULL || asprintf(&f->temp, "%s/%s" RANDOM, directory, prefix) < 0) {
        f->temp = NULL;
        TRY_OUT(fail(ST_MEMORY, "no memory for a file name"));
    }
    random = f->temp + strlen(f->temp) - strlen(RANDOM);
    do {
        strcpy(random, RANDOM);
        f->fd = mkostemp(f->temp, O_CLOEXEC);
    } while (f->fd >= 0 && !is_ours(f->fd) && close(f->fd) == 0);
    if (f->fd < 0) {
        st = fail(status_of_errno(), "%s: cannot write into %s: %s", shown, directory,
                  strerror(errno));
        free(f->temp); // no file of this name is ours
        f->temp = NULL;
    }
out:
    free(directory);
    return st;
}

status newfile_open(struct newfile *f, const char *path)
{
    status st;
    struct stat there;
    const mode_t mask = umask(0);

    umask(mask);
    *f = (struct newfile){ 0 };
    TRY_OUT(newfile_target(&f->path, path));
    if (stat(f->path, &there) == 0 && !S_ISREG(there.st_mode))
        TRY_OUT(fail(ST_USAGE, "%s: exists and is no regular file; choose another name", path));
    if (access(f->path, W_OK) != 0 && errno != ENOENT)
        TRY_OUT(fail(status_of_errno(), "%s: exists and cannot be replaced: %s", path,
                     strerror(errno)));
    TRY_OUT(create(f, path));
    fchmod(f->fd, 0666 & ~mask);
out:
    if (st != ST_OK)
        newfile_drop(f);
    return st;
}

status newfile_write(struct newfile *f, const void *data, size_t bytes)
{
    const char *from = data;

    while (bytes > 0) {
        const ssize_t n = write(f->fd, from, bytes < (1 << 30) ? bytes : 1 << 30);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail(ST_IO, "%s: cannot write: %s", f->path, strerror(n < 0 ? errno : ENOSPC));
        from += n;
        bytes -= (size_t)n;
    }
    return ST_OK;
}

/* The name is on disk only when its directory is; some file systems do not support this. */
static status sync_directory(const char *path)
{
    char *directory = directory_of(path);
    const int fd = directory != NULL ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    status st = ST_OK;

    free(directory);
    if (fd < 0)
        return ST_OK;
    if (fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EBADF)
        st = fail(status_of_errno(), "%s: cannot flush its folder to disk: %s", path,
                  strerror(errno));
    close(fd);
    return st;
}

status newfile_commit(struct newfile *f)
{
    if (fsync(f->fd) != 0)
        return fail(status_of_errno(), "%s: cannot write: %s", f->path, strerror(errno));
    if (rename(f->temp, f->path) != 0)
        return fail(status_of_errno(), "%s: cannot rename %s: %s", f->path, f->temp,
                    strerror(errno));
    close(f->fd); // fsync has reported what it could report
    free(f->temp);
    f->temp = NULL;
    return sync_directory(f->path);
}

void newfile_drop(struct newfile *f)
{
    if (f->temp != NULL) {
        (void)!ftruncate(f->fd,
                         0); // gives back the space, even if HDF5 keeps it open after an error
        unlink(f->temp);
        close(f->fd);
    }
    free(f->temp);
    free(f->path);
    *f = (struct newfile){ 0 };
}

void newfile_clean(const char *path)
{
    char *directory = directory_of(path), prefix[PREFIX_BYTES];
    DIR *list = directory != NULL ? opendir(directory) : NULL;
    const struct dirent *entry;
    size_t n;

    free(directory);
    if (list == NULL)
        return;
    prefix_of(prefix);
    n = strlen(prefix);
    while ((entry = readdir(list)) != NULL) {
        int fd;

        if (strncmp(entry->d_name, prefix, n) != 0 || strlen(entry->d_name) != n + strlen(RANDOM))
            continue;
        fd = openat(dirfd(list), entry->d_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd >= 0 && filelock_try(fd) == FILELOCK_HELD)
            unlinkat(dirfd(list), entry->d_name, 0);
        if (fd >= 0)
            close(fd);
    }
    closedir(list);
}
