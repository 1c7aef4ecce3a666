#include "launch/commands.h"

#include "launch/signals.h"
#include "runtime/clock.h"
#include "runtime/json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void command_complain(const char *line)
{
    fflush(stdout);
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr); // erases a progress line
    fprintf(stderr, "wanmpi: %s\n", line);
    fflush(stderr);
}

void command_last_line(const char *line)
{
    signals_quiet();
    command_complain(line);
}

status command_print_json(const struct cJSON *json)
{
    char *text = json_text(json, true);
    int written;

    if (text == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for JSON");
    written = puts(text);
    free(text);
    return written >= 0 && fflush(stdout) == 0
               ? ST_OK
               : fail(status_of_errno(), "cannot write to standard output: %s", strerror(errno));
}

struct cJSON *command_json_mesh(struct cJSON *json, const char *key, struct mesh_shape m)
{
    cJSON *mesh = cJSON_AddObjectToObject(json, key);

    cJSON_AddNumberToObject(mesh, "cfg", m.cfg);
    cJSON_AddNumberToObject(mesh, "ring", m.ring);
    cJSON_AddNumberToObject(mesh, "ulysses", m.ulysses);
    return mesh;
}

void command_abort(struct world *w, status st)
{
    if (st == ST_PEER || st == ST_PREEMPTED)
        clock_sleep((st == ST_PEER ? 2 : 0) + 3 * world_before(0, NULL, 0));
    command_last_line(status_line());
    world_abort(w, st);
}
