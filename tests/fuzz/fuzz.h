/* fuzz.h - what the fuzz targets share. A target is one .c file with LLVMFuzzerTestOneInput, which
 * gives the bytes to a reader of outside files. It is linked twice: with libFuzzer (run.sh), and
 * with replay.c, which reads the corpus as an ordinary test.
 *
 * Bounds, which hold for every input of at most 64 KiB: no allocation above FUZZ_MEMORY_BYTES (a
 * reader that asks for more gets ST_MEMORY, or libFuzzer's -malloc_limit_mb ends it), 10 seconds.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include "runtime/status.h"

#include <stddef.h>
#include <stdint.h>

#define FUZZ_MEMORY_BYTES ((size_t)64 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The path of a file with these bytes. One file per process: the next call replaces it. */
const char *fuzz_file(const uint8_t *data, size_t size);

/* Replaces the file FOLDER/NAME, `bytes` long, of which the first `size` are given. Exits when it
 * cannot. */
void fuzz_write(const char *folder, const char *name, const void *data, size_t size,
                uint64_t bytes);

extern int fuzz_accepted; // calls of fuzz_ok with ST_OK

/* Aborts when a reader could not allocate what it asked for, or returned a failure without a line.
 * Returns whether st is ST_OK. */
int fuzz_ok(status st);

/* `size` bytes as a string, which the caller frees. */
char *fuzz_text(const uint8_t *data, size_t size);

#endif
