/* MD5 (RFC 1321), for the fingerprints by which others know the released files; not for safety. */
#include "model/checkpoint/checkpoint_internal.h"

#include <math.h>
#include <string.h>

static void block(uint32_t state[4], const uint8_t *data)
{
    static const int turns[4][4] = {
        { 7, 12, 17, 22 }, { 5, 9, 14, 20 }, { 4, 11, 16, 23 }, { 6, 10, 15, 21 }
    };
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], word[16];

    for (int i = 0; i < 16; i++)
        word[i] = (uint32_t)data[4 * i] | (uint32_t)data[4 * i + 1] << 8 |
                  (uint32_t)data[4 * i + 2] << 16 | (uint32_t)data[4 * i + 3] << 24;
    for (int i = 0; i < 64; i++) {
        const int round = i / 16, turn = turns[round][i % 4];
        const uint32_t mix = round == 0   ? (b & c) | (~b & d)
                             : round == 1 ? (d & b) | (~d & c)
                             : round == 2 ? b ^ c ^ d
                                          : c ^ (b | ~d);
        const int from = round == 0   ? i
                         : round == 1 ? (5 * i + 1) % 16
                         : round == 2 ? (3 * i + 5) % 16
                                      : 7 * i % 16;
        const uint32_t sine = (uint32_t)(fabs(sin(i + 1)) * 4294967296.0);
        const uint32_t sum = a + mix + sine + word[from];

        a = d;
        d = c;
        c = b;
        b += sum << turn | sum >> (32 - turn);
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
}

void md5_hex(const void *data, size_t size, char *hex)
{
    uint32_t state[4] = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476 };
    const uint8_t *bytes = data;
    uint8_t tail[128] = { 0 };
    const size_t rest = size % 64, tail_size = rest < 56 ? 64 : 128;

    for (size_t i = 0; i + 64 <= size; i += 64)
        block(state, bytes + i);
    memcpy(tail, bytes + (size - rest), rest);
    tail[rest] = 0x80;
    for (int i = 0; i < 8; i++)
        tail[tail_size - 8 + (size_t)i] = (uint8_t)((uint64_t)size * 8 >> (8 * i));
    for (size_t i = 0; i < tail_size; i += 64)
        block(state, tail + i);
    for (int i = 0; i < 32; i++) // the upper half of a byte first
        hex[i] = "0123456789abcdef"[state[i / 8] >> (4 * (i % 8 ^ 1)) & 15];
    hex[32] = 0;
}
