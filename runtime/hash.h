/* hash.h - FNV-1a of 64 bits, for choices that must be the same everywhere; no protection against
 * intent. */
#ifndef RUNTIME_HASH_H
#define RUNTIME_HASH_H

#include <stddef.h>
#include <stdint.h>

#define HASH_START UINT64_C(0xcbf29ce484222325)

/* Continues hash `h` with a text and its terminating zero. */
static inline uint64_t hash_text(uint64_t h, const char *text)
{
    do
        h = (h ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    while (*text++ != 0);
    return h;
}

/* Continues it with bytes. */
static inline uint64_t hash_bytes(uint64_t h, const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        h = (h ^ ((const unsigned char *)bytes)[i]) * UINT64_C(0x100000001b3);
    return h;
}

#endif
