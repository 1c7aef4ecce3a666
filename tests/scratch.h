/* scratch.h - a test program's own temporary folder; a test writes nowhere else.
 *
 *     if (!scratch_open("video"))
 *         return 1;
 *     write_video(scratch_path("a.mp4"));
 *     scratch_close();                            // fails where a file is left in it */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

#include "tests/check.h"

#include <stdlib.h>
#include <unistd.h>

static char scratch[256];

/* In $TMPDIR, or in /tmp. */
static inline bool scratch_open(const char *test)
{
    const char *tmp = getenv("TMPDIR");

    snprintf(scratch, sizeof(scratch), "%s/wanmpi-%s-XXXXXX",
             tmp != NULL && tmp[0] == '/' ? tmp : "/tmp", test);
    return mkdtemp(scratch) != NULL;
}

/* A name in it, valid for the next seven calls. */
static inline const char *scratch_path(const char *name)
{
    static char path[8][sizeof(scratch) + 512];
    static int turn;
    char *p = path[turn++ % 8];

    snprintf(p, sizeof(path[0]), "%s/%s", scratch, name);
    return p;
}

/* How many files are in it. */
static inline int scratch_entries(void)
{
    char command[sizeof(scratch) + 32];
    int n = -1;
    FILE *f;

    snprintf(command, sizeof(command), "ls -A '%s' | wc -l", scratch);
    f = popen(command, "r");
    CHECK(f != NULL && fscanf(f, "%d", &n) == 1, "ls");
    if (f != NULL)
        pclose(f);
    return n;
}

static inline void scratch_close(void)
{
    CHECK(rmdir(scratch) == 0, "a file is left in %s", scratch);
}

#endif
