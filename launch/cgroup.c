#include "launch/cgroup.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number after `key` at the start of a line of a file; -1 if there is none, or "max". */
static int64_t number_in(const char *dir, const char *file, const char *key)
{
    char path[2 * PATH_MAX], line[256];
    int64_t value = -1;
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, file);
    f = fopen(path, "r");
    while (f != NULL && value < 0 && fgets(line, sizeof(line), f) != NULL) {
        long long n;

        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), " %lld", &n) == 1)
            value = n;
    }
    if (f != NULL)
        fclose(f);
    return value;
}

/* ---- the control groups of this process ---- */

/* Called for each group, from the process's own to the root. dir: its folder. */
typedef void group_fn(void *payload, const char *dir);

/* A mounted tree of control groups. */
struct tree {
    char group[PATH_MAX]; // the group at the mount point
    char mount[PATH_MAX];
    char controllers[256]; // version 1: "cpu,cpuacct"; version 2: ""
};

/* Replaces \040 and the like, which mountinfo writes for spaces. */
static void unescape(char *text)
{
    char *out = text;

    for (const char *in = text; *in != 0; out++) {
        unsigned code;

        if (in[0] == '\\' && sscanf(in + 1, "%3o", &code) == 1) {
            *out = (char)code;
            in += 4;
        } else {
            *out = *in++;
        }
    }
    *out = 0;
}

/* Parses a line of mountinfo, "32 31 0:29 GROUP MOUNT OPTIONS - cgroup SOURCE rw,cpu,cpuacct";
 * false if it is no tree of control groups. */
static bool read_tree(struct tree *t, const char *line)
{
    const char *type = strstr(line, " - ");
    char options[256];

    *t = (struct tree){ .group = "" };
    if (type == NULL || sscanf(line, "%*s %*s %*s %4095s %4095s", t->group, t->mount) != 2)
        return false;
    unescape(t->group);
    unescape(t->mount);
    if (strncmp(type, " - cgroup2 ", 11) == 0)
        return true;
    if (sscanf(type, " - cgroup %*s %255s", options) != 1)
        return false;
    snprintf(t->controllers, sizeof(t->controllers), "%s", options);
    return true;
}

/* Whether `word` is one of the words of `list`, which are separated by commas. */
static bool contains(const char *list, const char *word)
{
    const size_t length = strlen(word);

    for (const char *at = list; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, length) == 0 && (at[length] == ',' || at[length] == 0))
            return true;
    }
    return false;
}

/* Finds the process's group in a tree that has the controller: its path below the mount point, or
 * "" if the group is not below it (then the mount point is the closest that can be seen). False if
 * the tree does not have the controller. */
static bool find_group(char *path, size_t size, const char *root, const struct tree *t,
                       const char *controller)
{
    char name[2 * PATH_MAX], line[PATH_MAX + 256];
    bool found = false;
    FILE *f;

    snprintf(name, sizeof(name), "%s/proc/self/cgroup", root);
    f = fopen(name, "r");
    while (f != NULL && !found && fgets(line, sizeof(line), f) != NULL) {
        char *list = strchr(line, ':'), *group = list != NULL ? strchr(list + 1, ':') : NULL;
        const size_t above = strcmp(t->group, "/") != 0 ? strlen(t->group) : 0;

        if (group == NULL)
            continue;
        *list++ = 0;
        *group++ = 0;
        group[strcspn(group, "\n")] = 0;
        found = t->controllers[0] == 0
                    ? strcmp(line, "0") == 0 && list[0] == 0
                    : contains(list, controller) && contains(t->controllers, controller);
        if (!found)
            continue;
        const bool below = strncmp(group, t->group, above) == 0 &&
                           (group[above] == '/' || group[above] == 0) &&
                           strstr(group, "/..") == NULL && strcmp(group + above, "/") != 0;
        snprintf(path, size, "%s", below ? group + above : "");
    }
    if (f != NULL)
        fclose(f);
    return found;
}

