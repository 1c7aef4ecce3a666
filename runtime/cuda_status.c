#include "runtime/cuda_status.h"

#include <stdarg.h>
#include <stdio.h>

status cuda_status(cudaError_t e, const char *format, ...)
{
    char what[256];
    va_list args;

    if (e == cudaSuccess)
        return ST_OK;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    return fail(e == cudaErrorMemoryAllocation ? ST_MEMORY : ST_DEVICE, "%s: %s", what,
                cudaGetErrorString(e));
}
