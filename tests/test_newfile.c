/* Files that appear only when they are complete, and locks: what other processes, and killed ones,
 * leave and find. */
#include "runtime/filelock.h"
#include "runtime/newfile.h"
#include "tests/scratch.h"

#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs `work` in a process that then waits for its end by kill -9; returns when `work` is done. */
static pid_t start(void (*work)(void))
{
    int done[2];
    char byte;
    pid_t pid;

    if (pipe(done) != 0)
        exit(1);
    pid = fork();
    if (pid == 0) {
        work();
        if (write(done[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    CHECK(pid > 0 && read(done[0], &byte, 1) == 1, "the other process");
    close(done[0]);
    close(done[1]);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void write_some(void)
{
    struct newfile f;

    if (newfile_open(&f, scratch_path("a.mp4")) != ST_OK || newfile_write(&f, "abc", 3) != ST_OK)
        _exit(1);
}

static void take_lock(void)
{
    static struct filelock lock;

    if (filelock_take(&lock, scratch_path("a.h5")) != ST_OK)
        _exit(1);
}

/* A file that is being written stays; one that a killed process left is removed. */
static void test_killed(void)
{
    const pid_t pid = start(write_some);

    newfile_clean(scratch_path("b.mp4"));
    CHECK(scratch_entries() == 1, "the file of a living process: %d entries", scratch_entries());
    end(pid);
    CHECK(scratch_entries() == 1, "a killed process leaves it: %d entries", scratch_entries());
    newfile_clean(scratch_path("b.mp4"));
    CHECK(scratch_entries() == 0, "%d entries", scratch_entries());
}

static void test_lock(void)
{
    const char *path = scratch_path("a.h5");
    struct filelock lock = { 0 };
    char who[64];
    pid_t pid = start(take_lock);

    snprintf(who, sizeof(who), "another job (process %d on ", (int)pid);
    CHECK(filelock_take(&lock, path) == ST_USAGE && strstr(status_line(), who) != NULL, "%s",
          status_line());
    end(pid);
    CHECK(scratch_entries() == 1, "a killed process leaves the lock file");
    CHECK(filelock_take(&lock, path) == ST_OK, "%s", status_line());
    filelock_release(&lock);
    CHECK(scratch_entries() == 0, "%d entries", scratch_entries());
    CHECK(filelock_take(&lock, scratch_path("none/a.h5")) == ST_IO, "no folder");
}

/* Names: links are followed, so that the file is replaced and not the link. */
static void test_names(void)
{
    char *a = NULL, *b = NULL, longest[257], text[8] = "";
    struct newfile f;
    FILE *file;

    memset(longest, 'n', 255);
    longest[255] = 0;
    CHECK(mkdir(scratch_path("d"), 0700) == 0 && symlink("d", scratch_path("e")) == 0, "links");
    CHECK(newfile_target(&a, scratch_path("d/x")) == ST_OK &&
              newfile_target(&b, scratch_path("d/../e/./x")) == ST_OK && strcmp(a, b) == 0,
          "%s", status_line());
    free(a);
    free(b);
    CHECK(newfile_target(&a, scratch_path("none/x")) == ST_IO, "no folder");
    CHECK(newfile_target(&a, scratch_path("d/none/")) == ST_USAGE, "a folder's name");

    CHECK(newfile_open(&f, scratch_path("d/x")) == ST_OK && newfile_commit(&f) == ST_OK, "%s",
          status_line());
    newfile_drop(&f);
    CHECK(symlink("d/x", scratch_path("y")) == 0, "link");
    CHECK(newfile_open(&f, scratch_path("y")) == ST_OK && newfile_write(&f, "new", 3) == ST_OK &&
              newfile_commit(&f) == ST_OK,
          "%s", status_line());
    newfile_drop(&f);
    file = fopen(scratch_path("d/x"), "r");
    CHECK(file != NULL && fread(text, 1, 8, file) == 3 && strcmp(text, "new") == 0, "%s", text);
    fclose(file);

    CHECK(newfile_open(&f, scratch_path(longest)) == ST_OK, "255 bytes: %s", status_line());
    newfile_drop(&f);
    CHECK(newfile_open(&f, scratch_path(strcat(longest, "n"))) == ST_IO &&
              strstr(status_line(), "File name too long") != NULL,
          "%s", status_line());
    unlink(scratch_path("d/x"));
    unlink(scratch_path("y"));
    unlink(scratch_path("e"));
    rmdir(scratch_path("d"));
}

int main(void)
{
    if (!scratch_open("newfile"))
        return 1;
    test_killed();
    test_lock();
    test_names();
    scratch_close();
    return check_end("newfile");
}