/* Calls `call` for the groups of this process in all trees that have the controller. */
static void each_group(const char *root, const char *controller, group_fn *call, void *payload)
{
    char name[2 * PATH_MAX], path[PATH_MAX], dir[4 * PATH_MAX];
    struct tree tree;
    char *line = NULL;
    size_t size = 0;
    FILE *f;

    snprintf(name, sizeof(name), "%s/proc/self/mountinfo", root);
    f = fopen(name, "r");
    while (f != NULL && getline(&line, &size, f) > 0) {
        if (!read_tree(&tree, line) || !find_group(path, sizeof(path), root, &tree, controller))
            continue;
        for (;;) {
            char *const last = strrchr(path, '/');

            snprintf(dir, sizeof(dir), "%s%s%s", root, tree.mount, path);
            call(payload, dir);
            if (last == NULL)
                break;
            *last = 0;
        }
    }
    free(line);
    if (f != NULL)
        fclose(f);
}

/* ---- memory ---- */

static void lower(int64_t *least, int64_t value)
{
    if (value >= 0 && value < *least)
        *least = value;
}

static int64_t sum_of(const char *dir, const char *const *keys, int count)
{
    int64_t sum = 0;

    for (int i = 0; i < count; i++) {
        const int64_t n = number_in(dir, "memory.stat", keys[i]);

        sum += n > 0 ? n : 0;
    }
    return sum;
}

/* group_fn: lowers *payload to what this group may still allocate. */
static void lower_memory(void *payload, const char *dir)
{
    static const char *const cache[] = { "active_file ", "inactive_file ", "slab_reclaimable " };
    static const char *const cache1[] = { "total_active_file ", "total_inactive_file " };
    int64_t limit = INT64_MAX, used, reclaimable;

    lower(&limit, number_in(dir, "memory.max", ""));
    lower(&limit, number_in(dir, "memory.high", "")); // above it the kernel stops the process
    used = number_in(dir, "memory.current", "");
    reclaimable = sum_of(dir, cache, 3);
    if (used < 0) { // version 1
        lower(&limit, number_in(dir, "memory.limit_in_bytes", ""));
        lower(&limit, number_in(dir, "memory.stat", "hierarchical_memory_limit "));
        used = number_in(dir, "memory.usage_in_bytes", "");
        reclaimable = sum_of(dir, cache1, 2);
    }
    if (used < 0 || limit == INT64_MAX)
        return;
    used = used > reclaimable ? used - reclaimable : 0;
    lower(payload, limit > used ? limit - used : 0);
}

int64_t cgroup_memory(const char *root)
{
    char proc[PATH_MAX];
    int64_t least = INT64_MAX, available;

    snprintf(proc, sizeof(proc), "%s/proc", root);
    available = number_in(proc, "meminfo", "MemAvailable:");
    if (available >= 0)
        lower(&least, available * 1024);
    each_group(root, "memory", lower_memory, &least);
    return least < INT64_MAX ? least : -1;
}

/* ---- CPU time ---- */

/* group_fn: lowers *payload to this group's quota, in CPUs. */
static void lower_cpus(void *payload, const char *dir)
{
    double *const least = payload;
    char path[5 * PATH_MAX];
    long long quota = -1, period = 0;
    FILE *f;

    snprintf(path, sizeof(path), "%s/cpu.max", dir);
    f = fopen(path, "r");
    if (f != NULL) {
        if (fscanf(f, "%lld %lld", &quota, &period) != 2)
            quota = -1; // "max 100000"
        fclose(f);
    } else {
        quota = number_in(dir, "cpu.cfs_quota_us", "");
        period = number_in(dir, "cpu.cfs_period_us", "");
    }
    if (quota > 0 && period > 0 && (*least == 0 || (double)quota / (double)period < *least))
        *least = (double)quota / (double)period;
}

double cgroup_cpus(const char *root)
{
    double least = 0;

    each_group(root, "cpu", lower_cpus, &least);
    return least;
}
