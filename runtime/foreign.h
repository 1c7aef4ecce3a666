/* foreign.h - names files that are mistaken for weight files: what a download, a version control
 * system or another program left under the name of one. */
#ifndef RUNTIME_FOREIGN_H
#define RUNTIME_FOREIGN_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FOREIGN_BYTES 64 // of the beginning of a file are enough

/* What a file with this beginning is, and what to do, as the end of a sentence "FILE: is ...". NULL
 * if it is of no known kind. bytes: of `start`, all of a shorter file. */
const char *foreign_kind(const void *start, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
