#include "runtime/status.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static _Thread_local char line[1024];

status fail(status st, const char *format, ...)
{
    va_list args;

    assert(st != ST_OK);
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    return st;
}

status status_of_errno(void)
{
    return errno == ENOMEM ? ST_MEMORY : ST_IO;
}

const char *status_line(void)
{
    return line;
}
