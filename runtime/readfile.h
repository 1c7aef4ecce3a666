/* readfile.h - reads small files: configurations, request lists, the tokenizer's model. */
#ifndef RUNTIME_READFILE_H
#define RUNTIME_READFILE_H

#include "runtime/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Reads all bytes; *data is malloc'ed and has a zero after them. ST_IO, ST_MEMORY; ST_FORMAT when
 * the file has more than `limit` bytes. */
status readfile_bytes(const char *path, size_t limit, char **data, size_t *size);

/* Reads a text: ST_FORMAT also when one of its bytes is zero. */
status readfile_text(const char *path, size_t limit, char **text);

#ifdef __cplusplus
}
#endif
#endif
