#include "model/text/spiece.h"

#include <stdlib.h>
#include <string.h>

static void put(struct spiece *b, const void *data, size_t size)
{
    if (b->size + size > b->capacity) {
        const size_t capacity = 2 * (b->size + size) + 256;
        char *more = b->failed ? NULL : realloc(b->data, capacity);

        if (more == NULL) {
            b->failed = true;
            return;
        }
        b->data = more;
        b->capacity = capacity;
    }
    if (size > 0)
        memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void put_varint(struct spiece *b, uint64_t n)
{
    do {
        const uint8_t byte = (uint8_t)((n & 0x7f) | (n > 0x7f ? 0x80 : 0));

        put(b, &byte, 1);
        n >>= 7;
    } while (n > 0);
}

static void put_number(struct spiece *b, int field, uint64_t n)
{
    put_varint(b, (uint64_t)field << 3);
    put_varint(b, n);
}

static void put_float(struct spiece *b, int field, float f)
{
    put_varint(b, (uint64_t)field << 3 | 5);
    put(b, &f, sizeof(f));
}

static void put_bytes(struct spiece *b, int field, const void *data, size_t size)
{
    put_varint(b, (uint64_t)field << 3 | 2);
    put_varint(b, size);
    put(b, data, size);
}

/* Puts a message into another one and frees it. */
static void put_message(struct spiece *b, int field, struct spiece *message)
{
    b->failed = b->failed || message->failed;
    put_bytes(b, field, message->data, message->failed ? 0 : message->size);
    free(message->data);
}

void spiece_add(struct spiece *s, const char *text, size_t length, float score,
                enum piece_type type)
{
    struct spiece piece = { 0 };

    put_bytes(&piece, 1, text, length);
    put_float(&piece, 2, score);
    if (type != PIECE_NORMAL)
        put_number(&piece, 3, (uint64_t)type);
    put_message(s, 1, &piece);
    s->count++;
    s->has_bytes = s->has_bytes || type == PIECE_BYTE;
}

status spiece_finish(struct spiece *s, const struct spiece_normalizer *n, char **bytes,
                     size_t *size)
{
    static const char *const special[] = { "<unk>", "<s>", "</s>", "<pad>" };
    struct spiece trainer = { 0 }, normalizer = { 0 };
    status st = ST_OK;

    put_number(&trainer, 3, 1); // model_type: unigram
    put_number(&trainer, 4, (uint64_t)s->count);
    if (s->has_bytes)
        put_number(&trainer, 35, 1); // byte_fallback
    for (int i = 0; i < (int)COUNT(special); i++)
        put_number(&trainer, 40 + i, (uint64_t)(3 - i)); // ids, which the names decide
    for (int i = 0; i < (int)COUNT(special); i++)
        put_bytes(&trainer, 45 + i, special[i], strlen(special[i]));
    put_bytes(&normalizer, 1, n->name, strlen(n->name));
    if (n->charsmap_size > 0)
        put_bytes(&normalizer, 2, n->charsmap, n->charsmap_size);
    put_number(&normalizer, 3, n->add_space);
    put_number(&normalizer, 4, n->remove_spaces);
    put_number(&normalizer, 5, 1); // escape_whitespaces
    put_message(s, 2, &trainer);
    put_message(s, 3, &normalizer);
    if (s->failed) {
        st = fail(ST_MEMORY, "cannot allocate host memory for a tokenizer");
        free(s->data);
    } else {
        *bytes = s->data;
        *size = s->size;
    }
    *s = (struct spiece){ 0 };
    return st;
}
